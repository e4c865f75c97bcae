# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report says, as JSON and as text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_mia import __version__
from monai_mia.audit.controls import Controls, FeatureShift, HalfSplit, StandIn
from monai_mia.audit.report.vulnerability import individuals_content
from monai_mia.audit.results import AttackResult, AuditResult
from monai_mia.statistics.epsilon import at_least, at_most
from monai_mia.statistics.roc import resolution

if TYPE_CHECKING:
    from monai_mia.audit.individuals.covariates import Individuals
import json
from importlib import resources

from jsonschema import Draft202012Validator

from monai_mia.errors import InputError

__all__ = [
    "SCHEMA",
    "as_json",
    "check_report",
    "report_schema",
    "summary",
    "versions",
]

#: Version of report.json; docs/report_format.md documents it.
SCHEMA = "1.5"

_EXPOSURE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def as_json(result: AuditResult, about: Mapping[str, Any], individuals: Individuals | None = None) -> dict[str, Any]:
    """The content of ``report.json``; ``about`` is what :class:`monai_mia.studies.Study` says of the run."""
    found = result.exposure[result.member]
    return {
        "schema": SCHEMA,
        **{key: about[key] for key in ("versions", "design", "target") if key in about},
        **({"settings": _shareable(about["settings"])} if "settings" in about else {}),
        "unit": result.unit,
        "confidence": result.confidence,
        "verdict": {"level": result.verdict.level, "reasons": list(result.verdict.reasons)},
        "attacks": [_attack(attack) for attack in result.attacks],
        "controls": {
            "blind_baseline": None if result.blind is None else _attack(result.blind),
            "blind_network": None if result.blind_network is None else _attack(result.blind_network),
            "attack_minus_blind": _with_ci(result.attack_minus_blind),
            **_controls(result.controls),
            "null": dict(result.null),
        },
        "utility": _flat_utility(result),
        "exposure": {
            "attack": result.best.name,
            "definition": "share of non-members that score at least as high as the member",
            f"n_{result.unit}s": int(result.member.sum()),
            "resolution": resolution(result.member),
            "quantiles": {f"{q:g}": float(np.quantile(found, q)) for q in _EXPOSURE_QUANTILES},
            "share_exposed_at_fpr": {
                f"{fpr:g}": float((found <= fpr + 1e-12).mean())  # as the TPR allows for rounding
                for fpr, value in result.best.tpr_at_fpr.items()
                if value is not None
            },
        },
        "claims": None if result.claims is None else {"attack": result.best.name, **asdict(result.claims)},
        "canaries": {
            kind: {method: asdict(bound) for method, bound in bounds.items()}
            for kind, bounds in result.canaries.items()
        },
        "individuals": None if individuals is None else individuals_content(individuals),
        "cost": {**about.get("cost", {}), "audit_s": result.seconds},
    }


def _controls(controls: Controls) -> dict[str, Any]:
    """The controls beside the blind ones; names of image statistics may be shared."""
    found = controls.stand_in
    return {
        "permuted_membership": None
        if found is None
        else {**_plain(found), "attack_minus": _with_ci(found.attack_minus)},
        "shifts": [_plain(shift) for shift in controls.shifts],
        "halves": [_plain(half) for half in controls.halves],
        "half_band": {side: list(band) for side, band in controls.half_band},
        "image_tail": controls.image_tail,
    }


def _plain(found: StandIn | FeatureShift | HalfSplit) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(found).items()}


