# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Output defences as dictionary transforms, for the postprocessing of a bundle and the release of an audit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_mia.defences.output import (
    ClipConfidence,
    GaussianNoise,
    HardMask,
    OutputDefence,
    RoundProbabilities,
    SmoothBoundary,
    Temperature,
    TopClasses,
)
from monai_mia.errors import InputError

__all__ = [
    "ClipConfidenceD",
    "ClipConfidenceDict",
    "ClipConfidenced",
    "GaussianNoiseD",
    "GaussianNoiseDict",
    "GaussianNoised",
    "HardMaskD",
    "HardMaskDict",
    "HardMaskd",
    "OutputDefenced",
    "RoundProbabilitiesD",
    "RoundProbabilitiesDict",
    "RoundProbabilitiesd",
    "SmoothBoundaryD",
    "SmoothBoundaryDict",
    "SmoothBoundaryd",
    "TemperatureD",
    "TemperatureDict",
    "Temperatured",
    "TopClassesD",
    "TopClassesDict",
    "TopClassesd",
]


class OutputDefenced(MapTransform):
    """Base of the dictionary transforms: they replace each prediction by the defended one.

    Args:
        keys: keys of the predictions.
        image_key: key of the image, for defences that are fixed per case; None: the prediction fixes them.
        allow_missing_keys: whether a missing prediction is passed over.
        options: of the array transform.
    """

    transform: Callable[..., OutputDefence] = OutputDefence

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str | None = "image",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.defence = type(self).transform(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with defended predictions."""
        result = dict(data)
        image = None
        if self.defence.needs_image and self.image_key is not None:
            image = result.get(self.image_key)
            if image is None:
                raise InputError(
                    f"item must have {self.image_key!r}, which fixes the noise, got none. Give it, or set image_key: "
                    "null to fix the noise by the prediction."
                )
            image = torch.as_tensor(image)
        for key in self.key_iterator(result):
            result[key] = self.defence(torch.as_tensor(result[key]), image)
        return result


class HardMaskd(OutputDefenced):
    """Dictionary form of :class:`HardMask`."""

    transform = HardMask


class GaussianNoised(OutputDefenced):
    """Dictionary form of :class:`GaussianNoise`."""

    transform = GaussianNoise


class RoundProbabilitiesd(OutputDefenced):
    """Dictionary form of :class:`RoundProbabilities`."""

    transform = RoundProbabilities


class TopClassesd(OutputDefenced):
    """Dictionary form of :class:`TopClasses`."""

    transform = TopClasses


class Temperatured(OutputDefenced):
    """Dictionary form of :class:`Temperature`."""

    transform = Temperature


class ClipConfidenced(OutputDefenced):
    """Dictionary form of :class:`ClipConfidence`."""

    transform = ClipConfidence


class SmoothBoundaryd(OutputDefenced):
    """Dictionary form of :class:`SmoothBoundary`."""

    transform = SmoothBoundary


HardMaskD = HardMaskDict = HardMaskd
GaussianNoiseD = GaussianNoiseDict = GaussianNoised
RoundProbabilitiesD = RoundProbabilitiesDict = RoundProbabilitiesd
TopClassesD = TopClassesDict = TopClassesd
TemperatureD = TemperatureDict = Temperatured
ClipConfidenceD = ClipConfidenceDict = ClipConfidenced
SmoothBoundaryD = SmoothBoundaryDict = SmoothBoundaryd
