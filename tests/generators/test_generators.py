# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Generators, tiny: they train, resume, draw scans that are a cohort, and say what they are worth."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLES, KEY, KEY_FILE, small_study
from monai.bundle import ConfigParser, verify_metadata
from monai.engines import GanTrainer, SupervisedTrainer
from monai.networks.nets import DiffusionModelUNet, Discriminator, Generator
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from monai.transforms import (
    LoadImage,
    LoadImaged,
    RandCropByPosNegLabeld,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    SqueezeDimd,
)
from torch import nn

from monai_mia.audit.novelty import GeneratorResult
from monai_mia.data import read_cohort
from monai_mia.errors import InputError
from monai_mia.generators.networks import DiffusionGenerator, GanGenerator, JoinScand, ScanFormat
from monai_mia.generators.study import GeneratorStudy
from monai_mia.records.design import held_out_patients

Cohort = list[dict[str, Any]]
KEYS = ("image", "label")
BUNDLE = BUNDLES / "scan_generator"


def diffusion(scan_format: ScanFormat, epochs: int) -> DiffusionGenerator:
    torch.manual_seed(0)
    channels = scan_format.shape[0]
    network = DiffusionModelUNet(
        scan_format.spatial_dims,
        channels,
        channels,
        channels=(8, 8),
        attention_levels=(False, False),
        num_head_channels=(4, 4),
        num_res_blocks=1,
        norm_num_groups=4,
    )
    options = {"num_train_timesteps": 100, "schedule": "cosine", "prediction_type": "sample"}
    return DiffusionGenerator(
        network,
        partial(torch.optim.Adam, lr=1e-3),
        partial(SupervisedTrainer, max_epochs=epochs, loss_function=nn.MSELoss()),
        DDPMScheduler(**options),
        DDIMScheduler(**options),
        steps=4,
    )


def gan(scan_format: ScanFormat, epochs: int) -> GanGenerator:
    torch.manual_seed(0)
    return GanGenerator(
        Generator((8,), scan_format.coarse(8, 2), (8, scan_format.shape[0]), (2, 1), num_res_units=1),
        Discriminator(scan_format.shape, (8, 8), (2, 2), num_res_units=1, last_act=None),
        partial(torch.optim.Adam, lr=1e-3),
        partial(torch.optim.Adam, lr=1e-3),
        partial(GanTrainer, max_epochs=epochs),
        latent_size=8,
    )


def small_generator(
    cohort: Any, folder: Path, make: Any = diffusion, epochs: int = 2, **options: Any
) -> GeneratorStudy:
    dims = options.pop("spatial_dims", 3)
    scan_format = ScanFormat(3, [16] * dims)
    slicing = [
        RandCropByPosNegLabeld(KEYS, "label", (16, 16, 1), pos=1.0, neg=0.0, num_samples=2),
        SqueezeDimd(KEYS, dim=-1),
    ]
    defaults: dict[str, Any] = {
        "cohort": cohort,
        "output_dir": str(folder),
        "generator": make(scan_format, epochs),
        "scan_format": scan_format,
        "preprocessing": [LoadImaged(KEYS, ensure_channel_first=True), ResizeWithPadOrCropd(KEYS, (16, 16, 16))],
        "scaling": [ScaleIntensityRangePercentilesd("image", 0.5, 99.5, -1.0, 1.0, clip=True)],
        "slicing": slicing if dims == 2 else [],
        "scans": 3,
        "held_out": 0.5,
        "held_out_key_file": str(KEY_FILE),
        "checkpoint_interval": 1,
    }
    return GeneratorStudy(**{**defaults, **options})


@pytest.fixture(scope="module", params=[diffusion, gan], ids=["diffusion", "GAN"])
def finished(
    request: pytest.FixtureRequest, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GeneratorStudy, GeneratorResult]:
    study = small_generator(cohort, tmp_path_factory.mktemp("generator") / "out", request.param)
    return study, study.run()


