# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The worth of claims: by hand where it can be, by simulation where chance decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from oracles import game

from monai_mia import statistics
from monai_mia.attacks import (
    RMIA,
    LearnedCombination,
    LiRA,
    Threshold,
    TopScores,
    TransferredThreshold,
    VoxelCalibration,
)
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.audit.false_positives import (
    COHORT,
    FalsePositiveResult,
    FalsePositives,
    precision,
    transferred_threshold,
)
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Resampling

SIGNALS = ("log_likelihood", "maximum_probability", "maximum_probability_predicted")
ACCESS = {
    "log_likelihood": "probabilities+label",
    "maximum_probability": "probabilities",
    "maximum_probability_predicted": "probabilities",
}
QUICK = FalsePositives(resampling=Resampling(n_resamples=200), min_cell=1)


def features(case_ids: Sequence[str]) -> np.ndarray:
    return np.zeros((len(case_ids), 1))


def voxels(case_ids: Sequence[str]) -> np.ndarray:
    return np.ones(len(case_ids))


def table_of(values: np.ndarray, member: np.ndarray, prefix: str = "case") -> SignalTable:
    """A table of models (M, N) whose three signals are alike."""
    n = member.shape[1]
    return SignalTable(
        model_ids=("target", *(f"shadow_{m:02d}" for m in range(len(member) - 1))),
        case_ids=tuple(f"{prefix}_{k:04d}" for k in range(n)),
        patient_ids=tuple(f"{prefix}_{k:04d}" for k in range(n)),
        signals=SIGNALS,
        member=member,
        values=np.repeat(values[..., None], len(SIGNALS), axis=2),
        access=ACCESS,
    )


def foreign(value: float | np.ndarray, n: int, models: int, prefix: str = "alien") -> SignalTable:
    return table_of(np.broadcast_to(value, (models, n)).astype(float), np.zeros((models, n), dtype=bool), prefix)


def weigh(
    table: SignalTable, sources: dict[str, SignalTable], false_positives: FalsePositives = QUICK
) -> FalsePositiveResult:
    attack = TransferredThreshold("maximum_probability", "youden", pooled=True, remove_offsets=False)
    return false_positives.run([attack], table, ["target"], list(table.model_ids[1:]), sources, features, voxels)


class TestPrecision:
    def test_by_hand(self) -> None:
        """1 of 100 is a member: 0.9 right claims on 9.9 false ones."""
        assert precision(0.9, 0.1, 0.01) == pytest.approx(0.9 * 0.01 / (0.9 * 0.01 + 0.1 * 0.99))
        assert precision(1.0, 0.0, 0.01) == 1
        assert np.isnan(precision(0.0, 0.0, 0.5))

    def test_a_claim_that_knows_nothing_is_right_as_often_as_members_occur(self) -> None:
        for rate in (0.01, 0.1, 0.5):
            assert precision(0.3, 0.3, rate) == pytest.approx(rate)

    @pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
    def test_bad_rates(self, rate: float) -> None:
        with pytest.raises(InputError, match=r"base_rates must be in \(0, 1\)"):
            precision(0.5, 0.5, rate)


class TestTransferredThreshold:
    def test_of_a_signal(self) -> None:
        """Shadows separate at 5 and above; the target's signals, which are elsewhere, do not count."""
        member = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
        values = np.where(member, 5.0, 1.0)
        values[0] += 100
        view = AdversaryView.of(table_of(values, member))
        assert transferred_threshold(Threshold("maximum_probability"), view) == 5.0

    def test_an_attack_that_decides_keeps_its_own(self) -> None:
        view = game(n=40, shadows=4).view
        for attack in (TransferredThreshold(), TopScores(("dice",)), LearnedCombination(("dice",))):
            assert transferred_threshold(attack, view) == 0

    def test_it_is_the_optimal_one(self) -> None:
        """For a log-likelihood ratio with many shadows: a little above or below 0, where both sides are as likely."""
        played = game(n=2000, shadows=16, delta=1.5, spread=1.0)
        threshold = transferred_threshold(LiRA("dice"), played.view)
        assert abs(threshold) < 0.4

    def test_foreign_cases_do_not_count(self) -> None:
        view = game(n=60, shadows=4).view
        odd = np.arange(60) >= 50
        strange = replace(view, shadow=np.where(odd[:, None], 99.0, view.shadow), foreign=odd)
        strange = replace(strange, shadow_member=strange.shadow_member & ~odd)
        alone = replace(
            view,
            target=view.target[:50],
            shadow=view.shadow[:, :50],
            shadow_member=view.shadow_member[:, :50],
            patient_ids=view.patient_ids[:50],
            features=None if view.features is None else view.features[:50],
        )
        for attack in (Threshold("dice"), LiRA("dice"), RMIA("log_likelihood")):
            assert transferred_threshold(attack, strange) == transferred_threshold(attack, alone)

    def test_too_few_shadows(self) -> None:
        view = game(n=40, shadows=2).view
        with pytest.raises(InputError, match=r"one plays the target and attack .* has 4 others, got 2"):
            transferred_threshold(LiRA("dice", variance="case"), view)
        with pytest.raises(InputError, match="shadows must be at least 1 to transfer"):
            transferred_threshold(
                Threshold("dice"),
                replace(view, shadow=view.shadow[:0], shadow_member=view.shadow_member[:0]),
            )


