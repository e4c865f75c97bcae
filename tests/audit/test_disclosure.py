# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Small cells: none of few patients is left, and none can be had by subtraction within a table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_mia.audit.disclosure.cells import OTHERS, merge_small_bins, merge_small_cells, shown_share


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 15))
def test_no_bin_is_left_of_few(counts: list[int], min_cell: int) -> None:
    borders = merge_small_bins(counts, min_cell)
    assert borders[0] == 0
    assert borders[-1] == len(counts)
    assert all(low < high for low, high in pairwise(borders))
    held = [sum(counts[low:high]) for low, high in pairwise(borders)]
    assert sum(held) == sum(counts)
    assert all(few >= min_cell for few in held) or len(held) == 1


def test_bins_that_hold_enough_stay() -> None:
    assert merge_small_bins([10, 12, 40], 10) == [0, 1, 2, 3]
    assert merge_small_bins([0, 0, 3, 9, 40, 1], 10) == [0, 4, 6]


@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(1, 12))
def test_no_subgroup_is_left_of_few(sizes: list[int], min_cell: int) -> None:
    categories = np.repeat([f"site {n}" for n in range(len(sizes))], sizes)
    names, counts = np.unique(merge_small_cells(categories, min_cell), return_counts=True)
    assert counts.min() >= min_cell or list(names) == [OTHERS]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, True), (1.0, True), (0.05, False), (0.09, False), (0.1, True), (0.9, True), (0.91, False)],
)
def test_a_share_tells_of_what_is_left_too(share: float, shown: bool) -> None:
    assert shown_share(share, 100, 10) == shown
