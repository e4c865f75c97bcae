# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""One judge: the verdict's level and the recommendation about a release never contradict each other."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from oracles import game, hidden_tail

from monai_mia.attacks import DifficultyCalibration, GlobalLoss, LiRA, Threshold
from monai_mia.audit.audit import Audit
from monai_mia.audit.criteria import Criteria
from monai_mia.audit.report import as_json
from monai_mia.audit.results import AuditResult
from monai_mia.audit.verdict import Verdict, judge
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Resampling

ATTACKS = (GlobalLoss(), Threshold("dice"), DifficultyCalibration(), LiRA())

#: Which recommendations go with a level.
AGREE = {
    "low": {"support", "undetermined"},
    "moderate": {"undetermined", "reject"},
    "high": {"reject"},
    "inconclusive": {"undetermined"},
}


def agree(verdict: Verdict) -> bool:
    """Whether the two answers go together, and with the statements that both were read from."""
    fails = {about: {one.name for one in verdict.statements if one.about == about and one.outcome == "fail"}
             for about in ("validity", "power", "model")}  # fmt: skip
    assert (verdict.recommendation == "support") == (not verdict.open)
    assert (verdict.recommendation == "reject") == (bool(fails["model"]) and not fails["validity"])
    assert not fails["validity"] or verdict.level == "inconclusive"
    return verdict.recommendation in AGREE[verdict.level]


def audited(table: SignalTable, seed: int = 0, **arguments: Any) -> AuditResult:
    attacks = [one for one in ATTACKS if not one.min_shadows] if len(table.model_ids) == 1 else ATTACKS
    audit = Audit(attacks, fprs=(0.1, 0.05, 0.01), utility=(), resampling=Resampling(n_resamples=60, seed=seed),
                  n_permutations=500)  # fmt: skip
    return audit.run(table, **arguments)


@pytest.mark.parametrize("n", [16, 40, 200, 400])
@pytest.mark.parametrize("delta", [0.0, 0.4, 0.8, 3.0])
@pytest.mark.parametrize("shadows", [0, 8])
def test_simulated_results(n: int, delta: float, shadows: int) -> None:
    table = game(n=n, shadows=shadows, delta=delta).table
    features = np.random.default_rng(0).normal(size=(n, 3))
    shifted = features + 0.8 * table.members("target")[:, None]
    for arguments in ({}, {"features": features, "randomised": False}, {"features": shifted}):
        result = audited(table, **arguments)
        assert agree(result.verdict), (result.verdict.level, result.verdict.recommendation)


def test_a_tail_alone() -> None:
    for table in (hidden_tail(), hidden_tail(n=200)):
        assert agree(audited(table).verdict)


def test_an_innocent_model_of_200_patients() -> None:
    """No leak, AUC 0.521. It was ``low`` on one page and ``undetermined`` on the other, with no word of why."""
    table = game(n=200, shadows=8, delta=0.0, seed=38).table
    result = audited(table)
    assert result.best.auc.value == pytest.approx(0.521, abs=0.003)
    verdict = result.verdict
    assert verdict.level == "low"
    assert agree(verdict)
    assert verdict.recommendation == "undetermined"
    assert {one.outcome for one in verdict.open} == {"undetermined"}, "nothing speaks against it, but not all is shown"


def test_whatever_a_report_may_say() -> None:
    """1,000 reports whose numbers are drawn at random, from the impossible to the likely."""
    rng = np.random.default_rng(0)
    base = as_json(audited(game(n=200, shadows=8, delta=0.5).table), {})
    seen = set()
    for _ in range(1000):
        content = copy.deepcopy(base)
        sides = rng.choice([8, 40, 200], 2)
        kind = rng.choice(["randomised", "observational"])
        content["design"] = {"kind": kind, "n_member": int(sides[0]), "n_nonmember": int(sides[1])}
        content["exposure"]["resolution"] = 1 / int(sides[1])
        leak = rng.random() ** 2
        for row in content["attacks"]:
            row["p_value"], row["tail_p_value"] = (float(p) for p in rng.choice([0.001, 0.03, 0.4, 1.0], 2))
            row |= interval("auc", 0.5 + leak * rng.random() / 2, rng)
            row["tpr_at_fpr"] = {
                fpr: None if rng.random() < 0.2 else rate(float(fpr), leak, rng) for fpr in ("0.1", "0.05", "0.01")
            }
            row["n_shadow"] = int(rng.choice([0, 8]))
            row["epsilon_lower_bound"] = float(rng.choice([0.0, 0.5, 3.0]))
        controls = content["controls"]
        controls["null"]["auc_95"] = float(rng.choice([0.6, 0.8]))
        if rng.random() < 0.5:
            controls["blind_baseline"] = {**content["attacks"][-1], "p_value": float(rng.choice([0.01, 0.5]))}
            gain = interval("value", rng.normal(0.1, 0.2), rng)
            controls["attack_minus_blind"] = {"value": gain["value"], "ci": gain["value_ci"]}
        controls["matched"] = rng.choice(
            [None, {"n_strata": 9, "explained": float(rng.random()), **interval("auc", 0.7, rng)}]
        )
        controls["image_tail"] = rng.choice([None, 0.01, 0.5])
        claims = interval("tpr", leak * rng.random(), rng)
        content["claims"] = None if rng.random() < 0.2 else {"q": 0.1, "fewest": 5, "n_member": 100, **claims}
        content["target"] = (
            {"privacy": {"epsilon": float(rng.choice([1.0, 8.0])), "secure_noise": True}} if rng.random() < 0.3 else {}
        )
        verdict = judge(content)
        assert agree(verdict), (verdict.level, verdict.recommendation)
        seen.add((verdict.level, verdict.recommendation))
    every = {(level, one) for level, recommendations in AGREE.items() for one in recommendations}
    assert seen | {("low", "support")} == every  # all numbers must agree for that; tests/audit/test_summary.py has it


