# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report's files: for a person, for a machine, and the pictures of both."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.criteria import percent
from monai_mia.audit.findings import largest_epsilon
from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report import figures
from monai_mia.audit.report.content import as_json
from monai_mia.audit.report.figures import Picture
from monai_mia.audit.report.pages import template
from monai_mia.audit.report.summary_page import write_summary
from monai_mia.audit.report.vulnerability import individuals_pictures, individuals_tables, individuals_text
from monai_mia.audit.results import AttackResult, AuditResult
from monai_mia.audit.verdict import Verdict
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.table import ACCESS_LEVELS, SignalTable
from monai_mia.statistics.accounted import epsilon_in_words
from monai_mia.statistics.epsilon import at_least
from monai_mia.statistics.resampling import group_means
from monai_mia.statistics.roc import resolution

if TYPE_CHECKING:
    from monai_mia.audit.individuals.covariates import Individuals

__all__ = ["write_report"]

Array = NDArray[np.float64]

#: Attacks whose rows are always seen.
_N_ROWS = 10

_HEADLINES = {
    "low": "No attack that was tried tells members from non-members, many or a few, better than chance does.",
    "moderate": "Members can be told from non-members better than by chance, though not with ease.",
    "high": "Members can be told from non-members: all of them to a good degree, or some of them almost surely.",
    "inconclusive": "This evidence does not answer the question.",
}

_ADVICE = {
    "low": "The audit gives no reason against sharing the model. It does not prove that there is none: see the limits.",
    "moderate": "Weigh who will be able to query the model, what they may know of the patients already, and how "
    "sensitive membership itself is (it is, where all members have one disease).",
    "high": "Treat the model as one that can disclose who took part in its training: share it only where that is "
    "acceptable, or defend it and audit it again.",
    "inconclusive": "Take it neither as an all-clear nor as an alarm; mend what the reasons name and audit again.",
}

_ACCESS = {
    "mask": "the segmentation that the model predicts",
    "mask+label": "the segmentation that the model predicts, and a reference segmentation",
    "probabilities": "the model’s output for every class at every voxel (probabilities, or logits)",
    "probabilities+label": "the model’s output for every class at every voxel, and a reference segmentation",
    "white-box": "the model’s weights",
}


def write_report(
    result: AuditResult,
    table: SignalTable,
    folder: str | os.PathLike[str],
    about: Mapping[str, Any],
    individuals: Individuals | None = None,
) -> None:
    """Write the report's files; the same arguments give the same bytes.

    These are ``index.html``, ``report.json`` and ``figures/*.png``, and what
    :func:`~monai_mia.audit.report.write_summary` writes.

    Args:
        result: what the audit found.
        table: the signals it was found in.
        folder: the folder to write to; what it holds may be shared.
        about: versions, design, target, settings and cost, as :class:`monai_mia.studies.Study` gives them.
        individuals: what was found about individuals, if that was asked for.
    """
    folder = Path(folder)
    content = as_json(result, about, individuals)
    result = result.shared
    facts = _Facts(result, table)
    roc, panels, vulnerability = figures.roc(result), facts.panels(), figures.vulnerability(result)
    told = _individuals(individuals)
    pictures = [one for one in (roc, *panels, vulnerability, *told["pictures"]) if one is not None]
    for name in (*figures.NAMES, *figures.INDIVIDUALS):  # of an earlier report
        if name not in {picture.name for picture in pictures}:
            files.remove(folder / "figures" / f"{name}.png")
    for picture in pictures:
        files.write(folder / "figures" / f"{picture.name}.png", picture.png, private=False)
    verdict = result.judge(about)
    page = _page(result, content, facts, roc, panels, vulnerability, told, verdict)
    files.write(folder / "index.html", page, private=False)
    files.write_json(folder / "report.json", content, private=False)
    write_summary(content, folder, verdict)


def _individuals(found: Individuals | None) -> dict[str, Any]:
    """What the page says of individuals; nothing if they were not examined."""
    if found is None:
        return {"notes": [], "tables": [], "pictures": [], "gaps": []}
    return {
        "notes": individuals_text(found),
        "tables": individuals_tables(found),
        "pictures": individuals_pictures(found),
        "gaps": list(found.gaps),
    }


