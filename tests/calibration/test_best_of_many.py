# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The best of many attacks: does its interval hold its own true rate, although it was chosen for being the best?

``pytest -m slow tests/calibration/test_best_of_many.py -s`` counts the whole grid; about an hour on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from monai_mia.statistics import Estimate, Resampling, reach_of_best, resampled_rocs, resampled_tprs, roc
from monai_mia.statistics.epsilon import epsilon_lower_bounds

FPR = 0.1

#: Of a distribution's own noise: its distribution function on a common grid.
NOISE = {"normal": stats.norm, "t2": stats.t(2), "cauchy": stats.cauchy, "levels": stats.norm}

#: Between these the coverage of a nominal 95 % has to lie.
LEAST, MOST = 0.93, 0.99


def leveled(scores, noise):
    """``levels``: scores that take about six values."""
    return np.floor(scores * 1.2) if noise == "levels" else scores


@lru_cache
def truth(noise: str, auc: float = 0.7) -> tuple[float, float, float]:
    """The shift of members that gives an AUC, with that AUC and the TPR at 10 % FPR, by numbers of its own."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    values = NOISE[noise].ppf(shares)

    def at(shift: float) -> tuple[float, float]:
        others, members = np.sort(leveled(values, noise)), leveled(values + shift, noise)
        below = (np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")) / 2
        thresholds = np.unique(others)
        fine = thresholds[1 - np.searchsorted(others, thresholds, "left") / len(others) <= FPR + 1e-4]
        return float(below.mean() / len(others)), float((members >= fine[0]).mean())

    shift = float(brentq(lambda shift: at(shift)[0] - auc, 0, 10, xtol=1e-3))
    return shift, *at(shift)


@dataclass
class Count:
    """How often an interval missed the truth by lying above it, and by lying below, and its mean width."""

    above: int = 0
    below: int = 0
    width: float = 0.0

    def add(self, found: Estimate, true: float) -> None:
        self.above += found.low > true
        self.below += found.high < true
        self.width += found.high - found.low


def counted(noise: str, n_attacks: int, together: float, n: int, n_audits: int, n_resamples: int, seed: int = 0):
    """Audits of attacks that are all as good, of n + n patients; the intervals of the best one.

    Returns:
        Counts of ``AUC`` and ``TPR``, each by ``plain`` (made for one attack) and ``chosen`` (made for the best).
    """
    shift, auc, tpr = truth(noise)
    member, patients = np.arange(2 * n) < n, [f"{k:04d}" for k in range(2 * n)]
    found = {(name, kind): Count() for name, kind in product(("AUC", "TPR"), ("plain", "chosen"))}
    for audit in range(n_audits):
        rng = np.random.default_rng([seed, audit])
        normal = np.sqrt(together) * rng.normal(size=2 * n) + np.sqrt(1 - together) * rng.normal(
            size=(n_attacks, 2 * n)
        )
        scores = leveled(NOISE[noise].ppf(stats.norm.cdf(normal)) + shift * member, noise)
        resampling = Resampling(n_resamples=n_resamples, seed=audit)
        weights, gaps = resampling.weights(member, patients), resampling.gaps(member, patients)
        curves = [roc(row, member) for row in scores]
        best = int(np.argmax([curve.auc for curve in curves]))
        aucs = np.stack([np.concatenate([c.auc for c in resampled_rocs(row, member, weights)]) for row in scores])
        tprs = np.stack([resampled_tprs(row, member, gaps, [FPR])[0] for row in scores])
        reach = {"plain": (1.0, 1.0), "chosen": (reach_of_best(aucs, one_sided=True), reach_of_best(tprs))}
        for kind, (by_auc, by_tpr) in reach.items():
            found["AUC", kind].add(resampling.auc(float(curves[best].auc), aucs[best], n, n, by_auc), auc)
            rate = float(curves[best].tpr_at(FPR))
            one = resampling.proportion(rate, tprs[best], n, by_tpr)
            found["TPR", kind].add(Estimate(rate, min(one.low, rate), max(one.high, rate)), tpr)
    return found


def told(cell, found, n_audits) -> dict[tuple[str, str], float]:
    """Print a cell of the grid, and return its coverages."""
    coverage = {key: 1 - (one.above + one.below) / n_audits for key, one in found.items()}
    words = [
        f"{' '.join(key)} {coverage[key]:.3f} ({one.above}, {one.below}; {one.width / n_audits:.3f})"
        for key, one in found.items()
    ]
    print(f"{cell}, {n_audits} audits: {', '.join(words)}", flush=True)
    return coverage


def within(coverage: float, n_audits: int, least: float = LEAST, most: float = MOST) -> bool:
    """Whether a coverage is between two, up to the binomial error of the count."""
    lowest, highest = stats.binom.ppf(1e-3, n_audits, least), stats.binom.isf(1e-3, n_audits, most)
    return bool(lowest <= round(coverage * n_audits) <= highest)


@pytest.mark.parametrize(
    ("noise", "n_attacks", "together", "n"),
    [("normal", 12, 0.0, 50), ("normal", 1, 0.0, 50), ("levels", 12, 0.5, 20), ("cauchy", 12, 0.9, 50)],
)
def test_the_interval_of_the_best_attack_holds_its_truth(noise, n_attacks, together, n):
    """The plain interval of the best of 12 independent attacks misses in a fifth; with one attack both are the same."""
    n_audits = 100
    found = counted(noise, n_attacks, together, n, n_audits, 150)
    coverage = told((noise, n_attacks, together, n), found, n_audits)
    for name in ("AUC", "TPR"):
        assert within(coverage[name, "chosen"], n_audits, most=1.0 if name == "TPR" else MOST)
        assert n_attacks > 1 or found[name, "chosen"] == found[name, "plain"]
    if (n_attacks, together) == (12, 0.0):
        assert not within(coverage["AUC", "plain"], n_audits, 0.95)


GRID = [
    (noise, n_attacks, together, n)
    for n, noise, n_attacks, together in product((20, 50, 170), NOISE, (1, 12, 40), (0.0, 0.5, 0.9))
    if n_attacks > 1 or together == 0.0
]


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "n_attacks", "together", "n"), GRID)
def test_the_whole_grid(noise, n_attacks, together, n):
    """Of the AUC between 93 and 99 %; of a TPR at least 93 %, but for 20 patients, of whom 2 are false alarms."""
    n_audits = 400
    coverage = told((noise, n_attacks, together, n), counted(noise, n_attacks, together, n, n_audits, 300), n_audits)
    assert within(coverage["AUC", "chosen"], n_audits)
    assert within(coverage["TPR", "chosen"], n_audits, 0.85 if n == 20 else LEAST, 1.0)


def test_bounds_on_epsilon_hold_for_all_attacks_at_once():
    """Randomised response of epsilon 1, twelve times: the largest bound exceeds 1 in at most 5 %."""
    right, member, n_audits = np.e / (1 + np.e), np.arange(400) < 200, 60
    largest = []
    for audit in range(n_audits):
        rng = np.random.default_rng(audit)
        said = np.where(rng.random((12, 400)) < right, member, ~member) + 0.0
        largest.append(max(bound.value for bound in epsilon_lower_bounds(said, member, seed=audit)))
    print(f"largest of 12 bounds, truth 1: mean {np.mean(largest):.3f}, above {np.mean(np.array(largest) > 1):.3f}")
    assert sum(value > 1 for value in largest) <= stats.binom.isf(1e-3, n_audits, 0.05)
    assert np.mean(largest) > 0.2
