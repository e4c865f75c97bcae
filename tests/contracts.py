# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What every attack owes its callers. A new attack costs one line in ``VARIANTS``; forgetting it fails a test."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
from oracles import SIGNALS, Game, game, granted

from monai_mia import attacks
from monai_mia.attacks import Attack
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.statistics.roc import roc

#: Every attack with every option that changes what it computes.
VARIANTS: dict[type, Sequence[Attack]] = {
    attacks.Threshold: [attacks.Threshold(signal) for signal in SIGNALS],
    attacks.GlobalLoss: [attacks.GlobalLoss()],
    attacks.DifficultyCalibration: [attacks.DifficultyCalibration(remove_offsets=flag) for flag in (True, False)],
    attacks.LiRA: [
        attacks.LiRA(mode=mode, variance=variance, remove_offsets=flag)
        for mode, variance, flag in product(("online", "offline"), ("pooled", "case"), (True, False))
    ],
    attacks.BASE: [
        attacks.BASE(),
        attacks.BASE(remove_offsets=False),
        attacks.BASE(mode="offline"),
        attacks.BASE(mode="offline", a=0.33, remove_offsets=False),
    ],
    attacks.RMIA: [
        attacks.RMIA(),
        attacks.RMIA(remove_offsets=False),
        attacks.RMIA(mode="offline", a=0.5, gamma=2, remove_offsets=False),
    ],
    attacks.BaVarIA: [
        attacks.BaVarIA(mode=mode, predictive=predictive, remove_offsets=flag)
        for mode, predictive, flag in product(("online", "offline"), ("t", "n"), (True, False))
    ],
    attacks.MultivariateLiRA: [
        attacks.MultivariateLiRA(SIGNALS),
        attacks.MultivariateLiRA(SIGNALS[1:], gap="case", remove_offsets=False),
        attacks.MultivariateLiRA(SIGNALS, "offline"),
        attacks.MultivariateLiRA(SIGNALS[:1], "offline", remove_offsets=False),
    ],
    attacks.QuantileRegression: [attacks.QuantileRegression()],
    attacks.FeatureRegression: [attacks.FeatureRegression()],
    attacks.PredictabilityError: [attacks.PredictabilityError(alpha=0.2, predictability="dice")],
    attacks.TransferredThreshold: [
        attacks.TransferredThreshold("dice", rule, pooled=flag, remove_offsets=flag)
        for rule, flag in product(("best_accuracy", "youden", "mean_member"), (True, False))
    ],
    attacks.TopScores: [attacks.TopScores(SIGNALS, pooled=flag, max_epochs=10) for flag in (True, False)],
}

#: Attacks with tests of their own, which a table alone cannot feed or whose folds follow the order of patients.
ELSEWHERE = {attacks.VoxelCalibration, attacks.LearnedCombination}

ALL = [attack for variants in VARIANTS.values() for attack in variants]


def exported_attacks() -> list[type]:
    """The classes in ``monai_mia.attacks.__all__`` that can be called with what the adversary knows."""
    classes = [item for item in (getattr(attacks, name) for name in attacks.__all__) if inspect.isclass(item)]
    return [item for item in classes if item is not Attack and any("__call__" in vars(base) for base in item.__mro__)]


def reordered(view: AdversaryView, cases: np.ndarray, shadows: np.ndarray) -> AdversaryView:
    """The same knowledge with cases and shadows in another order."""
    return replace(
        view,
        target=view.target[cases],
        shadow=view.shadow[shadows][:, cases],
        shadow_member=view.shadow_member[shadows][:, cases],
        patient_ids=tuple(np.asarray(view.patient_ids)[cases]),
        features=None if view.features is None else view.features[cases],
        nonmember=None if view.nonmember is None else view.nonmember[cases],
    )


def learns_the_sign(attack: Attack) -> bool:
    """Whether it reads from the shadows if members fit better or worse."""
    learner = isinstance(attack, attacks.LiRA | attacks.BaVarIA | attacks.MultivariateLiRA)
    return isinstance(attack, attacks.TopScores) or (learner and "online" in attack.name)


def left_out_by_none(played: Game, cases: int) -> AdversaryView:
    """The game's knowledge, had all shadows trained on the first cases, too."""
    view = played.view
    member = view.shadow_member.copy()
    member[:, :cases] = True
    added = (member & ~view.shadow_member) * played.delta
    return replace(view, shadow=view.shadow + added[..., None], shadow_member=member)


def without_shadows(view: AdversaryView, keep: int) -> AdversaryView:
    """The same knowledge with the first ``keep`` shadows only."""
    return replace(view, shadow=view.shadow[:keep], shadow_member=view.shadow_member[:keep])


