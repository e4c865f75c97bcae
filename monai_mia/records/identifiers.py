# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What would name a patient, and the search for it in what is about to leave: ids, paths, UIDs, header values.

The values themselves are private: they are kept in ``private/identifiers.json``, and a :class:`Leak` tells in which
file one was found and of which kind it is, but not which.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["IDENTIFIERS", "KINDS", "MIN_CELL", "Identifiers", "Leak"]

#: Of fewer patients than this nothing is shown, unless told otherwise; the usual threshold of statistics offices and of
#: trusted research environments.
MIN_CELL = 10

#: Name of the file of a study, in ``private/``.
IDENTIFIERS = "identifiers.json"

#: Kinds of identifiers.
KINDS = ("patient id", "case id", "path", "covariate", "header value")

# Ids are looked for whatever they are; of the others, words that the package itself uses say nothing of a patient.
_IDS = ("patient id", "case id")
_NOT_COVARIATES = {"case_id", "patient_id", "image", "label", "member", "canary"}
_SHORTEST, _SHORTEST_NUMBER = 4, 6
# From this length on, a value is found within a longer word, too.
_LONG = 12
_PNG = b"\x89PNG\r\n\x1a\n"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")
_BREAKS = re.compile("<wbr\\s*/?>|\N{SOFT HYPHEN}|\N{ZERO WIDTH SPACE}", re.IGNORECASE)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_FOLDER = re.compile(r"(?<![\w/:.])(?:/|[A-Za-z]:\\)[\w.-]+[/\\]\w")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Leak:
    """Something that names a patient in a file that may be shared.

    Attributes:
        file: the file, relative to the folder that was searched.
        kind: one of :data:`KINDS`.
        value: what was found; private, and not in the text of this object.
    """

    file: str
    kind: str
    value: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.file!r}, {self.kind!r})"


