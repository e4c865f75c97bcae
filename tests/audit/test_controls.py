# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Controls find what they look for, and call chance a finding no more often than they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from oracles import game
from scipy import stats

from monai_mia.attacks import DifficultyCalibration, GlobalLoss, LiRA, Threshold
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import (
    BlindScores,
    blind_baseline,
    feature_shifts,
    image_tail,
    placebo_scores,
    split_half_band,
    split_halves,
    within_sides,
)
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, Resampling
from monai_mia.statistics.permutation import holm, permuted_members
from monai_mia.statistics.resampling import patient_folds
from monai_mia.statistics.roc import aucs, roc


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


# The blind network's scores


def told_by_folds(features, member, groups, seed=0, n_folds=5):
    """Out-of-fold scores of the difference of means, and the folds."""
    scores, folds = np.zeros(len(member)), np.zeros(len(member), dtype=int)
    for number, part in enumerate(patient_folds(groups, seed, n_folds)):
        direction = features[~part & member].mean(axis=0) - features[~part & ~member].mean(axis=0)
        scores[part] = stats.rankdata(features[part] @ direction) / part.sum()
        folds[part] = number
    return scores, folds


def alone(scores, folds):
    return BlindScores(scores, folds, np.zeros((0, len(scores)), bool), np.zeros((0, len(scores))))


def test_the_folds_p_value_is_conservative():
    """150 cohorts without any difference: at most 14 below 0.05 (binomial tail 0.02)."""
    rejected = 0
    for seed in range(150):
        features, member, groups = cohort(60, seed)
        rejected += alone(*told_by_folds(features, member, groups, seed)).p_value(member, groups, 199, seed) < 0.05
    assert rejected <= 14


def test_the_folds_p_value_notices_a_strong_difference():
    features, member, groups = cohort(100, 0, shift=2.0)
    assert alone(*told_by_folds(features, member, groups)).p_value(member, groups, 999, 0) < 0.01


def test_a_fold_with_one_side_only_proves_nothing():
    member = np.arange(12) < 6
    scores = np.linspace(1, 0, 12)
    assert alone(scores, (np.arange(12) >= 6).astype(int)).p_value(member, [f"{k:02d}" for k in range(12)], 99, 0) == 1


def test_retrainings_give_the_exact_p_value():
    """The AUC's rank among those of trainings on dealt memberships: here the third of 21."""
    rng = np.random.default_rng(0)
    member = np.arange(40) < 20
    groups = [f"{k:02d}" for k in range(40)]
    dealt = permuted_members(member, groups, 20, 0)
    dealt_scores = dealt * np.where(np.arange(20) < 2, 9.0, 0.0)[:, None] + rng.normal(size=(20, 40)) * 1e-3
    scores = member + rng.normal(size=40) * 0.3
    found = BlindScores(scores, np.arange(40) % 5, dealt, dealt_scores)
    better = (aucs(dealt_scores, dealt) >= roc(scores, member).auc).sum()
    assert better == 2
    assert found.p_value(member, groups, 99, 0) == pytest.approx(3 / 21)


def test_scores_are_spread_among_canaries_and_back():
    found = alone(np.arange(3.0), np.arange(3))
    real = np.array([True, False, True, True])
    wide = found.among(real)
    np.testing.assert_array_equal(wide.scores, [0, 0, 1, 2])
    np.testing.assert_array_equal(wide.only(real).scores, found.scores)
    assert wide.dealt.shape == (0, 4)


# Corrections, shifts, halves


