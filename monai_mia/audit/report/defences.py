# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The defence study as a page with its picture, as a table to read, and as JSON. No patient is in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report.figures import png
from monai_mia.audit.report.pages import Table, as_html, as_markdown, as_written, cell, error_bars, plain
from monai_mia.records import files
from monai_mia.statistics.epsilon import at_least, at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from monai_mia.audit.comparison import DefenceRow, DefenceStudyResult

__all__ = ["write_defences"]

_TITLE = "Defences against membership inference"
_AWARE, _UNAWARE, _GREY = "#1f5f99", "#b8651b", "#56616e"
_WORDS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "negative_hd95": "HD95, voxels",
    "negative_calibration_error": "calibration error",
    "negative_overconfidence": "overconfidence",
}


def write_defences(
    result: DefenceStudyResult, folder: str | os.PathLike[str], disclosure: Disclosure | None = None
) -> None:
    """Write ``defences.html`` (self-contained), ``.md``, ``.json`` and ``.png`` into ``folder``.

    Args:
        result: what was found.
        folder: where to write.
        disclosure: how much may be told; by default as an audit's report does.
    """
    folder, result = Path(folder), result.shared(disclosure or Disclosure())
    files.make_folder(folder)
    picture = _picture(result)
    heads, rows = _table(result)
    content = {"schema": "2", **plain(result)}
    files.write_json(folder / "defences.json", content, private=False)
    files.write(folder / "defences.png", picture, private=False)
    tables = [Table("Defences", heads, rows)]
    files.write(folder / "defences.md", as_markdown(_TITLE, _notes(result), tables), private=False)
    alt = "Utility of each defence against what the best attack finds under it; the numbers are in the table."
    files.write(folder / "defences.html", as_html(_TITLE, _notes(result), [(alt, picture)], tables), private=False)


def _notes(result: DefenceStudyResult) -> list[str]:
    fpr = f"{result.headline_fpr:.0%}"
    return [
        f"{result.targets} {'target' if result.targets == 1 else 'targets'}, {result.shadows} "
        f"{'shadow' if result.shadows == 1 else 'shadows'}, {result.patients} patients, unit patient; "
        f"{result.confidence:.0%} intervals, bootstrap over patients and targets, the same resamples for every row.",
        "The adaptive adversary trains and queries shadows under the defence, the non-adaptive one without. Each takes "
        f"the best of the same list of attacks; AUC is the mean over targets, the TPR is at {fpr} FPR. The change is "
        "against the best attack without a defence, paired. A defence that only the non-adaptive adversary fails at "
        "protects from nobody who reads this page. The best attack is picked anew for each row, from fewer where less "
        "is released; intervals do not allow for that.",
        "Utility is that on non-members. Accounted epsilon is an upper bound, audited epsilon a lower one, of the "
        "first target; behind \u201cof\u201d, what a perfect attack on as many patients could have shown.",
        *filter(None, [assumed_in_words(result.patients_assumed, result.patients)]),
    ]


def _table(result: DefenceStudyResult) -> tuple[list[str], list[list[str]]]:
    metrics = list(dict.fromkeys(name for row in result.rows for name in row.utility))
    rate = f"TPR@{result.headline_fpr:.3g}"
    heads = ["defence", "release", *(_WORDS.get(name, name) for name in metrics)]
    heads += [
        "adaptive: AUC",
        rate,
        "change in AUC",
        "attack",
        "non-adaptive: AUC",
        rate,
        "accounted \u03b5",
        "audited \u03b5 \u2265",
    ]
    heads += ["training, s", "query, s"]
    return heads, [_cells(row, metrics) for row in result.rows]


