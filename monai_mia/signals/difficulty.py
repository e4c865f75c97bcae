# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A signal that no model is asked for: how easily a case's reference follows from its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from monai.networks.layers import GaussianFilter
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.signals.release import CLIP, Release

__all__ = ["Predictability"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predictability:
    """How easily a case's reference follows from its image: ``predictability``, one number a case, without a model.

    A logistic regression of a voxel's label on its intensity, its intensity after Gaussian smoothing, and its
    coordinates and their squares, is fitted to one part of the case's voxels; the signal is its mean log-likelihood on
    the others. Subtracted from a model's ``log_likelihood`` it leaves what the difficulty of the case does not explain.

    Voxels are drawn alike from every label, and weighted back to the volume. ``predictability_foreground`` is the mean
    over the foreground of the reference (over the volume if it is empty). With sigmoid each channel is regressed alone,
    and channels are averaged. A label that all fitted voxels share is predicted by the rule of succession.

    Nats, at most 0; higher = easier. It is the same for every model, so it cannot be calibrated by shadows, and ranks
    members no better than the images alone do.

    Access: mask+label. Source: the predictability error of `Shafran et al. (2021) <https://arxiv.org/abs/2102.07762>`_
    (a linear regression on 70 % of an image's pixels, tested on 30 %), for labels instead of colours, and with smoothed
    intensities instead of a network's features.

    Attributes:
        n_voxels: voxels drawn from a case.
        held_out: share of them that the regression is tested on.
        scales: standard deviations of the smoothing, in voxels.
        seed: seed of the drawing.
    """

    n_voxels: int = 3000
    held_out: float = 0.3
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self) -> None:
        """Refuse options that leave nothing to fit or to test."""
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out must be in (0, 1), got {self.held_out}.")
        if self.n_voxels < 100:
            raise InputError(f"n_voxels must be at least 100, got {self.n_voxels}.")

    def __call__(self, release: Release, label: Tensor | None, *, image: Tensor) -> dict[str, float]:
        """The two signals of one case; of the release only the activation counts.

        Args:
            release: what left the model.
            label: the reference; class indices (1, *spatial) for softmax, 0 or 1 (C, *spatial) for sigmoid.
            image: shape (channels, *spatial).
        """
        if label is None:
            raise InputError("label must be given for Predictability, got None.")
        if image.shape[1:] != label.shape[1:]:
            raise InputError(f"image must have the label's shape {(*label.shape[1:],)}, got {(*image.shape[1:],)}.")
        softmax = release.activation == "softmax"
        labels = label.to(image.device).flatten(1)
        labels = labels.long() if softmax else (labels > 0).long()
        voxels, weights, tested = self._draw(labels.amax(0))
        features = self._features(image, voxels)
        features = (features - features[~tested].mean(0)) / features[~tested].std(0).clip(1e-6)
        found = np.mean(
            [
                _tested_likelihood(features, channel[voxels].cpu().numpy(), weights, tested)
                for channel in labels
            ],
            axis=0,
        )  # fmt: skip
        foreground = (labels[:, voxels] > 0).any(0).cpu().numpy()[tested]
        weights = weights[tested]
        region = foreground if foreground.any() else np.ones_like(foreground)
        return {
            "predictability": float(np.average(found, weights=weights)),
            "predictability_foreground": float(np.average(found[region], weights=weights[region])),
        }

    def _draw(self, stratum: Tensor) -> tuple[Tensor, Array, NDArray[np.bool_]]:
        """Voxels from each stratum, the voxels that each stands for, and whether it is tested on."""
        rng = torch.Generator().manual_seed(self.seed)
        present = torch.bincount(stratum).nonzero()[:, 0].tolist()
        drawn, weights, tested = [], [], []
        for value in present:
            voxels = (stratum == value).nonzero()[:, 0]
            n = min(len(voxels), max(10, self.n_voxels // len(present)))
            order = torch.randperm(len(voxels), generator=rng)[:n]
            test = np.arange(n) < int(self.held_out * n)
            drawn.append(voxels[order.to(voxels.device)])
            weights.append(np.where(test, len(voxels) / max(1, test.sum()), len(voxels) / (~test).sum()))
            tested.append(test)
        return torch.cat(drawn), np.concatenate(weights), np.concatenate(tested)

    def _features(self, image: Tensor, voxels: Tensor) -> Array:
        """Intensities, smoothed intensities, coordinates and their squares, shape (V, features)."""
        spatial = image.shape[1:]
        image = image.float()
        columns = [image.flatten(1)[:, voxels]]
        for scale in self.scales:
            smooth = GaussianFilter(len(spatial), scale).to(image.device)(image[None])[0]
            columns.append(smooth.flatten(1)[:, voxels])
        places = torch.stack(torch.unravel_index(voxels, spatial)).float()
        places = places / torch.tensor(spatial, device=image.device)[:, None] - 0.5
        features: Array = torch.cat([*columns, places, places**2]).T.double().cpu().numpy()
        return features


def _tested_likelihood(features: Array, labels: NDArray[np.int64], weights: Array, tested: NDArray[np.bool_]) -> Array:
    """Log-likelihood of the labels of the tested voxels under a regression fitted to the others."""
    fitted, wanted = labels[~tested], labels[tested]
    if (fitted == fitted[0]).all():
        n = len(fitted)
        likelihood: Array = np.log(np.where(wanted == fitted[0], n + 1, 1) / (n + 2))
        return likelihood
    weights = weights[~tested] / weights[~tested].mean()
    model = LogisticRegression(max_iter=200).fit(features[~tested], fitted, weights)
    probabilities = model.predict_proba(features[tested])
    index = np.searchsorted(model.classes_, wanted)
    likelihood = np.log(np.clip(probabilities[np.arange(len(wanted)), index], CLIP, 1))
    return likelihood
