# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report's pictures: PNGs that hold distributions and rates, and nothing by which a patient could be named.

They are drawn on white with matplotlib's objects, not with pyplot, so that no global figure is made or left behind.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from monai_mia.audit.criteria import percent
from monai_mia.audit.drawing import DPI, INK, RULE, draw_roc, new_figure
from monai_mia.audit.results import AuditResult
from monai_mia.statistics.roc import resolution

__all__ = [
    "INDIVIDUALS",
    "NAMES",
    "Picture",
    "distribution",
    "roc",
    "signal_label",
    "vulnerability",
    "vulnerability_bins",
]

Array = NDArray[np.float64]

#: File names of all pictures that a report can hold, without their ending; and of those about individuals.
NAMES = ("roc", "score_best_attack", "signal_loss", "vulnerability")
INDIVIDUALS = ("individuals", "leakage_profile", "leakage_map")

_MEMBER, _OTHER = "#1f5f99", "#b8651b"
_DPI = DPI
_FPRS = (0.1, 0.25, 0.5)

_LABELS = {
    "log_likelihood": "Log-likelihood of the reference",
    "log_odds": "Log-odds of the reference",
    "dice": "Dice of the predicted mask",
    "soft_dice": "Dice of the predicted probabilities",
    "volume_ratio": "Agreement of volumes",
    "negative_entropy": "Minus the entropy of the prediction",
    "maximum_probability": "Probability of the predicted class",
    "margin": "Margin of the predicted class",
}


@dataclass(frozen=True)
class Picture:
    """A picture as it is written.

    Attributes:
        name: one of :data:`NAMES` or :data:`INDIVIDUALS`.
        title: what it shows.
        alt: the same for who cannot see it, with the numbers that matter.
        png: the file.
    """

    name: str
    title: str
    alt: str
    png: bytes


def signal_label(signal: str) -> str:
    """Words for a signal: those of its family, and the region or class.

    Example:
        >>> signal_label("dice_class_2_boundary")
        'Dice of the predicted mask, class 2 boundary'
    """
    for family in sorted(_LABELS, key=len, reverse=True):
        if signal == family:
            return _LABELS[family]
        if signal.startswith(f"{family}_"):
            return f"{_LABELS[family]}, {signal[len(family) + 1 :].replace('_', ' ')}"
    return signal.replace("_", " ")


def roc(result: AuditResult) -> Picture | None:
    """TPR over FPR on logarithmic axes, from the resolution of the cohort upwards; None without a curve to show."""
    curves, finest = result.curves(), resolution(result.member)
    if not curves:
        return None
    _, axes = _figure(5.2, 5.3)
    draw_roc(curves, finest, min(finest, 1 / int(result.member.sum())) / 2, axes, outside=True)
    figure = axes.figure
    assert isinstance(figure, Figure)
    found = "; ".join(f"{curve.label}: AUC {curve.auc:.3f}" for curve in curves)
    return Picture(
        "roc",
        "Members found, for each rate of false accusations",
        f"ROC curves on logarithmic axes, from a false positive rate of {percent(finest)} to 100 %. {found}. "
        "The diagonal is chance.",
        png(figure),
    )


def distribution(name: str, title: str, label: str, values: Array, result: AuditResult) -> Picture:
    """Members' values above the line, non-members' below: shares in bars, not single values."""
    member, edges = result.member, _edges(values)
    clipped = np.clip(values, edges[0], edges[-1])
    centres, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    figure, axes = _figure(4.6, 3.3)
    tallest = 0.0
    for side, sign, colour in ((member, 1, _MEMBER), (~member, -1, _OTHER)):
        share = np.histogram(clipped[side], edges)[0] / side.sum()
        tallest = max(tallest, float(share.max()))
        axes.bar(centres, sign * share, widths, color=colour, alpha=0.82, edgecolor="white", linewidth=0.8, zorder=2)
    axes.set_ylim(-1.42 * tallest, 1.42 * tallest)
    axes.set_xlim(edges[0] - 0.3 * widths[0], edges[-1] + 0.3 * widths[-1])
    for words, sign, colour in (("members", 1, _MEMBER), ("non-members", -1, _OTHER)):
        axes.text(
            0.015, 0.5 + sign * 0.48, words, transform=axes.transAxes, va="top" if sign > 0 else "bottom",
            color=colour, fontsize=9, fontweight="bold", zorder=4,
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.8, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(abs(share))))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_xlabel(textwrap.fill(label, 44))
    axes.set_ylabel(f"share of {result.unit}s")
    return Picture(
        name,
        title,
        f"Histograms of {label} for {int(member.sum())} members and {int((~member).sum())} non-members.",
        png(figure),
    )


