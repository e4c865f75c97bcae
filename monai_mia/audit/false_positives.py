# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a membership claim is worth: how a decision that was learned on shadows treats scans that no model has seen.

An audit tells how much an attack could find (AUC, TPR at a chosen FPR). A claim is made with a threshold that was
chosen elsewhere, about scans of any kind, where members may be few: that is told here, apart. By patient, over all
targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from monai_mia import statistics
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Attack
from monai_mia.attacks.transfer import fitted_threshold
from monai_mia.attacks.voxelwise import opponents
from monai_mia.audit.disclosure.cells import MIN_CELL
from monai_mia.audit.disclosure.gate import UNTOLD, Disclosure
from monai_mia.audit.scoring import access_needed, score_cases
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling

__all__ = [
    "AttackFalsePositives",
    "FalsePositiveResult",
    "FalsePositiveStudyResult",
    "FalsePositives",
    "MitigationFalsePositives",
    "SourceFalsePositives",
    "precision",
    "transferred_threshold",
]

Array = NDArray[np.float64]

Mask = NDArray[np.bool_]

#: Cells of the confusion matrix.
CELLS = ("TP", "FP", "FN", "TN")

#: Confidences that are averaged over each cell, by the signal that records them.
CONFIDENCES = {"voxels": "maximum_probability", "cases": "maximum_probability_predicted"}

#: The non-members of the cohort itself, beside the foreign sources.
COHORT = "cohort"


def precision(tpr: ArrayLike, fpr: ArrayLike, base_rate: float) -> Array:
    r"""Share of right ones among the claims of membership: :math:`\pi\,TPR / (\pi\,TPR + (1 - \pi)\,FPR)`.

    Args:
        tpr: share of members who are claimed, any shape.
        fpr: share of non-members who are claimed, same shape.
        base_rate: share of members among those asked about, in (0, 1).

    Returns:
        Same shape; NaN where nobody is claimed.

    Raises:
        InputError: the base rate is outside (0, 1).

    Example:
        >>> float(precision(0.9, 0.1, 0.01).round(3))  # 9 of 108 claims
        0.083
    """
    if not 0 < base_rate < 1:
        raise InputError(f"base_rates must be in (0, 1), got {base_rate}.")
    right, wrong = base_rate * np.asarray(tpr, dtype=np.float64), (1 - base_rate) * np.asarray(fpr, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right / (right + wrong))


def transferred_threshold(attack: Attack, view: AdversaryView, seed: int = 0) -> float:
    """The threshold of an attack, learned where membership is known: the shadows play the target in turn.

    Each shadow is attacked with the others, less the one that is its complement; the threshold has the largest
    TPR - FPR over the patients of all of them. An attack that ``decides`` has a threshold of its own, 0.

    Args:
        attack: the attack.
        view: what the adversary knows; the target's signals are not looked at, nor are foreign cases.
        seed: of folds, if the attack is cross-fitted.

    Raises:
        InputError: there are too few shadows to play.
    """
    if getattr(attack, "decides", False):
        return 0.0
    own = view.cohort
    member, shadow = view.shadow_member[:, own], view.shadow[:, own]
    patients = tuple(np.asarray(view.patient_ids)[own])
    features = None if view.features is None else view.features[own]
    scores, sides = [], []
    for player in range(len(member)):
        rivals = [m for m in opponents(member, player) if m != player]
        if len(rivals) < attack.min_shadows:
            raise InputError(
                f"shadows must be enough that one plays the target and attack {attack.name!r} has {attack.min_shadows} "
                f"others, got {len(member)}. Train more (--shadows)."
            )
        played = replace(
            view,
            target=shadow[player],
            shadow=shadow[rivals],
            shadow_member=member[rivals],
            patient_ids=patients,
            features=features,
            maps=None,
            foreign=None,
        )
        values = score_cases(attack, played, member[player], seed)
        scores.append(statistics.means_by_group(values, patients))
        sides.append(statistics.means_by_group(member[player], patients) > 0.5)
    if not scores:
        raise InputError(f"shadows must be at least 1 to transfer the threshold of attack {attack.name!r}, got 0.")
    return fitted_threshold(np.concatenate(scores), np.concatenate(sides), "youden")


