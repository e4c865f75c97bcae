# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Do intervals cover, are p-values p-values, do bounds hold: what is promised, counted over many simulated audits.

The fast versions run always; ``pytest -m slow tests/calibration`` counts more draws. Each prints what it measured
(``-s``). A rate is compared with what is nominal up to the binomial error of the count: at most one false alarm in a
thousand, were the promise just kept.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from oracles import game, hidden_tail
from scipy import stats

from monai_mia.attacks import DifficultyCalibration, EverySignal, GlobalLoss, LiRA, Threshold
from monai_mia.audit.audit import Audit
from monai_mia.statistics import Resampling
from monai_mia.statistics.epsilon import epsilon_lower_bound
from monai_mia.statistics.permutation import permuted_aucs
from monai_mia.statistics.roc import resampled_rocs, roc

#: What a percentile bootstrap of 50 + 50 patients is allowed to miss beside the binomial error.
BOOTSTRAP_SHORTFALL = 0.02

ATTACKS = [
    GlobalLoss(),
    Threshold("dice"),
    DifficultyCalibration(),
    DifficultyCalibration(remove_offsets=False),
    *(LiRA(mode=m, variance=v) for m, v in product(("online", "offline"), ("pooled", "case"))),
]


def draws(fast: int, slow: int):
    """Few draws always, many where slow tests are asked for."""
    return pytest.mark.parametrize("n", [fast, pytest.param(slow, marks=pytest.mark.slow)], ids=["fast", "slow"])


def most(n: int, rate: float) -> int:
    """As many of ``n`` as happen by chance, at ``rate``, in all but one of a thousand studies."""
    return int(stats.binom.isf(1e-3, n, rate))


def least(n: int, rate: float) -> int:
    """As few of ``n`` as happen by chance, at ``rate``, in all but one of a thousand studies."""
    return int(stats.binom.ppf(1e-3, n, rate))


# Intervals


