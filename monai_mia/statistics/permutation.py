# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Permutation tests: what chance alone gives, for one attack or for the best of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monai_mia.records.streams import Stream, stream
from monai_mia.statistics.roc import auc_of_ranks

__all__ = ["holm", "permuted_aucs", "permuted_members", "permuted_tails", "tail_p_values"]

Array = NDArray[np.float64]


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
    return np.asarray(stream(Stream.MEMBER_PERMUTATIONS, seed).permuted(dealt, axis=1)[:, inverse])


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
    return auc_of_ranks(dealt.astype(np.float64) @ ranks.T, dealt)


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
