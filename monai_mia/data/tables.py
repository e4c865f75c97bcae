# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a user's table says: its rows as text, and whose case a row is."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from monai_mia.errors import InputError

__all__ = ["is_text", "patient_of", "read_rows", "read_text"]


def is_text(name: str) -> bool:
    """Whether UTF-8 can hold it: a name of a file in another encoding, and half of a pair of surrogates, are none."""
    return name.encode(errors="ignore").decode() == name


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is in another encoding than UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be text in UTF-8, got another encoding. Save it as UTF-8.") from error


def read_rows(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows below the heads of the columns; cells that are missing at the end of a row are empty.

    Raises:
        InputError: it is in another encoding than UTF-8, two columns have one name, or a row has more cells than there
            are columns.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # a TSV has none, as in BIDS
    content = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(content, delimiter=delimiter, restval="", quoting=quoting)
    heads = [name for name in reader.fieldnames or () if name]
    twice = sorted({name for name in heads if heads.count(name) > 1})
    if twice:
        raise InputError(f"{path} must have each column once, got {', '.join(twice)} twice.")
    rows = []
    for row in reader:
        further = row.pop(None, [])
        if not any(row.values()) and not any(further):
            continue
        if any(further):
            raise InputError(
                f"line {reader.line_num} of {path} must have {len(reader.fieldnames or ())} cells, as its first line "
                "has, got more. Put texts that hold the separator in quotes."
            )
        rows.append(row)
    return rows


def patient_of(case: Mapping[str, Any], patient_id: Callable[[Mapping[str, Any]], Any]) -> str:
    """What a function of the user's says whose case it is.

    Args:
        case: what the function is given; ``source``, or else ``case_id``, is how an error names it.
        patient_id: the function.

    Raises:
        InputError: it fails, or gives nothing: such cases must not become one patient.
    """
    try:
        found = patient_id(case)
    except Exception as error:
        found, why = None, type(error).__name__
    else:
        why = repr(found)
    name = "" if found is None else str(found).strip()
    if not name:
        where = case.get("source", case["case_id"])
        raise InputError(f"patient_id must give the patient of each case that names none, got {why} for {where}.")
    return name
