# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Membership told from the images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.model_selection import GroupKFold

from monai_mia import statistics
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream_seed

__all__ = ["BlindScores", "blind_baseline", "similarity"]


@dataclass(frozen=True)
class BlindScores:
    """Membership scores of a blind network: out of fold, each patient scored by a network that never saw it.

    Attributes:
        scores: shape (N,), higher = more likely a member; comparable within a fold and between folds.
        folds: the fold of each case, shape (N,); constant within a patient.
        dealt: memberships that were dealt out anew and trained on in the true one's place, shape (R, N); R may be 0.
        dealt_scores: the scores of those trainings, shape (R, N).
        seconds: time to train all of them.
    """

    scores: NDArray[np.float64]
    folds: NDArray[np.int64]
    dealt: NDArray[np.bool_]
    dealt_scores: NDArray[np.float64]
    seconds: float = 0.0

    def only(self, cases: NDArray[np.bool_]) -> BlindScores:
        """Those of some cases; ``cases`` of shape (N,), bool."""
        return replace(
            self,
            scores=self.scores[cases],
            folds=self.folds[cases],
            dealt=self.dealt[:, cases],
            dealt_scores=self.dealt_scores[:, cases],
        )

    def among(self, cases: NDArray[np.bool_]) -> BlindScores:
        """The same among more cases, of which ``cases``, shape (N,), were scored; the others get zeros."""

        def spread(values: NDArray[Any]) -> NDArray[Any]:
            wide = np.zeros((*values.shape[:-1], len(cases)), dtype=values.dtype)
            wide[..., cases] = values
            return wide

        wide = {name: spread(getattr(self, name)) for name in ("scores", "folds", "dealt", "dealt_scores")}
        return BlindScores(**wide, seconds=self.seconds)

    def p_value(self, member: NDArray[np.bool_], groups: Sequence[str], n_permutations: int, seed: int) -> float:
        """How often chance alone gives such scores, by patient.

        To deal memberships anew for scores that were fitted to the true one would call chance significant. With
        retrainings (R > 0) the AUC is compared with theirs, which is exact. Without, each fold is tested alone: its
        networks never saw its memberships, so that dealing these anew is exact. Twice the mean of the folds' p-values
        is a p-value however they depend on each other (Ruschendorf 1982; Vovk and Wang, Biometrika 2020): valid, but
        only a strong difference reaches significance.

        Args:
            member: shape (N,), bool, constant within a group.
            groups: the patient of each case, length N.
            n_permutations: dealings within a fold.
            seed: seed of the dealings.
        """
        if len(self.dealt):
            every = np.concatenate([self.scores[None], self.dealt_scores])
            sides = np.concatenate([np.asarray(member, dtype=bool)[None], self.dealt])
            pooled, inside = (statistics.means_by_group(rows, groups) for rows in (every, sides))
            found = statistics.aucs(pooled, inside > 0.5)
            return float((found >= found[0] - 1e-12).mean())
        pooled, inside, fold = (statistics.means_by_group(row, groups) for row in (self.scores, member, self.folds))
        values = []
        for number in np.unique(fold):
            chosen = fold == number
            sides = inside[chosen] > 0.5
            if sides.all() or not sides.any():
                values.append(1.0)  # nothing to tell apart
                continue
            auc = float(statistics.roc(pooled[chosen], sides).auc)
            names = [str(n) for n in range(len(sides))]
            chance = statistics.permuted_aucs(pooled[chosen], sides, names, n_permutations, seed + int(number))
            values.append(float((1 + (chance >= auc - 1e-12).sum()) / (1 + n_permutations)))
        return min(1.0, 2 * float(np.mean(values)))


def blind_baseline(
    features: NDArray[np.float64],
    member: NDArray[np.bool_],
    groups: Sequence[str],
    seed: int,
    n_folds: int = 5,
    n_repeats: int = 3,
) -> NDArray[np.float64]:
    """Membership scores from the images alone, by a classifier that never saw the case's patient.

    Where this works, members and non-members differ without any model, and what an attack finds is no evidence of
    memorisation. The classifier is kernel ridge regression (linear and Gaussian) on the features' normal scores: it is
    fitted to thousands of permuted memberships at the price of one, which a p-value of the control needs. Permuting
    the membership of scores that were fitted to the true one would call chance significant.

    Args:
        features: image statistics, shape (N, F); a missing value (NaN) counts as the feature's median.
        member: shape (N,), bool, or several memberships to fit apart, shape (B, N); constant within a group.
        groups: the patient of each case, length N.
        seed: seed of the folds, which do not depend on membership.
        n_folds: number of folds, lowered to the number of patients.
        n_repeats: foldings that are averaged.

    Returns:
        Out-of-fold scores of the same shape as ``member``, higher = more likely a member.
    """
    features = np.asarray(features, dtype=np.float64)
    member = np.asarray(member, dtype=bool)
    memberships = np.atleast_2d(member)
    n = memberships.shape[1]
    if features.ndim != 2 or len(features) != n:
        raise InputError(f"features must be of shape ({n}, F), got {features.shape}.")
    patients = np.asarray(groups)
    fewest = min(len(set(patients[memberships[0] == side])) for side in (True, False))
    if fewest < 2:
        raise InputError(f"patients must be at least 2 on each side for the blind baseline, got {fewest}.")
    n_folds = min(n_folds, len(set(patients)))
    kernel = similarity(features)
    targets = (memberships - memberships.mean(axis=1, keepdims=True)).T
    scores = np.zeros(targets.shape)
    for repeat in range(n_repeats):
        folds = GroupKFold(n_folds, shuffle=True, random_state=stream_seed(Stream.BLIND_FOLDS, seed, repeat))
        for fit, held_out in folds.split(features, groups=patients):
            ridge = KernelRidge(alpha=1.0, kernel="precomputed").fit(kernel[np.ix_(fit, fit)], targets[fit])
            scores[held_out] += ridge.predict(kernel[np.ix_(held_out, fit)]).reshape(len(held_out), -1) / n_repeats
    return np.asarray(scores.T.reshape(member.shape))


def similarity(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """How alike N cases are in F image statistics: a linear and a Gaussian kernel of their normal scores, (N, N)."""
    known = features[:, ~np.isnan(features).all(axis=0)]
    ranks = stats.rankdata(np.where(np.isnan(known), np.nanmedian(known, axis=0), known), axis=0)
    normal = stats.norm.ppf((ranks - 0.5) / len(features))
    varied = normal[:, normal.std(axis=0) > 1e-9]
    if not varied.shape[1]:
        return np.zeros((len(features), len(features)))
    return np.asarray(linear_kernel(varied) / varied.shape[1] + rbf_kernel(varied, gamma=1 / varied.shape[1]))
