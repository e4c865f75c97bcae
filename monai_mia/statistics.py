# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates of an attack and their intervals; pure functions of scores and membership.

One sign everywhere: a higher score means *more likely a member*. A decision is ``score >= threshold``. Tied scores are
decided together, so that no order within a tie can help or harm. Units that belong together (the cases of a
patient) are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from sklearn.model_selection import StratifiedGroupKFold

from monai_mia.errors import InputError

__all__ = [
    "Roc",
    "auc_interval",
    "aucs",
    "balanced_accuracy",
    "clopper_pearson",
    "group_means",
    "holm",
    "interval",
    "mean_over_targets",
    "means_by_group",
    "patient_folds",
    "percentiles",
    "permuted_aucs",
    "permuted_members",
    "permuted_tails",
    "resampled_means",
    "resampled_rocs",
    "resolution",
    "resolved",
    "roc",
    "simultaneous_reach",
    "tail_p_values",
    "weights_by_group",
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
    scores, member = _checked(scores, member)
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
    scores, member = _checked(scores, member)
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
    return np.concatenate([np.zeros((len(sums), 1)), sums / sums[:, -1:]], axis=1)


def weights_by_group(member: ArrayLike, groups: Sequence[str], n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Bootstrap weights: groups (patients) are drawn with replacement, members and non-members apart.

    The same seed gives the same weights, so that attacks on one cohort are compared on the same resamples.

    Args:
        member: shape (N,), bool, constant within a group.
        groups: the group of each unit, length N.
        n_resamples: B.
        seed: seed of the draw.

    Returns:
        How often each unit occurs in each resample, shape (B, N).
    """
    member = np.asarray(member, dtype=bool)
    names, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 0, 0, 1])  # apart from designs, which draw from [seed, k]
    counts = np.empty((n_resamples, len(names)))
    for side in (True, False):
        chosen = np.flatnonzero(member[first] == side)
        counts[:, chosen] = rng.multinomial(len(chosen), np.full(len(chosen), 1 / len(chosen)), size=n_resamples)
    return counts[:, inverse]


def interval(
    statistic: Callable[[Roc], Array], scores: ArrayLike, member: ArrayLike, weights: Array, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of the ROC.

    Args:
        statistic: for example ``lambda curve: curve.auc``.
        scores: shape (N,).
        member: shape (N,), bool.
        weights: from :func:`weights_by_group`, shape (B, N).
        confidence: nominal coverage, in (0, 1).
    """
    values = np.concatenate([statistic(curve) for curve in resampled_rocs(scores, member, weights)])
    return percentiles(values, confidence)


def percentiles(samples: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a quantity from its resamples, shape (B,).

    A resample in which the quantity is undefined (NaN) does not count; where it is in none, the interval is NaN.
    """
    known = samples[~np.isnan(samples)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_means(values: ArrayLike, among: ArrayLike, weights: Array) -> Array:
    """Means over some of the units of all targets, in each resample.

    Args:
        values: shape (T, U).
        among: how much a unit counts, or whether it does, shape (T, U).
        weights: how often a target's unit occurs in each resample, shape (B, T, U).

    Returns:
        Shape (B,); NaN where no such unit was drawn.
    """
    counted = weights * np.asarray(among)
    with np.errstate(invalid="ignore"):
        return np.asarray((counted * np.asarray(values)).sum(axis=(1, 2)) / counted.sum(axis=(1, 2)))


def simultaneous_reach(samples: Array, confidence: float = 0.95) -> float:
    """How many standard deviations the intervals of K quantities must reach to hold for all of them at once.

    That is what the one needs that was picked for being the largest. It is a quantile, over resamples, of the largest
    of all K deviations; quantities that go together need less than as many independent ones.

    Args:
        samples: the quantities in B resamples, shape (K, B).
        confidence: probability that all K intervals cover.

    Example:
        >>> samples = np.random.default_rng(0).normal(size=(10, 20000))
        >>> round(simultaneous_reach(samples), 1)  # the two-sided normal quantile of 0.95 ** (1 / 10)
        2.8
    """
    deviation = samples.std(axis=1, keepdims=True)
    scaled = abs(samples - samples.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    return float(np.quantile(scaled.max(axis=0), confidence))


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
    scores, member = _checked(scores, member)
    patients = np.asarray(groups)
    n_folds = min(n_folds, *(len(set(patients[member == side])) for side in (True, False)))
    if n_folds < 2:
        raise InputError(f"groups must be at least 2 on each side, got {n_folds}.")
    decision = np.zeros(len(scores), dtype=bool)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for fit, held_out in folds.split(scores, member, patients):
        curve = roc(scores[fit], member[fit])
        threshold = curve.thresholds[int(np.argmax(curve.tpr - curve.fpr))]
        decision[held_out] = scores[held_out] >= threshold
    return float((decision[member].mean() + (~decision[~member]).mean()) / 2), decision


def patient_folds(groups: Sequence[str], seed: int, n_folds: int = 5) -> Iterator[NDArray[np.bool_]]:
    """Folds that never split a group (patient), dealt without regard to anything else.

    Args:
        groups: the group of each unit, length N.
        seed: seed of the deal.
        n_folds: number of folds, lowered to the number of groups.

    Yields:
        Which units are in the fold, shape (N,), bool; each unit is in one of them.
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    n_folds = min(n_folds, len(names))
    dealt = np.random.default_rng([seed, 0, 0, 9]).permutation(len(names)) % n_folds
    for fold in range(n_folds):
        yield dealt[inverse] == fold


def permuted_members(member: ArrayLike, groups: Sequence[str], n_permutations: int, seed: int) -> NDArray[np.bool_]:
    """Memberships dealt out anew among the groups: the same number of member groups, other ones.

    Args:
        member: shape (N,), bool, constant within a group.
        groups: the group (patient) of each unit, length N.
        n_permutations: P.
        seed: seed of the permutations.

    Returns:
        Shape (P, N), bool.
    """
    member = np.asarray(member, dtype=bool)
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    dealt = np.tile(member[first], (n_permutations, 1))
    return np.asarray(np.random.default_rng([seed, 0, 0, 2]).permuted(dealt, axis=1)[:, inverse])


def permuted_aucs(scores: Array, member: ArrayLike, groups: Sequence[str], n_permutations: int, seed: int) -> Array:
    """AUCs of K attacks under permuted memberships: what chance alone gives.

    Exact under a randomised design, where any other half of the patients could have been drawn.

    Args:
        scores: shape (K, N).
        member: shape (N,), bool, constant within a group.
        groups: the group (patient) of each unit, length N.
        n_permutations: P.
        seed: seed of the permutations.

    Returns:
        Shape (P, K).
    """
    ranks = np.apply_along_axis(stats.rankdata, 1, np.atleast_2d(scores))
    dealt = permuted_members(member, groups, n_permutations, seed)
    return _auc_of_ranks(dealt.astype(np.float64) @ ranks.T, dealt)


def permuted_tails(
    scores: Array, member: ArrayLike, groups: Sequence[str], fprs: Sequence[float], n_permutations: int, seed: int
) -> tuple[Array, Array]:
    """TPRs of K attacks at F FPRs, and the largest of them under permuted memberships: what chance alone gives.

    Args:
        scores: shape (K, N).
        member: shape (N,), bool, constant within a group.
        groups: the group (patient) of each unit, length N.
        fprs: the FPRs, none of them below the :func:`resolution`.
        n_permutations: P.
        seed: seed of the permutations, which are those of :func:`permuted_aucs`.

    Returns:
        Shapes (K, F) and (P, F).
    """
    member = np.asarray(member, dtype=bool)
    dealt = np.concatenate([member[None], permuted_members(member, groups, n_permutations, seed)])
    n_others = (~dealt).sum(axis=1)
    observed, best = np.zeros((len(scores), len(fprs))), np.zeros((n_permutations, len(fprs)))
    for k, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        last = np.append(np.flatnonzero(np.diff(row[order])), len(row) - 1)  # last unit of each tie
        false = np.cumsum(~dealt[:, order], axis=1)[:, last]
        for f, fpr in enumerate(fprs):
            claims = (false <= fpr * n_others[:, None] + 1e-9).sum(axis=1)  # thresholds that accuse few enough
            claimed = np.append(0, last + 1)[claims]
            accused = np.take_along_axis(false, np.maximum(claims - 1, 0)[:, None], axis=1)[:, 0]
            tpr = np.where(claims > 0, claimed - accused, 0) / (len(row) - n_others)
            observed[k, f] = tpr[0]
            best[:, f] = np.maximum(best[:, f], tpr[1:])
    return observed, best


def tail_p_values(observed: Array, permuted: Array) -> Array:
    """How seldom chance gives tails as unlikely as those of K attacks, over all attacks and FPRs at once.

    At each FPR the largest TPR of all attacks is compared; of an attack the least likely FPR counts, against the least
    likely one of each permutation (Westfall and Young, Resampling-Based Multiple Testing, 1993).

    Args:
        observed: TPRs, shape (K, F).
        permuted: largest TPRs under permuted memberships, shape (P, F).

    Returns:
        Shape (K,); 1 where F is 0.

    Example:
        >>> chance = np.linspace(0, 0.38, 20)[:, None]  # of 20 permutations
        >>> tail_p_values(np.array([[0.9], [0.19]]), chance).round(3).tolist()
        [0.048, 0.524]
    """
    n_fprs = observed.shape[1]
    if not n_fprs:
        return np.ones(len(observed))
    best = np.concatenate([observed.max(axis=0)[None], permuted])  # one deal among the others, if nothing leaks
    ascending = np.sort(best, axis=0)

    def unlikely(values: Array) -> Array:
        at = [np.searchsorted(ascending[:, f], values[:, f] - 1e-12, side="left") for f in range(n_fprs)]
        return np.asarray(1 - np.max(at, axis=0) / len(best))

    by_chance = np.sort(unlikely(best))
    return np.asarray(np.searchsorted(by_chance, unlikely(observed) + 1e-12, side="right") / len(best))


def aucs(scores: Array, members: NDArray[np.bool_]) -> Array:
    """The AUC of each row of scores with its own row of memberships, both of shape (B, N); ties count one half."""
    ranks = stats.rankdata(scores, axis=1)
    return np.asarray(_auc_of_ranks((ranks * members).sum(axis=1, keepdims=True), members)[:, 0])


def _auc_of_ranks(sums: Array, members: NDArray[np.bool_]) -> Array:
    """AUCs from the members' rank sums, shape (B, K)."""
    n_in = members.sum(axis=1, keepdims=True)
    return np.asarray((sums - n_in * (n_in + 1) / 2) / (n_in * (members.shape[1] - n_in)))


def holm(p_values: Sequence[float]) -> Array:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 1979): valid however the tests depend on each other.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def mean_over_targets(
    statistic: Callable[[Roc], Array], scores: Array, member: NDArray[np.bool_], weights: Array
) -> tuple[Array, Array]:
    """A statistic of the ROC of one attack on several targets, and its mean over them in each resample.

    Args:
        statistic: for example ``lambda curve: curve.auc``.
        scores: of each target's units, shape (T, U).
        member: whether a target trained on a unit, shape (T, U).
        weights: how often a target's unit occurs in each resample, shape (B, T, U); 0 all over for a target that was
            not drawn.

    Returns:
        Shape (T,) and (B,).
    """
    values = np.array([float(statistic(roc(row, side))) for row, side in zip(scores, member, strict=True)])
    share = weights.sum(axis=2) / weights.sum(axis=(1, 2))[:, None]
    samples = np.zeros(len(weights))
    for t, (row, side) in enumerate(zip(scores, member, strict=True)):
        present = np.where(share[:, t, None] > 0, weights[:, t], 1.0)  # of a target not drawn, which counts 0
        samples += share[:, t] * np.concatenate([statistic(curve) for curve in resampled_rocs(row, side, present)])
    return values, samples


def group_means(values: ArrayLike, groups: Sequence[str]) -> tuple[NDArray[np.str_], Array]:
    """Mean of the values of each group: one number per patient.

    Returns:
        Names of the G groups, sorted, and their means, shape (G,).
    """
    names, inverse = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    sums = np.bincount(inverse, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
    return names, sums / np.bincount(inverse, minlength=len(names))


def means_by_group(values: ArrayLike, groups: Sequence[str]) -> Array:
    """The means of :func:`group_means` along the last axis: shape (..., N) to (..., G)."""
    rows = np.asarray(values, dtype=np.float64)
    means = np.stack([group_means(row, groups)[1] for row in rows.reshape(-1, rows.shape[-1])])
    return means.reshape(*rows.shape[:-1], means.shape[-1])


def _checked(scores: ArrayLike, member: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    if scores.ndim != 1 or scores.shape != member.shape:
        raise InputError(f"scores and member must be of one shape (N,), got {scores.shape} and {member.shape}.")
    if not np.isfinite(scores).all():
        raise InputError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    if member.all() or not member.any():
        raise InputError(f"member must hold both members and non-members, got {int(member.sum())} of {len(member)}.")
    return scores, member
