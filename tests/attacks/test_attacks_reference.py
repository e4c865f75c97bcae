# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Reference attacks: closed forms, slow twins, few shadows, ties, memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import oracles
import pytest
from contracts import left_out_by_none, without_shadows
from oracles import game, granted
from scipy import stats

from monai_mia.attacks import (
    BASE,
    RMIA,
    BaVarIA,
    DifficultyCalibration,
    EverySignal,
    FeatureRegression,
    GlobalLoss,
    LiRA,
    MultivariateLiRA,
    PredictabilityError,
    QuantileRegression,
    Threshold,
    TopScores,
    TransferredThreshold,
    all_attacks,
    in_and_out,
    log_probability,
    published_attacks,
    standard_attacks,
)
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.bayes import _Side, equivalent_normal_deviate, gap_prior, variance_prior
from monai_mia.attacks.rmia import log_average, relative_likelihood_score
from monai_mia.attacks.transfer import fitted_threshold
from monai_mia.errors import InputError
from monai_mia.statistics.roc import roc

SIGNAL = "log_odds_foreground"


def auc(attack, played):
    return float(roc(attack(played.view), played.member).auc)


# Means of shadows with and without a case


def test_in_and_out_are_plain_means_where_both_sides_exist():
    view = game(n=20, shadows=5).view
    target, shadow = view.signal(SIGNAL)
    member = view.shadow_member
    ins, outs = in_and_out(target, shadow, member)
    for case in range(20):
        assert ins[case] == pytest.approx(shadow[member[:, case], case].mean(), rel=1e-14)
        assert outs[case] == pytest.approx(shadow[~member[:, case], case].mean(), rel=1e-14)


def test_a_missing_side_lies_the_mean_gap_away():
    """Known answer: gaps 1 and 3 where both sides exist, so 2 elsewhere."""
    shadow = np.array([[1.0, 3.0, 7.0, 7.0], [0.0, 0.0, 9.0, 9.0]])
    member = np.array([[True, True, True, False], [False, False, True, False]])
    ins, outs = in_and_out(np.zeros(4), shadow, member)
    np.testing.assert_array_equal(ins, [1, 3, 8, 10])
    np.testing.assert_array_equal(outs, [0, 0, 6, 8])


def test_the_gap_of_one_shadow_is_that_between_its_members_and_others():
    """Known answer: the shadow exceeds the target by 5 on its members, by 2 on others."""
    target = np.array([1.0, 2.0, 3.0, 4.0])
    member = np.array([[True, True, False, False]])
    shadow = target + np.where(member, 5.0, 2.0)
    ins, outs = in_and_out(target, shadow, member)
    np.testing.assert_array_equal(ins, target + 5)
    np.testing.assert_array_equal(outs, target + 2)


def test_the_gap_of_one_shadow_is_unbiased():
    """Over 200 games its mean is the effect of membership, 0.7, within four standard errors."""
    gaps = []
    for seed in range(200):
        view = game(n=100, shadows=1, delta=0.7, seed=seed, signals=[SIGNAL]).view
        ins, outs = in_and_out(*view.signal(SIGNAL), view.shadow_member)
        gaps.append((ins - outs)[0])
    assert np.mean(gaps) == pytest.approx(0.7, abs=4 * np.std(gaps) / np.sqrt(200))
    assert np.std(gaps) < 0.5


def test_one_shadow_is_worth_its_variance():
    """One shadow, homoscedastic: the excess is N(delta, 2), so that the AUC is Phi(delta / 2), the spread aside."""
    played = game(n=20_000, shadows=1, delta=1.5, signals=["log_likelihood"])
    for attack in (DifficultyCalibration("log_likelihood"), LiRA("log_likelihood"), BaVarIA("log_likelihood"), BASE()):
        assert auc(attack, played) == pytest.approx(stats.norm.cdf(1.5 / 2), abs=0.015), attack.name


# Probabilities


def test_signals_are_read_as_log_probabilities():
    values = np.array([-1.5, 0.25])
    for name in ("log_likelihood", "log_likelihood_shell_1", "negative_entropy_predicted", "predictability"):
        assert log_probability(name, values) is values
    np.testing.assert_allclose(log_probability("log_odds_boundary", values), np.log(1 / (1 + np.exp(-values))))
    np.testing.assert_allclose(log_probability("soft_dice", np.array([0.0, 0.5, 1.0])), [np.log(1e-12), np.log(0.5), 0])
    assert np.isfinite(log_probability("log_odds", np.array([-800.0, 800.0]))).all()


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0.5, 1.5]])
def test_other_signals_must_be_probabilities(values):
    with pytest.raises(InputError, match=r"signal 'volume' must be in \[0, 1\] to be read as a probability, got"):
        log_probability("volume", np.array(values))


