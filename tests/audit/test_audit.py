# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The audit: what it joins, what it refuses, and when a verdict is what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import oracles
import pytest
from oracles import SIGNALS, game, hidden_tail, plain
from scipy import stats

from monai_mia import statistics
from monai_mia.attacks import (
    DifficultyCalibration,
    EverySignal,
    GlobalLoss,
    LiRA,
    QuantileRegression,
    Threshold,
    TransferredThreshold,
)
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.audit.audit import Audit
from monai_mia.audit.controls import BlindScores
from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.results import AuditResult
from monai_mia.audit.scoring import score_cases
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling, epsilon

ATTACKS = (GlobalLoss(), Threshold("dice"), DifficultyCalibration(), LiRA(), LiRA(mode="offline"))
EVERYTHING = Disclosure(1)
QUICK = {"resampling": Resampling(n_resamples=200), "n_permutations": 199}


@pytest.fixture(scope="module")
def played():
    return game(n=120, shadows=8, delta=1.5, cases_per_patient=2)


@pytest.fixture(scope="module")
def result(played) -> AuditResult:
    return Audit(ATTACKS, fprs=(0.5, 0.1, 1 / 30, 0.01), **QUICK).run(played.table)


def pooled(played, values):
    """Mean of each patient's two cases."""
    return values.reshape(-1, 2).mean(axis=1)


# What is reported


def test_every_attack_is_reported_best_first(result):
    assert sorted(attack.name for attack in result.attacks) == sorted(attack.name for attack in ATTACKS)
    aucs = [attack.auc.value for attack in result.attacks]
    assert aucs == sorted(aucs, reverse=True)
    assert result.best is result.attacks[0]
    assert result.attack("global loss").name == "global loss"


def test_an_unknown_attack_is_named(result):
    with pytest.raises(InputError, match=r"attack must be one of .*global loss.*, got 'best guess'"):
        result.attack("best guess")


def test_units_are_patients(result, played):
    assert result.unit == "patient"
    assert result.unit_ids == tuple(f"patient_{n:05d}" for n in range(60))
    np.testing.assert_array_equal(result.member, played.member[::2])
    loss = result.attack("global loss")
    np.testing.assert_allclose(loss.scores, pooled(played, played.table.signal("log_likelihood", "target")))
    np.testing.assert_allclose(result.attack(LiRA().name).scores, pooled(played, LiRA()(played.view)))


def test_rates_are_those_of_the_slow_twins(result):
    member = result.member.tolist()
    for attack in result.attacks:
        scores = attack.scores.tolist()
        assert attack.auc.value == pytest.approx(oracles.mann_whitney(scores, member))
        for fpr, value in attack.tpr_at_fpr.items():
            if value is not None:
                assert value.value == pytest.approx(oracles.tpr_at(scores, member, fpr))
        assert attack.advantage.value == pytest.approx(statistics.roc(scores, member).advantage)
    bounds = epsilon.epsilon_lower_bounds([attack.scores for attack in result.attacks], result.member)
    assert [attack.epsilon_lower_bound for attack in result.attacks] == bounds


def test_every_rate_lies_in_its_interval(result):
    for attack in result.attacks:
        found = [attack.auc, attack.advantage, attack.balanced_accuracy, attack.auc_gain, *attack.tpr_at_fpr.values()]
        for one in found:
            assert one is None or one.low <= one.value <= one.high
            assert one is None or one.low < one.high or attack.name == "global loss"


def test_intervals_allow_for_the_choice_of_the_best(result, played):
    """Alone an attack has its plain intervals; among five they reach further down, and no further up."""
    reaches = []
    for attack in result.attacks:
        (own,) = Audit([a for a in ATTACKS if a.name == attack.name], fprs=(0.1,), **QUICK).run(played.table).attacks
        assert own.auc == Resampling().auc(own.auc.value, aucs_of(own, result), 30, 30)
        for among, alone in ((attack.auc, own.auc), (attack.tpr_at_fpr[0.1], own.tpr_at_fpr[0.1])):
            assert 0 <= among.low <= alone.low <= alone.value == among.value
            assert among.high == alone.high <= 1
            reaches.append(alone.low - among.low)
    assert max(reaches) > 0.01
    aucs = np.stack([aucs_of(attack, result) for attack in result.attacks])
    reach = statistics.reach_of_best(aucs, one_sided=True)
    assert reach > 1
    assert result.best.auc == Resampling().auc(result.best.auc.value, aucs[0], 30, 30, reach)


