# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""All of it in 2D: images of pixels as a cohort, a whole study, every attack, every defence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLES, SLICES, small_study
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.transforms import Compose, LoadImage
from overlays import CASES, TRAINING_OVERLAYS, inference_files, options_of
from PIL import ExifTags, Image
from torch.nn import functional as F  # noqa: N812

from monai_mia import attacks, defences
from monai_mia.audit.audit import Audit
from monai_mia.data import (
    Lesion,
    Permuted,
    PixelReader,
    Shifted,
    Swapped,
    check_cohort,
    phantom_cohort,
    plant_canaries,
    read_cohort,
    recoded_masks,
    standard_sources,
)
from monai_mia.data.headers import header_values
from monai_mia.data.phantoms import phantom
from monai_mia.data.volumes import image_loader
from monai_mia.defences.inferer import DefendedInferer
from monai_mia.errors import InputError
from monai_mia.neural_attacks import BlindNetwork, learned_attacks
from monai_mia.records.volumes import write_pixels
from monai_mia.signals.difficulty import Predictability
from monai_mia.signals.perturbations import Flip, Noise, PerturbedQueries, Shift, WindowOverlap
from monai_mia.signals.quality import Calibration, Utility
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import TopProbabilities, segmentation_signals
from monai_mia.signals.white_box import WhiteBox, case_gradient
from monai_mia.statistics import Resampling
from monai_mia.studies.study import Study

#: Of phantom(8, 3, 5, 1): the sum of its image, and a checksum of its label.
BEFORE = 141084.66577323826, 6428

FLAT = {"network_def#spatial_dims": 2, "network_def#channels": [4, 8, 8]}
FLAT_TRAINING = {**FLAT, "train#trainer#max_epochs": 2, "validate#inferer#roi_size": [16, 16]}
#: Training defences that read or change the shape of what they are given, or add a network of their own.
SHAPED = [
    path
    for path in TRAINING_OVERLAYS
    if path.stem in ("crop", "cutmix", "distillation_hard", "laplace", "min_max", "splice")
]
FLAT_INFERENCE = {**FLAT, "inferer#roi_size": [16, 16]}


def flat_study(cohort: Any, folder: Path, **options: Any) -> Study:
    """A study of the phantom bundle, its network made 2D."""
    defaults = {"train_overrides": FLAT_TRAINING, "inference_overrides": FLAT_INFERENCE}
    return small_study(cohort, folder, **{**defaults, **options})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Eight patients, eleven PNG images of 20 pixels an edge."""
    return phantom_cohort(tmp_path_factory.mktemp("pictures"), 8, size=20, spatial_dims=2, suffix=".png")


@pytest.fixture(scope="module")
def recorded(pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Any]:
    """A finished study with all signals, maps and attacks."""
    listed = [
        *attacks.all_attacks(4, perturbations=True, white_box=True, maps=True),
        *learned_attacks(4, downsample=1, epochs=1),
    ]
    study = flat_study(
        pictures,
        tmp_path_factory.mktemp("flat") / "out",
        shadows=4,
        maps=True,
        signals=[
            TopProbabilities(),
            Predictability(n_voxels=100),
            PerturbedQueries(
                (Flip(1), Shift(0, 1), Noise(0.1), WindowOverlap(0.5)),
                ("dice", "soft_dice", "log_likelihood", "log_likelihood_foreground", "log_odds_foreground"),
            ),
            WhiteBox(sketch=64),
            Utility(),
            Calibration(),
        ],
        blind_network=BlindNetwork(size=8, epochs=1, folds=2),
        audit=Audit(listed, resampling=Resampling(n_resamples=100), n_permutations=100),
    )
    return study, study.run()


class TestPhantoms:
    def test_volumes_are_what_they_were(self) -> None:
        """Each version draws the same phantoms: recorded values (of the named streams)."""
        image, label = phantom(8, 3, 5, 1)
        assert image.shape == label.shape == (8, 8, 8)
        assert image.sum() == pytest.approx(BEFORE[0], rel=1e-12)
        assert int((label * np.arange(512).reshape(8, 8, 8)).sum()) == BEFORE[1]

    @pytest.mark.parametrize("suffix", [".nii.gz", ".png", ".tif"])
    def test_formats_hold_the_same_image(self, tmp_path: Path, suffix: str) -> None:
        (case, *_) = phantom_cohort(tmp_path, 1, size=24, seed=2, spatial_dims=2, suffix=suffix)
        image, label = phantom(24, 2, 0, 0, spatial_dims=2)
        read = {key: image_loader()(case[key]) for key in ("image", "label")}
        assert read["image"].shape == read["label"].shape == (1, 24, 24)
        image = image + 1000 * (suffix != ".nii.gz")
        assert np.abs(read["image"].numpy()[0] - image).max() <= 0.5 + 1e-3
        assert np.array_equal(read["label"].numpy()[0], label)
        assert set(np.unique(label)) == {0, 1, 2}

    def test_refusals(self, tmp_path: Path) -> None:
        for options, message in (
            ({"spatial_dims": 4}, "spatial_dims must be 2 or 3"),
            ({"suffix": ".png"}, "suffix must be one of"),
            ({"spatial_dims": 2, "suffix": ".jpg"}, "suffix must be one of"),
        ):
            with pytest.raises(InputError, match=message):
                phantom_cohort(tmp_path, 1, **options)


def picture(path: Path, values: Any, **options: Any) -> Path:
    """Written as PIL has it: rows first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


