# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Canary patients: planted in a cohort so that a coin decides whether a model trains on them, and easy to recognise.

An audit of a differential-privacy claim counts how often an attack guesses that coin. Canaries are made so that it has
the best chances: a network can fit their references by remembering them only.

Formal guarantees of :func:`plant_canaries`:

* A canary takes the place of a patient of the cohort. Nobody is in the cohort both as a patient and as a canary, where
  the one's membership would tell of, or hide, the other's.
* No image and no reference is in two canaries: a swapped reference comes from another canary of the same kind, and each
  is given away once. So each canary's membership adds or removes its own record and touches no other.
* All volumes of a patient stay together, in one canary.
* The same seed and the same files give the same canaries, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from monai.transforms import Resize
from numpy.typing import NDArray

from monai_mia.data.volumes import image_loader, stamp, suffix_of_changed, write_changed
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.streams import Stream, stream

__all__ = ["CANARY", "Lesion", "Permuted", "Plain", "Shifted", "Swapped", "plant_canaries"]

Case: TypeAlias = Mapping[str, Any]
Array: TypeAlias = NDArray[Any]

#: What the patient ids of canaries begin with.
CANARY = "canary_"


@dataclass(frozen=True)
class Plain:
    """A patient whose volumes stay as they are: the weakest canary, and the one that speaks for the other patients."""


@dataclass(frozen=True)
class Swapped:
    """A mislabelled patient: the reference is that of another canary, stretched to the image's shape."""


@dataclass(frozen=True)
class Permuted:
    """A mislabelled patient: each class is taken for the next, and the last for the background.

    Attributes:
        n_labels: number of classes with the background, at least 2.
    """

    n_labels: int

    def __post_init__(self) -> None:
        """Refuse less than two classes."""
        if not isinstance(self.n_labels, int) or self.n_labels < 2:
            raise InputError(f"n_labels must be a whole number, at least 2, got {self.n_labels!r}.")


@dataclass(frozen=True)
class Shifted:
    """A mislabelled patient: the reference is rolled along each axis; what leaves one side comes in at the other.

    Attributes:
        fraction: by how much of the volume's extent, in (0, 1).
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what leaves the reference where it is."""
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction must be in (0, 1), got {self.fraction}.")


