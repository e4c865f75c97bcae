# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Audited epsilon: the numbers of other auditors, and the rules of a valid bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROPERTY, binormal
from scipy import stats

from monai_mia.errors import InputError
from monai_mia.statistics.epsilon import (
    EpsilonBound,
    audit_canaries,
    canary_epsilon,
    epsilon_ceiling,
    epsilon_from_counts,
    epsilon_from_rates,
    epsilon_lower_bound,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    mu_from_counts,
    one_run_epsilon,
    one_run_p_value,
)

METHODS = ["split", "bonferroni"]


# Known answers


@pytest.mark.parametrize(
    ("tpr", "fpr", "delta", "expected"),
    [
        (0.9, 0.1, 0.0, math.log(9)),
        (0.5, 0.5, 0.0, 0.0),
        (0.1, 0.9, 0.0, 0.0),
        (0.6, 0.2, 0.1, math.log(0.5 / 0.2)),
        (0.99, 0.5, 0.0, math.log(0.5 / 0.01)),
        (1.0, 0.5, 0.0, math.inf),
        (0.5, 0.0, 0.0, math.inf),
        (0.5, 0.0, 0.6, 0.0),
    ],
)
def test_epsilon_from_rates(tpr, fpr, delta, expected):
    """TPR <= e^eps FPR + delta and 1 - FPR <= e^eps (1 - TPR) + delta (Kairouz, Oh and Viswanath, ICML 2015).

    (.9, .1) is ln 9 = 2.197225 in section 5.5 of the notes on DP.
    """
    assert epsilon_from_rates(tpr, fpr, delta) == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_randomised_response_is_tight(epsilon):
    """Randomised response tells the truth with probability e^eps / (1 + e^eps) and is exactly eps-private."""
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert epsilon_from_rates(truth, 1 - truth) == pytest.approx(epsilon)


@pytest.mark.parametrize(
    ("counts", "delta", "expected"),
    [
        ((1000, 1000, 0, 1000), 0.0, 5.600588),
        ((900, 1000, 100, 1000), 0.0, 1.989706),
        ((900, 1000, 100, 1000), 1e-5, 1.989695),
        ((90, 100, 10, 100), 0.0, 1.542152),
        ((60, 64, 3, 64), 0.0, 1.867745),
        ((128, 128, 0, 128), 0.0, 3.532263),
        ((16, 16, 0, 16), 0.0, 1.349775),
    ],
)
def test_epsilon_from_counts(counts, delta, expected):
    """Table of section 5.5 of the notes on DP, alpha = .05; it agrees with jax_privacy's auditor to 2e-16."""
    assert epsilon_from_counts(*counts, delta=delta) == pytest.approx(expected, abs=1e-6)


def test_epsilon_of_a_perfect_attack_is_analytic():
    """Section 5.5 of the notes on DP: ln(x / (1 - x)) with x = .025^(1/1000)."""
    x = 0.025**0.001
    assert epsilon_from_counts(1000, 1000, 0, 1000) == pytest.approx(math.log(x / (1 - x)), rel=1e-9)


def test_counts_prove_less_than_rates_and_more_with_more_patients():
    """Section 5.5 of the notes on DP: (90, 100, 10, 100) < (900, 1000, 100, 1000) < the rates (.9, .1)."""
    few, many = epsilon_from_counts(90, 100, 10, 100), epsilon_from_counts(900, 1000, 100, 1000)
    assert few < many < epsilon_from_rates(0.9, 0.1)


@pytest.mark.parametrize(("n", "expected"), [(1000, 5.600588), (128, 3.532263), (16, 1.349775)])
def test_ceiling(n, expected):
    """Rows (n, n, 0, n) of the table in section 5.5 of the notes on DP."""
    assert epsilon_ceiling(n, n) == pytest.approx(expected, abs=1e-6)
    assert epsilon_ceiling(n, n, delta=0.01) < expected
    assert epsilon_ceiling(n, n, confidence=0.99) < expected