def aucs_of(attack, result):
    """The AUC of an attack in the audit's 200 resamples."""
    weights = statistics.weights_by_group(result.member, result.unit_ids, 200, 0)
    return np.concatenate([curve.auc for curve in statistics.resampled_rocs(attack.scores, result.member, weights)])


def test_nothing_is_reported_below_the_resolution(result):
    """30 non-members: 1/30 is one false alarm, and less than one cannot be seen."""
    for attack in result.attacks:
        assert set(attack.tpr_at_fpr) == {0.5, 0.1, 1 / 30, 0.01}
        assert attack.tpr_at_fpr[0.01] is None
        assert attack.tpr_at_fpr[1 / 30] is not None
        assert min(attack.roc["band_fpr"]) == pytest.approx(1 / 30)


def test_a_tpr_of_one_is_not_certain():
    """30 of 30: the bootstrap has no width, Clopper and Pearson give [.884, 1]."""
    strong = game(n=60, shadows=0, delta=40.0)
    audited = Audit([GlobalLoss()], fprs=(0.1,), **QUICK).run(strong.table)
    found = audited.best.tpr_at_fpr[0.1]
    assert found.value == 1
    assert found.ci == pytest.approx(stats.binomtest(30, 30).proportion_ci(method="exact"))
    assert found.low == pytest.approx(0.025 ** (1 / 30))


def test_p_values_are_those_of_the_best_attack_by_chance(result, played):
    scores = np.stack([attack.scores for attack in result.attacks])
    groups = list(result.unit_ids)
    best = statistics.permuted_aucs(scores, result.member, groups, 199, seed=0).max(axis=1)
    for attack in result.attacks:
        assert attack.p_value == pytest.approx((1 + (best >= attack.auc.value - 1e-12).sum()) / 200)
    assert result.best.p_value == 1 / 200
    assert result.null["auc_median"] == pytest.approx(np.median(best))
    assert result.null["auc_95"] == pytest.approx(np.quantile(best, 0.95))
    assert result.null["n_permutations"] == 199


def test_trying_more_attacks_costs_significance():
    """AUC .65 of 30 + 30: 2.0 standard deviations above chance, but not above the best of 41 chances."""
    names = [f"noise_{n}" for n in range(40)]
    noise = game(n=60, shadows=0, delta=0.0, signals=["log_likelihood", *names], seed=5).table
    values = noise.values.copy()
    values[0, :, 0], member = oracles.binormal(30, 0.55)
    table = replace(noise, values=values, member=member[None])
    enough = {**QUICK, "n_permutations": 999}  # a p-value of 0.02 to within 0.005
    alone = Audit([GlobalLoss()], utility=(), **enough).run(table).attack("global loss")
    among = Audit([GlobalLoss(), EverySignal()], utility=(), **enough).run(table).attack("global loss")
    assert (alone.auc.value, alone.auc.high) == (among.auc.value, among.auc.high)
    assert among.auc.low < 0.5 < alone.auc.low
    assert alone.p_value < 0.05 < among.p_value


def test_gain_over_the_global_loss_is_paired(result, played):
    loss = result.attack("global loss")
    assert loss.auc_gain == Estimate(0.0, 0.0, 0.0)
    for attack in result.attacks:
        assert attack.auc_gain.value == pytest.approx(attack.auc.value - loss.auc.value)
    gains = np.stack([aucs_of(attack, result) - aucs_of(loss, result) for attack in result.attacks])
    low, high = np.quantile(gains[0], [0.025, 0.975])
    gain, reach = result.best.auc_gain, statistics.reach_of_best(gains)
    assert gain.high == pytest.approx(high)
    assert gain.low == pytest.approx(gain.value - reach * (gain.value - low))
    assert Audit([LiRA()], **QUICK).run(played.table).best.auc_gain is None