def test_holm_is_the_step_down_procedure():
    """A hypothesis is rejected at a level if and only if its adjusted p-value is below: compared with the procedure."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        adjusted = holm(p)
        for level in (0.01, 0.05, 0.2):
            rejected = np.zeros(6, dtype=bool)
            for step, k in enumerate(np.argsort(p)):
                if p[k] > level / (6 - step):
                    break
                rejected[k] = True
            np.testing.assert_array_equal(adjusted <= level, rejected)
    assert holm([]).shape == (0,)


def test_a_shifted_statistic_is_named():
    features, member, groups = cohort(120, 0)
    features[:, 2] += 1.5 * member
    shifts = feature_shifts(features, ["a", "b", "brightness", "d"], member, groups)
    assert [shift.feature for shift in shifts if shift.p_adjusted < 0.05] == ["brightness"]
    best = shifts[0]
    assert best.p_value == pytest.approx(stats.ks_2samp(features[member, 2], features[~member, 2]).pvalue)
    assert best.auc.value == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.1)
    assert best.auc.low < best.auc.value < best.auc.high


def test_a_spread_is_a_shift_too():
    """Same mean, three times the deviation: the AUC is one half, and the test sees it all the same."""
    features, member, groups = cohort(200, 0)
    features[member, 0] *= 3
    shifts = feature_shifts(features, ["a", "b", "c", "d"], member, groups)
    assert shifts[0].feature == "a"
    assert shifts[0].p_adjusted < 0.05
    assert shifts[0].auc.value == pytest.approx(0.5, abs=0.12)


def test_alike_statistics_are_rarely_called_shifted():
    """200 cohorts of 60 patients, 8 statistics, two cases a patient: any at level 0.05 in at most 18 (tail 0.01).

    By case, twice the patients would be counted, and more would be called shifted.
    """
    wrong = by_case = 0
    for seed in range(200):
        features, member, _ = cohort(60, seed, n_features=8)
        features, member = np.repeat(features, 2, axis=0), np.repeat(member, 2)
        names, patients = list("abcdefgh"), [f"{k // 2:03d}" for k in range(120)]
        wrong += feature_shifts(features, names, member, patients)[0].p_adjusted < 0.05
        by_case += feature_shifts(features, names, member, [f"{k:03d}" for k in range(120)])[0].p_adjusted < 0.05
    assert wrong <= 18
    assert by_case > 30


def test_statistics_that_cannot_be_compared_are_left_out():
    features, member, groups = cohort(40, 0)
    features[:, 0] = 3.0
    features[3:, 1] = np.nan
    assert {shift.feature for shift in feature_shifts(features, list("abcd"), member, groups)} == {"c", "d"}
    with pytest.raises(InputError, match="feature_names must be one for each of the features, got 3 of"):
        feature_shifts(features, list("abc"), member, groups)


def test_cases_that_change_along_the_list_are_noticed():
    rng = np.random.default_rng(0)
    member = rng.permutation(120) < 60
    groups = [f"{k:03d}" for k in range(120)]
    scores = rng.normal(size=120) + 1.5 * ((np.arange(120) >= 60) & ~member)
    halves = {half.side: half for half in split_halves(scores, member, groups)}
    low, high = np.array_split(np.flatnonzero(~member), 2)
    assert halves["nonmembers"].auc.value == pytest.approx(
        stats.mannwhitneyu(scores[high], scores[low]).statistic / len(low) / len(high)
    )
    assert halves["nonmembers"].auc.low > 0.5
    assert halves["nonmembers"].p_adjusted < 0.05 < halves["members"].p_adjusted


def test_a_score_that_goes_with_a_statistic_is_named():
    features, member, groups = cohort(120, 1)
    found = split_halves(features[:, 1] + 3 * member, member, groups, features, ["a", "size", "c", "d"])
    assert [half.by for half in found[:2]] == ["order", "order"]
    assert {(half.side, half.by) for half in found if half.p_adjusted < 0.001} == {
        ("members", "size"),
        ("nonmembers", "size"),
    }
    assert all(half.n_low + half.n_high == 60 for half in found)


def test_the_order_of_a_side_is_rarely_called_a_drift():
    """300 cohorts without any: at most 26 (level 0.05 over both sides; binomial tail 0.004)."""
    wrong = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        member = rng.permutation(60) < 30
        halves = split_halves(rng.normal(size=60) + member, member, [f"{k:03d}" for k in range(60)])
        wrong += any(half.p_adjusted < 0.05 for half in halves)
    assert wrong <= 26


def test_random_halves_lie_in_the_band():
    """The deviation of a Mann-Whitney AUC of n against n under the null: sqrt((2 n + 1) / 12) / n."""
    rng = np.random.default_rng(0)
    member = np.arange(100) < 40
    bands = dict(split_half_band(rng.normal(size=100), member, [f"{k:03d}" for k in range(100)], 4000, 0))
    for side, n in (("members", 20), ("nonmembers", 30)):
        half = 1.96 * np.sqrt((2 * n + 1) / 12) / n
        assert bands[side] == pytest.approx((0.5 - half, 0.5 + half), abs=0.015)


def test_few_patients_have_no_halves():
    member = np.arange(14) < 7
    groups = [f"{k:02d}" for k in range(14)]
    assert split_halves(np.arange(14.0), member, groups) == ()
    assert split_half_band(np.arange(14.0), member, groups, 10, 0) == ()


# A model in the target's stead


def test_pairs_within_a_side_are_those_of_the_slow_twin():
    rng = np.random.default_rng(0)
    scores, sides = rng.integers(0, 4, (3, 15)).astype(float), rng.random((3, 15)) < 0.5
    members, weights = rng.random((5, 15)) < 0.5, rng.integers(0, 3, (5, 15)).astype(float)

    def slow(member, weight):
        won = of = 0.0
        for score, side in zip(scores, sides, strict=True):
            for i in range(15):
                for j in range(15):
                    if member[i] and not member[j] and side[i] == side[j]:
                        won += weight[i] * weight[j] * (1.0 if score[i] > score[j] else 0.5 * (score[i] == score[j]))
                        of += weight[i] * weight[j]
        return won / of

    np.testing.assert_allclose(within_sides(scores, sides, members), [slow(m, np.ones(15)) for m in members])
    found = within_sides(scores, sides, members[:1], weights)
    np.testing.assert_allclose(found, [slow(members[0], weight) for weight in weights])


def test_chance_overlap_of_two_draws_tells_nothing():
    """Scores that are the placebo's membership and noise: over all halves the mean is one half, exactly.

    Of a single draw that overlaps with the placebo's by two thirds, the plain AUC is two thirds.
    """
    side = np.arange(10) < 5
    scores = side + 0.01 * np.random.default_rng(0).normal(size=10)
    every = np.array([np.isin(np.arange(10), chosen) for chosen in combinations(range(10), 5)])
    assert within_sides(scores[None], side[None], every).mean() == pytest.approx(0.5, abs=1e-12)
    member = np.arange(60) % 3 < 2
    member[30:] = ~member[30:]
    side, rng = np.arange(60) < 30, np.random.default_rng(1)
    plain, within = [], []
    for _ in range(200):
        scores = 10 * side + rng.normal(size=60)
        plain.append(float(roc(scores, member).auc))
        within.append(within_sides(scores[None], side[None], member[None])[0])
    assert np.mean(plain) > 0.62
    assert np.mean(within) == pytest.approx(0.5, abs=4 * 0.08 / np.sqrt(200))


def stand_ins_of(table, attacks, count=9, target="target", shadows=None):
    shadows = [model for model in table.model_ids if model != target] if shadows is None else shadows
    real = np.ones(len(table.case_ids), dtype=bool)
    return placebo_scores(attacks, table, target, shadows, None, real, lambda values: values, count, 0)


def test_stand_ins_are_attacked_without_their_complements():
    table = game(n=40, shadows=6, delta=2.0).table
    found = stand_ins_of(table, [LiRA("log_likelihood"), GlobalLoss()])
    assert len(found.sides) == 3
    pairs = [("shadow_05", [0, 1, 2, 3]), ("shadow_03", [0, 1, 4, 5]), ("shadow_01", [2, 3, 4, 5])]
    for scores, side, (model, others) in zip(found.scores, found.sides, pairs, strict=True):
        np.testing.assert_array_equal(side, table.members(model))
        view = AdversaryView.of(table, model, [f"shadow_{k:02d}" for k in others])
        np.testing.assert_array_equal(scores[0], LiRA("log_likelihood")(view))
        assert roc(scores[0], side).auc > 0.7, "it works on the placebo itself"


def test_other_targets_stand_in_first():
    table = game(n=40, shadows=4).table
    found = stand_ins_of(table, [GlobalLoss()], 1, shadows=["shadow_00", "shadow_01"])
    np.testing.assert_array_equal(found.sides[0], table.members("shadow_02"))


def test_attacks_that_need_more_shadows_than_are_left_are_not_carried_out():
    table = game(n=40, shadows=2).table
    assert stand_ins_of(table, [LiRA("log_likelihood"), GlobalLoss()]).attacks == (1,)
    assert stand_ins_of(table, [LiRA("log_likelihood")]) is None
    assert stand_ins_of(game(n=40, shadows=0).table, [GlobalLoss()]) is None
    assert stand_ins_of(table, [GlobalLoss()], 0) is None


def controls_of(table, features=None, randomised=True, attacks=None, **options):
    attacks = attacks or [GlobalLoss(), Threshold("dice"), LiRA("dice"), DifficultyCalibration("dice")]
    audit = Audit(attacks, utility=(), resampling=Resampling(n_resamples=100), n_permutations=199, **options)
    return audit.run(table, features=features, randomised=randomised)


def test_memory_of_the_target_does_not_show_on_stand_ins():
    result = controls_of(game(n=120, shadows=8, delta=2.5).table)
    found = result.controls.placebo
    assert result.best.auc.value > 0.8
    assert found.n_models == 2
    assert found.auc.value == pytest.approx(0.5, abs=0.15)
    assert found.auc.low < found.auc.value < found.auc.high
    assert found.attack_minus.value == pytest.approx(result.best.auc.value - found.auc.value)
    assert found.attack_minus.low > 0
    assert result.verdict.level == "high"
    assert not any("other members" in reason for reason in result.verdict.reasons if reason.startswith("But"))


def test_the_stand_ins_p_value_is_calibrated():
    """60 audits without memory, the attack chosen on the membership: at most 8 below 0.05 (binomial tail 0.003).

    Cases differ in difficulty, so that scores on target and placebo go together, and so does the choice.
    """
    rejected = sum(
        controls_of(game(n=60, shadows=4, delta=0.0, seed=seed).table).controls.placebo.p_value < 0.05
        for seed in range(60)
    )
    assert rejected <= 8


def easy_members(seed=0, n=100, shift=2.0):
    """No model remembers anything; the cases said to be the target's members are easier for all."""
    played = game(n=n, shadows=4, delta=0.0, seed=seed)
    return replace(played.table, values=played.table.values + shift * played.member[None, :, None])


