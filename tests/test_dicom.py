# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""DICOM as a cohort: the same arrays as NIfTI, the same table, and each way in which a tree can be wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from dicom_files import LPS, oblique, save, segmentation, series, structure_set
from monai.data.image_reader import PydicomReader
from monai.transforms import LoadImage
from pydicom.uid import generate_uid

from monai_mia.data import dicom_cohort
from monai_mia.data.phantoms import phantom

NAMES = {1: "Organ", 2: "Core"}
STRAIGHT = np.array([[0.7, 0, 0, -20.5], [0, 0.8, 0, 11.0], [0, 0, 3.0, 7.25], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray]:
    """A phantom of unequal edges, none of them a multiple of eight, in whole numbers: image and label."""
    image, label = phantom(24, 0, 0)
    return np.round(image[:, 2:-1, 3:-2]), label[:, 2:-1, 3:-2]


def loaded(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and affine of a converted case."""
    image, label = nib.load(case["image"]), nib.load(case["label"])
    np.testing.assert_array_equal(image.affine, label.affine)
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def tree_of(folder: Path, volume: Any, patients: int = 1, affine: np.ndarray = STRAIGHT, **options: Any) -> Path:
    """A tree of one series and one segmentation a patient."""
    image, label = volume
    for n in range(patients):
        slices = series(image + n, affine, patient=f"P{n}", seed=n, **options)
        save([*slices, segmentation(slices, label, NAMES)], folder / f"p{n}")
    return folder


class TestArrays:
    """A volume that is written as DICOM and read is the volume."""

    @pytest.mark.parametrize("affine", [STRAIGHT, oblique()], ids=["straight", "oblique"])
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
        assert (read_image.dtype, read_label.dtype) == (np.int16, np.uint8)

    def test_the_series_in_folders_of_any_layout(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        for name, shift in (("a", 0), ("b", 100)):
            slices = series(image + shift, STRAIGHT, patient="P1")
            slices.append(segmentation(slices, label, NAMES))
            for n, dataset in enumerate(slices):
                save(dataset, tmp_path / "tree" / str(n % 3), f"{name}{n}")
        cases = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        assert {case["patient_id"] for case in cases} == {"P1"}
        assert sorted(int((loaded(case)[0] - image).mean()) for case in cases) == [0, 100]

    def test_a_left_handed_volume_is_the_same_in_the_world(self, tmp_path: Path, volume: Any) -> None:
        """Slices are stacked along their normal, whatever order they were written in."""
        image, label = volume
        affine = oblique() @ np.diag([1, 1, -1, 1])
        slices = series(image, affine)
        save([*slices, segmentation(slices, label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        read_image, read_label, read_affine = loaded(case)
        np.testing.assert_array_equal(read_image, image[:, :, ::-1])
        np.testing.assert_array_equal(read_label, label[:, :, ::-1])
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = image.shape[2] - 1
        np.testing.assert_allclose(read_affine, affine @ flip, atol=1e-4)

    def test_as_monai_and_highdicom_read_it(self, tmp_path: Path, volume: Any) -> None:
        slices = series(volume[0], oblique(), slope=0.5, intercept=-10, seed=None)  # MONAI sorts by instance number
        save(slices, tmp_path / "tree")
        reader = PydicomReader()
        values, meta = reader.get_data(reader.read(str(tmp_path / "tree")))
        save(segmentation(slices, volume[1], NAMES), tmp_path / "tree", "seg")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        image, _, affine = loaded(case)
        canonical = nib.as_closest_canonical(nib.Nifti1Image(values.astype(np.float32), np.asarray(meta["affine"])))
        ours = nib.as_closest_canonical(nib.Nifti1Image(image.astype(np.float32), affine))
        np.testing.assert_allclose(np.asarray(ours.dataobj), np.asarray(canonical.dataobj), atol=1e-3)
        np.testing.assert_allclose(ours.affine, canonical.affine, atol=1e-4)
        theirs = hd.get_volume_from_series(slices).flip_spatial(0)  # it stacks the other way
        np.testing.assert_allclose(LPS @ theirs.affine[:, [2, 1, 0, 3]], affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(theirs.array).transpose(2, 1, 0), image)
        np.testing.assert_array_equal(LoadImage(image_only=True)(case["image"]).numpy(), image)

    def test_a_slope_of_each_slice(self, tmp_path: Path, volume: Any) -> None:
        """As scanners of one maker write MR: values that are no whole numbers stay as they are."""
        image, label = volume
        slices = series(image, STRAIGHT, modality="MR")
        slopes = np.linspace(0.5, 1.7, len(slices))
        for n, slope in enumerate(slopes):
            slices[n].RescaleSlope = float(f"{slope:.6f}")
        save([*slices, segmentation(slices, label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_allclose(loaded(case)[0], image * slopes, rtol=1e-5)

    def test_fractional(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        rng = np.random.default_rng(0)
        fractions = np.stack([(label == value) * rng.uniform(0.2, 1, label.shape) for value in NAMES], -1)
        fractions = np.round(fractions * 255) / 255
        slices = series(image, oblique())
        save([*slices, segmentation(slices, label, NAMES, "FRACTIONAL", fractions)], tmp_path / "tree")
        for threshold in (0.5, 0.8):
            (case,) = dicom_cohort(tmp_path / str(threshold), tmp_path / "tree", threshold=threshold)
            expected = np.where(fractions.max(-1) >= threshold, label, 0)
            assert 0 < (expected > 0).sum() < (label > 0).sum()
            np.testing.assert_array_equal(loaded(case)[1], expected)

    def test_label_map(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        slices = series(image, oblique())
        save([*slices, segmentation(slices, label, NAMES, "LABELMAP")], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)

    def test_frames_that_are_far_apart(self, tmp_path: Path, volume: Any) -> None:
        """A segment on every third slice and one on a single slice: no spacing can be read from them."""
        image, label = volume
        label = np.zeros_like(label)
        label[3:6, 4:9, 1::3] = 1
        label[10:12, 4:9, 5] = 2
        slices = series(image, oblique())
        save([*slices, segmentation(slices, label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)

    def test_a_segmentation_whose_frames_are_turned(self, tmp_path: Path, volume: Any) -> None:
        """The same voxels, written as sagittal frames from behind."""
        image, label = volume
        slices = series(image, oblique())
        whole = hd.get_volume_from_series(slices).flip_spatial(0)
        turned = whole.with_array(label.transpose(2, 1, 0)).permute_spatial_axes([2, 0, 1]).flip_spatial([0, 1])
        dataset = segmentation(slices, label, NAMES, fractions=None)
        dataset = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=turned,
            segmentation_type="BINARY",
            segment_descriptions=[
                hd.seg.SegmentDescription.from_dataset(item, copy=True) for item in dataset.SegmentSequence
            ],
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="Maker",
            manufacturer_model_name="Model",
            software_versions="1",
            device_serial_number="1",
        )
        save([*slices, dataset], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)

    @pytest.mark.parametrize("affine", [STRAIGHT, oblique()], ids=["straight", "oblique"])
    def test_structure_set(self, tmp_path: Path, volume: Any, affine: np.ndarray) -> None:
        """The organ is a ring around its core: a contour within a contour is a hole."""
        image, label = volume
        middle = label[:, :, label.shape[2] // 2]
        assert (middle == 2).any()
        slices = series(image, affine)
        save([*slices, structure_set(slices, label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)

    def test_enhanced_multi_frame(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        slices = series(image, oblique(), intercept=-50)
        new = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
        enhanced = hd.legacy.LegacyConvertedEnhancedCTImage(slices, series_number=3, instance_number=1, **new)
        save([enhanced, segmentation([enhanced], label, NAMES)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        read_image, read_label, read_affine = loaded(case)
        np.testing.assert_array_equal(read_image, image)
        np.testing.assert_array_equal(read_label, label)
        np.testing.assert_allclose(read_affine, oblique(), atol=1e-4)
