# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report comes to, in one page for whoever checks it, and in a section for a model card."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_mia.audit.criteria import percent
from monai_mia.audit.findings import largest_epsilon
from monai_mia.audit.printing import assumed_in_words
from monai_mia.audit.report.pages import markdown, template
from monai_mia.audit.verdict import Verdict, judge
from monai_mia.records import files
from monai_mia.statistics import Estimate
from monai_mia.statistics.accounted import epsilon_in_words, stated_epsilon
from monai_mia.statistics.epsilon import at_least

__all__ = ["PRIVACY_SCHEMA", "write_summary"]

#: Version of privacy.json.
PRIVACY_SCHEMA = "1"

_SECTIONS = (("validity", "Is the audit valid?"), ("power", "Would it have noticed?"), ("model", "What it found"))
# A sentence or two; with more, the page would not be one.
_N_REASONS, _LONGEST = 3, 330

_AUDITED = {
    "observational": "the released weights",
    "randomised": "a model that the audit trained by the same recipe on a random half of the patients",
}


def write_summary(
    content: Mapping[str, Any], folder: str | os.PathLike[str], verdict: Verdict | None = None
) -> Verdict:
    """Write ``summary.html``, ``privacy.json`` and ``model_card.md`` beside a ``report.json`` that is there.

    Args:
        content: of ``report.json``.
        folder: the report's folder.
        verdict: of :func:`~monai_mia.audit.verdict.judge`; by default by the documented criteria.

    Returns:
        The verdict that was written.
    """
    folder = Path(folder)
    verdict = verdict or judge(content)
    sha256 = hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    privacy = _privacy(content, verdict, sha256)
    files.write_json(folder / "privacy.json", privacy, private=False)
    files.write(folder / "model_card.md", _card(privacy), private=False)
    files.write(folder / "summary.html", _page(content, verdict, sha256), private=False)
    return verdict


def _privacy(content: Mapping[str, Any], verdict: Verdict, sha256: str) -> dict[str, Any]:
    """The section of a bundle's metadata; small, and without a cohort's counts below the side."""
    best = content["attacks"][0] if content["attacks"] else None
    design, target = content.get("design", {}), content.get("target", {})
    accounted = target.get("privacy") or {}
    return {
        "schema": PRIVACY_SCHEMA,
        "tool": f"monai_mia {content.get('versions', {}).get('monai_mia', '')}".strip(),
        "report_sha256": sha256,
        "audited": {
            "design": design.get("kind"),
            "checkpoint_sha256": target.get("checkpoint_sha256"),
            "bundle": target.get("bundle"),
            "bundle_version": target.get("bundle_version"),
            "release": content.get("settings", {}).get("release"),
            "n_member": design.get("n_member"),
            "n_nonmember": design.get("n_nonmember"),
            "n_assumed": design.get("n_assumed"),
            "n_shadow": max(attack["n_shadow"] for attack in (*content["attacks"], *content["withheld"])),
            "unit": content["unit"],
        },
        "verdict": verdict.level,
        "recommendation": verdict.recommendation,
        "statements": [one.as_json() for one in verdict.statements],
        "best_attack": None
        if best is None
        else {
            "name": best["name"],
            "access": best["access"],
            "auc": best["auc"],
            "auc_ci": best["auc_ci"],
            "tpr_at_fpr": {fpr: rate for fpr, rate in best["tpr_at_fpr"].items() if rate is not None},
        },
        "audited_epsilon": largest_epsilon(content["attacks"])[0],
        "accounted_epsilon": {
            "epsilon": stated_epsilon(accounted),
            **{key: accounted.get(key) for key in ("delta", "unit", "secure_noise")},
        }
        if accounted
        else None,
        "confidence": content["confidence"],
    }


def _card(privacy: Mapping[str, Any]) -> str:
    """The section of a model card."""
    audited, best = privacy["audited"], privacy["best_attack"]
    lines = [
        "## Privacy",
        "",
        "Membership inference: can someone who queries the model tell whose scans it was trained on? Audited with "
        f"{markdown(privacy['tool'])}: {_AUDITED.get(audited['design'], 'a model')}"
        + (
            f", {audited['n_member']} member and {audited['n_nonmember']} non-member patients"
            if audited["n_member"] is not None
            else ""
        )
        + f", up to {audited['n_shadow']} shadow models per attack.",
        "",
        *filter(None, [_assumed(audited) and f"{_assumed(audited)}\n"]),
        "| | |",
        "|---|---|",
        f"| verdict | **{privacy['verdict']}** |",
        f"| evidence for a release | {privacy['recommendation']} |",
    ]
    if best is not None:
        lines.append(f"| best attack | {markdown(best['name'])} (access: {markdown(best['access'])}) |")
        lines.append(f"| its AUC (0.5: chance) | {Estimate.of_json(best, 'auc')} |")
    for fpr, rate in (best or {"tpr_at_fpr": {}})["tpr_at_fpr"].items():
        found = Estimate.of_json(rate)
        lines.append(f"| members found while {percent(float(fpr))} of others are accused | {found} |")
    if privacy["audited_epsilon"] is not None:
        lines.append(f"| audited epsilon | at least {at_least(privacy['audited_epsilon'])} |")
    accounted = privacy["accounted_epsilon"]
    if accounted is not None:
        lines.append(f"| accounted epsilon | {epsilon_in_words(accounted)} |")
    lines += [
        "",
        "| statement | measured | threshold | result |",
        "|---|---|---|---|",
        *(
            f"| {' | '.join(markdown(one[key]) for key in ('text', 'measured', 'threshold', 'outcome'))} |"
            for one in privacy["statements"]
        ),
        "",
        f"Intervals: {percent(privacy['confidence'])}, by patient; they hold although the best of all attacks was "
        "chosen, and so does the bound on epsilon. A verdict of low is no proof of privacy: other attacks, more shadow "
        "models or more patients could find more.",
        "",
        f"SHA-256 of the audited weights: `{audited['checkpoint_sha256']}`,",
        f"of the report: `{privacy['report_sha256']}`.",
        "",
    ]
    return "\n".join(lines)


def _assumed(design: Mapping[str, Any]) -> str:
    return assumed_in_words(
        design.get("n_assumed") or 0, (design.get("n_member") or 0) + (design.get("n_nonmember") or 0)
    )


def _page(content: Mapping[str, Any], verdict: Verdict, sha256: str) -> str:
    reasons = verdict.reasons[:_N_REASONS]
    return template("summary.html").render(
        target={"bundle": None, "bundle_version": None, "checkpoint_sha256": None, **content.get("target", {})},
        design={"kind": None, **content.get("design", {})},
        versions={"monai_mia": None, **content.get("versions", {})},
        unit=content["unit"],
        assumed=_assumed(content.get("design", {})),
        confidence=percent(content["confidence"]),
        verdict=verdict,
        reasons=[reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…" for reason in reasons],
        best=content["attacks"][0] if content["attacks"] else None,
        n_attacks=content["disclosure"]["n_attacks"],
        sections=_SECTIONS,
        sha256=sha256,
    )
