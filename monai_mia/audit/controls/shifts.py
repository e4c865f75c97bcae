# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Are the two sides alike, and is each side alike in itself? The unit is the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monai_mia import statistics
from monai_mia.audit.controls.matching import MatchedStrata
from monai_mia.audit.controls.placebo import Placebo
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate

__all__ = [
    "Controls",
    "FeatureShift",
    "SplitHalf",
    "feature_shifts",
    "image_tail",
    "measure_controls",
    "split_half_band",
    "split_halves",
]

Array = NDArray[np.float64]

#: Fewer patients than this in a half, and it is not compared.
_FEWEST = 4

ORDER = "order"


@dataclass(frozen=True)
class FeatureShift:
    """How one image statistic differs between members and non-members.

    Attributes:
        feature: name of the statistic.
        auc: how often a member's value exceeds a non-member's, and its interval; 0.5 if they are alike, though spreads
            may differ.
        p_value: of the two-sample Kolmogorov-Smirnov test.
        p_adjusted: the same, after Holm's correction for the number of statistics.
    """

    feature: str
    auc: Estimate
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class SplitHalf:
    """Two halves of one side, told apart by an attack's scores.

    Attributes:
        side: ``members`` or ``nonmembers``.
        by: ``order`` of the sorted ids (second half against first), or the image statistic of which the upper half is
            compared with the lower.
        n_low: patients in the first or lower half.
        n_high: patients in the second or upper half.
        auc: how often the second or upper half scores higher, and its interval; 0.5 if the split does not matter.
        p_value: of the Mann-Whitney test, two-sided.
        p_adjusted: the same, after Holm's correction for both sides' splits by order, or all splits by a statistic.
    """

    side: str
    by: str
    n_low: int
    n_high: int
    auc: Estimate
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class Controls:
    """What the controls found, beside the blind baseline.

    Attributes:
        placebo: the attack on models in the target's stead, or None where there was none.
        shifts: image statistics of members against non-members, the least likely by chance first.
        halves: each side against itself, by the best attack: first by order, then by image statistics.
        split_half_band: for each side, between which AUCs two random halves lie, at the audit's confidence; a side
            too small is missing.
        image_tail: probability under permuted membership that any image statistic, in either direction, singles out
            members as surely as the least likely of these does, at any resolved FPR; None without statistics.
        n_shifts: how many image statistics were compared, of which :attr:`shifts` may hold the clearest alone.
        matched: the best attack within strata of patients who are alike as images; None where a coin dealt the sides,
            and without statistics.
    """

    placebo: Placebo | None = None
    shifts: tuple[FeatureShift, ...] = ()
    halves: tuple[SplitHalf, ...] = ()
    split_half_band: tuple[tuple[str, tuple[float, float]], ...] = ()
    image_tail: float | None = None
    matched: MatchedStrata | None = None
    n_shifts: int = 0

    def clearest(self, min_cell: int) -> Controls:
        """What may be shared: of each kind of comparison the one that chance explains least.

        An AUC of each image statistic would be an equation in who is a member, as those of the attacks are.

        Args:
            min_cell: a half of fewer patients is not told of.
        """
        large = [half for half in self.halves if min(half.n_low, half.n_high) >= min_cell]
        by_side = {side: [half for half in large if half.side == side] for side in ("members", "nonmembers")}
        kept = [min(halves, key=lambda half: half.p_adjusted) for halves in by_side.values() if halves]
        ordered = [half for half in large if half.by == ORDER and half not in kept]
        kept += [half for half in ordered if half.side == "nonmembers"]  # whose drift puts a finding in doubt
        sides = {half.side for half in large}
        band = tuple((side, ends) for side, ends in self.split_half_band if side in sides)
        return replace(self, shifts=self.shifts[:1], halves=tuple(kept), split_half_band=band)

    def as_json(self) -> dict[str, Any]:
        """As ``controls`` of ``report.json`` has it; names of image statistics may be shared."""
        return {
            "permuted_membership": None if self.placebo is None else self.placebo.as_json(),
            "shifts": [_as_json(shift) for shift in self.shifts],
            "n_shifts": self.n_shifts,
            "halves": [_as_json(half) for half in self.halves],
            "split_half_band": {side: list(band) for side, band in self.split_half_band},
            "image_tail": self.image_tail,
            "matched": None if self.matched is None else self.matched.as_json(),
        }


