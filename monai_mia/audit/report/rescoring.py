# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attack again what a study recorded, and look at its individuals: no model is run, no image is read.

Who is exposed stays in the private folder; what is true of many is given to the report.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks import standard_attacks
from monai_mia.audit import report
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import BlindScores
from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.disclosure.policy import Policy
from monai_mia.audit.individuals.covariates import (
    Association,
    Covariate,
    Individuals,
    associations,
    image_covariates,
    listed_covariates,
)
from monai_mia.audit.individuals.leakage_map import Leakage, LeakageMap
from monai_mia.audit.individuals.vulnerability import Vulnerability, VulnerabilityResult
from monai_mia.audit.results import AuditResult
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import TARGET, Case, Design
from monai_mia.records.folder import StudyFolder
from monai_mia.records.identifiers import Identifiers
from monai_mia.records.image_statistics import ImageStatistics
from monai_mia.records.maps import MapStore, RecordedMaps
from monai_mia.records.table import SignalTable
from monai_mia.records.volumes import write_volume

__all__ = ["attack_recorded", "measure_individuals", "report_individuals", "rescore"]

logger = logging.getLogger(__name__)


def report_individuals(
    output_dir: str | os.PathLike[str],
    vulnerability: Vulnerability | None = None,
    leakage_map: bool = True,
    cases: Sequence[Case] | None = None,
) -> Individuals:
    """Examine the individuals of a finished study, without an image or a network, and write ``report/individuals.*``.

    Args:
        output_dir: folder of the study.
        vulnerability: how it is measured; by default as :class:`~monai_mia.audit.individuals.Vulnerability` says.
        leakage_map: whether recorded maps are read to locate the evidence.
        cases: the cohort with its covariates; by default the recorded design, which has none.

    Raises:
        InputError: the folder holds no finished study, or one with canaries.
    """
    folder = StudyFolder(output_dir)
    design = folder.design()
    if folder.canaries():
        raise InputError("study must be without canaries to be examined anew, got some. Use Study(individuals=...).")
    with folder.lock():
        found = measure_individuals(folder, design, vulnerability or Vulnerability(), leakage_map, cases)
        with folder.reporting():
            report.write_individuals(found, folder.report)
    return found


def measure_individuals(
    folder: StudyFolder,
    design: Design,
    vulnerability: Vulnerability | None,
    leakage_map: bool,
    cases: Sequence[Case] | None = None,
) -> Individuals:
    """Measure what can be measured of the recorded individuals; write ``individuals.csv`` and ``leakage/``.

    Args:
        folder: the study's folder.
        design: its design; canaries are left out.
        vulnerability: how vulnerability is measured; None: it is not.
        leakage_map: whether the evidence is located, which takes recorded maps.
        cases: the cohort with its covariates; by default that of the design.

    Raises:
        InputError: the study's files are missing.
    """
    options = vulnerability or Vulnerability()
    everything = folder.table(design.model_ids)
    canaries = {str(case["case_id"]) for case in design.cases if case.get("canary")}
    table = everything.only(np.array([case not in canaries for case in everything.case_ids]))
    store = folder.map_store()

    def maps(target: str, shadows: Sequence[str]) -> RecordedMaps:
        store.of(everything, target, shadows)  # of this design
        return store.view(target, shadows, table.case_ids)

    gaps: list[str] = []
    measured: VulnerabilityResult | None = None
    covariates: list[Covariate] = []
    compared: tuple[Association, ...] = ()
    if vulnerability is not None:
        image_statistics = folder.image_statistics()
        features = image_statistics.of(table.case_ids)
        recorded = maps if folder.has_maps() else None
        try:
            measured = options.measure(table, features, recorded)
        except InputError as error:
            gaps.append(f"vulnerability: {_shareable(error, table, folder)}")
    if measured is not None:
        if measured.members.reliability is None:
            gaps.append(
                "reliability: models must make two halves with shadows in each, got too few models or patients."
            )
        found, missing = image_covariates(features, image_statistics.names, table.patient_ids, options.neighbours)
        listed, unlisted = listed_covariates(cases or design.cases, measured.patient_ids, options.covariates)
        covariates = [*found, *listed]
        compared, uncompared = associations(measured, covariates, options)
        gaps += [*missing, *unlisted, *uncompared]
        made_from = folder.sources(design.model_ids)
        files.write_artefact(folder.vulnerability_file, _csv(measured, covariates), made_from=made_from)
    leakage: Leakage | None = None
    if leakage_map and not folder.has_maps():
        gaps.append("leakage map: maps must be recorded (maps: true in the study), got none.")
    elif leakage_map:
        try:
            leakage = _locate(folder, table, design, maps, store, options, gaps)
        except InputError as error:
            gaps.append(f"leakage map: {_shareable(error, table, folder)}")
    assumed = design.patients_assumed
    return Individuals(measured, tuple(covariates), compared, leakage, tuple(gaps), options.min_cell, assumed)