# Counts


@pytest.mark.parametrize("counts", [(0, 50, 50, 50), (0, 50, 0, 50), (50, 50, 50, 50), (25, 50, 25, 50)])
def test_useless_counts_prove_nothing(counts):
    assert epsilon_from_counts(*counts) == 0


@PROPERTY
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_counts_behave(n_in, n_out, data):
    """More hits, fewer alarms, fewer thresholds and a smaller delta never prove less; the value is finite."""
    tp, fp = data.draw(st.integers(0, n_in)), data.draw(st.integers(0, n_out))
    value = epsilon_from_counts(tp, n_in, fp, n_out)
    assert 0 <= value < math.inf
    assert epsilon_from_counts(tp, n_in, fp, n_out, n_thresholds=9) <= value
    assert epsilon_from_counts(tp, n_in, fp, n_out, delta=0.05) <= value
    assert epsilon_from_counts(tp, n_in, fp, n_out, confidence=0.99) <= value
    # Calling members non-members and the reverse is the same test.
    assert epsilon_from_counts(n_out - fp, n_out, n_in - tp, n_in) == pytest.approx(value, abs=1e-9)
    if fp > 0 and value > 0 and tp > fp:
        assert epsilon_from_counts(tp, n_in, fp - 1, n_out) >= value - 1e-12


def test_bonferroni_divides_the_error():
    assert epsilon_from_counts(90, 100, 10, 100, n_thresholds=5) == pytest.approx(
        epsilon_from_counts(90, 100, 10, 100, confidence=1 - 0.05 / 5)
    )


# Scores


@pytest.mark.parametrize("method", METHODS)
def test_perfect_scores_reach_the_ceiling(method):
    member = np.repeat([True, False], 100)
    bound = epsilon_lower_bound(member + 0.0, member, method)
    n = 50 if method == "split" else 100
    expected = epsilon_from_counts(n, n, 0, n, n_thresholds=1 if method == "split" else 2)
    assert bound.value == bound.ceiling == pytest.approx(expected)
    assert (bound.method, bound.delta, bound.confidence) == (method, 0.0, 0.95)


@pytest.mark.parametrize("method", METHODS)
def test_constant_and_inverted_scores(method):
    """A constant proves nothing. Inverted scores prove nothing at 'score >= threshold' with high precision either."""
    member = np.repeat([True, False], 50)
    assert epsilon_lower_bound(np.zeros(100), member, method).value == 0
    assert epsilon_lower_bound(-1.0 * member, member, method).value == 0


def test_bonferroni_is_the_best_of_all_thresholds_at_its_error():
    """Slow twin: every distinct score as a threshold, the error divided by their number."""
    rng = np.random.default_rng(0)
    member = np.arange(60) < 30
    scores = np.round(rng.normal(size=60) + 2 * member, 1)
    distinct = sorted(set(scores))
    best = 0.0
    for threshold in distinct:
        tp = sum(score >= threshold for score in scores[member])
        fp = sum(score >= threshold for score in scores[~member])
        best = max(best, epsilon_from_counts(tp, 30, fp, 30, n_thresholds=len(distinct)))
    assert best > 0
    assert epsilon_lower_bound(scores, member, "bonferroni").value == pytest.approx(best, rel=1e-12)


def test_split_counts_one_threshold_on_the_other_half():
    """Whatever threshold the first half chose, the value is that of some single threshold on 25 + 25 patients."""
    rng = np.random.default_rng(1)
    member = np.arange(100) < 50
    scores = rng.normal(size=100) + 2 * member
    possible = {round(epsilon_from_counts(tp, 25, fp, 25), 9) for tp in range(26) for fp in range(26)}
    values = [epsilon_lower_bound(scores, member, "split", seed=seed).value for seed in range(20)]
    assert {round(value, 9) for value in values} <= possible
    assert len(set(values)) > 3
    assert epsilon_lower_bound(scores, member, "split", seed=3) == epsilon_lower_bound(scores, member, "split", seed=3)


