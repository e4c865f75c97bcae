# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""LiRA: the likelihood ratio of a case's signal between models that trained on it and models that did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack, in_and_out, require_option

__all__ = ["DifficultyCalibration", "LiRA", "offline_lira", "online_lira"]

Variance = Literal["pooled", "case"]


def online_lira(
    target: Array,
    shadow: Array,
    member: NDArray[np.bool_],
    variance: Variance = "pooled",
    cohort: NDArray[np.bool_] | None = None,
) -> Array:
    r"""Log-likelihood ratio of two Gaussians, fitted to the shadows with and without the case.

    .. math:: \log N(x; \mu_{in}, \sigma^2_{in}) - \log N(x; \mu_{out}, \sigma^2_{out})

    Args:
        target: the target's signal, shape (N,).
        shadow: the shadows' signal, shape (M, N).
        member: whether a shadow trained on a case, shape (M, N).
        variance: ``pooled`` over cases (the residuals' variance, for few shadows) or one for each ``case``; the
            pooled one for a case with fewer than 2 shadows on a side.
        cohort: the cases over which is pooled, shape (N,), bool; by default all.

    Returns:
        Scores in nats, shape (N,).
    """
    mean_in, mean_out = in_and_out(target, shadow, member, cohort=cohort)
    spread = difference_variance(target, (mean_in + mean_out) / 2, len(shadow), cohort)
    var_in = _variance(shadow, member, mean_in, variance, spread, cohort)
    var_out = _variance(shadow, ~member, mean_out, variance, spread, cohort)
    scores: Array = (
        (target - mean_out) ** 2 / (2 * var_out) - (target - mean_in) ** 2 / (2 * var_in) + np.log(var_out / var_in) / 2
    )
    return scores


def offline_lira(
    target: Array,
    shadow: Array,
    member: NDArray[np.bool_],
    variance: Variance = "pooled",
    cohort: NDArray[np.bool_] | None = None,
) -> Array:
    """Standardised excess over the shadows that did not train on the case, one-sided.

    It ranks cases as the one-sided tail probability of the Gaussian does, but never saturates at 1.

    Args:
        target: the target's signal, shape (N,).
        shadow: the shadows' signal, shape (M, N).
        member: whether a shadow trained on a case, shape (M, N).
        variance: ``pooled`` over cases or one for each ``case``.
        cohort: the cases over which is pooled, shape (N,), bool; by default all.

    Returns:
        Scores in standard deviations, shape (N,).
    """
    mean_in, mean = in_and_out(target, shadow, member, cohort=cohort)
    spread = difference_variance(target, (mean_in + mean) / 2, len(shadow), cohort)
    return np.asarray((target - mean) / np.sqrt(_variance(shadow, ~member, mean, variance, spread, cohort)))


def squared_residuals(shadow: Array, chosen: NDArray[np.bool_], mean: Array) -> tuple[Array, NDArray[np.int64]]:
    """Sum of squares of the chosen shadows about their mean, and its degrees of freedom, at least 0; shape (N,)."""
    residual = shadow - mean
    residual *= chosen
    return np.einsum("mn,mn->n", residual, residual), np.maximum(chosen.sum(axis=0) - 1, 0)


def difference_variance(target: Array, middle: Array, n_shadow: int, cohort: NDArray[np.bool_] | None = None) -> float:
    """Variance of a model's signal from the target's distance to the middle of the means with and without the case.

    For want of better where no two shadows share a side: half of the gap hides in it, so that it is a little large.
    """
    own = slice(None) if cohort is None else cohort
    return float(np.var((target - middle)[own]) / (1 + 1 / n_shadow))


def smallest_variance(shadow: Array) -> float:
    """A signal that no training changes (an empty reference) has no variance; it must not divide by zero."""
    return float(np.finfo(np.float64).eps * max(1.0, shadow.max(initial=0.0), -shadow.min(initial=0.0)) ** 2)


def _variance(
    shadow: Array,
    chosen: NDArray[np.bool_],
    mean: Array,
    variance: Variance,
    spread: float,
    cohort: NDArray[np.bool_] | None,
) -> Array:
    own = slice(None) if cohort is None else cohort
    squares, freedom = squared_residuals(shadow, chosen, mean)
    # Residuals are pooled, never raw values: those hold how much cases differ.
    pooled = squares[own].sum() / freedom[own].sum() if freedom[own].any() else spread
    if variance == "case":
        var = np.where(freedom > 0, squares / np.maximum(freedom, 1), pooled)
    else:
        var = np.full_like(mean, pooled)
    return np.maximum(var, smallest_variance(shadow[:, own]))


@dataclass(frozen=True)
class LiRA(SignalAttack):
    """Likelihood-ratio attack on one signal.

    With 1 shadow, or for a case that all shadows trained on or none, the side that is missing is estimated from the
    other (:func:`~monai_mia.attacks.in_and_out`); with 1 or 2, where no two shadows share a side, the variance from the
    target's distance to the middle of both. With 1 it ranks as difficulty calibration does.

    Cost: 1 shadow with a pooled variance, 4 with one per case; 64 and more in the literature. Source:
    `Carlini et al. (2022) <https://arxiv.org/abs/2112.03570>`_; pooling of residuals and the removal of whole-model
    offsets are ours.

    Attributes:
        signal: the signal.
        mode: ``online`` uses shadows with and without the case; ``offline`` only those without it, one-sided.
        variance: ``pooled`` over cases or one for each ``case``.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_odds_foreground"
    mode: Literal["online", "offline"] = "online"
    variance: Variance = "pooled"
    remove_offsets: bool = True

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        require_option("mode", self.mode, ("online", "offline"))
        require_option("variance", self.variance, ("pooled", "case"))

    @property
    def kind(self) -> str:
        """``LiRA <mode>, <variance> variance``."""
        return f"LiRA {self.mode}, {self.variance} variance"

    @property
    def min_shadows(self) -> int:
        """One; with a variance per case enough for a residual of every case on both sides."""
        return 1 if self.variance == "pooled" else 4

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats (online) or standard deviations (offline), shape (N,)."""
        target, shadow = self.read(view)
        score = online_lira if self.mode == "online" else offline_lira
        return score(target, shadow, view.shadow_member, self.variance, view.cohort)


@dataclass(frozen=True)
class DifficultyCalibration(SignalAttack):
    """The target's signal minus the mean signal of the shadows that did not train on the case.

    A case that every shadow trained on is compared with what they would have given without it, as far as the other
    cases tell (:func:`~monai_mia.attacks.in_and_out`).

    Cost: 1 shadow; from 2 (a complementary pair) on every case has a shadow without it. Source: `Watson et al. (2022)
    <https://arxiv.org/abs/2111.08440>`_; the removal of whole-model offsets is ours.

    Attributes:
        signal: the signal to calibrate.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_odds_foreground"
    remove_offsets: bool = True
    min_shadows: int = 1

    kind = "calibrated"

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in units of the signal, shape (N,)."""
        target, shadow = self.read(view)
        return target - in_and_out(target, shadow, view.shadow_member, cohort=view.cohort)[1]
