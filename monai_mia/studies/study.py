# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A study: design, train, query, attack, audit, report, as one command that resumes where it was stopped.

Files are the state. Every step is keyed by a hash of what it depends on, and is passed over if what it makes is there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_mia import __version__
from monai_mia.audit import report
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import BlindScores
from monai_mia.audit.disclosure.archive import write_archive
from monai_mia.audit.individuals.vulnerability import Vulnerability
from monai_mia.audit.report.rescoring import attack_recorded, measure_individuals
from monai_mia.audit.results import AuditResult
from monai_mia.bundle.config import HELD_OUT, TRAINING_IDS
from monai_mia.bundle.query import Query, check_inference
from monai_mia.bundle.training import Training
from monai_mia.data import ForeignSource, ImageStatistics, check_cohort, write_identifiers
from monai_mia.data.checks import left_out, without_invalid_cases
from monai_mia.data.cohorts import cases_of, read_ids
from monai_mia.errors import InputError
from monai_mia.neural_attacks import BlindNetwork
from monai_mia.records import files
from monai_mia.records.design import TARGET, Case, Design, held_out_patients, require_canaries
from monai_mia.records.folder import StudyFolder
from monai_mia.records.maps import LABELS
from monai_mia.records.streams import Stream, stream_seed
from monai_mia.signals.release import BAND
from monai_mia.signals.segmentation import segmentation_signals
from monai_mia.studies.jobs import command, run_jobs
from monai_mia.studies.options import Recipe, Recording, Released, Resources