def test_log_average_is_the_logarithm_of_the_mean_probability():
    rng = np.random.default_rng(0)
    values, chosen = rng.normal(-2, 2, (6, 30)), rng.random((6, 30)) < 0.4
    values[:5, 0], values[5, 0] = -900.0, -1.0  # beside the last shadow the others vanish
    chosen[:, 0] = [True, True, False, False, False, False]
    chosen[:, 1] = False
    result = log_average(values, chosen)
    assert result[0] == pytest.approx(-900.0)
    assert np.isnan(result[1])
    for case in range(2, 30):
        inside = np.exp(values[chosen[:, case], case])
        assert result[case] == pytest.approx(np.log(inside.mean())) if len(inside) else np.isnan(result[case])


# RMIA and BASE


def probabilities(shadows=6, n=40, seed=0):
    """A game on probabilities, as the papers have them: the logarithm of the logistic of the first signal."""
    view = game(n=n, shadows=shadows, seed=seed, signals=["log_likelihood"]).view
    return replace(view, **{side: -np.log1p(np.exp(-getattr(view, side))) for side in ("target", "shadow")})


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_rmia_equals_the_double_loop(mode, gamma, a):
    view = probabilities()
    p_target, p_shadow = np.exp(view.target[:, 0]), np.exp(view.shadow[:, :, 0])
    ratios = []
    for case, inside in enumerate(view.shadow_member.T):
        p_in, p_out = p_shadow[inside, case].mean(), p_shadow[~inside, case].mean()
        p = (p_in + p_out) / 2 if mode == "online" else ((1 + a) * p_out + 1 - a) / 2
        ratios.append(p_target[case] / p)
    scores = RMIA(mode=mode, gamma=gamma, a=a, remove_offsets=False)(view)
    np.testing.assert_allclose(scores, oracles.rmia(np.log(ratios), gamma), atol=1e-12)


def test_rmia_averages_over_all_shadows_of_a_balanced_design():
    """As published: the mean over every shadow, as many with as without the case."""
    view = probabilities(shadows=8)
    ratio = view.target[:, 0] - np.log(np.exp(view.shadow[:, :, 0]).mean(axis=0))
    scores = RMIA(remove_offsets=False)(view)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(ratio))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_ties_count_half(gamma):
    """Many equal ratios, some exactly gamma apart."""
    ratios = np.log(2.0) * np.random.default_rng(0).integers(-2, 3, 50)
    np.testing.assert_allclose(relative_likelihood_score(ratios, gamma), oracles.rmia(ratios, gamma))
    assert len(set(relative_likelihood_score(ratios, gamma))) <= 5
    np.testing.assert_array_equal(relative_likelihood_score(np.zeros(4), 1.0), [0.5] * 4)


def test_equal_cases_get_equal_scores():
    """Copies of cases: no order among them."""
    view = probabilities(n=30)
    twice = np.repeat(np.arange(30), 2)
    doubled = replace(
        view,
        target=view.target[twice],
        shadow=view.shadow[:, twice],
        shadow_member=view.shadow_member[:, twice],
    )
    for attack in (RMIA(), RMIA(mode="offline"), BASE(), BaVarIA("log_likelihood"), LiRA("log_likelihood")):
        scores = attack(doubled)
        np.testing.assert_array_equal(scores[::2], scores[1::2], err_msg=attack.name)


def test_base_online_ranks_as_rmia_does():
    view = probabilities(shadows=5, n=200)
    base, rmia = BASE()(view), RMIA()(view)
    np.testing.assert_array_equal(np.argsort(base), np.argsort(rmia))


@pytest.mark.parametrize("a", [0.33, 1.0])
def test_base_offline_equals_its_definition(a):
    view = probabilities(shadows=7)
    scores = BASE(mode="offline", a=a, remove_offsets=False)(view)
    for case, inside in enumerate(view.shadow_member.T):
        p_out = np.mean([np.exp(view.shadow[m, case, 0]) for m in range(7) if not inside[m]])
        assert scores[case] == pytest.approx(view.target[case, 0] - a * np.log(p_out))


