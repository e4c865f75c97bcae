# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attack again what a study recorded, and write its report again: no model is run, no image is read."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from monai_mia import files, report
from monai_mia.attacks import standard_attacks
from monai_mia.audit import Audit, AuditResult
from monai_mia.data import Examination
from monai_mia.designs import Design
from monai_mia.errors import InputError
from monai_mia.study import Study

__all__ = ["rescore"]

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
