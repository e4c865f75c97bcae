# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The grid of a series, and its voxels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from monai_mia.data.dicom.headers import BadFileError, File, Instance, refusing

__all__ = ["LPS_TO_RAS", "Grid", "Series", "check_syntax", "plane_affine"]

Array = NDArray[np.float64]

#: DICOM's axes point to the patient's left and back, NIfTI's to the right and front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: How far a slice may lie from its place in a regular stack, as a share of the distance between slices. Headers round.
_REGULAR = 0.1

#: How oblique a stack may be: 1 - cosine of the angle between the stack and the normal of its slices.
_OBLIQUE = 1e-3


#: What highdicom does to stored values: rescale slope and intercept, no window.
_STORED: dict[str, Any] = {
    "dtype": np.float64,
    "apply_real_world_transform": False,
    "apply_voi_transform": False,
    "apply_presentation_lut": False,
}


@dataclass(frozen=True)
class Grid:
    """Where voxels are.

    Attributes:
        shape: numbers of columns, rows and slices.
        affine: from (column, row, slice) to DICOM's patient coordinates (LPS), mm; shape (4, 4).
    """

    shape: tuple[int, int, int]
    affine: Array


@dataclass(frozen=True)
class Series:
    """An image series in the order of its slices.

    Attributes:
        grid: its voxels' places.
        files: its files, from the first slice along the normal to the last; one, if it is multi-frame.
        multi_frame: whether it is one enhanced multi-frame file.
    """

    grid: Grid
    files: tuple[File, ...]
    multi_frame: bool = False

    @classmethod
    def of(cls, instances: Sequence[Instance]) -> Series:
        """Put a series into order.

        Raises:
            BadFileError: it is no regular stack of parallel slices, or cannot be decoded.
        """
        for instance in instances:
            check_syntax(instance.syntax)
        if any(instance.kind == "multi-frame" for instance in instances):
            if len(instances) > 1:
                raise BadFileError("several multi-frame images in one series", f"{len(instances)} files")
            return cls(_grid_of_volume(_multi_frame(instances[0].file, "geometry")), (instances[0].file,), True)
        grid, order = _stack([instance.header for instance in instances])
        return cls(grid, tuple(instances[n].file for n in order))

    def values(self) -> NDArray[Any]:
        """The voxels with rescale slope and intercept: shape (columns, rows, slices).

        Returns:
            int16 if that holds them all exactly, as it does for CT; otherwise float32.

        Raises:
            BadFileError: a file is truncated or cannot be decoded.
        """
        if self.multi_frame:
            return _compact(np.asarray(_multi_frame(self.files[0], "voxels").array).transpose(2, 1, 0))
        result = np.empty(self.grid.shape, np.float32)
        whole = True
        for number, file in enumerate(self.files):
            with refusing("truncated or damaged pixels", file.name):
                dataset = pydicom.dcmread(file.path)
                plane = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), np.float64)
            if plane.shape != (self.grid.shape[1], self.grid.shape[0]):
                raise BadFileError("truncated or damaged pixels", f"{file.name}, of another size than its header says")
            result[:, :, number] = plane.T
            whole = whole and _is_int16(plane)
        return result.astype(np.int16) if whole else result


def plane_affine(position: Any, orientation: Any, spacing: Any) -> Array:
    """From (column, row) of a slice to LPS, mm: shape (4, 3); the columns are two steps and the origin.

    Args:
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient: directions along a row and along a column.
        spacing: PixelSpacing: distances between rows and between columns.
    """
    along_row, along_column = np.asarray(orientation, np.float64).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in spacing)
    affine = np.zeros((4, 3))
    affine[:3] = np.stack([along_row * between_columns, along_column * between_rows, np.asarray(position, float)], 1)
    affine[3, 2] = 1
    return affine


def check_syntax(uid: str) -> None:
    """Refuse a transfer syntax, by its UID, that nothing installed decodes; name what would.

    Raises:
        BadFileError: it cannot be decoded here.
    """
    syntax = UID(uid)
    if not syntax.is_transfer_syntax:
        raise BadFileError("no transfer syntax")
    if not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise BadFileError(f"no decoder for {syntax.name}", "pydicom knows none. Decompress the files") from None
    if not decoder.is_available:
        raise BadFileError(f"no decoder for {syntax.name}", f"pip install {_packages(decoder)}")


def _packages(decoder: Any) -> str:
    """What pip installs to decode a syntax."""
    needs = [need.partition(" - requires ")[2] or need for need in decoder.missing_dependencies]
    choices = [re.sub(r"\bgdcm\b", "python-gdcm", re.sub(r"[<>=~!]+[\d.]+", "", need)) for need in needs]
    return ", or ".join(choice.replace(" and ", " ") for choice in choices)


