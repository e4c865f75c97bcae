# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Small cells: what is told of a few patients may be told of one of them, so it is told of more patients or not at all.

Subgroups, tails, bins, profiles and maps of individuals go by the same number, and so do means over those who are
claimed. The rates of an attack do not: a point of a ROC curve, or a count of false claims, is of whoever it is of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_mia.records.identifiers import MIN_CELL

__all__ = ["MIN_CELL", "OTHERS", "merge_small_bins", "merge_small_cells", "shown_share"]

#: The name of merged cells.
OTHERS = "others"


def merge_small_cells(categories: NDArray[np.str_], min_cell: int = MIN_CELL) -> NDArray[np.str_]:
    """Small subgroups become ``others``; if these are too few, too, the smallest shown subgroup joins them.

    Without that, whoever subtracts the shown subgroups from all patients would learn about the few that are left.

    Args:
        categories: of each patient, shape (U,).
        min_cell: a subgroup of fewer patients is not shown.

    Returns:
        Shape (U,). All are ``others`` where no two subgroups can be shown.

    Example:
        >>> sex = np.array(["f"] * 30 + ["m"] * 20 + ["x"] * 3)
        >>> {str(name): int(n) for name, n in zip(*np.unique(merge_small_cells(sex), return_counts=True))}
        {'f': 30, 'others': 23}
    """
    names, counts = np.unique(categories, return_counts=True)
    hidden = set(names[counts < min_cell].tolist())
    if hidden:
        for name in names[np.argsort(counts, kind="stable")].tolist():
            if np.isin(categories, list(hidden)).sum() >= min_cell:
                break
            hidden.add(name)
    return np.where(np.isin(categories, list(hidden)), OTHERS, categories)


def merge_small_bins(counts: Sequence[int], min_cell: int = MIN_CELL) -> list[int]:
    """Borders between the bins of a histogram such that none of few patients is left; empty ones are merged, too.

    Args:
        counts: patients in each of N bins.
        min_cell: a bin of fewer patients is merged with its neighbours.

    Returns:
        Borders from 0 to N: bin k of the merged ones has those from the k-th border to the next.

    Example:
        >>> merge_small_bins([40, 12, 3, 0, 9, 2, 1])
        [0, 1, 2, 7]
    """
    borders, held = [0], 0
    for place, count in enumerate(counts, start=1):
        held += count
        if held >= min_cell:
            borders.append(place)
            held = 0
    if borders[-1] < len(counts):
        borders[max(len(borders) - 1, 1) :] = [len(counts)]
    return borders


def shown_share(share: float, n: int, min_cell: int = MIN_CELL) -> bool:
    """Whether a share of n patients may be shown: it tells of none or of enough, and so does what is left.

    Example:
        >>> shown_share(0.2, 100), shown_share(0.02, 100), shown_share(0.98, 100), shown_share(0.0, 100)
        (True, False, False, True)
    """
    count = round(share * n)
    return all(few == 0 or few >= min_cell for few in (count, n - count)) or n == 0
