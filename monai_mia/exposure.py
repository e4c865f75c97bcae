# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Exposure of individuals: how often and how surely each patient is found, over many models.

Every model of a table takes its turn as the target, and the others are its shadows. A patient is a member of about half
of the models: in how many of those is he found? The turns in which he was no member are the null: what is found there
is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monai_mia import statistics
from monai_mia.attacks import RMIA, Attack
from monai_mia.attacks.attack import missing_maps
from monai_mia.disclosure import MIN_CELL
from monai_mia.errors import InputError
from monai_mia.scoring import score_cases
from monai_mia.table import Maps, SignalTable

__all__ = ["Exposure", "ExposureResult", "Reliability", "SideExposure", "found_at", "turns"]

Array = NDArray[np.float64]
Interval = tuple[float, float]
Rate = tuple[float, Interval]

#: Signals that the default attack reads, the first that was recorded.
_SIGNALS = ("soft_dice", "log_likelihood", "dice")


@dataclass(frozen=True)
class Reliability:
    """Whether the same patients stand out in two disjoint halves of the models.

    A half's models are attacked with that half's shadows alone, so that the halves share nothing but the patients.

    Attributes:
        correlation: Spearman's correlation of the patients' certainty in the two halves, in [-1, 1]; 0 if nobody
            stands out beyond chance.
        interval: by resampling patients.
        p_value: one-sided, by permuting the patients of one half.
        full: the correlation stepped up to all models (Spearman and Brown 1910); 0 where the correlation is negative.
        n_patients: patients with a turn in both halves.
        n_models: models in each half.
    """

    correlation: float
    interval: Interval
    p_value: float
    full: float
    n_patients: int
    n_models: tuple[int, int]


@dataclass(frozen=True)
class SideExposure:
    """Exposure of patients over the turns in which they were members, or over those in which they were not.

    Attributes:
        side: ``members`` or ``nonmembers``.
        n_turns: for each patient, the turns on this side, shape (U,).
        rate: for each patient, the share of these turns in which he is found, shape (U,); NaN without a turn; private.
        certainty: for each patient, the mean of 1 - FPR at which he is found, shape (U,), in [0, 1]; private.
        found: mean rate over patients, and its interval.
        certain: mean certainty over patients, and its interval; 0.5 if scores say nothing.
        always: share of patients who are found in every turn, and its interval.
        always_expected: what it would be if all patients of a model were equally easy to find, and turns independent;
            they share their shadows, which makes the tail of equal patients a little shorter under an online attack.
        never: share of patients who are found in no turn, and its interval.
        never_expected: what it would be.
        histogram: share of patients with a rate in each tenth of [0, 1], 10 numbers; the last includes 1.
        histogram_expected: what they would be.
        reliability: whether the same patients stand out again; None where the models are too few to be halved.
    """

    side: str
    n_turns: NDArray[np.int64]
    rate: Array
    certainty: Array
    found: Rate
    certain: Rate
    always: Rate
    always_expected: float
    never: Rate
    never_expected: float
    histogram: tuple[float, ...]
    histogram_expected: tuple[float, ...]
    reliability: Reliability | None


@dataclass(frozen=True)
class ExposureResult:
    """Exposure of all patients.

    Attributes:
        attack: name of the attack.
        fpr: whoever is found at this FPR counts as found.
        models: models that took their turn.
        patient_ids: the U patients, sorted; private.
        members: over the turns in which a patient was a member.
        nonmembers: over the others: the null.
        confidence: coverage of the intervals.
    """

    attack: str
    fpr: float
    models: tuple[str, ...]
    patient_ids: tuple[str, ...]
    members: SideExposure
    nonmembers: SideExposure
    confidence: float


