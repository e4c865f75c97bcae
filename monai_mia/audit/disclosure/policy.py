# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy of an output checker: thresholds, and how much a report may tell, in one file for all projects."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.errors import InputError

__all__ = ["Policy"]


@dataclass(frozen=True)
class Policy:
    """What a checker asks of every report.

    Attributes:
        criteria: the thresholds that a report is judged by.
        disclosure: how much a report may tell, at most.
    """

    criteria: Criteria = Criteria()
    disclosure: Disclosure = Disclosure()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a YAML file with any of the :class:`~monai_mia.audit.Criteria` and ``min_cell``, each by its name.

        Raises:
            InputError: it holds another word, a value that is no number, or one out of range; or it cannot be read.
        """
        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"policy must be a YAML file, got {str(path)!r} ({type(error).__name__}).") from error
        known = {one.name: one.default for one in fields(Criteria)} | {"min_cell": Disclosure().min_cell}
        if not isinstance(given, dict):
            raise InputError(f"policy must hold names and numbers, got a {type(given).__name__} in {str(path)!r}.")
        strange = sorted(str(name) for name in given if name not in known)
        if strange:
            raise InputError(f"policy must hold {', '.join(known)} alone, got {', '.join(map(repr, strange))}.")
        for name, value in given.items():
            whole = isinstance(known[name], int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(f"{name} must be a {'whole ' if whole else ''}number in a policy, got {value!r}.")
        criteria = {name: value for name, value in given.items() if name != "min_cell"}
        return cls(Criteria(**criteria), Disclosure(given.get("min_cell", Disclosure().min_cell)))
