# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The comparison of attacks, as a table to read, as JSON, and as a picture. No patient is in it."""

from __future__ import annotations

import os
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report.figures import png
from monai_mia.audit.report.pages import cell, error_bars, markdown, plain
from monai_mia.records import files

if TYPE_CHECKING:
    from monai_mia.audit.comparison import Comparison, ComparisonResult

__all__ = ["write_comparison"]

# Rows of the picture.
_SHOWN = 24
_LOOKS = (("o", "#9aa5b1"), ("s", "#b8651b"), ("D", "#1f5f99"), ("^", "#0d7a6b"), ("v", "#9a3f86"))


def write_comparison(
    result: ComparisonResult,
    comparison: Comparison,
    folder: str | os.PathLike[str],
    disclosure: Disclosure | None = None,
) -> None:
    """Write ``comparison.md``, ``comparison.json`` and ``comparison.png`` into ``folder``.

    Args:
        result: what was found.
        comparison: how.
        folder: where to write.
        disclosure: how much may be told; by default as an audit's report does.
    """
    folder, result = Path(folder), result.shared(disclosure or Disclosure())
    files.make_folder(folder)
    files.write_json(folder / "comparison.json", _as_json(result, comparison), private=False)
    files.write(folder / "comparison.md", _as_markdown(result, comparison), private=False)
    files.write(folder / "comparison.png", _picture(result, comparison), private=False)


def _as_json(result: ComparisonResult, comparison: Comparison) -> dict[str, Any]:
    rows = []
    for row in result.rows:
        gain = result.gains.get((row.name, row.n_shadow))
        rows.append({**plain(row), "gain": plain(gain)})
    return {
        "schema": "2",
        "targets": result.targets,
        "patients": result.patients,
        "patients_assumed": result.patients_assumed,
        "resolution": result.resolution,
        "confidence": comparison.resampling.confidence,
        "n_resamples": comparison.resampling.n_resamples,
        "headline_fpr": comparison.headline_fpr,
        "reference": result.reference,
        "rows": rows,
        "withheld": list(result.withheld),
    }


def _as_markdown(result: ComparisonResult, comparison: Comparison) -> str:
    fprs = list(comparison.fprs)
    lines = [
        "# Comparison of attacks",
        "",
        f"{result.targets} targets, {result.patients} patients, unit patient. AUC: mean over targets; TPR: one "
        "threshold for all targets, after each target's median and spread are removed. "
        f"{comparison.resampling.confidence:.0%} intervals: bootstrap over patients and targets, the same resamples "
        "for every row. Seconds: all targets together, with what the attack fits (features and networks that several "
        "rows share count with the first), without training or querying a model.",
        "",
    ]
    if result.patients_assumed:
        lines += [assumed_in_words(result.patients_assumed, result.patients), ""]
    if result.withheld:
        lines += [f"No number is told of {len(result.withheld)} attacks: {', '.join(result.withheld)}.", ""]
    gain_heads: list[str] = []
    if result.reference is not None:
        name, count = result.reference
        lines += [
            f"Reference: {name} with {count} shadows. Gain: AUC minus the reference's; ratio: TPR@"
            f"{comparison.headline_fpr:.0%}FPR over the reference's.",
            "",
        ]
        gain_heads = ["gain in AUC", "ratio"]
    heads = [
        "shadows",
        "attack",
        "access",
        "AUC",
        *(f"TPR@{fpr:.3g}" for fpr in fprs),
        *gain_heads,
        "own threshold",
        "s",
    ]
    lines += [f"| {' | '.join(map(markdown, heads))} |", f"|{'---|' * len(heads)}"]
    for row in result.rows:
        rates = [cell(row.tpr_at_fpr[fpr]) for fpr in fprs]
        gains = []
        if gain_heads:
            gain = result.gains[row.name, row.n_shadow]
            ratio = gain["tpr_ratio"]
            gains = [cell(gain["auc"], "+.3f"), "not told" if isnan(ratio.value) else cell(ratio, ".2f")]
        own = "" if row.transferred is None else f"TPR {row.transferred[0]:.2f}, FPR {row.transferred[1]:.2f}"
        cells = [str(row.n_shadow), row.name, row.access, cell(row.auc), *rates, *gains, own, f"{row.seconds:.1f}"]
        lines.append(f"| {' | '.join(map(markdown, cells))} |")
    return "\n".join([*lines, ""])


def _picture(result: ComparisonResult, comparison: Comparison) -> bytes:
    """The best attacks, one line each, a mark for each number of shadows: AUC on the left, TPR on the right."""
    best: dict[str, float] = {}
    for row in result.rows:
        best[row.name] = max(best.get(row.name, 0.0), row.auc.value)
    names = sorted(best, key=lambda name: -best[name])
    names = [name for k, name in enumerate(names) if k < _SHOWN or name == GlobalLoss().name]
    counts = sorted({row.n_shadow for row in result.rows})
    figure = Figure(figsize=(11, 0.3 * len(names) + 1.3), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for k, count in enumerate(counts):
        marker, colour = _LOOKS[k % len(_LOOKS)]
        rows = [row for row in result.rows if row.n_shadow == count and row.name in names]
        label = f"{count} shadow{'s' * (count != 1)}" if count else "no shadow"
        for axes, values in (
            (left, [(row, row.auc) for row in rows]),
            (right, [(row, row.tpr_at_fpr.get(comparison.headline_fpr)) for row in rows]),
        ):
            shown = [(names.index(row.name), value) for row, value in values if value is not None]
            y = [place + 0.18 * (k - (len(counts) - 1) / 2) for place, _ in shown]
            x = [value.value for _, value in shown]
            axes.errorbar(
                x, y, xerr=error_bars([value for _, value in shown]), fmt=marker, color=colour, ms=4, lw=1, label=label
            )
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.invert_yaxis()
    left.axvline(0.5, color="#56616e", lw=0.8, ls=":")
    left.set_xlabel("AUC")
    right.axvline(comparison.headline_fpr, color="#56616e", lw=0.8, ls=":")
    right.set_xlabel(f"TPR at {comparison.headline_fpr:.0%} FPR")
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=len(counts))
    for axes in (left, right):
        axes.grid(axis="both", color="#d9dee4", lw=0.5)
        axes.set_axisbelow(True)
    return png(figure)
