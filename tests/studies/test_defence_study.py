# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The defence study: shared trainings, both adversaries, its report, what is refused; and the utility signals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_study

from monai_mia.attacks import Threshold
from monai_mia.audit.comparison import DefenceStudyResult
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.disclosure.archive import report_leaks
from monai_mia.audit.report import write_defences
from monai_mia.data import phantom_cohort
from monai_mia.errors import InputError
from monai_mia.signals.quality import Utility
from monai_mia.statistics import Estimate, Resampling
from monai_mia.studies import Released
from monai_mia.studies.defences import Defence, DefenceStudy

MASK = Defence("argmax", release="mask")
SHORT = Defence("early stop", train_overrides={"train#trainer#max_epochs": 1})


def defence_study(cohort: Any, folder: Path, defences: Any = (MASK, SHORT), **options: Any) -> DefenceStudy:
    study = small_study(cohort, folder, shadows=2, targets=2, signals=(Utility(),), **options)
    return DefenceStudy(study, defences, resampling=Resampling(n_resamples=100))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[DefenceStudy, DefenceStudyResult]:
    """Treat its folder as read-only."""
    folder = tmp_path_factory.mktemp("defences")
    cohort = phantom_cohort(folder / "phantoms", 12, size=16, seed=0)
    study = defence_study(cohort, folder / "out", seed=1)  # with which an attack on shadows is the best
    return study, study.run()


