# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A defence study: every defence against an adversary who knows it and one who does not, and what it costs.

Each defence is a :class:`~monai_mia.studies.Study` of its own, with the same design. Trainings are shared: an output
defence queries the models of the undefended study.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_mia import statistics
from monai_mia.attacks import RMIA, Attack, GlobalLoss, LearnedCombination, LiRA, Threshold
from monai_mia.audit import report
from monai_mia.audit.comparison import (
    Adversary,
    Comparison,
    ComparisonResult,
    ComparisonRow,
    DefenceRow,
    DefenceStudyResult,
    by_patient,
)
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.folder import Recorded
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling
from monai_mia.statistics.accounted import stated_epsilon
from monai_mia.statistics.epsilon import epsilon_lower_bound
from monai_mia.studies.jobs import command
from monai_mia.studies.options import Recipe
from monai_mia.studies.study import Study

__all__ = ["Defence", "DefenceStudy"]

Array = NDArray[np.float64]

#: Name of the row without a defence.
UNDEFENDED = "none"


@dataclass(frozen=True)
class Defence:
    """A defence: what it adds to the configs of a bundle, for target and shadows alike.

    Attributes:
        name: its name in the report.
        train: overlays on the training config.
        train_overrides: id-value pairs for the training config.
        inference: overlays on the inference config.
        inference_overrides: id-value pairs for the inference config.
        transform_id: id of its transform in the inference config.
        release: what leaves the model then; by default the study's.
    """

    name: str
    train: Sequence[str] = ()
    train_overrides: Mapping[str, Any] = field(default_factory=dict)
    inference: Sequence[str] = ()
    inference_overrides: Mapping[str, Any] = field(default_factory=dict)
    transform_id: str | None = None
    release: Literal["logits", "probabilities", "mask"] | None = None

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with this defence."""
        return replace(
            recipe,
            train=[*recipe.train, *self.train],
            inference=[*recipe.inference, *self.inference],
            train_overrides=_merged(recipe.train_overrides, self.train_overrides),
            inference_overrides=_merged(recipe.inference_overrides, self.inference_overrides),
        )

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return files.folder_name(self.name)


def _strongest_attacks(n_shadow: int, release: str) -> list[Attack]:
    """The attacks that found most where all were compared (docs/results.md), and the global loss."""
    masks = release == "mask"
    attacks: list[Attack] = [Threshold("dice") if masks else GlobalLoss()]
    if n_shadow >= 1:
        fits = ("dice", "dice_boundary") if masks else ("soft_dice", "log_likelihood", "log_odds_foreground")
        attacks += [*(RMIA(fit) for fit in fits), LiRA(fits[0])]
    if n_shadow >= 4:
        attacks.append(LearnedCombination(("dice", "dice_boundary", "volume_ratio")) if masks else LearnedCombination())
    return attacks


@dataclass(frozen=True)
class DefenceStudy:
    """A list of defences, each against an adversary who knows it and one who does not.

    Args:
        study: the undefended study; its ``output_dir`` holds everything.
        defences: the defences; the undefended row is always there.
        attacks: from a number of shadows and a release to the attacks; the best of them counts, for each adversary.
        utility: signals that tell of what use the model is.
        headline_fpr: the FPR of the TPRs.
        resampling: of patients and targets, the same for all rows; its seed is that of folds, too.
        delta: of the audited epsilon where no training accounts for one.

    Within the study's folder each defence is a study of its own (:meth:`monai_mia.records.StudyFolder.within`); the
    result is ``defences.*`` in the report. Run again to resume.
    """

    study: Study
    defences: Sequence[Defence]
    attacks: Callable[[int, str], Sequence[Attack]] = _strongest_attacks
    utility: Sequence[str] = (
        "dice",
        "surface_dice",
        "negative_hd95",
        "negative_calibration_error",
        "negative_overconfidence",
    )
    headline_fpr: float = 0.05
    resampling: Resampling = Resampling(n_resamples=1000)
    delta: float = 1e-5

    def main(self) -> None:
        """Train, query and score what is not done yet; a command, as :meth:`monai_mia.studies.Study.main`."""
        result = command(self.run)
        tqdm.write(f"Defences: {self.study.folder.report / 'defences.html'} ({len(result.rows)} rows)")

    def record(self) -> None:
        """Train and query what is not done yet; a command."""
        command(self.train_and_query)

    def rescore(self) -> None:
        """Score what was recorded; defences that were not are left out, and named."""
        result = command(lambda: self.score(partial=True))
        tqdm.write(f"Defences: {self.study.folder.report / 'defences.html'} ({len(result.rows)} rows)")

    def run(self) -> DefenceStudyResult:
        """Do all that is not done yet.

        Raises:
            InputError: as :meth:`monai_mia.studies.Study.run`.
        """
        self.check()
        with self.study.folder.lock(self.study.resources.wait):
            self._record()
            return self.score()

    def check(self) -> None:
        """Refuse what cannot be compared, before anything is trained."""
        folders = Counter(defence.folder for defence in self._all)
        twice = [defence.name for defence in self._all if folders[defence.folder] > 1]
        if twice:
            raise InputError(
                f"defences must have different names, other than {UNDEFENDED!r}, got {', '.join(map(repr, twice))}."
            )
        reserved = [name for name in ("models", "foreign", "phantoms", "dicom") if name in folders]
        if reserved:
            raise InputError(f"defences must not be named {reserved[0]!r}, which is a folder of the study. Rename it.")
        if self.study.released is not None:
            raise InputError("checkpoint must be left out of a defence study, which trains its targets, got one.")
        if self.study.shadows < 1:
            raise InputError(f"shadows must be at least 1 for a defence study, got {self.study.shadows}.")

    def studies(self) -> dict[str, Study]:
        """The study of each defence by its name, the undefended one first."""
        return {defence.name: self._study_of(defence) for defence in self._all}

    def train_and_query(self) -> None:
        """Train and query what is not done yet, and no more.

        Raises:
            InputError: as :meth:`monai_mia.studies.Study.record`.
        """
        self.check()
        with self.study.folder.lock(self.study.resources.wait):
            self._record()

    def _record(self) -> None:
        self.study.folder.draw_key(self.study.key_file, self.study.resources.wait)  # one design for all
        studies = self.studies()
        known = studies[UNDEFENDED].folder.image_statistics_file  # of the same cases: they are checked once
        for number, (name, study) in enumerate(studies.items(), start=1):
            tqdm.write(f"defence {number} of {len(studies)}: {name}")
            own = study.folder.image_statistics_file
            if files.is_whole(known) and not files.is_whole(own):
                with study.folder.lock(study.resources.wait):
                    files.write_artefact(own, known.read_bytes())
            study.record()

    def score(self, partial: bool = False) -> DefenceStudyResult:
        """Score every defence against both adversaries, and write the report.

        Args:
            partial: whether defences that are not recorded yet are left out instead of refused.

        Raises:
            InputError: nothing was recorded yet; or an attack cannot be carried out.
        """
        self.check()
        recorded = [defence for defence in self._all if self._study_of(defence).folder.is_recorded()]
        missing = [defence.name for defence in self._all if defence not in recorded]
        if missing and not (partial and recorded and recorded[0].name == UNDEFENDED):
            raise InputError(f"defences must be recorded first, got none of {', '.join(missing)}. Run record.")
        if missing:
            tqdm.write(f"not recorded yet, left out: {', '.join(missing)}")
        with self.study.folder.lock(self.study.resources.wait):
            plain = self._study_of(recorded[0]).folder.recorded()
            undefended = self._comparison(self.study.recording.release).score(plain)
            result = DefenceStudyResult(
                rows=tuple(self._row(one, plain, undefended) for one in tqdm(recorded, "scoring defences")),
                targets=undefended.targets,
                shadows=self.study.shadows,
                patients=undefended.patients,
                headline_fpr=self.headline_fpr,
                confidence=self.resampling.confidence,
                patients_assumed=plain.design.patients_assumed,
            )
            with self.study.folder.reporting():
                report.write_defences(result, self.study.folder.report, self.study.audit.disclosure)
        return result

    @cached_property
    def _all(self) -> list[Defence]:
        return [Defence(UNDEFENDED), *self.defences]

    def _study_of(self, defence: Defence) -> Study:
        """The study of one defence; those that train alike share their models."""
        base = self.study
        recipe, target = defence.applied_to(base.recipe), base.target
        release = defence.release or base.recording.release
        training = recipe.training().fingerprint()
        within = base.folder.within(defence.folder, training)
        return replace(
            base,
            recipe=recipe,
            target=defence.applied_to(target) if isinstance(target, Recipe) else target,
            output_dir=str(within.root),
            key_file=str(base.folder.key_file),
            recording=replace(
                base.recording, release=release, transform_id=defence.transform_id or base.recording.transform_id
            ),
            resources=replace(base.resources, models_dir=str(within.models_dir)),
            audit=replace(base.audit, attacks=list(self.attacks(base.shadows, release))),
        )

    def _comparison(self, release: str) -> Comparison:
        return Comparison(
            lambda budget: self.attacks(budget, release),
            budgets=(self.study.shadows,),
            fprs=(self.headline_fpr,),
            headline_fpr=self.headline_fpr,
            resampling=self.resampling,
        )

    def _row(self, defence: Defence, plain: Recorded, undefended: ComparisonResult) -> DefenceRow:
        study = self._study_of(defence)
        folder, comparison = study.folder, self._comparison(study.recording.release)
        recorded = folder.recorded()
        design, table = recorded.design, recorded.table
        aware = comparison.score(recorded)
        non_adaptive = aware
        if defence.name != UNDEFENDED:
            non_adaptive = comparison.score(recorded.with_shadows_of(plain, folder.attack_scores / "non_adaptive"))
        best = _best(aware)
        privacy = folder.trained(design.targets[0]).get("privacy")
        accounted = None if privacy is None else (stated_epsilon(privacy), float(privacy["delta"]))
        delta = self.delta if accounted is None else accounted[1]
        scores = aware.scores[best.name, best.n_shadow][0]
        utility, gap = self._utility(table, design, comparison)
        return DefenceRow(
            name=defence.name,
            release=study.recording.release,
            adaptive=self._adversary(aware, undefended),
            non_adaptive=self._adversary(non_adaptive, undefended),
            utility=utility,
            gap=gap,
            accounted_epsilon=accounted,
            repeatable_noise=privacy is not None and privacy.get("secure_noise") is not True,
            audited_epsilon=epsilon_lower_bound(
                scores, aware.member[0], "split", delta, self.resampling.confidence, self.resampling.seed
            ),
            training_s=_mean([folder.trained(model).get("seconds") for model in design.model_ids]),
            query_s=_mean([folder.queried(model).get("seconds") for model in design.model_ids]),
        )

    def _adversary(self, found: ComparisonResult, undefended: ComparisonResult) -> Adversary:
        best, plain = _best(found), _best(undefended)
        drawn = found.samples[best.name, best.n_shadow][0] - undefended.samples[plain.name, plain.n_shadow][0]
        return Adversary(
            attack=best.name,
            auc=best.auc,
            tpr=best.tpr_at_fpr[self.headline_fpr],
            auc_change=self.resampling.estimate(best.auc.value - plain.auc.value, drawn),
        )

    def _utility(
        self, table: SignalTable, design: Design, comparison: Comparison
    ) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        members = np.stack([table.members(target) for target in design.targets])
        weights = comparison.weights(members, table)
        inside = by_patient(members, table) > 0.5
        utility, gap = {}, {}
        for name in self.utility:
            if name not in table.signals:
                continue
            values = by_patient(np.stack([table.signal(name, target) for target in design.targets]), table)
            once = np.ones((1, *values.shape))
            (out,), (into,) = (statistics.resampled_means(values, side, once) for side in (~inside, inside))
            drawn_out, drawn_in = (statistics.resampled_means(values, side, weights) for side in (~inside, inside))
            utility[name] = self.resampling.estimate(float(out), drawn_out)
            gap[name] = self.resampling.estimate(float(into - out), drawn_in - drawn_out)
        return utility, gap


def _merged(*overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Later ones win, whichever of MONAI's two separators an id has."""
    return {name.replace("::", "#"): value for mapping in overrides for name, value in mapping.items()}


def _best(result: ComparisonResult) -> ComparisonRow:
    return max(result.rows, key=lambda row: row.auc.value)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
