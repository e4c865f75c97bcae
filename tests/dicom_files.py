# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing DICOM for tests: series, DICOM-SEG and RTSTRUCT of a volume and its label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contourpy
import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

#: A name that must be found nowhere but in the DICOM files.
NAME = "Secretname^Anna"

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(spacing: Sequence[float] = (0.8, 0.9, 2.5), angle: float = 0.3) -> np.ndarray:
    """A right-handed RAS affine that is turned about two axes."""
    c, s = np.cos(angle), np.sin(angle)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing)
    affine[:3, 3] = (-30.5, 12.25, 101.125)
    return affine


def series(
    values: np.ndarray,
    affine: np.ndarray,
    patient: str = "P1",
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = 0.0,
    seed: int | None = 0,
    **attributes: Any,
) -> list[Dataset]:
    """Slices of a volume, shape (i, j, k), with a RAS affine.

    Instance numbers are in random order, unless ``seed`` is None.
    ``values`` are what the stored pixels mean, by slope and intercept.
    """
    place = LPS @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    along_row, along_column = place[:3, 0] / spacing[0], place[:3, 1] / spacing[1]
    uid, study, frame = (generate_uid() for _ in range(3))
    numbers = np.arange(values.shape[2]) + 1
    if seed is not None:
        numbers = np.random.default_rng(seed).permutation(numbers)
    slices = []
    for k in range(values.shape[2]):
        dataset = Dataset()
        dataset.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid, study, frame
        dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, NAME, "19700101"
        dataset.PatientSex, dataset.PatientAge, dataset.StudyID, dataset.AccessionNumber = "F", "050Y", "1", "A77123"
        dataset.StudyDate, dataset.StudyTime, dataset.ReferringPhysicianName = "20200101", "120000", ""
        dataset.Modality, dataset.Manufacturer, dataset.SeriesNumber = modality, "Maker", 1
        dataset.InstanceNumber = int(numbers[k])
        dataset.ImagePositionPatient = [float(f"{v:.8g}") for v in (place @ [0, 0, k, 1])[:3]]
        dataset.ImageOrientationPatient = [float(f"{v:.10g}") for v in (*along_row, *along_column)]
        dataset.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        dataset.SliceThickness = float(spacing[2])
        dataset.Columns, dataset.Rows = values.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "HU"
        stored = np.round((values[:, :, k].T - intercept) / slope).astype(np.int16)
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        for name, value in attributes.items():
            setattr(dataset, name, value)
        slices.append(_with_meta(dataset))
    return slices


def segmentation(
    images: Sequence[Dataset],
    labels: np.ndarray,
    names: Mapping[int, str],
    kind: str = "BINARY",
    fractions: np.ndarray | None = None,
    volume: hd.Volume | None = None,
) -> Dataset:
    """A DICOM-SEG of a label map, shape (i, j, k), with a segment for each name; frames without voxels are left out.

    ``fractions``, shape (i, j, k, segments), or a ``volume`` are written in place of the labels.
    """
    number = sorted(names)
    if fractions is None:
        pixels = np.stack([labels == value for value in number], -1).astype(np.uint8)
    else:
        pixels = fractions.astype(np.float32)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=n + 1,
            segment_label=names[value],
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, value in enumerate(number)
    ]
    return hd.seg.Segmentation(
        source_images=list(images),
        pixel_array=pixels.transpose(2, 1, 0, 3) if volume is None else volume,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Maker",
        manufacturer_model_name="Model",
        software_versions="1",
        device_serial_number="1",
    )


def structure_set(images: Sequence[Dataset], labels: np.ndarray, names: Mapping[int, str]) -> Dataset:
    """An RTSTRUCT with the outlines of each label, between voxels; a hole is a contour of its own."""
    first = images[0]
    dataset = Dataset()
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, name, first[name].value)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality, dataset.StructureSetLabel = generate_uid(), "RTSTRUCT", "Set"
    referenced = Dataset()
    referenced.SeriesInstanceUID = first.SeriesInstanceUID
    referenced.ContourImageSequence = [_reference(image) for image in images]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [referenced]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for value, name in names.items():
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = value, name, first.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = value, []
        for k, image in enumerate(images):
            mask = np.pad((labels[:, :, k] == value).astype(float), 1)
            across, down = (
                np.array(image.ImageOrientationPatient[:3]) * image.PixelSpacing[1],
                np.array(image.ImageOrientationPatient[3:]) * image.PixelSpacing[0],
            )
            for line in contourpy.contour_generator(z=mask).lines(0.5):
                rows, columns = line[:-1].T  # x is the second axis: j
                points = np.array(image.ImagePositionPatient) + np.outer(columns - 1, across) + np.outer(rows - 1, down)
                contour = Dataset()
                contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
                contour.ContourData = [f"{v:.9g}" for v in points.ravel()]
                contour.ContourImageSequence = [_reference(image)]
                drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    return _with_meta(dataset)


def save(datasets: Dataset | Sequence[Dataset], folder: Path, prefix: str = "i") -> list[Path]:
    """Write files, in an order of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, dataset in enumerate([datasets] if isinstance(datasets, Dataset) else datasets):
        path = folder / f"{prefix}{n:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _with_meta(dataset: Dataset) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset
