# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare members with non-members who are alike as images: an observational audit's stand-in for shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.kernel_ridge import KernelRidge

from monai_mia import statistics
from monai_mia.audit.controls.blind import similarity
from monai_mia.statistics import Estimate, Resampling

__all__ = ["MatchedStrata", "expected_scores", "matched_strata"]

Array = NDArray[np.float64]

#: At most so many strata; each has at least so many patients.
_MOST_STRATA, _STRATUM = 10, 12


@dataclass(frozen=True)
class MatchedStrata:
    """An attack within strata of patients who are alike in what the image statistics say of its score.

    Attributes:
        attack: the attack.
        n_strata: number of strata.
        explained: share of the variance of the non-members' scores that the image statistics explain, in [0, 1].
        auc: share of the pairs of a member and a non-member of one stratum in which the member scores higher; 0.5 if
            members differ from non-members as images alone, and the statistics say how.
    """

    attack: str
    n_strata: int
    explained: float
    auc: Estimate

    def as_json(self) -> dict[str, Any]:
        """As ``matched`` of ``report.json`` has it."""
        return {
            "attack": self.attack,
            "n_strata": self.n_strata,
            "explained": self.explained,
            **self.auc.named("auc"),
        }


def expected_scores(scores: Array, features: Array, inside: NDArray[np.bool_], seed: int, n_repeats: int = 3) -> Array:
    """What an attack would score each patient, had nobody been in the training: told from the images.

    Kernel ridge regression of the scores on the image statistics, both as normal scores, fitted to non-members alone:
    no memory can be in them. Each patient is scored by fits to the non-members of other folds, so that members and
    non-members are treated alike. This is the prognostic score (Hansen, Biometrika 2008); unlike a propensity score it
    needs no model of who is a member.

    Args:
        scores: of the P patients, shape (P,).
        features: image statistics, shape (P, F).
        inside: who is a member, shape (P,), bool.
        seed: seed of the folds.
        n_repeats: foldings that are averaged.

    Returns:
        Expected normal scores, shape (P,).
    """
    wanted = stats.norm.ppf((stats.rankdata(scores) - 0.5) / len(scores))
    kernel = similarity(features)
    names = [f"{number:06d}" for number in range(len(scores))]
    expected = np.zeros(len(scores))
    for repeat in range(n_repeats):
        for fold in statistics.patient_folds(names, seed + repeat):
            fit = ~inside & ~fold
            if not fit.any():
                continue
            centre = wanted[fit].mean()
            ridge = KernelRidge(alpha=1.0, kernel="precomputed").fit(kernel[np.ix_(fit, fit)], wanted[fit] - centre)
            expected[fold] += (centre + ridge.predict(kernel[np.ix_(fold, fit)])) / n_repeats
    return expected


def matched_strata(
    attack: str,
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    features: Array,
    resampling: Resampling,
    reach: float = 1.0,
) -> MatchedStrata:
    """Let an attack tell members from non-members of one stratum only.

    Strata are quantiles of the :func:`expected_scores`. Five of them already remove nine tenths of a shift that the
    statistics hold (Cochran, Biometrics 1968). A shift that they do not hold stays: ``explained`` says how far to trust
    them.

    Args:
        attack: its name.
        scores: shape (N,), higher = more likely a member.
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        features: image statistics, shape (N, F); a missing value (NaN) counts as the median.
        resampling: of the interval, and the seed of the folds; strata stay as they are.
        reach: of an attack that was chosen as the best, see :func:`~monai_mia.statistics.reach_of_best`.
    """
    names, pooled = statistics.group_means(np.asarray(scores, dtype=np.float64), groups)
    inside = statistics.group_means(np.asarray(member, dtype=np.float64), groups)[1] > 0.5
    columns = np.where(np.isnan(features), np.nanmedian(features, axis=0), features)
    by_patient = statistics.means_by_group(columns.T, groups).T
    expected = expected_scores(pooled, by_patient, inside, resampling.seed)
    outside = ~inside
    explained = 0.0
    if np.ptp(expected[outside]) > 0 and np.ptp(pooled[outside]) > 0:
        explained = max(0.0, float(stats.spearmanr(expected[outside], pooled[outside]).statistic))
    n_strata = int(np.clip(len(pooled) // _STRATUM, 1, _MOST_STRATA))
    stratum = (stats.rankdata(expected) - 1) * n_strata // len(pooled)  # those who tie stay together
    pairs = (stratum[inside][:, None] == stratum[outside][None, :]).astype(np.float64)
    wins = pairs * (np.sign(pooled[inside][:, None] - pooled[outside][None, :]) / 2 + 0.5)
    weights = resampling.weights(inside, names.tolist())
    auc = wins.sum() / pairs.sum() if pairs.any() else 0.5
    won, of = (((weights[:, inside] @ matrix) * weights[:, outside]).sum(axis=1) for matrix in (wins, pairs))
    found = resampling.estimate(float(auc), np.where(of > 0, won / np.where(of > 0, of, 1), 0.5), reach)
    return MatchedStrata(attack, n_strata, explained**2, Estimate(found.value, max(0.0, found.low), found.high))
