# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report: what an audit found, for a person (``index.html``), for a machine (``report.json``), as pictures.

Nothing in it names a patient, a case or a path.
"""

from monai_mia.audit.report.comparison import write_comparison
from monai_mia.audit.report.content import SCHEMA, as_json, check_report, report_schema, versions
from monai_mia.audit.report.defences import write_defences
from monai_mia.audit.report.false_positives import write_false_positives
from monai_mia.audit.report.generator import scan_grid, write_generator
from monai_mia.audit.report.page import write_report
from monai_mia.audit.report.summary_page import write_summary
from monai_mia.audit.report.vulnerability import write_individuals

__all__ = [
    "SCHEMA",
    "as_json",
    "check_report",
    "report_schema",
    "scan_grid",
    "versions",
    "write_comparison",
    "write_defences",
    "write_false_positives",
    "write_generator",
    "write_individuals",
    "write_report",
    "write_summary",
]
