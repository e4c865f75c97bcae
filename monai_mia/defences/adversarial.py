# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Min-max adversarial regularisation: train against an attacker that is trained at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from monai_mia.defences.held_out import HeldOutCases, undisturbed
from monai_mia.defences.losses import LossTerm, one_hot_label
from monai_mia.errors import InputError
from monai_mia.signals.release import bare_network

__all__ = ["AdversarialRegularisation"]


class AdversarialRegularisation(LossTerm):
    r"""Add to the loss what a discriminator gains from predictions on members: a handler of a trainer.

    The discriminator :math:`h` is shown the prediction beside the one-hot reference, and tells cases that are trained
    on from held-out ones. For each batch it takes a step up its gain, then the network takes one step down

    .. math:: \mathrm{loss} + \lambda \frac1B \sum_{i\ \mathrm{member}} \log h(f(x_i), y_i)

    The discriminator sees the batch and held-out cases, never a case that is evaluated: the published code trained it
    on the very cases that the attack was then evaluated on. For its own step, predictions are made in evaluation mode,
    as they are released. ``discriminator_accuracy`` in ``engine.state.metrics`` is its balanced accuracy over the
    epoch; one half means that it cannot tell. Under ``torchrun`` each process has a discriminator of its own.

    Args:
        discriminator: a network from (B, 2 C, *spatial), probabilities and one-hot reference, to logits, whose mean
            over all but the first axis is the case's; of a list of outputs, as of MONAI's ``PatchDiscriminator``, the
            last counts.
        held_out: the reference set.
        weight: :math:`\lambda`; 0 is the plain training, bit for bit.
        gain: ``log`` as Nasr et al., or ``probability``, the mean of :math:`h` itself, as Chobola et al., who add it
            up over a batch of 8: their 0.005 and 0.05 are 0.04 and 0.4 here.
        learning_rate: of the discriminator's Adam.
        steps: of the discriminator for each one of the network.
        activation: ``softmax`` or ``sigmoid``.

    Source: `Nasr et al. (2018) <https://arxiv.org/abs/1807.05852>`_;
    `Chobola et al. (2023) <https://arxiv.org/abs/2212.01082>`_ for segmentation.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        held_out: HeldOutCases,
        weight: float = 0.1,
        gain: Literal["log", "probability"] = "log",
        learning_rate: float = 1e-3,
        steps: int = 1,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        if not weight >= 0:
            raise InputError(f"weight must be at least 0, got {weight}.")
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}.")
        if gain not in ("log", "probability"):
            raise InputError(f"gain must be log or probability, got {gain!r}.")
        self.discriminator = discriminator
        self.held_out = held_out
        self.weight = weight
        self.gain = gain
        self.steps = steps
        self.activation = activation
        self.optimizer = torch.optim.Adam(discriminator.parameters(), lr=learning_rate)
        self._correct: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        self.held_out.attach(engine)
        engine.add_event_handler(Events.STARTED, lambda: self.discriminator.to(engine.state.device))
        engine.add_event_handler(Events.EPOCH_STARTED, self._correct.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._report)
        super().attach(engine)

    def state_dict(self) -> dict[str, Any]:
        """The discriminator and its optimizer."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])

    def minimised(self, engine: Any, loss: Tensor) -> Tensor:
        """A step of the discriminator, then the loss with its gain."""
        output = engine.state.output
        with undisturbed(), torch.autocast(engine.state.device.type, enabled=False):
            members = self._shown(engine, output["image"], output["label"])
            for _ in range(self.steps):
                self._step(engine, members)
            self.discriminator.requires_grad_(False)
            logits = self._logits(self._pairs(output["pred"], output["label"]))
            self.discriminator.requires_grad_(True)
        gain = F.logsigmoid(logits) if self.gain == "log" else torch.sigmoid(logits)
        return loss + self.weight * gain.mean()

    def _step(self, engine: Any, members: Tensor) -> None:
        batch = engine.prepare_batch(
            self.held_out.batch(), engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        others = self._shown(engine, batch[0], batch[1])
        with torch.enable_grad():
            inside, outside = self._logits(members), self._logits(others)
            loss = -(F.logsigmoid(inside).mean() + F.logsigmoid(-outside).mean()) / 2
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        correct = ((inside > 0).float().mean() + (outside < 0).float().mean()) / 2
        self._correct.append(correct.detach())

    def _shown(self, engine: Any, image: Tensor, label: Tensor) -> Tensor:
        """What the discriminator is trained on."""
        network = bare_network(engine.network)
        network.eval()
        with torch.no_grad():
            shown = self._pairs(engine.inferer(image, network), label)
        network.train()
        return shown

    def _pairs(self, pred: Tensor, label: Tensor) -> Tensor:
        pred = convert_to_tensor(pred, track_meta=False)
        pred = pred.float()  # mixed precision is for the network
        p = pred.softmax(dim=1) if self.activation == "softmax" else pred.sigmoid()
        return torch.cat([p, one_hot_label(p, label)], dim=1)

    def _logits(self, pairs: Tensor) -> Tensor:
        """One logit a case, shape (B,)."""
        output = self.discriminator(pairs)
        output = output[-1] if isinstance(output, (list, tuple)) else output
        logits: Tensor = output.flatten(1).mean(dim=1)
        return logits

    def _report(self, engine: Any) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:
            engine.state.metrics["discriminator_accuracy"] = float(torch.stack(self._correct).mean())
