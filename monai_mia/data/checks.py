# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Check a cohort before anything is trained: every invalid case at once, and statistics for the blind baseline."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, cpu_count, delayed
from monai.transforms import ResampleToMatch
from tqdm import tqdm

from monai_mia.data.volumes import LABEL_GRID, PIXELS, image_loader
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.image_statistics import NOT_STATISTICS, ImageStatistics, statistics_rows, write_statistics

__all__ = ["check_cohort", "invalid_cases", "left_out", "without_invalid_cases"]
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_SHOWN = 20


def check_cohort(
    cases: Sequence[Mapping[str, Any]], n_labels: int, path: str | os.PathLike[str], distinct: bool = True
) -> ImageStatistics:
    """Read every case once; refuse the cohort with a list of all that is wrong with it.

    Args:
        cases: the cohort; ``image`` and ``label`` are paths.
        n_labels: labels must be integers in [0, n_labels).
        path: CSV file that keeps the result; a case whose files have not changed since is not read again.
        distinct: whether no image may be that of two patients, which membership would tell apart.

    Raises:
        InputError: an image is missing, unreadable, not finite, constant, or also another patient's; a label is
            missing, unreadable, of another shape than its image or holds unknown values. All such cases are named.
    """
    rows, problems = _checked(cases, n_labels, Path(path), distinct)
    if problems:
        listed = [f"{case}: {problem}" for case, problem in problems.items()]
        more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise InputError(
            f"cases must be readable and sound, got {len(listed)} of {len(cases)} that are not: "
            f"{'; '.join(listed[:_SHOWN])}{more}. Mend these files, take them off the cohort, or go on without them "
            "(skip_bad)."
        )
    return ImageStatistics._from([rows[str(case["case_id"])] for case in cases])


def invalid_cases(cases: Sequence[Mapping[str, Any]], n_labels: int, path: str | os.PathLike[str]) -> dict[str, str]:
    """The cases that :func:`check_cohort` would refuse, each with what is wrong; the others are kept in the file."""
    return _checked(cases, n_labels, Path(path), distinct=True)[1]


def _checked(
    cases: Sequence[Mapping[str, Any]], n_labels: int, path: Path, distinct: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The rows of the sound cases, as they are in the file, and what is wrong with the others."""
    known = statistics_rows(path)
    stamps = [_stamp(case, n_labels) for case in cases]
    new = [n for n, case in enumerate(cases) if known.get(str(case["case_id"]), {}).get("stamp") != stamps[n]]
    found = Parallel(n_jobs=min(4, cpu_count()), prefer="threads", return_as="generator")(
        delayed(_check_case)(cases[n], n_labels) for n in new
    )
    rows = {str(case["case_id"]): known.get(str(case["case_id"]), {}) for case in cases}
    problems: dict[str, str] = {}
    for n, (row, problem) in zip(
        new,
        tqdm(found, "checking the cohort", len(new), disable=not new, mininterval=0.5 if sys.stderr.isatty() else 20.0),
        strict=True,
    ):
        case = str(cases[n]["case_id"])
        if problem:
            problems[case] = problem
            rows.pop(case, None)
            continue
        rows[case] = {"case_id": case, "stamp": stamps[n], **row}
    counts = Counter(_axes(row) for row in rows.values())
    usual = max(counts, key=lambda axes: counts[axes], default=0)
    for case in [case for case, row in rows.items() if _axes(row) != usual]:
        problems[case] = f"image must have as many axes as most, {usual}, got {_axes(rows.pop(case))}"
    problems |= _twins(cases, rows) if distinct else {}
    rows = {case: row for case, row in rows.items() if case not in problems}
    if rows and new:
        write_statistics(path, list(rows.values()))
        rows = statistics_rows(path)
    return rows, problems


def _twins(cases: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Cases whose image is also that of another patient: one could be a member's while the other is a non-member's."""
    first: dict[str, Mapping[str, Any]] = {}
    problems = {}
    for case in cases:
        row = rows.get(str(case["case_id"]))
        if row is None:
            continue
        other = first.setdefault(row["voxels"], case)
        if other.get("patient_id") != case.get("patient_id"):
            problems[str(case["case_id"])] = (
                f"image must be another than those of other patients, got that of {other['case_id']}; if both are of "
                "one patient, give them one patient_id"
            )
    return problems


def _axes(row: Mapping[str, Any]) -> int:
    return sum(name.startswith("size_") for name in row)


def _stamp(case: Mapping[str, Any], n_labels: int) -> str:
    stats = []
    for key in ("image", "label"):
        for path in files.paths_of(case[key]):
            with contextlib.suppress(OSError):
                stats.append(files.stamp_of(path))
    return files.digest([NOT_STATISTICS, stats, n_labels])


def _check_case(case: Mapping[str, Any], n_labels: int) -> tuple[dict[str, Any], str]:
    """Statistics of a case, and what is wrong with it (empty if nothing is)."""
    volumes = {}
    for key in ("image", "label"):
        paths = [Path(path) for path in files.paths_of(case[key])]
        for path in paths:
            if not path.is_file():
                return {}, f"{key} {path} does not exist"
        try:
            volumes[key] = image_loader()(paths if len(paths) > 1 else paths[0])
        except Exception as error:
            return {}, f"{key} {paths[0]} cannot be read ({_first_line(error)})"
    image, label = (np.asarray(volumes[key].numpy(), dtype=np.float64) for key in ("image", "label"))
    if str(case["label"]).lower().endswith(PIXELS) and len(label) > 1:
        return {}, f"label must have one channel of class indices, got {len(label)}"
    if not _same_place(volumes["image"], volumes["label"]):  # as a query will bring it onto the image's grid
        onto = ResampleToMatch(**LABEL_GRID)
        placed = np.asarray(onto(volumes["label"], volumes["image"]).numpy(), dtype=np.float64)
        whole, kept = (
            float((values > 0).sum() * abs(np.linalg.det(np.asarray(volume.affine)[:3, :3])))
            for values, volume in ((label, volumes["label"]), (placed, volumes["image"]))
        )
        if kept < whole / 2:
            return {}, (
                f"label must lie within its image, got {100 - 100 * kept / whole:.0f} % of its foreground outside, by "
                "the affines of both"
            )
        label = placed
    if label.shape[1:] != image.shape[1:]:
        return {}, f"label must have the shape of its image {image.shape[1:]}, got {label.shape[1:]}"
    if not np.isfinite(image).all():
        return {}, f"image must be finite, got {int((~np.isfinite(image)).sum())} voxels that are not"
    if image.min() == image.max():
        return {}, f"image must not be constant, got {image.min():g} everywhere"
    values = np.unique(label)
    unknown = [f"{value:g}" for value in values if not (0 <= value < n_labels and value == round(value))]
    if unknown:
        return {}, f"label must hold integers in [0, {n_labels}), got {', '.join(unknown[:5])}"
    affine = np.asarray(volumes["image"].affine)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    row: dict[str, Any] = {
        "fingerprint": files.digest(
            [files.sha256(path) for key in ("image", "label") for path in files.paths_of(case[key])]
        ),
        "voxels": hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        "mean": image.mean(),
        "deviation": image.std(),
    }
    for quantile, value in zip(_QUANTILES, np.quantile(image, _QUANTILES), strict=True):
        row[f"quantile_{quantile:g}"] = value
    for axis, size in enumerate(image.shape[1:]):
        row[f"size_{axis}"] = size
        row[f"spacing_{axis}"] = spacing[axis]
    dims = image.ndim - 1
    unit, size = ("ml", 1000) if dims == 3 else ("cm2", 100)
    for value in range(1, n_labels):
        row[f"label_{value}_{unit}"] = (label == value).sum() * float(np.prod(spacing[:dims])) / size
    return row, ""


def _same_place(image: Any, label: Any) -> bool:
    """Whether a voxel of the one lies where that voxel of the other does, to a tenth of its size."""
    first, second = (np.asarray(volume.affine) for volume in (image, label))
    spacing = np.sqrt((first[:3, :3] ** 2).sum(axis=0)).min()
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)], dtype=np.float64)
    corners[:, :3] *= [*image.shape[1:], *[1] * (4 - image.ndim)]
    return bool(abs((first - second) @ corners.T).max() <= 0.1 * spacing)


