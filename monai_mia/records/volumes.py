# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Write volumes and images, byte for byte alike for the same values."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from monai_mia.records import files

__all__ = ["as_stored", "write_pixels", "write_volume"]


def write_pixels(path: str | os.PathLike[str], values: NDArray[Any]) -> None:
    """Write a 2D image, atomically, in the format of its ending.

    Args:
        path: a file that ends as one of :data:`PIXELS`.
        values: shape (width, height) or (width, height, channels), uint8, or uint16 for one channel.
    """
    suffix = Path(path).suffix.lower()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.swapaxes(values, 0, 1))).save(buffer, Image.registered_extensions()[suffix])
    files.write(path, buffer.getvalue())


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