def _locate(
    folder: StudyFolder,
    table: SignalTable,
    design: Design,
    maps: Callable[[str, Sequence[str]], RecordedMaps],
    store: MapStore,
    options: Vulnerability,
    gaps: list[str],
) -> Leakage:
    """Locate the evidence; that of each case about the first target stays private."""
    private = files.private_folder(folder.leakage_maps)
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

    locate = LeakageMap(min_cell=options.min_cell, resampling=options.resampling)
    leakage = locate.locate(table, design.targets, design.shadows, maps, keep)
    member = table.members(design.targets[0])
    rows = [["case_id", "patient_id", "member", "file"]]
    rows += [
        [case, patient, str(int(inside)), names[case]]
        for case, patient, inside in zip(table.case_ids, table.patient_ids, member, strict=True)
    ]
    written = [private / row[3] for row in rows[1:]]
    made_from = folder.sources(design.model_ids)
    files.write_artefact(private / "cases.csv", files.csv_text(rows), written, made_from=made_from)
    if leakage.registered is None:
        gaps.append(f"leakage map: each side must have at least {options.min_cell} patients to be shown, got fewer.")
    return leakage


def _shareable(error: InputError, table: SignalTable, folder: StudyFolder) -> str:
    """What a report may say of an error: nothing that names a patient, a case or a path."""
    ids = [
        {"case_id": case, "patient_id": patient}
        for case, patient in zip(table.case_ids, table.patient_ids, strict=True)
    ]
    short = (
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in {*table.case_ids, *table.patient_ids}
    )
    if Identifiers.of(ids, [folder.root]).in_text(str(error)) or any(short):
        logger.warning("%s", error)
        return "what was recorded cannot be read; the log says why."
    return str(error)


def _csv(result: VulnerabilityResult, covariates: Sequence[Covariate]) -> str:
    """Each patient's vulnerability on both sides, and covariates."""
    columns: dict[str, NDArray[np.generic]] = {}
    for side in (result.members, result.nonmembers):
        columns |= {f"{side.side}_rounds": side.n_rounds, f"{side.side}_detected": side.rate}
        columns |= {f"{side.side}_certainty": side.certainty}
    columns |= {covariate.name: covariate.values for covariate in covariates}
    rows = [["patient_id", *columns]]
    for u, patient in enumerate(result.patient_ids):
        cells = [column[u] for column in columns.values()]
        rows.append([patient, *(repr(float(cell)) if cell.dtype.kind == "f" else str(cell) for cell in cells)])
    return files.csv_text(rows)


_ABOUT = ("versions", "design", "target", "settings", "cost", "left_out")


def attack_recorded(
    folder: StudyFolder,
    audit: Audit,
    design: Design,
    image_statistics: ImageStatistics,
    blind_scores: BlindScores | None = None,
    maps: bool = False,
) -> tuple[AuditResult, SignalTable]:
    """Attack what a study recorded; write ``audit.json``, ``scores.csv`` and ``cases.csv``.

    Args:
        folder: the study's folder.
        audit: the attacks and how they are measured.
        design: the study's design, with its canaries if it has any.
        image_statistics: what was found in each case's files.
        blind_scores: scores of a network that saw the images alone, without canaries, in the order of the table.
        maps: whether attacks may read recorded maps, which every model then must have.

    Returns:
        What was found, and the signals of the patients, without canaries.
    """
    table = folder.table(design.model_ids)
    kinds = {str(case["case_id"]): str(case.get("canary") or "") for case in design.cases}
    canary = [kinds[case] for case in table.case_ids] if any(kinds.values()) else None
    result = audit.run(
        table,
        TARGET,
        design.shadows,
        image_statistics.of(table.case_ids),
        randomised=design.kind == "randomised",
        maps=folder.map_store().of(table, TARGET, design.shadows) if maps else None,
        canary=canary,
        feature_names=image_statistics.names,
        blind_scores=blind_scores,
    )
    if canary is not None:  # the rest is about patients
        table = table.only(np.array([not kind for kind in canary]))
    made_from = folder.sources(design.model_ids)
    _write_scores(result, folder, made_from)
    _write_cases(table, image_statistics, folder, made_from)
    return result, table


