# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Where in the anatomy the evidence of membership lies: the leakage map.

The evidence at a voxel is the target's log-likelihood of the reference there, minus its mean over the shadows that did
not train on the case: how much likelier the target finds the truth than models do that never saw it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from monai_mia import statistics
from monai_mia.attacks.adversary import Maps
from monai_mia.audit.disclosure.cells import MIN_CELL
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Resampling

__all__ = ["Leakage", "LeakageMap", "RegisteredMap", "distance_profile", "log_likelihoods", "signed_distance"]

Array = NDArray[np.float64]

# As monai_mia.signals.CLIP, which needs torch: the smallest probability whose logarithm is taken.
_FLOOR = math.log(1e-12)


@dataclass(frozen=True)
class RegisteredMap:
    """The evidence in a crop about the structure's centre of mass, members minus non-members, mean over patients.

    Attributes:
        evidence: nats, shape ``(*crop)``; NaN where a side has fewer than ``min_cell`` patients.
        structure: share of the patients whose structure covers a voxel, shape ``(*crop)``.
    """

    evidence: Array
    structure: Array


@dataclass(frozen=True)
class Leakage:
    """Where the evidence lies, over all targets.

    Attributes:
        targets: models that were taken for targets.
        distances: middle of each bin of signed distance to a label's boundary, voxels of the maps, shape (D,); negative
            inside.
        labels: the foreground labels, length K.
        members: mean evidence of members at each distance from each label's boundary, nats, shape (K, D); NaN where a
            side has fewer than ``min_cell`` patients.
        nonmembers: the same of non-members.
        difference: members minus non-members.
        low: lower end of its pointwise interval, which resamples patients.
        high: upper end.
        share: of the evidence within reach of the boundary, members minus non-members, summed over voxels, how much
            lies at each distance, shape (K, D); NaN where the sum is not positive.
        n_patients: member and non-member patients.
        registered: the averaged map, or None if a side has fewer than ``min_cell`` patients.
        confidence: coverage of the intervals.
    """

    targets: tuple[str, ...]
    distances: Array
    labels: tuple[int, ...]
    members: Array
    nonmembers: Array
    difference: Array
    low: Array
    high: Array
    share: Array
    n_patients: tuple[int, int]
    registered: RegisteredMap | None
    confidence: float


