# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Knowledge distillation: the network that is released has seen no member, only what a teacher says of other cases."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from monai_mia.defences.held_out import HeldOutCases, epoch_end
from monai_mia.errors import InputError
from monai_mia.signals.release import bare_network

__all__ = ["Distillation"]


class Distillation:
    r"""Train a teacher on the members, then the network anew on the teacher's answers: a handler of a trainer.

    For ``teacher_epochs`` the training is what it was. Then the network takes the weights of ``fresh``, the optimizer
    and the schedule start again, and each batch is replaced by held-out cases whose references are the teacher's
    answers. No member reaches the network from there on; what it still knows of them it has from the teacher. An
    epoch has as many steps as before. Between epochs of the teacher the network holds the weights of ``fresh``, so that
    nothing saves or releases the teacher in its place.

    Hard labels are the most likely class (with sigmoid, a probability above one half), and the bundle's own loss is
    taken on them; the published code compared the teacher's logit with one half. With a ``temperature``

    .. math:: T^2 \frac1{|V|} \sum_v \mathrm{KL}(\mathrm{softmax}(t_v/T) \,\|\, \mathrm{softmax}(s_v/T))

    is minimised instead, where :math:`t` and :math:`s` are the logits of teacher and network.

    Args:
        held_out: the transfer set; its references are never used.
        fresh: a network as the trained one, with weights as before a training: ``"%network_def"`` in a config.
        teacher_epochs: epochs of the teacher, at least 1 and less than the trainer's.
        lr_scheduler: the schedule that starts again; it should be as long as the longer one of the two phases.
        temperature: :math:`T`; None: hard labels.
        activation: ``softmax`` or ``sigmoid``.

    Source: `Hinton et al. (2015) <https://arxiv.org/abs/1503.02531>`_; as a defence `Shejwalkar and Houmansadr (2021)
    <https://arxiv.org/abs/1906.06589>`_, on segmentation Chobola et al. (2023).
    """

    def __init__(
        self,
        held_out: HeldOutCases,
        fresh: nn.Module,
        teacher_epochs: int,
        lr_scheduler: Any = None,
        temperature: float | None = None,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        if temperature is not None and not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature must be above 0, or null for hard labels, got {temperature}.")
        if teacher_epochs < 1:
            raise InputError(f"teacher_epochs must be at least 1, got {teacher_epochs}.")
        self.held_out = held_out
        self.fresh = fresh
        self.teacher_epochs = teacher_epochs
        self.lr_scheduler = lr_scheduler
        self.temperature = temperature
        self.activation = activation
        self.teacher: nn.Module | None = None
        self._unfinished: dict[str, Tensor] = {}
        self._start: dict[str, Any] = {}
        self._answers: Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        self.held_out.attach(engine)
        engine.add_event_handler(Events.STARTED, self._remember)
        engine.add_event_handler(Events.EPOCH_STARTED, self._switch)
        engine.add_event_handler(epoch_end(), self._hide)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._transfer)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._soften)

    def state_dict(self) -> dict[str, Any]:
        """The teacher, trained or in training."""
        teacher = {} if self.teacher is None else self.teacher.state_dict()
        return {"teacher": teacher, "unfinished": dict(self._unfinished)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was."""
        self._unfinished = dict(state["unfinished"])
        if state["teacher"]:
            self.teacher = copy.deepcopy(self.fresh)
            self.teacher.load_state_dict(state["teacher"])

    def _remember(self, engine: Any) -> None:
        if engine.state.max_epochs <= self.teacher_epochs:
            raise InputError(
                f"teacher_epochs must be less than the epochs of the training, {engine.state.max_epochs}, got "
                f"{self.teacher_epochs}. Raise train#trainer#max_epochs."
            )
        self._start = copy.deepcopy({name: item.state_dict() for name, item in self._restarted(engine).items()})

    def _restarted(self, engine: Any) -> dict[str, Any]:
        restarted = {"optimizer": engine.optimizer}
        return restarted if self.lr_scheduler is None else {**restarted, "lr_scheduler": self.lr_scheduler}

    def _hide(self, engine: Any) -> None:
        if self.teacher is None:
            network = bare_network(engine.network)
            self._unfinished = {name: value.clone() for name, value in network.state_dict().items()}
            network.load_state_dict(self.fresh.state_dict())

    def _switch(self, engine: Any) -> None:
        if self._unfinished and engine.state.epoch <= self.teacher_epochs:
            bare_network(engine.network).load_state_dict(self._unfinished)
        elif self._unfinished:  # the network holds the fresh weights already
            self.teacher = copy.deepcopy(self.fresh)
            self.teacher.load_state_dict(self._unfinished)
            for name, item in self._restarted(engine).items():
                item.load_state_dict(copy.deepcopy(self._start[name]))
        self._unfinished = {}
        if self.teacher is not None:
            self.teacher.to(engine.state.device).eval().requires_grad_(False)

    def _transfer(self, engine: Any) -> None:
        if self.teacher is None:
            return
        batch = self.held_out.batch()
        image = batch["image"].to(engine.state.device)
        with torch.no_grad():
            answers = engine.inferer(image, self.teacher)
        answers = convert_to_tensor(answers, track_meta=False)
        softmax = self.activation == "softmax"
        hard = answers.argmax(dim=1, keepdim=True) if softmax else (answers > 0).to(answers.dtype)
        self._answers = None if self.temperature is None else answers
        engine.state.batch = {**batch, "image": image, "label": hard}

    def _soften(self, engine: Any) -> None:
        if self._answers is None or self.temperature is None:
            return
        pred = engine.state.output["pred"]
        student = convert_to_tensor(pred, track_meta=False) / self.temperature
        teacher = self._answers / self.temperature
        if self.activation == "softmax":
            divergence = F.kl_div(
                F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="none", log_target=True
            ).sum(dim=1)
        else:
            p = teacher.sigmoid()
            divergence = F.binary_cross_entropy_with_logits(student, p, reduction="none")
            divergence = divergence - F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
        engine.state.output["loss"] = self.temperature**2 * divergence.mean()
