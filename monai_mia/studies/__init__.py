# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Studies: the steps in order, from a cohort to a report; each resumes where it was stopped."""

from monai_mia.studies.bundle import audit_bundle, bundle_study
from monai_mia.studies.comparison import ComparisonStudy
from monai_mia.studies.defences import Defence, DefenceStudy
from monai_mia.studies.false_positives import FalsePositiveStudy
from monai_mia.studies.options import Recipe, Recording, Released, Resources
from monai_mia.studies.study import Study

__all__ = [
    "ComparisonStudy",
    "Defence",
    "DefenceStudy",
    "FalsePositiveStudy",
    "Recipe",
    "Recording",
    "Released",
    "Resources",
    "Study",
    "audit_bundle",
    "bundle_study",
]
