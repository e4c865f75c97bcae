# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""DICOM as a cohort: the same arrays as NIfTI, the same table, and each way in which a tree can be wrong."""

from __future__ import annotations

import copy
import csv
import json
import logging
import random
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import small_study
from dicom_files import NAME, oblique, save, segmentation, series, structure_set
from monai.data.image_reader import PydicomReader
from monai.transforms import LoadImage
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_mia.data import dicom_cohort, phantom_cohort, read_cohort
from monai_mia.data.dicom import conversion
from monai_mia.data.dicom.headers import Tree
from monai_mia.data.phantoms import phantom
from monai_mia.data.volumes import write_volume
from monai_mia.errors import InputError
from monai_mia.table import SignalTable

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
        save([*slices, segmentation(slices, label, NAMES, volume=turned)], tmp_path / "tree")
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
        whole = hd.get_volume_from_series(slices).flip_spatial(0).with_array(label.transpose(2, 1, 0))
        save([enhanced, segmentation([enhanced], label, NAMES, volume=whole)], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        read_image, read_label, read_affine = loaded(case)
        np.testing.assert_array_equal(read_image, image)
        np.testing.assert_array_equal(read_label, label)
        np.testing.assert_allclose(read_affine, oblique(), atol=1e-4)


def edited(slices: list[Dataset], **attributes: Any) -> list[Dataset]:
    for dataset in slices:
        for name, value in attributes.items():
            setattr(dataset, name, value)
    return slices


def mixed_orientation(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices[4].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def mixed_sizes(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices[4].PixelSpacing = [1.5, 1.5]


def missing_slice(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    del slices[4]
    del seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence


def missing_slice_at_the_end(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    del slices[-1]


def irregular_gap(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices[4].ImagePositionPatient = [*slices[4].ImagePositionPatient[:2], slices[4].ImagePositionPatient[2] + 1]


def tilted(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    for n, dataset in enumerate(slices):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y + 0.8 * n, z]


def interleaved(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    for dataset in copy.deepcopy(slices):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        slices.append(dataset)


def same_instance(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices.append(copy.deepcopy(slices[0]))
    slices[-1].InstanceNumber = 77


def no_position(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    del slices[3].ImagePositionPatient


def no_patient(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    edited([*slices, seg], PatientID="")


def two_patients(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices[2].PatientID = "P9"


def seg_of_another_patient(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    seg.PatientID = "P9"


def absent_series(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def no_series(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices.clear()


def no_decoder(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    slices[3].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # HTJ2K
    slices[3].PixelData = pydicom.encaps.encapsulate([b"xxxx"])
    slices[3]["PixelData"].is_undefined_length = True


def other_grid(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [value * 2 for value in measures.PixelSpacing]


def off_grid(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [v + 0.3 for v in place.ImagePositionPatient]


def outside(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [*place.ImagePositionPatient[:2], place.ImagePositionPatient[2] + 30]


def colour(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    edited(slices, SamplesPerPixel=3)


def two_references(tree: Path, slices: list[Dataset], seg: Dataset) -> None:
    again = copy.deepcopy(seg)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    save(again, tree, "again")


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


EDITS: list[tuple[Callable[..., None], str]] = [
    (mixed_orientation, "mixed orientation"),
    (mixed_sizes, "mixed sizes"),
    (missing_slice, "missing slices or irregular gaps .6 mm between slices 4 and 5"),
    (missing_slice_at_the_end, "missing slices .*its reference names 1 that are not there"),
    (irregular_gap, "missing slices or irregular gaps"),
    (tilted, "tilted gantry"),
    (interleaved, "several slices at one position .*interleaved"),
    (same_instance, "same SOPInstanceUID as another file"),
    (no_position, "slice without a place .ImagePositionPatient is missing"),
    (no_patient, "no PatientID"),
    (two_patients, "one series of several patients|reference of another patient"),
    (seg_of_another_patient, "reference of another patient"),
    (absent_series, "reference without its series"),
    (no_series, "reference without its series .*nor any of its patient"),
    (no_decoder, "no decoder for High-Throughput JPEG 2000.*pip install .*pylibjpeg"),
    (other_grid, "reference on another grid"),
    (off_grid, "reference on another grid"),
    (outside, "reference outside of its series"),
    (colour, "colour images"),
    (two_references, "several references with the same label"),
]

CUTS = [
    ("i004.dcm", 0.9, "truncated or damaged pixels"),
    ("i004.dcm", 0.3, "truncated or damaged file"),
    ("i004.dcm", 0.0, "empty file"),
    ("seg000.dcm", 0.9, "truncated or damaged reference"),
    ("seg000.dcm", 0.2, "truncated or damaged|no series"),
]


def secrets_of(tree: Path) -> set[str]:
    """Every value of the files' headers that can tell a person or a file."""
    found = set()
    for path in tree.rglob("*.dcm"):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except Exception:
            continue
        for name in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate", "PatientAge"):
            found.add(str(dataset.get(name) or ""))
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            found.add(str(dataset.get(name) or ""))
    return {value for value in found if value}


class TestBadInput:
    """Each is refused by name, or left out and counted; no header value is told."""

    @pytest.fixture
    def make(self, tmp_path: Path, volume: Any) -> Callable[..., Path]:
        """A tree of a bad patient, and of a good one in another folder."""

        def tree(edit: Callable[..., None] | None = None, cuts: tuple[str, float] | None = None) -> Path:
            folder = tmp_path / "tree" / "bad"
            image, label = (values[..., :12] for values in volume)
            slices = series(image, STRAIGHT, patient="Secretpatient")
            seg = segmentation(slices, label, NAMES)
            if edit is not None:
                edit(folder, slices, seg)
            save(slices, folder)
            save(seg, folder, "seg")
            if cuts is not None:
                cut(folder / cuts[0], cuts[1])
            good = series(image, STRAIGHT, patient="Othersecret")
            save([*good, segmentation(good, label, NAMES)], tmp_path / "tree" / "good")
            return tmp_path / "tree"

        return tree

    def check(self, tree: Path, message: str, capture: tuple[Any, Any]) -> None:
        caplog, capfd = capture
        caplog.set_level(logging.DEBUG)
        with warnings.catch_warnings(record=True) as warned, pytest.raises(InputError, match=message) as error:
            warnings.simplefilter("always")
            dicom_cohort(tree.parent / "out", tree)
        told = str(error.value) + caplog.text + "".join(capfd.readouterr()) + "".join(str(w.message) for w in warned)
        assert "bad/" in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is None
        for secret in secrets_of(tree):
            assert secret not in told, secret
        cases = dicom_cohort(tree.parent / "out", tree, skip_bad=True)
        assert [case["patient_id"] for case in cases] == ["Othersecret"]
        kept = json.loads((tree.parent / "out" / "left_out.json").read_text())
        assert sum(kept["left_out"].values()) >= 1
        assert kept["converted"] == 1
        assert not any(secret in json.dumps(kept) for secret in secrets_of(tree))
        with (tree.parent / "out" / "left_out.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == sum(kept["left_out"].values())

    @pytest.mark.parametrize(("edit", "message"), EDITS, ids=[edit.__name__ for edit, _ in EDITS])
    def test_edited(
        self, make: Callable[..., Path], edit: Callable[..., None], message: str, caplog: Any, capfd: Any
    ) -> None:
        self.check(make(edit), message, (caplog, capfd))

    @pytest.mark.parametrize(("name", "share", "message"), CUTS)
    def test_truncated(
        self, make: Callable[..., Path], name: str, share: float, message: str, caplog: Any, capfd: Any
    ) -> None:
        self.check(make(cuts=(name, share)), message, (caplog, capfd))
