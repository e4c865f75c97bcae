# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The pages' templates: all text is escaped, and a name that is not given is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

__all__ = ["template"]


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A template of this package, with filters of its own."""
    environment = Environment(
        loader=PackageLoader("monai_mia.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
