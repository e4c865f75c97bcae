# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Audited epsilon: what an attack proves about the privacy of a training, from below.

Each bound is one-sided: with probability at least ``confidence`` over the audit, the training is not
(epsilon', delta)-differentially private for any epsilon' below it, patients being added or removed. Beside each stands
its ceiling, the bound that a perfect attack would have reached with as many patients.

Three kinds of evidence, and what each assumes:

- Counts at a threshold (:func:`epsilon_from_counts`, :func:`epsilon_lower_bound`): the scores are independent draws of
  members and non-members. Exact over many trainings. The patients of one trained model share its training, so that on
  a single model the bound is indicative.
- Guesses about the canaries of one training (:func:`one_run_epsilon`, :func:`canary_epsilon`): an independent fair coin
  decided the membership of each canary. Nothing else is assumed, so that one training is enough. Where exactly half of
  a cohort was drawn, the coins of a few canaries among many other patients are nearly independent; those of a cohort
  that is all canaries are not.
- The same with ``gaussian=True``: what is refuted is the Gaussian trade-off curve through (epsilon, delta), as of noise
  on gradients of the whole cohort, or of very many subsampled steps. It proves more, and is no bound for a mechanism of
  another kind.

Access: scores only. Cost: no shadow model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, floor, inf, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from scipy.optimize import brentq

from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.statistics.resampling import group_means
from monai_mia.statistics.roc import roc

__all__ = [
    "EpsilonBound",
    "at_least",
    "at_most",
    "audit_canaries",
    "audit_kinds",
    "canary_epsilon",
    "epsilon_ceiling",
    "epsilon_from_counts",
    "epsilon_from_rates",
    "epsilon_lower_bound",
    "epsilon_lower_bounds",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "mu_from_counts",
    "one_run_epsilon",
    "one_run_p_value",
]

#: Shares of the canaries that are guessed to be in, and as many out, unless the numbers are given.
_GUESSED = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)

#: A bound beyond this is reported as infinite.
_LARGEST = 1e4


@dataclass(frozen=True)
class EpsilonBound:
    """A lower bound on epsilon.

    Attributes:
        value: the bound; 0 proves nothing.
        delta: the delta of the guarantee that it refutes.
        confidence: probability that the bound holds, of several attacks' bounds that all of them hold.
        method: how the threshold or the number of guesses was chosen: ``split``, ``bonferroni``, ``one run``.
        ceiling: the bound that a perfect attack would have reached with as many patients.
        gaussian: whether it refutes a Gaussian trade-off curve only, not every (epsilon, delta) guarantee.
    """

    value: float
    delta: float
    confidence: float
    method: str
    ceiling: float
    gaussian: bool = False


# Counts at a threshold


def epsilon_from_rates(tpr: float, fpr: float, delta: float = 0.0) -> float:
    """Smallest epsilon that allows a test with these true rates (Kairouz, Oh and Viswanath, ICML 2015).

    Example:
        >>> round(epsilon_from_rates(0.9, 0.1), 6)  # ln 9
        2.197225
    """
    bounds = [0.0]
    for hit, alarm in ((tpr, fpr), (1 - fpr, 1 - tpr)):
        if hit - delta > 0:
            bounds.append(inf if alarm <= 0 else log((hit - delta) / alarm))
    return max(bounds)


