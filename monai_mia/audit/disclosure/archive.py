# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The archive of a report: what may leave, with the SHA-256 of each file, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_mia.audit.disclosure import signing
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.folder import StudyFolder
from monai_mia.records.identifiers import Leak

__all__ = ["MANIFEST", "CheckedArchive", "check_archive", "checked_archive", "report_leaks", "write_archive"]

#: Names of the manifest within an archive, and of its signature.
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"

# More than any report is.
_MOST_FILES, _MOST_BYTES = 500, 64 << 20

_SCHEMA = "1"
# What a study writes; text in another kind of file could not be searched.
_SUFFIXES = (".html", ".json", ".md", ".png")
# The earliest time that ZIP knows: the same report gives the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def report_leaks(output_dir: str | os.PathLike[str], allowed: Iterable[str] = ()) -> list[Leak]:
    """Search the report of a study for the ids, paths, UIDs and header values of its cohort.

    The names of the bundle and of its config files, which the report gives, are allowed.

    Args:
        output_dir: folder of the study.
        allowed: further words that may appear, such as a header value that names a scanner.

    Raises:
        InputError: the folder holds no finished study.
    """
    folder = _report(output_dir)
    content = files.read_json(folder / "report.json")
    named = {str(content.get("target", {}).get("bundle") or "")}
    settings = content.get("settings", {})
    named |= {str(name) for key, names in settings.items() if key.endswith("_files") for name in names}
    return StudyFolder(output_dir).identifiers().leaks(folder, {*named - {""}, *allowed})


