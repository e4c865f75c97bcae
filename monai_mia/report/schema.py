# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of ``report.json``, and the check against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator

from monai_mia.errors import InputError

__all__ = ["check_report", "report_schema"]


def report_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), as it is in ``monai_mia/report/report.schema.json``."""
    text = resources.files("monai_mia.report").joinpath("report.schema.json").read_text(encoding="utf-8")
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