def interval(name: str, value: float, rng: np.random.Generator) -> dict[str, Any]:
    """A number and some interval around it."""
    below, above = rng.random(2) * 0.2
    return {name: float(value), f"{name}_ci": [float(value - below), float(value + above)]}


def rate(fpr: float, leak: float, rng: np.random.Generator) -> dict[str, Any]:
    """A TPR at an FPR."""
    value = min(1.0, fpr * (1 + 20 * leak * rng.random()))
    return {"value": value, "ci": [value * rng.random(), min(1.0, value * (1 + rng.random()))]}


def test_an_accounted_epsilon_is_known_to_the_report_alone() -> None:
    """The level does not change by it; the recommendation may."""
    result = audited(game(n=400, shadows=8, delta=0.0, seed=5).table)
    known = result.judge(
        {"target": {"privacy": {"epsilon": 1.0, "delta": 1e-5, "unit": "patient", "secure_noise": True}}}
    )
    assert known.level == result.verdict.level
    assert "accounted: at most 1" in next(one.measured for one in known.statements if one.name == "epsilon")


def test_every_threshold_is_read() -> None:
    """Each of them, moved to where it binds, changes a statement of some report."""
    reports = [
        as_json(audited(game(n=n, shadows=8, delta=delta, seed=1).table), {})
        for n, delta in ((200, 0.0), (200, 0.45), (400, 0.45), (200, 3.0))
    ]
    moved = {
        "min_patients": 10_000, "significance": 1e-6, "tail_significance": 0.9999, "min_gain_over_blind": 9.0,
        "max_detectable": 0.501, "min_explained": 0.999, "min_shadows": 99, "high_auc": 0.5001,
        "max_auc": 0.5001, "max_lift": 1.0,
        "min_false_alarms": 99, "max_claimed": 1e-6, "max_epsilon": 0.0,
    }  # fmt: skip
    assert set(moved) == {one.name for one in fields(Criteria)}
    for name, value in moved.items():
        changed = Criteria(**{name: value})
        told = [
            (judge(content, changed).statements, judge(content).statements)
            for content in (*reports, *(change(content) for change in (blind_one, matched_one) for content in reports))
        ]
        assert any(one != two for one, two in told), name


def matched_one(content: dict[str, Any]) -> dict[str, Any]:
    """The same without a coin or shadows, and the attack tells members within strata."""
    changed = copy.deepcopy(content)
    changed["design"] = {"kind": "observational", "n_member": 100, "n_nonmember": 100}
    for row in (*changed["attacks"], *changed["withheld"]):
        row["n_shadow"] = 0
    changed["controls"]["matched"] = {"n_strata": 9, "explained": 0.5, "auc": 0.8, "auc_ci": [0.7, 0.9]}
    return changed


def blind_one(content: dict[str, Any]) -> dict[str, Any]:
    """The same where the images tell members, and the attack leads over them."""
    changed = copy.deepcopy(content)
    changed["design"] = {"kind": "randomised", "n_member": 100, "n_nonmember": 100}
    changed["controls"]["blind_baseline"] = {**changed["attacks"][-1], "p_value": 0.001}
    changed["controls"]["attack_minus_blind"] = {"value": 0.3, "ci": [0.2, 0.4]}
    return changed


def test_an_epsilon_with_noise_that_can_be_repeated_supports_nothing() -> None:
    """Whoever knows the seed takes the noise away: the account passes into no statement, and a line says so."""
    result = audited(game(n=400, shadows=8, delta=0.0, seed=5).table)
    account = {"epsilon": 0.1, "delta": 1e-5, "unit": "patient", "secure_noise": False}
    repeatable = result.judge({"target": {"privacy": account}})
    plain = {one.name: one for one in result.verdict.statements}
    for one in repeatable.statements:
        assert one.outcome == plain[one.name].outcome
    measured = next(one.measured for one in repeatable.statements if one.name == "epsilon")
    assert measured.endswith("accounted: none, since the noise can be repeated from a seed")
    assert "0.10" not in measured
    assert "accounted epsilon: none: the noise can be repeated" in result.text(privacy=account)
