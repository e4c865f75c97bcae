# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A made-up cohort: anatomy-like 3D phantoms in which every patient, and every annotator, is a little different."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from monai_mia import files
from monai_mia.data.volumes import write_volume

__all__ = ["phantom", "phantom_cohort"]

Array = NDArray[np.float64]


def phantom_cohort(
    folder: str | os.PathLike[str], n_patients: int = 60, size: int = 32, seed: int = 0
) -> list[dict[str, Any]]:
    """Write a cohort of phantoms as NIfTI, unless it is there already.

    Every third patient has two volumes, like a patient who was scanned twice.

    Args:
        folder: where to write ``images``, ``labels`` and nothing else.
        n_patients: number of patients.
        size: edge of the volumes, voxels of 1 mm.
        seed: seed of the cohort.

    Returns:
        The cases, as :func:`~monai_mia.data.read_cohort` would give them.
    """
    folder = Path(folder)
    cases = []
    for patient in range(n_patients):
        for visit in range(2 if patient % 3 == 0 else 1):
            name = f"phantom_{patient:03d}_{visit}"
            case = {"case_id": name, "patient_id": f"patient_{patient:03d}"}
            for key in ("image", "label"):
                case[key] = str((folder / f"{key}s" / f"{name}.nii.gz").resolve())
            cases.append(case)
    key = files.digest([n_patients, size, seed])
    if not files.is_current(folder / "cohort.csv", key):
        for case in cases:
            image, label = phantom(size, seed, *map(int, case["case_id"].split("_")[1:]))
            for name, values in (("image", image.astype(np.float32)), ("label", label)):
                write_volume(case[name], values, np.eye(4))
        lines = [
            ",".join(
                [
                    case["case_id"],
                    case["patient_id"],
                    *(f"{key}s/{case['case_id']}.nii.gz" for key in ("image", "label")),
                ]
            )
            for case in cases
        ]
        files.write_artefact(
            folder / "cohort.csv", "\n".join(["case_id,patient_id,image,label", *lines]) + "\n", key=key
        )
    return cases


def phantom(size: int, seed: int, patient: int, visit: int = 0) -> tuple[Array, NDArray[np.uint8]]:
    """One phantom: an organ (label 1) with a core (label 2) in textured tissue.

    A patient's shape and texture come from the patient's own seed; a visit adds noise, a bias field and the
    annotator's hand. So a network can memorise a patient, and the annotator's errors on top.

    Args:
        size: edge of the volume, in voxels.
        seed: seed of the cohort.
        patient: number of the patient.
        visit: number of the visit.

    Returns:
        Image, shape (size, size, size), arbitrary units; label of the same shape, values 0, 1, 2.
    """
    anatomy = np.random.default_rng([seed, patient])
    scan = np.random.default_rng([seed, patient, 1 + visit])
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))
    centre = anatomy.uniform(-0.12, 0.12, 3)
    axes = anatomy.uniform(0.42, 0.62, 3)
    warped = grid + 0.16 * np.stack([_smooth(anatomy, size, size / 6) for _ in range(3)])
    radius = np.sqrt((((warped - centre[:, None, None, None]) / axes[:, None, None, None]) ** 2).sum(axis=0))
    core = anatomy.uniform(0.45, 0.6)
    texture = 0.12 * _smooth(anatomy, size, size / 12) + 0.06 * _smooth(anatomy, size, size / 32)
    contrast = anatomy.uniform(0.25, 0.4)
    image = 0.35 + contrast * _soft(1 - radius) + 0.7 * contrast * _soft(core - radius) + texture
    image *= 1 + 0.1 * _smooth(scan, size, size / 3)
    image += 0.05 * scan.standard_normal(image.shape)
    # The annotator draws what is there, but with a hand of their own.
    hand = 1 + 0.09 * _smooth(scan, size, size / 10)
    label = (radius * hand < 1).astype(np.uint8) + (radius * hand < core).astype(np.uint8)
    shift = scan.uniform(-0.5, 0.5, 3)
    coordinates = np.indices(label.shape) + shift[:, None, None, None]
    label = map_coordinates(label, coordinates, order=0, mode="nearest")
    return image * anatomy.uniform(400, 900), label.astype(np.uint8)


def _smooth(rng: np.random.Generator, size: int, sigma: float) -> Array:
    """A smooth random field of unit variance."""
    field = gaussian_filter(rng.standard_normal((size, size, size)), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / field.std())


def _soft(distance: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-distance / 0.04)))