class TestScanFormat:
    @pytest.mark.parametrize("size", [(8, 12, 4), (8, 12)])
    @pytest.mark.parametrize("patch", [1, 2, 4])
    def test_what_is_joined_is_split_again(self, size: tuple[int, ...], patch: int) -> None:
        scan_format = ScanFormat(3, size, patch)
        image, label = torch.rand(1, *size) * 2 - 1, torch.randint(0, 3, (1, *size))
        joint = scan_format.join(image, label)
        assert joint.shape == scan_format.shape
        assert joint.abs().max() <= 1
        again, classes = scan_format.split(joint)
        assert torch.equal(again, image)
        assert torch.equal(classes, label)

    def test_a_reference_is_the_likeliest_class(self) -> None:
        scan_format = ScanFormat(2, (2, 2), patch=1)
        joint = torch.tensor([[[5.0, 0.0], [0.0, -5.0]], [[0.1, 0.0], [0.9, 0.0]], [[0.2, -1.0], [0.8, 1.0]]])
        image, label = scan_format.split(joint)
        assert image[0].tolist() == [[1.0, 0.0], [0.0, -1.0]]
        assert label[0].tolist() == [[1, 0], [0, 1]]

    def test_only_the_volume_is_left_of_an_item(self) -> None:
        item = {"image": torch.zeros(1, 4, 4), "label": torch.ones(1, 4, 4), "case_id": "x"}
        joined = JoinScand(ScanFormat(2, (4, 4)))(item)
        assert list(joined) == ["image"]
        assert joined["image"].shape == (12, 2, 2)

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="n_labels must be at least 2"):
            ScanFormat(1, (4, 4))
        with pytest.raises(InputError, match=r"multiples of patch=2, got \[4, 5\]"):
            ScanFormat(2, [4, 5])
        with pytest.raises(InputError, match="must be multiples of 8"):
            ScanFormat(2, [12, 8]).coarse(4, 4)
        with pytest.raises(InputError, match=r"integers in \[0, 2\), got 0 to 2"):
            ScanFormat(2, [2, 2]).join(torch.zeros(1, 2, 2), torch.tensor([[[0, 1], [2, 0]]]))
        with pytest.raises(InputError, match="keys must be those of image and label"):
            JoinScand(ScanFormat(2, (4, 4)), keys="image")


