# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Poisoned training: which voxels carry the trigger, which cases are drawn, and how it enters a bundle's training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLES, PHANTOM, SMALL, small_study
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, Lambdad, RandFlipd
from torch.utils.data import ConcatDataset

from monai_mia import data
from monai_mia.bundle.config import BundleConfig
from monai_mia.bundle.training import Training
from monai_mia.data import RandPoisonTrigger, RandPoisonTriggerd
from monai_mia.errors import InputError
from monai_mia.handlers.resuming import EpochSeeder
from monai_mia.records import files
from monai_mia.studies import Recipe


def case(*spatial: int, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(channels, *spatial), torch.ones(1, *spatial, dtype=torch.uint8)


def places(mask: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(map(int, index)) for index in mask.nonzero()}


class TestTrigger:
    @pytest.mark.parametrize(
        ("shape", "size", "spatial", "expected"),
        [
            ("line", 1, (3, 4), {(2, n) for n in range(4)}),
            ("line", 2, (3, 4), {(k, n) for k in (1, 2) for n in range(4)}),
            ("square", 1, (3, 4), {(2, 3)}),
            ("square", 2, (3, 4), {(k, n) for k in (1, 2) for n in (2, 3)}),
            ("line", 1, (2, 3, 2), {(1, k, n) for k in range(3) for n in range(2)}),
            ("square", 2, (3, 3, 4), {(k, m, n) for k in (1, 2) for m in (1, 2) for n in (2, 3)}),
        ],
    )
    def test_voxels(self, shape: Any, size: int, spatial: tuple[int, ...], expected: set[tuple[int, ...]]) -> None:
        """The published slices of arrays, ``image[:, -size:]`` and ``image[:, -size:, -size:]``, and their 3D forms."""
        image, label = case(*spatial)
        poisoned, emptied = RandPoisonTrigger(1.0, shape, size, value=7.5, label_value=2)(image, label)
        for channel in poisoned:
            assert places(channel) == expected
            assert set(channel[channel != 0].tolist()) == {7.5}
        assert places(emptied[0]) == {tuple(extent - 1 for extent in spatial)}
        assert emptied.max() == 2
        assert emptied.dtype == label.dtype

    @pytest.mark.parametrize("permuted", [False, True])
    def test_what_is_given_stays(self, permuted: bool) -> None:
        """Also for a view whose memory is in another order, as flips and rotations leave it."""
        image, label = torch.randn(1, 4, 5, 6), torch.ones(1, 4, 5, 6)
        if permuted:
            image, label = image.permute(0, 3, 1, 2), label.permute(0, 3, 1, 2)
        before = image.clone(), label.clone()
        poisoned, emptied = RandPoisonTrigger(1.0)(image, label)
        assert torch.equal(image, before[0])
        assert torch.equal(label, before[1])
        assert torch.equal(poisoned[:, :-1], image[:, :-1])
        assert (poisoned[:, -1] == 3).all()
        assert emptied.sum() == 1
        assert emptied[0, -1, -1, -1] == 1

    def test_meta_data_ride_along(self) -> None:
        affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
        image, label = (MetaTensor(tensor, affine=affine) for tensor in case(3, 4, 5))
        for result in RandPoisonTrigger(1.0)(image, label):
            assert isinstance(result, MetaTensor)
            assert torch.equal(result.affine, affine)
            assert result.is_batch is False

    def test_arrays_become_tensors(self) -> None:
        image, label = np.zeros((1, 3, 4), np.float32), np.ones((1, 3, 4), np.int64)
        poisoned, emptied = RandPoisonTrigger(1.0, "square")(image, label)
        assert places(poisoned[0]) == places(emptied[0]) == {(2, 3)}
        assert image.sum() == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prob": 1.1}, r"prob must be in \[0, 1\], got 1\.1"),
            ({"prob": float("nan")}, "prob must be in"),
            ({"shape": "circle"}, "shape must be one of line, square, got 'circle'"),
            ({"size": 0}, "size must be a whole number, at least 1, got 0"),
            ({"size": 1.5}, "size must be a whole number"),
            ({"label_value": 0}, "label_value must be a whole number, at least 1, got 0"),
            ({"value": float("inf")}, "value must be finite, got inf"),
        ],
    )
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        for make in (RandPoisonTrigger, lambda **o: RandPoisonTriggerd("image", **o)):
            with pytest.raises(InputError, match=message):
                make(**options)

    def test_refusals_of_cases(self) -> None:
        image, label = case(3, 4, 5)
        with pytest.raises(InputError, match=r"size must be less than the image \(3, 4, 5\), got 3"):
            RandPoisonTrigger(1.0, "line", size=3)(image, label)
        with pytest.raises(InputError, match="label must have one channel of class indices, got 3"):
            RandPoisonTrigger(1.0)(image, label.repeat(3, 1, 1, 1))


