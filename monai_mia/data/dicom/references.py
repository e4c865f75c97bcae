# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""References: the segments of a DICOM-SEG or of an RTSTRUCT, on the grid of their series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from monai_mia.data.dicom.headers import BadFileError, Instance, read_header, refusing
from monai_mia.data.dicom.series import Grid, check_syntax, plane_affine

__all__ = ["Reference", "Segment", "label_of", "label_volume"]

Array = NDArray[np.float64]
Voxels = NDArray[np.int64]

_DAMAGED = "truncated or damaged reference"

#: How far a voxel of a reference may lie from the centre of one of the series', in voxels.
_OFF_GRID = 0.1

#: Contours that enclose a region; of those that overlap, both kinds leave out what an even number of them enclose.
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

#: How far a contour may lie from the plane of a slice, in slices.
_OFF_PLANE = 0.25


@dataclass(frozen=True)
class Segment:
    """A segment of a reference: its number, and its name in small letters."""

    number: int
    name: str


@dataclass(frozen=True)
class Reference:
    """A segmentation or a structure set, by its header.

    Attributes:
        instance: the file.
        segments: its segments, those without a region left out.
        series: SeriesInstanceUIDs it refers to.
        images: SOPInstanceUIDs that it says these series consist of, by series.
        frame: its FrameOfReferenceUID, or that of its structures.
        empty: number of structures that hold no closed contour.
    """

    instance: Instance
    segments: tuple[Segment, ...]
    series: tuple[str, ...]
    images: Mapping[str, frozenset[str]]
    frame: str
    empty: int = 0

    @classmethod
    def read(cls, instance: Instance) -> Reference:
        """Read what a reference is about.

        Raises:
            BadFileError: it is truncated or says nothing usable.
        """
        with refusing(_DAMAGED):
            header = read_header(instance.file.path)
            if instance.kind == "segmentation":
                check_syntax(instance.syntax)
                return _of_segmentation(instance, header)
            return _of_structure_set(instance, header)

    def regions(self, grid: Grid, threshold: float) -> Callable[[int], Iterator[Voxels]]:
        """What gives the voxels of a segment, by its number, a slice at a time: (column, row, slice), shape (3, N)."""
        with refusing(_DAMAGED):
            if self.instance.kind == "segmentation":
                return _Frames(self.instance.file.path, grid, threshold)
            return _Contours(read_header(self.instance.file.path), grid)


def label_of(segment: Segment, labels: Mapping[str, int] | None) -> tuple[int, int] | None:
    """The integer of a segment and its place in the order of painting; None: it is background."""
    if labels is None:
        return segment.number, 0
    for place, (pattern, value) in enumerate(labels.items()):
        if fnmatchcase(segment.name, _plain(pattern)):
            return value, place
    return None


def label_volume(
    references: Sequence[Reference], grid: Grid, labels: Mapping[str, int] | None, threshold: float
) -> NDArray[Any]:
    """The label map of a series: shape as the grid, integers, 0 for background.

    Args:
        references: all references of the series.
        grid: of the series.
        labels: integers by name of segment; by default the segments' numbers.
        threshold: from which value on a voxel belongs to a fractional segment.

    Raises:
        BadFileError: no segment is named; two references have the same label, or segments overlap without an order; a
            reference has other voxels than its series or lies outside.
    """
    painted = []
    for number, reference in enumerate(references):
        for segment in reference.segments:
            chosen = label_of(segment, labels)
            if chosen is not None:
                painted.append((chosen[1], segment.number, chosen[0], number))
    if not painted:
        raise BadFileError("no segment has one of the labels")
    if not all(0 < value < 2**16 for _, _, value, _ in painted):
        raise BadFileError("segment number that is no label", "it must be from 1 to 65535; give labels")
    sources: dict[int, set[int]] = defaultdict(set)
    for _, _, value, number in painted:
        sources[value].add(number)
    if any(len(numbers) > 1 for numbers in sources.values()):
        raise BadFileError("several references with the same label", f"{len(references)} files; keep one of them")
    volume = np.zeros(grid.shape, np.uint8 if max(sources) < 256 else np.uint16)
    regions = [reference.regions(grid, threshold) for reference in references]
    for _, segment_number, value, number in sorted(painted):
        for column, row, plane in regions[number](segment_number):
            before = volume[column, row, plane]
            if labels is None and ((before != 0) & (before != value)).any():
                raise BadFileError(
                    "overlapping segments", "say by labels which integers they have; the later is on top"
                )
            volume[column, row, plane] = value
    return volume


