# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Finding the series and the references of a tree by their headers."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from tqdm import tqdm

__all__ = ["BadFileError", "File", "Instance", "LeftOut", "Tree", "files_below", "quiet", "read_header"]

_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "image",  # CT
    "1.2.840.10008.5.1.4.1.1.4": "image",  # MR
    "1.2.840.10008.5.1.4.1.1.2.1": "multi-frame",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1": "multi-frame",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.2.2": "multi-frame",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.4": "multi-frame",  # legacy converted enhanced MR
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",  # label map
    "1.2.840.10008.5.1.4.1.1.481.3": "structure set",
}

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
]

#: Endings that say that a file should be DICOM.
_ENDINGS = (".dcm", ".dicom", ".ima")


class BadFileError(Exception):
    """Something in the tree cannot be used.

    Attributes:
        kind: what is wrong, in words that are counted; the same for all such files.
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(f"{kind}{f' ({text})' if text else ''}")
        self.kind = kind


@dataclass(frozen=True)
class LeftOut:
    """What cannot be used, and why.

    Attributes:
        source: a file, relative to the tree.
        kind: what is wrong, without a name or a value.
        text: the same for the user, with details, without a header value.
        patient: PatientID, if it is known; private.
    """

    source: str
    kind: str
    text: str
    patient: str = ""


@dataclass(frozen=True)
class File:
    """A file of the tree: path, name relative to the tree, size in bytes, and time of its last change, ns."""

    path: Path
    name: str
    size: int
    time: int

    @property
    def stamp(self) -> list[Any]:
        """What tells that it has not changed."""
        return [self.name, self.size, self.time]


@dataclass(frozen=True)
class Instance:
    """A DICOM file and the part of its header that says where it belongs."""

    file: File
    kind: str
    header: Any

    def text(self, name: str) -> str:
        """A header value as text; empty if it is missing."""
        return str(self.header.get(name) or "").strip()


@dataclass
class Tree:
    """What is in a tree.

    Attributes:
        series: the images by SeriesInstanceUID.
        references: segmentations and structure sets.
        bad: files that cannot be read.
        ignored: how many files are something else.
    """

    series: dict[str, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    references: list[Instance] = field(default_factory=list)
    bad: list[LeftOut] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, files: Sequence[File]) -> Tree:
        """Read the headers of all files; none of them is logged."""
        tree, seen = cls(), dict[str, Instance]()
        bar = tqdm(files, "reading headers", disable=not files, mininterval=0.5 if sys.stderr.isatty() else 20.0)
        for file in bar:
            try:
                instance = _instance(file)
            except BadFileError as bad:
                tree.bad.append(LeftOut(file.name, bad.kind, str(bad)))
                continue
            if instance is None or instance.kind == "other":
                tree.ignored["not DICOM" if instance is None else "another kind of DICOM object"] += 1
                continue
            first = seen.setdefault(instance.text("SOPInstanceUID"), instance)
            if first is not instance:
                if first.file.path.read_bytes() != file.path.read_bytes():
                    kind = "same SOPInstanceUID as another file"
                    tree.bad.append(LeftOut(file.name, kind, f"{kind}, {first.file.name}, but other content"))
                tree.ignored["copy of another file"] += 1
            elif instance.kind in ("image", "multi-frame"):
                tree.series[instance.text("SeriesInstanceUID")].append(instance)
            else:
                tree.references.append(instance)
        return tree


def files_below(tree: Path, without: Path) -> list[File]:
    """All files of a tree but hidden ones and those of one folder, by name."""
    found = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(folder, f).resolve() != without)
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                stat = path.stat()
                found.append(File(path, path.relative_to(tree).as_posix(), stat.st_size, stat.st_mtime_ns))
    return sorted(found, key=lambda file: file.name)


@contextmanager
def quiet() -> Iterator[None]:
    """Neither pydicom nor highdicom says anything: their warnings and logs quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, (level, _) in zip(loggers, before, strict=True):
            logger.setLevel(level)


def read_header(path: Path, tags: Sequence[str] | None = None) -> Any:
    """A header without pixels.

    Raises:
        BadFileError: it cannot be read. The cause is not kept, it quotes the header.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
    except InvalidDicomError:
        raise BadFileError("no DICOM file, whatever its name says") from None
    except Exception as error:
        raise BadFileError("truncated or damaged file", type(error).__name__) from None


def _instance(file: File) -> Instance | None:
    """What a file is; None if it is no DICOM file and does not look like one."""
    if file.size == 0:
        raise BadFileError("empty file")
    with file.path.open("rb") as stream:
        dicom = stream.read(132)[128:] == b"DICM"
    if not dicom and not file.name.lower().endswith(_ENDINGS):
        return None
    header = read_header(file.path, _TAGS)
    kind = _CLASSES.get(
        str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""), "other"
    )
    if kind != "other" and not all(header.get(name) for name in ("SOPInstanceUID", "SeriesInstanceUID")):
        raise BadFileError("truncated or damaged file", "SOPInstanceUID or SeriesInstanceUID is missing")
    return Instance(file, kind, header)
