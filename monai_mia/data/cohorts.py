# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading a cohort: a Decathlon ``dataset.json``, a CSV file, a pair of folders, BIDS-like folders, or DICOM."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from monai.apps import DecathlonDataset, download_and_extract

from monai_mia.data.bids import bids_cases, is_bids
from monai_mia.data.dicom import dicom_cohort, is_dicom_tree
from monai_mia.data.tables import is_text, patient_of, read_rows, read_text
from monai_mia.data.volumes import PIXELS
from monai_mia.errors import InputError
from monai_mia.records.files import paths_of

__all__ = ["case_name", "cases_of", "read_cohort", "read_ids"]

logger = logging.getLogger(__name__)

#: Names of the folders of a pair, in the order they are looked for.
_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"), ("images", "masks"))
_SUFFIXES = (".nii.gz", ".nii", *PIXELS)


def read_cohort(
    path: str | os.PathLike[str],
    section: str = "training",
    patient_id: Callable[[Mapping[str, Any]], str] | None = None,
    download: str | None = None,
    images: str = "*",
    masks: str = "*",
    converted: str | os.PathLike[str] | None = None,
    labels: Mapping[str, int] | None = None,
    skip_bad: bool = False,
) -> list[dict[str, Any]]:
    """Read the cases of a cohort.

    Args:
        path: one of

            * a folder with a ``dataset.json`` of the Medical Segmentation Decathlon, or that file itself; each item of
              ``section`` has ``image`` and ``label`` relative to the folder, and may have ``case_id``,
              ``patient_id`` and covariates;
            * a CSV file with columns ``image`` and ``label`` (relative to the file) and, optionally, ``case_id``,
              ``patient_id`` and covariates;
            * a folder with ``imagesTr`` and ``labelsTr``, ``images`` and ``labels``, or ``images`` and ``masks``, whose
              files have the same names: NIfTI, or 2D images, whose endings may differ (``a.jpg`` and ``a.png``);
            * a BIDS-like folder: NIfTI files in ``sub-XX[/ses-YY]/anat`` with masks beside them or below
              ``derivatives``; the patient is ``sub-XX``, covariates are those of ``participants.tsv``;
            * a tree of DICOM files: CT and MR series with DICOM-SEG or RTSTRUCT, as
              :func:`~monai_mia.data.dicom_cohort` converts them.

            References are class indices; for masks of 0 and 255 see :func:`~monai_mia.data.recoded_masks`.
        section: the list of the JSON file to read.
        patient_id: gives the patient of a case that does not name one, for instance from its file's name.
        download: task of the Decathlon (``Task04_Hippocampus``) to fetch first if ``path`` does not exist; ``path``
            must then be a folder of that name.
        images: BIDS: pattern of the images, such as ``*_T1w.nii.gz``.
        masks: BIDS: pattern of the masks, such as ``derivatives/manual/*``.
        converted: DICOM: private folder for the converted files.
        labels: DICOM: integer of each segment by its name.
        skip_bad: DICOM: whether to leave out what cannot be used, instead of stopping.

    Returns:
        One mapping a case, with ``case_id`` (by default the image's file name), ``patient_id`` (by default the
        case's id; ``patient_assumed`` is then True, and every report says so), absolute ``image`` and ``label``, and
        covariates as they stand.

    Raises:
        InputError: the path holds no cohort.
    """
    path = Path(path).expanduser().resolve()
    if download and not path.exists():
        _download(path, download)
    if path.is_dir() and (path / "dataset.json").is_file():
        path = path / "dataset.json"
    if path.suffix == ".json" and path.is_file():
        cases = _from_json(path, section)
    elif path.suffix == ".csv" and path.is_file():
        cases = _from_csv(path)
    elif path.is_dir() and not _has_pair(path) and is_bids(path):
        cases = bids_cases(path, images, masks)
        images = masks = "*"  # they were used
    elif path.is_dir() and not _has_pair(path) and is_dicom_tree(path):
        if converted is None:
            raise InputError(
                f"converted must be a private folder for the volumes of a DICOM tree, got none for {str(path)!r}. Give "
                "one, such as OUTPUT/private/dicom."
            )
        return dicom_cohort(converted, path, labels, skip_bad=skip_bad, patient_id=patient_id)
    elif path.is_dir():
        cases = _from_folders(path)
    else:
        raise InputError(
            f"dataset_dir must be a folder with a dataset.json, a CSV file, a folder with images/ and labels/, "
            f"BIDS-like folders or DICOM files, got {str(path)!r}, which "
            f"{'is none of them' if path.exists() else 'does not exist'}."
        )
    unused = [name for name, given in (("labels", labels), ("images", images != "*"), ("masks", masks != "*")) if given]
    if unused:
        raise InputError(
            f"{' and '.join(unused)} must be left out for {str(path)!r}, got {'them' if len(unused) > 1 else 'it'}: "
            "labels name segments of DICOM, images and masks files of BIDS-like folders."
        )
    if not cases:
        raise InputError(f"dataset_dir must hold at least one case, got none in {path}.")
    if patient_id is None and not all(_id(case, "patient_id") for case in cases):
        logger.warning(
            "No patient_id in %s: each such case is taken for a patient of its own. If a patient has several cases, "
            "add patient_id, or the audit's intervals will be too narrow.",
            path,
        )
    root = path if path.is_dir() else path.parent
    return [_completed(case, root, patient_id) for case in cases]