class AttackContract:
    """The specification of an attack. Subclass it and parametrize ``attack``."""

    def test_is_an_attack(self, attack: Attack) -> None:
        """It has a name for the report, the signals it reads and the shadows it needs."""
        assert isinstance(attack, Attack)
        assert attack.name
        assert "\n" not in attack.name
        assert set(attack.signals) <= set(SIGNALS)
        assert attack.min_shadows >= 0

    def test_scores_are_one_finite_number_per_case(self, attack: Attack) -> None:
        """Shape (N,), float64."""
        played = game(n=30, shadows=6)
        scores = attack(played.view)
        assert scores.shape == (30,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_as_few_shadows_as_it_says_are_enough(self, attack: Attack) -> None:
        """`min_shadows` is a promise: real scores, no constant."""
        scores = attack(without_shadows(game(n=30, shadows=8).view, attack.min_shadows))
        assert np.isfinite(scores).all()
        assert len(set(scores)) >= (8 if isinstance(attack, attacks.RMIA) else 30)  # its scores are shares

    @pytest.mark.parametrize("constant", [0.0, 1e6, -3.0])
    def test_a_signal_that_nothing_changes_gives_finite_scores(self, attack: Attack, constant: float) -> None:
        """An empty reference has Dice 1 in every model."""
        view = game(n=12, shadows=6).view
        flat = replace(
            view,
            target=np.full_like(view.target, constant),
            shadow=np.full_like(view.shadow, constant),
        )
        scores = attack(flat)
        assert np.isfinite(scores).all()
        assert np.ptp(scores) == 0

    def test_separable_members_are_told_perfectly(self, attack: Attack) -> None:
        """Twenty standard deviations apart: AUC 1."""
        played = game(n=60, shadows=8, delta=20.0, spread=0.5)
        assert roc(attack(played.view), played.member).auc == 1.0

    @pytest.mark.parametrize("seed", [0, 1])
    def test_leaky_members_score_higher(self, attack: Attack, seed: int) -> None:
        """One standard deviation apart: better than chance by four standard errors."""
        played = game(n=1000, shadows=8, delta=1.0, seed=seed)
        auc = float(roc(attack(played.view), played.member).auc)
        # Standard error of an AUC of one half: sqrt((1000 + 1) / (12 * 500 * 500)) = 0.018.
        assert auc > 0.5 + 4 * 0.018

    def test_without_leakage_it_is_at_chance(self, attack: Attack) -> None:
        """The null: four standard errors about one half."""
        played = game(n=1000, shadows=5, delta=0.0, seed=5)
        assert roc(attack(played.view), played.member).auc == pytest.approx(0.5, abs=4 * 0.018)

    def test_the_sign_is_the_signals_or_learnt(self, attack: Attack) -> None:
        """Where models fit members worse, members score lower; an online attack learns the sign from its shadows."""
        played = game(n=1000, shadows=8, delta=-1.0)
        auc = roc(attack(played.view), played.member).auc
        assert (auc > 0.5 + 4 * 0.018) if learns_the_sign(attack) else (auc < 0.5 - 4 * 0.018)

    def test_follows_the_order_of_cases(self, attack: Attack) -> None:
        """Cases in another order: the same scores in that order."""
        view = game(n=40, shadows=6).view
        order = np.random.default_rng(1).permutation(40)
        moved = attack(reordered(view, order, np.arange(6)))
        np.testing.assert_allclose(moved, attack(view)[order], rtol=1e-9, atol=1e-9)

    def test_ignores_the_order_of_shadows(self, attack: Attack) -> None:
        """Shadows are exchangeable; an attack that reads one reads the first."""
        view = game(n=40, shadows=6).view
        order = np.random.default_rng(2).permutation(6)
        if not getattr(attack, "pooled", True):
            order = np.concatenate([[0], order[order > 0]])
            moved = without_shadows(view, 1)
            np.testing.assert_array_equal(attack(moved), attack(view))
        moved = attack(reordered(view, np.arange(40), order))
        np.testing.assert_allclose(moved, attack(view), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shadows", [1, 2, 6])
    def test_scores_a_foreign_case_and_learns_nothing_from_it(self, attack: Attack, shadows: int) -> None:
        """The cohort's scores are the same without such cases, however strange those are."""
        shadows = max(shadows, attack.min_shadows)
        view = game(n=50, shadows=shadows).view
        foreign = np.arange(50) >= 40
        strange = replace(
            view,
            target=np.where(foreign[:, None], 0.9, view.target),
            shadow=np.where(foreign[:, None], 0.01, view.shadow),
            shadow_member=view.shadow_member & ~foreign,
            features=None if view.features is None else np.where(foreign[:, None], 1e3, view.features),
            nonmember=None if view.nonmember is None else view.nonmember & ~foreign,
            foreign=foreign,
        )
        alone = reordered(view, np.arange(40), np.arange(shadows))
        scores = attack(strange)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores[:40], attack(alone), rtol=1e-9, atol=1e-9)

    def test_leaves_its_inputs_alone(self, attack: Attack) -> None:
        """Neither changed nor aliased."""
        view = game(n=20, shadows=6).view
        arrays = {name: getattr(view, name) for name in ("target", "shadow", "shadow_member")}
        before = {name: array.copy() for name, array in arrays.items()}
        scores = attack(view)
        for name, array in arrays.items():
            assert not np.shares_memory(scores, array), name
            np.testing.assert_array_equal(array, before[name], err_msg=name)

    def test_gives_the_same_scores_again(self, attack: Attack) -> None:
        """No hidden randomness."""
        view = game(n=20, shadows=6).view
        np.testing.assert_array_equal(attack(view), attack(view))

    @pytest.mark.parametrize("model", ["target", "shadow"])
    def test_how_well_a_whole_model_fits_is_no_evidence(self, attack: Attack, model: str) -> None:
        """A constant on all signals of one model moves no score, if offsets are removed; else a shadow's does."""
        view = game(n=40, shadows=6).view
        shift = np.zeros(6)
        shift[2] = 5.0
        moved = (
            replace(view, target=view.target + 5.0)
            if model == "target"
            else replace(view, shadow=view.shadow + shift[:, None, None])
        )
        same = np.allclose(attack(moved), attack(view), rtol=1e-9, atol=1e-9)
        removes = getattr(attack, "remove_offsets", isinstance(attack, attacks.TopScores) and attack.pooled)
        unread = model == "shadow" and (attack.min_shadows == 0 or not getattr(attack, "pooled", True))
        if removes or unread:
            assert same
        elif model == "shadow":
            assert not same

    def test_too_few_shadows_are_refused_by_name(self, attack: Attack) -> None:
        """The error says which attack, how many it needs, how many there are."""
        view = game(n=20, shadows=8).view
        for count in range(attack.min_shadows):
            with pytest.raises(InputError) as error:
                attack(without_shadows(view, count))
            assert repr(attack.name) in str(error.value)
            assert f"at least {attack.min_shadows}" in str(error.value)
            assert f"got {count}" in str(error.value)

    @pytest.mark.parametrize("shadows", [1, 3, 8])
    def test_a_case_that_no_shadow_left_out_is_scored_on_the_same_scale(self, attack: Attack, shadows: int) -> None:
        """With one, an odd number and many shadows: such cases against the others, members on either side."""
        shadows = max(shadows, attack.min_shadows)
        played = game(n=600, shadows=shadows, delta=2.0, seed=3, spread=0.5)
        scores = attack(left_out_by_none(played, 200))
        assert np.isfinite(scores).all()
        special, member = np.arange(600) < 200, played.member
        for side in (special, ~special):
            # Standard error of an AUC of one half with 100 and 200: 0.035. Uncorrected, one side would be there.
            chosen = (side & member) | (~side & ~member)
            assert roc(scores[chosen], member[chosen]).auc > 0.5 + 4 * 0.035

    @pytest.mark.parametrize("inside", [True, False])
    def test_shadows_that_all_trained_on_everything_or_nothing_are_enough(self, attack: Attack, inside: bool) -> None:
        """No gap can be estimated, and none is needed."""
        played = game(n=60, shadows=3, delta=2.0, spread=0.5)
        view = played.view
        lopsided = replace(view, shadow_member=np.full_like(view.shadow_member, inside))
        if attack.min_shadows <= 3:
            assert np.isfinite(attack(lopsided)).all()

    def test_an_unknown_signal_is_refused_by_name(self, attack: Attack) -> None:
        """The error lists the signals that there are."""
        view = replace(game(n=20, shadows=8).view, signals=("a", "b", "c"))
        with pytest.raises(InputError, match=r"signal must be one of a, b, c, got '\w+'"):
            attack(view)

    def test_the_targets_membership_is_out_of_sight(self, attack: Attack) -> None:
        """The same signals with all memberships of the target turned round give the same scores."""
        table = game(n=40, shadows=6).table
        member = table.member.copy()
        member[0] = ~member[0]
        turned = SignalTable(table.model_ids, table.case_ids, table.patient_ids, table.signals, member, table.values)
        scores = [attack(granted(AdversaryView.of(each), table.member[0])) for each in (turned, table)]
        np.testing.assert_array_equal(*scores)

    @pytest.mark.parametrize("need", ["features", "nonmember"])
    def test_what_it_needs_beyond_signals_is_asked_for_by_name(self, attack: Attack, need: str) -> None:
        """Image statistics and known non-members: declared, refused if missing, unread otherwise."""
        view = game(n=20, shadows=8).view
        stripped = replace(view, **{need: None})
        if getattr(attack, f"needs_{need}".replace("nonmember", "nonmembers"), False):
            with pytest.raises(InputError, match=f"^{need} must .* got none") as error:
                attack(stripped)
            assert repr(attack.name) in str(error.value)
        else:
            np.testing.assert_array_equal(attack(stripped), attack(view))


def knowledge_fields() -> set[str]:
    """Names of what the adversary is given."""
    return {item.name for item in fields(AdversaryView)}
