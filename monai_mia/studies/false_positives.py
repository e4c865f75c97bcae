# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A false-positives study: every attack's claims about every foreign source, under mitigations, beside calibration.

The mitigations are the defences of a :class:`~monai_mia.studies.DefenceStudy`, whose models are queried about the
foreign scans, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from monai.transforms import LoadImage
from numpy.typing import NDArray
from tqdm import tqdm

from monai_mia.attacks import RMIA, Attack, LearnedCombination, LiRA, TopScores, TransferredThreshold
from monai_mia.audit import report
from monai_mia.audit.comparison import by_patient
from monai_mia.audit.false_positives import COHORT, FalsePositives, FalsePositiveStudyResult, MitigationFalsePositives
from monai_mia.audit.novelty import check_variety, scan_features
from monai_mia.data import ForeignSource, ImageStatistics, check_cohort, write_identifiers
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Case, Design
from monai_mia.records.folder import StudyFolder
from monai_mia.records.identifiers import IDENTIFIERS
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate
from monai_mia.studies.defences import DefenceStudy
from monai_mia.studies.jobs import command
from monai_mia.studies.study import Study

__all__ = ["FalsePositiveStudy"]

Array = NDArray[np.float64]

_Prepared = list[tuple[ForeignSource, Sequence[Case], ImageStatistics]]


def _attacks_with_claims(n_shadow: int, release: str) -> list[Attack]:
    """The attacks whose thresholds papers transfer, as published and corrected, and stronger ones; needs a shadow."""
    if n_shadow < 1:
        raise InputError("shadows must be at least 1 to transfer a threshold, got 0.")
    plain = {"pooled": False, "remove_offsets": False}
    if release == "mask":
        return [TransferredThreshold("dice", "mean_member", **plain), RMIA("dice"), LiRA("dice")]
    attacks: list[Attack] = []
    for form in (plain, {}):
        attacks.append(TransferredThreshold("negative_entropy", "best_accuracy", **form))
        attacks.append(TransferredThreshold("maximum_probability", "youden", **form))
        attacks.append(TopScores(pooled=not form))
    attacks.append(TransferredThreshold("soft_dice", "mean_member", **plain))
    attacks += [RMIA("soft_dice"), RMIA("soft_dice", "offline"), LiRA("log_odds_foreground")]
    return [*attacks, LearnedCombination()] if n_shadow >= 4 else attacks


