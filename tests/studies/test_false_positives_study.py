# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""An false-positives study, small: what is recorded, what the report says, and what is left out of it and why."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLES, small_study
from monai.metrics import CalibrationErrorMetric
from monai.transforms import ScaleIntensityd

from monai_mia.attacks import RMIA, Attack, TransferredThreshold, VoxelCalibration
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.disclosure.archive import report_leaks
from monai_mia.audit.false_positives import FalsePositives, FalsePositiveStudyResult
from monai_mia.audit.report import write_false_positives
from monai_mia.data import ForeignSource, phantom_cohort, standard_sources
from monai_mia.errors import InputError
from monai_mia.signals.quality import Calibration
from monai_mia.signals.release import Release
from monai_mia.statistics import Resampling
from monai_mia.studies.defences import Defence, DefenceStudy
from monai_mia.studies.false_positives import FalsePositiveStudy

Cohort = list[dict[str, Any]]

TEMPERATURE = Defence(
    "temperature",
    inference=[str(BUNDLES / "overlays/defences/temperature.yaml")],
    transform_id="defence",
    release="probabilities",
)


def few_attacks(n_shadow: int, release: str) -> list[Attack]:
    plain = TransferredThreshold("maximum_probability", "youden", pooled=False, remove_offsets=False)
    return [plain, RMIA("soft_dice"), VoxelCalibration()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FalsePositiveStudy, FalsePositiveStudyResult]:
    """Two shadows, one target, two mitigations; sources of all kinds, three of them unusable."""
    folder = tmp_path_factory.mktemp("evidence")
    cohort = phantom_cohort(folder / "cohort", n_patients=18, size=16, seed=0)
    study = small_study(cohort, folder / "out", held_out=0.3, signals=(Calibration(),))
    battery = {source.name: source for source in standard_sources()}
    sources = [
        *(battery[name] for name in ("held out", "bias field", "input x 255", "not normalised", "mirrored, axis 0")),
        ForeignSource("one class", [partial(ScaleIntensityd, "label", minv=0.0, maxv=1.0)]),
        ForeignSource("no such step", without=["Spacing"]),
        ForeignSource("others", cohort=(others := phantom_cohort(folder / "others", n_patients=4, size=16, seed=5))),
        ForeignSource(
            "collapsed",
            cohort=[{**others[0], "case_id": f"drawn_{n}", "patient_id": f"drawn_{n}"} for n in range(4)],
        ),
    ]
    false_positives = FalsePositiveStudy(
        DefenceStudy(study, [TEMPERATURE]),
        sources,
        few_attacks,
        FalsePositives(base_rates=(0.01, 0.5, 2.0), resampling=Resampling(n_resamples=100)),
    )
    return false_positives, false_positives.run()