def rescore(
    output_dir: str | os.PathLike[str],
    audit: Audit | None = None,
    seed: int | None = None,
    wait: bool = False,
    policy: Policy | None = None,
) -> AuditResult:
    """Attack and report again what a finished study recorded; no model is run, no image is read.

    Args:
        output_dir: the study's folder.
        audit: the attacks and how they are measured; by default those that so many shadows and this release allow.
        seed: seed of resamples and folds; by default the study's.
        wait: whether to wait for another run in the same folder.
        policy: what it is judged by, and how much the report may tell; by default as before. Only without ``audit``.

    Returns:
        What was found; the report and the scores are written again.

    Raises:
        InputError: the folder holds no finished study; or one of canaries, of whom the recorded design does not tell;
            or one whose report has a section on individuals or a blind network, whose options are not recorded; or
            another run works in it.
    """
    folder = StudyFolder(output_dir)
    about = folder.about()
    settings = about.get("settings")
    if not settings:
        raise InputError(
            f"output must be the folder of a finished audit, got {str(output_dir)!r}. Run the audit to its end."
        )
    if folder.canaries():
        raise InputError(f"output must be a study without canaries, got {str(output_dir)!r}. Run its own config again.")
    written = files.read_json(folder.report / "report.json")
    for there, what in (
        (written.get("individuals"), "section on individuals"),
        (written.get("controls", {}).get("blind_network"), "blind network"),
    ):
        if there:
            raise InputError(
                f"output must be a study whose report has no {what}, got {str(output_dir)!r}: it would be lost. Run "
                "its own config again, which runs no model."
            )
    design = folder.design()
    seed = design.seed if seed is None else seed
    if audit is None:
        if policy is None and "criteria" in written:  # which an older report has not
            policy = Policy(Criteria(**written["criteria"]), Disclosure(written["disclosure"]["min_cell"]))
        rules = policy or Policy()
        attacks = partial(standard_attacks, release=settings["release"])
        audit = Audit(attacks, criteria=rules.criteria, disclosure=rules.disclosure)
    audit = replace(audit, resampling=replace(audit.resampling, seed=seed))
    with folder.lock(wait):
        result, table = attack_recorded(folder, audit, design, folder.image_statistics())
        kept = {name: about[name] for name in _ABOUT if name in about}
        kept["design"] = {"commitment": None, **kept.get("design", design.facts())}
        with folder.reporting():
            report.write_report(result, table, folder.report, kept)
    return result


def _write_scores(result: AuditResult, folder: StudyFolder, made_from: dict[str, str]) -> None:
    """Write what was found, exactly, and the scores and the vulnerability of every patient, a row each."""
    files.write_json(folder.audit_file, result.exact())
    rows = [["unit_id", "member", "vulnerability", *(attack.name for attack in result.attacks)]]
    for n, unit in enumerate(result.unit_ids):
        scores = [repr(float(attack.scores[n])) for attack in result.attacks]
        rows.append([unit, str(int(result.member[n])), repr(float(result.vulnerability[n])), *scores])
    files.write_artefact(folder.scores_file, files.csv_text(rows), made_from=made_from)


def _write_cases(
    table: SignalTable, image_statistics: ImageStatistics, folder: StudyFolder, made_from: dict[str, str]
) -> None:
    """Write whose each case is, under which pseudonym, and its image statistics."""
    member, features = table.members(TARGET), image_statistics.of(table.case_ids)
    pseudonyms = folder.pseudonyms().of(set(table.patient_ids))
    rows = [["case_id", "patient_id", "pseudonym", "member", *image_statistics.names]]
    for n, case in enumerate(table.case_ids):
        patient = table.patient_ids[n]
        values = [repr(float(value)) for value in features[n]]
        rows.append([case, patient, pseudonyms[patient], str(int(member[n])), *values])
    files.write_artefact(folder.cases_file, files.csv_text(rows), made_from=made_from)
