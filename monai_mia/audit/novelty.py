# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether generated scans are new and varied: no copies of training scans, and no copies of each other.

A scan is reduced to a coarse, standardised image and its foreground; the distance of two scans is the root mean square
of their difference. All distances are judged by those between real scans of different patients.

What is not tested: whether scans are realistic, whether their references fit them, whether parts of a scan are copied
(a lesion, a texture), and whether a copy is turned or moved further than a voxel of the coarse grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, clopper_pearson

__all__ = ["GeneratorResult", "Novelty", "Variety", "check_generator", "check_variety", "scan_features"]

Array = NDArray[np.float64]

#: A scan this much closer to a training scan than unseen patients' scans are is a copy. The mean of many scans, the
#: closest to all of them that is close to none in particular, lies at 0.71 (1 / sqrt 2) of the distance between two.
COPY = 0.5

#: Scans that differ this little, of what real ones differ, are near-identical.
COLLAPSE = 0.25


@dataclass(frozen=True)
class Variety:
    """How much scans differ from each other, as a share of what real scans of different patients do.

    Attributes:
        diversity: ratio of the median distances between two scans; 0: all are the same.
        nearest: ratio of the median distances to the most similar other scan; 0: each has a twin.
        collapsed: whether one of them is below :data:`COLLAPSE`.
    """

    diversity: float
    nearest: float
    collapsed: bool


@dataclass(frozen=True)
class Novelty:
    """What was found about generated scans.

    Attributes:
        distance: of each generated scan to the most similar training scan, in any mirroring, shape (N,).
        index: of that training scan, shape (N,).
        reference: distances of real scans to the most similar training scan of another patient, shape (K,).
        from_held_out: whether the real scans are unseen patients'; otherwise they are the training scans themselves.
        copy: whether a scan is a copy: its distance is below :data:`COPY` of the reference's median, shape (N,).
        variety: of the generated scans.
    """

    distance: Array
    index: NDArray[np.int64]
    reference: Array
    from_held_out: bool
    copy: NDArray[np.bool_]
    variety: Variety

    @property
    def closeness(self) -> Array:
        """The distances as a share of the reference's median, shape (N,)."""
        return self.distance / float(np.median(self.reference))

    def share_of_copies(self, confidence: float = 0.95) -> Estimate:
        """The share of copies with its exact interval."""
        count = int(self.copy.sum())
        return Estimate(count / len(self.copy), *clopper_pearson(count, len(self.copy), confidence))


def scan_features(image: NDArray[np.generic], label: NDArray[np.generic], edge: int = 16) -> Array:
    """A scan on a coarse grid, free of the scale of its intensities.

    Args:
        image: shape (*spatial), any unit.
        label: integers of the same shape; all but 0 is foreground.
        edge: of the coarse grid, voxels, at least 2.

    Returns:
        Shape (2, edge, ...): the image, of mean 0 and variance 1 (0 where it is constant), and the foreground as a
        share of each voxel.

    Raises:
        InputError: the shapes differ, or a value is not finite.
    """
    if image.shape != label.shape:
        raise InputError(f"image and label must have the same shape, got {image.shape} and {label.shape}.")
    if not np.isfinite(np.asarray(image, float)).all():
        raise InputError("image must be finite, got values that are not.")
    coarse = _coarse(np.asarray(image, float), edge)
    spread = coarse.std()
    scale = np.abs(coarse).max() * 1e-9
    standardised = (coarse - coarse.mean()) / spread if spread > scale else np.zeros_like(coarse)
    return np.stack([standardised, _coarse((np.asarray(label) > 0).astype(float), edge)])


