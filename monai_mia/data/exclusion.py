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
        folder: where ``examination.csv`` and ``left_out.csv`` are kept: who is left out, of which side, and why. Scans
            that the conversion of a DICOM tree left out (``dicom/left_out.csv``) are among them.
        members: case or patient ids of members, if they are known already.
        nonmembers: those of non-members.
    """
    problems = unsound(cases, n_labels, Path(folder) / "examination.csv")
    lost = _unconverted(Path(folder) / "dicom")
    n_cases = len(cases) + len(lost)
    lost += [
        (case, str(one["patient_id"]), problems[case]) for one in cases if (case := str(one["case_id"])) in problems
    ]
    rows = [["case_id", "patient_id", "side", "problem"]]
    for case, patient, problem in lost:
        sides = [side for side, ids in (("member", members), ("nonmember", nonmembers)) if {case, patient} & {*ids}]
        rows.append([case, patient, (sides or ["undecided"])[0], problem])
    files.write(Path(folder) / "left_out.csv", files.csv_text(rows))
    if lost:
        logger.warning("%d of %d cases cannot be used and are left out.", len(lost), n_cases)
    return [case for case in cases if str(case["case_id"]) not in problems]


def _unconverted(folder: Path) -> list[tuple[str, str, str]]:
    """Scans of a DICOM tree that could not be converted: case (or file), patient, and what is wrong.

    A file that belongs to a series which is named, too, is no scan of its own.
    """
    rows = _read(folder / "left_out.csv")
    series = [row for row in rows if row["case_id"]]
    patients, folders = {row["patient_id"] for row in series}, {Path(row["source"]).parent for row in series}
    return [
        (row["case_id"] or row["source"], row["patient_id"], row["text"])
        for row in rows
        if row["case_id"] or not (row["patient_id"] in patients or Path(row["source"]).parent in folders)
    ]


def left_out(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of ``left_out.csv``; none if there is no such file."""
    return _read(Path(folder) / "left_out.csv")


def _read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.is_file() else []
