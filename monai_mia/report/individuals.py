# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report says of individuals: how many stand out, what they have in common, where the evidence lies.

No patient is named, and no fewer than ``min_cell`` of them are told apart from the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from monai_mia import files
from monai_mia.disclosure import merge_small_bins, shown_share
from monai_mia.report.comparison import with_ci
from monai_mia.report.figures import Picture, percent, png
from monai_mia.report.study import Table, as_html, as_markdown, plain

if TYPE_CHECKING:
    from monai_mia.covariates import Association
    from monai_mia.exposure import ExposureResult, Rate, SideExposure
    from monai_mia.individuals import Individuals
    from monai_mia.leakage import Leakage

__all__ = ["individuals_content", "individuals_pictures", "individuals_tables", "individuals_text", "write_individuals"]

_TITLE = "Exposure of individuals"
_MEMBER, _OTHER, _INK, _MUTED, _RULE = "#1f5f99", "#b8651b", "#1c2733", "#56616e", "#d9dee4"
_SIDES = {"members": "as a member", "nonmembers": "as no member"}


def write_individuals(found: Individuals, folder: str | os.PathLike[str]) -> None:
    """Write ``individuals.html`` (self-contained), ``.md``, ``.json``, and ``figures/*.png`` into ``folder``."""
    folder = Path(folder)
    pictures, tables, notes = individuals_pictures(found), individuals_tables(found), individuals_text(found)
    for picture in pictures:
        files.write(folder / "figures" / f"{picture.name}.png", picture.png, private=False)
    content = {"schema": "1", **individuals_content(found)}
    files.write_json(folder / "individuals.json", content, private=False)
    files.write(folder / "individuals.md", as_markdown(_TITLE, notes, tables, found.gaps), private=False)
    shown = [(picture.alt, picture.png) for picture in pictures]
    files.write(folder / "individuals.html", as_html(_TITLE, notes, shown, tables, found.gaps), private=False)


def individuals_content(found: Individuals) -> dict[str, Any]:
    """The same as JSON has it; docs/report_format.md documents it."""
    return {
        "min_cell": found.min_cell,
        "exposure": None if found.exposure is None else _exposure_content(found.exposure, found.min_cell),
        "covariates": [_association_content(association) for association in found.associations],
        "leakage": None if found.leakage is None else _leakage_content(found.leakage),
        "gaps": list(found.gaps),
    }


def _exposure_content(result: ExposureResult, min_cell: int) -> dict[str, Any]:
    return {
        "attack": result.attack,
        "fpr": result.fpr,
        "n_models": len(result.models),
        "n_patients": len(result.patient_ids),
        **{side.side: _side_content(side, min_cell) for side in (result.members, result.nonmembers)},
    }


def _side_content(side: SideExposure, min_cell: int) -> dict[str, Any]:
    edges, shares, expected = _bins(side, min_cell)
    return {
        "n_turns": float(side.n_turns.mean()),
        **{name: _rate(getattr(side, name)) for name in ("found", "certain")},
        **{name: _rate(_tail(side, name, min_cell)) for name in ("always", "never")},
        "always_expected": side.always_expected,
        "never_expected": side.never_expected,
        "histogram": shares,
        "histogram_edges": edges,
        "histogram_expected": expected,
        "reliability": None if side.reliability is None else plain(asdict(side.reliability)),
    }


def _tail(side: SideExposure, name: str, min_cell: int) -> Rate | None:
    """Who is always or never found, if enough patients are, and enough are not."""
    value: Rate = getattr(side, name)
    n = _patients(side)
    _, shares, _ = _bins(side, min_cell)
    beside = round((shares[-1 if name == "always" else 0] - value[0]) * n)  # what the bar has besides
    return value if shown_share(value[0], n, min_cell) and not 0 < beside < min_cell else None


def _patients(side: SideExposure) -> int:
    return int((side.n_turns > 0).sum())


def _bins(side: SideExposure, min_cell: int) -> tuple[list[float], list[float], list[float]]:
    """Edges of the histogram's bins, and the share of patients in each, found and expected; few are in none of them."""
    borders = merge_small_bins([round(share * _patients(side)) for share in side.histogram], min_cell)
    found, expected = (
        [float(sum(shares[low:high])) for low, high in pairwise(borders)]
        for shares in (side.histogram, side.histogram_expected)
    )
    return [border / len(side.histogram) for border in borders], found, expected