class _Facts:
    """What the page needs to know beyond ``report.json``: the target's signals, in the audit's unit."""

    def __init__(self, result: AuditResult, table: SignalTable) -> None:
        self.result = result
        self.table = table
        if not np.array_equal(self._pool(table.members(result.target).astype(np.float64)) > 0.5, result.member):
            raise InputError("table must be the one that was audited, got one with other members of the target.")
        self.signals = {name: self._pool(table.signal(name, result.target)) for name in table.signals}

    def _pool(self, values: Array) -> Array:
        return values if self.result.unit == "case" else group_means(values, self.table.patient_ids)[1]

    def plain(self, attack: AttackResult) -> bool:
        """Whether an attack is a signal of the target and nothing else."""
        return len(attack.signals) == 1 and np.array_equal(attack.scores, self.signals[attack.signals[0]])

    @property
    def loss(self) -> AttackResult | None:
        """The baseline of all attacks, if it was tried."""
        return next((attack for attack in self.result.attacks if attack.name == GlobalLoss().name), None)

    def panels(self) -> list[Picture]:
        """Distributions of the best attack's score and of the global loss; each bar tells who is a member."""
        if not self.result.disclosure.everything:
            return []
        best = self.result.best
        title, label = f"Score of the best attack: {best.name}", "score of the best attack"
        drawn = [figures.distribution("score_best_attack", title, label, best.scores, self.result)]
        shown = set(best.signals) if self.plain(best) else set()
        if self.loss is not None and GlobalLoss().signal not in shown:
            signal = GlobalLoss().signal
            title, label = f"Signal of the global loss: {signal}", figures.signal_label(signal)
            drawn.append(figures.distribution("signal_loss", title, label, self.signals[signal], self.result))
        return drawn


def _page(
    result: AuditResult,
    content: Mapping[str, Any],
    facts: _Facts,
    roc: Picture | None,
    panels: Sequence[Picture],
    vulnerability: Picture | None,
    individuals: Mapping[str, Any],
    verdict: Verdict,
) -> str:
    rows = content["attacks"]
    top = [row for k, row in enumerate(rows) if k < _N_ROWS or row["name"] == GlobalLoss().name]
    rates = result.best.tpr_at_fpr if rows else {}
    levels = [level for level in ACCESS_LEVELS if any(row["access"] == level for row in (*rows, *content["withheld"]))]
    return template("page.html", **_FILTERS).render(
        content=content,
        design={
            "kind": None,
            "n_shadow": None,
            "seed": None,
            "commitment": None,
            "left_out": None,
            **content.get("design", {}),
        },
        assumed=assumed_in_words(content.get("design", {}).get("n_assumed", 0), len(result.unit_ids)),
        target={"bundle": None, "bundle_version": None, "privacy": None, **content.get("target", {})},
        settings=content.get("settings", {}),
        versions=content.get("versions", {}),
        sides=_sides(result, facts.table),
        unit=result.unit,
        level=verdict.level,
        headline=_HEADLINES[verdict.level],
        advice=_ADVICE[verdict.level],
        verdict=verdict,
        confidence=percent(result.confidence),
        attacks=rows,
        top=top,
        rest=[row for row in rows if row not in top],
        best=rows[0] if rows else None,
        withheld=content["withheld"],
        n_attacks=content["disclosure"]["n_attacks"],
        min_cell=content["disclosure"]["min_cell"],
        epsilon=dict(zip(("value", "ceiling"), largest_epsilon(rows), strict=True)),
        loss_tried=facts.loss is not None,
        resolved=[fpr for fpr, value in rates.items() if value is not None],
        unresolved=[fpr for fpr, value in rates.items() if value is None],
        resolution=resolution(result.member),
        access=levels,
        access_words=_ACCESS,
        blind=content["controls"]["blind_baseline"],
        beyond_blind=content["controls"]["attack_minus_blind"],
        null=content["controls"]["null"],
        claims=content["claims"],
        canaries=content["canaries"],
        roc=roc,
        panels=panels,
        vulnerability=vulnerability,
        individuals=individuals,
    )


def _sides(result: AuditResult, table: SignalTable) -> dict[str, dict[str, int]]:
    """Patients, cases and units of members and non-members."""
    case_of_unit = np.asarray(table.patient_ids if result.unit == "patient" else table.case_ids)
    sides = {}
    for key, side in (("member", result.member), ("nonmember", ~result.member)):
        inside = np.isin(case_of_unit, np.asarray(result.unit_ids)[side])
        sides[key] = {
            "patients": len(set(np.asarray(table.patient_ids)[inside])),
            "cases": int(inside.sum()),
            "units": int(side.sum()),
        }
    return sides


def _number(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _ci(pair: Sequence[float], digits: int = 3) -> str:
    return f"[{', '.join(_number(value, digits) for value in pair)}]"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_FILTERS: dict[str, Callable[..., Any]] = {
    "breaks": lambda text: escape(text).replace("_", Markup("_<wbr>")).replace("+", Markup("+<wbr>")),
    "ci": _ci,
    "count": _count,
    "data": lambda picture: f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
    "duration": _duration,
    "number": _number,
    "at_least": at_least,
    "epsilon_in_words": epsilon_in_words,
    "percent": percent,
    "percent_ci": lambda pair: f"[{', '.join(percent(rate)[:-2] for rate in pair)}]",
    "p_value": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
    "signed": lambda value: ("+" if value > 0 else "") + _number(value),
}
