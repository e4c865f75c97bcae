# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What an audit finds: its numbers, its verdict, and how they print, plot and become JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monai_mia.audit.controls import Controls
from monai_mia.audit.criteria import Criteria, percent
from monai_mia.audit.disclosure.gate import Disclosure
from monai_mia.audit.printing import assumed_in_words, data_frame, flat, text_table, wrapped
from monai_mia.audit.verdict import Verdict, judge
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, resolution
from monai_mia.statistics.accounted import epsilon_in_words
from monai_mia.statistics.claims import ClaimsEvaluation
from monai_mia.statistics.epsilon import EpsilonBound, at_least

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from monai_mia.audit.drawing import Curve

__all__ = ["AttackResult", "AuditResult"]

Array = NDArray[np.float64]

_VULNERABILITY_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

_ENDS = ("low", "high")

#: The baseline of all attacks, which is shown whatever it finds.
_BASELINE = "global loss"


@dataclass(frozen=True)
class AttackResult:
    """What one attack achieved against the target, in the audit's unit. ``print`` shows it.

    Of an attack of an audit, the intervals of AUC, TPR, advantage, accuracy and gain hold although it may have been
    chosen as the best of all (:func:`~monai_mia.statistics.reach_of_best`), and the bounds on epsilon hold for all at
    once.

    Attributes:
        name: the attack's name.
        access: what the adversary needs.
        signals: what it reads.
        n_shadow: how many shadows it used.
        scores: one per unit, shape (U,), higher = more likely a member.
        auc: area under the ROC, in [0, 1].
        p_value: probability under permuted membership that the best of all attacks of the audit reaches this AUC.
        tail_p_value: probability under permuted membership that any attack of the audit has, at any resolved FPR, a TPR
            that chance gives as seldom as the least likely one of this attack; 1 without a resolved FPR; None of a
            blind one.
        tpr_at_fpr: for each FPR, the TPR, or None below the resolution of the cohort.
        advantage: largest TPR - FPR, in [0, 1]; optimistic.
        balanced_accuracy: of a threshold chosen on other patients.
        epsilon_lower_bound: audited epsilon, or None where the unit is not the patient, and of a blind one.
        auc_gain: AUC minus that of the global loss, with its paired interval.
        transferred: of an attack with a threshold of its own, fitted on shadows: TPR, FPR and balanced accuracy of its
            decision; else None.
        roc: FPR, TPR, and lower and upper TPR of the band, each a list.
        seconds: time to score.
        lift: of :attr:`AuditResult.shared`, how many times its FPR the TPR is at least, at any resolved FPR whose TPR
            is not told: a power of two; None elsewhere, or if fewer members are found than one may tell of.
    """

    name: str
    access: str
    signals: tuple[str, ...]
    n_shadow: int
    scores: Array
    auc: Estimate
    p_value: float
    tail_p_value: float | None
    tpr_at_fpr: Mapping[float, Estimate | None]
    advantage: Estimate
    balanced_accuracy: Estimate
    epsilon_lower_bound: EpsilonBound | None
    auc_gain: Estimate | None
    transferred: Mapping[str, Estimate] | None
    roc: Mapping[str, list[float]]
    seconds: float
    lift: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As ``attacks`` of ``report.json`` has it, without the scores."""
        bound = self.epsilon_lower_bound
        return {
            "name": self.name,
            "access": self.access,
            "signals": list(self.signals),
            "n_shadow": self.n_shadow,
            **self.auc.named("auc"),
            "p_value": self.p_value,
            "tail_p_value": self.tail_p_value,
            "auc_gain_over_global_loss": _json(self.auc_gain),
            "tpr_at_fpr": {f"{fpr:g}": _json(value) for fpr, value in self.tpr_at_fpr.items()},
            "lift": self.lift,
            **self.advantage.named("advantage"),
            **self.balanced_accuracy.named("balanced_accuracy"),
            "transferred": None
            if self.transferred is None
            else {rate: value.as_json() for rate, value in self.transferred.items()},
            "epsilon_lower_bound": None if bound is None else bound.value,
            "epsilon": None
            if bound is None
            else {
                "delta": bound.delta,
                "confidence": bound.confidence,
                "threshold": bound.method,
                "ceiling": bound.ceiling,
            },
            "roc": {key: list(values) for key, values in self.roc.items()},
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        """Its numbers, one a line."""
        shadows = f"{self.n_shadow} shadow{'s' * (self.n_shadow != 1)}" if self.n_shadow else "no shadow"
        rows = [("AUC", f"{self.auc}, p {self.p_value:.3f}")]
        rows += [
            (f"TPR at {percent(fpr)} FPR", "below resolution" if value is None else str(value))
            for fpr, value in self.tpr_at_fpr.items()
        ]
        rows += [("balanced accuracy", str(self.balanced_accuracy)), ("advantage", str(self.advantage))]
        if self.epsilon_lower_bound is not None:
            rows.append(("audited epsilon", f"at least {at_least(self.epsilon_lower_bound.value)}"))
        lines = wrapped(f"{self.name} (access: {self.access}; {shadows})")
        return "\n".join([lines[0].lstrip(), *lines[1:], *(f"  {name:22}{value}" for name, value in rows)])

    def to_frame(self) -> pd.DataFrame:
        """Its ROC as a data frame: columns ``fpr`` and ``tpr``, a row for each threshold, the strictest first.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame([{"fpr": x, "tpr": y} for x, y in zip(self.roc["fpr"], self.roc["tpr"], strict=True)])

    def plot_roc(self, axes: Axes | None = None) -> Axes:
        """Draw its ROC with its band on logarithmic axes, from the resolution of the cohort upwards.

        Args:
            axes: where to draw; by default in a figure of its own.

        Returns:
            The axes.
        """
        from monai_mia.audit.drawing import Curve, draw_roc

        finest = self.roc["band_fpr"][0]
        return draw_roc([Curve("best", self.name, self.auc.value, self.roc, True)], finest, finest / 2, axes)


