# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Mean teacher: the network that is released is a moving average of the one that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from monai_mia.defences.held_out import epoch_end
from monai_mia.errors import InputError

__all__ = ["WeightAveraging"]


class WeightAveraging:
    r"""Release an exponential moving average of the weights: a handler of a trainer, around ignite's ``EMAHandler``.

    After each step :math:`\bar\theta \leftarrow (1 - m) \bar\theta + m \theta`, from the initial weights on, buffers
    likewise. Between epochs, and at the end, the network holds the average, so that whatever validates, saves or
    releases it does so with the average. The training itself does not notice.

    Args:
        network: the network that is trained.
        momentum: :math:`m`, in (0, 1); about the last :math:`1/m` steps count.

    Source: `Tarvainen and Valpola (2017) <https://arxiv.org/abs/1703.01780>`_ for the average.
    """

    def __init__(self, network: nn.Module, momentum: float = 0.01) -> None:
        if not 0 < momentum < 1:
            raise InputError(f"momentum must be in (0, 1), got {momentum}.")
        self.average = EMAHandler(network, momentum, handle_buffers="update")
        self.network: nn.Module = self.average.model
        self._trained: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        self.average.attach(engine, warn_if_exists=False)
        engine.add_event_handler(Events.EPOCH_STARTED, self._resume)
        engine.add_event_handler(epoch_end(), self._release)
        engine.add_event_handler(Events.COMPLETED, self._release)  # a training that ends within an epoch

    def state_dict(self) -> dict[str, Any]:
        """The average, and the weights that training goes on from."""
        return {"average": self.average.ema_model.state_dict(), "trained": dict(self._trained)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was."""
        self.average.ema_model.load_state_dict(state["average"])
        device = next(iter(self.network.state_dict().values())).device
        self._trained = {name: value.to(device) for name, value in state["trained"].items()}

    def _release(self, engine: Engine) -> None:
        if not self._trained:
            self._trained = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.average.ema_model.state_dict())

    def _resume(self, engine: Engine) -> None:
        if self._trained:
            self.network.load_state_dict(self._trained)
            self._trained = {}
