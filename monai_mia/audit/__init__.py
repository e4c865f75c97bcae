# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The audit joins scores with membership; what it found, how it is judged, and how it is reported. No torch."""

from monai_mia.audit.audit import Audit
from monai_mia.audit.comparison import Comparison, ComparisonResult
from monai_mia.audit.criteria import Criteria, Statement
from monai_mia.audit.results import AttackResult, AuditResult
from monai_mia.audit.verdict import Verdict, judge

__all__ = [
    "AttackResult",
    "Audit",
    "AuditResult",
    "Comparison",
    "ComparisonResult",
    "Criteria",
    "Statement",
    "Verdict",
    "judge",
]