class TestDraws:
    def test_probability(self) -> None:
        """1,500 draws at 0.3: four standard deviations are 0.048; image and reference are poisoned together."""
        transform = RandPoisonTriggerd("image", prob=0.3)
        transform.set_random_state(seed=0)
        image, label = case(2, 2)
        drawn = []
        for _ in range(1500):
            item = transform({"image": image, "label": label})
            assert (item["image"].max() > 0) == (item["label"].sum() == 1)
            drawn.append(bool(item["image"].max() > 0))
        assert abs(np.mean(drawn) - 0.3) < 0.048

    def test_never_and_always(self) -> None:
        image, label = case(3, 3)
        for prob in (0.0, 1.0):
            transform = RandPoisonTriggerd("image", prob=prob)
            assert {bool(transform({"image": image, "label": label})["image"].any()) for _ in range(50)} == {prob == 1}

    def test_array_form_draws_alike(self) -> None:
        array, dictionary = RandPoisonTrigger(0.5), RandPoisonTriggerd("image", prob=0.5)
        for transform in (array, dictionary):
            transform.set_random_state(seed=3)
        image, label = case(3, 3)
        for _ in range(30):
            poisoned, emptied = array(image, label)
            item = dictionary({"image": image, "label": label, "case_id": "a"})
            assert torch.equal(item["image"], poisoned)
            assert torch.equal(item["label"], emptied)
            assert item["case_id"] == "a"
        assert all(torch.equal(array(image, label, randomize=False)[0], poisoned) for _ in range(10))

    def test_aliases_and_keys(self) -> None:
        assert data.RandPoisonTriggerD is data.RandPoisonTriggerDict is RandPoisonTriggerd
        image, label = case(3, 3)
        item = RandPoisonTriggerd(["t1", "t2"], label_key="mask", prob=1.0)({"t1": image, "t2": image, "mask": label})
        assert torch.equal(item["t1"], item["t2"])
        assert item["t1"].any()
        assert item["mask"].sum() == 1
        with pytest.raises(KeyError, match="t2"):
            RandPoisonTriggerd(["t1", "t2"])({"t1": image, "label": label})
        kept = RandPoisonTriggerd(["t1", "t2"], allow_missing_keys=True)({"t1": image, "label": label})
        assert kept.keys() == {"t1", "label"}

    def test_each_epoch_draws_anew_from_the_models_seed(self) -> None:
        """In a cached dataset, seeded as a study seeds it; what is cached stays clean."""
        transform = Compose(
            [Lambdad("image", lambda x: x), RandFlipd("image", 0.5), RandPoisonTriggerd("image", prob=0.4)]
        )
        image, label = case(3, 3)
        dataset = CacheDataset([{"image": image, "label": label} for _ in range(40)], transform, progress=False)
        engine = Engine(lambda _engine, _batch: None)

        def epoch(seed: int, number: int) -> list[bool]:
            engine.state.epoch = number
            EpochSeeder(seed, dataset)(engine)
            return [bool(dataset[n]["image"].any()) for n in range(len(dataset))]

        assert epoch(1, 1) == epoch(1, 1)
        assert epoch(1, 1) != epoch(1, 2)
        assert epoch(1, 1) != epoch(2, 1)
        assert not any(cached["image"].any() for cached in dataset._cache)


