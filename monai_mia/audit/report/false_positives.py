# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The false-positives study as a page with its pictures, as tables to read, and as JSON. No patient is in it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report.figures import png
from monai_mia.audit.report.pages import Table, as_html, as_markdown, as_written, cell, error_bars, plain
from monai_mia.records import files
from monai_mia.statistics import Estimate

if TYPE_CHECKING:
    from monai_mia.audit.false_positives import AttackFalsePositives, FalsePositiveStudyResult, MitigationFalsePositives

__all__ = ["write_false_positives"]

_TITLE = "What claims of membership are worth"
_BEST, _SCORES, _GREY = "#1f5f99", "#b8651b", "#56616e"

#: Attacks that read confidences alone, as the paper's do, by the beginning of their names.
_CONFIDENCE = ("transferred best accuracy", "transferred youden", "top scores")

_WORDS = {
    "dice": "Dice",
    "negative_calibration_error": "ECE, foreground",
    "negative_average_calibration_error": "ACE, foreground",
    "negative_overconfidence": "overconfidence, foreground",
    "negative_calibration_error_volume": "ECE, volume",
    "negative_average_calibration_error_volume": "ACE, volume",
    "negative_overconfidence_volume": "overconfidence, volume",
    "negative_class_calibration_error": "ACE of classes, volume",
}


def write_false_positives(
    result: FalsePositiveStudyResult, folder: str | os.PathLike[str], disclosure: Disclosure | None = None
) -> None:
    """Write ``false_positives.html`` (self-contained), ``.md``, ``.json``, and two pictures into ``folder``.

    Args:
        result: what was found.
        folder: where to write.
        disclosure: how much may be told; by default as an audit's report does.
    """
    folder, result = Path(folder), result.shared(disclosure or Disclosure())
    files.make_folder(folder)
    files.write_json(folder / "false_positives.json", {"schema": "2", **plain(result)}, private=False)
    sources, calibration = _source_picture(result), _calibration_picture(result)
    files.write(folder / "false_positives_sources.png", sources, private=False)
    files.write(folder / "false_positives_calibration.png", calibration, private=False)
    tables = _tables(result)
    files.write(folder / "false_positives.md", as_markdown(_TITLE, _notes(result), tables, result.gaps), private=False)
    pictures = [
        ("False claims of each attack about each source; the numbers are in the tables.", sources),
        ("Calibration of each mitigation against what attacks find under it; see the tables.", calibration),
    ]
    files.write(
        folder / "false_positives.html", as_html(_TITLE, _notes(result), pictures, tables, result.gaps), private=False
    )


def _notes(result: FalsePositiveStudyResult) -> list[str]:
    return [
        f"{result.targets} {'target' if result.targets == 1 else 'targets'}, {result.shadows} "
        f"{'shadow' if result.shadows == 1 else 'shadows'}, {result.patients} patients, unit patient; "
        f"{result.confidence:.0%} intervals, bootstrap over patients and targets, never narrower than the exact one.",
        f"Information is what an attack can tell: its AUC, and its TPR at {result.headline_fpr:.0%} FPR, where the "
        "threshold may be chosen with the answer at hand. A claim is made with a threshold that was learned on shadows "
        "and transferred unchanged. A foreign source is a set of scans that no model trained on: each claim about them "
        "is false. The gate is an adversary who withholds a claim where the release is unlike those of the shadows.",
        "Precision is the share of right ones among the claims, were all non-members of that source and members as "
        "rare as the base rate says. MMPS is the mean maximum probability over the members who are claimed (TP) and "
        "not (FN), and the non-members who are claimed (FP) and not (TN): over all voxels, and over cases, of the "
        "predicted foreground. A mean over too few patients is not shown, nor the one beside it.",
        "The best attack under a mitigation was picked for being the best there; its interval does not allow for that.",
        *filter(None, [assumed_in_words(result.patients_assumed, result.patients)]),
    ]


def _tables(result: FalsePositiveStudyResult) -> list[Table]:
    tables = []
    for mitigation in result.mitigations:
        where = "" if len(result.mitigations) == 1 else f" — {mitigation.name}"
        if not mitigation.result.attacks:
            continue
        tables += [_claims(mitigation, where), _false_claims(mitigation, where), _precision(mitigation, where)]
        tables.append(_mmps(mitigation, where))
    return [_calibration(result), *tables]


def _claims(mitigation: MitigationFalsePositives, where: str) -> Table:
    heads = ["attack", "access", "AUC", "TPR at the reported FPR", "TPR of the transferred threshold", "gated"]
    rows = [
        [item.attack, item.access, *map(_maybe, (item.auc, item.tpr_at_fpr, item.tpr, item.gated_tpr))]
        for item in mitigation.result.attacks
    ]
    return Table(f"What attacks find among the cohort's patients{where}", heads, rows)


def _false_claims(mitigation: MitigationFalsePositives, where: str) -> Table:
    attacks = mitigation.result.attacks
    heads = ["source", "patients", "gate withholds", *(item.attack for item in attacks)]
    rows = []
    for k, source in enumerate(attacks[0].sources):
        row = [source.source, str(source.patients), _maybe(source.rejected)]
        for item in attacks:
            found = item.sources[k]
            rates = f"; gated {found.gated_fpr.value:.3f}; at 95% TPR {found.fpr_at_95_tpr.value:.3f}"
            row.append(f"{cell(found.fpr)}{rates}" if math.isfinite(found.fpr.value) else _maybe(found.fpr))
        rows.append(row)
    return Table(f"FPR of the transferred threshold, by source{where}", heads, rows)


