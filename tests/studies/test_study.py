# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A whole study: what it leaves, how it resumes, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLES, PHANTOM, ROOT, SMALL, environment, run_bundle, small_study, varied

from monai_mia import attacks, neural_attacks
from monai_mia.attacks import standard_attacks
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.audit.audit import Audit
from monai_mia.bundle.config import BundleConfig, load_weights
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.maps import MapStore
from monai_mia.records.table import SignalTable
from monai_mia.signals.perturbations import Flip, PerturbedQueries
from monai_mia.statistics import Resampling
from monai_mia.studies import Released
from monai_mia.studies.study import Study

OVERLAYS = BUNDLES / "overlays/defences"

Hashes = Callable[[Path], dict[str, str]]


def signals(output_dir: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((Path(output_dir) / "private" / "signals").glob("*.csv"))}


class TestFinished:
    """What a finished study left behind."""

    def test_layout(self, study: Study) -> None:
        out = Path(study.output_dir)
        for name in (
            "study.json", "private/design.csv", "private/models/target/model.pt", "private/models/shadow_01/model.pt",
            "private/signals/target.csv", "private/scores.csv", "private/cases.csv", "report/index.html",
            "report/report.json",
        ):  # fmt: skip
            assert (out / name).is_file(), name
        assert list((out / "report" / "figures").glob("*.png"))
        assert not list(out.rglob("*.tmp"))
        assert not list(out.rglob("checkpoint.pt"))

    def test_private_is_private(self, study: Study) -> None:
        private = Path(study.output_dir) / "private"
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        for name in ("design.csv", "scores.csv", "signals/target.csv", "models/target/model.pt"):
            assert stat.S_IMODE((private / name).stat().st_mode) == 0o600, name

    def test_no_patient_and_no_path_in_the_report(self, study: Study, cohort: list[dict[str, Any]]) -> None:
        secrets = {case[key] for case in cohort for key in ("case_id", "patient_id", "image", "label")}
        secrets |= {str(Path(study.output_dir)), str(ROOT)}
        everything = [Path(study.output_dir) / "study.json", *(Path(study.output_dir) / "report").rglob("*")]
        for path in everything:
            if path.is_file():
                content = path.read_bytes()
                assert not [secret for secret in secrets if secret.encode() in content], path

    def test_each_model_saw_its_own_members_and_no_more(self, study: Study) -> None:
        design = Design.read(Path(study.output_dir) / "private" / "design.csv")
        table = SignalTable.read(Path(study.output_dir) / "private" / "signals")
        for model in design.model_ids:
            members = {case["case_id"] for case in design.members(model)}
            flagged = {case for case, member in zip(table.case_ids, table.members(model), strict=True) if member}
            assert flagged == members
            trained = files.read_json(Path(study.output_dir) / f"private/models/{model}/model.json")
            assert trained["n_cases"] == len(members)
            assert trained["epochs"] == 2

    def test_models_differ(self, study: Study) -> None:
        weights = [torch.load(p) for p in sorted(Path(study.output_dir).glob("private/models/*/model.pt"))]
        first = next(iter(weights[0]))
        assert len(weights) == 3
        assert not torch.equal(weights[0][first], weights[1][first])
        assert not torch.equal(weights[1][first], weights[2][first])

    def test_running_again_changes_nothing(self, study: Study, hashes: Hashes) -> None:
        def private() -> dict[str, str]:  # but for what vouches for a report, in which times stand
            found = hashes(Path(study.output_dir) / "private")
            return {name: value for name, value in found.items() if not name.startswith("reported.json")}

        before = private()
        stamps = {p: p.stat().st_mtime_ns for p in Path(study.output_dir).glob("private/models/*/model.pt")}
        study.run()
        assert private() == before
        assert {p: p.stat().st_mtime_ns for p in stamps} == stamps

    def test_same_seed_same_table_and_the_bundle_is_untouched(
        self, study: Study, cohort: list[dict[str, Any]], tmp_path: Path, hashes: Hashes
    ) -> None:
        before = hashes(PHANTOM)
        small_study(cohort, tmp_path / "again").run()
        assert signals(tmp_path / "again") == signals(study.output_dir)
        assert hashes(PHANTOM) == before

    def test_two_processes_give_the_table_of_one(self, study: Study, cohort: Any, tmp_path: Path) -> None:
        small_study(cohort, tmp_path / "two", n_jobs=2).record()
        assert signals(tmp_path / "two") == signals(study.output_dir)

    def test_another_seed_another_table(self, study: Study, cohort: Any, tmp_path: Path) -> None:
        small_study(cohort, tmp_path / "other", seed=1).record()
        assert signals(tmp_path / "other") != signals(study.output_dir)