class TestPixels:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".TIFF"])
    def test_axis_0_runs_to_the_right(self, tmp_path: Path, suffix: str) -> None:
        """As MONAI reads PNG: a column of the picture is a row of the array, of image and reference alike."""
        rows = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 high, 4 wide
        found = image_loader()(picture(tmp_path / f"a{suffix}", rows))
        assert found.shape == (1, 4, 3)
        assert np.array_equal(found.numpy()[0], rows.T)
        if suffix == ".png":
            assert torch.equal(found, LoadImage(ensure_channel_first=True)(tmp_path / "a.png"))

    def test_colours_come_first(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
        found = image_loader()(picture(tmp_path / "a.png", rows))
        assert np.array_equal(found.numpy(), rows.transpose(2, 1, 0))

    @pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3)])
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_written_as_read(self, tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
        values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        write_pixels(tmp_path / f"a{suffix}", values)
        found = image_loader()(tmp_path / f"a{suffix}").numpy()
        assert np.array_equal(
            found if values.ndim == 3 else found[0], np.moveaxis(values, -1, 0) if values.ndim == 3 else values
        )

    def test_several_pages_are_refused(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(np.full((4, 4), n, dtype=np.uint8)) for n in range(2)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        with pytest.raises(InputError, match="must have one page, got 2"):
            image_loader()(tmp_path / "a.tif")

    def test_a_bundle_names_the_reader(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.tif", np.eye(4, dtype=np.uint8))
        assert LoadImage(reader="monai_mia.data.PixelReader")(tmp_path / "a.tif").shape == (4, 4)
        assert LoadImage(reader=PixelReader)(tmp_path / "a.tif").shape == (4, 4)


class TestCohort:
    def make(self, folder: Path, values: tuple[int, ...] = (0, 1)) -> None:
        rng = np.random.default_rng(0)
        for n in range(3):
            picture(folder / f"images/scan_{n}.tif", rng.integers(0, 256, (6, 5, 3)).astype(np.uint8))
            picture(folder / f"masks/scan_{n}.png", rng.choice(values, (6, 5)).astype(np.uint8))

    def test_folders(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        cases = read_cohort(tmp_path)
        assert [case["case_id"] for case in cases] == ["scan_0", "scan_1", "scan_2"]
        assert cases[0]["label"].endswith("masks/scan_0.png")
        image_statistics = check_cohort(cases, 2, tmp_path / "image_statistics.csv")
        assert [name for name in image_statistics.names if name.startswith(("size", "spacing", "label"))] == [
            "size_0", "spacing_0", "size_1", "spacing_1", "label_1_cm2",
        ]  # fmt: skip
        label = np.asarray(Image.open(tmp_path / "masks/scan_0.png"))
        assert image_statistics.features[0, -1] == pytest.approx(label.sum() / 100)

    def test_a_list_pools_images_into_patients(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        lines = [f"images/scan_{n}.tif,masks/scan_{n}.png,patient_{n // 2}" for n in range(3)]
        (tmp_path / "list.csv").write_text("\n".join(["image,label,patient_id", *lines]))
        assert [case["patient_id"] for case in read_cohort(tmp_path / "list.csv")] == [
            "patient_0",
            "patient_0",
            "patient_1",
        ]

    def test_two_images_of_one_name(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        picture(tmp_path / "images/scan_0.png", np.eye(4, dtype=np.uint8))
        with pytest.raises(InputError, match=r"different names, got scan_0\.png and scan_0\.tif"):
            read_cohort(tmp_path)

    def test_masks_of_0_and_255(self, tmp_path: Path) -> None:
        self.make(tmp_path, (0, 255))
        with pytest.raises(InputError, match=r"integers in \[0, 2\), got 255"):
            check_cohort(read_cohort(tmp_path), 2, tmp_path / "image_statistics.csv")
        before = (tmp_path / "masks/scan_0.png").read_bytes()
        cases = recoded_masks(tmp_path, [0, 255], tmp_path / "recoded")
        assert (tmp_path / "masks/scan_0.png").read_bytes() == before
        given, found = (image_loader()(path) for path in (tmp_path / "masks/scan_0.png", cases[0]["label"]))
        assert torch.equal(given / 255, found)
        times = [Path(case["label"]).stat().st_mtime_ns for case in cases]
        assert recoded_masks(tmp_path, [0, 255], tmp_path / "recoded") == cases
        assert times == [Path(case["label"]).stat().st_mtime_ns for case in cases]
        swapped = recoded_masks(tmp_path, [255, 0], tmp_path / "recoded")
        assert torch.equal(1 - given / 255, image_loader()(swapped[0]["label"]))

    def test_masks_of_volumes_keep_their_affine(self, tmp_path: Path) -> None:
        case = {"case_id": "a", "patient_id": "a", "image": "x", "label": str(tmp_path / "a.nii.gz")}
        affine = np.diag([2.0, 1.0, 3.0, 1.0])
        nib.save(nib.Nifti1Image(np.full((2, 3, 4), 7, dtype=np.int16), affine), case["label"])
        (tmp_path / "x").touch()
        (recoded,) = recoded_masks([{**case, "image": str(tmp_path / "x")}], [0, 7], tmp_path / "recoded")
        found = nib.load(recoded["label"])
        assert np.array_equal(found.affine, affine)
        assert (np.asarray(found.dataobj) == 1).all()

    @pytest.mark.parametrize(
        ("values", "mask", "message"),
        [
            ([0], None, "values must be 2 to 256"),
            ([0, 0], None, "values must be 2 to 256"),
            ([0, 255], np.array([[0, 254], [255, 3]], dtype=np.uint8), "and not 3, 254. A compressed"),
            ([0, 255], np.zeros((4, 4, 3), dtype=np.uint8), "must have one channel, got 3"),
        ],
    )
    def test_bad_masks(self, tmp_path: Path, values: list[int], mask: Any, message: str) -> None:
        self.make(tmp_path, (0, 255))
        if mask is not None:
            picture(tmp_path / "masks/scan_1.png", mask)
        with pytest.raises(InputError, match=message):
            recoded_masks(tmp_path, values, tmp_path / "recoded")


def in_colour(cases: Any, folder: Path) -> list[dict[str, Any]]:
    """The same images with three channels of 8 bits, and masks of 0, 100 and 200."""
    made = []
    for case in cases:
        image, label = (image_loader()(case[key]).numpy()[0] for key in ("image", "label"))
        scaled = np.clip(image[..., None] / 12 - np.array([0, 10, 20]), 0, 255).astype(np.uint8)
        paths = {key: str(folder / f"{key}_{case['case_id']}.png") for key in ("image", "label")}
        write_pixels(paths["image"], scaled)
        write_pixels(paths["label"], (100 * label).astype(np.uint8))
        made.append({**case, **paths})
    return made


class TestStudy:
    def test_every_attack_scores_every_patient(self, recorded: Any) -> None:
        _, result = recorded
        assert len(result.attacks) > 75
        for attack in result.attacks:
            assert np.isfinite(attack.scores).all(), attack.name
            assert len(attack.scores) == 8

    def test_signals_are_of_images(self, recorded: Any) -> None:
        study, _ = recorded
        table = study.folder.table(study.folder.design().model_ids)
        assert len(table.case_ids) == 11
        assert len(set(table.patient_ids)) == 8
        for name in ("negative_hd95", "agreement_overlap_0_5", "negative_influence", "predictability"):
            assert np.isfinite(table.signal(name, "target")).all()

    def test_the_report_is_written_and_it_resumes(self, recorded: Any) -> None:
        study, result = recorded
        folder = Path(study.output_dir)
        assert "phantom_000" not in (folder / "report/index.html").read_text()
        content = json.loads((folder / "report/report.json").read_text())
        assert len(content["attacks"]) + len(content["withheld"]) == len(result.attacks)
        recorded_files = sorted((folder / "private").glob("*/*.csv")) + sorted((folder / "private").glob("maps/*.npz"))
        times = [path.stat().st_mtime_ns for path in recorded_files]
        again = replace(
            study, audit=Audit([attacks.GlobalLoss()], resampling=Resampling(n_resamples=50), n_permutations=50)
        ).run()
        assert times == [path.stat().st_mtime_ns for path in recorded_files]
        first = next(attack for attack in result.attacks if attack.name == again.attacks[0].name)
        assert np.array_equal(first.scores, again.attacks[0].scores)

    @pytest.mark.parametrize("release", ["probabilities", "mask"])
    def test_in_colour(self, pictures: Any, tmp_path: Path, release: str) -> None:
        cohort = recoded_masks(in_colour(pictures, tmp_path), [0, 100, 200], tmp_path / "masks")
        channels = {"network_def#in_channels": 3}
        study = flat_study(
            cohort,
            tmp_path / "out",
            shadows=0,
            release=release,
            audit=Audit(attacks.standard_attacks(0, release), resampling=Resampling(n_resamples=50), n_permutations=50),
            train_overrides={**FLAT_TRAINING, **channels},
            inference_overrides={**FLAT_INFERENCE, **channels},
        )
        assert np.isfinite(study.run().attacks[0].scores).all()

    def test_tiff_with_a_named_reader(self, tmp_path: Path) -> None:
        cohort = phantom_cohort(tmp_path / "cohort", 4, size=16, spatial_dims=2, suffix=".tif")
        reader = "monai_mia.data.PixelReader"
        study = flat_study(
            cohort,
            tmp_path / "out",
            shadows=0,
            audit=Audit([attacks.GlobalLoss()]),
            train_overrides={**FLAT_TRAINING, "train#preprocessing_transforms#0#reader": reader},
            inference_overrides={**FLAT_INFERENCE, "preprocessing#transforms#0#reader": reader},
        )
        study.record()


class TestSlices:
    """A 2D network that is asked about volumes, through the shipped bundle's inferer."""

    def asked(self) -> tuple[Any, torch.nn.Module, torch.Tensor, torch.Tensor]:
        parser = ConfigParser()
        parser.read_config(str(SLICES / "configs/inference.json"))
        inferer, network = (parser.get_parsed_content(name) for name in ("inferer", "network_def"))
        image, label = torch.randn(1, 48, 64, 5), torch.randint(0, 3, (1, 48, 64, 5))
        return inferer, network.eval(), image, label

    def test_signals_are_of_the_volume(self) -> None:
        inferer, network, image, label = self.asked()
        with torch.inference_mode():
            volume = inferer(image[None], network)[0]
            slices = network(image.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)
        whole, stacked = (segmentation_signals(Release(values), label) for values in (volume, slices))
        assert whole == pytest.approx(stacked, rel=1e-4, abs=1e-5)

    def test_gradients_are_of_the_volume(self) -> None:
        inferer, network, image, label = self.asked()
        found = case_gradient(network, inferer, image, label)
        loss = F.cross_entropy(network(image.permute(3, 0, 1, 2)), label.permute(3, 0, 1, 2)[:, 0])
        for name, expected in zip(found, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-6)


class TestPictures:
    """What pictures hold beside their pixels."""

    def picture(self, path: Path, orientation: int) -> str:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        exif[ExifTags.Base.ImageDescription] = "Anna Secret"
        values = np.random.default_rng(0).integers(0, 255, (16, 12), np.uint8)
        Image.fromarray(values).save(path, exif=exif, comment="of 1970-01-01")
        return str(path)

    def test_a_picture_that_is_to_be_turned_is_refused(self, tmp_path: Path) -> None:
        assert image_loader()(self.picture(tmp_path / "a.jpg", 1)).shape == (1, 12, 16)
        turned = self.picture(tmp_path / "b.jpg", 3)
        write_pixels(tmp_path / "m.png", np.eye(12, 16, dtype=np.uint8))
        case = {"case_id": "b", "patient_id": "b", "image": turned, "label": str(tmp_path / "m.png")}
        with pytest.raises(InputError, match="got EXIF orientation 3"):
            check_cohort([case], 2, tmp_path / "image_statistics.csv")

    def test_its_texts_are_looked_for_in_a_report(self, tmp_path: Path) -> None:
        assert {"Anna Secret", "of 1970-01-01"} <= header_values(self.picture(tmp_path / "a.jpg", 1))

    def test_so_are_those_of_other_encodings(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.XPAuthor] = "Zoë Secret".encode("utf-16-le")
        exif[ExifTags.Base.ImageDescription] = "Berta\nSecret\tof ward 7\0Emil"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0seen by Dr. Cara"
        values = np.zeros((8, 8), np.uint8)
        Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
        assert {"Zoë Secret", "Berta", "Emil", "seen by Dr. Cara"} <= header_values(tmp_path / "a.jpg")
        for order in ("le", "be"):
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + "Dörte".encode(
                f"utf-16-{order}"
            )
            Image.fromarray(values).save(tmp_path / "b.jpg", exif=exif)
            assert "Dörte" in header_values(tmp_path / "b.jpg")

    def test_a_reference_in_colour_is_refused(self, tmp_path: Path) -> None:
        write_pixels(tmp_path / "m.png", np.ones((12, 16, 3), dtype=np.uint8))
        case = {
            "case_id": "b", "patient_id": "b", "image": self.picture(tmp_path / "a.jpg", 1),
            "label": str(tmp_path / "m.png"),
        }  # fmt: skip
        with pytest.raises(InputError, match="label must have one channel of class indices, got 3"):
            check_cohort([case], 2, tmp_path / "image_statistics.csv")

    def test_masks_are_made_again_after_a_run_that_was_stopped(self, tmp_path: Path) -> None:
        cases = []
        for n in range(2):
            mask = np.zeros((6, 6), np.uint8)
            mask[: 2 + n] = 255
            write_pixels(tmp_path / f"{n}.png", mask)
            cases.append({"case_id": str(n), **dict.fromkeys(("image", "label"), str(tmp_path / f"{n}.png"))})
        made = recoded_masks(cases, [0, 255], tmp_path / "masks")
        right = [Path(case["label"]).read_bytes() for case in made]
        Path(cases[1]["label"]).write_bytes(b"")
        with pytest.raises(InputError, match="must be readable"):
            recoded_masks(cases, [255, 0], tmp_path / "masks")
        write_pixels(Path(cases[1]["label"]), mask)
        made = recoded_masks(cases, [0, 255], tmp_path / "masks")
        assert [Path(case["label"]).read_bytes() for case in made] == right


class TestChangedCases:
    KINDS = (Swapped(), Permuted(3), Shifted(0.5), Lesion(3.0, 4.0), Lesion(3.0, -4.0, label=2))

    @pytest.mark.parametrize("colour", [False, True])
    def test_canaries(self, pictures: Any, tmp_path: Path, colour: bool) -> None:
        cohort = recoded_masks(in_colour(pictures, tmp_path), [0, 100, 200], tmp_path / "m") if colour else pictures
        kinds = self.KINDS[1:]
        found = plant_canaries(cohort, kinds, 1, tmp_path / "canaries")
        check_cohort(found, 3, tmp_path / "image_statistics.csv")
        images = {case["case_id"]: case for case in cohort}
        canaries = [case for case in found if case.get("canary") == "lesion"]
        assert len(canaries) >= 2
        sources = (tmp_path / "canaries/canaries.csv").read_text().splitlines()[1:]
        for canary in canaries:
            source = next(line.split(",")[-1] for line in sources if line.startswith(canary["case_id"]))
            before, after = (image_loader()(case["image"]) for case in (images[source], canary))
            assert before.shape == after.shape
            changed = (before != after).any(0)
            assert 0 < changed.sum() <= 29  # pixels of a disc of radius 3

    def test_a_lesion_that_cannot_be_seen(self, tmp_path: Path) -> None:
        """A bright lesion in a picture whose colours are as bright as can be."""
        values = np.full((16, 16, 3), 255, np.uint8)
        values[0] = 0  # far from the reference
        label = np.zeros((16, 16), np.uint8)
        label[6:10, 6:10] = 1
        write_pixels(tmp_path / "a.png", values)
        write_pixels(tmp_path / "b.png", label)
        case = {
            "case_id": "a", "patient_id": "a", "image": str(tmp_path / "a.png"), "label": str(tmp_path / "b.png")
        }  # fmt: skip
        with pytest.raises(InputError, match=r"contrast must change each image, got 3\.0 for '.*a\.png'"):
            plant_canaries([case], [Lesion(2.0, 3.0)], 1, tmp_path / "bright")
        plant_canaries([case], [Lesion(2.0, -3.0)], 1, tmp_path / "dark")

    def test_swapped_references(self, pictures: Any, tmp_path: Path) -> None:
        found = plant_canaries(pictures, [Swapped()], 4, tmp_path / "canaries")
        check_cohort(found, 3, tmp_path / "image_statistics.csv")

    @pytest.mark.parametrize("colour", [False, True])
    def test_foreign_sources(self, pictures: Any, tmp_path: Path, colour: bool) -> None:
        cohort = recoded_masks(in_colour(pictures, tmp_path), [0, 100, 200], tmp_path / "m") if colour else pictures
        for source in standard_sources(spatial_dims=2):
            cases = source.cases(cohort[:2], tmp_path / source.folder, 0)
            before, after = (image_loader()(case["image"]) for case in (cohort[0], cases[0]))
            assert before.shape == after.shape, source.name
            if source.transforms:
                assert not torch.equal(before, after), source.name


class TestDefences:
    @pytest.mark.parametrize("name", ["argmax", "noise", "rounding", "top_k", "temperature", "clipping", "smoothing"])
    def test_output_overlays(self, name: str) -> None:
        parser = ConfigParser()
        bundle = BUNDLES / "phantom_unet3d"
        overlay = BUNDLES / f"overlays/defences/{name}.yaml"
        parser.read_config([str(bundle / "configs/inference.json"), str(overlay)])
        parser.update({**FLAT_INFERENCE, "noise_key": "words"})
        chain = Compose([parser.get_parsed_content("defence")])
        network = parser.get_parsed_content("network_def").eval()
        image = torch.randn(1, 1, 20, 24)
        with torch.inference_mode():
            logits = parser.get_parsed_content("inferer")(image, network)[0]
        released = chain({"pred": logits, "image": image[0], "label": None})["pred"]
        assert released.shape[1:] == (20, 24)
        if name == "argmax":
            assert torch.equal(released[0], logits.argmax(0).float())
        else:
            assert (released.sum(0) - 1).abs().max() < 1e-6

    @pytest.mark.parametrize(("name", "options", "activation"), CASES)
    def test_batches_of_images(self, name: str, options: Any, activation: Any) -> None:
        """Item by item, as alone."""
        images, logits = torch.randn(2, 1, 12, 10), torch.randn(2, 3, 12, 10)
        defence = getattr(defences, name)(**options, activation=activation)
        together = DefendedInferer(SimpleInferer(), defence)(images, lambda _: logits)
        assert together.shape[2:] == (12, 10)
        for n in range(2):
            assert torch.equal(together[n], defence(logits[n], images[n]))

    @pytest.mark.parametrize("overlay", SHAPED, ids=lambda path: path.stem)
    def test_training_overlays(self, overlay: Path, pictures: Any, tmp_path: Path) -> None:
        """All of them are trained in 2D on slices, in test_defences_training.py."""
        options = {**options_of(overlay, pictures[8:]), **FLAT, "validate#inferer#roi_size": [16, 16]}
        study = flat_study(
            pictures[:8],
            tmp_path,
            audit=Audit([attacks.GlobalLoss()]),
            shadows=0,
            train=["configs/train.json", str(overlay)],
            train_overrides=options,
            inference=inference_files(overlay),
        )
        design, _ = study.record()
        assert len(study.folder.table(design.model_ids).case_ids) == 8