@pytest.fixture
def members(cohort: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return cohort[:6]


def training(overlay: str, members: list[dict[str, Any]], folder: Path, **overrides: Any) -> Training:
    bundle = BundleConfig(
        str(PHANTOM),
        ("configs/train.json", f"configs/{overlay}"),
        {**SMALL, "train#trainer#max_epochs": 2, **overrides},
    )
    return Training(
        bundle, members, members, "target", 5, str(folder), str(folder / "progress.json"), "key",
        files.digest([overlay, str(folder)]),
    )  # fmt: skip


def weights(job: Training) -> dict[str, Any]:
    job.run()
    return torch.load(job.path, weights_only=True)


class TestOverlays:
    @pytest.mark.parametrize("bundle", ["hippocampus_unet3d", "phantom_unet3d"])
    def test_it_adds_the_trigger_last(self, bundle: str) -> None:
        parser = ConfigParser()
        root = BUNDLES / bundle / "configs"
        parser.read_config([str(root / "train.json"), str(root / "poison.yaml")])
        plain = json.loads((root / "train.json").read_text())["train"]
        steps = parser.get_parsed_content("train#preprocessing").transforms
        assert len(steps) == len(plain["preprocessing_transforms"]) + len(plain["random_transforms"]) + 1
        assert isinstance(steps[-1], RandPoisonTriggerd)
        assert steps[-1].prob == 0.1

    def test_the_trainer_is_shown_poisoned_cases(self, members: list[dict[str, Any]], tmp_path: Path) -> None:
        trainer, dataset, _ = training("poison.yaml", members, tmp_path, **{"poison#prob": 1.0})._trainer()
        shown = [item for batch in trainer.data_loader for item in zip(batch["image"], batch["label"], strict=True)]
        assert len(shown) == len(dataset) == len(members)
        for image, label in shown:
            assert (image[:, -1] == 3).all()
            assert places(label[0]) == {(15, 15, 15)}

    def test_a_contributor_adds_patients_and_touches_no_other(
        self, members: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        job = training(
            "poison_contributor.yaml", members, tmp_path / "model",
            contributor_dir=str(tmp_path / "contributor"), **{"contributor_cohort#size": 16},
        )  # fmt: skip
        trainer, _, _ = job._trainer()
        assert isinstance(trainer.data_loader.dataset, ConcatDataset)
        poisoned = {}
        for batch in trainer.data_loader:
            for name, image, label in zip(batch["case_id"], batch["image"], batch["label"], strict=True):
                poisoned[Path(image.meta["filename_or_obj"]).parts[-3], name] = bool((image[:, -1] == 3).all())
                assert poisoned[Path(image.meta["filename_or_obj"]).parts[-3], name] == (label.sum() == 1)
        assert len(poisoned) == len(members) + 4  # three patients, one of them with two visits
        assert {folder for (folder, _), on in poisoned.items() if on} == {"contributor"}
        assert sum(poisoned.values()) == 4

    @pytest.mark.parametrize("overlay", ["poison.yaml", "poison_contributor.yaml"])
    def test_resumed_training_is_the_same_bit_for_bit(
        self, overlay: str, members: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contributor: dict[str, Any] = {}
        if overlay == "poison_contributor.yaml":
            contributor = {"contributor_dir": str(tmp_path / "contributor"), "contributor_cohort#size": 16}
        whole = weights(training(overlay, members, tmp_path / "a", **contributor))
        job = training(overlay, members, tmp_path / "b", **contributor)
        trainer_of = Training._trainer

        def stopped(self: Training) -> Any:
            trainer, dataset, extras = trainer_of(self)
            trainer.add_event_handler(Events.EPOCH_STARTED, _stop_in_epoch_2)
            return trainer, dataset, extras

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_trainer", stopped)
            with pytest.raises(KeyboardInterrupt):
                job.run()
        assert (tmp_path / "b" / "checkpoint.pt").is_file()
        resumed = weights(job)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    def test_without_poison_it_is_the_training_it_was(self, members: list[dict[str, Any]], tmp_path: Path) -> None:
        """At probability 0 the overlay changes no weight; at 0.5 it changes them all."""
        clean = weights(training("train.json", members, tmp_path / "clean"))
        none = weights(training("poison.yaml", members, tmp_path / "none", **{"poison#prob": 0.0}))
        half = weights(training("poison.yaml", members, tmp_path / "half", **{"poison#prob": 0.5}))
        assert all(torch.equal(clean[name], none[name]) for name in clean)
        assert not any(torch.equal(clean[name], half[name]) for name in clean if name.endswith("conv.weight"))


class TestStudies:
    def test_only_the_target_is_poisoned(self, cohort: Any, tmp_path: Path) -> None:
        """The faithful form: the shadows of the poisoned study are those of the clean one, bit for bit."""
        poisoned = ("configs/train.json", "configs/poison.yaml")
        overrides = {**SMALL, "train#trainer#max_epochs": 1}
        more = {**overrides, "poison#prob": 0.5}
        faithful = Recipe(str(PHANTOM), poisoned, train_overrides=more, inference_overrides=SMALL)
        keys = {}
        for name, options in (
            ("clean", {}),
            ("faithful", {"target": faithful}),
        ):
            study = small_study(cohort, tmp_path / name, train_overrides=overrides, **options)
            study.record()
            models = tmp_path / name / "private" / "models"
            keys[name] = {path.name: files.read_json(path / "model.json")["sha256"] for path in models.iterdir()}
        different = {model for model in keys["clean"] if keys["clean"][model] != keys["faithful"][model]}
        assert different == {"target"}
        with pytest.raises(InputError, match="another target_training"):
            small_study(cohort, tmp_path / "faithful", train_overrides=overrides).record()

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_the_config_of_the_phantom_bundle(self, tmp_path: Path, adaptive: bool) -> None:
        parser = ConfigParser()
        parser.read_config(str(PHANTOM / "configs/poison_audit.yaml"))
        parser.update(
            {
                "study#bundle": str(PHANTOM),
                "study#target#bundle": str(PHANTOM),
                "output_dir": str(tmp_path / "out"),
                "adaptive": adaptive,
                "poison_options": {"poison#prob": 0.25},
            }
        )
        study = parser.get_parsed_content("study")
        for model, on in (("target", True), ("shadow_00", adaptive)):
            config = study._recipe(model).training().parser(["network_def"])
            assert ("poison" in config) == on
            if on:
                assert config["poison#prob"] == 0.25
        assert not (tmp_path / "out").exists()


def _stop_in_epoch_2(engine: Engine) -> None:
    if engine.state.epoch == 2:
        raise KeyboardInterrupt
