# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""DICOM: a folder tree of CT and MR series with DICOM-SEG or RTSTRUCT references, as a cohort of NIfTI files.

Header values are never logged or put into an error's text: a file is named by its place in the tree, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_mia.errors import InputError
from monai_mia.records.files import walk

__all__ = ["dicom_cohort", "is_dicom_tree"]


def dicom_cohort(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    labels: Mapping[str, int] | None = None,
    threshold: float = 0.5,
    skip_bad: bool = False,
    patient_id: Callable[[Mapping[str, Any]], str] | None = None,
) -> list[dict[str, Any]]:
    """Convert a tree of DICOM files to NIfTI, once, and give its cases.

    A case is a series (files with one SeriesInstanceUID, wherever they lie) with a reference: DICOM-SEG or RTSTRUCT
    that refers to it. Its patient is its PatientID. Series without a reference are counted, not converted.

    ``folder`` is private (0700). It holds ``images/``, ``labels/`` and ``cohort.csv``; ``left_out.csv``, what was left
    out and why; ``left_out.json``, the same as numbers, without ids; ``segments.csv``, the names of the segments found.
    A series whose files have not changed is not converted again.

    Args:
        folder: where to write, below the study's ``private`` folder; no other cohort's.
        path: the tree. Nothing in it is changed.
        labels: label integer of each segment, by its name (SegmentLabel or ROIName; case does not matter, ``*`` and
            ``?`` stand for any letters, the first match counts). Segments that it does not name are background. Where
            two overlap, the later one is on top. By default the segment's number, and segments must not overlap.
        threshold: a voxel of a fractional segment belongs to it from this value on, in (0, 1].
        skip_bad: whether to leave out what cannot be used, instead of stopping.
        patient_id: gives the patient of a series without PatientID, from a mapping with ``case_id`` and ``source``
            (a file of the series, relative to the tree).

    Returns:
        The cases, as :func:`~monai_mia.data.read_cohort` gives them; ``case_id`` is ``series_`` and a hash.

    Raises:
        InputError: pydicom or highdicom is missing; an option is wrong; something in the tree cannot be used, and
            ``skip_bad`` is not set: all such files are named. What was converted stays in ``folder`` for the next run,
            and counts for none.

    Example:
        In a config, with a study's ``output_dir``::

            cohort:
              _target_: monai_mia.data.dicom_cohort
              _mode_: callable
              folder: "$@output_dir + '/private/dicom'"
              path: "@dataset_dir"
              labels: {Liver: 1, Tumour*: 2}
    """
    try:
        from monai_mia.data.dicom.conversion import Conversion
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("monai_mia"):
            raise
        raise InputError(
            f"pydicom and highdicom must be installed to read DICOM, got no {error.name}. Install monai-mia[dicom]."
        ) from error
    return Conversion(Path(folder), Path(path), labels, threshold, skip_bad, patient_id).cases()


def is_dicom_tree(path: str | os.PathLike[str]) -> bool:
    """Whether a DICOM file is somewhere below a folder, by its first bytes."""
    for folder, _, names in walk(path):
        for name in names:
            file = Path(folder) / name
            if file.is_file() and os.access(file, os.R_OK):
                with file.open("rb") as stream:
                    if stream.read(132)[128:] == b"DICM":
                        return True
    return False
