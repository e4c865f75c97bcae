# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""An insider: somebody who holds the weights, all scans and a report, and wants to know who was a member.

The scores of every attack, those of shadows too, are handed to this insider. Each number of a report is then a linear
equation in who was a member, known to the width of its rounding, and all of them are solved at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Array = NDArray[np.float64]


def read_off(curve: Mapping[str, Sequence[float]], scores: Array, n_member: int) -> Array:
    """Who is a member, as a ROC tells it: between two points, of the patients ranked there, so many are members.

    Returns:
        The share of members among those of a patient's rank, shape (U,).
    """
    n_other = len(scores) - n_member
    order = np.argsort(-scores, kind="stable")
    found = np.empty(len(scores))
    points = list(zip(curve["fpr"], curve["tpr"], strict=True))
    points = [*points, *([(1.0, 1.0)] if points[-1] != (1.0, 1.0) else [])]
    start = hits = 0
    for fpr, tpr in points:
        more_hits, more_alarms = round(tpr * n_member), math.floor(fpr * n_other + 1e-9)
        end = more_hits + more_alarms
        if end > start:
            found[order[start:end]] = (more_hits - hits) / (end - start)
            start, hits = end, more_hits
    return found


def equations(
    report: Mapping[str, Any], scores: Mapping[str, Array], utility: Mapping[str, Array], n_member: int
) -> Iterator[tuple[Array, float, float]]:
    """What a report says of members, as sums over patients.

    Args:
        report: ``report.json``.
        scores: of each attack, by name, shape (U,).
        utility: of each patient, by metric, shape (U,).
        n_member: number of members.

    Yields:
        The weight of each patient, the sum over the members, and its standard deviation from rounding.
    """
    exact = report["disclosure"]["min_cell"] == 1
    for row in report["attacks"]:
        values = scores[row["name"]]
        n_other = len(values) - n_member
        ranks = rankdata(values)
        yield ranks / (n_member * n_other), row["auc"] + (n_member + 1) / (2 * n_other), _grid(row["auc_ci"], exact)
        for fpr, tpr in list(zip(row["roc"]["fpr"], row["roc"]["tpr"], strict=True))[1:-1]:
            above = round(tpr * n_member) + math.floor(fpr * n_other + 1e-9)
            yield (rankdata(-values) <= above) / n_member, tpr, 1e-6 if exact else 0.5 / n_member
    for metric, told in report["utility"]["members"].items():
        yield utility[metric] / n_member, told["value"], _grid(told["ci"], exact)


def _grid(interval: Sequence[float], exact: bool) -> float:
    return 1e-9 if exact else 1e-4 + 0.75 * (interval[1] - interval[0]) / 3.92 / math.sqrt(12)


def solve(
    report: Mapping[str, Any],
    scores: Mapping[str, Array],
    utility: Mapping[str, Array],
    best: Array,
    auc: float,
    n_member: int,
) -> Array:
    """The most likely membership by all equations at once, and by the best attack, whose strength is known.

    Args:
        report: ``report.json``.
        scores: of each attack, by name, shape (U,).
        utility: of each patient, by metric, shape (U,).
        best: scores of the best attack, shape (U,).
        auc: of that attack.
        n_member: number of members.

    Returns:
        The higher, the more likely a member, shape (U,).
    """
    distance = math.sqrt(2) * norm.ppf(np.clip(auc, 0.5, 0.999))  # of two normal distributions with that AUC
    odds = np.exp(distance * norm.ppf((rankdata(best) - 0.5) / len(best)))
    prior = np.clip(odds / (1 + odds) * n_member / (odds / (1 + odds)).sum(), 0.01, 0.99)
    told = list(equations(report, scores, utility, n_member))
    if not told:
        return prior
    weights = np.stack([one[0] for one in told])
    sums, deviations = (np.array([one[k] for one in told]) for k in (1, 2))
    spread = prior * (1 - prior)
    gain = (weights * spread) @ weights.T + np.diag(deviations**2)
    return prior + spread * (weights.T @ np.linalg.solve(gain, sums - weights @ prior))
