# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates and intervals: closed forms, slow twins, scikit-learn, and properties."""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROPERTY, binormal
from scipy import stats
from sklearn import metrics

from monai_mia.errors import InputError
from monai_mia.statistics import Resampling
from monai_mia.statistics.permutation import permuted_aucs, permuted_members, permuted_tails, tail_p_values
from monai_mia.statistics.resampling import gaps_by_group, group_means, percentiles, reach_of_best, weights_by_group
from monai_mia.statistics.roc import (
    auc_interval,
    aucs,
    balanced_accuracy,
    clopper_pearson,
    resampled_rocs,
    resampled_tprs,
    resolution,
    roc,
)


@st.composite
def scored(draw):
    """Scores with many ties, and both members and non-members."""
    values = st.integers(-5, 5)
    pairs = draw(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=30))
    pairs += [(draw(values), True), (draw(values), False)]
    pairs = draw(st.permutations(pairs))
    return [float(score) for score, _ in pairs], [inside for _, inside in pairs]


# Known answers of the ROC


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_binormal_area(separation):
    """N(d, 1) against N(0, 1): the area is Phi(d / sqrt 2) (Green and Swets 1966)."""
    curve = roc(*binormal(2000, separation))
    assert curve.auc == pytest.approx(stats.norm.cdf(separation / math.sqrt(2)), abs=1e-3)


@pytest.mark.parametrize("separation", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.1, 0.5])
def test_binormal_tpr(separation, fpr):
    """N(d, 1) against N(0, 1): TPR at FPR a is Phi(d + Phi^-1(a)) (Green and Swets 1966)."""
    curve = roc(*binormal(20_000, separation))
    assert curve.tpr_at(fpr) == pytest.approx(stats.norm.cdf(separation + stats.norm.ppf(fpr)), abs=2e-3)


def test_binormal_advantage():
    """The best threshold is halfway: the advantage is 2 Phi(d / 2) - 1."""
    assert roc(*binormal(2000, 1.5)).advantage == pytest.approx(2 * stats.norm.cdf(0.75) - 1, abs=1e-3)


def test_circular_curve():
    """Non-members uniform, members sqrt(1 - v^2): a quarter of a circle around (1, 0).

    Area pi / 4, advantage sqrt 2 - 1, TPR^2 = 1 - (1 - FPR)^2.
    """
    n = 2000
    grid = (np.arange(n) + 0.5) / n
    curve = roc(np.concatenate([np.sqrt(1 - grid**2), grid]), np.repeat([True, False], n))
    assert curve.auc == pytest.approx(math.pi / 4, abs=1e-3)
    assert curve.advantage == pytest.approx(math.sqrt(2) - 1, abs=1e-3)
    for fpr in (0.1, 0.3, 0.8):
        assert curve.tpr_at(fpr) == pytest.approx(math.sqrt(1 - (1 - fpr) ** 2), abs=2e-3)


def test_exponential_curve():
    """Rates 1 and 1/k: TPR = FPR^(1/k), area k / (k + 1) (the Lehmann family)."""
    n, k = 4000, 3
    draws = -np.log1p(-(np.arange(n) + 0.5) / n)
    curve = roc(np.concatenate([k * draws, draws]), np.repeat([True, False], n))
    assert curve.auc == pytest.approx(k / (k + 1), abs=1e-3)
    assert curve.tpr_at(0.05) == pytest.approx(0.05 ** (1 / k), abs=3e-3)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.arange(1000) % 2, 0.5),
        (np.arange(1000) == 0, 0.501),
        (np.arange(1000) == 999, 0.499),
        (np.zeros(1000), 0.5),
    ],
    ids=["two values", "all but one member", "all but one non-member", "constant"],
)
def test_ties_count_half(scores, expected):
    """Section 8 of the notes on peers: LeakPro's `MIAResult` gives .126 for the first case and .000 for the second."""
    member = np.repeat([True, False], 500)
    assert roc(scores.astype(float), member).auc == pytest.approx(expected, abs=1e-12)
    assert roc(scores.astype(float)[::-1], member[::-1]).auc == pytest.approx(expected, abs=1e-12)