def test_base_known_answer():
    """Homoscedastic game, small noise: log-mean-exp is the mean, and the excess over M shadows N(., 1 + 1/M)."""
    played = game(n=10_000, shadows=8, delta=0.02, noise=0.01, signals=["log_likelihood"])
    expected = stats.norm.cdf(2 / np.sqrt(2 * (1 + 1 / 8)))
    assert auc(BASE(), played) == pytest.approx(expected, abs=0.012)
    assert auc(RMIA(), played) == pytest.approx(expected, abs=0.012)


def test_rmia_with_a_large_gamma_tells_nothing_of_near_probabilities():
    """Mean probabilities of a segmentation: nothing is twice as likely, all scores are 0."""
    view = game(n=50, shadows=4, delta=0.01, noise=0.01, spread=0.05, signals=["log_likelihood"]).view
    assert set(RMIA(gamma=2)(view)) == {0.0}
    assert len(set(RMIA()(view))) == 50


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"gamma": float("nan")}, {"a": 1.5}, {"a": -0.1}, {"mode": "on"}])
def test_rmia_refuses_impossible_options(options):
    ((name, _),) = options.items()
    with pytest.raises(InputError, match=f"^{name} must be"):
        RMIA(**options)


# BaVarIA


@pytest.mark.parametrize("freedom", [6.0, 20.0])
def test_variance_prior_is_recovered(freedom):
    """Cases' variances from a scaled inverse chi-squared, sample variances from few values of each."""
    rng = np.random.default_rng(0)
    true = 2.0 * freedom / rng.chisquare(freedom, 40_000)
    few = rng.integers(3, 7, 40_000)
    found, scale = variance_prior(true * rng.chisquare(few) / few, few)
    assert found == pytest.approx(freedom, rel=0.2)
    assert scale == pytest.approx(2.0, rel=0.05)


def test_one_variance_for_all_cases_is_found_out():
    rng = np.random.default_rng(1)
    few = np.full(5000, 4)
    found, scale = variance_prior(3.0 * rng.chisquare(few) / few, few)
    assert found > 50
    assert scale == pytest.approx(3.0, rel=0.05)
    assert variance_prior(np.full(9, 3.0), np.full(9, 50))[0] == np.inf


def test_gap_prior_separates_gap_from_noise():
    """True gaps N(0.5, 0.3^2), seen through 3 shadows with and 5 without."""
    rng = np.random.default_rng(0)
    n_in, n_out = np.full(50_000, 3), np.full(50_000, 5)
    level = rng.normal(0, 3, 50_000)
    ins = level + rng.normal(0.5, 0.3, 50_000) + rng.normal(0, np.sqrt(1.0 / 3), 50_000)
    outs = level + rng.normal(0, np.sqrt(2.0 / 5), 50_000)
    gap, varied = gap_prior(ins, outs, n_in, n_out, 1.0, 2.0)
    assert gap == pytest.approx(0.5, abs=0.02)
    assert varied == pytest.approx(0.09, abs=0.03)
    assert gap_prior(outs + 1, outs, n_in, n_out, 1.0, 2.0) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_predictive_equals_the_integral(count):
    """Conjugacy, against a sum over a grid of means and variances."""
    shadows = np.array([0.3, 1.1, -0.4, 2.0])[:count]
    mean, weight, freedom, scale = prior = (1.5, 0.8, 7.0, 0.6)
    average = shadows.mean() if count else mean
    squares = np.array([((shadows - average) ** 2).sum()])
    side = _Side(np.array([average]), squares, np.array([count]), scale, freedom, scale)
    predictive = side.predictive(np.array([mean]), np.array([weight]))
    for value in (-2.0, 0.5, 4.0):
        expected = oracles.predictive_density(value, shadows, prior)
        assert np.exp(predictive.log_density(np.array([value])))[0] == pytest.approx(expected, rel=1e-3)


def test_without_a_prior_of_the_mean_one_degree_of_freedom_is_lost():
    """No weight and an uninformative variance: Student's t of the textbook's prediction interval."""
    shadows = np.array([0.3, 1.1, -0.4, 2.0])
    squares = np.array([((shadows - shadows.mean()) ** 2).sum()])
    side = _Side(np.array([shadows.mean()]), squares, np.array([4]), 1.0, 1e-9, 1.0)
    predictive = side.predictive(np.zeros(1), np.zeros(1))
    expected = stats.t(3, shadows.mean(), shadows.std(ddof=1) * np.sqrt(1 + 1 / 4))
    assert predictive.log_density(np.array([2.5]))[0] == pytest.approx(expected.logpdf(2.5), rel=1e-6)


