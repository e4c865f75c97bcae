# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Overlays for other networks: each trains and is asked, and the target's may be another than the shadows'."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLES, PHANTOM, SLICES, bundle_here, small_study
from monai.bundle import ConfigParser
from monai.networks.nets import UNETR, AttentionUnet, DynUNet, FlexibleUNet, SegResNet, SwinUNETR, UNet

from monai_mia import attacks
from monai_mia.audit.audit import Audit
from monai_mia.bundle.config import BundleConfig
from monai_mia.data import phantom_cohort
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.studies import Recipe
from monai_mia.studies.defences import Defence, DefenceStudy
from monai_mia.studies.study import Study

OVERLAYS = BUNDLES / "overlays" / "architectures"
EPOCH = {"train#trainer#max_epochs": 1}
WINDOW = {"inferer#roi_size": [16, 16, 16]}
NETWORKS = {
    "attention_unet": AttentionUnet,
    "dynunet": DynUNet,
    "flexible_unet": FlexibleUNet,
    "segresnet": SegResNet,
    "swin_unetr": SwinUNETR,
    "unetr": UNETR,
}


def configs(name: str) -> dict[str, list[str]]:
    overlay = str(OVERLAYS / f"{name}.yaml")
    return {
        "train": ["configs/train.json", overlay],
        "inference": ["configs/inference.json", overlay],
    }


def study_of(name: str, cohort: Any, folder: Path, edge: int, dims: int) -> Study:
    window = [edge] * dims
    options = {"network_def#spatial_dims": dims, **({"network_def#img_size": window} if name == "unetr" else {})}
    return small_study(
        cohort,
        folder,
        shadows=0,
        audit=Audit([attacks.GlobalLoss()]),
        **configs(name),
        train_overrides={**options, "train#trainer#max_epochs": 1},
        inference_overrides={**options, "inferer#roi_size": window},
    )


