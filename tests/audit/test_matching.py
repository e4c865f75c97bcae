# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Strata of patients who are alike as images: what they remove, what they leave, and what a verdict says of them."""

from __future__ import annotations

import copy

import numpy as np
import oracles
import pytest
from oracles import game

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import matched_strata
from monai_mia.audit.controls.matching import expected_scores
from monai_mia.audit.report import as_json
from monai_mia.audit.verdict import judge
from monai_mia.statistics import Resampling

QUICK = Resampling(n_resamples=200)


def cohort(n: int, shift: float, leak: float, seed: int = 0):
    """Scores, membership, patients and image statistics, the first of which is the difficulty of a case."""
    rng = np.random.default_rng(seed)
    member = np.arange(2 * n) < n
    difficulty = rng.normal(size=2 * n) + shift * member
    features = np.column_stack([difficulty, rng.normal(size=(2 * n, 3))])
    scores = difficulty + leak * member + 0.3 * rng.normal(size=2 * n)
    return scores, member, [f"p{k:04d}" for k in range(2 * n)], features


def matched(scores, member, patients, features):
    return matched_strata("loss", scores, member, patients, features, QUICK)


def test_a_shift_that_the_statistics_hold_is_removed():
    """0.6 standard deviations: an AUC of .66; nine tenths of it go in strata. A leak of one deviation stays."""
    aucs = {leak: [matched(*cohort(150, 0.6, leak, seed)).auc.value for seed in range(6)] for leak in (0.0, 1.0)}
    assert np.mean([oracles.mann_whitney(*map(list, cohort(150, 0.6, 0.0, seed)[:2])) for seed in range(6)]) > 0.62
    assert np.mean(aucs[0.0]) < 0.57
    assert np.mean(aucs[1.0]) > 0.8


def test_the_statistics_explain_what_they_explain():
    scores, member, patients, features = cohort(100, 0.0, 0.0)
    found = matched(scores, member, patients, features)
    assert found.explained > 0.6
    assert found.n_strata == 10
    assert matched(scores, member, patients, features[:, 1:]).explained < 0.15
    assert matched(np.ones(200), member, patients, features).explained == 0.0
    assert matched(np.ones(200), member, patients, features).auc.value == 0.5


def test_expected_scores_do_not_see_a_members_score():
    """Fitted to non-members of other folds: a member's own score, however high, changes only ranks."""
    scores, member, _, features = cohort(60, 0.0, 0.0)
    scores[member] = 50 + np.arange(60)
    changed = scores.copy()
    changed[member] = 50 + np.random.default_rng(0).permutation(60)
    first, second = (expected_scores(values, features, member, 0) for values in (scores, changed))
    np.testing.assert_allclose(first, second)


def test_cases_of_a_patient_are_one():
    scores, member, patients, features = cohort(60, 0.3, 0.5)
    once = matched(scores, member, patients, features)
    twice = matched(
        np.repeat(scores, 2), np.repeat(member, 2), np.repeat(patients, 2).tolist(), np.repeat(features, 2, 0)
    )
    assert twice.auc.value == pytest.approx(once.auc.value)
    assert twice.explained == pytest.approx(once.explained)


def test_missing_statistics_are_allowed():
    scores, member, patients, features = cohort(60, 0.0, 1.0)
    features[::7, 1] = np.nan
    assert matched(scores, member, patients, features).auc.value > 0.7


# The verdict


@pytest.fixture(scope="module")
def content():
    """A strong leak by a threshold, no shadows, no coin."""
    played = game(n=200, shadows=0, delta=2.0, spread=0.3)
    audit = Audit([GlobalLoss()], fprs=(0.1,), utility=(), resampling=QUICK, n_permutations=200)
    features = np.column_stack([played.mu, np.random.default_rng(0).normal(size=200)])
    return as_json(audit.run(played.table, features=features, randomised=False), {})


def level(content, matched, **design):
    changed = copy.deepcopy(content)
    changed["design"] = {"kind": "observational", "n_member": 100, "n_nonmember": 100, **design}
    changed["controls"]["matched"] = matched
    return judge(changed)


def test_what_holds_within_strata_is_called(content):
    strata = {"attack": "global loss", "n_strata": 10, "explained": 0.5, "auc": 0.8, "auc_ci": [0.7, 0.9]}
    assert content["controls"]["matched"].keys() == strata.keys()
    found = level(content, strata)
    assert found.level == "high"
    assert any("Within 10 strata" in reason and "0.800 [0.700, 0.900]" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (None, "the images were not described"),
        ({"explained": 0.2}, "explain only 20%"),
        ({"auc_ci": [0.6, 0.9]}, "must lie above 0.6"),
    ],
)
def test_what_does_not_is_inconclusive(content, changed, words):
    strata = {"attack": "global loss", "n_strata": 10, "explained": 0.5, "auc": 0.8, "auc_ci": [0.7, 0.9]}
    found = level(content, None if changed is None else {**strata, **changed})
    assert found.level == "inconclusive"
    assert found.recommendation == "undetermined"
    assert any(words in reason for reason in found.reasons)
    assert level(content, None, kind="randomised").level == "high", "a coin makes the sides alike"
