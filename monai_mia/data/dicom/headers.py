# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Finding the series and the references of a tree by their headers."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from tqdm import tqdm

from monai_mia.data.tables import is_text
from monai_mia.records.files import walk

__all__ = ["BadFileError", "File", "Instance", "LeftOut", "Tree", "files_below", "read_header", "refusing"]

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

#: What is kept of each header, and as what. A slice of a large archive takes a few hundred bytes so.
_TEXTS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID")
_NUMBERS = ("Rows", "Columns", "SamplesPerPixel", "SliceThickness", "SpacingBetweenSlices")
_LISTS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

#: Length of an element that does not say how long it is.
_UNDEFINED = 0xFFFFFFFF

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
        case_id: the case that it would have been; empty of what is no series with a reference.
    """

    source: str
    kind: str
    text: str
    patient: str = ""
    case_id: str = ""


@dataclass(frozen=True)
class File:
    """A file of the tree: path, name relative to the tree, size in bytes, and times of its last changes, ns.

    The time of its content can be set; that of the file's entry cannot, and tells of an edit in place.
    """

    path: Path
    name: str
    size: int
    time: int
    entry_time: int

    @property
    def stamp(self) -> list[Any]:
        """What tells that it has not changed."""
        return [self.name, self.size, self.time, self.entry_time]


@dataclass(frozen=True)
class Instance:
    """A DICOM file and the part of its header that says where it belongs.

    Attributes:
        file: the file.
        kind: image, multi-frame, segmentation, structure set or other.
        header: what is there of the texts, the numbers and the lists of numbers by which files are put together.
        syntax: UID of its transfer syntax.
    """

    file: File
    kind: str
    header: Mapping[str, Any]
    syntax: str

    def text(self, name: str) -> str:
        """A text of the header; empty if it is missing."""
        return str(self.header.get(name, ""))


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
                name = file.name.encode("utf-8", "backslashreplace").decode()
                tree.bad.append(LeftOut(name, bad.kind, str(bad)))
                continue
            if instance is None or instance.kind == "other":
                tree.ignored["not DICOM" if instance is None else "another kind of DICOM object"] += 1
                continue
            first = seen.setdefault(instance.text("SOPInstanceUID"), instance)
            if first is not instance:
                if first.file.path.read_bytes() != file.path.read_bytes():
                    kind = "same SOPInstanceUID as another file"
                    tree.bad.append(LeftOut(file.name, kind, f"{kind}, {first.file.name}, but other content"))
                else:
                    tree.ignored["copy of another file"] += 1
            elif instance.kind in ("image", "multi-frame"):
                tree.series[instance.text("SeriesInstanceUID")].append(instance)
            else:
                tree.references.append(instance)
        return tree


def files_below(tree: Path, without: Path) -> list[File]:
    """All files of a tree, and of folders that it links to, but hidden ones and those of one folder; by name."""
    found = []
    for folder, folders, names in walk(tree):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(folder, f).resolve() != without]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                stat = path.stat()
                name_in_tree = path.relative_to(tree).as_posix()
                found.append(File(path, name_in_tree, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return sorted(found, key=lambda file: file.name)


@contextmanager
def refusing(kind: str, name: str = "") -> Iterator[None]:
    """Turn whatever a damaged file causes into its name alone: the text of the error may quote the header.

    Args:
        kind: what is then wrong.
        name: what is read, to be told beside the type of the error.

    Raises:
        BadFileError: in the place of any other exception but those of the system.
    """
    try:
        yield
    except (BadFileError, MemoryError):
        raise
    except Exception as error:
        raise BadFileError(kind, f"{name}, {type(error).__name__}" if name else type(error).__name__) from None


def read_header(path: Path, tags: Sequence[str] | None = None) -> Any:
    """A header without pixels.

    Raises:
        BadFileError: it cannot be read.
    """
    with refusing("truncated or damaged file"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
        except InvalidDicomError:
            raise BadFileError("no DICOM file, whatever its name says") from None
        # A sequence that ends between two of its items would be read without the rest.
        for raw in [header.get_item(tag) for tag in [*header.keys()]]:
            if isinstance(raw, RawDataElement) and raw.value is not None and len(raw.value) < raw.length < _UNDEFINED:
                raise BadFileError("truncated or damaged file", "its end is missing")
        return header


def _instance(file: File) -> Instance | None:
    """What a file is; None if it is no DICOM file and does not look like one."""
    if file.size == 0:
        if not file.name.lower().endswith(_ENDINGS) and Path(file.name).suffix:
            return None
        raise BadFileError("empty file")
    with refusing("truncated or damaged file"):
        with file.path.open("rb") as stream:
            dicom = stream.read(132)[128:] == b"DICM"
        if not dicom and not file.name.lower().endswith(_ENDINGS):
            return None
        if not is_text(file.name):
            raise BadFileError("name of a file that is no UTF-8")
        dataset = read_header(file.path, [*_TEXTS, *_NUMBERS, *_LISTS])
        there = [name for name in (*_TEXTS, *_NUMBERS, *_LISTS) if dataset.get(name) not in (None, "")]
        header: dict[str, Any] = {name: str(dataset[name].value).strip() for name in there if name in _TEXTS}
        header |= {name: float(dataset[name].value) for name in there if name in _NUMBERS}
        header |= {name: tuple(map(float, dataset[name].value)) for name in there if name in _LISTS}
        uid = header.get("SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    kind = _CLASSES.get(uid, "other")
    if kind != "other" and not all(header.get(name) for name in ("SOPInstanceUID", "SeriesInstanceUID")):
        raise BadFileError("truncated or damaged file", "SOPInstanceUID or SeriesInstanceUID is missing")
    return Instance(file, kind, header, syntax)