@dataclass(frozen=True)
class SourceFalsePositives:
    """How an attack's decision treats one source of non-members.

    Attributes:
        source: its name; ``cohort`` for the cohort's own non-members.
        patients: how many patients.
        fpr: share of them who are claimed as members, mean over targets.
        gated_fpr: the same, if a claim is withheld where the release is unlike those that the adversary knows.
        rejected: share of them for whom it is withheld.
        fpr_at_95_tpr: share of them claimed by a threshold that finds 95% of the target's members.
        precision: for each base rate, the share of right claims, were all non-members of this source; value NaN where
            nobody is claimed.
        mmps: mean maximum probability of those claimed (``FP``) and not claimed (``TN``), over ``voxels`` (all of a
            scan's) and over ``cases`` (of the predicted foreground); None where a cell is empty, and for both
            where one is of fewer than :attr:`Evidence.min_cell` patients.
    """

    source: str
    patients: int
    fpr: Estimate
    gated_fpr: Estimate
    rejected: Estimate
    fpr_at_95_tpr: Estimate
    precision: Mapping[float, Estimate]
    mmps: Mapping[str, Mapping[str, Estimate | None]]


@dataclass(frozen=True)
class AttackFalsePositives:
    """One attack: what it could find, and what its claims are worth.

    Attributes:
        attack: its name.
        access: what the adversary needs.
        auc: mean over targets, on the cohort.
        tpr_at_fpr: TPR at the FPR of :attr:`Evidence.headline_fpr`, a threshold chosen on the target itself; NaN where
            that is below what the non-members resolve.
        threshold: the transferred one.
        tpr: share of members who are claimed at the transferred threshold.
        gated_tpr: the same with claims withheld, as in :attr:`SourceFalsePositives.gated_fpr`.
        rejected: share of members for whom claims are withheld.
        mmps: of members, as :attr:`SourceFalsePositives.mmps`, cells ``TP`` and ``FN``.
        sources: the cohort's non-members first, then each foreign source.
    """

    attack: str
    access: str
    auc: Estimate
    tpr_at_fpr: Estimate
    threshold: float
    tpr: Estimate
    gated_tpr: Estimate
    rejected: Estimate
    mmps: Mapping[str, Mapping[str, Estimate | None]]
    sources: tuple[SourceFalsePositives, ...]


@dataclass(frozen=True)
class FalsePositiveResult:
    """All attacks, and what could not be measured.

    Attributes:
        attacks: in the order of the AUC, best first.
        gaps: sentences about what is missing, and why.
    """

    attacks: tuple[AttackFalsePositives, ...]
    gaps: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """One source's answers by patient: shape (T, Q), and weights (B, T, Q)."""

    name: str
    cases: slice
    accepted: Mask
    confidence: Mapping[str, Array]
    voxels: Array
    weights: Array