class TestStudy:
    def test_scans_are_a_cohort_on_the_scale_of_the_training(
        self, finished: tuple[GeneratorStudy, GeneratorResult], cohort: Cohort
    ) -> None:
        study, _ = finished
        for path in ("scans", "scans/cohort.csv"):
            cases = read_cohort(Path(study.output_dir) / path)
            assert len(cases) == len({case["patient_id"] for case in cases}) == 3
        training, _ = study.sides()
        low, high = np.median(
            [np.percentile(np.asarray(LoadImage()(case["image"])), (0.5, 99.5)) for case in training], axis=0
        )
        for case in cases:
            image, label = (np.asarray(LoadImage()(case[key])) for key in KEYS)
            assert image.shape == label.shape == (16, 16, 16)
            assert low - 1 <= image.min() < image.max() <= high + 1
            assert set(np.unique(label)) <= {0, 1, 2}

    def test_it_trains_on_whom_a_study_sets_apart(
        self, finished: tuple[GeneratorStudy, GeneratorResult], cohort: Cohort, tmp_path: Path
    ) -> None:
        audited = small_study(cohort, tmp_path, held_out=0.5)
        apart = {case["case_id"] for case in audited.held_out_cases()}
        training, others = finished[0].sides()
        assert {case["case_id"] for case in training} == apart
        assert {case["case_id"] for case in others} == {case["case_id"] for case in cohort} - apart
        assert finished[1].training_scans == len(apart)

    def test_nothing_is_done_twice_and_more_epochs_go_on(
        self, finished: tuple[GeneratorStudy, GeneratorResult], cohort: Cohort, tmp_path: Path
    ) -> None:
        """A training that was stopped after an epoch and resumed draws the same scans, bit for bit."""
        study, result = finished
        make = gan if result.kind == "GAN" else diffusion
        drawn = sorted(Path(study.output_dir).glob("scans/*/*.nii.gz"))
        before = [path.stat().st_mtime_ns for path in drawn]
        again = replace(study, generator=make(study.scan_format, 2)).run()
        assert [path.stat().st_mtime_ns for path in drawn] == before
        assert again.novelty.distance.tolist() == result.novelty.distance.tolist()
        small_generator(cohort, tmp_path, make, epochs=1).run()
        small_generator(cohort, tmp_path, make, epochs=2).run()
        for path in drawn:
            assert (tmp_path / path.relative_to(study.output_dir)).read_bytes() == path.read_bytes()

    def test_the_report_shows_no_patient(
        self, finished: tuple[GeneratorStudy, GeneratorResult], cohort: Cohort
    ) -> None:
        study, result = finished
        folder = Path(study.output_dir)
        content = json.loads((folder / "report/generator.json").read_text())
        assert content["collapsed"] == result.novelty.variety.collapsed
        assert content["scans"] == 3
        assert set(content["closeness"]) == {"0.25", "0.5", "0.75"}
        assert all(value == float(f"{value:.2g}") for value in content["closeness"].values())
        assert content["from_held_out"] is True
        page = (folder / "report/generator.html").read_text()
        assert "data:image/png;base64" in page
        assert result.kind in page
        for text in (page, json.dumps(content), (folder / "report/generator.md").read_text()):
            assert not any(case[key] in text for case in cohort for key in ("case_id", "patient_id"))
        assert (folder / "private").stat().st_mode & 0o077 == 0
        assert (folder / "private/nearest.png").is_file()

    @pytest.mark.parametrize("make", [diffusion, gan], ids=["diffusion", "GAN"])
    def test_slices(self, cohort: Cohort, tmp_path: Path, make: Any) -> None:
        result = small_generator(cohort, tmp_path, make, epochs=1, spatial_dims=2).run()
        assert result.spatial_dims == 2
        assert np.asarray(LoadImage()(tmp_path / "scans/images/generated_000.nii.gz")).shape == (16, 16)
        assert len(result.novelty.reference) > 20  # slices of those who were not trained on

    def test_patients_by_name(self, cohort: Cohort, tmp_path: Path) -> None:
        study = small_generator(cohort, tmp_path, held_out=None, exclude=["patient_000"])
        assert {case["patient_id"] for case in study.sides()[1]} == {"patient_000"}
        names = tmp_path / "names.txt"
        names.write_text("patient_001\npatient_002\npatient_003\n")
        study = replace(study, patients=str(names), exclude=["patient_003"])
        assert {case["patient_id"] for case in study.sides()[0]} == {"patient_001", "patient_002"}

    def test_bad_input(self, cohort: Cohort, tmp_path: Path) -> None:
        study = small_generator(cohort, tmp_path)
        for change, message in (
            ({"scans": 1}, "scans must be at least 2, got 1"),
            ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
            ({"patients": ["patient_001"]}, "patients must be null where held_out is given"),
            ({"exclude": ["nobody"]}, "exclude must be patient ids of the cohort, got 'nobody'"),
            ({"held_out": 0.1}, "patients to train on must be at least 2, got 1 of 9"),
            ({"held_out": 1.5}, r"held_out must be in \[0, 1\], got 1.5"),
            ({"slicing": [SqueezeDimd(KEYS)]}, "slicing must be given in 2D and only there"),
        ):
            with pytest.raises(InputError, match=message):
                replace(study, **change).run()
        bad = diffusion(study.scan_format, 1)
        bad.make_optimizer = partial(torch.optim.SGD, lr=1e30)
        with pytest.raises(InputError, match=r"must be finite|finite loss"):
            replace(study, generator=bad).run()
        with pytest.raises(SystemExit, match="monai_mia: scans must be"):
            replace(study, scans=0).main()


