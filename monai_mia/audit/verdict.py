# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The verdict: what an audit found, in one word, and whether that is enough for a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from monai_mia.audit.criteria import Criteria, Statement
from monai_mia.audit.findings import Findings

__all__ = ["Level", "Recommendation", "Verdict", "judge"]

Level = Literal["low", "moderate", "high", "inconclusive"]

Recommendation = Literal["support", "reject", "undetermined"]

_WORDS = {
    "support": "The evidence supports a release: every statement holds.",
    "reject": "The evidence speaks against a release.",
    "undetermined": "The evidence is not enough for either. A person decides, or more is measured.",
}

_REMEDY = "Take both sides from one source, or let the tool train the target (a randomised design)."


@dataclass(frozen=True)
class Verdict:
    """What an audit found, and whether that is enough for a release: two answers from one list of statements.

    ``support`` goes with ``low`` alone, ``high`` with ``reject`` alone, ``inconclusive`` with ``undetermined`` alone.

    Attributes:
        level: what was found: ``low``, ``moderate``, ``high`` or ``inconclusive``.
        reasons: why, in sentences for a reader without a background in privacy.
        recommendation: about a release: ``support``, ``reject`` or ``undetermined``.
        statements: what both were read from.
    """

    level: Level
    reasons: tuple[str, ...]
    recommendation: Recommendation
    statements: tuple[Statement, ...]

    def as_json(self) -> dict[str, Any]:
        """As ``verdict`` of ``report.json`` has it."""
        return {"level": self.level, "reasons": list(self.reasons)}

    @property
    def text(self) -> str:
        """The recommendation in a sentence."""
        return _WORDS[self.recommendation]

    @property
    def open(self) -> tuple[Statement, ...]:
        """The statements that do not hold, or of which it is not known."""
        return tuple(one for one in self.statements if one.outcome != "pass")


def judge(content: Mapping[str, Any], criteria: Criteria | None = None) -> Verdict:
    """Judge what a report says; see docs/report_format.md for the rules in words.

    Args:
        content: of ``report.json``, see :func:`~monai_mia.audit.report.as_json`; its own verdict is not read.
        criteria: the thresholds; by default those documented.
    """
    if not content["attacks"]:
        return _unseen(content)
    statements = (criteria or Criteria()).check(Findings.of(content))
    level, reasons = _level(statements, (criteria or Criteria()).high_auc)
    return Verdict(level, tuple(reasons), _recommendation(statements), statements)


def _unseen(content: Mapping[str, Any]) -> Verdict:
    """Of a report that tells no number, since a side has fewer patients than one may tell of."""
    design, fewest = content.get("design", {}), content["disclosure"]["min_cell"]
    n_member, n_nonmember = (design.get(key, "too few") for key in ("n_member", "n_nonmember"))
    reason = (
        f"Only {n_member} member and {n_nonmember} non-member patients: no number is told of fewer than {fewest} of a "
        "side. Audit more patients, or set a smaller min_cell where who was a member is no secret."
    )
    sides = f"{n_member} and {n_nonmember}"
    statement = Statement(
        "patients", "validity", "There are enough patients on both sides.", sides, None, None,
        f"at least {fewest} each", "fail", (reason,),
    )  # fmt: skip
    return Verdict("inconclusive", (reason,), "undetermined", (statement,))


def _level(statements: tuple[Statement, ...], high_auc: float) -> tuple[Level, list[str]]:
    patients, controls, blind, detectable, _, chance, auc, rate, *_ = statements
    if patients.outcome == "fail":
        return "inconclusive", list(patients.reasons)
    evidence, conclusion = chance.reasons
    failed = [one for one in (blind, controls) if one.outcome == "fail"]
    if failed:
        return "inconclusive", [evidence, *(reason for one in failed for reason in one.reasons), _REMEDY]
    reasons = [f"{evidence} {conclusion}".rstrip(), *blind.reasons, *controls.reasons]
    if chance.outcome == "pass":
        return "low" if detectable.outcome == "pass" else "inconclusive", [*reasons, *detectable.reasons]
    reasons += auc.reasons or rate.reasons
    if auc.high or rate.high:
        return "high", reasons
    limited = (
        f"The evidence about an average patient is limited (AUC not clearly above {high_auc:g}); "
        "single patients may still stand out."
    )
    return "moderate", [*reasons, limited]


def _recommendation(statements: tuple[Statement, ...]) -> Recommendation:
    if any(one.outcome == "fail" for one in statements if one.about == "validity"):
        return "undetermined"
    if any(one.outcome == "fail" for one in statements if one.about == "model"):
        return "reject"
    return "support" if all(one.outcome == "pass" for one in statements) else "undetermined"
