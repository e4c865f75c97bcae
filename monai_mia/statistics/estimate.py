# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A number with its interval, and the bootstrap that gives intervals: by patient, from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import asin, sin, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monai_mia.errors import InputError
from monai_mia.statistics.resampling import gaps_by_group, percentiles, weights_by_group
from monai_mia.statistics.roc import auc_interval, clopper_pearson

__all__ = ["Estimate", "Resampling"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval; it prints itself.

    A format applies to all three numbers: ``f"{estimate:.2f}"``, ``f"{estimate:.0%}"``; by default three decimals.

    Attributes:
        value: the number; NaN where it is undefined.
        low: lower end of the interval.
        high: upper end.

    Example:
        >>> print(Estimate(0.812, 0.76, 0.861))
        0.812 [0.760, 0.861]
        >>> f"{Estimate(0.812, 0.76, 0.861):.0%}"
        '81% [76%, 86%]'
    """

    value: float
    low: float
    high: float

    @property
    def ci(self) -> tuple[float, float]:
        """The interval, lower end first."""
        return self.low, self.high

    def __format__(self, form: str) -> str:
        """Value and interval, each number in this form."""
        form = form or ".3f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def __str__(self) -> str:
        """Value and interval, three decimals."""
        return format(self, "")

    def __neg__(self) -> Estimate:
        """Of minus the quantity: what a signal such as ``negative_hd95`` says of the distance."""
        return Estimate(-self.value, -self.high, -self.low)

    def wider(self, interval: tuple[float, float]) -> Estimate:
        """The same number with the smallest interval that holds its own and another one."""
        return Estimate(self.value, min(self.low, interval[0]), max(self.high, interval[1]))

    def as_json(self) -> dict[str, Any]:
        """``{"value": value, "ci": [low, high]}``, as all JSON files of a report have it."""
        return {"value": self.value, "ci": [self.low, self.high]}

    def named(self, name: str) -> dict[str, Any]:
        """``{name: value, name_ci: [low, high]}``, for a number that has a key of its own in ``report.json``."""
        return {name: self.value, f"{name}_ci": [self.low, self.high]}

    @classmethod
    def of_json(cls, content: Mapping[str, Any], name: str = "value", ci: str | None = None) -> Estimate:
        """Read what :meth:`named` or, without a name, :meth:`as_json` wrote.

        Args:
            content: the JSON object.
            name: key of the number.
            ci: key of the interval; by default ``ci`` beside ``value``, else the name with ``_ci``.
        """
        low, high = content[ci or ("ci" if name == "value" else f"{name}_ci")]
        return cls(float(content[name]), float(low), float(high))


@dataclass(frozen=True)
class Resampling:
    """The bootstrap behind every interval: how wide, how many resamples, from which seed. Patients are drawn.

    Attributes:
        confidence: coverage of the intervals, in (0, 1).
        n_resamples: B, the number of resamples.
        seed: seed of the draws; whatever holds a resampling uses it for its folds, permutations and splits, too, so
            that a result has one seed.

    Raises:
        InputError: the confidence is not in (0, 1), or there is no resample.

    Example:
        >>> print(Resampling(confidence=0.9).estimate(0.5, np.linspace(0, 1, 101)))
        0.500 [0.050, 0.950]
    """

    confidence: float = 0.95
    n_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what gives no interval."""
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence must be in (0, 1), got {self.confidence}.")
        if self.n_resamples < 1:
            raise InputError(f"n_resamples must be at least 1, got {self.n_resamples}.")

    def weights(self, member: ArrayLike, groups: Sequence[str]) -> Array:
        """How often each unit occurs in each resample, shape (B, N); members and non-members are drawn apart.

        Args:
            member: shape (N,), bool, constant within a group.
            groups: the patient of each unit, length N.
        """
        return weights_by_group(member, groups, self.n_resamples, self.seed)

    def gaps(self, member: ArrayLike, groups: Sequence[str]) -> Array:
        """Weights for rates at an FPR, shape (B, N + 1); see :func:`~monai_mia.statistics.gaps_by_group`."""
        return gaps_by_group(member, groups, self.n_resamples, self.seed)

    def counts(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """How often each of n patients (or targets) occurs in each resample, shape (B, n)."""
        return rng.multinomial(n, np.full(n, 1 / n), size=self.n_resamples)

    def drawn(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Which of n patients are drawn in each resample, shape (B, n): for what no weights can express, as ranks."""
        return rng.integers(n, size=(self.n_resamples, n))

    def interval(self, samples: Array) -> tuple[float, float]:
        """The percentile interval of a quantity from its resamples, shape (B,)."""
        return percentiles(samples, self.confidence)

    def estimate(self, value: float, samples: Array, reach: float = 1.0) -> Estimate:
        """A number with the percentile interval of its resamples, shape (B,).

        Args:
            value: the number.
            samples: the same in each resample, shape (B,).
            reach: how many times as far down the interval reaches, of what was chosen for being large; see
                :func:`~monai_mia.statistics.reach_of_best`.
        """
        low, high = self.interval(samples)
        return Estimate(float(value), value - reach * (value - low) if low < value else low, high)

    def proportion(self, value: float, samples: Array, n: int, reach: float = 1.0) -> Estimate:
        """A share of n independent patients; never narrower than the interval of Clopper and Pearson.

        Near 0 and 1 a bootstrap is too narrow: at 0 of n it has no width at all. A ``reach`` applies to arcsines of
        roots, of which the spread does not depend on the share.
        """
        exact = clopper_pearson(round(value * n), n, self.confidence)
        found = self.estimate(value, samples).wider(exact)
        if reach == 1 or found.low >= value:
            return found
        at, low = (asin(sqrt(min(1.0, max(0.0, share)))) for share in (value, found.low))
        return replace(found, low=sin(max(0.0, at - reach * (at - low))) ** 2)

    def auc(self, value: float, samples: Array, n_member: int, n_nonmember: int, reach: float = 1.0) -> Estimate:
        """An AUC of independent patients; never narrower than the score interval of Newcombe, with the same reach."""
        found = self.estimate(value, samples, reach).wider(auc_interval(value, n_member, n_nonmember, self.confidence))
        if reach == 1:
            return found
        further = 1 - 2 * float(stats.norm.sf(reach * stats.norm.ppf((1 + self.confidence) / 2)))
        low, _ = auc_interval(value, n_member, n_nonmember, further)
        return replace(found, low=max(0.0, min(found.low, low)))
