# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The tensor in a MetaTensor, and the network in the wrapper of several processes."""

from __future__ import annotations

from monai.data import MetaTensor
from torch import Tensor, nn

__all__ = ["bare_network", "plain_tensor"]


def plain_tensor(tensor: Tensor) -> Tensor:
    """The same values without meta data, sharing memory."""
    plain: Tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain


def bare_network(network: nn.Module) -> nn.Module:
    """The network itself, whose state has the names that a bundle expects."""
    return network.module if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else network