def _edges(values: Array) -> Array:
    """Bins over the bulk of the values; what lies far out is counted in the outermost ones."""
    first, third = np.quantile(values, [0.25, 0.75])
    reach = 2.5 * (third - first)
    low, high = float(values.min()), float(values.max())
    if reach > 0:
        low, high = max(low, float(first - reach)), min(high, float(third + reach))
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # all alike
        low, high = low - 0.5, low + 0.5
    n = int(np.clip(2 * np.sqrt(len(values)), 6, 30))
    return np.linspace(low, high, n + 1)


@dataclass(frozen=True)
class VulnerabilityBin:
    """Members in one range of vulnerability.

    Attributes:
        label: the range in words.
        share: of the members, in it.
        expected: share that would be in it if scores said nothing.
    """

    label: str
    share: float
    expected: float


def vulnerability_bins(result: AuditResult) -> list[VulnerabilityBin]:
    """Members by the smallest FPR at which the best attack finds them, between the points of its curve."""
    points = list(zip(result.best.roc["fpr"], result.best.roc["tpr"], strict=True))
    if result.disclosure.everything:  # a step for each patient
        rates = {fpr: rate.value for fpr, rate in result.best.tpr_at_fpr.items() if rate is not None}
        at = {fpr: max(tpr for x, tpr in points if x <= fpr + 1e-12) for fpr in _FPRS if fpr > max(rates, default=0.0)}
        points = [(0.0, 0.0), *sorted({**rates, **at}.items()), (1.0, 1.0)]
    return [
        VulnerabilityBin(f"{percent(low)} to {percent(high)}", max(0.0, more - less), high - low)
        for (low, less), (high, more) in pairwise(points)
    ]


def vulnerability(result: AuditResult) -> Picture | None:
    """How many members stand out, and how far; None without a curve."""
    bins = vulnerability_bins(result) if result.attacks else []
    if len(bins) < 2:
        return None
    figure, axes = _figure(5.2, 0.4 * len(bins) + 1.2)
    places = list(range(len(bins)))
    shares = [b.share for b in bins]
    bars = axes.barh(places, shares, 0.66, color=_MEMBER, alpha=0.88, zorder=2)
    marks = axes.vlines(
        [b.expected for b in bins], [k - 0.42 for k in places], [k + 0.42 for k in places],
        color=_OTHER, linewidth=2, zorder=3,
    )  # fmt: skip
    room = max(*shares, *(b.expected for b in bins))
    for place, b in zip(places, bins, strict=True):
        words = percent(b.share)
        axes.text(max(b.share, b.expected) + 0.015 * room, place, words, va="center", color=INK, fontsize=9, zorder=4)
    axes.set_yticks(places, [b.label for b in bins])
    axes.set_ylim(len(bins) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"share of the member {result.unit}s")
    figure.legend(
        [bars.patches[0], marks], ["found by the best attack", "expected by chance"],
        loc="outside lower left", frameon=False, fontsize=9, ncols=2, labelcolor=INK,
    )  # fmt: skip
    listed = "; ".join(f"{b.label}: {percent(b.share)}, by chance {percent(b.expected)}" for b in bins)
    return Picture(
        "vulnerability",
        f"Member {result.unit}s by the smallest rate of false accusations at which they are found",
        f"Bars: share of the member {result.unit}s for ranges of the smallest false positive rate at which the "
        f"best attack finds them. {listed}.",
        png(figure),
    )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    return new_figure(width, height, _DPI)


def png(figure: Figure) -> bytes:
    """The bytes of a picture at its own resolution, the same on every machine; names are written as they are."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontfamily("DejaVu Sans")  # comes with matplotlib, whatever fonts a machine has
        text.set_usetex(False)
        text.set_parse_math(False)  # a name may hold a dollar sign
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
