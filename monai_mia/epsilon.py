# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Audited epsilon: what an attack proves about the privacy of a training, from below.

Each bound is one-sided: with probability at least ``confidence`` over the audit, the training is not
(epsilon', delta)-differentially private for any epsilon' below it, patients being added or removed. Assumption: the
patients' scores are independent draws of members and non-members. The patients of one trained model share its training,
so that on a single model the bound is indicative; it is exact over many trainings.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monai_mia.errors import InputError

__all__ = ["EpsilonBound", "epsilon_ceiling", "epsilon_from_counts", "epsilon_from_rates", "epsilon_lower_bound"]


@dataclass(frozen=True)
class EpsilonBound:
    """A lower bound on epsilon.

    Attributes:
        value: the bound; 0 proves nothing.
        delta: the delta of the guarantee that it refutes.
        confidence: probability that the bound holds.
        method: how the threshold was chosen, ``split`` or ``bonferroni``.
        ceiling: the bound that a perfect attack would have reached with as many patients.
    """

    value: float
    delta: float
    confidence: float
    method: str
    ceiling: float


def epsilon_from_rates(tpr: float, fpr: float, delta: float = 0.0) -> float:
    """Smallest epsilon that allows a test with these true rates (Kairouz, Oh and Viswanath, ICML 2015).

    Example:
        >>> round(epsilon_from_rates(0.9, 0.1), 6)  # ln 9
        2.197225
    """
    bounds = [0.0]
    for hit, alarm in ((tpr, fpr), (1 - fpr, 1 - tpr)):
        if hit - delta > 0:
            bounds.append(inf if alarm <= 0 else log((hit - delta) / alarm))
    return max(bounds)


def epsilon_from_counts(
    tp: int,
    n_member: int,
    fp: int,
    n_nonmember: int,
    delta: float = 0.0,
    confidence: float = 0.95,
    n_thresholds: int = 1,
) -> float:
    """Lower bound from the counts at a threshold that was fixed before looking, or at the best of ``n_thresholds``.

    One-sided Clopper-Pearson limits on both rates, each at half of the error left for one threshold
    (Jagielski, Ullman and Oprea, NeurIPS 2020).
    """
    alpha = (1 - confidence) / (2 * n_thresholds)
    tpr = 0.0 if tp == 0 else float(stats.beta.ppf(alpha, tp, n_member - tp + 1))
    fpr = 1.0 if fp == n_nonmember else float(stats.beta.ppf(1 - alpha, fp + 1, n_nonmember - fp))
    return epsilon_from_rates(tpr, fpr, delta)


def epsilon_ceiling(
    n_member: int, n_nonmember: int, delta: float = 0.0, confidence: float = 0.95, n_thresholds: int = 1
) -> float:
    """What a perfect attack could prove with this many patients, at one fixed threshold or the best of several."""
    return epsilon_from_counts(n_member, n_member, 0, n_nonmember, delta, confidence, n_thresholds)


def epsilon_lower_bound(
    scores: ArrayLike,
    member: ArrayLike,
    method: Literal["split", "bonferroni"] = "split",
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> EpsilonBound:
    """Lower bound on epsilon from scores, one per patient, with a valid choice of the threshold.

    Args:
        scores: shape (N,), higher = more likely a member; units must be independent (patients, not cases).
        member: shape (N,), bool.
        method: ``split`` chooses the threshold on a random half of the patients and counts on the other half;
            ``bonferroni`` counts at every distinct score and divides the error by their number. The best of all
            thresholds without either would not be a bound, and is not offered.
        delta: the delta of the guarantee to refute.
        confidence: probability that the bound holds.
        seed: seed of the split.
    """
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    if not np.isfinite(scores).all():
        raise InputError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    if min(member.sum(), (~member).sum()) < 4:
        raise InputError(
            f"patients must be at least 4 on each side to bound epsilon, got {member.sum()} members "
            f"and {(~member).sum()} non-members."
        )
    if method == "bonferroni":
        count, thresholds = np.ones(len(scores), dtype=bool), np.unique(scores)
    elif method == "split":
        rng = np.random.default_rng([seed, 0, 0, 3])  # apart from designs and resamples
        choose = np.zeros(len(scores), dtype=bool)
        for side in (member, ~member):
            units = np.flatnonzero(side)
            choose[rng.permutation(units)[: len(units) // 2]] = True
        count = ~choose
        tried = np.unique(scores[choose])
        bounds = [_at(t, scores[choose], member[choose], delta, confidence, 1) for t in tried]
        thresholds = tried[[int(np.argmax(bounds))]]
    else:
        raise InputError(f"method must be 'split' or 'bonferroni', got {method!r}.")
    value = max(_at(t, scores[count], member[count], delta, confidence, len(thresholds)) for t in thresholds)
    ceiling = epsilon_ceiling(int(member[count].sum()), int((~member[count]).sum()), delta, confidence, len(thresholds))
    return EpsilonBound(value, delta, confidence, method, ceiling)


def _at(
    threshold: float, scores: NDArray[np.float64], member: NDArray[np.bool_], delta: float, confidence: float, n: int
) -> float:
    said = scores >= threshold
    counts = int((said & member).sum()), int(member.sum()), int((said & ~member).sum()), int((~member).sum())
    return epsilon_from_counts(*counts, delta, confidence, n)
