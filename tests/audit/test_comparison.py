# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The comparison of attacks over several targets: known answers, intervals, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KEY
from oracles import mann_whitney

from monai_mia.attacks import DifficultyCalibration, EverySignal, GlobalLoss, LiRA
from monai_mia.audit.comparison import Comparison, ComparisonResult
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.report import write_comparison
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.folder import StudyFolder
from monai_mia.records.image_statistics import write_statistics
from monai_mia.records.table import write_signals
from monai_mia.statistics import Estimate, Resampling


def simulated(folder: Path, delta: float = 1.0, n: int = 80, offset: float = 0.0, seed: int = 0) -> StudyFolder:
    cases = [{"case_id": f"c{k:03d}", "patient_id": f"p{k // 2:03d}", "image": "i", "label": "l"} for k in range(n)]
    design = Design.randomised(cases, shadows=4, seed=seed, targets=4, key=KEY)
    files.private_folder(folder / "private" / "signals")
    design.write(folder / "private" / "design.csv")
    statistics = [
        {"case_id": c["case_id"], "stamp": "", "fingerprint": "", "voxels": "", "mean": 0.0, "deviation": 0.0}
        for c in cases
    ]
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1, n)
    for number, model in enumerate(design.model_ids):
        inside = np.array([case["member"] for case in design.queries(model)])
        values = difficulty + delta * inside + rng.normal(0, 1, n) + offset * number
        columns = {name: values + rng.normal(0, 0.1, n) for name in ("log_likelihood", "log_odds_foreground")}
        write_signals(
            folder / "private" / "signals" / f"{model}.csv", model, [c["case_id"] for c in cases],
            [c["patient_id"] for c in cases], list(map(bool, inside)), columns, {},
        )  # fmt: skip
    write_statistics(folder / "private" / "image_statistics.csv", statistics)
    return StudyFolder(folder)


def attacks(n_shadow: int) -> list[Any]:
    more = [LiRA("log_likelihood")] if n_shadow >= 3 else []
    return [GlobalLoss(), EverySignal(), DifficultyCalibration("log_likelihood"), *more]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return simulated(tmp_path_factory.mktemp("comparison"), delta=2.0)


def compare(folder: StudyFolder, **options: Any) -> ComparisonResult:
    given: dict[str, Any] = {"budgets": (2, 4), "resampling": Resampling(n_resamples=200), "references": ("LiRA online, pooled variance: log_likelihood",)}  # fmt: skip # noqa: E501
    return Comparison(**{"attacks": attacks, **given, **options}).score(folder.recorded())


def test_what_is_shared(study: StudyFolder, tmp_path: Path):
    """Few rows, rounded, without the AUC of single targets; and the files say what is not told."""
    result = compare(study)
    told = result.shared(Disclosure(10))
    assert 0 < len(told.rows) <= min(3 * result.targets, len(result.rows))
    assert (told.rows[0].name, told.rows[0].n_shadow) in {(row.name, row.n_shadow) for row in result.rows}
    assert set(told.withheld) | {row.name for row in told.rows} == {row.name for row in result.rows}
    assert all(row.target_aucs == () and row.transferred is None for row in told.rows)
    assert all(row.auc.value == round(row.auc.value, 3) for row in told.rows)
    assert all(rate is None for row in told.rows for fpr, rate in row.tpr_at_fpr.items() if fpr * result.patients < 20)
    assert result.shared(Disclosure(1)) == result
    comparison = Comparison(attacks, budgets=(2, 4), resampling=Resampling(n_resamples=200))
    for min_cell in (10, 10_000):
        write_comparison(result, comparison, tmp_path, Disclosure(min_cell))
        content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
        assert len(content["rows"]) == (len(told.rows) if min_cell == 10 else 0)
        withheld = {row.name for row in result.rows} - {row["name"] for row in content["rows"]}
        assert set(content["withheld"]) == withheld
        assert bool(withheld) == ("No number is told of" in (tmp_path / "comparison.md").read_text())
        assert "nan" not in (tmp_path / "comparison.md").read_text()


