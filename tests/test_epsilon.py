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

from monai_mia.epsilon import (
    epsilon_ceiling,
    epsilon_from_counts,
    epsilon_from_rates,
    epsilon_lower_bound,
)
from monai_mia.errors import InputError

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