@dataclass(frozen=True)
class Lesion:
    """A patient with a synthetic lesion: a ball of even contrast, its centre drawn from the reference's foreground.

    Where no whole ball fits around a voxel of the foreground, its centre is drawn from where it fits.

    Attributes:
        radius: in millimetres, above 0.
        contrast: what is added to the image, in standard deviations of the image; negative is darker, never 0.
        label: class that the reference has in the ball; by default the reference does not know of it.
    """

    radius: float
    contrast: float
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse lesions that are none."""
        if not (isfinite(self.radius) and self.radius > 0):
            raise InputError(f"radius must be above 0 mm, got {self.radius}.")
        if not (isfinite(self.contrast) and self.contrast != 0):
            raise InputError(f"contrast must be finite and not 0, got {self.contrast}.")
        if self.label is not None and (not isinstance(self.label, int) or self.label < 0):
            raise InputError(f"label must be a class, at least 0, or None, got {self.label!r}.")


Kind: TypeAlias = Plain | Swapped | Permuted | Shifted | Lesion


def plant_canaries(
    cases: Sequence[Case] | Callable[[], Sequence[Case]],
    kinds: Sequence[Kind],
    n: int,
    folder: str | os.PathLike[str],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Turn some patients of a cohort into canaries; the others stay as they are.

    Canaries are patients of the cohort like any other to a :class:`~monai_mia.records.Design`, whose coin decides on
    them. See the module for what is guaranteed.

    Args:
        cases: the cohort, or a function that gives it.
        kinds: kinds of canaries, no two alike.
        n: patients of each kind, at least 1; 3 of two kinds make 6 canaries. The more there are, the larger an
            epsilon they can prove (the ceiling of :func:`~monai_mia.statistics.epsilon.audit_canaries`).
        folder: where to write the volumes that are changed, and ``canaries.csv``: private. Volumes that are as they
            were are not copied. What is there already, from the same files and options, is not written again.
        seed: seed that draws the patients and the lesions' places.

    Returns:
        The cohort: first the cases of patients that were not drawn, then the canaries, with ``patient_id``
        ``canary_000``, ``case_id`` ``canary_000_0``, and in ``canary`` their kind.

    Raises:
        InputError: there are too few patients, a kind is none, ids clash, a volume cannot be read, or a lesion has no
            place in it or cannot be seen in it.

    Example::

        cohort:
          _target_: monai_mia.data.plant_canaries
          _mode_: callable
          cases: {_target_: monai_mia.data.read_cohort, _mode_: callable, path: "@dataset_dir"}
          kinds:
          - {_target_: monai_mia.data.Swapped}
          - {_target_: monai_mia.data.Lesion, radius: 4.0, contrast: 3.0}
          n: 50
          folder: "$@output_dir + '/private/canaries'"
    """
    cases = list(cases() if callable(cases) else cases)
    _check(cases, kinds, n, seed)
    rng = stream(Stream.CANARY_PATIENTS, seed)
    patients = sorted({str(case["patient_id"]) for case in cases})
    drawn = [patients[k] for k in rng.permutation(len(patients))[: n * len(kinds)]]
    canaries: list[dict[str, Any]] = []
    jobs: list[tuple[Kind, Case, dict[str, Any], Case]] = []
    folder = Path(folder)
    for number, kind in enumerate(kinds):
        group = drawn[number * n : (number + 1) * n]
        sources = [(k, case) for k, name in enumerate(group) for case in cases if str(case["patient_id"]) == name]
        donors = _donors([k for k, _ in sources]) if isinstance(kind, Swapped) else range(len(sources))
        visits = [0] * n
        for (k, source), donor in zip(sources, donors, strict=True):
            patient = f"{CANARY}{number * n + k:03d}"
            canary = {
                **source,
                "case_id": f"{patient}_{visits[k]}",
                "patient_id": patient,
                "canary": type(kind).__name__.lower(),
            }
            visits[k] += 1
            for key in _changed(kind):
                suffix = suffix_of_changed(source["image"]) if key == "image" else ".nii.gz"
                canary[key] = str((folder / f"{key}s" / f"{canary['case_id']}{suffix}").resolve())
            canaries.append(canary)
            jobs.append((kind, source, canary, sources[donor][1]))
    _write(folder, jobs, seed)
    return [*(dict(case) for case in cases if str(case["patient_id"]) not in drawn), *canaries]


def _check(cases: Sequence[Case], kinds: Sequence[Kind], n: int, seed: int) -> None:
    for kind in kinds:
        if not isinstance(kind, (Plain, Swapped, Permuted, Shifted, Lesion)):
            raise InputError(f"kinds must be Plain, Swapped, Permuted, Shifted or Lesion, got {kind!r}.")
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"kinds must be one or several that differ, got {list(kinds)!r}.")
    for name, value, lowest in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise InputError(f"{name} must be a whole number, at least {lowest}, got {value!r}.")
    patients = {str(case["patient_id"]) for case in cases}
    if n * len(kinds) > len(patients):
        raise InputError(
            f"n must leave each canary a patient, got {n} of {len(kinds)} kinds for {len(patients)} patients."
        )
    for case in cases:
        for key in ("case_id", "patient_id"):
            if str(case[key]).startswith(CANARY):
                raise InputError(f"{key} must not begin with {CANARY!r} in a cohort, got {case[key]!r}.")


def _changed(kind: Kind) -> tuple[str, ...]:
    """The volumes that are not as they were."""
    match kind:
        case Plain():
            return ()
        case Lesion(label=None):
            return ("image",)
        case Lesion():
            return ("image", "label")
        case _:
            return ("label",)


def _donors(owner: Sequence[int]) -> list[int]:
    """For each volume, the volume whose reference it gets: of another patient, and each given away once."""
    most = max(owner.count(k) for k in set(owner))
    if len(owner) < 2 * most:  # the volumes of a patient are neighbours: this is when a rotation parts them
        raise InputError(
            f"n must be large enough to swap references between patients, got {len(set(owner))} with {len(owner)} "
            f"volumes, {most} of them of one patient. Plant more."
        )
    return [(k + most) % len(owner) for k in range(len(owner))]


