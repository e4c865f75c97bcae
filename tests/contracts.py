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
from oracles import SIGNALS, game

from monai_mia import attacks
from monai_mia.attacks import Attack
from monai_mia.errors import InputError
from monai_mia.statistics import roc
from monai_mia.table import Knowledge, SignalTable

#: Every attack with every option that changes what it computes.
VARIANTS: dict[type, Sequence[Attack]] = {
    attacks.Threshold: [attacks.Threshold(signal) for signal in SIGNALS],
    attacks.GlobalLoss: [attacks.GlobalLoss()],
    attacks.DifficultyCalibration: [attacks.DifficultyCalibration(remove_offsets=flag) for flag in (True, False)],
    attacks.LiRA: [
        attacks.LiRA(mode=mode, variance=variance, remove_offsets=flag)
        for mode, variance, flag in product(("online", "offline"), ("pooled", "case"), (True, False))
    ],
}

ALL = [attack for variants in VARIANTS.values() for attack in variants]


def exported_attacks() -> list[type]:
    """The classes in ``monai_mia.attacks.__all__`` that can be called with what the adversary knows."""
    classes = [item for item in (getattr(attacks, name) for name in attacks.__all__) if inspect.isclass(item)]
    return [item for item in classes if item is not Attack and any("__call__" in vars(base) for base in item.__mro__)]


def reordered(knowledge: Knowledge, cases: np.ndarray, shadows: np.ndarray) -> Knowledge:
    """The same knowledge with cases and shadows in another order."""
    return replace(
        knowledge,
        target=knowledge.target[cases],
        shadow=knowledge.shadow[shadows][:, cases],
        shadow_member=knowledge.shadow_member[shadows][:, cases],
        patient_ids=tuple(np.asarray(knowledge.patient_ids)[cases]),
    )