def _shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, less what could hold a path or a name: folders of files, and texts and lists of overrides."""
    shown: dict[str, Any] = {}
    for key, value in settings.items():
        if key.endswith("_files"):
            shown[key] = [PurePath(name).name for name in value]
        elif key.endswith("_overrides"):
            numbers = (bool, int, float, type(None))
            shown[key] = {name: item if isinstance(item, numbers) else "not shown" for name, item in value.items()}
        else:
            shown[key] = value
    return shown


def _flat_utility(result: AuditResult) -> dict[str, Any]:
    """``members``, ``nonmembers`` and ``gap``, each a mapping from metric to value and interval."""
    return {
        side: {metric: sides[side] for metric, sides in result.utility.items()}
        for side in ("members", "nonmembers", "gap")
    }


def _attack(attack: AttackResult) -> dict[str, Any]:
    bound = attack.epsilon_lower_bound
    return {
        "name": attack.name,
        "access": attack.access,
        "signals": list(attack.signals),
        "n_shadow": attack.n_shadow,
        "auc": attack.auc,
        "auc_ci": list(attack.auc_ci),
        "auc_ci_simultaneous": list(attack.auc_ci_simultaneous),
        "p_value": attack.p_value,
        "tail_p_value": attack.tail_p_value,
        "auc_gain_over_global_loss": _with_ci(attack.auc_gain),
        "tpr_at_fpr": {f"{fpr:g}": _with_ci(value) for fpr, value in attack.tpr_at_fpr.items()},
        "advantage": attack.advantage,
        "advantage_ci": list(attack.advantage_ci),
        "balanced_accuracy": attack.balanced_accuracy,
        "balanced_accuracy_ci": list(attack.balanced_accuracy_ci),
        "transferred": None
        if attack.transferred is None
        else {rate: _with_ci(value) for rate, value in attack.transferred.items()},
        "epsilon_lower_bound": None if bound is None else bound.value,
        "epsilon": None
        if bound is None
        else {
            "delta": bound.delta,
            "confidence": bound.confidence,
            "threshold": bound.method,
            "ceiling": bound.ceiling,
        },
        "roc": {key: list(values) for key, values in attack.roc.items()},
        "seconds": attack.seconds,
    }


def _with_ci(value: tuple[float, tuple[float, float]] | None) -> dict[str, Any] | None:
    return None if value is None else {"value": value[0], "ci": list(value[1])}


def summary(result: AuditResult, n_rows: int = 12, accounted: Mapping[str, Any] | None = None) -> str:
    """The best attacks and the verdict, for a terminal; and what the target's training accounted for, if it did."""
    percent = f"{result.confidence:.0%}"
    fprs = [fpr for fpr, value in result.best.tpr_at_fpr.items() if value is not None]
    heads = ["attack", f"AUC [{percent} interval]", *(f"TPR@{fpr:.3g}FPR" for fpr in fprs), "epsilon >="]
    shown = list(result.attacks[:n_rows])
    shown += [attack for attack in result.attacks[n_rows:] if attack.name == "global loss"]
    rows = [_row(attack, fprs) for attack in shown]
    rows += [_row(blind, fprs) for blind in (result.blind, result.blind_network) if blind is not None]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    lines.insert(1, "-" * len(lines[0]))
    if len(result.attacks) > len(shown):
        lines.append(f"... and {len(result.attacks) - len(shown)} more attacks in the report.")
    for metric, sides in result.utility.items():
        values = [f"{side} {sides[side]['value']:.3f}" for side in ("members", "nonmembers")]
        lines.append(f"{metric}: {', '.join(values)} (means over {result.unit}s)")
    for kind, bounds in result.canaries.items():
        bound = bounds["one run"]
        lines.append(
            f"canaries ({kind}): epsilon >= {at_least(bound.value)} at delta {bound.delta:g} (one run; at most "
            f"{bound.ceiling:.2f} could have been shown)"
        )
    if accounted is not None:
        bounded = "no bound" if accounted["epsilon"] is None else f"at most {at_most(accounted['epsilon'])}"
        lines.append(f"accounted epsilon: {bounded} at delta {accounted['delta']:g} ({accounted['unit']}s)")
    lines.append(f"Verdict: {result.verdict.level.upper()}")
    lines += [f"  {reason}" for reason in result.verdict.reasons]
    return "\n".join(["", *lines, ""])


def _row(attack: AttackResult, fprs: list[float]) -> list[str]:
    cells = [attack.name, f"{attack.auc:.3f} [{attack.auc_ci[0]:.3f}, {attack.auc_ci[1]:.3f}]"]
    for fpr in fprs:
        value = attack.tpr_at_fpr[fpr]
        cells.append("" if value is None else f"{value[0]:.3f}")
    bound = attack.epsilon_lower_bound
    return [*cells, "" if bound is None else at_least(bound.value)]


def versions() -> dict[str, str]:
    """Of Python, of this package and of what its numbers depend on."""
    names = ("monai", "torch", "pytorch-ignite", "numpy", "scipy", "scikit-learn", "nibabel")
    return {
        "monai_mia": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def report_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), as it is in ``monai_mia/audit/report/report.schema.json``."""
    text = resources.files("monai_mia.audit.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_report(content: Mapping[str, Any]) -> None:
    """Refuse what is no ``report.json``.

    Args:
        content: what was read from the file, or is to be written.

    Raises:
        InputError: it does not follow the schema; the first place that does not is named.
    """
    plain = json.loads(json.dumps(content))  # a tuple is a list in the file
    errors = sorted(Draft202012Validator(report_schema()).iter_errors(plain), key=lambda error: error.json_path)
    if errors:
        first = errors[0]
        raise InputError(
            f"report.json must follow its schema, got {len(errors)} departures, the first at {first.json_path}: "
            f"{first.message.splitlines()[0][:200]}."
        )
