# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What an output checker runs needs neither torch nor monai: here they cannot be imported at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

from monai_mia.studies import Study


@pytest.fixture(scope="module")
def finished(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished study."""
    return shutil.copytree(study.output_dir, tmp_path_factory.mktemp("checker") / "out")


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command where importing torch, monai or ignite fails."""
    traps = folder / "traps"
    for name in ("torch", "monai", "ignite"):
        (traps / name).mkdir(parents=True, exist_ok=True)
        (traps / name / "__init__.py").write_text("raise ImportError('not on this laptop')\n")
    given = environment()
    given["PYTHONPATH"] = os.pathsep.join([str(traps), given["PYTHONPATH"]])
    command = [sys.executable, "-m", "monai_mia", *words]
    return subprocess.run(command, capture_output=True, text=True, env=given)


def test_the_trap_works(tmp_path: Path) -> None:
    done = run("audit", "--help", folder=tmp_path)
    assert "not on this laptop" in done.stderr


@pytest.mark.parametrize("command", ["report", "compare", "archive", "card", "bundles", "overlays"])
def test_help(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: monai-mia" in done.stdout


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["report"], ["index.html", "report.json", "summary.html"]),
        (["compare", "--shadows", "2"], ["comparison.md", "comparison.json"]),
        (["card"], []),
        (["archive"], []),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_commands(words: list[str], written: list[str], finished: Path, tmp_path: Path) -> None:
    before = {name: (finished / "report" / name).stat().st_mtime_ns for name in written if "comparison" not in name}
    done = run(*words, "--output", str(finished), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for name in written:
        assert (finished / "report" / name).is_file()
        assert (finished / "report" / name).stat().st_mtime_ns != before.get(name)


def test_reporting_again_gives_the_same(study: Study, finished: Path, tmp_path: Path) -> None:
    """The table of signals is all there is to it: what a laptop writes is what the machine with torch wrote."""
    assert run("report", "--output", str(finished), folder=tmp_path).returncode == 0
    for name in ("signals/target.csv", "signals/shadow_00.csv", "design.csv"):
        assert (finished / "private" / name).read_bytes() == (Path(study.output_dir) / "private" / name).read_bytes()
