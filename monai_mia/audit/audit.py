# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The audit: joins the attacks' scores with the target's membership. Nothing else does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia import statistics
from monai_mia.attacks import Attack, EverySignal, GlobalLoss
from monai_mia.attacks.adversary import AdversaryView, Maps, highest_access
from monai_mia.attacks.attack import missing_maps
from monai_mia.audit.controls import (
    BlindScores,
    blind_baseline,
    matched_strata,
    measure_controls,
    placebo,
    placebo_scores,
)
from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.results import AttackResult, AuditResult
from monai_mia.audit.scoring import access_needed, granted, needed, score_cases
from monai_mia.errors import InputError
from monai_mia.records.table import ACCESS_LEVELS, SignalTable
from monai_mia.statistics import Estimate, Resampling, epsilon
from monai_mia.statistics.claims import ClaimsEvaluation, evaluate_claims, fewest_claims

__all__ = ["Audit"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

#: FPRs at which the bands of the ROC are drawn.
_BAND_POINTS = 60

#: Resamples of claims, at most: each carries out the claims on a few splits.
_CLAIM_RESAMPLES = 400


@dataclass(frozen=True)
class _Units:
    """What is scored and resampled: U units, the patient of each, and how often each occurs in B resamples.

    ``gaps`` are the weights of a Bayesian bootstrap, shape (B, U + 1), for rates at an FPR.
    """

    ids: tuple[str, ...]
    member: NDArray[np.bool_]
    groups: tuple[str, ...]
    weights: Array
    gaps: Array

    @property
    def sides(self) -> tuple[int, int]:
        """Number of member and of non-member patients."""
        members = {group for group, inside in zip(self.groups, self.member, strict=True) if inside}
        return len(members), len(set(self.groups)) - len(members)


@dataclass(frozen=True)
class _Measured:
    """What one attack achieved, before it is known how many attacks it was chosen from.

    ``values`` and ``samples``, by quantity (``auc``, ``advantage``, ``accuracy``, ``gain``, and an FPR for the TPR at
    it): a number, and the same in B resamples, shape (B,). ``result`` has the intervals for this attack alone.
    """

    result: AttackResult
    values: Mapping[str | float, float]
    samples: Mapping[str | float, Array]


@dataclass(frozen=True)
class Audit:
    """An audit: attacks, and how their success is measured.

    Attributes:
        attacks: the attacks, or a function from the number of shadows to them, such as
            :func:`~monai_mia.attacks.standard_attacks`; :class:`~monai_mia.attacks.EverySignal` among them stands for
            a threshold on each signal.
        unit: ``patient`` (the mean of a patient's cases is scored) or ``case`` (intervals still by patient).
        fprs: the FPRs at which the TPR is reported, where the cohort resolves them.
        access: what the adversary is granted; an attack that needs more is refused.
        utility: signals that are reported as the model's utility.
        resampling: coverage of the intervals, bootstrap resamples, and the one seed of the audit: of resamples, folds,
            permutations and splits.
        n_permutations: permutations of the null control.
        placebos: models that are attacked in the target's stead, as a control, at most; see
            :func:`~monai_mia.audit.controls.placebo_scores`.
        claims_q: bound on the expected share of false claims among the patients that the best attack claims.
        delta: the delta of the guarantee that canaries audit.
        criteria: the thresholds of verdict and recommendation.
        disclosure: how much a report may tell.
    """

    attacks: Sequence[Attack | EverySignal] | Callable[[int], Sequence[Attack | EverySignal]]
    unit: Literal["patient", "case"] = "patient"
    fprs: Sequence[float] = (0.1, 0.05, 0.01, 0.001)
    access: str = "white-box"
    utility: Sequence[str] = ("dice",)
    resampling: Resampling = Resampling()
    n_permutations: int = 2000
    placebos: int = 2
    claims_q: float = 0.1
    delta: float = 1e-5
    criteria: Criteria = Criteria()
    disclosure: Disclosure = Disclosure()

    @property
    def seed(self) -> int:
        """The seed of the resampling, which is that of everything."""
        return self.resampling.seed

    def check(self, n_shadow: int, maps: bool = True, access_of: Callable[[str], str] | None = None) -> None:
        """Refuse, before anything is trained, what cannot be done.

        Args:
            n_shadow: number of shadows.
            maps: whether maps are recorded.
            access_of: the access level that a signal will need, where that is known beforehand.
        """
        attacks = self._listed(n_shadow)
        if not attacks:
            raise InputError("attacks must be a list of at least one attack, got an empty list.")
        if self.unit not in ("patient", "case"):
            raise InputError(f"unit must be 'patient' or 'case', got {self.unit!r}.")
        if self.access not in ACCESS_LEVELS:
            raise InputError(f"access must be one of {', '.join(ACCESS_LEVELS)}, got {self.access!r}.")
        for option, lowest in (("n_permutations", 1), ("placebos", 0)):
            if getattr(self, option) < lowest:
                raise InputError(f"{option} must be at least {lowest}, got {getattr(self, option)}.")
        for option, value in (("claims_q", self.claims_q), ("delta", self.delta)):
            if not 0 < value < 1:
                raise InputError(f"{option} must be in (0, 1), got {value}.")
        for fpr in self.fprs:
            if not 0 < fpr < 1:
                raise InputError(f"fprs must be in (0, 1), got {fpr}.")
        names = Counter("EverySignal" if isinstance(attack, EverySignal) else attack.name for attack in attacks)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise InputError(f"attacks must have different names, got {', '.join(map(repr, twice))} more than once.")
        for attack in attacks:
            if not isinstance(attack, EverySignal) and attack.min_shadows > n_shadow:
                raise InputError(
                    f"shadows must be at least {attack.min_shadows} for attack {attack.name!r}, got {n_shadow}. "
                    "Train more shadows (--shadows), or take the attack off the list."
                )
            if not isinstance(attack, EverySignal):
                if getattr(attack, "needs_maps", False) and not maps:
                    raise missing_maps(attack.name)
                if access_of is not None:
                    self._require(attack, highest_access([access_of(name) for name in attack.signals]))

    def _require(self, attack: Attack, read: str) -> None:
        """Refuse an attack whose access is not granted."""
        level = needed(attack, read)
        if not granted(level, self.access):
            raise InputError(
                f"access must be at least {level!r} for attack {attack.name!r}, got {self.access!r}. "
                "Grant it, or take the attack off the list."
            )

    def _listed(self, n_shadow: int) -> list[Attack | EverySignal]:
        return list(self.attacks(n_shadow) if callable(self.attacks) else self.attacks)

    def run(
        self,
        table: SignalTable,
        target: str = "target",
        shadows: Sequence[str] | None = None,
        features: Array | None = None,
        randomised: bool = True,
        maps: Maps | None = None,
        canary: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        blind_scores: BlindScores | None = None,
    ) -> AuditResult:
        """Carry out the attacks and measure them.

        Args:
            table: the signals of the target and the shadows.
            target: id of the audited model.
            shadows: ids of the shadows; by default all other models.
            features: image statistics for the blind baseline and for attacks that read them, shape (N, F), in the
                order of ``table.case_ids``.
            randomised: whether a coin decided the target's members; otherwise a blind baseline that succeeds makes the
                audit inconclusive.
            maps: recorded maps of the target and the shadows, for attacks that read them.
            canary: for each case the kind of canary that it is, or an empty text; canaries are scored, and counted
                apart from the patients.
            feature_names: names of the F image statistics, which the report shows.
            blind_scores: out-of-fold scores of a blind network, in the order of ``table.case_ids``.
        """
        start = time.perf_counter()
        view = replace(AdversaryView.of(table, target, shadows), features=features, maps=maps)
        self.check(len(view.shadow))
        attacks = self._expanded(view)
        everything, real = table, np.ones(len(table.case_ids), dtype=bool)
        if canary is not None:
            if len(canary) != len(real):
                raise InputError(f"canary must tell of each of {len(real)} cases, got {len(canary)}.")
            real = np.array([not kind for kind in canary])
            table = table.only(real)
            features = None if features is None else features[real]
            blind_scores = None if blind_scores is None else blind_scores.only(real)
        units = self._units(table, target)
        member, groups = units.member, units.groups

        names, access, scores, raw, seconds = [], [], [], [], []
        for attack in attacks:
            began = time.perf_counter()
            values = score_cases(attack, view, everything.members(target) | ~real, self.seed)
            seconds.append(time.perf_counter() - began)
            names.append(attack.name)
            access.append(access_needed(attack, view))
            raw.append(values)
            scores.append(self._pool(values[real], table))
        stacked = np.stack(scores)
        permuted = statistics.permuted_aucs(stacked, member, groups, self.n_permutations, self.seed)
        best_by_chance = permuted.max(axis=1)

        baseline = None
        if GlobalLoss().name in names:
            loss = stacked[names.index(GlobalLoss().name)]
            baseline = float(statistics.roc(loss, member).auc), self._resampled_aucs(loss, units)
        measured = [
            self._measure(
                attack.name, access[k], attack.signals, len(view.shadow) if attack.min_shadows else 0,
                stacked[k], units, best_by_chance, baseline, seconds[k], getattr(attack, "decides", False),
            )
            for k, attack in enumerate(attacks)
        ]  # fmt: skip
        fprs = statistics.resolved(self.fprs, member)
        tails = statistics.permuted_tails(stacked, member, groups, fprs, self.n_permutations, self.seed)
        if self.n_permutations * self.criteria.tail_significance < len(fprs):
            logger.warning("n_permutations should be 1000 or more: with %d no tail can count.", self.n_permutations)
        results = self._chosen_from(measured, stacked, statistics.tail_p_values(*tails), units)
        order = sorted(range(len(results)), key=lambda k: -results[k].auc.value)
        results = [results[k] for k in order]
        best, best_scores = results[0], raw[order[0]]
        drawn = np.stack([one.samples["auc"] for one in measured])
        reach = statistics.reach_of_best(drawn, self.resampling.confidence, one_sided=True)

        def lead(value: float, samples: Array) -> Estimate:
            """The AUC of the best attack over another quantity; chosen as the best over the same."""
            further = statistics.reach_of_best(drawn - samples, self.resampling.confidence)
            return self.resampling.estimate(best.auc.value - value, drawn[order[0]] - samples, further)

        blinds: dict[str, _Measured] = {}
        if features is not None:
            values, chance = self._blind(features, table, target)
            blinds["baseline"] = self._measure("blind baseline", "none", (), 0, values, units, chance, None, 0.0)
        if blind_scores is not None:
            values = self._pool(blind_scores.scores, table)
            network = self._measure(
                "blind network", "none", (), 0, values, units, np.zeros(0), None, blind_scores.seconds
            )
            p_value = blind_scores.p_value(table.members(target), table.patient_ids, self.n_permutations, self.seed)
            blinds["network"] = replace(network, result=replace(network.result, p_value=p_value))
        difference = None
        if blinds:  # images that rank members below others are no better than chance: a fold does that to few patients
            blind = max(blinds.values(), key=lambda one: one.values["auc"])
            difference = lead(max(blind.values["auc"], 0.5), np.maximum(blind.samples["auc"], 0.5))
        controls = measure_controls(
            best_scores[real], table.members(target), table.patient_ids, features, feature_names,
            self.n_permutations, self.seed, self.resampling.confidence, self.fprs,
        )  # fmt: skip
        if features is not None and not randomised:
            matched = matched_strata(
                best.name, best_scores[real], table.members(target), table.patient_ids, features, self.resampling, reach
            )
            controls = replace(controls, matched=matched)
        others = [model for model in table.model_ids if model != target] if shadows is None else list(shadows)
        placebos = placebo_scores(
            attacks, everything, target, others, view.features, real, lambda values: self._pool(values, table),
            self.placebos, self.seed,
        )  # fmt: skip
        if placebos is not None:
            dealt = statistics.permuted_members(member, groups, self.n_permutations, self.seed)
            control = placebo(
                placebos, names, stacked, permuted, member, dealt, units.weights,
                lead, partial(self._auc, member=member),
            )  # fmt: skip
            controls = replace(controls, placebo=control)
        canaries = epsilon.audit_kinds(  # by the attack that is best on the patients: no canary helped to choose it
            best_scores, everything.members(target), everything.patient_ids, canary or (),
            self.delta, self.resampling.confidence, self.seed,
        )  # fmt: skip
        return AuditResult(
            target=target,
            unit=self.unit,
            unit_ids=units.ids,
            patient_ids=units.groups,
            member=member,
            attacks=tuple(results),
            blind=blinds["baseline"].result if "baseline" in blinds else None,
            blind_network=blinds["network"].result if "network" in blinds else None,
            attack_minus_blind=difference,
            controls=controls,
            null={
                "auc_median": float(np.median(best_by_chance)),
                "auc_95": float(np.quantile(best_by_chance, 0.95)),
                "n_permutations": float(self.n_permutations),
            },
            vulnerability=_vulnerability(best.scores, member),
            claims=self._claims(best, units, reach),
            canaries=canaries,
            utility=self._utilities(table, target, units),
            n_patients=units.sides,
            randomised=randomised,
            criteria=self.criteria,
            disclosure=self.disclosure,
            confidence=self.resampling.confidence,
            seconds=time.perf_counter() - start,
        )

    def _blind(self, features: Array, table: SignalTable, target: str) -> tuple[Array, Array]:
        """The blind baseline's scores, shape (U,), and its AUCs when it is fitted to permuted memberships, (P,)."""
        member, patients = table.members(target), table.patient_ids
        dealt = statistics.permuted_members(member, patients, self.n_permutations, self.seed)
        every = np.concatenate([member[None], dealt])
        scores = blind_baseline(features, every, patients, self.seed)
        pooled = np.stack([self._pool(row, table) for row in scores])
        sides = np.stack([self._pool(row.astype(np.float64), table) > 0.5 for row in every])
        return pooled[0], statistics.aucs(pooled, sides)[1:]

    def _expanded(self, view: AdversaryView) -> list[Attack]:
        listed = self._listed(len(view.shadow))
        attacks: list[Attack] = []
        for attack in listed:
            if isinstance(attack, EverySignal):
                attacks += [
                    threshold
                    for threshold in attack.attacks(view, tuple(listed))
                    if granted(view.access_of(threshold.signals), self.access)
                ]
                continue
            for signal in attack.signals:
                view.signal(signal)  # names the signal that is missing
            self._require(attack, view.access_of(attack.signals))
            attacks.append(attack)
        if not attacks:
            raise InputError(f"attacks must be at least one with access {self.access!r}, got no signal that it grants.")
        return attacks

    def _units(self, table: SignalTable, target: str) -> _Units:
        members, patients = table.members(target), list(table.patient_ids)
        ids = list(table.case_ids)
        if self.unit == "patient":
            names, share = statistics.group_means(members, patients)
            members, ids = share > 0.5, [str(name) for name in names]
            patients = ids
        weights, gaps = self.resampling.weights(members, patients), self.resampling.gaps(members, patients)
        return _Units(tuple(ids), members, tuple(patients), weights, gaps)

    def _pool(self, values: Array, table: SignalTable) -> Array:
        return values if self.unit == "case" else statistics.group_means(values, table.patient_ids)[1]

    def _resampled_aucs(self, scores: Array, units: _Units) -> Array:
        return np.concatenate([curve.auc for curve in statistics.resampled_rocs(scores, units.member, units.weights)])

    def _chosen_from(
        self, measured: Sequence[_Measured], scores: Array, tails: Array, units: _Units
    ) -> list[AttackResult]:
        """The results, with intervals that hold for an attack that was chosen as the best of them.

        Args:
            measured: what each of K attacks achieved.
            scores: theirs, shape (K, U).
            tails: the p-values of their tails, shape (K,).
            units: the units.
        """
        member, confidence = units.member, self.resampling.confidence
        reach = {
            quantity: statistics.reach_of_best(
                np.stack([one.samples[quantity] for one in measured]), confidence, one_sided=quantity == "auc"
            )
            for quantity in measured[0].samples
        }
        bounds: list[epsilon.EpsilonBound | None] = [None] * len(measured)
        if self.unit == "patient" and min(member.sum(), (~member).sum()) >= 4:
            bounds = list(epsilon.epsilon_lower_bounds(scores, member, 0.0, confidence, self.seed))
        return [
            replace(self._reported(one, reach, member), tail_p_value=float(tail), epsilon_lower_bound=bound)
            for one, tail, bound in zip(measured, tails, bounds, strict=True)
        ]

    def _reported(self, one: _Measured, reach: Mapping[str | float, float], member: NDArray[np.bool_]) -> AttackResult:
        """A result with intervals that reach so many times as far down, by quantity; by default once."""
        n_member = int(member.sum())

        def estimate(quantity: str) -> Estimate:
            return self.resampling.estimate(one.values[quantity], one.samples[quantity], reach.get(quantity, 1.0))

        rates: dict[float, Estimate | None] = {}
        for fpr in self.fprs:
            known = fpr in one.values
            drawn, further = one.samples.get(fpr, np.zeros(0)), reach.get(fpr, 1.0)
            rates[fpr] = self._proportion(one.values[fpr], drawn, n_member, further) if known else None
        return replace(
            one.result,
            auc=self._auc(one.values["auc"], one.samples["auc"], member, reach.get("auc", 1.0)),
            tpr_at_fpr=rates,
            advantage=_holding(estimate("advantage")),
            balanced_accuracy=_holding(estimate("accuracy")),
            auc_gain=estimate("gain") if "gain" in one.values else None,
        )

    def _measure(
        self,
        name: str,
        access: str,
        signals: tuple[str, ...],
        n_shadow: int,
        scores: Array,
        units: _Units,
        chance: Array,
        baseline: tuple[float, Array] | None,
        seconds: float,
        decides: bool = False,
    ) -> _Measured:
        """What an attack achieved, with intervals for itself alone."""
        member, groups, weights = units.member, units.groups, units.weights
        n_member = int(member.sum())
        curve = statistics.roc(scores, member)
        grid = np.geomspace(statistics.resolution(member), 1.0, _BAND_POINTS)
        aucs, advantages, band = [], [], []
        for block in statistics.resampled_rocs(scores, member, weights):
            aucs.append(block.auc)
            advantages.append(block.advantage)
            band.append(np.stack([block.tpr_at(fpr) for fpr in grid], axis=1))
        confidence, estimate = self.resampling.confidence, self.resampling.estimate
        low, high = np.quantile(np.concatenate(band), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        resolved = statistics.resolved(self.fprs, member)
        accuracy, decision = statistics.balanced_accuracy(scores, member, groups, self.seed)
        correct = decision == member
        accuracies = [(weights[:, side] @ correct[side]) / weights[:, side].sum(axis=1) for side in (member, ~member)]
        transferred = None
        if decides:
            claimed = scores >= 0  # by the attack's own threshold, not by one chosen here
            shares = [(weights[:, side] @ claimed[side]) / weights[:, side].sum(axis=1) for side in (member, ~member)]
            tpr, fpr = int(claimed[member].sum()) / n_member, int(claimed[~member].sum()) / (len(member) - n_member)
            transferred = {
                "tpr": self._proportion(tpr, shares[0], n_member),
                "fpr": self._proportion(fpr, shares[1], len(member) - n_member),
                "balanced_accuracy": estimate((tpr + 1 - fpr) / 2, (shares[0] + 1 - shares[1]) / 2),
            }
        value = float(curve.auc)
        values: dict[str | float, float] = {
            "auc": value,
            "advantage": float(curve.advantage),
            "accuracy": accuracy,
            **{fpr: float(curve.tpr_at(fpr)) for fpr in resolved},
        }
        samples: dict[str | float, Array] = {
            "auc": np.concatenate(aucs),
            "advantage": np.concatenate(advantages),
            "accuracy": (accuracies[0] + accuracies[1]) / 2,
            **dict(zip(resolved, statistics.resampled_tprs(scores, member, units.gaps, resolved), strict=True)),
        }
        if baseline is not None:
            values["gain"], samples["gain"] = value - baseline[0], samples["auc"] - baseline[1]
        unknown = Estimate(float("nan"), float("nan"), float("nan"))
        result = AttackResult(
            name=name,
            access=access,
            signals=signals,
            n_shadow=n_shadow,
            scores=scores,
            auc=unknown,
            p_value=float((1 + (chance >= value - 1e-12).sum()) / (1 + len(chance))),
            tail_p_value=None,
            tpr_at_fpr={},
            advantage=unknown,
            balanced_accuracy=unknown,
            epsilon_lower_bound=None,
            auc_gain=None,
            transferred=transferred,
            roc={
                "fpr": curve.fpr.tolist(),
                "tpr": curve.tpr.tolist(),
                "band_fpr": grid.tolist(),
                "band_low": low.tolist(),
                "band_high": high.tolist(),
            },
            seconds=seconds,
        )
        measured = _Measured(result, values, samples)
        return replace(measured, result=self._reported(measured, {}, member))

    def _proportion(self, value: float, samples: Array, n: int, reach: float = 1.0) -> Estimate:
        """A share of n units; of patients, who are independent, never narrower than the exact interval."""
        if self.unit == "case":
            return _holding(self.resampling.estimate(value, samples, reach))
        return _holding(self.resampling.proportion(value, samples, n, reach))

    def _auc(self, value: float, samples: Array, member: NDArray[np.bool_], reach: float = 1.0) -> Estimate:
        """An AUC; of patients, who are independent, never narrower than the score interval."""
        if self.unit == "case":
            return _holding(self.resampling.estimate(value, samples, reach))
        n_member = int(member.sum())
        return self.resampling.auc(value, samples, n_member, len(member) - n_member, reach)

    def _claims(self, best: AttackResult, units: _Units, reach: float) -> ClaimsEvaluation | None:
        n_member, n_nonmember = units.sides
        if min(n_member, n_nonmember) < 2 or fewest_claims(n_member, n_nonmember // 2, self.claims_q) > n_member:
            return None  # nobody could be claimed; the report says so
        return evaluate_claims(
            best.scores,
            units.member,
            units.groups,
            self.claims_q,
            self.seed,
            True,
            confidence=self.resampling.confidence,
            n_resamples=min(self.resampling.n_resamples, _CLAIM_RESAMPLES),
            reach=reach,
        )

    def _utilities(self, table: SignalTable, target: str, units: _Units) -> dict[str, dict[str, Estimate]]:
        member, weights, estimate = units.member, units.weights, self.resampling.estimate
        result: dict[str, dict[str, Estimate]] = {}
        for name in self.utility:
            values = self._pool(table.signal(name, target), table)
            means = [float(values[side].mean()) for side in (member, ~member)]
            drawn = [(weights[:, side] @ values[side]) / weights[:, side].sum(axis=1) for side in (member, ~member)]
            result[name] = {
                "members": estimate(means[0], drawn[0]),
                "nonmembers": estimate(means[1], drawn[1]),
                "gap": estimate(means[0] - means[1], drawn[0] - drawn[1]),
            }
        return result


def _holding(found: Estimate) -> Estimate:
    """A rate with an interval that holds it and stays within [0, 1]."""
    return Estimate(found.value, max(0.0, min(found.low, found.value)), min(1.0, max(found.high, found.value)))


def _vulnerability(scores: Array, member: NDArray[np.bool_]) -> Array:
    """Share of non-members that score at least as high: the FPR at which a unit is found."""
    others = np.sort(scores[~member])
    return np.asarray(1 - np.searchsorted(others, scores, side="left") / len(others))