class TestStudy:
    def test_report_names_nobody(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        study, _ = finished
        assert report_leaks(study.defences.study.output_dir) == []

    def test_what_is_asked(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        """All usable sources under each mitigation, held-out patients apart from the cohort's."""
        study, result = finished
        used = ("held out", "bias field", "input x 255", "not normalised", "mirrored, axis 0", "others")
        assert result.sources == used
        assert [row.name for row in result.mitigations] == ["none", "temperature"]
        assert (result.targets, result.shadows, result.patients) == (1, 2, 13)
        for row in result.mitigations:
            assert {item.attack for item in row.result.attacks} == {
                "transferred youden: maximum_probability, one shadow, offsets kept",
                "RMIA online: soft_dice",
            }
            for item in row.result.attacks:
                assert [source.source for source in item.sources] == ["cohort", *used]
                assert [source.patients for source in item.sources][1:] == [5, 5, 5, 5, 5, 4]
        held_out = {str(case["patient_id"]) for case in study.defences.study.held_out_cases()}
        rows = (Path(study.defences.study.output_dir) / "private/none/private/signals/target.csv").read_text()
        assert len(held_out) == 5
        assert not any(patient in rows for patient in held_out)

    def test_what_the_network_is_given(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        """The same scans, scaled or not normalised after the preprocessing, get other answers; temperature does not."""
        study, _ = finished

        def answers(mitigation: str, source: str) -> np.ndarray:
            name = f"private/{mitigation}/private/foreign/{source}/signals/target.csv"
            path = Path(study.defences.study.output_dir) / name
            rows = [line.split(",") for line in path.read_text().splitlines()]
            column = rows[0].index("log_likelihood")
            return np.array([float(row[column]) for row in rows[1:]])

        plain = answers("none", "held_out")
        for other in ("input_x_255", "not_normalised", "bias_field", "mirrored_axis_0"):
            assert not np.allclose(plain, answers("none", other)), other
        assert not np.allclose(plain, answers("temperature", "held_out"))

    def test_what_is_missing_is_told(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        study, result = finished
        page = (Path(study.defences.study.output_dir) / "report/false_positives.html").read_text(encoding="utf-8")
        for text in (
            "one class: source",
            "none of class 2",
            "collapsed: scans of source 'collapsed' must differ from each other, got near-identical ones",
            "no such step: preprocessing must have a transform that is left out",
            "voxelwise: error_recovered: maps of foreign scans must be recorded",
            "base_rates must be in (0, 1), got 2.0",
        ):
            assert any(text in gap for gap in result.gaps), text
        assert "What is missing" in page
        assert page.count("<li>") == len(result.gaps)

    def test_report(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        study, result = finished
        folder = Path(study.defences.study.output_dir) / "report"
        content = json.loads((folder / "false_positives.json").read_text())
        first = result.mitigations[0].result.attacks[0]
        told = content["mitigations"][0]["result"]["attacks"][0]
        assert told["sources"][1]["fpr"] == first.sources[1].fpr.as_json()
        assert set(told["sources"][0]["precision"]) == {"0.01", "0.5"}
        for name in ("false_positives_sources.png", "false_positives_calibration.png"):
            assert (folder / name).stat().st_size > 10_000
        markdown = (folder / "false_positives.md").read_text(encoding="utf-8")
        for word in (
            "Precision of claims",
            "MMPS over voxels / over cases — temperature",
            "ECE, foreground",
            "held out",
        ):
            assert word in markdown
        for path in folder.iterdir():
            assert b"phantom_0" not in path.read_bytes()
            assert str(folder.parent).encode() not in path.read_bytes()

    @pytest.mark.parametrize("min_cell", [2, 100])
    def test_what_is_shared(
        self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult], tmp_path: Path, min_cell: int
    ) -> None:
        """One attack at least of each mitigation, unless a side is too small for any."""
        _, result = finished
        told = result.shared(Disclosure(min_cell))
        most = 3 * result.targets // len(result.mitigations) or 1
        assert {len(row.result.attacks) for row in told.mitigations} <= (set(range(most + 1)) if min_cell == 2 else {0})
        write_false_positives(result, tmp_path, Disclosure(min_cell))
        content = json.loads((tmp_path / "false_positives.json").read_text(), parse_constant=pytest.fail)
        assert [len(row["result"]["attacks"]) for row in content["mitigations"]] == [
            len(row.result.attacks) for row in told.mitigations
        ]
        assert "nan" not in (tmp_path / "false_positives.md").read_text().split()

    def test_calibration_is_reported_of_both_sides(
        self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]
    ) -> None:
        for row in finished[1].mitigations:
            assert set(row.utility) == set(finished[0].utility)
            for sides in row.utility.values():
                assert set(sides) == {"members", "nonmembers"}
        plain, cooled = (row.utility["negative_calibration_error"] for row in finished[1].mitigations)
        assert plain != cooled

    def test_it_resumes(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        study, result = finished
        private = Path(study.defences.study.output_dir) / "private"
        watched = [*private.rglob("model.pt"), *private.rglob("signals/*.csv"), *private.rglob("*.nii.gz")]
        before = {path: path.stat().st_mtime_ns for path in watched}
        again = study.run()
        assert again.gaps == result.gaps
        for one, two in zip(again.mitigations, result.mitigations, strict=True):
            assert one.utility == two.utility
            assert str(one.result) == str(two.result)
        assert before == {path: path.stat().st_mtime_ns for path in watched}
        assert str(study.score()) == str(result)

    def test_bad_input(self, finished: tuple[FalsePositiveStudy, FalsePositiveStudyResult]) -> None:
        study, _ = finished
        with pytest.raises(InputError, match=r"sources must have different names, other than 'cohort', got 'cohort'"):
            replace(study, sources=[ForeignSource("Cohort")]).run()
        with pytest.raises(InputError, match="scans must be at least 1, got 0"):
            replace(study, scans=0).run()


class TestCalibration:
    def test_by_hand(self) -> None:
        """Half of the voxels at .9 and right in 8 of 10, half at .6 and right in 1 of 2."""
        p = torch.full((1, 20, 20), 0.9)
        p[:, :, 10:] = 0.6
        label = torch.ones(1, 20, 20)
        label[:, :4, :10] = 0
        label[:, :10, 10:] = 0
        found = Calibration()(Release(torch.cat([1 - p, p]), "probabilities"), label)
        for ending in ("", "_volume"):  # all is predicted foreground
            assert found[f"negative_calibration_error{ending}"] == pytest.approx(-0.1, abs=1e-6)
            assert found[f"negative_average_calibration_error{ending}"] == pytest.approx(-0.1, abs=1e-6)
            assert found[f"negative_overconfidence{ending}"] == pytest.approx(-0.1 * 0.75, abs=1e-6)
        assert found["negative_class_calibration_error"] == pytest.approx(-0.1, abs=1e-5)

    def test_the_expected_one_weighs_bins_and_the_average_one_does_not(self) -> None:
        """99 voxels at 1 and right, one at .5 and wrong."""
        p = torch.ones(1, 10, 10)
        p[0, 0, 0] = 0.51
        label = torch.ones(1, 10, 10)
        label[0, 0, 0] = 0
        found = Calibration()(Release(torch.cat([1 - p, p]), "probabilities"), label)
        assert found["negative_calibration_error"] == pytest.approx(-0.0051, abs=1e-6)
        assert found["negative_average_calibration_error"] == pytest.approx(-0.255, abs=1e-6)

    def test_classes_are_monais(self) -> None:
        logits = torch.randn(3, 12, 12, 6)
        label = torch.randint(0, 3, (1, 12, 12, 6)).float()
        found = Calibration(bins=10)(Release(logits), label)
        metric = CalibrationErrorMetric(10, include_background=False, calibration_reduction="average")
        metric(logits.softmax(0)[None], torch.nn.functional.one_hot(label[0].long(), 3).permute(3, 0, 1, 2)[None])
        assert found["negative_class_calibration_error"] == pytest.approx(-float(metric.aggregate()), abs=1e-6)

    def test_probabilities_that_are_true_are_calibrated(self) -> None:
        """Null: labels drawn by the probabilities; what is left is the error of sampling, 262,144 voxels in 15 bins."""
        rng = torch.Generator().manual_seed(0)
        p = torch.rand((1, 64, 64, 64), generator=rng)
        label = (torch.rand(p.shape, generator=rng) < p).float()
        found = Calibration()(Release(torch.cat([1 - p, p]), "probabilities"), label)
        for name in ("calibration_error", "average_calibration_error", "overconfidence"):
            assert -0.005 < found[f"negative_{name}_volume"] <= 0

    def test_a_mask_has_none(self) -> None:
        assert Calibration()(Release(torch.zeros(1, 4, 4), "mask", n_classes=2), torch.zeros(1, 4, 4)) == {}
        with pytest.raises(InputError, match="bins must be at least 1"):
            Calibration(bins=0)
        with pytest.raises(InputError, match="label must be given"):
            Calibration()(Release(torch.zeros(2, 4, 4)), None)
