# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates of an attack and their intervals; pure functions of scores and membership.

One sign everywhere: a higher score means *more likely a member*. A decision is ``score >= threshold``. Tied scores are
decided together, so that no order within a tie can help or harm. Units that belong together (the cases of a
patient) are resampled together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from sklearn.model_selection import StratifiedGroupKFold

from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream_seed

__all__ = [
    "Roc",
    "auc_interval",
    "aucs",
    "balanced_accuracy",
    "clopper_pearson",
    "resampled_rocs",
    "resampled_tprs",
    "resolution",
    "resolved",
    "roc",
]

Array = NDArray[np.float64]

#: Resamples whose ROC is held in memory at once, times units.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic from (0, 0) to (1, 1), one point per distinct score.

    Attributes:
        fpr: false positive rates, shape (..., K + 1), non-decreasing along the last axis.
        tpr: true positive rates, same shape.
        thresholds: infinity, then the K distinct scores, descending.
    """

    fpr: Array
    tpr: Array
    thresholds: Array

    @property
    def auc(self) -> Array:
        """Area under the curve; ties count one half. Shape (...)."""
        heights = self.tpr[..., 1:] + self.tpr[..., :-1]
        return np.asarray((np.diff(self.fpr, axis=-1) * heights).sum(axis=-1) / 2)

    @property
    def advantage(self) -> Array:
        """Largest TPR - FPR over the thresholds, in [0, 1]. Optimistic: the threshold is chosen on the same data."""
        return np.asarray((self.tpr - self.fpr).max(axis=-1))

    def tpr_at(self, fpr: float) -> Array:
        """Largest TPR among the points whose FPR is at most ``fpr``; nothing is interpolated. Shape (...)."""
        return np.asarray(np.where(self.fpr <= fpr + 1e-12, self.tpr, 0.0).max(axis=-1))


def roc(scores: ArrayLike, member: ArrayLike) -> Roc:
    """The ROC of N scores.

    Args:
        scores: shape (N,), finite, higher = more likely a member.
        member: shape (N,), bool; both sides must occur.

    Example:
        >>> float(roc([3.0, 2.0, 2.0, 1.0], [True, True, False, False]).auc)
        0.875
    """
    scores, member = checked_scores(scores, member)
    (curve,) = resampled_rocs(scores, member, np.ones((1, len(scores))))
    return Roc(curve.fpr[0], curve.tpr[0], curve.thresholds)


def resampled_rocs(scores: ArrayLike, member: ArrayLike, weights: Array) -> Iterator[Roc]:
    """The ROCs of B resamples, in blocks that fit in memory.

    Args:
        scores: shape (N,).
        member: shape (N,), bool.
        weights: how often each unit occurs in each resample, shape (B, N).

    Yields:
        Curves with ``fpr`` and ``tpr`` of shape (b, K + 1); the b add up to B.
    """
    scores, member = checked_scores(scores, member)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # last unit of each tie
    thresholds = np.concatenate([[np.inf], ordered[last]])
    block = max(1, _BLOCK // len(scores))
    for start in range(0, len(weights), block):
        sorted_weights = weights[start : start + block, order]
        tpr = _rates(sorted_weights * member[order], last)
        fpr = _rates(sorted_weights * ~member[order], last)
        yield Roc(fpr, tpr, thresholds)


def _rates(counts: Array, last: NDArray[np.intp]) -> Array:
    sums = np.cumsum(counts, axis=1)[:, last]
    with np.errstate(invalid="ignore"):  # a resample without one side has no rates: NaN, which no interval counts
        return np.concatenate([np.zeros((len(sums), 1)), sums / sums[:, -1:]], axis=1)


def resampled_tprs(scores: ArrayLike, member: ArrayLike, gaps: Array, fprs: Sequence[float]) -> Array:
    """TPRs at given FPRs in B resamples that know how uncertain the FPR of a threshold is.

    With k of n non-members at or above a threshold its true FPR is a Beta variable: the sum of k of the n + 1 gaps that
    n draws leave, up to where in its gap the threshold lies. A bootstrap that draws non-members with replacement never
    moves the extreme threshold up; random gaps do. A threshold is put in the middle of its gap. Where even the
    thresholds above every non-member have too high an FPR, their TPR counts in proportion, as on a concave curve.

    Args:
        scores: shape (N,), higher = more likely a member.
        member: shape (N,), bool.
        gaps: weights of the units and of one gap more, shape (B, N + 1); see
            :func:`~monai_mia.statistics.gaps_by_group`.
        fprs: F rates, in (0, 1).

    Returns:
        Shape (F, B), in [0, 1].
    """
    scores, member = checked_scores(scores, member)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # last unit of each tie
    found = np.empty((len(fprs), len(gaps)))
    block = max(1, _BLOCK // len(scores))
    for start in range(0, len(gaps), block):
        drawn = gaps[start : start + block]
        weights = drawn[:, :-1][:, order]
        tpr = np.cumsum(weights * member[order], axis=1)[:, last]
        fpr = np.cumsum(weights * ~member[order], axis=1)[:, last]
        tpr, fpr = tpr / tpr[:, -1:], (fpr + drawn[:, -1:] / 2) / (fpr[:, -1:] + drawn[:, -1:])
        alone = (fpr <= fpr[:, :1]).sum(axis=1)  # thresholds above every non-member
        for f, wanted in enumerate(fprs):
            strict = (fpr <= wanted).sum(axis=1)  # thresholds that accuse few enough
            at = np.take_along_axis(tpr, np.where(strict > 0, strict, alone)[:, None] - 1, axis=1)[:, 0]
            found[f, start : start + block] = np.where(strict > 0, at, at * wanted / fpr[:, 0])
    return found


def auc_interval(auc: float, n_member: int, n_nonmember: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the AUC of independent units, which has a width even at 1.

    Method 5 of Newcombe (Statistics in Medicine 2006): the AUCs that would not be rejected at the observed one, with
    the variance of Hanley and McNeil.

    Example:
        >>> low, high = auc_interval(1.0, 20, 20)
        >>> round(low, 3), high
        (0.899, 1.0)
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))
    half = (n_member + n_nonmember) / 2 - 1

    def rejected(value: float) -> float:
        spread = 1 + half * ((1 - value) / (2 - value) + value / (1 + value))
        return (auc - value) ** 2 - z**2 * value * (1 - value) * spread / (n_member * n_nonmember)

    low = 0.0 if auc <= 0 else float(brentq(rejected, 0.0, auc * (1 - 1e-9)))
    high = 1.0 if auc >= 1 else float(brentq(rejected, 1 - (1 - auc) * (1 - 1e-9), 1.0))
    return low, high


def resolution(member: ArrayLike) -> float:
    """The smallest FPR that can be told from zero: one over the number of non-members."""
    return 1.0 / max(1, int((~np.asarray(member, dtype=bool)).sum()))


def resolved(fprs: Sequence[float], member: ArrayLike) -> list[float]:
    """Those FPRs that are not below the :func:`resolution`."""
    return [fpr for fpr in fprs if fpr >= resolution(member) - 1e-12]


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a binomial proportion (Clopper and Pearson, Biometrika 1934).

    Example:
        >>> low, high = clopper_pearson(0, 1000)
        >>> round(high, 9)  # 1 - 0.025 ** (1 / 1000)
        0.003682084
    """
    result = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return float(result.low), float(result.high)