def epsilon_from_counts(
    tp: int,
    n_member: int,
    fp: int,
    n_nonmember: int,
    delta: float = 0.0,
    confidence: float = 0.95,
    n_thresholds: int = 1,
    gaussian: bool = False,
) -> float:
    """Lower bound from the counts at a threshold that was fixed before looking, or at the best of ``n_thresholds``.

    One-sided Clopper-Pearson limits on both rates, each at half of the error left for one threshold
    (Jagielski, Ullman and Oprea, NeurIPS 2020).

    Args:
        tp: members called members.
        n_member: members.
        fp: non-members called members.
        n_nonmember: non-members.
        delta: the delta of the guarantee to refute, in [0, 1).
        confidence: probability that the bound holds, in (0, 1).
        n_thresholds: how many thresholds were tried.
        gaussian: refute a Gaussian trade-off curve: the largest mu that :func:`mu_from_counts` proves, at ``delta``
            (Nasr et al., USENIX Security 2023). Needs delta > 0.
    """
    if gaussian:
        return gdp_epsilon(mu_from_counts(tp, n_member, fp, n_nonmember, confidence, n_thresholds), delta)
    alpha = (1 - confidence) / (2 * n_thresholds)
    return epsilon_from_rates(1 - _upper(n_member - tp, n_member, alpha), _upper(fp, n_nonmember, alpha), delta)


def mu_from_counts(
    tp: int, n_member: int, fp: int, n_nonmember: int, confidence: float = 0.95, n_thresholds: int = 1
) -> float:
    """Lower bound on the mu of Gaussian differential privacy (Dong, Roth and Su, JRSS B 2022), from the same limits.

    A mu-private training allows no test with ``mu < Phi^-1(1 - FPR) - Phi^-1(FNR)``.
    """
    alpha = (1 - confidence) / (2 * n_thresholds)
    fpr, fnr = _upper(fp, n_nonmember, alpha), _upper(n_member - tp, n_member, alpha)
    return 0.0 if fpr >= 1 or fnr >= 1 else max(0.0, float(-special.ndtri(fpr) - special.ndtri(fnr)))


def _upper(successes: int, trials: int, alpha: float) -> float:
    """One-sided Clopper-Pearson limit of a proportion, from above."""
    return 1.0 if successes >= trials else float(special.betainccinv(successes + 1, trials - successes, alpha))


def epsilon_ceiling(
    n_member: int,
    n_nonmember: int,
    delta: float = 0.0,
    confidence: float = 0.95,
    n_thresholds: int = 1,
    gaussian: bool = False,
) -> float:
    """What a perfect attack could prove with this many patients, at one fixed threshold or the best of several."""
    return epsilon_from_counts(n_member, n_member, 0, n_nonmember, delta, confidence, n_thresholds, gaussian)


def epsilon_lower_bound(
    scores: ArrayLike,
    member: ArrayLike,
    method: Literal["split", "bonferroni"] = "split",
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    gaussian: bool = False,
) -> EpsilonBound:
    """Lower bound on epsilon from scores, one per patient, with a valid choice of the threshold.

    Args:
        scores: shape (N,), higher = more likely a member; units must be independent (patients, not cases).
        member: shape (N,), bool.
        method: ``split`` chooses the threshold on a random half of the patients and counts on the other half;
            ``bonferroni`` counts at every distinct score and divides the error by their number. The best of all
            thresholds without either would not be a bound, and is not offered.
        delta: the delta of the guarantee to refute.
        confidence: probability that the bound holds.
        seed: seed of the split.
        gaussian: refute a Gaussian trade-off curve only; needs delta > 0.
    """
    scores, member = _checked(scores, member)
    _enough(member)
    if method == "bonferroni":
        everyone = np.ones(len(scores), dtype=bool)
        thresholds = np.unique(scores)
        n = len(thresholds)
        counted = [_counts(scores, member, everyone, t) for t in thresholds]
        value = max(epsilon_from_counts(*counts, delta, confidence, n, gaussian) for counts in counted)
        ceiling = epsilon_ceiling(int(member.sum()), int((~member).sum()), delta, confidence, n, gaussian)
        return EpsilonBound(value, delta, confidence, method, ceiling, gaussian)
    if method != "split":
        raise InputError(f"method must be 'split' or 'bonferroni', got {method!r}.")
    return epsilon_lower_bounds(scores[None], member, delta, confidence, seed, gaussian)[0]