__all__ = ["Study"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """An audit of one model, from a cohort to a report.

    Attributes:
        recipe: how models are trained and queried.
        cohort: what :func:`~monai_mia.data.read_cohort` reads, or a list of cases, or a function that gives one.
        output_dir: folder of the study; run again with the same one to resume.
        audit: the attacks and how they are measured.
        target: the audited model: None: one that is trained here as the shadows are; another recipe, such as a poisoned
            or a defended training that the adversary's shadows do not imitate; or a released model.
        shadows: number of shadows; more can be added later.
        targets: number of targets that the same shadows attack; the report is about the first, a
            :class:`~monai_mia.studies.ComparisonStudy` about all of them.
        seed: seed of the design and of every model, which a key keeps secret as well.
        key_file: file of the key (64 hexadecimal digits) with which the design is drawn, to repeat a study; by default
            the study draws a key of its own, and keeps it in its private folder.
        held_out: share of the patients, in [0, 1), who are held out: no model trains on them for its own sake or is
            queried about them. Defences that need other data (a discriminator's reference, a transfer set) find their
            cases under the id ``held_out`` of the training config.
        recording: what leaves a model, and what is recorded of it.
        blind_network: trains a network on the images alone, as a control; None: statistics of the images are all that
            the blind baseline sees. What it costs: :class:`~monai_mia.neural_attacks.BlindNetwork`.
        individuals: measures every patient's vulnerability over all models of the study, and what it goes with.
        leakage_map: whether it is located in the anatomy where the evidence lies; takes recorded maps and shadows.
        archive: a ``.zip`` for the report and its manifest; refused if the report holds an identifier of the cohort.
        skip_bad: whether to go on without invalid cases; ``left_out.csv`` in the private folder says what is wrong with
            them, the report how many there were on each side. By default they are refused.
        resources: where it runs.
    """

    recipe: Recipe
    cohort: str | Sequence[Case] | Callable[[], Sequence[Case]]
    output_dir: str
    audit: Audit
    target: Recipe | Released | None = None
    shadows: int = 8
    targets: int = 1
    seed: int = 0
    key_file: str | None = None
    held_out: float = 0.0
    recording: Recording = field(default_factory=Recording)
    blind_network: BlindNetwork | None = None
    individuals: Vulnerability | None = None
    leakage_map: bool = False
    archive: str | None = None
    skip_bad: bool = False
    resources: Resources = field(default_factory=Resources)

    def main(self) -> None:
        """Run as a command: what the user must mend is one line on the terminal, and the exit code is 1."""
        result = command(self.run)
        about = self.folder.about()
        privacy, assumed = about.get("target", {}).get("privacy"), about.get("design", {}).get("n_assumed", 0)
        tqdm.write(result.text(privacy=privacy, assumed=assumed))
        tqdm.write(f"Report: {self.folder.report / 'index.html'}")

    def run(self) -> AuditResult:
        """Run all steps that are not done yet.

        Raises:
            InputError: something the user gave cannot be used; nothing half-made is left as whole.
            OSError: the output folder cannot be written.
        """
        start = time.perf_counter()
        self._check()
        with self.folder.lock(self.resources.wait):
            design, image_statistics = self._record()
            blind = self._blind_scores(design, image_statistics)
            result, table = attack_recorded(
                self.folder, self.audit, design, image_statistics, blind, self.recording.maps
            )
            individuals = None
            if self.individuals is not None or self.leakage_map:
                individuals = measure_individuals(self.folder, design, self.individuals, self.leakage_map)
            about = self._about(design, time.perf_counter() - start)
            with self.folder.reporting():
                report.write_report(result, table, self.folder.report, about, individuals)
            self.folder.note(**about)
            if self.archive is not None:
                write_archive(self.output_dir, self.archive)
        return result

    @property
    def folder(self) -> StudyFolder:
        """Its folder."""
        return StudyFolder(self.output_dir, self.resources.models_dir)

    def record(self) -> tuple[Design, ImageStatistics]:
        """Train and query what is not done yet: all that attacks need is then recorded.

        Raises:
            InputError: as :meth:`run`.
            OSError: as :meth:`run`.
        """
        self._check()
        with self.folder.lock(self.resources.wait):
            return self._record()

    def _record(self) -> tuple[Design, ImageStatistics]:
        folder = self.folder
        folder.identify(
            seed=self.seed,
            design="randomised" if self.released is None else "observational",
            target=None if self.released is None else files.sha256(self.released.checkpoint),
            training=self.recipe.training().fingerprint(),
            **({"held_out": self.held_out} if self.held_out else {}),
            target_training=self._recipe(TARGET).training().fingerprint(),
        )
        cases, held_out = self._partition(self.cases())
        design = self._design(cases)
        require_canaries(design)
        checked = [*design.cases, *held_out]
        image_statistics = check_cohort(checked, self.labels(), folder.image_statistics_file)
        cohort_key = _cohort_key(design.cases, image_statistics)
        folder.identify(cohort=cohort_key)
        folder.commit(design, self._key())
        if self.resources.models_dir is not None:
            folder.note(models=os.path.relpath(self.resources.models_dir, self.output_dir))
        design.write(folder.design_file)
        paths = [self.output_dir, self.recipe.root, self.resources.models_dir, self.key_file]
        paths += [] if self.released is None else [self.released.checkpoint]
        write_identifiers(folder.identifiers_file, checked, cohort_key, paths)
        keys = self._train(design, image_statistics, held_out)
        self._query(design, image_statistics, keys)
        return design, image_statistics

    def _key(self) -> bytes:
        """The key of the design, which is drawn the first time."""
        return self.folder.draw_key(self.key_file, self.resources.wait)

    def held_out_cases(self) -> list[Case]:
        """Cases of the patients who are held out: no model trained on them, and none is in the design."""
        return self._partition(self.cases())[1]

    def cases(self) -> list[Case]:
        """The cases of the cohort, without those that are left out."""
        cohort = cases_of(self.cohort, converted=self.folder.dicom, skip_bad=self.skip_bad)
        if not self.skip_bad:
            return cohort
        sides = [read_ids(side) for side in self._sides()]
        return without_invalid_cases(cohort, self.labels(), self.folder.private, *sides)

    @property
    def released(self) -> Released | None:
        """The target, if it was released and is not trained here."""
        return self.target if isinstance(self.target, Released) else None

    def _recipe(self, model: str) -> Recipe:
        """How a model is trained and queried."""
        own = self.target.recipe if isinstance(self.target, Released) else self.target
        return self.recipe if own is None or not model.startswith(TARGET) else own

    def _sides(self) -> tuple[str | Sequence[str], str | Sequence[str]]:
        """Ids of members and of non-members, as far as they are known before any coin is thrown."""
        return ((), ()) if self.released is None else (self.released.members, self.released.nonmembers)

    def _check(self) -> None:
        """What can be refused before anything is read."""
        for name, lowest in (("shadows", 0), ("targets", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise InputError(f"{name} must be a whole number, at least {lowest}, got {value!r}.")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out must be a share of the patients in [0, 1), got {self.held_out}.")
        if self.released is not None and self.held_out:
            raise InputError(
                f"held_out must be 0 for a released target, got {self.held_out}: its members are what they are."
            )
        if self.released is not None and self.targets > 1:
            raise InputError(f"targets must be 1 for a released target, got {self.targets}. Drop --targets.")
        self.recording.check()
        self.resources.check()
        # A signal of the user's own may need another access than its name says.
        recording = self.recording
        known = None if any(hasattr(signal, "access") for signal in recording.signals) else recording.access_of
        self.audit.check(self.shadows, recording.maps, known)
        if self.leakage_map and not self.shadows:
            raise InputError("shadows must be at least 1 to locate evidence (leakage_map), got 0.")
        if self.leakage_map and not recording.maps:
            raise InputError("maps must be true to locate evidence (leakage_map), got false. Record them (maps: true).")
        if self.released is None or self.shadows:
            for recipe in (self.recipe, *([] if self.released else [self._recipe(TARGET)])):
                recipe.training().parser(TRAINING_IDS)
        checkpoint = None if self.released is None else self.released.checkpoint
        asked = self._recipe(TARGET).querying()
        check_inference(asked, checkpoint, recording.transform_id)
        if self.shadows and self.recipe.querying() != asked:
            check_inference(self.recipe.querying(), transform_id=recording.transform_id)

    def _partition(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """The cases to audit, and those of held-out patients, drawn by the study's seed and key."""
        drawn = held_out_patients(cases, self.held_out, self.seed, key=self._key())
        sides: tuple[list[Case], list[Case]] = ([], [])
        for case in cases:
            sides[str(case["patient_id"]) in drawn].append(case)
        return sides

    def labels(self) -> int:
        """The number of classes, background included."""
        return self.recording.labels(self.recipe)

    def _design(self, cases: Sequence[Case]) -> Design:
        if self.released is None:
            return Design.randomised(cases, self.shadows, self.seed, self.targets, key=self._key())
        gone = {row[key] for row in self._left_out() for key in ("case_id", "patient_id")}
        gone -= {str(case[key]) for case in cases for key in ("case_id", "patient_id")}  # a patient may have others
        sides = [[name for name in read_ids(side) if name not in gone] for side in self._sides()]
        return Design.observational(cases, sides[0], sides[1], self.shadows, self.seed, key=self._key())

    def _left_out(self) -> list[dict[str, str]]:
        return left_out(self.folder.private) if self.skip_bad else []

    def _train(
        self, design: Design, image_statistics: ImageStatistics, held_out: Sequence[Case] = ()
    ) -> dict[str, str]:
        """Train what is not trained; give each model's key."""
        prints = dict(zip(image_statistics.case_ids, image_statistics.fingerprints, strict=True))
        cohort_key = _cohort_key(design.cases, image_statistics)
        cohort = [_bare(case) for case in design.cases]
        seeds, keys, jobs = self._training_seeds(design), {}, []
        for model in design.model_ids:
            if model == TARGET and self.released is not None:
                keys[model] = self._released_key(self.released)
                continue
            bundle = self._recipe(model).training()
            reads = HELD_OUT in bundle.parser(())
            members = design.members(model)
            seed = seeds[model]
            trained_on = [[case["case_id"], prints[case["case_id"]]] for case in members]
            beside = [[case["case_id"], prints[case["case_id"]]] for case in held_out] if reads else []
            keys[model] = files.digest(
                [
                    __version__,
                    bundle.fingerprint(),
                    trained_on,
                    seed,
                    self.resources.threads,
                    *([beside] if beside else []),
                ]
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
                checkpoint_interval=self.resources.checkpoint_interval,
                threads=self.resources.threads,
                held_out=[_bare(case) for case in held_out],
            )
            if not files.is_current(job.path, job.key):
                jobs.append(job)
        if self.released is None and len(design.model_ids) - len(jobs):
            logger.info(
                "%d of %d models are trained already.", len(design.model_ids) - len(jobs), len(design.model_ids)
            )
        run_jobs(jobs, "training", self.resources.n_jobs)
        return keys

    def _training_seeds(self, design: Design) -> dict[str, int]:
        """The seed of each model's weights and order, from which its members could be told by training again."""
        key = self._key()
        targets = {
            model: stream_seed(Stream.TARGET_TRAINING, self.seed, number, key=key)
            for number, model in enumerate(design.targets)
        }
        shadows = {
            model: stream_seed(Stream.SHADOW_TRAINING, self.seed, number, key=key)
            for number, model in enumerate(design.shadows)
        }
        return {**targets, **shadows}

    def _released_key(self, target: Released) -> str:
        return files.digest([files.sha256(target.checkpoint), self.resources.threads])

    def _checkpoint(self, model: str) -> str:
        if model == TARGET and self.released is not None:
            return self.released.checkpoint
        return str(self.folder.weights(model))

    def _query(self, design: Design, image_statistics: ImageStatistics, keys: Mapping[str, str]) -> None:
        query, jobs = self._query_jobs(design.cases, image_statistics), []
        for model in design.model_ids:
            job = query(model, keys[model], design.queries(model))
            path, maps = self.folder.signals(model), self.folder.maps(model)
            todo = not files.is_current(path, job.key)
            todo_maps = self.recording.maps and not (
                files.is_current(maps, job.maps_key) and files.is_whole(self.folder.maps(LABELS))
            )
            if todo or todo_maps:
                jobs.append(replace(job, path=str(path) if todo else None, maps=str(maps) if todo_maps else None))
        run_jobs(jobs, "querying", self.resources.n_jobs)

    def query_foreign(
        self,
        design: Design,
        source: ForeignSource,
        cases: Sequence[Case],
        image_statistics: ImageStatistics,
        folder: Path,
    ) -> None:
        """Query every model about the cases of a foreign source; no model trained on them.

        Args:
            design: the study's, which is recorded.
            source: the source, which may change what a model is given.
            cases: its cases.
            image_statistics: what was found in them.
            folder: where ``<model_id>.csv`` is written.
        """
        query, jobs = self._query_jobs(cases, image_statistics), []
        outside = [{**case, "member": 0} for case in cases]
        files.private_folder(folder)
        for model in design.model_ids:
            released = self.released if model == TARGET else None
            key = self._released_key(released) if released else str(self.folder.trained(model)["key"])
            job = query(model, key, outside)
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
        run_jobs(jobs, "querying", self.resources.n_jobs)

    def _query_jobs(
        self, cases: Sequence[Case], image_statistics: ImageStatistics
    ) -> Callable[[str, str, Sequence[Case]], Query]:
        """Return a factory of query jobs; the caller fills in the output paths."""
        bundles = {role: self._recipe(role).querying() for role in ("", TARGET)}
        recording = self.recording
        prints = {role: bundle.fingerprint() for role, bundle in bundles.items()}
        cohort_key = _cohort_key(cases, image_statistics)
        recorder = {"release": recording.release, "activation": recording.activation, "n_classes": self.labels()}
        further = [[repr(signal) for signal in recording.signals]] if recording.signals else []
        further += [] if recording.slabs is None else [["slabs", str(recording.slabs)]]

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
                key=files.digest([*common, recording.transform_id, *further]),
                cohort_key=cohort_key,
                transform_id=recording.transform_id,
                recorder={**recorder, "signals": (segmentation_signals, *recording.signals)},
                maps_key=files.digest(["maps", *common, recording.transform_id, recording.maps_resolution]),
                map_options={"resolution": recording.maps_resolution},
                cache_rate=self.resources.cache_rate,
                threads=self.resources.threads,
                slabs=recording.slabs,
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
        meta, target = self.recipe.metadata, self._recipe(TARGET)
        trained = self.folder.trained(TARGET)
        trainings = [self.folder.trained(model).get("seconds") for model in design.model_ids]
        queries = [self.folder.queried(model).get("seconds") for model in design.model_ids]
        sides = [row["side"] for row in self._left_out()]
        return {
            "versions": report.versions(),
            "design": {
                **design.facts(),
                "commitment": design.commitment(self._key()),
                "held_out": self.held_out,
                **({"left_out": {side: sides.count(side) for side in sorted(set(sides))}} if self.skip_bad else {}),
            },
            "target": {
                "checkpoint_sha256": files.sha256(self._checkpoint(TARGET)),
                "bundle": str(meta.get("name") or Path(self.recipe.root).resolve().name),
                "bundle_version": str(meta.get("version", "")),
                "epochs": trained.get("epochs"),
                "privacy": trained.get("privacy"),
            },
            "settings": {
                "release": self.recording.release,
                "activation": self.recording.activation,
                "train_files": list(self.recipe.train),
                "target_train_files": list(target.train),
                "inference_files": list(self.recipe.inference),
                "target_inference_files": list(target.inference),
                "train_overrides": dict(self.recipe.train_overrides),
                "target_train_overrides": {} if target is self.recipe else dict(target.train_overrides),
                "inference_overrides": dict(self.recipe.inference_overrides),
                "target_inference_overrides": {} if target is self.recipe else dict(target.inference_overrides),
                "training_config_sha256": self.recipe.training().fingerprint(),
                "inference_config_sha256": self.recipe.querying().fingerprint(),
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
