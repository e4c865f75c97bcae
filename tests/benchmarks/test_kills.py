# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Kills at random moments; the numbers of a hundred are in docs/results/robustness.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("what", [("--kills", "10"), ("--at-once", "3")])
def test_a_killed_study_comes_to_the_same_table(what: tuple[str, str], jobs: int) -> None:
    command = [sys.executable, str(SCRIPT), *what, "--jobs", str(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