def _association_content(association: Association) -> dict[str, Any]:
    return {
        "covariate": association.covariate,
        "source": association.source,
        "n_patients": association.n_patients,
        "correlation": _rate(association.correlation),
        "nonmember_correlation": _rate(association.nonmember_correlation),
        "subgroups": [
            {
                "value": group.value,
                "n_patients": group.n_patients,
                **{name: _rate(getattr(group, name)) for name in ("certain", "found", "nonmember_certain")},
            }
            for group in association.subgroups
        ],
        "p_value": association.p_value,
        "p_adjusted": association.p_adjusted,
    }


def _leakage_content(leakage: Leakage) -> dict[str, Any]:
    return {
        "n_targets": len(leakage.targets),
        "n_members": leakage.n_patients[0],
        "n_nonmembers": leakage.n_patients[1],
        "distances": leakage.distances.tolist(),
        "profiles": [
            {
                "label": label,
                **{
                    name: plain(getattr(leakage, name)[k].tolist())
                    for name in ("members", "nonmembers", "difference", "low", "high", "share")
                },
            }
            for k, label in enumerate(leakage.labels)
        ],
    }


def _rate(value: tuple[float, tuple[float, float]] | None) -> dict[str, Any] | None:
    return None if value is None else plain({"value": value[0], "ci": list(value[1])})


def individuals_text(found: Individuals) -> list[str]:
    """Sentences for a reader."""
    notes = []
    if found.exposure is not None:
        result, side = found.exposure, found.exposure.members
        notes.append(
            f"Each of {len(result.models)} models took its turn as the target of “{result.attack}”, with the others as "
            f"shadows. A patient is found in a turn if at most {percent(result.fpr)} of the (other) non-members of "
            "that model score as high. His certainty is 1 minus the smallest such rate, averaged over turns: 0.5 where "
            "scores say nothing."
        )
        notes.append(
            f"Of their turns as members, patients are found in {_share(side.found)} (as no members: "
            f"{_share(result.nonmembers.found)}). {_share(_tail(side, 'always', found.min_cell))} of the patients are "
            f"found in every turn, where {percent(side.always_expected)} would be if all patients of a model were "
            f"equally easy to find; {_share(_tail(side, 'never', found.min_cell))} are found in none, where "
            f"{percent(side.never_expected)} would be."
        )
        if side.reliability is not None:
            reliable = side.reliability
            stand = "the same patients stand out again" if reliable.p_value < 0.05 else "this may be chance"
            null = result.nonmembers.reliability
            beside = (
                ""
                if null is None
                else f"; of their turns as no members {with_ci((null.correlation, null.interval), '.2f')}"
            )
            notes.append(
                f"Between two halves of the models that share no shadow, the patients’ certainties have a rank "
                f"correlation of {with_ci((reliable.correlation, reliable.interval), '.2f')} (p "
                f"{_p(reliable.p_value)}): {stand}{beside}. For all models together it would be about "
                f"{reliable.full:.2f}."
            )
    if found.associations:
        clear = [one.covariate for one in found.associations if one.p_adjusted < 0.05]
        words = ", ".join(clear) if clear else "none of them"
        notes.append(
            f"{len(found.associations)} covariates were compared with certainty as a member; after correction for "
            f"their number (Holm) it goes with {words}. Subgroups of under {found.min_cell} patients are not "
            "shown apart."
        )
    if found.leakage is not None:
        notes.append(_where(found.leakage))
    return notes


def _where(leakage: Leakage) -> str:
    count = f"{len(leakage.targets)} {'target' if len(leakage.targets) == 1 else 'targets'}"
    words = (
        f"Leakage map, over {count}: at each voxel, the log-likelihood of the reference under the target minus its "
        "mean under shadows that did not train on the case, in nats. By distance from a label’s boundary it is "
        "averaged over each patient’s voxels, then over patients; members minus non-members, with pointwise "
        f"{leakage.confidence:.0%} intervals."
    )
    for k, label in enumerate(leakage.labels):
        if np.isfinite(leakage.difference[k]).any():
            d = int(np.nanargmax(leakage.difference[k]))
            at = leakage.distances[d]
            value = (leakage.difference[k, d], (leakage.low[k, d], leakage.high[k, d]))
            side = "inside" if at < 0 else "outside"
            words += f" Label {label}: most at {abs(at):g} voxels {side}, {with_ci(value)}."
    return words


