# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders in the manner of BIDS: who is scanned is in the folders' names, and masks lie beside images or apart."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from monai_mia.data.tables import read_rows
from monai_mia.errors import InputError
from monai_mia.records.files import walk

__all__ = ["bids_cases", "is_bids"]

logger = logging.getLogger(__name__)

#: Suffixes of files that hold a label map.
_MASKS = ("mask", "dseg", "seg", "label", "roi")

#: Entities that a mask may have beside those of its image.
_OF_MASKS = ("desc", "label", "space", "res", "den", "atlas", "seg")

#: What the names of standard spaces begin with (BIDS, appendix on coordinate systems).
_TEMPLATES = ("mni", "icbm", "ixi549", "fsaverage", "fslr", "nihpd", "oasis", "talairach", "uncinfant")

_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class _Name:
    """The parts of a file's name: entities, words without a value, and the suffix.

    ``sub-01_run-2_T1w_mask`` has the entities sub and run, the word T1w and the suffix mask.
    """

    path: Path
    entities: dict[str, str]
    words: tuple[str, ...]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> _Name:
        parts = path.name.removesuffix(".gz").removesuffix(".nii").split("_")
        pairs = [part.partition("-") for part in parts if "-" in part]
        words = [part for part in parts if "-" not in part]
        return cls(path, {key: value for key, _, value in pairs}, tuple(words[:-1]), words[-1] if words else "")

    def marks(self, image: _Name) -> bool:
        """Whether this mask can be that of an image: not if it is drawn on a template, and the image is not."""
        if self.words and image.suffix not in self.words:
            return False
        space = self.entities.get("space", "")
        if space.lower().startswith(_TEMPLATES) and space != image.entities.get("space"):
            return False
        return all(image.entities.get(key) == value for key, value in self.entities.items() if key not in _OF_MASKS)


def is_bids(path: Path) -> bool:
    """Whether a folder has NIfTI files in ``sub-*/anat`` or ``sub-*/ses-*/anat``."""
    return any(path.glob("sub-*/anat/*.nii*")) or any(path.glob("sub-*/ses-*/anat/*.nii*"))


def bids_cases(path: Path, images: str = "*", masks: str = "*") -> list[dict[str, Any]]:
    """The cases of a BIDS-like folder: each image in ``anat`` that has a mask.

    Args:
        path: the folder, with ``sub-XX[/ses-YY]/anat/``; masks lie there too, or in the same folders below
            ``derivatives/NAME/``.
        images: pattern of the images' paths, relative to the folder, such as ``*_T1w.nii.gz``.
        masks: pattern of the masks' paths, relative to the folder, such as ``derivatives/manual/*``.

    Returns:
        Cases with ``case_id`` (the image's name, with its folders where names are not unique), ``patient_id``
        (``sub-XX``), ``image``, ``label``, and the columns of
        ``participants.tsv``, where that is; empty where it has no value.

    Raises:
        InputError: an image has several masks, a mask several images, no image has a mask.
    """
    people, columns = _participants(path)
    cases: list[dict[str, Any]] = []
    alone = 0
    sessions: dict[tuple[str, str], tuple[list[_Name], list[_Name]]] = defaultdict(lambda: ([], []))
    for session, name in _names(path):
        is_mask = name.suffix in _MASKS
        if fnmatchcase(name.path.relative_to(path).as_posix(), masks if is_mask else images):
            apart = name.path.relative_to(path).parts[0] == "derivatives"
            if is_mask or not apart:
                sessions[session][is_mask].append(name)
    for (patient, _), (scans, marks) in sorted(sessions.items()):
        used: dict[Path, Path] = {}
        for scan in scans:
            found = [mark for mark in marks if mark.marks(scan)]
            if len(found) > 1:
                raise InputError(
                    f"masks must tell one mask of each image, got {len(found)} for {_short(scan, path)}: "
                    f"{', '.join(_short(mark, path) for mark in found[:3])}. Give a pattern such as "
                    "masks='derivatives/manual/*'."
                )
            if not found:
                alone += 1
                continue
            if found[0].path in used:
                raise InputError(
                    f"images must tell one image of each mask, got {_short(scan, path)} and another for "
                    f"{_short(found[0], path)}. Give a pattern such as images='*_T1w.nii.gz'."
                )
            used[found[0].path] = scan.path
            covariates = people.get(patient, dict.fromkeys(columns, ""))
            files = {"image": str(scan.path), "label": str(found[0].path)}
            case_id = scan.path.name.removesuffix(".gz").removesuffix(".nii")
            cases.append({**covariates, "case_id": case_id, "patient_id": patient, **files})
    if not cases:
        raise InputError(
            f"dataset_dir must hold masks of its images (names that end in {', '.join(_MASKS)}) beside them or below "
            f"derivatives/, got {alone} images in {str(path)!r} and none with a mask."
        )
    told = Counter(case["case_id"] for case in cases)
    for case in cases:
        if told[case["case_id"]] > 1:  # plain names, such as T1w.nii.gz in each session
            folders = Path(case["image"]).parent.relative_to(path).parts
            case["case_id"] = "_".join((*folders, case["case_id"]))
    if alone:
        logger.warning("%d of %d images in %s have no mask and are no cases.", alone, alone + len(cases), path)
    return cases


def _names(path: Path) -> Iterator[tuple[tuple[str, str], _Name]]:
    """Every NIfTI file of an ``anat`` folder, with its patient and session."""
    for folder, folders, names in walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parts = Path(folder).relative_to(path).parts
        patient = next((part for part in parts if part.startswith("sub-")), "")
        if not patient or parts[-1] != "anat" or (parts[0] != patient and parts[0] != "derivatives"):
            continue
        session = next((part for part in parts if part.startswith("ses-")), "")
        for name in names:
            if name.endswith(_ENDINGS) and not name.startswith("."):
                yield (patient, session), _Name.of(Path(folder) / name)


def _participants(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The columns of participants.tsv, by patient."""
    table = path / "participants.tsv"
    if not table.is_file():
        return {}, []
    rows = read_rows(table, "\t")
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{table} must have a column participant_id, got {', '.join(map(str, rows[0]))}.")
    taken = ("participant_id", "image", "label", "case_id", "patient_id", "member", "canary", "patient_assumed")
    columns = [name for name in (rows[0] if rows else []) if name and name not in taken]
    people = {}
    for row in rows:
        name = row["participant_id"].strip()
        if not name:
            raise InputError(f"{table} must have a participant_id in each row, got a row without.")
        values = {column: "" if row[column] == "n/a" else row[column] for column in columns}
        people[name if name.startswith("sub-") else f"sub-{name}"] = values
    return people, columns


def _short(name: _Name, path: Path) -> str:
    return name.path.relative_to(path).as_posix()
