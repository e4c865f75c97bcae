# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Claims of membership: p-values by hand, a share of false claims that stays below its bound, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROPERTY
from scipy import stats

from monai_mia.errors import InputError
from monai_mia.statistics.claims import (
    Claims,
    _claims_by_split,
    claimed_members,
    conformal_p_values,
    evaluate_claims,
    fewest_claims,
    min_nonmembers,
)
from monai_mia.statistics.roc import clopper_pearson


def simulate(n_known: int, n_member: int, n_nonmember: int, separation: float, seed: int, q=0.1, adaptive=False):
    """Share of false claims, and of members that were claimed, where scores are N(separation, 1) and N(0, 1)."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(separation, 1, n_member), rng.normal(size=n_nonmember)])
    claims = claimed_members(scores, rng.normal(size=n_known), q, adaptive)
    false = int(claims.claimed[n_member:].sum())
    return false / max(1, claims.n_claims), (claims.n_claims - false) / max(1, n_member)


# P-values


def test_p_values_by_hand():
    """(1 + known non-members who score as high) / (1 + known non-members); a tie counts as high."""
    found = conformal_p_values([0.0, 1.0, 2.5, 9.0], [1.0, 2.0, 3.0])
    assert found.tolist() == [1.0, 1.0, 0.5, 0.25]


@PROPERTY
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.integers(0, 100),
)
def test_random_p_values_lie_between_the_ties(scores, known, seed):
    """Slow twin: higher / (K + 1) < p <= (1 + as high) / (K + 1)."""
    drawn = conformal_p_values(scores, known, seed)
    for p, whole, score in zip(drawn, conformal_p_values(scores, known), scores, strict=True):
        assert whole == (1 + sum(other >= score for other in known)) / (len(known) + 1)
        assert sum(other > score for other in known) / (len(known) + 1) < p <= whole


def test_random_p_values_are_uniform_and_plain_ones_are_not():
    """A mask's Dice takes few values: half of all non-members tie."""
    rng = np.random.default_rng(0)
    drawn, plain = [], []
    for seed in range(3000):
        known, score = rng.integers(0, 2, 9), rng.integers(0, 2, 1)
        drawn += conformal_p_values(score, known, seed).tolist()
        plain += conformal_p_values(score, known).tolist()
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert stats.kstest(plain, "uniform").pvalue < 1e-9
    for level in (0.1, 0.3, 0.5):
        assert np.mean(np.asarray(plain) <= level) <= level + 0.03


def test_p_values_depend_on_order_only():
    rng = np.random.default_rng(0)
    scores, known = rng.normal(size=20), rng.normal(size=30)
    assert (conformal_p_values(np.exp(scores), np.exp(known)) == conformal_p_values(scores, known)).all()


# Claims


def test_claims_by_hand():
    """Benjamini and Hochberg: the largest k whose k-th smallest p-value is at most q k / N."""
    known = np.arange(99.0)  # p-values are multiples of 1/100
    scores = [99.5, 98.5, 96.5, 50.0, 10.0]  # .01, .01, .03, .5, .9
    claims = claimed_members(scores, known, q=0.05)
    assert claims.p_values == pytest.approx([0.01, 0.01, 0.03, 0.50, 0.90])
    assert claims.claimed.tolist() == [True, True, True, False, False]  # .03 <= .05 * 3 / 5, exactly
    assert claims.q_values == pytest.approx([0.025, 0.025, 0.05, 0.625, 0.9])
    assert (claims.n_claims, claims.n_nonmember, claims.fewest, claims.nonmember_share) == (3, 99, 1, 1.0)