def _as_json(found: FeatureShift | SplitHalf) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in vars(found).items():
        row |= value.named(name) if isinstance(value, Estimate) else {name: value}
    return row


def measure_controls(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    features: Array | None,
    names: Sequence[str] | None,
    n_splits: int,
    seed: int,
    confidence: float = 0.95,
    fprs: Sequence[float] = (),
) -> Controls:
    """Members against non-members by image statistics, and each side against itself by an attack's scores.

    Args:
        scores: the attack's scores, shape (N,).
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        features: image statistics, shape (N, F), or None.
        names: names of the F statistics; by default their numbers.
        n_splits: random splits of the band, and permutations of the tails.
        seed: seed of the splits.
        confidence: coverage of the intervals.
        fprs: those at which tails are looked at.
    """
    shifts: tuple[FeatureShift, ...] = ()
    if features is not None:
        names = [f"statistic {f}" for f in range(features.shape[1])] if names is None else names
        shifts = feature_shifts(features, names, member, groups, confidence)
    halves = split_halves(scores, member, groups, features, names or (), confidence)
    tail = None if features is None else image_tail(features, member, groups, fprs, n_splits, seed)
    band = split_half_band(scores, member, groups, n_splits, seed, confidence)
    return Controls(None, shifts, halves, band, tail, n_shifts=len(shifts))


def image_tail(
    features: Array, member: ArrayLike, groups: Sequence[str], fprs: Sequence[float], n_permutations: int, seed: int
) -> float:
    """How seldom chance lets an image statistic single out a few members: a subgroup that no mean tells of.

    Args:
        features: shape (N, F); a missing value (NaN) counts as the median.
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        fprs: FPRs; those below the resolution are left out.
        n_permutations: permutations of membership.
        seed: their seed.

    Returns:
        The p-value of the least likely tail, over all statistics, both directions and all FPRs at once.
    """
    names, share = statistics.group_means(np.asarray(member, dtype=np.float64), groups)
    inside = share > 0.5
    resolved = statistics.resolved(fprs, inside)
    known = np.where(np.isnan(features), np.nanmedian(features, axis=0), features)
    values = statistics.means_by_group(known.T, groups)
    both = np.concatenate([values, -values])
    tails = statistics.permuted_tails(both, inside, [str(name) for name in names], resolved, n_permutations, seed)
    return float(statistics.tail_p_values(*tails).min())


