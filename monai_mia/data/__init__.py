# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Cohorts: reading them, examining them before anything is trained, sharing them between models, making them up."""

from monai_mia.data.cohorts import read_cohort
from monai_mia.data.datasets import CaseSubset
from monai_mia.data.examination import Examination, examine
from monai_mia.data.phantoms import phantom_cohort

__all__ = ["CaseSubset", "Examination", "examine", "phantom_cohort", "read_cohort"]
