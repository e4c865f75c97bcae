# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Files as the state of a study: written whole or not at all, and keyed by a hash of what they depend on."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from monai_mia.errors import InputError

__all__ = [
    "changed_files",
    "content_sha256",
    "digest",
    "entries",
    "folder_name",
    "is_complete",
    "is_current",
    "is_whole",
    "make_folder",
    "paths_of",
    "private_folder",
    "read_json",
    "remove",
    "remove_abandoned",
    "require_place",
    "sha256",
    "shipped_bundles",
    "stamp_of",
    "temporary_beside",
    "walk",
    "withdraw",
    "write",
    "write_artefact",
    "write_json",
]


def write(path: str | os.PathLike[str], content: str | bytes, private: bool = True) -> Path:
    """Write a file atomically: a reader, or a run resumed after a kill, sees the old content or the new, whole.

    Args:
        path: the file; its folder is made if it is missing.
        content: text (written as UTF-8) or bytes.
        private: whether only the owner may read it (0600); otherwise the umask decides.

    Returns:
        The path written.

    Raises:
        InputError: a folder is in its place, or something else than a folder in that of its folder.
        OSError: the file cannot be written (full disk, no permission); nothing is left behind.
    """
    path = require_place(path)
    make_folder(path.parent)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def require_place(path: str | os.PathLike[str]) -> Path:
    """The path, if a file can be there.

    Raises:
        InputError: a folder is there.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path.name} must be a file, got a folder in its place, {str(path)!r}. Move it away, and run again."
        )
    return path


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it, unless they are there.

    Raises:
        InputError: something else is in its place.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{path.name} must be a folder, got a file or a link that leads nowhere in its place, {str(path)!r}. Move "
            "it away, and run again."
        ) from error
    return path


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, if it is there.

    Raises:
        InputError: a folder is there.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        require_place(path).unlink()


def temporary_beside(path: Path) -> tuple[int, str]:
    """Open a temporary file in a file's folder, named after this process; gives its handle and its path."""
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".{_host()}-{os.getpid()}.tmp")


