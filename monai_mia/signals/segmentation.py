# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Signals: a released prediction, and the reference if the adversary has it, reduced to a few numbers.

A higher signal means a better fit. :func:`segmentation_signals` averages voxel maps over regions in slabs, on the
device, so that it needs far less memory than the prediction itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.signals.release import (
    BAND,
    CLIP,
    Release,
    Voxels,
    any_of,
    at_least_single,
    boundary_distance,
    check_label,
    foreground_of,
)

__all__ = ["ACCESS", "SegmentationSums", "TopProbabilities", "access_of", "segmentation_signals"]

# Values held at once by the slab-wise reduction: 8 MB on a CPU, 128 MB on a GPU, where launches cost more.
_CHUNK = {"cpu": 1 << 21, "cuda": 1 << 25}


#: Access that each family of signals needs; regions, classes and perturbed queries share that of their family.
ACCESS = {
    "log_likelihood": "probabilities+label",
    "log_odds": "probabilities+label",
    "soft_dice": "probabilities+label",
    "dice": "mask+label",
    "volume_ratio": "mask+label",
    "negative_entropy": "probabilities",
    "maximum_probability": "probabilities",
    "margin": "probabilities",
    "second_probability": "probabilities",
    "third_probability": "probabilities",
    "predictability": "mask+label",
    "agreement": "mask",
    "soft_agreement": "probabilities",
    "negative_hd95": "mask+label",
    "surface_dice": "mask+label",
    "negative_calibration_error": "probabilities+label",
    "negative_average_calibration_error": "probabilities+label",
    "negative_class_calibration_error": "probabilities+label",
    "negative_overconfidence": "probabilities+label",
    "negative_gradient_norm": "white-box",
    "negative_influence": "white-box",
    "negative_alignment": "white-box",
}

# Regions over which voxels are averaged. Without a reference only the prediction's own are known.
_REGIONS = ("whole", "predicted", "foreground", "boundary", *(f"shell_{k}" for k in range(1, BAND + 1)))


def segmentation_signals(release: Release, label: Tensor | None) -> dict[str, float]:
    r"""All signals of one released prediction.

    =====================  ==================================================================  =====================
    signal                 definition                                                          access
    =====================  ==================================================================  =====================
    log_likelihood         mean log-probability of the reference (minus the cross-entropy)     probabilities+label
    log_odds               mean log-odds of the reference, float64                             probabilities+label
    soft_dice              Dice of probabilities, averaged over foreground classes             probabilities+label
    dice                   Dice of the mask, averaged over foreground classes                  mask+label
    volume_ratio           smaller over larger of predicted and reference foreground, [0, 1]   mask+label
    negative_entropy       minus the mean entropy of the prediction                            probabilities
    maximum_probability    mean probability of the predicted class                             probabilities
    margin                 mean probability of the first minus the second class                probabilities
    =====================  ==================================================================  =====================

    Regions are suffixes: none (the whole volume), ``_foreground`` (reference or prediction is foreground),
    ``_boundary`` (within 3 voxels of a boundary of the reference) and its ``_shell_1`` to ``_shell_3``, and
    ``_predicted`` (predicted foreground, which needs no reference). ``dice_class_2``, ``soft_dice_class_2`` are those
    of class 2 (with sigmoid, classes count from 1, too). The Dice of masks over ``_foreground`` is that over the whole
    volume, and is not repeated.

    Empty regions and masks: where the reference is empty and has no boundary, ``_boundary`` and its shells give the
    value over ``_foreground``, which is then what was wrongly predicted; where that is empty, too, the value over the
    whole volume. Dice of a class absent from reference and prediction is 1, absent from one of them 0.

    Args:
        release: what left the model.
        label: the reference, class indices of shape (1, *spatial) for softmax, 0 or 1 of shape (C, *spatial) for
            sigmoid; None if the adversary does not have it.

    Returns:
        Finite numbers; a higher one means a better fit. Which ones depends on the release and on the label.
    """
    if label is not None:
        check_label(label, release.activation, release.classes, tuple(release.values.shape[1:]))
    sums = SegmentationSums()
    sums.add(release, label)
    return sums.result()


