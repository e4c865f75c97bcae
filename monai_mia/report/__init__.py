# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report: what an audit found, for a person (``index.html``), for a machine (``report.json``), as pictures.

Nothing in it names a patient, a case or a path.
"""

from monai_mia.report.comparison import write_comparison
from monai_mia.report.content import SCHEMA, as_json, summary, versions
from monai_mia.report.defences import write_defences
from monai_mia.report.evidence import write_evidence
from monai_mia.report.generator import scan_grid, write_generator
from monai_mia.report.page import write_report

__all__ = [
    "SCHEMA",
    "as_json",
    "scan_grid",
    "summary",
    "versions",
    "write_comparison",
    "write_defences",
    "write_evidence",
    "write_generator",
    "write_report",
]
