# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Going on without cases that cannot be used, and keeping count of them."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_mia import files
from monai_mia.data.examination import unsound

__all__ = ["left_out", "without_unsound"]

logger = logging.getLogger(__name__)


def without_unsound(
    cases: Sequence[Mapping[str, Any]],
    n_labels: int,
    folder: str | os.PathLike[str],
    members: Sequence[str] = (),
    nonmembers: Sequence[str] = (),
) -> list[Mapping[str, Any]]:
    """The cases that can be used.

    Args:
        cases: the cohort.
        n_labels: as :func:`~monai_mia.data.examine`.
        folder: where ``examination.csv`` and ``left_out.csv`` are kept: who is left out, of which side, and why.
        members: case or patient ids of members, if they are known already.
        nonmembers: those of non-members.
    """
    problems = unsound(cases, n_labels, Path(folder) / "examination.csv")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case_id", "patient_id", "side", "problem"])
    for case in cases:
        names = [str(case[key]) for key in ("case_id", "patient_id")]
        if names[0] in problems:
            sides = [side for side, ids in (("member", members), ("nonmember", nonmembers)) if {*names} & {*ids}]
            writer.writerow([*names, (sides or ["undecided"])[0], problems[names[0]]])
    files.write(Path(folder) / "left_out.csv", buffer.getvalue())
    if problems:
        logger.warning("%d of %d cases cannot be used and are left out.", len(problems), len(cases))
    return [case for case in cases if str(case["case_id"]) not in problems]


def left_out(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of ``left_out.csv``; none if there is no such file."""
    path = Path(folder) / "left_out.csv"
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.is_file() else []