def epsilon_lower_bounds(
    scores: ArrayLike,
    member: ArrayLike,
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    gaussian: bool = False,
) -> list[EpsilonBound]:
    """Lower bounds on epsilon from K attacks on one training, which hold all at once: the largest is a bound, too.

    One random half of the patients chooses the threshold of each attack, and the attack that would prove the most
    there. That one is given half of the error, the others share the rest: Bonferroni with weights that the patients who
    are counted had no say in (Genovese, Roeder and Wasserman, Biometrika 2006). So trying many attacks costs the
    promising one little, and a bound of any other is still one.

    Args:
        scores: shape (K, N), higher = more likely a member; units must be independent (patients, not cases).
        member: shape (N,), bool.
        delta: the delta of the guarantee to refute.
        confidence: probability that all K bounds hold.
        seed: seed of the split.
        gaussian: refute a Gaussian trade-off curve only; needs delta > 0.

    Returns:
        K bounds, each beside the ceiling that its share of the error leaves. A single attack has all of the error, as
        in :func:`epsilon_lower_bound`.
    """
    member = np.asarray(member, dtype=bool)
    rows = [_checked(row, member)[0] for row in np.atleast_2d(np.asarray(scores, dtype=np.float64))]
    _enough(member)
    rng = stream(Stream.EPSILON_SPLIT, seed)
    choose = np.zeros(len(member), dtype=bool)
    for side in (member, ~member):
        units = np.flatnonzero(side)
        choose[rng.permutation(units)[: len(units) // 2]] = True
    chosen, promise = [], []
    for row in rows:
        tried = np.unique(row[choose])
        found = [epsilon_from_counts(*_counts(row, member, choose, t), delta, confidence, 1, gaussian) for t in tried]
        chosen.append(tried[int(np.argmax(found))])
        promise.append((max(found), float(roc(row[choose], member[choose]).auc)))
    best = max(range(len(rows)), key=lambda k: promise[k])
    sides = int((member & ~choose).sum()), int((~member & ~choose).sum())
    bounds = []
    for k, (row, threshold) in enumerate(zip(rows, chosen, strict=True)):
        share = 1.0 if len(rows) == 1 else 0.5 if k == best else 0.5 / (len(rows) - 1)
        own = 1 - (1 - confidence) * share
        value = epsilon_from_counts(*_counts(row, member, ~choose, threshold), delta, own, 1, gaussian)
        ceiling = epsilon_ceiling(*sides, delta, own, 1, gaussian)
        bounds.append(EpsilonBound(value, delta, confidence, "split", ceiling, gaussian))
    return bounds


def _counts(
    scores: NDArray[np.float64], member: NDArray[np.bool_], counted: NDArray[np.bool_], threshold: float
) -> tuple[int, int, int, int]:
    """Members called members, members, others called members, others: among those that are counted."""
    said, inside = scores[counted] >= threshold, member[counted]
    return int((said & inside).sum()), int(inside.sum()), int((said & ~inside).sum()), int((~inside).sum())


def _enough(member: NDArray[np.bool_]) -> None:
    if min(member.sum(), (~member).sum()) < 4:
        raise InputError(
            f"patients must be at least 4 on each side to bound epsilon, got {member.sum()} members "
            f"and {(~member).sum()} non-members."
        )


# Gaussian differential privacy


def gdp_delta(epsilon: float, mu: float) -> float:
    """Smallest delta for which a mu-Gaussian mechanism is (epsilon, delta)-private (Dong, Roth and Su, Corollary 2.13).

    Noise of ``sigma`` times the sensitivity, added T times, has ``mu = sqrt(T) / sigma``.

    Example:
        >>> round(gdp_delta(1.0, 1.0), 6)  # Phi(-1/2) - e Phi(-3/2)
        0.126937
    """
    if mu <= 0:
        return 0.0
    spent = exp(epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2)))
    return max(0.0, float(special.ndtr(-epsilon / mu + mu / 2)) - spent)