@pytest.fixture
def copied(study: Study, tmp_path: Path) -> Path:
    """The folder of the finished study, to go on in."""
    return Path(shutil.copytree(study.output_dir, tmp_path / "copy"))


def test_more_shadows_extend_a_study(cohort: Any, copied: Path) -> None:
    first = signals(copied)
    stamp = (copied / "private/models/shadow_01/model.pt").stat().st_mtime_ns
    result = small_study(cohort, copied, shadows=4).run()
    assert result.attack("calibrated: log_odds_foreground").n_shadow == 4
    assert (copied / "private/models/shadow_01/model.pt").stat().st_mtime_ns == stamp
    assert first.items() <= signals(copied).items()


def test_further_targets_maps_and_signals(study: Study, cohort: Any, tmp_path: Path) -> None:
    asked = PerturbedQueries((Flip(0),), ("dice",))
    wide = small_study(cohort, tmp_path, targets=2, maps=True, signals=(asked,))
    result = wide.run()
    assert "agreement" in {signal for attack in result.attacks for signal in attack.signals}
    recorded = signals(tmp_path)
    assert set(recorded) == {"target.csv", "target_01.csv", "shadow_00.csv", "shadow_01.csv"}
    # The same models as without them, and the plain signals first, to the last digit.
    for name, content in signals(study.output_dir).items():
        for plain, more in zip(content.splitlines(), recorded[name].splitlines(), strict=True):
            assert more.startswith(plain)
    store = MapStore(tmp_path / "private/maps")
    assert store.model_ids == ("shadow_00", "shadow_01", "target", "target_01")
    table = SignalTable.read(tmp_path / "private/signals")
    maps = wide.folder.map_store().of(table, "target_01", ["shadow_00", "shadow_01"])
    assert maps is not None
    scores = attacks.VoxelCalibration()(
        replace(AdversaryView.of(table, "target_01", ["shadow_00", "shadow_01"]), maps=maps)
    )
    assert np.isfinite(scores).all()
    # Without its signals, only the signals are recorded again.
    stamp = (tmp_path / "private/maps/target.npz").stat().st_mtime_ns
    varied(wide, signals=()).record()
    assert (tmp_path / "private/maps/target.npz").stat().st_mtime_ns == stamp
    assert signals(study.output_dir).items() <= signals(tmp_path).items()
    # Maps that are no longer asked for are none that new models must have.
    varied(wide, signals=(), maps=False, shadows=3).run()


def test_damaged_artefacts_are_made_again(cohort: Any, copied: Path) -> None:
    expected = signals(copied)
    (copied / "private/signals/shadow_00.csv").unlink()
    (copied / "private/signals/shadow_01.json").write_text("{")
    (copied / "private/models/target/model.pt").unlink()
    small_study(cohort, copied).run()
    assert signals(copied) == expected


def test_released_target(study: Study, cohort: Any, tmp_path: Path, hashes: Hashes) -> None:
    """An observational design around a checkpoint: the checkpoint keeps its hash, the sides are as given."""
    design = Design.read(Path(study.output_dir) / "private" / "design.csv")
    checkpoint = tmp_path / "released.pt"
    checkpoint.write_bytes((Path(study.output_dir) / "private/models/target/model.pt").read_bytes())
    sha = files.sha256(checkpoint)
    sides = {
        "members": sorted({str(case["patient_id"]) for case in design.members("target")}),
        "nonmembers": str(tmp_path / "out.txt"),
    }
    others = [c["case_id"] for c, m in zip(design.cases, design.member["target"], strict=True) if not m]
    (tmp_path / "out.txt").write_text("\n".join(others))
    released = small_study(cohort, tmp_path / "study", target=Released(str(checkpoint), **sides))
    released.run()
    assert files.sha256(checkpoint) == sha
    content = json.loads((tmp_path / "study/report/report.json").read_text())
    assert content["design"]["kind"] == "observational"
    assert content["target"]["checkpoint_sha256"] == sha
    assert signals(tmp_path / "study")["target.csv"] == signals(study.output_dir)["target.csv"]


