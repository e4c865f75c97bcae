# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""BaVarIA: a likelihood ratio whose means and variances are shrunk as far as the other cases tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack, in_and_out, require_option
from monai_mia.attacks.lira import difference_variance, smallest_variance, squared_residuals

__all__ = ["BaVarIA", "equivalent_normal_deviate", "gap_prior", "variance_prior"]

Counts = NDArray[np.int64]
Gap = tuple[float, float]


def variance_prior(variance: Array, freedom: NDArray[np.int64]) -> tuple[float, float]:
    r"""Scaled inverse chi-squared prior of the cases' variances, fitted to the moments of their logarithms.

    Args:
        variance: sample variances, shape (K,), positive.
        freedom: their degrees of freedom, shape (K,), at least 1.

    Returns:
        Its degrees of freedom :math:`\nu_0` (infinite if the cases differ no more than chance makes them) and its
        scale :math:`\sigma_0^2`.

    Source: `Smyth (2004) <https://doi.org/10.2202/1544-6115.1027>`_, section 6.2.
    """
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    level = float(logs.mean())
    excess = (float(logs.var(ddof=1)) if len(logs) > 1 else 0.0) - float(special.polygamma(1, half).mean())
    if excess <= 1e-4:
        return np.inf, float(np.exp(level))
    prior = float(optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-8, 1e5))
    return 2 * prior, float(np.exp(level + special.digamma(prior) - np.log(prior)))


