# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Gaussian smoothing of part of a volume, a few planes at a time."""

from __future__ import annotations

import torch
from monai.networks.layers import gaussian_1d
from torch import Tensor

__all__ = ["PLANES", "blurred", "bounding_box", "gaussian_matrix"]

# Planes smoothed at once: enough for matrix products, few enough to stay near the processor.
PLANES = 32


def bounding_box(near: Tensor) -> tuple[slice, ...]:
    """Slices of the bounding box."""
    box = []
    for axis in range(near.ndim):
        index = near.amax(dim=[a for a in range(near.ndim) if a != axis]).nonzero()
        box.append(slice(int(index.min()), int(index.max()) + 1))
    return tuple(box)


def gaussian_matrix(size: int, sigma: float, like: Tensor) -> tuple[Tensor, int]:
    """What blurs an axis by multiplication, shape (size, size), and how far it reaches; its rows have the sum 1.

    So the blur is a mean over what lies inside the volume, and the classes of a voxel still have the sum 1.
    """
    kernel = gaussian_1d(torch.tensor(sigma))
    reach = len(kernel) // 2
    offset = torch.arange(size) - torch.arange(size)[:, None]
    matrix = kernel[(offset + reach).clamp_(0, 2 * reach)].masked_fill_(offset.abs() > reach, 0)
    return (matrix / matrix.sum(dim=1, keepdim=True)).to(like), reach


def blurred(channel: Tensor, box: tuple[slice, ...], gauss: dict[int, tuple[Tensor, int]]) -> Tensor:
    """One channel, shape (*spatial), blurred in a box only, by small matrix products: faster than convolutions."""
    for axis, inside in enumerate(box):
        size = channel.shape[axis]
        matrix, reach = gauss[size]
        parts = []
        for start in range(inside.start, inside.stop, PLANES):
            stop = min(start + PLANES, inside.stop)
            low, high = max(start - reach, 0), min(stop + reach, size)
            weights, values = matrix[start:stop, low:high], channel.narrow(axis, low, high - low)
            if axis == channel.ndim - 1:
                parts.append(values @ weights.T)
            else:
                shape = (*values.shape[:axis], -1, *values.shape[axis + 1 :])
                parts.append((weights @ values.flatten(axis + 1)).reshape(shape))
        channel = torch.cat(parts, dim=axis)
    return channel.clamp_(0, 1)
