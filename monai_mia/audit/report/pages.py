# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The page of a study of several models: notes, gaps, pictures and tables, self-contained."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from monai_mia.statistics import Estimate

__all__ = ["Table", "as_html", "as_markdown", "as_written", "cell", "error_bars", "markdown", "plain", "template"]

#: What Markdown would take for more than text: anywhere, and where it would begin or end something.
_MARKDOWN = re.compile(r"[\\`*<>|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])")


@dataclass(frozen=True)
class Table:
    """A table to read: what it shows, its heads, and its rows of text."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_html(
    title: str,
    notes: Sequence[str],
    pictures: Sequence[tuple[str, bytes]],
    tables: Sequence[Table],
    gaps: Sequence[str] = (),
) -> str:
    """The page; pictures are pairs of a text for those who do not see them, and PNG bytes."""
    return template("study.html").render(
        title=title,
        notes=notes,
        pictures=[(alt, base64.b64encode(picture).decode()) for alt, picture in pictures],
        tables=tables,
        gaps=gaps,
    )


def as_markdown(title: str, notes: Sequence[str], tables: Sequence[Table], gaps: Sequence[str] = ()) -> str:
    """The same without pictures."""
    lines = [f"# {title}", "", *notes, ""]
    if gaps:
        lines += ["## What is missing", "", *(f"- {markdown(gap)}" for gap in gaps), ""]
    for table in tables:
        heads = " | ".join(map(markdown, table.heads))
        lines += [f"## {markdown(table.caption)}", "", f"| {heads} |", f"|{'---|' * len(table.heads)}"]
        lines += [*(f"| {' | '.join(map(markdown, row))} |" for row in table.rows), ""]
    return "\n".join(lines)


def markdown(text: str) -> str:
    r"""A text as Markdown shows it, on one line: what would be a column, a tag, a link or emphasis is escaped.

    Example:
        >>> print(markdown("a|b <i> *c* [d](e) _f_ g_h 0.5 [0.4, 0.6]"))
        a\|b \<i\> \*c\* [d\](e) \_f\_ g_h 0.5 [0.4, 0.6]
    """
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(text).split("\n")))


def as_written(signal: str, value: Estimate) -> Estimate:
    """A signal's value and interval as the field writes them: an error or a distance without its minus."""
    return -value if signal.startswith("negative_") else value


def cell(value: Estimate | None, form: str = ".3f") -> str:
    """A value and its interval in a table; a rate may be below the resolution."""
    return "below resolution" if value is None else f"{value:{form}}"


def error_bars(values: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals reach below and above their values, as matplotlib's ``errorbar`` wants it."""
    below = [max(0.0, value.value - value.low) for value in values]
    return [below, [max(0.0, value.high - value.value) for value in values]]


def plain(value: Any) -> Any:
    """As JSON has it: an estimate is its value and ``ci``, keys are texts, and what is undefined is null."""
    if isinstance(value, Estimate):
        return plain(value.as_json())
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A template of this package, with filters of its own."""
    environment = Environment(
        loader=PackageLoader("monai_mia.audit.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