@dataclass(frozen=True)
class Exposure:
    """How exposed each patient is, over all models.

    Attributes:
        attack: carried out on every model with the others as shadows; by default online RMIA on ``soft_dice`` (or
            ``log_likelihood``, or ``dice``, whichever was recorded).
        fpr: a patient is found where no more than this share of the model's (other) non-members score as high.
        covariates: columns of the datalist that exposure may go with; by default all of them.
        min_cell: smallest number of patients of whom anything apart from the others is told in ``report/``.
        neighbours: the rarity of a patient is the mean distance to so many nearest other patients.
        confidence: coverage of the intervals, which resample patients.
        n_resamples: bootstrap resamples.
        n_permutations: permutations of each test.
        seed: of halves, resamples and permutations.
    """

    attack: Attack | None = None
    fpr: float = 0.05
    covariates: Sequence[str] | None = None
    min_cell: int = MIN_CELL
    neighbours: int = 5
    confidence: float = 0.95
    n_resamples: int = 2000
    n_permutations: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that no exposure could be measured with."""
        for option in ("fpr", "confidence"):
            if not 0 < getattr(self, option) < 1:
                raise InputError(f"{option} must be in (0, 1), got {getattr(self, option)}.")
        for option in ("min_cell", "neighbours", "n_resamples", "n_permutations"):
            if getattr(self, option) < 1:
                raise InputError(f"{option} must be at least 1, got {getattr(self, option)}.")

    def measure(
        self,
        table: SignalTable,
        features: Array | None = None,
        maps: Callable[[str, Sequence[str]], Maps] | None = None,
    ) -> ExposureResult:
        """Attack every model of a table and count who is found.

        Args:
            table: signals of at least two models; canaries should be left out.
            features: image statistics, shape (N, F), for attacks that read them.
            maps: gives the maps of a target and its shadows, for attacks that read them.

        Raises:
            InputError: too few models for the attack, or too few non-members for the FPR.
        """
        attack = self.attack_on(table)
        patients, scores, member = self._turns(attack, table, features, maps)
        for model, row in zip(table.model_ids, member, strict=True):
            if statistics.resolution(row) > self.fpr + 1e-12:
                raise InputError(
                    f"fpr must be at least the resolution of each model, got {self.fpr:g} and {int((~row).sum())} "
                    f"non-members of {model!r}. Raise it, or give a larger cohort."
                )
        at = np.stack([found_at(row, side) for row, side in zip(scores, member, strict=True)])
        halves: list[tuple[Array, NDArray[np.bool_]]] = []
        for half in _halves(table.member, self.seed):
            fewest = min((len(_rivals(table.member[half], k)) for k in range(len(half))), default=0)
            if fewest < max(1, attack.min_shadows):
                halves = []
                break
            part = replace(
                table,
                model_ids=tuple(table.model_ids[m] for m in half),
                member=table.member[half],
                values=table.values[half],
            )
            _, found, side = self._turns(attack, part, features, maps)
            halves.append((np.stack([found_at(*pair) for pair in zip(found, side, strict=True)]), side))
        members = self._side("members", at, member, halves)
        nonmembers = self._side("nonmembers", at, ~member, [(found, ~side) for found, side in halves])
        return ExposureResult(attack.name, self.fpr, table.model_ids, patients, members, nonmembers, self.confidence)

    def attack_on(self, table: SignalTable) -> Attack:
        """The attack: the one given, or the default one on the first signal that was recorded."""
        if self.attack is not None:
            return self.attack
        known = [signal for signal in _SIGNALS if signal in table.signals]
        if not known:
            raise InputError(
                f"signals must have one of {', '.join(_SIGNALS)} for the default attack, got "
                f"{', '.join(table.signals)}. Name another attack."
            )
        return RMIA(known[0])

    def _turns(
        self,
        attack: Attack,
        table: SignalTable,
        features: Array | None,
        maps: Callable[[str, Sequence[str]], Maps] | None,
    ) -> tuple[tuple[str, ...], Array, NDArray[np.bool_]]:
        """The patients, and scores and memberships of each turn by patient, shape (M, U) each."""
        scores = turns(attack, table, features, maps, self.seed)
        names = np.unique(np.asarray(table.patient_ids, dtype=np.str_))
        member = statistics.means_by_group(table.member, table.patient_ids) > 0.5
        return tuple(map(str, names)), statistics.means_by_group(scores, table.patient_ids), member

    def _side(
        self, name: str, at: Array, inside: NDArray[np.bool_], halves: Sequence[tuple[Array, NDArray[np.bool_]]]
    ) -> SideExposure:
        """One side's turns: ``at`` has the FPRs, ``inside`` which turns count, shape (M, U) each."""
        found = at <= self.fpr + 1e-12
        n_turns = inside.sum(axis=0)
        present = n_turns > 0
        rate, certainty = _mean_of_turns(found, inside), _mean_of_turns(1 - at, inside)
        if present.sum() < self.min_cell:
            raise InputError(f"patients must be at least {self.min_cell} as {name}, got {int(present.sum())}.")
        weights = self._weights(len(n_turns)) * present
        chance = np.array([found[m, row].mean() if row.any() else 0.0 for m, row in enumerate(inside)])
        expected = [_counts(chance[inside[:, u]]) for u in np.flatnonzero(present)]
        bins = np.array([np.bincount(_tenth(np.arange(len(p)) / (len(p) - 1)), p, 10) for p in expected])
        shares = [np.where(present, values, 0.0) for values in (rate, certainty, rate >= 1, rate <= 0)]
        means = [(float(v[present].mean()), self._interval((weights @ v) / weights.sum(axis=1))) for v in shares]
        n = int(present.sum())
        for k in (2, 3):  # shares of patients, which a bootstrap gives no width at 0 and 1
            value, (low, high) = means[k]
            exact = statistics.clopper_pearson(round(value * n), n, self.confidence)
            means[k] = value, (min(low, exact[0]), max(high, exact[1]))
        return SideExposure(
            side=name,
            n_turns=n_turns,
            rate=rate,
            certainty=certainty,
            found=means[0],
            certain=means[1],
            always=means[2],
            always_expected=float(np.mean([p[-1] for p in expected])),
            never=means[3],
            never_expected=float(np.mean([p[0] for p in expected])),
            histogram=tuple((np.bincount(_tenth(rate[present]), minlength=10) / present.sum()).tolist()),
            histogram_expected=tuple(bins.mean(axis=0).tolist()),
            reliability=self._reliability(halves),
        )

    def _reliability(self, halves: Sequence[tuple[Array, NDArray[np.bool_]]]) -> Reliability | None:
        if not halves:
            return None
        kept: NDArray[np.bool_] = np.all([inside.any(axis=0) for _, inside in halves], axis=0)
        n = int(kept.sum())
        if n < self.min_cell:
            return None
        first, second = (_mean_of_turns(1 - at, inside)[kept] for at, inside in halves)
        value = float(correlations(first[None], second[None])[0])
        rng = np.random.default_rng([self.seed, 0, 0, 12])
        dealt = rng.permuted(np.tile(second, (self.n_permutations, 1)), axis=1)
        chance = correlations(np.tile(first, (self.n_permutations, 1)), dealt)
        drawn = rng.integers(n, size=(self.n_resamples, n))
        return Reliability(
            correlation=value,
            interval=self._interval(correlations(first[drawn], second[drawn])),
            p_value=float((1 + (chance >= value - 1e-12).sum()) / (1 + self.n_permutations)),
            full=max(0.0, 2 * value / (1 + value)) if value > -1 else 0.0,
            n_patients=n,
            n_models=(len(halves[0][0]), len(halves[1][0])),
        )

    def _weights(self, n: int) -> Array:
        """How often each of n patients occurs in each resample, shape (B, n)."""
        rng = np.random.default_rng([self.seed, 0, 0, 11])
        return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=self.n_resamples), dtype=np.float64)

    def _interval(self, samples: Array) -> Interval:
        return statistics.percentiles(samples, self.confidence)