@pytest.mark.parametrize("method", METHODS)
def test_bound_is_below_the_ceiling_and_grows_with_the_leak(method):
    values = []
    for separation in (0.0, 1.5, 3.0, 5.0):
        scores, member = binormal(200, separation)
        bound = epsilon_lower_bound(scores, member, method)
        assert 0 <= bound.value <= bound.ceiling
        values.append(bound.value)
    assert values[0] == 0
    assert values[1] < values[2] < values[3]


@pytest.mark.parametrize("method", METHODS)
def test_bound_is_invariant_under_increasing_maps(method):
    scores, member = binormal(50, 2.0)
    mapped = epsilon_lower_bound(np.exp(scores), member, method)
    assert mapped == epsilon_lower_bound(scores, member, method)


@pytest.mark.parametrize("method", METHODS)
def test_delta_and_confidence_lower_the_bound(method):
    scores, member = binormal(200, 3.0)
    value = epsilon_lower_bound(scores, member, method).value
    assert epsilon_lower_bound(scores, member, method, delta=0.05).value < value
    assert epsilon_lower_bound(scores, member, method, confidence=0.999).value < value


def test_too_few_patients_are_refused():
    with pytest.raises(InputError, match="at least 4 on each side to bound epsilon, got 3 members and 7 non-members"):
        epsilon_lower_bound(np.arange(10.0), np.arange(10) < 3)


def test_the_best_of_all_thresholds_is_not_offered():
    """Section 8 of the notes on peers: it is positive in 9 to 42 % of null audits, and no bound."""
    with pytest.raises(InputError, match="method must be 'split' or 'bonferroni', got 'best'"):
        epsilon_lower_bound(np.arange(10.0), np.arange(10) < 5, "best")  # type: ignore[arg-type]


# Gaussian differential privacy


@pytest.mark.parametrize(
    ("counts", "mu", "epsilon"),
    [
        ((1000, 1000, 0, 1000), 5.359823, 36.489488),
        ((900, 1000, 100, 1000), 2.347097, 12.197563),
        ((60, 64, 3, 64), 2.148328, 10.922099),
        ((128, 128, 0, 128), 3.809446, 22.834575),
        ((16, 16, 0, 16), 1.641410, 7.857460),
    ],
)
def test_gaussian_bounds_from_counts(counts, mu, epsilon):
    """Table of section 5.5 of the notes on DP, alpha = .05, delta = 1e-5."""
    assert mu_from_counts(*counts) == pytest.approx(mu, abs=1e-6)
    assert epsilon_from_counts(*counts, delta=1e-5, gaussian=True) == pytest.approx(epsilon, abs=1e-6)
    if counts[2] == 0 and counts[0] == counts[1]:
        assert epsilon_ceiling(counts[1], counts[3], 1e-5, gaussian=True) == pytest.approx(epsilon, abs=1e-6)


def test_gaussian_mechanism():
    """Section 5.5 of the notes on DP: delta(1, mu = 1) is analytic, the others are jax_privacy's."""
    analytic = stats.norm.cdf(-0.5) - math.e * stats.norm.cdf(-1.5)
    assert gdp_delta(1.0, 1.0) == pytest.approx(analytic, rel=1e-12)
    assert gdp_epsilon(1.0, analytic) == pytest.approx(1.0, abs=1e-9)
    assert [gdp_epsilon(mu, 1e-5) for mu in (1.0, 1.7, 4.0)] == pytest.approx([4.377178, 8.197728, 24.3816], abs=5e-5)
    assert gdp_mu(8.197728, 1e-5) == pytest.approx(1.7, abs=1e-6)
    assert gdp_epsilon(0.0, 1e-5) == gdp_delta(1.0, 0.0) == 0
    assert gdp_epsilon(0.01, 0.1) == 0, "delta alone allows so little"


