# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, whose running statistics no noise covers, replaced by a norm of each patch alone."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["with_group_norm"]


def with_group_norm(network: nn.Module, groups: int = 8) -> nn.Module:
    """Replace, in place, every norm that keeps statistics in training by a group norm.

    Batch norms, and instance norms with running statistics, become ``GroupNorm(gcd(groups, C), C)`` of the C channels.
    For networks that hard-code them, such as VNet and AttentionUnet; others take ``norm: INSTANCE`` or
    ``norm: [GROUP, {num_groups: 8}]``. Do so in the inference config, too: the weights have other names.

    Example, in a bundle's config::

        network_def:
          _target_: monai_mia.dp.with_group_norm
          network: {_target_: VNet, in_channels: 1, out_channels: 2}
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            kept = isinstance(child, _InstanceNorm) and not child.track_running_stats
            if isinstance(child, (_BatchNorm, _InstanceNorm)) and not kept:
                channels = child.num_features
                setattr(module, name, nn.GroupNorm(math.gcd(groups, channels), channels, child.eps))
    return network
