# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The files of a study, read by both halves: tables, designs, maps, image statistics, identifiers, hashes. No torch."""

from monai_mia.records.design import TARGET, Case, Design
from monai_mia.records.folder import Recorded, StudyFolder
from monai_mia.records.identifiers import Identifiers
from monai_mia.records.image_statistics import ImageStatistics
from monai_mia.records.keys import new_key
from monai_mia.records.maps import MapStore, RecordedMaps
from monai_mia.records.pseudonyms import Pseudonyms
from monai_mia.records.table import SignalTable, write_signals

__all__ = [
    "TARGET",
    "Case",
    "Design",
    "Identifiers",
    "ImageStatistics",
    "MapStore",
    "Pseudonyms",
    "Recorded",
    "RecordedMaps",
    "SignalTable",
    "StudyFolder",
    "new_key",
    "write_signals",
]
