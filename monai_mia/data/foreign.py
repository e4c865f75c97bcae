# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Foreign sources: scans that no model trained on, of other kinds than the cohort's.

An attack that calls them members convicts the innocent. Each source keeps image and reference consistent: what moves
the one moves the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    Flipd,
    MapTransform,
    RandBiasFieldd,
    RandGibbsNoised,
    RandHistogramShiftd,
    RandomizableTransform,
    RandRicianNoised,
    RandSimulateLowResolutiond,
    ScaleIntensityd,
)
from torch import Tensor

from monai_mia.data.cohorts import cases_of
from monai_mia.data.volumes import case_loader, stamp, suffix_of_changed, write_changed
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.volumes import write_volume

__all__ = ["ForeignSource", "PermutePatchesd", "PureNoised", "standard_sources"]

Case = Mapping[str, Any]

#: Transforms of a bundle's preprocessing that normalise intensities, by the beginning of their names.
NORMALISING = ("NormalizeIntensity", "ScaleIntensity", "ThresholdIntensity", "HistogramNormalize")

_KEYS = ("image", "label")


@dataclass(frozen=True)
class ForeignSource:
    """Where foreign scans come from: held-out scans that are changed, or a cohort from elsewhere.

    Transforms are given as functions that make them, so that each scan gets a fresh one with a seed of its own: in a
    config ``{_target_: RandBiasFieldd, _mode_: callable, keys: image, prob: 1.0}``.

    Attributes:
        name: its name in the report.
        transforms: MONAI dictionary transforms of ``image`` and ``label`` (both channel first), in this order, that
            change a scan before the bundle's preprocessing sees it.
        at_input: the same, that change what the network is given, after the preprocessing.
        without: transforms of the bundle's preprocessing that are left out, by the beginning of their class names.
        cohort: cases from elsewhere, in place of the held-out ones: what :func:`~monai_mia.data.read_cohort` reads, a
            list of cases, or a function that gives one.
    """

    name: str
    transforms: Sequence[Callable[[], Any]] = ()
    at_input: Sequence[Callable[[], Any]] = ()
    without: Sequence[str] = ()
    cohort: Any = None

    def __post_init__(self) -> None:
        """Refuse what has no name or no stable description."""
        if not self.folder:
            raise InputError(f"name of a foreign source must have a letter, got {self.name!r}.")
        for make in (*self.transforms, *self.at_input):
            if not callable(make) or " at 0x" in repr(make):
                raise InputError(
                    f"transforms of source {self.name!r} must be functions that make one and can be told apart, got "
                    f"{make!r}. In a config, add _mode_: callable to the transform."
                )

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return files.folder_name(self.name)

    @property
    def description(self) -> str:
        """All that its scans depend on, but for the files they are made from."""
        return repr((self.name, *map(repr, self.transforms), *map(repr, self.at_input), tuple(self.without)))

    def cases(self, held_out: Sequence[Case], folder: Path, seed: int) -> list[dict[str, Any]]:
        """The source's cases; changed scans are written below ``folder``, unless they are there.

        Args:
            held_out: cases of patients that no model trains on, which are changed.
            folder: a private folder.
            seed: of random transforms; each scan draws from it and its own name.

        Returns:
            Cases with ``case_id``, ``patient_id`` (of the patient whose scan was changed), ``image`` and ``label``.

        Raises:
            InputError: there is no case; a transform fails, or leaves no voxel of a class that was there.
        """
        cases = list(held_out) if self.cohort is None else cases_of(self.cohort)
        if not cases:
            raise InputError(
                f"source {self.name!r} must have cases, got none. Hold patients out (held_out in the study), or give "
                "it a cohort."
            )
        named = [
            {**{key: str(case[key]) for key in _KEYS}, "case_id": f"{case['case_id']}_{self.folder}"}
            | {"patient_id": str(case["patient_id"])}
            for case in cases
        ]
        return self._changed(named, folder, seed) if self.transforms else named

    def _changed(self, cases: Sequence[dict[str, Any]], folder: Path, seed: int) -> list[dict[str, Any]]:
        suffixes = [{"image": suffix_of_changed(case["image"]), "label": ".nii.gz"} for case in cases]
        changed = [
            {**case, **{key: str((folder / f"{key}s" / f"{case['case_id']}{ends[key]}").resolve()) for key in _KEYS}}
            for case, ends in zip(cases, suffixes, strict=True)
        ]
        record = folder / "source.csv"
        key = files.digest([self.description, seed, [[case["case_id"], stamp(case)] for case in cases]])
        if files.is_complete(record, key, [case[part] for case in changed for part in _KEYS]):
            return changed
        lost: dict[int, int] = {}
        for case, target in zip(cases, changed, strict=True):
            before = case_loader(_KEYS)({key: case[key] for key in _KEYS})
            there = set(np.unique(np.asarray(before["label"])).tolist())
            data = apply(self.transforms, before, [seed, self.name, case["case_id"]])
            for missing in there - set(np.unique(np.round(np.asarray(data["label"]))).tolist()):
                lost[int(missing)] = lost.get(int(missing), 0) + 1
            image, label = (np.asarray(data[key].cpu()) for key in _KEYS)
            affine = np.asarray(data["image"].affine)
            write_changed(target["image"], image.astype(np.float32), affine)
            write_volume(target["label"], np.round(label[0]).astype(np.uint8), np.asarray(data["label"].affine))
        if lost:
            for path in (Path(case[key]) for case in changed for key in _KEYS):
                path.unlink()
            counts = [f"none of class {value} in {count} of {len(cases)}" for value, count in sorted(lost.items())]
            raise InputError(
                f"source {self.name!r} must leave voxels of each class in each scan, got {', '.join(counts)}."
            )
        written = [case[part] for case in changed for part in _KEYS]
        files.write_artefact(
            record, "case_id\n" + "".join(f"{case['case_id']}\n" for case in changed), written, key=key
        )
        return changed