def clustered(rng, patients, cases, separation, between):
    """Scores of patients with an effect of their own and several cases; total variance 1."""
    member = np.repeat(rng.permutation(patients) < patients // 2, cases)
    effect = np.repeat(rng.normal(0, math.sqrt(between), patients), cases)
    scores = separation * member + effect + rng.normal(0, math.sqrt(1 - between), patients * cases)
    return scores, member, [f"{n:03d}" for n in np.repeat(np.arange(patients), cases)]


@draws(fast=100, slow=2000)
def test_auc_interval_covers_by_patient_and_not_by_case(n):
    """Binormal scores, true AUC Phi(d / sqrt 2), 100 patients of 4 cases with a correlation of .6 within a patient."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    covered = {"patient": 0, "case": 0}
    for seed in range(n):
        scores, member, patients = clustered(np.random.default_rng(seed), 100, 4, 1.0, between=0.6)
        for unit, groups in (("patient", patients), ("case", [f"{k:03d}" for k in range(400)])):
            resampling = Resampling(n_resamples=300, seed=seed)
            drawn = resampled_rocs(scores, member, resampling.weights(member, groups))
            low, high = resampling.interval(np.concatenate([curve.auc for curve in drawn]))
            covered[unit] += low <= truth <= high
    print(f"AUC interval, nominal .95, {n} draws: {rates(covered, n)}")
    assert covered["patient"] >= least(n, 0.95 - BOOTSTRAP_SHORTFALL)
    assert covered["patient"] <= most(n, 0.95 + BOOTSTRAP_SHORTFALL)
    assert covered["case"] < least(n, 0.9), "resampling cases as if they were patients covers too little"


@draws(fast=30, slow=1500)
def test_an_audits_intervals_cover(n):
    """Binormal scores of 60 + 60 patients, d = 1: AUC Phi(d / sqrt 2), TPR at FPR a Phi(d + Phi^-1(a)).

    The gap of a utility is delta.
    """
    audit = Audit(
        [GlobalLoss()],
        fprs=(0.3, 0.1, 0.05),
        utility=("dice",),
        resampling=Resampling(n_resamples=300),
        n_permutations=19,
    )
    truth = {
        "AUC": stats.norm.cdf(1 / math.sqrt(2)),
        **{f"TPR@{fpr}": stats.norm.cdf(1 + stats.norm.ppf(fpr)) for fpr in audit.fprs},
        "utility gap": 1.0,
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(n):
        played = game(n=120, shadows=0, delta=1.0, spread=0.0, seed=seed)
        result = replace(audit, resampling=replace(audit.resampling, seed=seed)).run(played.table)
        found = {
            "AUC": result.best.auc.ci,
            **{f"TPR@{fpr}": value.ci for fpr, value in result.best.tpr_at_fpr.items()},
            "utility gap": result.utility["dice"]["gap"].ci,
        }
        for name, (low, high) in found.items():
            covered[name] += low <= truth[name] <= high
    print(f"an audit's intervals, nominal .95, {n} audits: {rates(covered, n)}")
    for name, count in covered.items():
        assert count >= least(n, 0.95 - BOOTSTRAP_SHORTFALL), name


# Under the null


@draws(fast=30, slow=400)
def test_under_the_null_the_tpr_is_the_fpr(n):
    """Exact: the members above the (k + 1)-th of m non-members are beta-binomial, mean (k + 1) / (m + 1).

    Membership is dealt at random and does nothing, so that members and non-members are exchangeable.
    """
    size, fprs = 400, (0.2, 0.05, 0.01)
    totals = np.zeros((len(ATTACKS), len(fprs)))
    for seed in range(n):
        played = game(n=2 * size, shadows=8, delta=0.0, offsets=1.0, seed=seed)
        for a, attack in enumerate(ATTACKS):
            curve = roc(attack(played.view), played.member)
            totals[a] += [curve.tpr_at(fpr) * size for fpr in fprs]
    for f, fpr in enumerate(fprs):
        k = round(fpr * size)
        above = stats.betabinom(size, k + 1, size - k)
        error = math.sqrt(n * above.var())
        print(f"null TPR@{fpr}, {n} games: {', '.join(f'{t / n / size:.4f}' for t in totals[:, f])}")
        for attack, total in zip(ATTACKS, totals[:, f], strict=True):
            assert abs(total - n * above.mean()) < 4 * error, f"{attack.name} at {fpr}"


@draws(fast=300, slow=4000)
def test_p_values_of_the_best_attack_are_p_values(n):
    """The best of eight attacks on 40 patients; a p-value falls below a in at most a of the null audits."""
    p_values = []
    for seed in range(n):
        played = game(n=40, shadows=8, delta=0.0, seed=seed)
        scores = np.stack([attack(played.view) for attack in ATTACKS])
        best = max(float(roc(row, played.member).auc) for row in scores)
        chance = permuted_aucs(scores, played.member, played.table.patient_ids, 199, seed).max(axis=1)
        p_values.append((1 + (chance >= best - 1e-12).sum()) / 200)
    p_values = np.array(p_values)
    levels = (0.01, 0.05, 0.2, 0.5)
    print(f"p-values, {n} draws: {rates({a: (p_values <= a).sum() for a in levels}, n)}")
    for level in levels:
        assert (p_values <= level).sum() <= most(n, level), level
    # And they are not only valid but sharp: attacks without ties have no reason to be conservative.
    assert (p_values <= 0.5).sum() >= least(n, 0.5)


@draws(fast=15, slow=1500)
def test_verdicts_under_the_null(n):
    """Without any leak an audit of many attacks is ``low`` in at least 94 %, and ``high`` hardly ever.

    Chance makes an AUC significant in 5 %, a tail in 1 %.

    What chance makes significant, an attack on a placebo may explain: such an audit is ``inconclusive``.
    """
    attacks = [GlobalLoss(), EverySignal(), LiRA(), LiRA(mode="offline", variance="case")]
    audit = Audit(attacks, fprs=(0.1, 0.05), utility=(), resampling=Resampling(n_resamples=100), n_permutations=399)
    levels = dict.fromkeys(("low", "moderate", "high", "inconclusive"), 0)
    for seed in range(n):
        played = game(n=60, shadows=8, delta=0.0, offsets=1.0, seed=seed)
        levels[replace(audit, resampling=replace(audit.resampling, seed=seed)).run(played.table).verdict.level] += 1
    print(f"verdicts without a leak, {n} audits: {rates(levels, n)}")
    assert n - levels["low"] <= most(n, 0.06)
    assert levels["high"] <= most(n, 0.01)


@draws(fast=8, slow=300)
def test_verdicts_with_a_leak(n):
    """The counterpart, without which nothing is shown: a strong leak is ``high``, a fair one is seen."""
    audit = Audit(
        [GlobalLoss(), LiRA()], fprs=(0.1,), utility=(), resampling=Resampling(n_resamples=100), n_permutations=99
    )
    seen = {"strong, high": 0, "fair, not low": 0}
    for seed in range(n):
        strong, fair = (game(n=100, shadows=8, delta=delta, seed=seed) for delta in (2.5, 1.2))
        seen["strong, high"] += audit.run(strong.table).verdict.level == "high"
        seen["fair, not low"] += audit.run(fair.table).verdict.level != "low"
    print(f"verdicts with a leak, {n} audits: {rates(seen, n)}")
    assert seen["strong, high"] >= least(n, 0.95)
    assert seen["fair, not low"] >= least(n, 0.9)


@draws(fast=5, slow=200)
def test_verdicts_with_a_tail_that_the_auc_hides(n):
    """Of 100 members 14 give themselves away, and the AUC is one half: called ``low``, it would betray them."""
    audit = Audit(
        [GlobalLoss(), Threshold("dice")], utility=(), resampling=Resampling(n_resamples=100), n_permutations=999
    )
    results = [audit.run(hidden_tail(n=200, seed=seed)) for seed in range(n)]
    by_auc = sum(result.best.p_value < 0.05 for result in results)
    seen = sum(result.verdict.level in ("moderate", "high") for result in results)
    print(f"a tail that the AUC hides, {n} audits: by AUC {by_auc / n:.3f}, called {seen / n:.3f}")
    assert seen >= least(n, 0.95)
    assert by_auc <= most(n, 0.05)


@draws(fast=8, slow=200)
@pytest.mark.parametrize("told", [0.8, 0.5, 0.0, None], ids=lambda told: f"images tell {told}")
def test_a_shift_without_memory_is_not_called_a_leak(n, told):
    """A released model, no shadows; members' images are 0.6 standard deviations easier, and nobody is remembered.

    An image statistic has this share of the difficulty's variance; None: images were not described.
    """
    levels = observational(n, 100, shift=0.6, leak=0.0, told=told)
    assert levels["moderate"] + levels["high"] <= most(n, 0.05)


@draws(fast=5, slow=200)
def test_a_leak_without_a_shift_is_still_called(n):
    """The counterpart: members are remembered, and image statistics tell the difficulty of a case."""
    levels = observational(n, 100, shift=0.0, leak=1.5, told=0.8)
    assert levels["moderate"] + levels["high"] >= least(n, 0.85)


def observational(n: int, size: int, shift: float, leak: float, told: float | None) -> dict[str, int]:
    """Levels of n audits of ``size`` members and as many others, by thresholds on three signals."""
    audit = Audit([GlobalLoss(), EverySignal()], fprs=(0.1,), utility=(), n_permutations=200)
    levels = dict.fromkeys(("low", "moderate", "high", "inconclusive"), 0)
    for seed in range(n):
        rng = np.random.default_rng([seed, 99])
        table = game(n=2 * size, shadows=0, seed=seed).table
        inside = table.members("target")
        difficulty = rng.normal(size=2 * size) + shift * inside
        values = (difficulty + leak * inside)[:, None] + rng.normal(0, 0.5, (2 * size, 3))
        features = rng.normal(size=(2 * size, 6))
        features[:, 0] = math.sqrt(told or 0) * difficulty + math.sqrt(1 - (told or 0)) * features[:, 0]
        one = replace(audit, resampling=Resampling(n_resamples=150, seed=seed))
        result = one.run(
            replace(table, values=values[None]), features=None if told is None else features, randomised=False
        )
        levels[result.verdict.level] += 1
    print(f"shift {shift}, leak {leak}, images tell {told}, {n} audits: {rates(levels, n)}")
    return levels


# Epsilon


@draws(fast=60, slow=3000)
@pytest.mark.parametrize("method", ["split", "bonferroni"])
def test_epsilon_of_a_useless_attack_is_zero(n, method):
    """Section 8 of the notes on peers: two well-known auditors report more than zero in 9 to 42 % of null audits."""
    positive = 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        positive += epsilon_lower_bound(rng.normal(size=80), np.arange(80) < 40, method, seed=seed).value > 0
    print(f"null epsilon > 0, {method}, {n} draws: {positive / n:.4f}")
    assert positive <= most(n, 0.05)


@draws(fast=300, slow=3000)
@pytest.mark.parametrize("method", ["split", "bonferroni"])
def test_epsilon_of_randomised_response_is_below_the_truth(n, method):
    """Randomised response of epsilon 1 tells the truth with probability e / (1 + e). The hardest case: it is tight."""
    truth = math.e / (1 + math.e)
    member = np.arange(1000) < 500
    values = []
    for seed in range(n):
        said = np.where(np.random.default_rng(seed).random(1000) < truth, member, ~member)
        values.append(epsilon_lower_bound(said + 0.0, member, method, seed=seed).value)
    print(f"randomised response, epsilon 1, {method}, {n} draws: {summary(values, 1.0)}")
    assert sum(value > 1.0 for value in values) <= most(n, 0.05)
    assert np.mean(values) > 0.5, "valid, but not by proving nothing"


@draws(fast=20, slow=1000)
@pytest.mark.parametrize("method", ["split", "bonferroni"])
def test_epsilon_of_the_gaussian_mechanism_is_below_the_truth(n, method):
    """Gaussian mechanism, mu = 1: (1, .126937)-DP and no better (section 5.5 of the notes on DP, analytic)."""
    delta = stats.norm.cdf(-0.5) - math.e * stats.norm.cdf(-1.5)
    assert delta == pytest.approx(0.126937, abs=1e-6)
    member = np.arange(200) < 100
    values, pure = [], []
    for seed in range(n):
        scores = np.random.default_rng(seed).normal(size=200) + member
        values.append(epsilon_lower_bound(scores, member, method, delta=delta, seed=seed).value)
        pure.append(epsilon_lower_bound(scores, member, method, delta=1e-5, seed=seed).value)
    print(f"Gaussian, epsilon 1 at delta .127, {method}, {n} draws: {summary(values, 1.0)}")
    print(f"Gaussian, epsilon 4.38 at delta 1e-5, {method}, {n} draws: {summary(pure, 4.377178)}")
    assert sum(value > 1.0 for value in values) <= most(n, 0.05)
    assert sum(value > 4.377178 for value in pure) <= most(n, 0.05)
    assert max(pure) > 0.2, "valid, but not by proving nothing"


# Printing


def rates(counts, n):
    return ", ".join(f"{name} {count / n:.3f}" for name, count in counts.items())


def summary(values, truth):
    above = np.mean(np.asarray(values) > truth)
    return f"mean {np.mean(values):.3f}, largest {np.max(values):.3f}, above the truth {above:.4f}"