def _precision(mitigation: MitigationFalsePositives, where: str) -> Table:
    attacks = mitigation.result.attacks
    rows = []
    for k, source in enumerate(attacks[0].sources):
        for rate in source.precision:
            cells = [_maybe(item.sources[k].precision[rate]) for item in attacks]
            rows.append([source.source, f"{rate:.0%}", *cells])
    return Table(
        f"Precision of claims, by source and base rate{where}",
        ["source", "members", *(item.attack for item in attacks)],
        rows,
    )


def _mmps(mitigation: MitigationFalsePositives, where: str) -> Table:
    rows = []
    for item in mitigation.result.attacks:
        for source in item.sources:
            cells = {**item.mmps, **source.mmps}
            told = [
                " / ".join(_maybe(cells[cell].get(kind)) for kind in ("voxels", "cases"))
                for cell in ("TP", "FP", "FN", "TN")
            ]
            rows.append([item.attack, source.source, *told])
    return Table(f"MMPS over voxels / over cases{where}", ["attack", "source", "TP", "FP", "FN", "TN"], rows)


def _calibration(result: FalsePositiveStudyResult) -> Table:
    metrics = list(dict.fromkeys(name for row in result.mitigations for name in row.utility))
    heads = ["mitigation", "best attack", "AUC", "best attack on confidences", "AUC", "its FPR, transferred"]
    heads += [f"{_WORDS.get(name, name)}: members, non-members" for name in metrics]
    rows = []
    for row in result.mitigations:
        best, score = _best(row.result.attacks), _best(row.result.attacks, _CONFIDENCE)
        cells = [row.name]
        cells += ["", ""] if best is None else [best.attack, cell(best.auc)]
        cells += ["", "", ""] if score is None else [score.attack, cell(score.auc), _maybe(score.sources[0].fpr)]
        for name in metrics:
            sides = row.utility.get(name)
            cells.append("" if sides is None else "; ".join(cell(as_written(name, v)) for v in sides.values()))
        rows.append(cells)
    return Table("Calibration and leakage, by mitigation", heads, rows)


def _best(attacks: Sequence[AttackFalsePositives], kinds: tuple[str, ...] = ("",)) -> AttackFalsePositives | None:
    chosen = [item for item in attacks if item.attack.startswith(kinds)]
    return max(chosen, key=lambda item: item.auc.value, default=None)


def _maybe(value: Estimate | None) -> str:
    return "–" if value is None or not math.isfinite(value.value) else cell(value)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _source_picture(result: FalsePositiveStudyResult) -> bytes:
    """FPR of each attack on each source, without a mitigation; behind it, with the gate."""
    attacks = result.mitigations[0].result.attacks
    if not attacks:
        return png(_figure(4, 1))
    sources = [source.source for source in attacks[0].sources]
    rates = np.array([[source.fpr.value for source in item.sources] for item in attacks])
    gated = np.array([[source.gated_fpr.value for source in item.sources] for item in attacks])
    figure = _figure(3.5 + 0.85 * len(sources), 1.8 + 0.42 * len(attacks))
    axes = figure.subplots()
    axes.imshow(rates, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for k in range(len(attacks)):
        for n in range(len(sources)):
            colour = "white" if rates[k, n] > 0.6 else "#1c2733"
            text = f"{rates[k, n]:.2f}\n({gated[k, n]:.2f})"
            axes.text(n, k, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(sources)), sources, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(attacks)), [f"{item.attack}  (TPR {item.tpr.value:.2f})" for item in attacks], fontsize=8)
    axes.set_title(
        "Share of people called members although no model knows them (in brackets: with the gate)", fontsize=9
    )
    return png(figure)


def _calibration_picture(result: FalsePositiveStudyResult) -> bytes:
    """Calibration error against leakage: information on the left, false claims on the right."""
    metric = "negative_calibration_error"
    rows = [row for row in result.mitigations if metric in row.utility and row.result.attacks]
    if not rows:
        return png(_figure(4, 1))
    figure = _figure(12, 5.4)
    left, right = figure.subplots(1, 2)
    left.axhline(0.5, color=_GREY, lw=0.8, ls=":")
    for axes in (left, right):
        axes.set_xlabel("Expected calibration error on non-members, foreground")
        axes.grid(color="#d9dee4", lw=0.5)
        axes.set_axisbelow(True)
    for row in rows:
        x = as_written(metric, row.utility[metric]["nonmembers"])
        kinds = ((("",), _BEST, "o"), (_CONFIDENCE, _SCORES, "s"))
        for kind, colour, marker in kinds:
            item = _best(row.result.attacks, kind)
            if item is None:
                continue
            for axes, value in ((left, item.auc), (right, item.sources[0].fpr)):
                axes.errorbar(
                    [x.value],
                    [value.value],
                    xerr=error_bars([x]),
                    yerr=error_bars([value]),
                    fmt=marker,
                    color=colour,
                    ms=6,
                    elinewidth=0.7,
                )
                axes.annotate(row.name, (x.value, value.value), xytext=(5, 5), textcoords="offset points", fontsize=8)
    left.set_ylabel("AUC")
    right.set_ylabel("FPR of the transferred threshold, the cohort’s non-members")
    left.plot([], [], "o", color=_BEST, label="best attack")
    left.plot([], [], "s", color=_SCORES, label="best attack that reads confidences alone")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2)
    return png(figure)