def test_easier_members_show_on_stand_ins_and_nothing_is_concluded():
    table = easy_members()
    for randomised in (False, True):
        result = controls_of(table, randomised=randomised)
        assert result.best.auc.value > 0.7
        found = result.controls.placebo
        assert found.p_value < 0.05
        assert found.auc.value > 0.65
        assert result.verdict.level == "inconclusive"
        assert any("a model with other members gives the same patients away" in r for r in result.verdict.reasons)
    assert controls_of(table, placebos=0).controls.placebo is None
    assert controls_of(table, placebos=0).verdict.level in ("moderate", "high")


def test_stand_ins_matter_where_a_coin_dealt_the_sides_only_if_there_is_something_to_explain():
    table = easy_members()
    values = table.values.copy()
    values[0] -= 2.0 * table.members("target")[:, None]  # the target alone fits all alike
    for randomised, level in ((True, "low"), (False, "inconclusive")):
        result = controls_of(replace(table, values=values), randomised=randomised, attacks=[GlobalLoss()])
        assert result.best.p_value > 0.05 > result.controls.placebo.p_value
        assert result.verdict.level == level


def test_memory_beyond_easier_members_is_told_in_a_randomised_design():
    table = easy_members(shift=0.7)
    values = table.values.copy()
    values[0] += 8.0 * table.members("target")[:, None]
    result = controls_of(replace(table, values=values))
    assert result.controls.placebo.attack_minus.low > 0.1
    assert result.verdict.level == "high"