@dataclass(frozen=True)
class LeakageMap:
    """How evidence is located.

    Attributes:
        reach: bins of the profile on each side of a boundary, one voxel wide each.
        margin: voxels of the crop around the largest structure.
        largest: edge of the crop, at most, voxels.
        min_cell: patients on a side of whom anything is shown, at least.
        resampling: of patients, for the intervals.
    """

    reach: int = 8
    margin: int = 4
    largest: int = 160
    min_cell: int = MIN_CELL
    resampling: Resampling = Resampling()

    def __post_init__(self) -> None:
        """Refuse options that no map could be made with."""
        for option, lowest in (("reach", 1), ("margin", 0), ("largest", 1), ("min_cell", 1)):
            if getattr(self, option) < lowest:
                raise InputError(f"{option} must be at least {lowest}, got {getattr(self, option)}.")

    @property
    def seed(self) -> int:
        """The seed of the resampling."""
        return self.resampling.seed

    def locate(
        self,
        table: SignalTable,
        targets: Sequence[str],
        shadows: Sequence[str],
        maps: Callable[[str, Sequence[str]], Maps],
        keep: Callable[[int, NDArray[np.float32]], None] | None = None,
    ) -> Leakage:
        """Find where the evidence of all targets lies.

        Args:
            table: the models' cases and members.
            targets: models to take for targets.
            shadows: the shadows, none of them a target.
            maps: gives the maps of a target and its shadows, cases in the order of the table.
            keep: is given each case's number and the evidence of the first target, shape (*spatial).

        Raises:
            InputError: no shadow, maps of masks, maps without references, or no foreground in any reference.
        """
        if not shadows:
            raise InputError("shadows must be at least 1 for a leakage map, got 0. Train some (--shadows).")
        views = [maps(target, shadows) for target in targets]
        if getattr(views[0], "release", "logits") == "mask":
            raise InputError("maps must be of logits or probabilities for a leakage map, got masks.")
        outside = ~np.stack([table.members(model) for model in shadows])
        member = np.stack([table.members(model) for model in targets])
        n_cases, bins = len(table.case_ids), 2 * self.reach
        labels, half = self._extent(views[0], n_cases)
        sums = np.zeros((len(targets), n_cases, len(labels), bins))
        counts = np.zeros((n_cases, len(labels), bins))
        registered = _Registered(half, member, table.patient_ids)
        for n in np.argsort(np.asarray(table.patient_ids), kind="stable").tolist():  # a patient's cases together
            masks = _labels(views[0].label(n), views[0].activation)
            evidence = np.stack([*_evidence(views, n, outside[:, n])])
            if keep is not None:
                keep(n, evidence[0].astype(np.float32))
            for k, label in enumerate(labels):
                if label in masks:
                    sums[:, n, k], counts[n, k] = distance_profile(evidence, masks[label], self.reach)
            registered.add(n, evidence, masks)
        return self._summary(table, targets, labels, member, sums, counts, registered)

    def _extent(self, view: Maps, n_cases: int) -> tuple[list[int], NDArray[np.int64]]:
        """The foreground labels, and half the edges of a crop that holds every structure and a margin."""
        labels: set[int] = set()
        half: NDArray[np.int64] | None = None
        for n in range(n_cases):
            masks = _labels(view.label(n), view.activation)
            if masks:
                labels |= set(masks)
                mask = _structure(masks)
                reach = abs(np.argwhere(mask) - _centre(mask)).max(axis=0)
                half = reach if half is None else np.maximum(half, reach)
        if half is None:
            raise InputError("references must hold a foreground label for a leakage map, got none.")
        return sorted(labels), np.minimum(half + self.margin, (self.largest - 1) // 2)

    def _summary(
        self,
        table: SignalTable,
        targets: Sequence[str],
        labels: Sequence[int],
        member: NDArray[np.bool_],
        sums: Array,
        counts: Array,
        registered: _Registered,
    ) -> Leakage:
        groups = table.patient_ids
        inside = statistics.means_by_group(member, groups) > 0.5
        # A patient's mean over all voxels at a distance, their cases together.
        voxels = np.moveaxis(statistics.means_by_group(np.moveaxis(counts, 0, -1), groups), -1, 0)
        total = np.moveaxis(statistics.means_by_group(np.moveaxis(sums, 1, -1), groups), -1, 1)
        known = voxels > 0
        values = np.where(known, total / np.where(known, voxels, 1.0), 0.0)  # (T, U, K, D)
        n = inside.shape[1]
        rng = stream(Stream.LEAKAGE_RESAMPLES, self.seed)
        drawn = self.resampling.counts(rng, n).astype(np.float64)
        weights = np.repeat(drawn[:, None], len(targets), axis=1)
        once = np.ones((1, *inside.shape))
        shape = (len(labels), 2 * self.reach)
        members, nonmembers, low, high, share = (np.full(shape, np.nan) for _ in range(5))
        for k, d in np.ndindex(shape):
            sides = [side & known[:, k, d] for side in (inside, ~inside)]
            if min(int(side.any(axis=0).sum()) for side in sides) < self.min_cell:
                continue
            means = [float(statistics.resampled_means(values[:, :, k, d], side, once)[0]) for side in sides]
            members[k, d], nonmembers[k, d] = means
            samples = [statistics.resampled_means(values[:, :, k, d], side, weights) for side in sides]
            low[k, d], high[k, d] = self.resampling.interval(samples[0] - samples[1])
            amounts = [float(statistics.resampled_means(total[:, :, k, d], s, once)[0]) for s in (inside, ~inside)]
            share[k, d] = amounts[0] - amounts[1]
        all_ = np.nansum(share, axis=1, keepdims=True)
        share = np.where(all_ > 0, share / np.where(all_ > 0, all_, 1.0), np.nan)
        n_sides = int(inside.any(axis=0).sum()), int((~inside).any(axis=0).sum())
        return Leakage(
            targets=tuple(targets),
            distances=np.arange(2.0 * self.reach) - self.reach + 0.5,
            labels=tuple(labels),
            members=members,
            nonmembers=nonmembers,
            difference=members - nonmembers,
            low=low,
            high=high,
            share=share,
            n_patients=n_sides,
            registered=registered.difference(self.min_cell) if min(n_sides) >= self.min_cell else None,
            confidence=self.resampling.confidence,
        )


def log_likelihoods(values: ArrayLike, label: NDArray[np.uint8], activation: str = "softmax") -> Array:
    """Log-likelihood of the reference at each voxel, nats, clipped at 1e-12.

    Args:
        values: logits, shape (C, *spatial).
        label: the reference, shape (1, *spatial) with ``softmax``, (C, *spatial) with ``sigmoid``.
        activation: with ``sigmoid`` channels are averaged.

    Returns:
        Shape (*spatial), at most 0.
    """
    logits = np.asarray(values, dtype=np.float64)
    if activation == "sigmoid":
        likely = special.log_expit(np.where(label > 0, logits, -logits))
        return np.asarray(np.maximum(likely, _FLOOR).mean(axis=0))
    likely = np.take_along_axis(special.log_softmax(logits, axis=0), label.astype(np.int64), axis=0)[0]
    return np.asarray(np.maximum(likely, _FLOOR))


def signed_distance(mask: ArrayLike) -> Array:
    """Euclidean distance of each voxel's centre to the mask's boundary, voxels, negative inside.

    The boundary lies half a voxel from the centres beside it. The edge of the volume is no boundary; without one (an
    empty or a full mask) distances are infinite.

    Example:
        >>> signed_distance([0, 0, 1, 1, 1]).tolist()
        [1.5, 0.5, -0.5, -1.5, -2.5]
    """
    inside = np.asarray(mask, dtype=bool)
    if not inside.any() or inside.all():
        return np.full(inside.shape, np.inf if not inside.any() else -np.inf)
    outer = ndimage.distance_transform_edt(~inside) - 0.5
    inner = 0.5 - ndimage.distance_transform_edt(inside)
    return np.where(inside, inner, outer)


def distance_profile(evidence: Array, mask: ArrayLike, reach: int) -> tuple[Array, Array]:
    """Sum of the evidence, and number of voxels, in each bin of signed distance to a mask's boundary.

    Args:
        evidence: of each target, shape (T, *spatial).
        mask: the structure, shape (*spatial).
        reach: bins on each side, one voxel wide each.

    Returns:
        Shape (T, 2 * reach) and (2 * reach,), from the innermost bin outwards.
    """
    place = _bins(signed_distance(mask), reach)
    kept = place >= 0
    member = (place[kept] == np.arange(2 * reach)[:, None]).astype(np.float64)
    return np.asarray(evidence[:, kept] @ member.T), member.sum(axis=1)


def _bins(distance: Array, reach: int) -> NDArray[np.int64]:
    """Number of each voxel's bin; -1 beyond reach."""
    near = abs(distance) < reach
    return np.where(near, np.floor(np.where(near, distance, 0)).astype(np.int64) + reach, -1)


def _labels(label: NDArray[np.uint8], activation: str) -> dict[int, NDArray[np.bool_]]:
    """The mask of each foreground label that a reference holds; with sigmoid each channel is one."""
    if activation == "sigmoid":
        return {k + 1: channel > 0 for k, channel in enumerate(label) if channel.any()}
    return {int(value): label[0] == value for value in np.unique(label[0]) if value > 0}


def _evidence(views: Sequence[Maps], case: int, outside: NDArray[np.bool_]) -> Iterator[Array]:
    """Evidence of each target about a case; where no shadow left it out, all stand in."""
    label, activation = views[0].label(case), views[0].activation
    chosen = np.flatnonzero(outside) if outside.any() else np.arange(len(outside))
    mean = sum(log_likelihoods(views[0].shadow(int(m), case), label, activation) for m in chosen) / len(chosen)
    for view in views:
        yield log_likelihoods(view.target(case), label, activation) - mean


def _structure(masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.asarray(np.any([*masks.values()], axis=0))


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.rint(ndimage.center_of_mass(mask)).astype(np.int64)


class _Registered:
    """Sums of the evidence in crops about the centre of mass, of members and of non-members, by patient."""

    def __init__(self, half: NDArray[np.int64], member: NDArray[np.bool_], patient_ids: Sequence[str]) -> None:
        shape = tuple(int(2 * edge + 1) for edge in half)
        self.half = half
        self.member = member
        self.patients = np.asarray(patient_ids)
        counts = {patient: int((self.patients == patient).sum()) for patient in set(patient_ids)}
        self.weight = np.array([1 / counts[patient] for patient in patient_ids])  # a patient's cases count as one
        self.sums, self.weights = np.zeros((2, *shape)), np.zeros((2, *shape))
        self.seen = np.zeros((2, *shape), dtype=np.int64)
        self.structure, self.crops = np.zeros(shape), np.zeros(shape)
        self._patient = ""
        self._known = np.zeros((2, *shape), dtype=bool)  # where this patient was seen

    def add(self, case: int, evidence: Array, masks: Mapping[int, NDArray[np.bool_]]) -> None:
        """Add a case, those of a patient one after the other: the evidence of each target, shape (T, *spatial)."""
        if not masks:
            return
        mask = _structure(masks)
        start = _centre(mask) - self.half
        shape = self.structure.shape
        low, high = np.maximum(start, 0), np.minimum(start + shape, mask.shape)
        here = tuple(slice(*edge) for edge in zip(low, high, strict=True))
        there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        weight = self.weight[case]
        self.structure[there] += weight * mask[here]
        self.crops[there] += weight
        covered = np.zeros(shape, dtype=bool)
        covered[there] = True
        if self._patient != str(self.patients[case]):
            self._patient, self._known[:] = str(self.patients[case]), False
        for t, values in enumerate(evidence):
            side = 0 if self.member[t, case] else 1
            self.sums[side][there] += weight * values[here]
            self.weights[side][there] += weight
            self.seen[side] += covered & ~self._known[side]
            self._known[side] |= covered

    def difference(self, min_cell: int) -> RegisteredMap:
        """Members minus non-members, where enough patients of each side were seen."""
        shown = (self.seen >= min_cell).all(axis=0)
        means = self.sums / np.where(self.weights > 0, self.weights, 1.0)
        share = self.structure / np.where(self.crops > 0, self.crops, 1.0)
        return RegisteredMap(np.where(shown, means[0] - means[1], np.nan), np.where(shown, share, np.nan))
