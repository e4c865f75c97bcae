# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""DICOM as a cohort: the same arrays as NIfTI, the same table, and each way in which a tree can be wrong."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import logging
import os
import random
import shutil
import stat
import sys
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
from dicom_files import LPS, NAME, oblique, save, segmentation, series, structure_set
from monai.data.image_reader import PydicomReader
from monai.transforms import LoadImage
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_mia.data import dicom_cohort, phantom_cohort, read_cohort
from monai_mia.data.dicom import conversion
from monai_mia.data.dicom.headers import Tree
from monai_mia.data.phantoms import phantom
from monai_mia.errors import InputError
from monai_mia.records.identifiers import Identifiers
from monai_mia.records.table import SignalTable
from monai_mia.records.volumes import write_volume

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
    del seg.PatientID  # it shares the element with the series
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
    ("seg000.dcm", 0.9, "truncated or damaged file .its end is missing"),
    ("seg000.dcm", 0.2, "truncated or damaged"),
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
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with pytest.raises(InputError, match=message) as error:
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


class TestReferences:
    """Which integer a segment gets, and what belongs to which series."""

    def test_labels_by_name_and_the_later_is_on_top(self, tmp_path: Path, volume: Any) -> None:
        """Core voxels belong to both segments; other segments are background."""
        image, label = volume
        slices = series(image, STRAIGHT)
        masks = np.stack([label > 0, label == 2, np.ones_like(label)], -1).astype(np.float32)
        seg = segmentation(slices, label, {1: "Liver", 2: "Tumour  left", 3: "Body"}, "FRACTIONAL", masks)
        save([*slices, seg], tmp_path / "tree")
        for labels, expected in (
            ({"liver": 1, "TUMOUR*": 2}, label),
            ({"TUMOUR*": 2, "liver": 1}, (label > 0).astype(int)),
            ({"tumour left": 7}, 7 * (label == 2)),
        ):
            (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree", labels)
            np.testing.assert_array_equal(loaded(case)[1], expected)
        with pytest.raises(InputError, match=r"overlapping segments .say by labels"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")
        with pytest.raises(InputError, match=r"labels must name segments that are there, got 'lung'.*segments\.csv"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree", {"lung": 1})
        assert (tmp_path / "out" / "segments.csv").read_text().splitlines()[1:] == [
            "1,liver,1",
            "2,tumour left,1",
            "3,body,1",
        ]

    def test_one_number_must_mean_one_thing(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        for n, names in enumerate((NAMES, {1: "Core", 2: "Organ"})):
            slices = series(image, STRAIGHT, patient=f"P{n}")
            written = label if n == 0 else np.choose(label, [0, 2, 1])
            save([*slices, segmentation(slices, written, names)], tmp_path / "tree" / str(n))
        with pytest.raises(InputError, match="number 1 has 2 names") as error:
            dicom_cohort(tmp_path / "out", tmp_path / "tree")
        assert "rgan" not in str(error.value)
        for case in dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "Core": 2}):
            np.testing.assert_array_equal(loaded(case)[1], label)

    def test_a_reference_for_each_segment(self, tmp_path: Path, volume: Any) -> None:
        """Two files, one a structure set, make one label map."""
        image, label = volume
        slices = series(image, STRAIGHT)
        seg = segmentation(slices, (label == 2).astype(int), {1: "Core"})
        save([*slices, seg, structure_set(slices, label, {1: "Organ"})], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "Core": 2})
        np.testing.assert_array_equal(loaded(case)[1], label)

    def test_a_number_that_is_no_label(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        slices = series(image, STRAIGHT)
        drawn = structure_set(slices, label, {1: "Organ"})
        drawn.StructureSetROISequence[0].ROINumber = drawn.ROIContourSequence[0].ReferencedROINumber = 0
        save([*slices, drawn], tmp_path / "tree")
        with pytest.raises(InputError, match=r"segment number that is no label .*give labels"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1})
        np.testing.assert_array_equal(loaded(case)[1], label == 1)

    def test_by_frame_of_reference(self, tmp_path: Path, volume: Any) -> None:
        """A structure set that names no series; a second series in the same frame makes it ambiguous."""
        image, label = volume
        slices = series(image, STRAIGHT)
        drawn = structure_set(slices, label, NAMES)
        del drawn.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        save([*slices, drawn], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree")
        np.testing.assert_array_equal(loaded(case)[1], label)
        frame = slices[0].FrameOfReferenceUID
        save(series(image, STRAIGHT, FrameOfReferenceUID=frame), tmp_path / "tree" / "second")
        with pytest.raises(InputError, match="reference to several series"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")

    def test_series_without_a_reference_are_counted(self, tmp_path: Path, volume: Any) -> None:
        tree = tree_of(tmp_path / "tree", volume, 2)
        save(series(volume[0][..., :3], STRAIGHT, patient="P0"), tree / "more")
        save(series(volume[0][..., :3], STRAIGHT, patient="P7"), tree / "other")
        (tree / "readme.txt").write_text("x" * 500)
        shutil.copy(next(tree.glob("p0/i*.dcm")), tree / "copy.dcm")
        assert len(dicom_cohort(tmp_path / "out", tree)) == 2
        seen = json.loads((tmp_path / "out" / "left_out.json").read_text())["seen"]
        assert seen["series without a reference"] == 2
        assert seen["patients without a reference"] == 1
        assert seen["not DICOM"] == seen["copy of another file"] == 1

    def test_nothing_with_a_reference(self, tmp_path: Path, volume: Any) -> None:
        save(series(volume[0], STRAIGHT), tmp_path / "tree")
        with pytest.raises(InputError, match=r"at least one series with a reference, got none.*1 series"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")

    def test_a_bad_reference_takes_its_patient_along(self, tmp_path: Path, volume: Any) -> None:
        """With half of its references, a series would have a wrong label map."""
        image, label = volume
        slices = series(image, STRAIGHT)
        save([*slices, structure_set(slices, label, {1: "Organ"})], tmp_path / "tree")
        (path,) = save(segmentation(slices, label, {2: "Core"}), tmp_path / "tree", "seg")
        data = path.read_bytes()
        cut(path, 0.4)
        with pytest.raises(InputError, match="leave them out"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")
        with pytest.raises(InputError, match="at least one series"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree", skip_bad=True)
        path.write_bytes(data)
        assert len(dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "Core": 2})) == 1

    def test_a_bad_file_in_a_folder_of_its_own_takes_its_patient_along(self, tmp_path: Path, volume: Any) -> None:
        """It may be another of the references; nothing but the folder tells of whom."""
        tree = tree_of(tmp_path / "tree", volume, 3)
        (tree / "p2" / "consent.pdf").touch()  # no file of DICOM
        (tree / "p2" / os.fsdecode(b"m\xfcller.txt")).write_text("a note")
        for folder in ("p0/seg2", "p1/a/b", "unknown"):
            (tree / folder).mkdir(parents=True)
            (tree / folder / "s.dcm").write_bytes(b"torn")
        cases = dicom_cohort(tmp_path / "out", tree, skip_bad=True)
        assert [case["patient_id"] for case in cases] == ["P2"]
        kept = json.loads((tmp_path / "out" / "left_out.json").read_text())
        assert kept["left_out"] == {
            "beside a file that cannot be read": 2,
            "no DICOM file, whatever its name says": 3,
        }

    def test_a_structure_set_that_ends_between_two_structures(self, tmp_path: Path, volume: Any) -> None:
        """Pydicom reads it, without a warning, as one that has the first alone."""
        image, label = volume
        slices = series(image, STRAIGHT)
        save(slices, tmp_path / "tree")
        whole = structure_set(slices, label, NAMES)
        (path,) = save(whole, tmp_path / "tree", "rs")
        data = path.read_bytes()
        whole.ROIContourSequence[1].ContourSequence[0:] = []
        (shorter,) = save(whole, tmp_path / "elsewhere", "rs")
        at = len(shorter.read_bytes())
        ends = []
        for end in range(at - 64, at + 64):
            path.write_bytes(data[:end])
            with contextlib.suppress(Exception):
                (found,) = pydicom.dcmread(path).ROIContourSequence
                ends += [end] if found.ContourSequence[0].ContourData else []
        assert ends  # such an end there is
        path.write_bytes(data[: ends[0]])
        with pytest.raises(InputError, match=r"rs000\.dcm: truncated or damaged .*its end is missing"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "C*": 2})

    @pytest.mark.parametrize("value", ["nan", ""])
    def test_contours_that_are_nowhere(self, tmp_path: Path, volume: Any, value: str) -> None:
        image, label = volume
        slices = series(image, STRAIGHT)
        structures = structure_set(slices, label, NAMES)
        contour = structures.ROIContourSequence[0].ContourSequence[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contour.ContourData = [value, *contour.ContourData[1:]] if value else None
            save([*slices, structures], tmp_path / "tree")
        with pytest.raises(InputError, match="truncated or damaged reference"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree")

    def test_linked_folders(self, tmp_path: Path, volume: Any) -> None:
        tree_of(tmp_path / "store", volume, 2)
        (tmp_path / "tree").mkdir()
        for name in ("p0", "p1"):
            (tmp_path / "tree" / name).symlink_to(tmp_path / "store" / name)
        (tmp_path / "store" / "p1" / "loop").symlink_to(tmp_path / "tree")
        cases = read_cohort(tmp_path / "tree", converted=tmp_path / "out")
        assert sorted(case["patient_id"] for case in cases) == ["P0", "P1"]

    def test_a_name_that_is_no_text(self, tmp_path: Path, volume: Any) -> None:
        tree = tree_of(tmp_path / "tree", volume, 2)
        (tree / "p0" / "seg000.dcm").touch()
        first = next((tree / "p0").glob("*.dcm"))
        first.rename(tree / os.fsdecode(b"p0/m\xfcller.dcm"))
        with pytest.raises(InputError, match=r"p0/m.udcfcller\.dcm: name of a file that is no UTF-8"):
            dicom_cohort(tmp_path / "out", tree)
        assert [case["patient_id"] for case in dicom_cohort(tmp_path / "out", tree, skip_bad=True)] == ["P1"]


class TestConversion:
    """Once, privately, and resumed."""

    def test_private_and_without_header_values(self, tmp_path: Path, volume: Any) -> None:
        tree, out = tree_of(tmp_path / "tree", volume), tmp_path / "out"
        (case,) = dicom_cohort(out, tree)
        assert stat.S_IMODE(out.stat().st_mode) == 0o700
        for path in (p for p in out.rglob("*") if p.is_file()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        header = nib.load(case["image"]).header.binaryblock
        for secret in (*secrets_of(tree), NAME):
            assert secret.encode() not in header or len(secret) < 3
            assert secret not in case["image"]
            assert secret not in (out / "left_out.json").read_text()

    def test_it_is_not_done_again(self, tmp_path: Path, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        tree, out = tree_of(tmp_path / "tree", volume, 2), tmp_path / "out"
        cases = dicom_cohort(out, tree)
        times = {case["case_id"]: Path(case["image"]).stat().st_mtime_ns for case in cases}
        with monkeypatch.context() as patch:
            patch.setattr(Tree, "read", None)
            assert dicom_cohort(out, tree) == cases
        (tree / "note.txt").write_text("x" * 200)  # the headers are read, no series is converted
        assert dicom_cohort(out, tree) == cases
        assert times == {case["case_id"]: Path(case["image"]).stat().st_mtime_ns for case in cases}
        Path(cases[0]["label"]).unlink()
        assert dicom_cohort(out, tree) == cases
        after = {case["case_id"]: Path(case["image"]).stat().st_mtime_ns for case in cases}
        assert [after[c["case_id"]] == times[c["case_id"]] for c in cases] == [False, True]

    def test_a_kill_keeps_what_is_done(self, tmp_path: Path, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        tree, out = tree_of(tmp_path / "tree", volume, 3), tmp_path / "out"
        written, write = [], write_volume

        def dying(path: Path, *rest: Any) -> None:
            if len(written) == 3:
                raise KeyboardInterrupt
            written.append(path)
            write(path, *rest)

        monkeypatch.setattr(conversion, "cpu_count", lambda: 1)
        monkeypatch.setattr(conversion, "write_volume", dying)
        with pytest.raises(KeyboardInterrupt):
            dicom_cohort(out, tree)
        monkeypatch.setattr(conversion, "write_volume", lambda path, *rest: (written.append(path), write(path, *rest)))
        assert len(dicom_cohort(out, tree)) == 3
        assert len(written) == 3 + 4  # of the second patient the label was there, its image was not

    def test_what_left_the_tree_leaves_the_folder(self, tmp_path: Path, volume: Any) -> None:
        tree, out = tree_of(tmp_path / "tree", volume, 2), tmp_path / "out"
        dicom_cohort(out, tree)
        shutil.rmtree(tree / "p0")
        (case,) = dicom_cohort(out, tree)
        assert case["patient_id"] == "P1"
        assert len(list(out.glob("*/series_*"))) == 3

    def test_a_run_that_is_refused_leaves_nothing_that_counts(self, tmp_path: Path, volume: Any) -> None:
        """Other labels overwrite what is there; asked with the first ones again, the first are written again."""
        image, label = volume
        tree, out = tree_of(tmp_path / "tree", volume, 2), tmp_path / "out"
        slices = series(image, STRAIGHT, patient="P9", seed=9)
        save([*slices, segmentation(slices, np.where(label == 2, 2, 0), {2: "Core"})], tree / "p9")
        first = [loaded(case)[1] for case in dicom_cohort(out, tree, {"Organ": 1, "Core": 2})]
        with pytest.raises(InputError, match="no segment has one of the labels"):
            dicom_cohort(out, tree, {"Organ": 7})
        again = [loaded(case)[1] for case in dicom_cohort(out, tree, {"Organ": 1, "Core": 2})]
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_label_that_no_segment_has(self, tmp_path: Path, volume: Any) -> None:
        with pytest.raises(InputError, match=r"labels must name segments that are there, got 'Croe\*', of which"):
            dicom_cohort(tmp_path / "out", tree_of(tmp_path / "tree", volume), {"Organ": 1, "Croe*": 2})

    @pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
    def test_contours_of_both_kinds(self, tmp_path: Path, volume: Any, kind: str) -> None:
        image, label = volume
        slices = series(image, STRAIGHT)
        structures = structure_set(slices, label, NAMES)
        for item in structures.ROIContourSequence:
            for contour in item.ContourSequence:
                contour.ContourGeometricType = kind
        save([*slices, structures], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "Core": 2})
        np.testing.assert_array_equal(loaded(case)[1], label)

    def test_a_structure_that_nobody_asks_for_is_not_checked(self, tmp_path: Path, volume: Any) -> None:
        image, label = volume
        slices = series(image, STRAIGHT)
        structures = structure_set(slices, label, {1: "Organ", 2: "Couch"})
        for contour in structures.ROIContourSequence[1].ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            points[:, 2] += 1.4  # between two slices
            contour.ContourData = [float(f"{value:.8g}") for value in points.ravel()]
        save([*slices, structures], tmp_path / "tree")
        (case,) = dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1})
        np.testing.assert_array_equal(loaded(case)[1] == 1, label == 1)
        with pytest.raises(InputError, match="contours between or across slices"):
            dicom_cohort(tmp_path / "out", tmp_path / "tree", {"Organ": 1, "Couch": 2})

    def test_header_values_are_kept_for_the_search_of_a_report(self, tmp_path: Path, volume: Any) -> None:
        tree = tree_of(tmp_path / "tree", volume, 2)
        dicom_cohort(tmp_path / "out" / "private" / "dicom", tree)
        (tmp_path / "out" / "report").mkdir()
        known = Identifiers.read(tmp_path / "out")
        for secret in secrets_of(tree):
            if len(secret) >= 6:
                (tmp_path / "out" / "report" / "page.html").write_text(f"<p>of {secret}</p>")
                assert known.leaks(tmp_path / "out" / "report"), secret
        (tmp_path / "out" / "report" / "page.html").write_text("<p>of nobody</p>")
        assert not known.leaks(tmp_path / "out" / "report")

    def test_patient_id(self, tmp_path: Path, volume: Any) -> None:
        tree, out = tree_of(tmp_path / "tree", volume), tmp_path / "out"
        for path in tree.rglob("*.dcm"):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = ""
            dataset.save_as(path)
        with pytest.raises(InputError, match=r"p0/i000.dcm: no PatientID .give patient_id"):
            dicom_cohort(out, tree)
        (case,) = read_cohort(tree, patient_id=lambda case: case["source"].split("/")[0], converted=out)
        assert case["patient_id"] == "p0"
        with pytest.raises(InputError, match=r"patient_id must give .* KeyError for p0/i000.dcm"):
            dicom_cohort(out, tree, patient_id=lambda case: case["nothing"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"path": "nowhere"}, "path must be a folder"),
            ({"folder": "tree"}, "folder must be another"),
            ({"folder": "."}, "folder must be another"),
            ({"threshold": 0}, "threshold must be in"),
            ({"labels": {}}, "labels must name at least one"),
            ({"labels": {"Organ": 0}}, "labels must be whole numbers"),
            ({"labels": {"Organ": "1"}}, "labels must be whole numbers"),
        ],
    )
    def test_bad_options(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        (tmp_path / "tree").mkdir()
        given = {"folder": "out", "path": "tree", **options}
        given |= {name: tmp_path / given[name] for name in ("folder", "path")}
        with pytest.raises(InputError, match=message):
            dicom_cohort(**given)

    def test_without_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("conversion", "headers", "references", "series"):
            monkeypatch.delitem(sys.modules, f"monai_mia.data.dicom.{name}", raising=False)
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(InputError, match=r"got no pydicom. Install monai-mia\[dicom\]"):
            dicom_cohort(tmp_path / "out", tmp_path)

    def test_read_cohort(self, tmp_path: Path, volume: Any) -> None:
        tree = tree_of(tmp_path / "tree", volume)
        with pytest.raises(InputError, match="converted must be a private folder"):
            read_cohort(tree)
        cases = read_cohort(tree, converted=tree / "inside", labels={"Organ": 1, "Core": 2})
        assert cases == read_cohort(tree, converted=tree / "inside", labels={"Organ": 1, "Core": 2})
        np.testing.assert_array_equal(loaded(cases[0])[1], volume[1])


def test_the_same_table_as_in_nifti(tmp_path: Path) -> None:
    """A study of a DICOM tree (SEG with unequal frame counts, fractional, RTSTRUCT) and one of the same volumes."""
    plain: dict[str, dict[str, Any]] = {}
    for n, case in enumerate(phantom_cohort(tmp_path / "phantoms", n_patients=6, size=16)):
        image = np.round(np.asarray(nib.load(case["image"]).dataobj))
        label = np.asarray(nib.load(case["label"]).dataobj)
        write_volume(case["image"], image.astype(np.float32), np.eye(4))
        slices = series(image, np.eye(4), patient=case["patient_id"], intercept=-100, seed=n)
        if n % 3 == 2:
            reference = structure_set(slices, label, NAMES)
        elif n % 3 == 1:
            fractions = np.stack([label == value for value in NAMES], -1) * 0.8
            reference = segmentation(slices, label, NAMES, "FRACTIONAL", fractions)
        else:
            reference = segmentation(slices, label, NAMES)
            assert len({int((label == value).any(axis=(0, 1)).sum()) for value in NAMES}) == 2
        save([*slices, reference], tmp_path / "tree" / case["case_id"])
        plain[case["case_id"]] = case
    dicom = small_study(str(tmp_path / "tree"), tmp_path / "dicom", shadows=1)
    dicom.run()
    with (tmp_path / "dicom" / "private" / "dicom" / "cohort.csv").open(newline="") as stream:
        names = {row["source"].partition("/")[0]: row["case_id"] for row in csv.DictReader(stream)}
    assert set(names) == set(plain)
    # The same names, in the same order: the draws of a training depend on them.
    cases = [{**plain[name], "case_id": case_id} for name, case_id in names.items()]
    nifti = small_study(cases, tmp_path / "nifti", shadows=1)
    nifti.run()
    tables = [SignalTable.read(tmp_path / kind / "private" / "signals") for kind in ("dicom", "nifti")]
    assert tables[0].case_ids == tables[1].case_ids
    for signal in tables[0].signals:
        for model in ("target", "shadow_00"):
            np.testing.assert_array_equal(*(table.signal(signal, model) for table in tables))
    report = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "dicom" / "report").rglob("*") if path.is_file()
    )
    for secret in (*secrets_of(tmp_path / "tree"), str(tmp_path)):
        assert len(secret) < 5 or secret not in report, secret
