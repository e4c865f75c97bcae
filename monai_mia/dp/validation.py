# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What breaks the bound of DP-SGD, found by what a training does, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_mia.errors import InputError

__all__ = ["Patches", "validate"]

#: What a patient is: patches, each a dictionary of tensors.
Patches = Sequence[Mapping[str, Any]]


def validate(
    engine: SupervisedTrainer, gradient: Callable[[Patches], Sequence[Tensor | None]], patient: Patches
) -> None:
    """Refuse a training in which a patient could show in other ways than a clipped gradient.

    - buffers that change in training, such as running statistics, leave with the weights, without noise;
    - a patient's gradient that depends on who was seen before (by buffers, or a loss or a batch transform that
      remembers) is not bounded by clipping that patient's own;
    - accumulated gradients make other steps than those that are counted;
    - a gradient scaler skips steps, depending on the data.

    Patches of one patient may be coupled as they like: they are clipped together. So a batch Dice, or a batch norm
    without running statistics, is fine here.

    Args:
        engine: the trainer, before its first step; weights, buffers and random states are left as they were.
        gradient: from a patient's patches to their gradient, before clipping.
        patient: someone to try it on.

    Raises:
        InputError: it would break the bound; with what to do instead.
    """
    if getattr(engine, "accumulation_steps", 1) > 1:
        raise InputError(
            f"accumulation_steps must be 1 for DP-SGD, got {engine.accumulation_steps}: each draw of patients is one "
            "step. To save memory, set patches_per_pass."
        )
    if engine.amp and engine.amp_kwargs.get("dtype") is not torch.bfloat16:
        raise InputError(
            "amp must be off, or with amp_kwargs: {dtype: $torch.bfloat16}, for DP-SGD, got float16: the steps that a "
            "gradient scaler skips tell about the patients."
        )
    modules = [engine.network, *(m for m in (engine.loss_function,) if isinstance(m, nn.Module))]
    buffers = {name: value for module in modules for name, value in module.named_buffers()}
    before = {name: value.detach().clone() for name, value in buffers.items()}
    other = [_inverted(patch) for patch in patient]
    with torch.random.fork_rng():
        first = _seeded(gradient, patient)
        changed = [name for name, value in buffers.items() if not _same(value, before[name])]
        _seeded(gradient, other)
        again = _seeded(gradient, patient)
    with torch.no_grad():
        for name, value in buffers.items():
            value.copy_(before[name])
    if changed:
        raise InputError(
            f"network must not change buffers in training for DP-SGD, got {len(changed)} that do (first: "
            f"{changed[0]!r}): running statistics hold the patients, without noise. Use norm: INSTANCE or GROUP, or "
            "monai_mia.dp.with_group_norm around the network."
        )
    for one, two in zip(first, again, strict=True):
        if (one is None) != (two is None) or (
            one is not None and two is not None and not torch.allclose(one, two, rtol=1e-3, atol=1e-7, equal_nan=True)
        ):
            raise InputError(
                "a patient's gradient must not depend on who was seen before for DP-SGD, got another one after another "
                "patient. Take out the loss, network or batch transform that remembers."
            )


def _seeded(gradient: Callable[[Patches], Sequence[Tensor | None]], patient: Patches) -> list[Tensor | None]:
    torch.manual_seed(0)
    return list(gradient(patient))


def _inverted(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Another patient: the image's contrast inverted."""
    return {
        key: 1 - 2 * value if isinstance(value, Tensor) and value.is_floating_point() and key == "image" else value
        for key, value in patch.items()
    }


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other))