@PROPERTY
@given(st.floats(0.05, 8), st.sampled_from([1e-8, 1e-5, 1e-2]))
def test_epsilon_and_mu_are_inverse(mu, delta):
    epsilon = gdp_epsilon(mu, delta)
    if epsilon > 0:
        assert gdp_delta(epsilon, mu) == pytest.approx(delta, rel=1e-5)
        assert gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-5)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_gaussian_bound_covers_exactly(mu):
    """Every outcome of a fixed threshold on 40 + 40 draws, weighted by its probability: no simulation."""
    n, rates = 40, (stats.norm.sf(mu / 2 - mu), stats.norm.sf(mu / 2))
    tp, fp = (stats.binom.pmf(np.arange(n + 1), n, rate) for rate in rates)
    above = sum(tp[i] * fp[j] for i in range(n + 1) for j in range(n + 1) if mu_from_counts(i, n, j, n) > mu)
    assert above <= 0.05


# One run


def test_one_run_p_values():
    """Section 5.5 of the notes on DP; the third is q^r."""
    assert one_run_p_value(50, 30, 25, 1.0, 1e-3) == pytest.approx(0.158476696, rel=1e-8)
    assert one_run_p_value(1000, 200, 150, 0.5, 1e-5) == pytest.approx(6.21207836e-4, rel=1e-8)
    assert one_run_p_value(20, 20, 20, 2.0, 0) == pytest.approx((math.e**2 / (1 + math.e**2)) ** 20, rel=1e-12)
    assert one_run_p_value(10, 5, 0, 0.3, 0.01) == 1


@PROPERTY
@given(st.integers(1, 30), st.data(), st.floats(0, 4), st.sampled_from([0.0, 1e-5, 1e-2, 0.2]))
def test_one_run_p_value_is_its_definition(m, data, epsilon, delta):
    """Slow twin: beta + 2 m delta alpha, with alpha the largest P[v > Bin >= v - i] / i (2305.08846, Theorem 5.2)."""
    r = data.draw(st.integers(0, m))
    v = data.draw(st.integers(0, r))
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:])
    alpha = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(min(1.0, beta + 2 * m * delta * alpha), rel=1e-9)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected", "gaussian"),
    [
        (100, 100, 100, 0.0, 3.492965, None),
        (100, 50, 48, 1e-5, 1.985331, 4.0395),
        (1000, 100, 90, 1e-5, 1.626143, None),
        (1000, 100, 95, 1e-5, 2.165176, 3.3233),
        (1000, 100, 95, 0.0, 2.172434, None),
        (1000, 1000, 700, 1e-5, 0.731740, 1.372),
        (200, 200, 140, 1e-3, 0.556178, 0.8206),
        (200, 40, 38, 1e-3, 1.392501, 2.0979),
        (50, 50, 50, 1e-3, 2.639186, 5.0462),
    ],
)
def test_one_run_epsilon(m, r, v, delta, expected, gaussian):
    """Table of section 5.5 of the notes on DP, alpha = .05; it agrees with jax_privacy's auditor."""
    bound = one_run_epsilon(m, r, v, delta)
    assert bound.value == pytest.approx(expected, abs=1e-6)
    assert bound.ceiling == one_run_epsilon(m, r, r, delta).value >= bound.value
    assert (bound.delta, bound.confidence, bound.method, bound.gaussian) == (delta, 0.95, "one run", False)
    if gaussian is not None:
        curve = one_run_epsilon(m, r, v, delta, gaussian=True)
        assert curve.value == pytest.approx(gaussian, abs=1e-4)
        assert curve.gaussian
        assert bound.value < curve.value <= curve.ceiling


def test_one_run_epsilon_of_a_perfect_attack_is_analytic():
    """Section 5.5 of the notes on DP: ln(x / (1 - x)) with x = .05^(1/100)."""
    x = 0.05**0.01
    assert one_run_epsilon(100, 100, 100).value == pytest.approx(math.log(x / (1 - x)), rel=1e-9)


