# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The shipped bundles, as a user would run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import BUNDLES, HIPPOCAMPUS, PHANTOM, ROOT, SLICES, bundle_here, environment, run_bundle
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out

from monai_mia.__main__ import main
from monai_mia.data import phantom_cohort
from monai_mia.data.cohorts import case_name
from monai_mia.records.files import shipped_bundles
from monai_mia.records.table import SignalTable

DATA = ROOT.parent / "shared" / "data" / "hippocampus"
Hashes = Callable[[Path], dict[str, str]]


@pytest.fixture(params=[PHANTOM, HIPPOCAMPUS, SLICES], ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writable copy of the phantom bundle with its phantoms, trained for one epoch."""
    folder = tmp_path_factory.mktemp("bundle") / "phantom_unet3d"
    shutil.copytree(PHANTOM, folder)
    phantom_cohort(folder / "phantoms", n_patients=60)  # what the bundle's config asks for
    bundle_here(
        "run", "--config_file", str(folder / "configs/train.json"), "--bundle_root", str(folder),
        "--train#trainer#max_epochs", "1", "--val_interval", "1",
    )  # fmt: skip
    return folder


def test_files(bundle: Path) -> None:
    for name in (
        "LICENSE", "docs/README.md", "configs/metadata.json", "configs/train.json", "configs/evaluate.json",
        "configs/inference.json", "configs/audit.yaml", "configs/multi_gpu_train.json", "configs/logging.conf",
    ):  # fmt: skip
        assert (bundle / name).is_file(), name


def test_metadata(bundle: Path, tmp_path: Path) -> None:
    """MONAI validates against a schema file that is at hand, instead of downloading it."""
    schema = tmp_path / "schema.json"
    shutil.copy(ROOT / "tests" / "generators" / "metadata_schema.json", schema)
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(schema))
    content = json.loads((bundle / "configs/metadata.json").read_text())
    assert content["version"] in content["changelog"]
    assert content["name"] == bundle.name


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_network_fits_its_metadata(bundle: Path, config: str) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs" / config),
        device="cpu",
    )


@pytest.mark.parametrize(("config", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_standard_properties(bundle: Path, config: str, kind: str) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / config), workflow_type=kind, logging_file=False, bundle=str(bundle)
    )
    workflow.parser.parse(True)
    missing = [
        name for name, prop in workflow.properties.items() if prop["required"] and prop["id"] not in workflow.parser
    ]
    assert not missing


def test_train_and_inference_agree(bundle: Path) -> None:
    train, inference = (
        json.loads((bundle / "configs" / f"{name}.json").read_text()) for name in ("train", "inference")
    )
    assert train["network_def"] == inference["network_def"]


def test_it_trains_evaluates_and_infers(copy: Path, tmp_path: Path) -> None:
    weights = torch.load(copy / "models/model.pt", weights_only=True)
    assert not [name for name in weights if name.startswith("module.")]
    root = ["--bundle_root", str(copy), "--output_dir", str(tmp_path)]
    configs = f"['{copy / 'configs/train.json'}','{copy / 'configs/evaluate.json'}']"
    bundle_here("run", "--config_file", configs, *root)
    assert "val_mean_dice" in (tmp_path / "metrics.csv").read_text()
    bundle_here("run", "--config_file", str(copy / "configs/inference.json"), *root)
    assert list(tmp_path.rglob("phantom_*_trans.nii.gz"))


def test_it_trains_on_several_devices(copy: Path) -> None:
    """Two processes on a CPU; on GPUs the same config uses nccl.

    On a CPU ``finalize`` waits a second: a worker thread of gloo that lets go of its tensors while Python ends aborts
    the process (pytorch/pytorch#179291), as it did in 8 of 25 runs on a loaded machine.
    """
    configs = f"['{copy / 'configs/train.json'}','{copy / 'configs/multi_gpu_train.json'}']"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "monai.bundle", "run", "--config_file", configs, "--bundle_root", str(copy),
        "--ckpt_dir", str(copy / "several"), "--train#trainer#max_epochs", "1", "--val_interval", "1",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    weights = torch.load(copy / "several/model.pt", weights_only=True)
    assert not [name for name in weights if name.startswith("module.")]


def test_phantom_audit_as_a_command(tmp_path: Path, hashes: Hashes) -> None:
    """README's first command, smaller."""
    before = hashes(BUNDLES)
    result = run_bundle(
        "run", "--config_file", str(PHANTOM / "configs/audit.yaml"), "--output_dir", str(tmp_path / "out"),
        "--patients", "6", "--shadows", "2", "--n_jobs", "1",
        "--study#epochs", "1",
    )  # fmt: skip
    assert "AUC [95% interval]" in result.stderr + result.stdout
    assert "Verdict: INCONCLUSIVE" in result.stderr + result.stdout
    assert str(tmp_path / "out/report/index.html") in result.stderr + result.stdout
    assert hashes(BUNDLES) == before


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the hippocampus volumes in {DATA.relative_to(ROOT.parent)}")
@pytest.mark.parametrize(("root", "shadows"), [(HIPPOCAMPUS, 0), (HIPPOCAMPUS, 2), (SLICES, 1)])
def test_hippocampus_audit_on_a_few_real_volumes(tmp_path: Path, root: Path, shadows: int) -> None:
    content = json.loads((DATA / "dataset.json").read_text())
    chosen = [item for item in content["training"] if item["patient_id"] <= "subject_012"]
    (tmp_path / "data").mkdir()
    for item in chosen:
        for key in ("image", "label"):
            item[key] = str((DATA / item[key]).resolve())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"training": chosen}))
    bundle_here(
        "run", "--config_file", str(root / "configs/audit.yaml"), "--dataset_dir", str(tmp_path / "data"),
        "--output_dir", str(tmp_path / "out"), "--shadows", str(shadows), "--n_jobs", "1",
        "--study#epochs", "1",
    )  # fmt: skip
    table = SignalTable.read(tmp_path / "out/private/signals")
    assert set(table.case_ids) == {case_name(item["image"]) for item in chosen}
    assert len(set(table.patient_ids)) < len(table.case_ids)
    report = json.loads((tmp_path / "out/report/report.json").read_text())
    assert report["design"]["n_shadow"] == shadows
    assert report["unit"] == "patient"


