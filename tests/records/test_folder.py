# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a study: what it holds, and that two runs never meet in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import environment

from monai_mia.errors import InputError
from monai_mia.records import StudyFolder, files

HOLD = """
import sys, time
from monai_mia.records import StudyFolder
with StudyFolder(sys.argv[1]).lock(wait=sys.argv[2] == "wait"):
    print("in", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def hold(folder: Path, seconds: float, wait: str = "no") -> subprocess.Popen[str]:
    """Another process that works in the folder for so long."""
    command = [sys.executable, "-c", HOLD, str(folder), wait, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def is_in(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "in\n"


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    other = hold(tmp_path, 600)
    assert is_in(other)
    with (
        pytest.raises(InputError, match=rf"another run works \(process {other.pid} on ") as refusal,
        StudyFolder(tmp_path).lock(),
    ):
        pass
    assert "\n" not in str(refusal.value)
    assert "--wait" in str(refusal.value)
    other.kill()
    other.wait()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    other = hold(tmp_path, 600)
    assert is_in(other)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with StudyFolder(tmp_path).lock():
        known = files.read_json(tmp_path / "private/study.lock.json")
        assert known["process"] == os.getpid()


def test_who_waits_comes_next(tmp_path: Path) -> None:
    first = hold(tmp_path, 1.0)
    assert is_in(first)
    second = hold(tmp_path, 0.0, "wait")
    assert is_in(second)
    assert first.wait() == 0
    assert second.wait() == 0


def test_one_process_may_enter_twice(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.lock(), folder.lock(), StudyFolder(str(tmp_path)).lock():
        other = hold(tmp_path, 0.0)
        assert other.wait() == 1
    assert is_in(hold(tmp_path, 0.0))


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    (folder.private / "signals").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    handle, mine = files.temporary_beside(folder.signals("target"))
    os.close(handle)
    theirs = Path(mine.replace(f"-{os.getpid()}.", f"-{dead.pid}."))
    theirs.touch()
    elsewhere = theirs.with_name(theirs.name.replace(files._host(), "anotherhost"))
    elsewhere.touch()
    with folder.lock():
        assert Path(mine).exists()  # of a process that lives: it may be writing
        assert not theirs.exists()
        assert elsewhere.exists()  # of another machine: nobody here knows


def test_a_folder_of_an_older_layout_is_refused_in_one_line(tmp_path: Path) -> None:
    files.write_json(tmp_path / "study.json", {"schema": "1", "identity": {}})
    with (
        pytest.raises(InputError, match="output_dir must be of this version's layout") as refusal,
        StudyFolder(tmp_path).lock(),
    ):
        pass
    assert "\n" not in str(refusal.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="with other files"), StudyFolder(tmp_path).lock():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_studys_folder_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.lock():
        folder.identify(seed=1)
        folder.identify(seed=1, cohort="a")
        with pytest.raises(InputError, match="another seed, another cohort"):
            folder.identify(seed=2, cohort="b")


def test_private_is_private(tmp_path: Path) -> None:
    started = time.time()
    with StudyFolder(tmp_path).lock():
        pass
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    assert (tmp_path / "study.json").stat().st_mtime >= started - 60
