# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Of what use a release is: distances of surfaces, and calibration, as signals beside the Dice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from monai.metrics import CalibrationErrorMetric, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.signals.release import Release

__all__ = ["Calibration", "Utility"]


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
        values, reference, predicted, true = _compared(release, label)
        found = {
            "negative_hd95": -self._hausdorff(predicted, true),
            "surface_dice": self._surface_dice(predicted, true),
        }
        if release.kind != "mask":
            error, over = self._calibration(release, values, reference, predicted, true)
            found |= {"negative_calibration_error": -error, "negative_overconfidence": -over}
        return found

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
        """Expected calibration error and overconfidence error of the foreground."""
        confidence, right = _confidence(release, values, reference, predicted, true)
        found = _calibration_errors(*_within(_foreground(predicted, true), confidence, right), self.bins)
        return found[0], found[2]


@dataclass(frozen=True)
class Calibration:
    """How well probabilities tell how often the model is right, of one release; higher = better, as every signal.

    ============================================  ===============================================================
    ``negative_calibration_error``                minus the expected calibration error (ECE) of the predicted class, in
                                                  [-1, 0]: mean over voxels of how far their bin's
                                                  confidence is from its accuracy
    ``negative_average_calibration_error``        minus the average one (ACE): mean over bins that hold a voxel
    ``negative_overconfidence``                   minus the mean over voxels of confidence times (confidence - accuracy)
                                                  of their bin, where that is positive
    ``negative_class_calibration_error``          minus MONAI's average calibration error of each foreground label's
                                                  probability over the whole volume, mean over labels
    ============================================  ===============================================================

    The first three are of voxels that are foreground in the reference or the prediction (all, if none is), and again,
    with ``_volume`` at the end, of all voxels, most of which are background that no model is in doubt about. A mask has
    no calibration, and none of them is given. Access: probabilities+label.

    Source: :class:`monai.metrics.CalibrationErrorMetric` (Barfoot et al. 2025) for classes; `Guo et al. (2017)
    <https://arxiv.org/abs/1706.04599>`_, `Thulasidasan et al. (2019) <https://arxiv.org/abs/1905.11001>`_.

    Attributes:
        bins: of the confidence, equally wide.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        """Refuse options that measure nothing."""
        if self.bins < 1:
            raise InputError(f"bins must be at least 1, got {self.bins}.")

    def __call__(self, release: Release, label: Tensor | None) -> dict[str, float]:
        """The signals of one case.

        Args:
            release: what left the model.
            label: the reference; class indices (1, *spatial) for softmax, 0 or 1 (C, *spatial) for sigmoid.
        """
        if label is None:
            raise InputError("label must be given for Calibration, got None.")
        if release.kind == "mask":
            return {}
        values, reference, predicted, true = _compared(release, label)
        confidence, right = _confidence(release, values, reference, predicted, true)
        region = _foreground(predicted, true)
        found: dict[str, float] = {}
        for ending, where in (("", region), ("_volume", torch.ones_like(region))):
            errors = _calibration_errors(*_within(where, confidence, right), self.bins)
            names = ("calibration_error", "average_calibration_error", "overconfidence")
            found |= {f"negative_{name}{ending}": -error for name, error in zip(names, errors, strict=True)}
        softmax = release.activation == "softmax"
        p = _probabilities(release, values)[1:] if softmax else _probabilities(release, values)
        metric = CalibrationErrorMetric(self.bins, calibration_reduction="average")
        metric(p[None], true[None].float())
        return {**found, "negative_class_calibration_error": -float(metric.aggregate())}


def _compared(release: Release, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of a release, the reference on its device, and the masks of both by label."""
    values = release.values.float()
    reference = label.to(values.device)
    return values, reference, _masks(release, values), _labels(reference, release)


def _probabilities(release: Release, values: Tensor) -> Tensor:
    if release.kind == "probabilities":
        return values
    return values.softmax(0) if release.activation == "softmax" else values.sigmoid()


def _confidence(
    release: Release, values: Tensor, reference: Tensor, predicted: Tensor, true: Tensor
) -> tuple[Tensor, Tensor]:
    """Probability of what is predicted, and whether that is right; (1 or labels, *spatial) each."""
    p = _probabilities(release, values)
    if release.activation == "softmax":
        confidence, best = p.max(0, keepdim=True)
        return confidence, best == reference[:1]
    return torch.maximum(p, 1 - p), predicted == true


def _foreground(predicted: Tensor, true: Tensor) -> Tensor:
    """Voxels that are foreground in either, all if none is; shape (*spatial)."""
    region = (predicted | true).any(0)
    return region if region.any() else torch.ones_like(region)


def _within(region: Tensor, confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return confidence[:, region].flatten(), right[:, region].flatten()


def _calibration_errors(confidence: Tensor, right: Tensor, n_bins: int) -> tuple[float, float, float]:
    """Expected and average calibration error, and overconfidence error, of voxels (K,)."""
    bins = (confidence.double() * n_bins).long().clamp(0, n_bins - 1)
    count = torch.bincount(bins, minlength=n_bins).double()
    some = count > 0
    count = count[some]
    mean = torch.bincount(bins, confidence.double(), n_bins)[some] / count
    excess = mean - torch.bincount(bins, right.double(), n_bins)[some] / count
    share = count / count.sum()
    return (
        float((share * excess.abs()).sum()),
        float(excess.abs().mean()),
        float((share * mean * excess.clamp(min=0)).sum()),
    )


def _masks(release: Release, values: Tensor) -> Tensor:
    """Predicted labels, background left out, bool, shape (labels, *spatial)."""
    if release.activation == "sigmoid":
        return values > (0 if release.kind == "logits" else 0.5)
    index = values if release.kind == "mask" else values.max(0, keepdim=True).indices  # argmax is ten times slower
    return _labels(index, release)


def _labels(index: Tensor, release: Release) -> Tensor:
    """Foreground labels, bool, shape (labels, *spatial)."""
    if release.activation == "sigmoid":
        return index > 0
    classes = torch.arange(1, release.classes, device=index.device)
    return index[:1] == classes.view(-1, *[1] * (index.ndim - 1))
