# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A made-up cohort: anatomy-like phantoms, 3D or 2D, in which each patient, and each annotator, is a bit different."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.streams import Stream, stream
from monai_mia.records.volumes import write_pixels, write_volume

__all__ = ["phantom", "phantom_cohort"]

Array = NDArray[np.float64]

# What is added to images of pixels, which cannot be negative.
_DARKEST = 1000


def phantom_cohort(
    folder: str | os.PathLike[str],
    n_patients: int = 60,
    size: int = 32,
    seed: int = 0,
    spatial_dims: int = 3,
    suffix: str = ".nii.gz",
) -> list[dict[str, Any]]:
    """Write a cohort of phantoms, unless it is there already.

    Every third patient has two volumes (or images), like a patient who was scanned twice.

    Args:
        folder: where to write ``images``, ``labels`` and nothing else.
        n_patients: number of patients.
        size: edge of the volumes, voxels of 1 mm.
        seed: seed of the cohort.
        spatial_dims: 3, or 2 for images.
        suffix: ``.nii.gz``, or in 2D a format of pixels, ``.png`` or ``.tif``: 16 bits, rounded, and 1000 above the
            values of NIfTI, which may be negative.

    Returns:
        The cases, as :func:`~monai_mia.data.read_cohort` would give them.
    """
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    known = (".nii.gz", ".png", ".tif", ".tiff") if spatial_dims == 2 else (".nii.gz",)
    if suffix not in known:
        raise InputError(f"suffix must be one of {', '.join(known)} in {spatial_dims}D, got {suffix!r}.")
    folder = Path(folder)
    cases = []
    for patient in range(n_patients):
        for visit in range(2 if patient % 3 == 0 else 1):
            name = f"phantom_{patient:03d}_{visit}"
            case = {"case_id": name, "patient_id": f"patient_{patient:03d}"}
            for key in ("image", "label"):
                case[key] = str((folder / f"{key}s" / f"{name}{suffix}").resolve())
            cases.append(case)
    key = files.digest([n_patients, size, seed, *([] if spatial_dims == 3 else [spatial_dims, suffix])])
    if not files.is_complete(folder / "cohort.csv", key, [case[part] for case in cases for part in ("image", "label")]):
        for case in cases:
            patient, visit = map(int, case["case_id"].split("_")[1:])
            image, label = phantom(size, seed, patient, visit, spatial_dims)
            if suffix == ".nii.gz":
                for name, values in (("image", image.astype(np.float32)), ("label", label)):
                    write_volume(case[name], values, np.eye(4))
            else:
                write_pixels(case["image"], np.clip(np.round(image + _DARKEST), 0, 65535).astype(np.uint16))
                write_pixels(case["label"], label)
        lines = [
            ",".join(
                [
                    case["case_id"],
                    case["patient_id"],
                    *(f"{key}s/{case['case_id']}{suffix}" for key in ("image", "label")),
                ]
            )
            for case in cases
        ]
        written = [case[part] for case in cases for part in ("image", "label")]
        content = "\n".join(["case_id,patient_id,image,label", *lines]) + "\n"
        files.write_artefact(folder / "cohort.csv", content, written, key=key)
    return cases


def phantom(
    size: int, seed: int, patient: int, visit: int = 0, spatial_dims: int = 3
) -> tuple[Array, NDArray[np.uint8]]:
    """One phantom: an organ (label 1) with a core (label 2) in textured tissue.

    A patient's shape and texture come from the patient's own seed; a visit adds noise, a bias field and the
    annotator's hand. So a network can memorise a patient, and the annotator's errors on top.

    Args:
        size: edge of the volume, in voxels.
        seed: seed of the cohort.
        patient: number of the patient.
        visit: number of the visit.
        spatial_dims: 2 or 3.

    Returns:
        Image, shape (size,) * spatial_dims, arbitrary units; label of the same shape, values 0, 1, 2.
    """
    anatomy = stream(Stream.PHANTOM_ANATOMY, seed, patient)
    scan = stream(Stream.PHANTOM_SCAN, seed, patient, visit)
    shape, column = (size,) * spatial_dims, (spatial_dims,) + (1,) * spatial_dims  # of a field, of one number an axis
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * spatial_dims, indexing="ij"))
    centre = anatomy.uniform(-0.12, 0.12, spatial_dims).reshape(column)
    axes = anatomy.uniform(0.42, 0.62, spatial_dims).reshape(column)
    warped = grid + 0.16 * np.stack([_smooth(anatomy, shape, size / 6) for _ in range(spatial_dims)])
    radius = np.sqrt((((warped - centre) / axes) ** 2).sum(axis=0))
    core = anatomy.uniform(0.45, 0.6)
    texture = 0.12 * _smooth(anatomy, shape, size / 12) + 0.06 * _smooth(anatomy, shape, size / 32)
    contrast = anatomy.uniform(0.25, 0.4)
    image = 0.35 + contrast * _soft(1 - radius) + 0.7 * contrast * _soft(core - radius) + texture
    image *= 1 + 0.1 * _smooth(scan, shape, size / 3)
    image += 0.05 * scan.standard_normal(image.shape)
    # The annotator draws what is there, but with a hand of their own.
    hand = 1 + 0.09 * _smooth(scan, shape, size / 10)
    label = (radius * hand < 1).astype(np.uint8) + (radius * hand < core).astype(np.uint8)
    coordinates = np.indices(label.shape) + scan.uniform(-0.5, 0.5, spatial_dims).reshape(column)
    label = map_coordinates(label, coordinates, order=0, mode="nearest")
    return image * anatomy.uniform(400, 900), label.astype(np.uint8)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    """A smooth random field of unit variance."""
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / field.std())


def _soft(distance: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-distance / 0.04)))
