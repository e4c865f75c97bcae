# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Of what use a release is: distances of surfaces, and calibration, as signals beside the Dice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.signals import Release

__all__ = ["Utility"]


@dataclass(frozen=True)
class Utility:
    """What a user of the model cares for, beside the Dice, of one release; higher = better, as every signal.

    ==============================  =============================================================================
    ``negative_hd95``               minus the 95th percentile of the Hausdorff distance, voxels, mean over labels; minus
                                    the diagonal of the volume where only one of prediction and reference is empty
    ``surface_dice``                share of both surfaces within ``tolerance`` of each other, in [0, 1], mean over
                                    labels
    ``negative_calibration_error``  minus the expected calibration error of the predicted class, in [-1, 0], of voxels
                                    that are foreground in the reference or the prediction (all, if none is)
    ``negative_overconfidence``     minus the mean of confidence times its excess over the accuracy, same voxels and
                                    bins
    ==============================  =============================================================================

    A mask has no calibration: the last two are then left out. Access: mask+label; probabilities+label for the last two.
    Source: MONAI's surface metrics; calibration error as `Guo et al. (2017) <https://arxiv.org/abs/1706.04599>`_,
    overconfidence error as `Thulasidasan et al. (2019) <https://arxiv.org/abs/1905.11001>`_.

    Attributes:
        tolerance: of the surface Dice, voxels.
        bins: of the confidence, equally wide.
    """

    tolerance: float = 1.0
    bins: int = 15

    def __post_init__(self) -> None:
        """Refuse options that measure nothing."""
        if not self.tolerance >= 0:
            raise InputError(f"tolerance must be at least 0 voxels, got {self.tolerance}.")
        if self.bins < 1:
            raise InputError(f"bins must be at least 1, got {self.bins}.")

    def __call__(self, release: Release, label: Tensor | None) -> dict[str, float]:
        """The signals of one case.

        Args:
            release: what left the model.
            label: the reference; class indices (1, *spatial) for softmax, 0 or 1 (C, *spatial) for sigmoid.
        """
        if label is None:
            raise InputError("label must be given for Utility, got None.")
        values = release.values.float()
        reference = label.to(values.device)
        predicted, true = self._masks(release, values), _labels(reference, release)
        found = {
            "negative_hd95": -self._hausdorff(predicted, true),
            "surface_dice": self._surface_dice(predicted, true),
        }
        if release.kind != "mask":
            error, over = self._calibration(release, values, reference, predicted, true)
            found |= {"negative_calibration_error": -error, "negative_overconfidence": -over}
        return found

    @staticmethod
    def _masks(release: Release, values: Tensor) -> Tensor:
        """Predicted labels, background left out, bool, shape (labels, *spatial)."""
        if release.activation == "sigmoid":
            return values > (0 if release.kind == "logits" else 0.5)
        index = values if release.kind == "mask" else values.argmax(0, keepdim=True)
        return _labels(index, release)

    def _hausdorff(self, predicted: Tensor, true: Tensor) -> float:
        """Mean over labels, voxels; a label that is in neither counts 0."""
        diagonal = math.sqrt(sum(size**2 for size in predicted.shape[1:]))
        distances = []
        for one, two in zip(predicted, true, strict=True):
            if one.any() and two.any():
                found = compute_hausdorff_distance(
                    one[None, None], two[None, None], include_background=True, percentile=95
                )
                distances.append(float(found))
            else:
                distances.append(diagonal if one.any() or two.any() else 0.0)
        return sum(distances) / len(distances)

    def _surface_dice(self, predicted: Tensor, true: Tensor) -> float:
        """Mean over labels; 1 for a label that is in neither, 0 for one that is in one of them."""
        shares = []
        for one, two in zip(predicted, true, strict=True):
            if one.any() and two.any():
                found = compute_surface_dice(
                    one[None, None], two[None, None], class_thresholds=[self.tolerance], include_background=True
                )
                shares.append(float(found))
            else:
                shares.append(0.0 if one.any() or two.any() else 1.0)
        return sum(shares) / len(shares)

    def _calibration(
        self, release: Release, values: Tensor, reference: Tensor, predicted: Tensor, true: Tensor
    ) -> tuple[float, float]:
        """Expected calibration error and overconfidence error."""
        region = (predicted | true).any(0)
        if not region.any():
            region = torch.ones_like(region)
        if release.activation == "softmax":
            p = values.softmax(0) if release.kind == "logits" else values
            confidence, best = p.max(0)
            right = best == reference[0]
            confidence, right = confidence[region], right[region]
        else:
            p = values.sigmoid() if release.kind == "logits" else values
            confidence, right = torch.maximum(p, 1 - p)[:, region].flatten(), (predicted == true)[:, region].flatten()
        bins = (confidence.double() * self.bins).long().clamp(0, self.bins - 1)
        count = torch.bincount(bins, minlength=self.bins).double()
        mean_confidence = torch.bincount(bins, confidence.double(), self.bins) / count.clamp(min=1)
        accuracy = torch.bincount(bins, right.double(), self.bins) / count.clamp(min=1)
        share, excess = count / count.sum(), mean_confidence - accuracy
        return float((share * excess.abs()).sum()), float((share * mean_confidence * excess.clamp(min=0)).sum())


def _labels(index: Tensor, release: Release) -> Tensor:
    """Foreground labels, bool, shape (labels, *spatial)."""
    if release.activation == "sigmoid":
        return index > 0
    classes = torch.arange(1, release.classes, device=index.device)
    return index[:1] == classes.view(-1, *[1] * (index.ndim - 1))