def test_adaptive_claims_by_hand():
    """Storey: (1 + p-values above one half) / (N / 2) of five patients are non-members, here 2 / 2.5."""
    scores = [99.5, 98.5, 96.5, 52.0, 10.0]  # .01, .01, .03, .48, .90
    claims = claimed_members(scores, np.arange(99.0), q=0.05, adaptive=True)
    assert claims.nonmember_share == pytest.approx(0.8)
    assert claims.q_values == pytest.approx([0.02, 0.02, 0.04, 0.48, 0.72])
    assert claims.claimed.tolist() == [True, True, True, False, False]


@PROPERTY
@given(st.integers(1, 40), st.integers(30, 200), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 1000))
def test_claims_are_the_procedure_and_respect_the_resolution(n, n_known, q, seed):
    """Slow twin, step by step; no fewer are claimed than is said to be possible."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(1.5, 1, n)
    claims = claimed_members(scores, rng.normal(size=n_known), q)
    ordered = sorted(claims.p_values)
    k = max((k for k in range(1, n + 1) if ordered[k - 1] * n <= q * k + 1e-12), default=0)
    expected = claims.p_values <= (ordered[k - 1] if k else -1)
    assert (claims.claimed == expected).all()
    assert claims.n_claims == 0 or claims.n_claims >= claims.fewest
    assert ((claims.q_values <= q + 1e-9) == claims.claimed).all()
    assert claims.q_values == pytest.approx(stats.false_discovery_control(claims.p_values), rel=1e-12)


@pytest.mark.parametrize(("n_scored", "n_known", "q"), [(100, 99, 0.1), (100, 98, 0.1), (7, 40, 0.05), (1, 9, 0.1)])
def test_the_resolution_is_what_perfect_scores_need(n_scored, n_known, q):
    """So many patients above all known non-members are claimed; one fewer are not."""
    fewest = fewest_claims(n_scored, n_known, q)
    for above in {fewest - 1, fewest} - {0}:
        scores = np.where(np.arange(n_scored) < above, 1e3, -1e3)
        assert claimed_members(scores, np.arange(n_known), q).n_claims == (above if above == fewest else 0)


def test_how_many_nonmembers_it_takes():
    for n, q, k in ((100, 0.1, 1), (100, 0.1, 10), (53, 0.05, 4), (1, 0.5, 1)):
        need = min_nonmembers(n, q, k)
        assert fewest_claims(n, need, q) <= k
        assert need == 1 or fewest_claims(n, need - 1, q) > k


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("n_member", "n_nonmember", "separation"), [(0, 60, 0.0), (40, 40, 2.0), (60, 20, 1.5)])
def test_the_share_of_false_claims_is_bounded(n_member, n_nonmember, separation, adaptive):
    """Mean over 1,000 games at most q times the share of non-members (plain) or q (adaptive), and sampling error."""
    shares, power = np.array(
        [simulate(50, n_member, n_nonmember, separation, seed, 0.1, adaptive) for seed in range(1000)]
    ).T
    bound = 0.1 * (1.0 if adaptive else n_nonmember / (n_member + n_nonmember))
    assert shares.mean() <= bound + 3 * shares.std() / math.sqrt(len(shares))
    if n_member:
        assert power.mean() > 0.1, "valid, but not by claiming nobody"
        assert shares.mean() > bound / 4


def test_without_a_leak_hardly_anyone_is_claimed():
    """All are non-members: any claim is false, and games with a claim are at most q of all."""
    claimed = [simulate(99, 0, 40, 0.0, seed)[0] > 0 for seed in range(500)]
    assert sum(claimed) <= stats.binom.isf(1e-3, 500, 0.1)


def test_power_grows_with_the_leak_and_with_known_nonmembers():
    by_leak = [np.mean([simulate(60, 50, 50, d, seed)[1] for seed in range(200)]) for d in (1.0, 2.0, 3.0)]
    assert by_leak[0] < by_leak[1] - 0.1 < by_leak[2] - 0.2
    by_known = [np.mean([simulate(k, 50, 50, 2.0, seed)[1] for seed in range(200)]) for k in (15, 60, 500)]
    assert by_known[0] < by_known[1] < by_known[2]
    plain, adaptive = (np.mean([simulate(60, 80, 20, 1.5, s, adaptive=a)[1] for s in range(200)]) for a in (0, 1))
    assert adaptive > plain + 0.05


def test_an_inverted_score_claims_nobody():
    rng = np.random.default_rng(0)
    claims = claimed_members(rng.normal(-3, 1, 50), rng.normal(size=50))
    assert isinstance(claims, Claims)
    assert claims.n_claims == 0


# Evaluation


def cohort(n: int, separation: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    member = np.repeat([True, False], n)
    return rng.normal(size=2 * n) + separation * member, member, [f"p{number:04d}" for number in range(2 * n)]


def test_perfect_scores_are_all_claimed():
    """40 members and 20 scored non-members; the other 20 calibrate."""
    member = np.repeat([True, False], 40)
    found = evaluate_claims(member + 0.0, member, [f"p{n}" for n in range(80)], q=0.1)
    assert (found.n_member, found.n_nonmember, found.n_calibration) == (40, 20, 20)
    assert (found.n_claims.value, found.false_share.value, found.tpr.value) == (40, 0.0, 1.0)
    assert found.false_share.ci == clopper_pearson(0, 40)
    assert found.tpr.ci == clopper_pearson(40, 40)
    assert found.n_splits == 200
    assert found.fewest == fewest_claims(60, 20) == 29


def test_evaluation_is_by_patient():
    """Two cases each, unlike each other: as the patients' means."""
    scores, member, names = cohort(60, 2.5)
    order = np.random.default_rng(3).permutation(240)
    twice = (np.repeat(scores, 2) + np.tile([1.5, -1.5], 120))[order]
    found = evaluate_claims(twice, np.repeat(member, 2)[order], np.repeat(names, 2)[order].tolist(), seed=4)
    assert found == evaluate_claims(scores, member, names, seed=4)
    assert found.n_claims.value > 0