def _first_line(error: Exception) -> str:
    """The root cause of a reader's error, on one line."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]


logger = logging.getLogger(__name__)


def without_invalid_cases(
    cases: Sequence[Mapping[str, Any]],
    n_labels: int,
    folder: str | os.PathLike[str],
    members: Sequence[str] = (),
    nonmembers: Sequence[str] = (),
) -> list[Mapping[str, Any]]:
    """The cases that can be used.

    Args:
        cases: the cohort.
        n_labels: as :func:`~monai_mia.data.check_cohort`.
        folder: where ``image_statistics.csv`` and ``left_out.csv`` are kept: who is left out, of which side, and why.
            Scans that the conversion of a DICOM tree left out (``dicom/left_out.csv``) are among them.
        members: case or patient ids of members, if they are known already.
        nonmembers: those of non-members.
    """
    problems = invalid_cases(cases, n_labels, Path(folder) / "image_statistics.csv")
    lost = _unconverted(Path(folder) / "dicom")
    n_cases = len(cases) + len(lost)
    lost += [
        (case, str(one["patient_id"]), problems[case]) for one in cases if (case := str(one["case_id"])) in problems
    ]
    rows = [["case_id", "patient_id", "side", "problem"]]
    for case, patient, problem in lost:
        sides = [side for side, ids in (("member", members), ("nonmember", nonmembers)) if {case, patient} & {*ids}]
        rows.append([case, patient, (sides or ["undecided"])[0], problem])
    files.write_artefact(Path(folder) / "left_out.csv", files.csv_text(rows))
    if lost:
        logger.warning("%d of %d cases cannot be used and are left out.", len(lost), n_cases)
    return [case for case in cases if str(case["case_id"]) not in problems]


def _unconverted(folder: Path) -> list[tuple[str, str, str]]:
    """Scans of a DICOM tree that could not be converted: case (or file), patient, and what is wrong.

    A file that belongs to a series which is named, too, is no scan of its own.
    """
    rows = _recorded_rows(folder / "left_out.csv")
    series = [row for row in rows if row["case_id"]]
    patients, folders = {row["patient_id"] for row in series}, {Path(row["source"]).parent for row in series}
    return [
        (row["case_id"] or row["source"], row["patient_id"], row["text"])
        for row in rows
        if row["case_id"] or not (row["patient_id"] in patients or Path(row["source"]).parent in folders)
    ]


def left_out(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of ``left_out.csv``; none if there is no such file, or it is not whole."""
    return _recorded_rows(Path(folder) / "left_out.csv")


def _recorded_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if files.is_whole(path) else []
