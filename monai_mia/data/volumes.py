# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Volumes and images as files: reading them, writing them byte for byte alike, telling whether they have changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import PILReader
from monai.transforms import LoadImage, LoadImaged
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.volumes import as_stored, write_pixels, write_volume

__all__ = ["PIXELS", "PixelReader", "case_loader", "image_loader", "stamp", "suffix_of_changed", "write_changed"]

#: Endings of files of 2D images.
PIXELS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


class PixelReader(PILReader):  # type: ignore[misc]
    """MONAI's reader of 2D images, which takes TIFF files, too, and only what it reads whole.

    Arrays are of shape (width, height) or (width, height, channels), as MONAI has them: axis 0 runs to the right and
    axis 1 down, of images and references alike. Pixels count as 1 mm.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all these files end as one of :data:`PIXELS`."""
        names = filename if isinstance(filename, (list, tuple)) else [filename]
        return all(str(name).lower().endswith(PIXELS) for name in names)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Open the files.

        Raises:
            InputError: one of them has several pages, or is to be turned before it is shown.
        """
        images = super().read(data, **kwargs)
        for image in images if isinstance(images, list) else [images]:
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise InputError(f"a 2D image must have one page, got {pages}. Split the file, or convert it to NIfTI.")
            turn = image.getexif().get(ExifTags.Base.Orientation, 1) if hasattr(image, "getexif") else 1
            if turn not in (0, 1):
                raise InputError(
                    f"a 2D image must be stored as it is shown, got EXIF orientation {turn}: its mask may have been "
                    "drawn on the turned picture. Turn the pixels (exiftran -a, or PIL's ImageOps.exif_transpose)."
                )
        return images


#: How a reference is brought onto the grid of its image, by the affines of both. MONAI's default padding would smear
#: the edge of a shorter reference over the rest of the volume.
LABEL_GRID: dict[str, Any] = {"mode": "nearest", "padding_mode": "zeros"}


def image_loader() -> LoadImage:
    """MONAI's loader of one file, channel first, 2D images in any of :data:`PIXELS` included."""
    loader = LoadImage(image_only=True, ensure_channel_first=True)
    loader.register(PixelReader())
    return loader


def case_loader(keys: KeysCollection) -> LoadImaged:
    """The same for the items of a case."""
    loader = LoadImaged(keys, ensure_channel_first=True)
    loader.register(PixelReader())
    return loader


def suffix_of_changed(path: str | os.PathLike[str]) -> str:
    """How a file that is made from this image ends: ``.png`` for colours, which NIfTI cannot hold in 2D."""
    if not str(path).lower().endswith(PIXELS) or not Path(path).is_file():
        return ".nii.gz"
    try:
        with Image.open(path) as image:
            return ".png" if len(image.getbands()) > 1 else ".nii.gz"
    except OSError as error:
        raise InputError(
            f"cases must be readable, got {str(path)!r}, which is not ({type(error).__name__})."
        ) from error


def write_changed(path: str | os.PathLike[str], values: NDArray[Any], affine: ArrayLike) -> None:
    """Write a changed image, channel first, into a file that ends as :func:`suffix_of_changed` says.

    Colours are rounded to 8 bits.
    """
    if str(path).endswith(".png"):
        write_pixels(path, np.clip(np.round(as_stored(values)), 0, 255).astype(np.uint8))
    else:
        write_volume(path, as_stored(values), affine)


def stamp(case: Mapping[str, Any]) -> list[Any]:
    """Path and SHA-256 of a case's image and reference, for a key.

    Raises:
        InputError: one of them does not exist.
    """
    paths = [Path(path) for key in ("image", "label") for path in files.paths_of(case[key])]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"cases must be files, got {str(missing[0])!r}, which does not exist.")
    return [[str(path), files.content_sha256(path)] for path in paths]
