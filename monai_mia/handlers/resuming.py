# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Handlers that keep a training reproducible and resumable."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from monai_mia.records import files

if TYPE_CHECKING:
    pass

__all__ = ["Checkpointer", "EpochSeeder", "ProgressFile"]

logger = logging.getLogger(__name__)


class EpochSeeder:
    """Seed everything anew at the start of each epoch, from the model's seed and the epoch's number.

    So an epoch's shuffling, augmentation and dropout are the same whether the training came here in one go or was
    resumed: the model is the same, bit for bit.

    Args:
        seed: the model's seed.
        dataset: the dataset whose random transforms are seeded, too (they keep generators of their own).
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the epoch that starts."""
        seed = int(files.digest([self.seed, engine.state.epoch])[:8], 16)
        set_determinism(seed)
        set_rnd(self.dataset, seed)


class Checkpointer:
    """Save the whole state of a training after every few epochs, atomically, in one file; load it to resume.

    Args:
        path: the file.
        objects: what has a ``state_dict``: network, optimizer, schedulers.
        key: hash of what the training depends on; a checkpoint with another key is not resumed.
        interval: epochs between checkpoints.
    """

    def __init__(self, path: str | os.PathLike[str], objects: Mapping[str, Any], key: str, interval: int = 1) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.key = key
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, and go on where its last checkpoint stopped."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint."""
        state = {name: item.state_dict() for name, item in self.objects.items()}
        files.write(self.path, tensor_bytes({"key": self.key, "epoch": engine.state.epoch, **state}))

    def load(self, engine: Engine) -> None:
        """Load the checkpoint, if there is one of this very training."""
        try:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return
        except Exception as error:  # torn by a crash of the file system, in one of many ways
            logger.warning("%s cannot be read (%s): this training starts again.", self.path.name, type(error).__name__)
            return
        if not isinstance(checkpoint, dict) or checkpoint.get("key") != self.key:
            return
        for name, item in self.objects.items():
            item.load_state_dict(checkpoint[name])
        engine.state.epoch = checkpoint["epoch"]
        engine.state.iteration = checkpoint["epoch"] * engine.state.epoch_length


def tensor_bytes(content: Mapping[str, Any]) -> bytes:
    """What ``torch.save`` would write; in memory first, so that it is written whole or not at all."""
    buffer = BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


class ProgressFile:
    """Keep in a small file how far a step has come, for whoever watches from another process.

    Args:
        path: the file; it holds ``done`` and ``total``, and ``epsilon`` of a training with differential privacy.
        unit: ``epochs`` of a training, or ``cases`` of an evaluation.
    """

    def __init__(self, path: str | os.PathLike[str], unit: Literal["epochs", "cases"]) -> None:
        self.path = Path(path)
        self.unit = unit

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        event = Events.EPOCH_COMPLETED if self.unit == "epochs" else Events.ITERATION_COMPLETED
        engine.add_event_handler(event, self)

    def __call__(self, engine: Engine) -> None:
        """Write how far it has come."""
        state = engine.state
        done, total = (
            (state.epoch, state.max_epochs) if self.unit == "epochs" else (state.iteration, state.epoch_length)
        )
        epsilon = state.metrics.get("epsilon", math.inf)
        spent = {"epsilon": epsilon} if math.isfinite(epsilon) else {}
        files.write_json(self.path, {"done": done, "total": total, **spent})
