# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the statistics half; printed, nothing is decided. Run: pytest -m benchmark tests/benchmarks -s."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from oracles import game

from monai_mia.attacks import BASE, RMIA, BaVarIA, DifficultyCalibration, GlobalLoss, LiRA, MultivariateLiRA
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import blind_baseline

pytestmark = pytest.mark.benchmark


def measured(call):
    """Seconds of the best of three calls, then the peak of new memory of one more, and its result."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak, result


def show(name, seconds, peak):
    print(f"{name}: {seconds:.3f} s, peak {peak / 2**20:.0f} MiB")


@pytest.fixture(scope="module")
def view():
    """20,000 cases, 64 shadows: the size at which section 7 of the notes on peers times them (.14 to 17.8 s)."""
    return game(n=20_000, shadows=64, delta=2.0, signals=["log_odds_foreground"]).view


@pytest.mark.parametrize(
    "attack",
    [
        LiRA(),
        LiRA(mode="offline"),
        LiRA(variance="case"),
        LiRA(remove_offsets=False),
        LiRA(mode="offline", remove_offsets=False),
        DifficultyCalibration(),
        RMIA("log_odds_foreground"),
        RMIA("log_odds_foreground", "offline"),
        BASE("log_odds_foreground"),
        BASE("log_odds_foreground", "offline"),
        BaVarIA(),
        BaVarIA(mode="offline"),
        MultivariateLiRA(("log_odds_foreground",)),
    ],
    ids=lambda attack: attack.name,
)
def test_attack(attack, view):
    seconds, peak, scores = measured(lambda: attack(view))
    show(f"{attack.name}, 20,000 cases x 64 shadows", seconds, peak)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("patients", [100, 1000])
def test_audit(patients):
    played = game(n=patients, shadows=8)
    audit = Audit([GlobalLoss(), LiRA(), LiRA(mode="offline")])
    seconds, peak, result = measured(lambda: audit.run(played.table))
    show(f"audit, 3 attacks, {patients} patients, 2,000 resamples and permutations", seconds, peak)
    assert len(result.attacks) == 3


def test_blind():
    rng = np.random.default_rng(0)
    features, member = rng.normal(size=(200, 8)), np.arange(200) < 100
    patients = [str(n) for n in range(200)]
    seconds, peak, scores = measured(lambda: blind_baseline(features, member, patients, seed=0))
    show("blind baseline, 200 patients x 8 features", seconds, peak)
    assert np.isfinite(scores).all()
