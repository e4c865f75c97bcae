# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A handler that carries out attacks at the end of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from ignite.engine import Engine, Events

from monai_mia.records.table import SignalTable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AttackRunner"]


class _Audit(Protocol):
    def run(
        self, table: SignalTable, target: str, shadows: Sequence[str] | None, features: np.ndarray | None
    ) -> Any: ...


class AttackRunner:
    """Carry out attacks at the end of an evaluation, and put their AUC and TPR@FPR into ``engine.state.metrics``.

    There ``MetricsSaver``, ``TensorBoardStatsHandler`` and ``MLFlowHandler`` find them beside Dice. Attach it after the
    :class:`SignalRecorder` whose file it reads.

    Args:
        audit: a :class:`monai_mia.audit.Audit` with the attacks.
        signals: the folder with the shadows' signals, where the recorder writes this model's.
        model_id: id of the evaluated model.
        shadows: ids of the shadows; by default all other models in the folder.
        prefix: put before each metric's name.

    Example::

        - _target_: monai_mia.handlers.AttackRunner
          signals: "$@output_dir + '/signals'"
          audit:
            _target_: monai_mia.audit.Audit
            attacks: [{_target_: monai_mia.attacks.GlobalLoss}, {_target_: monai_mia.attacks.LiRA}]
    """

    def __init__(
        self,
        audit: _Audit,
        signals: str | os.PathLike[str],
        model_id: str = "target",
        shadows: Sequence[str] | None = None,
        prefix: str = "",
    ) -> None:
        self.audit = audit
        self.signals = signals
        self.model_id = model_id
        self.shadows = shadows
        self.prefix = prefix

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Attack the model that was just evaluated."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        models = None if self.shadows is None else [self.model_id, *self.shadows]
        table = SignalTable.read(self.signals, models)
        result = self.audit.run(table, self.model_id, self.shadows, None)
        engine.state.metrics.update({f"{self.prefix}{name}": value for name, value in result.metrics().items()})