class TestStudy:
    """A finished one."""

    @pytest.mark.parametrize("min_cell", [2, 100])
    def test_what_is_shared(
        self, finished: tuple[DefenceStudy, DefenceStudyResult], tmp_path: Path, min_cell: int
    ) -> None:
        """All rows, rounded, without rates of too few; none where a side is too small."""
        _, result = finished
        told = result.shared(Disclosure(min_cell))
        assert len(told.rows) == (len(result.rows) if min_cell == 2 else 0)
        for row in told.rows:
            assert row.adaptive.tpr is None  # 5 % of 6 non-members
            assert row.adaptive.auc.value == round(row.adaptive.auc.value, 3)
        write_defences(result, tmp_path, Disclosure(min_cell))
        content = json.loads((tmp_path / "defences.json").read_text(), parse_constant=pytest.fail)
        assert len(content["rows"]) == len(told.rows)

    def test_report_names_nobody(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        study, _ = finished
        assert report_leaks(study.study.output_dir) == []

    def test_rows(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        _, result = finished
        assert [(row.name, row.release) for row in result.rows] == [
            ("none", "logits"), ("argmax", "mask"), ("early stop", "logits")
        ]  # fmt: skip
        assert (result.targets, result.shadows, result.patients) == (2, 2, 12)

    def test_trainings_are_shared(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        """An output defence asks the undefended models; another training has its own."""
        folder = Path(finished[0].study.output_dir) / "private/models"
        assert len(list(folder.iterdir())) == 2
        assert len(list(folder.glob("*/*/model.pt"))) == 2 * 4
        epochs = {json.loads(path.read_text())["epochs"] for path in folder.glob("*/*/model.json")}
        assert epochs == {1, 2}

    def test_without_a_defence_both_adversaries_are_one(
        self, finished: tuple[DefenceStudy, DefenceStudyResult]
    ) -> None:
        row = finished[1].rows[0]
        assert row.adaptive == row.non_adaptive
        assert row.adaptive.auc_change == Estimate(0.0, 0.0, 0.0)

    def test_masks_keep_the_dice_and_have_no_calibration(
        self, finished: tuple[DefenceStudy, DefenceStudyResult]
    ) -> None:
        none, argmax, _ = finished[1].rows
        assert argmax.utility["dice"] == none.utility["dice"]
        assert argmax.utility["negative_hd95"] == none.utility["negative_hd95"]
        assert "negative_calibration_error" in none.utility
        assert "negative_calibration_error" not in argmax.utility
        assert "dice" in argmax.adaptive.attack

    def test_the_unaware_adversary_has_undefended_shadows(
        self, finished: tuple[DefenceStudy, DefenceStudyResult]
    ) -> None:
        """The best non-adaptive attack on early stopping, computed by hand from both tables."""
        study, result = finished
        row = result.rows[2]
        assert row.non_adaptive != row.adaptive
        defended, plain = (study._study_of(defence).folder.recorded() for defence in (SHORT, Defence("none")))
        mixed = defended.with_shadows_of(plain, defended.scores)
        for name, origin in (("target", defended), ("shadow_00", plain)):
            assert mixed.hashes[name] == origin.hashes[name]
            np.testing.assert_array_equal(mixed.table.signal("dice", name), origin.table.signal("dice", name))

    def test_report(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        study, result = finished
        folder = Path(study.study.output_dir) / "report"
        content = json.loads((folder / "defences.json").read_text())
        assert [row["name"] for row in content["rows"]] == ["none", "argmax", "early stop"]
        assert content["rows"][0]["adaptive"]["auc"]["value"] == result.rows[0].adaptive.auc.value
        assert (folder / "defences.png").stat().st_size > 10_000
        page = (folder / "defences.html").read_text(encoding="utf-8")
        for word in ("early stop", "adversary", "calibration error", "base64"):
            assert word in page
        for path in folder.iterdir():
            assert b"phantom_0" not in path.read_bytes()
            assert str(folder.parent).encode() not in path.read_bytes()
        assert (folder.parent / "private").stat().st_mode & 0o077 == 0

    def test_it_resumes(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        """Nothing is trained, asked or scored again, and the result is the same."""
        study, result = finished
        private = Path(study.study.output_dir) / "private"
        watched = [
            *private.glob("**/model.pt"),
            *private.glob("**/signals/*.csv"),
            *private.glob("**/comparison/*.csv"),
        ]
        before = {path: path.stat().st_mtime_ns for path in watched}
        assert study.run() == result
        assert before == {path: path.stat().st_mtime_ns for path in watched}

    def test_what_is_recorded_can_be_scored(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        """A defence that was not recorded is refused by name, or left out if the user wants what there is."""
        study = replace(finished[0], defences=(MASK, SHORT, Defence("not yet", train_overrides={"x": 1})))
        with pytest.raises(InputError, match="defences must be recorded first, got none of not yet"):
            study.score()

    @pytest.mark.parametrize(
        ("defences", "match"),
        [
            ([MASK, MASK], "different names"),
            ([Defence("None")], "different names, other than 'none'"),
            ([Defence("models")], "must not be named 'models'"),
        ],
    )
    def test_names(self, finished: tuple[DefenceStudy, DefenceStudyResult], defences: Any, match: str) -> None:
        with pytest.raises(InputError, match=match):
            replace(finished[0], defences=defences).check()

    def test_settings(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        study = finished[0]
        with pytest.raises(InputError, match="shadows must be at least 1"):
            replace(study, study=replace(study.study, shadows=0)).check()
        with pytest.raises(InputError, match="checkpoint must be left out"):
            replace(study, study=replace(study.study, target=Released("x.pt", ["a"], ["b"]))).check()


def test_a_perfect_defence_is_seen(finished: tuple[DefenceStudy, DefenceStudyResult], tmp_path: Path) -> None:
    """A known answer: signals that do not depend on membership give an AUC near chance, and the change is the rest."""
    study = finished[0]
    recorded = study._study_of(Defence("none")).folder.recorded()
    table = recorded.table
    leaking = replace(
        recorded, table=replace(table, values=table.values + 100.0 * table.member[:, :, None]), scores=tmp_path
    )
    comparison = study._comparison("logits")
    found = replace(comparison, attacks=lambda _: [Threshold("dice")]).score(leaking)
    adversary = study._adversary(found, comparison.score(recorded))
    assert adversary.auc.value == 1.0
    assert adversary.auc_change.value == pytest.approx(1 - finished[1].rows[0].adaptive.auc.value)
    assert adversary.auc_change.low <= adversary.auc_change.value <= adversary.auc_change.high