def test_a_shifted_statistic_makes_an_observational_audit_inconclusive():
    played = game(n=100, shadows=0, delta=3.0)
    features = np.random.default_rng(0).normal(size=(100, 3))
    features[:, 1] += 1.2 * played.member
    audit = Audit([GlobalLoss()], utility=(), resampling=Resampling(n_resamples=100), n_permutations=199)
    names = ["quantile_0.5", "size_0", "label_1_ml"]
    result = audit.run(played.table, features=features, randomised=False, feature_names=names)
    assert result.verdict.level == "inconclusive"
    assert any("differ as images (size_0)" in reason for reason in result.verdict.reasons)
    coin = audit.run(played.table, features=features, randomised=True, feature_names=names)
    assert not any("differ as images (" in reason for reason in coin.verdict.reasons)


def test_nonmembers_that_drift_make_an_observational_audit_inconclusive():
    played = game(n=120, shadows=0, delta=3.0)
    late = (np.arange(120) >= 60) & ~played.member
    table = replace(played.table, values=played.table.values - 4.0 * late[None, :, None])
    result = controls_of(table, randomised=False, attacks=[GlobalLoss()])
    assert result.verdict.level == "inconclusive"
    assert any("first half of the non-members from the second" in reason for reason in result.verdict.reasons)
    assert controls_of(table, randomised=True, attacks=[GlobalLoss()]).verdict.level == "high"


