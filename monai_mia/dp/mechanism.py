# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The Gaussian mechanism on gradients: one clipped gradient a patient, their sum, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from monai_mia.dp import noise

__all__ = ["ClippedSum"]


class ClippedSum:
    """The sum of patients' gradients, each clipped to a norm.

    Adding or removing a patient moves the sum by at most ``max_norm``, whatever the network and the loss, as long as a
    patient's gradient depends on that patient alone.

    Args:
        parameters: what is trained.
        max_norm: the clip norm C.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        self.parameters = list(parameters)
        self.max_norm = max_norm
        self.total: list[Tensor] = []
        self.begin()

    def begin(self) -> None:
        """Start a step: nobody is in it yet."""
        self.total = [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for parameter in self.parameters
        ]

    def add(self, gradients: Sequence[Tensor | None]) -> float:
        """Add one patient's gradient, clipped; give its norm before.

        A gradient that is not finite adds nothing: the step is never skipped, since skipping would tell.
        """
        present = [gradient for gradient in gradients if gradient is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in present]
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, self.max_norm / (norm + 1e-12))
        for total, gradient in zip(self.total, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.to(total.dtype), alpha=scale)
        return norm

    def noisy(self, noise_multiplier: float, key: bytes) -> list[Tensor]:
        """The sum over all processes, plus noise of standard deviation ``noise_multiplier * max_norm``, in float64.

        Every process draws the same noise, so that all take the same step.
        """
        if noise.several_processes():
            for total in self.total:
                distributed.all_reduce(total)
        scale = noise_multiplier * self.max_norm
        noisy = []
        for place, total in enumerate(self.total):
            draws = torch.from_numpy(noise.gaussian(key, f"noise {place}", total.numel())).to(total.device)
            noisy.append(total.double() + scale * draws.view_as(total))
        return noisy
