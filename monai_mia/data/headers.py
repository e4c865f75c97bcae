# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The texts in the headers of image files, so that a report can be searched for them. They are never logged."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import ExifTags, Image

from monai_mia.data.volumes import PIXELS
from monai_mia.records import files
from monai_mia.records.identifiers import Identifiers

__all__ = ["header_values", "quiet", "write_identifiers"]

_NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".mgz")
_TEXTS = ("descrip", "aux_file", "db_name", "intent_name", "data_type")
# Value representations of DICOM that are free text, a name, a date or a UID.
_DICOM_TEXTS = ("AE", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT")
# Of a picture: bytes that are no text, or are read by their parts; and texts in the way of Windows.
_NO_TEXTS = ("exif", "icc_profile")
_UTF_16 = (
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
)
_STANDARD_UID = "1.2.840.10008."
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff]{4,}")


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


def header_values(path: str | os.PathLike[str]) -> set[str]:
    """The texts that the header of an image holds.

    Of NIfTI and its extensions; of DICOM names, dates, UIDs, free text; of 2D images EXIF and comments.

    Args:
        path: a file, or a folder of DICOM files.

    Returns:
        The texts; empty for formats without any, and for what cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return set().union(*(header_values(file) for file in sorted(path.rglob("*")) if file.is_file()))
    with quiet():
        dicom = _dicom(path)  # whatever its name: Analyze and DICOM have endings in common
        if dicom or not path.name.lower().endswith((*_NIFTI, *PIXELS)):
            return dicom
        return _nifti(path) if path.name.lower().endswith(_NIFTI) else _pixels(path)


def write_identifiers(
    path: str | os.PathLike[str], cases: Sequence[Mapping[str, Any]], key: str, paths: Iterable[Any] = ()
) -> None:
    """Keep what would name the patients of a cohort, unless it is kept already; private.

    Args:
        path: the file, ``identifiers.json`` in a private folder.
        cases: the cohort.
        key: hash of the cohort's cases and files.
        paths: further paths that a report must not hold; None among them is skipped.
    """
    named = [os.fspath(Path(item).expanduser().resolve()) for item in paths if item is not None]
    key = files.digest([key, named, *([str(value) for value in case.values()] for case in cases)])
    if files.read_json(path).get("key") == key:
        return
    Identifiers.of(cases, named, header_values).write(path, key=key)


def _nifti(path: Path) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(Exception):  # what cannot be read is refused, by name, where the cohort is examined
        header: Any = nib.load(path).header
        for name in _TEXTS:
            if name in header:
                found.add(np.asarray(header[name]).item().decode("utf-8", errors="replace").strip("\0 "))
        for extension in getattr(header, "extensions", ()):
            found |= _texts_of(extension)
    return found - {""}


def _pixels(path: Path) -> set[str]:
    with contextlib.suppress(Exception), Image.open(path) as image:
        exif = image.getexif()
        held = [*image.info.items(), *exif.items(), *exif.get_ifd(ExifTags.IFD.Exif).items()]
        return {text for name, value in held if name not in _NO_TEXTS for text in _lines(name, value)}
    return set()


def _lines(name: Any, value: Any) -> Iterator[str]:
    """The lines of a text of a picture, however EXIF encodes it."""
    if isinstance(value, bytes):
        if name in _UTF_16:
            value = value.decode("utf-16-le", errors="replace")
        elif name == ExifTags.Base.UserComment:  # eight bytes tell its encoding, not in which order its bytes are
            for encoding in ("utf-16-le", "utf-16-be") if value.startswith(b"UNICODE") else ("utf-8",):
                yield from _lines(None, value[8:].decode(encoding, errors="replace"))
            return
        else:
            value = value.decode("utf-8", errors="replace")
    for line in re.split(r"[\x00-\x1f\x7f-\x9f]+", value) if isinstance(value, str) else ():
        text = line.strip()
        if text and text.isprintable():
            yield text


def _texts_of(extension: Any) -> set[str]:
    """The texts in an extension of NIfTI: those of a DICOM header, or whatever can be printed."""
    content = extension.get_content()
    if hasattr(content, "iterall"):
        return _elements(content)
    data = content if isinstance(content, bytes) else str(content).encode()
    return {match[0].decode("utf-8", errors="replace").strip() for match in _PRINTABLE.finditer(data)}


def _dicom(path: Path) -> set[str]:
    with contextlib.suppress(Exception):
        import pydicom

        return _elements(pydicom.dcmread(path, stop_before_pixels=True))
    return set()


def _elements(dataset: Any) -> set[str]:
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR in _DICOM_TEXTS:
            values = [str(value) for value in (element.value if element.VM > 1 else [element.value])]
            found |= {value.strip() for value in values}
            if element.VR == "PN":  # also the parts of a name
                found |= {part for value in values for part in re.split(r"[\^=]", value)}
    return {value for value in found if value and not value.startswith(_STANDARD_UID)}
