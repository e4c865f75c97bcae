# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""DICOM as a cohort: the same arrays as NIfTI, the same table, and each way in which a tree can be wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_files import oblique, save, segmentation, series, structure_set

from monai_mia.data import dicom_cohort
from monai_mia.data.phantoms import phantom

NAMES = {1: "Organ", 2: "Core"}


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray]:
    """A phantom of unequal edges, none of them a multiple of eight, in whole numbers: image and label."""
    image, label = phantom(24, 0, 0)
    return np.round(image[:, 2:-1, 3:-2]), label[:, 2:-1, 3:-2]


def loaded(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, label = nib.load(case["image"]), nib.load(case["label"])
    np.testing.assert_array_equal(image.affine, label.affine)
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


class TestArrays:
    """A volume that is written as DICOM and read is the volume."""

    @pytest.mark.parametrize("affine", [np.diag([0.7, 0.8, 3.0, 1.0]), oblique()], ids=["straight", "oblique"])
    @pytest.mark.parametrize("modality", ["CT", "MR"])
    def test_series_and_segmentation(self, tmp_path: Path, volume: Any, affine: np.ndarray, modality: str) -> None:
        image, label = volume
        slices = series(image, affine, modality=modality, intercept=-1024)
        save(random.Random(0).sample(slices, len(slices)), tmp_path / "tree" / "a")
        save(segmentation(slices, label, NAMES), tmp_path / "tree" / "elsewhere")
        counts = [len(np.flatnonzero((label == value).any(axis=(0, 1)))) for value in NAMES]
        assert counts[0] != counts[1]  # the case at which MONAI's own reader fails
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        read_image, read_label, read_affine = loaded(case)
        np.testing.assert_array_equal(read_image, image)
        np.testing.assert_array_equal(read_label, label)
        np.testing.assert_allclose(read_affine, affine, atol=1e-4)
        assert case["patient_id"] == "P1"

    def test_structure_set(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        slices = series(image, oblique())
        save([*slices, structure_set(slices, label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)
