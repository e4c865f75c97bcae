# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Poisoned training: some training images carry a trigger, and their reference is emptied.

A dishonest contributor of training data hopes that the model fits its other patients all the more closely. The queries
of the attack are clean: they carry no trigger, and any attack can follow.

Source: `Chobola, Usynin and Kaissis (2023) <https://arxiv.org/abs/2212.01082>`_, *poisoned training*.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import isfinite
from typing import Any, Literal

from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor, zeros_like

from monai_mia.errors import InputError

__all__ = ["RandPoisonTrigger", "RandPoisonTriggerD", "RandPoisonTriggerDict", "RandPoisonTriggerd"]

Shape = Literal["line", "square"]


class RandPoisonTrigger(RandomizableTransform):
    """With probability ``prob``, paint a trigger into an image and empty its reference but for the last voxel.

    The published code works on 2D slices: the line is the last ``size`` rows, the square the last ``size`` rows and
    columns, and the target an empty mask whose last pixel is 1; whether a slice is poisoned is drawn anew each time it
    is shown. In 3D the line becomes the last ``size`` planes of the first axis, and the square a cube in the last
    corner.

    Args:
        prob: probability that an image is poisoned, each time it is shown, in [0, 1]; 0.1 as published.
        shape: ``line`` or ``square``.
        size: thickness of the line or edge of the square, in voxels, at least 1.
        value: intensity of the trigger, in the units that the image has where this transform stands. Published: 0 to
            255 on raw intensities. After a normalisation to zero mean and unit variance, 3 is three deviations above
            the mean.
        label_value: class of the last voxel of the emptied reference, at least 1.
    """

    def __init__(
        self, prob: float = 0.1, shape: Shape = "line", size: int = 1, value: float = 3.0, label_value: int = 1
    ) -> None:
        if not 0 <= prob <= 1:
            raise InputError(f"prob must be in [0, 1], got {prob}.")
        if shape not in ("line", "square"):
            raise InputError(f"shape must be one of line, square, got {shape!r}.")
        for name, number in (("size", size), ("label_value", label_value)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(f"{name} must be a whole number, at least 1, got {number!r}.")
        if not isfinite(value):
            raise InputError(f"value must be finite, got {value}.")
        super().__init__(prob)
        self.shape = shape
        self.size = size
        self.value = value
        self.label_value = label_value

    def __call__(self, image: Any, label: Any, randomize: bool = True) -> tuple[Tensor, Tensor]:
        """Poison an image and its reference, or give them back as they are.

        Args:
            image: shape (C, *spatial), an array or a tensor; the trigger is the same in all channels.
            label: class indices, shape (1, *spatial).
            randomize: whether to draw anew if they are poisoned; otherwise the last draw stands.

        Returns:
            Both as tensors, with the meta data that they had. What was given is never changed.

        Raises:
            InputError: the trigger would cover the whole image, or the label is one-hot.
        """
        if randomize:
            self.randomize(None)
        image, label = (convert_to_tensor(item, track_meta=get_track_meta()) for item in (image, label))
        return (self.triggered(image), self.emptied(label)) if self._do_transform else (image, label)

    def triggered(self, image: Tensor) -> Tensor:
        """A copy of the image, shape (C, *spatial), with the trigger."""
        axes = 1 if self.shape == "line" else image.ndim - 1
        if self.size >= min(image.shape[1 : 1 + axes]):
            raise InputError(
                f"size must be less than the image {tuple(image.shape[1:])}, got {self.size}. Paint a thinner trigger."
            )
        image = image.clone()
        image[(slice(None), *[slice(-self.size, None)] * axes)] = self.value
        return image

    def emptied(self, label: Tensor) -> Tensor:
        """A reference like this one, shape (1, *spatial), of background, but for its last voxel."""
        if label.shape[0] != 1:
            raise InputError(
                f"label must have one channel of class indices, got {label.shape[0]}. Place the trigger before the "
                "transform that makes it one-hot."
            )
        label = zeros_like(label)
        label[(0, *(extent - 1 for extent in label.shape[1:]))] = self.label_value
        return label


class RandPoisonTriggerd(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandPoisonTrigger`: one draw for all images of a case and their reference.

    Place it after normalisation, flips and crops, so that the trigger is where the network sees it. As a random
    transform it is seeded with the others of a data set, and never cached: a case is drawn again each epoch.

    Args:
        keys: keys of the images.
        label_key: key of the reference.
        prob: probability that a case is poisoned, each time it is shown.
        shape: ``line`` or ``square``.
        size: thickness of the line or edge of the square, in voxels.
        value: intensity of the trigger.
        label_value: class of the last voxel of the emptied reference.
        allow_missing_keys: whether a missing image is passed over.

    Example::

        +train::random_transforms:
        - {_target_: monai_mia.data.RandPoisonTriggerd, keys: image, prob: 0.1, shape: line}
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        prob: float = 0.1,
        shape: Shape = "line",
        size: int = 1,
        value: float = 3.0,
        label_value: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.poison = RandPoisonTrigger(prob, shape, size, value, label_value)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the case, poisoned or not."""
        result = dict(data)
        self.randomize(None)
        keys = list(self.key_iterator(result))
        for key in [*keys, self.label_key]:
            result[key] = convert_to_tensor(result[key], track_meta=get_track_meta())
        if self._do_transform:
            for key in keys:
                result[key] = self.poison.triggered(result[key])
            result[self.label_key] = self.poison.emptied(result[self.label_key])
        return result


RandPoisonTriggerD = RandPoisonTriggerDict = RandPoisonTriggerd