def test_rows_and_their_aucs(study: StudyFolder):
    result = compare(study)
    assert [(row.name, row.n_shadow) for row in result.rows if row.n_shadow == 0] == [
        (row.name, 0) for row in sorted((r for r in result.rows if r.n_shadow == 0), key=lambda r: -r.auc.value)
    ]
    assert {row.n_shadow for row in result.rows} == {0, 2, 4}
    design = study.design()
    table = study.table()
    (row,) = [row for row in result.rows if row.name == "global loss"]
    for target, auc in zip(design.targets, row.target_aucs, strict=True):
        values = table.signal("log_likelihood", target).reshape(-1, 2).mean(axis=1)
        assert auc == pytest.approx(mann_whitney(values, table.members(target)[::2]))
    assert row.auc.value == pytest.approx(np.mean(row.target_aucs))
    assert row.auc.low < row.auc.value < row.auc.high
    assert result.targets == 4
    assert result.patients == 40
    assert result.resolution == pytest.approx(1 / 80)
    assert row.tpr_at_fpr[0.01] is None  # 80 non-members in all cannot tell it
    assert row.tpr_at_fpr[0.05] is not None


def test_gains_are_over_the_reference_on_the_same_resamples(study: StudyFolder):
    result = compare(study)
    name, count = result.reference or ("", 0)
    assert (name, count) == ("LiRA online, pooled variance: log_likelihood", 4)
    itself = result.gains[name, count]
    assert itself["auc"] == Estimate(0.0, 0.0, 0.0)
    assert itself["tpr_ratio"].value == 1.0
    assert result.gains["global loss", 0]["auc"].value < 0


def test_whole_models_that_differ_share_no_threshold_but_for_the_standardisation(tmp_path: Path):
    apart = compare(simulated(tmp_path / "apart", delta=4.0, offset=50.0))
    (row,) = [row for row in apart.rows if row.name == "global loss"]
    assert row.tpr_at_fpr[0.1].value > 0.5  # pooled raw scores would tell targets apart, not members


def test_null(tmp_path: Path):
    result = compare(simulated(tmp_path, delta=0.0))
    for row in result.rows:
        assert row.auc.low < 0.5 < row.auc.high, row.name


def test_files(study: StudyFolder):
    comparison = Comparison(attacks, budgets=(2, 4), resampling=Resampling(n_resamples=200))
    folder = write_comparison(comparison.score(study.recorded()), comparison, study.report) or study.report
    stored = json.loads((folder / "comparison.json").read_text())
    assert stored["targets"] == 4
    text = (folder / "comparison.md").read_text()
    assert "| 4 | LiRA online, pooled variance: log_likelihood |" in text
    assert (folder / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("comparison.json", "comparison.md"):
        assert "p000" not in (folder / name).read_text()
        assert str(study.root) not in (folder / name).read_text()


def test_scores_are_kept_and_only_what_is_new_is_computed(tmp_path: Path):
    study = simulated(tmp_path)
    first = compare(study)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "private/comparison").glob("*.csv")}
    calls = []

    class Counted(LiRA):
        def __call__(self, view: Any) -> Any:
            calls.append(self.name)
            return super().__call__(view)

    again = compare(study, attacks=lambda n: attacks(n))
    assert [row.auc for row in again.rows] == [row.auc for row in first.rows]
    more = {"attacks": lambda n: [*attacks(n), Counted("log_odds_foreground", mode="offline")], "budgets": (4,)}
    compare(study, **more)
    assert len(calls) == 4  # one a target
    compare(study, **more)
    assert len(calls) == 4
    for name, content in kept.items():
        assert (tmp_path / "private/comparison" / name).read_bytes() == content
    # Other signals, other scores.
    path = tmp_path / "private/signals/shadow_00.csv"
    about = files.read_json(path.with_suffix(".json"))
    files.write_json(path.with_suffix(".json"), {**about, "sha256": "0" * 64})
    compare(study, **more)
    assert len(calls) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": ()}, "budgets must be"),
        ({"budgets": (0,)}, "budgets must be"),
        ({"budgets": (8,)}, "shadows must be at least 8"),
        ({"references": ("no such attack",)}, "references must be names"),
        ({"headline_fpr": 0.2}, "headline_fpr must be one of fprs"),
        ({"attacks": lambda n: [LiRA(variance="case")], "references": ()}, "budgets must be at least 4 for attack"),
        ({"attacks": lambda n: [GlobalLoss(), GlobalLoss()], "references": ()}, "different names"),
    ],
)
def test_what_cannot_be_compared_is_refused(study: StudyFolder, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        compare(study, **options)


def test_canaries_are_no_patients(tmp_path: Path):
    study = simulated(tmp_path)
    about = files.read_json(tmp_path / "private/design.json")
    files.write_json(tmp_path / "private/design.json", {**about, "canaries": ["lesion"]})
    with pytest.raises(InputError, match="without canaries"):
        compare(study)


def test_nothing_recorded(tmp_path: Path):
    with pytest.raises(InputError, match="design must be"):
        StudyFolder(tmp_path).recorded()
