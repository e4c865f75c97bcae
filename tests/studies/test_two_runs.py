# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Two whole studies that are started at once on one folder: one works, the other is told of it, or waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import SMALL, environment, small_study

RUN = """
import sys
sys.path.insert(0, {tests!r})
from conftest import SMALL, small_study
from monai_mia.data import phantom_cohort
cohort = phantom_cohort({cohort!r}, n_patients=9, size=16, seed=0)
small_study(cohort, {out!r}, train_overrides={{**SMALL, "train#trainer#max_epochs": {epochs!r}}}, wait={wait}).main()
"""

#: One epoch, as soon as a file is there.
EPOCHS = (
    "$1 + 0 * len([__import__('time').sleep(0.05) for _ in iter(lambda: __import__('os').path.exists({go!r}), True)])"
)


def test_one_works_one_is_refused_and_one_waits(cohort: Any, tmp_path: Path) -> None:
    out, go, tests = tmp_path / "out", tmp_path / "go", str(Path(__file__).parent.parent)
    epochs = EPOCHS.format(go=str(go))

    def start(wait: bool) -> subprocess.Popen[str]:
        code = RUN.format(tests=tests, cohort=str(tmp_path / "cohort"), out=str(out), wait=wait, epochs=epochs)
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    first = start(False)
    while not (out / "private/study.lock.json").is_file():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    refused, waiting = start(False), start(True)
    told = refused.communicate()[1].strip().splitlines()[-1]
    assert refused.returncode == 1
    assert told.startswith("monai_mia: output_dir must be free, got")
    assert f"process {first.pid} on" in told
    assert waiting.poll() is None
    go.touch()
    for process in (first, waiting):
        assert process.communicate()[0] is not None
        assert process.returncode == 0
    # Nothing of either is lost: the study is whole, and as if it had run alone.
    alone = small_study(cohort, tmp_path / "alone", train_overrides={**SMALL, "train#trainer#max_epochs": epochs})
    alone.run()
    for model in ("target", "shadow_00", "shadow_01"):
        assert (out / f"private/signals/{model}.csv").read_bytes() == alone.folder.signals(model).read_bytes()
    assert (out / "report/index.html").is_file()
    assert not list(out.rglob("*.tmp"))