def test_mask_only_release(cohort: Any, tmp_path: Path) -> None:
    """Only masks leave the model: no signal of probabilities, and the standard attacks make do with Dice."""
    result = small_study(
        cohort,
        tmp_path,
        release="mask",
        audit=Audit(partial(standard_attacks, release="mask"), resampling=Resampling(n_resamples=50)),
    ).run()
    assert {attack.access for attack in result.attacks} == {"mask+label"}
    assert "calibrated: dice" in {attack.name for attack in result.attacks}


def test_probabilities_instead_of_logits(study: Study, cohort: Any, tmp_path: Path) -> None:
    """The activation is applied: all is the same but for log-odds, which saturate in float32 probabilities."""
    small_study(cohort, tmp_path, release="probabilities").record()
    logits, probabilities = (SignalTable.read(Path(p) / "private/signals") for p in (study.output_dir, tmp_path))
    assert probabilities.signals == logits.signals
    same = [n for n, signal in enumerate(logits.signals) if not signal.startswith("log_odds")]
    assert probabilities.values[..., same] == pytest.approx(logits.values[..., same], rel=1e-4, abs=1e-5)


def test_output_defence_in_the_release(study: Study, cohort: Any, tmp_path: Path) -> None:
    """A transform from an overlay of the inference config is what the adversary is left with."""
    (tmp_path / "rounded.yaml").write_text(
        "rounded:\n  _target_: Compose\n  transforms:\n  - {_target_: Activationsd, keys: pred, softmax: true}\n"
        "  - {_target_: Lambdad, keys: pred, func: '$lambda p: p.round(decimals=1)'}\n"
    )
    files_ = ("configs/inference.json", str(tmp_path / "rounded.yaml"))
    defended = small_study(cohort, tmp_path / "out", release="probabilities", transform_id="rounded", inference=files_)
    defended.record()
    before, after = (SignalTable.read(Path(p) / "private/signals") for p in (study.output_dir, tmp_path / "out"))
    assert (before.signal("log_likelihood", "target") != after.signal("log_likelihood", "target")).all()


def test_training_overlay(cohort: Any, tmp_path: Path, hashes: Hashes) -> None:
    """An overlay file changes the training of target and shadows, and nothing in the bundle."""
    before = hashes(PHANTOM)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("optimizer::_target_: torch.optim.SGD\ntrain::trainer::max_epochs: 1\n")
    options = {"train": ("configs/train.json", str(overlay)), "train_overrides": SMALL}
    small_study(cohort, tmp_path / "out", **options).record()
    assert files.read_json(tmp_path / "out/private/models/shadow_00/model.json")["epochs"] == 1
    assert hashes(PHANTOM) == before


