# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Exposure of individuals: who is planted is found, and who is like the others does not stand out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from monai_mia.attacks import GlobalLoss, LearnedCombination, LiRA, Threshold, VoxelCalibration
from monai_mia.designs import Design
from monai_mia.errors import InputError
from monai_mia.exposure import Exposure, correlations, found_at, turns
from monai_mia.table import SignalTable

QUICK = {"n_resamples": 200, "n_permutations": 199}


def table(delta: np.ndarray, seed: int, shadows: int = 12, targets: int = 2, cases: int = 1) -> SignalTable:
    """Patients of own difficulty, whom a model that trained on them fits better by ``delta`` standard deviations."""
    rng = np.random.default_rng(seed)
    names = [f"p{u:03d}" for u in range(len(delta)) for _ in range(cases)]
    ids = [f"{name}_{k % cases}" for k, name in enumerate(names)]
    listed = [{"case_id": i, "patient_id": p, "image": "", "label": ""} for i, p in zip(ids, names, strict=True)]
    design = Design.randomised(listed, shadows, seed, targets)
    member = np.stack(list(design.member.values()))
    mu = np.repeat(3 * rng.normal(size=len(delta)), cases)
    values = mu + member * np.repeat(delta, cases) + rng.normal(size=member.shape)
    values = 0.05 * values - 5  # mean log-probabilities of a segmentation differ little
    return SignalTable(design.model_ids, tuple(ids), tuple(names), ("log_likelihood",), member, values[..., None])


def test_found_at_is_the_share_of_the_others():
    """A non-member is compared with the other non-members only, so that under the null both sides are alike."""
    scores, member = [5.0, 3.0, 3.0, 1.0, 4.0], [True, False, False, False, True]
    assert found_at(scores, member).tolist() == [0.0, 0.5, 0.5, 1.0, 0.0]
    with pytest.raises(InputError, match="at least 2 non-members, got 1"):
        found_at([1.0, 2.0], [True, False])


def test_planted_patients_are_found_in_every_model():
    """10 of 60 are remembered by 12 standard deviations, the others not at all."""
    delta = np.where(np.arange(60) < 10, 12.0, 0.0)
    result = Exposure(**QUICK).measure(table(delta, 0))
    assert result.attack == "RMIA online: log_likelihood"
    assert result.patient_ids[:2] == ("p000", "p001")
    np.testing.assert_array_equal(result.members.rate[:10], 1.0)
    assert (result.members.certainty[:10] == 1).all()
    assert result.members.rate[10:].mean() < 0.15
    assert result.members.always[0] == pytest.approx(1 / 6, abs=0.02)
    assert result.members.always[1][0] > 5 * result.members.always_expected
    assert result.members.never[0] > result.members.never_expected
    reliability = result.members.reliability
    assert reliability is not None
    assert reliability.n_models == (7, 7)
    assert reliability.p_value == 1 / 200
    assert reliability.interval[0] > 0.1
    assert reliability.full > reliability.correlation
    assert result.members.histogram[-1] == pytest.approx(1 / 6, abs=0.02)


def test_turns_in_which_they_were_no_members_find_the_fpr():
    result = Exposure(fpr=0.1, **QUICK).measure(table(np.full(100, 3.0), 1))
    low, high = result.nonmembers.found[1]
    assert low <= 6 / 50 <= high + 0.01  # 0.1 of the 49 others: those with four above at most, of 50
    assert result.nonmembers.certain[0] == pytest.approx(0.5, abs=0.01)
    assert result.members.found[0] > 0.6
    np.testing.assert_array_equal(result.members.n_turns + result.nonmembers.n_turns, 14)
    for side in (result.members, result.nonmembers):
        for shares in (side.histogram, side.histogram_expected):
            assert sum(shares) == pytest.approx(1.0)