def gdp_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon for which a mu-Gaussian mechanism is (epsilon, delta)-private; delta in (0, 1).

    Example:
        >>> round(gdp_epsilon(1.0, 1e-5), 6)
        4.377178
    """
    if not 0 < delta < 1:
        raise InputError(f"delta must be in (0, 1) for a Gaussian bound, got {delta}. No Gaussian has delta 0.")
    return 0.0 if mu <= 0 else _zero(lambda epsilon: gdp_delta(epsilon, mu) - delta)


def gdp_mu(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism that is (epsilon, delta)-private and no better: inverse of :func:`gdp_epsilon`.

    Example:
        >>> round(gdp_mu(4.377178, 1e-5), 6)
        1.0
    """
    return _zero(lambda mu: epsilon - gdp_epsilon(mu, delta))


def _zero(excess: Callable[[float], float]) -> float:
    """Where a function that is positive below becomes negative; 0 if it never is positive, infinity if it stays so."""
    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > 0:
        low, high = high, 2 * high
        if high > _LARGEST:
            return inf
    return float(brentq(excess, low, high, xtol=1e-10))


# One run


def one_run_p_value(n_canaries: int, n_guesses: int, n_correct: int, epsilon: float, delta: float = 0.0) -> float:
    """Largest probability that so many guesses are right, were the training (epsilon, delta)-private.

    Theorem 5.2 of `Steinke, Nasr and Jagielski (2023) <https://arxiv.org/abs/2305.08846>`_.

    Args:
        n_canaries: canaries, each a member if its own fair coin said so.
        n_guesses: canaries about which a guess was made; the others were abstained from.
        n_correct: guesses that were right.
        epsilon: of the guarantee, at least 0.
        delta: of the guarantee, in [0, 1).

    Example:
        >>> round(one_run_p_value(20, 20, 20, 2.0), 7)  # (e^2 / (1 + e^2)) ** 20
        0.07898
    """
    _check_guesses(n_canaries, n_guesses, n_correct, delta)
    right = float(special.expit(epsilon))
    tail = float(stats.binom.sf(n_correct - 1, n_guesses, right))
    if delta == 0 or n_correct == 0:
        return min(1.0, tail)
    short = np.arange(1, n_correct + 1)
    missed = np.cumsum(stats.binom.pmf(n_correct - short, n_guesses, right))  # P[n_correct > Bin >= n_correct - short]
    return min(1.0, tail + 2 * n_canaries * delta * float(np.max(missed / short)))


def one_run_epsilon(
    n_canaries: int,
    n_guesses: int,
    n_correct: int,
    delta: float = 0.0,
    confidence: float = 0.95,
    gaussian: bool = False,
) -> EpsilonBound:
    """Lower bound on epsilon from guesses about the canaries of one training.

    The number of guesses is fixed before looking; :func:`canary_epsilon` corrects for a choice of several.

    Args:
        n_canaries: canaries, each a member if its own fair coin said so.
        n_guesses: canaries about which a guess was made; the others were abstained from.
        n_correct: guesses that were right.
        delta: the delta of the guarantee to refute, in [0, 1).
        confidence: probability that the bound holds, in (0, 1).
        gaussian: refute a Gaussian trade-off curve only (`Mahloujifar, Melis and Chaudhuri (2024)
            <https://arxiv.org/abs/2410.22235>`_), which proves more; needs delta > 0.

    Returns:
        The bound, beside what it would be were every guess right.

    Example:
        >>> bound = one_run_epsilon(100, 50, 48, delta=1e-5)
        >>> round(bound.value, 4), round(bound.ceiling, 4)
        (1.9853, 2.7819)
    """
    _check_guesses(n_canaries, n_guesses, n_correct, delta)
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence}.")
    value = _one_run(n_canaries, n_guesses, n_correct, delta, 1 - confidence, gaussian)
    ceiling = _one_run(n_canaries, n_guesses, n_guesses, delta, 1 - confidence, gaussian)
    return EpsilonBound(value, delta, confidence, "one run", ceiling, gaussian)