def test_auxiliary_patients_are_set_apart(cohort: Any, tmp_path: Path) -> None:
    """No model trains on them or is asked about them; a training config that has the id gets their cases."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "held_out: []\n"
        "seen: \"$open(@seen_file, 'a').write(','.join(case['case_id'] for case in @held_out) + ';')\"\n"
        f"seen_file: {tmp_path / 'seen.txt'}\n"
        'train#trainer#max_epochs: "$1 if @seen else 1"\n'
    )
    options = {"train": ("configs/train.json", str(overlay)), "train_overrides": SMALL, "held_out": 0.3}
    small_study(cohort, tmp_path / "out", **options).run()
    design = Design.read(tmp_path / "out/private/design.csv")
    apart = {case["patient_id"] for case in cohort} - set(design.patient_ids)
    assert len(apart) == 3
    table = SignalTable.read(tmp_path / "out/private/signals")
    assert not apart & set(table.patient_ids)
    expected = sorted(case["case_id"] for case in cohort if case["patient_id"] in apart)
    seen = [sorted(part.split(",")) for part in (tmp_path / "seen.txt").read_text().split(";") if part]
    assert seen
    assert all(part == expected for part in seen if part != [""])
    assert files.read_json(tmp_path / "out/report/report.json")["design"]["held_out"] == 0.3
    other = small_study(cohort, tmp_path / "out", **{**options, "held_out": 0.5})
    assert "another held_out" in stop(other)


def test_ids_are_no_code(cohort: Any, tmp_path: Path) -> None:
    """Ids are data of whoever sends a cohort: one that looks like an expression, a reference or a macro is a name."""
    trap = tmp_path / "trap"
    names = iter([f"$open({str(trap)!r}, 'w')", "@network_def", "%train", "$1 / 0"] * 3)
    patients = {name: next(names) + name for name in sorted({case["patient_id"] for case in cohort})}
    named = [
        {**case, "patient_id": patients[case["patient_id"]], "case_id": f"{patients[case['patient_id']]}{n}"}
        for n, case in enumerate(cohort)
    ]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("held_out: []\ntrain#trainer#max_epochs: $len(@held_out) and 1\n")
    files_used = ("configs/train.json", str(overlay))
    small_study(named, tmp_path / "out", train=files_used, train_overrides=SMALL, held_out=0.3).record()
    assert not trap.exists()
    table = SignalTable.read(tmp_path / "out/private/signals")
    assert set(table.patient_ids) < set(patients.values())


def test_handlers_inside_the_trainer_do_not_write(cohort: Any, tmp_path: Path) -> None:
    """A saver that a bundle lists in the trainer itself is left out, too."""
    saver = {"_target_": "CheckpointSaver", "save_dir": str(tmp_path / "saved"), "save_dict": {"m": "@network"},
             "save_final": True}  # fmt: skip
    overrides = {**SMALL, "train#trainer#max_epochs": 1, "train#trainer#train_handlers": [saver]}
    small_study(cohort, tmp_path / "out", train_overrides=overrides).record()
    assert not (tmp_path / "saved").exists()


def test_multi_label_network(cohort: Any, tmp_path: Path) -> None:
    """A sigmoid network of one channel, on a binary reference."""
    binary = []
    for case in cohort:
        path = tmp_path / "labels" / Path(case["label"]).name
        path.parent.mkdir(exist_ok=True)
        volume = nib.load(case["label"])
        nib.save(nib.Nifti1Image((volume.get_fdata() > 0).astype(np.uint8), volume.affine), path)
        binary.append({**case, "label": str(path), "age": None})  # a missing covariate is no obstacle
    overrides = {**SMALL, "network_def#out_channels": 1}
    training = {**overrides, "train#trainer#max_epochs": 1, "loss": {"_target_": "DiceLoss", "sigmoid": True}}
    result = small_study(
        binary, tmp_path / "out", activation="sigmoid", train_overrides=training, inference_overrides=overrides
    ).run()
    assert result.attack("threshold: dice_class_1").access == "mask+label"


KILLED = """
import json, sys
sys.path.insert(0, {tests!r})
from conftest import *
small_study(json.loads(Path({cohort!r}).read_text()), Path({out!r}), n_jobs={n_jobs},
            train_overrides={{**SMALL, "train#trainer#max_epochs": 12}}).main()
