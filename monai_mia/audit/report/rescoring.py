# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The individuals of a recorded study: their exposure, what it goes with, and where in the anatomy the evidence lies.

Who is exposed is written to ``private/``; what is true of many is given to the report.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks import standard_attacks
from monai_mia.audit import report
from monai_mia.audit.audit import Audit
from monai_mia.audit.individuals.covariates import (
    Association,
    Covariate,
    Individuals,
    associations,
    image_covariates,
    listed_covariates,
)
from monai_mia.audit.individuals.leakage_map import Leakage, LeakageMap
from monai_mia.audit.individuals.vulnerability import Exposure, ExposureResult
from monai_mia.audit.results import AuditResult
from monai_mia.data import Examination
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import TARGET, Case, Design
from monai_mia.records.identifiers import Identifiers
from monai_mia.records.maps import MapStore, RecordedMaps
from monai_mia.records.pseudonyms import Pseudonyms
from monai_mia.records.table import SignalTable
from monai_mia.records.volumes import write_volume
from monai_mia.studies.study import Study

__all__ = [
    "examine_individuals",
    "report_individuals",
    "rescore",
    "write_cases",
    "write_scores",
]

logger = logging.getLogger(__name__)


def report_individuals(
    output_dir: str | os.PathLike[str],
    exposure: Exposure | None = None,
    leakage_map: bool = True,
    cases: Sequence[Case] | None = None,
) -> Individuals:
    """Examine the individuals of a finished study, without an image or a network, and write ``report/individuals.*``.

    Args:
        output_dir: folder of the study.
        exposure: how exposure is measured; by default as :class:`~monai_mia.audit.individuals.Exposure` says.
        leakage_map: whether recorded maps are read to locate the evidence.
        cases: the cohort with its covariates; by default the recorded design, which has none.

    Raises:
        InputError: the folder holds no finished study, or one with canaries.
    """
    folder = Path(output_dir)
    design = Design.read(folder / "private/design.csv")
    if files.read_json(folder / "private/design.json").get("canaries"):
        raise InputError("study must be without canaries to be examined anew, got some. Use Study(individuals=...).")
    found = examine_individuals(folder, design, exposure or Exposure(), leakage_map, cases)
    report.write_individuals(found, folder / "report")
    return found


def examine_individuals(
    output_dir: str | os.PathLike[str],
    design: Design,
    exposure: Exposure | None,
    leakage_map: bool,
    cases: Sequence[Case] | None = None,
) -> Individuals:
    """Measure what can be measured of the recorded individuals; write ``private/individuals.csv`` and ``leakage/``.

    Args:
        output_dir: folder of the study.
        design: its design; canaries are left out.
        exposure: how exposure is measured; None: it is not.
        leakage_map: whether the evidence is located, which takes recorded maps.
        cases: the cohort with its covariates; by default that of the design.

    Raises:
        InputError: the study's files are missing.
    """
    folder = Path(output_dir)
    options = exposure or Exposure()
    everything = SignalTable.read(folder / "private/signals", design.model_ids)
    canaries = {str(case["case_id"]) for case in design.cases if case.get("canary")}
    table = everything.only(np.array([case not in canaries for case in everything.case_ids]))
    store = MapStore(folder / "private/maps")

    def maps(target: str, shadows: Sequence[str]) -> RecordedMaps:
        store.of(everything, target, shadows)  # of this design
        return store.view(target, shadows, table.case_ids)

    gaps: list[str] = []
    measured: ExposureResult | None = None
    covariates: list[Covariate] = []
    compared: tuple[Association, ...] = ()
    if exposure is not None:
        examination = Examination.read(folder / "private/examination.csv")
        features = examination.of(table.case_ids)
        recorded = maps if Path(store.folder).is_dir() else None
        try:
            measured = options.measure(table, features, recorded)
        except InputError as error:
            gaps.append(f"exposure: {_shareable(error, table, folder)}")
    if measured is not None:
        if measured.members.reliability is None:
            gaps.append(
                "reliability: models must make two halves with shadows in each, got too few models or patients."
            )
        found, missing = image_covariates(features, examination.names, table.patient_ids, options.neighbours)
        listed, unlisted = listed_covariates(cases or design.cases, measured.patient_ids, options.covariates)
        covariates = [*found, *listed]
        compared, uncompared = associations(measured, covariates, options)
        gaps += [*missing, *unlisted, *uncompared]
        files.write(folder / "private/individuals.csv", _csv(measured, covariates))
    leakage: Leakage | None = None
    if leakage_map and not Path(store.folder).is_dir():
        gaps.append("leakage map: maps must be recorded (maps: true in the study), got none.")
    elif leakage_map:
        try:
            leakage = _locate(folder, table, design, maps, store, options, gaps)
        except InputError as error:
            gaps.append(f"leakage map: {_shareable(error, table, folder)}")
    return Individuals(measured, tuple(covariates), compared, leakage, tuple(gaps), options.min_cell)


