# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Signals: a released prediction, and the reference if the adversary has it, reduced to a few numbers.

A higher signal means a better fit. Voxel maps are pure functions of one case; :func:`segmentation_signals` averages
them over regions in slabs, on the device, so that it needs far less memory than the prediction itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from monai_mia.errors import InputError

__all__ = [
    "ACCESS",
    "Release",
    "TopProbabilities",
    "access_of",
    "boundary_distance",
    "entropy_map",
    "log_likelihood_map",
    "log_odds_map",
    "margin_map",
    "maximum_probability_map",
    "segmentation_signals",
]

#: Width of the boundary band, in voxels (Chebyshev distance to the nearest voxel of another label).
BAND = 3

#: Probabilities are clipped to [CLIP, 1 - CLIP] before a logarithm; logits are never clipped.
CLIP = 1e-12

# Probabilities below this lose digits in float32.
_UNDERFLOW = 1e-30

# Values held at once by the slab-wise reduction: 8 MB on a CPU, 128 MB on a GPU, where launches cost more.
_CHUNK = {"cpu": 1 << 21, "cuda": 1 << 25}


@dataclass(frozen=True)
class Release:
    """What leaves the model about one case.

    Attributes:
        values: shape (C, *spatial) for ``logits`` and ``probabilities``; for a ``mask`` class indices of shape
            (1, *spatial) with softmax, and 0 or 1 of shape (C, *spatial) with sigmoid.
        kind: ``logits``, ``probabilities`` or ``mask``.
        activation: ``softmax`` (one of C classes a voxel, class 0 is the background) or ``sigmoid`` (C labels that
            may overlap).
        n_classes: C; needed for a softmax mask only.
    """

    values: Tensor
    kind: Literal["logits", "probabilities", "mask"] = "logits"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    n_classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse a release that no signal could be read from."""
        if self.kind not in ("logits", "probabilities", "mask"):
            raise InputError(f"release must be logits, probabilities or mask, got {self.kind!r}.")
        if self.activation not in ("softmax", "sigmoid"):
            raise InputError(f"activation must be softmax or sigmoid, got {self.activation!r}.")
        if self.values.ndim not in (3, 4):
            raise InputError(f"prediction must be of shape (C, *spatial) in 2D or 3D, got {tuple(self.values.shape)}.")
        if self.activation == "softmax" and self.classes < 2:
            raise InputError(
                f"prediction must have at least 2 channels with softmax, got {self.classes}. "
                "Set activation: sigmoid for a one-channel network."
            )
        low, high = _range(self.values)
        if not math.isfinite(low + high):
            raise InputError("prediction must be finite, got NaN or infinity. Was the network trained to the end?")
        if self.kind != "logits":
            top = self.classes - 1 if self.kind == "mask" and self.activation == "softmax" else 1
            whole = self.kind == "probabilities" or bool((self.values == self.values.round()).all())
            if low < -1e-3 or high > top + 1e-3 or not whole:
                raise InputError(
                    f"prediction must be {self.kind}, in [0, {top}], got values from {low:g} to {high:g}. Apply the "
                    "activation, or release logits."
                )

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        if self.kind == "mask" and self.activation == "softmax":
            if self.n_classes is None:
                raise InputError("n_classes must be given for a released mask, got None.")
            return self.n_classes
        return int(self.values.shape[0])


def log_likelihood_map(release: Release, label: Tensor) -> Tensor:
    r"""Log-probability of the reference at each voxel: minus the cross-entropy.

    Args:
        release: logits or probabilities.
        label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid, where
            channels are averaged.

    Returns:
        Shape (*spatial), nats, at most 0, dtype of the release.

    Access: probabilities+label.

    Example:
        >>> logits = torch.zeros(4, 2, 2)  # four classes, all alike
        >>> log_likelihood_map(Release(logits), torch.zeros(1, 2, 2))[0, 0]  # -ln 4
        tensor(-1.3863)
    """
    return _voxels(release, label).log_likelihood.reshape(release.values.shape[1:])


def log_odds_map(release: Release, label: Tensor) -> Tensor:
    r"""Log-odds of the reference at each voxel, :math:`\log p/(1-p)`, which do not saturate where p is near 1.

    Args:
        release: logits (exact, never clipped) or probabilities (clipped to [1e-12, 1 - 1e-12]).
        label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid, where
            channels are averaged.

    Returns:
        Shape (*spatial), nats, float64, finite.

    Access: probabilities+label. Source: scaled logit of `Carlini et al. (2022) <https://arxiv.org/abs/2112.03570>`_.

    Example:
        >>> log_odds_map(Release(torch.tensor([[[0.0]], [[2.0]]])), torch.ones(1, 1, 1)).round(decimals=4)
        tensor([[2.]], dtype=torch.float64)
    """
    return _voxels(release, label).log_odds.reshape(release.values.shape[1:])


def entropy_map(release: Release) -> Tensor:
    """Entropy of the predicted distribution at each voxel, in nats, at least 0; shape (*spatial).

    Access: probabilities. Source: `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_. With sigmoid the
    binary entropies of the channels are averaged.
    """
    return _voxels(release).entropy.reshape(release.values.shape[1:])


def maximum_probability_map(release: Release) -> Tensor:
    """Probability of the predicted class at each voxel; shape (*spatial).

    Access: probabilities. Source: `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_. With sigmoid that
    of the likelier state, averaged over channels.
    """
    return _voxels(release).maximum_probability.reshape(release.values.shape[1:])


def margin_map(release: Release) -> Tensor:
    """Probability of the likeliest class minus that of the second, in [0, 1]; shape (*spatial).

    Access: probabilities. With sigmoid that of the likelier state minus that of the other, averaged over channels.
    """
    return _voxels(release).margin.reshape(release.values.shape[1:])


def boundary_distance(label: Tensor, band: int = BAND) -> Tensor:
    """In which shell around the boundaries of the reference a voxel lies; no distance transform is needed.

    Args:
        label: class indices, shape (1, *spatial), or one channel a label, shape (C, *spatial); integers.
        band: number of shells.

    Returns:
        Shape (*spatial), uint8: k if a voxel of another label is k voxels away (Chebyshev distance, both sides of
        a boundary), 0 if none is within ``band``. The edge of the volume is no boundary.

    Example:
        >>> boundary_distance(torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]]), band=2)
        tensor([[0, 2, 1, 1, 2, 0, 0, 0]], dtype=torch.uint8)
    """
    high = low = label
    within = torch.zeros(label.shape[1:], dtype=torch.uint8, device=label.device)  # at how many radii one is in reach
    for _ in range(band):
        high, low = _extend(high, torch.maximum), _extend(low, torch.minimum)
        within += _any(high != low)
    return (band + 1 - within) * (within > 0)


def _any(channels: Tensor) -> Tensor:
    """``channels.any(0)``, but fast for one channel, the usual case."""
    return channels[0] if len(channels) == 1 else channels.any(0)


def _extend(values: Tensor, extreme) -> Tensor:  # type: ignore[no-untyped-def]
    """Extreme over the neighbours along each spatial axis in turn: over a cube of 3."""
    for dim in range(1, values.ndim):
        n = values.shape[dim]
        out = values.clone()
        ahead, behind = out.narrow(dim, 0, n - 1), out.narrow(dim, 1, n - 1)
        extreme(ahead, values.narrow(dim, 1, n - 1), out=ahead)
        extreme(behind, values.narrow(dim, 0, n - 1), out=behind)
        values = out
    return values


@dataclass(frozen=True)
class _Voxels:
    """A run of V voxels of one case, flattened: ``values`` (C, V), ``label`` (1 or C, V) or None."""

    values: Tensor
    label: Tensor | None
    kind: str
    activation: str

    @cached_property
    def log_p(self) -> Tensor:
        """Log-probabilities of the C classes; for sigmoid of state 1 of the C labels."""
        if self.kind == "logits":
            return F.log_softmax(self.values, 0) if self.activation == "softmax" else F.logsigmoid(self.values)
        return self.values.clamp(min=CLIP).log()

    @cached_property
    def p(self) -> Tensor:
        """Probabilities, shape (C, V)."""
        if self.kind == "logits":
            return self.log_p.exp() if self.activation == "softmax" else self.values.sigmoid()
        return self.values

    @cached_property
    def reference(self) -> Tensor:
        """The reference: class indices (V,) for softmax, bool (C, V) for sigmoid."""
        assert self.label is not None
        return self.label[0].long() if self.activation == "softmax" else self.label > 0

    @cached_property
    def one_hot(self) -> Tensor:
        """The reference of softmax as bool (C, V)."""
        return torch.arange(len(self.values), device=self.values.device)[:, None] == self.reference

    @cached_property
    def log_likelihood(self) -> Tensor:
        if self.activation == "softmax":
            return self.log_p.gather(0, self.reference[None])[0]
        if self.kind == "logits":
            return F.logsigmoid(torch.where(self.reference, self.values, -self.values)).mean(0)
        return torch.where(self.reference, self.values, 1 - self.values).clamp(min=CLIP).log().mean(0)

    @property
    def log_odds(self) -> Tensor:
        if self.activation == "sigmoid":
            values = self.values.double()
            if self.kind == "logits":
                return torch.where(self.reference, values, -values).mean(0)
            return torch.where(self.reference, values, 1 - values).clamp(CLIP, 1 - CLIP).logit().mean(0)
        if self.kind == "probabilities":
            return self.values.gather(0, self.reference[None])[0].double().clamp(CLIP, 1 - CLIP).logit()
        # 1 - p as the sum of the other classes, which keeps its digits where p is near 1 ...
        rest = (self.p * ~self.one_hot).sum(0).double()
        odds = self.log_likelihood.double() - rest.log()
        lost = rest < _UNDERFLOW  # ... until they vanish in float32, beyond 70 nats; those are rare, and done exactly.
        if lost.any():
            values = self.values[:, lost].double()
            own = self.one_hot[:, lost]
            odds[lost] = values[own.T.nonzero(as_tuple=True)[::-1]] - values.masked_fill(own, -torch.inf).logsumexp(0)
        return odds

    @property
    def entropy(self) -> Tensor:
        if self.activation == "softmax":
            return -(self.p * self.log_p).sum(0)
        p = self.p
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean(0)

    @property
    def maximum_probability(self) -> Tensor:
        p = self.p
        return p.amax(0) if self.activation == "softmax" else torch.maximum(p, 1 - p).mean(0)

    @property
    def margin(self) -> Tensor:
        if self.activation == "softmax":
            first, second = self.ranked(2)
            return first - second
        return (2 * self.p - 1).abs().mean(0)

    def ranked(self, n: int) -> list[Tensor]:
        """The n largest probabilities of softmax, in falling order."""
        ranked = [self.p[0], *(torch.full_like(self.p[0], -1.0) for _ in range(n - 1))]
        for p in self.p[1:]:  # several times faster than topk over the leading axis
            for k in range(n - 1, 0, -1):
                ranked[k] = torch.maximum(ranked[k], torch.minimum(ranked[k - 1], p))
            ranked[0] = torch.maximum(ranked[0], p)
        return ranked

    @property
    def predicted(self) -> Tensor:
        """Which foreground labels are predicted, bool: (C - 1, V) for softmax, (C, V) for sigmoid."""
        if self.activation == "softmax":
            best, index = self.values[0], torch.zeros_like(self.values[0], dtype=torch.int64)
            for c, value in enumerate(self.values[1:], start=1):  # ten times faster than argmax over the leading axis
                index = torch.maximum(index, (value > best) * c)  # the last to exceed all before it
                best = torch.maximum(best, value)
            return _foreground(index, len(self.values))
        return self.values > (0 if self.kind == "logits" else 0.5)


def _foreground(index: Tensor, n_classes: int) -> Tensor:
    return index[None] == torch.arange(1, n_classes, device=index.device)[:, None]


def _voxels(release: Release, label: Tensor | None = None) -> _Voxels:
    if release.kind == "mask":
        raise InputError("release must be logits or probabilities for this map, got a mask.")
    if label is not None:
        _check_label(release, label)
        label = label.to(release.values.device).flatten(1)
    return _Voxels(_single(release.values).flatten(1), label, release.kind, release.activation)


def _single(values: Tensor) -> Tensor:
    """At least float32: probabilities and their logarithms do not fit in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _range(values: Tensor) -> tuple[float, float]:
    """Smallest and largest value in one pass; NaN if there is one."""
    low, high = torch.aminmax(values)
    return float(low), float(high)


