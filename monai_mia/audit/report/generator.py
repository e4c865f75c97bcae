# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a generator makes, as a page with a grid of its scans, and as JSON. No patient's scan is in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report.figures import png
from monai_mia.audit.report.pages import Table, as_html, as_markdown
from monai_mia.records import files

if TYPE_CHECKING:
    from monai_mia.audit.novelty import GeneratorResult

__all__ = ["scan_grid", "write_generator"]

_TITLE = "What a generator of scans makes"

# A distance to all its digits says which training scan it was measured to, to whoever has the scans.
_QUARTILES = (0.25, 0.5, 0.75)

_Scan = tuple[NDArray[Any], NDArray[Any]]


def write_generator(result: GeneratorResult, scans: Sequence[_Scan], folder: str | os.PathLike[str]) -> None:
    """Write ``generator.html`` (self-contained), ``.md``, ``.json`` and ``.png`` into ``folder``.

    Args:
        result: what was found.
        scans: image and label of each drawn scan, both of shape (*spatial); copies of training scans are not shown.
        folder: where to write.
    """
    folder = Path(folder)
    files.make_folder(folder)
    new = [scan for scan, copy in zip(scans, result.novelty.copy, strict=True) if not copy]
    grid = scan_grid([new[:24]], result.n_labels)
    files.write(folder / "generator.png", grid, private=False)
    files.write_json(folder / "generator.json", _plain(result), private=False)
    notes, tables = _notes(result), _tables(result)
    files.write(folder / "generator.md", as_markdown(_TITLE, notes, tables), private=False)
    alt = f"{min(24, len(new))} drawn scans, the slice with most foreground, references outlined."
    files.write(folder / "generator.html", as_html(_TITLE, notes, [(alt, grid)], tables), private=False)


def scan_grid(rows: Sequence[Sequence[_Scan]], n_labels: int, columns: int = 8) -> bytes:
    """Scans as PNG with their references outlined; of a volume the slice with most foreground.

    Args:
        rows: scans, image and label of shape (*spatial); a long row is broken.
        n_labels: number of classes, background included.
        columns: of the grid.
    """
    lines = [row[k : k + columns] for row in rows for k in range(0, max(1, len(row)), columns)]
    figure = Figure(figsize=(1.4 * columns, 1.8 * len(lines)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, lines, strict=True):
        for axis, (image, label) in zip(line, row, strict=False):
            shown, classes = _slice(image, label)
            axis.imshow(shown.T, cmap="gray", origin="lower", vmin=-1, vmax=1, interpolation="nearest")
            for value in range(1, n_labels):
                if (classes == value).any():
                    colour = ["#e08a1e", "#2f9bd8", "#57b957", "#c8509a"][(value - 1) % 4]
                    axis.contour((classes == value).T, levels=[0.5], colors=[colour], linewidths=0.8)
    return png(figure)


def _slice(image: NDArray[Any], label: NDArray[Any]) -> _Scan:
    if image.ndim == 2:
        return image, label
    best = int((label > 0).sum(axis=(0, 1)).argmax())
    return image[..., best], label[..., best]


def _notes(result: GeneratorResult) -> list[str]:
    novelty = result.novelty
    against = "scans of patients whom it was not trained on" if novelty.from_held_out else "scans of other patients"
    notes = [
        f"A {result.kind}, {result.spatial_dims}D, trained for {result.epochs} epochs on {result.training_scans} scans "
        f"of {result.patients} patients; {result.scans} scans drawn. No model that is asked about them may be trained "
        "on these patients.",
        f"Copies: {novelty.share_of_copies()} of the drawn scans are less than half as far from a training scan, in "
        f"any mirroring, as {against} are. They are not shown.",
        f"Variety: the drawn scans differ from each other by {novelty.variety.diversity:.2f} of what real ones of "
        f"different patients do, and from the most similar one by {novelty.variety.nearest:.2f}.",
        "Distances are those of coarse, standardised images with their foreground. Not tested: whether scans are "
        "realistic, and whether small parts of them are copied.",
    ]
    if result.patients_assumed:
        notes.append(assumed_in_words(result.patients_assumed, result.patients))
    if novelty.variety.collapsed:
        notes.insert(0, "Collapsed: the drawn scans are near-identical. Do not use them; train longer, or otherwise.")
    return notes


def _tables(result: GeneratorResult) -> list[Table]:
    novelty = result.novelty
    rows = []
    for name, values in (("drawn scans", novelty.distance), ("real scans", novelty.reference)):
        rows.append([name, str(len(values)), *(f"{value:.2g}" for value in np.quantile(values, _QUARTILES))])
    heads = ["scans", "how many", "lower quartile", "median", "upper quartile"]
    tables = [Table("Distance to the most similar training scan", heads, rows)]
    volumes = [
        [f"class {value}", *(f"{100 * side[value - 1]:.2f}%" for side in (result.drawn_volumes, result.real_volumes))]
        for value in range(1, result.n_labels)
    ]
    tables.append(Table("Mean share of a scan's voxels", ["", "drawn", "training"], volumes))
    return tables


def _plain(result: GeneratorResult) -> dict[str, Any]:
    novelty = result.novelty
    copies = novelty.share_of_copies()
    about = {
        name: getattr(result, name)
        for name in (
            "kind",
            "spatial_dims",
            "n_labels",
            "epochs",
            "training_scans",
            "patients",
            "patients_assumed",
            "scans",
        )
    }
    return {
        "schema": "1",
        **about,
        "copies": {"share": copies.value, "ci": list(copies.ci)},
        "closeness": {f"{q:g}": float(f"{np.quantile(novelty.closeness, q):.2g}") for q in _QUARTILES},
        "from_held_out": novelty.from_held_out,
        "diversity": novelty.variety.diversity,
        "nearest": novelty.variety.nearest,
        "collapsed": novelty.variety.collapsed,
        "volumes": {"drawn": list(result.drawn_volumes), "training": list(result.real_volumes)},
    }
