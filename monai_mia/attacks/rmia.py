# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""RMIA and BASE: how much likelier the target finds a case than the shadows do on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack, in_and_out, require_option, require_shadows, without_offsets
from monai_mia.errors import InputError

__all__ = ["BASE", "RMIA", "log_probability", "relative_likelihood_score"]

Mode = Literal["online", "offline"]


def log_probability(name: str, values: Array) -> Array:
    """The log-probability that a model gives a case, read from a signal.

    - ``log_likelihood...``, ``negative_entropy...`` and ``predictability`` are means of log-probabilities: as they are.
    - ``log_odds...`` are turned into probabilities by the logistic function.
    - Any other signal must be in [0, 1], as Dice and mean probabilities are: its logarithm, clipped at 1e-12.

    Args:
        name: name of the signal.
        values: its values, any shape.

    Returns:
        Nats, the same shape, finite.

    Raises:
        InputError: a signal of another name leaves [0, 1].

    Example:
        >>> float(log_probability("log_odds_foreground", np.array([0.0]))[0])  # ln 1/2
        -0.6931471805599453
    """
    if name.startswith(("log_likelihood", "negative_entropy", "predictability")):
        return values
    if name.startswith("log_odds"):
        return np.asarray(log_expit(values))
    low, high = values.min(initial=0.0), values.max(initial=0.0)
    if low < 0 or high > 1:
        raise InputError(
            f"signal {name!r} must be in [0, 1] to be read as a probability, got values from {low:g} to {high:g}. "
            "Use a log_likelihood or log_odds signal."
        )
    return np.asarray(np.log(np.maximum(values, 1e-12)))


