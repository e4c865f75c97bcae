# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A study: design, train, query, attack, audit, report, as one command that resumes where it was stopped.

Files are the state. Every step is keyed by a hash of what it depends on, and is passed over if what it makes is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from tqdm import tqdm

from monai_mia import __version__
from monai_mia.audit import report
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import BlindScores
from monai_mia.audit.disclosure.archive import write_archive
from monai_mia.audit.individuals.vulnerability import Exposure
from monai_mia.audit.report.rescoring import attack_recorded, examine_individuals
from monai_mia.audit.results import AuditResult
from monai_mia.bundle.config import AUXILIARY, TRAINING_IDS, BundleConfig
from monai_mia.bundle.query import Query, check_inference
from monai_mia.bundle.training import Training
from monai_mia.data import ForeignSource, ImageStatistics, check_cohort, write_identifiers
from monai_mia.data.checks import left_out, without_invalid_cases
from monai_mia.data.cohorts import cases_of, read_ids
from monai_mia.errors import InputError
from monai_mia.handlers.signals import Signal
from monai_mia.neural_attacks import BlindNetwork
from monai_mia.records import files
from monai_mia.records.design import TARGET, Case, Design, auxiliary_patients, require_canaries
from monai_mia.records.folder import StudyFolder
from monai_mia.records.maps import LABELS
from monai_mia.signals.release import BAND
from monai_mia.signals.segmentation import access_of, segmentation_signals
from monai_mia.studies.jobs import command, run_jobs