@lru_cache(maxsize=4096)
def _one_run(m: int, r: int, v: int, delta: float, alpha: float, gaussian: bool) -> float:
    if r == 0 or v == 0:
        return 0.0
    if gaussian:
        return gdp_epsilon(_zero(lambda mu: _curve_excess(m, r, v, mu, alpha)), delta)
    return _zero(lambda epsilon: alpha - one_run_p_value(m, r, v, epsilon, delta))


def _curve_excess(m: int, r: int, v: int, mu: float, alpha: float) -> float:
    """Positive if v of r right guesses on m canaries refute the trade-off curve of mu, at level alpha.

    Were they as likely as alpha, the curve would bound from below how often fewer guesses are right, in turn for
    v - 1, v - 2, ... Refuted if all that adds up to more guesses than were made.
    """
    right, wrong = alpha * v / m, alpha * (r - v) / m
    for i in range(v - 1, -1, -1):
        more = max(wrong, float(special.ndtr(special.ndtri(right) - mu)))
        if more == wrong:
            break
        right = min(1.0, right + i / (r - i) * (more - wrong))
        wrong = more
    return right + wrong - r / m


def canary_epsilon(
    scores: ArrayLike,
    member: ArrayLike,
    delta: float = 0.0,
    confidence: float = 0.95,
    guesses: Sequence[tuple[int, int]] | None = None,
    gaussian: bool = False,
    seed: int = 0,
) -> EpsilonBound:
    """Lower bound on epsilon from the scores of one training's canaries.

    The highest scores are guessed to be in, the lowest out, and about the others nothing is said. The error is divided
    by how many numbers of guesses were tried, and the best is taken. Within a tie chance decides, not the order
    of the canaries, which might give their membership away.

    Args:
        scores: shape (M,), higher = more likely a member; one for each canary patient.
        member: what the coins said, shape (M,), bool; independent and fair.
        delta: the delta of the guarantee to refute, in [0, 1).
        confidence: probability that the bound holds, in (0, 1).
        guesses: how many are guessed in and how many out, one pair or several; fixed before looking. By default seven
            shares of the canaries from 2 to 50 %, as many in as out.
        gaussian: refute a Gaussian trade-off curve only; needs delta > 0.
        seed: seed of the order within ties.
    """
    scores, member = _checked(scores, member)
    m = len(scores)
    if m < 2:
        raise InputError(f"canaries must be at least 2, got {m}.")
    tried = sorted({(max(1, int(m * share)),) * 2 for share in _GUESSED}) if guesses is None else list(guesses)
    for high, low in tried:
        if min(high, low) < 0 or not 0 < high + low <= m:
            raise InputError(f"guesses must be between 1 and {m} in all, got {high} in and {low} out of {m} canaries.")
    order = np.lexsort((stream(Stream.ONE_RUN_TIES, seed).random(m), scores))
    ranked = member[order]
    corrected = 1 - (1 - confidence) / len(tried)
    bounds = []
    for high, low in tried:
        correct = int(ranked[m - high :].sum()) + int((~ranked[:low]).sum())
        bounds.append(one_run_epsilon(m, high + low, correct, delta, corrected, gaussian))
    value, ceiling = max(bound.value for bound in bounds), max(bound.ceiling for bound in bounds)
    return EpsilonBound(value, delta, confidence, "one run", ceiling, gaussian)


