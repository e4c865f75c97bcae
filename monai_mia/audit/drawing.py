# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""ROC curves on matplotlib's axes: for the report's picture, and for a user's own.

Nothing is drawn with pyplot, so that no global figure is made or left behind.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from numpy.typing import NDArray

from monai_mia.audit.criteria import percent

__all__ = ["DPI", "GREY", "INK", "MUTED", "RULE", "Curve", "draw_roc", "new_figure"]

Array = NDArray[np.float64]

INK, MUTED, RULE, GREY = "#1c2733", "#56616e", "#d9dee4", "#eceff2"
DPI = 180

# One look for each curve: colour, dashes, width. Told apart by dashes, too, where colours are not.
_LOOKS = {
    "best": ("#1f5f99", "-", 2.2),
    "no shadow": ("#0d7a6b", (0, (6, 2)), 1.8),
    "global loss": ("#3c4650", (0, (2, 1.5)), 1.6),
    "blind": ("#9a3f86", (0, (6, 2, 1, 2)), 1.6),
}


@dataclass(frozen=True)
class Curve:
    """A curve of the ROC.

    Attributes:
        role: ``best``, ``no shadow``, ``global loss`` or ``blind``; decides the look.
        label: its words in the legend.
        auc: its AUC.
        roc: its points, as :attr:`monai_mia.audit.AttackResult.roc`.
        band: whether its interval is shaded.
        points: whether the points are all that is known: they are marked and joined, where else a step holds.
    """

    role: str
    label: str
    auc: float
    roc: Mapping[str, list[float]]
    band: bool
    points: bool = False


def draw_roc(
    curves: Sequence[Curve], finest: float, bottom: float, axes: Axes | None = None, outside: bool = False
) -> Axes:
    """Draw TPR over FPR on logarithmic axes, from the resolution of the cohort upwards, with a legend below.

    Args:
        curves: the curves, the most important first.
        finest: the smallest FPR that is resolved.
        bottom: the smallest TPR that is shown.
        axes: where to draw; by default in a figure of its own.
        outside: whether the legend is that of the figure, below the axes, as it is in a figure of its own.

    Returns:
        The axes.
    """
    if axes is None:
        outside, axes = True, new_figure(5.2, 5.3)[1]
    axes.set(xscale="log", yscale="log", xlim=(finest / 2, 1.0), ylim=(bottom, 1.18))
    axes.axvspan(finest / 2, finest, color=GREY, linewidth=0, zorder=0)
    axes.axvline(finest, color=MUTED, linewidth=1, zorder=1)
    axes.text(
        finest / np.sqrt(2), np.sqrt(bottom), f"below the resolution ({percent(finest)})",
        rotation=90, ha="center", va="center", color=MUTED, fontsize=9,
    )  # fmt: skip
    hidden = bottom / 100  # a TPR of 0 has no logarithm: it is drawn outside
    diagonal = np.geomspace(finest, 1.0, 50)
    axes.plot(diagonal, diagonal, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label="AUC 0.500 · chance", zorder=2)
    for order, curve in enumerate(curves):
        colour, dashes, width = _LOOKS[curve.role]
        if curve.band:
            low, high = (np.maximum(curve.roc[key], hidden) for key in ("band_low", "band_high"))
            step: Literal["post"] | None = None if curve.points else "post"
            axes.fill_between(
                curve.roc["band_fpr"], low, high, step=step, color=colour, alpha=0.16, linewidth=0, zorder=3
            )
        fpr, tpr = [np.asarray(curve.roc[key]) for key in ("fpr", "tpr")] if curve.points else _steps(curve.roc, finest)
        axes.plot(
            fpr, np.maximum(tpr, hidden), color=colour, linestyle=dashes, linewidth=width,
            drawstyle="default" if curve.points else "steps-post", marker="o" if curve.points else "", markersize=4,
            label=textwrap.fill(f"AUC {curve.auc:.3f} · {curve.label}", 54, subsequent_indent="    "),
            zorder=10 - order,
        )  # fmt: skip
    for axis, low in ((axes.xaxis, finest / 2), (axes.yaxis, bottom)):
        axis.set_major_locator(FixedLocator(_rate_ticks(low)))
        axis.set_major_formatter(FuncFormatter(lambda rate, _: percent(rate)))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_xlabel("non-members falsely called members (FPR)")
    axes.set_ylabel("members found (TPR)")
    handles, labels = axes.get_legend_handles_labels()
    order_ = [*range(1, len(handles)), 0]  # chance last
    shown, words = [handles[k] for k in order_], [labels[k] for k in order_]
    if outside:
        axes.figure.legend(
            shown, words, loc="outside lower left", frameon=False, fontsize=9, handlelength=3, labelcolor=INK
        )
    else:
        axes.legend(shown, words, frameon=False, fontsize=9, handlelength=3, labelcolor=INK)
    return axes


def new_figure(width: float, height: float, dpi: float | None = None) -> tuple[Figure, Axes]:
    """A figure of one pair of axes in the report's look; sizes in inches."""
    figure = Figure((width, height), dpi=DPI if dpi is None else dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="white")
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, fontsize=10)
    return figure, axes


def _steps(drawn: Mapping[str, list[float]], finest: float) -> tuple[Array, Array]:
    """The ROC as steps from the resolution to 1: the TPR at each FPR, nothing interpolated."""
    fpr, tpr = np.asarray(drawn["fpr"]), np.asarray(drawn["tpr"])
    at = np.unique(np.concatenate([[finest], fpr[fpr > finest], [1.0]]))
    return at, tpr[np.searchsorted(fpr, at + 1e-12, side="right") - 1]


def _rate_ticks(low: float) -> list[float]:
    decades = range(floor(log10(low)), 1)
    within = (1, 2, 5) if low > 2e-3 else (1,)
    return [m * 10.0**d for d in decades for m in within if low <= m * 10.0**d <= 1.0]