def test_the_equivalent_normal_deviate_has_the_same_tail():
    for freedom in (3.0, 8.0, 30.0):
        deviates = np.linspace(-4, 4, 17)
        expected = stats.norm.isf(stats.t.sf(deviates, freedom))
        np.testing.assert_allclose(equivalent_normal_deviate(deviates, freedom), expected, atol=0.03)
    far = equivalent_normal_deviate(np.array([1e3, 1e6]), 1e4)
    assert 40 < far[0] < far[1]  # where a tail probability is 0 in floating point
    np.testing.assert_array_equal(equivalent_normal_deviate(deviates, np.inf), deviates)


@pytest.mark.parametrize("predictive", ["t", "n"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_bavaria_reaches_the_closed_form(mode, predictive):
    """Homoscedastic game, delta 2, 64 shadows: AUC Phi(delta / sqrt 2) = .9214, as LiRA's."""
    played = game(n=5000, shadows=64, delta=2.0, signals=[SIGNAL])
    assert auc(BaVarIA(SIGNAL, mode, predictive), played) == pytest.approx(0.9214, abs=0.016)


def test_bavaria_approaches_the_exact_ratio_with_many_shadows():
    played = game(n=60, shadows=2000, delta=1.5, heteroscedastic=True, signals=[SIGNAL])
    scores = BaVarIA(SIGNAL, remove_offsets=False)(played.view)
    assert np.corrcoef(scores, played.log_likelihood_ratio)[0, 1] > 0.998


@pytest.mark.parametrize("shadows", [4, 8, 16])
def test_bavaria_needs_fewer_shadows_than_lira(shadows):
    """Heteroscedastic game of the notes on peers, four seeds of 3,000: no worse than pooled, better than per case."""
    games = [game(n=3000, shadows=shadows, heteroscedastic=True, seed=seed, signals=[SIGNAL]) for seed in range(4)]
    bavaria, pooled, case = (
        np.mean([auc(attack, played) for played in games])
        for attack in (BaVarIA(SIGNAL), LiRA(SIGNAL), LiRA(SIGNAL, variance="case"))
    )
    assert bavaria > pooled - 0.003
    assert bavaria > case + 0.01


# Several signals


def test_independent_signals_add_up():
    """Three signals, one effect each: AUC Phi(delta sqrt(3) / sqrt(2))."""
    played = game(n=5000, shadows=64, delta=1.0)
    expected = stats.norm.cdf(np.sqrt(3 / 2))
    for attack in (MultivariateLiRA(oracles.SIGNALS), MultivariateLiRA(oracles.SIGNALS, "offline")):
        assert auc(attack, played) == pytest.approx(expected, abs=0.018), attack.name


def test_the_same_signal_thrice_is_no_more_evidence():
    """Copies beside one independent signal: as good as each of the two once; a plain sum would be worse."""
    played = game(n=4000, shadows=16, delta=1.0, signals=["log_likelihood", SIGNAL, "dice"])
    view = played.view
    copied = replace(
        view,
        signals=("log_likelihood", SIGNAL, "copy", "again"),
        target=view.target[:, [0, 1, 1, 1]] + 1e-6 * np.random.default_rng(0).normal(size=(4000, 4)),
        shadow=view.shadow[:, :, [0, 1, 1, 1]] + 1e-6 * np.random.default_rng(1).normal(size=(16, 4000, 4)),
    )
    once = roc(MultivariateLiRA(("log_likelihood", SIGNAL))(view), played.member).auc
    thrice = roc(MultivariateLiRA(("log_likelihood", SIGNAL, "copy", "again"))(copied), played.member).auc
    summed = roc(copied.target @ np.ones(4) - copied.shadow.mean(axis=0) @ np.ones(4), played.member).auc
    assert thrice == pytest.approx(once, abs=0.005)
    assert thrice > summed + 0.02


def test_one_signal_with_a_common_gap_equals_its_formula():
    view = game(n=50, shadows=8).view
    target, shadow = view.signal("dice")
    ins, outs = in_and_out(target, shadow, view.shadow_member)
    residual = shadow - np.where(view.shadow_member, ins, outs)
    variance = np.sum(residual**2) / (8 - 2) / 50  # two means were fitted to the 8 values of each case
    scores = MultivariateLiRA(("dice",), remove_offsets=False)(view)
    np.testing.assert_allclose(scores, (ins - outs).mean() / variance * (target - (ins + outs) / 2), rtol=0.02)
    offline = MultivariateLiRA(("dice",), "offline", remove_offsets=False)(view)
    np.testing.assert_allclose(offline, (target - outs) / np.sqrt(variance), rtol=0.02)


def test_a_gap_per_case_helps_where_gaps_differ():
    played = game(n=4000, shadows=32, delta=1.5, heteroscedastic=True)
    common, case = (auc(MultivariateLiRA(oracles.SIGNALS, gap=gap), played) for gap in ("common", "case"))
    assert case > common + 0.005


def test_multi_signal_lira_takes_a_list_and_refuses_none():
    assert MultivariateLiRA(["dice"]).signals == ("dice",)
    with pytest.raises(InputError, match="signals must be at least one, got none"):
        MultivariateLiRA([])


# Attacks on the image's statistics


def difficulty(n, delta, seed=0, slope=3.0):
    """A target whose signal depends on the first of two image statistics, known to no shadow."""
    rng = np.random.default_rng(seed)
    features, member = rng.normal(size=(n, 2)), rng.permutation(n) < n // 2
    signal = slope * features[:, 0] + delta * member + rng.standard_normal(n)
    view = AdversaryView(
        ("log_likelihood",), signal[:, None], np.empty((0, n, 1)), np.empty((0, n), bool), tuple(map(str, range(n)))
    )
    return replace(granted(view, member), features=features), member


def test_quantile_regression_knows_the_quantiles_of_new_non_members():
    """Scores of 0 and 1 are the lower and the upper quantile: half and 90 % of other non-members lie below."""
    view, member = difficulty(8000, 1.0)
    scores = QuantileRegression()(view)[~member & ~view.nonmember]
    assert np.mean(scores <= 0) == pytest.approx(0.5, abs=0.04)
    assert np.mean(scores <= 1) == pytest.approx(0.9, abs=0.03)


def test_image_statistics_take_out_the_difficulty_that_they_explain():
    """Closed forms: Phi(delta / sqrt 2) without the difficulty, Phi(delta / sqrt(2 (1 + 9))) with it."""
    view, member = difficulty(8000, 1.5)
    raw, quantile, ridge = (
        float(roc(attack(view)[~view.nonmember], member[~view.nonmember]).auc)
        for attack in (GlobalLoss(), QuantileRegression(), FeatureRegression())
    )
    best = stats.norm.cdf(1.5 / np.sqrt(2))
    assert raw == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(20)), abs=0.03)
    assert ridge == pytest.approx(best, abs=0.02)
    assert best - 0.06 < quantile < best + 0.02


