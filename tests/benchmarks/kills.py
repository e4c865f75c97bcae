# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Kill a study at random moments, again and again, and see that it always comes to the same table.

    python tests/benchmarks/kills.py --kills 100 --jobs 1

A study of 8 phantoms, 2 shadows and 1 epoch is started, killed (SIGKILL: the main process alone, or all of them) at a
moment drawn evenly over the time that it takes, and started again, three times; then it runs to its end, and is killed
twice more while it is run again. After each kill no file may be torn or stale (``doctor``), and an archive must be the
one of its manifest. At each end it is compared with an undisturbed study, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import SMALL, small_study
from joblib import Parallel

from monai_mia.audit.disclosure import check_archive
from monai_mia.data import phantom_cohort
from monai_mia.records import StudyFolder
from monai_mia.records.integrity import examine
from monai_mia.studies import jobs as studies_jobs

#: Kills of a study that is new, and of one that is finished and run again, which attacks, reports and archives anew.
FIRST, AGAIN = 3, 2
MODELS = ("target", "shadow_00", "shadow_01")


def study(cohort: Any, out: Path, jobs: int) -> Any:
    epochs = {**SMALL, "train#trainer#max_epochs": 1}
    return small_study(cohort, out, n_jobs=jobs, train_overrides=epochs, archive=str(out / "report.zip"))


def started(cohort: Any, out: Path, jobs: int) -> int:
    """The study in a process of its own, forked from this one, which has imported what is heavy; its id."""
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            # Workers are forked, too: those of loky import torch anew each time.
            studies_jobs.Parallel = partial(Parallel, backend="multiprocessing")
            study(cohort, out, jobs).run()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int, seconds: float) -> int | None:
    """The exit status, if the process ends within so many seconds."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def killed_now(child: int, alone: bool) -> int:
    """Kill a process alone (its workers see that it is gone), or all of its group; the exit status."""
    with contextlib.suppress(ProcessLookupError):  # so early that it has no group yet
        os.kill(child, signal.SIGKILL) if alone else os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def step_of(out: Path) -> str:
    """What was being done, by what there is."""
    folder = StudyFolder(out)
    if not all(folder.trained(model) for model in MODELS):
        return "design and training"
    return "attacks, report and archive" if all(map(folder.queried, MODELS)) else "querying"


def table(out: Path) -> dict[str, bytes]:
    folder = StudyFolder(out)
    paths = [folder.design_file, folder.scores_file, *map(folder.signals, MODELS)]
    return {path.name: path.read_bytes() for path in paths}


def kill_again_and_again(kills: int, jobs: int, seed: int, where: Path) -> Counter[str]:
    """Kill so many times; gives in which steps, and raises AssertionError where something is torn or differs."""
    rng = random.Random(seed)
    cohort = phantom_cohort(where / "cohort", n_patients=8, size=16, seed=0)
    for name in ("warm", "undisturbed"):  # the first one reads the libraries from the disk
        start = time.perf_counter()
        assert ended(started(cohort, where / name, jobs), 600) == 0, (where / f"{name}.log").read_text()
        fresh = time.perf_counter() - start
    start = time.perf_counter()
    assert ended(started(cohort, where / "undisturbed", jobs), 600) == 0
    again = time.perf_counter() - start
    expected = table(where / "undisturbed")
    print(f"undisturbed: {fresh:.1f} s, again {again:.1f} s", flush=True)
    killed: Counter[str] = Counter()
    number = 0
    while killed.total() < kills:
        out = where / f"study_{number}"
        for rounds, whole in ((FIRST, fresh), (AGAIN, again)):
            for _ in range(min(rounds, kills - killed.total())):
                child = started(cohort, out, jobs)
                status = ended(child, rng.uniform(0, whole))
                if status is None:
                    status = killed_now(child, alone=rng.random() < 0.5)
                if status == -signal.SIGKILL:
                    killed[step_of(out)] += 1
                    look_at(out)
                else:
                    assert status == 0, out.with_suffix(".log").read_text()[-2000:]
            assert ended(started(cohort, out, jobs), 600) == 0, out.with_suffix(".log").read_text()[-2000:]
            assert table(out) == expected, out
            check_archive(out / "report.zip")
            left = examine(out)
            if any(one.state == "unfinished" for one in left.findings):  # of a worker that outlived its parent
                assert ended(started(cohort, out, jobs), 600) == 0, out.with_suffix(".log").read_text()[-2000:]
                left = examine(out)
            assert left.whole, left.text()
        shutil.rmtree(out, ignore_errors=True)  # a worker may be about to end
        number += 1
    killed["(studies)"] = number
    return killed


def look_at(out: Path) -> None:
    """Nothing that a kill left is torn or stale, and an archive is the one of its manifest."""
    if (out / "study.json").is_file():
        odd = [one for one in examine(out).findings if one.state in ("torn", "stale")]
        assert not odd, odd
    if (out / "report.zip").is_file():
        check_archive(out / "report.zip")


def started_at_once(rounds: int, jobs: int, where: Path) -> Counter[str]:
    """Start two runs at once in one folder, so often; one does the work, the other is told, or finds it done."""
    cohort = phantom_cohort(where / "cohort", n_patients=8, size=16, seed=0)
    assert ended(started(cohort, where / "alone", jobs), 600) == 0
    expected, outcomes = table(where / "alone"), Counter[str]()
    for number in range(rounds):
        out = where / f"both_{number}"
        children = [started(cohort, out, jobs) for _ in range(2)]
        statuses = sorted(str(ended(child, 600)) for child in children)
        told = out.with_suffix(".log").read_text()
        assert statuses in (["0", "1"], ["0", "0"]), told
        assert statuses == ["0", "0"] or "InputError: output_dir must be free, got" in told, told
        assert table(out) == expected
        left = examine(out)
        assert left.whole, left.text()
        outcomes["one was refused" if "1" in statuses else "one came after the other"] += 1
        shutil.rmtree(out)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a study at random moments.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=0, help="instead: start two runs at once, so often")
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if given.at_once:
            print(f"n_jobs {given.jobs}: two at once, {dict(started_at_once(given.at_once, given.jobs, Path(folder)))}")
            return
        killed = kill_again_and_again(given.kills, given.jobs, given.seed, Path(folder))
    studies = killed.pop("(studies)")
    print(f"n_jobs {given.jobs}: {killed.total()} kills in {studies} studies, {time.perf_counter() - start:.0f} s")
    for step, count in killed.most_common():
        print(f"  {count} in {step}")


if __name__ == "__main__":
    main()
