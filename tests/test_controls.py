# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The blind baseline: sees what images give away, and never a patient twice."""

from __future__ import annotations

import numpy as np
import pytest

from monai_mia.controls import blind_baseline
from monai_mia.errors import InputError
from monai_mia.statistics import aucs, permuted_members, roc


def cohort(n, seed, shift=0.0, n_features=4):
    rng = np.random.default_rng(seed)
    member = rng.permutation(n) < n // 2
    features = rng.normal(size=(n, n_features)) + shift * member[:, None]
    return features, member, [f"{k:03d}" for k in range(n)]


def test_shifted_images_are_told_apart():
    """Four independent features shifted by 1: the best possible AUC is Phi(sqrt(4) / sqrt 2) = .921."""
    features, member, groups = cohort(200, 0, shift=1.0)
    auc = roc(blind_baseline(features, member, groups, seed=0), member).auc
    assert 0.8 < auc < 0.96


def test_alike_images_are_not():
    """Mean AUC of six cohorts of 80; the standard deviation of one, folds and all, is .1."""
    aucs = []
    for seed in range(6):
        features, member, groups = cohort(80, seed)
        aucs.append(roc(blind_baseline(features, member, groups, seed=0, n_repeats=1), member).auc)
    assert np.mean(aucs) == pytest.approx(0.5, abs=4 * 0.1 / np.sqrt(6))


def test_a_patient_is_never_on_both_sides_of_a_fold():
    """Features that only name the patient: useless, unless a fold saw another case of the same patient."""
    rng = np.random.default_rng(0)
    inside = rng.permutation(60) < 30
    features = np.repeat(rng.normal(size=(60, 3)), 6, axis=0)
    member = np.repeat(inside, 6)
    patients = [f"{k:03d}" for k in np.repeat(np.arange(60), 6)]
    cases = [f"{k:03d}" for k in range(360)]
    by_patient = roc(blind_baseline(features, member, patients, seed=0, n_repeats=1), member).auc
    by_case = roc(blind_baseline(features, member, cases, seed=0, n_repeats=1), member).auc
    assert by_case > 0.8
    assert by_patient < 0.7


def test_scores_follow_the_seed():
    features, member, groups = cohort(40, 1, shift=0.5)
    first, again, other = (blind_baseline(features, member, groups, seed, n_repeats=1) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (40,)
    assert np.isfinite(first).all()


def test_missing_features_are_allowed():
    features, member, groups = cohort(60, 2, shift=2.0)
    features[::3, 0] = np.nan
    assert roc(blind_baseline(features, member, groups, seed=0, n_repeats=1), member).auc > 0.8


def test_folds_follow_the_smaller_side():
    """Three member patients: three folds, each with one of them."""
    features, _, groups = cohort(23, 3)
    member = np.arange(23) < 3
    scores = blind_baseline(features, member, groups, seed=0, n_repeats=1)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("shape", [(9, 4), (10,), (10, 4, 1)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"features must be of shape \(10, F\), got"):
        blind_baseline(np.zeros(shape), np.arange(10) < 5, [str(k) for k in range(10)], seed=0)


def test_too_few_patients_are_refused():
    with pytest.raises(InputError, match="patients must be at least 2 on each side for the blind baseline, got 1"):
        blind_baseline(np.zeros((6, 2)), np.arange(6) < 3, ["a", "a", "a", "b", "c", "d"], seed=0)


def test_its_p_value_is_calibrated():
    """Refitted to each permuted membership, the control calls chance significant as often as it says.

    150 cohorts without any difference, level 0.05: at most 14 rejections (binomial tail 0.02). Permuting membership
    over scores that were fitted to the true one would reject in about 15 %.
    """
    rejected = 0
    for seed in range(150):
        features, member, groups = cohort(60, seed)
        every = np.concatenate([member[None], permuted_members(member, groups, 99, seed)])
        found = aucs(blind_baseline(features, every, groups, seed, n_repeats=1), every)
        rejected += (found >= found[0]).mean() <= 0.05
    assert rejected <= 14


def test_many_memberships_are_fitted_as_one_each():
    features, member, groups = cohort(40, 0, shift=0.5)
    every = np.stack([member, ~member, np.roll(member, 3)])
    together = blind_baseline(features, every, groups, seed=0)
    for row, alone in zip(together, every, strict=True):
        assert row == pytest.approx(blind_baseline(features, alone, groups, seed=0))
