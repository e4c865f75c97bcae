# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The gate that every number of ``report/`` passes: what may be told to somebody who holds the scans and the weights.

Such an insider ranks the cohort by the very signal that a report speaks of. A ROC with a step for each patient is then
read off, member by member. But so is a table: an AUC is a sum of the members' ranks, so one linear equation in who they
are, and the AUCs of as many attacks as there are patients are solved for them. Hence two rules:

* No point, bin or share divides patients so that fewer than k of a side lie between it and the next.
* Three attacks at most are given with numbers, and one of them with a curve. Every number is rounded to a grid of about
  three quarters of its standard error: finer digits tell more of the cohort than of the attack.

docs/explanation/disclosure.md says what this guarantees, what it does not, and how both were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records.identifiers import MIN_CELL
from monai_mia.statistics import Estimate
from monai_mia.statistics.epsilon import EpsilonBound

__all__ = ["UNTOLD", "Disclosure", "coarse", "coarse_p_value"]

Array = NDArray[np.float64]
_T = TypeVar("_T")

#: In the place of a number that is about too few patients to be told.
UNTOLD = Estimate(math.nan, math.nan, math.nan)

#: False positive rates at which a curve may have a point.
_RATES = tuple(sorted({*(m * 10.0**d for d in (-4, -3, -2) for m in (1, 2, 5)), *(k / 10 for k in range(1, 10))}))

#: Grid of a number, in standard errors of it, at most. Rounding adds 2.3 % to its error.
_GRID = 0.75
_NORMAL_WIDTH = 3.92  # of a 95 % interval, in standard errors

#: No number is told to more digits, however narrow its interval.
_FINEST = 0.001

_MOST_ATTACKS = 3

#: How names of probabilities end.
_PROBABILITIES = ("p_value", "p_adjusted", "image_tail")


@dataclass(frozen=True)
class Disclosure:
    """How much a report may tell.

    Attributes:
        min_cell: k, the fewest patients of a side that a number may be about; 1 tells everything, for public data.

    Raises:
        InputError: ``min_cell`` is below 1.
    """

    min_cell: int = MIN_CELL

    def __post_init__(self) -> None:
        """Refuse what is no number of patients."""
        if self.min_cell < 1:
            raise InputError(f"min_cell must be at least 1, got {self.min_cell}.")

    @property
    def everything(self) -> bool:
        """Whether nothing is withheld."""
        return self.min_cell == 1

    def n_attacks(self, n_member: int, n_nonmember: int, targets: int = 1) -> int:
        """How many attacks may be given with numbers: three for each target; none where a side has fewer than k.

        From three attacks an insider recovers membership hardly better than by the best of them: see
        docs/explanation/disclosure.md.

        Args:
            n_member: member patients of a target.
            n_nonmember: non-member patients.
            targets: models, of which each has members of its own, that a number is averaged over.

        Example:
            >>> Disclosure(10).n_attacks(30, 30), Disclosure(10).n_attacks(9, 50)
            (3, 0)
        """
        return _MOST_ATTACKS * targets if self.shows(n_member, n_nonmember) else 0

    def coarse(self, value: _T) -> _T:
        """The same with estimates and probabilities rounded, see :func:`coarse`; as it is if nothing is withheld."""
        return value if self.everything else coarse(value)

    def bound(self, bound: EpsilonBound) -> EpsilonBound:
        """A lower bound on epsilon, rounded down to a tenth."""
        return bound if self.everything else replace(bound, value=math.floor(10 * bound.value + 1e-9) / 10)

    def curve(
        self, scores: Array, member: NDArray[np.bool_], patients: Sequence[str], fprs: Sequence[float] = ()
    ) -> list[tuple[float, float]]:
        """Points of a ROC such that at least k patients of each side lie between any two, and before and after.

        Args:
            scores: shape (U,), higher = more likely a member.
            member: shape (U,), bool.
            patients: the patient of each unit, length U.
            fprs: FPRs that are wanted before others.

        Returns:
            FPR and TPR of each point, without (0, 0) and (1, 1); the FPR is the wanted one, which the curve reaches
            from below. Empty where no point can be shown.

        Example:
            >>> scores = np.arange(80.0)
            >>> Disclosure(10).curve(scores, np.arange(80) % 2 == 0, [str(n) for n in range(80)])[:2]
            [(0.3, 0.3), (0.6, 0.6)]
        """
        names = np.unique(np.asarray(patients), return_inverse=True)[1]
        others = np.sort(scores[~member])[::-1]
        points: dict[float, tuple[float, NDArray[np.bool_]]] = {}
        for fpr in [*sorted(fprs), *(rate for rate in _RATES if rate not in fprs)]:
            allowed = math.floor(fpr * len(others) + 1e-9)
            if allowed < len(others):
                above = scores > others[allowed]
                cells = sum((side.astype(int) for _, side in points.values()), above.astype(int))
                if self._large(cells, member, names, len(points) + 2):
                    points[fpr] = float(above[member].mean()), above
        return [(fpr, points[fpr][0]) for fpr in sorted(points)]

    def _large(
        self, cells: NDArray[np.int64], member: NDArray[np.bool_], patients: NDArray[np.int64], n_cells: int
    ) -> bool:
        """Whether each of so many cells, numbered from 0, has at least k patients of each side."""
        return all(
            len(np.unique(patients[(cells == cell) & side])) >= self.min_cell
            for cell in range(n_cells)
            for side in (member, ~member)
        )

    def divides(self, tpr: float, fpr: float, n_member: int, n_nonmember: int) -> bool:
        """Whether a point of a ROC leaves at least k patients of each side on both sides of it; no if it is unknown."""
        if math.isnan(tpr) or math.isnan(fpr):
            return False
        found, accused = round(tpr * n_member), math.floor(fpr * n_nonmember + 1e-9)
        return self.shows(found, n_member - found, accused, n_nonmember - accused)

    def shows(self, *counts: int) -> bool:
        """Whether each of these numbers of patients is large enough to be told of."""
        return min(counts) >= self.min_cell