def cases_of(
    cohort: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Callable[[], Sequence[Mapping[str, Any]]],
    **options: Any,
) -> list[Mapping[str, Any]]:
    """The cases of a cohort that is given as what :func:`read_cohort` reads, as a list, or as a function of one.

    Args:
        cohort: the cohort.
        options: of :func:`read_cohort`, such as ``converted``, should the cohort be a path.
    """
    if callable(cohort):
        return list(cohort())
    return list(read_cohort(cohort, **options) if isinstance(cohort, (str, os.PathLike)) else cohort)


def _download(path: Path, task: str) -> None:
    if path.name != task:
        raise InputError(f"dataset_dir must end in {task!r} to download it there, got {str(path)!r}.")
    resource, md5 = DecathlonDataset.resource[task], DecathlonDataset.md5[task]
    try:
        download_and_extract(resource, path.with_suffix(".tar"), path.parent, hash_val=md5, hash_type="md5")
    except URLError as error:
        raise InputError(f"download must be possible, got no answer ({error.reason}). Fetch {task} by hand.") from error


def case_name(path: str) -> str:
    """File name without folder and ending: ``imagesTr/liver_001.nii.gz`` is ``liver_001``."""
    name = Path(path).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def _completed(
    case: dict[str, Any], root: Path, patient_id: Callable[[Mapping[str, Any]], str] | None
) -> dict[str, Any]:
    completed = {**case, "case_id": _id(case, "case_id") or case_name(paths_of(case["image"])[0])}
    completed.pop("patient_assumed", None)  # ours to say
    completed["patient_id"] = _id(case, "patient_id")
    if not completed["patient_id"] and patient_id is not None:
        completed["patient_id"] = patient_of(completed, patient_id)
    if not completed["patient_id"]:
        completed |= {"patient_id": completed["case_id"], "patient_assumed": True}
    for key in ("image", "label"):
        paths = [str((root / path).resolve()) for path in paths_of(case[key])]
        completed[key] = paths if isinstance(case[key], list) else paths[0]
    for name, value in completed.items():
        odd = [
            one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and not is_text(one)
        ]
        if odd:
            raise InputError(f"{name} must be text in UTF-8, got {odd[0]!a}. Rename the file, or correct the text.")
    return completed


def _id(case: Mapping[str, Any], name: str) -> str:
    """An id as text, without the blanks around it; empty if there is none. 0 is one."""
    value = case.get(name)
    return "" if value is None else str(value).strip()


def _check_columns(case: Any, where: str) -> None:
    for key in ("image", "label"):
        value = case.get(key) if isinstance(case, dict) else None
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise InputError(f"{where} must have {key!r}, the path of a file, got none.")


def _from_json(path: Path, section: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} must be JSON, got {error}.") from error
    items = content.get(section) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise InputError(f"{path} must have a list {section!r}, got none.")
    for number, item in enumerate(items):
        _check_columns(item, f"item {number} of {section!r} in {path}")
    return items


def _from_csv(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [*read_rows(path)]
    for number, row in enumerate(rows, start=2):
        _check_columns(row, f"line {number} of {path}")
    return rows


def _from_folders(path: Path) -> list[dict[str, Any]]:
    for names in _FOLDERS:
        folders = [path / name for name in names]
        if all(folder.is_dir() for folder in folders):
            images, labels = (_volumes(folder) for folder in folders)
            odd = sorted(set(images) ^ set(labels))
            if odd:
                raise InputError(
                    f"{' and '.join(names)} in {path} must have the same file names, they differ in "
                    f"{', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}."
                )
            return [{"image": str(images[name]), "label": str(labels[name])} for name in sorted(images)]
    raise InputError(
        f"dataset_dir must be a folder with a dataset.json, with images/ and labels/, with sub-*/anat/ or with DICOM "
        f"files, got {str(path)!r} without."
    )


def _has_pair(path: Path) -> bool:
    """Whether a folder holds two folders of NIfTI files."""
    return any(all((path / name).is_dir() and _volumes(path / name) for name in names) for names in _FOLDERS)


def _volumes(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.lower().endswith(_SUFFIXES) or path.name.startswith("."):
            continue
        # A pair of volumes has one name, a pair of images one name but for its ending.
        name = case_name(path.name) if path.name.lower().endswith(PIXELS) else path.name
        if name in found:
            raise InputError(f"files in {folder} must have different names, got {found[name].name} and {path.name}.")
        found[name] = path
    return found


def read_ids(path: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Case or patient ids, one a line; a list is taken as it is."""
    if not isinstance(path, (str, os.PathLike)):
        return [str(name) for name in path]
    if not Path(path).is_file():
        raise InputError(
            f"list of ids must be a text file with one id a line, got {str(path)!r}, which does not exist."
        )
    return [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]


def hippocampus_subject(case: Mapping[str, Any]) -> str:
    """The subject of a volume of the Decathlon's hippocampus: 2k - 1 and 2k look like the two sides of one.

    Example:
        >>> hippocampus_subject({"case_id": "hippocampus_017"}), hippocampus_subject({"case_id": "hippocampus_018"})
        ('subject_009', 'subject_009')
    """
    return f"subject_{(int(str(case['case_id'])[-3:]) + 1) // 2:03d}"