def log_average(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Logarithm of the mean probability over the chosen shadows, from log-probabilities (M, N); NaN where none is."""
    top = values.max(axis=0)
    total = np.exp(values - top).sum(axis=0, where=chosen)
    count = chosen.sum(axis=0)
    # The chosen may lie so far below the others that their probability vanishes beside theirs: then on their own scale.
    lost = (total == 0) & (count > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(count > 0, top + np.log(total / count), np.nan)
    if lost.any():
        own = np.where(chosen[:, lost], values[:, lost], -np.inf)
        result[lost] = logsumexp(own, axis=0) - np.log(count[lost])
    return np.asarray(result)


def relative_likelihood_score(log_ratio: Array, gamma: float, cohort: NDArray[np.bool_] | None = None) -> Array:
    r"""Share of all cases z with :math:`r_x > \gamma r_z`; where both are equal, half of it counts.

    By sorting, so that memory is linear in the number of cases. A case meets itself, too: with gamma 1 a tie.

    Args:
        log_ratio: :math:`\log r_x` of each case, shape (N,).
        gamma: factor, at least 1.
        cohort: the cases z, shape (N,), bool; by default all.

    Returns:
        Scores in [0, 1], shape (N,).
    """
    others = np.sort(log_ratio if cohort is None else log_ratio[cohort])
    limit = log_ratio - np.log(gamma)
    wins = (np.searchsorted(others, limit, "left") + np.searchsorted(others, limit, "right")) / 2
    return np.asarray(wins / len(others))


class _Likelihoods(SignalAttack):
    """Base of attacks on the log-probability that a signal tells."""

    def log_probabilities(self, view: AdversaryView) -> tuple[Array, Array, Array]:
        """Log-probabilities of the target, and of the mean shadow with and without each case, shape (N,) each."""
        require_shadows(self, view)
        target, shadow = (log_probability(self.signal, values) for values in view.signal(self.signal))
        if self.remove_offsets:
            target, shadow = without_offsets(target, shadow, view.cohort)
        return target, *in_and_out(target, shadow, view.shadow_member, log_average, view.cohort)


@dataclass(frozen=True)
class BASE(_Likelihoods):
    r"""The target's log-probability of a case minus the logarithm of the shadows' mean probability.

    .. math:: \log p_{target}(x) - \log \tfrac12 \bigl(\bar p_{in}(x) + \bar p_{out}(x)\bigr)
        \quad\text{(online)},\qquad \log p_{target}(x) - a \log \bar p_{out}(x) \quad\text{(offline)}

    Online it ranks cases exactly as :class:`RMIA` with gamma 1 over all cases does. A side without a shadow is
    estimated from the other (:func:`~monai_mia.attacks.in_and_out`, on log-probabilities).

    Cost: 1 shadow, better with more. Source: `Lassila et al. (2025) <https://arxiv.org/abs/2505.24089>`_; the equal
    weight of both sides where shadows are odd and the removal of whole-model offsets are ours.

    Attributes:
        signal: the signal, read by :func:`log_probability`.
        mode: ``online`` uses shadows with and without the case, ``offline`` those without it.
        a: scale of the offline threshold; 1 is plain calibration, published implementations default to 0.33.
        remove_offsets: whether how well a whole model fits is subtracted from the log-probabilities first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_likelihood"
    mode: Mode = "online"
    a: float = 1.0
    remove_offsets: bool = True
    min_shadows: int = 1

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        require_option("mode", self.mode, ("online", "offline"))

    @property
    def kind(self) -> str:
        """``BASE <mode>``."""
        return f"BASE {self.mode}" + (f", a {self.a:g}" if self.mode == "offline" and self.a != 1 else "")

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats, shape (N,)."""
        target, log_in, log_out = self.log_probabilities(view)
        if self.mode == "offline":
            return target - self.a * log_out
        return np.asarray(target - (np.logaddexp(log_in, log_out) - np.log(2)))


@dataclass(frozen=True)
class RMIA(_Likelihoods):
    r"""Robust attack: how many of the cases z the target finds less remarkable than x.

    .. math:: \Pr_z\left[\frac{p_{target}(x) / p(x)}{p_{target}(z) / p(z)} > \gamma\right]

    where p(x) is the shadows' mean probability: online ``(p_in + p_out) / 2``, offline
    ``((1 + a) p_out + 1 - a) / 2``. A side without a shadow is estimated from the other
    (:func:`~monai_mia.attacks.in_and_out`, on log-probabilities). Where both sides of the inequality are equal, half
    of z counts; the paper counts all or nothing. Offline, p(x) is no plain average of models, so that how well all of
    them fit on average still matters when offsets between them are removed.

    The population z are all cases that are scored. The comparison turns the likelihood ratio into a share and changes
    no rank, except that gamma above 1 makes ties. Mean log-probabilities of a segmentation hardly differ by a factor of
    2, so that the default is 1.

    Cost: 1 shadow, better with more; memory linear in the table. Source: `Zarifzadeh et al. (2024)
    <https://arxiv.org/abs/2312.03262>`_; half ties, the equal weight of both sides where shadows are odd and the
    removal of whole-model offsets are ours.

    Attributes:
        signal: the signal, read by :func:`log_probability`.
        mode: ``online`` uses shadows with and without the case, ``offline`` those without it.
        gamma: factor by which x must exceed z, at least 1; 2 in published implementations for classifiers.
        a: offline only, slope of p_in over p_out, in [0, 1].
        remove_offsets: whether how well a whole model fits is subtracted from the log-probabilities first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_likelihood"
    mode: Mode = "online"
    gamma: float = 1.0
    a: float = 0.3
    remove_offsets: bool = True
    min_shadows: int = 1

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        require_option("mode", self.mode, ("online", "offline"))
        if not self.gamma >= 1:
            raise InputError(f"gamma must be at least 1, got {self.gamma}.")
        if not 0 <= self.a <= 1:
            raise InputError(f"a must be in [0, 1], got {self.a}.")

    @property
    def kind(self) -> str:
        """``RMIA <mode>``."""
        options = f", gamma {self.gamma:g}" if self.gamma != 1 else ""
        options += f", a {self.a:g}" if self.mode == "offline" and self.a != 0.3 else ""
        return f"RMIA {self.mode}{options}"

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in [0, 1], shape (N,)."""
        target, log_in, log_out = self.log_probabilities(view)
        first, second = (log_in, log_out) if self.mode == "online" else (np.log1p(self.a) + log_out, _log(1 - self.a))
        return relative_likelihood_score(target - np.logaddexp(first, second), self.gamma, view.cohort)


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else -np.inf