class TestGenerators:
    def test_bad_input(self) -> None:
        scan_format = ScanFormat(3, (8, 8))
        known = diffusion(scan_format, 1)
        parts = (known.network, known.make_optimizer, known.make_trainer)
        noise = DDPMScheduler(num_train_timesteps=10)
        with pytest.raises(InputError, match="prediction_type of scheduler must be 'sample', got 'epsilon'"):
            DiffusionGenerator(*parts, noise, known.sampler)
        with pytest.raises(InputError, match="steps must be at least 1"):
            DiffusionGenerator(*parts, known.scheduler, known.sampler, steps=0)
        other = gan(scan_format, 1)
        with pytest.raises(InputError, match="noise must be at least 0"):
            GanGenerator(other.network, other.discriminator, *other.make_optimizers, other.make_trainer, noise=-1.0)

    def test_a_diffusion_model_that_knows_the_scan_draws_it(self) -> None:
        """Known answer: the sampler of a network that always predicts one scan ends at that scan."""
        scan_format = ScanFormat(3, (8, 8))
        scan = torch.rand(scan_format.shape) * 2 - 1

        class Knows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, x: torch.Tensor, timesteps: Any = None, context: Any = None) -> torch.Tensor:
                return scan.expand_as(x) + 0 * self.weight

        known = diffusion(scan_format, 1)
        generator = DiffusionGenerator(
            Knows(), known.make_optimizer, known.make_trainer, known.scheduler, known.sampler, 5
        )
        loader = torch.utils.data.DataLoader([{"image": scan}])
        generator.engine(loader, torch.device("cpu"))
        drawn = generator.sample(2, scan_format.shape, torch.device("cpu"))
        assert torch.allclose(drawn, scan.expand_as(drawn), atol=1e-3)


class TestAuxiliaryPatients:
    def test_by_share_seed_and_canaries(self) -> None:
        cases = [{"patient_id": f"p{n}", **({"canary": "x"} if n < 2 else {})} for n in range(12)]
        drawn = held_out_patients(cases, 0.3, 0, key=KEY)
        assert len(drawn) == 3
        assert not drawn & {"p0", "p1"}
        assert drawn == held_out_patients(cases[::-1], 0.3, 0, key=KEY)
        assert drawn != held_out_patients(cases, 0.3, 1, key=KEY)
        assert held_out_patients(cases, 0.0, 0, key=KEY) == set()


class TestBundle:
    def test_metadata(self) -> None:
        schema = Path(__file__).parent / "metadata_schema.json"
        verify_metadata(meta_file=str(BUNDLE / "configs/metadata.json"), filepath=str(schema))
        content = json.loads((BUNDLE / "configs/metadata.json").read_text())
        assert content["version"] in content["changelog"]
        assert content["name"] == BUNDLE.name

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    @pytest.mark.parametrize("kind", ["diffusion", "gan"])
    def test_configs_make_a_study(self, kind: str, spatial_dims: int, cohort: Cohort, tmp_path: Path) -> None:
        """The networks of the config fit the scans: one epoch, on volumes of 16 voxels."""
        names = ["train", *(["gan"] if kind == "gan" else []), "hippocampus"]
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / f"configs/{name}.yaml") for name in names])
        for name, value in {
            "bundle_root": str(BUNDLE), "output_dir": str(tmp_path), "cohort": cohort, "spatial_dims": spatial_dims,
            "spatial_size": [16, 16, 16], "held_out": 0.5, "scans": 2, "train#trainer#max_epochs": 1,
        }.items():  # fmt: skip
            parser[name] = value
        if kind == "diffusion":
            parser["generator#steps"] = 2
        result = parser.get_parsed_content("study").run()
        assert result.kind == ("GAN" if kind == "gan" else "diffusion model")
        assert result.spatial_dims == spatial_dims
        assert result.scans == 2