@PROPERTY
@given(st.integers(0, 1000), st.booleans(), st.integers(0, 2))
def test_all_splits_at_once_are_the_procedure_one_by_one(seed, adaptive, digits):
    """Each split, and each resample of it, as :func:`claimed_members` has it; ties included."""
    rng = np.random.default_rng(seed)
    inside = np.arange(60) < 20
    pooled = np.round(rng.normal(size=60) + 2 * inside, digits)
    known = np.zeros((3, 60), dtype=bool)
    for row in known:
        row[rng.permutation(np.flatnonzero(~inside))[:20]] = True
    weights = rng.integers(1, 4, (3, 60)).astype(float)
    for counts in (None, weights):
        made, false, share = _claims_by_split(pooled, inside, known, counts, 0.3, adaptive)
        for r, row in enumerate(known):
            times = np.ones(60, dtype=int) if counts is None else counts[r].astype(int)
            drawn = np.repeat(np.arange(60), times)
            rest, calibrating = drawn[~row[drawn]], drawn[row[drawn]]
            one = claimed_members(pooled[rest], pooled[calibrating], 0.3, adaptive)
            assert (made[r], false[r]) == (one.n_claims, int((one.claimed & ~inside[rest]).sum()))
            assert share[r] == pytest.approx(one.nonmember_share)


def test_one_split_says_nothing_and_the_mean_does():
    """A cohort in which a split claims nobody or a third of the members, as chance has it; the number is the mean."""
    given_ = cohort(40, 1.6, 3)
    splits = [evaluate_claims(*given_, seed=seed, n_splits=1, n_resamples=1).tpr.value for seed in range(40)]
    assert min(splits) == 0
    assert max(splits) > 0.3
    found = [evaluate_claims(*given_, seed=seed, n_resamples=20).tpr.value for seed in range(4)]
    assert max(found) - min(found) < 0.1
    assert np.mean(found) == pytest.approx(np.mean(splits), abs=0.12)


