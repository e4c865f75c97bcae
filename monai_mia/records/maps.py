# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The store of maps: what models released about each case, voxel by voxel, for attacks that need more than signals.

One compressed ``<model_id>.npz`` per model (one member a case, float16) with a ``<model_id>.json`` beside it, and the
references once in ``labels.npz``; nothing here needs torch.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.table import SignalTable

__all__ = ["IMAGES", "LABELS", "MapStore", "MapWriter", "RecordedMaps", "design_digest"]

#: Ids, beside those of the models, of what is recorded once for all of them.
LABELS, IMAGES = "labels", "images"

# What all maps of one view must share.
_SETTINGS = ("release", "activation", "resolution", "cohort")


def design_digest(case_ids: Sequence[str], member: Sequence[Any] | NDArray[np.bool_]) -> str:
    """Hash of who trained a model, independent of the order of cases; it tells two designs apart, and no more."""
    return files.digest(sorted([str(case), bool(flag)] for case, flag in zip(case_ids, member, strict=True)))


class MapWriter:
    """Write one ``.npz`` case by case, in constant memory; it appears under its name when it is complete.

    Args:
        path: the file to write; its folder is made, for its owner only, if it is missing.

    Example::

        with MapWriter("maps/target.npz") as writer:
            writer.add("case_1", logits)
            writer.close(key=key, model_id="target")
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = files.require_place(path)
        self.shapes: dict[str, list[int]] = {}
        files.private_folder(self.path.parent)
        handle, temporary = files.temporary_beside(self.path)
        self._temporary = Path(temporary)
        self._stream = os.fdopen(handle, "wb")
        # Level 1: float16 logits are nearly noise, and a higher one costs minutes for a few percent.
        self._zip = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def add(self, case_id: str, array: NDArray[Any]) -> None:
        """Append one case's array, any dtype but object.

        Raises:
            InputError: the case was added before.
        """
        if case_id in self.shapes:
            raise InputError(f"case_id must be unique in {self.path}, got {case_id!r} twice.")
        # Named by number and dated alike: an id need not be a file name, and the same maps are the same bytes.
        info = zipfile.ZipInfo(f"{len(self.shapes)}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_DEFLATED
        with self._zip.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
        self.shapes[case_id] = list(array.shape)

    def close(self, **about: Any) -> None:
        """Put the file in its place, and ``about`` with its hash, size and case ids beside it."""
        about = {"case_ids": list(self.shapes), "shapes": list(self.shapes.values()), **about}
        self._zip.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        beside = self.path.with_suffix(".json")
        files.remove(beside)  # an older one never vouches for newer maps
        self._temporary.replace(self.path)
        size = self.path.stat().st_size
        files.write_json(beside, {"sha256": files.sha256(self.path), "bytes": size, **about})

    def discard(self) -> None:
        """Remove what is not complete; after :meth:`close` this does nothing."""
        if not self._stream.closed:
            self._zip.close()
            self._stream.close()
        self._temporary.unlink(missing_ok=True)


class _Reader:
    """Lazy reader of one ``.npz``; it is opened at the first case, and anew in each process."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self.numbers = {case: number for number, case in enumerate(about["case_ids"])}
        self._zip: zipfile.ZipFile | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reader, (self.path, self.about)

    def __call__(self, case_id: str) -> NDArray[Any]:
        if self._zip is None:
            self._zip = zipfile.ZipFile(self.path)
        try:
            with self._zip.open(f"{self.numbers[case_id]}.npy") as member:  # its checksum is verified
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError) as error:
            raise InputError(
                f"maps of case {case_id!r} in {self.path} must be readable ({error}). Delete the file and query again."
            ) from error


@dataclass(frozen=True, eq=False)
class RecordedMaps:
    """The maps of a target and M shadows about N cases, read when they are asked for.

    It fulfils :class:`monai_mia.attacks.adversary.Maps`, and tells nobody's membership.

    Attributes:
        case_ids: the cases, length N.
        release: ``logits`` or ``mask``; released probabilities are kept as logits.
        activation: ``softmax`` or ``sigmoid``.
        resolution: by which factor each axis was down-sampled.
        keys: hashes of the maps and references of the target and of each shadow, length 1 + M.
    """

    case_ids: tuple[str, ...]
    release: str
    activation: str
    resolution: tuple[int, ...]
    keys: tuple[str, ...]
    _models: tuple[_Reader, ...] = field(repr=False)
    _labels: _Reader | None = field(repr=False)
    _images: _Reader | None = field(repr=False)
    _cache_size: int = field(default=32, repr=False)
    _cache: OrderedDict[tuple[int, int], NDArray[Any]] = field(default_factory=OrderedDict, repr=False)

    @property
    def n_shadows(self) -> int:
        """How many shadows there are, M."""
        return len(self._models) - 1

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape (C, *spatial) of each case's map."""
        reader = self._models[0]
        return [tuple(reader.about["shapes"][reader.numbers[case]]) for case in self.case_ids]

    def target(self, case: int) -> NDArray[np.float32]:
        """The target's logits, or one-hot mask, of case n, shape (C, *spatial)."""
        return self._model(0, case)

    def shadow(self, shadow: int, case: int) -> NDArray[np.float32]:
        """The same of shadow m."""
        if not 0 <= shadow < self.n_shadows:
            raise InputError(f"shadow must be in [0, {self.n_shadows}), got {shadow}.")
        return self._model(1 + shadow, case)

    def label(self, case: int) -> NDArray[np.uint8]:
        """The reference of case n, shape (1, *spatial) with softmax, (C, *spatial) with sigmoid.

        Raises:
            InputError: no references were recorded.
        """
        return self._once(self._labels, LABELS, case).astype(np.uint8, copy=False)

    def image(self, case: int) -> NDArray[np.float32]:
        """The image of case n as the model saw it, shape (channels, *spatial).

        Raises:
            InputError: no images were recorded.
        """
        return self._once(self._images, IMAGES, case).astype(np.float32)

    def _model(self, model: int, case: int) -> NDArray[np.float32]:
        key = (model, case)
        if key not in self._cache:
            self._cache[key] = self._models[model](self.case_ids[case])
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key].astype(np.float32)

    def _once(self, reader: _Reader | None, what: str, case: int) -> NDArray[Any]:
        if reader is None:
            raise InputError(
                f"{what} must be in the map store, got none for this cohort. Record it with {what}: true, or choose "
                "an attack that needs none."
            )
        return reader(self.case_ids[case])