def _plain(text: Any) -> str:
    return " ".join(str(text or "").split()).casefold()


def _of_segmentation(instance: Instance, header: Any) -> Reference:
    segments = [Segment(int(item.SegmentNumber), _plain(item.get("SegmentLabel"))) for item in header.SegmentSequence]
    images: dict[str, set[str]] = defaultdict(set)
    for item in header.get("ReferencedSeriesSequence") or []:
        uids = [str(image.ReferencedSOPInstanceUID) for image in item.get("ReferencedInstanceSequence") or []]
        images[str(item.SeriesInstanceUID)].update(uids)
    return Reference(
        instance,
        tuple(segment for segment in segments if segment.number > 0),
        tuple(images),
        {series: frozenset(uids) for series, uids in images.items()},
        str(header.get("FrameOfReferenceUID") or ""),
    )


def _of_structure_set(instance: Instance, header: Any) -> Reference:
    images: dict[str, set[str]] = defaultdict(set)
    frames = []
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        frames.append(str(frame.get("FrameOfReferenceUID") or ""))
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                uids = [str(image.ReferencedSOPInstanceUID) for image in series.get("ContourImageSequence") or []]
                images[str(series.SeriesInstanceUID)].update(uids)
    closed = set()
    for item in header.get("ROIContourSequence") or []:
        if any(contour.get("ContourGeometricType") in _CLOSED for contour in item.get("ContourSequence") or []):
            closed.add(int(item.ReferencedROINumber))
    segments, empty = [], 0
    for item in header.StructureSetROISequence:
        if int(item.ROINumber) in closed:
            segments.append(Segment(int(item.ROINumber), _plain(item.get("ROIName"))))
            frames.append(str(item.get("ReferencedFrameOfReferenceUID") or ""))
        else:
            empty += 1
    named = {frame for frame in frames if frame} or {str(header.get("FrameOfReferenceUID") or "")}
    return Reference(
        instance,
        tuple(segments),
        tuple(images),
        {series: frozenset(uids) for series, uids in images.items()},
        named.pop() if len(named) == 1 else "",
        empty,
    )


class _Frames:
    """The segments of a DICOM-SEG. Frames are read one at a time; a segment may have any number of them."""

    def __init__(self, path: Path, grid: Grid, threshold: float) -> None:
        self.grid = grid
        self.image = highdicom.seg.segread(path)
        self.kind = str(self.image.SegmentationType)
        highest = float(self.image.get("MaximumFractionalValue") or 1)
        self.lowest = threshold * highest if self.kind == "FRACTIONAL" else 1.0
        self.frames = self._frames(grid)

    def __call__(self, number: int) -> Iterator[Voxels]:
        for frame, affine in self.frames[0 if self.kind == "LABELMAP" else number]:
            with refusing(_DAMAGED, "its pixels"):
                values = self.image.get_stored_frame(frame + 1)
            inside = values == number if self.kind == "LABELMAP" else values >= self.lowest
            rows, columns = np.nonzero(inside)
            if len(rows):
                yield _on_grid(affine @ np.stack([columns, rows, np.ones(len(rows))]), self.grid)

    def _frames(self, grid: Grid) -> dict[int, list[tuple[int, Array]]]:
        """The frames of each segment: their indices, and where their pixels are in the series' voxels, (3, 3)."""
        shared = (self.image.get("SharedFunctionalGroupsSequence") or [{}])[0]
        to_voxel = np.linalg.inv(grid.affine)
        frames: dict[int, list[tuple[int, Array]]] = defaultdict(list)
        for number, own in enumerate(self.image.PerFrameFunctionalGroupsSequence):

            def first(name: str, own: Any = own) -> Any:
                return (own.get(name) or shared.get(name) or [None])[0]

            measures = first("PixelMeasuresSequence")
            affine = to_voxel @ plane_affine(
                first("PlanePositionSequence").ImagePositionPatient,
                first("PlaneOrientationSequence").ImageOrientationPatient,
                measures.PixelSpacing,
            )
            steps = affine[:3, :2]
            if abs(abs(steps).max(axis=0) - 1).max() > 0.01 or abs(abs(steps).sum(axis=0) - 1).max() > 0.02:
                raise BadFileError(
                    "reference on another grid than its series", "other spacing or orientation; resample it"
                )
            segment = first("SegmentIdentificationSequence")
            all_in_one = segment is None or self.kind == "LABELMAP"
            frames[0 if all_in_one else int(segment.ReferencedSegmentNumber)].append((number, affine[:3]))
        return frames


