# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The accounted epsilon: what Opacus' accountants say of steps that draw patients by coins and add Gaussian noise."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

from scipy.optimize import brentq

from monai_mia.errors import InputError

try:
    from opacus.accountants import PRVAccountant, RDPAccountant
    from opacus.accountants.utils import get_noise_multiplier
except ImportError as error:
    raise ImportError("monai_mia.dp needs Opacus' accountants: pip install 'monai_mia[dp]'.") from error

__all__ = ["accounted_epsilon", "default_delta", "noise_multiplier_for"]

logger = logging.getLogger(__name__)

# Beyond, the mesh of PRV grows to seconds and gigabytes, and then fails.
_PRV_UP_TO = 500.0

# PRV adds its own error of 0.01.
_LEAST = 0.02

_MOST_NOISE = 1e5

#: (noise multiplier, sample rate, number of steps), in the order they were taken.
History = Sequence[tuple[float, float, int]]


def accounted_epsilon(history: History, delta: float) -> tuple[float, str]:
    """Upper bound on epsilon, patients being added or removed.

    Args:
        history: steps taken: (noise multiplier, sample rate, number of steps) each.
        delta: in (0, 1).

    Returns:
        Epsilon, at least 0 and infinite without noise, and the accountant that gave it: the smaller of ``prv`` (Gopi
        et al. 2021) and ``rdp``, which alone is asked beyond an epsilon of 500.

    Example:
        >>> epsilon, accountant = accounted_epsilon([(1.0, 0.04, 2000)], 1e-5)
        >>> round(epsilon, 2), accountant
        (12.6, 'prv')
    """
    steps = tuple((float(sigma), float(rate), int(count)) for sigma, rate, count in history if count)
    if not steps:
        return 0.0, "prv"
    if min(sigma for sigma, _, _ in steps) == 0:
        return math.inf, "prv"
    return _epsilon(steps, float(delta))


@lru_cache(maxsize=256)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> tuple[float, str]:
    found: dict[str, float] = {}
    for name, accountant in (("rdp", RDPAccountant()), ("prv", PRVAccountant())):
        if found.get("rdp", 0.0) > _PRV_UP_TO:
            break
        accountant.history = list(history)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the order of the best Renyi divergence: that bound is loose, not wrong
            try:
                found[name] = max(0.0, float(accountant.get_epsilon(delta=delta)))  # its error can make it negative
            except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
                logger.debug("accountant %s failed: %s", name, error)
    finite = {name: epsilon for name, epsilon in found.items() if math.isfinite(epsilon)}
    if not finite:
        return math.inf, "rdp"
    best = min(finite, key=finite.__getitem__)
    return finite[best], best


@lru_cache(maxsize=64)
def noise_multiplier_for(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise with which so many steps stay within an epsilon.

    Args:
        target_epsilon: positive; it is met to a thousandth, or 0.01.
        delta: in (0, 1).
        sample_rate: probability of a patient to be in a step, in (0, 1].
        steps: number of steps.

    Returns:
        Standard deviation of the noise in units of the clip norm.

    Raises:
        InputError: no noise reaches it.
    """
    if not target_epsilon > 0:
        raise InputError(f"target_epsilon must be positive, got {target_epsilon}.")
    unreachable = InputError(
        f"target_epsilon must be one that noise can reach, got {target_epsilon} at delta {delta:g} in {steps} steps "
        f"with sample rate {sample_rate:g}. Take fewer steps, a lower sample rate, or a larger epsilon."
    )
    tolerance = max(0.01, 1e-3 * target_epsilon)
    if target_epsilon <= _LEAST:
        raise unreachable

    def excess(sigma: float) -> float:
        return accounted_epsilon([(sigma, sample_rate, steps)], delta)[0] - (target_epsilon - tolerance / 2)

    enough = _rdp_multiplier(target_epsilon, delta, sample_rate, steps, tolerance)
    while excess(enough) > 0:
        enough *= 1.5
        if enough > _MOST_NOISE:
            raise unreachable
    least = 0.9 * enough
    while excess(least) < 0:
        enough, least = least, 0.9 * least
    sigma = float(brentq(excess, least, enough, xtol=1e-6, rtol=1e-4))
    while excess(sigma) > tolerance / 2:
        sigma *= 1 + 1e-4
    return sigma


def _rdp_multiplier(target_epsilon: float, delta: float, sample_rate: float, steps: int, tolerance: float) -> float:
    """Where to start: by Renyi divergences, whose search is fast, and whose noise is near what is needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=target_epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                    epsilon_tolerance=tolerance,
                )
            )
        except ValueError:  # its orders end at an epsilon of about log(1 / delta) / 60
            return 10.0


def default_delta(n_patients: int) -> float:
    """The smaller of 1e-5 and a tenth of 1 / N."""
    return min(1e-5, 1 / (10 * n_patients))
