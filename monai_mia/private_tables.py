# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of a finished study that stay in ``private/``: who scored what, and what each case is."""

from __future__ import annotations

from pathlib import Path

from monai_mia import files
from monai_mia.audit import AuditResult
from monai_mia.data import Examination
from monai_mia.designs import TARGET
from monai_mia.pseudonyms import Pseudonyms
from monai_mia.table import SignalTable

__all__ = ["write_cases", "write_scores"]


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