def _cells(row: DefenceRow, metrics: Sequence[str]) -> list[str]:
    cells = [row.name, row.release]
    for name in metrics:
        value = row.utility.get(name)
        cells.append("" if value is None else cell(as_written(name, value)))
    accounted = ""
    if row.accounted_epsilon is not None:
        epsilon, delta = row.accounted_epsilon
        none = "none: repeatable noise" if row.repeatable_noise else "no bound"
        accounted = none if epsilon is None else f"{at_most(epsilon)} (\u03b4 = {delta:g})"
    bound = row.audited_epsilon
    aware, non_adaptive = row.adaptive, row.non_adaptive
    cells += [cell(aware.auc), cell(aware.tpr), cell(aware.auc_change, "+.3f"), aware.attack]
    cells += [
        cell(non_adaptive.auc),
        cell(non_adaptive.tpr),
        accounted,
        f"{at_least(bound.value)} of {bound.ceiling:.2f}",
    ]
    return [*cells, f"{row.training_s:.0f}", f"{row.query_s:.0f}"]


def _picture(result: DefenceStudyResult) -> bytes:
    """Privacy against utility: AUC on the left, TPR on the right; a line joins what the two adversaries find."""
    figure = Figure(figsize=(13, 6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    metric = next(iter(result.rows[0].utility), None) if result.rows else None
    for axes, kind, chance in ((left, "auc", 0.5), (right, "tpr", result.headline_fpr)):
        axes.axhline(chance, color=_GREY, lw=0.8, ls=":")
        named: list[tuple[float, float, str]] = []
        for row in result.rows:
            if metric is None or metric not in row.utility:
                continue
            x = row.utility[metric]
            points = [(row.non_adaptive, _UNAWARE, "none"), (row.adaptive, _AWARE, _AWARE)]
            found = [(getattr(adversary, kind), colour, fill) for adversary, colour, fill in points]
            seen = [value.value for value, _, _ in found if value is not None]
            axes.plot([x.value] * len(seen), seen, color="#c3cad2", lw=1, zorder=1)
            for value, colour, fill in found:
                if value is None:
                    continue
                aware = colour == _AWARE
                axes.errorbar(
                    [x.value],
                    [value.value],
                    yerr=error_bars([value]) if aware else None,
                    xerr=error_bars([x]) if aware else None,
                    fmt="o",
                    ms=5,
                    color=colour,
                    mfc=fill,
                    elinewidth=0.6,
                    alpha=0.9,
                    zorder=3 if aware else 2,
                )
                if aware:
                    named.append((x.value, value.value, _label(row)))
        axes.set_xlabel(f"{_WORDS.get(metric or '', metric or '')} on non-members")
        axes.grid(color="#d9dee4", lw=0.5)
        axes.set_axisbelow(True)
        _write_names(axes, named)
    left.set_ylabel("AUC of the best attack")
    right.set_ylabel(f"TPR at {result.headline_fpr:.0%} FPR of the best attack")
    left.plot([], [], "o", color=_AWARE, label="adversary who knows the defence")
    left.plot([], [], "o", color=_UNAWARE, mfc="none", label="adversary who does not")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2)
    return png(figure)


def _write_names(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside the axes, each with a line to its point; most defences keep the Dice, and would hide each other."""
    points = sorted(points, key=lambda point: -point[1])
    low, high = axes.get_ylim()
    heights = [0.04 * (text.count("\n") + 1) for _, _, text in points]
    heights = [height / max(1.0, sum(heights)) for height in heights]
    tops, free = [], 1.0
    for (_, y, _), height in zip(points, heights, strict=True):
        tops.append(min((y - low) / (high - low) + height / 2, free))
        free = tops[-1] - height
    free = 0.0
    for k in reversed(range(len(points))):  # those that fell off the end push the others up
        tops[k] = max(tops[k], free + heights[k])
        free = tops[k]
    for (x, y, text), top, height in zip(points, tops, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.05, top - height / 2),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "#aab3bd", "lw": 0.5, "relpos": (0, 0.5)},
        )


def _label(row: DefenceRow) -> str:
    """The defence's name; of private trainings what was accounted for, and below it what was shown."""
    if row.accounted_epsilon is None:
        return row.name
    if row.repeatable_noise:
        return f"{row.name}\nno \u03b5: repeatable noise\n\u03b5 \u2265 {at_least(row.audited_epsilon.value)}"
    epsilon = row.accounted_epsilon[0]
    upper = "no bound" if epsilon is None else at_most(epsilon)
    return f"{row.name}\n\u03b5 \u2264 {upper}\n\u03b5 \u2265 {at_least(row.audited_epsilon.value)}"
