# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A handler that records predictions and references, one file a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from monai_mia.errors import InputError
from monai_mia.handlers.signals import require_keys
from monai_mia.records import files
from monai_mia.records.maps import IMAGES, LABELS, MapStore, MapWriter, design_digest
from monai_mia.signals.release import CLIP, Release

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MapRecorder"]


class MapRecorder:
    """Record the whole release of every case that an evaluation sees, for attackers that read maps.

    It sees what :class:`SignalRecorder` sees. Probabilities are kept as logits (their logarithms), where half precision
    loses least near 1; a mask is kept one-hot. Beside the model's file, ``labels.npz`` gets the references, once for
    all models. Compression saves
    little on logits; a CT cohort wants ``resolution: 2`` or more.

    Args:
        path: the ``<model_id>.npz`` to write when the evaluation ends; its folder is a
            :class:`~monai_mia.records.MapStore`.
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
        require_keys(batch, "case_id", "member")
        labels = output.get("label")
        if LABELS in self._writers and labels is None:
            raise InputError("label must be in the evaluator's batch, got none. Set labels: false, or give references.")
        for n, prediction in enumerate(output["pred"]):
            case = str(batch["case_id"][n])
            item = {"pred": prediction, "label": None if labels is None else labels[n], "image": output["image"][n]}
            released = prediction if self.transform is None else self.transform(dict(item))["pred"]
            self._writers[self.model_id].add(case, self._map(case, convert_to_tensor(released, track_meta=False)))
            if LABELS in self._writers:
                self._writers[LABELS].add(
                    case,
                    _numbers(_middle(convert_to_tensor(item["label"], track_meta=False), self.resolution), torch.uint8),
                )
                self._affines.append(_affine(item["label"], self.resolution))
            if IMAGES in self._writers:
                image = _mean(convert_to_tensor(item["image"], track_meta=False).float(), self.resolution)
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