@dataclass(frozen=True)
class FalsePositives:
    """How the worth of claims is measured.

    Attributes:
        base_rates: shares of members among those asked about, for the precision.
        headline_fpr: the FPR of the information that is reported beside.
        gate: share of known releases for which the adversary's out-of-distribution gate withholds a claim, in (0, 1);
            the gate is the Mahalanobis distance of the signals of the release alone from the shadows' on the cohort.
        resampling: of patients and of targets, for the intervals; its seed is that of folds, too.
        min_cell: a mean confidence over fewer patients is not given.
    """

    base_rates: Sequence[float] = (0.01, 0.1, 0.5)
    headline_fpr: float = 0.05
    gate: float = 0.05
    resampling: Resampling = Resampling(n_resamples=1000)
    min_cell: int = MIN_CELL

    def __post_init__(self) -> None:
        """Refuse options that measure nothing."""
        for name in ("headline_fpr", "gate"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} must be in (0, 1), got {getattr(self, name)}.")
        if self.min_cell < 1:
            raise InputError(f"min_cell must be at least 1, got {self.min_cell}.")

    @property
    def seed(self) -> int:
        """The seed of the resampling, which is that of everything."""
        return self.resampling.seed

    def run(
        self,
        attacks: Sequence[Attack],
        table: SignalTable,
        targets: Sequence[str],
        shadows: Sequence[str],
        foreign: Mapping[str, SignalTable],
        features: Callable[[Sequence[str]], Array],
        voxels: Callable[[Sequence[str]], Array],
    ) -> FalsePositiveResult:
        """Measure every attack on every source.

        Args:
            attacks: the attacks.
            table: the signals of targets and shadows on the cohort.
            targets: ids of the targets.
            shadows: ids of the shadows.
            foreign: for each source, the signals of the same models on its cases, which no model trained on.
            features: gives the image statistics of cases, shape (N, F), by their ids.
            voxels: gives their numbers of voxels, shape (N,).

        Returns:
            What was measured, and which attacks or base rates could not be.
        """
        gaps: list[str] = []
        base_rates = []
        for rate in self.base_rates:
            try:
                precision(1.0, 1.0, rate)
                base_rates.append(rate)
            except InputError as error:
                gaps.append(str(error))
        tables = {COHORT: table, **foreign}
        joined = _Joined.of(tables, targets, shadows, features)
        asked = self._asked(tables, targets, shadows, joined, voxels)
        inside = np.stack([_pooled(table.members(target), table) for target in targets]) > 0.5
        found = []
        for attack in attacks:
            try:
                if getattr(attack, "needs_maps", False):
                    raise InputError(f"maps of foreign scans must be recorded for attack {attack.name!r}, got none.")
                threshold = transferred_threshold(attack, joined.view[targets[0]], self.seed)
                # Nobody of another source may be granted as a known non-member.
                scores = np.stack(
                    [score_cases(attack, joined.view[target], joined.member[target], self.seed) for target in targets]
                )
            except InputError as error:
                gaps.append(f"{attack.name}: {error}")
                continue
            access = access_needed(attack, joined.view[targets[0]])
            found.append(self._attack(attack.name, access, scores, threshold, tables, asked, inside, base_rates))
        return FalsePositiveResult(tuple(sorted(found, key=lambda item: -item.auc.value)), tuple(gaps))

    def weights(self, n_targets: int, n_patients: int) -> Array:
        """How often each (target, patient) occurs in each resample, shape (B, T, P).

        Targets are drawn alike for all sources, and patients for all sources with as many, most often the same ones.
        """
        rng = [stream(name, self.seed) for name in (Stream.TARGET_RESAMPLES, Stream.SOURCE_RESAMPLES)]
        targets, patients = (self.resampling.counts(rng[k], n) for k, n in enumerate((n_targets, n_patients)))
        return np.asarray(targets[:, :, None] * patients[:, None, :], dtype=np.float64)

    def mean(self, values: Array, among: Mask, weights: Array) -> Estimate:
        """Mean over those among whom it is asked for, all targets together; shapes (T, P), (T, P), (B, T, P)."""
        drawn = statistics.resampled_means(values, among, weights)
        return self.resampling.estimate(float(values[among].mean()), drawn)

    def _asked(
        self,
        tables: Mapping[str, SignalTable],
        targets: Sequence[str],
        shadows: Sequence[str],
        joined: _Joined,
        voxels: Callable[[Sequence[str]], Array],
    ) -> list[_Asked]:
        gate = self._gate(tables[COHORT], shadows)
        asked = []
        for name, table in tables.items():
            size = voxels(table.case_ids)
            confidence = {}
            for kind, signal in CONFIDENCES.items():
                if signal in table.signals:
                    values = np.stack([table.signal(signal, target) for target in targets])
                    weight = size if kind == "voxels" else np.ones_like(size)
                    confidence[kind] = _pooled(values * weight, table) / _pooled(weight, table)
            asked.append(
                _Asked(
                    name=name,
                    cases=joined.cases[name],
                    accepted=np.stack([_pooled(gate(table, target), table) >= 0 for target in targets]),
                    confidence=confidence,
                    voxels=statistics.means_by_group(size, table.patient_ids),
                    weights=self.weights(len(targets), len(set(table.patient_ids))),
                )
            )
        return asked

    def _gate(self, table: SignalTable, shadows: Sequence[str]) -> Callable[[SignalTable, str], Array]:
        """How far the release about each case is on the usual side, (N,); negative: a claim is withheld."""
        names = [name for name in table.signals if table.access.get(name) in ("mask", "probabilities")]
        if not names or not shadows:
            return lambda other, model: np.ones(len(other.case_ids))

        def rows(other: SignalTable, model: str) -> Array:
            return np.stack([other.signal(name, model) for name in names], axis=1)

        # Distances grow without end, unlike the depth of a forest, and are no smaller for cases that the fit has seen.
        known = np.concatenate([rows(table, model) for model in shadows])
        scale = StandardScaler().fit(known)
        fit = LedoitWolf(assume_centered=True).fit(scale.transform(known))

        def usual(other: SignalTable, model: str) -> Array:
            return np.asarray(-fit.mahalanobis(scale.transform(rows(other, model))))

        limit = float(np.quantile([_pooled(usual(table, model), table) for model in shadows], self.gate))
        return lambda other, model: usual(other, model) - limit

    def _attack(
        self,
        name: str,
        access: str,
        scores: Array,
        threshold: float,
        tables: Mapping[str, SignalTable],
        asked: Sequence[_Asked],
        inside: Mask,
        base_rates: Sequence[float],
    ) -> AttackFalsePositives:
        own = asked[0]
        pooled = _pooled(scores[:, own.cases], tables[COHORT])
        (aucs, auc_drawn), (tprs, tprs_drawn) = (
            statistics.mean_over_targets(statistic, pooled, inside, own.weights)
            for statistic in (lambda roc: roc.auc, lambda roc: roc.tpr_at(self.headline_fpr))
        )
        n_in, n_out = int(inside.sum(axis=1).min()), int((~inside).sum(axis=1).min())
        claimed = pooled >= threshold
        tpr, tpr_drawn = self._share(claimed, inside, own.weights)
        found95 = np.array([_finding(row[side], 0.95) for row, side in zip(pooled, inside, strict=True)])
        sources = []
        for source in asked:
            values = _pooled(scores[:, source.cases], tables[source.name])
            outside = ~inside if source.name == COHORT else np.ones_like(values, dtype=bool)
            calls = values >= threshold
            fpr, fpr_drawn = self._share(calls, outside, source.weights)
            worth: dict[float, Estimate] = {}
            for rate in base_rates:
                low, high = self.resampling.interval(precision(tpr_drawn, fpr_drawn, rate))
                worst, best = precision(tpr.low, fpr.high, rate), precision(tpr.high, fpr.low, rate)
                value = float(precision(tpr.value, fpr.value, rate))
                worth[rate] = Estimate(value, float(np.fmin(low, worst)), float(np.fmax(high, best)))
            sources.append(
                SourceFalsePositives(
                    source=source.name,
                    patients=int(outside.any(axis=0).sum()),
                    fpr=fpr,
                    gated_fpr=self._share(calls & source.accepted, outside, source.weights)[0],
                    rejected=self._share(~source.accepted, outside, source.weights)[0],
                    fpr_at_95_tpr=self._share(values >= found95[:, None], outside, source.weights)[0],
                    precision=worth,
                    mmps=self._confidences(source, outside, {"FP": calls, "TN": ~calls}),
                )
            )
        return AttackFalsePositives(
            attack=name,
            access=access,
            auc=self.resampling.auc(float(aucs.mean()), auc_drawn, n_in, n_out),
            tpr_at_fpr=(
                self.resampling.proportion(float(tprs.mean()), tprs_drawn, n_in)
                if self.headline_fpr * n_out >= 1 - 1e-9
                else Estimate(np.nan, np.nan, np.nan)
            ),
            threshold=threshold,
            tpr=tpr,
            gated_tpr=self._share(claimed & own.accepted, inside, own.weights)[0],
            rejected=self._share(~own.accepted, inside, own.weights)[0],
            mmps=self._confidences(own, inside, {"TP": claimed, "FN": ~claimed}),
            sources=tuple(sources),
        )

    def _share(self, happened: Mask, among: Mask, weights: Array) -> tuple[Estimate, Array]:
        """Share of those among whom it happened, all targets together; the interval never narrower than the exact one.

        The exact one counts the patients of one target, since the same ones are asked about with each.
        """
        value = float(happened[among].mean())
        drawn = statistics.resampled_means(happened, among, weights)
        return self.resampling.proportion(value, drawn, int(among.sum(axis=1).min())), drawn

    def _confidences(
        self, source: _Asked, among: Mask, cells: Mapping[str, Mask]
    ) -> dict[str, dict[str, Estimate | None]]:
        """Mean confidence over the cells that share a side, shapes (T, Q); None for all if one is of few patients."""
        shown = all(
            (among & cell).any(axis=0).sum() == 0 or (among & cell).any(axis=0).sum() >= self.min_cell
            for cell in cells.values()
        )
        found: dict[str, dict[str, Estimate | None]] = {}
        for name, cell in cells.items():
            found[name] = {}
            for kind, values in source.confidence.items():
                counted = (among & cell) * (source.voxels if kind == "voxels" else 1.0)
                if not shown or not counted.any():
                    found[name][kind] = None
                    continue
                drawn = statistics.resampled_means(values, counted, source.weights)
                mean = float((counted * values).sum() / counted.sum())
                found[name][kind] = self.resampling.estimate(mean, drawn)
        return found


