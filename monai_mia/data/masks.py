# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""References of class indices from masks of other values, such as 0 and 255."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_mia.data.cohorts import cases_of
from monai_mia.data.volumes import PIXELS, image_loader, stamp
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.volumes import write_pixels, write_volume

__all__ = ["recoded_masks"]


def recoded_masks(
    cases: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Callable[[], Sequence[Mapping[str, Any]]],
    values: Sequence[int],
    folder: str | os.PathLike[str],
) -> list[dict[str, Any]]:
    """Give a cohort references of class indices where its masks have other values.

    The masks stay as they are. Copies with the same axes and affine are written, and not again unless a file changes.

    Args:
        cases: what :func:`~monai_mia.data.read_cohort` reads, a list of cases, or a function that gives one.
        values: the value of each class, in the order of the classes: ``[0, 255]`` makes 255 class 1.
        folder: where to write the copies: private.

    Returns:
        The cases with the new references.

    Raises:
        InputError: a mask cannot be read, has another value, or several channels.

    Example::

        cohort:
          _target_: monai_mia.data.recoded_masks
          _mode_: callable
          cases: "@dataset_dir"
          values: [0, 255]
          folder: "$@output_dir + '/private/masks'"
    """
    if not 2 <= len(set(values)) == len(values) <= 256:
        raise InputError(f"values must be 2 to 256 that differ, got {list(values)}.")
    given, folder = cases_of(cases), Path(folder)
    recoded = []
    for number, case in enumerate(given):
        suffix = ".png" if str(case["label"]).lower().endswith(PIXELS) else ".nii.gz"
        recoded.append({**case, "label": str((folder / f"mask_{number:05d}{suffix}").resolve())})
    key = files.digest([[[case["case_id"], stamp(case)] for case in given], list(values)])
    if files.is_complete(folder / "masks.csv", key, [case["label"] for case in recoded]):
        return recoded
    files.private_folder(folder)
    lines = ["case_id,mask"]
    for case, target in zip(given, recoded, strict=True):
        _recode(case["label"], values, target["label"])
        lines.append(f"{case['case_id']},{Path(target['label']).name}")
    files.write_artefact(folder / "masks.csv", "\n".join(lines) + "\n", [case["label"] for case in recoded], key=key)
    return recoded


def _recode(path: str, values: Sequence[int], target: str) -> None:
    try:
        mask = image_loader()(path)
    except Exception as error:
        raise InputError(f"masks must be readable, got {path!r}, which is not ({type(error).__name__}).") from error
    if len(mask) != 1:
        raise InputError(
            f"masks must have one channel, got {len(mask)} in {path!r}. Convert colours to one number a class."
        )
    given = np.asarray(mask.numpy())[0]
    index = np.zeros(given.shape, dtype=np.uint8)
    for number, value in enumerate(values):
        index[given == value] = number
    unknown = np.setdiff1d(np.unique(given), values)
    if len(unknown):
        more = ", ..." if len(unknown) > 5 else ""
        raise InputError(
            f"values must name each value of {path!r}, got {list(values)} and not "
            f"{', '.join(f'{value:g}' for value in unknown[:5])}{more}. A compressed mask (JPEG) must be made anew."
        )
    if target.endswith(".png"):
        write_pixels(target, index)
    else:
        write_volume(target, index, np.asarray(mask.affine))