@pytest.mark.parametrize("learned", [True, False])
def test_the_attack_study_lists_its_attacks(learned: bool) -> None:
    folder = shipped_bundles() / "hippocampus_unet3d"
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "attack_study.yaml")
    parser["dataset_dir"], parser["learned"] = "nowhere", learned
    comparison = parser.get_parsed_content("comparison")
    comparison.check(16, True)
    names = [attack.name for attack in comparison.listed(16)]
    assert set(comparison.references) < set(names)
    assert ("calibrated maps" in names) == learned
    # What is listed is recorded: the plain signals and those that the study asks for.
    recorded = {"agreement", "robust_dice", "negative_influence", "predictability", "third_probability"}
    assert recorded < {signal for attack in comparison.listed(1) for signal in attack.signals} | {"predictability"}


def test_bundles_are_found(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bundles"])
    assert str(shipped_bundles() / bundle.name) in capsys.readouterr().out.splitlines()


def test_bundles_are_in_the_wheel(tmp_path: Path) -> None:
    """Built from a copy without weights or results, as a release would be."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "audit_*", "__pycache__", ".*_cache", "models"))
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    if "No module named 'hatchling'" in done.stderr:
        pytest.fail("hatchling must be installed with the test extra")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("phantom_unet3d/configs/audit.yaml", "hippocampus_unet3d/configs/train.json"):
        assert f"monai_mia/bundles/{name}" in names
    assert "monai_mia/audit/report/page.html" in names
    assert "monai_mia/py.typed" in names
    assert not [name for name in names if name.endswith((".pt", ".nii.gz"))]
