# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What several test files share: the shipped bundles, a small cohort, a small study."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import fire
import pytest
from monai.bundle import run
from monai.utils import set_determinism

from monai_mia import attacks
from monai_mia.audit.audit import Audit
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.report import check_report
from monai_mia.data import phantom_cohort
from monai_mia.records import files
from monai_mia.statistics import Resampling
from monai_mia.studies import Recipe, Resources, Study

ROOT = Path(__file__).resolve().parent.parent
BUNDLES = ROOT / "bundles"
PHANTOM = BUNDLES / "phantom_unet3d"
HIPPOCAMPUS = BUNDLES / "hippocampus_unet3d"
SLICES = BUNDLES / "hippocampus_unet2d"

#: The key of tests, so that the designs that they draw are the same each time.
KEY = bytes(range(32))
#: A file with it.
KEY_FILE = ROOT / "tests" / "design.key"

#: Overrides that make the phantom bundle's network small enough for a test.
SMALL = {"network_def#channels": [4, 8, 8]}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that passes once passes always: weights and inputs that it leaves to chance are the same each time."""
    set_determinism(0)


@pytest.fixture(scope="session", autouse=True)
def reports_follow_their_schema() -> Iterator[None]:
    """Every report.json that a test makes is checked, as it can be read after it was written."""
    write = files.write_json

    def checked(path: Any, content: Any, private: bool = True) -> Path:
        written = write(path, content, private)
        if written.name == "report.json":
            check_report(files.read_json(written))
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_json", checked)
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Nine patients, twelve cases of 16 voxels an edge."""
    return phantom_cohort(tmp_path_factory.mktemp("cohort"), n_patients=9, size=16, seed=0)


def varied(study: Study, **options: Any) -> Study:
    """The study with other options, each given by its own name, of whichever of its parts."""
    parts = {}
    for name in ("recipe", "recording", "resources"):
        part = options.pop(name, getattr(study, name))
        own = {one.name: options.pop(one.name) for one in fields(part) if one.name in options}
        parts[name] = replace(part, **own)
    return replace(study, **parts, **options)


def small_study(cohort: Any, output_dir: Path, /, **options: Any) -> Study:
    """A study that takes seconds: two epochs, two shadows, one process, a known key; options by their own names."""
    recipe = Recipe(str(PHANTOM), train_overrides={**SMALL, "train#trainer#max_epochs": 2}, inference_overrides=SMALL)
    audit = Audit(
        [attacks.GlobalLoss(), attacks.EverySignal(), attacks.DifficultyCalibration()],
        resampling=Resampling(n_resamples=200),
        n_permutations=200,
        disclosure=Disclosure(1),  # a handful of patients, of whom nothing would be told
    )
    parts = {"key_file": str(KEY_FILE), "resources": Resources(n_jobs=1)}
    study = Study(recipe, cohort, str(output_dir), audit, shadows=2, **parts)
    return varied(study, **options)


@pytest.fixture(scope="session")
def study(cohort: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished small study; treat its folder as read-only."""
    finished = small_study(cohort, tmp_path_factory.mktemp("study") / "out")
    finished.run()
    return finished


def run_bundle(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle`` as a user would call it."""
    command = [sys.executable, "-m", "monai.bundle", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    if check:
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def bundle_here(*arguments: str) -> None:
    """The same command in this process, which has imported what it needs; a process of its own is seconds slower."""
    fire.Fire({"run": run}, command=[*arguments, "--logging_file", "False"], name="monai.bundle")


def environment() -> dict[str, str]:
    """The environment of a subprocess: this checkout first, one thread."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def hashes() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of every file below a folder."""

    def of(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }

    return of
