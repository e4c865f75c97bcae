# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Cohorts: reading them, checking them before anything is trained, sharing them between models, making them up."""

from monai_mia.data.canaries import Lesion, Permuted, Plain, Shifted, Swapped, plant_canaries
from monai_mia.data.checks import check_cohort
from monai_mia.data.cohorts import hippocampus_subject, read_cohort
from monai_mia.data.datasets import CaseSubset
from monai_mia.data.dicom import dicom_cohort
from monai_mia.data.foreign import ForeignSource, PermutePatchesd, PureNoised, standard_sources
from monai_mia.data.headers import header_values, write_identifiers
from monai_mia.data.masks import recoded_masks
from monai_mia.data.phantoms import phantom_cohort
from monai_mia.data.poisoning import RandPoisonTrigger, RandPoisonTriggerD, RandPoisonTriggerd, RandPoisonTriggerDict
from monai_mia.data.volumes import PixelReader
from monai_mia.records.image_statistics import ImageStatistics

__all__ = [
    "CaseSubset",
    "ForeignSource",
    "ImageStatistics",
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
    "check_cohort",
    "dicom_cohort",
    "header_values",
    "hippocampus_subject",
    "phantom_cohort",
    "plant_canaries",
    "read_cohort",
    "recoded_masks",
    "standard_sources",
    "write_identifiers",
]