@dataclass(frozen=True)
class AuditResult:
    """What an audit found. ``print`` shows it; :func:`monai_mia.audit.report.write_report` writes what may be shared.

    Attributes:
        target: id of the audited model in the table.
        unit: ``patient`` or ``case``.
        unit_ids: names of the U units; private.
        patient_ids: the patient of each unit, length U; private.
        member: whether the target trained on a unit, shape (U,).
        attacks: sorted by AUC, best first.
        blind: the blind baseline as if it were an attack, or None without image statistics.
        blind_network: the blind network as if it were an attack, or None if none was trained.
        attack_minus_blind: AUC of the best attack minus that of the stronger blind one, or minus 0.5 if that is more,
            with its paired interval.
        controls: further controls.
        null: what chance gives: quantiles of the best AUC under permuted membership.
        vulnerability: for each unit, the smallest FPR at which the best attack still calls it a member; private.
        utility: mean of each utility metric on ``members``, on ``nonmembers``, and their ``gap``.
        claims: what claims of membership by the best attack would have been worth, or None if the cohort is too small.
        canaries: for each kind of canary, bounds on epsilon by method; empty without canaries.
        n_patients: number of member and of non-member patients.
        randomised: whether a coin decided the members.
        criteria: what the verdict is judged by.
        disclosure: how much a report may tell.
        confidence: coverage of the intervals.
        seconds: time of the audit.
        withheld: of :attr:`shared`, the attacks whose numbers are not told; else none.
        gated: whether this is what may be shared.
    """

    target: str
    unit: str
    unit_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    member: NDArray[np.bool_]
    attacks: tuple[AttackResult, ...]
    blind: AttackResult | None
    blind_network: AttackResult | None
    attack_minus_blind: Estimate | None
    controls: Controls
    null: Mapping[str, float]
    vulnerability: Array
    utility: Mapping[str, Mapping[str, Estimate]]
    claims: ClaimsEvaluation | None
    canaries: Mapping[str, Mapping[str, EpsilonBound]]
    n_patients: tuple[int, int]
    randomised: bool
    criteria: Criteria
    disclosure: Disclosure
    confidence: float
    seconds: float
    withheld: tuple[AttackResult, ...] = ()
    gated: bool = False

    @property
    def best(self) -> AttackResult:
        """The attack with the highest AUC."""
        return self.attacks[0]

    @cached_property
    def shared(self) -> AuditResult:
        """What may be shared of it, see :mod:`monai_mia.audit.disclosure`; scores and names stay, for pictures alone.

        Told are the best attack, with a curve, the one with the least likely tail, the global loss, and the best one
        without shadows, as many of them as may be; numbers are rounded, and rates of too few patients are left out.
        """
        gate = self.disclosure
        if self.gated:
            return self
        if gate.everything:
            return replace(self, gated=True)
        first = [self.best]
        first += sorted(self.attacks, key=lambda one: 1.0 if one.tail_p_value is None else one.tail_p_value)[:1]
        first += [one for one in self.attacks if one.name == _BASELINE]
        first += [one for one in self.attacks if not one.n_shadow][:1]
        most = gate.n_attacks(*self.n_patients)
        rare = [one.tail_p_value for one in self.attacks if one.tail_p_value is not None]
        if self.best.p_value > self.criteria.significance and min(rare, default=1.0) > self.criteria.tail_significance:
            most = min(most, 1)  # where chance explains all, what a further attack finds is of the cohort alone
        named = list(dict.fromkeys(one.name for one in first))[:most]
        told = bool(named)
        return replace(
            self,
            attacks=tuple(self._gated(one, most, one is self.best) for one in self.attacks if one.name in named),
            withheld=tuple(sorted((a for a in self.attacks if a.name not in named), key=lambda one: one.name)),
            blind=self._gated(self.blind) if told and self.blind else None,
            blind_network=self._gated(self.blind_network) if told and self.blind_network else None,
            attack_minus_blind=gate.coarse(self.attack_minus_blind) if told else None,
            controls=gate.coarse(self.controls.clearest(gate.min_cell)) if told else Controls(),
            claims=gate.coarse(self.claims) if told else None,
            utility=gate.coarse(self.utility) if told else {},
            canaries={
                kind: {method: gate.bound(bound) for method, bound in bounds.items()}
                for kind, bounds in self.canaries.items()
            },
            gated=True,
        )

    def _gated(self, attack: AttackResult, most: int = 1, curve: bool = False) -> AttackResult:
        """An attack with rounded numbers, and a curve of few points or none."""
        gate, told = self.disclosure, self.disclosure.coarse(attack)
        wanted = [fpr for fpr, rate in attack.tpr_at_fpr.items() if rate is not None]
        points = gate.curve(attack.scores, self.member, self.patient_ids, wanted) if curve else []
        band = np.searchsorted(attack.roc["band_fpr"], [fpr + 1e-9 for fpr, _ in points], side="right") - 1
        drawn = [
            told.tpr_at_fpr.get(fpr) or gate.coarse(Estimate(tpr, *(attack.roc[f"band_{end}"][k] for end in _ENDS)))
            for (fpr, tpr), k in zip(points, band, strict=True)
        ]
        fprs, ends = [0.0, *(fpr for fpr, _ in points), 1.0], (Estimate(0.0, 0.0, 0.0), Estimate(1.0, 1.0, 1.0))
        drawn = [ends[0], *drawn, ends[1]]
        bound, n_member, known = attack.epsilon_lower_bound, self.n_patients[0], dict(points)
        lifts = [
            rate.low / fpr
            for fpr, rate in attack.tpr_at_fpr.items()
            if rate is not None and fpr not in known and gate.shows(round(rate.value * n_member))
        ]
        return replace(
            told,
            auc_gain=None if most == 1 else told.auc_gain,
            lift=2.0 ** math.floor(math.log2(max(lifts))) if lifts and max(lifts) >= 1 else None,
            tpr_at_fpr={fpr: rate if fpr in known else None for fpr, rate in told.tpr_at_fpr.items()},
            epsilon_lower_bound=None if bound is None else gate.bound(bound),
            transferred=None,
            roc={
                "fpr": fprs,
                "tpr": [rate.value for rate in drawn],
                "band_fpr": fprs,
                "band_low": [rate.low for rate in drawn],
                "band_high": [rate.high for rate in drawn],
            },
        )

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict by the audit's criteria."""
        return self.judge()

    def judge(self, about: Mapping[str, Any] | None = None) -> Verdict:
        """The verdict, where more is known of the study: an accounted epsilon can support a release.

        Args:
            about: ``design`` and ``target``, as in ``report.json``.
        """
        about = about or {}
        kind = "randomised" if self.randomised else "observational"
        known = {"kind": kind, "n_member": self.n_patients[0], "n_nonmember": self.n_patients[1]}
        design, target = {**known, **about.get("design", {})}, about.get("target", {})
        return judge({**self.shared._measured, "design": design, "target": target}, self.criteria)

    def attack(self, name: str) -> AttackResult:
        """The result of the attack of that name."""
        for result in self.attacks:
            if result.name == name:
                return result
        raise InputError(f"attack must be one of {', '.join(a.name for a in self.attacks)}, got {name!r}.")

    def metrics(self) -> dict[str, float]:
        """AUC and TPR of every attack, flat, for a logger."""
        found = {}
        for result in self.attacks:
            found[f"{result.name} AUC"] = result.auc.value
            for fpr, value in result.tpr_at_fpr.items():
                if value is not None:
                    found[f"{result.name} TPR@{fpr:g}"] = value.value
        return found

    def as_json(self) -> dict[str, Any]:
        """What ``report.json`` says of the audit alone, and so what may be shared of it."""
        return self.shared._content()

    def exact(self) -> dict[str, Any]:
        """The same with everything that was found, to full precision, but no times; private."""
        content = self._content()
        blinds = (content["controls"][name] for name in ("blind_baseline", "blind_network"))
        for row in (*content["attacks"], *(row for row in blinds if row is not None)):
            row.pop("seconds")
        return content

    def _content(self) -> dict[str, Any]:
        measured = dict(self._measured)
        head = {key: measured.pop(key) for key in ("unit", "confidence")}
        return {**head, "verdict": self.verdict.as_json(), "criteria": asdict(self.criteria), **measured}

    @cached_property
    def _measured(self) -> dict[str, Any]:
        """The same without the verdict, which is judged by it."""
        rates = dict(zip(self.best.roc["fpr"], self.best.roc["tpr"], strict=True)) if self.attacks else {}
        found = {
            "attack": self.best.name if self.attacks else None,
            "definition": "share of non-members that score at least as high as the member",
            f"n_{self.unit}s": int(self.member.sum()),
            "resolution": resolution(self.member),
            "share_exposed_at_fpr": {f"{fpr:g}": tpr for fpr, tpr in rates.items() if 0 < fpr < 1},
        }
        if not self.gated or self.disclosure.everything:
            quantiles = np.quantile(self.vulnerability[self.member], _VULNERABILITY_QUANTILES)
            found["quantiles"] = {
                f"{q:g}": float(value) for q, value in zip(_VULNERABILITY_QUANTILES, quantiles, strict=True)
            }
            found["share_exposed_at_fpr"] = {
                f"{fpr:g}": float((self.vulnerability[self.member] <= fpr + 1e-12).mean())  # as the TPR allows for it
                for fpr, rate in self.best.tpr_at_fpr.items()
                if rate is not None
            }
        return {
            "unit": self.unit,
            "confidence": self.confidence,
            "disclosure": {"min_cell": self.disclosure.min_cell, "n_attacks": len(self.attacks) + len(self.withheld)},
            "attacks": [attack.as_json() for attack in self.attacks],
            "withheld": [
                {
                    "name": one.name,
                    "access": one.access,
                    "signals": list(one.signals),
                    "n_shadow": one.n_shadow,
                }
                for one in self.withheld
            ],
            "controls": {
                "blind_baseline": None if self.blind is None else self.blind.as_json(),
                "blind_network": None if self.blind_network is None else self.blind_network.as_json(),
                "attack_minus_blind": _json(self.attack_minus_blind),
                **self.controls.as_json(),
                "null": dict(self.null),
            },
            "utility": {
                side: {metric: sides[side].as_json() for metric, sides in self.utility.items()}
                for side in ("members", "nonmembers", "gap")
            },
            "exposure": found,
            "claims": None if self.claims is None else {"attack": self.best.name, **self.claims.as_json()},
            "canaries": {
                kind: {method: dict(vars(bound)) for method, bound in bounds.items()}
                for kind, bounds in self.canaries.items()
            },
        }

    def text(self, n_rows: int = 12, privacy: Mapping[str, Any] | None = None, assumed: int = 0) -> str:
        """The best attacks, utility, canaries and the verdict, for a terminal of 100 columns.

        Args:
            n_rows: attacks that are listed, the best ones; the global loss always is.
            privacy: what the target's training accounted for: ``epsilon`` (None: no bound), ``delta``, ``unit``,
                ``secure_noise``.
            assumed: how many of the patients are no more than assumed.
        """
        fprs = [fpr for fpr, value in self.best.tpr_at_fpr.items() if value is not None]
        heads = ["attack", f"AUC [{self.confidence:.0%} interval]", *(f"TPR@{fpr:.3g}" for fpr in fprs), "epsilon >="]
        shown = list(self.attacks[:n_rows])
        shown += [attack for attack in self.attacks[n_rows:] if attack.name == "global loss"]
        blinds = [blind for blind in (self.blind, self.blind_network) if blind is not None]
        lines = text_table(heads, [_row(attack, fprs) for attack in (*shown, *blinds)])
        if len(self.attacks) > 1:
            lines.append(f"Intervals and epsilon allow for the choice of the best of {len(self.attacks)} attacks.")
        if len(self.attacks) > len(shown):
            lines.append(f"... and {len(self.attacks) - len(shown)} more attacks.")
        if not self.disclosure.everything:
            lines.append(
                "Reports are shared: they, and the verdict, go by fewer and rounded numbers. These are private."
            )
        if assumed:
            lines += wrapped(assumed_in_words(assumed, len(self.unit_ids)))
        for metric, sides in self.utility.items():
            values = [f"{side} {sides[side].value:.3f}" for side in ("members", "nonmembers")]
            lines.append(f"{metric}: {', '.join(values)} (means over {self.unit}s)")
        for kind, bounds in self.canaries.items():
            bound = bounds["one run"]
            lines.append(
                f"canaries ({kind}): epsilon >= {at_least(bound.value)} at delta {bound.delta:g} (one run; at most "
                f"{bound.ceiling:.2f} could have been shown)"
            )
        if privacy is not None:
            lines.append(f"accounted epsilon: {epsilon_in_words(privacy)}")
        verdict = self.verdict if privacy is None else self.judge({"target": {"privacy": privacy}})
        lines.append(f"Verdict: {verdict.level.upper()}")
        for reason in verdict.reasons:
            lines += wrapped(reason)
        lines.append(f"Recommendation about a release: {verdict.recommendation}")
        lines += wrapped(verdict.text)
        if verdict.open:
            lines += wrapped(f"Not settled in its favour: {', '.join(one.name for one in verdict.open)}.")
        return "\n".join(["", *lines, ""])

    def __str__(self) -> str:
        """The best attacks and the verdict, for a terminal of 100 columns."""
        return self.text()

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each attack, best first, then the blind ones.

        Columns are ``attack``, ``access``, ``n_shadow``, ``auc``, ``p_value``, ``tpr@<fpr>``, ``balanced_accuracy``,
        ``advantage`` and ``epsilon_lower_bound``; beside a number with an interval stand ``<name> low`` and ``<name>
        high``.

        Raises:
            InputError: pandas is not installed.
        """
        rows = []
        for attack in (*self.attacks, *(one for one in (self.blind, self.blind_network) if one is not None)):
            row: dict[str, Any] = {"attack": attack.name, "access": attack.access, "n_shadow": attack.n_shadow}
            row |= {**flat("auc", attack.auc), "p_value": attack.p_value}
            for fpr, value in attack.tpr_at_fpr.items():
                row |= flat(f"tpr@{fpr:g}", value)
            row |= {**flat("balanced_accuracy", attack.balanced_accuracy), **flat("advantage", attack.advantage)}
            bound = attack.epsilon_lower_bound
            rows.append({**row, "epsilon_lower_bound": None if bound is None else bound.value})
        return data_frame(rows)

    def curves(self) -> list[Curve]:
        """A handful of attacks to draw: the best, the best without shadows, the global loss, and the blind one."""
        from monai_mia.audit.drawing import Curve

        if not self.attacks:
            return []
        chosen = [("best", f"best attack: {self.best.name}", self.best, True)]
        cheap = next((attack for attack in self.attacks if not attack.n_shadow), None)
        loss = next((attack for attack in self.attacks if attack.name == "global loss"), None)
        if cheap is not None and cheap is not self.best and cheap is not loss:
            chosen.append(("no shadow", f"best without shadows: {cheap.name}", cheap, False))
        if loss is not None and loss is not self.best:
            words = f"{loss.name} (the best without shadows)" if loss is cheap else loss.name
            chosen.append(("global loss", words, loss, True))
        if self.blind is not None:
            chosen.append(("blind", "blind baseline: the images alone", self.blind, False))
        points = self.gated and not self.disclosure.everything
        return [
            Curve(role, label, attack.auc.value, _inner(attack.roc) if points else attack.roc, band, points)
            for role, label, attack, band in chosen
            if not points or len(attack.roc["fpr"]) > 2
        ]

    def plot_roc(self, axes: Axes | None = None) -> Axes:
        """Draw the ROC of the :meth:`curves` on logarithmic axes, from the resolution of the cohort upwards.

        Args:
            axes: where to draw; by default in a figure of its own.

        Returns:
            The axes; ``axes.figure.savefig`` writes a file.
        """
        from monai_mia.audit.drawing import draw_roc

        finest = resolution(self.member)
        return draw_roc(self.curves(), finest, min(finest, 1 / int(self.member.sum())) / 2, axes)


def _inner(roc: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """A curve without its ends, which are not found but given, and have no place on logarithmic axes."""
    return {key: values[1:-1] for key, values in roc.items()}


def _json(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.as_json()


def _row(attack: AttackResult, fprs: list[float]) -> list[str]:
    rates = [attack.tpr_at_fpr[fpr] for fpr in fprs]
    bound = attack.epsilon_lower_bound
    cells = ["" if rate is None else f"{rate.value:.3f}" for rate in rates]
    return [attack.name, str(attack.auc), *cells, "" if bound is None else at_least(bound.value)]