def test_exposure_is_the_fpr_at_which_a_patient_is_found(result):
    scores, member = result.best.scores, result.member
    for vulnerability, score in zip(result.vulnerability, scores, strict=True):
        assert vulnerability == pytest.approx((scores[~member] >= score).mean())
    fpr = 0.1
    found = (result.vulnerability[member] <= fpr).mean()
    assert found == pytest.approx(statistics.roc(scores, member).tpr_at(fpr))


def test_utility_is_the_mean_on_each_side(result, played):
    dice = pooled(played, played.table.signal("dice", "target"))
    sides = result.utility["dice"]
    assert sides["members"].value == pytest.approx(dice[result.member].mean())
    assert sides["nonmembers"].value == pytest.approx(dice[~result.member].mean())
    assert sides["gap"].value == pytest.approx(dice[result.member].mean() - dice[~result.member].mean())
    for side in sides.values():
        assert side.low < side.value < side.high
    # The normal interval of a mean of 30: the bootstrap's is about as wide.
    width = 2 * 1.96 * dice[result.member].std() / np.sqrt(30)
    assert sides["members"].high - sides["members"].low == pytest.approx(width, rel=0.25)


def test_metrics_are_flat_and_finite(result):
    flat = result.metrics()
    expected = {f"{a.name} AUC" for a in ATTACKS} | {
        f"{a.name} TPR@{fpr}" for a in ATTACKS for fpr in ("0.5", "0.1", "0.0333333")
    }
    assert set(flat) == expected
    assert flat["global loss AUC"] == result.attack("global loss").auc.value
    assert flat["global loss TPR@0.1"] == result.attack("global loss").tpr_at_fpr[0.1].value
    assert all(np.isfinite(value) for value in flat.values())


def test_curve_and_band_are_lists_for_a_plot(result):
    for attack in result.attacks:
        curve = attack.roc
        assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
        assert len(curve["band_fpr"]) == len(curve["band_low"]) == len(curve["band_high"])
        assert all(low <= high for low, high in zip(curve["band_low"], curve["band_high"], strict=True))
        assert all(isinstance(values, list) for values in curve.values())


def test_the_same_seed_gives_the_same_result(result, played):
    audit = Audit(ATTACKS, fprs=(0.5, 0.1, 1 / 30, 0.01), **QUICK)
    assert plain(audit.run(played.table)) == plain(result)
    other = replace(audit, resampling=replace(audit.resampling, seed=1)).run(played.table)
    assert plain(other) != plain(result)
    assert [attack.auc.value for attack in other.attacks] == [attack.auc.value for attack in result.attacks]


def test_the_order_of_attacks_decides_nothing(result, played):
    backwards = Audit(ATTACKS[::-1], fprs=(0.5, 0.1, 1 / 30, 0.01), **QUICK).run(played.table)
    for attack in ATTACKS:
        assert plain(backwards.attack(attack.name)) == plain(result.attack(attack.name))
    assert backwards.null == result.null
    assert backwards.verdict.level == result.verdict.level


def test_audited_models_can_be_chosen(played):
    """Any model can be the target; a shadow's members were drawn like the target's."""
    audited = Audit([LiRA()], **QUICK).run(
        played.table, target="shadow_03", shadows=["target", "shadow_00", "shadow_01"]
    )
    np.testing.assert_array_equal(audited.member, played.table.members("shadow_03")[::2])
    assert audited.best.n_shadow == 3


# The unit


def test_cases_as_units(played):
    audited = Audit(ATTACKS, unit="case", **QUICK).run(played.table)
    assert audited.unit_ids == played.table.case_ids
    np.testing.assert_array_equal(audited.member, played.member)
    for attack in audited.attacks:
        assert attack.scores.shape == (120,)
        assert attack.epsilon_lower_bound is None, "cases of a patient are not independent"


