# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks without shadows that expect of a case what its image suggests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack, granted_features, granted_nonmembers, sorted_rows
from monai_mia.errors import InputError

__all__ = ["FeatureRegression", "PredictabilityError", "QuantileRegression"]


@dataclass(frozen=True)
class QuantileRegression(SignalAttack):
    r"""How far the target's signal exceeds what is usual for a non-member with such an image.

    Gradient boosting learns two conditional quantiles of the signal from statistics of the images of known
    non-members; the score is ``(signal - lower) / (upper - lower)``, 1 where the case reaches the upper quantile. A
    distance below a third of the median one counts as that third, so that a chance closeness of two quantiles makes no
    outlier.

    Cost: no shadow; needs image statistics and known non-members of the target, which an audit grants by cross-fitting.
    Source: `Bertran et al. (2023) <https://arxiv.org/abs/2307.03694>`_, who regress on images; the statistics instead,
    and the two quantiles as location and scale, are ours.

    Attributes:
        signal: the signal.
        quantiles: lower and upper quantile, in (0, 1).
        n_trees: boosting iterations, trees of 4 leaves with at least 10 cases each.
    """

    signal: str = "log_likelihood"
    quantiles: tuple[float, float] = (0.5, 0.9)
    n_trees: int = 50
    min_shadows: int = 0

    kind = "quantile regression"
    needs_features = True
    needs_nonmembers = True

    def __post_init__(self) -> None:
        """Refuse quantiles out of order."""
        lower, upper = self.quantiles
        if not 0 < lower < upper < 1:
            raise InputError(f"quantiles must be two in (0, 1), the lower first, got {self.quantiles}.")

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in distances between the two quantiles, shape (N,)."""
        features, known = granted_features(self, view), granted_nonmembers(self, view)
        target = view.signal(self.signal)[0]
        rows, values = sorted_rows(features[known], target[known])
        lower, upper = (
            HistGradientBoostingRegressor(
                loss="quantile",
                quantile=quantile,
                max_iter=self.n_trees,
                max_leaf_nodes=4,
                min_samples_leaf=10,
                early_stopping=False,
            )
            .fit(rows, values)
            .predict(features)
            for quantile in self.quantiles
        )
        distance = upper - lower
        own = view.cohort
        largest = max(1.0, float(np.abs(target[own]).max()))
        floor = max(float(np.median(distance[own])) / 3, np.finfo(np.float64).eps * largest)
        return np.asarray((target - lower) / np.maximum(distance, floor))


@dataclass(frozen=True)
class FeatureRegression(SignalAttack):
    """The target's signal minus what ridge regression on image statistics predicts of it.

    It is fitted to all cases that are scored, without any membership: what an image's statistics tell of its difficulty
    is subtracted. A few hundred cases are enough, fewer than quantile regression asks for, and no known non-members are
    needed.

    Cost: no shadow; needs image statistics. Source: the idea of `Shafran et al. (2021)
    <https://arxiv.org/abs/2102.07762>`_, that an error is to be compared with how predictable the output is, with a
    regression over cases instead of over the pixels of one.

    Attributes:
        signal: the signal.
    """

    signal: str = "log_likelihood"
    min_shadows: int = 0

    kind = "feature regression"
    needs_features = True

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in units of the signal, shape (N,)."""
        features, target = granted_features(self, view), view.signal(self.signal)[0]
        own = view.cohort
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
        return np.asarray(target - ridge.fit(*sorted_rows(features[own], target[own])).predict(features))


@dataclass(frozen=True)
class PredictabilityError:
    r"""The target's fit minus :math:`\alpha` times the fit of a linear predictor made from the case alone.

    What a linear model can predict of the reference from the image's own features is easy, and no memory is needed to
    fit it. The signal ``predictability`` records that fit, in the unit of a log-likelihood.

    Cost: no shadow; needs the signal ``predictability``. Source: `Shafran et al. (2021)
    <https://arxiv.org/abs/2102.07762>`_: reconstruction error minus 0.5 times the predictability error, lower = member;
    here both signs are turned.

    Attributes:
        signal: the target's fit, in nats.
        alpha: weight of the predictability.
        predictability: the signal that tells it.
    """

    signal: str = "log_likelihood"
    alpha: float = 0.5
    predictability: str = "predictability"
    min_shadows: int = 0

    @property
    def name(self) -> str:
        """``predictability error: <signal>``."""
        weight = "" if self.alpha == 0.5 else f", alpha {self.alpha:g}"
        return f"predictability error{weight}: {self.signal}"

    @property
    def signals(self) -> tuple[str, ...]:
        """The target's fit, and the predictability."""
        return (self.signal, self.predictability)

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats, shape (N,)."""
        return view.signal(self.signal)[0] - self.alpha * view.signal(self.predictability)[0]
