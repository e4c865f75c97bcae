# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Controls: what membership looks like without the model, and what chance alone gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.model_selection import GroupKFold

from monai_mia.errors import InputError

__all__ = ["blind_baseline"]


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
    kernel = _kernel(features)
    targets = (memberships - memberships.mean(axis=1, keepdims=True)).T
    scores = np.zeros(targets.shape)
    for repeat in range(n_repeats):
        folds = GroupKFold(n_folds, shuffle=True, random_state=seed + repeat)
        for fit, held_out in folds.split(features, groups=patients):
            ridge = KernelRidge(alpha=1.0, kernel="precomputed").fit(kernel[np.ix_(fit, fit)], targets[fit])
            scores[held_out] += ridge.predict(kernel[np.ix_(held_out, fit)]).reshape(len(held_out), -1) / n_repeats
    return np.asarray(scores.T.reshape(member.shape))


def _kernel(features: NDArray[np.float64]) -> NDArray[np.float64]:
    known = features[:, ~np.isnan(features).all(axis=0)]
    ranks = stats.rankdata(np.where(np.isnan(known), np.nanmedian(known, axis=0), known), axis=0)
    normal = stats.norm.ppf((ranks - 0.5) / len(features))
    varied = normal[:, normal.std(axis=0) > 1e-9]
    if not varied.shape[1]:
        return np.zeros((len(features), len(features)))
    return np.asarray(linear_kernel(varied) / varied.shape[1] + rbf_kernel(varied, gamma=1 / varied.shape[1]))