def test_more_cases_of_a_patient_are_no_more_evidence():
    """Every case three times: the same rates, the same intervals, the same p-value as once."""
    once = game(n=60, shadows=4, delta=1.0)
    table = once.table
    copies = SignalTable(
        table.model_ids,
        tuple(f"{case}_{k}" for case in table.case_ids for k in range(3)),
        tuple(np.repeat(table.patient_ids, 3).tolist()),
        table.signals,
        np.repeat(table.member, 3, axis=1),
        np.repeat(table.values, 3, axis=1),
    )
    audit = Audit([GlobalLoss()], **QUICK)
    expected = audit.run(table).best
    for unit in ("patient", "case"):
        found = replace(audit, unit=unit).run(copies).best
        assert found.auc.value == pytest.approx(expected.auc.value)
        # The exact interval, which needs independent units, widens the one by patient alone.
        narrow = found.auc if unit == "case" else expected.auc
        assert expected.auc.low <= narrow.low < narrow.high <= expected.auc.high
        assert found.p_value == expected.p_value
        assert found.advantage.ci == pytest.approx(expected.advantage.ci)
    assert replace(audit, unit="patient").run(copies).best.epsilon_lower_bound == expected.epsilon_lower_bound


# Refusals


@dataclass(frozen=True)
class Broken:
    """Returns what it is told to."""

    scores: tuple[float, ...]
    name: str = "broken"
    signals: tuple[str, ...] = ()
    min_shadows: int = 0

    def __call__(self, view):
        """Not one finite score per case."""
        return np.array(self.scores)