def test_missing_image_statistics_count_as_the_median():
    view, _ = difficulty(200, 1.0)
    features = np.column_stack([view.features, np.full(200, np.nan)])
    features[3, 0] = np.nan
    filled = view.features.copy()
    filled[3, 0] = np.median(np.delete(filled[:, 0], 3))
    for attack in (QuantileRegression(), FeatureRegression()):
        np.testing.assert_allclose(
            attack(replace(view, features=features)), attack(replace(view, features=filled)), rtol=1e-9
        )


@pytest.mark.parametrize("quantiles", [(0.9, 0.5), (0.0, 0.5), (0.5, 1.0)])
def test_quantiles_must_be_in_order(quantiles):
    with pytest.raises(InputError, match=r"^quantiles must be two in \(0, 1\), the lower first, got"):
        QuantileRegression(quantiles=quantiles)


def test_predictability_error_is_the_difference():
    view = game(n=10).view
    scores = PredictabilityError("dice", 0.5, SIGNAL)(view)
    np.testing.assert_allclose(scores, view.target[:, 2] - 0.5 * view.target[:, 1])


# Transferred decisions


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["best_accuracy", "youden"])
def test_no_threshold_is_better_than_the_fitted_one(seed, rule):
    rng = np.random.default_rng(seed)
    member = rng.random(60) < 0.4
    values = np.round(rng.normal(size=60) + member, 1)  # with ties
    threshold = fitted_threshold(values, member, rule)
    reached = oracles.best_threshold(values, member, [threshold], rule)
    assert reached == pytest.approx(oracles.best_threshold(values, member, np.unique(values), rule))