__all__ = [
    "Study",
]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Study:
    """An audit of one model, from a cohort to a report.

    Attributes:
        bundle_root: folder of the bundle.
        cohort: what :func:`~monai_mia.data.read_cohort` reads, or a list of cases, or a function that gives one.
        output_dir: folder of the study; run again with the same one to resume.
        audit: the attacks and how they are measured.
        shadows: number of shadows; more can be added later.
        targets: number of targets that the same shadows attack; the report is about the first, a
            :class:`~monai_mia.audit.comparison.Comparison` about all of them.
        seed: seed of the design and of every model.
        checkpoint: weights of a released target (an observational design); by default the target is trained here.
        members: with ``checkpoint``: case or patient ids it was trained on, as a list or a text file.
        nonmembers: with ``checkpoint``: case or patient ids it was not trained on.
        train_files: training config of target and shadows: the bundle's own and overlays.
        target_train_files: training config of the targets, where it is not the shadows': a poisoned or a defended
            training that the adversary's shadows do not imitate.
        inference_files: config to query the models through.
        target_inference_files: config to query the targets through, where it is not the shadows': another architecture
            (the adversary does not know it), or a defence that the shadows do without.
        train_overrides: id-value pairs for the training config.
        target_train_overrides: id-value pairs for the targets' training config, beside or instead of those.
        inference_overrides: id-value pairs for the inference config.
        target_inference_overrides: id-value pairs for the targets' inference config, beside or instead of those.
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``.
        transform_id: id, in the inference config, of a dictionary transform of ``pred`` before it leaves the model,
            such as an output defence; by default the activation or the argmax that ``release`` asks for.
        activation: ``softmax`` or ``sigmoid``.
        n_labels: labels are integers in [0, n_labels); by default as metadata.json says.
        auxiliary: share of the patients, in [0, 1), who are set apart: no model trains on them for its own sake or is
            asked about them. Defences that need other data (a discriminator's reference, a transfer set) find their
            cases under the id ``auxiliary`` of the training config.
        signals: what is recorded of each query beside :func:`~monai_mia.signals.segmentation_signals`: dataclasses that
            :class:`~monai_mia.handlers.SignalRecorder` can call, such as
            :class:`~monai_mia.signals.QueryVariants` or :class:`~monai_mia.signals.WhiteBox`.
        maps: whether the predictions themselves are recorded too , for attacks that read them.
        maps_resolution: by which factor recorded maps are down-sampled, one number or one an axis.
        blind_network: trains a network on the images alone, as a control; None: statistics of the images are all that
            the blind baseline sees. What it costs: :class:`~monai_mia.neural_attacks.BlindNetwork`.
        individuals: examines every patient's exposure over all models of the study, and what it goes with.
        leakage_map: whether it is located in the anatomy where the evidence lies; takes ``maps`` and shadows.
        archive: a ``.zip`` for the report and its manifest; refused if the report holds an identifier of the cohort.
        n_jobs: processes; by default one a core, or one where there is a GPU.
        models_dir: where models are trained and kept; by default ``models`` in its private folder. Studies with
            the same cohort, design and training can share one, and train once.
        threads: CPU threads of each process; results are the same bit for bit for the same number.
        checkpoint_interval: epochs between checkpoints of a training.
        cache_rate: share of the cohort that is kept in memory for queries.
        slabs: whether sliding-window predictions are made and read in slabs, so that large volumes need little memory;
            None: those above 1 GiB, where all that is recorded can be read so. The numbers differ by rounding.
        wait: whether to wait for another run in the same folder, instead of ending with a line that names it.
        skip_bad: whether to go on without cases that cannot be used; ``private/left_out.csv`` says what is wrong with
            them, the report how many there were on each side. By default they are refused.
    """

    bundle_root: str
    cohort: str | Sequence[Case] | Callable[[], Sequence[Case]]
    output_dir: str
    audit: Audit
    shadows: int = 8
    targets: int = 1
    seed: int = 0
    checkpoint: str | None = None
    members: str | Sequence[str] | None = None
    nonmembers: str | Sequence[str] | None = None
    train_files: Sequence[str] = ("configs/train.json",)
    target_train_files: Sequence[str] | None = None
    inference_files: Sequence[str] = ("configs/inference.json",)
    target_inference_files: Sequence[str] | None = None
    train_overrides: Mapping[str, Any] = field(default_factory=dict)
    target_train_overrides: Mapping[str, Any] = field(default_factory=dict)
    inference_overrides: Mapping[str, Any] = field(default_factory=dict)
    target_inference_overrides: Mapping[str, Any] = field(default_factory=dict)
    release: Literal["logits", "probabilities", "mask"] = "logits"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    transform_id: str | None = None
    n_labels: int | None = None
    auxiliary: float = 0.0
    signals: Sequence[Signal] = ()
    maps: bool = False
    maps_resolution: int | Sequence[int] = 1
    blind_network: BlindNetwork | None = None
    individuals: Exposure | None = None
    leakage_map: bool = False
    archive: str | None = None
    n_jobs: int | None = None
    models_dir: str | None = None
    threads: int = 1
    checkpoint_interval: int = 1
    cache_rate: float = 1.0
    slabs: bool | None = None
    wait: bool = False
    skip_bad: bool = False

    def main(self) -> None:
        """Run as a command: what the user must mend is one line on the terminal, and the exit code is 1."""
        result = self.command(self.run)
        target = self.folder.about().get("target", {})
        tqdm.write(result.text(privacy=target.get("privacy")))
        tqdm.write(f"Report: {self.folder.report / 'index.html'}")

    def command(self, run: Callable[[], _T]) -> _T:
        """Run a step of this study; what the user must mend ends the process with one line."""
        return command(run)

    def run(self) -> AuditResult:
        """Run all steps that are not done yet.

        Raises:
            InputError: something the user gave cannot be used; nothing half-made is left as whole.
            OSError: the output folder cannot be written.
        """
        start = time.perf_counter()
        with self.folder.lock(self.wait):
            design, image_statistics = self.record()
            blind = self._blind_scores(design, image_statistics)
            result, table = attack_recorded(self.folder, self.audit, design, image_statistics, blind)
            individuals = None
            if self.individuals is not None or self.leakage_map:
                individuals = examine_individuals(self.folder, design, self.individuals, self.leakage_map)
            about = self._about(design, time.perf_counter() - start)
            report.write_report(result, table, self.folder.report, about, individuals)
            self.folder.note(**about)
            if self.archive is not None:
                write_archive(self.output_dir, self.archive)
        return result

    @property
    def folder(self) -> StudyFolder:
        """Its folder."""
        return StudyFolder(self.output_dir, self.models_dir)

    def record(self) -> tuple[Design, ImageStatistics]:
        """Train and query what is not done yet: all that attacks need is then recorded.

        Raises:
            InputError: as :meth:`run`.
            OSError: as :meth:`run`.
        """
        self._check()
        folder = self.folder
        with folder.lock(self.wait):
            folder.identify(
                seed=self.seed,
                design="randomised" if self.checkpoint is None else "observational",
                target=None if self.checkpoint is None else files.sha256(self.checkpoint),
                training=self._train_config().fingerprint(),
                **({"auxiliary": self.auxiliary} if self.auxiliary else {}),
                target_training=self._train_config(TARGET).fingerprint(),
            )
            cases, auxiliary = self._set_apart(self.cases())
            design = self._design(cases)
            require_canaries(design)
            checked = [*design.cases, *auxiliary]
            image_statistics = check_cohort(checked, self.labels(), folder.image_statistics_file)
            cohort_key = _cohort_key(design.cases, image_statistics)
            folder.identify(cohort=cohort_key)
            design.write(folder.design_file)
            paths = (self.output_dir, self.bundle_root, self.checkpoint, self.models_dir)
            write_identifiers(folder.identifiers_file, checked, cohort_key, paths)
            keys = self._train(design, image_statistics, auxiliary)
            self._query(design, image_statistics, keys)
        return design, image_statistics

    def auxiliary_cases(self) -> list[Case]:
        """Cases of the patients who are set apart: no model trained on them, and none is in the design."""
        return self._set_apart(self.cases())[1]

    def cases(self) -> list[Case]:
        """The cases of the cohort, without those that are left out."""
        cohort = cases_of(self.cohort, converted=self.folder.dicom, skip_bad=self.skip_bad)
        if not self.skip_bad:
            return cohort
        sides = [read_ids(side or ()) for side in (self.members, self.nonmembers)]
        return without_invalid_cases(cohort, self.labels(), self.folder.private, *sides)

    def _train_config(self, model: str = "") -> BundleConfig:
        """The training config of a model; the shadows', if none is named."""
        names, overrides = self.train_files, dict(self.train_overrides)
        if model.startswith(TARGET):
            names, overrides = self.target_train_files or names, {**overrides, **self.target_train_overrides}
        return BundleConfig(str(self.bundle_root), tuple(names), overrides)

    def _inference_config(self, model: str = "") -> BundleConfig:
        """The config to query a model through; the shadows', if none is named."""
        names, overrides = self.inference_files, dict(self.inference_overrides)
        if model.startswith(TARGET):
            names = self.target_inference_files or names
            overrides |= self.target_inference_overrides
        return BundleConfig(str(self.bundle_root), tuple(names), overrides)

    def _check(self) -> None:
        """What can be refused before anything is read."""
        for name, lowest in (
            ("shadows", 0),
            ("targets", 1),
            ("seed", 0),
            ("n_jobs", 1),
            ("threads", 1),
            ("checkpoint_interval", 1),
        ):
            value = getattr(self, name)
            if name == "n_jobs" and value is None:
                continue
            if not isinstance(value, int) or value < lowest:
                raise InputError(f"{name} must be a whole number, at least {lowest}, got {value!r}.")
        for name, choices in (("release", ("logits", "probabilities", "mask")), ("activation", ("softmax", "sigmoid"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        given = [name for name in ("checkpoint", "members", "nonmembers") if getattr(self, name) is not None]
        if not 0 <= self.auxiliary < 1:
            raise InputError(f"auxiliary must be a share of the patients in [0, 1), got {self.auxiliary}.")
        if given and self.auxiliary:
            raise InputError(
                f"auxiliary must be 0 for a released target, got {self.auxiliary}: its members are what they are."
            )
        if given and self.targets > 1:
            raise InputError(f"targets must be 1 for a released target, got {self.targets}. Drop --targets.")
        if given and len(given) < 3:
            raise InputError(
                f"checkpoint, members and nonmembers must be given together for a released target, "
                f"got {', '.join(given)}."
            )
        for signal in self.signals:
            if not is_dataclass(signal) or isinstance(signal, type):  # a function's repr is a memory address
                raise InputError(f"signals must be dataclass objects that can be called, got {signal!r}.")
        if self.checkpoint is not None and (self.target_train_files or self.target_train_overrides):
            raise InputError("target_train_files must be left out for a released target, got both. Drop one of them.")
        whole = [repr(signal) for signal in self.signals if not hasattr(signal, "in_slabs")]
        if self.slabs and (self.maps or self.transform_id is not None or whole):
            also = [*whole, *["maps"] * self.maps, *[str(self.transform_id)] * (self.transform_id is not None)]
            raise InputError(f"slabs must be null or false with {', '.join(also)}, got true: they need it whole.")
        # A signal of the user's own may need another access than its name says.
        known = None if any(hasattr(signal, "access") for signal in self.signals) else self._access_of
        self.audit.check(self.shadows, self.maps, known)
        if self.leakage_map and not self.maps:
            raise InputError("maps must be true to locate evidence (leakage_map), got false. Record them (maps: true).")
        if self.checkpoint is None or self.shadows:
            for model in ("", TARGET):
                self._train_config(model).parser(TRAINING_IDS)
        check_inference(self._inference_config(TARGET), self.checkpoint, self.transform_id)
        if self.shadows and self._inference_config() != self._inference_config(TARGET):
            check_inference(self._inference_config(), transform_id=self.transform_id)

    def _access_of(self, signal: str) -> str:
        """The access that a signal needs, or an error if this release does not give it."""
        access = access_of(signal)
        if self.release == "mask" and access.startswith("probabilities"):
            raise InputError(
                f"release must be logits or probabilities for signal {signal!r}, got 'mask'. Take attacks that read it "
                "off the list, or use standard_attacks with this release."
            )
        return access

    def _set_apart(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """The cases to audit, and those of auxiliary patients, drawn by the study's seed."""
        drawn = auxiliary_patients(cases, self.auxiliary, self.seed)
        sides: tuple[list[Case], list[Case]] = ([], [])
        for case in cases:
            sides[str(case["patient_id"]) in drawn].append(case)
        return sides

    def labels(self) -> int:
        """The number of classes, background included."""
        if self.n_labels is not None:
            return self.n_labels
        if self.activation == "sigmoid":
            return 2
        path = Path(self.bundle_root) / "configs" / "metadata.json"
        node: Any = files.read_json(path)
        for key in ("network_data_format", "outputs", "pred", "num_channels"):
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, int):
            raise InputError(
                f"n_labels must be given, since {path} has no network_data_format.outputs.pred.num_channels, got None."
            )
        return node

    def _design(self, cases: Sequence[Case]) -> Design:
        if self.checkpoint is None:
            return Design.randomised(cases, self.shadows, self.seed, self.targets)
        gone = {row[key] for row in self._left_out() for key in ("case_id", "patient_id")}
        gone -= {str(case[key]) for case in cases for key in ("case_id", "patient_id")}  # a patient may have others
        sides = [
            [name for name in read_ids(side or ()) if name not in gone] for side in (self.members, self.nonmembers)
        ]
        return Design.observational(cases, sides[0], sides[1], self.shadows, self.seed)

    def _left_out(self) -> list[dict[str, str]]:
        return left_out(self.folder.private) if self.skip_bad else []

    def _train(
        self, design: Design, image_statistics: ImageStatistics, auxiliary: Sequence[Case] = ()
    ) -> dict[str, str]:
        """Train what is not trained; give each model's key."""
        prints = dict(zip(image_statistics.case_ids, image_statistics.fingerprints, strict=True))
        cohort_key = _cohort_key(design.cases, image_statistics)
        cohort = [_bare(case) for case in design.cases]
        keys, jobs = {}, []
        for model in design.model_ids:
            if model == TARGET and self.checkpoint is not None:
                keys[model] = self._released_key(self.checkpoint)
                continue
            bundle = self._train_config(model)
            reads = AUXILIARY in bundle.parser(())
            members = design.members(model)
            seed = int(files.digest([self.seed, model])[:8], 16)
            trained_on = [[case["case_id"], prints[case["case_id"]]] for case in members]
            beside = [[case["case_id"], prints[case["case_id"]]] for case in auxiliary] if reads else []
            keys[model] = files.digest(
                [__version__, bundle.fingerprint(), trained_on, seed, self.threads, *([beside] if beside else [])]
            )
            folder = self.folder.model(model)
            job = Training(
                bundle=bundle,
                cohort=cohort,
                members=[_bare(case) for case in members],
                model_id=model,
                seed=seed,
                folder=str(folder),
                progress=str(folder / "progress.json"),
                key=keys[model],
                cohort_key=cohort_key,
                checkpoint_interval=self.checkpoint_interval,
                threads=self.threads,
                auxiliary=[_bare(case) for case in auxiliary],
            )
            if not files.is_current(job.path, job.key):
                jobs.append(job)
        if self.checkpoint is None and len(design.model_ids) - len(jobs):
            logger.info(
                "%d of %d models are trained already.", len(design.model_ids) - len(jobs), len(design.model_ids)
            )
        run_jobs(jobs, "training", self.n_jobs)
        return keys

    def _released_key(self, checkpoint: str) -> str:
        return files.digest([files.sha256(checkpoint), self.threads])

    def _checkpoint(self, model: str) -> str:
        if model == TARGET and self.checkpoint is not None:
            return self.checkpoint
        return str(self.folder.weights(model))

    def _query(self, design: Design, image_statistics: ImageStatistics, keys: Mapping[str, str]) -> None:
        asking, jobs = self._asking(design.cases, image_statistics), []
        for model in design.model_ids:
            job = asking(model, keys[model], design.queries(model))
            path, maps = self.folder.signals(model), self.folder.maps(model)
            todo = not files.is_current(path, job.key)
            todo_maps = self.maps and not (
                files.is_current(maps, job.maps_key) and self.folder.map_store().about(LABELS)
            )
            if todo or todo_maps:
                jobs.append(replace(job, path=str(path) if todo else None, maps=str(maps) if todo_maps else None))
        run_jobs(jobs, "querying", self.n_jobs)

    def ask_about(
        self,
        design: Design,
        source: ForeignSource,
        cases: Sequence[Case],
        image_statistics: ImageStatistics,
        folder: Path,
    ) -> None:
        """Ask every model about the cases of a foreign source; no model trained on them.

        Args:
            design: the study's, which is recorded.
            source: the source, which may change what a model is given.
            cases: its cases.
            image_statistics: what was found in them.
            folder: where ``<model_id>.csv`` is written.
        """
        asking, jobs = self._asking(cases, image_statistics), []
        outside = [{**case, "member": 0} for case in cases]
        files.private_folder(folder)
        for model in design.model_ids:
            released = self.checkpoint if model == TARGET else None
            key = self._released_key(released) if released else str(self.folder.trained(model)["key"])
            job = asking(model, key, outside)
            job = replace(
                job,
                path=str(folder / f"{model}.csv"),
                progress=str(folder / f"{model}.progress.json"),
                key=files.digest([job.key, source.description]),
                at_input=source.at_input,
                without=source.without,
                source=source.name,
            )
            if not files.is_current(folder / f"{model}.csv", job.key):
                jobs.append(job)
        run_jobs(jobs, "querying", self.n_jobs)

    def _asking(
        self, cases: Sequence[Case], image_statistics: ImageStatistics
    ) -> Callable[[str, str, Sequence[Case]], Query]:
        """What makes the job of asking a model, of such a key, about cases; where its answers go is not said yet."""
        bundles = {role: self._inference_config(role) for role in ("", TARGET)}
        prints = {role: bundle.fingerprint() for role, bundle in bundles.items()}
        cohort_key = _cohort_key(cases, image_statistics)
        recorder = {"release": self.release, "activation": self.activation, "n_classes": self.labels()}
        further = [[repr(signal) for signal in self.signals]] if self.signals else []
        further += [] if self.slabs is None else [["slabs", str(self.slabs)]]

        def job(model: str, model_key: str, queries: Sequence[Case]) -> Query:
            cohort = [_bare(case) for case in queries]
            role = TARGET if model.startswith(TARGET) else ""
            asked = [[case["case_id"], case["member"]] for case in cohort]
            common = [__version__, BAND, model_key, prints[role], asked, image_statistics.fingerprints, recorder]
            return Query(
                bundle=bundles[role],
                cohort=cohort,
                model_id=model,
                checkpoint=self._checkpoint(model),
                path=None,
                progress=str(self.folder.model(model) / "queried.json"),
                key=files.digest([*common, self.transform_id, *further]),
                cohort_key=cohort_key,
                transform_id=self.transform_id,
                recorder={**recorder, "signals": (segmentation_signals, *self.signals)},
                maps_key=files.digest(["maps", *common, self.transform_id, self.maps_resolution]),
                map_options={"resolution": self.maps_resolution},
                cache_rate=self.cache_rate,
                threads=self.threads,
                slabs=self.slabs,
            )

        return job

    def _blind_scores(self, design: Design, image_statistics: ImageStatistics) -> BlindScores | None:
        """What a network makes of the images alone, in the order of the table; canaries are not shown to it."""
        if self.blind_network is None:
            return None
        table, cohort_key = self.folder.table(design.model_ids), _cohort_key(design.cases, image_statistics)
        cases = {str(case["case_id"]): case for case in design.cases}
        real = np.array([not cases[case].get("canary") for case in table.case_ids])
        shown = [cases[case] for case in table.only(real).case_ids]
        member = table.members(TARGET)[real]
        return self.blind_network(shown, member, self.folder.blind_network_file, cohort_key).among(real)

    def _about(self, design: Design, seconds: float) -> dict[str, Any]:
        """What was run, for study.json, which is private, and for the report, which leaves out what may be a path."""
        meta = files.read_json(Path(self.bundle_root) / "configs" / "metadata.json")
        trained = self.folder.trained(TARGET)
        trainings = [self.folder.trained(model).get("seconds") for model in design.model_ids]
        queries = [self.folder.queried(model).get("seconds") for model in design.model_ids]
        sides = [row["side"] for row in self._left_out()]
        return {
            "versions": report.versions(),
            "design": {
                **design.facts(),
                "auxiliary": self.auxiliary,
                **({"left_out": {side: sides.count(side) for side in sorted(set(sides))}} if self.skip_bad else {}),
            },
            "target": {
                "checkpoint_sha256": files.sha256(self._checkpoint(TARGET)),
                "bundle": str(meta.get("name") or Path(self.bundle_root).resolve().name),
                "bundle_version": str(meta.get("version", "")),
                "epochs": trained.get("epochs"),
                "privacy": trained.get("privacy"),
            },
            "settings": {
                "release": self.release,
                "activation": self.activation,
                "train_files": list(self.train_files),
                "target_train_files": list(self._train_config(TARGET).files),
                "inference_files": list(self.inference_files),
                "target_inference_files": list(self._inference_config(TARGET).files),
                "train_overrides": dict(self.train_overrides),
                "target_train_overrides": dict(self.target_train_overrides),
                "inference_overrides": dict(self.inference_overrides),
                "target_inference_overrides": dict(self.target_inference_overrides),
                "training_config_sha256": self._train_config().fingerprint(),
                "inference_config_sha256": self._inference_config().fingerprint(),
            },
            "cost": {
                "training_s": sum(s for s in trainings if s),
                "n_trained": sum(s is not None for s in trainings),
                "query_s": sum(s for s in queries if s),
                "wall_s": seconds,
            },
        }


def _bare(case: Case) -> dict[str, Any]:
    """What an engine needs of a case; covariates, which may be missing, cannot be collated."""
    return {key: case[key] for key in ("case_id", "patient_id", "image", "label", "member") if key in case}


def _cohort_key(cases: Sequence[Case], image_statistics: ImageStatistics) -> str:
    prints = dict(zip(image_statistics.case_ids, image_statistics.fingerprints, strict=True))
    return files.digest([[case["case_id"], case["patient_id"], prints[case["case_id"]]] for case in cases])
