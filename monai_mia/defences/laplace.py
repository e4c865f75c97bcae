# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Last-layer Laplace approximation: what the members do not determine makes predictions less sure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.func import functional_call

from monai_mia.defences.held_out import epoch_end, undisturbed
from monai_mia.errors import InputError
from monai_mia.signals.release import bare_network

__all__ = ["LaplaceFit", "LaplaceNetwork"]


class LaplaceNetwork(nn.Module):
    r"""A network whose last layer's weights have a variance each, used in training and in inference alike.

    In training mode it is the network. In evaluation mode its logits are

    .. math:: f_k \Big/ \sqrt{1 + \tfrac{\pi}{8} \sigma_k^2}, \qquad
        \sigma_k^2 = \sum_j \mathrm{var}(w_{kj}) \, \phi_j^2 + \mathrm{var}(b_k)

    voxel by voxel, with the input :math:`\phi` of the last layer (MacKay's approximation of the mean prediction; no
    sampling). So a sigmoid or softmax, or whatever a bundle applies, comes after. The variances are buffers, 0 until
    :class:`LaplaceFit` sets them: then the prediction is the network's own. They are part of the ``state_dict``.

    Args:
        architecture: the network, or the name of its class, as in ``_target_``, made with the options.
        last_layer: name of the layer in the network: a convolution, also a transposed one, or ``Linear``. By default
            the last one that is registered. What the network does after it must add nothing but constants to its
            output; :class:`LaplaceFit` checks that.
        options: of the class.

    Source: `Kristiadi et al. (2020) <https://arxiv.org/abs/2002.10118>`_; as a defence Hintersdorf et al. (2022), with
    a Kronecker factorisation where this has the diagonal.

    Example::

        network_def::_target_: monai_mia.defences.LaplaceNetwork
        network_def::architecture: UNet
    """

    def __init__(self, architecture: str | nn.Module, last_layer: str | None = None, **options: Any) -> None:
        super().__init__()
        self.network = _made(architecture, options) if isinstance(architecture, str) else architecture
        names = [name for name, layer in self.network.named_modules() if isinstance(layer, _LAYERS)]
        if not names or last_layer not in (None, *names):
            raise InputError(
                f"last_layer must be a convolution or Linear of the network, got {last_layer!r}. It has "
                f"{', '.join(names[-5:]) or 'none'}."
            )
        self.last_layer = last_layer or names[-1]
        for name, weight in self.layer.named_parameters(recurse=False):
            self.register_buffer(f"{name}_variance", torch.zeros_like(weight))

    @property
    def layer(self) -> nn.Module:
        """The last layer."""
        return self.network.get_submodule(self.last_layer)

    @property
    def variances(self) -> dict[str, Tensor]:
        """The variances of the last layer's ``weight`` and ``bias``."""
        return {name: self.get_buffer(f"{name}_variance") for name, _ in self.layer.named_parameters(recurse=False)}

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape (B, C, *spatial)."""
        if self.training:
            plain: Tensor = self.network(image)
            return plain
        logits, features = self.observe(image)
        variance = functional_call(self.layer, self.variances, (features.square(),))
        scaled: Tensor = logits / (1 + math.pi / 8 * variance).sqrt()
        return scaled

    def observe(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The network's own logits, and the input of its last layer."""
        seen: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(image)
        finally:
            handle.remove()
        return logits, seen[-1]


def _made(name: str, options: Any) -> nn.Module:
    network: nn.Module = ConfigComponent({"_target_": name, **options}, locator=ComponentLocator()).instantiate()
    return network


_LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip


class LaplaceFit:
    r"""Fit the variances of a :class:`LaplaceNetwork` to the members when its training ends: a handler of a trainer.

    The posterior is Gaussian with a diagonal precision: that of the prior plus the diagonal of the Gauss-Newton matrix
    of the cross-entropy,

    .. math:: \mathrm{var}(w_{kj})^{-1} = \tau +
        \sum_{\mathrm{cases}} \frac1{|V|} \sum_v p_{vk} (1 - p_{vk}) \phi_{vj}^2

    A case counts as one observation, the mean over its voxels, as in the training's loss; neighbouring voxels tell the
    same. It takes one pass over the training's loader, augmented as it is.

    Args:
        prior_precision: :math:`\tau`; the smaller, the less sure are predictions far from what determines the weights.
        interval: epochs between fits, for a bundle that validates and saves before the end; None: the last epoch only.
        activation: ``softmax`` or ``sigmoid``.
    """

    def __init__(
        self,
        prior_precision: float = 1.0,
        interval: int | None = None,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        if not prior_precision > 0:
            raise InputError(f"prior_precision must be above 0, got {prior_precision}.")
        self.prior_precision = prior_precision
        self.interval = interval
        self.activation = activation

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, lambda: self._network(engine))
        engine.add_event_handler(epoch_end(), self)

    def __call__(self, engine: Any) -> None:
        """Fit at the end of an epoch."""
        epoch, network = engine.state.epoch, self._network(engine)
        if epoch == engine.state.max_epochs or (self.interval and epoch % self.interval == 0):
            with undisturbed():
                self.fit(network, (batch["image"].to(engine.state.device) for batch in engine.data_loader))

    def fit(self, network: LaplaceNetwork, images: Iterable[Tensor]) -> None:
        """Set the variances from batches of images, shape (B, C, *spatial)."""
        training = network.training
        network.eval()
        precision = {name: torch.full_like(value, self.prior_precision) for name, value in network.variances.items()}
        for n, image in enumerate(images):
            image = convert_to_tensor(image, track_meta=False)
            with torch.no_grad():
                if n == 0:
                    _check_last(network, image)
                logits, features = network.observe(image)
                p = logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()
            with torch.enable_grad():
                # The layer is linear in its weights: with squared features, its gradient is the sum that is wanted.
                zeros = {name: torch.zeros_like(value).requires_grad_() for name, value in precision.items()}
                squared = functional_call(network.layer, zeros, (features.square(),))
                curvature = (squared * p * (1 - p)).flatten(2).mean(dim=2).sum()
                gradients = torch.autograd.grad(curvature, list(zeros.values()))
            for name, gradient in zip(zeros, gradients, strict=True):
                precision[name] += gradient
        for name, value in precision.items():
            network.variances[name].copy_(1 / value)
        network.train(training)

    def _network(self, engine: Any) -> LaplaceNetwork:
        network = bare_network(engine.network)
        if not isinstance(network, LaplaceNetwork):
            raise InputError(
                f"network_def must be a LaplaceNetwork for LaplaceFit, got {type(network).__name__}. Set "
                "network_def#_target_ and network_def#architecture as the overlay does."
            )
        return network


def _check_last(network: LaplaceNetwork, image: Tensor) -> None:
    """What is added to the layer's output must be added to the network's."""
    handle = network.layer.register_forward_hook(lambda _, inputs, output: output + 1)
    try:
        moved = network.observe(image)[0]
    finally:
        handle.remove()
    logits, _ = network.observe(image)
    if moved.shape != logits.shape or not torch.allclose(moved, logits + 1, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"last_layer must be the layer that gives the logits, got {network.last_layer!r}, whose output is changed "
            "after it. Name the layer: network_def#last_layer."
        )