def individuals_tables(found: Individuals) -> list[Table]:
    """The numbers to read."""
    tables = []
    if found.exposure is not None:
        heads = ["turns", "found", "certainty", "found in every turn", "expected", "found in none", "expected"]
        heads += ["correlation of halves", "p"]
        rows = []
        for side in (found.exposure.members, found.exposure.nonmembers):
            reliable = side.reliability
            cells = [with_ci(side.found), with_ci(side.certain)]
            for name, chance in (("always", side.always_expected), ("never", side.never_expected)):
                tail = _tail(side, name, found.min_cell)
                cells += ["too few to be shown" if tail is None else with_ci(tail), f"{chance:.3f}"]
            cells += (
                ["–", "–"]
                if reliable is None
                else [with_ci((reliable.correlation, reliable.interval), ".2f"), f"{reliable.p_value:.3f}"]
            )
            rows.append([_SIDES[side.side], *cells])
        tables.append(Table("How often patients are found", heads, rows))
    numeric = [one for one in found.associations if one.correlation is not None]
    if numeric:
        heads = ["covariate", "from", "patients", "rank correlation", "as no member", "p", "p, corrected"]
        rows = [
            [
                one.covariate, one.source, str(one.n_patients), with_ci(one.correlation, ".2f"),
                "–" if one.nonmember_correlation is None else with_ci(one.nonmember_correlation, ".2f"),
                f"{one.p_value:.3f}", f"{one.p_adjusted:.3f}",
            ]
            for one in numeric
        ]  # fmt: skip
        tables.append(Table("What certainty as a member goes with", heads, rows))
    grouped = [one for one in found.associations if one.subgroups]
    if grouped:
        heads = ["covariate", "subgroup", "patients", "certainty", "found", "certainty as no member", "p, corrected"]
        rows = [
            [one.covariate, group.value, str(group.n_patients), with_ci(group.certain), with_ci(group.found),
             with_ci(group.nonmember_certain), f"{one.p_adjusted:.3f}"]
            for one in grouped for group in one.subgroups
        ]  # fmt: skip
        tables.append(Table("Subgroups", heads, rows))
    return tables


def individuals_pictures(found: Individuals) -> list[Picture]:
    """The distribution over patients, the profile and the map, as far as there are any."""
    pictures = []
    if found.exposure is not None:
        pictures.append(_distribution(found.exposure, found.min_cell))
    if found.leakage is not None and np.isfinite(found.leakage.difference).any():
        pictures.append(_profile(found.leakage))
        if found.leakage.registered is not None and np.isfinite(found.leakage.registered.evidence).any():
            pictures.append(_map(found.leakage))
    return pictures


def _distribution(result: ExposureResult, min_cell: int) -> Picture:
    figure, (axes,) = _figure(5.2, 3.6, 1)
    for side, sign, colour in ((result.members, 1, _MEMBER), (result.nonmembers, -1, _OTHER)):
        edges, shares, expected = (np.asarray(values) for values in _bins(side, min_cell))
        axes.bar(
            edges[:-1] + 0.003,
            sign * shares,
            np.diff(edges) - 0.006,
            align="edge",
            color=colour,
            alpha=0.85,
            zorder=2,
            label=_SIDES[side.side],
        )
        axes.hlines(
            sign * expected, edges[:-1] + 0.003, edges[1:] - 0.003, color=_INK, linewidth=1.6,
            zorder=3, label="if all were equally easy to find" if sign > 0 else "",
        )  # fmt: skip
    axes.axhline(0, color=_INK, linewidth=0.8, zorder=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: percent(rate)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(abs(share))))
    axes.set_xlim(0, 1)
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_xlabel(f"turns in which a patient is found (at {percent(result.fpr)} FPR)")
    axes.set_ylabel("share of patients")
    figure.legend(loc="outside upper left", frameon=False, fontsize=8, ncols=3, labelcolor=_INK)
    ends, found, _ = _bins(result.members, min_cell)
    members = ", ".join(f"{percent(share)} up to {percent(end)}" for share, end in zip(found, ends[1:], strict=True))
    return Picture(
        "individuals",
        "Patients by the share of their turns in which they are found",
        f"Histogram over patients, by the share of turns in which a patient is found; a bar may stand for several "
        f"tenths, so that it tells of no fewer than {min_cell} patients. As members: {members}.",
        png(figure),
    )