@pytest.mark.parametrize(
    ("m", "delta", "expected"),
    [(20, 0.0, 1.823), (100, 1e-5, 3.490), (200, 1e-3, 3.566), (500, 1e-3, 3.567), (1000, 1e-3, 3.489)],
)
def test_ceilings_of_one_run(m, delta, expected):
    """Table of section 5.5 of the notes on DP: the best over 50 numbers of guesses, all of them right."""
    best = max(one_run_epsilon(m, round(m * k / 50), round(m * k / 50), delta).value for k in range(1, 51))
    assert best == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_one_run_is_valid_and_tight_against_randomised_response(epsilon):
    """200 answers, each true with probability e^eps / (1 + e^eps): every outcome, weighted. At 0, random guesses."""
    n, truth = 200, 1 / (1 + math.exp(-epsilon))
    refuted = np.array([one_run_p_value(n, n, v, epsilon) < 0.05 for v in range(n + 1)])
    mass = stats.binom.pmf(np.arange(n + 1), n, truth)
    assert 0.025 < mass[refuted].sum() <= 0.05
    first = int(np.flatnonzero(refuted)[0])
    assert one_run_epsilon(n, n, first).value > epsilon
    assert one_run_epsilon(n, n, first - 1).value <= epsilon + 1e-9


@pytest.mark.parametrize(("r", "v"), [(0, 0), (10, 0), (10, 5), (100, 50)])
@pytest.mark.parametrize("gaussian", [False, True])
def test_useless_guesses_prove_nothing(r, v, gaussian):
    assert one_run_epsilon(100, r, v, 1e-5, gaussian=gaussian).value == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_run_epsilon(10, 5, 6), "0 <= correct <= made <= canaries, got 6 correct of 5 made on 10"),
        (lambda: one_run_epsilon(10, 11, 6), "got 6 correct of 11 made on 10"),
        (lambda: one_run_epsilon(10, 5, 5, delta=1.0), r"delta must be in \[0, 1\), got 1.0"),
        (lambda: one_run_epsilon(10, 5, 5, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: one_run_epsilon(10, 5, 5, gaussian=True), r"delta must be in \(0, 1\) for a Gaussian bound, got 0"),
        (lambda: canary_epsilon([1.0], [True]), "canaries must be at least 2, got 1"),
        (lambda: canary_epsilon([1.0, 2.0], [True, False], guesses=[(2, 1)]), "got 2 in and 1 out of 2 canaries"),
        (lambda: canary_epsilon([1.0, math.nan], [True, False]), "scores must be finite, got 1"),
        (lambda: canary_epsilon([1.0, 2.0], [True]), r"one shape \(N,\), got \(2,\) and \(1,\)"),
    ],
)
def test_impossible_games_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Scores of canaries


def coins(m: int, mu: float, seed: int):
    """Canaries whose scores are a Gaussian mechanism's, and what their coins said."""
    rng = np.random.default_rng(seed)
    member = rng.random(m) < 0.5
    return rng.normal(size=m) + mu * member, member


def test_guesses_are_the_extremes():
    """Three in and two out, counted by hand: 2 + 2 right of 5."""
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    member = np.array([True, False, True, False, True, False, False])
    assert canary_epsilon(scores, member, guesses=[(3, 2)]) == one_run_epsilon(7, 5, 4)
    assert canary_epsilon(scores, member, guesses=[(0, 2)]) == one_run_epsilon(7, 2, 2)


def test_the_best_of_several_numbers_pays_for_the_choice():
    scores, member = coins(200, 2.0, 1)
    tried = [(20, 20), (50, 50), (100, 0)]
    alone = [canary_epsilon(scores, member, 1e-5, 1 - 0.05 / 3, [pair]) for pair in tried]
    both = canary_epsilon(scores, member, 1e-5, 0.95, tried)
    assert both.value == max(bound.value for bound in alone) > 0
    assert both.ceiling == max(bound.ceiling for bound in alone)
    assert both.confidence == 0.95


