# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Training on mixtures of cases: MixUp, CutMix and the column splice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.engines.utils import default_prepare_batch
from monai.networks.utils import one_hot
from monai.transforms.regularization.array import Mixer
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_mia.errors import InputError

__all__ = ["ColumnSplice", "MixedBatch"]


class ColumnSplice(Mixer):
    """Join a part of one image and the rest of another along an axis, the references likewise.

    What Chobola et al. (2023) call mix-up: the seam is at a share Beta(``alpha``, ``alpha``) of the axis; voxels before
    it are those of the image's partner in the batch, voxels from it on are its own. Nothing is interpolated.

    Args:
        batch_size: number of items in a batch.
        alpha: of the beta distribution; 2 as published.
        axis: spatial axis along which the two parts lie; the last one as published (columns of an image).

    Example:
        >>> splice = ColumnSplice(batch_size=2)
        >>> splice.set_random_state(seed=2)  # doctest: +ELLIPSIS
        <...>
        >>> splice(torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 1, 4))[:, 0, 0]
        tensor([[1., 1., 0., 0.],
                [0., 1., 1., 1.]])
    """

    def __init__(self, batch_size: int, alpha: float = 2.0, axis: int = -1) -> None:
        if alpha <= 0:
            raise InputError(f"alpha must be above 0, got {alpha}.")
        super().__init__(batch_size, alpha)
        self.axis = axis

    def apply(self, data: Tensor) -> Tensor:
        """Splice items of shape (B, C, *spatial) as was drawn last."""
        shares, partners, _ = self._params
        axis = self.axis if self.axis < 0 else self.axis + 2
        size = data.shape[axis]
        seams = torch.as_tensor(shares, device=data.device).mul(size).long()
        shape = [-1] + [1] * (data.ndim - 1)
        places = torch.arange(size, device=data.device).view([-1] + [1] * (data.ndim - 1 - (axis % data.ndim)))
        return torch.where(places < seams.view(shape), data[torch.as_tensor(partners, device=data.device)], data)

    def __call__(self, data: Tensor, labels: Tensor | None = None, randomize: bool = True) -> Any:
        """Draw seams and partners, and splice images, and labels if there are any."""
        if randomize:
            self.randomize()
        return self.apply(data) if labels is None else (self.apply(data), self.apply(labels))


class MixedBatch(PrepareBatch):
    """Mix the items of each training batch with each other: a ``prepare_batch`` of a trainer.

    References of one channel become one-hot, float, so that a mixture of classes can be told: the loss must not one-hot
    them again (``to_onehot_y: false``), and where they are interpolated it must be right for soft labels, see
    :class:`~monai_mia.defences.SoftDiceCELoss`. What is drawn comes from torch's global generator.

    Args:
        mixer: ``mixer(batch_size=B)`` makes what mixes B items: MONAI's ``MixUp`` or ``CutMix``, or
            :class:`ColumnSplice`, in a config with ``_mode_: callable`` and its other options.
        n_classes: channels of the network's output.
        prob: share of the batches that are mixed.

    Raises:
        InputError: the loader gives one item at a time, which cannot be mixed.

    Example::

        train::trainer::prepare_batch:
          _target_: monai_mia.defences.MixedBatch
          mixer: {_target_: monai.transforms.MixUp, _mode_: callable, alpha: 0.4}
          n_classes: "@network_def#out_channels"
    """

    def __init__(self, mixer: Callable[..., Any], n_classes: int, prob: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise InputError(f"prob must be in [0, 1], got {prob}.")
        self.mixer = mixer
        self.n_classes = n_classes
        self.prob = prob
        self._largest = 1

    def __call__(
        self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The mixed images, shape (B, channels, *spatial), and references, shape (B, n_classes, *spatial)."""
        image, label = (
            convert_to_tensor(batchdata["image"], track_meta=False),
            convert_to_tensor(batchdata["label"], track_meta=False),
        )
        self._largest = max(self._largest, len(image))
        if self._largest == 1:
            raise InputError(
                "batch_size must be at least 2 for items to be mixed, got 1. Set train#dataloader#batch_size."
            )
        if label.shape[1] == 1 and self.n_classes > 1:
            label = one_hot(label, self.n_classes)
        if float(torch.rand(())) < self.prob:
            mixer = self.mixer(batch_size=len(image))
            mixer.set_random_state(seed=int(torch.randint(2**31, ())))
            image, label = mixer(image, label.to(image.dtype))
        mixed: tuple[Tensor, Tensor] = default_prepare_batch(
            {"image": image, "label": label.to(image.dtype)}, device, non_blocking, **kwargs
        )
        return mixed
