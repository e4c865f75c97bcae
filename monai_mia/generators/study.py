# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A generator study: train a generator on some patients, draw scans, check that they are new, and write all of it.

The scans are a cohort that a false-positives study queries models about; no audited model may train on the
generator's patients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TerminateOnNan
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, LoadImage, Transform
from monai.utils import set_determinism
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from monai_mia import __version__
from monai_mia.audit import report
from monai_mia.audit.novelty import GeneratorResult, check_generator, scan_features
from monai_mia.data.cohorts import cases_of, read_ids
from monai_mia.data.volumes import stamp
from monai_mia.errors import InputError
from monai_mia.generators.networks import JoinScand, ScanFormat, ScanGenerator
from monai_mia.handlers.resuming import Checkpointer, EpochSeeder, ProgressFile
from monai_mia.records import files
from monai_mia.records.design import Case, held_out_patients
from monai_mia.records.folder import StudyFolder
from monai_mia.records.volumes import write_volume
from monai_mia.studies.jobs import command

__all__ = ["GeneratorStudy"]

_Scan = tuple[NDArray[Any], NDArray[Any]]

#: Unseen patients' scans that the drawn ones are compared with, at most; training scans are all looked at for copies.
_REAL = 200


@dataclass(frozen=True)
class GeneratorStudy:
    """A generator, its patients, and what is drawn from it.

    Attributes:
        cohort: what :func:`~monai_mia.data.read_cohort` reads, a list of cases, or a function that gives one.
        output_dir: where everything is written.
        generator: what is trained, such as :class:`~monai_mia.generators.DiffusionGenerator`.
        scan_format: how a scan and its reference are one volume; in 2D the first two edges of ``spatial_size``.
        preprocessing: MONAI dictionary transforms of ``image`` and ``label`` to one channel and ``spatial_size``.
        scaling: those that scale the image to [-1, 1], after them.
        random_transforms: those of the training alone, after them; in 2D, of a slice.
        slicing: in 2D, those that draw slices of a volume, each with a last axis of one voxel, which goes.
        scans: how many are drawn, at least 2.
        batch_size: volumes in a training step.
        held_out: train on the patients that a :class:`~monai_mia.studies.Study` with this ``held_out``, the seed
            ``held_out_seed`` and the key in ``held_out_key_file`` holds out, in (0, 1]; or None.
        held_out_seed: see ``held_out``.
        held_out_key_file: see ``held_out``: the ``design.key`` of that study; by default a key is drawn and kept here,
            for a study to be given (``Study(key_file=...)``).
        patients: train on these patients: ids, or a file with one a line; in the stead of ``held_out``.
        exclude: never train on these patients; alone, train on all others.
        percentiles: of a scan's intensities that ``scaling`` maps to -1 and 1.
        seed: of the training and of the draws.
        checkpoint_interval: epochs between checkpoints.
        device: where it runs; None: a GPU, if there is one.

    Files: ``scans/`` the drawn cohort, ``private/checkpoint.pt`` the training, ``private/nearest.png`` each drawn scan
    beside the most similar one of the training (patients' scans: not to be shared), ``report/generator.*`` the result.
    Run again to resume; with more epochs a training goes on.
    """

    cohort: Any
    output_dir: str
    generator: ScanGenerator
    scan_format: ScanFormat
    preprocessing: Sequence[Callable[[Any], Any]]
    scaling: Sequence[Callable[[Any], Any]]
    random_transforms: Sequence[Callable[[Any], Any]] = ()
    slicing: Sequence[Callable[[Any], Any]] = ()
    scans: int = 40
    batch_size: int = 4
    held_out: float | None = None
    held_out_seed: int = 0
    held_out_key_file: str | None = None
    patients: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    seed: int = 0
    checkpoint_interval: int = 5
    device: str | None = None

    def main(self) -> None:
        """Run as a command: what the user must mend is one line on the terminal, and the exit code is 1."""
        result = command(self.run)
        if result.novelty.variety.collapsed:
            tqdm.write("The generator collapsed: its scans are near-identical. Do not use them.")
        tqdm.write(f"{int(result.novelty.copy.sum())} of {result.scans} drawn scans are copies of training scans.")
        tqdm.write(f"Scans: {self._path('scans')}")
        tqdm.write(f"Report: {self._folder.report / 'generator.html'}")

    def run(self) -> GeneratorResult:
        """Train, draw, check, and write.

        Raises:
            InputError: an option or the cohort is wrong; the training did not stay finite.
        """
        self.check()
        with self._folder.lock():
            return self._run()

    def _run(self) -> GeneratorResult:
        chosen, others = self.sides()
        key, engine = self._train(chosen)
        drawn = self._drawn(chosen, key, engine.state.epoch)
        real, owners = self._real(chosen)
        unseen, _ = self._real(others[:_REAL])
        novelty = check_generator(_features(drawn), _features(real), owners, _features(unseen) if unseen else None)
        closest = np.argsort(novelty.distance)[:8]
        pairs = [[drawn[n] for n in closest], [real[novelty.index[n]] for n in closest]]
        files.write(self._folder.private / "nearest.png", report.scan_grid(pairs, self.scan_format.n_labels))
        result = GeneratorResult(
            kind=self.generator.kind,
            spatial_dims=self.scan_format.spatial_dims,
            n_labels=self.scan_format.n_labels,
            epochs=engine.state.epoch,
            training_scans=len(chosen),
            patients=len({str(case["patient_id"]) for case in chosen}),
            scans=len(drawn),
            novelty=novelty,
            drawn_volumes=self._volumes(drawn),
            real_volumes=self._volumes(real),
            patients_assumed=len({str(case["patient_id"]) for case in chosen if case.get("patient_assumed")}),
        )
        with self._folder.reporting():
            report.write_generator(result, drawn, self._folder.report)
        return result

    def check(self) -> None:
        """Refuse what cannot be done, before anything is trained."""
        for name, least in (("scans", 2), ("batch_size", 1), ("checkpoint_interval", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.held_out is not None and self.patients is not None:
            raise InputError("patients must be null where held_out is given, got both. Drop one of them.")
        if (self.scan_format.spatial_dims == 2) != bool(self.slicing):
            raise InputError(
                f"slicing must be given in 2D and only there, got {len(self.slicing)} transforms in "
                f"{self.scan_format.spatial_dims}D."
            )

    def sides(self) -> tuple[list[Case], list[Case]]:
        """The cases to train on, and the others.

        Raises:
            InputError: a patient is not in the cohort; fewer than 2 patients are left to train on.
        """
        cases = [dict(case) for case in cases_of(self.cohort)]
        everybody = {str(case["patient_id"]) for case in cases}
        named = {
            name: set(read_ids(ids)) for name in ("patients", "exclude") if (ids := getattr(self, name)) is not None
        }
        for name, ids in named.items():
            if unknown := sorted(ids - everybody):
                raise InputError(f"{name} must be patient ids of the cohort, got {unknown[0]!r}.")
        chosen = named.get("patients", everybody)
        if self.held_out is not None:
            key = self._folder.draw_key(self.held_out_key_file)
            chosen = held_out_patients(cases, self.held_out, self.held_out_seed, key=key)
        chosen = chosen - named.get("exclude", set())
        if len(chosen) < 2:
            raise InputError(
                f"patients to train on must be at least 2, got {len(chosen)} of {len(everybody)}. Choose more "
                "(held_out, patients)."
            )
        sides: tuple[list[Case], list[Case]] = ([], [])
        for case in sorted(cases, key=lambda case: str(case["case_id"])):
            sides[str(case["patient_id"]) not in chosen].append(case)
        return sides

    @property
    def _folder(self) -> StudyFolder:
        return StudyFolder(self.output_dir)

    def _path(self, name: str) -> Path:
        return Path(self.output_dir) / name

    def _device(self) -> torch.device:
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _train(self, cases: Sequence[Case]) -> tuple[str, Engine]:
        stamps = [stamp(case) for case in cases]
        options = (self.scan_format, self.percentiles, self.batch_size)
        steps = _options([*self.preprocessing, *self.scaling, *self.slicing, *self.random_transforms])
        key = files.digest([__version__, stamps, repr(options), steps, self.generator.recipe(), self.seed])
        transforms = [*self.preprocessing, *self.scaling, *self.slicing, *self.random_transforms]
        dataset = CacheDataset(
            [{name: case[name] for name in ("image", "label")} for case in cases],
            Compose([*transforms, JoinScand(self.scan_format)]),
            progress=False,
        )
        batch = min(self.batch_size, len(dataset))
        set_determinism(self.seed)
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True)
        engine = self.generator.engine(loader, self._device())
        engine.logger.setLevel(logging.WARNING)
        losses: list[float] = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: losses.append(self.generator.loss(engine.state.output))
        )
        engine.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan(output_transform=self.generator.loss))
        checkpointer = Checkpointer(
            self._folder.private / "checkpoint.pt", self.generator.state(), key, self.checkpoint_interval
        )
        engine.add_event_handler(  # the last epoch, whatever the interval
            Events.COMPLETED, lambda: checkpointer.save(engine) if np.isfinite(losses).all() else None
        )
        for handler in (
            checkpointer,
            EpochSeeder(self.seed, dataset),
            ProgressFile(str(self._folder.private / "progress.json"), "epochs"),
        ):
            handler.attach(engine)
        with tqdm(desc="generator", unit="epoch") as bar:
            engine.add_event_handler(Events.STARTED, lambda: self._resume(engine, bar))
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._tell(bar, losses))
            engine.run()
        if not np.isfinite(losses).all():
            raise InputError(
                f"training of the generator must have a finite loss, got {losses[-1]} in epoch {engine.state.epoch}. "
                "Lower the learning rate."
            )
        return key, engine

    @staticmethod
    def _resume(engine: Engine, bar: Any) -> None:
        # A training that has gone further than it is asked to is complete.
        engine.state.max_epochs = max(engine.state.max_epochs or 0, engine.state.epoch)
        bar.total = engine.state.max_epochs
        bar.update(engine.state.epoch)

    @staticmethod
    def _tell(bar: Any, losses: list[float]) -> None:
        bar.set_postfix(loss=f"{np.mean(losses):.4f}")
        bar.update()
        if np.isfinite(losses).all():
            losses.clear()

    def _drawn(self, cases: Sequence[Case], key: str, epochs: int) -> list[_Scan]:
        """Draw scans and write them as a cohort, unless they are there; images are in [-1, 1]."""
        record = self._path("scans/cohort.csv")
        names = [f"generated_{number:03d}" for number in range(self.scans)]
        places = [{part: self._path(f"scans/{part}s/{name}.nii.gz") for part in ("image", "label")} for name in names]
        low, high = self._intensities(cases)
        current = files.digest([key, epochs, self.scans, self.generator.drawing()])
        if files.is_complete(record, current, [path for place in places for path in place.values()]):
            return [_read(place, low, high) for place in places]
        for old in (path for part in ("images", "labels") for path in self._path(f"scans/{part}").glob("generated_*")):
            old.unlink()
        one = np.asarray(Compose(self.preprocessing)(dict(cases[0]))["image"].affine)
        affine = np.diag([*np.sqrt((one[:3, :3] ** 2).sum(axis=0)), 1.0])  # its spacing, not its place in the scanner
        set_determinism(int(files.digest([self.seed, "draw"])[:8], 16))
        joints: list[Tensor] = []
        with tqdm(desc="drawn scans", total=self.scans) as bar:
            while len(joints) < self.scans:
                count = min(self.batch_size, self.scans - len(joints))
                joints += self.generator.sample(count, self.scan_format.shape, self._device()).cpu()
                bar.update(count)
        if not all(bool(joint.isfinite().all()) for joint in joints):
            raise InputError("drawn scans must be finite, got values that are not. Lower the learning rate.")
        for joint, place in zip(joints, places, strict=True):
            image, label = (np.asarray(part[0]) for part in self.scan_format.split(joint))
            write_volume(place["image"], (low + (image + 1) / 2 * (high - low)).astype(np.float32), affine)
            write_volume(place["label"], label.astype(np.uint8), affine)
        written = [path for place in places for path in place.values()]
        rows = [f"{name},{name},images/{name}.nii.gz,labels/{name}.nii.gz\n" for name in names]
        files.write_artefact(record, "".join(["case_id,patient_id,image,label\n", *rows]), written, key=current)
        return [_read(place, low, high) for place in places]

    def _real(self, cases: Sequence[Case]) -> tuple[list[_Scan], list[str]]:
        """Real scans as the generator sees them, and whose they are; in 2D all slices with foreground."""
        prepare = Compose([*self.preprocessing, *self.scaling])
        scans: list[_Scan] = []
        owners: list[str] = []
        for case in cases:
            item = prepare({name: case[name] for name in ("image", "label")})
            image, label = (np.asarray(item[name])[0] for name in ("image", "label"))
            found = [(image, label)]
            if self.scan_format.spatial_dims == 2:
                found = [(image[..., k], label[..., k]) for k in np.flatnonzero(label.any(axis=(0, 1)))]
            scans += found
            owners += [str(case["patient_id"])] * len(found)
        return scans, owners

    def _volumes(self, scans: Sequence[_Scan]) -> tuple[float, ...]:
        classes = range(1, self.scan_format.n_labels)
        return tuple(float(np.mean([(label == value).mean() for _, label in scans])) for value in classes)

    def _intensities(self, cases: Sequence[Case]) -> tuple[float, float]:
        """What -1 and 1 stand for: medians over the training scans, so that none of them shows."""
        read = LoadImage(image_only=True)
        found = [np.percentile(np.asarray(read(case["image"])), self.percentiles) for case in cases]
        low, high = np.median(found, axis=0)
        return float(low), float(high)


def _options(value: Any) -> Any:
    """What tells a transform from another of its class: its options, and those of the transforms within it."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_options(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _options(one) for name, one in value.items()}
    if isinstance(value, (np.ndarray, Tensor)):
        return np.asarray(value).tolist()
    held = vars(value) if isinstance(value, Transform) else {}
    options = {
        name: _options(one) for name, one in sorted(held.items()) if not name.startswith("_")
    }  # others are drawn
    return [type(value).__name__, options]


def _read(place: Mapping[str, Path], low: float, high: float) -> _Scan:
    image, label = (np.asarray(LoadImage(image_only=True)(path)) for path in (place["image"], place["label"]))
    return (image - low) / (high - low) * 2 - 1, label


def _features(scans: Sequence[_Scan]) -> NDArray[np.float64]:
    return np.stack([scan_features(image, label) for image, label in scans])
