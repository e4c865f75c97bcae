# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The design of a study is a secret: no seed, known or tried, tells who was a member; its owner can prove it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adversaries import SEEDS, agreements, recovers_nothing
from conftest import KEY, environment, small_study

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.comparison import Comparison
from monai_mia.data import phantom_cohort
from monai_mia.errors import InputError
from monai_mia.records import Design, StudyFolder, files
from monai_mia.records.streams import Stream, stream
from monai_mia.statistics import Resampling
from monai_mia.studies import ComparisonStudy, Study
from monai_mia.studies.defences import Defence, DefenceStudy
from monai_mia.studies.dp_audit import one_run_audit
from monai_mia.studies.false_positives import FalsePositiveStudy

LARGE = [{"case_id": f"c{n:03d}", "patient_id": f"p{n:03d}", "image": "i", "label": "l"} for n in range(60)]


def test_the_adversary_would_recover_a_design_that_followed_from_its_seed() -> None:
    """Else the tests below would show nothing: with a key that comes to mind, all members are recovered."""
    design = Design.randomised(LARGE, 8, 0, key=bytes(32))
    assert agreements(LARGE, design).min(axis=1).max() == 1
    assert not recovers_nothing(LARGE, design)


def test_without_the_key_no_seed_tells_anything() -> None:
    """Of 60 patients and 9 models, balanced agreement is that of chance for each model, and the best guess is poor."""
    design = Design.randomised(LARGE, 8, 0, key=KEY)
    found = agreements(LARGE, design)
    assert recovers_nothing(LARGE, design)
    assert found.mean(axis=0) == pytest.approx(0.5, abs=4 * 0.065 / np.sqrt(len(found)))
    assert found.max() < 0.75  # of 300 guesses, 9 models each


def test_of_an_audit(study: Study, cohort: Any) -> None:
    content = files.read_json(study.folder.report / "report.json")
    assert content["design"]["seed"] in SEEDS
    assert recovers_nothing(cohort, study.folder.design())


def test_of_a_comparison(cohort: Any, tmp_path: Path) -> None:
    comparison = Comparison(lambda _: [GlobalLoss()], budgets=[2], resampling=Resampling(n_resamples=50))
    ComparisonStudy(small_study(cohort, tmp_path, targets=2), comparison).run()
    assert recovers_nothing(cohort, StudyFolder(tmp_path).design())


def test_of_a_defence_study_and_of_false_positives_with_held_out_patients(tmp_path: Path) -> None:
    """All their studies have one design, and one key, drawn by the whole."""
    cohort = phantom_cohort(tmp_path / "phantoms", 12, size=16, seed=0)
    study = small_study(cohort, tmp_path / "out", held_out=0.3, key_file=None)
    defences = DefenceStudy(study, [Defence("argmax", release="mask")], resampling=Resampling(n_resamples=50))
    FalsePositiveStudy(defences, []).defences.train_and_query()
    designs = [one.folder.design() for one in defences.studies().values()]
    for design in designs[1:]:
        for model, row in designs[0].member.items():
            np.testing.assert_array_equal(design.member[model], row)
    assert {one.folder.key() for one in defences.studies().values()} == {study.folder.key()}
    apart = {case["patient_id"] for case in study.held_out_cases()}
    assert len(apart) == 4
    assert not apart & {*designs[0].patient_ids}
    # Nor are the held-out patients those of a seed: the same seed and another key hold out others.
    others = [small_study(cohort, tmp_path / str(n), held_out=0.3, key_file=None).held_out_cases() for n in range(8)]
    assert len({frozenset(case["patient_id"] for case in drawn) for drawn in others}) > 1


def test_of_an_audit_of_dp() -> None:
    """Whose coins say which canaries were in."""
    coins: list[np.ndarray] = []

    def train(member: np.ndarray, _: int) -> np.ndarray:
        coins.append(member)
        return np.zeros(len(member))

    one_run_audit(train, 200, 1.0, 1e-5, key=KEY)
    guesses = [stream(Stream.DP_COINS, seed).random(200) < 0.5 for seed in SEEDS]
    agreed = np.array([(guess == coins[0]).mean() for guess in guesses])
    assert abs(agreed.mean() - 0.5) < 4 * agreed.std() / np.sqrt(len(agreed))
    assert agreed.max() < 0.7


def test_the_same_seed_and_key_give_the_same_study_and_another_key_another(
    study: Study, cohort: Any, tmp_path: Path
) -> None:
    """Members, weights and all; a study that is given none draws its own."""
    again, other = small_study(cohort, tmp_path / "again"), small_study(cohort, tmp_path / "other", key_file=None)
    for one in (again, other):
        one.record()
    first, second, third = (one.folder.design() for one in (study, again, other))
    assert all((first.member[model] == second.member[model]).all() for model in first.model_ids)
    assert any((first.member[model] != third.member[model]).any() for model in first.model_ids)
    seeds = [[one.folder.trained(model)["seed"] for model in first.model_ids] for one in (study, again, other)]
    assert seeds[0] == seeds[1]
    assert not {*seeds[0]} & {*seeds[2]}
    assert len({*seeds[0]}) == 3
    assert other.folder.key() != KEY


def test_the_report_commits_to_the_design_and_names_no_key(study: Study) -> None:
    content = files.read_json(study.folder.report / "report.json")
    assert content["design"]["commitment"] == study.folder.design().commitment(KEY)
    assert study.folder.about()["identity"]["commitment"] == content["design"]["commitment"]
    for path in [study.folder.study_file, *study.folder.report.rglob("*")]:
        if path.is_file():
            assert KEY.hex().encode() not in path.read_bytes(), path
            assert KEY not in path.read_bytes(), path


def verified(report: Path, design: Path, key: Path) -> subprocess.CompletedProcess[str]:
    words = ["verify", "--report", str(report), "--design", str(design), "--key", str(key)]
    command = [sys.executable, "-m", "monai_mia", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


def test_an_auditor_who_is_shown_the_key_can_check(study: Study, tmp_path: Path) -> None:
    shown = Path(shutil.copytree(study.output_dir, tmp_path / "shown"))
    folder = StudyFolder(shown)
    files_shown = (folder.report / "report.json", folder.design_file, folder.key_file)
    done = verified(*files_shown)
    assert done.returncode == 0, done.stderr
    assert "in 3 models, follows from seed 0 and the key" in done.stdout
    # Another key, and a report of which the commitment was changed.
    files.write(folder.key_file, bytes(32).hex())
    done = verified(*files_shown)
    assert done.returncode == 1
    assert done.stderr.startswith("monai_mia: key and design must fit the commitment")
    assert len(done.stderr.strip().splitlines()) == 1
    files.write(folder.key_file, KEY.hex())
    content = json.loads(files_shown[0].read_text())
    content["design"]["commitment"] = "0" * 64
    files.write(files_shown[0], json.dumps(content))
    assert verified(*files_shown).returncode == 1
    # The study itself does not go on with a key that it did not commit itself to.
    files.write(folder.key_file, bytes(32).hex())
    small = small_study(list(study.cases()), shown, key_file=None)
    with pytest.raises(InputError, match=r"design.key must fit the commitment in study.json"):
        small.run()
