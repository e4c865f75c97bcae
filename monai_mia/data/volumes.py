# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Volumes as files: what tells that they have not changed, and writing them the same, byte for byte, each time."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_mia import files
from monai_mia.errors import InputError

__all__ = ["as_stored", "stamp", "write_volume"]


def write_volume(path: str | os.PathLike[str], values: NDArray[Any], affine: ArrayLike) -> None:
    """Write compressed NIfTI, atomically.

    Args:
        path: a ``.nii.gz`` file.
        values: shape (*spatial) or (*spatial, channels).
        affine: voxel to world, shape (4, 4), mm.
    """
    data = nib.Nifti1Image(values, affine).to_bytes()
    files.write(path, gzip.compress(data, compresslevel=1, mtime=0))


def as_stored(image: NDArray[Any]) -> NDArray[Any]:
    """An image, shape (channels, *spatial), as a file has it: channels last, a single one dropped."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def stamp(case: Mapping[str, Any]) -> list[Any]:
    """Path, size and time of a case's image and reference, for a key.

    Raises:
        InputError: one of them does not exist.
    """
    paths = [Path(path) for key in ("image", "label") for path in files.paths_of(case[key])]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"cases must be files, got {str(missing[0])!r}, which does not exist.")
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