def _profile(leakage: Leakage) -> Picture:
    n = len(leakage.labels)
    figure, axes_ = _figure(1 + 3.8 * n, 3.4, n)
    for k, (axes, label) in enumerate(zip(axes_, leakage.labels, strict=True)):
        x = leakage.distances
        axes.axvline(0, color=_MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.axhline(0, color=_MUTED, linewidth=0.8)
        first = k == 0
        axes.fill_between(x, leakage.low[k], leakage.high[k], color=_MEMBER, alpha=0.18, linewidth=0)
        axes.plot(
            x, leakage.difference[k], color=_MEMBER, linewidth=2.2, label="members minus non-members" if first else None
        )
        axes.plot(
            x,
            leakage.members[k],
            color="#0d7a6b",
            linewidth=1.2,
            linestyle=(0, (6, 2)),
            label="members" if first else None,
        )
        axes.plot(
            x, leakage.nonmembers[k], color=_OTHER, linewidth=1.2, linestyle=(0, (2, 1.5)),
            label="non-members" if first else None,
        )  # fmt: skip
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_title(f"label {label}", fontsize=9, color=_INK)
        axes.set_xlabel("distance from its boundary, voxels\n(negative: inside)")
        if first:
            axes.set_ylabel("evidence, nats per voxel")
    figure.legend(loc="outside upper left", frameon=False, fontsize=8, ncols=3, labelcolor=_INK)
    return Picture(
        "leakage_profile",
        "Evidence of membership by distance from the boundary",
        f"Curves of the evidence over signed distance from the boundary. {_where(leakage)}",
        png(figure),
    )


def _map(leakage: Leakage) -> Picture:
    registered = leakage.registered
    assert registered is not None
    evidence, structure = registered.evidence, registered.structure
    middle = tuple(edge // 2 for edge in evidence.shape)
    planes = range(evidence.ndim) if evidence.ndim > 2 else [None]
    limit = max(float(np.nanquantile(abs(evidence), 0.995)), 1e-9)
    figure, axes_ = _figure(1.2 + 2.7 * len(planes), 3.2, len(planes))
    shown = None
    for axes, axis in zip(axes_, planes, strict=True):
        cut = (
            (slice(None),) * 2 if axis is None else tuple(middle[axis] if a == axis else slice(None) for a in range(3))
        )
        axes.set_facecolor("#eceff2")
        image = np.ma.masked_invalid(evidence[cut].T)
        shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", interpolation="nearest")
        share = np.ma.masked_invalid(structure[cut].T)
        if share.min() < 0.5 < share.max():
            axes.contour(share, levels=[0.5], colors=_INK, linewidths=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title("" if axis is None else f"middle of axis {axis}", fontsize=9, color=_INK)
    assert shown is not None
    bar = figure.colorbar(shown, ax=list(axes_), shrink=0.8)
    bar.set_label("evidence, members minus\nnon-members, nats", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return Picture(
        "leakage_map",
        "Evidence of membership about the structure’s centre of mass, mean over patients",
        "Slices through the mean of all patients’ evidence, members minus non-members, each moved so that the centre "
        "of mass of his structure is in the middle. The line is where half of the patients who were seen there have "
        "their structure; grey is where too few were seen.",
        png(figure),
    )


def _figure(width: float, height: float, n: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure((width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes_ = figure.subplots(1, n, squeeze=False)[0]
    for axes in axes_:
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=_MUTED, labelcolor=_INK, labelsize=8, length=3)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_MUTED)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=_INK, fontsize=9)
    return figure, list(axes_)


def _share(value: Rate | None) -> str:
    if value is None:
        return "A share that tells of too few patients to be shown"
    return f"{percent(value[0])} [{', '.join(percent(end)[:-2] for end in value[1])}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