def check_generator(
    generated: Array, training: Array, patients: Sequence[str], held_out: Array | None = None
) -> Novelty:
    """Look for copies of training scans, in any mirroring, and for scans that are copies of each other.

    Args:
        generated: features of generated scans, shape ``(N, channels, *grid)``, N at least 2.
        training: of the scans that the generator was trained on, shape ``(M, channels, *grid)``.
        patients: whose they are, M of them, at least 2 different ones.
        held_out: of real scans of other patients, shape ``(K, channels, *grid)``; without them the training scans are
            compared with each other, each with those of other patients.

    Raises:
        InputError: there are too few scans or patients.
    """
    owners = np.asarray(patients)
    variety = check_variety(generated, training, patients)
    mirrored = _mirrored(training)
    found = NearestNeighbors(n_neighbors=1).fit(mirrored.reshape(len(mirrored), -1))
    distances, indices = found.kneighbors(generated.reshape(len(generated), -1))
    scale = np.sqrt(generated[0].size)
    known = held_out is not None and len(held_out) > 0
    if held_out is not None and known:
        reference = found.kneighbors(held_out.reshape(len(held_out), -1))[0][:, 0]
    else:
        apart = pairwise_distances(training.reshape(len(training), -1), mirrored.reshape(len(mirrored), -1))
        own = owners[:, None] == np.tile(owners, len(mirrored) // len(training))
        reference = np.where(own, np.inf, apart).min(axis=1)
    distance, reference = distances[:, 0] / scale, reference / scale
    return Novelty(
        distance=distance,
        index=(indices[:, 0] % len(training)).astype(np.int64),
        reference=reference,
        from_held_out=bool(known),
        copy=distance < COPY * np.median(reference),
        variety=variety,
    )


def check_variety(scans: Array, real: Array, patients: Sequence[str]) -> Variety:
    """Compare how much scans differ from each other with how much real ones of different patients do.

    Args:
        scans: features, shape ``(N, channels, *grid)``, N at least 2.
        real: features of real scans, shape ``(M, channels, *grid')``.
        patients: whose they are, M of them, at least 2 different ones.
    """
    owners = np.asarray(patients)
    if len(scans) < 2:
        raise InputError(f"scans must be at least 2 to tell whether they differ, got {len(scans)}.")
    if len(owners) != len(real) or len(set(owners.tolist())) < 2:
        raise InputError(
            f"real scans must be of at least 2 patients, each scan with its own, got {len(real)} scans of "
            f"{len(set(owners.tolist()))}."
        )
    typical, nearest = _apart(real, owners)
    found = _apart(scans, np.arange(len(scans)))
    # Real scans that are all the same could not judge any others.
    if nearest <= 0:
        raise InputError("real scans must differ between patients, got the same ones.")
    diversity, twins = found[0] / typical, found[1] / nearest
    return Variety(diversity, twins, min(diversity, twins) < COLLAPSE)


def _coarse(volume: Array, edge: int) -> Array:
    factors = [edge / size for size in volume.shape]
    # Finer structures than the coarse grid's are averaged first, as a voxel would.
    smooth = gaussian_filter(volume, [0.5 / factor if factor < 1 else 0.0 for factor in factors], mode="nearest")
    return np.asarray(zoom(smooth, factors, order=1, mode="nearest", grid_mode=True))


def _mirrored(scans: Array) -> Array:
    """All mirrorings of all scans: first as they are, all of them, then mirrored along one axis, and so on."""
    axes = range(2, scans.ndim)
    chosen = [[axis for axis, use in zip(axes, uses, strict=True) if use] for uses in product((0, 1), repeat=len(axes))]
    return np.concatenate([np.flip(scans, tuple(some)) for some in chosen])


def _apart(scans: Array, owners: NDArray[np.generic]) -> tuple[float, float]:
    """Median distances between scans of different owners, and to the nearest of another owner."""
    flat = scans.reshape(len(scans), -1)
    distances = pairwise_distances(flat) / np.sqrt(flat.shape[1])
    other = owners[:, None] != owners[None]
    return float(np.median(distances[other])), float(np.median(np.where(other, distances, np.inf).min(axis=1)))


@dataclass(frozen=True)
class GeneratorResult:
    """What a generator makes.

    Attributes:
        kind: of generator.
        spatial_dims: of a scan.
        n_labels: number of classes, background included.
        epochs: of the training.
        training_scans: how many.
        patients: whose they are.
        scans: how many were drawn.
        novelty: whether they are new and varied.
        drawn_volumes: of each class but the background, its mean share of a drawn scan's voxels.
        real_volumes: the same of training scans.
        patients_assumed: how many of the patients are no more than assumed, one a scan.
    """

    kind: str
    spatial_dims: int
    n_labels: int
    epochs: int
    training_scans: int
    patients: int
    scans: int
    novelty: Novelty
    drawn_volumes: tuple[float, ...]
    real_volumes: tuple[float, ...]
    patients_assumed: int = 0
