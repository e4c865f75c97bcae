# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What several training defences share: held-out cases, the end of an epoch, undisturbed randomness."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset
from monai.data.utils import list_data_collate, set_rnd
from torch.utils.data import DataLoader

from monai_mia.errors import InputError

__all__ = ["HeldOutCases", "epoch_end", "undisturbed"]


class HeldOutCases:
    """Cases of patients that are neither trained on nor asked about, as batches without end.

    The order and the augmentation of an epoch depend on the epoch's seed and number alone, so that a resumed training
    sees the same; no random number is taken from the training's own.

    Args:
        cases: datalist, items as those of the training. A study fills the id ``held_out`` of a training config. In a
            bundle alone they may be the cases of the validation.
        transform: the training's own preprocessing, random transforms included; it is copied.
        batch_size: cases a batch.

    Raises:
        InputError: there are no cases.
    """

    def __init__(
        self, cases: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], batch_size: int = 4
    ) -> None:
        if not len(cases):
            raise InputError(
                "held_out must be cases of patients that are neither trained on nor evaluated, got none. In a study "
                "set held_out, the share of patients that is held out; in a bundle alone pass --held_out "
                "'@validate#dataset#data'."
            )
        self.cases = [dict(case) for case in cases]
        self.dataset = CacheDataset(self.cases, copy.deepcopy(transform), progress=False)
        self.batch_size = batch_size
        self._batches: Iterator[Any] | None = None
        self._epoch = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        self._batches, self._epoch = None, engine.state.epoch

    def batch(self) -> Any:
        """The next batch, collated as MONAI's loaders do."""
        if self._batches is None:  # not at the start of the epoch: others seed there
            self._batches = self._draw((torch.initial_seed() + 1_000_003 * self._epoch) % 2**32)
        with undisturbed():
            return next(self._batches)

    def _draw(self, seed: int) -> Iterator[Any]:
        set_rnd(self.dataset, seed)
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from DataLoader(
                self.dataset, self.batch_size, shuffle=True, generator=generator, collate_fn=list_data_collate
            )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever random numbers are drawn inside, those drawn after are the same."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


def epoch_end() -> Any:
    """The event of an epoch's last iteration, before handlers of the epoch's end validate or save."""
    return Events.ITERATION_COMPLETED(event_filter=lambda engine, n: n % engine.state.epoch_length == 0)