def turns(
    attack: Attack,
    table: SignalTable,
    features: Array | None = None,
    maps: Callable[[str, Sequence[str]], Maps] | None = None,
    seed: int = 0,
) -> Array:
    """Scores of all cases with each model in turn as the target, shape (M, N); higher = more likely its member.

    The shadows are the other models but the target's complement, if there is one: its absence from those who trained on
    a case, or its presence, would tell the target's members.

    Args:
        attack: the attack.
        table: signals of M models.
        features: image statistics, shape (N, F), for attacks that read them.
        maps: gives the maps of a target and its shadows, for attacks that read them.
        seed: seed of folds, as in :func:`~monai_mia.scoring.score_cases`.

    Raises:
        InputError: the attack needs more models than there are, or maps where there are none.
    """
    if getattr(attack, "needs_maps", False) and maps is None:
        raise missing_maps(attack.name)
    scores = []
    for m, model in enumerate(table.model_ids):
        others = _rivals(table.member, m)
        if len(others) < max(1, attack.min_shadows):
            raise InputError(
                f"models must be at least {2 + max(1, attack.min_shadows)}, so that each can be attacked with the "
                f"others by {attack.name!r}, got {len(table.model_ids)}. Train more shadows (--shadows)."
            )
        shadows = [table.model_ids[k] for k in others]
        knowledge = table.knowledge(model, shadows)
        reads = maps(model, shadows) if maps is not None and getattr(attack, "needs_maps", False) else None
        knowledge = replace(knowledge, features=features, maps=reads)
        scores.append(score_cases(attack, knowledge, table.members(model), seed))
    return np.stack(scores)