@dataclass(frozen=True)
class Identifiers:
    """The identifiers of a cohort; private.

    Attributes:
        values: for each kind the values.
    """

    values: Mapping[str, frozenset[str]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{len(found)} {kind}' for kind, found in self.values.items())})"

    @classmethod
    def of(
        cls,
        cases: Sequence[Mapping[str, Any]],
        paths: Iterable[str | os.PathLike[str]] = (),
        headers: Callable[[str], Iterable[str]] | None = None,
        min_cell: int = MIN_CELL,
    ) -> Identifiers:
        """Those of a cohort.

        Args:
            cases: the cases; whatever they hold beside ids, paths and membership counts as a covariate.
            paths: further paths, such as the folder of the study.
            headers: gives the texts in the header of a file, such as :func:`monai_mia.data.header_values`.
            min_cell: a covariate's value that so many patients share names none of them, and is left out; a table of
                subgroups may show it.
        """
        values: dict[str, set[str]] = {kind: set() for kind in KINDS}
        shared: dict[str, set[str]] = {}
        for case in cases:
            patient = str(case.get("patient_id", case.get("case_id", "")))
            values["patient id"].add(patient)
            values["case id"].add(str(case.get("case_id", "")))
            for name, value in case.items():
                if name not in _NOT_COVARIATES and value is not None:
                    shared.setdefault(str(value), set()).add(patient)
            for path in _paths(case):
                values["path"] |= _components(path)
                if headers is not None:
                    values["header value"] |= set(headers(path))
        for further in paths:
            values["path"] |= _components(os.fspath(further))
        values["covariate"] = {value for value, patients in shared.items() if len(patients) < min_cell}
        values["header value"] -= shared.keys() - values["covariate"]
        return cls({kind: frozenset(found - {""}) for kind, found in values.items()})

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Identifiers:
        """Those of a study and of the studies within it: every file of that name below its private folder.

        Raises:
            InputError: there is none.
        """
        found = sorted(Path(folder).rglob(IDENTIFIERS))
        values: dict[str, frozenset[str]] = {}
        for path in found:
            for kind, listed in files.read_json(path).get("values", {}).items():
                values[kind] = values.get(kind, frozenset()) | frozenset(map(str, listed))
        if not values:
            raise InputError(
                f"output_dir must hold {IDENTIFIERS} of a finished study, got {str(folder)!r} without. Run the study "
                "again with the same output_dir: what is trained and recorded is kept."
            )
        return cls(values)

    def write(self, path: str | os.PathLike[str], **about: Any) -> None:
        """Write them, and what else is known about them; private (0600)."""
        files.write_json(path, {**about, "values": {kind: sorted(found) for kind, found in self.values.items()}})

    def sought(self, allowed: Iterable[str] = ()) -> tuple[dict[str, str], int]:
        """What is looked for: from each text, as it is compared, to its kind; and how many values are too short.

        A value of fewer than 4 letters and digits, or a number of fewer than 6 digits, cannot be told from other text.

        Args:
            allowed: words that may appear although they are among the values; a value other than an id may also
                be a part of one.
        """
        free = {_folded(word) for word in allowed}
        wanted: dict[str, str] = {}
        too_short = 0
        for kind in KINDS:
            for value in self.values.get(kind, ()):
                text = _folded(value)
                plain = "".join(_WORD.findall(text))
                if len(plain) < (_SHORTEST_NUMBER if plain.isdigit() else _SHORTEST):
                    too_short += 1
                    continue
                if text in free:
                    continue
                if kind not in _IDS and (_is_ordinary(text) or any(_within(text, word) for word in free)):
                    continue
                forms = {text, files.folder_name(text)}
                if kind in _IDS:  # a plain hash can be guessed back
                    forms |= {hashlib.new(name, value.encode()).hexdigest()[:16] for name in ("md5", "sha1", "sha256")}
                for form in forms - free:
                    wanted.setdefault(form, kind)
        return wanted, too_short

    def leaks(self, folder: str | os.PathLike[str], allowed: Iterable[str] = ()) -> list[Leak]:
        """Search every byte of every file below a folder, and the files' names.

        Text is looked at as it is and with the escapes of HTML, JSON and URLs undone, whatever the case of its letters;
        so are what base64 stands for, and the compressed and other metadata of PNG. What a picture *shows* is not read.

        Args:
            folder: a folder whose files are to be shared; or one file.
            allowed: words that may appear although they are among the values.

        Returns:
            One leak for each file and value, sorted by file.
        """
        folder = Path(folder)
        wanted, _ = self.sought(allowed)
        listed = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        found = set()
        for path in listed:
            name = path.name if folder.is_file() else path.relative_to(folder).as_posix()
            text = _folded("\n".join((name, *_texts(path.read_bytes()))))
            found |= {(name, wanted[value], value) for value in _among(wanted, text)}
        return [Leak(*leak) for leak in sorted(found)]

    def in_text(self, text: str) -> bool:
        """Whether a text names a patient, or any folder."""
        return _FOLDER.search(text) is not None or bool(_among(self.sought()[0], _folded(text)))

    def withheld(self, text: str) -> str:
        """A text as it may be shared: one that names a patient or a folder gives no more than what is before its colon.

        Example:
            >>> ids = Identifiers({"case id": frozenset({"scan_0815"})})
            >>> ids.withheld("others: label of scan_0815 is missing")
            'others: the reason names a case or a folder, and is in private/.'
            >>> ids.withheld("others: no foreground in 3 scans")
            'others: no foreground in 3 scans'
        """
        if not self.in_text(text):
            return text
        head, colon, _ = text.partition(":")
        reason = "the reason names a case or a folder, and is in private/."
        return f"{head}: {reason}" if colon and not self.in_text(head) else reason.capitalize()


def _paths(case: Mapping[str, Any]) -> list[str]:
    """The files of a case; an image may be a list of files."""
    found: list[str] = []
    for key in ("image", "label"):
        value = case.get(key)
        if isinstance(value, (str, os.PathLike)):
            found.append(os.fspath(value))
        elif isinstance(value, (list, tuple)):
            found += [os.fspath(item) for item in value if isinstance(item, (str, os.PathLike))]
    return found


def _components(path: str) -> set[str]:
    """A path, its folders, and its name with and without endings."""
    parts = [part for part in PurePath(path).parts if part not in (os.sep, ".", "..")]
    names = {part.split(".")[0] for part in parts if not part.startswith(".")}
    return {path, *parts, *names}


def _folded(text: str) -> str:
    """Text as it is compared: one form of each character, no case."""
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=1)
def _own_text() -> str:
    """The package's own words."""
    package = Path(__file__).resolve().parent.parent
    sources = [path for path in package.rglob("*") if path.suffix in (".py", ".html", ".json", ".yaml")]
    return _folded("\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sources))


@lru_cache(maxsize=65536)
def _is_ordinary(text: str) -> bool:
    return _within(text, _own_text())


def _within(value: str, text: str) -> bool:
    """Whether a value stands in a text, not within a longer word or number."""
    if len(value) >= _LONG:
        return value in text
    number = value.replace(".", "").replace("-", "").isdigit()
    before, after = (r"(?<![\d.])", r"(?![\d]|\.\d)") if number else (r"(?<![^\W_])", r"(?![^\W_])")
    return re.search(before + re.escape(value) + after, text) is not None


def _among(wanted: Iterable[str], text: str) -> set[str]:
    """Which of the values stand in a text."""
    words = set(_WORD.findall(text))
    others = "\n".join(word for word in words if not word.isdigit())  # a report is mostly numbers
    found = set()
    for value in wanted:
        runs = _WORD.findall(value)
        if len(value) < _LONG:
            possible = words.issuperset(runs)
        else:
            longest = max(runs, key=len)
            possible = longest.isdigit() or longest in others
        if possible and _within(value, text):
            found.add(value)
    return found


def _texts(data: bytes, depth: int = 0) -> Iterator[str]:
    """The texts that bytes may stand for."""
    if data.startswith(_PNG):
        yield from _png_texts(data, depth)
    for plain in {data, data.replace(b"\0", b"")}:  # UTF-16 of ASCII is ASCII with zeros
        text = plain.decode("utf-8", errors="replace")
        yield text
        undone = _BREAKS.sub("", html.unescape(unquote(text)))
        undone = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), undone).replace("\\/", "/").replace("\\\\", "\\")
        if undone != text:
            yield undone
    if depth < 3:
        for match in _BASE64.finditer(data):
            coded = match[0].rstrip(b"=")
            if coded.isdigit():  # the decimals of a number
                continue
            try:
                decoded = base64.b64decode(coded + b"=" * (-len(coded) % 4))
            except binascii.Error:
                continue
            yield from _texts(decoded, depth + 1)


def _png_texts(data: bytes, depth: int) -> Iterator[str]:
    """The metadata of a PNG, decompressed; and what follows its end."""
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind != b"IDAT":
            yield content.decode("latin-1")
            for start in (match.start() for match in re.finditer(b"\x78", content)):  # zTXt, iTXt, iCCP
                with_header = zlib.decompressobj()
                try:
                    yield from _texts(with_header.decompress(content[start:], 1 << 24), depth + 1)
                except zlib.error:
                    continue
