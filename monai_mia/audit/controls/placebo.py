# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attack a model in the target's stead: what it remembers is not the target's membership."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_mia import statistics
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Attack
from monai_mia.audit.scoring import score_cases
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate

__all__ = ["Placebo", "PlaceboScores", "placebo", "placebo_scores", "within_sides"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placebo:
    """What the attack achieves against models in the target's stead.

    Attributes:
        attack: the attack: the best of those that could be carried out on the placebos.
        n_models: number of placebos.
        auc: share of the pairs of a target's member and non-member, both on one side of the placebo, in which the
            member scores higher, and its interval; 0.5 is chance.
        p_value: probability under permuted membership that it is as far from 0.5, the choice of the attack included.
        attack_minus: AUC of the audit's best attack minus this one, with its paired interval.
    """

    attack: str
    n_models: int
    auc: Estimate
    p_value: float
    attack_minus: Estimate

    def as_json(self) -> dict[str, Any]:
        """As ``permuted_membership`` of ``report.json`` has it."""
        return {
            "attack": self.attack,
            "n_models": self.n_models,
            **self.auc.named("auc"),
            "p_value": self.p_value,
            "attack_minus": self.attack_minus.as_json(),
        }


@dataclass(frozen=True)
class PlaceboScores:
    """Scores of A attacks on K placebos.

    Attributes:
        attacks: index of each of the A attacks among those of the audit.
        scores: shape (K, A, U), higher = more likely a member of the placebo.
        sides: whether a placebo trained on a unit, shape (K, U), bool.
    """

    attacks: tuple[int, ...]
    scores: Array
    sides: NDArray[np.bool_]


def placebo_scores(
    attacks: Sequence[Attack],
    table: SignalTable,
    target: str,
    shadows: Sequence[str],
    features: Array | None,
    real: NDArray[np.bool_],
    pool: Callable[[Array], Array],
    count: int,
    seed: int,
) -> PlaceboScores | None:
    """Attack up to ``count`` placebos for the target.

    Placebos are other targets of the table, then the last shadows, one of each complementary pair. A shadow is
    attacked by the shadows other than itself and its complement, whose members would give away its own. Attacks that
    read maps or need more shadows than are left are not carried out.

    Args:
        attacks: the audit's attacks.
        table: the signals of all N cases.
        target: the audited model.
        shadows: its shadows.
        features: image statistics, shape (N, F), or None.
        real: the cases that are no canaries, shape (N,), bool.
        pool: means of values of the real cases over units.
        count: how many placebos at most.
        seed: seed of folds, as in :func:`~monai_mia.audit.scoring.score_cases`.

    Returns:
        The scores, or None if there is no placebo or no attack for it.
    """
    found = _placebos(table, target, shadows)[:count]
    fewest = min((len(others) for _, others in found), default=0)
    chosen = [k for k, a in enumerate(attacks) if a.min_shadows <= fewest and not getattr(a, "needs_maps", False)]
    if not found or not chosen:
        return None
    scores, sides = [], []
    for model, others in found:
        view = replace(AdversaryView.of(table, model, others), features=features)
        member = table.members(model)
        scores.append([pool(score_cases(attacks[k], view, member | ~real, seed)[real]) for k in chosen])
        sides.append(pool(member[real].astype(np.float64)) > 0.5)
    return PlaceboScores(tuple(chosen), np.array(scores), np.array(sides))


def _placebos(table: SignalTable, target: str, shadows: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Models whose members say nothing of the target's, each with the shadows that are left to attack it."""
    other_targets = [model for model in table.model_ids if model != target and model not in shadows]
    found = [(model, list(shadows)) for model in other_targets]
    used: set[str] = set()
    for model in reversed(shadows):
        member = table.members(model)
        linked = {s for s in shadows if np.array_equal(table.members(s), ~member)} | {model}
        if not linked & used:
            found.append((model, [other for other in shadows if other not in linked]))
            used |= linked
    return found


def placebo(
    found: PlaceboScores,
    names: Sequence[str],
    scores: Array,
    permuted_aucs: Array,
    member: NDArray[np.bool_],
    permuted: NDArray[np.bool_],
    weights: Array,
    lead: Callable[[float, Array], Estimate],
    estimate_auc: Callable[[float, Array], Estimate],
) -> Placebo:
    """Join the scores on the placebos with the target's membership: nothing may come out.

    The attack is the one with the highest AUC against the target among those at hand. Under permuted membership it is
    chosen anew, so that the choice, which has seen the membership, is allowed for.

    Args:
        found: the scores on the placebos, in U units.
        names: names of the audit's attacks.
        scores: their scores on the target, shape (all attacks, U).
        permuted_aucs: their AUCs against the target under P permuted memberships, shape (P, all attacks).
        member: the target's membership, shape (U,).
        permuted: the permuted memberships, shape (P, U).
        weights: bootstrap weights, shape (B, U).
        lead: the AUC of the audit's best attack over a number, with its interval, from the number and its resamples.
        estimate_auc: the same of an AUC against the target.
    """
    usable = list(found.attacks)
    best = int(np.argmax([statistics.roc(row, member).auc for row in scores[usable]]))
    choices = np.argmax(permuted_aucs[:, usable], axis=1)
    chance = np.empty(len(permuted))
    for k in np.unique(choices):
        rows = choices == k
        chance[rows] = within_sides(found.scores[:, k], found.sides, permuted[rows])
    auc = float(within_sides(found.scores[:, best], found.sides, member[None])[0])
    samples = within_sides(found.scores[:, best], found.sides, member[None], weights)
    return Placebo(
        attack=names[usable[best]],
        n_models=len(found.sides),
        auc=estimate_auc(auc, samples),
        p_value=float((1 + (abs(chance - 0.5) >= abs(auc - 0.5) - 1e-12).sum()) / (1 + len(chance))),
        attack_minus=lead(auc, samples),
    )


def within_sides(scores: Array, sides: ArrayLike, member: NDArray[np.bool_], weights: Array | None = None) -> Array:
    """AUC of pairs that a model treated alike: both in its training, or both not.

    A model's scores go with its own membership, and in a finite draw two memberships go together a little. Pairs within
    one side of the model leave that out, so that one half is expected exactly, whatever the overlap.

    Args:
        scores: of K models, shape (K, N).
        sides: whether each model trained on a unit, shape (K, N), bool.
        member: memberships to tell, shape (B, N), bool, or one of them, shape (1, N), with ``weights``.
        weights: how often each unit occurs in each resample, shape (B, N); by default once.

    Returns:
        Shape (B,): share of the pairs, over all K models, in which the member scores higher; ties count one half. 0.5
        where there is no pair.

    Example:
        >>> member = np.array([[True, False, True, False]])
        >>> scores = np.array([[5.0, 4.0, 1.0, 2.0]])  # a member of the model scores high
        >>> within_sides(scores, [[True, True, False, False]], member).tolist()
        [0.5]
    """
    sides = np.asarray(sides, dtype=bool)
    alike = (sides[:, :, None] == sides[:, None, :]).astype(np.float64)
    higher = np.sign(scores[:, :, None] - scores[:, None, :]) / 2 + 0.5
    wins, pairs = (alike * higher).sum(axis=0), alike.sum(axis=0)
    ones = np.ones((1, member.shape[1])) if weights is None else weights
    inside, outside = member * ones, ~member * ones
    won, of = (((inside @ matrix) * outside).sum(axis=1) for matrix in (wins, pairs))
    return np.where(of > 0, won / np.where(of > 0, of, 1), 0.5)
