# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What vulnerability goes with: size, image quality, rarity, site, sex, age band, scanner.

A number is compared by Spearman's correlation, a category by a table of subgroups; all p-values are by permutation and
corrected together (Holm). Subgroups that are too small to be shown are merged with others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from monai_mia import statistics
from monai_mia.audit.disclosure.cells import OTHERS, merge_small_cells
from monai_mia.audit.individuals.leakage_map import Leakage
from monai_mia.audit.individuals.vulnerability import (
    SideVulnerability,
    Vulnerability,
    VulnerabilityResult,
    correlations,
)
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.statistics import Estimate

__all__ = [
    "Association",
    "Covariate",
    "Individuals",
    "Subgroup",
    "associations",
    "image_covariates",
    "listed_covariates",
    "rarity",
]

Array = NDArray[np.float64]

#: Keys of a case that are no covariates: what a study needs or adds.
_NOT = ("case_id", "patient_id", "image", "label", "member", "canary", "fold", "patient_assumed")

#: A column of numbers with no more distinct values than this is taken for categories (sex as 0 and 1).
_FEW = 5


@dataclass(frozen=True)
class Covariate:
    """Something about each patient.

    Attributes:
        name: its name; it is shown in the report.
        values: one a patient, shape (U,): float64, or text of a category.
        source: ``size``, ``image quality``, ``rarity`` or ``datalist``.
    """

    name: str
    values: NDArray[Any]
    source: str

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers to be ordered."""
        return self.values.dtype.kind == "f"


@dataclass(frozen=True)
class Subgroup:
    """Patients of one category.

    Attributes:
        value: the category, or ``others``: those too small to be shown alone.
        n_patients: how many.
        certain: mean certainty over the rounds in which they were members, and its interval.
        found: mean share of these rounds in which they are detected, and its interval.
        nonmember_certain: mean certainty over the other rounds, and its interval; NaN if too few of any subgroup had.
    """

    value: str
    n_patients: int
    certain: Estimate
    found: Estimate
    nonmember_certain: Estimate


@dataclass(frozen=True)
class Association:
    """How vulnerability goes with a covariate.

    Attributes:
        covariate: its name.
        source: where it is from.
        n_patients: patients that were compared.
        correlation: of a number: Spearman's correlation with certainty as a member, and its interval; else None.
        nonmember_correlation: the same with certainty in the rounds as a non-member: what is not memory; else None.
        subgroups: of a category, by name; else empty.
        p_value: two-sided, by permuting patients: of the correlation, or of the spread of the subgroups' mean ranks.
        p_adjusted: the same after Holm's correction for all covariates.
    """

    covariate: str
    source: str
    n_patients: int
    correlation: Estimate | None
    nonmember_correlation: Estimate | None
    subgroups: tuple[Subgroup, ...]
    p_value: float
    p_adjusted: float


def listed_covariates(
    cases: Sequence[Mapping[str, object]], patient_ids: Sequence[str], names: Sequence[str] | None = None
) -> tuple[list[Covariate], list[str]]:
    """Covariates from further columns of the datalist.

    A column is one of numbers if every cell is a number and there are more than five different ones, else one of
    categories. Of a patient with several cases numbers are averaged; categories must agree.

    Args:
        cases: mappings with ``case_id``, ``patient_id`` and whatever else the datalist says.
        patient_ids: the U patients.
        names: columns to use; by default all that are text or numbers.

    Returns:
        The covariates, and what is missing and why.
    """
    known = {str(key) for case in cases for key in case} - set(_NOT)
    found, gaps = [], []
    for name in sorted(known) if names is None else names:
        if name not in known:
            gaps.append(f"covariate {name!r} must be a column of the datalist, got none of that name.")
            continue
        cells: dict[str, list[object]] = {str(patient): [] for patient in patient_ids}
        for case in cases:
            cells.get(str(case["patient_id"]), []).append(case.get(name))
        values = [value for column in cells.values() for value in column]
        if any(not isinstance(value, str | int | float | np.number | bool | None) for value in values):
            if names is not None:  # a path of a further image, say, that nobody named
                gaps.append(f"covariate {name!r} must be of text or numbers, got lists or mappings.")
            continue
        if any(_empty(value) for value in values) or not all(cells.values()):
            gaps.append(f"covariate {name!r} must be given for every patient, got empty cells. Fill them in.")
            continue
        texts = {patient: [str(value).strip() for value in column] for patient, column in cells.items()}
        numbers = _numbers(texts)
        if numbers is not None and len(np.unique(numbers)) > _FEW:
            found.append(Covariate(name, numbers, "datalist"))
        elif any(len(set(column)) > 1 for column in texts.values()):
            gaps.append(f"covariate {name!r} must be one category for each patient, got several for one patient.")
        else:
            found.append(Covariate(name, np.array([column[0] for column in texts.values()]), "datalist"))
    return found, gaps


def image_covariates(
    features: Array, names: Sequence[str], groups: Sequence[str], neighbours: int = 5
) -> tuple[list[Covariate], list[str]]:
    """Size, image quality and rarity from the image statistics of :func:`monai_mia.data.check_cohort`.

    Size is the volume of each label. Image quality is told by the size of a voxel and by the contrast, the range from
    the 5 % to the 95 % quantile of the intensities over their mean. Rarity: :func:`rarity`.

    Args:
        features: shape (N, F).
        names: names of the F statistics.
        groups: the patient of each case, length N.
        neighbours: of the rarity.

    Returns:
        The covariates of the patients, sorted by name, and what is missing and why.
    """
    column = {name: statistics.group_means(features[:, f], groups)[1] for f, name in enumerate(names)}
    found = [
        Covariate(name, values, "size")
        for name, values in column.items()
        if name.startswith("label_") and name.endswith("_ml")
    ]
    spacings = [values for name, values in column.items() if name.startswith("spacing_")]
    if spacings:
        found.append(Covariate("voxel_size", np.prod(spacings, axis=0), "image quality"))
    if {"quantile_0.05", "quantile_0.95", "mean"} <= set(column):
        scale = np.maximum(abs(column["mean"]), 1e-12)
        found.append(
            Covariate("contrast", (column["quantile_0.95"] - column["quantile_0.05"]) / scale, "image quality")
        )
    gaps = []
    try:
        found.append(Covariate("rarity", rarity(features, groups, neighbours), "rarity"))
    except InputError as error:
        gaps.append(str(error))
    return found, gaps


def rarity(features: ArrayLike, groups: Sequence[str], neighbours: int = 5) -> Array:
    """How far from others a patient is: mean distance to the nearest other patients.

    Args:
        features: image statistics, shape (N, F); each is averaged over a patient's cases and standardised, statistics
            that do not vary are left out.
        groups: the patient of each case, length N.
        neighbours: how many others.

    Returns:
        Shape (U,), patients sorted by name, in standard deviations of a statistic (the distance is divided by the
        square root of their number).

    Raises:
        InputError: there are not so many other patients.

    Example:
        >>> rarity([[0.0], [0.1], [0.2], [5.0]], ["a", "b", "c", "d"], 1).round(2).tolist()
        [0.05, 0.05, 0.05, 2.26]
    """
    values = np.asarray(features, dtype=np.float64)
    pooled = np.stack([statistics.group_means(column, groups)[1] for column in values.T], axis=1)
    if neighbours >= len(pooled):
        raise InputError(f"neighbours must be fewer than the {len(pooled)} patients, got {neighbours}.")
    pooled = pooled[:, ~np.isnan(pooled).any(axis=0)]
    varied = pooled[:, np.ptp(pooled, axis=0) > 0]
    if not varied.shape[1]:
        return np.zeros(len(pooled))
    scaled = StandardScaler().fit_transform(varied)
    search = NearestNeighbors(n_neighbors=neighbours).fit(scaled)
    distances, _ = search.kneighbors()  # of the points themselves: none is its own neighbour
    return np.asarray(distances.mean(axis=1) / np.sqrt(scaled.shape[1]))


def associations(
    result: VulnerabilityResult, covariates: Sequence[Covariate], options: Vulnerability
) -> tuple[tuple[Association, ...], tuple[str, ...]]:
    """Test each covariate against the patients' certainty as members.

    Args:
        result: the vulnerability of U patients.
        covariates: values of these patients, in the same order.
        options: ``min_cell``, the resampling, the number of permutations, and the seed.

    Returns:
        The associations, the least likely by chance first, and what could not be compared and why.
    """
    found, gaps = [], []
    shown: list[tuple[str, NDArray[np.bool_]]] = []
    for covariate in covariates:
        if len(covariate.values) != len(result.patient_ids):
            raise InputError(
                f"covariate {covariate.name!r} must be of {len(result.patient_ids)} patients, got "
                f"{len(covariate.values)}."
            )
        compared = _numeric if covariate.numeric else _categorical
        outcome = compared(result.members, result.nonmembers, covariate, options)
        if isinstance(outcome, str):
            gaps.append(outcome)
            continue
        groups = [] if covariate.numeric else _groups(result.members, covariate, options)
        like = next((name for name, one in shown for other in groups if _few_apart(one, other, options.min_cell)), None)
        if like is not None:
            gaps.append(
                f"covariate {covariate.name!r} must differ from {like!r} in enough patients, got subgroups that differ "
                f"in under {options.min_cell}, who could be told by subtraction. Leave one of the two out."
            )
            continue
        shown += [(covariate.name, group) for group in groups]
        found.append(outcome)
    adjusted = statistics.holm([association.p_value for association in found])
    complete = [
        Association(**{**vars(association), "p_adjusted": float(p)})
        for association, p in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(complete, key=lambda one: (one.p_value, one.covariate))), tuple(gaps)


def _groups(members: SideVulnerability, covariate: Covariate, options: Vulnerability) -> list[NDArray[np.bool_]]:
    """The subgroups that are shown of a category: which patients are in each, shape (U,)."""
    kept = members.n_rounds > 0
    merged = merge_small_cells(covariate.values[kept].astype(np.str_), options.min_cell)
    groups = []
    for name in np.unique(merged):
        inside = np.zeros(len(kept), dtype=bool)
        inside[kept] = merged == name
        groups.append(inside)
    return groups


def _few_apart(one: NDArray[np.bool_], other: NDArray[np.bool_], min_cell: int) -> bool:
    """Whether subgroups are nearly the same: the difference of their sums tells of the few who are in one alone."""
    return 0 < int((one ^ other).sum()) < min_cell


def _numeric(
    members: SideVulnerability, others: SideVulnerability, covariate: Covariate, options: Vulnerability
) -> Association | str:
    values = np.asarray(covariate.values, dtype=np.float64)
    kept = (members.n_rounds > 0) & np.isfinite(values)
    if not np.isfinite(values).all():
        return f"covariate {covariate.name!r} must be finite for every patient, got values that are not."
    if kept.sum() < options.min_cell:
        return f"covariate {covariate.name!r} must be of at least {options.min_cell} patients, got fewer."
    if np.ptp(values[kept]) == 0:
        return f"covariate {covariate.name!r} must vary over the patients, got one value."
    rng = stream(Stream.NUMERIC_COVARIATE, options.seed)
    certainty, x = members.certainty[kept], values[kept]
    n = int(kept.sum())
    value = float(correlations(x[None], certainty[None])[0])
    dealt = rng.permuted(np.tile(x, (options.n_permutations, 1)), axis=1)
    chance = correlations(dealt, np.broadcast_to(certainty, dealt.shape))
    drawn = options.resampling.drawn(rng, n)
    correlation = options.resampling.estimate(value, correlations(x[drawn], certainty[drawn]))
    null: Estimate | None = None
    out = (others.n_rounds > 0) & kept
    if out.sum() >= options.min_cell:
        y, z = others.certainty[out], values[out]
        drawn = options.resampling.drawn(rng, len(y))
        null = options.resampling.estimate(float(correlations(z[None], y[None])[0]), correlations(z[drawn], y[drawn]))
    p_value = float((1 + (abs(chance) >= abs(value) - 1e-12).sum()) / (1 + options.n_permutations))
    return Association(
        covariate.name,
        covariate.source,
        n,
        correlation,
        null,
        (),
        p_value,
        p_value,
    )


def _categorical(
    members: SideVulnerability, others: SideVulnerability, covariate: Covariate, options: Vulnerability
) -> Association | str:
    kept = members.n_rounds > 0
    texts = covariate.values[kept].astype(np.str_)
    if len(np.unique(texts)) < 2:
        return f"covariate {covariate.name!r} must vary over the patients, got one value."
    shown = merge_small_cells(texts, options.min_cell)
    names = np.unique(shown)
    if len(names) < 2:
        return (
            f"covariate {covariate.name!r} must have two subgroups of at least {options.min_cell} patients to be "
            "shown, got fewer."
        )
    rng = stream(Stream.CATEGORICAL_COVARIATE, options.seed)
    certainty, rate = members.certainty[kept], members.rate[kept]
    outside = np.where(others.n_rounds > 0, others.certainty, np.nan)[kept]
    ranks = stats.rankdata(certainty)
    one_hot = (shown[None] == names[:, None]).astype(np.float64)
    sizes = one_hot.sum(axis=1)

    def spread(dealt: Array) -> Array:  # Kruskal and Wallis (1952), up to a constant
        return np.asarray((((dealt @ one_hot.T) ** 2) / sizes).sum(axis=-1))

    chance = spread(rng.permuted(np.tile(ranks, (options.n_permutations, 1)), axis=1))
    p_value = float((1 + (chance >= spread(ranks) - 1e-6).sum()) / (1 + options.n_permutations))
    known = np.isfinite(outside)
    # All or none: one that is missing could be told from the others and the mean over all.
    tell_outside = all((known & (shown == name)).sum() >= options.min_cell for name in names)
    groups = []
    for name in names:
        chosen = shown == name
        n = int(chosen.sum())
        drawn = options.resampling.drawn(rng, n)
        rates = []
        for column in (certainty[chosen], rate[chosen], *([outside[chosen]] if tell_outside else [])):
            rates.append(options.resampling.estimate(float(_nanmean(column[None])[0]), _nanmean(column[drawn])))
        rates += [] if tell_outside else [Estimate(math.nan, math.nan, math.nan)]
        groups.append(Subgroup(str(name), n, *rates))
    groups.sort(key=lambda group: (group.value == OTHERS, group.value))
    return Association(covariate.name, covariate.source, int(kept.sum()), None, None, tuple(groups), p_value, p_value)


def _nanmean(values: Array) -> Array:
    known = ~np.isnan(values)
    counts = known.sum(axis=-1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(counts, 1), np.nan)


def _empty(value: object) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and value.strip().lower() in ("", "nan", "na", "n/a"))
    )


def _numbers(texts: Mapping[str, Sequence[str]]) -> Array | None:
    """Each patient's mean number, or None if a cell is no finite number."""
    try:
        values = np.array([np.mean([float(text) for text in column]) for column in texts.values()])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


@dataclass(frozen=True)
class Individuals:
    """What was found about individuals.

    Attributes:
        vulnerability: the vulnerability of all patients, or None where it could not be measured.
        covariates: what it was compared with, one value a patient; private.
        associations: how it goes with them, the least likely by chance first.
        leakage: where the evidence lies, or None where it was not asked for or could not be located.
        gaps: what is missing and why.
        min_cell: patients of whom anything apart from the others is reported, at least.
        patients_assumed: how many of the patients are no more than assumed, one a scan.
    """

    vulnerability: VulnerabilityResult | None
    covariates: tuple[Covariate, ...]
    associations: tuple[Association, ...]
    leakage: Leakage | None
    gaps: tuple[str, ...]
    min_cell: int
    patients_assumed: int = 0