def coarse(value: _T) -> _T:
    """Round every :class:`~monai_mia.statistics.Estimate` within dataclasses, mappings and sequences.

    The grid is the largest of 1, 2 or 5 times a power of ten that is at most 0.75 standard errors (a 95 % interval has
    3.92); the interval is rounded outwards. Fields and keys that are p-values by their names are rounded as
    :func:`coarse_p_value` does.

    Example:
        >>> print(coarse(Estimate(0.8844, 0.763, 0.9633)))
        0.880 [0.760, 0.980]
        >>> coarse({"p_value": 0.0132, "auc": [Estimate(0.5312, 0.402, 0.651)]})
        {'p_value': 0.02, 'auc': [Estimate(value=0.54, low=0.4, high=0.66)]}
    """
    return _rounded(value)  # type: ignore[no-any-return]


def _rounded(value: Any, name: str = "") -> Any:
    if isinstance(value, Estimate):
        return _estimate(value)
    if isinstance(value, float) and name.endswith(_PROBABILITIES):
        return coarse_p_value(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{one.name: _rounded(getattr(value, one.name), one.name) for one in fields(value) if one.init}
        )
    if isinstance(value, Mapping):
        return {key: _rounded(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rounded(item, name) for item in value)
    return value


def _estimate(estimate: Estimate) -> Estimate:
    width = estimate.high - estimate.low
    if not math.isfinite(width) or not math.isfinite(estimate.value):
        return estimate
    grid = _grid(max(_GRID * width / _NORMAL_WIDTH, _FINEST)) if width > 0 else 0.01
    low, high = math.floor(estimate.low / grid + 1e-9), math.ceil(estimate.high / grid - 1e-9)
    return Estimate(*(_times(steps, grid) for steps in (round(estimate.value / grid), low, high)))


def _grid(largest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most this."""
    power = 10.0 ** math.floor(math.log10(largest))
    return max(step * power for step in (1, 2, 5) if step * power <= largest * (1 + 1e-9))


def _times(steps: int, grid: float) -> float:
    """So many steps of a grid, without the dust of binary fractions."""
    return round(steps * grid, 12)


def coarse_p_value(p_value: float) -> float:
    """A probability rounded up to 1, 2 or 5 times a power of ten, so that it never looks rarer than it is.

    Example:
        >>> [coarse_p_value(p) for p in (0.0005, 0.013, 0.05, 0.3, 1.0)]
        [0.0005, 0.02, 0.05, 0.5, 1.0]
    """
    if not 0 < p_value < 1:
        return p_value
    power = 10.0 ** math.floor(math.log10(p_value))
    return min((round(step * power, 12) for step in (1, 2, 5, 10) if step * power >= p_value * (1 - 1e-9)), default=1.0)
