# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What an output checker does with an archive: is it what it says it is, and what is it worth by the checker's rules.

Whoever packs an archive can write any report into it; nobody can tell invented numbers from measured ones. What can be
told is whether its pages say what its ``report.json`` says, what that is worth by the checker's own thresholds, whether
it speaks of these weights, and, with a signature, who vouches for it.
"""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure.archive import checked_archive
from monai_mia.audit.disclosure.policy import Policy
from monai_mia.audit.report.content import check_report
from monai_mia.audit.report.summary_page import write_summary
from monai_mia.audit.verdict import Verdict, judge
from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["CheckedReport", "check_shared"]

_PAGES = ("summary.html", "privacy.json", "model_card.md")


@dataclass(frozen=True)
class CheckedReport:
    """What a check found.

    Attributes:
        content: of ``report.json``.
        verdict: by the checker's policy.
        own: by the criteria that the report was made with.
        manifest: of the archive.
        signed: whether a signature was there, and belongs to the key that was given; None if no key was given.
        fingerprint: SHA-256 of the signer's public key, or None without a signature.
    """

    content: Mapping[str, Any]
    verdict: Verdict
    own: Verdict
    manifest: Mapping[str, Any]
    signed: bool | None
    fingerprint: str | None


def check_shared(
    path: str | os.PathLike[str],
    policy: Policy | None = None,
    model: str | os.PathLike[str] | None = None,
    signer: str | os.PathLike[str] | None = None,
) -> CheckedReport:
    """Check an archive that was handed over, without what it was made from.

    Args:
        path: the ``.zip``.
        policy: the checker's thresholds; by default those documented.
        model: the file of weights that is to be released.
        signer: public key (PEM) of who must have signed it.

    Returns:
        What the report says, judged by the policy.

    Raises:
        InputError: the archive is no whole one, or too large; it holds no ``report.json``, or one that does not follow
            the schema; a page says something else; it tells of fewer patients than the policy allows; it speaks of
            other weights; it is not signed by that key.
    """
    policy = policy or Policy()
    archive = checked_archive(path)
    if "report/report.json" not in archive.files:
        raise InputError(f"archive must hold report.json, got {str(path)!r} without it. Ask for it again.")
    signed = None if signer is None else archive.verify(signer)
    try:
        content = json.loads(archive.files["report/report.json"])
    except ValueError as error:
        raise InputError("report.json must be JSON, got what does not parse. Ask for the archive again.") from error
    check_report(content)
    own = judge(content, Criteria(**content["criteria"]))
    _check_pages(content, own, archive.files)
    told = content["disclosure"]["min_cell"]
    if told < policy.disclosure.min_cell:
        raise InputError(
            f"min_cell of the report must be at least {policy.disclosure.min_cell}, got {told}: it may tell of so few "
            "patients. Ask for one with the policy's."
        )
    if model is not None:
        _check_model(content, Path(model))
    return CheckedReport(content, judge(content, policy.criteria), own, archive.manifest, signed, archive.fingerprint)


def _check_pages(content: Mapping[str, Any], verdict: Verdict, found: Mapping[str, bytes]) -> None:
    """Write the pages again from ``report.json`` and compare; of ``index.html``, what it says of verdict and AUCs."""
    if verdict.as_json() != content["verdict"]:
        raise InputError(
            f"verdict of report.json must follow from its numbers, got {content['verdict']['level']!r} where they say "
            f"{verdict.level!r}. Do not trust it."
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "report.json").write_bytes(found["report/report.json"])
        write_summary(content, folder, verdict)
        forged = [name for name in _PAGES if found.get(f"report/{name}") != (folder / name).read_bytes()]
    page = found.get("report/index.html", b"").decode(errors="replace")
    if not _says(page, content, verdict):
        forged.append("index.html")
    if forged:
        made = content.get("versions", {}).get("monai_mia")
        raise InputError(
            f"pages must say what report.json says, got {', '.join(forged)} that do not. Do not trust them; if another "
            f"version ({made}) made them, check with that."
        )


def _says(page: str, content: Mapping[str, Any], verdict: Verdict) -> bool:
    """Whether the page of the audit has the level, the reasons, and the AUC of each attack with its interval."""
    words = html.unescape(" ".join(re.sub(r"<[^>]*>", "", page).split())).replace("\N{NO-BREAK SPACE}", " ")

    def number(value: float) -> str:
        return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")

    wanted = ["Inconclusive" if verdict.level == "inconclusive" else f"Risk found: {verdict.level}"]
    wanted += [reason.replace("\N{NO-BREAK SPACE}", " ") for reason in verdict.reasons]
    wanted += [f"About a release: {verdict.recommendation}."]
    wanted += [f"{number(row['auc'])} [{', '.join(map(number, row['auc_ci']))}]" for row in content["attacks"]]
    return all(" ".join(one.split()) in words for one in wanted)


def _check_model(content: Mapping[str, Any], model: Path) -> None:
    try:
        found = files.sha256(model)
    except OSError as error:
        raise InputError(f"model must be a file that can be read, got {str(model)!r} ({error.strerror}).") from error
    audited = content.get("target", {}).get("checkpoint_sha256")
    if found != audited:
        raise InputError(
            f"model must be the one that was audited, got a file with SHA-256 {found[:12]}…, where the report is about "
            f"{str(audited)[:12]}…. In a randomised design that is a model trained for the audit, by the same recipe."
        )
