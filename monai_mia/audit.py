# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The audit: joins the attacks' scores with the target's membership. Nothing else does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia import epsilon, statistics
from monai_mia.attacks import Attack, EverySignal, GlobalLoss
from monai_mia.controls import blind_baseline
from monai_mia.errors import InputError
from monai_mia.table import ACCESS_LEVELS, Knowledge, SignalTable

__all__ = ["AttackResult", "Audit", "AuditResult", "Interval", "Verdict", "VerdictRules"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Interval = tuple[float, float]

#: FPRs at which the bands of the ROC are drawn.
_BAND_POINTS = 60


@dataclass(frozen=True)
class AttackResult:
    """What one attack achieved against the target, in the audit's unit.

    Attributes:
        name: the attack's name.
        access: what the adversary needs.
        signals: what it reads.
        n_shadow: how many shadows it used.
        scores: one per unit, shape (U,), higher = more likely a member.
        auc: area under the ROC, and its interval.
        auc_ci: interval of the AUC.
        p_value: probability under permuted membership that the best of all attacks of the audit reaches this AUC.
        tpr_at_fpr: for each FPR, the TPR and its interval, or None below the resolution of the cohort.
        advantage: largest TPR - FPR, and its interval; optimistic.
        advantage_ci: interval of the advantage.
        balanced_accuracy: of a threshold chosen on other patients.
        balanced_accuracy_ci: its interval.
        epsilon_lower_bound: audited epsilon, or None where the unit is not the patient.
        auc_gain: AUC minus that of the global loss, with its paired interval.
        roc: FPR, TPR, and lower and upper TPR of the band, each a list.
        seconds: time to score.
    """

    name: str
    access: str
    signals: tuple[str, ...]
    n_shadow: int
    scores: Array
    auc: float
    auc_ci: Interval
    p_value: float
    tpr_at_fpr: Mapping[float, tuple[float, Interval] | None]
    advantage: float
    advantage_ci: Interval
    balanced_accuracy: float
    balanced_accuracy_ci: Interval
    epsilon_lower_bound: epsilon.EpsilonBound | None
    auc_gain: tuple[float, Interval] | None
    roc: Mapping[str, list[float]]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """The answer in one word, and why.

    Attributes:
        level: ``low``, ``moderate``, ``high`` or ``inconclusive``.
        reasons: sentences for a reader without a background in privacy.
    """

    level: Literal["low", "moderate", "high", "inconclusive"]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class VerdictRules:
    """When a verdict is what; the defaults' reasons are in docs/report_format.md.

    Attributes:
        significance: an attack counts if chance gives its AUC less often than this, over all attacks tried.
        high_auc: the verdict is ``high`` if the best attack's interval of the AUC lies above this.
        high_lift: or if the interval of its TPR, at some reported FPR, lies above this many times the FPR.
        min_gain_over_blind: where membership can be told without the model, an attack must be better than that by more
            than this, or the audit is ``inconclusive``.
        max_detectable: where chance gives the best attack this AUC in 1 of 20 cases, finding nothing is
            ``inconclusive``: the cohort is too small to see less.
        min_patients: fewer patients than this on a side are ``inconclusive``.
    """

    significance: float = 0.05
    high_auc: float = 0.7
    high_lift: float = 4.0
    min_gain_over_blind: float = 0.1
    max_detectable: float = 0.75
    min_patients: int = 10


@dataclass(frozen=True)
class AuditResult:
    """What an audit found; :func:`monai_mia.report.write_report` prints it.

    Attributes:
        target: id of the audited model in the table.
        unit: ``patient`` or ``case``.
        unit_ids: names of the U units; private.
        member: whether the target trained on a unit, shape (U,).
        attacks: sorted by AUC, best first.
        blind: the blind baseline as if it were an attack, or None without image statistics.
        attack_minus_blind: AUC of the best attack minus that of the blind baseline, with its paired interval.
        null: what chance gives: quantiles of the best AUC under permuted membership.
        exposure: for each unit, the smallest FPR at which the best attack still calls it a member; private.
        utility: mean and interval of each utility metric on members, on non-members, and their gap.
        verdict: the verdict.
        seconds: time of the audit.
    """

    target: str
    unit: str
    unit_ids: tuple[str, ...]
    member: NDArray[np.bool_]
    attacks: tuple[AttackResult, ...]
    blind: AttackResult | None
    attack_minus_blind: tuple[float, Interval] | None
    null: Mapping[str, float]
    exposure: Array
    utility: Mapping[str, Mapping[str, Any]]
    verdict: Verdict
    confidence: float
    seconds: float

    @property
    def best(self) -> AttackResult:
        """The attack with the highest AUC."""
        return self.attacks[0]

    def attack(self, name: str) -> AttackResult:
        """The result of the attack of that name."""
        for result in self.attacks:
            if result.name == name:
                return result
        raise InputError(f"attack must be one of {', '.join(a.name for a in self.attacks)}, got {name!r}.")

    def metrics(self) -> dict[str, float]:
        """AUC and TPR of every attack, flat, for a logger."""
        flat = {}
        for result in self.attacks:
            flat[f"{result.name} AUC"] = result.auc
            for fpr, value in result.tpr_at_fpr.items():
                if value is not None:
                    flat[f"{result.name} TPR@{fpr:g}"] = value[0]
        return flat


@dataclass(frozen=True)
class _Units:
    """What is scored and resampled: U units, the patient of each, and how often each occurs in B resamples."""

    ids: tuple[str, ...]
    member: NDArray[np.bool_]
    groups: tuple[str, ...]
    weights: Array

    @property
    def sides(self) -> tuple[int, int]:
        """Number of member and of non-member patients."""
        members = {group for group, inside in zip(self.groups, self.member, strict=True) if inside}
        return len(members), len(set(self.groups)) - len(members)


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
        confidence: coverage of the intervals.
        n_resamples: bootstrap resamples.
        n_permutations: permutations of the null control.
        rules: when a verdict is what.
        seed: seed of resamples, folds, permutations and splits.
    """

    attacks: Sequence[Attack | EverySignal] | Callable[[int], Sequence[Attack | EverySignal]]
    unit: Literal["patient", "case"] = "patient"
    fprs: Sequence[float] = (0.1, 0.05, 0.01, 0.001)
    access: str = "white-box"
    utility: Sequence[str] = ("dice",)
    confidence: float = 0.95
    n_resamples: int = 2000
    n_permutations: int = 2000
    rules: VerdictRules = field(default_factory=VerdictRules)
    seed: int = 0

    def check(self, n_shadow: int) -> None:
        """Refuse, before anything is trained, what cannot be done with so many shadows."""
        attacks = self._listed(n_shadow)
        if not attacks:
            raise InputError("attacks must be a list of at least one attack, got an empty list.")
        if self.unit not in ("patient", "case"):
            raise InputError(f"unit must be 'patient' or 'case', got {self.unit!r}.")
        if self.access not in ACCESS_LEVELS:
            raise InputError(f"access must be one of {', '.join(ACCESS_LEVELS)}, got {self.access!r}.")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence must be in (0, 1), got {self.confidence}.")
        for option in ("n_resamples", "n_permutations"):
            if getattr(self, option) < 1:
                raise InputError(f"{option} must be at least 1, got {getattr(self, option)}.")
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

    def _listed(self, n_shadow: int) -> list[Attack | EverySignal]:
        return list(self.attacks(n_shadow) if callable(self.attacks) else self.attacks)

    def run(
        self,
        table: SignalTable,
        target: str = "target",
        shadows: Sequence[str] | None = None,
        features: Array | None = None,
        randomised: bool = True,
    ) -> AuditResult:
        """Carry out the attacks and measure them.

        Args:
            table: the signals of the target and the shadows.
            target: id of the audited model.
            shadows: ids of the shadows; by default all other models.
            features: image statistics for the blind baseline, shape (N, F), in the order of ``table.case_ids``.
            randomised: whether a coin decided the target's members; otherwise a blind baseline that succeeds makes the
                audit inconclusive.
        """
        start = time.perf_counter()
        knowledge = table.knowledge(target, shadows)
        self.check(len(knowledge.shadow))
        attacks = self._expanded(knowledge)
        units = self._units(table, target)
        member, groups = units.member, units.groups

        names, access, scores, seconds = [], [], [], []
        for attack in attacks:
            began = time.perf_counter()
            values = np.asarray(attack(knowledge), dtype=np.float64)
            seconds.append(time.perf_counter() - began)
            if values.shape != (len(table.case_ids),) or not np.isfinite(values).all():
                raise InputError(
                    f"scores of attack {attack.name!r} must be {len(table.case_ids)} finite numbers, got shape "
                    f"{values.shape} with {int((~np.isfinite(values)).sum())} that are not finite."
                )
            names.append(attack.name)
            access.append(knowledge.access_of(attack.signals))
            scores.append(self._pool(values, table))
        stacked = np.stack(scores)
        permuted = statistics.permuted_aucs(stacked, member, groups, self.n_permutations, self.seed)
        best_by_chance = permuted.max(axis=1)

        baseline = None
        if GlobalLoss().name in names:
            loss = stacked[names.index(GlobalLoss().name)]
            baseline = float(statistics.roc(loss, member).auc), self._resampled_aucs(loss, units)
        results = []
        for k, attack in enumerate(attacks):
            results.append(
                self._result(
                    attack.name, access[k], attack.signals, len(knowledge.shadow) if attack.min_shadows else 0,
                    stacked[k], units, best_by_chance, baseline, seconds[k],
                )
            )  # fmt: skip
        order = sorted(range(len(results)), key=lambda k: -results[k].auc)
        results = [results[k] for k in order]
        best = results[0]

        blind = difference = None
        if features is not None:
            blind_scores, chance = self._blind(features, table, target)
            blind = self._result("blind baseline", "none", (), 0, blind_scores, units, chance, None, 0.0)
            samples = [self._resampled_aucs(scored, units) for scored in (best.scores, blind_scores)]
            difference = best.auc - blind.auc, self._quantiles(samples[0] - samples[1])
        return AuditResult(
            target=target,
            unit=self.unit,
            unit_ids=units.ids,
            member=member,
            attacks=tuple(results),
            blind=blind,
            attack_minus_blind=difference,
            null={
                "auc_median": float(np.median(best_by_chance)),
                "auc_95": float(np.quantile(best_by_chance, 0.95)),
                "n_permutations": float(self.n_permutations),
            },
            exposure=_exposure(best.scores, member),
            utility=self._utilities(table, target, units),
            verdict=judge(
                self.rules,
                results,
                blind,
                difference,
                units.sides,
                float(np.quantile(best_by_chance, 0.95)),
                randomised,
            ),
            confidence=self.confidence,
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

    def _expanded(self, knowledge: Knowledge) -> list[Attack]:
        listed = self._listed(len(knowledge.shadow))
        attacks: list[Attack] = []
        for attack in listed:
            if isinstance(attack, EverySignal):
                attacks += [
                    threshold
                    for threshold in attack.attacks(knowledge, tuple(listed))
                    if _granted(knowledge.access_of(threshold.signals), self.access)
                ]
                continue
            for signal in attack.signals:
                knowledge.signal(signal)  # names the signal that is missing
            needed = knowledge.access_of(attack.signals)
            if not _granted(needed, self.access):
                raise InputError(
                    f"access must be at least {needed!r} for attack {attack.name!r}, got {self.access!r}. "
                    "Grant it, or take the attack off the list."
                )
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
        weights = statistics.weights_by_group(members, patients, self.n_resamples, self.seed)
        return _Units(tuple(ids), members, tuple(patients), weights)

    def _pool(self, values: Array, table: SignalTable) -> Array:
        return values if self.unit == "case" else statistics.group_means(values, table.patient_ids)[1]

    def _resampled_aucs(self, scores: Array, units: _Units) -> Array:
        return np.concatenate([curve.auc for curve in statistics.resampled_rocs(scores, units.member, units.weights)])

    def _quantiles(self, values: Array) -> Interval:
        low, high = np.quantile(values, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return float(low), float(high)

    def _result(
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
    ) -> AttackResult:
        member, groups, weights = units.member, units.groups, units.weights
        n_member = int(member.sum())
        curve = statistics.roc(scores, member)
        grid = np.geomspace(statistics.resolution(member), 1.0, _BAND_POINTS)
        aucs, advantages, tprs, band = [], [], [], []
        for block in statistics.resampled_rocs(scores, member, weights):
            aucs.append(block.auc)
            advantages.append(block.advantage)
            tprs.append(np.stack([block.tpr_at(fpr) for fpr in self.fprs], axis=1))
            band.append(np.stack([block.tpr_at(fpr) for fpr in grid], axis=1))
        resampled = np.concatenate(aucs)
        tpr_samples = np.concatenate(tprs)
        low, high = np.quantile(np.concatenate(band), [(1 - self.confidence) / 2, (1 + self.confidence) / 2], axis=0)
        rates: dict[float, tuple[float, Interval] | None] = {}
        for column, fpr in enumerate(self.fprs):
            if fpr < statistics.resolution(member) - 1e-12:
                rates[fpr] = None
                continue
            value = float(curve.tpr_at(fpr))
            exact = statistics.clopper_pearson(round(value * n_member), n_member, self.confidence)
            rates[fpr] = value, self._wider(tpr_samples[:, column], exact)
        accuracy, decision = statistics.balanced_accuracy(scores, member, groups, self.seed)
        correct = decision == member
        accuracies = [(weights[:, side] @ correct[side]) / weights[:, side].sum(axis=1) for side in (member, ~member)]
        bound = None
        if self.unit == "patient" and min(member.sum(), (~member).sum()) >= 4:
            bound = epsilon.epsilon_lower_bound(scores, member, "split", 0.0, self.confidence, self.seed)
        auc = float(curve.auc)
        gain = None
        if baseline is not None:
            gain = auc - baseline[0], self._quantiles(resampled - baseline[1])
        return AttackResult(
            name=name,
            access=access,
            signals=signals,
            n_shadow=n_shadow,
            scores=scores,
            auc=auc,
            auc_ci=self._wider(
                resampled, statistics.auc_interval(auc, n_member, len(member) - n_member, self.confidence)
            ),
            p_value=float((1 + (chance >= auc - 1e-12).sum()) / (1 + len(chance))),
            tpr_at_fpr=rates,
            advantage=float(curve.advantage),
            advantage_ci=self._quantiles(np.concatenate(advantages)),
            balanced_accuracy=accuracy,
            balanced_accuracy_ci=self._quantiles((accuracies[0] + accuracies[1]) / 2),
            epsilon_lower_bound=bound,
            auc_gain=gain,
            roc={
                "fpr": curve.fpr.tolist(),
                "tpr": curve.tpr.tolist(),
                "band_fpr": grid.tolist(),
                "band_low": low.tolist(),
                "band_high": high.tolist(),
            },
            seconds=seconds,
        )

    def _wider(self, samples: Array, exact: Interval) -> Interval:
        """The wider of bootstrap and, where units are independent, exact: near 0 and 1 a bootstrap is too narrow."""
        low, high = self._quantiles(samples)
        if self.unit == "patient":
            low, high = min(low, exact[0]), max(high, exact[1])
        return low, high

    def _utilities(self, table: SignalTable, target: str, units: _Units) -> dict[str, dict[str, Any]]:
        member, weights = units.member, units.weights
        result: dict[str, dict[str, Any]] = {}
        for name in self.utility:
            values = self._pool(table.signal(name, target), table)
            means, samples = {}, {}
            for key, side in (("members", member), ("nonmembers", ~member)):
                means[key] = float(values[side].mean())
                samples[key] = (weights[:, side] @ values[side]) / weights[:, side].sum(axis=1)
            result[name] = {
                **{key: {"value": means[key], "ci": self._quantiles(samples[key])} for key in means},
                "gap": {
                    "value": means["members"] - means["nonmembers"],
                    "ci": self._quantiles(samples["members"] - samples["nonmembers"]),
                },
            }
        return result


def judge(
    rules: VerdictRules,
    attacks: Sequence[AttackResult],
    blind: AttackResult | None,
    attack_minus_blind: tuple[float, Interval] | None,
    sides: tuple[int, int],
    detectable: float,
    randomised: bool,
) -> Verdict:
    """The verdict; see docs/report_format.md for the rules in words.

    Args:
        rules: the thresholds.
        attacks: results, best first.
        blind: the blind baseline, or None.
        attack_minus_blind: AUC of the best attack minus that of the blind baseline, with its interval.
        sides: number of member and of non-member patients.
        detectable: the AUC that chance gives the best attack in 1 of 20 permutations; less would not be noticed.
        randomised: whether a coin decided the members.
    """
    best = attacks[0]
    if min(sides) < rules.min_patients:
        few = (
            f"Only {sides[0]} member and {sides[1]} non-member patients: too few to tell anything (at least "
            f"{rules.min_patients} on each side are needed)."
        )
        return Verdict("inconclusive", (few,))
    which = f"The best of {len(attacks)} attacks, “{best.name}”," if len(attacks) > 1 else f"The attack “{best.name}”"
    evidence = f"{which} has an AUC of {_with_ci(best.auc, best.auc_ci)}"
    reasons = [f"{evidence}; chance alone reaches that in {_small(best.p_value)} of cases."]
    if blind is not None and attack_minus_blind is not None and blind.p_value < rules.significance:
        told = f"membership can be told without the model (blind baseline, AUC {_with_ci(blind.auc, blind.auc_ci)})"
        gain = _with_ci(*attack_minus_blind)
        if not randomised or attack_minus_blind[1][0] <= rules.min_gain_over_blind:
            reasons += [
                f"But {told}; the attack has {gain} more. Members and non-members differ as images, so that the attack "
                "may have found that difference and no memory, or may have been hindered by it.",
                "Take both from one source, or let the tool train the target (a randomised design).",
            ]
            return Verdict("inconclusive", tuple(reasons))
        reasons.append(f"Although {told}, the attack is clearly better ({gain} more).")
    if best.p_value >= rules.significance:
        reasons[0] = f"{reasons[0]} So nothing was shown."
        if detectable > rules.max_detectable:
            reasons.append(f"With so few patients, only an AUC above {detectable:.2f} would have been noticed.")
            return Verdict("inconclusive", tuple(reasons))
        reasons.append(
            f"An AUC above {detectable:.2f} would have been noticed. This is no proof of privacy: other attacks, more "
            "shadows or more patients could find more."
        )
        return Verdict("low", tuple(reasons))
    lifts = [(value[1][0] / fpr, fpr, value) for fpr, value in best.tpr_at_fpr.items() if value is not None]
    lift, fpr, value = max(lifts, default=(0.0, 0.0, (0.0, (0.0, 0.0))))
    if best.auc_ci[0] > rules.high_auc:
        reasons.append(f"The whole interval of the AUC lies above {rules.high_auc:g}: membership is told with ease.")
        return Verdict("high", tuple(reasons))
    if lift > rules.high_lift:
        found = _with_ci(*value)
        reasons.append(f"While it falsely accuses {fpr:.1%} of the others, it finds {found} of the members.")
        return Verdict("high", tuple(reasons))
    reasons.append(
        f"The evidence about an average patient is limited (AUC not clearly above {rules.high_auc:g}); "
        "single patients may still stand out."
    )
    return Verdict("moderate", tuple(reasons))


def _exposure(scores: Array, member: NDArray[np.bool_]) -> Array:
    """Share of non-members that score at least as high: the FPR at which a unit is found."""
    others = np.sort(scores[~member])
    return np.asarray(1 - np.searchsorted(others, scores, side="left") / len(others))


def _granted(needed: str, granted: str) -> bool:
    if needed == "mask+label" and granted == "probabilities":
        return False  # probabilities alone do not come with a reference
    return ACCESS_LEVELS.index(needed) <= ACCESS_LEVELS.index(granted)


def _with_ci(value: float, ci: Interval) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


def _small(p_value: float) -> str:
    return "less than 0.1%" if p_value < 0.001 else f"{p_value:.1%}"
