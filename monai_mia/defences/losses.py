# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses of training defences: a floor under the loss, and a Dice loss that is right for soft labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.losses import DiceCELoss
from monai.networks.utils import one_hot
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from monai_mia.errors import InputError

__all__ = ["LossFloor", "LossTerm", "SoftDiceCELoss", "one_hot_label"]

# Where the loss that is logged waits while another one is minimised.
_LOGGED = "logged_loss"


class LossTerm:
    """Base of handlers that change what a trainer minimises, and leave the loss that is logged.

    MONAI's trainers read the loss from ``engine.state.output`` after ``LOSS_COMPLETED``, whatever the loss, the
    inferer and the precision.
    """

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._replace)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._restore)

    def minimised(self, engine: Any, loss: Tensor) -> Tensor:
        """What is minimised instead of the loss of the batch, a scalar."""
        raise NotImplementedError

    def _replace(self, engine: Any) -> None:
        output = engine.state.output
        output.setdefault(_LOGGED, output["loss"].detach())
        output["loss"] = self.minimised(engine, output["loss"])

    def _restore(self, engine: Any) -> None:
        output = engine.state.output
        output["loss"] = output.pop(_LOGGED, output["loss"])


class LossFloor(LossTerm):
    r"""Keep the training loss at a floor, as RelaxLoss: below it, climb, and flatten what is predicted wrongly.

    A batch whose loss is at least ``alpha`` is trained on as ever. Below, in odd epochs the loss is climbed (minus the
    loss is minimised). In even epochs

    .. math:: \frac1{|V|} \sum_{v\ \mathrm{wrong}} H(t_v, p_v) - \mathrm{loss}

    is minimised, where :math:`H` is the cross-entropy with soft targets :math:`t_v`: the class of the reference keeps
    the probability that it has, the other classes share the rest equally. The targets are constants.

    What is adapted to dense predictions: a sample is a voxel, wrong if its most likely class is not the reference's;
    means are over the voxels of the batch; the loss that is compared with the floor, and climbed, is the bundle's own,
    such as Dice plus cross-entropy, where the publication has cross-entropy alone. With sigmoid a channel has one other
    state, nothing is to be flattened, and every epoch climbs.

    Args:
        alpha: the floor, in units of the bundle's loss. A good start is the loss of validation cases in an undefended
            training: members then end where non-members are.
        activation: ``softmax`` or ``sigmoid``.

    Source: `Chen, Yu and Fritz (2022) <https://arxiv.org/abs/2207.05801>`_, with the terms of the authors' code.
    """

    def __init__(self, alpha: float, activation: Literal["softmax", "sigmoid"] = "softmax") -> None:
        if not alpha > 0:
            raise InputError(f"alpha must be above 0, got {alpha}. Take about the loss of cases not trained on.")
        self.alpha = alpha
        self.activation = activation

    def minimised(self, engine: Any, loss: Tensor) -> Tensor:
        """See the class."""
        if float(loss.detach()) >= self.alpha:
            return loss
        if engine.state.epoch % 2 or self.activation == "sigmoid":
            return -loss
        return _flattening(engine.state.output["pred"], engine.state.output["label"]) - loss


def _flattening(pred: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy with flat targets over voxels, right ones counting 0."""
    logits: Tensor = convert_to_tensor(pred, track_meta=False)
    reference = one_hot_label(logits, label)
    log_p = F.log_softmax(logits, dim=1)
    with torch.no_grad():
        true = (log_p.exp() * reference).sum(dim=1, keepdim=True)
        targets = true * reference + (1 - true) / (logits.shape[1] - 1) * (1 - reference)
        wrong = logits.argmax(dim=1) != reference.argmax(dim=1)
    return (-(targets * log_p).sum(dim=1) * wrong).mean()


def one_hot_label(pred: Tensor, label: Tensor) -> Tensor:
    """The reference with as many channels as the prediction, in its precision; class indices become one-hot."""
    label = convert_to_tensor(label, track_meta=False)
    if label.shape[1] == 1 and pred.shape[1] > 1:
        label = one_hot(label, pred.shape[1])
    return label.to(pred.dtype)


class SoftDiceCELoss(DiceCELoss):
    """MONAI's ``DiceCELoss`` with a Dice part that is right for soft labels (``DiceLoss(soft_label=True)``).

    The plain Dice loss of a soft label is least at a hard prediction, not at the label. This one is least, and 0, at
    the label, and is the plain one for hard labels.

    Args:
        kwargs: as MONAI's.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dice.soft_label = True