class SegmentationSums:
    """:func:`segmentation_signals` of a prediction that is given in slabs, one after the other."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, release: Release, label: Tensor | None, start: int = 0) -> None:
        """Add a slab.

        Args:
            release: planes ``start`` to ``start + n`` along the first spatial axis of what left the model.
            label: the reference of the whole volume, already checked, or None.
            start: the slab's first plane.
        """
        self._about = release.classes, release.kind, release.activation, label is not None
        for rows, regions in _reductions(release, label, start):
            part = (rows @ regions.T).double()
            self._sums = part if self._sums is None else self._sums + part

    def result(self) -> dict[str, float]:
        """The signals of all slabs that were added."""
        if self._sums is None:
            raise InputError("slabs must be added before their signals are read, got none.")
        return _finish(self._sums.cpu(), *self._about)


segmentation_signals.in_slabs = SegmentationSums  # type: ignore[attr-defined]


def _reductions(release: Release, label: Tensor | None, offset: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (R, v) and regions (G, v), float32, of consecutive runs of voxels."""
    values = release.values
    n_foreground = release.classes - (release.activation == "softmax")
    n_rows = 1 + 3 * n_foreground + (5 + 2 * n_foreground) * (release.kind != "mask")
    chunk = max(1, _CHUNK.get(values.device.type, 1 << 22) // (n_rows + len(_REGIONS)))
    depth = values.shape[1]
    planes = max(1, chunk // values[0, 0].numel())
    for start in range(0, depth, planes):
        stop = min(depth, start + planes)
        slab = at_least_single(values[:, start:stop]).flatten(1)
        reference = shells = None
        if label is not None:
            inside = slice(offset + start, offset + stop)
            first = max(0, inside.start - BAND)  # halo, so that slabs see the same boundaries as the whole
            around = label[:, first : inside.stop + BAND].to(values.device, torch.uint8)
            shells = boundary_distance(around)[inside.start - first : inside.stop - first].flatten()
            reference = label[:, inside].to(values.device).flatten(1)
        for begin in range(0, slab.shape[1], chunk):
            part = slice(begin, begin + chunk)
            yield _rows(
                release,
                slab[:, part],
                None if reference is None else reference[:, part],
                None if shells is None else shells[part],
            )


def _rows(release: Release, values: Tensor, label: Tensor | None, shells: Tensor | None) -> tuple[Tensor, Tensor]:
    voxels = Voxels(values, label, release.kind, release.activation)
    if release.kind == "mask":
        predicted = foreground_of(values[0], release.classes) if release.activation == "softmax" else values > 0
    else:
        predicted = voxels.predicted
    rows = [torch.ones_like(predicted[:1]), predicted]
    foreground = any_of(predicted)
    regions = [torch.ones_like(foreground), foreground]
    if label is not None and shells is not None:
        softmax = release.activation == "softmax"
        mask = release.kind == "mask"
        reference = voxels.reference
        if softmax:
            reference = foreground_of(reference, release.classes) if mask else voxels.one_hot[1:]
        rows += [reference, predicted & reference]
        regions += [foreground | any_of(reference), shells > 0, *(shells == k for k in range(1, BAND + 1))]
    if release.kind != "mask":
        rows += [-voxels.entropy[None], voxels.maximum_probability[None], voxels.margin[None]]
        if label is not None:
            p = voxels.p[1:] if release.activation == "softmax" else voxels.p
            rows += [voxels.log_likelihood[None], voxels.log_odds[None], p, p * reference]
    return torch.cat([row.float() for row in rows]), torch.stack(regions).float()


def _finish(sums: Tensor, classes: int, kind: str, activation: str, labelled: bool) -> dict[str, float]:
    """Signals from the sums of the rows (R) over the regions (G)."""
    n = classes - (activation == "softmax")
    # The same order as in _rows.
    names = [("voxels", 1), ("predicted", n)]
    if labelled:
        names += [("reference", n), ("overlap", n)]
    if kind != "mask":
        names += [("negative_entropy", 1), ("maximum_probability", 1), ("margin", 1)]
        if labelled:
            names += [("log_likelihood", 1), ("log_odds", 1), ("soft", n), ("soft_overlap", n)]
    parts = dict(zip([name for name, _ in names], torch.split(sums, [size for _, size in names]), strict=True))
    regions = _REGIONS if labelled else _REGIONS[:2]
    # An empty region has no mean. The foreground stands for a boundary that the reference lacks (then it is what was
    # wrongly predicted), and the whole volume for an empty foreground.
    column = dict.fromkeys(regions, 0)
    for g, region in enumerate(regions):
        filled = float(parts["voxels"][0, g]) > 0
        column[region] = g if filled else column.get("foreground", 0)
    suffix = {region: "" if region == "whole" else f"_{region}" for region in regions}

    signals: dict[str, float] = {}
    for name in ("log_likelihood", "log_odds"):
        if name in parts:
            for region in ("whole", *regions[2:]):
                g = column[region]
                signals[name + suffix[region]] = float(parts[name][0, g] / parts["voxels"][0, g])
    if "soft" in parts:
        for region in ("whole", "foreground", "boundary"):
            sizes = parts["soft"] + parts["reference"]
            signals |= _dice("soft_dice", parts["soft_overlap"], sizes, column[region], suffix[region])
    if labelled:
        for region in ("whole", "boundary"):
            sizes = parts["predicted"] + parts["reference"]
            signals |= _dice("dice", parts["overlap"], sizes, column[region], suffix[region])
        volumes = sorted((float(parts["predicted"][:, 0].sum()), float(parts["reference"][:, 0].sum())))
        signals["volume_ratio"] = volumes[0] / volumes[1] if volumes[1] else 1.0
    for name in ("negative_entropy", "maximum_probability", "margin"):
        if name in parts:
            for region in ("whole", "predicted"):
                g = column[region]
                signals[name + suffix[region]] = float(parts[name][0, g] / parts["voxels"][0, g])
    return signals


def _dice(name: str, overlap: Tensor, sizes: Tensor, g: int, suffix: str) -> dict[str, float]:
    size = sizes[:, g]
    dice = torch.where(size > 0, 2 * overlap[:, g] / size.clamp(min=CLIP), torch.ones_like(size))
    classes = {f"{name}_class_{c}{suffix}": float(value) for c, value in enumerate(dice, start=1)}
    return {f"{name}{suffix}": float(dice.mean()), **classes}


@dataclass(frozen=True)
class TopProbabilities:
    """Signals of the runners-up: ``second_probability`` and, from three classes on, ``third_probability``.

    Each is the mean over the volume of the second (third) largest probability of a voxel; the suffix ``_predicted``
    that over the predicted foreground (the whole volume if nothing is predicted), as for ``maximum_probability``, the
    first of the three. With sigmoid a channel has two states only, so that there is no third, and the second is the
    less likely state's, averaged over channels.

    In [0, 1]. These alone do not rise with a better fit: a sure prediction leaves little to the runners-up. They feed
    an attack that learns its direction from shadows; a threshold on them means nothing.

    Access: probabilities. Source: the top-3 attack of `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_.

    Example:
        >>> logits = torch.tensor([0.5, 0.3, 0.2]).log()[:, None, None]  # one voxel
        >>> found = TopProbabilities()(Release(logits), None)
        >>> {name: round(value, 6) for name, value in found.items() if "_predicted" not in name}
        {'second_probability': 0.3, 'third_probability': 0.2}
    """

    def __call__(self, release: Release, label: Tensor | None) -> dict[str, float]:
        """The signals of one release; the label is not looked at."""
        sums = self.in_slabs()
        sums.add(release, label)
        return sums.result()

    def in_slabs(self) -> _TopSums:
        """The same of a prediction that is given in slabs."""
        return _TopSums()


class _TopSums:
    """Sums of :class:`TopProbabilities` over slabs."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, release: Release, label: Tensor | None, start: int = 0) -> None:
        """Add a slab; the label is not looked at."""
        if release.kind == "mask":
            raise InputError("release must be logits or probabilities for TopProbabilities, got a mask.")
        softmax = release.activation == "softmax"
        self._names = ("second_probability", "third_probability")[: min(release.classes, 3) - 1 if softmax else 1]
        names = self._names
        chunk = _CHUNK.get(release.values.device.type, 1 << 22) // (release.classes + 5)
        sums = torch.zeros(2, len(names) + 1, dtype=torch.float64)
        for part in torch.split(release.values.flatten(1), max(1, chunk), 1):
            voxels = Voxels(at_least_single(part), None, release.kind, release.activation)
            first = voxels.maximum_probability
            runners_up = voxels.ranked(len(names) + 1)[1:] if softmax else [1 - first]
            rows = torch.stack([torch.ones_like(first), *runners_up])
            masks = torch.stack([torch.ones_like(first), any_of(voxels.predicted).to(first.dtype)])
            sums += (masks @ rows.T).double().cpu()
        self._sums = sums if self._sums is None else self._sums + sums

    def result(self) -> dict[str, float]:
        """The signals of all slabs that were added."""
        assert self._sums is not None
        regions = {"": self._sums[0], "_predicted": self._sums[1] if self._sums[1, 0] else self._sums[0]}
        return {
            name + suffix: float(region[k] / region[0])
            for k, name in enumerate(self._names, start=1)
            for suffix, region in regions.items()
        }


def access_of(signal: str) -> str:
    """Access that one of the package's own signals needs.

    Example:
        >>> access_of("log_odds_shell_1"), access_of("robust_dice")
        ('probabilities+label', 'mask+label')
    """
    for family in sorted(ACCESS, key=len, reverse=True):
        if signal.removeprefix("robust_").startswith(family):
            return ACCESS[family]
    raise InputError(f"signal must begin with one of {', '.join(ACCESS)}, got {signal!r}.")
