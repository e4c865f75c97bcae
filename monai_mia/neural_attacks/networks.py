# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The networks of learned attackers, and how the best epoch of one is kept."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.nets import MILModel
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["BestEpoch", "PooledNetwork", "fit"]

logger = logging.getLogger(__name__)

# Features of a patch that attention weighs.
_FEATURES = 16


class PooledNetwork(nn.Module):
    """One logit from the patches of a case, shape (B, patches, channels, *patch) to (B, 1)."""

    def __init__(self, make: Callable[..., nn.Module], spatial_dims: int, channels: int, pooling: str) -> None:
        super().__init__()
        features = 1 if pooling == "mean" else _FEATURES
        self.network = make(**_network_options(make, spatial_dims, channels, features))
        self.head = None
        if pooling == "attention":
            self.head = MILModel(1, "att", pretrained=False, backbone=nn.Identity(), backbone_num_features=features)
        self.register_buffer("scale", torch.ones(channels))

    def standardise(self, samples: Iterable[NDArray[np.float32]]) -> None:
        """Scale input channels by what they hold in some samples; zero stays zero, the edge of a map is no step."""
        squares = np.mean([np.square(sample.reshape(len(sample), -1)).mean(axis=1) for sample in samples], axis=0)
        self.scale = torch.from_numpy(np.sqrt(np.where(squares > 0, squares, 1)).astype(np.float32))

    def forward(self, patches: Tensor) -> Tensor:
        """Logits, shape (B, 1)."""
        shape = (-1, *[1] * (patches.ndim - 3))
        scaled = patches / self.scale.view(shape)
        features = self.network(scaled.flatten(0, 1)).unflatten(0, patches.shape[:2])
        pooled: Tensor = features.mean(dim=1) if self.head is None else self.head.calc_head(features.relu())
        return pooled


def _network_options(make: Callable[..., nn.Module], spatial_dims: int, channels: int, features: int) -> dict[str, int]:
    """The names by which a MONAI network takes its dimensions."""
    origin = make
    while isinstance(origin, partial):
        origin = origin.func
    known = {
        name
        for item in (origin.__mro__ if inspect.isclass(origin) else (origin,))
        if item is not object
        for name in inspect.signature(item.__init__ if inspect.isclass(item) else item).parameters
    }
    first = "in_channels" if "in_channels" in known else "n_input_channels"
    last = "out_channels" if "out_channels" in known else "num_classes"
    return {"spatial_dims": spatial_dims, first: channels, last: features}


def fit(
    network: nn.Module,
    items: Any,
    optimizer: Callable[..., Any],
    epochs: int,
    batch_size: int,
    device: torch.device,
    handlers: Sequence[Any] = (),
) -> None:
    """Train a network of one logit by binary cross-entropy; draws are torch's global ones.

    Args:
        network: on the device.
        items: a data set of ``image`` and ``label``, shape (1,), 0 or 1.
        optimizer: makes the optimizer of the parameters.
        epochs: passes over the items.
        batch_size: items in a training step.
        device: where the network is.
        handlers: of the trainer.
    """
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=DataLoader(
            items,
            batch_size=batch_size,
            shuffle=True,
            drop_last=len(items) > batch_size,  # one item alone has no batch statistics
        ),
        network=network,
        optimizer=optimizer(network.parameters()),
        loss_function=nn.BCEWithLogitsLoss(),
        train_handlers=handlers,
        decollate=False,
    )
    trainer.logger.setLevel("WARNING")
    trainer.run()


class BestEpoch:
    """Keep the epoch with the least loss, and stop when it has not fallen for some epochs."""

    def __init__(self, loss: Callable[[], float], network: nn.Module, patience: int) -> None:
        self.loss = loss
        self.network = network
        self.patience = patience
        self.best = np.inf
        self.waited = 0
        self.state: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.network.load_state_dict(self.state))

    def __call__(self, engine: Engine) -> None:
        """Judge the epoch that is complete."""
        loss = self.loss()
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.state = {name: value.clone() for name, value in self.network.state_dict().items()}
        else:
            self.waited += 1
            if self.waited >= self.patience:
                engine.terminate()
        logger.debug("epoch %d: %.4f nats on patients left out", engine.state.epoch, loss)
