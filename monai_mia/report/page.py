# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_mia import files
from monai_mia.audit import AuditResult
from monai_mia.report.content import as_json
from monai_mia.table import SignalTable


def write_report(
    result: AuditResult, table: SignalTable, folder: str | os.PathLike[str], about: Mapping[str, Any]
) -> None:
    """Write ``index.html``, ``report.json`` and ``figures/*.png``."""
    folder = Path(folder)
    content = as_json(result, about)
    files.write_json(folder / "report.json", content, private=False)