@pytest.mark.parametrize("gaussian", [False, True])
def test_perfect_canaries_reach_the_ceiling(gaussian):
    member = np.arange(100) % 2 == 0
    bound = canary_epsilon(member + 0.0, member, 1e-5, gaussian=gaussian)
    assert bound.value == bound.ceiling > 2.5
    assert canary_epsilon(-1.0 * member, member, 1e-5, gaussian=gaussian).value == 0


def test_the_order_of_canaries_does_not_betray_them():
    """Constant scores, members first: an order that is kept within ties would guess every canary right."""
    member = np.arange(100) < 50
    assert sum(canary_epsilon(np.zeros(100), member, seed=seed).value > 0 for seed in range(100)) <= 12
    assert sum(canary_epsilon(np.zeros(100), ~member, seed=seed).value > 0 for seed in range(100)) <= 12


@pytest.mark.parametrize("gaussian", [False, True])
def test_scores_without_a_leak_prove_nothing(gaussian):
    """At most one false alarm in a thousand such counts, were the 5 % just kept."""
    positive = sum(canary_epsilon(*coins(60, 0.0, seed), 1e-5, gaussian=gaussian).value > 0 for seed in range(200))
    assert positive <= stats.binom.isf(1e-3, 200, 0.05)


@pytest.mark.parametrize("gaussian", [False, True])
def test_gaussian_canaries_are_below_the_truth(gaussian):
    """The truth, mu = 1 at delta = 1e-5, is epsilon 4.3772 (section 5.5 of the notes on DP)."""
    values = [canary_epsilon(*coins(400, 1.0, seed), 1e-5, gaussian=gaussian).value for seed in range(40)]
    assert sum(value > 4.377178 for value in values) <= 6
    assert np.mean(values) > (1.5 if gaussian else 1.0), "valid, but not by proving nothing"


def test_audit_of_canaries_is_by_patient():
    """Two cases of each patient, the canaries among others: as the patients' means alone."""
    scores, member = coins(80, 3.0, 0)
    shift = np.tile([0.25, -0.25], 80)
    names = [f"canary_{number:02d}" for number in range(80)]
    others = np.random.default_rng(1).normal(size=50)
    found = audit_canaries(
        np.concatenate([np.repeat(scores, 2) + shift, others]),
        np.concatenate([np.repeat(member, 2), others > 0]),
        [*np.repeat(names, 2), *(f"other_{number}" for number in range(50))],
        np.arange(210) < 160,
        delta=1e-5,
    )
    assert found == audit_canaries(scores, member, names, delta=1e-5)
    assert found == {
        "one run": canary_epsilon(scores, member, 1e-5),
        "Clopper-Pearson": epsilon_lower_bound(scores, member, delta=1e-5),
        "one run, Gaussian": canary_epsilon(scores, member, 1e-5, gaussian=True),
        "Clopper-Pearson, Gaussian": epsilon_lower_bound(scores, member, delta=1e-5, gaussian=True),
    }
    for bound in found.values():
        assert isinstance(bound, EpsilonBound)
        assert 0 < bound.value <= bound.ceiling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"canary": np.zeros(4, dtype=bool)}, "canary must hold at least one case, got none"),
        ({"canary": np.ones(3, dtype=bool)}, r"of the shape of scores \(4,\), got \(3,\)"),
        ({"canary": np.arange(4) < 1}, "canary must be the same for all cases of a patient"),
        ({"member": np.arange(4) < 1}, "member must be the same for all cases of a patient"),
    ],
)
def test_unusable_canaries_are_refused(options, message):
    given = {"scores": np.arange(4.0), "member": np.arange(4) < 2, "groups": ["a", "a", "b", "b"], **options}
    with pytest.raises(InputError, match=message):
        audit_canaries(**given)