def test_the_stronger_blind_one_is_what_the_attack_must_beat():
    played = game(n=100, shadows=0, delta=1.0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 3))
    told = alone(played.member + 0.3 * rng.normal(size=100), np.arange(100) % 5)
    audit = Audit([GlobalLoss()], utility=(), resampling=Resampling(n_resamples=100), n_permutations=199)
    result = audit.run(played.table, features=features, blind_scores=told)
    assert result.blind_network.auc.value > 0.9 > result.blind.auc.value
    assert result.attack_minus_blind.value == pytest.approx(result.best.auc.value - result.blind_network.auc.value)
    assert result.blind_network.p_value < 0.05
    assert result.verdict.level == "inconclusive"
    assert any("blind network" in reason for reason in result.verdict.reasons)
    low, high = replace(result.blind, p_value=0.03), replace(result.blind_network, p_value=0.4)
    for network, doubted in ((None, True), (high, False)):  # of two, one is that small more often
        found = replace(result, blind=low, blind_network=network, attack_minus_blind=Estimate(0.01, -0.1, 0.1))
        assert (found.verdict.level == "inconclusive") == doubted
    only = audit.run(played.table, blind_scores=told)
    assert only.blind is None
    assert only.attack_minus_blind == result.attack_minus_blind


# Tails of image statistics


def test_a_subgroup_that_stands_out_in_an_image_statistic_is_found():
    """A dozen of 100 members are from another scanner: no test of means or distributions is significant."""
    features = np.random.default_rng(0).normal(size=(200, 6))
    member = np.random.default_rng(1).permutation(200) < 100
    groups = [f"{n:03d}" for n in range(200)]
    fprs = (0.1, 0.05, 0.01)
    assert image_tail(features, member, groups, fprs, 999, seed=0) > 0.05
    for sign in (1, -1):
        odd = features.copy()
        odd[np.flatnonzero(member)[:14], 3] += 6 * sign
        odd[5, 2] = np.nan
        assert image_tail(odd, member, groups, fprs, 999, seed=0) < 0.05


def test_tails_of_image_statistics_under_the_null():
    member, groups = np.arange(60) % 2 == 0, [f"{n:02d}" for n in range(60)]
    found = 0
    for seed in range(300):
        features = np.random.default_rng(seed).normal(size=(60, 5)).round(1)
        found += image_tail(features, member, groups, (0.1, 0.05), 99, seed) <= 0.05
    assert stats.binom.sf(found - 1, 300, 0.05) > 1e-3
    assert image_tail(np.zeros((60, 2)), member, groups, (0.1,), 99, 0) == 1.0