def found_at(scores: ArrayLike, member: ArrayLike) -> Array:
    """The FPR at which each unit is found: the share of (other) non-members that score at least as high.

    Args:
        scores: shape (U,).
        member: shape (U,), bool; at least two non-members.

    Returns:
        Shape (U,), in [0, 1].

    Example:
        >>> found_at([3.0, 2.0, 1.0, 0.0], [True, False, False, False]).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    scores, member = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    others = np.sort(scores[~member])
    if len(others) < 2:
        raise InputError(f"member must leave at least 2 non-members, got {len(others)}.")
    above = len(others) - np.searchsorted(others, scores, side="left")
    return np.where(member, above / len(others), (above - 1) / (len(others) - 1))


def correlations(first: Array, second: Array) -> Array:
    """Spearman's correlation of each pair of rows, both of shape (B, U); 0 where a row does not vary. Shape (B,)."""
    ranks = [stats.rankdata(values, axis=1) for values in (first, second)]
    centred = [values - values.mean(axis=1, keepdims=True) for values in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    return np.asarray((centred[0] * centred[1]).sum(axis=1) / np.where(scale > 0, scale, 1.0))


def _rivals(member: NDArray[np.bool_], m: int) -> list[int]:
    """The models that a target is attacked with: all but itself and its complement."""
    return [k for k in range(len(member)) if k != m and not (member[k] == ~member[m]).all()]


def _mean_of_turns(values: Array | NDArray[np.bool_], inside: NDArray[np.bool_]) -> Array:
    """Each patient's mean over the turns that count, shape (M, U) to (U,); NaN without one."""
    counts = inside.sum(axis=0)
    return np.where(counts > 0, (values * inside).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _counts(chances: Array) -> Array:
    """Distribution of the number of successes of independent trials, from the chance of each; one longer."""
    result = np.ones(1)
    for chance in chances:
        result = np.convolve(result, [1 - chance, chance])
    return result


def _tenth(rates: Array) -> NDArray[np.int64]:
    return np.minimum((np.asarray(rates) * 10 + 1e-9).astype(np.int64), 9)


def _halves(member: NDArray[np.bool_], seed: int) -> tuple[list[int], list[int]]:
    """Two halves of the models, shape (M, N); complementary models stay together, so that each half is balanced."""
    blocks: list[list[int]] = []
    left = list(range(len(member)))
    while left:
        m = left.pop(0)
        twin = next((k for k in left if (member[k] == ~member[m]).all()), None)
        if twin is not None:
            left.remove(twin)
        blocks.append([m] if twin is None else [m, twin])
    order = np.random.default_rng([seed, 0, 0, 13]).permutation(len(blocks))
    halves: tuple[list[int], list[int]] = ([], [])
    for k in sorted(order, key=lambda k: -len(blocks[k])):  # pairs first; a stable sort keeps the drawn order
        min(halves, key=len).extend(blocks[k])
    return sorted(halves[0]), sorted(halves[1])