def equivalent_normal_deviate(deviate: Array, freedom: Array | float) -> Array:
    """The normal deviate with the tail probability of a Student-t deviate, which never saturates.

    Source: Wallace (1959), within 0.03 from 3 degrees of freedom and 4 deviations on.
    """
    freedom = np.asarray(freedom, dtype=np.float64)
    if np.isinf(freedom).all():
        return deviate
    shrunk = np.sqrt(freedom * np.log1p(deviate**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.asarray(np.copysign(shrunk, deviate))


def gap_prior(ins: Array, outs: Array, n_in: Counts, n_out: Counts, var_in: float, var_out: float) -> Gap:
    """Mean over cases of the gap between both sides' means, and its variance beyond what noise explains.

    Args:
        ins: mean of the shadows with each case, shape (N,), and ``outs`` of those without it.
        outs: see ``ins``.
        n_in: number of shadows with each case, shape (N,), and ``n_out`` without it.
        n_out: see ``n_in``.
        var_in: variance of one shadow about its mean with the case, and ``var_out`` without it.
        var_out: see ``var_in``.
    """
    gap = ins - outs
    both = (n_in > 0) & (n_out > 0)
    noise = var_in / n_in[both] + var_out / n_out[both]
    variance = float(gap[both].var() - noise.mean()) if both.any() else 0.0
    return float(gap.mean()), max(0.0, variance)


def prior_weight(variance: float, other_variance: float, other_count: Counts, gap_variance: float) -> Array:
    """How many shadows of a side the other side's mean plus the mean gap is worth; 0 where that side has none."""
    return np.asarray(variance * other_count / (gap_variance * other_count + other_variance))


@dataclass(frozen=True)
class _Side:
    """Shadows on one side of each case: arrays of shape (N,), and the prior of their variance."""

    mean: Array
    squares: Array
    count: Counts
    pooled: float
    freedom: float
    scale: float

    @classmethod
    def of(
        cls, shadow: Array, chosen: NDArray[np.bool_], mean: Array, spread: float, cohort: NDArray[np.bool_]
    ) -> _Side:
        squares, freedom = squared_residuals(shadow, chosen, mean)
        floor = smallest_variance(shadow[:, cohort])
        some = (freedom > 0) & cohort
        pooled, prior = spread, (np.inf, spread)
        if some.any():
            pooled = float(squares[some].sum() / freedom[some].sum())
            prior = variance_prior(np.maximum(squares[some] / freedom[some], floor), freedom[some])
        return cls(mean, squares, chosen.sum(axis=0), max(pooled, floor), prior[0], max(prior[1], floor))

    def predictive(self, prior_mean: Array, weight: Array) -> _Predictive:
        """Posterior predictive of the conjugate model; the prior mean counts as much as ``weight`` shadows."""
        total = weight + self.count
        shift = prior_mean - self.mean
        freedom = self.freedom + self.count - (weight == 0)  # a mean of which nothing is known costs one
        scale = np.full_like(self.mean, self.scale)
        if np.isfinite(self.freedom):
            squares = self.squares + weight * self.count / total * shift**2
            scale = (self.freedom * self.scale + squares) / freedom
        return _Predictive(self.mean + weight / total * shift, scale * (1 + 1 / total), freedom)


@dataclass(frozen=True)
class _Predictive:
    """Where a model's signal is expected: Student-t, normal if its freedom is infinite; arrays of shape (N,)."""

    mean: Array
    variance: Array
    freedom: Array

    def log_density(self, value: Array) -> Array:
        squares = (value - self.mean) ** 2 / self.variance
        if np.isinf(self.freedom).all():
            return np.asarray(-(squares + np.log(2 * np.pi * self.variance)) / 2)
        nu = self.freedom
        constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2) - np.log(nu * np.pi * self.variance) / 2
        return np.asarray(constant - (nu + 1) / 2 * np.log1p(squares / nu))


@dataclass(frozen=True)
class BaVarIA(SignalAttack):
    r"""Likelihood ratio of the predictive distributions under normal-inverse-gamma priors: LiRA for few shadows.

    For each case and side, with and without the case, the shadows' signals are normal with unknown mean and variance.
    The prior of the variance is fitted over cases (:func:`variance_prior`). The prior mean is the other side's mean
    plus or minus the mean gap; how much it weighs follows from how much the gap differs between cases beyond noise.
    With no shadow on a side the prior stands alone, so that any number of shadows works. Offline uses the side without
    the case alone, one-sided.

    Cost: 1 shadow, better with more. Source: `Brännvall (2026) <https://arxiv.org/abs/2603.11799>`_ for the conjugate
    prior of the variance and both predictive forms; how the prior is fitted and the removal of whole-model offsets are
    ours.

    Attributes:
        signal: the signal.
        mode: ``online`` uses shadows with and without the case, ``offline`` those without it.
        predictive: ``t`` (Student's, the exact one) or ``n`` (normal with the stabilised variance).
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_odds_foreground"
    mode: Literal["online", "offline"] = "online"
    predictive: Literal["t", "n"] = "t"
    remove_offsets: bool = True
    min_shadows: int = 1

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        require_option("mode", self.mode, ("online", "offline"))
        require_option("predictive", self.predictive, ("t", "n"))

    @property
    def kind(self) -> str:
        """``BaVarIA-<predictive> <mode>``."""
        return f"BaVarIA-{self.predictive} {self.mode}"

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats (online) or standard deviations (offline), shape (N,)."""
        target, shadow = self.read(view)
        own = view.cohort
        member, online = view.shadow_member, self.mode == "online"
        means = in_and_out(target, shadow, member, cohort=own)
        spread = difference_variance(target, (means[0] + means[1]) / 2, len(shadow), own)
        ins, outs = _Side.of(shadow, member, means[0], spread, own), _Side.of(shadow, ~member, means[1], spread, own)
        gap, varied = gap_prior(ins.mean[own], outs.mean[own], ins.count[own], outs.count[own], ins.pooled, outs.pooled)
        weight = prior_weight(outs.pooled, ins.pooled, ins.count, varied)
        out = outs.predictive(ins.mean - gap, weight if online else np.where(outs.count == 0, weight, 0.0))
        if self.predictive == "n":
            out = replace(out, freedom=np.full_like(out.mean, np.inf))
        if not online:
            return equivalent_normal_deviate((target - out.mean) / np.sqrt(out.variance), out.freedom)
        inside = ins.predictive(outs.mean + gap, prior_weight(ins.pooled, outs.pooled, outs.count, varied))
        if self.predictive == "n":
            inside = replace(inside, freedom=np.full_like(inside.mean, np.inf))
        return inside.log_density(target) - out.log_density(target)