def test_where_all_are_equal_nobody_stands_out():
    """Reliability has mean 0 and a uniform p-value although difficulty varies; the tail is no longer than expected.

    It is shorter: the turns share their shadows, and an online attack compares each with the mean of the others.
    """
    values, p_values, tails = [], [], []
    for seed in range(60):
        result = Exposure(fpr=0.2, **QUICK).measure(table(np.full(40, 1.5), seed, shadows=8, targets=1))
        assert result.members.reliability is not None
        values.append(result.members.reliability.correlation)
        p_values.append(result.members.reliability.p_value)
        tails.append(result.members.always[0] - result.members.always_expected)
    assert np.mean(values) == pytest.approx(0.0, abs=4 / np.sqrt(39 * 60))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert -0.12 < np.mean(tails) < 0.02


def test_an_attack_that_takes_difficulty_for_memory_is_seen_on_the_null_side():
    """A threshold on the plain signal finds the easy ones whether they were members or not."""
    result = Exposure(attack=GlobalLoss(), **QUICK).measure(table(np.zeros(60), 2))
    for side in (result.members, result.nonmembers):
        assert side.reliability is not None
        assert side.reliability.correlation > 0.7


def test_a_patient_is_scored_by_all_his_cases():
    delta = np.where(np.arange(40) < 10, 12.0, 0.0)
    result = Exposure(fpr=0.1, **QUICK).measure(table(delta, 3, cases=2))
    assert len(result.patient_ids) == 40
    assert (result.members.rate[:10] == 1).all()


def test_a_model_is_not_attacked_with_its_complement():
    """Else the side of the one that is missing would tell the members; seen by an attack that only counts."""

    class Counting:
        name, signals, min_shadows = "counting", ("log_likelihood",), 1

        def __call__(self, knowledge: Any) -> np.ndarray:
            return np.asarray(-knowledge.shadow_member.sum(axis=0), dtype=np.float64)

    made = table(np.zeros(20), 0, shadows=6, targets=1)
    scores = turns(Counting(), made)
    for row, inside in zip(scores[1:], made.member[1:], strict=True):
        assert row[inside].mean() == pytest.approx(row[~inside].mean(), abs=0.5)


def test_the_seed_decides():
    made = table(np.full(30, 2.0), 5)
    results = [Exposure(seed=seed, fpr=0.1, **QUICK).measure(made).members for seed in (0, 0, 1)]
    assert results[0].found == results[1].found
    assert results[0].reliability == results[1].reliability
    assert results[0].found[0] == results[2].found[0]
    assert results[0].found[1] != results[2].found[1]


def test_correlations_are_those_of_spearman():
    rng = np.random.default_rng(0)
    first, second = rng.integers(6, size=(2, 5, 30)).astype(float)
    expected = [stats.spearmanr(*pair).statistic for pair in zip(first, second, strict=True)]
    np.testing.assert_allclose(correlations(first, second), expected)
    assert correlations(np.ones((1, 4)), np.arange(4.0)[None]).tolist() == [0.0]


def test_what_cannot_be_measured_is_refused():
    made = table(np.zeros(20), 0, shadows=2, targets=1)
    with pytest.raises(InputError, match="fpr must be at least the resolution"):
        Exposure(fpr=0.05, **QUICK).measure(made)
    with pytest.raises(InputError, match="models must be at least 6"):
        Exposure(attack=LearnedCombination(["log_likelihood"]), fpr=0.2, **QUICK).measure(made)
    with pytest.raises(InputError, match="maps must be recorded"):
        Exposure(attack=VoxelCalibration(), fpr=0.2, **QUICK).measure(made)
    with pytest.raises(InputError, match="signal must be one of"):
        Exposure(attack=Threshold("dice"), fpr=0.2, **QUICK).measure(made)
    few = Exposure(attack=LiRA("log_likelihood"), fpr=0.2, **QUICK).measure(made)
    assert few.members.reliability is None  # three models make no two halves
    pair = replace(made, model_ids=made.model_ids[1:], member=made.member[1:], values=made.values[1:])
    with pytest.raises(InputError, match="models must be at least 3"):  # each other's complement tells all
        Exposure(fpr=0.2, **QUICK).measure(pair)
    for option, value in (("fpr", 0.0), ("confidence", 1.0), ("min_cell", 0), ("n_permutations", 0)):
        with pytest.raises(InputError, match=option):
            Exposure(**{option: value})