def test_they_are_found() -> None:
    assert {path.stem for path in OVERLAYS.glob("*.yaml")} == set(NETWORKS)


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.parametrize("bundle", [PHANTOM, SLICES], ids=lambda bundle: bundle.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_dimensions_and_channels_are_the_bundles(name: str, bundle: Path, config: str) -> None:
    overlay = BundleConfig(str(bundle), (f"configs/{config}.json", str(OVERLAYS / f"{name}.yaml")))
    parser = overlay.parser([])
    network = parser.get_parsed_content("network_def").eval()
    assert type(network) is NETWORKS[name]
    window = [64, 64] if bundle == SLICES and name == "swin_unetr" else [32, 32, 32] if bundle == PHANTOM else [48, 64]
    with torch.inference_mode():
        assert network(torch.randn(1, 1, *window)).shape == (1, 3, *window)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_and_is_asked(name: str, dims: int, tmp_path: Path) -> None:
    edge = 32 if name in ("flexible_unet", "swin_unetr") else 16
    cohort = phantom_cohort(tmp_path / "cohort", 4, size=edge, spatial_dims=dims)
    study = study_of(name, cohort, tmp_path / "out", edge, dims)
    design, _ = study.record()
    table = study.folder.table(design.model_ids)
    assert len(table.case_ids) == len(cohort)
    assert np.isfinite(table.signal("log_likelihood", "target")).all()
    kinds = {tensor.ndim for tensor in torch.load(tmp_path / "out/private/models/target/model.pt").values()}
    assert dims + 2 in kinds
    assert 5 - dims + 2 not in kinds or dims == 3


def test_a_bundle_trains_with_it_alone(tmp_path: Path) -> None:
    """Without a study: metadata.json is where MONAI looks for it."""
    phantom_cohort(tmp_path / "phantoms", 4, size=16)
    files = f"['{PHANTOM / 'configs/train.json'}','{OVERLAYS / 'dynunet.yaml'}']"
    bundle_here(
        "run", "--config_file", files, "--bundle_root", str(PHANTOM), "--dataset_dir", str(tmp_path / "phantoms"),
        "--cohort#size", "16", "--cohort#n_patients", "4", "--ckpt_dir", str(tmp_path / "models"),
        "--train#trainer#max_epochs", "1", "--val_interval", "1",
    )  # fmt: skip
    assert any(name.startswith("downsamples") for name in torch.load(tmp_path / "models/model.pt"))


@pytest.mark.parametrize("number", [0, 2])  # the second is of a released target, which is not there
def test_configs_of_the_howto(number: int, tmp_path: Path) -> None:
    """What the page tells to write beside audit.yaml is a study whose networks can be built."""
    page = (BUNDLES.parent / "docs/howto/architectures.md").read_text()
    (tmp_path / "more.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[number])
    parser = ConfigParser()
    parser.read_config([str(PHANTOM / "configs/audit.yaml"), str(tmp_path / "more.yaml")])
    parser.update({"study#bundle": str(PHANTOM), "output_dir": str(tmp_path / "out")})
    if number == 0:
        parser["study#target#bundle"] = str(PHANTOM)
    study = parser.get_parsed_content("study")
    study._check()
    roles = [study._recipe(role).querying().parser([])["network_def#_target_"] for role in ("target", "shadow_00")]
    assert roles == [["UNet", "SegResNet"], ["DynUNet", "DynUNet"]][number // 2]


class TestMismatch:
    """The target is a UNet; the shadows are something else, because the adversary does not know it."""

    def study(self, cohort: Any, folder: Path, **options: Any) -> Study:
        return small_study(
            cohort,
            folder,
            **{
                **configs("segresnet"),
                "target": Recipe(str(PHANTOM), train_overrides=EPOCH, inference_overrides=WINDOW),
                "train_overrides": EPOCH,
                "inference_overrides": WINDOW,
                **options,
            },
        )

    def test_end_to_end(self, cohort: Any, tmp_path: Path) -> None:
        study = self.study(cohort, tmp_path)
        result = study.run()
        assert np.isfinite([attack.auc.value for attack in result.attacks]).all()
        models = tmp_path / "private/models"
        weights = {
            model: set(torch.load(models / model / "model.pt")) for model in ("target", "shadow_00", "shadow_01")
        }
        assert weights["shadow_00"] == weights["shadow_01"] != weights["target"]
        assert weights["target"] == set(
            UNet(3, 1, 3, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, norm="INSTANCE").state_dict()
        )
        settings = files.read_json(tmp_path / "report/report.json")["settings"]
        assert settings["inference_files"] == ["inference.json", "segresnet.yaml"]
        assert settings["target_inference_files"] == ["inference.json"]

        made = {path: path.stat().st_mtime_ns for path in (tmp_path / "private").glob("*/*.csv")}
        study.run()
        assert made == {path: path.stat().st_mtime_ns for path in made}

        # Another way to ask the target leaves the shadows' answers as they are.
        target = replace(study.target, inference_overrides={**WINDOW, "inferer#overlap": 0.5})
        replace(study, target=target).record()
        again = {path.name for path, time in made.items() if path.stat().st_mtime_ns != time}
        assert again == {"target.csv"} | {path.name for path in made if path.name == "design.csv"}

    def test_the_targets_must_fit_their_training(self, cohort: Any, tmp_path: Path) -> None:
        """Weights of a UNet do not load into the shadows' network: said by name, not by a traceback."""
        study = self.study(
            cohort,
            tmp_path,
            target=replace(
                Recipe(str(PHANTOM), **configs("segresnet")), train=["configs/train.json"], train_overrides=EPOCH
            ),
        )
        with pytest.raises(InputError, match="checkpoint must hold the weights of network_def"):
            study.record()

    def test_a_config_that_is_missing_is_refused_before_training(self, cohort: Any, tmp_path: Path) -> None:
        study = self.study(cohort, tmp_path, target=Recipe(str(PHANTOM), inference=["configs/nowhere.json"]))
        with pytest.raises(InputError, match=r"nowhere\.json must be a config file"):
            study.record()
        assert not (tmp_path / "private/models").exists()

    def test_a_defence_is_on_both_sides(self, cohort: Any, tmp_path: Path) -> None:
        study = self.study(cohort, tmp_path)
        overlay = str(BUNDLES / "overlays/defences/rounding.yaml")
        defence = Defence("rounding", inference=[overlay], transform_id="defence", release="probabilities")
        defended = DefenceStudy(study, [defence]).studies()["rounding"]
        assert defended.target.inference == ["configs/inference.json", overlay]
        assert list(defended.recipe.inference)[-1] == overlay
