# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI handlers: they record signals, carry out attacks, and keep a training reproducible and resumable.

Attacks are never imported here; a config hands them over.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from monai.utils import evenly_divisible_all_gather, set_determinism, string_list_all_gather
from torch import Tensor

from monai_mia import files
from monai_mia.errors import InputError
from monai_mia.signals import Release, access_of, segmentation_signals
from monai_mia.table import SignalTable, write_signals

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

__all__ = ["AttackRunner", "Checkpointer", "EpochSeeder", "ProgressFile", "SignalRecorder"]

Signal = Callable[[Release, Tensor | None], Mapping[str, float]]


class SignalRecorder:
    """Record the signals of every case that an evaluation sees, one row a case.

    Works in any evaluator, whatever its postprocessing: it reads the stitched prediction when the forward pass is
    complete, before anything else touches it. Under ``torchrun`` the ranks' rows are gathered and the first rank
    writes; give the sampler ``even_divisible=False``, or the cases that it repeats to fill the last round are refused.

    Args:
        path: the ``<model_id>.csv`` to write when the evaluation ends.
        model_id: name of the model in the table; by default the file's stem.
        signals: functions from a release and a label to named numbers; by default all of
            :func:`~monai_mia.signals.segmentation_signals`. A function of your own may carry an attribute ``access``.
        transform: dictionary transform applied to each item ``{"pred", "label", "image"}`` first, for instance an
            output defence; None releases the raw output.
        release: what leaves the model after it: ``logits``, ``probabilities`` or ``mask``.
        activation: ``softmax`` or ``sigmoid``.
        n_classes: number of classes; needed for a softmax mask only.
        about: what the rows depend on, written beside them.

    The datalist's items need ``case_id``, ``patient_id`` and ``member`` (0 or 1); see
    :meth:`monai_mia.designs.Design.queries`.

    Example::

        - _target_: monai_mia.handlers.SignalRecorder
          path: "$@output_dir + '/signals/target.csv'"
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model_id: str | None = None,
        signals: Sequence[Signal] = (segmentation_signals,),
        transform: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        release: Literal["logits", "probabilities", "mask"] = "logits",
        activation: Literal["softmax", "sigmoid"] = "softmax",
        n_classes: int | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.model_id = model_id or self.path.stem
        self.signals = tuple(signals)
        self.transform = transform
        self.release = release
        self.activation = activation
        self.n_classes = n_classes
        self.about = dict(about or {})
        self._reset()

    def _reset(self) -> None:
        self._ids: list[str] = []
        self._patients: list[str] = []
        self._members: list[float] = []
        self._rows: list[list[float]] = []
        self._names: tuple[str, ...] = ()
        self._access: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._record)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _record(self, engine: Engine) -> None:
        batch = engine.state.batch
        output = engine.state.output
        missing = [key for key in ("case_id", "patient_id", "member") if key not in batch]
        if missing:
            raise InputError(f"items of the datalist must have {', '.join(missing)}, got {', '.join(map(str, batch))}.")
        predictions, labels = output["pred"], output.get("label")
        for n, prediction in enumerate(predictions):
            label = None if labels is None else labels[n]
            if self.transform is not None:
                item = {"pred": prediction, "label": label, "image": output["image"][n]}
                prediction = self.transform(item)["pred"]
            self._append(
                str(batch["case_id"][n]), str(batch["patient_id"][n]), float(batch["member"][n]), prediction, label
            )

    def _append(self, case: str, patient: str, member: float, prediction: Tensor, label: Tensor | None) -> None:
        row: dict[str, float] = {}
        try:
            release = Release(_plain(prediction), self.release, self.activation, self.n_classes)
            for signal in self.signals:
                values = signal(release, None if label is None else _plain(label))
                for name in values:
                    if name not in self._access:
                        self._access[name] = getattr(signal, "access", None) or access_of(name)
                row.update({name: float(value) for name, value in values.items()})
            odd = [name for name, value in row.items() if not math.isfinite(value)]
            if odd:
                raise InputError(f"signals must be finite, got {row[odd[0]]} for {', '.join(odd)}.")
        except InputError as error:
            raise InputError(f"case {case!r}: {error}") from error
        if not self._names:
            self._names = tuple(row)
        if tuple(row) != self._names:
            raise InputError(f"case {case!r} must have the signals of the cases before it, got others: {sorted(row)}.")
        self._ids.append(case)
        self._patients.append(patient)
        self._members.append(member)
        self._rows.append(list(row.values()))

    def _write(self, engine: Engine) -> None:
        rows = evenly_divisible_all_gather(torch.tensor(self._rows, dtype=torch.float64))
        members = evenly_divisible_all_gather(torch.tensor(self._members, dtype=torch.float64))
        self._ids, self._patients = string_list_all_gather(self._ids), string_list_all_gather(self._patients)
        self._rows, self._members = rows.tolist(), members.tolist()
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        if len(set(self._ids)) != len(self._ids):
            raise InputError(
                "case_id must be unique in an evaluation, got some twice. Use DistributedSampler(even_divisible=False)."
            )
        columns = dict(zip(self._names, zip(*self._rows, strict=True), strict=True))
        write_signals(
            self.path, self.model_id, self._ids, self._patients, [bool(m) for m in self._members], columns,
            self._access, **self.about,
        )  # fmt: skip


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


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
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # torn by a crash of the file system
            logger.warning("%s cannot be read (%s): this training starts again.", self.path.name, type(error).__name__)
            return
        if checkpoint.get("key") != self.key:
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
        path: the file; it holds ``done`` and ``total``.
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
        files.write_json(self.path, {"done": done, "total": total})
