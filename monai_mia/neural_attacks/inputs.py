# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What an attacker's network reads: channels made from recorded maps, and patches of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError
from monai_mia.records.maps import RecordedMaps
from monai_mia.signals.release import boundary_distance

__all__ = ["INPUTS", "MapInputs"]

Volume = NDArray[np.float32]

Array = NDArray[np.float64]

#: What an attacker's network reads of a case.
INPUTS = ("prediction", "prediction+label", "loss", "concatenation", "calibrated")

# The smallest probability in a loss, as in He et al.; and what they divide the loss of a mask by, to keep its scale.
_TINY, _MASK_SCALE = 1e-30, 50.0

# Width of the boundary band of calibrated maps, in voxels.
_BAND = 4

# How often a target is calibrated, each time without another pair of shadows.
_N_VIEWS = 4

# Bytes of input maps that a process keeps for the next epoch and the next target.
_MEMORY = 6 << 30


class InputOptions(Protocol):
    """The options of :class:`~monai_mia.neural_attacks.MapAttacker` that decide what its network reads."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> str: ...
    @property
    def mask(self) -> bool: ...
    @property
    def spatial_dims(self) -> int: ...
    @property
    def patch_size(self) -> Sequence[int] | None: ...
    @property
    def foreground(self) -> bool: ...
    @property
    def downsample(self) -> int: ...
    @property
    def n_shadows(self) -> int | None: ...


class MapInputs:
    """What the network reads of each (model, case) pair.

    Model 1 + m is shadow m. Model 0 is the target, and so are -1, -2, ...: calibrated without another pair of shadows.
    """

    def __init__(self, options: InputOptions, view: AdversaryView) -> None:
        maps = view.maps
        assert isinstance(maps, RecordedMaps)
        member = view.shadow_member
        if maps.n_shadows != len(member) or len(maps.case_ids) != member.shape[1]:
            raise InputError(
                f"maps must be of the table's {len(member)} shadows and {member.shape[1]} cases, got "
                f"{maps.n_shadows} and {len(maps.case_ids)}. Take them with MapStore.of and the same shadows."
            )
        self.options = options
        self.maps = maps
        self.member = member[: options.n_shadows]
        self.patient_ids = view.patient_ids
        self.n_cases = member.shape[1]
        self.labelled = options.inputs != "prediction"
        self._sums: dict[int, tuple[Volume, Volume]] = {}
        self._offsets: dict[int, Volume] = {}
        self._region_means: dict[int, Array] = {}

    @property
    def fingerprint(self) -> list[Any]:
        """What a network that is trained on the shadows depends on."""
        used = self.maps.keys[1 : 1 + len(self.member)]
        return [used, self.maps.case_ids, self.maps.resolution, self.member.astype(int).tolist()]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """All (shadow, case) pairs, shape (M * N, 2)."""
        return np.stack(np.meshgrid(1 + np.arange(len(self.member)), np.arange(self.n_cases)), -1).reshape(-1, 2)

    def views(self, cases: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The (target, case) pairs, once for each way to calibrate the target."""
        count = 1
        if self.options.inputs == "calibrated":
            count = min(_N_VIEWS, len({self._left_out(1 + m) for m in range(len(self.member))}))
        for view in range(count):
            yield np.stack([np.full(len(cases), -view), cases], axis=1)

    @cached_property
    def dims(self) -> int:
        """Spatial dimensions of what the network reads."""
        return min(self.options.spatial_dims, len(self.largest))

    @cached_property
    def n_channels(self) -> int:
        """Channels that the network reads."""
        return len(self(1 if len(self.member) else 0, 0))

    @cached_property
    def largest(self) -> tuple[int, ...]:
        """Largest extent of the input maps along each axis."""
        factor = self.options.downsample
        shapes = self.maps.shapes
        return tuple(-(-max(shape[axis] for shape in shapes) // factor) for axis in range(1, len(shapes[0])))

    def __call__(self, model: int, case: int) -> Volume:
        """Shape (channels, *spatial)."""
        if self.options.inputs == "calibrated":
            return self._calibrated(model, case)
        return self._kept(model, case).astype(np.float32)

    def foreground(self, model: int, case: int) -> NDArray[np.bool_]:
        """Where the reference, or without it the prediction, has a label; the background's channel is the first."""
        hot = self._one_hot(self.maps.label(case)) if self.labelled else self._hard(self._released(model, case))
        found = np.asarray(hot if self.maps.activation == "sigmoid" else hot[1:]).max(axis=0, keepdims=True)
        return np.asarray(_averaged(np.asarray(found, dtype=np.float32), self.options.downsample)[0] > 0)

    def patches(self, model: int, case: int, count: int, rng: np.random.Generator) -> Volume:
        """Patches or slices of a case, shape (count, channels, *patch); zeros beyond the map's edge."""
        values = self(model, case)
        dims, edges = self.dims, self.options.patch_size
        sliced = values.ndim - 1 > dims
        size = tuple(self.largest if edges is None else edges)[:dims] + ((1,) if sliced else ())
        shape = values.shape[1:]
        if self.options.foreground:
            inside = np.argwhere(self.foreground(model, case))
            inside = inside if len(inside) else np.array([shape]) // 2
            centres = inside[rng.integers(len(inside), size=count)]
            starts = [
                np.clip(centre - edge // 2, min(0, n - edge), max(0, n - edge))
                for centre, n, edge in zip(centres.T, shape, size, strict=True)
            ]
        else:
            starts = [_starts(n, edge, count, rng) for n, edge in zip(shape, size, strict=True)]
        patches = np.stack([_cut(values, start, size) for start in zip(*starts, strict=True)])
        return patches[..., 0] if sliced else patches

    def _kept(self, model: int, case: int) -> NDArray[np.float16]:
        """The input map of one model alone, in half precision; read once, as long as memory lasts."""
        kept = (self.options.inputs, self.options.mask, self.options.downsample)
        key = (self.maps.keys[max(0, model)], self.maps.case_ids[case], *kept)
        return _memory.get(key, lambda: self._input(max(0, model), case))

    def _input(self, model: int, case: int) -> NDArray[np.float16]:
        values, inputs = self._released(model, case), self.options.inputs
        if inputs == "calibrated":
            read = self._log_odds(values, self.maps.label(case)) * _regions(self.maps.label(case))
        elif inputs == "loss":
            read = self._loss(values, self.maps.label(case))
        else:
            read = self._probabilities(values) if inputs == "concatenation" else values
            if self.labelled:
                read = np.concatenate([read, self._one_hot(self.maps.label(case))])
        return _half(_averaged(read, self.options.downsample))

    @property
    def _is_hard(self) -> bool:
        return self.options.mask or self.maps.release == "mask"

    def _released(self, model: int, case: int) -> Volume:
        values = self.maps.target(case) if model <= 0 else self.maps.shadow(model - 1, case)
        return self._hard(values).astype(np.float32) if self.options.mask else values

    def _hard(self, values: Volume) -> NDArray[np.bool_]:
        """The mask that the released map implies, one-hot."""
        if self.maps.activation == "sigmoid":
            return values > (0.5 if self.maps.release == "mask" else 0)
        return np.asarray(values.argmax(axis=0) == np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1)))

    def _one_hot(self, label: NDArray[np.uint8]) -> Volume:
        if self.maps.activation == "sigmoid":
            return np.asarray(label > 0, dtype=np.float32)
        classes = np.arange(self.maps.shapes[0][0]).reshape(-1, *[1] * (label.ndim - 1))
        return np.asarray(label == classes, dtype=np.float32)

    def _probabilities(self, values: Volume) -> Volume:
        if self._is_hard:
            return values
        return np.asarray(expit(values) if self.maps.activation == "sigmoid" else softmax(values, axis=0))

    def _loss(self, values: Volume, label: NDArray[np.uint8]) -> Volume:
        """Cross-entropy, nats, shape (1, *spatial); averaged over the channels of sigmoid."""
        true = self._one_hot(label)
        if self._is_hard:
            loss = -np.log(np.maximum(1 - np.abs(values - true), _TINY)) / _MASK_SCALE
        elif self.maps.activation == "sigmoid":
            loss = -log_expit(np.where(true > 0, values, -values))
        else:
            loss = -log_softmax(values, axis=0)
        reduced = loss.mean(axis=0) if self.maps.activation == "sigmoid" else (loss * true).sum(axis=0)
        return np.asarray(np.minimum(reduced, -np.log(_TINY))[None], dtype=np.float32)

    def _log_odds(self, values: Volume, label: NDArray[np.uint8]) -> Volume:
        """Log-odds of the reference, shape (1, *spatial); of a mask 1 where it is right and -1 where it is wrong."""
        true = self._one_hot(label) > 0
        if self.maps.activation == "sigmoid":
            signed = np.where(true, values, (1 - values) if self._is_hard else -values)
            return np.asarray((2 * signed - 1 if self._is_hard else signed).mean(axis=0, keepdims=True))
        if self._is_hard:
            return np.asarray(2 * (values * true).sum(axis=0, keepdims=True) - 1)
        own = np.where(true, values, 0).sum(axis=0, keepdims=True)
        return np.asarray(own - logsumexp(np.where(true, -np.inf, values), axis=0, keepdims=True))

    def _calibrated(self, model: int, case: int) -> Volume:
        """Sixteen channels: in each of four regions the excess, the gap and the out-of-sample mean; and the regions.

        The excess is the model's log-odds minus their mean over shadows that did not train on the case, the gap that
        over shadows which did minus that over those which did not.
        """
        ins, outs = (total.copy() for total in self._totals(case))
        left_out = self._left_out(model)
        for m in left_out:
            total = ins if self.member[m, case] else outs
            total -= self._level(1 + m, case)
        n_in = int(self.member[:, case].sum()) - int(self.member[list(left_out), case].sum())
        n_out = len(self.member) - len(left_out) - n_in
        if not n_in or not n_out:
            raise InputError(
                f"every case must be in and out of the training of other shadows for attack {self.options.name!r}, "
                f"got {n_in} in and {n_out} out for case {self.maps.case_ids[case]!r}. Train shadows in pairs."
            )
        out = outs / n_out
        return np.concatenate([self._level(model, case) - out, ins / n_in - out, out, self._regions(case)])

    def _left_out(self, model: int) -> tuple[int, ...]:
        """Shadows that must not calibrate a model: a shadow itself, and those that hold all that it lacks.

        Were its complement kept, there would be fewer shadows without a case wherever the shadow trained on it. The
        target is calibrated without some pair, too: by as many shadows as those that the network learnt from.
        """
        if model > 0:
            own = self.member[model - 1]
            same, other = (self.member == own).all(axis=1), (self.member == ~own).all(axis=1)
            return tuple(np.flatnonzero(same | other).tolist())
        return sorted({self._left_out(1 + m) for m in range(len(self.member))}, key=lambda pair: (-len(pair), pair))[
            -model
        ]

    def _totals(self, case: int) -> tuple[Volume, Volume]:
        """Sum over the shadows that trained on a case, and over those that did not."""
        if case not in self._sums:
            levels = [self._level(1 + m, case) for m in range(len(self.member))]
            zero = np.zeros_like(levels[0])
            self._sums[case] = (
                sum((level for level, flag in zip(levels, self.member[:, case], strict=True) if flag), zero),
                sum((level for level, flag in zip(levels, self.member[:, case], strict=True) if not flag), zero),
            )
        return self._sums[case]

    def _level(self, model: int, case: int) -> Volume:
        """A model's log-odds in each region, less how much better it fits everything."""
        offset = self._offset(max(0, model))[(...,) + (None,) * (self._kept(model, case).ndim - 1)]
        return self._kept(model, case) - offset * self._regions(case)

    def _offset(self, model: int) -> Volume:
        """Median over cases of a model's mean excess over all shadows in each region, shape (3,)."""
        if model not in self._offsets:
            every = [model, *range(1, 1 + len(self.member))]
            excess = np.stack([self._means(m) for m in every])
            self._offsets[model] = np.nanmedian(excess[0] - excess[1:].mean(axis=0), axis=0).astype(np.float32)
        return self._offsets[model]

    def _means(self, model: int) -> Array:
        """Mean log-odds in each region of each case, shape (N, regions); NaN where a region is empty."""
        if model not in self._region_means:
            rows = []
            for case in range(self.n_cases):
                totals, sizes = self._kept(model, case), self._regions(case)
                axes = tuple(range(1, totals.ndim))
                with np.errstate(invalid="ignore"):
                    rows.append(totals.sum(axis=axes, dtype=np.float64) / sizes.sum(axis=axes, dtype=np.float64))
            self._region_means[model] = np.stack(rows)
        return self._region_means[model]

    def _regions(self, case: int) -> Volume:
        """How much of each voxel of the input lies in each region."""
        key = ("regions", self.maps.keys[0], self.maps.case_ids[case], self.options.downsample)
        share = _memory.get(key, lambda: _half(_averaged(_regions(self.maps.label(case)), self.options.downsample)))
        return share.astype(np.float32)


class _Memory:
    """Input maps in half precision, until the memory for them is full."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[Any, NDArray[np.float16]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], NDArray[np.float16]]) -> NDArray[np.float16]:
        if key not in self._kept:
            self._kept[key] = make()
            self.size += self._kept[key].nbytes
            while self.size > self.limit and len(self._kept) > 1:
                self.size -= self._kept.popitem(last=False)[1].nbytes
        return self._kept[key]


_memory = _Memory(_MEMORY)


def _half(values: Volume) -> NDArray[np.float16]:
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16)


def _regions(label: NDArray[np.uint8]) -> Volume:
    """Foreground beyond and within a voxel of a boundary, background within one and beyond; shape (4, *spatial)."""
    shell = boundary_distance(torch.from_numpy(label.astype(np.int16)), _BAND).numpy()
    inside = (label > 0).any(axis=0)
    near, far = shell == 1, shell != 1
    return np.stack([inside & far, inside & near, ~inside & near, ~inside & far & (shell > 0)]).astype(np.float32)


def _averaged(values: Volume, factor: int) -> Volume:
    """Mean over blocks of ``factor`` voxels an edge; the last block may be smaller."""
    for axis in range(1, values.ndim if factor > 1 else 1):
        n = values.shape[axis]
        edges = np.arange(0, n, factor)
        sizes = (np.minimum(edges + factor, n) - edges).reshape(-1, *[1] * (values.ndim - 1 - axis))
        values = (np.add.reduceat(values, edges, axis=axis) / sizes).astype(np.float32)
    return values


def _starts(n: int, edge: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where patches begin along an axis of n voxels: at random, spread evenly; a patch beyond the axis is centred."""
    if edge >= n:
        return np.full(count, -((edge - n) // 2))
    return rng.permutation(((np.arange(count) + rng.random(count)) / count * (n - edge + 1)).astype(np.int64))


def _cut(values: Volume, start: Sequence[int], size: Sequence[int]) -> Volume:
    """A patch, with zeros beyond the map's edge."""
    patch = np.zeros((len(values), *size), dtype=np.float32)
    source, place = [slice(None)], [slice(None)]
    for n, first, edge in zip(values.shape[1:], start, size, strict=True):
        low, high = max(0, first), min(n, first + edge)
        source.append(slice(low, high))
        place.append(slice(low - first, high - first))
    patch[tuple(place)] = values[tuple(source)]
    return patch
