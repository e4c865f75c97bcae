# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Small cells: what is told of a few patients may be told of one of them, so it is told of more patients or not at all.

Every table, profile and picture of ``report/`` that tells patients apart goes by the same number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_CELL", "OTHERS", "merge_small_cells"]

#: Of fewer patients than this nothing is shown, unless told otherwise; the usual threshold of statistics offices and of
#: trusted research environments.
MIN_CELL = 10

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