@pytest.mark.parametrize("scores", [(1.0, 2.0), (np.nan,) * 40, (np.inf, *range(39))], ids=["shape", "NaN", "infinite"])
def test_an_attack_that_breaks_its_contract_is_named(scores):
    with pytest.raises(InputError, match=r"scores of attack 'broken' must be 40 finite numbers"):
        Audit([Broken(scores)], **QUICK).run(game(n=40, shadows=0).table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": []}, "attacks must be a list of at least one attack"),
        ({"unit": "slice"}, "unit must be 'patient' or 'case', got 'slice'"),
        ({"access": "logits"}, "access must be one of mask, .*, got 'logits'"),
        ({"fprs": (0.1, 0.0)}, r"fprs must be in \(0, 1\), got 0.0"),
        ({"fprs": (1,)}, r"fprs must be in \(0, 1\), got 1"),
        ({"attacks": [LiRA(), LiRA()]}, "different names, got 'LiRA online, pooled variance: .*' more than once"),
        ({"attacks": [EverySignal(), EverySignal()]}, "different names, got 'EverySignal' more than once"),
        ({"attacks": [LiRA(variance="case")]}, "at least 4 for attack 'LiRA online, case variance: .*', got 3"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(options, message):
    audit = Audit(**{"attacks": [GlobalLoss()], **options})
    with pytest.raises(InputError, match=message):
        audit.check(3)
    with pytest.raises(InputError, match=message):
        audit.run(game(n=40, shadows=3).table)


def test_check_lets_pass_what_can_be_done():
    Audit([GlobalLoss(), EverySignal(), LiRA(), LiRA("dice"), LiRA(mode="offline")]).check(3)


def test_signals_that_are_missing_are_named():
    table = game(n=40, shadows=4, signals=["dice"]).table
    with pytest.raises(InputError, match="signal must be one of dice, got 'log_odds_foreground'"):
        Audit([LiRA()], **QUICK).run(table)
    with pytest.raises(InputError, match="signal must be one of dice, got 'iou'"):
        Audit([Threshold("dice")], utility=("iou",), **QUICK).run(table)


ACCESS = {"log_likelihood": "probabilities+label", "log_odds_foreground": "probabilities", "dice": "mask+label"}


@pytest.mark.parametrize(
    ("granted", "refused"),
    [
        ("mask", {"log_likelihood", "log_odds_foreground", "dice"}),
        ("mask+label", {"log_likelihood", "log_odds_foreground"}),
        ("probabilities", {"log_likelihood", "dice"}),
        ("probabilities+label", set()),
        ("white-box", set()),
    ],
)
def test_access_that_is_not_granted_is_refused_by_name(granted, refused):
    """Probabilities alone do not come with a reference segmentation, so that they do not grant Dice."""
    table = game(n=40, shadows=0, access=ACCESS).table
    for signal in SIGNALS:
        audit = Audit([Threshold(signal)], access=granted, **QUICK)
        if signal not in refused:
            assert audit.run(table).best.access == ACCESS[signal]
            continue
        with pytest.raises(InputError) as error:
            audit.run(table)
        for part in (f"'threshold: {signal}'", repr(ACCESS[signal]), f"got {granted!r}"):
            assert part in str(error.value)
    audit = Audit([EverySignal()], access=granted, **QUICK)
    if refused == set(SIGNALS):
        with pytest.raises(InputError, match=f"attacks must be at least one with access '{granted}'"):
            audit.run(table)
    else:
        names = {attack.name for attack in audit.run(table).attacks}
        assert names == {f"threshold: {signal}" for signal in set(SIGNALS) - refused}


def test_access_of_an_undeclared_signal_is_that_of_everything_released():
    table = game(n=40, shadows=0).table
    assert Audit([Threshold("dice")], **QUICK).run(table).best.access == "probabilities+label"


# The verdict


def test_a_constant_score_shows_nothing():
    """Chance always reaches an AUC of one half: p is 1, however membership is dealt."""
    result = audit_of(game(n=40, shadows=0).table, attacks=[Broken((7.0,) * 40)])
    best = result.best
    assert (best.auc.value, best.p_value, best.advantage.value) == (0.5, 1.0, 0.0)
    assert best.auc.ci == pytest.approx(statistics.auc_interval(0.5, 20, 20))
    assert best.epsilon_lower_bound.value == 0
    assert best.tpr_at_fpr[0.1].value == 0
    assert result.verdict.level == "low"


def driven_by_images(seed, n=100, n_features=6, shift=0.7):
    """Members' images differ; the signal follows the images and remembers nothing."""
    rng = np.random.default_rng(seed)
    played = game(n=n, shadows=0, signals=["log_likelihood"], seed=seed)
    features = rng.normal(size=(n, n_features)) + shift * played.member[:, None]
    values = features.mean(axis=1) + 0.2 * rng.normal(size=n)
    return replace(played.table, values=values[None, :, None]), features


def audit_of(table, features=None, **options) -> AuditResult:
    options = {"attacks": [GlobalLoss()], "utility": (), **QUICK, **options}
    return Audit(**options).run(table, features=features)


def test_no_leak_is_low():
    null = game(n=100, shadows=8, delta=0.0, seed=1)
    verdict = audit_of(null.table, attacks=ATTACKS).verdict
    assert verdict.level == "low"
    assert "nothing was shown" in verdict.reasons[0]
    assert "no proof of privacy" in verdict.reasons[1]


def test_a_strong_leak_is_high():
    leak = game(n=100, shadows=8, delta=3.0)
    result = audit_of(leak.table, attacks=ATTACKS)
    assert result.verdict.level == "high"
    assert result.best.name in result.verdict.reasons[0]
    assert "0.7" in result.verdict.reasons[1]


def test_a_small_leak_is_moderate():
    """AUC Phi(.55 / sqrt 2) = .65 with 400 patients: clearly more than chance, clearly not above .7."""
    leak = game(n=400, shadows=0, delta=0.6, spread=0.0)
    verdict = audit_of(leak.table, fprs=(0.1,)).verdict
    assert verdict.level == "moderate"
    assert "single patients may still stand out" in verdict.reasons[-1]


def test_a_few_patients_who_stand_out_are_high():
    """One member in seven gives itself away without a false alarm; the AUC is about .57, far below .7."""
    quiet = game(n=400, shadows=0, delta=0.0, spread=0.0, seed=2)
    values = quiet.table.values.copy()
    values[0, np.flatnonzero(quiet.member)[:28]] += 50
    table = replace(quiet.table, values=values)
    result = audit_of(table, fprs=(0.1, 0.01), disclosure=EVERYTHING)
    assert result.best.auc.value < 0.62
    assert result.verdict.level == "high"
    assert "1.0% of the others" in result.verdict.reasons[-1]
    told = audit_of(table, fprs=(0.1, 0.01)).verdict  # two of 200 non-members are too few to be told of
    assert told.level == "high"
    assert "at least 8 times as often" in told.reasons[-1]


def test_a_tail_that_the_auc_hides_is_high():
    result = audit_of(hidden_tail(), fprs=(0.1, 0.01), n_permutations=999, disclosure=EVERYTHING)
    assert result.best.auc.value == pytest.approx(0.5, abs=0.05)
    assert result.best.p_value > 0.05
    assert result.best.tail_p_value < 0.01
    assert result.verdict.level == "high"
    assert "of the average patient nothing was shown" in result.verdict.reasons[0]
    assert "finds 0.1" in result.verdict.reasons[1]
    assert "1.0% of the others" in result.verdict.reasons[1]
    told = audit_of(hidden_tail(), fprs=(0.1, 0.01), n_permutations=999).verdict
    assert told.level == "high"
    assert "at least 8 times as often" in told.reasons[1]
    lax = Criteria(max_lift=20.0)
    assert audit_of(hidden_tail(), fprs=(0.1, 0.01), n_permutations=999, criteria=lax).verdict.level == "moderate"
    strict = Criteria(tail_significance=1e-3)
    assert audit_of(hidden_tail(), fprs=(0.1, 0.01), n_permutations=999, criteria=strict).verdict.level == "low"


def test_the_tail_of_another_attack_than_the_best_counts():
    """The best by AUC finds many, not surely; another finds a few, surely."""
    table = hidden_tail()
    member = table.members("target")
    found = np.random.default_rng(0).normal(size=len(member)) + 0.5 * member
    attacks = [Broken(tuple(found)), GlobalLoss()]
    result = audit_of(table, fprs=(0.1, 0.01), attacks=attacks, n_permutations=999)
    assert result.best.name == attacks[0].name
    assert result.best.auc.low < 0.7
    assert result.verdict.level == "high"
    assert f"“{GlobalLoss().name}” finds" in result.verdict.reasons[-1]


def test_a_tail_that_the_images_have_is_none_of_the_model():
    """A dozen members are from another scanner; where no coin dealt the sides, that may be all that the attack sees."""
    table = hidden_tail(n=200)
    features = np.random.default_rng(0).normal(size=(200, 6))
    features[np.flatnonzero(table.members("target"))[:14], 0] += 6
    options = {"fprs": (0.1, 0.01), "n_permutations": 999, "utility": ()}
    audit = Audit([GlobalLoss()], resampling=Resampling(n_resamples=200), **options)
    observational = audit.run(table, features=features, randomised=False).verdict
    assert observational.level == "inconclusive"
    assert audit.run(table, features=features).verdict.level == "high"
    assert audit.run(table, randomised=False).verdict.level == "inconclusive"
    plain_images, rng = np.random.default_rng(1).normal(size=(200, 6)), np.random.default_rng(3)
    network = BlindScores(rng.normal(size=200), np.arange(200) % 5, np.zeros((0, 200), bool), np.zeros((0, 200)))
    found = audit.run(table, features=plain_images, randomised=False, blind_scores=network)
    assert found.verdict.level == "high"
    alone = audit.run(table, features=plain_images, randomised=False).verdict
    assert alone.level == "inconclusive", "neither shadows nor a blind network, and strata do not tell a few apart"


def test_nothing_to_find_is_seldom_called():
    """Over cohorts, at most as often as both levels of significance say together, 0.06."""
    attacks = [GlobalLoss(), Threshold("dice"), Threshold("log_odds_foreground")]
    levels = []
    for seed in range(60):
        nothing = game(n=120, shadows=0, delta=0.0, spread=1.0, seed=1000 + seed)
        levels.append(audit_of(nothing.table, fprs=(0.1, 0.05), attacks=attacks).verdict.level)
    assert "high" not in levels
    assert stats.binom.sf(levels.count("moderate") - 1, 60, 0.06) > 1e-3


def test_few_patients_are_inconclusive():
    leak = game(n=36, shadows=4, delta=10.0, cases_per_patient=2)
    verdict = audit_of(leak.table).verdict
    assert verdict.level == "inconclusive"
    assert "9 member and 9 non-member patients" in verdict.reasons[0]
    assert audit_of(leak.table, disclosure=EVERYTHING).verdict.reasons[0].startswith("Only 9 member and 9 non-member")
    enough = audit_of(leak.table, criteria=Criteria(min_patients=9), disclosure=Disclosure(9)).verdict
    assert enough.level == "high"


def test_few_patients_with_many_cases_are_few_patients():
    leak = game(n=180, shadows=4, delta=10.0, cases_per_patient=10)
    assert audit_of(leak.table, unit="case").verdict.level == "inconclusive"


def test_what_images_explain_is_inconclusive():
    table, features = driven_by_images(1)
    result = audit_of(table, features)
    assert result.best.p_value < 0.05
    assert result.blind.auc.value > 0.7
    assert result.blind.access == "none"
    assert result.attack_minus_blind.low <= 0
    assert result.verdict.level == "inconclusive"
    assert any("blind baseline" in reason for reason in result.verdict.reasons)
    assert audit_of(table).verdict.level == "high", "without image statistics it could not have been known"


def test_memory_beyond_the_images_is_high():
    table, features = driven_by_images(1, shift=0.45)
    result = audit_of(replace(table, values=table.values + 4.0 * table.member[..., None]), features)
    assert result.attack_minus_blind.low > 0
    assert result.verdict.level == "high"
    if result.blind.p_value < 0.05:
        assert any("clearly better" in reason for reason in result.verdict.reasons)


def test_the_blind_baseline_is_paired_with_the_best_attack():
    table, features = driven_by_images(3)
    result = audit_of(table, features, attacks=[GlobalLoss(), Broken(tuple(range(100)))])
    assert result.blind.auc.value > 0.5
    assert result.attack_minus_blind.value == pytest.approx(result.best.auc.value - result.blind.auc.value)
    low, high = result.attack_minus_blind.ci
    assert low <= result.attack_minus_blind.value <= high
    again = audit_of(table, features, attacks=[GlobalLoss(), Broken(tuple(range(100)))])
    assert plain(again) == plain(result)


def test_a_blind_baseline_below_one_half_is_no_head_start():
    """Cross-fitting ranks few members below others where images tell nothing: an AUC of .28 among 60 patients."""
    played = game(n=60, shadows=0, delta=1.5)
    against = -1.0 * played.member[:, None] + 0.8 * np.random.default_rng(0).normal(size=(60, 1))
    network = BlindScores(against[:, 0], np.arange(60) % 5, np.zeros((0, 60), bool), np.zeros((0, 60)))
    result = Audit([GlobalLoss()], utility=(), **QUICK).run(played.table, blind_scores=network)
    assert result.blind_network.auc.high < 0.5
    assert result.attack_minus_blind.value == pytest.approx(result.best.auc.value - 0.5)
    assert result.attack_minus_blind.low == pytest.approx(np.quantile(aucs_of(result.best, result), 0.025) - 0.5)


def test_without_image_statistics_there_is_no_blind_baseline(result):
    assert result.blind is None
    assert result.attack_minus_blind is None


def test_rules_are_the_users():
    leak = game(n=400, shadows=0, delta=0.55, spread=0.0)
    assert audit_of(leak.table, fprs=(0.1,), criteria=Criteria(high_auc=0.55)).verdict.level == "high"
    sharp = game(n=400, shadows=0, delta=1.5, spread=0.0)
    for max_lift, level in ((1.1, "high"), (9.0, "moderate")):
        rules = Criteria(max_lift=max_lift, high_auc=0.99)
        assert audit_of(sharp.table, fprs=(0.1,), criteria=rules).verdict.level == level
    assert (
        audit_of(leak.table, fprs=(0.1,), criteria=Criteria(significance=0.001, tail_significance=0.001)).verdict.level
        == "low"
    )
    assert audit_of(leak.table, fprs=(0.1,), criteria=Criteria(min_patients=201)).verdict.level == "inconclusive"


# Fitted attacks, decisions, claims, canaries


@dataclass(frozen=True)
class Spy:
    """Scores by the log-likelihood, and remembers which non-members it was told."""

    told: list
    name: str = "spy"
    signals: tuple[str, ...] = ("log_likelihood",)
    min_shadows: int = 0
    needs_nonmembers: bool = True

    def __call__(self, view):
        self.told.append(view.nonmember)
        return view.target[:, 0] + 0.0


def test_known_nonmembers_are_never_among_the_patients_that_are_scored(played):
    told: list = []
    scores = score_cases(Spy(told), AdversaryView.of(played.table), played.member, seed=3)
    np.testing.assert_array_equal(scores, played.table.values[0, :, 0])
    assert len(told) == 5
    known = np.stack(told)
    assert not known[:, played.member].any()
    # Each non-member is unknown in exactly one fold, the one in which it is scored, and so is all of its patient.
    assert (known[:, ~played.member].sum(axis=0) == 4).all()
    np.testing.assert_array_equal(known[:, ::2], known[:, 1::2])


def test_an_attack_fitted_to_nonmembers_is_at_chance_under_the_null():
    aucs = []
    for seed in range(20):
        null = game(n=120, shadows=2, delta=0.0, seed=seed)
        features = np.random.default_rng(seed).standard_normal((120, 3))
        result = Audit([QuantileRegression("log_likelihood")], **QUICK).run(null.table, features=features)
        aucs.append(result.best.auc.value)
    # Standard error of one AUC of 60 against 60 is 0.053.
    assert abs(np.mean(aucs) - 0.5) < 4 * 0.053 / np.sqrt(20)


def test_a_decision_of_the_attack_is_reported_as_it_falls(played):
    attack = TransferredThreshold("log_likelihood", "mean_member")
    result = Audit([attack, GlobalLoss()], **QUICK).run(played.table)
    claimed = pooled(played, attack(AdversaryView.of(played.table))) >= 0
    found = result.attack(attack.name).transferred
    assert found is not None
    assert found["tpr"].value == pytest.approx(claimed[result.member].mean())
    assert found["fpr"].value == pytest.approx(claimed[~result.member].mean())
    assert found["balanced_accuracy"].value == pytest.approx((found["tpr"].value + 1 - found["fpr"].value) / 2)
    for one in found.values():
        assert one.low <= one.value <= one.high
    assert result.attack("global loss").transferred is None


def test_claims_are_those_of_the_best_attack(result):
    assert result.claims is not None
    assert result.claims.n_calibration + result.claims.n_nonmember == 30
    assert result.claims.tpr.low <= result.claims.tpr.value <= result.claims.tpr.high
    assert result.claims.n_claims.value > 0


def test_a_cohort_too_small_for_a_claim_has_none():
    small = game(n=4, shadows=4)
    assert Audit([GlobalLoss()], **QUICK).run(small.table).claims is None


def test_canaries_are_counted_apart(played):
    kinds = ["lesion"] * 40 + [""] * 80
    whole = Audit([GlobalLoss(), LiRA()], **QUICK).run(played.table)
    apart = Audit([GlobalLoss(), LiRA()], **QUICK).run(played.table, canary=kinds)
    assert whole.canaries == {}
    assert len(apart.member) == 40
    assert set(apart.canaries) == {"lesion"}
    bounds = apart.canaries["lesion"]
    assert set(bounds) == {"one run", "Clopper-Pearson", "one run, Gaussian", "Clopper-Pearson, Gaussian"}
    scores = {"global loss": GlobalLoss(), LiRA().name: LiRA()}[apart.best.name](AdversaryView.of(played.table))
    expected = epsilon.audit_canaries(
        scores, played.member, played.table.patient_ids, np.array([bool(kind) for kind in kinds]), 1e-5
    )
    assert bounds == expected
    for bound in bounds.values():
        assert 0 <= bound.value <= bound.ceiling


def test_too_few_canaries_of_a_kind_are_named(played):
    with pytest.raises(InputError, match="canaries of kind 'lesion'"):
        Audit([GlobalLoss()], **QUICK).run(played.table, canary=["lesion"] * 4 + [""] * 116)
    with pytest.raises(InputError, match="canary must tell of each of 120 cases, got 3"):
        Audit([GlobalLoss()], **QUICK).run(played.table, canary=["", "", "lesion"])


@pytest.mark.parametrize("option", ["claims_q", "delta"])
def test_rates_must_be_rates(played, option):
    with pytest.raises(InputError, match=f"{option} must be in"):
        Audit([GlobalLoss()], **{option: 0.0}).run(played.table)
