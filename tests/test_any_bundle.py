# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Any bundle, as a user has it: in the styles of the Model Zoo, audited unmodified by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import zoo_styles
from conftest import BUNDLES, run_bundle
from zoo_styles import STYLES, change, config_of, of

from monai_mia.__main__ import main
from monai_mia.bundle_study import bundle_study
from monai_mia.data.volumes import write_volume
from monai_mia.errors import InputError
from monai_mia.inspection import inspect_bundle, writable_by_others
from monai_mia.outputs import chosen_output, one_output
from monai_mia.table import SignalTable

pytestmark = pytest.mark.filterwarnings("ignore:the configs of:UserWarning")

OVERLAY = BUNDLES / "overlays" / "audit" / "audit.yaml"

#: Style, activation, foreground labels and input channels.
EXPECTED = {
    "spleen": ("flat", "softmax", 2, 1),
    "evaluated": ("validate", "softmax", 2, 1),
    "brats": ("flat", "sigmoid", 3, 4),
    "prostate": ("flat", "softmax", 2, 1),
    "btcv": ("flat", "softmax", 13, 1),
    "template": ("template", "softmax", 2, 1),
}

QUICK = ("--shadows", "1", "--epochs", "1", "--n_jobs", "1")


def audit(bundle: Path, cohort: Path, output: Path, *options: str) -> dict[str, Any]:
    """Run the command, and give ``report.json``."""
    main(["audit", "--bundle", str(bundle), "--cohort", str(cohort), "--output", str(output), *options])
    content: dict[str, Any] = json.loads((output / "report" / "report.json").read_text())
    return content


def refused(bundle: Path, cohort: Path, output: Path, *options: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        audit(bundle, cohort, output, *options)
    message = str(ended.value)
    assert message.startswith("monai_mia: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo_styles.cohort(tmp_path_factory.mktemp("phantoms"), n=4)


@pytest.fixture
def spleen(tmp_path: Path) -> Path:
    return zoo_styles.spleen(tmp_path / "spleen")


class TestUnmodified:
    @pytest.mark.parametrize("style", STYLES)
    def test_is_audited_end_to_end(
        self,
        style: str,
        cohort: Path,
        tmp_path: Path,
        hashes: Callable[[Path], dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bundle = STYLES[style](tmp_path / "there" / "bundle")
        _, activation, foreground, channels = EXPECTED[style]
        data = cohort if channels == 1 else zoo_styles.cohort(tmp_path / "there" / "data", n=4, channels=channels)
        before = hashes(tmp_path / "there") | hashes(cohort.parent)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        report = audit(bundle, data, Path("out"), *QUICK)
        assert hashes(tmp_path / "there") | hashes(cohort.parent) == before
        assert [path.name for path in (tmp_path / "here").iterdir()] == ["out"]
        assert not list(bundle.rglob("__pycache__"))
        assert report["design"]["n_shadow"] == 1
        assert report["design"]["kind"] == "randomised"
        settings = json.loads(Path("out/study.json").read_text())["settings"]
        assert settings["activation"] == activation
        table = SignalTable.read(Path("out/private/signals"))
        assert len(table.model_ids) == 2
        dice = {name for name in table.signals if name.startswith("dice_class_") and name[11:].isdigit()}
        assert dice == {f"dice_class_{n}" for n in range(1, foreground + 1)}

    def test_the_overlay_gives_the_same(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        report = audit(spleen, cohort, tmp_path / "command", *QUICK)
        run_bundle(
            "run",
            "--config_file", f"['{spleen}/configs/inference.json','{OVERLAY}']",
            "--cohort", str(cohort), "--audit_dir", str(tmp_path / "overlay"), "--shadows", "1", "--epochs", "1",
            "--n_jobs", "1",
        )  # fmt: skip
        for name in ("target", "shadow_00"):
            first, second = (
                (tmp_path / way / "private" / "signals" / f"{name}.csv").read_bytes() for way in ("command", "overlay")
            )
            assert first == second
        other = json.loads((tmp_path / "overlay" / "report" / "report.json").read_text())
        assert [one["auc"] for one in report["attacks"]] == [one["auc"] for one in other["attacks"]]

    def test_it_resumes(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        audit(spleen, cohort, tmp_path / "out", *QUICK)
        weights = tmp_path / "out" / "private" / "models" / "shadow_00" / "model.pt"
        before = weights.stat().st_mtime_ns
        audit(spleen, cohort, tmp_path / "out", *QUICK)
        assert weights.stat().st_mtime_ns == before

    def test_it_warns_as_monai_does(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="GHSA-873f-pvrv-4x83"):
            bundle_study(spleen, str(cohort), tmp_path / "out")