def _check_label(release: Release, label: Tensor) -> None:
    channels = 1 if release.activation == "softmax" else release.classes
    expected = (channels, *release.values.shape[1:])
    if tuple(label.shape) != expected:
        raise InputError(f"label must be of shape {expected} ({release.activation}), got {tuple(label.shape)}.")
    low, high = _range(label)
    limit = release.classes if release.activation == "softmax" else 2
    if low < 0 or high >= limit:
        raise InputError(f"label must be integers in [0, {limit}), got values from {low:g} to {high:g}.")


#: Access that each family of signals needs; regions, classes and query variants share that of their family.
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
        label = label.to(release.values.device)  # an inferer may stitch on the CPU what a GPU predicts
        if release.kind == "mask" and release.activation == "softmax":
            _check_label(Release(release.values, "mask", "softmax", release.classes), label)
        else:
            _check_label(release, label)
    sums = None
    for rows, regions in _reductions(release, label):
        part = (rows @ regions.T).double()
        sums = part if sums is None else sums + part
    assert sums is not None
    return _finish(sums.cpu(), release, label is not None)


def _reductions(release: Release, label: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (R, v) and regions (G, v), float32, of consecutive runs of voxels."""
    values = release.values
    n_foreground = release.classes - (release.activation == "softmax")
    n_rows = 1 + 3 * n_foreground + (5 + 2 * n_foreground) * (release.kind != "mask")
    chunk = max(1, _CHUNK.get(values.device.type, 1 << 22) // (n_rows + len(_REGIONS)))
    depth = values.shape[1]
    planes = max(1, chunk // values[0, 0].numel())
    for start in range(0, depth, planes):
        stop = min(depth, start + planes)
        slab = _single(values[:, start:stop]).flatten(1)
        reference = shells = None
        if label is not None:
            first = max(0, start - BAND)  # halo, so that slabs see the same boundaries as the whole
            around = label[:, first : min(depth, stop + BAND)].to(torch.uint8)
            shells = boundary_distance(around)[start - first : stop - first].flatten()
            reference = label[:, start:stop].flatten(1)
        for begin in range(0, slab.shape[1], chunk):
            part = slice(begin, begin + chunk)
            yield _rows(
                release,
                slab[:, part],
                None if reference is None else reference[:, part],
                None if shells is None else shells[part],
            )


def _rows(release: Release, values: Tensor, label: Tensor | None, shells: Tensor | None) -> tuple[Tensor, Tensor]:
    voxels = _Voxels(values, label, release.kind, release.activation)
    if release.kind == "mask":
        predicted = _foreground(values[0], release.classes) if release.activation == "softmax" else values > 0
    else:
        predicted = voxels.predicted
    rows = [torch.ones_like(predicted[:1]), predicted]
    foreground = _any(predicted)
    regions = [torch.ones_like(foreground), foreground]
    if label is not None and shells is not None:
        softmax = release.activation == "softmax"
        mask = release.kind == "mask"
        reference = voxels.reference
        if softmax:
            reference = _foreground(reference, release.classes) if mask else voxels.one_hot[1:]
        rows += [reference, predicted & reference]
        regions += [foreground | _any(reference), shells > 0, *(shells == k for k in range(1, BAND + 1))]
    if release.kind != "mask":
        rows += [-voxels.entropy[None], voxels.maximum_probability[None], voxels.margin[None]]
        if label is not None:
            p = voxels.p[1:] if release.activation == "softmax" else voxels.p
            rows += [voxels.log_likelihood[None], voxels.log_odds[None], p, p * reference]
    return torch.cat([row.float() for row in rows]), torch.stack(regions).float()


def _finish(sums: Tensor, release: Release, labelled: bool) -> dict[str, float]:
    """Signals from the sums of the rows (R) over the regions (G)."""
    n = release.classes - (release.activation == "softmax")
    # The same order as in _rows.
    names = [("voxels", 1), ("predicted", n)]
    if labelled:
        names += [("reference", n), ("overlap", n)]
    if release.kind != "mask":
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
        if release.kind == "mask":
            raise InputError("release must be logits or probabilities for TopProbabilities, got a mask.")
        softmax = release.activation == "softmax"
        names = ("second_probability", "third_probability")[: min(release.classes, 3) - 1 if softmax else 1]
        chunk = _CHUNK.get(release.values.device.type, 1 << 22) // (release.classes + 5)
        sums = torch.zeros(2, len(names) + 1, dtype=torch.float64)
        for part in torch.split(release.values.flatten(1), max(1, chunk), 1):
            voxels = _Voxels(_single(part), None, release.kind, release.activation)
            first = voxels.maximum_probability
            runners_up = voxels.ranked(len(names) + 1)[1:] if softmax else [1 - first]
            rows = torch.stack([torch.ones_like(first), *runners_up])
            masks = torch.stack([torch.ones_like(first), _any(voxels.predicted).to(first.dtype)])
            sums += (masks @ rows.T).double().cpu()
        regions = {"": sums[0], "_predicted": sums[1] if sums[1, 0] else sums[0]}
        return {
            name + suffix: float(region[k] / region[0])
            for k, name in enumerate(names, start=1)
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
