# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Controls: what membership looks like without the model, and what chance alone gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

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
    """Membership scores from the images alone, by a random forest that never saw the case's patient.

    Where this works, members and non-members differ without any model, and what an attack finds is no evidence of
    memorisation.

    Args:
        features: image statistics, shape (N, F); a missing value (NaN) is allowed.
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        seed: seed of folds and forests.
        n_folds: number of folds, lowered to the number of patients on the smaller side.
        n_repeats: foldings that are averaged.

    Returns:
        Out-of-fold probability of membership, shape (N,).
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != len(member):
        raise InputError(f"features must be of shape ({len(member)}, F), got {features.shape}.")
    patients = np.asarray(groups)
    n_folds = min(n_folds, *(len(set(patients[member == side])) for side in (True, False)))
    if n_folds < 2:
        raise InputError(f"patients must be at least 2 on each side for the blind baseline, got {n_folds}.")
    scores = np.zeros(len(member))
    for repeat in range(n_repeats):
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed + repeat)
        for fit, held_out in folds.split(features, member, patients):
            forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=seed + repeat)
            forest.fit(features[fit], member[fit])
            scores[held_out] += forest.predict_proba(features[held_out])[:, 1] / n_repeats
    return scores