"""


@pytest.fixture(scope="module")
def long(cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The signals of a study whose trainings can be killed in the middle; nobody killed these."""
    folder = tmp_path_factory.mktemp("long")
    small_study(cohort, folder, train_overrides={**SMALL, "train#trainer#max_epochs": 12}).record()
    return signals(folder)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_killed_and_resumed_is_undisturbed(
    n_jobs: int, cohort: Any, long: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of a training; another process resumes, and gives the same table, byte for byte."""
    script = tmp_path / "run.py"
    out = tmp_path / "killed"
    (tmp_path / "cohort.json").write_text(json.dumps(cohort))
    script.write_text(
        KILLED.format(tests=str(ROOT / "tests"), cohort=str(tmp_path / "cohort.json"), out=str(out), n_jobs=n_jobs)
    )
    process = subprocess.Popen([sys.executable, str(script)], env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        progress = [files.read_json(p).get("done", 0) for p in out.glob("private/models/*/progress.json")]
        if any(2 <= done <= 10 for done in progress):
            break
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "report").exists()
    checkpoints = list(out.glob("private/models/*/checkpoint.pt"))
    assert checkpoints, "killed before the first checkpoint"
    done = {p: p.stat().st_mtime_ns for p in out.glob("private/models/*/model.pt")}
    time.sleep(1.5)  # workers notice that their parent is gone
    small_study(
        json.loads((tmp_path / "cohort.json").read_text()), out, n_jobs=n_jobs,
        train_overrides={**SMALL, "train#trainer#max_epochs": 12},
    ).main()  # fmt: skip
    assert str(out / "report" / "index.html") in "".join(capsys.readouterr())
    assert signals(out) == long
    assert {p: p.stat().st_mtime_ns for p in done} == done


def stop(study: Study) -> str:
    """The one line with which a study refuses."""
    with pytest.raises(SystemExit) as caught:
        study.main()
    message = str(caught.value.code)
    assert message.startswith("monai_mia: ")
    assert "\n" not in message
    return message


class TestRefusals:
    """Bad input ends with one line that names it and the remedy, and nothing half-made is left as whole."""

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"shadows": -1}, ["shadows must be", "got -1"]),
            ({"shadows": "many"}, ["shadows must be a whole number", "'many'"]),
            ({"seed": -3}, ["seed must be"]),
            ({"n_jobs": "two"}, ["n_jobs must be a whole number", "'two'"]),
            ({"checkpoint_interval": 0}, ["checkpoint_interval must be"]),
            ({"release": "logit"}, ["release must be one of", "'logit'"]),
            ({"transform_id": "defence"}, ["transform_id must be an id", "'defence'"]),
            ({"train": ["/nowhere.yaml"]}, ["/nowhere.yaml must be a config file"]),
            ({"inference_overrides": {"device": "$torch.device('abacus')"}}, ["'device'", "can be built"]),
            (
                {"train_overrides": {"train#random_transforms": [{"_target_": "Nonsense"}]}},
                ["'train#dataset'", "Nonsense"],
            ),
            ({"bundle": "nowhere"}, ["bundle_root", "configs/train.json", "--bundle_root"]),
            ({"inference": ["configs/logging.conf"]}, ["must be configs of a bundle"]),
            (
                {"inference": ["configs/metadata.json"], "inference_overrides": {}},
                ["must define network_def, inferer, preprocessing"],
            ),
            ({"train": ["configs/inference.json"], "train_overrides": {}}, ["must define train#dataset#data"]),
            ({"train_overrides": {"train#no#such": 1}}, ["override 'train#no#such'"]),
            ({"cohort": "nowhere"}, ["dataset_dir", "nowhere'", "does not exist"]),
            ({"audit": Audit([])}, ["attacks must be a list of at least one"]),
            ({"audit": Audit([attacks.LiRA(variance="case")])}, ["shadows must be at least 4", "LiRA", "--shadows"]),
            ({"held_out": 1.0}, ["held_out must be a share of the patients in [0, 1), got 1.0"]),
            ({"targets": 0}, ["targets must be a whole number, at least 1"]),
            ({"signals": (len,)}, ["signals must be dataclass objects"]),
            ({"n_labels": 2}, ["label must hold integers in [0, 2)", "got 2"]),
        ],
    )
    def test_settings(self, cohort: Any, tmp_path: Path, options: dict[str, Any], parts: list[str]) -> None:
        message = stop(small_study(cohort, tmp_path / "out", **options))
        for part in parts:
            assert part in message
        assert not (tmp_path / "out" / "report").exists()

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"audit": Audit([attacks.GlobalLoss(signal="glow")])}, ["signal must begin with one of", "'glow'"]),
            (
                {"audit": Audit([neural_attacks.type_two()])},
                ["maps must be recorded for attack 'Type-II", "maps: true"],
            ),
            (
                {"audit": Audit([attacks.LiRA()], access="mask")},
                ["access must be at least 'probabilities+label' for attack 'LiRA", "got 'mask'"],
            ),
            (
                {"audit": Audit([attacks.LiRA()]), "release": "mask"},
                ["release must be logits or probabilities for signal", "got 'mask'"],
            ),
            (
                {
                    "inference": ("configs/inference.json", str(OVERLAYS / "noise.yaml")),
                    "transform_id": "defence",
                    "release": "probabilities",
                },
                ["key must be a secret string, got none", "noise_key"],
            ),
        ],
    )
    def test_before_any_training(self, cohort: Any, tmp_path: Path, options: dict[str, Any], parts: list[str]) -> None:
        message = stop(small_study(cohort, tmp_path / "out", **options))
        for part in parts:
            assert part in message
        assert not (tmp_path / "out" / "private" / "models").exists()

    def test_duplicate_case(self, cohort: Any, tmp_path: Path) -> None:
        message = stop(small_study([*cohort, cohort[0]], tmp_path / "out"))
        assert "case_id must be unique" in message
        assert cohort[0]["case_id"] in message

    def test_too_few_patients(self, cohort: Any, tmp_path: Path) -> None:
        assert "at least 2 patients" in stop(small_study(cohort[:3], tmp_path / "out"))

    def test_patient_on_both_sides(self, study: Study, cohort: Any, tmp_path: Path) -> None:
        checkpoint = Path(study.output_dir) / "private/models/target/model.pt"
        ids = [case["case_id"] for case in cohort]
        sides = {"members": ids[:1] + ids[5:7], "nonmembers": ids[1:5]}  # the first patient has cases 0 and 1
        message = stop(small_study(cohort, tmp_path / "out", target=Released(str(checkpoint), **sides)))
        assert "patient" in message
        assert cohort[0]["patient_id"] in message

    def test_bad_volumes_are_named_before_any_training(self, cohort: Any, tmp_path: Path) -> None:
        bad = [dict(case) for case in cohort]
        for n, fill in ((2, np.nan), (4, 1.0)):
            bad[n]["image"] = str(tmp_path / f"{n}.nii.gz")
            nib.save(nib.Nifti1Image(np.full((16, 16, 16), fill, np.float32), np.eye(4)), bad[n]["image"])
        message = stop(small_study(bad, tmp_path / "out"))
        assert bad[2]["case_id"] in message
        assert bad[4]["case_id"] in message
        assert not list((tmp_path / "out").rglob("*.pt"))

    def test_folder_of_another_study(self, study: Study, hashes: Hashes) -> None:
        before = hashes(Path(study.output_dir))
        assert "another seed" in stop(replace(study, seed=5))
        other = {**study.recipe.train_overrides, "train#trainer#max_epochs": 3}
        assert "another training" in stop(varied(study, train_overrides=other))
        assert hashes(Path(study.output_dir)) == before

    def test_folder_of_something_else(self, cohort: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        assert "with other files" in stop(small_study(cohort, tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_checkpoint_of_another_network(self, study: Study, cohort: Any, tmp_path: Path) -> None:
        checkpoint = Path(study.output_dir) / "private/models/target/model.pt"
        ids = sorted({case["patient_id"] for case in cohort})
        options = {"target": Released(str(checkpoint), ids[:4], ids[4:]), "shadows": 0}
        wider = {"network_def#channels": [4, 8, 16]}
        audit = Audit([attacks.GlobalLoss()])
        message = stop(small_study(cohort, tmp_path, audit=audit, inference_overrides=wider, **options))
        assert "must hold the weights of network_def" in message
        assert "misshapen" in message

    def test_checkpoint_that_is_a_pickle(self, tmp_path: Path) -> None:
        torch.save({"model": object()}, tmp_path / "x.pt")
        network = BundleConfig(str(PHANTOM), ("configs/inference.json",)).parser(()).get_parsed_content("network_def")
        with pytest.raises(ValueError, match="weights_only=True"):
            load_weights(network, tmp_path / "x.pt", "bundle")

    def test_checkpoint_is_opened_before_any_training(self, cohort: Any, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
        ids = sorted({case["patient_id"] for case in cohort})
        target = Released(str(tmp_path / "other.pt"), ids[:4], ids[4:])
        assert "must hold the weights" in stop(small_study(cohort, tmp_path / "out", target=target))
        assert not (tmp_path / "out").exists()

    def test_component_that_cannot_be_built(self, cohort: Any, tmp_path: Path) -> None:
        message = stop(small_study(cohort, tmp_path, train_overrides={"network_def#channels": [4]}))
        assert "train#trainer" in message
        assert "configs/train.json" in message

    def test_diverging_training(self, cohort: Any, tmp_path: Path) -> None:
        overrides = {**SMALL, "learning_rate": 1e30, "train#trainer#max_epochs": 3}
        message = stop(small_study(cohort, tmp_path, train_overrides=overrides))
        assert "finite loss" in message
        assert not list(tmp_path.rglob("model.pt"))

    def test_full_disk(self, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk fills while the second model is saved: the first stays, and a later run goes on from it."""
        replace_file, saved = Path.replace, []

        def full(self: Path, target: Any) -> Path:
            if Path(target).name == "model.pt":
                saved.append(target)
                if len(saved) == 2:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return replace_file(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            message = stop(small_study(cohort, tmp_path))
        assert "No space left on device" in message
        assert "run the command again" in message
        assert len(list(tmp_path.rglob("model.pt"))) == 1
        assert not list(tmp_path.rglob("*.tmp"))
        small_study(cohort, tmp_path).run()

    def test_as_a_command(self, tmp_path: Path) -> None:
        """The last line is ours, and the exit code is not 0."""
        result = run_bundle(
            "run", "--config_file", str(ROOT / "bundles/hippocampus_unet3d/configs/audit.yaml"),
            "--dataset_dir", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "out"), check=False,
        )  # fmt: skip
        assert result.returncode != 0
        assert result.stderr.splitlines()[-1].startswith("monai_mia: dataset_dir must be")
        assert "Traceback" not in result.stderr