def test_ten_levels():
    """Section 8 of the notes on peers, case (c): integers 0 to 9, divided by 9."""
    scores = np.random.default_rng(0).integers(0, 10, 1000) / 9
    member = np.repeat([True, False], 500)
    expected = stats.mannwhitneyu(scores[member], scores[~member]).statistic / 500**2
    assert roc(scores, member).auc == pytest.approx(expected, abs=1e-12)


def test_constant_scores_say_nothing():
    """One point from nobody to everybody: no threshold reaches a low FPR."""
    curve = roc(np.zeros(10), np.repeat([True, False], 5))
    np.testing.assert_array_equal(curve.fpr, [0, 1])
    np.testing.assert_array_equal(curve.tpr, [0, 1])
    assert (curve.auc, curve.advantage, curve.tpr_at(0.99), curve.tpr_at(1.0)) == (0.5, 0, 0, 1)


def test_perfect_and_inverted_scores():
    member = np.array([True, True, False, False])
    assert roc([4.0, 3.0, 2.0, 1.0], member).auc == 1
    assert roc([1.0, 2.0, 3.0, 4.0], member).auc == 0
    assert roc([4.0, 3.0, 2.0, 1.0], member).tpr_at(0.01) == 1
    assert roc([1.0, 2.0, 3.0, 4.0], member).advantage == 0


# Oracles of the ROC