def _locate(
    folder: Path,
    table: SignalTable,
    design: Design,
    maps: Callable[[str, Sequence[str]], RecordedMaps],
    store: MapStore,
    options: Exposure,
    gaps: list[str],
) -> Leakage:
    """Locate the evidence; that of each case about the first target goes to ``private/leakage``."""
    private = files.private_folder(folder / "private/leakage")
    affines = store.affines()
    if not affines:
        gaps.append(
            "leakage map: affines must be recorded with the maps to place the private maps in space, got none from an "
            "earlier version; they are written in voxels. Query again into a new folder."
        )
    names = {case: f"{n:05d}_{files.folder_name(case)}.nii.gz" for n, case in enumerate(table.case_ids)}

    def keep(case: int, evidence: NDArray[np.float32]) -> None:
        name = table.case_ids[case]
        write_volume(private / names[name], evidence, affines.get(name, np.eye(4)))

    locate = LeakageMap(
        min_cell=options.min_cell,
        confidence=options.confidence,
        n_resamples=options.n_resamples,
        seed=options.seed,
    )
    leakage = locate.locate(table, design.targets, design.shadows, maps, keep)
    member = table.members(design.targets[0])
    rows = [["case_id", "patient_id", "member", "file"]]
    rows += [
        [case, patient, str(int(inside)), names[case]]
        for case, patient, inside in zip(table.case_ids, table.patient_ids, member, strict=True)
    ]
    files.write(private / "cases.csv", files.csv_text(rows))
    if leakage.registered is None:
        gaps.append(f"leakage map: each side must have at least {options.min_cell} patients to be shown, got fewer.")
    return leakage


def _shareable(error: InputError, table: SignalTable, folder: Path) -> str:
    """What a report may say of an error: nothing that names a patient, a case or a path."""
    ids = [
        {"case_id": case, "patient_id": patient}
        for case, patient in zip(table.case_ids, table.patient_ids, strict=True)
    ]
    short = (
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in {*table.case_ids, *table.patient_ids}
    )
    if Identifiers.of(ids, [folder]).in_text(str(error)) or any(short):
        logger.warning("%s", error)
        return "what was recorded cannot be read; the log says why."
    return str(error)


def _csv(result: ExposureResult, covariates: Sequence[Covariate]) -> str:
    """Each patient's exposure on both sides, and covariates."""
    columns: dict[str, NDArray[np.generic]] = {}
    for side in (result.members, result.nonmembers):
        columns |= {f"{side.side}_turns": side.n_turns, f"{side.side}_found": side.rate}
        columns |= {f"{side.side}_certainty": side.certainty}
    columns |= {covariate.name: covariate.values for covariate in covariates}
    rows = [["patient_id", *columns]]
    for u, patient in enumerate(result.patient_ids):
        cells = [column[u] for column in columns.values()]
        rows.append([patient, *(repr(float(cell)) if cell.dtype.kind == "f" else str(cell) for cell in cells)])
    return files.csv_text(rows)


_ABOUT = ("versions", "design", "target", "settings", "cost", "left_out")


def rescore(output_dir: str | os.PathLike[str], audit: Audit | None = None, seed: int | None = None) -> AuditResult:
    """Attack and report again from ``private/`` of a finished study.

    Args:
        output_dir: the study's folder.
        audit: the attacks and how they are measured; by default those that so many shadows and this release allow.
        seed: seed of resamples and folds; by default the study's.

    Returns:
        What was found; ``report/`` and ``private/scores.csv`` are written again, the summary by the default
        thresholds.

    Raises:
        InputError: the folder holds no finished study; or one of canaries, of whom the recorded design does not tell;
            or one whose report has a section on individuals or a blind network, whose options are not recorded.
    """
    folder = Path(output_dir)
    about = files.read_json(folder / "study.json")
    settings = about.get("settings")
    if not settings:
        raise InputError(
            f"output must be the folder of a finished audit, got {str(folder)!r}. Run the audit to its end."
        )
    if files.read_json(folder / "private" / "design.json").get("canaries"):
        raise InputError(f"output must be a study without canaries, got {str(folder)!r}. Run its own config again.")
    written = files.read_json(folder / "report" / "report.json")
    for there, what in (
        (written.get("individuals"), "section on individuals"),
        (written.get("controls", {}).get("blind_network"), "blind network"),
    ):
        if there:
            raise InputError(
                f"output must be a study whose report has no {what}, got {str(folder)!r}: it would be lost. Run its "
                "own config again, which runs no model."
            )
    design = Design.read(folder / "private" / "design.csv")
    seed = design.seed if seed is None else seed
    if audit is None:
        audit = Audit(partial(standard_attacks, release=settings["release"]), seed=seed)
    study = Study(bundle_root=str(folder), cohort=[], output_dir=str(folder), audit=replace(audit, seed=seed))
    examination = Examination.read(folder / "private" / "examination.csv")
    result, table = study.attack(design, examination)
    report.write_report(result, table, folder / "report", {name: about[name] for name in _ABOUT if name in about})
    return result


def write_scores(result: AuditResult, path: Path) -> None:
    """Write the scores and the exposure of every patient, a row each."""
    rows = [["unit_id", "member", "exposure", *(attack.name for attack in result.attacks)]]
    for n, unit in enumerate(result.unit_ids):
        scores = [repr(float(attack.scores[n])) for attack in result.attacks]
        rows.append([unit, str(int(result.member[n])), repr(float(result.exposure[n])), *scores])
    files.write(path, files.csv_text(rows))


def write_cases(table: SignalTable, examination: Examination, path: Path) -> None:
    """Write whose each case is, under which pseudonym, and its image statistics; the key is kept beside it."""
    member, features = table.members(TARGET), examination.of(table.case_ids)
    pseudonyms = Pseudonyms.kept_in(path.parent).of(set(table.patient_ids))
    rows = [["case_id", "patient_id", "pseudonym", "member", *examination.names]]
    for n, case in enumerate(table.case_ids):
        patient = table.patient_ids[n]
        values = [repr(float(value)) for value in features[n]]
        rows.append([case, patient, pseudonyms[patient], str(int(member[n])), *values])
    files.write(path, files.csv_text(rows))
