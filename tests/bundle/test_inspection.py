# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Any bundle, as a user has it: in the styles of the Model Zoo, audited unmodified by the command line."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import zoo_styles
from conftest import BUNDLES, bundle_here
from dicom_files import save, segmentation, series
from zoo_styles import STYLES, change, config_of, of

from monai_mia.__main__ import main
from monai_mia.audit.disclosure.archive import check_archive
from monai_mia.bundle.config import BundleConfig, job_settings
from monai_mia.bundle.inspection import inspect_bundle, writable_by_others
from monai_mia.bundle.query import check_inference
from monai_mia.bundle.training import is_removed
from monai_mia.data.phantoms import phantom
from monai_mia.errors import InputError
from monai_mia.records import StudyFolder
from monai_mia.records.table import SignalTable
from monai_mia.records.volumes import write_volume
from monai_mia.signals.outputs import one_output, select_prediction
from monai_mia.studies.bundle import bundle_study

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
    return zoo_styles.cohort(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture
def spleen(tmp_path: Path) -> Path:
    return zoo_styles.spleen(tmp_path / "spleen")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit ``out`` of the bundle ``spleen`` on ``data``, in one folder; treat it as read-only."""
    folder = tmp_path_factory.mktemp("audited")
    audit(zoo_styles.spleen(folder / "spleen"), zoo_styles.cohort(folder / "data"), folder / "out", *QUICK)
    return folder


def trained(bundle: Path, cohort: Path, output: Path) -> None:
    """Train and query as the command would, and stop before the attacks."""
    bundle_study(str(cohort), output, bundle, shadows=1, epochs=1, n_jobs=1).record()


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
        data = cohort if channels == 1 else zoo_styles.cohort(tmp_path / "there" / "data", channels=channels)
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

    def test_the_overlay_gives_the_same(self, audited: Path, tmp_path: Path) -> None:
        report = json.loads((audited / "out" / "report" / "report.json").read_text())
        bundle_here(
            "run",
            "--config_file", f"['{audited}/spleen/configs/inference.json','{OVERLAY}']",
            "--cohort", str(audited / "data" / "dataset.json"),
            "--audit_dir", str(tmp_path / "overlay"), "--shadows", "1", "--epochs", "1",
            "--n_jobs", "1", "--key_file", str(StudyFolder(audited / "out").key_file),
        )  # fmt: skip
        for name in ("target", "shadow_00"):
            first, second = (
                (way / "private" / "signals" / f"{name}.csv").read_bytes()
                for way in (audited / "out", tmp_path / "overlay")
            )
            assert first == second
        other = json.loads((tmp_path / "overlay" / "report" / "report.json").read_text())
        assert [one["auc"] for one in report["attacks"]] == [one["auc"] for one in other["attacks"]]

    def test_it_resumes(self, audited: Path, tmp_path: Path) -> None:
        shutil.copytree(audited / "out", tmp_path / "out")
        weights = tmp_path / "out" / "private" / "models" / "shadow_00" / "model.pt"
        before = weights.stat().st_mtime_ns
        words = (*QUICK, "--archive", str(tmp_path / "report.zip"))
        audit(audited / "spleen", audited / "data" / "dataset.json", tmp_path / "out", *words)
        assert "report/report.json" in check_archive(tmp_path / "report.zip")["files"]
        assert weights.stat().st_mtime_ns == before

    def test_it_warns_as_monai_does(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="GHSA-873f-pvrv-4x83"):
            bundle_study(str(cohort), tmp_path / "out", spleen)


def oracle(folder: Path, channels: int, intensity: list[Any], sigmoid: bool = False) -> tuple[Path, Path]:
    """A bundle whose network, one linear map a voxel, is right where image and reference lie on each other."""
    network = of("torch.nn.Conv3d", in_channels=channels if sigmoid else 1, out_channels=channels, kernel_size=1)
    after = zoo_styles.SIGMOID if sigmoid else zoo_styles.SOFTMAX
    bundle = zoo_styles.bundle(
        folder,
        metadata=zoo_styles.metadata(channels),
        inference=zoo_styles.inference(network, intensity, after),
    )
    weight = 20 * torch.eye(channels) if sigmoid else torch.tensor([[0.0], [20.0]])
    bias = torch.full((channels,), -10.0) if sigmoid else torch.tensor([0.0, -10.0])
    (folder / "models").mkdir()
    torch.save({"model": {"weight": weight[..., None, None, None], "bias": bias}}, folder / "models" / "model.pt")
    return bundle, folder / "models" / "model.pt"


def dice_of_oracle(bundle: Path, cohort: Path, output: Path, **options: Any) -> Any:
    """The recorded Dice of each case, shape (N,), of a released checkpoint."""
    study = bundle_study(
        str(cohort),
        output,
        bundle,
        members=["case_0", "case_1"],
        nonmembers=["case_2", "case_3"],
        n_jobs=1,
        **options,
    )
    study.record()
    table = SignalTable.read(output / "private" / "signals")
    return table.values[0][:, table.signals.index("dice")]


def drawn(folder: Path, affine: Any = None, reorder: Any = None, n: int = 4) -> Path:
    """A cohort whose images are their references; the references may be stored in another order of voxels."""
    affine = np.eye(4) if affine is None else np.asarray(affine, dtype=float)
    cases = []
    for patient in range(n):
        label = np.zeros((12, 14, 16), dtype=np.uint8)
        label[2 : 6 + patient % 6, 3 : 8 + patient // 6, 4:13] = 1
        write_volume(folder / f"image_{patient}.nii.gz", label.astype(np.float32), affine)
        stored = nib.Nifti1Image(label, affine)
        stored = stored if reorder is None else stored.as_reoriented(np.array(reorder))
        nib.save(stored, folder / f"label_{patient}.nii.gz")
        cases.append({"image": f"image_{patient}.nii.gz", "label": f"label_{patient}.nii.gz"})
        cases[-1] |= {"case_id": f"case_{patient}", "patient_id": f"patient_{patient}"}
    (folder / "dataset.json").write_text(json.dumps({"training": cases}))
    return folder / "dataset.json"


def turned(degrees: float, spacing: tuple[float, float, float]) -> Any:
    """An oblique affine: turned about one axis after another, anisotropic."""
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-30, 12, 50)
    return affine


class TestReferences:
    """A network that copies the reference from the image has a Dice of 1, unless the reference is misplaced."""

    @pytest.mark.parametrize(
        ("affine", "reorder"),
        [
            (np.eye(4), None),
            (np.diag([-1.0, -1.0, 1.0, 1.0]), None),
            (np.eye(4), [[0, -1], [1, -1], [2, 1]]),
            (turned(20, (0.8, 1.2, 2.5)), None),
            (turned(20, (0.8, 1.2, 2.5)), [[0, -1], [1, 1], [2, -1]]),
        ],
        ids=["plain", "flipped", "reordered", "oblique", "oblique and reordered"],
    )
    def test_lie_on_the_image(self, affine: Any, reorder: Any, tmp_path: Path) -> None:
        reading = [
            of("LoadImaged", keys="image"),
            of("EnsureChannelFirstd", keys="image"),
            of("Orientationd", keys="image", axcodes="PLS"),
        ]
        bundle, _ = oracle(tmp_path / "bundle", 2, reading)
        (tmp_path / "data").mkdir()
        dice = dice_of_oracle(bundle, drawn(tmp_path / "data", affine, reorder), tmp_path / "out")
        np.testing.assert_array_equal(dice, 1)

    def test_follow_a_change_of_spacing(self, tmp_path: Path) -> None:
        reading = zoo_styles.loading("image", of("ScaleIntensityd", keys="image"), [1.0, 1.0, 1.0])
        bundle, _ = oracle(tmp_path / "bundle", 2, reading)
        (tmp_path / "data").mkdir()
        dice = dice_of_oracle(bundle, drawn(tmp_path / "data", np.diag([0.7, 1.6, 3.0, 1.0])), tmp_path / "out")
        assert (dice > 0.85).all()  # half a voxel at the edges: linear interpolation of one, nearest of the other

    def test_in_another_place_are_noticed(self, tmp_path: Path) -> None:
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        (tmp_path / "data").mkdir()
        cohort = drawn(tmp_path / "data")
        for patient in range(4):
            label = nib.load(tmp_path / "data" / f"label_{patient}.nii.gz")
            nib.save(nib.Nifti1Image(np.asarray(label.dataobj), np.eye(4) + np.eye(4, k=3) * 4), label.get_filename())
        assert (dice_of_oracle(bundle, cohort, tmp_path / "out") < 0.7).all()

    def test_of_several_labels_are_made_as_in_training(self, tmp_path: Path) -> None:
        """Tumour core is 1 and 4, whole tumour all of them, enhancing tumour 4; the image has a channel for each."""
        bundle, _ = oracle(
            tmp_path / "bundle", 3, [of("LoadImaged", keys="image", ensure_channel_first=True)], sigmoid=True
        )
        train = config_of(zoo_styles.brats(tmp_path / "brats"), "train")
        (bundle / "configs" / "train.json").write_text(json.dumps(train))
        rng = np.random.default_rng(0)
        cases = []
        for patient in range(4):
            label = rng.choice([0, 1, 2, 4], size=(8, 8, 8)).astype(np.uint8)
            label[0, 0, 0] = 0
            for n, values in enumerate(([1, 4], [1, 2, 4], [4])):
                path = tmp_path / "data" / f"image_{patient}_{n}.nii.gz"
                write_volume(path, np.isin(label, values).astype(np.float32), np.eye(4))
            write_volume(tmp_path / "data" / f"label_{patient}.nii.gz", label, np.eye(4))
            names = [f"image_{patient}_{n}.nii.gz" for n in range(3)]
            cases.append({"image": names, "label": f"label_{patient}.nii.gz", "case_id": f"case_{patient}"})
        (tmp_path / "data" / "dataset.json").write_text(json.dumps({"training": cases}))
        dice = dice_of_oracle(bundle, tmp_path / "data" / "dataset.json", tmp_path / "out", shadows=0)
        np.testing.assert_array_equal(dice, 1)
        table = SignalTable.read(tmp_path / "out" / "private" / "signals")
        assert "dice_class_3" in table.signals
        assert "dice_class_4" not in table.signals

    def test_read_by_the_bundle_are_left_alone(self, tmp_path: Path) -> None:
        reading = [of("LoadImaged", keys=["image", "label"], ensure_channel_first=True)]
        bundle, _ = oracle(tmp_path / "bundle", 2, reading)
        (tmp_path / "data").mkdir()
        assert inspect_bundle(bundle).reads_labels
        np.testing.assert_array_equal(dice_of_oracle(bundle, drawn(tmp_path / "data"), tmp_path / "out"), 1)


class TestOutputs:
    volume, low = torch.full((1, 2, 8, 8), 1.0), torch.zeros(1, 2, 4, 4)
    inputs = torch.zeros(1, 1, 8, 8)

    @pytest.mark.parametrize(
        ("output", "which"),
        [
            (volume, None),
            ([volume, low], None),
            ((low, volume), 1),
            ({"pred": volume, "aux": low}, None),
            ({"loss": low, "mine": volume}, "mine"),
            ({"mine": volume}, None),
            ({"out": [volume, low]}, None),
            (torch.stack([volume, torch.zeros_like(volume)], dim=1), None),
        ],
    )
    def test_one_is_chosen(self, output: Any, which: Any) -> None:
        torch.testing.assert_close(select_prediction(output, self.inputs, which), self.volume)

    @pytest.mark.parametrize(
        ("output", "which", "message"),
        [
            ({"a": volume, "b": low}, None, "--prediction KEY"),
            ({"pred": volume}, "b", "--prediction KEY"),
            ([volume], 3, "--prediction NUMBER"),
            ("text", None, "must return a tensor"),
        ],
    )
    def test_or_it_is_said_how_to_name_it(self, output: Any, which: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            select_prediction(output, self.inputs, which)

    def test_the_inferer_stays_what_it_is(self) -> None:
        from copy import copy, deepcopy

        from monai.inferers import SlidingWindowInferer

        inferer = SlidingWindowInferer(roi_size=(4, 4), overlap=0.5)
        one = one_output(inferer, "b")
        other = copy(one)
        other.overlap = 0.25
        assert (one.overlap, inferer.overlap, other.overlap, deepcopy(one).overlap) == (0.5, 0.5, 0.25, 0.5)
        seen = one(torch.ones(1, 1, 8, 8), lambda x: {"a": x, "b": 2 * x})
        torch.testing.assert_close(seen, torch.full((1, 1, 8, 8), 2.0))

    def test_a_network_of_the_bundle_with_several(self, tmp_path: Path) -> None:
        """A class in the bundle's own scripts that returns a dictionary; importing it leaves no trace."""
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        (bundle / "own_network.py").write_text(
            "import torch\n\n\nclass Net(torch.nn.Conv3d):\n    def forward(self, x):\n"
            "        y = super().forward(x)\n        return {'aux': -y, 'seg': y}\n"
        )
        change(bundle, network_def=of("own_network.Net", in_channels=1, out_channels=2, kernel_size=1))
        (tmp_path / "data").mkdir()
        cohort = drawn(tmp_path / "data")
        np.testing.assert_array_equal(dice_of_oracle(bundle, cohort, tmp_path / "out"), 1)
        assert (dice_of_oracle(bundle, cohort, tmp_path / "aux", prediction="aux") < 0.5).all()
        assert not list(bundle.rglob("__pycache__"))
        found = inspect_bundle(bundle)
        assert found.scripts == ("own_network.py",)
        assert [(one.code, one.runs) for one in found.executed if one.id == "network_def#_target_"] == [
            ("own_network.Net", True)
        ]


class TestWithoutShadows:
    def test_a_checkpoint_is_audited_and_its_worth_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        (tmp_path / "data").mkdir()
        for name, ids in (("in", range(4)), ("out", range(4, 8))):
            (tmp_path / f"{name}.txt").write_text("".join(f"case_{n}\n" for n in ids))
        sides = ("--members", str(tmp_path / "in.txt"), "--nonmembers", str(tmp_path / "out.txt"), "--n_jobs", "1")
        report = audit(bundle, drawn(tmp_path / "data", n=8), tmp_path / "audit", *sides)
        assert report["design"] | {"kind": "observational", "n_shadow": 0} == report["design"]
        assert "leakage that is found is real" in caplog.text
        assert "No shadows." in (tmp_path / "audit" / "report" / "index.html").read_text()

    def test_who_was_a_member_must_be_known(self, tmp_path: Path, cohort: Path) -> None:
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        assert "give --members FILE and --nonmembers FILE" in refused(bundle, cohort, tmp_path / "out")

    def test_shadows_cannot_be_had(self, tmp_path: Path, cohort: Path) -> None:
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        message = refused(bundle, cohort, tmp_path / "out", "--members", "a", "--nonmembers", "b", "--shadows", "2")
        assert "Give --shadows 0" in message


class TestReport:
    def test_is_made_again_without_bundle_and_cohort(
        self, audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(audited / "out", tmp_path / "out")
        report = tmp_path / "out" / "report" / "report.json"
        before = json.loads(report.read_text())
        shutil.rmtree(tmp_path / "out" / "report")
        capsys.readouterr()
        away = audited.rename(audited.with_name("away"))  # bundle and cohort are not there
        try:
            main(["report", "--output", str(tmp_path / "out")])
        finally:
            away.rename(audited)
        assert "Verdict" in capsys.readouterr().out
        after = json.loads(report.read_text())
        for content in (before, after):
            for attack in content["attacks"]:
                attack.pop("seconds", None)
            content.pop("cost", None)
        assert after == before

    def test_needs_a_finished_audit(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match="finished audit"):
            main(["report", "--output", str(tmp_path)])


class TestInspection:
    @pytest.mark.parametrize("style", STYLES)
    def test_finds_every_part(self, style: str, tmp_path: Path) -> None:
        found = inspect_bundle(STYLES[style](tmp_path / "bundle"))
        kind, activation, foreground, _ = EXPECTED[style]
        assert (found.style, found.activation) == (kind, activation)
        assert found.channels == foreground + (activation == "softmax")
        assert {*found.ids} == {"network_def", "inferer", "preprocessing", "postprocessing", "device"}
        assert found.trains
        assert not found.missing
        assert bool(found.label_transforms) == (style == "brats")

    def test_executes_nothing(self, spleen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        trap = f"$open({str(tmp_path / 'trap')!r}, 'w')"
        change(spleen, inferer=of("SimpleInferer", note=trap), device=trap, imports=["$import antigravity"])
        change(spleen, "train", optimizer=of("os.system", command="touch trap"))
        main(["inspect", "--bundle", str(spleen)])
        assert not (tmp_path / "trap").exists()
        printed = capsys.readouterr().out
        executed, alone = printed.split("Code that an audit would execute")[1].split("Code that an audit leaves alone")
        for expected in (trap, "import antigravity", "optimizer#_target_: os.system"):
            assert expected in executed
            assert expected not in alone

    def test_what_it_says_is_left_alone_is_not_executed(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        """A trap at each place of which it says so; an audit runs into none."""
        alone = [one for one in inspect_bundle(spleen).executed if not one.runs]
        assert len(alone) > 15
        for n, one in enumerate(alone):
            path = spleen / one.file
            config = json.loads(path.read_text())
            node = config
            *parents, last = one.id.split("#")
            for part in parents:
                node = node[int(part) if isinstance(node, list) else part]
            last = "trap" if last == "_target_" else last  # a class of another name might not be left out
            node[int(last) if isinstance(node, list) else last] = f"$open({str(tmp_path / f'trap_{n}')!r}, 'w')"
            path.write_text(json.dumps(config))
        traps = [one for one in inspect_bundle(spleen).executed if "trap_" in one.code and one.code.startswith("$")]
        assert [one.runs for one in traps] == [False] * len(alone)
        trained(spleen, cohort, tmp_path / "out")
        assert not list(tmp_path.glob("trap_*"))

    def test_imports_run_wherever_they_are(self, spleen: Path, tmp_path: Path) -> None:
        """MONAI evaluates an import under any id, be it asked for or not."""
        (spleen / "scripts").mkdir()
        (spleen / "scripts" / "__init__.py").write_text("")
        (spleen / "scripts" / "hidden_trap.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
        change(spleen, notes={"a": "$import scripts.hidden_trap"})
        found = inspect_bundle(spleen)
        assert ("notes#a", True) in {(one.id, one.runs) for one in found.executed}
        check_inference(BundleConfig(str(spleen), found.inference_files, found.inference_overrides))
        assert (tmp_path / "trap").exists()  # else the test above were wrong

    def test_transforms_of_references_that_are_taken_over_run(self, spleen: Path) -> None:
        """Queries use them, though nothing can be trained from their config."""
        code = "$lambda label: label * 1"
        config = config_of(spleen, "train")
        config["train"].pop("trainer")
        config["train"]["preprocessing"]["transforms"] = [of("Lambdad", keys="label", func=code)]
        change(spleen, "train", train=config["train"])
        found = inspect_bundle(spleen)
        assert found.label_transforms
        assert [one.runs for one in found.executed if one.code == code] == [True]

    @pytest.mark.parametrize(
        "target",
        ["monai.utils.misc.os.system", "monai.data.utils.os.system", "run_cmd", "monai.bundle.run", "instantiate"],
    )
    def test_what_is_found_through_monai_is_no_component_of_it(self, target: str, spleen: Path) -> None:
        change(spleen, inferer=of(target, path="$'touch trap'"))
        assert ("inferer#_target_", target, True) in {
            (one.id, one.code, one.runs) for one in inspect_bundle(spleen).executed
        }

    def test_modules_of_the_bundle_do_not_take_the_place_of_pythons(
        self, spleen: Path, cohort: Path, tmp_path: Path
    ) -> None:
        (spleen / "profile.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "m.py").touch()
        (spleen / "scripts").symlink_to(tmp_path / "elsewhere")
        assert inspect_bundle(spleen).scripts == ("profile.py", "scripts/m.py")
        before = BundleConfig(str(spleen), ("configs/train.json",)).fingerprint()
        (tmp_path / "elsewhere" / "m.py").write_text("1")
        assert BundleConfig(str(spleen), ("configs/train.json",)).fingerprint() != before
        with job_settings(1, str(spleen)):
            sys.modules.pop("profile", None)
            importlib.import_module("profile")
        assert not (tmp_path / "trap").exists()

    @pytest.mark.parametrize("name", ["1evil", "évil", "_evil"])
    @pytest.mark.parametrize("before", ["", "x"])
    def test_ids_are_those_that_monai_takes_for_ids(self, name: str, before: str, spleen: Path) -> None:
        change(spleen, **{name: "$print('of it')"}, device=f"$(torch.device('cpu'), '{before}@{name}')[0]")
        assert [one.runs for one in inspect_bundle(spleen).executed if one.code == "$print('of it')"] == [True]

    def test_metadata_leads_to_ids(self, spleen: Path) -> None:
        path = spleen / "configs" / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "trap": "@evil"}))
        change(spleen, evil="$print('of it')", device="$(torch.device('cpu'), @_meta_#trap)[0]")
        assert [one.runs for one in inspect_bundle(spleen).executed if one.code == "$print('of it')"] == [True]
        for macro, message in (("%evil", "must hold no code, got some in 'trap'"), ("%other.json::x", "by a macro")):
            path.write_text(json.dumps({**json.loads(path.read_text()), "trap": macro}))
            with pytest.raises(InputError, match=message):
                inspect_bundle(spleen)

    @pytest.mark.parametrize("code", ["$print(1)", of("os.system", command="touch trap")])
    def test_code_in_the_metadata_is_refused(self, code: Any, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        """MONAI reads it as part of the config: ``@_meta_#trap`` would run it."""
        path = spleen / "configs" / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "trap": [code]}))
        change(spleen, device="@_meta_#trap#0")
        message = refused(spleen, cohort, tmp_path / "out", *QUICK)
        assert "metadata.json must hold no code, got some in 'trap#0" in message
        with pytest.raises(SystemExit, match="must hold no code"):
            main(["inspect", "--bundle", str(spleen)])

    def test_a_file_by_a_macro_is_refused(self, spleen: Path) -> None:
        change(spleen, network_def="%configs/extra.json::net")
        with pytest.raises(InputError, match=r"got the file 'configs/extra.json' in 'network_def' by a macro"):
            inspect_bundle(spleen)

    def test_says_what_is_missing(self, spleen: Path, capsys: pytest.CaptureFixture[str]) -> None:
        change(spleen, inferer=None)
        config = config_of(spleen)
        config["evaluator"].pop("inferer")
        change(spleen, evaluator=config["evaluator"], postprocessing=None)
        (spleen / "configs" / "train.json").unlink()
        main(["inspect", "--bundle", str(spleen)])
        printed = capsys.readouterr().out
        assert "must define 'inferer'" in printed
        assert "--set" in printed
        assert "--activation" in printed
        assert "cannot be trained" in printed


class TestOthersMayNotWrite:
    @pytest.mark.parametrize("name", [".", "configs", "configs/inference.json", "models/model.pt"])
    def test_into_the_bundle(self, name: str, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        (spleen / "models").mkdir()
        (spleen / "models" / "model.pt").write_bytes(b"")
        path = spleen / name
        mode = path.stat().st_mode & 0o777
        path.chmod(mode | 0o002)
        message = refused(spleen, cohort, tmp_path / "out")
        assert f"got {name}." in message
        assert "chmod -R o-w" in message
        assert not (tmp_path / "out").exists()
        path.chmod(mode & ~0o002)
        assert writable_by_others(spleen)[0] == ()

    def test_above_it(self, spleen: Path, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        assert ".." in writable_by_others(spleen)[0]
        tmp_path.chmod(0o1777)  # as a temporary folder is: nobody replaces what is another's
        assert ".." not in writable_by_others(spleen)[0]
        tmp_path.chmod(0o755)

    def test_by_a_link(self, spleen: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / "code"
        other.mkdir(parents=True)
        (other / "net.py").write_text("")
        (spleen / "scripts").symlink_to(other)
        (other / "loop").symlink_to(spleen)
        assert writable_by_others(spleen)[0] == ()
        (other / "net.py").chmod(0o666)
        assert writable_by_others(spleen)[0] == ("scripts/net.py",)
        (other / "net.py").chmod(0o644)
        other.parent.chmod(0o777)
        assert writable_by_others(spleen)[0] == (str(other.parent),)
        other.parent.chmod(0o755)

    def test_what_python_compiled(self, spleen: Path) -> None:
        (spleen / "scripts" / "__pycache__").mkdir(parents=True)
        (spleen / "scripts" / "__pycache__").chmod(0o757)
        assert writable_by_others(spleen)[0] == ("scripts/__pycache__",)

    def test_the_group_is_told(self, spleen: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (spleen / "configs").chmod(0o775)
        assert writable_by_others(spleen) == ((), ("configs",))
        main(["inspect", "--bundle", str(spleen)])
        assert "Writable by the group: 1" in capsys.readouterr().out


class TestBadInput:
    """Each is one line that names it and the remedy, before anything is trained."""

    def no_inferer(self, bundle: Path) -> None:
        config = config_of(bundle)
        config["evaluator"].pop("inferer")
        change(bundle, inferer=None, evaluator=config["evaluator"])

    def no_network(self, bundle: Path) -> None:
        change(bundle, network_def=of("UNet", spatial_dims=3, width=7))

    def unknown_network(self, bundle: Path) -> None:
        change(bundle, network_def=of("a_package_that_is_missing.Net"))

    def torn_config(self, bundle: Path) -> None:
        path = bundle / "configs" / "inference.json"
        path.write_text(path.read_text()[:100])

    def no_config(self, bundle: Path) -> None:
        shutil.rmtree(bundle / "configs")

    def other_keys(self, bundle: Path) -> None:
        for name in ("inference", "train"):
            config = config_of(bundle, name)
            loader = [of("LoadImaged", keys="scan")]
            if name == "inference":
                change(bundle, name, preprocessing={**config["preprocessing"], "transforms": loader})

    def no_activation(self, bundle: Path) -> None:
        change(bundle, postprocessing=of("Compose", transforms=[of("SaveImaged", keys="pred")]))

    @pytest.mark.parametrize(
        ("harm", "named", "remedy"),
        [
            ("no_inferer", "'inferer'", "--set"),
            ("no_network", "'network_def'", "override"),
            ("unknown_network", "a_package_that_is_missing", "Install"),
            ("torn_config", "inference.json", "Restore the file"),
            ("no_config", "configs/inference.json", "--bundle DIR"),
            ("other_keys", "scan", "--set"),
            ("no_activation", "activation", "--activation"),
        ],
    )
    def test_of_a_bundle(self, harm: str, named: str, remedy: str, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        getattr(self, harm)(spleen)
        message = refused(spleen, cohort, tmp_path / "out", *QUICK)
        assert named in message
        assert remedy in message
        assert not (tmp_path / "out" / "private" / "models").exists()

    @pytest.mark.parametrize(
        ("content", "named", "remedy"),
        [
            ({"conv.weight": torch.zeros(2)}, "unknown", "of the same network"),
            ({"model": {"conv.weight": torch.zeros(2)}}, "unknown", "of the same network"),
            (Path("a pickle of an object"), "weights_only=True", "state_dict()"),
            (b"no weights at all", "weights_only=True", "state_dict()"),
            (None, "does not exist", "checkpoint"),
        ],
        ids=["other keys", "nested other keys", "pickle", "bytes", "missing"],
    )
    def test_of_a_checkpoint(
        self, content: Any, named: str, remedy: str, spleen: Path, cohort: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "weights.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        for name, ids in (("in", "case_0\ncase_1\n"), ("out", "case_2\ncase_3\n")):
            (tmp_path / f"{name}.txt").write_text(ids)
        message = refused(
            spleen, cohort, tmp_path / "audit", "--checkpoint", str(path), "--members", str(tmp_path / "in.txt"),
            "--nonmembers", str(tmp_path / "out.txt"), *QUICK,
        )  # fmt: skip
        assert named in message
        assert remedy in message

    def test_of_a_checkpoint_that_is_not_there(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        message = refused(spleen, cohort, tmp_path / "out", "--members", "a", "--nonmembers", "b")
        assert "--checkpoint FILE" in message

    def test_of_an_override(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        assert "ID=VALUE" in refused(spleen, cohort, tmp_path / "out", "--set", "device")

    def test_of_an_override_of_nothing(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        assert "'no_id#such'" in refused(spleen, cohort, tmp_path / "out", "--set", "no_id#such=1")

    def test_an_override_goes_where_its_id_is(self, spleen: Path) -> None:
        found = inspect_bundle(
            spleen, overrides={"train::trainer::max_epochs": 7, "inferer#overlap": 0.25, "device": "x"}
        )
        assert (found.train_overrides["train#trainer#max_epochs"], found.train_overrides["device"]) == (7, "x")
        assert (found.inference_overrides["inferer#overlap"], found.inference_overrides["device"]) == (0.25, "x")
        assert "inferer#overlap" not in found.train_overrides
        assert "train#trainer#max_epochs" not in found.inference_overrides

    def test_of_an_output_inside_the_bundle(self, spleen: Path, cohort: Path) -> None:
        assert "outside the bundle" in refused(spleen, cohort, spleen / "audit")


class TestHandlersThatWrite:
    """A training runs without them, however they are written."""

    def of_spleen(self, bundle: Path, handlers: Any) -> Path:
        config = config_of(bundle, "train")
        config["train"]["handlers"] = handlers
        return change(bundle, "train", train=config["train"])

    def test_are_left_out(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        saver = "$monai.handlers.CheckpointSaver(save_dir='saved', save_dict={'n': @network}, save_interval=1)"
        other = of("ignite.handlers.ModelCheckpoint", dirname=str(tmp_path / "saved"), filename_prefix="a")
        self.of_spleen(spleen, [saver, other])
        change(spleen, "train", imports=["$import monai"])
        alone = {one.id for one in inspect_bundle(spleen).executed if not one.runs}
        assert {"train#handlers#0", "train#handlers#1#_target_"} <= alone
        trained(spleen, cohort, tmp_path / "out")
        assert not list(tmp_path.rglob("saved"))
        assert not Path("saved").exists()

    @pytest.mark.parametrize(
        "handler",
        [
            of("ProbMapProducer", output_dir="saved"),
            of("ClassificationSaver", output_dir="saved"),
            of("TensorBoardHandler", log_dir="saved"),
            "$__import__('monai').handlers.CheckpointSaver('saved', {'n': @network})",
            "$StatsHandler() if True else None",
        ],
    )
    def test_however_they_are_written(self, handler: Any) -> None:
        assert is_removed(handler, {})

    @pytest.mark.parametrize(
        "handler", [of("LrScheduleHandler"), of("monai_mia.Stats"), "$StatsHandler", "@StatsHandler("]
    )
    def test_others_stay(self, handler: Any) -> None:
        assert not is_removed(handler, {})

    def test_of_a_list_that_is_referred_to(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        config = config_of(spleen, "train")
        config["train"].pop("handlers")
        config["train"]["trainer"]["train_handlers"] = "@listed"
        saver = of("CheckpointSaver", save_dir=str(tmp_path / "saved"), save_dict={"n": "@network"}, save_final=True)
        change(spleen, "train", train=config["train"], listed=["@saver"], saver=saver)
        trained(spleen, cohort, tmp_path / "out")
        assert not (tmp_path / "saved").exists()

    @pytest.mark.parametrize("handlers", [["@##saver"], ["%train#saver"], "%listed", "@#others"])
    def test_by_a_relative_id_or_a_macro(self, handlers: Any, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        config = config_of(spleen, "train")
        saver = of("CheckpointSaver", save_dir=str(tmp_path / "saved"), save_dict={"n": "@network"}, save_final=True)
        config["train"] |= {"saver": saver, "others": [saver], "handlers": handlers}
        change(spleen, "train", train=config["train"], listed=[saver])
        trained(spleen, cohort, tmp_path / "out")
        assert not (tmp_path / "saved").exists()

    def test_elsewhere_their_name_excuses_nothing(self, spleen: Path) -> None:
        """Only handlers are taken out."""
        code = "$StatsHandler(name=__import__('os').system('touch trap')) and 1"
        data = of("monai.data.Dataset", data=code)
        change(spleen, "train", optimizer=of("torch.optim.Adam", params="$@network.parameters()", lr=code), loss=data)
        assert [one.runs for one in inspect_bundle(spleen).executed if one.code == code] == [True, True]

    def test_in_an_expression_are_refused(self, spleen: Path, cohort: Path, tmp_path: Path) -> None:
        self.of_spleen(spleen, "$[monai.handlers.CheckpointSaver('saved', {})]")
        assert "'train#handlers' must be a list of handlers" in refused(spleen, cohort, tmp_path / "out", *QUICK)


class TestFailingBundle:
    """What a component of the bundle raises is one line, and its traceback is kept in ``private/``."""

    def test_a_crop_larger_than_a_volume(self, spleen: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        cohort = zoo_styles.cohort(tmp_path / "data", n=4, size=6)
        message = refused(spleen, cohort, tmp_path / "out", *QUICK)
        assert "training of 'target' must be possible with configs/train.json" in message
        assert "random crop ROI is larger than the image size" in message
        assert "in RandCropByPosNegLabeld" in message
        assert "terminating" not in caplog.text  # it is told once
        kept = Path(message.rpartition("cohort. ")[2].removesuffix(" has the traceback."))
        assert kept.is_relative_to(tmp_path / "out" / "private")
        assert kept.read_text().startswith("Traceback")

    def test_an_inferer_that_fails(self, tmp_path: Path) -> None:
        bundle, _ = oracle(tmp_path / "bundle", 2, [of("LoadImaged", keys="image", ensure_channel_first=True)])
        change(bundle, "inference", inferer=of("SlidingWindowInferer", roi_size=[4, 4], sw_batch_size=1))
        cohort = drawn(tmp_path / "data")
        for name, ids in (("in", (0, 1)), ("out", (2, 3))):
            (tmp_path / f"{name}.txt").write_text("".join(f"case_{n}\n" for n in ids))
        message = refused(
            bundle, cohort, tmp_path / "out", "--members", str(tmp_path / "in.txt"), "--nonmembers",
            str(tmp_path / "out.txt"), "--n_jobs", "1",
        )  # fmt: skip
        assert "querying of 'target' must be possible with configs/inference.json" in message


class TestBadCases:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """Ten patients; one reference has a class that the network lacks, one image is torn."""
        cohort = zoo_styles.cohort(tmp_path / "data", n=10, size=8, relabel=lambda label: label > 0)
        label = tmp_path / "data" / "labels" / "case_1.nii.gz"
        values = np.asarray(nib.load(label).dataobj).copy()
        values[0, 0, 0] = 9
        write_volume(label, values, np.eye(4))
        image = tmp_path / "data" / "images" / "case_7_0.nii.gz"
        image.write_bytes(image.read_bytes()[:200])
        return cohort

    def test_are_all_named(self, data: Path, spleen: Path, tmp_path: Path) -> None:
        message = refused(spleen, data, tmp_path / "out", *QUICK)
        assert "case_1: label must hold integers in [0, 3), got 9" in message
        assert "case_7: image" in message
        assert "skip_bad" in message
        assert not (tmp_path / "out" / "private" / "models").exists()

    def test_are_left_out_if_the_user_says_so_and_counted(self, data: Path, tmp_path: Path) -> None:
        reading = [of("LoadImaged", keys="image", ensure_channel_first=True)]
        bundle, _ = oracle(tmp_path / "bundle", 2, reading)
        for name, ids in (("in", range(5)), ("out", range(5, 10))):
            (tmp_path / f"{name}.txt").write_text("".join(f"patient_{n}\n" for n in ids))
        report = audit(
            bundle, data, tmp_path / "audit", "--members", str(tmp_path / "in.txt"), "--nonmembers",
            str(tmp_path / "out.txt"), "--skip_bad", "--n_jobs", "1",
        )  # fmt: skip
        assert report["design"]["left_out"] == {"either": 2}  # which sides they are of is not told of so few
        assert (report["design"]["n_member"], report["design"]["n_nonmember"]) == (4, 4)
        page = (tmp_path / "audit" / "report" / "index.html").read_text()
        assert "2 of either side" in page
        assert "case_7" not in page
        kept = (tmp_path / "audit" / "private" / "left_out.csv").read_text().splitlines()
        assert [line.split(",")[:3] for line in kept[1:]] == [
            ["case_1", "patient_1", "member"],
            ["case_7", "patient_7", "nonmember"],
        ]

    def test_of_a_dicom_tree_are_counted_too(self, tmp_path: Path) -> None:
        """One series with a torn slice, one whose reference is torn; that is two scans."""
        names = {1: "Organ", 2: "Core"}
        for n in range(10):
            image, label = phantom(12, 0, n)
            for scan in ("a", "b") if n == 3 else ("a",):
                slices = series(np.round(image), np.eye(4), patient=f"P{n}", seed=n)
                folder = tmp_path / "tree" / f"{n}{scan}"
                save([*slices, segmentation(slices, label, names)], folder)
        torn = [tmp_path / "tree" / "3b" / "i002.dcm", *(tmp_path / "tree" / "7a").glob("i012.dcm")]
        for path in torn:
            path.write_bytes(path.read_bytes()[:200])
        reading = [of("LoadImaged", keys="image", ensure_channel_first=True)]
        bundle, _ = oracle(tmp_path / "bundle", 2, reading)
        for name, ids in (("in", range(5)), ("out", range(5, 10))):
            (tmp_path / f"{name}.txt").write_text("".join(f"P{n}\n" for n in ids))
        options = ("--members", str(tmp_path / "in.txt"), "--nonmembers", str(tmp_path / "out.txt"), "--n_jobs", "1")
        given = (*options, "--labels", "{organ: 1}")
        assert "3 that are not" in refused(bundle, tmp_path / "tree", tmp_path / "audit", *given)
        report = audit(bundle, tmp_path / "tree", tmp_path / "audit", *given, "--skip_bad")
        assert report["design"]["left_out"] == {"either": 2}  # which sides they are of is not told of so few
        assert (report["design"]["n_member"], report["design"]["n_nonmember"]) == (5, 4)
        written = (tmp_path / "audit" / "report" / "report.json").read_text()
        assert not any(f"P{n}" in written for n in range(10))
        assert "labels must give an integer" in refused(
            bundle, tmp_path / "tree", tmp_path / "other", *options, "--labels", "organ"
        )
