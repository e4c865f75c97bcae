# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Voxel maps as MONAI transforms: where a prediction fits, and how sure it is.

Each map exists as an array transform and as a dictionary transform (``LossMapd`` with its aliases ``LossMapD`` and
``LossMapDict``), usable in the postprocessing of any bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_mia import signals
from monai_mia.errors import InputError
from monai_mia.signals.release import Release

__all__ = [
    "EntropyMap",
    "EntropyMapD",
    "EntropyMapDict",
    "EntropyMapd",
    "LogOddsMap",
    "LogOddsMapD",
    "LogOddsMapDict",
    "LogOddsMapd",
    "LossMap",
    "LossMapD",
    "LossMapDict",
    "LossMapd",
    "MarginMap",
    "MarginMapD",
    "MarginMapDict",
    "MarginMapd",
    "MaximumProbabilityMap",
    "MaximumProbabilityMapD",
    "MaximumProbabilityMapDict",
    "MaximumProbabilityMapd",
    "VoxelMap",
    "VoxelMapd",
]

Kind = Literal["logits", "probabilities"]
Activation = Literal["softmax", "sigmoid"]


class VoxelMap(Transform):
    """Base of the array transforms: a prediction, and the reference if the map needs it, to one value a voxel.

    Args:
        release: whether predictions are ``logits`` or ``probabilities``.
        activation: ``softmax`` or ``sigmoid``.
    """

    needs_label = False

    def __init__(self, release: Kind = "logits", activation: Activation = "softmax") -> None:
        self.release = release
        self.activation = activation

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """The map of a release, shape (*spatial)."""
        raise NotImplementedError

    def __call__(self, prediction: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute the map.

        Args:
            prediction: shape (C, *spatial).
            label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid.

        Returns:
            Shape (1, *spatial), with the affine and meta data of the prediction if it has any.
        """
        if self.needs_label and label is None:
            raise InputError(f"label must be given for {type(self).__name__}, got None.")
        plain = convert_to_tensor(prediction, track_meta=False)
        reference = None if label is None else convert_to_tensor(label, track_meta=False)
        result = self.map(Release(plain, self.release, self.activation), reference)[None]
        return MetaTensor(result, meta=prediction.meta) if isinstance(prediction, MetaTensor) else result


class LossMap(VoxelMap):
    """Cross-entropy at each voxel, nats, float32, at least 0 (He et al. 2020: structured loss map)."""

    needs_label = True

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """Minus :func:`~monai_mia.signals.log_likelihood_map`."""
        assert label is not None
        return -signals.log_likelihood_map(release, label)


class LogOddsMap(VoxelMap):
    """Log-odds of the reference at each voxel, nats, float64 (:func:`~monai_mia.signals.log_odds_map`)."""

    needs_label = True

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """See :func:`~monai_mia.signals.log_odds_map`."""
        assert label is not None
        return signals.log_odds_map(release, label)


class EntropyMap(VoxelMap):
    """Entropy of the prediction at each voxel, nats (:func:`~monai_mia.signals.entropy_map`)."""

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """See :func:`~monai_mia.signals.entropy_map`."""
        return signals.entropy_map(release)


class MaximumProbabilityMap(VoxelMap):
    """Probability of the predicted class at each voxel (:func:`~monai_mia.signals.maximum_probability_map`)."""

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """See :func:`~monai_mia.signals.maximum_probability_map`."""
        return signals.maximum_probability_map(release)


class MarginMap(VoxelMap):
    """Probability of the first minus the second class at each voxel (:func:`~monai_mia.signals.margin_map`)."""

    def map(self, release: Release, label: Tensor | None) -> Tensor:
        """See :func:`~monai_mia.signals.margin_map`."""
        return signals.margin_map(release)


class VoxelMapd(MapTransform):
    """Base of the dictionary transforms: write the map of each prediction to a key of its own.

    Args:
        keys: keys of the predictions.
        label_key: key of the reference; unused by maps that need none.
        output_postfix: the map of ``pred`` is written to ``pred_<output_postfix>``.
        release: whether predictions are ``logits`` or ``probabilities``.
        activation: ``softmax`` or ``sigmoid``.
        allow_missing_keys: whether a missing prediction is passed over.
    """

    transform: Callable[..., VoxelMap]
    postfix = "map"

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        output_postfix: str | None = None,
        release: Kind = "logits",
        activation: Activation = "softmax",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.output_postfix = self.postfix if output_postfix is None else output_postfix
        self.mapper = type(self).transform(release=release, activation=activation)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the maps to a copy of ``data``."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = result.get(self.label_key)
            result[f"{key}_{self.output_postfix}"] = self.mapper(
                torch.as_tensor(result[key]), label if self.mapper.needs_label else None
            )
        return result


class LossMapd(VoxelMapd):
    """Dictionary form of :class:`LossMap`; writes ``pred_loss``."""

    transform = LossMap
    postfix = "loss"


class LogOddsMapd(VoxelMapd):
    """Dictionary form of :class:`LogOddsMap`; writes ``pred_log_odds``."""

    transform = LogOddsMap
    postfix = "log_odds"


class EntropyMapd(VoxelMapd):
    """Dictionary form of :class:`EntropyMap`; writes ``pred_entropy``."""

    transform = EntropyMap
    postfix = "entropy"


class MaximumProbabilityMapd(VoxelMapd):
    """Dictionary form of :class:`MaximumProbabilityMap`; writes ``pred_maximum_probability``."""

    transform = MaximumProbabilityMap
    postfix = "maximum_probability"


class MarginMapd(VoxelMapd):
    """Dictionary form of :class:`MarginMap`; writes ``pred_margin``."""

    transform = MarginMap
    postfix = "margin"


LossMapD = LossMapDict = LossMapd
LogOddsMapD = LogOddsMapDict = LogOddsMapd
EntropyMapD = EntropyMapDict = EntropyMapd
MaximumProbabilityMapD = MaximumProbabilityMapDict = MaximumProbabilityMapd
MarginMapD = MarginMapDict = MarginMapd