@dataclass(frozen=True)
class MapStore:
    """A folder of recorded maps; private, since a map shows a patient's anatomy.

    Attributes:
        folder: the folder, ``private/maps`` of a study.
    """

    folder: str | os.PathLike[str]

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The models whose maps are complete, sorted."""
        stems = sorted(path.stem for path in Path(self.folder).glob("*.npz"))
        return tuple(stem for stem in stems if stem not in (LABELS, IMAGES) and self.about(stem))

    def about(self, name: str) -> dict[str, Any]:
        """What is known of one file; empty if it is missing, half-written or was replaced."""
        path = Path(self.folder) / f"{name}.npz"
        about = files.read_json(path.with_suffix(".json"))
        return about if path.is_file() and about.get("bytes") == path.stat().st_size else {}

    def affines(self) -> dict[str, NDArray[np.float64]]:
        """Voxel to world of each case's map, shape (4, 4), mm; empty if they were not recorded."""
        about = self.about(LABELS)
        affines = about.get("affines") or []
        return {
            case: np.array(affine) for case, affine in zip(about.get("case_ids", ()), affines, strict=False) if affine
        }

    def of(self, table: SignalTable, target: str = "target", shadows: Sequence[str] | None = None) -> RecordedMaps:
        """The maps beside a table of signals: the same models, cases and design; other models are the shadows.

        Raises:
            InputError: as :meth:`view`; or a model's maps are of another design than its signals.
        """
        shadows = [model for model in table.model_ids if model != target] if shadows is None else list(shadows)
        for model in (target, *shadows):
            about = self._known(model)
            unknown = sorted(set(table.case_ids) ^ set(about["case_ids"]))
            if unknown:
                raise InputError(
                    f"maps of {model!r} in {self.folder} must be of the table's cases, got another cohort: they differ "
                    f"in {unknown[0]!r}. Give the map store of this study, or query again."
                )
            if about.get("design") != design_digest(table.case_ids, table.members(model)):
                raise InputError(
                    f"maps of {model!r} in {self.folder} must be of the table's design, got a map store from another "
                    "design: the model trained on other cases. Give the map store of this study, or query again."
                )
        return self.view(target, shadows, table.case_ids)

    def view(self, target: str, shadows: Sequence[str], case_ids: Sequence[str], cache: int = 32) -> RecordedMaps:
        """What an adversary against ``target`` sees of the store.

        Args:
            target: the model that is attacked.
            shadows: the models that the adversary trained, M of them.
            case_ids: the cases, in the order of the scores.
            cache: how many maps are kept in memory.

        Raises:
            InputError: a model or a case is missing, the target is among the shadows, or two models were recorded
                with other settings or from other cohorts.
        """
        if target in shadows:
            raise InputError(f"shadows must not hold the target, got {target!r} among them.")
        models = [target, *shadows]
        abouts = [self._known(model) for model in models]
        for model, about in zip(models, abouts, strict=True):
            odd = [name for name in _SETTINGS if about.get(name) != abouts[0].get(name)]
            if odd:
                raise InputError(
                    f"maps of {model!r} in {self.folder} must be recorded as those of {target!r}, got another "
                    f"{odd[0]} ({about.get(odd[0])} and {abouts[0].get(odd[0])}). Query both again."
                )
            missing = sorted(set(case_ids) - set(about["case_ids"]))
            if missing:
                raise InputError(
                    f"maps of {model!r} in {self.folder} must hold every case, got none of {missing[0]!r} and "
                    f"{len(missing) - 1} more: it is a map store from another cohort. Give the one of this study, or "
                    "query again."
                )
        first = abouts[0]
        return RecordedMaps(
            case_ids=tuple(case_ids),
            release=first["release"],
            activation=first["activation"],
            resolution=tuple(first["resolution"]),
            keys=tuple(files.digest([about["sha256"], self.about(LABELS).get("sha256")]) for about in abouts),
            _models=tuple(self._reader(model, about) for model, about in zip(models, abouts, strict=True)),
            _labels=self._of_cohort(LABELS, first, case_ids),
            _images=self._of_cohort(IMAGES, first, case_ids),
            _cache_size=cache,
        )

    def _known(self, model: str) -> dict[str, Any]:
        about = self.about(model)
        if not about:
            raise InputError(
                f"maps of {model!r} must be in {Path(self.folder) / model}.npz, got no complete file. Query that model "
                "with its maps recorded."
            )
        return about

    def _of_cohort(self, name: str, model: Mapping[str, Any], case_ids: Sequence[str]) -> _Reader | None:
        about = self.about(name)
        same = all(about.get(key) == model.get(key) for key in ("resolution", "cohort"))
        return self._reader(name, about) if about and same and set(case_ids) <= set(about["case_ids"]) else None

    def _reader(self, name: str, about: Mapping[str, Any]) -> _Reader:
        return _Reader(Path(self.folder) / f"{name}.npz", about)