@dataclass(frozen=True)
class FalsePositiveStudy:
    """Claims about foreign scans, weighed.

    Args:
        defences: the mitigations; its study records the signals, among them
            :class:`~monai_mia.signals.TopProbabilities` and :class:`~monai_mia.signals.Calibration`.
        sources: the battery, such as :func:`~monai_mia.data.standard_sources`.
        attacks: from a number of shadows and a release to the attacks.
        false_positives: how the worth of claims is measured.
        utility: signals that are reported of members and of non-members.
        scans: at most so many scans of each source, the first by name.

    Files: the changed scans are in the study's folder, the models' signals about them in those of the mitigations
    (:meth:`monai_mia.records.StudyFolder.foreign`), the result is ``false_positives.*`` in the report.
    Run again to resume.
    What a source, an attack or an option lacks is said in the report, and the rest is made; so is a cohort from
    elsewhere whose scans are near-identical, as those of a generator that collapsed.
    """

    defences: DefenceStudy
    sources: Sequence[ForeignSource]
    attacks: Callable[[int, str], Sequence[Attack]] = _attacks_with_claims
    false_positives: FalsePositives = field(default_factory=FalsePositives)
    utility: Sequence[str] = (
        "dice",
        "negative_calibration_error",
        "negative_average_calibration_error",
        "negative_overconfidence",
        "negative_calibration_error_volume",
        "negative_average_calibration_error_volume",
        "negative_overconfidence_volume",
        "negative_class_calibration_error",
    )
    scans: int | None = None

    def main(self) -> None:
        """Do all that is not done yet; a command, as :meth:`monai_mia.studies.Study.main`."""
        result = command(self.run)
        self._tell(result)

    def rescore(self) -> None:
        """Weigh what was recorded; a command that needs no network."""
        self._tell(command(self.score))

    def _tell(self, result: FalsePositiveStudyResult) -> None:
        for gap in result.gaps:
            tqdm.write(f"missing: {gap}")
        tqdm.write(
            f"False positives: {self._folder.report / 'false_positives.html'} ({len(result.sources)} foreign sources)"
        )

    def run(self) -> FalsePositiveStudyResult:
        """Train, query about the cohort and foreign scans, and weigh the claims.

        Raises:
            InputError: as :meth:`monai_mia.studies.Study.run`; nothing that concerns one source or attack alone.
        """
        self.check()
        with self._folder.lock(self.defences.study.resources.wait):
            self.defences.train_and_query()
            prepared, gaps = self._prepared()
            for name, study in self.defences.studies().items():
                design = study.folder.design()
                for item in list(prepared):
                    source, cases, found = item
                    tqdm.write(f"mitigation {name}: {source.name}")
                    try:
                        study.query_foreign(design, source, cases, found, study.folder.foreign_signals(source.folder))
                    except InputError as error:
                        gaps.append(f"{source.name}: {error}")
                        prepared.remove(item)
            self._write_gaps(gaps)
            return self.score()

    def check(self) -> None:
        """Refuse what cannot be done, before anything is trained."""
        names = Counter(source.folder for source in self.sources)
        twice = [name for name, count in names.items() if count > 1 or name == COHORT]
        if twice:
            raise InputError(f"sources must have different names, other than {COHORT!r}, got {twice[0]!r}.")
        if self.scans is not None and self.scans < 1:
            raise InputError(f"scans must be at least 1, got {self.scans}.")
        self.defences.check()

    def score(self) -> FalsePositiveStudyResult:
        """Weigh the claims about what was recorded, and write the report.

        Raises:
            InputError: nothing was recorded yet.
        """
        studies = self.defences.studies()
        design = next(iter(studies.values())).folder.design()  # that of all mitigations
        gaps = list(files.read_json(self._folder.foreign_gaps_file).get("gaps", ()))
        recorded = [
            source
            for source in self.sources
            if all(
                (study.folder.foreign_signals(source.folder) / f"{model}.json").is_file()
                for study in studies.values()
                for model in design.model_ids
            )
        ]
        statistics = self._image_statistics(next(iter(studies.values())), recorded)
        rows = [
            self._mitigation(name, study, design, recorded, statistics)
            for name, study in tqdm(studies.items(), "weighing claims")
        ]
        gaps += [f"{row.name}: {gap}" for row in rows for gap in row.result.gaps]
        result = FalsePositiveStudyResult(
            mitigations=tuple(rows),
            sources=tuple(source.name for source in recorded),
            gaps=tuple(gaps),
            targets=len(design.targets),
            shadows=len(design.shadows),
            patients=len(set(design.patient_ids)),
            headline_fpr=self.false_positives.headline_fpr,
            confidence=self.false_positives.resampling.confidence,
            patients_assumed=design.patients_assumed,
        )
        with self._folder.lock(self.defences.study.resources.wait), self._folder.reporting():
            disclosure = self.defences.study.audit.disclosure
            report.write_false_positives(self._shareable(result), self._folder.report, disclosure)
        return result

    def _shareable(self, result: FalsePositiveStudyResult) -> FalsePositiveStudyResult:
        """The result, less what its gaps tell of single cases; ``gaps.json`` and the terminal tell it all."""
        withheld = self._folder.identifiers().withheld
        rows = [
            replace(row, result=replace(row.result, gaps=tuple(map(withheld, row.result.gaps))))
            for row in result.mitigations
        ]
        return replace(result, mitigations=tuple(rows), gaps=tuple(map(withheld, result.gaps)))

    @property
    def _folder(self) -> StudyFolder:
        return self.defences.study.folder

    def _prepared(self) -> tuple[_Prepared, list[str]]:
        """The sources that can be used, with their cases, checked; and what is wrong with the others."""
        study = self.defences.study
        held_out = study.held_out_cases()
        known: list[tuple[NDArray[np.float64], list[str]]] = []  # real scans, read for the first source from elsewhere
        prepared: _Prepared = []
        gaps: list[str] = []
        for source in tqdm(self.sources, "foreign scans"):
            folder = files.private_folder(self._folder.foreign(source.folder))
            try:
                cases = source.cases(held_out, folder, study.seed)
                write_identifiers(folder / IDENTIFIERS, cases, source.description)
                cases = sorted(cases, key=lambda case: str(case["case_id"]))[: self.scans]
                path = self._folder.foreign_image_statistics(source.folder)
                found = check_cohort(cases, study.labels(), path, distinct=False)
                self._require_foreground(source, cases, found)
                if source.cohort is not None and len(cases) > 1:
                    if not known:
                        few = len({str(case["patient_id"]) for case in held_out}) < 2
                        known.append(_features(study.cases() if few else held_out))
                    _require_variety(source, _features(cases)[0], *known[0])
            except InputError as error:
                gaps.append(f"{source.name}: {error}")
                continue
            prepared.append((source, cases, found))
        return prepared, gaps

    @staticmethod
    def _require_foreground(source: ForeignSource, cases: Sequence[Case], found: ImageStatistics) -> None:
        volumes = [n for n, name in enumerate(found.names) if name.startswith("label_")]
        empty = int((found.of([str(case["case_id"]) for case in cases])[:, volumes].sum(axis=1) == 0).sum())
        if empty:
            raise InputError(
                f"references of source {source.name!r} must have foreground, got none in {empty} of {len(cases)} scans."
            )

    def _write_gaps(self, gaps: Sequence[str]) -> None:
        files.private_folder(self._folder.foreign_gaps_file.parent)
        files.write_json(self._folder.foreign_gaps_file, {"gaps": list(gaps)})

    def _image_statistics(self, study: Study, sources: Sequence[ForeignSource]) -> dict[str, tuple[Array, float]]:
        """For each case of the cohort and of the sources, its image statistics and its number of voxels."""
        paths = [self._folder.foreign_image_statistics(source.folder) for source in sources]
        rows = {}
        for found in (study.folder.image_statistics(), *map(ImageStatistics.read, paths)):
            sizes = [n for n, name in enumerate(found.names) if name.startswith("size_")]
            for case, row in zip(found.case_ids, found.features, strict=True):
                rows[case] = row, float(np.nanprod(row[sizes]))
        return rows

    def _mitigation(
        self,
        name: str,
        study: Study,
        design: Design,
        sources: Sequence[ForeignSource],
        statistics: Mapping[str, tuple[Array, float]],
    ) -> MitigationFalsePositives:
        table = study.folder.table(design.model_ids)
        result = self.false_positives.run(
            list(self.attacks(len(design.shadows), study.recording.release)),
            table,
            design.targets,
            design.shadows,
            {
                source.name: SignalTable.read(study.folder.foreign_signals(source.folder), design.model_ids)
                for source in sources
            },
            lambda case_ids: np.stack([statistics[case][0] for case in case_ids]),
            lambda case_ids: np.array([statistics[case][1] for case in case_ids]),
        )
        return MitigationFalsePositives(name, study.recording.release, self._utility(table, design), result)

    def _utility(self, table: SignalTable, design: Design) -> dict[str, dict[str, Estimate]]:
        members = np.stack([table.members(target) for target in design.targets])
        inside = by_patient(members, table) > 0.5
        weights = self.false_positives.weights(len(members), inside.shape[1])
        found: dict[str, dict[str, Estimate]] = {}
        for name in self.utility:
            if name in table.signals:
                values = by_patient(np.stack([table.signal(name, target) for target in design.targets]), table)
                found[name] = {
                    side: self.false_positives.mean(values, chosen, weights)
                    for side, chosen in (("members", inside), ("nonmembers", ~inside))
                }
        return found


def _features(cases: Sequence[Case]) -> tuple[NDArray[np.float64], list[str]]:
    """Features of scans, and whose they are; of 50 at most, evenly over the list."""
    read = LoadImage(image_only=True, ensure_channel_first=True)
    chosen = [cases[n] for n in np.linspace(0, len(cases) - 1, min(50, len(cases))).round().astype(int)]
    rows = []
    for case in chosen:
        image, label = (np.asarray(read(case[key])) for key in ("image", "label"))
        rows.append(scan_features(image.mean(axis=0), label[0]))
    return np.stack(rows), [str(case["patient_id"]) for case in chosen]


def _require_variety(
    source: ForeignSource, scans: NDArray[np.float64], real: NDArray[np.float64], patients: Sequence[str]
) -> None:
    variety = check_variety(scans, real, patients)
    if variety.collapsed:
        raise InputError(
            f"scans of source {source.name!r} must differ from each other, got near-identical ones: they differ by "
            f"{variety.diversity:.2f} of what real scans do, and from the most similar one by {variety.nearest:.2f}. A "
            "generator that collapsed must be trained anew."
        )
