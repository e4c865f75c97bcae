# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Claims of membership whose expected share of false ones is bounded, from patients known to be non-members.

A score says who is more likely a member; a claim says that someone is one. Known non-members, such as patients who
were scanned after the training, say how high a non-member's score can be. The conformal p-value of a patient is the
share of them, itself counted, that score as high. The procedure of Benjamini and Hochberg then claims as many patients
as it can while the expected share of false claims, the false discovery rate, stays at most ``q`` times the share of
non-members among the scored. Where many of the scored are members, ``adaptive`` spends what that leaves of ``q``.

Assumption: known and unknown non-members are exchangeable. They come from the same population, and no score was fitted
to who is known to be a non-member (an audit's attacks see other known non-members than those it scores). The scores
may come from any attack.

Source: `Bates, Candes, Lei, Romano and Sesia (Annals of Statistics 2023) <https://arxiv.org/abs/2104.08279>`_:
conformal p-values that share their calibration depend positively on each other (PRDS), for which Benjamini and
Hochberg (1995) is valid; `Marandon, Lei, Mary and Roquain (Annals of Statistics 2024)
<https://arxiv.org/abs/2208.06685>`_ for the adaptive form, with the estimate of Storey. Access: scores only. Cost: no
shadow model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.statistics.estimate import Estimate, Resampling
from monai_mia.statistics.resampling import group_means
from monai_mia.statistics.roc import clopper_pearson

__all__ = [
    "Claims",
    "ClaimsEvaluation",
    "claimed_members",
    "conformal_p_values",
    "evaluate_claims",
    "fewest_claims",
    "min_nonmembers",
]

Array = NDArray[np.float64]

#: Rounding of the products and quotients that a p-value at exactly its bound goes through.
_ROUNDING = 1e-9

#: Splits of the non-members in each resample of the patients.
_SPLITS_A_RESAMPLE = 5


@dataclass(frozen=True)
class Claims:
    """Who is claimed to be a member.

    Attributes:
        claimed: shape (N,), bool.
        p_values: of the hypothesis that a patient is a non-member, shape (N,).
        q_values: smallest ``q`` at which a patient would be claimed, shape (N,), in (0, 1].
        q: bound on the expected share of false claims.
        nonmember_share: estimated share of non-members among the scored, or 1 if the claims do not rely on one.
        n_nonmember: known non-members.
        fewest: what the known non-members resolve: fewer patients than this cannot be claimed at ``q``, however high
            they score.
    """

    claimed: NDArray[np.bool_]
    p_values: Array
    q_values: Array
    q: float
    nonmember_share: float
    n_nonmember: int
    fewest: int

    @property
    def n_claims(self) -> int:
        """How many are claimed."""
        return int(self.claimed.sum())


@dataclass(frozen=True)
class ClaimsEvaluation:
    """What an attack's claims would have been worth, by patients whose membership is known.

    Numbers are means over many splits of the non-members into those who calibrate and those who are scored among the
    members: one split alone says 0 or a half, as chance has it. Intervals are of these means, over other patients of
    the same kind (a bootstrap by patient, with five new splits in each resample). They need not hold what a single
    adversary, who has one split, achieves.

    Attributes:
        q: bound on the expected share of false claims.
        n_member: members that were scored.
        n_nonmember: non-members that were scored.
        n_calibration: non-members that were known.
        n_splits: splits that the means are taken over.
        fewest: fewer patients than this cannot be claimed, in half of the splits.
        n_claims: mean number of claims.
        false_share: mean share of false claims among the claims, 0 where nobody is claimed; what ``q`` bounds.
        tpr: mean share of the members who were claimed.
    """

    q: float
    n_member: int
    n_nonmember: int
    n_calibration: int
    n_splits: int
    fewest: int
    n_claims: Estimate
    false_share: Estimate
    tpr: Estimate

    def as_json(self) -> dict[str, Any]:
        """As ``claims`` of ``report.json`` has it: a number with an interval has its own key, and one with ``_ci``."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            found |= value.named(name) if isinstance(value, Estimate) else {name: value}
        return found


def conformal_p_values(scores: ArrayLike, nonmember_scores: ArrayLike, seed: int | None = None) -> Array:
    """Share of the known non-members, and of the patient itself, who score at least as high.

    Args:
        scores: shape (N,), finite, higher = more likely a member.
        nonmember_scores: of the known non-members, shape (K,), on the same scale.
        seed: where given, chance decides how many of those who tie count, itself included. P-values are then exactly
            uniform for non-members; else they are too large where scores tie.

    Returns:
        P-values of being a non-member, shape (N,), in (0, 1].

    Example:
        >>> conformal_p_values([0.5, 9.0], [1.0, 0.2, 0.1]).tolist()
        [0.5, 0.25]
    """
    scores, known = _finite(scores, "scores"), np.sort(_finite(nonmember_scores, "nonmember_scores"))
    if not len(known):
        raise InputError("nonmember_scores must hold at least one known non-member, got none.")
    as_high = len(known) - np.searchsorted(known, scores, side="left")
    if seed is None:
        return np.asarray((1 + as_high) / (1 + len(known)))
    higher = len(known) - np.searchsorted(known, scores, side="right")
    share = 1 - stream(Stream.CONFORMAL_TIES, seed).random(len(scores))  # in (0, 1]
    return np.asarray((higher + share * (1 + as_high - higher)) / (1 + len(known)))


def fewest_claims(n_scored: float, n_nonmember: int, q: float = 0.1) -> int:
    """How many patients have to be claimed at once for any to be: no p-value is below 1 / (known non-members + 1).

    Example:
        >>> fewest_claims(n_scored=100, n_nonmember=99, q=0.1)
        10
    """
    _check(q)
    return max(1, ceil(n_scored / (q * (n_nonmember + 1)) - _ROUNDING))


def min_nonmembers(n_scored: float, q: float = 0.1, n_claims: int = 1) -> int:
    """How many known non-members it takes to claim as few as ``n_claims`` of ``n_scored`` patients.

    Example:
        >>> min_nonmembers(n_scored=100, q=0.1)
        999
    """
    _check(q)
    return max(1, ceil(n_scored / (q * n_claims) - _ROUNDING) - 1)


def claimed_members(
    scores: ArrayLike,
    nonmember_scores: ArrayLike,
    q: float = 0.1,
    adaptive: bool = False,
    seed: int | None = None,
) -> Claims:
    """The patients who can be claimed to be members while the expected share of false claims stays at most ``q``.

    Args:
        scores: of those whose membership is unknown, shape (N,), higher = more likely a member. One for each patient:
            the mean of a patient's cases (:func:`monai_mia.statistics.group_means`).
        nonmember_scores: of the known non-members, shape (K,), one for each patient, on the same scale.
        q: bound, in (0, 1).
        adaptive: estimate the share of non-members among the scored (from the p-values above one half) and divide ``q``
            by it: more claims where many are members, fewer where none is.
        seed: seed of the order within ties, as in :func:`conformal_p_values`; by default ties count against a claim.

    Raises:
        InputError: where so few non-members are known that nobody could be claimed, whatever the scores.
    """
    p_values = conformal_p_values(scores, nonmember_scores, seed)
    n, known = len(p_values), np.size(nonmember_scores)
    if not n:
        raise InputError("scores must hold at least one patient, got none.")
    least = 2.0 if adaptive else float(n)  # non-members that cannot be ruled out among the scored
    if fewest_claims(least, known, q) > n:
        raise InputError(
            f"nonmember_scores must be at least {min_nonmembers(least, q, n)} known non-members for any claim at "
            f"q = {q:g}, got {known}. Add patients known to be non-members, or raise q."
        )
    half = ((known + 1) // 2) / (known + 1)  # a value that p-values take
    share = float((1 + (p_values > half).sum()) / (n * (1 - half))) if adaptive else 1.0
    q_values = np.minimum(1.0, share * _adjusted(p_values))
    claimed = np.asarray(q_values <= q * (1 + _ROUNDING))
    return Claims(claimed, p_values, q_values, q, share, known, fewest_claims(share * n, known, q))


def evaluate_claims(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    q: float = 0.1,
    seed: int = 0,
    adaptive: bool = False,
    calibration: float = 0.5,
    n_splits: int = 200,
    confidence: float = 0.95,
    n_resamples: int = 400,
    reach: float = 1.0,
) -> ClaimsEvaluation:
    """What the claims of an attack would be worth: some non-members are known, the others hide among the members.

    Args:
        scores: of the cases, shape (N,), higher = more likely a member.
        member: whether the target trained on a case, shape (N,), bool.
        groups: the patient of each case, length N. A patient's scores are averaged; nobody is split.
        q: bound on the expected share of false claims, in (0, 1).
        seed: seed of splits and resamples.
        adaptive: as in :func:`claimed_members`.
        calibration: share of the non-members that are known, in (0, 1).
        n_splits: splits that the means are taken over.
        confidence: coverage of the intervals.
        n_resamples: resamples of patients behind the intervals, each with splits of its own.
        reach: of an attack that was chosen for its AUC, how many times as far down its interval reaches; see
            :func:`~monai_mia.statistics.reach_of_best`. What goes with the AUC is chosen no more sharply than that.

    Raises:
        InputError: where the known non-members are too few for any claim at ``q``, or none is left to be scored.
    """
    scores = _finite(scores, "scores")
    names, pooled = group_means(scores, groups)
    sides = group_means(np.asarray(member, dtype=bool), groups)[1]
    if ((sides > 0) & (sides < 1)).any():
        raise InputError("member must be the same for all cases of a patient, got patients with both.")
    if not 0 < calibration < 1:
        raise InputError(f"calibration must be in (0, 1), got {calibration}.")
    for name, count in (("n_splits", n_splits), ("n_resamples", n_resamples)):
        if count < 1:
            raise InputError(f"{name} must be at least 1, got {count}.")
    inside = sides == 1
    n_member, n_others = int(inside.sum()), int((~inside).sum())
    n_known = min(floor(calibration * n_others + 0.5), n_others - 1)
    if n_known < 1 or not n_member:
        raise InputError(
            f"patients must be at least 1 member and 2 non-members to evaluate claims, got {n_member} and {n_others}."
        )
    resampling = Resampling(confidence, n_resamples, seed)
    known = _splits(~inside, n_known, n_splits, stream(Stream.CLAIM_SPLITS, seed))
    claimed_members(pooled[~known[0]], pooled[known[0]], q, adaptive)  # refuses what could claim nobody
    made, false, shares = _claims_by_split(pooled, inside, known, None, q, adaptive)
    weights = np.repeat(resampling.weights(inside, names.tolist()), _SPLITS_A_RESAMPLE, axis=0)
    known = _splits(~inside, n_known, len(weights), stream(Stream.CLAIM_RESAMPLES, seed))
    for part in (known, ~inside & ~known):  # in each resample as many know and hide as in truth
        weights = np.where(part, weights * part.sum(axis=1, keepdims=True) / _totals(weights * part), weights)
    drawn = [
        values.reshape(n_resamples, _SPLITS_A_RESAMPLE)
        for values in _claims_by_split(pooled, inside, known, weights, q, adaptive)[:2]
    ]
    n_scored = n_member + n_others - n_known
    n_claims, n_false, tpr = float(made.mean()), float(false.mean()), float((made - false).mean() / n_member)
    wrong = round(n_false), max(round(n_claims), round(n_false))
    exact = clopper_pearson(*wrong, confidence) if wrong[1] else (0.0, 1.0)
    share_false = float((false / np.maximum(1, made)).mean())
    tprs = (drawn[0] - drawn[1]).mean(axis=1) / n_member
    false_shares = (drawn[1] / np.maximum(1, drawn[0])).mean(axis=1)
    return ClaimsEvaluation(
        q=q,
        n_member=n_member,
        n_nonmember=n_others - n_known,
        n_calibration=n_known,
        n_splits=n_splits,
        fewest=int(np.median([fewest_claims(share * n_scored, n_known, q) for share in shares])),
        n_claims=_holding(resampling.estimate(n_claims, _about(n_claims, drawn[0].mean(axis=1)), reach), n_scored),
        false_share=_holding(resampling.estimate(share_false, _about(share_false, false_shares)).wider(exact)),
        tpr=_holding(resampling.proportion(tpr, _about(tpr, tprs), n_member, reach)),
    )


def _splits(others: NDArray[np.bool_], n_known: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of the non-members are known, in so many random splits, shape (count, U)."""
    dealt = rng.permuted(np.tile(np.flatnonzero(others), (count, 1)), axis=1)[:, :n_known]
    known = np.zeros((count, len(others)), dtype=bool)
    np.put_along_axis(known, dealt, True, axis=1)
    return known


def _totals(weights: Array) -> Array:
    """Sums of the rows, and 1 instead of 0, shape (R, 1)."""
    sums = weights.sum(axis=1, keepdims=True)
    return np.asarray(np.where(sums > 0, sums, 1.0))


def _about(value: float, samples: Array) -> Array:
    """Resamples moved to have the number as their mean: copies of a patient, who tie, let the procedure claim more."""
    return np.asarray(samples - samples.mean() + value)


def _holding(found: Estimate, most: float = 1.0) -> Estimate:
    """With an interval that holds the number itself, and nothing that is impossible."""
    return Estimate(found.value, max(0.0, min(found.low, found.value)), min(most, max(found.high, found.value)))


def _claims_by_split(
    pooled: Array, inside: NDArray[np.bool_], known: NDArray[np.bool_], weights: Array | None, q: float, adaptive: bool
) -> tuple[Array, Array, Array]:
    """:func:`claimed_members` of R splits at once, each patient as often as its weight says.

    Args:
        pooled: scores of the U patients, shape (U,).
        inside: who is a member, shape (U,).
        known: who calibrates, shape (R, U).
        weights: how often each patient occurs, shape (R, U); by default once.
        q: bound on the expected share of false claims.
        adaptive: estimate the share of non-members among the scored.

    Returns:
        Claims, false claims, and the share of non-members that the claims rely on, each of shape (R,).
    """
    order = np.argsort(-pooled, kind="stable")
    last = np.append(np.flatnonzero(np.diff(pooled[order])), len(pooled) - 1)  # last patient of each tie
    inside, known = inside[order], known[:, order]
    ones = np.ones((1, len(pooled))) if weights is None else weights[:, order]
    calibrating, scored, true = (np.cumsum(ones * which, axis=1)[:, last] for which in (known, ~known, inside))
    n_known, n = calibrating[:, -1:], scored[:, -1:]
    p_values = (1 + calibrating) / (1 + n_known)
    share = np.ones((len(n_known), 1))
    if adaptive:
        half = ((np.rint(n_known) + 1) // 2) / (n_known + 1)
        below = np.where(p_values <= half + _ROUNDING, scored, 0).max(axis=1, keepdims=True)
        share = (1 + n - below) / (n * (1 - half))
    enough = (scored > 0) & (share * p_values * n <= q * (1 + _ROUNDING) * scored)
    made, right = (np.where(enough, counts, 0).max(axis=1) for counts in (scored, np.broadcast_to(true, scored.shape)))
    return made, made - right, share[:, 0]


def _adjusted(p_values: Array) -> Array:
    """Smallest level at which Benjamini and Hochberg reject each; scipy's own takes five times as long."""
    order = np.argsort(p_values)
    ratios = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum.accumulate(ratios[::-1])[::-1]
    return adjusted


def _finite(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(
            f"{name} must be a row of finite numbers, got shape {array.shape} with "
            f"{int((~np.isfinite(array)).sum())} that are not finite."
        )
    return array


def _check(q: float) -> None:
    if not 0 < q < 1:
        raise InputError(f"q must be in (0, 1), got {q}.")