def balanced_accuracy(
    scores: ArrayLike, member: ArrayLike, groups: Sequence[str], seed: int, n_folds: int = 5
) -> tuple[float, NDArray[np.bool_]]:
    """Balanced accuracy of a threshold that is chosen on other groups: unbiased, one half for a useless score.

    Args:
        scores: shape (N,).
        member: shape (N,), bool.
        groups: the group (patient) of each unit, length N; never split between folds.
        seed: seed of the folds.
        n_folds: number of folds, lowered to the number of groups on the smaller side.

    Returns:
        The balanced accuracy, and the decision for each unit, shape (N,), bool.
    """
    scores, member = checked_scores(scores, member)
    patients = np.asarray(groups)
    n_folds = min(n_folds, *(len(set(patients[member == side])) for side in (True, False)))
    if n_folds < 2:
        raise InputError(f"groups must be at least 2 on each side, got {n_folds}.")
    decision = np.zeros(len(scores), dtype=bool)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=stream_seed(Stream.ACCURACY_FOLDS, seed))
    for fit, held_out in folds.split(scores, member, patients):
        curve = roc(scores[fit], member[fit])
        threshold = curve.thresholds[int(np.argmax(curve.tpr - curve.fpr))]
        decision[held_out] = scores[held_out] >= threshold
    return float((decision[member].mean() + (~decision[~member]).mean()) / 2), decision


def aucs(scores: Array, members: NDArray[np.bool_]) -> Array:
    """The AUC of each row of scores with its own row of memberships, both of shape (B, N); ties count one half."""
    ranks = stats.rankdata(scores, axis=1)
    return np.asarray(auc_of_ranks((ranks * members).sum(axis=1, keepdims=True), members)[:, 0])


def auc_of_ranks(sums: Array, members: NDArray[np.bool_]) -> Array:
    """AUCs from the members' rank sums, shape (B, K)."""
    n_in = members.sum(axis=1, keepdims=True)
    return np.asarray((sums - n_in * (n_in + 1) / 2) / (n_in * (members.shape[1] - n_in)))


def checked_scores(scores: ArrayLike, member: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Scores and membership as arrays of one shape (N,), or an error if they are not usable."""
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    if scores.ndim != 1 or scores.shape != member.shape:
        raise InputError(f"scores and member must be of one shape (N,), got {scores.shape} and {member.shape}.")
    if not np.isfinite(scores).all():
        raise InputError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    if member.all() or not member.any():
        raise InputError(f"member must hold both members and non-members, got {int(member.sum())} of {len(member)}.")
    return scores, member
