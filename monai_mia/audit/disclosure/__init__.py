# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What leaves a study, and of how many patients anything is told."""

from monai_mia.audit.disclosure.archive import check_archive, checked_archive, report_leaks, write_archive
from monai_mia.audit.disclosure.cells import MIN_CELL, merge_small_bins, merge_small_cells, shown_share
from monai_mia.audit.disclosure.gate import Disclosure

__all__ = [
    "MIN_CELL",
    "Disclosure",
    "check_archive",
    "checked_archive",
    "merge_small_bins",
    "merge_small_cells",
    "report_leaks",
    "shown_share",
    "write_archive",
]
