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


def trapped(folder: Path) -> dict[str, str]:
    """The environment of a process in which importing torch, monai or ignite fails."""
    traps = folder / "traps"
    for name in ("torch", "monai", "ignite"):
        (traps / name).mkdir(parents=True, exist_ok=True)
        (traps / name / "__init__.py").write_text("raise ImportError('not on this laptop')\n")
    given = environment()
    given["PYTHONPATH"] = os.pathsep.join([str(traps), given["PYTHONPATH"]])
    return given


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in such a process."""
    command = [sys.executable, "-m", "monai_mia", *words]
    return subprocess.run(command, capture_output=True, text=True, env=trapped(folder))


def test_the_trap_works(tmp_path: Path) -> None:
    done = run("audit", "--help", folder=tmp_path)
    assert "not on this laptop" in done.stderr


@pytest.mark.parametrize("command", ["report", "compare", "archive", "card", "doctor", "verify", "bundles", "overlays"])
def test_help(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: monai-mia" in done.stdout


COMMANDS: list[tuple[list[str], list[str]]] = [
    (["report"], ["index.html", "report.json", "summary.html"]),
    (["compare", "--shadows", "2"], ["comparison.md", "comparison.json"]),
    (["card"], []),
    (["archive"], []),
]


@pytest.fixture(scope="module")
def printed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command prints, one after the other in one interpreter; it ends with the first that fails."""
    code = (
        "from monai_mia.__main__ import main\n"
        f"for words in {[words for words, _ in COMMANDS]!r}:\n"
        "    print('\\f', words[0], '\\v', end='')\n"
        f"    main([*words, '--output', {str(finished)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=trapped(tmp_path_factory.mktemp("laptop"))
    )
    assert done.returncode == 0, done.stderr
    return {one.partition("\v")[0].strip(): one.partition("\v")[2] for one in done.stdout.split("\f")[1:]}


@pytest.mark.parametrize(("words", "written"), COMMANDS, ids=lambda value: value[0] if value else "")
def test_commands(words: list[str], written: list[str], study: Study, finished: Path, printed: dict[str, str]) -> None:
    before = Path(study.output_dir) / "report"  # whose times the copy had
    assert printed[words[0]].strip()
    for name in written:
        assert (finished / "report" / name).is_file()
        if (before / name).exists():
            assert (finished / "report" / name).stat().st_mtime_ns != (before / name).stat().st_mtime_ns


@pytest.mark.usefixtures("printed")
def test_reporting_again_gives_the_same(study: Study, finished: Path) -> None:
    """The table of signals is all there is to it: what a laptop writes is what the machine with torch wrote."""
    for name in ("signals/target.csv", "signals/shadow_00.csv", "design.csv"):
        assert (finished / "private" / name).read_bytes() == (Path(study.output_dir) / "private" / name).read_bytes()