def audit_canaries(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    canary: ArrayLike | None = None,
    delta: float = 1e-5,
    confidence: float = 0.95,
    guesses: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
) -> dict[str, EpsilonBound]:
    """Every bound that the canaries of one training allow, patient by patient, each beside its ceiling.

    Each bound holds with ``confidence`` on its own; the largest of four, picked afterwards, with less.

    Args:
        scores: of the cases, shape (N,), higher = more likely a member.
        member: whether the target trained on a case, shape (N,), bool.
        groups: the patient of each case, length N; a patient's scores are averaged.
        canary: which cases belong to canary patients, shape (N,), bool; by default all. One kind of canary at a time
            says which kind betrays itself.
        delta: the delta of the guarantee to refute, in (0, 1).
        confidence: probability that each bound holds.
        guesses: as in :func:`canary_epsilon`.
        seed: seed of splits and ties.

    Returns:
        ``one run`` and ``one run, Gaussian`` (valid on one training if coins decided), ``Clopper-Pearson`` and
        ``Clopper-Pearson, Gaussian`` (threshold chosen on half of the canaries; indicative on one training).
    """
    scores, member = _checked(scores, member)
    chosen = np.ones(len(scores), dtype=bool) if canary is None else np.asarray(canary, dtype=bool)
    patients = np.asarray(groups, dtype=np.str_)
    if chosen.shape != scores.shape or patients.shape != scores.shape:
        raise InputError(
            f"canary and groups must be of the shape of scores {scores.shape}, got {chosen.shape} and {patients.shape}."
        )
    if not chosen.any():
        raise InputError("canary must hold at least one case, got none. Add canary patients to the cohort.")
    for name, values in (("canary", chosen), ("member", member)):
        _, shares = group_means(values, groups)
        if ((shares > 0) & (shares < 1)).any():
            raise InputError(f"{name} must be the same for all cases of a patient, got patients with both.")
    kept = patients[chosen].tolist()
    pooled = group_means(scores[chosen], kept)[1]
    inside = group_means(member[chosen], kept)[1] > 0.5
    bounds = {}
    for suffix, gaussian in (("", False), (", Gaussian", True)):
        bounds["one run" + suffix] = canary_epsilon(pooled, inside, delta, confidence, guesses, gaussian, seed)
        bounds["Clopper-Pearson" + suffix] = epsilon_lower_bound(
            pooled, inside, "split", delta, confidence, seed, gaussian
        )
    return bounds


def audit_kinds(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    kinds: Sequence[str],
    delta: float = 1e-5,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, EpsilonBound]]:
    """:func:`audit_canaries` of each kind of canary; ``kinds`` tells it for each case, an empty text for no canary."""
    found = {}
    for kind in sorted(set(kinds) - {""}):
        chosen = np.array([other == kind for other in kinds])
        try:
            found[kind] = audit_canaries(scores, member, groups, chosen, delta, confidence, seed=seed)
        except InputError as error:
            raise InputError(f"canaries of kind {kind!r}: {error}") from error
    return found


def _check_guesses(n_canaries: int, n_guesses: int, n_correct: int, delta: float) -> None:
    if not 0 <= n_correct <= n_guesses <= n_canaries:
        raise InputError(
            "guesses must be 0 <= correct <= made <= canaries, got "
            f"{n_correct} correct of {n_guesses} made on {n_canaries} canaries."
        )
    if not 0 <= delta < 1:
        raise InputError(f"delta must be in [0, 1), got {delta}.")


def _checked(scores: ArrayLike, member: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    if scores.ndim != 1 or scores.shape != member.shape:
        raise InputError(f"scores and member must be of one shape (N,), got {scores.shape} and {member.shape}.")
    if not np.isfinite(scores).all():
        raise InputError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    return scores, member


def at_least(bound: float) -> str:
    """A lower bound on epsilon with two digits, rounded down, so that what is printed holds, too.

    Example:
        >>> at_least(0.577), at_least(0.57)
        ('0.57', '0.57')
    """
    return f"{floor(round(100 * bound, 6)) / 100:.2f}"


def at_most(bound: float) -> str:
    """An upper bound on epsilon with two digits, rounded up.

    Example:
        >>> at_most(7.991), at_most(7.99)
        ('8.00', '7.99')
    """
    return f"{ceil(round(100 * bound, 6)) / 100:.2f}"