def _stack(headers: Sequence[Mapping[str, Any]]) -> tuple[Grid, list[int]]:
    """The grid of single slices, and their order along the normal."""
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        if any(name not in header for header in headers):
            raise BadFileError("slice without a place", f"{name} is missing")
    if any(header.get("SamplesPerPixel", 1) != 1 for header in headers):
        raise BadFileError("colour images")
    with refusing("slice without a place"):
        positions = np.array([header["ImagePositionPatient"] for header in headers]).reshape(-1, 3)
        orientations = np.array([header["ImageOrientationPatient"] for header in headers]).reshape(-1, 6)
        spacings = np.array([header["PixelSpacing"] for header in headers]).reshape(-1, 2)
    if not len(positions) == len(orientations) == len(spacings) == len(headers):
        raise BadFileError("slice without a place", "position, orientation or spacing has too few values")
    if not all(np.isfinite(values).all() for values in (positions, orientations, spacings)):
        raise BadFileError("slice without a place", "position, orientation or spacing is no number")
    if np.ptp(orientations, axis=0).max() > 1e-3:
        raise BadFileError("mixed orientation", "slices of one series must be parallel; a localiser, perhaps")
    if len({(header["Rows"], header["Columns"]) for header in headers}) > 1 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise BadFileError("mixed sizes", "slices of one series must have the same rows, columns and spacing")
    along_row, along_column = orientations[0].reshape(2, 3)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if abs(lengths - 1).max() > 1e-2 or abs(along_row @ along_column) > 1e-2 or spacings.min() <= 0:
        raise BadFileError("slice without a place", "rows and columns must be orthogonal, spacing above 0")
    normal = np.cross(along_row, along_column)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable").tolist()
    step = _step(positions[order], heights[order], normal, headers[0])
    affine = np.eye(4)
    affine[:, [0, 1, 3]] = plane_affine(positions[order[0]], orientations[0], spacings[0])
    affine[:3, 2] = step
    return Grid((int(headers[0]["Columns"]), int(headers[0]["Rows"]), len(headers)), affine), order


def _step(positions: Array, heights: Array, normal: Array, header: Mapping[str, Any]) -> Array:
    """From one slice to the next, mm; refuses what is no regular stack."""
    if len(positions) == 1:
        thickness = header.get("SpacingBetweenSlices", 0.0) or header.get("SliceThickness", 0.0)
        return np.asarray(normal * (thickness if thickness > 0 else 1.0))
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    if (gaps < max(0.05 * typical, 1e-3)).any():
        same = int((gaps < max(0.05 * typical, 1e-3)).sum())
        raise BadFileError(
            "several slices at one position",
            f"{same} of {len(positions)}; interleaved acquisitions, echoes or phases need a SeriesInstanceUID each",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if off.max() > _REGULAR * typical:
        worst = int(np.argmax(abs(gaps - typical)))
        raise BadFileError(
            "missing slices or irregular gaps",
            f"{gaps[worst]:.4g} mm between slices {worst + 1} and {worst + 2} of {len(positions)}, elsewhere "
            f"{typical:.4g} mm",
        )
    if 1 - abs(step @ normal) / np.linalg.norm(step) > _OBLIQUE:
        raise BadFileError("tilted gantry", "slices are not stacked along their normal; resample the series")
    return np.asarray(step)


def _multi_frame(file: File, what: Literal["geometry", "voxels"]) -> Any:
    """Where the voxels of an enhanced image are, or these, as highdicom gives them: slices, rows, columns."""
    with refusing("multi-frame image that is no regular volume", "missing positions, several orientations or damage"):
        image = highdicom.imread(file.path, lazy_frame_retrieval=what == "geometry")
        volume: Any = image.get_volume_geometry() if what == "geometry" else image.get_volume(**_STORED)
        # highdicom stacks against the normal of the slices
        down = volume.affine[:3, 0] @ np.cross(volume.affine[:3, 2], volume.affine[:3, 1]) < 0
        return volume.flip_spatial(0) if down else volume


def _grid_of_volume(volume: Any) -> Grid:
    slices, rows, columns = volume.spatial_shape
    affine = np.asarray(volume.affine, np.float64)[:, [2, 1, 0, 3]]
    return Grid((columns, rows, slices), affine)


def _is_int16(values: Array) -> bool:
    limits = np.iinfo(np.int16)
    return bool(values.min() >= limits.min and values.max() <= limits.max and (values == np.round(values)).all())


def _compact(values: Array) -> NDArray[Any]:
    return values.astype(np.int16 if _is_int16(values) else np.float32)
