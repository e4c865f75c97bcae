# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report says, as JSON, and the schema that it follows."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from monai_mia import __version__
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.report.vulnerability import individuals_content
from monai_mia.audit.results import AuditResult
from monai_mia.errors import InputError
from monai_mia.statistics.accounted import stated_epsilon

if TYPE_CHECKING:
    from monai_mia.audit.individuals.covariates import Individuals

__all__ = ["SCHEMA", "as_json", "check_report", "report_schema", "versions"]

#: Version of report.json; docs/report_format.md documents it.
SCHEMA = "2.0"


def as_json(result: AuditResult, about: Mapping[str, Any], individuals: Individuals | None = None) -> dict[str, Any]:
    """The content of ``report.json``; ``about`` is what :class:`monai_mia.studies.Study` says of the run."""
    return {
        "schema": SCHEMA,
        **({"versions": about["versions"]} if "versions" in about else {}),
        **({"design": _design(about["design"], result.disclosure)} if "design" in about else {}),
        **({"target": _stated(about["target"])} if "target" in about else {}),
        **({"settings": _shareable(about["settings"])} if "settings" in about else {}),
        **result.as_json(),
        "verdict": result.judge(about).as_json(),
        "individuals": None if individuals is None else individuals_content(individuals),
        "cost": {**about.get("cost", {}), "audit_s": result.seconds},
    }


def _stated(target: Mapping[str, Any]) -> dict[str, Any]:
    """The target, whose account of privacy has no epsilon where its noise can be repeated."""
    privacy = target.get("privacy")
    return {**target, "privacy": {**privacy, "epsilon": stated_epsilon(privacy)}} if privacy else dict(target)


def _design(design: Mapping[str, Any], disclosure: Disclosure) -> dict[str, Any]:
    """The design; the sides of scans that were left out are not told where these are few: one sees which they are."""
    left_out = design.get("left_out")
    if not left_out or disclosure.shows(*left_out.values()):
        return dict(design)
    return {**design, "left_out": {"either": sum(left_out.values())}}


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
