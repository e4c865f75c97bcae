# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The attacks that are checked. A new one costs one line in ``VARIANTS``; forgetting it fails a test."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product

from oracles import SIGNALS, Game

from monai_mia import attacks
from monai_mia.attacks import Attack
from monai_mia.attacks.adversary import AdversaryView

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
    attacks.LearnedCombination: [attacks.LearnedCombination(SIGNALS[:1], folds=2)],
}

#: Attacks with tests of their own, which a table alone cannot feed.
ELSEWHERE = {attacks.VoxelCalibration}

ALL = [attack for variants in VARIANTS.values() for attack in variants]


def exported_attacks() -> list[type]:
    """The classes in ``monai_mia.attacks.__all__`` that can be called with what the adversary knows."""
    classes = [item for item in (getattr(attacks, name) for name in attacks.__all__) if inspect.isclass(item)]
    return [
        item
        for item in classes
        if item not in (Attack, attacks.SignalAttack) and any("__call__" in vars(base) for base in item.__mro__)
    ]


def learns_the_sign(attack: Attack) -> bool:
    """Whether it reads from the shadows if members fit better or worse."""
    learner = isinstance(attack, attacks.LiRA | attacks.BaVarIA | attacks.MultivariateLiRA)
    learned = isinstance(attack, attacks.TopScores | attacks.LearnedCombination)
    return learned or (learner and "online" in attack.name)


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


def knowledge_fields() -> set[str]:
    """Names of what the adversary is given."""
    return {item.name for item in fields(AdversaryView)}