def write_archive(
    output_dir: str | os.PathLike[str],
    path: str | os.PathLike[str],
    allowed: Iterable[str] = (),
    sign: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write ``report/`` of a study and a manifest as ZIP; the same report gives the same bytes.

    Args:
        output_dir: folder of the study.
        path: the ``.zip`` to write, outside ``report/``.
        allowed: words that may appear although they are among the cohort's identifiers.
        sign: private key (PEM, Ed25519) of who vouches for it.

    Returns:
        The manifest: ``schema``, ``files`` (from name to SHA-256), and ``searched``: how many identifiers of each kind
        were looked for, how many were too short to be, and how many were not because their words were allowed.

    Raises:
        InputError: the report names a patient, a path or a header value of the cohort: the files are named, and what
            was found is in ``private/leaks.json``. Or the folder holds something that no study writes.
    """
    folder, path = _report(output_dir), Path(path)
    if path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"archive must lie outside of report/, got {str(path)!r}. Choose another name.")
    key = None if sign is None else signing.private_key(sign)
    allowed = list(allowed)
    names = _names(folder)
    leaks = report_leaks(output_dir, allowed)
    noted = StudyFolder(output_dir).leaks_file
    if noted.is_file():  # a folder that is only read, for an archive elsewhere, has none
        noted.unlink()
    if leaks:
        files.write_json(
            noted, {"leaks": [{"file": leak.file, "kind": leak.kind, "value": leak.value} for leak in leaks]}
        )
        raise InputError(
            f"report must hold no id, path or header value of the cohort, got {_told(leaks)}. What was found is in "
            f"{noted}. Run the study again with another name for it, or allow a word that names nobody "
            "(--allow WORD)."
        )
    known = StudyFolder(output_dir).identifiers()
    wanted, too_short = known.sought(allowed)
    skipped = len(known.sought()[0]) - len(wanted)
    content = {name: (folder / name).read_bytes() for name in names}
    manifest = {
        "schema": _SCHEMA,
        "files": {f"report/{name}": hashlib.sha256(data).hexdigest() for name, data in content.items()},
        "searched": {"values": len(wanted), "too_short": too_short, "allowed": skipped},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        written = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
        _add(archive, MANIFEST, written)
        if key is not None:
            _add(archive, SIGNATURE, signing.signature(key, written))
        for name, data in content.items():
            _add(archive, f"report/{name}", data)
    files.write(path, buffer.getvalue(), private=False)
    return manifest


@dataclass(frozen=True)
class CheckedArchive:
    """An archive that is whole.

    Attributes:
        files: content of each file, by its name in the archive.
        manifest: what it lists.
        signature: of the manifest's bytes, with the signer's public key before it; empty without one.
        signed: the bytes that were signed.
    """

    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]
    signature: bytes
    signed: bytes

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the signer's public key, as the archive has it; anyone can put any key there."""
        return hashlib.sha256(self.signature[:32]).hexdigest() if self.signature else None

    def verify(self, public_key: str | os.PathLike[str]) -> bool:
        """Whether it is signed by the holder of a key.

        Args:
            public_key: PEM file of an Ed25519 key.

        Returns:
            True.

        Raises:
            InputError: it is not signed, or by another, or was changed since; or the file is no such key.
        """
        key = signing.public_key(public_key)
        if not self.signature:
            raise InputError("archive must be signed, got one without a signature. Ask for one that is (--sign).")
        if not signing.verified(key, self.signature[32:], self.signed):
            raise InputError(
                f"archive must be signed by the holder of {str(public_key)!r}, got the signature of another or of "
                "something else. Do not trust it."
            )
        return True


def check_archive(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Whether an archive holds what its manifest lists, unchanged, and nothing else.

    Returns:
        The manifest.

    Raises:
        InputError: it does not; the first files that differ are named.
    """
    return dict(checked_archive(path).manifest)


def checked_archive(path: str | os.PathLike[str]) -> CheckedArchive:
    """Read an archive that holds what its manifest lists, unchanged, and nothing else, in bounded memory.

    Raises:
        InputError: it does not; the first files that differ are named. Or it is larger than a report can be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.namelist()
            _require_bounded(archive, path)
            found = {name: archive.read(name) for name in listed}
            comment = archive.comment or b"".join(one.comment + one.extra for one in archive.infolist())
            offset = min((one.header_offset for one in archive.infolist()), default=0)
        signature, written = found.pop(SIGNATURE, b""), found.pop(MANIFEST)
        manifest = json.loads(written)
        expected = {str(name): str(value) for name, value in manifest["files"].items()}
    except InputError:
        raise
    except (OSError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(
            f"archive must be one that monai_mia wrote, got {str(path)!r}, which is not ({type(error).__name__})."
        ) from error
    actual = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    strange = [name for name in found if not _is_of_report(name)]
    if strange or comment or offset:
        raise InputError(
            f"archive must hold a manifest and the files of a report alone, got "
            f"{', '.join(strange[:5]) or 'a comment, or bytes before the archive'}. Do not unpack it; ask for it again."
        )
    odd = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    twice = sorted(name for name, count in Counter(listed).items() if count > 1)
    if odd or twice:
        raise InputError(
            f"archive must hold the files of its manifest, unchanged, got {len(odd or twice)} that are changed, "
            f"missing, additional or twice there ({', '.join((odd or twice)[:5])}). Ask for it again."
        )
    return CheckedArchive(found, manifest, signature, written)


def _require_bounded(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Refuse, before anything is unpacked, more than a report can be; zipfile stops at the sizes that are stated."""
    sizes = [one.file_size for one in archive.infolist()]
    if len(sizes) > _MOST_FILES or sum(sizes) > _MOST_BYTES:
        raise InputError(
            f"archive must hold at most {_MOST_FILES} files and {_MOST_BYTES >> 20} MiB, got {len(sizes)} files and "
            f"{sum(sizes) >> 20} MiB in {str(path)!r}. Do not unpack it."
        )


def _is_of_report(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "report" and not {"", ".", ".."} & {*parts} and name.endswith(_SUFFIXES) and "\\" not in name


def _report(output_dir: str | os.PathLike[str]) -> Path:
    folder = StudyFolder(output_dir).report
    if not folder.is_dir() or not any(folder.iterdir()):
        raise InputError(f"output_dir must hold report/ of a finished study, got {str(output_dir)!r} without one.")
    return folder


def _names(folder: Path) -> list[str]:
    """The files of a report, sorted."""
    names, odd = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.suffix in _SUFFIXES):
            odd.append(name)
        elif not path.is_dir():
            names.append(name)
    if odd:
        raise InputError(
            f"report must hold nothing but {', '.join(_SUFFIXES)} files that a study wrote, got {', '.join(odd[:5])}. "
            "Take them out."
        )
    return names


def _told(leaks: Sequence[Leak]) -> str:
    """Which files, and which kinds; not what."""
    kinds: dict[str, set[str]] = {}
    for leak in leaks:
        kinds.setdefault(leak.file, set()).add(leak.kind)
    return "; ".join(f"a {' and a '.join(sorted(found))} in {file}" for file, found in list(kinds.items())[:5])


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    about = zipfile.ZipInfo(name, _TIME)
    about.compress_type = zipfile.ZIP_DEFLATED
    about.create_system = 3  # whatever the machine
    about.external_attr = 0o644 << 16
    archive.writestr(about, data, compresslevel=6)