def apply(makers: Sequence[Callable[[], Any]], data: Mapping[str, Any], seed: Sequence[Any]) -> Any:
    """Make transforms, seed them, and apply them to one scan.

    Args:
        makers: functions that make dictionary transforms.
        data: ``image`` and ``label``, channel first.
        seed: what the draw depends on.
    """
    chain = Compose([make() for make in makers])
    chain.set_random_state(int(files.digest(list(seed))[:8], 16))
    return chain(dict(data))


class PermutePatchesd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Cut a volume into equal blocks and put them together in another order, the same for all keys.

    What is left over at the far ends, where the edge is no multiple of the block's, stays where it is. With blocks of
    one voxel all voxels are permuted.

    Args:
        keys: of the items, each of shape (channels, *spatial), all of the same spatial shape.
        patch_size: edge of a block, voxels, at least 1.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, patch_size: int = 8, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)
        if patch_size < 1:
            raise InputError(f"patch_size must be at least 1 voxel, got {patch_size}.")
        self.patch_size = patch_size

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The items with their blocks in another order."""
        result = dict(data)
        order: np.ndarray | None = None
        for key in self.key_iterator(result):
            volume: Tensor = result[key].clone()
            size, grid = self.patch_size, [edge // self.patch_size for edge in volume.shape[1:]]
            if min(grid) < 1:
                raise InputError(f"patch_size must fit into {tuple(volume.shape[1:])}, got {size}.")
            if order is None:
                order = self.R.permutation(int(np.prod(grid)))
            inner = (slice(None), *(slice(0, count * size) for count in grid))
            axes = [extent for count in grid for extent in (count, size)]
            dims = len(grid)
            forward = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2)]
            blocks = volume[inner].reshape(len(volume), *axes).permute(forward)
            shape = blocks.shape
            mixed = blocks.reshape(len(volume), len(order), -1)[:, order.tolist()].reshape(shape)
            volume[inner] = mixed.permute(np.argsort(forward).tolist()).reshape(volume[inner].shape)
            result[key] = volume
        return result


class PureNoised(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Gaussian noise of the image's mean and deviation in the image's place; nothing of the scan is left.

    Args:
        keys: of the images, each of shape (channels, *spatial).
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The items with noise for images."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key].clone()
            values = self.R.normal(float(image.mean()), float(image.std()), tuple(image.shape))
            image[...] = image.new_tensor(values)
            result[key] = image
        return result


def standard_sources(spatial_dims: int = 3, cohorts: Mapping[str, Any] | None = None) -> list[ForeignSource]:
    """The battery: held-out scans as they are, from another scanner, mis-scaled, permuted, mirrored, and noise.

    Args:
        spatial_dims: 2 or 3.
        cohorts: cohorts from elsewhere by name (another organ, phantoms, generated scans), as
            :attr:`ForeignSource.cohort`; None among them counts nothing.

    Example:
        >>> [source.name for source in standard_sources()][:3]
        ['held out', 'bias field', 'Gibbs ringing']
    """
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    image = {"keys": "image", "prob": 1.0}
    flat: dict[str, Any] = {"upsample_mode": "bilinear"} if spatial_dims == 2 else {}
    return [
        ForeignSource("held out"),
        ForeignSource("bias field", [partial(RandBiasFieldd, coeff_range=(-0.1, 0.1), **image)]),
        ForeignSource("Gibbs ringing", [partial(RandGibbsNoised, alpha=(0.6, 0.8), **image)]),
        ForeignSource("low resolution", [partial(RandSimulateLowResolutiond, zoom_range=(0.4, 0.5), **flat, **image)]),
        ForeignSource("histogram shift", [partial(RandHistogramShiftd, num_control_points=6, **image)]),
        ForeignSource("scanner noise", [partial(RandRicianNoised, std=0.3, relative=True, **image)]),
        ForeignSource("input x 255", at_input=[partial(ScaleIntensityd, "image", minv=None, maxv=None, factor=254.0)]),
        ForeignSource("not normalised", without=NORMALISING),
        ForeignSource("permuted voxels", [partial(PermutePatchesd, keys=_KEYS, patch_size=1)]),
        ForeignSource("permuted patches", [partial(PermutePatchesd, keys=_KEYS, patch_size=8)]),
        *(
            # After the preprocessing, which would turn a mirrored file back by its affine.
            ForeignSource(f"mirrored, axis {axis}", at_input=[partial(Flipd, keys=_KEYS, spatial_axis=axis)])
            for axis in range(spatial_dims)
        ),
        ForeignSource("pure noise", [partial(PureNoised, keys="image")]),
        *(ForeignSource(name, cohort=cohort) for name, cohort in (cohorts or {}).items() if cohort is not None),
    ]