def test_the_mean_member_threshold_is_the_shadows_training_mean():
    view = game(n=30, shadows=4).view
    shadow, member = view.shadow[:, :, 2], view.shadow_member
    for pooled, expected in ((False, shadow[0][member[0]].mean()), (True, shadow[member].mean())):
        scores = TransferredThreshold("dice", "mean_member", pooled=pooled, remove_offsets=False)(view)
        np.testing.assert_allclose(scores, view.target[:, 2] - expected)


@pytest.mark.parametrize("rule", ["best_accuracy", "youden"])
def test_transferred_claims_known_answer(rule):
    """Members N(3, 1), others N(0, 1): the best threshold is 1.5, TPR and TNR Phi(1.5) = .933."""
    played = game(n=4000, shadows=4, delta=3.0, spread=0.0, offsets=20.0, signals=["negative_entropy"])
    claims = TransferredThreshold("negative_entropy", rule)(played.view) >= 0
    for side in (played.member, ~played.member):
        assert np.mean(claims[side] == played.member[side]) == pytest.approx(stats.norm.cdf(1.5), abs=0.06)
    faithful = TransferredThreshold("negative_entropy", rule, pooled=False, remove_offsets=False)
    offset = np.ptp([np.median(row) for row in played.table.values[:2, :, 0]])
    assert offset > 3  # the first shadow fits everything otherwise than the target, which moves its threshold:
    assert abs(np.mean(faithful(played.view) >= 0) - 0.5) > 0.3


@pytest.mark.parametrize("member", [True, False])
@pytest.mark.parametrize("rule", ["best_accuracy", "youden", "mean_member"])
def test_one_sided_shadows_give_a_finite_threshold(rule, member):
    assert np.isfinite(fitted_threshold(np.arange(5.0), np.full(5, member), rule))


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="rule must be one of best_accuracy, youden, mean_member, got 'best'"):
        TransferredThreshold(rule="best")


@pytest.mark.parametrize("pooled", [True, False])
def test_top_scores_learn_what_no_threshold_tells(pooled):
    """Members lie on both sides of the others: a threshold is at chance, the network is not."""
    rng = np.random.default_rng(0)
    member = rng.random((4, 600)) < 0.5
    values = rng.normal(size=(4, 600)) + np.where(member, rng.choice([-4.0, 4.0], (4, 600)), 0.0)
    view = AdversaryView(("x",), values[0][:, None], values[1:, :, None], member[1:], tuple(map(str, range(600))))
    scores = TopScores(("x",), pooled=pooled, max_epochs=30)(view)
    assert roc(Threshold("x")(view), member[0]).auc == pytest.approx(0.5, abs=0.1)
    assert roc(scores, member[0]).auc > 0.9
    assert np.mean((scores >= 0) == member[0]) > 0.85


def test_top_scores_tell_near_probabilities_apart():
    """Mean probabilities within .001 of each other, models differing by more: only standardised signals transfer."""
    played = game(n=600, shadows=4, delta=3.0, spread=0.0, offsets=10.0, signals=["maximum_probability"])
    view = played.view
    near = replace(view, target=0.99 + 1e-4 * view.target, shadow=0.99 + 1e-4 * view.shadow)
    scores = TopScores(("maximum_probability",), max_epochs=30)(near)
    assert np.mean((scores >= 0) == played.member) > 0.85


def test_top_scores_of_one_sided_shadows_tell_nothing():
    view = game(n=20, shadows=2).view
    lopsided = replace(view, shadow_member=np.ones_like(view.shadow_member))
    np.testing.assert_array_equal(TopScores(oracles.SIGNALS)(lopsided), np.zeros(20))


# All of them


RECORDED = (
    "log_likelihood",
    "log_odds_foreground",
    "soft_dice",
    "dice",
    "dice_boundary",
    "negative_entropy",
    "maximum_probability",
    "second_probability",
    "third_probability",
    "predictability",
)


def recorded(shadows):
    """A game of all signals that reference attacks read; Dice and probabilities in [0, 1]."""
    view = game(n=24, shadows=shadows, signals=RECORDED).view
    fractions = [k for k, name in enumerate(RECORDED) if "dice" in name or "probability" in name]
    target, shadow = view.target.copy(), view.shadow.copy()
    for values in (target, shadow):
        values[..., fractions] = 1 / (1 + np.exp(-values[..., fractions]))
    return replace(view, target=target, shadow=shadow)


