# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A learned combination of all calibrated signals: the shadows play the target in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, in_and_out, keep_signals, require_shadows, without_offsets
from monai_mia.attacks.voxelwise import opponents, require_maps, voxel_features
from monai_mia.errors import InputError

__all__ = ["LearnedCombination"]

Members = NDArray[np.bool_]

# Strengths of the ridge penalty to choose from, on the shadows alone.
_STRENGTHS = np.logspace(-3, 1, 5)


@dataclass(frozen=True)
class LearnedCombination:
    """Log-odds of a logistic regression on calibrated signals, fitted on shadows that play the target.

    Each shadow in turn is calibrated by the others as the target is by all, and its known membership is the answer to
    learn; a shadow's complement is left out of its opponents (so that a player meets two shadows fewer than the
    target). A signal is counted from the middle between the means of the models with and without the case, which takes
    all shadows and so has less noise than either mean; a gap of each case's own would be noise, too, and grow with its
    difficulty as the spread does. Recorded maps enter as :data:`~monai_mia.attacks.voxelwise.FEATURES`, counted from
    the out-of-sample mean map. The ridge penalty is chosen on the shadows, by patient; a patient is scored by a
    regression that was fitted on the other patients, a foreign case by the mean of all of them.

    Access: that of its signals; probabilities+label with maps. Cost: 4 shadows (two complementary pairs). Source:
    ours; shadows as players as in `Shokri et al. (2017) <https://arxiv.org/abs/1610.05820>`_.

    Attributes:
        signals: the signals to combine, at least one.
        maps: whether recorded maps are read, too.
        folds: number of folds of patients.
    """

    signals: tuple[str, ...] = (
        "log_likelihood",
        "log_likelihood_foreground",
        "log_likelihood_boundary",
        "log_odds",
        "log_odds_foreground",
        "log_odds_boundary",
        "log_odds_shell_1",
        "log_odds_shell_2",
        "log_odds_shell_3",
        "soft_dice",
        "soft_dice_foreground",
        "soft_dice_boundary",
        "dice",
        "dice_boundary",
        "volume_ratio",
        "negative_entropy_predicted",
        "maximum_probability_predicted",
    )
    maps: bool = False
    folds: int = 5
    min_shadows: int = 4

    decides = True

    def __post_init__(self) -> None:
        """Take a list from a config, and refuse an empty one."""
        keep_signals(self, self.signals)
        if self.folds < 2:
            raise InputError(f"folds must be at least 2, got {self.folds}.")

    @property
    def name(self) -> str:
        """``learned combination: <n> signals``, and maps."""
        count = self.signals[0] if len(self.signals) == 1 else f"{len(self.signals)} signals"
        return f"learned combination: {count}" + (" and maps" if self.maps else "")

    @property
    def needs_maps(self) -> bool:
        """Whether recorded maps are read."""
        return self.maps

    @property
    def access(self) -> str | None:
        """With maps ``probabilities+label``; else what the signals need."""
        return "probabilities+label" if self.maps else None

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats (log-odds of membership), shape (N,)."""
        require_shadows(self, view)
        member = view.shadow_member
        if member[:, view.cohort].all() or not member[:, view.cohort].any():
            return np.zeros(len(view.target))  # shadows that all trained on the same teach nothing
        features = self._features(view)
        players, target = features[1:], features[0]
        n_models, n_cases, n_features = players.shape
        own = np.flatnonzero(view.cohort)
        patients = np.unique(np.asarray(view.patient_ids)[own], return_inverse=True)[1]
        if patients.max() + 1 < self.folds:
            raise InputError(
                f"patients must be at least {self.folds} for attack {self.name!r}, got {patients.max() + 1}. "
                "Lower folds."
            )
        scores, foreign = np.zeros(n_cases), ~view.cohort
        for fit, held_out in GroupKFold(self.folds).split(own, groups=patients):
            x = players[:, own[fit]].reshape(-1, n_features)
            groups = np.tile(patients[fit], n_models)
            inner = list(GroupKFold(min(self.folds, len(set(groups)))).split(x, groups=groups))
            ridge = GridSearchCV(LogisticRegression(max_iter=2000), {"C": _STRENGTHS}, cv=inner, scoring="neg_log_loss")
            model = make_pipeline(StandardScaler(), ridge)
            model.fit(x, member[:, own[fit]].ravel())
            scores[own[held_out]] = model.decision_function(target[own[held_out]])
            if foreign.any():
                scores[foreign] += model.decision_function(target[foreign]) / self.folds
        return scores

    def _features(self, view: AdversaryView) -> Array:
        """Of the target and of each shadow as a player, shape (1 + M, N, K)."""
        member = view.shadow_member
        own = view.cohort
        read = (without_offsets(*view.signal(name), own) for name in self.signals)
        blocks = [np.stack([_calibrated(target, shadow, member, own) for target, shadow in read], axis=2)]
        if self.maps:
            maps = require_maps(self, view)
            voxels = np.stack([voxel_features(maps, member, player) for player in (None, *range(len(member)))])
            blocks.append(voxels - np.median(voxels[:, own], axis=1, keepdims=True))
        return np.concatenate(blocks, axis=2)


def _calibrated(target: Array, shadow: Array, member: Members, cohort: Members) -> Array:
    """One signal from the middle of both sides, of the target and of each shadow against its opponents, (1 + M, N)."""
    rows = []
    for player in (None, *range(len(member))):
        own, rivals = target if player is None else shadow[player], opponents(member, player, cohort)
        with_case, without = in_and_out(own, shadow[rivals], member[rivals], cohort=cohort)
        rows.append(own - (with_case + without) / 2)
    return np.stack(rows)
