# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The disclosure gate, attacked by somebody who holds everything but the list of members."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from insider import read_off, solve
from numpy.typing import NDArray

from monai_mia.attacks import DifficultyCalibration, EverySignal, GlobalLoss
from monai_mia.audit.audit import Audit
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.disclosure.gate import coarse, coarse_p_value
from monai_mia.audit.report import as_json
from monai_mia.audit.results import AuditResult
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling, roc

N_SIGNALS = 40


def cohort(n: int, effect: float, seed: int = 0) -> SignalTable:
    """A target and four shadows; 40 signals of six independent parts, as those of a segmentation hang together."""
    rng = np.random.default_rng(seed)
    member = np.stack([rng.permutation(np.arange(n) < n // 2) for _ in range(5)])
    parts = rng.normal(size=(n, 6)) + 0.7 * rng.normal(size=(5, n, 6)) + effect * member[:, :, None]
    values = parts @ abs(rng.normal(size=(6, N_SIGNALS))) + 0.3 * rng.normal(size=(5, n, N_SIGNALS))
    names = ("log_likelihood", "dice", *(f"log_odds_class_{k}" for k in range(N_SIGNALS - 2)))
    return SignalTable(
        ("target", *(f"shadow_{k:02d}" for k in range(4))),
        tuple(f"case_{k:04d}" for k in range(n)),
        tuple(f"patient_{k:04d}" for k in range(n)),
        names,
        member,
        values,
        dict.fromkeys(names, "probabilities+label"),
    )


def audited(table: SignalTable, randomised: bool = True) -> AuditResult:
    attacks = [GlobalLoss(), EverySignal(), DifficultyCalibration("log_likelihood")]
    audit = Audit(attacks, resampling=Resampling(n_resamples=100), n_permutations=200, placebos=0)
    return audit.run(table, randomised=randomised)


def recovered(result: AuditResult, table: SignalTable, report: dict[str, Any]) -> float:
    """The AUC of an insider with a report."""
    scores = {one.name: one.scores for one in result.attacks}
    utility = {"dice": table.signal("dice", "target")}
    best = result.best
    found = solve(report, scores, utility, best.scores, best.auc.value, int(result.member.sum()))
    return float(roc(found, result.member).auc)


@pytest.mark.parametrize(("n", "effect", "randomised"), [(60, 0.0, True), (60, 0.5, False), (170, 0.5, True)])
def test_a_report_gives_an_insider_no_more_than_the_attack(n: int, effect: float, randomised: bool) -> None:
    """What is told of three attacks may add to the best of them what attacking with all three does."""
    exact, told, attack = [], [], []
    for seed in range(3):
        table = cohort(n, effect, seed)
        result = audited(table, randomised)
        exact.append(recovered(result, table, {**result.exact(), "disclosure": {"min_cell": 1}}))
        told.append(recovered(result, table, json.loads(json.dumps(as_json(result, {})))))
        attack.append(result.best.auc.value)
    assert np.mean(exact) > 0.95, "the insider is a strong one: exact numbers give the members away"
    assert np.mean(told) < np.mean(attack) + 0.05, (told, attack)


def test_the_curve_of_every_patient_gives_all_away() -> None:
    """What was found: 60 of 60 read off a curve whose attack has an AUC of 0.8; from what is shared, no better."""
    table = cohort(60, 0.6, seed=1)
    result = audited(table)
    best, member = result.best, result.member
    threshold = max(((best.scores > cut) == member).mean() for cut in best.scores)
    read = read_off(best.roc, best.scores, 30) > 0.5
    assert (read == member).mean() == 1.0
    shared = read_off(as_json(result, {})["attacks"][0]["roc"], best.scores, 30) > 0.5
    assert (shared == member).mean() <= threshold


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 200), k=st.integers(2, 12), levels=st.integers(2, 60))
def test_every_step_of_a_curve_holds_enough_of_each_side(seed: int, n: int, k: int, levels: int) -> None:
    """Whatever the scores, ties included, and several cases of a patient."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(n) < n // 2)
    scores = np.floor(levels * (rng.normal(size=n) + rng.random() * 3 * member))
    names = [f"{member[u]}{rng.integers(u + 1)}" for u in range(n)]
    points = Disclosure(k).curve(scores, member, names, (0.1, 0.05))
    cuts = [np.sort(scores[~member])[::-1][int(np.floor(fpr * (~member).sum() + 1e-9))] for fpr, _ in points]
    cells = (scores[:, None] > np.array(cuts)[None]).sum(axis=1)
    patients: NDArray[np.str_] = np.array(names)
    for cell in range(len(points) + 1) if points else ():
        for side in (member, ~member):
            assert len(set(patients[(cells == cell) & side])) >= k
    for (fpr, tpr), cut in zip(points, cuts, strict=True):
        assert tpr == pytest.approx((scores[member] > cut).mean())
        assert (scores[~member] > cut).mean() <= fpr + 1e-9


def test_wanted_rates_come_first() -> None:
    """A rate that the audit asks for is told rather than others near it."""
    rng = np.random.default_rng(0)
    member = np.arange(400) % 2 == 0
    scores = rng.normal(size=400) + 0.5 * member
    patients = [str(n) for n in range(400)]
    assert 0.06 in dict(Disclosure(10).curve(scores, member, patients, (0.06,)))
    assert 0.06 not in dict(Disclosure(10).curve(scores, member, patients))


@given(value=st.floats(0, 1), below=st.floats(0, 0.5), above=st.floats(0, 0.5))
def test_rounding_keeps_the_interval_and_stays_within_an_error(value: float, below: float, above: float) -> None:
    estimate = Estimate(value, value - below, value + above)
    rounded = coarse(estimate)
    width = estimate.high - estimate.low
    assert rounded.low <= estimate.low + 1e-9
    assert rounded.high >= estimate.high - 1e-9
    assert abs(rounded.value - value) <= max(0.375 * width / 3.92, 0.005) + 1e-9
    assert coarse(rounded).low <= rounded.low


@given(p_value=st.floats(1e-6, 1))
def test_probabilities_are_rounded_up(p_value: float) -> None:
    assert p_value - 1e-12 <= coarse_p_value(p_value) <= 2.5 * p_value + 1e-12


def test_rounding_reaches_into_results() -> None:
    """Whatever holds an estimate: dataclasses, mappings and sequences; numbers of other kinds stay."""

    @dataclasses.dataclass(frozen=True)
    class Row:
        name: str
        auc: Estimate
        p_value: float
        others: tuple[Estimate, ...]
        n: int = 3

    fine = Estimate(0.8844, 0.763, 0.9633)
    row = coarse({"rows": [Row("a", fine, 0.013, (fine,))]})["rows"][0]
    assert (row.name, row.p_value, row.n) == ("a", 0.02, 3)
    assert row.auc == row.others[0] == Estimate(0.88, 0.76, 0.98)


@pytest.mark.parametrize("min_cell", [0, -3])
def test_no_number_of_patients(min_cell: int) -> None:
    with pytest.raises(InputError, match="min_cell must be at least 1"):
        Disclosure(min_cell)


def test_no_number_in_the_report_is_finer_than_its_grid() -> None:
    """Every float of the shared report that depends on who was a member, but costs: at most three digits."""
    report = as_json(audited(cohort(170, 0.5)), {})

    def walk(node: Any, path: tuple[str, ...] = ()) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key not in ("seconds", "cost", "null", "ceiling", "resolution", "split_half_band"):
                    walk(value, (*path, key))
        elif isinstance(node, list):
            for value in node:
                walk(value, path)
        elif isinstance(node, float):
            assert node == round(node, 3) or node < 0.01, (path, node)

    walk({key: report[key] for key in ("attacks", "controls", "utility", "exposure")})
