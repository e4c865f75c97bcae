# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Linters, types and what must not be in a commit: run by the one test command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def tracked() -> list[Path]:
    """Files that git tracks; in a copy without git, all sources."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = done.stdout.split() if done.returncode == 0 else []
    return [ROOT / name for name in names if (ROOT / name).is_file()] or sorted(ROOT.glob("*/**/*.py"))


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "monai_mia", "tests", "docs"],
        ["ruff", "format", "--check", "monai_mia", "tests", "docs"],
        ["mypy"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_linters_are_quiet(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_headers() -> None:
    sources = [path for path in tracked() if path.suffix in (".py", ".yaml")]
    assert sources
    for path in sources:
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text()[:300], path


def test_nothing_private_is_committed() -> None:
    """No path of a developer's machine, no data, no weights."""
    machine = re.compile(r"/(work|home|root)/\w")
    for path in tracked():
        assert path.suffix not in (".pt", ".pth", ".gz", ".nii", ".dcm", ".npz"), path
        if path.suffix in (".py", ".md", ".json", ".yaml", ".toml", ".txt", ".cfg", ".html"):
            found = machine.search(path.read_text())
            assert found is None, f"{path}: {found}"


def test_modules_stay_small() -> None:
    """A module past 600 lines becomes a package (design rule)."""
    for path in (ROOT / "monai_mia").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 600, path
