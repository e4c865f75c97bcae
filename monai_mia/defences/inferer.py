# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Inferers that defend: around the inferer of any bundle, which stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from monai_mia.defences.output import OutputDefence, _inverse, _secret, keyed_digest
from monai_mia.errors import InputError

__all__ = ["DefendedInferer", "MCDropoutInferer"]


class _Around(Inferer):
    """An inferer around another, given as an object or as the name of its class with its options."""

    def __init__(self, inferer: Inferer | str, options: dict[str, Any]) -> None:
        super().__init__()
        if isinstance(inferer, str):
            inferer = ConfigComponent({"_target_": inferer, **options}, locator=ComponentLocator()).instantiate()
        elif options:
            raise InputError(f"options must be left out beside a made inferer, got {', '.join(sorted(options))}.")
        self.inferer = inferer


class DefendedInferer(_Around):
    """Apply an output defence to what an inferer returns, item by item of the batch.

    Where a bundle's postprocessing applies the activation, give the defence ``output: logits``: the activation of what
    is returned are the defended probabilities.

    Args:
        inferer: the bundle's inferer, or the name of its class, made with the options.
        defence: an :class:`~monai_mia.defences.OutputDefence`, which is shown the image too, or any other array
            transform of shape (C, *spatial).
        output: which output of a network that returns several; only that one leaves. None: the network has one.
        options: of the class.

    Example::

        inferer:
          _target_: monai_mia.defences.DefendedInferer
          inferer: {_target_: SlidingWindowInferer, roi_size: [96, 96, 96]}
          defence: {_target_: monai_mia.defences.RoundProbabilities, decimals: 1, output: logits}
    """

    def __init__(
        self,
        inferer: Inferer | str,
        defence: Callable[..., Tensor],
        output: str | int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(inferer, options)
        self.defence = defence
        self.output = output

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Infer, then defend; shapes (B, ...) to (B, C, *spatial)."""
        prediction = self._chosen(self.inferer(inputs, network, *args, **kwargs))
        plain, images = convert_to_tensor(prediction, track_meta=False), convert_to_tensor(inputs, track_meta=False)
        if isinstance(self.defence, OutputDefence):
            items = [self.defence(item, image) for item, image in zip(plain, images, strict=True)]
        else:
            items = [convert_to_tensor(self.defence(item), track_meta=False) for item in plain]
        defended = items[0][None] if len(items) == 1 else torch.stack(items)
        return MetaTensor(defended, meta=prediction.meta) if isinstance(prediction, MetaTensor) else defended

    def _chosen(self, result: Any) -> Tensor:
        if isinstance(result, Tensor) and self.output is None:
            return result
        names = list(result) if isinstance(result, dict) else list(range(len(result)))
        if isinstance(result, Tensor) or self.output not in names:
            got = "one tensor" if isinstance(result, Tensor) else f"{type(result).__name__} of {names}"
            remedy = "Leave it out." if isinstance(result, Tensor) else "Name the one that is released."
            raise InputError(f"output must be one of the network's outputs, got {self.output!r} for {got}. {remedy}")
        chosen: Tensor = result[self.output]
        return chosen


class MCDropoutInferer(_Around):
    """Average the probabilities of several passes with dropout; everything else of the network is in evaluation mode.

    The masks of dropout are fixed per case: drawn from HMAC-SHA256 of the key over the batch's images, so that asking
    twice answers once on one kind of device. As with :class:`~monai_mia.defences.GaussianNoise`, changed images
    get new masks. The argmax is not kept. It takes ``passes`` times the inference.

    Args:
        inferer: the bundle's inferer, or the name of its class, made with the options.
        passes: number of passes, at least 1.
        key: the secret, a non-empty string.
        activation: ``softmax`` or ``sigmoid``.
        output: ``logits`` (whose activation are the averaged probabilities) or ``probabilities``.
        options: of the class.

    Source: `Gal and Ghahramani (2016) <https://arxiv.org/abs/1506.02142>`_.
    """

    def __init__(
        self,
        inferer: Inferer | str,
        passes: int,
        key: str | None,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        output: Literal["logits", "probabilities"] = "logits",
        **options: Any,
    ) -> None:
        super().__init__(inferer, options)
        if not (isinstance(passes, int) and passes >= 1):
            raise InputError(f"passes must be an integer of at least 1, got {passes}.")
        OutputDefence("logits", activation, output)  # refuses other words
        self.passes = passes
        self.activation = activation
        self.output = output
        self._key = _secret(key)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Infer; shapes (B, ...) to (B, C, *spatial)."""
        if not isinstance(network, nn.Module):
            raise InputError(f"network must be a torch.nn.Module for dropout, got {type(network).__name__}.")
        seed = int.from_bytes(keyed_digest(self._key, inputs)[:8], "big") >> 1
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        mean: Tensor | None = None
        with _dropping(network), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for _ in range(self.passes):
                logits = self.inferer(inputs, network, *args, **kwargs)
                if not isinstance(logits, Tensor):
                    raise InputError(f"network must return one tensor for dropout, got {type(logits).__name__}.")
                p = convert_to_tensor(logits, track_meta=False).float()
                p = p.softmax(dim=1) if self.activation == "softmax" else p.sigmoid()
                mean = p if mean is None else mean.add_(p)
        assert mean is not None
        mean /= self.passes
        result = mean if self.output == "probabilities" else _inverse(mean, self.activation)
        return MetaTensor(result, meta=logits.meta) if isinstance(logits, MetaTensor) else result


@contextlib.contextmanager
def _dropping(network: nn.Module) -> Iterator[None]:
    """Dropout on, all else in evaluation mode; as before afterwards."""
    modes = {module: module.training for module in network.modules()}
    dropouts = [module for module in modes if isinstance(module, _DropoutNd) and module.p > 0]
    if not dropouts:
        raise InputError(
            f"network must have dropout layers with p above 0, got {type(network).__name__} with none. Train it with "
            "the overlay dropout.yaml, or set network_def#dropout."
        )
    network.eval()
    try:
        for dropout in dropouts:
            dropout.training = True
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