@dataclass(frozen=True)
class _Joined:
    """The cohort and all foreign cases as one, for each target."""

    view: Mapping[str, AdversaryView]
    member: Mapping[str, Mask]
    cases: Mapping[str, slice]

    @classmethod
    def of(
        cls,
        tables: Mapping[str, SignalTable],
        targets: Sequence[str],
        shadows: Sequence[str],
        features: Callable[[Sequence[str]], Array],
    ) -> _Joined:
        own = tables[COHORT]
        for name, table in tables.items():
            if table.signals != own.signals:
                odd = sorted(set(table.signals) ^ set(own.signals)) or ["their order"]
                raise InputError(f"signals of source {name!r} must be the cohort's, they differ in {', '.join(odd)}.")
        cases, start = {}, 0
        for name, table in tables.items():
            cases[name] = slice(start, start + len(table.case_ids))
            start += len(table.case_ids)
        foreign = np.ones(start, dtype=bool)
        foreign[cases[COHORT]] = False
        known = np.concatenate([features(table.case_ids) for table in tables.values()])
        view, member = {}, {}
        for target in targets:
            parts = [AdversaryView.of(table, target, shadows) for table in tables.values()]
            view[target] = AdversaryView(
                signals=own.signals,
                target=np.concatenate([part.target for part in parts]),
                shadow=np.concatenate([part.shadow for part in parts], axis=1),
                shadow_member=np.concatenate([part.shadow_member for part in parts], axis=1),
                patient_ids=tuple(patient for part in parts for patient in part.patient_ids),
                access=own.access,
                features=known,
                foreign=foreign,
            )
            member[target] = foreign.copy()
            member[target][cases[COHORT]] = own.members(target)
        return cls(view, member, cases)