def _write(folder: Path, jobs: Sequence[tuple[Kind, Case, Case, Case]], seed: int) -> None:
    stamps = [[stamp(source), stamp(donor), repr(kind), canary["case_id"]] for kind, source, canary, donor in jobs]
    key = files.digest([stamps, seed])
    written = [canary[name] for kind, _, canary, _ in jobs for name in _changed(kind)]
    if files.is_complete(folder / "canaries.csv", key, written):
        return
    rows = [["case_id", "patient_id", "canary", "source"]]
    for number, (kind, source, canary, donor) in enumerate(jobs):
        volumes = _made(kind, source, donor, stream(Stream.CANARY_CONTENT, seed, number))
        for name, (values, affine) in volumes.items():
            write_changed(canary[name], values, affine)
        if isinstance(kind, Lesion) and np.array_equal(_read(canary["image"]), _read(source["image"])):
            raise InputError(
                f"contrast must change each image, got {kind.contrast} for {source['image']!r}, whose intensities end "
                "there or do not vary. Take another sign, or leave the patient out."
            )
        rows.append([canary["case_id"], canary["patient_id"], canary["canary"], str(source["case_id"])])
    files.write_artefact(folder / "canaries.csv", files.csv_text(rows), written, key=key)


def _made(kind: Kind, source: Case, donor: Case, rng: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    """The changed volumes of a canary, channel first, each with its affine."""
    match kind:
        case Plain():
            return {}
        case Swapped():
            image, label = _read(source["image"]), _read(donor["label"])
            fitted = Resize(image.shape[1:], mode="nearest")(label)
            return {"label": (_classes(fitted)[None], np.asarray(image.affine))}
        case Permuted(n_labels):
            label = _read(source["label"])
            if label.max() >= n_labels:
                raise InputError(f"n_labels must be above all classes, got {n_labels} for {_name(label)}.")
            return {"label": (_classes((label + 1) % n_labels)[None], np.asarray(label.affine))}
        case Shifted(fraction):
            label = _read(source["label"])
            steps = [max(1, round(fraction * extent)) for extent in label.shape[1:]]
            rolled = np.roll(_classes(label), steps, axis=tuple(range(label.ndim - 1)))
            return {"label": (rolled[None], np.asarray(label.affine))}
        case Lesion(_, contrast, value):
            image, label = _read(source["image"]), _read(source["label"])
            affine = np.asarray(image.affine)
            classes, pixels = _classes(label), np.asarray(image.numpy(), dtype=np.float32)
            if pixels.shape[1:] != classes.shape:
                raise InputError(f"reference must have its image's shape, got {classes.shape} in {_name(label)}.")
            inside = _ball(kind, classes > 0, np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), rng, _name(image))
            pixels[:, inside] += np.float32(contrast) * pixels.std(axis=tuple(range(1, pixels.ndim)))[:, None]
            made = {"image": (pixels, affine)}
            if value is not None:
                classes[inside] = value
                made["label"] = (classes[None], np.asarray(label.affine))
            return made


def _read(path: str) -> Any:
    try:
        return image_loader()(path)
    except Exception as error:
        raise InputError(f"cases must be readable, got {path!r}, which is not ({type(error).__name__}).") from error


def _name(volume: Any) -> str:
    return str(volume.meta["filename_or_obj"])


def _classes(label: Any) -> Array:
    """Class indices, shape (*spatial), in the smallest type that holds them."""
    values = np.asarray(label.numpy())[0]
    if len(label) != 1:
        raise InputError(f"reference must have one channel of class indices, got {len(label)} in {_name(label)}.")
    return np.asarray(np.round(values), dtype=np.uint8 if values.max() < 256 else np.uint16)


def _ball(kind: Lesion, foreground: Array, spacing: Array, rng: np.random.Generator, name: str) -> Array:
    """Where the lesion is, shape (*spatial), bool."""
    steps = spacing[: foreground.ndim]
    fits = np.zeros(foreground.shape, dtype=bool)
    reach = [int(kind.radius // step) for step in steps]
    fits[tuple(slice(r, extent - r) for r, extent in zip(reach, foreground.shape, strict=True))] = True
    if not fits.any():
        raise InputError(f"radius must let the lesion fit into each image, got {kind.radius} mm for {name}.")
    places = np.argwhere(fits & foreground if (fits & foreground).any() else fits)
    centre = places[rng.integers(len(places))]
    offsets = (np.indices(foreground.shape) - centre.reshape(-1, *[1] * foreground.ndim)).T * steps
    return np.asarray(kind.radius**2 >= (offsets**2).sum(axis=-1).T)
