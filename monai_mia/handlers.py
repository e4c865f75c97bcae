# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI handlers: they record signals, carry out attacks, and keep a training reproducible and resumable.

Attacks are never imported here; a config hands them over.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
from torch.nn import functional as F  # noqa: N812

from monai_mia import files
from monai_mia.errors import InputError
from monai_mia.maps import IMAGES, LABELS, MapStore, MapWriter, design_digest
from monai_mia.signals import CLIP, Release, access_of, segmentation_signals
from monai_mia.slabs import SlabPrediction
from monai_mia.table import SignalTable, write_signals
from monai_mia.unwrapping import plain_tensor

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

__all__ = ["AttackRunner", "Checkpointer", "EpochSeeder", "MapRecorder", "ProgressFile", "SignalRecorder"]

Signal = Callable[..., Mapping[str, float]]


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
    :meth:`monai_mia.designs.Design.queries`.

    A signal that carries an attribute ``needs``, a tuple of names, is called with these as keywords, too:

    - ``image``: what the network was given, shape (channels, *spatial);
    - ``case_id``: the case's name;
    - ``ask``: a function that asks the model about another image, ``ask(image, inferer=None)``, through the same
      inferer or another, and gives what is released of it;
    - ``network`` and ``inferer``: the model itself, for white-box signals.

    A signal with a method ``in_slabs``, which gives an object with ``add(release, label, start)`` and ``result()``, can
    also be read of a :class:`~monai_mia.slabs.SlabPrediction`; see :class:`~monai_mia.signals.SegmentationSums`.

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
        missing = [key for key in ("case_id", "patient_id", "member") if key not in batch]
        if missing:
            raise InputError(f"items of the datalist must have {', '.join(missing)}, got {', '.join(map(str, batch))}.")
        predictions, labels, images = output["pred"], output.get("label"), output.get("image")
        for n, prediction in enumerate(predictions):
            image, label = None if images is None else images[n], None if labels is None else labels[n]
            case = str(batch["case_id"][n])
            available = {
                "image": None if image is None else plain_tensor(image),
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
            values = signal(release, None if label is None else plain_tensor(label), **needed)
            row.update(self._declared(signal, values))
        return row

    def _row_in_slabs(self, engine: Engine, prediction: SlabPrediction, label: Tensor | None) -> dict[str, float]:
        """The same, of a prediction that is made now and never whole."""
        with _as_asked(engine):
            found = prediction.signals(
                self.signals,
                lambda slab: self._release(slab, None, None),
                None if label is None else plain_tensor(label),
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
        return Release(plain_tensor(prediction), self.release, self.activation, self.n_classes)

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


class MapRecorder:
    """Record the whole release of every case that an evaluation sees, for attackers that read maps.

    It sees what :class:`SignalRecorder` sees. Probabilities are kept as logits (their logarithms), where half precision
    loses least near 1; a mask is kept one-hot. Beside the model's file, ``labels.npz`` gets the references, once for
    all models. Compression saves
    little on logits; a CT cohort wants ``resolution: 2`` or more.

    Args:
        path: the ``<model_id>.npz`` to write when the evaluation ends; its folder is a
            :class:`~monai_mia.maps.MapStore`.
        model_id: name of the model; by default the file's stem.
        resolution: factor by which each axis is down-sampled, an integer or one for each axis. Maps are averaged
            (the last block may be smaller), the reference is taken at the middle of a block.
        transform: as :class:`SignalRecorder`.
        release: as :class:`SignalRecorder`.
        activation: as :class:`SignalRecorder`.
        n_classes: number of classes; needed for a softmax mask only.
        labels: whether the references are recorded.
        images: whether the images, as the network sees them, are recorded in ``images.npz``.
        cohort: hash of the cohort's files; references and images with the same are not written again.
        about: what the maps depend on, for instance their ``key``, written beside them.

    Raises:
        InputError: in an evaluation of more than one process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model_id: str | None = None,
        resolution: int | Sequence[int] = 1,
        transform: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        release: Literal["logits", "probabilities", "mask"] = "logits",
        activation: Literal["softmax", "sigmoid"] = "softmax",
        n_classes: int | None = None,
        labels: bool = True,
        images: bool = False,
        cohort: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        factors = (resolution,) if isinstance(resolution, int) else tuple(resolution)
        if not factors or min(factors) < 1:
            raise InputError(f"resolution must be integers of at least 1, got {resolution}.")
        self.path = Path(path)
        self.model_id = model_id or self.path.stem
        self.resolution = factors
        self.transform = transform
        self.release = release
        self.activation = activation
        self.n_classes = n_classes
        self.once = [name for name, wanted in ((LABELS, labels), (IMAGES, images)) if wanted]
        self.cohort = cohort
        self.about = dict(about or {})
        self._writers: dict[str, MapWriter] = {}
        self._members: list[bool] = []
        self._affines: list[list[list[float]] | None] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._record)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._discard)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise InputError(
                f"maps must be recorded in one process, got {torch.distributed.get_world_size()}. Query without "
                "torchrun; a study runs one query per process."
            )
        self._discard(engine)
        self._members, self._affines = [], []
        store = MapStore(self.path.parent)
        wanted = [name for name in self.once if not self._is_recorded(store.about(name))]
        self._writers = {name: MapWriter(self.path.with_name(f"{name}.npz")) for name in wanted}
        self._writers[self.model_id] = MapWriter(self.path)

    def _is_recorded(self, about: Mapping[str, Any]) -> bool:
        known = (about.get("cohort"), about.get("resolution"))
        return self.cohort is not None and known == (self.cohort, list(self.resolution))

    def _record(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        missing = [key for key in ("case_id", "member") if key not in batch]
        if missing:
            raise InputError(f"items of the datalist must have {', '.join(missing)}, got {', '.join(map(str, batch))}.")
        labels = output.get("label")
        if LABELS in self._writers and labels is None:
            raise InputError("label must be in the evaluator's batch, got none. Set labels: false, or give references.")
        for n, prediction in enumerate(output["pred"]):
            case = str(batch["case_id"][n])
            item = {"pred": prediction, "label": None if labels is None else labels[n], "image": output["image"][n]}
            released = prediction if self.transform is None else self.transform(dict(item))["pred"]
            self._writers[self.model_id].add(case, self._map(case, plain_tensor(released)))
            if LABELS in self._writers:
                self._writers[LABELS].add(
                    case, _numbers(_middle(plain_tensor(item["label"]), self.resolution), torch.uint8)
                )
                self._affines.append(_affine(item["label"], self.resolution))
            if IMAGES in self._writers:
                image = _mean(plain_tensor(item["image"]).float(), self.resolution)
                self._writers[IMAGES].add(case, _numbers(image, torch.float16))
            self._members.append(bool(batch["member"][n]))

    def _map(self, case: str, prediction: Tensor) -> np.ndarray:
        try:
            release = Release(prediction, self.release, self.activation, self.n_classes)
        except InputError as error:
            raise InputError(f"case {case!r}: {error}") from error
        values = release.values.float()
        if release.kind == "probabilities":
            values = values.clamp(CLIP, 1).log() - (
                0 if self.activation == "softmax" else (1 - values).clamp(CLIP, 1).log()
            )
        elif release.kind == "mask" and self.activation == "softmax":
            values = F.one_hot(values[0].long(), release.classes).movedim(-1, 0).float()
        limit = torch.finfo(torch.float16).max
        return _numbers(_mean(values, self.resolution).clamp(-limit, limit), torch.float16)

    def _close(self, engine: Engine) -> None:
        case_ids = list(self._writers[self.model_id].shapes)
        cohort = self.cohort or files.digest(sorted(case_ids))
        common = {"cohort": cohort, "resolution": list(self.resolution)}
        for name in self.once:  # first: a model's maps that are there have their references
            if name in self._writers:
                self._writers[name].close(**({"affines": self._affines} if name == LABELS else {}), **common)
        self._writers[self.model_id].close(
            model_id=self.model_id,
            release="mask" if self.release == "mask" else "logits",
            activation=self.activation,
            design=design_digest(case_ids, self._members),
            **common,
            **self.about,
        )
        self._writers = {}

    def _discard(self, engine: Engine) -> None:
        for writer in self._writers.values():
            writer.discard()
        self._writers = {}

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._discard(engine)
        raise error  # ignite takes an exception that has a handler for handled


def _affine(values: object, factors: tuple[int, ...]) -> list[list[float]] | None:
    """Voxel to world of a down-sampled volume, shape (4, 4), or None where it is not known."""
    affine = getattr(values, "affine", None)
    if affine is None or tuple(affine.shape) != (4, 4):
        return None
    steps = torch.ones(4, dtype=torch.float64)
    steps[: len(factors) if len(factors) > 1 else 3] = torch.tensor(factors, dtype=torch.float64)
    scaled = affine.detach().cpu().double() * steps
    scaled[:3, 3] = affine[:3, 3] + affine[:3, :3].cpu().double() @ ((steps[:3] - 1) / 2)  # centre of the first block
    scaled[3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    result: list[list[float]] = scaled.tolist()
    return result


def _factors(values: Tensor, factors: tuple[int, ...]) -> tuple[int, ...]:
    n = values.ndim - 1
    if len(factors) not in (1, n):
        raise InputError(f"resolution must be one integer or {n}, one an axis, got {factors}.")
    return factors * n if len(factors) == 1 else factors


def _mean(values: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Mean over blocks, shape (C, *ceil(spatial / factor))."""
    factors = _factors(values, factors)
    if max(factors) == 1:
        return values
    pool = F.avg_pool3d if len(factors) == 3 else F.avg_pool2d
    pooled: Tensor = pool(values[None], factors, ceil_mode=True, count_include_pad=False)[0]
    return pooled


def _middle(values: Tensor, factors: tuple[int, ...]) -> Tensor:
    """The value at the middle of each block."""
    for dim, factor in enumerate(_factors(values, factors), start=1):
        size = values.shape[dim]
        index = torch.arange(0, size, factor, device=values.device) + factor // 2
        values = values.index_select(dim, index.clamp(max=size - 1))
    return values


def _numbers(values: Tensor, dtype: torch.dtype) -> np.ndarray:
    return values.to(dtype).cpu().numpy()


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
