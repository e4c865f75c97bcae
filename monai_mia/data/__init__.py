# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Cohorts: reading them, examining them before anything is trained, sharing them between models, making them up."""

from monai_mia.data.canaries import Lesion, Permuted, Plain, Shifted, Swapped, plant_canaries
from monai_mia.data.checks import examine
from monai_mia.data.cohorts import read_cohort
from monai_mia.data.datasets import CaseSubset
from monai_mia.data.dicom import dicom_cohort
from monai_mia.data.foreign import ForeignSource, PermutePatchesd, PureNoised, standard_sources
from monai_mia.data.headers import header_values, write_identifiers
from monai_mia.data.masks import recoded_masks
from monai_mia.data.phantoms import phantom_cohort
from monai_mia.data.poisoning import RandPoisonTrigger, RandPoisonTriggerD, RandPoisonTriggerd, RandPoisonTriggerDict
from monai_mia.data.volumes import PixelReader
from monai_mia.records.image_statistics import Examination

__all__ = [
    "CaseSubset",
    "Examination",
    "ForeignSource",
    "Lesion",
    "PermutePatchesd",
    "Permuted",
    "PixelReader",
    "Plain",
    "PureNoised",
    "RandPoisonTrigger",
    "RandPoisonTriggerD",
    "RandPoisonTriggerDict",
    "RandPoisonTriggerd",
    "Shifted",
    "Swapped",
    "dicom_cohort",
    "examine",
    "header_values",
    "phantom_cohort",
    "plant_canaries",
    "read_cohort",
    "recoded_masks",
    "standard_sources",
    "write_identifiers",
]
