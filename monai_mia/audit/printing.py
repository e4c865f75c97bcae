# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Results as text for a terminal of 100 columns, and as data frames of pandas."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monai_mia.errors import InputError
from monai_mia.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WIDTH", "assumed_in_words", "data_frame", "flat", "text_table", "wrapped"]

#: Columns of a terminal that a result fits into.
WIDTH = 100

#: Columns that a name keeps, however wide the numbers beside it.
_NARROWEST = 16


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    r"""Lines of a table; names in the first column are cut so that it fits.

    Args:
        heads: heads of the K columns.
        rows: rows of K cells.
        width: of the terminal, in characters.

    Example:
        >>> print("\n".join(text_table(["attack", "AUC"], [["global loss", "0.612"]])))
        attack       AUC
        ------------------
        global loss  0.612
    """
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    widths[0] = min(widths[0], max(_NARROWEST, width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for name, *cells in (heads, *rows):
        name = name if len(name) <= widths[0] else f"{name[: widths[0] - 1]}…"
        lines.append("  ".join(cell.ljust(size) for cell, size in zip((name, *cells), widths, strict=True)).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Lines of a sentence, indented by two spaces."""
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")


def assumed_in_words(assumed: int, patients: int) -> str:
    """A sentence about patients who are no more than assumed, for every page that counts them; empty without any.

    Example:
        >>> assumed_in_words(60, 60)[:64]
        'Patients are assumed: the cohort names none of the 60, so that e'
    """
    if not assumed:
        return ""
    whose = f"none of the {patients}" if assumed >= patients else f"no patient for {assumed} of the {patients}"
    return (
        f"Patients are assumed: the cohort names {whose}, so that each scan counts as a patient of its own. If a "
        "patient has several scans, both sides share patients and intervals are too narrow."
    )


def flat(name: str, value: Estimate | float | None) -> dict[str, float | None]:
    """Three columns of a data frame for a number: its value, and the ends of its interval; None where there is none."""
    if isinstance(value, Estimate):
        return {name: value.value, f"{name} low": value.low, f"{name} high": value.high}
    return {name: value, f"{name} low": None, f"{name} high": None}


def data_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A data frame with a row for each mapping.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("pandas must be installed for to_frame, got none. Run: pip install pandas.") from error
    return pd.DataFrame([dict(row) for row in rows])
