# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Two stacks that meet in the table: what may import what, each time in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import environment

STATISTICS = [
    "monai_mia",
    "monai_mia.errors",
    "monai_mia.files",
    "monai_mia.disclosure",
    "monai_mia.identifiers",
    "monai_mia.pseudonyms",
    "monai_mia.archive",
    "monai_mia.sharing",
    "monai_mia.table",
    "monai_mia.designs",
    "monai_mia.statistics",
    "monai_mia.epsilon",
    "monai_mia.claims",
    "monai_mia.maps",
    "monai_mia.verdict",
    "monai_mia.attacks",
    "monai_mia.scoring",
    "monai_mia.controls",
    "monai_mia.novelty",
    "monai_mia.audit",
    "monai_mia.exposure",
    "monai_mia.covariates",
    "monai_mia.leakage",
    "monai_mia.report",
    "monai_mia.comparison",
]


def loaded_after(*modules: str) -> dict[str, set[str]]:
    """Top-level packages and our own modules that are loaded after each import, in one interpreter."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    kept = {m if m.startswith('monai_mia') else m.partition('.')[0] for m in sys.modules}\n"
        "    print(name, *sorted(kept))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    found = {name: set(kept) for name, *kept in lines if name in modules}
    assert set(found) == set(modules)
    return found


def test_the_statistics_half_loads_neither_torch_nor_monai():
    for module, loaded in loaded_after(*STATISTICS).items():
        assert module in loaded
        assert not loaded & {"torch", "monai", "ignite"}, module


def test_the_package_alone_loads_nothing_heavy():
    (loaded,) = loaded_after("monai_mia").values()
    assert not loaded & {"numpy", "scipy", "sklearn", "torch", "monai", "ignite", "matplotlib"}


def test_attacks_never_import_the_audit():
    (loaded,) = loaded_after("monai_mia.attacks").values()
    assert not loaded & {"monai_mia.audit", "monai_mia.statistics", "monai_mia.report", "monai_mia.controls"}


@pytest.mark.parametrize(
    "modules",
    [
        ("monai_mia.signals", "monai_mia.transforms", "monai_mia.handlers"),
        ("monai_mia.utility", "monai_mia.defences", "monai_mia.dp", "monai_mia.generators"),
        ("monai_mia.utility", "monai_mia.defences", "monai_mia.dp"),
        ("monai_mia.outputs", "monai_mia.engines", "monai_mia.inspection"),
    ],
)
def test_the_monai_half_never_imports_attacks(modules):
    for module, loaded in loaded_after(*modules).items():
        assert "torch" in loaded
        assert not {name for name in loaded if name.startswith(("monai_mia.attacks", "monai_mia.audit"))}, module
