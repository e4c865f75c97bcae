# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Running a study's jobs, in this process or in several, with one progress bar over all of them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from monai_mia.errors import InputError, one_line
from monai_mia.records import files

__all__ = ["Job", "command", "discreet_logs", "run_jobs"]

_T = TypeVar("_T")


class Job(Protocol):
    """What can be run anywhere: all it needs are its fields, all it leaves are files."""

    @property
    def model_id(self) -> str:
        """The model it works on."""

    @property
    def progress(self) -> str:
        """The file in which it tells how far it is."""

    def run(self) -> None:
        """Do the work."""


def run_jobs(jobs: Sequence[Job], description: str, n_jobs: int | None = None) -> None:
    """Run jobs and show how far they are, with the time left.

    Args:
        jobs: what to run.
        description: what the bar says.
        n_jobs: processes; by default one a CPU core, or one alone where there is a GPU. One runs in this process.
            Any backend of joblib can be chosen around the call with ``joblib.parallel_config``.

    Raises:
        InputError: a process was killed, most likely for memory.
    """
    if not jobs:
        return
    if n_jobs is None:
        n_jobs = 1 if torch.cuda.is_available() else cpu_count()
    n_jobs = max(1, min(n_jobs, len(jobs)))
    with _watched(jobs, description):
        try:
            Parallel(n_jobs=n_jobs)(delayed(_run)(job, os.getpid()) for job in jobs)
        except TerminatedWorkerError as error:
            raise InputError(
                f"n_jobs must be small enough for the machine's memory, got {n_jobs}: a process was killed while "
                f"{description}. Lower --n_jobs; what was finished is kept, run the command again to resume."
            ) from error


def _run(job: Job, parent: int) -> None:
    if os.getpid() != parent:
        _exit_with(parent)
    with discreet_logs():
        job.run()


#: Tells each reader anew that it can do without a codec of NVIDIA's.
_CODEC = "monai.data.nvimgcodec_pydicom_plugin"


def _withhold(record: logging.LogRecord) -> bool:
    """Drop the values that a log entry of MONAI holds; what is wrong (a shape, a type) stays."""
    if record.name == "dev_collate":
        record.msg, record.args = record.getMessage().partition(" in collate")[0], ()
    return record.name not in ("DataStats", _CODEC)


@contextlib.contextmanager
def discreet_logs() -> Iterator[None]:
    """Keep voxels, ids and headers out of the log for a time.

    Where a batch cannot be collated, MONAI logs the whole batch (``dev_collate``); where a transform fails or shows
    statistics, all that is known of the case, its header included (``DataStats``).
    """
    quiet = [logging.getLogger(name) for name in ("dev_collate", "DataStats", _CODEC)]
    for one in quiet:
        one.addFilter(_withhold)
    try:
        yield
    finally:
        for one in quiet:
            one.removeFilter(_withhold)


_guarded = False


def _exit_with(parent: int) -> None:
    """End this worker when the process that started it is gone, so that a resumed study does not meet it."""
    global _guarded
    if _guarded or os.getppid() != parent:  # a worker on another machine has another parent
        return
    _guarded = True

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _watched(jobs: Sequence[Job], description: str) -> Iterator[None]:
    """A bar over all jobs; it reads their progress files, so that it works across processes and machines."""
    stop = threading.Event()
    for job in jobs:
        with contextlib.suppress(OSError):
            Path(job.progress).unlink()

    def watch(bar: tqdm[None]) -> None:
        while True:
            last = stop.wait(0.5)
            states = [files.read_json(job.progress) for job in jobs]
            total = max((state["total"] for state in states if "total" in state), default=0)
            if total:
                done = sum(state.get("done", 0) for state in states)
                finished = sum(state.get("done", 0) == total for state in states)
                bar.total = total * len(jobs)
                spent = max((state["epsilon"] for state in states if "epsilon" in state), default=None)
                epsilon = "" if spent is None else f", epsilon {spent:.2f}"
                bar.set_postfix_str(f"{finished}/{len(jobs)} models{epsilon}", refresh=False)
                bar.update(done - bar.n)
            if last:
                bar.refresh()
                return

    interval = 0.5 if sys.stderr.isatty() else 20.0  # a log file is no place for a moving bar
    with tqdm(desc=description, total=None, mininterval=interval, miniters=0) as bar:
        thread = threading.Thread(target=watch, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def command(run: Callable[[], _T]) -> _T:
    """Run a step; what the user must mend ends the process with one line."""
    with one_line(), discreet_logs():
        return run()
