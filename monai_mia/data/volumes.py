# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Volumes as files: written the same, byte for byte, from the same values."""

from __future__ import annotations

import gzip
import os
from typing import Any

import nibabel as nib
from numpy.typing import ArrayLike, NDArray

from monai_mia import files

__all__ = ["write_volume"]


def write_volume(path: str | os.PathLike[str], values: NDArray[Any], affine: ArrayLike) -> None:
    """Write compressed NIfTI, atomically.

    Args:
        path: a ``.nii.gz`` file.
        values: shape (*spatial) or (*spatial, channels).
        affine: voxel to world, shape (4, 4), mm.
    """
    data = nib.Nifti1Image(values, affine).to_bytes()
    files.write(path, gzip.compress(data, compresslevel=1, mtime=0))
