# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks: the contract of all, closed forms and oracles of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest
from contracts import ALL, ELSEWHERE, VARIANTS, exported_attacks, knowledge_fields, learns_the_sign, without_shadows
from oracles import game, granted
from scipy import stats

from monai_mia.attacks import (
    RMIA,
    Attack,
    DifficultyCalibration,
    EverySignal,
    GlobalLoss,
    LiRA,
    Threshold,
    TopScores,
    attack_checks,
    offline_lira,
    online_lira,
    standard_attacks,
    without_offsets,
)
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError
from monai_mia.statistics.roc import roc

SIGNAL = "log_odds_foreground"


@pytest.mark.parametrize("check", attack_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_every_exported_attack_keeps_the_contract(attack, check):
    """With every option."""
    check(attack)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_what_the_contract_leaves_to_an_attack(attack):
    """Which sign it takes, how fine its scores are, and that what reads no shadows or standardises does so."""
    played = game(n=1000, shadows=8, delta=-1.0)
    assert (roc(attack(played.view), played.member).auc > 0.5) == learns_the_sign(attack)
    view = game(n=30, shadows=8).view
    if not isinstance(attack, RMIA):  # its scores are shares
        assert len(set(attack(view).tolist())) == 30
    if attack.min_shadows == 0:
        np.testing.assert_array_equal(attack(without_shadows(view, 0)), attack(view))
    if isinstance(attack, TopScores) and attack.pooled:
        np.testing.assert_allclose(attack(replace(view, target=view.target + 5)), attack(view), rtol=1e-9, atol=1e-9)


def test_the_targets_membership_is_out_of_sight():
    """The same signals with all memberships of the target turned round give the same view, and so the same scores."""
    table = game(n=40, shadows=6).table
    member = table.member.copy()
    member[0] = ~member[0]
    views = [granted(AdversaryView.of(each), table.member[0]) for each in (table, replace(table, member=member))]
    for attack in ALL:
        np.testing.assert_array_equal(*(attack(view) for view in views))


def test_every_exported_attack_is_under_contract():
    assert set(exported_attacks()) == set(VARIANTS) | ELSEWHERE, "list the new attack in tests/contracts.py"
    for kind, perturbations in VARIANTS.items():
        assert perturbations, kind
        assert all(type(attack) is kind for attack in perturbations)


def test_names_are_unique():
    names = [attack.name for attack in ALL]
    assert sorted(set(names)) == sorted(names)


def test_knowledge_does_not_hold_the_targets_membership():
    told = {"signals", "target", "shadow", "shadow_member", "patient_ids", "access", "features", "nonmember", "maps"}
    told |= {"foreign"}  # of which source a case is, not whether a model trained on it
    assert knowledge_fields() == told


def test_a_function_is_no_attack():
    assert not isinstance(online_lira, Attack)
    assert not isinstance(EverySignal(), Attack)


# Threshold


def test_threshold_is_the_signal():
    view = game(n=10).view
    np.testing.assert_array_equal(Threshold("dice")(view), view.target[:, 2])


def test_global_loss_is_the_log_likelihood():
    view = game(n=10).view
    np.testing.assert_array_equal(GlobalLoss()(view), Threshold("log_likelihood")(view))
    assert GlobalLoss().name == "global loss"


@pytest.mark.parametrize("seed", range(3))
def test_threshold_known_answer(seed):
    """Section 7 of the notes on peers, homoscedastic game: the raw signal is N(mu + delta, 1 + 1.5^2) for members.

    Its AUC is Phi(delta / sqrt(2 (1 + 1.5^2))).
    """
    played = game(n=20_000, shadows=0, delta=2.0, seed=seed, signals=[SIGNAL])
    expected = stats.norm.cdf(2 / np.sqrt(2 * (1 + 1.5**2)))
    assert roc(Threshold(SIGNAL)(played.view), played.member).auc == pytest.approx(expected, abs=0.01)


def test_every_signal_stands_for_the_thresholds_that_are_missing():
    view = game(n=10).view
    assert EverySignal().attacks(view, ()) == tuple(Threshold(name) for name in oracles.SIGNALS)
    others = (GlobalLoss(), LiRA("dice"), EverySignal(), Threshold("log_odds_foreground"))
    assert EverySignal().attacks(view, others) == (Threshold("dice"),)


# Standard attacks


@pytest.mark.parametrize("shadows", [0, 1, 2, 3, 4, 5, 8])
def test_standard_attacks_can_be_carried_out_with_as_many_shadows(shadows):
    view = game(n=20, shadows=shadows).view
    attacks = standard_attacks(shadows)
    names = [attack.name for attack in attacks]
    assert len(set(names)) == len(names)
    assert names[0] == "global loss"
    for attack in attacks:
        if isinstance(attack, EverySignal):
            assert [threshold.signal for threshold in attack.attacks(view, tuple(attacks))] == [
                "log_odds_foreground",
                "dice",
            ]
        else:
            assert np.isfinite(attack(view)).all()


def test_more_shadows_allow_more_standard_attacks():
    before = {type(attack) for attack in standard_attacks(1)}
    two, four = ({attack.name for attack in standard_attacks(n)} for n in (2, 4))
    assert before == {GlobalLoss, EverySignal}
    assert {DifficultyCalibration(name).name for name in ("log_likelihood", SIGNAL)} <= two < four
    assert {LiRA(SIGNAL).name, LiRA("log_likelihood", variance="case").name} <= four - two


@pytest.mark.parametrize("shadows", [-1, 2.0, "4", None])
def test_standard_attacks_refuse_what_is_no_number_of_shadows(shadows):
    with pytest.raises(InputError, match="n_shadow must be a whole number, at least 0, got"):
        standard_attacks(shadows)


# Difficulty calibration


def test_difficulty_calibration_equals_its_definition():
    played = game(n=25, shadows=5)
    view = played.view
    scores = DifficultyCalibration(SIGNAL, remove_offsets=False)(view)
    for case in range(25):
        out = [view.shadow[m, case, 1] for m in range(5) if not view.shadow_member[m, case]]
        assert scores[case] == pytest.approx(view.target[case, 1] - np.mean(out), rel=1e-12)


@pytest.mark.parametrize("shadows", [4, 64])
def test_difficulty_calibration_known_answer(shadows):
    """Homoscedastic game: the excess over the mean of M/2 shadows is N(delta, 1 + 2/M) for members.

    The AUC is Phi(delta / sqrt(2 (1 + 2/M))).
    """
    played = game(n=10_000, shadows=shadows, delta=1.5, signals=[SIGNAL])
    expected = stats.norm.cdf(1.5 / np.sqrt(2 * (1 + 2 / shadows)))
    auc = roc(DifficultyCalibration(SIGNAL)(played.view), played.member).auc
    assert auc == pytest.approx(expected, abs=0.012)


# LiRA


@pytest.mark.parametrize("variance", ["pooled", "case"])
@pytest.mark.parametrize("seed", range(3))
def test_lira_equals_the_loop_over_cases(variance, seed):
    played = game(n=20, shadows=7, seed=seed, heteroscedastic=True)
    target, shadow = played.view.signal(SIGNAL)
    member = played.view.shadow_member
    enough = (np.minimum(member.sum(0), (~member).sum(0)) >= 2).all()
    assert enough
    for online, function in ((True, online_lira), (False, offline_lira)):
        expected = oracles.lira(target, shadow, member, variance, online)
        np.testing.assert_allclose(function(target, shadow, member, variance), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("variance", ["pooled", "case"])
def test_lira_class_is_the_function_on_its_signal(mode, variance):
    view = game(n=20, shadows=8).view
    function = online_lira if mode == "online" else offline_lira
    target, shadow = view.signal("dice")
    plain = LiRA("dice", mode, variance, remove_offsets=False)(view)
    np.testing.assert_array_equal(plain, function(target, shadow, view.shadow_member, variance))
    centred = LiRA("dice", mode, variance)(view)
    np.testing.assert_array_equal(centred, function(*without_offsets(target, shadow), view.shadow_member, variance))


def test_offline_lira_is_the_excess_in_standard_deviations():
    """Known answer: shadows -1, 0, 1 without the case have mean 0 and sample standard deviation 1."""
    shadow = np.array([[-1.0], [0.0], [1.0], [50.0]])
    member = np.array([[False], [False], [False], [True]])
    assert offline_lira(np.array([2.5]), shadow, member, "case") == pytest.approx([2.5])
    ranks = stats.norm.cdf([2.5])
    assert stats.norm.ppf(ranks) == pytest.approx(offline_lira(np.array([2.5]), shadow, member, "case"))


def test_offline_lira_with_a_pooled_variance_ranks_as_difficulty_calibration_does():
    """One standard deviation for all cases changes the unit of the scores, and no rank."""
    view = game(n=50, shadows=8, heteroscedastic=True).view
    ratio = LiRA(SIGNAL, "offline")(view) / DifficultyCalibration(SIGNAL)(view)
    np.testing.assert_allclose(ratio, ratio[0])


def test_offline_lira_does_not_saturate():
    """A tail probability is 1.0 in floating point beyond 8.3 standard deviations; the score still ranks."""
    shadow = np.array([[-1.0], [0.0], [1.0]])
    member = np.zeros((3, 1), dtype=bool)
    near, far = (offline_lira(np.array([value]), shadow, member, "case")[0] for value in (10.0, 20.0))
    assert stats.norm.cdf(near) == stats.norm.cdf(far) == 1.0
    assert near < far


def test_online_lira_known_answer():
    """Unit variances, means 2 (in) and 0 (out): the log-likelihood ratio of x is 2 x - 2."""
    shadow = np.array([[1.0], [2.0], [3.0], [-1.0], [0.0], [1.0]])
    member = np.array([[True]] * 3 + [[False]] * 3)
    for x in (-1.0, 1.0, 4.0):
        assert online_lira(np.array([x]), shadow, member, "case") == pytest.approx([2 * x - 2])


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_lira_reaches_the_closed_form(mode):
    """Section 7 of the notes on peers, homoscedastic game, delta 2, N = 20,000, M = 64.

    Closed form: AUC Phi(delta / sqrt 2) = .9214, TPR@1% Phi(delta - 2.3263) = .3721. Peers that estimate as LiRA does
    reach .9207 / .3628 (SACRO-ML, fixed variance) and .9196 / .3511 (TF-Privacy).
    """
    played = game(n=20_000, shadows=64, delta=2.0, signals=[SIGNAL])
    curve = roc(LiRA(SIGNAL, mode)(played.view), played.member)
    exact = roc(played.log_likelihood_ratio, played.member)
    assert stats.norm.cdf(2 / np.sqrt(2)) == pytest.approx(0.9214, abs=1e-4)
    assert exact.auc == pytest.approx(0.9214, abs=0.006)
    assert exact.tpr_at(0.01) == pytest.approx(0.3721, abs=0.03)
    assert curve.auc == pytest.approx(0.9214, abs=0.008)
    assert curve.tpr_at(0.01) == pytest.approx(0.3721, abs=0.04)


def test_lira_approaches_the_exact_ratio_with_many_shadows():
    """With 4,000 shadows the means are known to 1 / sqrt(2,000) = 0.022: scores are exact to about delta times that."""
    played = game(n=60, shadows=4000, delta=1.5, signals=[SIGNAL])
    view = played.view
    exact = played.log_likelihood_ratio
    for variance in ("pooled", "case"):
        scores = LiRA(SIGNAL, "online", variance, remove_offsets=False)(view)
        assert np.corrcoef(scores, exact)[0, 1] > 0.999
        assert np.sqrt(np.mean((scores - exact) ** 2)) < 0.15
    offline = LiRA(SIGNAL, "offline", remove_offsets=False)(view)
    np.testing.assert_allclose(offline, view.target[:, 0] - played.mu, atol=0.3)


#: AUC in the heteroscedastic game, delta 1, N = 4000, of section 7 of the notes on peers: shadows, then LiRA with a
#: variance per case, pooled, and offline one-sided.
FEW_SHADOWS = {4: (0.587, 0.678, 0.701), 8: (0.669, 0.710, 0.711), 16: (0.733, 0.745, 0.720)}


@pytest.mark.parametrize("shadows", FEW_SHADOWS)
def test_lira_with_few_shadows(shadows):
    """Table "few shadows" of section 7 of the notes on peers; one seed there, four here, standard error .004 each."""
    attacks_ = (LiRA(SIGNAL, "online", "case"), LiRA(SIGNAL, "online", "pooled"), LiRA(SIGNAL, "offline", "pooled"))
    games = [game(n=4000, shadows=shadows, heteroscedastic=True, seed=seed, signals=[SIGNAL]) for seed in range(4)]
    case, pooled, offline = (
        np.mean([roc(attack(played.view), played.member).auc for played in games]) for attack in attacks_
    )
    known_case, known_pooled, known_offline = FEW_SHADOWS[shadows]
    assert case == pytest.approx(known_case, abs=0.025)
    assert pooled == pytest.approx(known_pooled, abs=0.025)
    assert offline == pytest.approx(known_offline, abs=0.025)
    assert pooled > case


def test_no_attack_beats_the_exact_ratio():
    """Neyman and Pearson: the likelihood ratio with the true parameters is the ceiling, up to sampling error."""
    played = game(n=4000, shadows=64, heteroscedastic=True, signals=oracles.SIGNALS)
    ceiling = roc(played.log_likelihood_ratio, played.member).auc
    assert ceiling == pytest.approx(0.7564, abs=0.02)  # section 7 of the notes on peers
    for attack in ALL:
        if not hasattr(attack, "signal") or len(attack.signals) > 1:
            continue  # more signals tell more
        scored = replace(attack, signal="log_likelihood")
        assert roc(scored(played.view), played.member).auc < ceiling + 0.005, attack.name


# Offsets of whole models


def test_without_offsets_takes_out_what_was_added():
    """Up to one constant for all models, the mean of what was added: no attack can see it."""
    played = game(n=200, shadows=6, delta=0.0)
    target, shadow = played.view.signal(SIGNAL)
    added = np.random.default_rng(3).normal(0, 10, 7)
    plain = without_offsets(target, shadow)
    moved = without_offsets(target + added[0], shadow + added[1:, None])
    for before, after in zip(plain, moved, strict=True):
        np.testing.assert_allclose(after - added.mean(), before, atol=1e-9)


def test_without_offsets_without_shadows_changes_nothing():
    target = np.arange(3.0)
    same, none = without_offsets(target, np.empty((0, 3)))
    np.testing.assert_array_equal(same, target)
    assert none.shape == (0, 3)


@pytest.mark.parametrize("attack", [LiRA(SIGNAL), LiRA(SIGNAL, "offline"), DifficultyCalibration(SIGNAL)])
def test_offsets_of_whole_models_cost_nothing_once_removed(attack):
    clean = game(n=3000, shadows=16, delta=1.5, signals=[SIGNAL])
    noisy = game(n=3000, shadows=16, delta=1.5, offsets=5.0, signals=[SIGNAL])
    kept = replace(attack, remove_offsets=False)
    auc = {
        "clean": roc(attack(clean.view), clean.member).auc,
        "removed": roc(attack(noisy.view), noisy.member).auc,
        "kept": roc(kept(noisy.view), noisy.member).auc,
    }
    assert auc["removed"] == pytest.approx(auc["clean"], abs=0.005)
    assert auc["kept"] < auc["clean"] - 0.05


# Refusals


@pytest.mark.parametrize("options", [{"mode": "onlin"}, {"variance": "fixed"}])
def test_lira_refuses_unknown_options(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"^{name} must be one of .*, got '{value}'"):
        LiRA(SIGNAL, **options)


def test_lira_with_a_variance_per_case_pools_where_a_side_has_fewer_than_two():
    """Known answer: case 0 has one shadow without it; its out-variance is that of all residuals on that side."""
    played = game(n=10, shadows=4)
    target, shadow = played.view.signal(SIGNAL)
    member = played.view.shadow_member.copy()
    member[:, 0] = [True, True, True, False]
    residuals, freedom = [], 0
    for case in range(1, 10):
        values = shadow[~member[:, case], case]
        residuals += list(values - values.mean())
        freedom += len(values) - 1
    expected = (target[0] - shadow[3, 0]) / np.sqrt(np.sum(np.square(residuals)) / freedom)
    assert offline_lira(target, shadow, member, "case")[0] == pytest.approx(expected, rel=1e-12)
