# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Small cells of a table of subgroups: a few patients in a row may be told apart, so their numbers are withheld."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from monai_mia.errors import InputError

__all__ = ["MIN_CELL", "suppress"]

#: Fewer patients than this are not shown, unless told otherwise; the usual threshold of statistics offices and of
#: trusted research environments.
MIN_CELL = 10


def suppress(
    rows: Sequence[Mapping[str, Any]],
    counts: Collection[str],
    keep: Collection[str],
    min_cell: int = MIN_CELL,
) -> list[dict[str, Any]]:
    """Withhold the numbers of rows that tell of few patients.

    If one row alone would be withheld, the smallest other goes, too: else the one is the total less the others.

    Args:
        rows: a table of subgroups that share a total, such as the levels of one covariate.
        counts: names of the counts of patients in each row, such as ``n_member``.
        keep: what names a row, and stays.
        min_cell: a row with a count below this, other than 0, is withheld.

    Returns:
        The rows, each with ``suppressed``; a withheld one has None in place of all that is not in ``keep``.

    Raises:
        InputError: a row has no such count, or ``min_cell`` is below 1.

    Example:
        >>> values = (("f", 40, 0.6), ("m", 30, 0.7), ("x", 3, 1.0))
        >>> table = [{"sex": sex, "n": n, "auc": auc} for sex, n, auc in values]
        >>> for row in suppress(table, counts=["n"], keep=["sex"]):
        ...     print(row)
        {'sex': 'f', 'n': 40, 'auc': 0.6, 'suppressed': False}
        {'sex': 'm', 'n': None, 'auc': None, 'suppressed': True}
        {'sex': 'x', 'n': None, 'auc': None, 'suppressed': True}
    """
    if min_cell < 1:
        raise InputError(f"min_cell must be at least 1, got {min_cell}.")
    for row in rows:
        for count in counts:
            if not isinstance(row.get(count), int):
                raise InputError(f"{count} must be a whole number in each row, got {row.get(count)!r}.")
    small = {k for k, row in enumerate(rows) if any(0 < row[count] < min_cell for count in counts)}
    if len(small) == 1 and len(rows) > 1:
        others = [k for k in range(len(rows)) if k not in small and any(rows[k][count] for count in counts)]
        small |= set(sorted(others, key=lambda k: sum(rows[k][count] for count in counts))[:1])
    return [
        {
            **{name: value if k not in small or name in keep else None for name, value in row.items()},
            "suppressed": k in small,
        }
        for k, row in enumerate(rows)
    ]