class TestKnownAnswers:
    @pytest.fixture
    def table(self) -> SignalTable:
        """40 patients; members fit at 0.9, others at 0.5, but for 5 members and 2 non-members of the target."""
        rng = np.random.default_rng(0)
        half = [rng.permutation(40) < 20 for _ in range(2)]
        member = np.stack([half[0], half[1], ~half[1]])
        values = np.where(member, 0.9, 0.5) + 1e-6 * rng.random((3, 40))
        values[0, np.flatnonzero(half[0])[:5]] = 0.4
        values[0, np.flatnonzero(~half[0])[:2]] = 0.95
        return table_of(values, member)

    def test_rates_by_hand(self, table: SignalTable) -> None:
        high, low = foreign(0.99, 10, 3), foreign(np.where(np.arange(20) < 5, 0.99, 0.1), 20, 3, "far")
        (found,) = weigh(table, {"high": high, "low": low}).attacks
        assert found.threshold + 0.9 > 0.8 or found.threshold == 0  # a decision of its own: 0
        assert found.tpr.value == 15 / 20
        own, first, second = found.sources
        assert (own.source, own.patients, own.fpr.value) == (COHORT, 20, 2 / 20)
        assert (first.patients, first.fpr.value, second.fpr.value) == (10, 1.0, 5 / 20)
        assert own.precision[0.5].value == pytest.approx(0.75 / 0.85)
        assert own.precision[0.01].value == pytest.approx(0.75 * 0.01 / (0.75 * 0.01 + 0.1 * 0.99))
        for item in found.sources:
            assert item.fpr.low <= item.fpr.value <= item.fpr.high
        # 95% of 20 members are 19: the threshold falls to their lowest, which all non-members reach.
        assert own.fpr_at_95_tpr.value == 1.0
        assert first.fpr.low == pytest.approx(0.025 ** (1 / 10))  # exact: 10 of 10

    def test_confidences_by_hand(self, table: SignalTable) -> None:
        (found,) = weigh(table, {"low": foreign(0.1, 10, 3)}).attacks
        assert found.mmps["TP"]["cases"].value == pytest.approx(0.9, abs=1e-5)
        assert found.mmps["FN"]["voxels"].value == pytest.approx(0.4)
        own, low = found.sources
        assert own.mmps["FP"]["cases"].value == pytest.approx(0.95)
        assert own.mmps["TN"]["cases"].value == pytest.approx(0.5, abs=1e-5)
        assert low.mmps["FP"] == {"voxels": None, "cases": None}
        assert low.mmps["TN"]["cases"].value == pytest.approx(0.1)

    def test_means_over_few_patients_are_not_given(self, table: SignalTable) -> None:
        """Nor those over the others: all but few are as telling."""
        values = np.full(30, 0.1)
        values[:4] = 0.99
        for min_cell, shown in ((4, True), (5, False)):
            (found,) = weigh(table, {"low": foreign(values, 30, 3)}, replace(QUICK, min_cell=min_cell)).attacks
            low = found.sources[1]
            assert low.fpr.value == pytest.approx(4 / 30)
            assert [low.mmps[cell]["cases"] is not None for cell in ("FP", "TN")] == [shown, shown]

    def test_a_rate_below_the_resolution_is_not_given(self, table: SignalTable) -> None:
        n_out = int((~table.members("target")).sum())
        for fpr, given in ((1 / n_out, True), (0.99 / n_out, False)):
            (found,) = weigh(table, {}, replace(QUICK, headline_fpr=fpr)).attacks
            assert np.isfinite(found.tpr_at_fpr.value) == given

    def test_no_interval_is_without_width(self) -> None:
        """Ten members and ten others, told without an error: that is no proof of precision."""
        member = np.stack([np.arange(20) < 10, np.arange(20) % 2 == 0, np.arange(20) % 2 == 1])
        table = table_of(np.where(member, 0.9, 0.5), member)
        (found,) = weigh(table, {}, replace(QUICK, headline_fpr=0.1)).attacks
        (own,) = found.sources
        assert (found.auc.value, found.tpr.value, own.fpr.value, own.precision[0.01].value) == (1.0, 1.0, 0.0, 1.0)
        assert found.auc.ci == pytest.approx(statistics.auc_interval(1.0, 10, 10))
        assert found.tpr_at_fpr.ci == found.tpr.ci == pytest.approx((1 - own.fpr.high, 1.0))
        assert own.precision[0.01].ci == pytest.approx((float(precision(found.tpr.low, own.fpr.high, 0.01)), 1.0))
        assert own.precision[0.01].low < 0.03

    def test_voxels_weigh_by_size_and_cases_do_not(self, table: SignalTable) -> None:
        """Of two foreign scans, one is nine times as large."""
        source = foreign(np.array([0.1, 0.3]), 2, 3)
        attack = TransferredThreshold("maximum_probability", "youden", remove_offsets=False)
        found = QUICK.run(
            [attack], table, ["target"], ["shadow_00", "shadow_01"], {"low": source}, features,
            lambda ids: np.array([9.0 if name == "alien_0001" else 1.0 for name in ids]),
        ).attacks[0].sources[1]  # fmt: skip
        assert found.mmps["TN"]["voxels"].value == pytest.approx(0.9 * 0.3 + 0.1 * 0.1)
        assert found.mmps["TN"]["cases"].value == pytest.approx(0.2)

    def test_the_gate_withholds_claims_about_strange_releases(self, table: SignalTable) -> None:
        high, usual = foreign(30.0, 12, 3), foreign(0.9 + 5e-7, 12, 3, "twin")
        (found,) = weigh(table, {"high": high, "usual": usual}).attacks
        _, strange, alike = found.sources
        assert (strange.fpr.value, strange.gated_fpr.value, strange.rejected.value) == (1.0, 0.0, 1.0)
        assert alike.gated_fpr.value == alike.fpr.value == 1.0
        assert found.gated_tpr.value <= found.tpr.value

    def test_two_targets_are_averaged(self) -> None:
        rng = np.random.default_rng(1)
        half = [rng.permutation(40) < 20 for _ in range(3)]
        member = np.stack([half[0], half[1], half[2], ~half[2]])
        values = np.where(member, 0.9, 0.5)
        values[1] = 0.5  # the second target fits nobody
        table = replace(table_of(values, member), model_ids=("target", "target_01", "shadow_00", "shadow_01"))
        attack = TransferredThreshold("maximum_probability", "youden", remove_offsets=False)
        (found,) = QUICK.run(
            [attack], table, ["target", "target_01"], ["shadow_00", "shadow_01"], {}, features, voxels
        ).attacks
        assert found.tpr.value == 0.5
        assert found.auc.value == 0.75
        assert found.tpr.low < 0.05  # the targets are drawn, too: both could have been like the second
        assert found.tpr.high > 0.95