def without_shadows(knowledge: Knowledge, keep: int) -> Knowledge:
    """The same knowledge with the first ``keep`` shadows only."""
    return replace(knowledge, shadow=knowledge.shadow[:keep], shadow_member=knowledge.shadow_member[:keep])


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
        scores = attack(played.knowledge)
        assert scores.shape == (30,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_as_few_shadows_as_it_says_are_enough(self, attack: Attack) -> None:
        """`min_shadows` is a promise: real scores, no constant."""
        scores = attack(without_shadows(game(n=30, shadows=8).knowledge, attack.min_shadows))
        assert np.isfinite(scores).all()
        assert len(set(scores)) == 30

    @pytest.mark.parametrize("constant", [0.0, 1e6, -3.0])
    def test_a_signal_that_nothing_changes_gives_finite_scores(self, attack: Attack, constant: float) -> None:
        """An empty reference has Dice 1 in every model."""
        knowledge = game(n=12, shadows=6).knowledge
        flat = replace(
            knowledge,
            target=np.full_like(knowledge.target, constant),
            shadow=np.full_like(knowledge.shadow, constant),
        )
        scores = attack(flat)
        assert np.isfinite(scores).all()
        assert np.ptp(scores) == 0

    def test_separable_members_are_told_perfectly(self, attack: Attack) -> None:
        """Twenty standard deviations apart: AUC 1."""
        played = game(n=60, shadows=8, delta=20.0, spread=0.5)
        assert roc(attack(played.knowledge), played.member).auc == 1.0

    @pytest.mark.parametrize("seed", [0, 1])
    def test_leaky_members_score_higher(self, attack: Attack, seed: int) -> None:
        """One standard deviation apart: better than chance by four standard errors."""
        played = game(n=2000, shadows=8, delta=1.0, seed=seed)
        auc = float(roc(attack(played.knowledge), played.member).auc)
        # Standard error of an AUC of one half: sqrt((2000 + 1) / (12 * 1000 * 1000)) = 0.013.
        assert auc > 0.5 + 4 * 0.013

    def test_the_sign_is_the_signals_or_learnt(self, attack: Attack) -> None:
        """Where models fit members worse, members score lower; an online attack learns the sign from its shadows."""
        played = game(n=2000, shadows=8, delta=-1.0)
        auc = roc(attack(played.knowledge), played.member).auc
        assert (auc > 0.5 + 4 * 0.013) if "online" in attack.name else (auc < 0.5 - 4 * 0.013)

    def test_follows_the_order_of_cases(self, attack: Attack) -> None:
        """Cases in another order: the same scores in that order."""
        knowledge = game(n=40, shadows=6).knowledge
        order = np.random.default_rng(1).permutation(40)
        moved = attack(reordered(knowledge, order, np.arange(6)))
        np.testing.assert_allclose(moved, attack(knowledge)[order], rtol=1e-9, atol=1e-9)

    def test_ignores_the_order_of_shadows(self, attack: Attack) -> None:
        """Shadows are exchangeable."""
        knowledge = game(n=40, shadows=6).knowledge
        order = np.random.default_rng(2).permutation(6)
        moved = attack(reordered(knowledge, np.arange(40), order))
        np.testing.assert_allclose(moved, attack(knowledge), rtol=1e-9, atol=1e-9)

    def test_leaves_its_inputs_alone(self, attack: Attack) -> None:
        """Neither changed nor aliased."""
        knowledge = game(n=20, shadows=6).knowledge
        arrays = {name: getattr(knowledge, name) for name in ("target", "shadow", "shadow_member")}
        before = {name: array.copy() for name, array in arrays.items()}
        scores = attack(knowledge)
        for name, array in arrays.items():
            assert not np.shares_memory(scores, array), name
            np.testing.assert_array_equal(array, before[name], err_msg=name)

    def test_gives_the_same_scores_again(self, attack: Attack) -> None:
        """No hidden randomness."""
        knowledge = game(n=20, shadows=6).knowledge
        np.testing.assert_array_equal(attack(knowledge), attack(knowledge))

    @pytest.mark.parametrize("model", ["target", "shadow"])
    def test_how_well_a_whole_model_fits_is_no_evidence(self, attack: Attack, model: str) -> None:
        """A constant on all signals of one model moves no score, if offsets are removed; else it does."""
        knowledge = game(n=40, shadows=6).knowledge
        shift = np.zeros(6)
        shift[2] = 5.0
        moved = (
            replace(knowledge, target=knowledge.target + 5.0)
            if model == "target"
            else replace(knowledge, shadow=knowledge.shadow + shift[:, None, None])
        )
        same = np.allclose(attack(moved), attack(knowledge), rtol=1e-9, atol=1e-9)
        removes = getattr(attack, "remove_offsets", None)
        reads_shadows = attack.min_shadows > 0
        assert same == (bool(removes) or (model == "shadow" and not reads_shadows))

    def test_too_few_shadows_are_refused_by_name(self, attack: Attack) -> None:
        """The error says which attack, how many it needs, how many there are."""
        knowledge = game(n=20, shadows=8).knowledge
        for count in range(attack.min_shadows):
            with pytest.raises(InputError) as error:
                attack(without_shadows(knowledge, count))
            assert repr(attack.name) in str(error.value)
            assert f"at least {attack.min_shadows}" in str(error.value)
            assert f"got {count}" in str(error.value)

    def test_shadows_that_all_trained_on_a_case_are_refused_by_name(self, attack: Attack) -> None:
        """No shadow is without case 3: nothing to compare it with."""
        knowledge = game(n=20, shadows=8).knowledge
        member = knowledge.shadow_member.copy()
        member[:, 3] = True
        lopsided = replace(knowledge, shadow_member=member)
        if attack.min_shadows == 0:
            np.testing.assert_array_equal(attack(lopsided), attack(knowledge))
        else:
            with pytest.raises(InputError, match="for 1 cases") as error:
                attack(lopsided)
            assert repr(attack.name) in str(error.value)

    def test_an_unknown_signal_is_refused_by_name(self, attack: Attack) -> None:
        """The error lists the signals that there are."""
        knowledge = replace(game(n=20, shadows=8).knowledge, signals=("a", "b", "c"))
        with pytest.raises(InputError, match=r"signal must be one of a, b, c, got '\w+'"):
            attack(knowledge)

    def test_the_targets_membership_is_out_of_sight(self, attack: Attack) -> None:
        """The same signals with all memberships of the target turned round give the same scores."""
        table = game(n=40, shadows=6).table
        member = table.member.copy()
        member[0] = ~member[0]
        turned = SignalTable(table.model_ids, table.case_ids, table.patient_ids, table.signals, member, table.values)
        np.testing.assert_array_equal(attack(turned.knowledge()), attack(table.knowledge()))


def knowledge_fields() -> set[str]:
    """Names of what the adversary is given."""
    return {item.name for item in fields(Knowledge)}