def entries(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """What is in a folder, without files that are being written, or were when a process was killed."""
    return (path for path in Path(folder).iterdir() if not path.match(".*.tmp"))


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files below a folder whose process is gone; those of other machines may be in use."""
    for path in Path(folder).rglob(".*.tmp"):
        host, _, process = path.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")
        if host == _host() and process.isdigit() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"\W", "", socket.gethostname())[:32]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], private: bool = True) -> Path:
    """Write a mapping as JSON, atomically; NaN and infinity are refused, they are not JSON."""
    return write(path, json.dumps(content, indent=1, allow_nan=False, default=os.fspath) + "\n", private=private)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object; a missing or torn file reads as empty, which makes its step run again."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_artefact(
    path: str | os.PathLike[str], content: str | bytes, paths: Iterable[str | os.PathLike[str]] = (), **about: Any
) -> None:
    """Write what a step makes, ``x.csv``, and then ``x.json`` beside it: its SHA-256, its key and what else is known.

    An older ``x.json`` goes first, so that it never vouches for a newer artefact.

    Args:
        path: the artefact.
        content: what it holds.
        paths: files that it is a record of, which lie below its folder; their content is remembered.
        about: what is known: the ``key`` of what it depends on, ``made_from`` other artefacts, and so on.
    """
    path = require_place(path)
    remove(path.with_suffix(".json"))
    write(path, content)
    seen = {os.path.relpath(one, path.parent): [*_state(one), content_sha256(one)] for one in paths}
    write_json(path.with_suffix(".json"), {"sha256": sha256(path), **about, **({"files": seen} if seen else {})})


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether an artefact is there as it was written, by the hash beside it."""
    path = Path(path)
    known = read_json(path.with_suffix(".json")).get("sha256")
    return known is not None and path.is_file() and known == sha256(path)


def changed_files(record: str | os.PathLike[str]) -> list[str]:
    """The files of a record that are not as they were written, relative to its folder; a moved file is unchanged."""
    record = Path(record)
    odd = []
    for name, (*state, known) in read_json(record.with_suffix(".json")).get("files", {}).items():
        path = record.parent / name
        try:
            if _state(path) != state and content_sha256(path) != known:
                odd.append(name)
        except (OSError, InputError):
            odd.append(name)
    return odd


def _state(path: str | os.PathLike[str]) -> list[int]:
    """What changes with a file: its size, the times of its last changes, and its number.

    Whoever sets the time of the content back changes the other one, ``ctime``, which cannot be set.
    """
    stat = Path(path).stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def stamp_of(path: str | os.PathLike[str]) -> list[Any]:
    """A file's path and what changes with it, for a key: no other content passes under the same stamp."""
    return [os.fspath(path), *_state(path)]


def content_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, which are read once a process unless the file changes."""
    return _content_sha256(os.fspath(path), *_state(path))


@lru_cache(maxsize=100_000)
def _content_sha256(path: str, *_: int) -> str:
    return sha256(path)


def is_current(path: str | os.PathLike[str], key: str) -> bool:
    """Whether an artefact is there, is whole, and was made from exactly what ``key`` hashes."""
    return read_json(Path(path).with_suffix(".json")).get("key") == key and is_whole(path)


def is_complete(record: str | os.PathLike[str], key: str, paths: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a record and all files that it is about are there, whole, made from exactly what ``key`` hashes.

    If not, the record is withdrawn: the files are about to be written again, and a run that is stopped meanwhile must
    not leave it beside others than it is about.
    """
    if is_current(record, key) and all(Path(path).is_file() for path in paths) and not changed_files(record):
        return True
    withdraw(record)
    return False


def withdraw(record: str | os.PathLike[str]) -> None:
    """Make a record count for nothing."""
    remove(Path(record).with_suffix(".json"))


def paths_of(value: Any) -> list[str]:
    """The files of an image: one, or one a channel."""
    return [os.fspath(value)] if isinstance(value, (str, os.PathLike)) else [os.fspath(path) for path in value]


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As :func:`os.walk`, sorted, into links as well, but not into one that leads to a folder above itself."""
    above = {os.fspath(folder): frozenset([os.path.realpath(folder)])}
    for name, folders, names in os.walk(folder, followlinks=True):
        paths = {one: os.path.join(name, one) for one in folders}  # noqa: PTH118  (as os.walk writes them)
        reals = {one: os.path.realpath(path) for one, path in paths.items()}
        folders[:] = sorted(one for one, real in reals.items() if real not in above[name])
        above |= {paths[one]: above[name] | {reals[one]} for one in folders}
        yield name, folders, sorted(names)


def shipped_bundles() -> Path:
    """The folder of the shipped bundles: in the package where it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "bundles" if (package / "bundles").is_dir() else package.parent / "bundles"


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder that only its owner may enter (0700)."""
    path = make_folder(path)
    path.chmod(0o700)
    return path


def folder_name(name: str) -> str:
    """The name that a thing of a report has as a folder; empty if no letter or digit is in it."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def digest(content: Any) -> str:
    """SHA-256 of a JSON-like value (paths count as text), independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=os.fspath).encode()).hexdigest()


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: nobody may read it.
    """
    try:
        with open(path, "rb") as stream:
            if hasattr(hashlib, "file_digest"):
                return hashlib.file_digest(stream, "sha256").hexdigest()
            return _sha256(stream)
    except PermissionError as error:
        raise InputError(
            f"{Path(path).name} must be readable, got no permission for {os.fspath(path)!r}. Let its owner read it."
        ) from error


def _sha256(stream: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    sha = hashlib.sha256()
    while block := stream.read(1 << 20):
        sha.update(block)
    return sha.hexdigest()


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, lines ended by a line feed on every system."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