@pytest.mark.parametrize("release", ["logits", "mask"])
@pytest.mark.parametrize("shadows", [0, 1, 5])
def test_published_attacks_can_be_carried_out_with_as_many_shadows(shadows, release):
    view = recorded(shadows)
    attacks = published_attacks(shadows, release)
    names = [attack.name for attack in attacks]
    assert sorted(set(names)) == sorted(names)
    for attack in attacks:
        assert np.isfinite(attack(view)).all(), attack.name
    if release == "mask":
        assert {name for attack in attacks for name in attack.signals} <= {"dice", "dice_boundary"}


def test_published_attacks_hold_every_family_and_leave_off_what_is_not_recorded():
    families = {type(attack) for attack in published_attacks(4)}
    assert {LiRA, RMIA, BASE, BaVarIA, DifficultyCalibration, MultivariateLiRA, QuantileRegression} < families
    assert {TransferredThreshold, TopScores, FeatureRegression, PredictabilityError, GlobalLoss, Threshold} < families
    two_classes = [name for name in RECORDED if name not in ("third_probability", "predictability")]
    some = published_attacks(4, signals=two_classes)
    assert {name for attack in some for name in attack.signals} <= set(two_classes)
    assert TopScores(("maximum_probability", "second_probability")) in some
    assert not any(isinstance(attack, PredictabilityError) for attack in some)
    with pytest.raises(InputError, match="n_shadow must be a whole number, at least 0, got -1"):
        published_attacks(-1)


@pytest.mark.parametrize("release", ["logits", "mask"])
@pytest.mark.parametrize("shadows", [0, 1, 2, 4])
def test_all_attacks_hold_the_other_lists(shadows, release):
    """Named once each; what was recorded beyond signals adds, a list of recorded signals takes away."""
    known = {"perturbations": True, "white_box": True, "maps": True}
    plain, everything = all_attacks(shadows, release), all_attacks(shadows, release, **known)
    names = [attack.name for attack in everything]
    assert sorted(set(names)) == sorted(names)
    assert {*published_attacks(shadows, release)} <= {*plain} < {*everything}
    assert {attack for attack in standard_attacks(shadows, release) if not isinstance(attack, EverySignal)} <= {*plain}
    maps = [attack for attack in everything if getattr(attack, "needs_maps", False)]
    assert bool(maps) == (shadows >= 1 and release == "logits")
    assert "voxelwise: agreement, from the middle" in names or shadows < 2 or release == "mask"
    some = all_attacks(shadows, release, ["dice", "agreement"], **known)
    assert {name for attack in some for name in attack.signals} <= {"dice", "agreement"}
    if release == "mask":
        read = {name for attack in everything for name in attack.signals}
        robust = {"agreement", "robust_dice"}
        assert read <= {"dice", "dice_boundary", "volume_ratio", *robust} | {
            "negative_gradient_norm",
            "negative_influence",
            "negative_alignment",
        }


@pytest.mark.parametrize(
    "attack", [LiRA(SIGNAL), RMIA(SIGNAL), BASE(SIGNAL), BaVarIA(SIGNAL)], ids=lambda attack: attack.name
)
def test_memory_is_linear_in_the_table(attack):
    """Twice the cases, twice the memory, and at most six times the table."""
    peaks = []
    for n in (2000, 4000):
        view = game(n=n, shadows=32, signals=[SIGNAL]).view
        tracemalloc.start()
        attack(view)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert peaks[-1] < 6 * view.shadow.nbytes
    assert peaks[1] < 2.2 * peaks[0]


def test_few_shadows_and_cases_that_none_left_out_still_tell():
    """One shadow, and a third of the cases in every shadow: far better than the threshold."""
    played = game(n=3000, shadows=3, delta=2.0, signals=["log_likelihood"])
    raw = auc(GlobalLoss(), played)
    for attack in (LiRA("log_likelihood"), BaVarIA("log_likelihood"), BASE(), RMIA(), BASE(mode="offline")):
        for view in (without_shadows(played.view, 1), left_out_by_none(played, 1000)):
            assert roc(attack(view), played.member).auc > raw + 0.05, attack.name
