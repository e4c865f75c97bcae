# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Resampling by patient: weights, percentile intervals, means, folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_mia.records.streams import Stream, stream
from monai_mia.statistics.roc import Roc, resampled_rocs, roc

__all__ = [
    "gaps_by_group",
    "group_means",
    "mean_over_targets",
    "means_by_group",
    "patient_folds",
    "percentiles",
    "reach_of_best",
    "resampled_means",
    "weights_by_group",
]

Array = NDArray[np.float64]


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
    rng = stream(Stream.PATIENT_RESAMPLES, seed)
    counts = np.empty((n_resamples, len(names)))
    for side in (True, False):
        chosen = np.flatnonzero(member[first] == side)
        counts[:, chosen] = rng.multinomial(len(chosen), np.full(len(chosen), 1 / len(chosen)), size=n_resamples)
    return counts[:, inverse]


def gaps_by_group(member: ArrayLike, groups: Sequence[str], n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Weights of the Bayesian bootstrap (Rubin, Annals of Statistics 1981): each group (patient) has a random share.

    Args:
        member: shape (N,), bool, constant within a group.
        groups: the group of each unit, length N.
        n_resamples: B.
        seed: seed of the draw.

    Returns:
        Weights of the N units, and last of the gap beyond the extreme non-member, shape (B, N + 1): standard
        exponential for each group.
    """
    member = np.asarray(member, dtype=bool)
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    drawn = stream(Stream.PATIENT_GAPS, seed).standard_exponential((n_resamples, len(names) + 1))
    n_units = (~member).sum() / len(set(np.asarray(groups)[~member]))  # of a non-member patient
    return np.concatenate([drawn[:, inverse], n_units * drawn[:, -1:]], axis=1)


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


def reach_of_best(samples: Array, confidence: float = 0.95, one_sided: bool = False) -> float:
    """How many times as far down as for one attack alone the interval of the best of K attacks must reach.

    Whatever was picked for being the largest is likely to be too large. In each resample the attack that lies the
    furthest above its own mean is looked up, in multiples of what one attack exceeds in ``(1 - confidence) / 2`` of the
    resamples; the quantile of that largest multiple is the reach. Attacks that go together need less than as many
    independent ones, copies of one attack need 1, and so does a single attack. The upper end needs no reach: the best
    is hardly ever too low.

    Source: single-step max-T, by bootstrap (Westfall and Young, Resampling-Based Multiple Testing, 1993; Romano and
    Wolf, Econometrica 2005), from below only (Fuentes, Casella and Wells, Electronic Journal of Statistics 2018).

    Args:
        samples: the quantities in B resamples, shape (K, B).
        confidence: coverage of the interval, in (0, 1).
        one_sided: spend the whole error on the lower end. Right for the quantity that decides which attack is the best,
            whose upper end hardly errs; for others each end may err by half of it.

    Returns:
        A factor of at least 1 for the distance from the estimate to the lower end.

    Example:
        >>> samples = np.random.default_rng(0).normal(size=(10, 20000))
        >>> round(reach_of_best(samples), 1)  # normal quantiles: 0.975 ** (1 / 10) over 0.975
        1.4
        >>> reach_of_best(samples[:1])
        1.0
    """
    above = samples - samples.mean(axis=1, keepdims=True)
    own = np.quantile(above, (1 + confidence) / 2, axis=1)
    varied = own > 1e-12
    if not varied.any():
        return 1.0
    furthest = (above[varied] / own[varied, None]).max(axis=0)
    return max(1.0, float(np.quantile(furthest, confidence if one_sided else (1 + confidence) / 2)))


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
    dealt = stream(Stream.PATIENT_FOLDS, seed).permutation(len(names)) % n_folds
    for fold in range(n_folds):
        yield dealt[inverse] == fold


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