class _Contours:
    """The structures of an RTSTRUCT, rasterised: a voxel is inside if its centre is, by the even-odd rule.

    So a contour within another is a hole.
    """

    def __init__(self, header: Any, grid: Grid) -> None:
        self.grid = grid
        self.contours: dict[int, list[Any]] = defaultdict(list)
        for item in header.get("ROIContourSequence") or []:
            self.contours[int(item.ReferencedROINumber)] += [
                contour.get("ContourData")
                for contour in item.get("ContourSequence") or []
                if contour.get("ContourGeometricType") in _CLOSED
            ]

    def _outlines(self, number: int) -> dict[int, list[Array]]:
        """The contours of a structure in voxels, by their slice; structures that nobody asks for are not checked."""
        outlines: dict[int, list[Array]] = defaultdict(list)
        to_voxel = np.linalg.inv(self.grid.affine)
        for contour in self.contours[number]:
            try:
                points = np.asarray(contour, np.float64).reshape(-1, 3)
            except (TypeError, ValueError):
                raise BadFileError("truncated or damaged reference", "a contour that is no list of points") from None
            if not len(points) or not np.isfinite(points).all():
                raise BadFileError("truncated or damaged reference", "a contour without points, or with some nowhere")
            column, row, height = (to_voxel @ np.c_[points, np.ones(len(points))].T)[:3]
            plane = int(np.round(height.mean()))
            if abs(height - plane).max() > _OFF_PLANE:
                raise BadFileError("reference on another grid than its series", "contours between or across slices")
            if not 0 <= plane < self.grid.shape[2]:
                raise BadFileError("reference outside of its series", "slices may be missing at an end of the series")
            outlines[plane].append(np.stack([column, row], axis=1))
        return outlines

    def __call__(self, number: int) -> Iterator[Voxels]:
        for plane, outlines in sorted(self._outlines(number).items()):
            points = np.concatenate(outlines)
            low = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
            high = np.minimum(np.ceil(points.max(axis=0)) + 1, self.grid.shape[:2]).astype(int)
            if (high <= low).any():
                continue
            columns, rows = (axis.ravel() for axis in np.mgrid[low[0] : high[0], low[1] : high[1]])
            inside = np.zeros(len(columns), bool)
            for outline in outlines:
                inside ^= Polygon(outline).contains_points(np.stack([columns, rows], axis=1))
            if inside.any():
                yield np.stack([columns[inside], rows[inside], np.full(int(inside.sum()), plane)])


def _on_grid(places: Array, grid: Grid) -> Voxels:
    """Places in voxels, shape (3, N), as whole numbers; refuses what is between voxels or outside."""
    whole = np.round(places).astype(np.int64)
    if abs(places - whole).max() > _OFF_GRID:
        raise BadFileError(
            "reference on another grid than its series", "voxels of the one lie between those of the other"
        )
    if (whole.min(axis=1) < 0).any() or (whole.max(axis=1) >= grid.shape).any():
        raise BadFileError("reference outside of its series", "slices may be missing at an end of the series")
    return whole
