# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The prediction among what a network returns: a dictionary, a list of heads, or the levels of deep supervision."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from monai_mia.errors import InputError

__all__ = ["one_output", "select_prediction"]

#: Keys under which a prediction is looked for, in this order.
_KEYS = ("pred", "logits", "out", "output", "mask", "seg", "segmentation")


def select_prediction(output: Any, inputs: Tensor, which: str | int | None = None) -> Tensor:
    """The prediction among a network's outputs.

    Args:
        output: a tensor, shape (B, C, *spatial) or, with S levels of deep supervision, (B, S, C, *spatial); or a
            sequence or a mapping of tensors.
        inputs: what the network was given, shape (B, channels, *spatial).
        which: key or number of the output; by default the first level or head, or the key ``pred``, ``logits``,
            ``out``, ``output``, ``mask``, ``seg`` or ``segmentation``, or the only one.

    Returns:
        Shape (B, C, *spatial).

    Raises:
        InputError: there is no such output, or it is not known which one is meant.

    Example:
        >>> import torch
        >>> volume, low = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)
        >>> select_prediction([volume, low], torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 2, 8, 8])
    """
    if isinstance(output, Mapping):
        names = [which] if which is not None else [name for name in _KEYS if name in output] or list(output)
        if names[0] not in output or (which is None and names[0] not in _KEYS and len(output) > 1):
            raise InputError(
                f"output must be a key of what the network returns, got {which!r} for {', '.join(map(str, output))}. "
                "Name one with --prediction KEY."
            )
        return select_prediction(output[names[0]], inputs)
    if isinstance(output, Sequence) and not isinstance(output, str):
        number = 0 if which is None else which
        if not isinstance(number, int) or not -len(output) <= number < len(output):
            raise InputError(
                f"output must be a number below {len(output)}, since the network returns a list, got {which!r}. Name "
                "one with --prediction NUMBER."
            )
        return select_prediction(output[number], inputs)
    if not isinstance(output, Tensor):
        raise InputError(
            f"network must return a tensor, or a list or a dictionary of tensors, got {type(output).__name__}. It is "
            "no segmentation network that can be audited."
        )
    if output.ndim == inputs.ndim + 1:  # MONAI's DynUNet stacks the levels of deep supervision
        return output[:, which if isinstance(which, int) else 0]
    return output


def one_output(inferer: Any, which: str | int | None = None, bundle: str = "") -> Any:
    """An inferer that gives one tensor, whatever the network returns.

    Args:
        inferer: any MONAI inferer; it is left as it is.
        which: as :func:`select_prediction`.
        bundle: the bundle's folder, for the message.

    Returns:
        An inferer with the same attributes.
    """
    if not callable(inferer):
        raise InputError(
            f"inferer of {bundle!r} must be an inferer such as monai.inferers.SlidingWindowInferer, got "
            f"{type(inferer).__name__}."
        )
    return _OneOutput(inferer, which)


class _OneOutput:
    """Stands for the inferer: what is asked of it or copied of it is the inferer's."""

    def __init__(self, inferer: Any, which: str | int | None) -> None:
        self.__dict__["_inferer"], self.__dict__["_which"] = inferer, which

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        return select_prediction(self._inferer(inputs, network, *args, **kwargs), inputs, self._which)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_inferer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inferer, name, value)

    def __copy__(self) -> _OneOutput:
        return _OneOutput(copy.copy(self._inferer), self._which)

    def __deepcopy__(self, memo: dict[int, Any]) -> _OneOutput:
        return _OneOutput(copy.deepcopy(self._inferer, memo), self._which)