def feature_shifts(
    features: Array, names: Sequence[str], member: ArrayLike, groups: Sequence[str], confidence: float = 0.95
) -> tuple[FeatureShift, ...]:
    """Compare each image statistic of members and non-members: two-sample Kolmogorov-Smirnov tests by patient.

    Args:
        features: shape (N, F); missing values (NaN) are left out, as are statistics without variation.
        names: names of the F statistics.
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        confidence: coverage of the intervals.

    Returns:
        The statistics that could be compared, the least likely by chance first.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] != len(names):
        raise InputError(f"feature_names must be one for each of the features, got {len(names)} of {features.shape}.")
    inside = statistics.group_means(np.asarray(member, dtype=bool), groups)[1] > 0.5
    found = []
    for name, column in zip(names, features.T, strict=True):
        values = statistics.group_means(column, groups)[1]
        known = ~np.isnan(values)
        values, side = values[known], inside[known]
        if min(side.sum(), (~side).sum()) < _FEWEST or values.min() == values.max():
            continue
        auc = _auc(values, side, confidence)
        p_value = float(stats.ks_2samp(values[side], values[~side]).pvalue)
        found.append((p_value, name, auc))
    adjusted = statistics.holm([p_value for p_value, *_ in found])
    shifts = [
        FeatureShift(name, auc, p_value, float(p_adjusted))
        for (p_value, name, auc), p_adjusted in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(shifts, key=lambda shift: shift.p_value))


def split_halves(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    features: Array | None = None,
    names: Sequence[str] = (),
    confidence: float = 0.95,
) -> tuple[SplitHalf, ...]:
    """Split each side in two by what should not matter, and let an attack's scores tell the halves apart.

    A split by order that matters means that cases change along the list: an attack may find that, where members and
    non-members come from different parts of it. A split by an image statistic that matters means that the score goes
    with it, which is dangerous where the sides differ in it.

    Args:
        scores: shape (N,).
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N; the order is that of the sorted names.
        features: image statistics, shape (N, F), or None.
        names: names of the F statistics.
        confidence: coverage of the intervals.

    Returns:
        The splits by order, then those by image statistics. A split is left out if a half would have fewer than four
        patients.
    """
    patients, pooled = statistics.group_means(np.asarray(scores, dtype=np.float64), groups)
    inside = statistics.group_means(np.asarray(member, dtype=bool), groups)[1] > 0.5
    ranks = np.arange(len(patients), dtype=np.float64)
    splits: list[list[tuple[str, str, int, int, Estimate, float]]] = [[], []]
    columns = np.empty((0, 0)) if features is None else np.asarray(features, dtype=np.float64).T
    covariates = [(ORDER, ranks)]
    covariates += [
        (name, statistics.group_means(values, groups)[1]) for name, values in zip(names, columns, strict=True)
    ]
    for by, values in covariates:
        for side, chosen in (("members", inside), ("nonmembers", ~inside)):
            kept = chosen & ~np.isnan(values)
            if kept.sum() < 2 * _FEWEST:
                continue
            high = values[kept] > np.median(values[kept])
            n_high = int(high.sum())
            if min(n_high, len(high) - n_high) < _FEWEST:
                continue
            auc = _auc(pooled[kept], high, confidence)
            p_value = 1.0
            if np.ptp(pooled[kept]) > 0:  # else all scores are tied
                p_value = float(stats.mannwhitneyu(pooled[kept][high], pooled[kept][~high]).pvalue)
            splits[by != ORDER].append((side, by, len(high) - n_high, n_high, auc, p_value))
    return tuple(
        SplitHalf(*split, float(p_adjusted))
        for family in splits
        for split, p_adjusted in zip(family, statistics.holm([split[-1] for split in family]), strict=True)
    )


def split_half_band(
    scores: ArrayLike,
    member: ArrayLike,
    groups: Sequence[str],
    n_splits: int,
    seed: int,
    confidence: float = 0.95,
) -> tuple[tuple[str, tuple[float, float]], ...]:
    """Between which AUCs two random halves of each side lie: what no difference at all looks like.

    Args:
        scores: shape (N,).
        member: shape (N,), bool, constant within a group.
        groups: the patient of each case, length N.
        n_splits: random splits.
        seed: seed of the splits.
        confidence: share of the splits within the band.
    """
    pooled = statistics.group_means(np.asarray(scores, dtype=np.float64), groups)[1]
    inside = statistics.group_means(np.asarray(member, dtype=bool), groups)[1] > 0.5
    bands = []
    for side, chosen in (("members", inside), ("nonmembers", ~inside)):
        n = int(chosen.sum())
        if n < 2 * _FEWEST:
            continue
        halves = np.arange(n) >= n // 2
        found = statistics.permuted_aucs(pooled[chosen], halves, [f"{k:06d}" for k in range(n)], n_splits, seed)
        bands.append((side, statistics.percentiles(found, confidence)))
    return tuple(bands)


def _auc(values: Array, high: NDArray[np.bool_], confidence: float) -> Estimate:
    auc = float(statistics.roc(values, high).auc)
    return Estimate(auc, *statistics.auc_interval(auc, int(high.sum()), int((~high).sum()), confidence))