@pytest.mark.parametrize("levels", [3, 10, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_roc_equals_scikit_learn(levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, 200) / 7
    member = rng.random(200) < 0.3
    fpr, tpr, thresholds = metrics.roc_curve(member, scores, drop_intermediate=False)
    curve = roc(scores, member)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(member, scores), abs=1e-12)


@PROPERTY
@given(scored())
def test_auc_equals_the_double_loop(data):
    assert roc(*data).auc == pytest.approx(oracles.mann_whitney(*data), abs=1e-12)


@PROPERTY
@given(scored(), st.floats(0, 1))
def test_tpr_equals_the_loop_over_thresholds(data, fpr):
    assert roc(*data).tpr_at(fpr) == pytest.approx(oracles.tpr_at(*data, fpr), abs=1e-12)


@PROPERTY
@given(scored(), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_tpr_is_monotone_in_fpr(data, fprs):
    curve = roc(*data)
    rates = [curve.tpr_at(fpr) for fpr in sorted(fprs)]
    assert all(low <= high for low, high in pairwise(rates))


@PROPERTY
@given(scored())
def test_curve_runs_from_corner_to_corner(data):
    curve = roc(*data)
    for rates in (curve.fpr, curve.tpr):
        assert (rates[0], rates[-1]) == (0, 1)
        assert (np.diff(rates) >= 0).all()
    assert (np.diff(curve.thresholds) < 0).all()
    assert 0 <= curve.advantage <= 1


@PROPERTY
@given(scored(), st.sampled_from([np.arctan, np.exp, lambda x: 3 * x - 7, lambda x: x**3, np.sinh]))
def test_curve_is_invariant_under_increasing_maps(data, increasing):
    scores, member = np.asarray(data[0]), data[1]
    before, after = roc(scores, member), roc(increasing(scores), member)
    np.testing.assert_array_equal(after.fpr, before.fpr)
    np.testing.assert_array_equal(after.tpr, before.tpr)


@PROPERTY
@given(scored())
def test_turning_the_sign_turns_the_area(data):
    scores, member = np.asarray(data[0]), np.asarray(data[1])
    assert roc(-scores, member).auc == pytest.approx(1 - roc(scores, member).auc, abs=1e-12)
    assert roc(scores, ~member).auc == pytest.approx(1 - roc(scores, member).auc, abs=1e-12)


@PROPERTY
@given(scored(), st.randoms(use_true_random=False))
def test_curve_ignores_the_order_of_units(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    moved = roc([data[0][n] for n in order], [data[1][n] for n in order])
    np.testing.assert_array_equal(moved.fpr, roc(*data).fpr)
    np.testing.assert_array_equal(moved.tpr, roc(*data).tpr)


@pytest.mark.parametrize(
    ("scores", "member", "message"),
    [
        ([1.0, 2.0], [True], "one shape"),
        ([[1.0, 2.0]], [[True, False]], "one shape"),
        ([1.0, math.nan], [True, False], "finite, got 1"),
        ([math.inf, -math.inf], [True, False], "finite, got 2"),
        ([1.0, 2.0], [True, True], "members and non-members, got 2 of 2"),
        ([1.0, 2.0], [False, False], "members and non-members, got 0 of 2"),
    ],
)
def test_roc_refuses(scores, member, message):
    with pytest.raises(InputError, match=message):
        roc(scores, member)


# Resamples


def test_resampled_rocs_equal_rocs_of_repeated_units(monkeypatch):
    rng = np.random.default_rng(0)
    scores, member = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.5
    weights = rng.integers(0, 4, (25, 40)).astype(float)
    monkeypatch.setattr(sys.modules["monai_mia.statistics.roc"], "_BLOCK", 40 * 7)  # four blocks
    blocks = list(resampled_rocs(scores, member, weights))
    assert [len(block.fpr) for block in blocks] == [7, 7, 7, 4]
    aucs = np.concatenate([block.auc for block in blocks])
    tprs = np.concatenate([block.tpr_at(0.2) for block in blocks])
    advantages = np.concatenate([block.advantage for block in blocks])
    for b, row in enumerate(weights):
        curve = roc(oracles.repeated(scores, row), oracles.repeated(member, row))
        assert aucs[b] == pytest.approx(curve.auc, abs=1e-12)
        assert tprs[b] == pytest.approx(curve.tpr_at(0.2), abs=1e-12)
        assert advantages[b] == pytest.approx(curve.advantage, abs=1e-12)


def groups_of(sizes, n_member):
    """Patients of these sizes, the first ``n_member`` of which are members; shuffled."""
    groups = np.repeat([f"patient_{n}" for n in range(len(sizes))], sizes)
    member = np.repeat(np.arange(len(sizes)) < n_member, sizes)
    order = np.random.default_rng(5).permutation(len(groups))
    return member[order], list(groups[order])


def test_groups_are_resampled_whole_and_side_by_side():
    sizes = [1, 3, 2, 5, 1, 2, 4]
    member, groups = groups_of(sizes, 3)
    weights = weights_by_group(member, groups, 200, seed=0)
    assert weights.shape == (200, sum(sizes))
    for row in weights:
        drawn = {}
        for weight, group in zip(row, groups, strict=True):
            assert weight == int(weight) >= 0
            assert drawn.setdefault(group, weight) == weight, "the cases of a patient move together"
        assert sum(drawn[f"patient_{n}"] for n in range(3)) == 3, "as many member patients as there are"
        assert sum(drawn[f"patient_{n}"] for n in range(3, 7)) == 4, "as many non-member patients as there are"


def test_groups_are_drawn_like_a_loop_draws_them():
    """Three groups with replacement: the ten possible resamples have the multinomial's probabilities."""
    member, groups = groups_of([2, 1, 1, 1], 3)
    n = 6000
    weights = weights_by_group(member, groups, n, seed=1)
    columns = [groups.index(f"patient_{k}") for k in range(3)]
    seen = Counter(tuple(row) for row in weights[:, columns].astype(int))
    expected = {key: n * stats.multinomial.pmf(key, 3, [1 / 3] * 3) for key in seen}
    assert len(seen) == 10
    rng = np.random.default_rng(2)
    loop = Counter(tuple(np.bincount(rng.integers(0, 3, 3), minlength=3)) for _ in range(n))
    assert stats.chisquare([seen[key] for key in seen], list(expected.values())).pvalue > 1e-3
    assert stats.chisquare([loop[key] for key in seen], list(expected.values())).pvalue > 1e-3


def test_weights_follow_the_seed_alone():
    member, groups = groups_of([1, 2, 3, 1], 2)
    first, again = (weights_by_group(member, groups, 20, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (weights_by_group(member, groups, 20, seed=8) != first).any()


def test_interval_is_the_percentile_interval():
    rng = np.random.default_rng(0)
    member = np.repeat([True, False], 30)
    scores = rng.normal(size=60) + member
    weights = weights_by_group(member, [str(n) for n in range(60)], 300, seed=0)
    aucs = []
    for row in weights:
        aucs.append(oracles.mann_whitney(oracles.repeated(scores, row), oracles.repeated(member, row)))
    expected = np.quantile(aucs, [0.05, 0.95])
    drawn = np.concatenate([curve.auc for curve in resampled_rocs(scores, member, weights)])
    assert percentiles(drawn, 0.9) == pytest.approx(tuple(expected))
    narrow = percentiles(drawn, 0.5)
    assert expected[0] < narrow[0] < narrow[1] < expected[1]


def test_copies_of_a_patients_case_do_not_narrow_an_interval():
    """Ten copies of every case are no more evidence, as long as they belong to one patient."""
    rng = np.random.default_rng(3)
    member = np.repeat([True, False], 25)
    scores = rng.normal(size=50) + member
    patients = [f"{n:02d}" for n in range(50)]
    many, copied, groups = np.repeat(scores, 10), np.repeat(member, 10), list(np.repeat(patients, 10))

    def auc_interval(values, inside, names):
        resampling = Resampling(n_resamples=400)
        drawn = resampled_rocs(values, inside, resampling.weights(inside, names))
        return resampling.interval(np.concatenate([curve.auc for curve in drawn]))

    once = auc_interval(scores, member, patients)
    assert auc_interval(many, copied, groups) == pytest.approx(once, abs=1e-12)
    as_patients = auc_interval(many, copied, [str(n) for n in range(500)])
    assert as_patients[1] - as_patients[0] < 0.5 * (once[1] - once[0])


# Proportions


def test_clopper_pearson_known_answers():
    """Section 5.5 of the notes on DP: 1 - .025^(1/1000) and .025^(1/1000), analytic."""
    assert clopper_pearson(0, 1000) == pytest.approx((0.0, 0.003682084), abs=1e-9)
    assert clopper_pearson(1000, 1000) == pytest.approx((0.996317916, 1.0), abs=1e-9)


def test_clopper_pearson_table():
    """8 of 10 at 95 %: [.4439, .9748] (Clopper and Pearson 1934, as in any table of exact binomial limits)."""
    assert clopper_pearson(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (1, 5), (3, 7), (50, 60), (9, 9)])
def test_clopper_pearson_inverts_the_binomial(successes, trials, confidence):
    """The limits are the rates at which the tail that was seen has half of the error."""
    low, high = clopper_pearson(successes, trials, confidence)
    tail = (1 - confidence) / 2
    assert (low == 0) if successes == 0 else stats.binom.sf(successes - 1, trials, low) == pytest.approx(tail)
    assert (high == 1) if successes == trials else stats.binom.cdf(successes, trials, high) == pytest.approx(tail)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("trials", [10, 40])
def test_clopper_pearson_covers_exactly(rate, trials):
    """Coverage summed over all outcomes: never below nominal."""
    covered = 0.0
    for successes in range(trials + 1):
        low, high = clopper_pearson(successes, trials)
        covered += stats.binom.pmf(successes, trials, rate) * (low <= rate <= high)
    assert covered >= 0.95


@pytest.mark.parametrize(("n", "expected"), [(1, 1.0), (20, 0.05), (1000, 0.001)])
def test_resolution_is_one_non_member(n, expected):
    assert resolution([True] * 7 + [False] * n) == pytest.approx(expected)


# Balanced accuracy


def test_balanced_accuracy_of_perfect_and_useless_scores():
    member = np.repeat([True, False], 40)
    groups = [str(n) for n in range(80)]
    accuracy, decision = balanced_accuracy(member + 0.0, member, groups, seed=0)
    assert accuracy == 1
    np.testing.assert_array_equal(decision, member)
    useless = [
        balanced_accuracy(np.random.default_rng(seed).normal(size=80), member, groups, seed)[0] for seed in range(40)
    ]
    # Standard error of one: sqrt(.25 / 80) = .056, of the mean of 40: .009.
    assert np.mean(useless) == pytest.approx(0.5, abs=4 * 0.009)


def test_balanced_accuracy_is_not_optimistic():
    """The threshold that is best on all units looks better than chance on noise; the cross-fitted one does not."""
    member = np.repeat([True, False], 15)
    groups = [str(n) for n in range(30)]
    honest, optimistic = [], []
    for seed in range(100):
        scores = np.random.default_rng(seed).normal(size=30)
        honest.append(balanced_accuracy(scores, member, groups, seed)[0])
        optimistic.append((1 + roc(scores, member).advantage) / 2)
    assert np.mean(optimistic) > 0.6
    # Standard error of one: sqrt(.25 / 30) = .091, of the mean of 100: .009.
    assert np.mean(honest) == pytest.approx(0.5, abs=4 * 0.009)


def test_balanced_accuracy_known_answer():
    """N(d, 1) against N(0, 1): Phi(d / 2) at the best threshold."""
    rng = np.random.default_rng(0)
    member = np.repeat([True, False], 3000)
    accuracy, _ = balanced_accuracy(rng.normal(size=6000) + 2 * member, member, list(np.arange(6000) // 60), seed=0)
    assert accuracy == pytest.approx(stats.norm.cdf(1.0), abs=0.015)


def test_balanced_accuracy_weighs_both_sides_alike():
    """Nobody is called a member: one half, however few members there are."""
    member = np.arange(100) < 10
    scores = np.where(member, -1.0, np.arange(100))
    accuracy, decision = balanced_accuracy(scores, member, [str(n) for n in range(100)], seed=0)
    assert accuracy == pytest.approx((decision[member].mean() + 1 - decision[~member].mean()) / 2)
    assert accuracy <= 0.5


def test_balanced_accuracy_never_splits_a_group():
    """Scores that only name their patient: with the patient on both sides of a fold they would give it away."""
    rng = np.random.default_rng(0)
    patients = np.arange(40)
    inside = rng.permutation(40) < 20
    scores = np.repeat(rng.permutation(40).astype(float), 5)
    member, groups = np.repeat(inside, 5), [str(n) for n in np.repeat(patients, 5)]
    by_patient, _ = balanced_accuracy(scores, member, groups, seed=0)
    once, _ = balanced_accuracy(scores[::5], inside, [str(n) for n in patients], seed=0)
    assert by_patient == pytest.approx(once, abs=0.15)
    assert by_patient < 0.65


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_works_for_any_cohort(seed):
    """Few patients of very different sizes: every fold still fits on both sides."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        sizes = rng.integers(1, 9, rng.integers(4, 12))
        member, groups = groups_of(list(sizes), int(rng.integers(2, len(sizes) - 1)))
        accuracy, decision = balanced_accuracy(rng.normal(size=len(member)), member, groups, seed)
        assert 0 <= accuracy <= 1
        assert decision.shape == member.shape


def test_balanced_accuracy_needs_two_groups_a_side():
    with pytest.raises(InputError, match="groups must be at least 2 on each side, got 1"):
        balanced_accuracy([1.0, 2.0, 3.0, 4.0], [True, True, False, False], ["a", "a", "b", "c"], seed=0)


# Permutations


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 1, 3, 1, 1, 2)])
def test_permutations_are_all_deals_alike(sizes, monkeypatch):
    """Three of six patients: each of the 20 deals is as likely, and all attacks see the same deal."""
    member, groups = groups_of(list(sizes), 3)
    scores = np.random.default_rng(0).normal(size=(2, len(member)))
    scores[1] = np.round(scores[1])  # ties
    expected = Counter(tuple(np.round(deal, 9)) for deal in oracles.all_deals(scores, member, groups))
    monkeypatch.setattr(sys.modules["monai_mia.statistics.roc"], "_BLOCK", 97 * len(member))
    n = 4000
    seen = Counter(tuple(row) for row in np.round(permuted_aucs(scores, member, groups, n, seed=0), 9))
    assert set(seen) == set(expected)
    frequencies = [[seen[deal] for deal in expected], [n * count / 20 for count in expected.values()]]
    assert stats.chisquare(*frequencies).pvalue > 1e-3


def test_permutations_have_the_mean_and_variance_of_mann_whitney():
    """Mean 1/2, variance (n + 1) / (12 n_in n_out) without ties (Mann and Whitney 1947)."""
    member = np.arange(50) < 20
    aucs = permuted_aucs(np.arange(50.0)[None], member, [f"{n:02d}" for n in range(50)], 5000, seed=0)[:, 0]
    variance = 51 / (12 * 20 * 30)
    assert aucs.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 5000))
    assert aucs.var() == pytest.approx(variance, rel=0.1)


def test_permutations_follow_the_seed_alone():
    member = np.arange(20) < 10
    groups = [f"{n:02d}" for n in range(20)]
    scores = np.random.default_rng(0).normal(size=(3, 20))
    first, again = (permuted_aucs(scores, member, groups, 50, seed=4) for _ in range(2))
    assert first.shape == (50, 3)
    np.testing.assert_array_equal(first, again)
    assert (permuted_aucs(scores, member, groups, 50, seed=5) != first).any()


# Tails under permuted membership


def test_permuted_tails_are_those_of_the_roc():
    """Ties, and patients with several cases, so that permutations differ in how many cases are members'."""
    rng = np.random.default_rng(3)
    groups = [f"p{n:02d}" for n in rng.integers(0, 14, 40)]
    inside = dict.fromkeys(sorted(set(groups))[::2], True)
    member = np.array([inside.get(group, False) for group in groups])
    scores = rng.integers(0, 9, (3, 40)).astype(float)
    fprs = (0.05, 0.1, 0.3)
    observed, permuted = permuted_tails(scores, member, groups, fprs, 30, seed=7)
    expected = [[float(roc(row, member).tpr_at(fpr)) for fpr in fprs] for row in scores]
    np.testing.assert_allclose(observed, expected, atol=1e-12)
    dealt = permuted_members(member, groups, 30, seed=7)
    slow = [[max(float(roc(row, deal).tpr_at(fpr)) for row in scores) for fpr in fprs] for deal in dealt]
    np.testing.assert_allclose(permuted, slow, atol=1e-12)


def test_tail_p_values_known_answer():
    """Of one FPR it is the share of all deals with as high a TPR; of two, the rarer one counts among the rarer ones."""
    chance = np.array([[0.1], [0.2], [0.3], [0.4]])
    assert tail_p_values(np.array([[0.5]]), chance).tolist() == [0.2]
    assert tail_p_values(np.array([[0.3], [0.0]]), chance).tolist() == [0.6, 1.0]
    # Deals: observed (.5, .1), then these. Shares at each FPR: .2 and .8 of the observed; of the others the rarer ones
    # are .6, .2, .4 and .6, so that two of five are as rare as the observed.
    both = np.array([[0.1, 0.3], [0.1, 0.4], [0.4, 0.0], [0.2, 0.0]])
    assert tail_p_values(np.array([[0.5, 0.1]]), both).tolist() == [0.4]
    assert tail_p_values(np.zeros((2, 0)), np.zeros((9, 0))).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_tail_p_values_of_chance_are_uniform_at_most(alike):
    """The best of six attacks that know nothing, alike or not, is called in 1 of 20 cohorts, and not much less."""
    rng, least, fprs = np.random.default_rng(11), [], (0.1, 0.05)
    member, groups = np.arange(60) % 2 == 0, [f"{n:02d}" for n in range(60)]
    for seed in range(600):
        scores = alike * rng.normal(size=60) + (1 - alike) * rng.normal(size=(6, 60))
        least.append(tail_p_values(*permuted_tails(scores, member, groups, fprs, 99, seed)).min())
    called = int((np.array(least) <= 0.05).sum())
    assert stats.binom.cdf(called, 600, 0.05) < 0.999
    assert called >= 8  # ties of rates make it a little less


# Groups


def test_group_means_known_answer():
    names, means = group_means([1.0, 10.0, 3.0, 5.0], ["b", "a", "b", "c"])
    assert names.tolist() == ["a", "b", "c"]
    assert means.tolist() == [10.0, 2.0, 5.0]


@PROPERTY
@given(st.lists(st.tuples(st.text("abc ,é漢", max_size=2), st.integers(-99, 99))))
def test_group_means_equal_the_loop(pairs):
    pairs = [*pairs, ("last", 1)]
    names, means = group_means([value for _, value in pairs], [name for name, _ in pairs])
    assert names.tolist() == sorted({name for name, _ in pairs})
    for name, mean in zip(names, means, strict=True):
        assert mean == pytest.approx(np.mean([value for other, value in pairs if other == name]), abs=1e-12)


# Score interval of the AUC


@pytest.mark.parametrize("auc", [0.0, 0.2, 0.5, 0.77, 0.95, 1.0])
def test_score_interval_inverts_its_own_test(auc):
    """At each end the observed AUC lies just z standard errors away (Newcombe 2006, method 5)."""
    low, high = auc_interval(auc, 30, 50)
    assert 0 <= low <= auc <= high <= 1
    assert low < high
    for end in (low, high):
        if end in (0, 1):
            assert end == auc
            continue
        spread = 1 + 39 * ((1 - end) / (2 - end) + end / (1 + end))
        error = math.sqrt(end * (1 - end) * spread / (30 * 50))
        assert abs(auc - end) == pytest.approx(1.959963984540054 * error, rel=1e-5)


def test_score_interval_is_symmetric():
    low, high = auc_interval(0.8, 30, 30)
    mirrored = auc_interval(0.2, 30, 30)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


@pytest.mark.parametrize(("d", "n"), [(0.0, 20), (1.0, 20), (2.5, 20), (2.5, 60)])
def test_score_interval_covers(d, n):
    """Binormal scores, nominal 95 %: the true AUC lies inside in at least 93 % of 2,000 draws."""
    rng = np.random.default_rng(0)
    true = stats.norm.cdf(d / math.sqrt(2))
    members = np.repeat([[True] * n + [False] * n], 2000, axis=0)
    found = aucs(rng.normal(size=(2000, 2 * n)) + d * members, members)
    inside = [low <= true <= high for low, high in (auc_interval(auc, n, n) for auc in found)]
    assert np.mean(inside) >= 0.93


def test_row_wise_aucs_are_those_of_each_row():
    rng = np.random.default_rng(1)
    scores = np.round(rng.normal(size=(20, 30)), 1)
    members = rng.permuted(np.tile(np.arange(30) < 12, (20, 1)), axis=1)
    assert aucs(scores, members) == pytest.approx(
        [metrics.roc_auc_score(m, s) for s, m in zip(scores, members, strict=True)]
    )


# The best of many


def test_the_reach_is_that_of_the_largest_deviation():
    """Independent normals: the quantile of 0.975 ** (1 / K) over that of 0.975; one attack and copies of one: 1."""
    samples = np.random.default_rng(0).normal(size=(8, 20000)) * np.arange(1, 9)[:, None] + np.arange(8)[:, None]
    one = stats.norm.ppf(0.975)
    assert reach_of_best(samples) == pytest.approx(stats.norm.ppf(0.975 ** (1 / 8)) / one, rel=0.02)
    assert reach_of_best(samples, one_sided=True) == pytest.approx(stats.norm.ppf(0.95 ** (1 / 8)) / one, rel=0.02)
    assert reach_of_best(samples, 0.5) == pytest.approx(
        stats.norm.ppf(0.75 ** (1 / 8)) / stats.norm.ppf(0.75), rel=0.03
    )
    for one_sided in (False, True):
        assert reach_of_best(samples[:1], one_sided=one_sided) == 1
        assert reach_of_best(np.tile(samples[:1], (8, 1)), one_sided=one_sided) == 1


def test_the_reach_covers_the_largest_of_many():
    """400 draws of 20 means of nothing: the largest's own interval misses often, this one in about 20 (at most 34)."""
    missed = alone = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values, samples = rng.normal(size=20), rng.normal(size=(20, 400))
        missed += values.max() > 1.96 * reach_of_best(samples, one_sided=True)
        alone += values.max() > 1.96
    assert missed <= 34
    assert alone > 100


def test_a_quantity_that_never_varies_needs_no_reach():
    assert reach_of_best(np.ones((3, 50))) == 1
    varied = np.random.default_rng(0).normal(size=(1, 50))
    assert reach_of_best(np.concatenate([varied, np.ones((3, 50))])) == 1


# TPRs that know how uncertain an FPR is


def test_resampled_tprs_are_those_of_the_slow_twin():
    rng = np.random.default_rng(0)
    scores, member = rng.normal(size=30).round(1), np.arange(30) % 3 > 0
    gaps = rng.exponential(size=(40, 31))
    found = resampled_tprs(scores, member, gaps, [0.02, 0.1, 0.4])
    for row, drawn in zip(found.T, gaps, strict=True):
        beyond, total = drawn[-1], drawn[:-1][~member].sum() + drawn[-1]
        points = []
        for threshold in sorted(set(scores), reverse=True):
            above = scores >= threshold
            false = (drawn[:-1][above & ~member].sum() + beyond / 2) / total
            points.append((false, drawn[:-1][above & member].sum() / drawn[:-1][member].sum()))
        for fpr, value in zip([0.02, 0.1, 0.4], row, strict=True):
            allowed = [tpr for false, tpr in points if false <= fpr]
            alone = max(tpr for false, tpr in points if false == points[0][0])
            assert value == pytest.approx(max(allowed) if allowed else alone * fpr / points[0][0])


def test_the_fpr_of_the_strictest_threshold_is_a_beta_variable():
    """20 non-members below all members: TPR 1 at 10 % FPR unless half a gap, of Beta(1, 20), is more than that."""
    member = np.arange(40) < 20
    gaps = gaps_by_group(member, [f"{k:02d}" for k in range(40)], 20000, 0)
    assert gaps.shape == (20000, 41)
    below = (resampled_tprs(member + 0.0, member, gaps, [0.1])[0] < 1).mean()
    assert below == pytest.approx(0.8**20, abs=0.003)


def test_gaps_are_shared_by_the_cases_of_a_patient():
    member, groups = np.repeat(np.arange(6) < 3, 2), np.repeat([f"p{k}" for k in range(6)], 2).tolist()
    gaps = gaps_by_group(member, groups, 5, 1)
    assert (gaps[:, :-1:2] == gaps[:, 1::2]).all()
    assert (gaps_by_group(member, groups, 5, 1) == gaps).all()