def _pooled(values: NDArray[Any], table: SignalTable) -> Array:
    """Means over each patient's cases: shape (..., N) to (..., Q)."""
    return statistics.means_by_group(values, table.patient_ids)


def _finding(scores: Array, share: float) -> float:
    """The largest threshold that at least this share of the scores reaches."""
    ordered = np.sort(scores)[::-1]
    return float(ordered[int(np.ceil(share * len(ordered))) - 1])


@dataclass(frozen=True)
class MitigationFalsePositives:
    """One mitigation: what claims are worth under it, and how well the models are calibrated.

    Attributes:
        name: its name; ``none`` without one.
        release: what leaves the model.
        utility: by signal, mean over patients who are ``members`` and who are ``nonmembers``, over all targets.
        result: what the attacks' claims are worth.
    """

    name: str
    release: str
    utility: Mapping[str, Mapping[str, Estimate]]
    result: FalsePositiveResult


@dataclass(frozen=True)
class FalsePositiveStudyResult:
    """All mitigations, the undefended models first, and how they were measured.

    Attributes:
        mitigations: one a defence.
        sources: names of the foreign sources that were asked about.
        gaps: what could not be measured, and why.
        targets: how many targets.
        shadows: how many shadows.
        patients: how many patients of the cohort.
        headline_fpr: the FPR of the information that is reported beside.
        confidence: coverage of the intervals.
        patients_assumed: how many of the patients are no more than assumed, one a scan.
    """

    mitigations: tuple[MitigationFalsePositives, ...]
    sources: tuple[str, ...]
    gaps: tuple[str, ...]
    targets: int
    shadows: int
    patients: int
    headline_fpr: float
    confidence: float
    patients_assumed: int = 0

    def shared(self, disclosure: Disclosure) -> FalsePositiveStudyResult:
        """What may be shared of it: few attacks, with rounded numbers, and no rate of too few of the cohort's patients.

        All mitigations are of one model, so that the attacks that may be told are divided among them, one at least for
        each. Foreign sources are no secret: only their rates beside those of the cohort are told.

        Args:
            disclosure: how much may be told.
        """
        if disclosure.everything:
            return self
        side = self.patients // 2
        most = disclosure.n_attacks(side, side, self.targets)
        most = most and max(1, most // len(self.mitigations))

        def of(item: AttackFalsePositives) -> AttackFalsePositives:
            told = disclosure.coarse(item)
            if not disclosure.divides(item.tpr_at_fpr.value, self.headline_fpr, side, side):
                told = replace(told, tpr_at_fpr=UNTOLD)
            own = item.sources[0].fpr.value
            if disclosure.divides(item.tpr.value, own, side, side):
                return told
            sources = [replace(one, precision=dict.fromkeys(one.precision, UNTOLD), mmps={}) for one in told.sources]
            sources[0] = replace(sources[0], fpr=UNTOLD, gated_fpr=UNTOLD, rejected=UNTOLD, fpr_at_95_tpr=UNTOLD)
            return replace(told, tpr=UNTOLD, gated_tpr=UNTOLD, rejected=UNTOLD, mmps={}, sources=tuple(sources))

        return replace(
            self,
            mitigations=tuple(
                replace(
                    row,
                    utility=disclosure.coarse(row.utility) if disclosure.shows(side) else {},
                    result=replace(row.result, attacks=tuple(map(of, row.result.attacks[:most]))),
                )
                for row in self.mitigations
            ),
        )
