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
import torch
from conftest import SMALL, small_study

from monai_mia.attacks import Threshold
from monai_mia.audit.comparison import DefenceStudyResult
from monai_mia.audit.disclosure.archive import report_leaks
from monai_mia.data import phantom_cohort
from monai_mia.errors import InputError
from monai_mia.signals.quality import Utility
from monai_mia.signals.release import Release
from monai_mia.studies.defences import Defence, DefenceStudy

MASK = Defence("argmax", release="mask")
SHORT = Defence("early stop", train_overrides={"train#trainer#max_epochs": 1})


def defence_study(cohort: Any, folder: Path, defences: Any = (MASK, SHORT), **options: Any) -> DefenceStudy:
    study = small_study(cohort, folder, shadows=2, targets=2, signals=(Utility(),), **options)
    return DefenceStudy(study, defences, n_resamples=100)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[DefenceStudy, DefenceStudyResult]:
    """Treat its folder as read-only."""
    folder = tmp_path_factory.mktemp("defences")
    cohort = phantom_cohort(folder / "phantoms", 24, size=16, seed=0)
    study = defence_study(cohort, folder / "out", seed=1)  # with which an attack on shadows is the best
    return study, study.run()


class TestStudy:
    """A finished one."""

    def test_report_names_nobody(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        study, _ = finished
        assert report_leaks(study.study.output_dir) == []

    def test_rows(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        _, result = finished
        assert [(row.name, row.release) for row in result.rows] == [
            ("none", "logits"), ("argmax", "mask"), ("early stop", "logits")
        ]  # fmt: skip
        assert (result.targets, result.shadows, result.patients) == (2, 2, 24)

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
        assert row.adaptive == row.unaware
        assert row.adaptive.auc_change == (0.0, (0.0, 0.0))

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
        """The best unaware attack on early stopping, computed by hand from both tables."""
        study, result = finished
        row = result.rows[2]
        assert row.unaware != row.adaptive
        private = Path(study.study.output_dir) / "private"
        marks = {
            name: json.loads((private / f"early_stop_unaware/private/signals/{name}.json").read_text())["sha256"]
            for name in ("target", "shadow_00")
        }
        for name, origin in (("target", "early_stop"), ("shadow_00", "none")):
            assert marks[name] == json.loads((private / f"{origin}/private/signals/{name}.json").read_text())["sha256"]

    def test_report(self, finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
        study, result = finished
        folder = Path(study.study.output_dir) / "report"
        content = json.loads((folder / "defences.json").read_text())
        assert [row["name"] for row in content["rows"]] == ["none", "argmax", "early stop"]
        assert content["rows"][0]["adaptive"]["auc"][0] == result.rows[0].adaptive.auc[0]
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
            replace(study, study=replace(study.study, checkpoint="x.pt")).check()


def test_a_perfect_defence_is_seen(finished: tuple[DefenceStudy, DefenceStudyResult], tmp_path: Path) -> None:
    """A known answer: signals that do not depend on membership give an AUC near chance, and the change is the rest."""
    study = finished[0]
    plain = study._comparison(study._study_of(Defence("none")))
    table = plain.study.table(_design(study))
    members = np.stack([table.members(target) for target in ("target", "target_01")])
    leaking = replace(table, values=table.values + 100.0 * table.member[:, :, None])

    class Fake:
        output_dir = str(tmp_path)
        shadows, targets, maps, release = 2, 2, False, "logits"

        def table(self, design: Any) -> Any:
            return leaking

        def recorded_features(self, case_ids: Any) -> Any:
            return plain.study.recorded_features(case_ids)

        def recorded_maps(self, *_: Any) -> None:
            return None

    private = Path(study.study.output_dir) / "private/none/private"
    (tmp_path / "private").mkdir()
    for name in ("design.csv", "design.json"):
        (tmp_path / "private" / name).write_bytes((private / name).read_bytes())
    found = replace(plain, study=Fake(), attacks=lambda _: [Threshold("dice")]).score()
    adversary = study._adversary(found, plain.score())
    assert adversary.auc[0] == 1.0
    assert adversary.auc_change[0] == pytest.approx(1 - finished[1].rows[0].adaptive.auc[0])
    assert adversary.auc_change[1][0] <= adversary.auc_change[0] <= adversary.auc_change[1][1]
    assert members.any()


def _design(study: DefenceStudy) -> Any:
    from monai_mia.records.design import Design

    return Design.read(Path(study.study.output_dir) / "private/none/private/design.csv")


class TestUtility:
    """Against closed forms."""

    def release(self, mask: torch.Tensor, confidence: float = 0.9) -> Release:
        p = torch.full((2, *mask.shape), 1 - confidence)
        p[1][mask] = confidence
        p[0][~mask] = confidence
        return Release(p, "probabilities")

    def test_a_shifted_cube(self) -> None:
        """Moved by two voxels: surfaces are two voxels apart; within a tolerance of two all of the surface agrees."""
        label = torch.zeros(1, 24, 24, 24)
        label[:, 6:14, 6:14, 6:14] = 1
        mask = torch.zeros(24, 24, 24, dtype=torch.bool)
        mask[8:16, 6:14, 6:14] = True
        found = Utility(tolerance=2.0)(self.release(mask), label)
        assert found["negative_hd95"] == pytest.approx(-2.0)
        assert found["surface_dice"] == pytest.approx(1.0)
        assert Utility(tolerance=1.0)(self.release(mask), label)["surface_dice"] < 0.9

    def test_calibration_by_hand(self) -> None:
        """All voxels at a confidence of .9, 80 % of the region right: both errors are .1, overconfidence times .9."""
        label = torch.zeros(1, 10, 10)
        label[:, :, :5] = 1
        mask = label[0].bool().clone()
        mask[:2] = False  # 10 of the 50 foreground voxels are missed
        found = Utility()(self.release(mask), label)
        assert found["negative_calibration_error"] == pytest.approx(-0.1, abs=1e-6)
        assert found["negative_overconfidence"] == pytest.approx(-0.09, abs=1e-6)

    def test_perfectly_calibrated(self) -> None:
        """Labels drawn by the probabilities: the error is that of sampling alone."""
        rng = torch.Generator().manual_seed(0)
        p = torch.rand((1, 64, 64, 16), generator=rng)
        label = (torch.rand(p.shape, generator=rng) < p).float()
        found = Utility()(Release(torch.cat([1 - p, p]), "probabilities"), label)
        everywhere = Utility()(Release(p.logit(), "logits", "sigmoid"), label)
        # The region holds the voxels that are foreground in either, where labels are no fair draw; sigmoid alike.
        assert found["negative_calibration_error"] == pytest.approx(everywhere["negative_calibration_error"], abs=1e-3)

    def test_empty(self) -> None:
        """Neither has the label: as good as can be; only one has it: as bad as can be."""
        nothing, something = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
        something[2:4, 2:4] = True
        both = Utility()(self.release(nothing), torch.zeros(1, 8, 8))
        assert both["surface_dice"] == 1
        assert both["negative_hd95"] == 0
        one = Utility()(self.release(something), torch.zeros(1, 8, 8))
        assert one["surface_dice"] == 0
        assert one["negative_hd95"] == pytest.approx(-np.sqrt(128))

    def test_a_mask_has_no_calibration(self) -> None:
        mask = torch.zeros(1, 8, 8)
        mask[:, 2:5, 2:5] = 2
        found = Utility()(Release(mask, "mask", n_classes=3), mask)
        assert found == {"negative_hd95": 0.0, "surface_dice": 1.0}

    @pytest.mark.parametrize(
        ("options", "match"), [({"tolerance": -1}, "tolerance must be"), ({"bins": 0}, "bins must be")]
    )
    def test_options(self, options: Any, match: str) -> None:
        with pytest.raises(InputError, match=match):
            Utility(**options)

    def test_without_a_label(self) -> None:
        with pytest.raises(InputError, match="label must be given"):
            Utility()(self.release(torch.zeros(4, 4, dtype=torch.bool)), None)


def test_overrides_of_a_defence_reach_its_study(finished: tuple[DefenceStudy, DefenceStudyResult]) -> None:
    """Files and overrides are added to the study's own."""
    study = finished[0]
    made = study._study_of(Defence("x", ("a.yaml",), {"b": 1}, ("c.yaml",), {"d": 2}, "defence", "probabilities"))
    assert made.train_files == ["configs/train.json", "a.yaml"]
    assert made.train_overrides == {**SMALL, "train#trainer#max_epochs": 2, "b": 1}
    assert made.inference_files == ["configs/inference.json", "c.yaml"]
    assert made.inference_overrides == {**SMALL, "d": 2}
    assert (made.transform_id, made.release) == ("defence", "probabilities")