def test_the_interval_of_claims_holds_what_other_cohorts_give():
    """Mean over cohorts of the share claimed, 60 + 60 patients; nominal 95 %, at most one false alarm in a thousand."""
    several = [
        evaluate_claims(*cohort(60, 2.0, 5000 + k), adaptive=True, n_splits=10, n_resamples=1) for k in range(300)
    ]
    truth = np.mean([one.tpr.value for one in several])
    found = [evaluate_claims(*cohort(60, 2.0, k), adaptive=True, n_splits=40, n_resamples=80).tpr for k in range(60)]
    assert sum(not one.low <= truth <= one.high for one in found) <= stats.binom.isf(1e-3, 60, 0.05)


def test_an_attack_chosen_as_the_best_reaches_further_down():
    plain, chosen = (evaluate_claims(*cohort(60, 2.0), reach=reach).tpr for reach in (1.0, 1.4))
    assert chosen.low < plain.low < chosen.value == plain.value < chosen.high == plain.high


def test_evaluation_is_seeded():
    given = cohort(80, 2.0)
    found = [evaluate_claims(*given, seed=seed, n_splits=5) for seed in range(6)]
    assert found[2] == evaluate_claims(*given, seed=2, n_splits=5)
    assert len({one.n_claims.value for one in found}) > 1, "other splits, other claims"


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_mean_share_of_false_claims_is_bounded(adaptive):
    """Over 100 cohorts; a third of the scored are non-members."""
    found = [
        evaluate_claims(*cohort(60, 2.0, seed), adaptive=adaptive, n_splits=5, n_resamples=1) for seed in range(100)
    ]
    shares = np.array([one.false_share.value for one in found])
    assert shares.mean() <= (0.1 if adaptive else 0.1 / 3) + 3 * shares.std() / math.sqrt(100)
    assert np.mean([one.tpr.value for one in found]) > 0.25
    without = [
        evaluate_claims(*cohort(60, 0.0, seed), adaptive=adaptive, n_splits=5, n_resamples=1) for seed in range(50)
    ]
    assert np.mean([one.n_claims.value for one in without]) < 2


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: claimed_members([1.0] * 5, [0.0] * 8, 0.1), r"at least 9 known non-members .* q = 0.1, got 8\. Add"),
        (lambda: claimed_members([1.0], [0.0] * 18, 0.1, True), "at least 19 known non-members .* got 18"),
        (lambda: claimed_members([1.0], [], 0.1), "at least one known non-member, got none"),
        (lambda: claimed_members([], [1.0], 0.1), "scores must hold at least one patient, got none"),
        (lambda: claimed_members([1.0], [1.0], 1.0), r"q must be in \(0, 1\), got 1.0"),
        (lambda: claimed_members([math.nan], [1.0]), "scores must be a row of finite numbers, .* 1 that are not"),
        (lambda: claimed_members([1.0], [[1.0]]), r"nonmember_scores must be a row .* got shape \(1, 1\)"),
        (lambda: evaluate_claims([1.0, 2.0, 3.0], [1, 0, 0], ["a", "a", "b"]), "member must be the same for all"),
        (lambda: evaluate_claims([1.0, 2.0], [1, 0], ["a", "b"]), "1 member and 2 non-members .* got 1 and 1"),
        (lambda: evaluate_claims(*cohort(5, 1.0), calibration=1.0), r"calibration must be in \(0, 1\), got 1.0"),
        (lambda: evaluate_claims(*cohort(5, 1.0), n_splits=0), "n_splits must be at least 1, got 0"),
        (lambda: evaluate_claims(*cohort(5, 1.0)), "at least 9 known non-members for any claim at q = 0.1, got 3"),
    ],
)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_the_error_asks_for_is_enough():
    claimed_members([1.0] * 5, [0.0] * 9, 0.1)
    assert claimed_members([1.0], [0.0] * 19, 0.1, adaptive=True).n_claims == 1
