# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of each case's image and reference, as they were found before anything was trained."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["ImageStatistics"]

#: Columns of the file that are no statistics.
NOT_STATISTICS = ("case_id", "stamp", "fingerprint", "voxels")


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of every image and reference of a cohort.

    Attributes:
        case_ids: names of the N cases.
        fingerprints: SHA-256 of each case's image and label files.
        names: names of the F statistics.
        features: the statistics, shape (N, F): intensity quantiles, mean, deviation, shape, spacing, and the volume of
            each label in millilitres, or in 2D its area in square centimetres.
    """

    case_ids: tuple[str, ...]
    fingerprints: tuple[str, ...]
    names: tuple[str, ...]
    features: NDArray[np.float64]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ImageStatistics:
        """What :func:`check_cohort` kept in its file; no image is opened.

        Raises:
            InputError: there is no such file, or it is not as it was written.
        """
        path = Path(path)
        known = os.path.lexists(path.with_suffix(".json"))  # an older version wrote none
        try:
            rows = statistics_rows(path) if known else _rows(path)
            found = cls._from(list(rows.values())) if rows else None
        except (KeyError, TypeError, ValueError):
            found = None
        if found is None:
            got = "one that was torn or changed" if path.is_file() else "no such file"
            raise InputError(f"image statistics must be in {path}, got {got}. Run the study first.")
        return found

    @classmethod
    def _from(cls, rows: Sequence[Mapping[str, Any]]) -> ImageStatistics:
        names = tuple(name for name in rows[0] if name not in NOT_STATISTICS)
        features = np.array([[float(row[name]) for name in names] for row in rows])
        ids, prints = (tuple(str(row[key]) for row in rows) for key in ("case_id", "fingerprint"))
        return cls(ids, prints, names, features)

    def of(self, case_ids: Sequence[str]) -> NDArray[np.float64]:
        """The statistics of these cases, in this order."""
        row = {case: n for n, case in enumerate(self.case_ids)}
        return self.features[[row[case] for case in case_ids]]


def write_statistics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row a case: what tells the case and its files apart, then the statistics."""
    cells = [[value if isinstance(value, str) else repr(float(value)) for value in row.values()] for row in rows]
    files.write_artefact(path, files.csv_text([list(rows[0]), *cells]))


def statistics_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Read what :func:`write_statistics` wrote, by case; empty if there is no such file, or it was torn or changed."""
    return _rows(path) if files.is_whole(path) else {}


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}