def test_an_attack_that_knows_nothing_claims_both_sides_alike() -> None:
    """Null: both sides' rates differ by chance alone, and intervals hold the truth as often as they say."""
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        half = [rng.permutation(80) < 40 for _ in range(2)]
        member = np.stack([half[0], half[1], ~half[1]])
        values = rng.random((3, 80))
        (found,) = weigh(table_of(values, member), {"more": foreign(rng.random((3, 40)), 40, 3)}).attacks
        # The rate at which uniform signals exceed the threshold, which was learned on the shadows.
        attack = TransferredThreshold("maximum_probability", "youden", remove_offsets=False)
        table = table_of(values, member)
        limit = (table.signal("maximum_probability", "target") - attack(AdversaryView.of(table))).mean()
        for share in (found.tpr, found.sources[0].fpr, found.sources[1].fpr):
            covered.append(share.low <= 1 - limit <= share.high)
        assert abs(found.auc.value - 0.5) < 5 * 0.065
    assert np.mean(covered) > 0.93


class TestGaps:
    def test_what_cannot_be_measured_is_told_and_the_rest_is_made(self) -> None:
        table = game(n=40, shadows=2, signals=SIGNALS, access=ACCESS).table
        false_positives = FalsePositives(base_rates=(0.1, 1.5), resampling=Resampling(n_resamples=50))
        attacks = [
            VoxelCalibration(),
            LiRA("log_likelihood", variance="case"),
            LiRA("log_likelihood"),
            Threshold("dice"),
        ]
        result = false_positives.run(attacks, table, ["target"], ["shadow_00", "shadow_01"], {}, features, voxels)
        assert [item.attack for item in result.attacks] == ["LiRA online, pooled variance: log_likelihood"]
        assert set(result.attacks[0].sources[0].precision) == {0.1}
        text = " ".join(result.gaps)
        for part in ("base_rates must be in (0, 1), got 1.5", "maps of foreign scans", "'dice'", "has 4 others, got 2"):
            assert part in text

    def test_signals_must_agree(self) -> None:
        table = game(n=40, shadows=2, signals=SIGNALS, access=ACCESS).table
        other = game(n=10, shadows=2).table
        with pytest.raises(InputError, match="signals of source 'x' must be the cohort's, they differ in"):
            QUICK.run([], table, ["target"], ["shadow_00"], {"x": other}, features, voxels)

    @pytest.mark.parametrize("option", [{"gate": 0.0}, {"headline_fpr": 1.0}, {"min_cell": 0}])
    def test_bad_options(self, option: dict[str, float]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(option))} must be"):
            FalsePositives(**option)
