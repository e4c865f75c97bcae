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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_mia import files, report
from monai_mia.covariates import Association, Covariate, associations, image_covariates, listed_covariates
from monai_mia.data import Examination
from monai_mia.data.volumes import write_volume
from monai_mia.designs import Case, Design
from monai_mia.errors import InputError
from monai_mia.exposure import Exposure, ExposureResult
from monai_mia.identifiers import Identifiers
from monai_mia.leakage import Leakage, LeakageMap
from monai_mia.maps import MapStore, RecordedMaps
from monai_mia.table import SignalTable

__all__ = ["Individuals", "examine_individuals", "report_individuals"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Individuals:
    """What was found about individuals.

    Attributes:
        exposure: the exposure of all patients, or None where it could not be measured.
        covariates: what it was compared with, one value a patient; private.
        associations: how it goes with them, the least likely by chance first.
        leakage: where the evidence lies, or None where it was not asked for or could not be located.
        gaps: what is missing and why.
        min_cell: patients of whom anything apart from the others is told, at least.
    """

    exposure: ExposureResult | None
    covariates: tuple[Covariate, ...]
    associations: tuple[Association, ...]
    leakage: Leakage | None
    gaps: tuple[str, ...]
    min_cell: int


def report_individuals(
    output_dir: str | os.PathLike[str],
    exposure: Exposure | None = None,
    leakage_map: bool = True,
    cases: Sequence[Case] | None = None,
) -> Individuals:
    """Examine the individuals of a finished study, without an image or a network, and write ``report/individuals.*``.

    Args:
        output_dir: folder of the study.
        exposure: how exposure is measured; by default as :class:`~monai_mia.exposure.Exposure` says.
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
