# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""LiRA: the likelihood ratio of a case's signal between models that trained on it and models that did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks.attack import Array, require_shadows, require_sides, without_offsets
from monai_mia.errors import InputError
from monai_mia.table import Knowledge

__all__ = ["LiRA", "offline_lira", "online_lira"]

Variance = Literal["pooled", "case"]


def online_lira(target: Array, shadow: Array, member: NDArray[np.bool_], variance: Variance = "pooled") -> Array:
    r"""Log-likelihood ratio of two Gaussians, fitted to the shadows with and without the case.

    .. math:: \log N(x; \mu_{in}, \sigma^2_{in}) - \log N(x; \mu_{out}, \sigma^2_{out})

    Args:
        target: the target's signal, shape (N,).
        shadow: the shadows' signal, shape (M, N).
        member: whether a shadow trained on a case, shape (M, N).
        variance: ``pooled`` over cases (the residuals' variance, for few shadows) or one for each ``case``.

    Returns:
        Scores in nats, shape (N,).
    """
    mean_in, var_in = _moments(shadow, member, variance)
    mean_out, var_out = _moments(shadow, ~member, variance)
    scores: Array = (
        (target - mean_out) ** 2 / (2 * var_out) - (target - mean_in) ** 2 / (2 * var_in) + np.log(var_out / var_in) / 2
    )
    return scores


def offline_lira(target: Array, shadow: Array, member: NDArray[np.bool_], variance: Variance = "pooled") -> Array:
    """Standardised excess over the shadows that did not train on the case, one-sided.

    It ranks cases as the one-sided tail probability of the Gaussian does, but never saturates at 1.

    Args:
        target: the target's signal, shape (N,).
        shadow: the shadows' signal, shape (M, N).
        member: whether a shadow trained on a case, shape (M, N).
        variance: ``pooled`` over cases or one for each ``case``.

    Returns:
        Scores in standard deviations, shape (N,).
    """
    mean, var = _moments(shadow, ~member, variance)
    return np.asarray((target - mean) / np.sqrt(var))


def _moments(shadow: Array, chosen: NDArray[np.bool_], variance: Variance) -> tuple[Array, Array]:
    count = chosen.sum(axis=0)
    mean = np.where(chosen, shadow, 0.0).sum(axis=0) / count
    residual = np.where(chosen, shadow - mean, 0.0)
    squares = np.einsum("mn,mn->n", residual, residual)
    freedom = count - 1
    # Residuals are pooled, never raw values: those hold how much cases differ.
    pooled = np.full_like(mean, squares.sum() / max(1, freedom.sum()))
    var = pooled if variance == "pooled" else squares / freedom
    # A signal that no training changes (an empty reference) has no variance; it must not divide by zero.
    tiny = np.finfo(np.float64).eps * max(1.0, float(np.abs(shadow).max(initial=0.0))) ** 2
    return mean, np.maximum(var, tiny)


@dataclass(frozen=True)
class LiRA:
    """Likelihood-ratio attack on one signal.

    Cost: 3 shadows with a pooled variance, 4 with one per case; 64 and more in the literature. Source:
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
        for option, value, known in (
            ("mode", self.mode, ("online", "offline")),
            ("variance", self.variance, ("pooled", "case")),
        ):
            if value not in known:
                raise InputError(f"{option} must be one of {', '.join(known)}, got {value!r}.")

    @property
    def name(self) -> str:
        """``LiRA <mode>, <variance> variance: <signal>``."""
        kept = "" if self.remove_offsets else ", offsets kept"
        return f"LiRA {self.mode}, {self.variance} variance: {self.signal}{kept}"

    @property
    def signals(self) -> tuple[str, ...]:
        """The one signal."""
        return (self.signal,)

    @property
    def min_shadows(self) -> int:
        """Enough for a residual: of some cases for a pooled variance, of every case for one of its own."""
        return 3 if self.variance == "pooled" else 4

    def __call__(self, knowledge: Knowledge) -> Array:
        """Scores in nats (online) or standard deviations (offline), shape (N,)."""
        require_shadows(self, knowledge)
        need = 2 if self.variance == "case" else 1
        require_sides(self, knowledge.shadow_member, need if self.mode == "online" else 0, need)
        target, shadow = knowledge.signal(self.signal)
        if self.remove_offsets:
            target, shadow = without_offsets(target, shadow)
        score = online_lira if self.mode == "online" else offline_lira
        return score(target, shadow, knowledge.shadow_member, self.variance)
