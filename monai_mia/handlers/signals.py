# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI handlers: they record signals, carry out attacks, and keep a training reproducible and resumable.

Attacks are never imported here; a config hands them over.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor, evenly_divisible_all_gather, string_list_all_gather
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.records.table import write_signals
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import access_of, segmentation_signals
from monai_mia.signals.slabs import SlabPrediction

if TYPE_CHECKING:
    pass

__all__ = ["SignalRecorder"]


Signal = Callable[..., Mapping[str, float]]


def require_keys(batch: Mapping[str, Any], *keys: str) -> None:
    """Refuse a batch whose items lack one of these keys."""
    missing = [key for key in keys if key not in batch]
    if missing:
        raise InputError(f"items of the datalist must have {', '.join(missing)}, got {', '.join(map(str, batch))}.")


class SignalRecorder:
    """Record the signals of every case that an evaluation sees, one row a case.

    Works in any evaluator, whatever its postprocessing: it reads the stitched prediction when the forward pass is
    complete, before anything else touches it. Under ``torchrun`` the ranks' rows are gathered and the first rank
    writes; give the sampler ``even_divisible=False``, or the cases that it repeats to fill the last round are refused.

    Args:
        path: the ``<model_id>.csv`` to write when the evaluation ends.
        model_id: name of the model in the table; by default the file's stem.
        signals: functions from a release and a label to named numbers; by default all of
            :func:`~monai_mia.signals.segmentation_signals`. A function of your own may carry an attribute ``access``,
            and see more than the release; see below.
        transform: dictionary transform applied to each item ``{"pred", "label", "image"}`` first, for instance an
            output defence; None releases the raw output.
        release: what leaves the model after it: ``logits``, ``probabilities`` or ``mask``.
        activation: ``softmax`` or ``sigmoid``.
        n_classes: number of classes; needed for a softmax mask only.
        about: what the rows depend on, written beside them.

    The datalist's items need ``case_id``, ``patient_id`` and ``member`` (0 or 1); see
    :meth:`monai_mia.records.Design.queries`.

    A signal that carries an attribute ``needs``, a tuple of names, is called with these as keywords, too:

    - ``image``: what the network was given, shape (channels, *spatial);
    - ``case_id``: the case's name;
    - ``ask``: a function that asks the model about another image, ``ask(image, inferer=None)``, through the same
      inferer or another, and gives what is released of it;
    - ``network`` and ``inferer``: the model itself, for white-box signals.

    A signal with a method ``in_slabs``, which gives an object with ``add(release, label, start)`` and ``result()``, can
    also be read of a :class:`~monai_mia.signals.SlabPrediction`; see :class:`~monai_mia.signals.SegmentationSums`.

    A signal may have two more methods: ``start()``, called before the first case, and ``finish()``, called after the
    last, which returns further named numbers, one a case in the order of the calls.

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
        for signal in self.signals:
            getattr(signal, "start", lambda: None)()

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._record)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _record(self, engine: Engine) -> None:
        batch = engine.state.batch
        output = engine.state.output
        require_keys(batch, "case_id", "patient_id", "member")
        predictions, labels, images = output["pred"], output.get("label"), output.get("image")
        for n, prediction in enumerate(predictions):
            image, label = None if images is None else images[n], None if labels is None else labels[n]
            case = str(batch["case_id"][n])
            available = {
                "image": None if image is None else convert_to_tensor(image, track_meta=False),
                "case_id": case,
                "ask": partial(self._ask, engine, label) if hasattr(engine, "network") else None,
                "network": getattr(engine, "network", None),
                "inferer": getattr(engine, "inferer", None),
            }
            try:
                if isinstance(prediction, SlabPrediction):
                    row = self._row_in_slabs(engine, prediction, label)
                else:
                    row = self._row(self._release(prediction, label, image), label, available)
            except InputError as error:
                raise InputError(f"case {case!r}: {error}") from error
            if not self._names:
                self._names = tuple(row)
            if tuple(row) != self._names:
                raise InputError(
                    f"case {case!r} must have the signals of the cases before it, got others: {sorted(row)}."
                )
            self._ids.append(case)
            self._patients.append(str(batch["patient_id"][n]))
            self._members.append(float(batch["member"][n]))
            self._rows.append(list(row.values()))

    def _row(self, release: Release, label: Tensor | None, available: Mapping[str, Any]) -> dict[str, float]:
        """The signals of one release."""
        row: dict[str, float] = {}
        for signal in self.signals:
            needed = {name: available.get(name) for name in getattr(signal, "needs", ())}
            lacking = [name for name, value in needed.items() if value is None]
            if lacking:
                raise InputError(
                    f"evaluator must give {', '.join(lacking)} for {signal}, got none. Use a "
                    "monai.engines.SupervisedEvaluator."
                )
            values = signal(release, None if label is None else convert_to_tensor(label, track_meta=False), **needed)
            row.update(self._declared(signal, values))
        return row

    def _row_in_slabs(self, engine: Engine, prediction: SlabPrediction, label: Tensor | None) -> dict[str, float]:
        """The same, of a prediction that is made now and never whole."""
        with _as_asked(engine):
            found = prediction.signals(
                self.signals,
                lambda slab: self._release(slab, None, None),
                None if label is None else convert_to_tensor(label, track_meta=False),
            )
        row: dict[str, float] = {}
        for signal, values in zip(self.signals, found, strict=True):
            row.update(self._declared(signal, values))
        return row

    def _ask(self, engine: Engine, label: Tensor | None, image: Tensor, inferer: Any = None) -> Release:
        """Ask the model once more, as the engine does, about another image of the same shape."""
        with _as_asked(engine):
            prediction = (inferer or engine.inferer)(image[None], engine.network)[0]
        return self._release(prediction, label, image)

    def _release(self, prediction: Tensor, label: Tensor | None, image: Tensor | None) -> Release:
        """What leaves the model of one raw prediction."""
        if self.transform is not None:
            prediction = self.transform({"pred": prediction, "label": label, "image": image})["pred"]
        return Release(convert_to_tensor(prediction, track_meta=False), self.release, self.activation, self.n_classes)

    def _declared(self, signal: Signal, values: Mapping[str, float]) -> dict[str, float]:
        """Finite numbers, whose access is known from then on."""
        for name in values:
            if name not in self._access:
                self._access[name] = getattr(signal, "access", None) or access_of(name)
        row = {name: float(value) for name, value in values.items()}
        odd = [name for name, value in row.items() if not math.isfinite(value)]
        if odd:
            raise InputError(f"signals must be finite, got {row[odd[0]]} for {', '.join(odd)}.")
        return row

    def _finish(self) -> None:
        """What signals can tell only when all cases are asked."""
        for signal in self.signals:
            for name, values in getattr(signal, "finish", dict)().items():
                self._names += (name,)
                for row, value in zip(self._rows, values, strict=True):
                    row += self._declared(signal, {name: value}).values()

    def _write(self, engine: Engine) -> None:
        self._finish()
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


@contextlib.contextmanager
def _as_asked(engine: Engine) -> Iterator[None]:
    """The network's mode and the precision in which an evaluator asks it."""
    precision = torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else contextlib.nullcontext()
    with engine.mode(engine.network), precision:
        yield
