# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The criteria of an audit: every threshold once, and what was measured held against each of them.

The verdict's level and the recommendation about a release are both read from these statements
(:mod:`monai_mia.audit.verdict`), so that they cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from monai_mia import statistics
from monai_mia.audit.findings import AttackFinding, Findings
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate
from monai_mia.statistics.epsilon import at_least, at_most

__all__ = ["Criteria", "Statement", "percent"]

Outcome = Literal["pass", "fail", "undetermined"]

#: Claims of up to so many times the allowed share may go unseen, for want of known non-members, before none seen proves
#: nothing.
_UNSEEN = 4


@dataclass(frozen=True)
class Statement:
    """One statement, and whether it holds.

    Attributes:
        name: short name, for a machine.
        about: ``validity`` (does the audit measure memory at all), ``power`` (would it have noticed), or ``model``.
        text: the statement, as it is if it holds.
        measured: what was measured, as text.
        value: the same as a number; None for what is none or was not measured.
        ci: its interval, or None.
        threshold: what it is held against, as text.
        outcome: ``pass`` and ``fail`` need the whole interval on one side of the threshold.
        reasons: sentences that the verdict takes over where this statement decides it.
        high: whether its failure alone makes the verdict ``high``.
    """

    name: str
    about: Literal["validity", "power", "model"]
    text: str
    measured: str
    value: float | None
    ci: tuple[float, float] | None
    threshold: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    high: bool = False

    def as_json(self) -> dict[str, Any]:
        """For ``privacy.json``."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("reasons", "high")}


@dataclass(frozen=True)
class _Rate:
    """The TPR of an attack at one FPR."""

    attack: str
    fpr: float
    tpr: Estimate

    @property
    def text(self) -> str:
        return f"“{self.attack}” finds {self.tpr} of the members while it falsely accuses {self.fpr:.1%} of the others"


@dataclass(frozen=True)
class _Tail:
    """That an attack finds some members more surely than chance does; how surely, as far as that may be told."""

    attack: AttackFinding
    p_value: float
    rate: _Rate | None

    @property
    def lift(self) -> float:
        """How many times the FPR the TPR is, at least; 0 if it is not told."""
        return self.attack.lift or 0.0 if self.rate is None else self.rate.tpr.low / self.rate.fpr

    @property
    def text(self) -> str:
        if self.rate is not None:
            return self.rate.text
        if self.attack.lift is not None:
            return (
                f"“{self.attack.name}” finds members at least {self.attack.lift:g} times as often as it falsely "
                "accuses others, of whom too few are accused for the rates to be told"
            )
        return f"“{self.attack.name}” finds some members more surely than chance does; how surely, so few cannot tell"


@dataclass(frozen=True)
class Criteria:
    """The thresholds of an audit, each once; the defaults' reasons are in docs/report_format.md.

    Attributes:
        min_patients: so many member and non-member patients at least.
        significance: an AUC counts if chance gives it no more often than this, over all attacks tried; a control fails
            by the same level.
        tail_significance: a TPR at a resolved FPR counts if chance gives it no more often than this, over all attacks
            and FPRs.
        min_gain_over_blind: where membership can be told without the model, an attack must be better than that, or than
            chance within strata of patients who are alike as images, by more than this.
        max_detectable: chance may give the best attack at most this AUC, in 1 of 20 permutations; else finding nothing
            is ``inconclusive``.
        min_shadows: so many shadows at least for some attack, or a release is not supported.
        min_explained: of the variance of the non-members' scores, the share that image statistics must explain for
            strata of them to count: without a coin, shadows and a blind network.
        high_auc: the verdict is ``high`` if the interval of the best attack's AUC lies above this: membership is told
            with ease.
        max_auc: a release is supported only if the interval of the best attack's AUC lies at or below this. It is lower
            than ``high_auc``: what is not told with ease is not yet safe to release.
        max_lift: no TPR is more than this many times its FPR, by the whole interval.
        min_false_alarms: the smallest FPR at which so many non-members would be accused is the one that can pass.
        max_claimed: share of the members who can be claimed while few claims are false.
        max_epsilon: the audited epsilon is at most this.

    Raises:
        InputError: a threshold is one that nothing, or anything, could pass.
    """

    min_patients: int = 10
    significance: float = 0.05
    tail_significance: float = 0.01
    min_gain_over_blind: float = 0.1
    min_explained: float = 0.25
    max_detectable: float = 0.75
    min_shadows: int = 4
    high_auc: float = 0.7
    max_auc: float = 0.65
    max_lift: float = 4.0
    min_false_alarms: int = 10
    max_claimed: float = 0.05
    max_epsilon: float = 1.39

    def __post_init__(self) -> None:
        """Refuse thresholds that nothing, or anything, could pass."""
        for name in ("significance", "tail_significance", "max_claimed", "min_explained"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} must be in (0, 1), got {getattr(self, name)}.")
        for name in ("high_auc", "max_auc", "max_detectable"):
            if not 0.5 < getattr(self, name) < 1:
                raise InputError(f"{name} must be in (0.5, 1), got {getattr(self, name)}.")
        for name, lowest in (("min_patients", 1), ("min_shadows", 0), ("min_false_alarms", 1), ("max_lift", 1)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {getattr(self, name)}.")
        for name in ("max_epsilon", "min_gain_over_blind"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}.")

    def check(self, found: Findings) -> tuple[Statement, ...]:
        """Hold what was found against every threshold.

        Where nothing is shown that chance would not give, no statement about the model fails: it is undetermined.

        Returns:
            The statements by name: ``patients``, ``controls``, ``blind``; ``detectable``, ``shadows``; ``chance``,
            ``auc``, ``rate``, ``claims``, ``epsilon``.
        """
        by_auc = found.best.p_value <= self.significance
        tail = self._sharpest(found)
        shown = by_auc or tail is not None
        unclear = None if found.randomised or tail is None else self._without_model(found, tail)
        if unclear is not None:
            tail = None
        model = (
            self._chance(found, by_auc, tail),
            self._auc(found, by_auc),
            self._rate(found, by_auc, tail),
            self._claims(found),
            self._epsilon(found),
        )
        return (
            self._patients(found),
            self._controls(found, shown, by_auc, unclear),
            self._blind(found),
            self._detectable(found),
            self._shadows(found),
            *(one if shown else _not_shown(one) for one in model),
        )

    def _patients(self, found: Findings) -> Statement:
        fewest = min(found.n_member, found.n_nonmember)
        few = (
            f"Only {found.n_member} member and {found.n_nonmember} non-member patients: too few to tell anything (at "
            f"least {self.min_patients} on each side are needed)."
        )
        return Statement(
            "patients", "validity", "There are enough patients on both sides.",
            f"{found.n_member} and {found.n_nonmember}", fewest, None, f"at least {self.min_patients} each",
            _outcome(fewest >= self.min_patients), (few,),
        )  # fmt: skip

    def _controls(self, found: Findings, shown: bool, by_auc: bool, unclear: str | None) -> Statement:
        """All controls but the blind ones; in a randomised design the sides differ by chance alone."""
        doubts: list[str] = []
        remarks: list[str] = []
        placebo = found.placebo
        if placebo is not None and placebo["p_value"] <= self.significance and (shown or not found.randomised):
            auc, gain = Estimate.of_json(placebo, "auc"), Estimate.of_json(placebo["attack_minus"])
            words = f"a model with other members gives the same patients away (AUC {auc})"
            if not found.randomised or gain.low <= self.min_gain_over_blind:
                doubts.append(
                    f"But {words}, where an AUC of one half was due; the attack on the target has {gain} more. What "
                    "the attack finds is no memory of the target's."
                )
            else:
                remarks.append(f"Although {words}, the attack on the target is clearly better ({gain} more).")
        if not found.randomised:
            doubts += self._drifts(found)
        if shown and not found.randomised and not found.networked and not found.most_shadows:
            sound, words = self._within_strata(found, by_auc)
            (remarks if sound else doubts).append(words)
        if unclear is not None:
            (remarks if by_auc else doubts).append(unclear)
        return Statement(
            "controls", "validity", "No control puts the finding in doubt.",
            f"{len(doubts)} in doubt" if doubts else "none in doubt", None, None, f"p above {self.significance:g}",
            _outcome(not doubts), tuple(doubts or remarks),
        )  # fmt: skip

    def _within_strata(self, found: Findings, by_auc: bool) -> tuple[bool, str]:
        """Whether what was found holds among patients who are alike as images, where nothing else tells the two apart.

        A signal of the target alone measures how hard a case is as much as whether it is remembered.
        """
        matched, limit = found.matched, 0.5 + self.min_gain_over_blind
        same = "members that are easier or harder cases would look the same. Shadows or a blind network would tell."
        if matched is None:
            return False, f"But no shadow model or blind network was trained, and the images were not described: {same}"
        auc, explained = Estimate.of_json(matched, "auc"), float(matched["explained"])
        if explained < self.min_explained:
            return False, (
                f"But no shadow model was trained, and the image statistics explain only {explained:.0%} of how the "
                f"attack scores non-members (at least {self.min_explained:.0%} are needed): {same}"
            )
        among = (
            f"ithin {matched['n_strata']} strata of patients whom the image statistics make alike for the attack (they "
        )
        among += f"explain {explained:.0%} of how it scores non-members) it has an AUC of {auc}"
        if auc.low <= limit or not by_auc:
            return False, f"But w{among}; the interval must lie above {limit:g}: {same}"
        return True, f"W{among}: that members are other images does not explain it."

    def _drifts(self, found: Findings) -> list[str]:
        """Why members and non-members may come from different sources, where no coin dealt the sides."""
        doubts = []
        shifted = [str(shift["feature"]) for shift in found.shifts if shift["p_adjusted"] <= self.significance]
        if shifted:
            named = ", ".join(shifted[:3]) + (" and others" if len(shifted) > 3 else "")
            doubts.append(
                f"Members and non-members differ as images ({named}), allowing for how many statistics were compared "
                f"({found.n_shifts})."
            )
        for half in found.halves:
            ordered = half["by"] == "order" and half["side"] == "nonmembers"
            if ordered and half["p_adjusted"] <= self.significance:
                doubts.append(
                    "The attack tells the first half of the non-members from the second, in the order of their ids "
                    f"(AUC {Estimate.of_json(half, 'auc')}). Cases differ along the list, and none of these is a "
                    "member."
                )
        return doubts

    def _blind(self, found: Findings) -> Statement:
        """In a randomised design the sides differ by chance alone, so that a lead over the images is enough."""
        text = "The images alone do not tell members from non-members, or far less than the attack does."
        limit = f"p above {self.significance:g}"
        if not found.blinds:
            outcome: Outcome = "pass" if found.randomised else "undetermined"
            measured = "not measured; a coin drew the members" if found.randomised else "not measured"
            return Statement("blind", "validity", text, measured, None, None, limit, outcome)
        corrected = statistics.holm([blind.p_value for blind in found.blinds])
        worst, p_value = min(zip(found.blinds, corrected, strict=True), key=lambda pair: float(pair[1]))
        measured = f"AUC {worst.auc}, p {p_value:.3f}"
        reasons: tuple[str, ...] = ()
        told, led = p_value <= self.significance, False
        if told and found.gain is not None:
            first = next(one for one, p in zip(found.blinds, corrected, strict=True) if p <= self.significance)
            led = found.randomised and found.gain.low > self.min_gain_over_blind
            words = f"membership can be told without the model ({first.name}, AUC {first.auc})"
            if led:
                measured += (
                    f"; the attack has {found.gain.value:+.3f} [{found.gain.low:.3f}, {found.gain.high:.3f}] more"
                )
                limit += f", or a lead above {self.min_gain_over_blind:g}"
                reasons = (f"Although {words}, the attack is clearly better ({found.gain} more).",)
            else:
                reasons = (
                    f"But {words}; the attack has {found.gain} more than the images alone. Members and non-members "
                    "differ as images, so that the attack may have found that difference and no memory, or may have "
                    "been hindered by it.",
                )
        return Statement(
            "blind",
            "validity",
            text,
            measured,
            worst.auc.value,
            worst.auc.ci,
            limit,
            _outcome(led or not told),
            reasons,
        )

    def _detectable(self, found: Findings) -> Statement:
        value = found.detectable
        fine = value <= self.max_detectable
        reason = (
            f"A measured AUC above {value:.2f} would have counted as more than chance. This is no proof of privacy: "
            "other attacks, more shadows or more patients could find more."
            if fine
            else f"With so few patients, only a measured AUC above {value:.2f} could be told from chance."
        )
        return Statement(
            "detectable", "power", "A leak could be told from chance.", f"from an AUC of {value:.3f} on", value, None,
            f"at most {self.max_detectable:g}", _outcome(fine), (reason,),
        )  # fmt: skip

    def _shadows(self, found: Findings) -> Statement:
        count = found.most_shadows
        return Statement(
            "shadows", "power", "The attacks were strong: they had shadow models to compare with.", f"{count} shadows",
            count, None, f"at least {self.min_shadows}", _outcome(count >= self.min_shadows),
        )  # fmt: skip

    def _chance(self, found: Findings, by_auc: bool, tail: _Tail | None) -> Statement:
        """It never fails by itself: what chance does not explain may be little; how much, the other statements say."""
        best, several = found.best, found.n_attacks > 1
        which = f"The best of {found.n_attacks} attacks, “{best.name}”," if several else f"The attack “{best.name}”"
        reason = f"{which} has an AUC of {best.auc}; chance alone reaches that in {_small(best.p_value)} of cases."
        tails = [attack.tail_p_value for attack in found.attacks if attack.tail_p_value is not None]
        measured = f"p {best.p_value:.3f}" + (f"; of tails {min(tails):.3f}" if tails else "")
        conclusion = "" if by_auc else "So nothing was shown." if tail is None else _TAIL_ALONE
        return Statement(
            "chance", "model", "No attack tells members from non-members better than chance does.", measured,
            best.p_value, None, f"p above {self.significance:g}; of tails {self.tail_significance:g}",
            "undetermined" if by_auc or tail is not None else "pass", (reason, conclusion),
        )  # fmt: skip

    def _auc(self, found: Findings, by_auc: bool) -> Statement:
        limit, auc = f"at most {self.max_auc:g}", found.best.auc
        outcome = _beside(auc, self.max_auc)
        high = by_auc and auc.low > self.high_auc
        reasons: tuple[str, ...] = ()
        if high:
            outcome = "fail"
            reasons = (f"The whole interval of the AUC lies above {self.high_auc:g}: membership is told with ease.",)
        return Statement(
            "auc", "model", "The best attack hardly tells members from non-members.", f"AUC {auc}", auc.value, auc.ci,
            limit, outcome, reasons, high,
        )  # fmt: skip

    def _rate(self, found: Findings, by_auc: bool, tail: _Tail | None) -> Statement:
        """Any rate that is clearly too high fails; one that rests on enough false alarms can pass."""
        text = "Nobody is found almost surely: few members while few others are falsely accused."
        limit = f"TPR at most {self.max_lift:g} × FPR"
        rates = [_Rate(found.best.name, fpr, tpr) for fpr, tpr in found.best.rates.items()]
        above = [rate for rate in rates if rate.tpr.low > self.max_lift * rate.fpr]
        reasons: tuple[str, ...] = ()
        if tail is not None:
            rare = f"chance gives any attack a rate as unlikely in {_small(tail.p_value)} of cases"
            reasons = (f"{'And' if by_auc else 'But'} {tail.text}; {rare}.",)
        lift = found.best.lift or 0.0
        if tail is not None and tail.rate is None:
            text = f"{text[:-1]}, not even by “{tail.attack.name}”."
            return self._untold(text, limit, tail.lift, reasons)
        if not rates or (by_auc and not above and lift >= self.max_lift):
            often = f"It finds members at least {lift:g} times as often as it falsely accuses others."
            return self._untold(text, limit, lift if by_auc else 0.0, (often,) if by_auc and lift else ())
        sound = [rate for rate in rates if rate.fpr >= self.min_false_alarms * found.resolution - 1e-9]
        outcome: Outcome = "undetermined"
        shown = min(sound, key=lambda rate: rate.fpr) if sound else max(rates, key=lambda rate: rate.fpr)
        if above and (by_auc or tail is None):
            shown, outcome = max(above, key=_lift), "fail"
            found_ = f"it finds {shown.tpr} of the members."
            reasons = (f"While it falsely accuses {shown.fpr:.1%} of the others, {found_}",) if by_auc else ()
        elif tail is not None and tail.rate is not None and tail.lift > self.max_lift:
            shown, outcome = tail.rate, "fail"
        else:
            if sound and not above and shown.tpr.high <= self.max_lift * shown.fpr:
                outcome = "pass"
            others = self._above(found, [rate.fpr for rate in sound])
            if others:  # the attack with the best AUC need not be the one that finds a few almost surely
                shown, outcome = max(others, key=lambda rate: rate.tpr.value / rate.fpr), "undetermined"
        if shown.attack != found.best.name:
            text = f"{text[:-1]}, not even by “{shown.attack}”."
        return Statement(
            "rate", "model", text, f"TPR {shown.tpr} at {percent(shown.fpr)} FPR", shown.tpr.value, shown.tpr.ci, limit,
            outcome, reasons, outcome == "fail" and (by_auc or tail is not None),
        )  # fmt: skip

    def _untold(self, text: str, limit: str, lift: float, reasons: tuple[str, ...]) -> Statement:
        """Where the rates are of too few patients to be told: what is known is how far they lie above the FPR."""
        far = lift >= self.max_lift  # it is rounded down
        measured = f"TPR at least {lift:g} × FPR" if lift else "of too few patients to be told of"
        outcome: Outcome = "fail" if far else "undetermined"
        return Statement("rate", "model", text, measured, None, None, limit, outcome, reasons, far)

    def _sharpest(self, found: Findings) -> _Tail | None:
        """Of the attacks whose tail chance hardly gives, the one whose rate lies the furthest above its FPR."""
        tails = []
        for attack in found.attacks:
            if attack.tail_p_value is not None and attack.tail_p_value <= self.tail_significance:
                rates = [_Rate(attack.name, fpr, tpr) for fpr, tpr in attack.rates.items()]
                told = max(rates, key=_lift, default=None)
                sharper = told is None or _lift(told)[0] < (attack.lift or 0.0)
                tails.append(_Tail(attack, attack.tail_p_value, None if sharper else told))
        return max(tails, key=lambda tail: tail.lift, default=None)

    def _above(self, found: Findings, fprs: Sequence[float]) -> list[_Rate]:
        """Rates above the limit: of other attacks than the best at these FPRs, of one with a rare tail at any."""
        rates = []
        for number, attack in enumerate(found.attacks):
            rare = attack.tail_p_value is not None and attack.tail_p_value <= self.tail_significance
            for fpr, tpr in attack.rates.items():
                if (rare or (number and fpr in fprs)) and tpr.value > self.max_lift * fpr:
                    rates.append(_Rate(attack.name, fpr, tpr))
        return rates

    def _without_model(self, found: Findings, tail: _Tail) -> str | None:
        """Why a tail may be one of the images, where no coin dealt the sides."""
        if found.image_tail is None:
            return f"But while {tail.text}, whether the images alone single them out was not measured."
        if found.image_tail <= self.significance:
            return (
                f"But while {tail.text}, an image statistic singles out members, too (chance gives any as unlikely a "
                f"tail in {_small(found.image_tail)} of cases): those who stand out may do so as images, and not in "
                "the model’s memory."
            )
        for blind in found.blinds:
            rate = None if tail.rate is None else blind.rates.get(tail.rate.fpr)
            if tail.rate is not None and rate is not None and rate.high >= tail.rate.tpr.value:
                return (
                    f"But while {tail.text}, the images alone ({blind.name}) find {rate}: that a few stand out may be "
                    "theirs, and no memory."
                )
        return None

    def _claims(self, found: Findings) -> Statement:
        claims = found.claims
        text = "Hardly any member can be named with confidence."
        limit = f"at most {percent(self.max_claimed)} of members"
        if claims is None:
            return Statement("claims", "model", text, "too few patients", None, None, limit, "undetermined")
        tpr = Estimate.of_json(claims, "tpr")
        measured = f"{tpr} claimed, {percent(claims['q'])} false at most"
        resolved = claims["fewest"] / claims["n_member"]
        outcome = _beside(tpr, max(self.max_claimed, resolved))
        if tpr.low > self.max_claimed:
            outcome = "fail"
        if resolved > self.max_claimed:  # what could not have been seen is said, and too much of it proves nothing
            limit += f"; under {percent(resolved)} could not be seen"
            outcome = "undetermined" if outcome == "pass" and resolved > _UNSEEN * self.max_claimed else outcome
        return Statement("claims", "model", text, measured, tpr.value, tpr.ci, limit, outcome)

    def _epsilon(self, found: Findings) -> Statement:
        """A lower bound refutes; it supports only where it could have refuted, or where an accountant bounds it."""
        text = "The privacy loss that attacks show is small."
        limit = f"epsilon at most {self.max_epsilon:g}"
        shown, accounted = found.epsilon, found.accounted
        if shown is None:
            return Statement("epsilon", "model", text, "not measured", None, None, limit, "undetermined")
        measured = f"at least {at_least(shown)}; {at_least(found.ceiling)} could have been shown"
        if accounted is not None:
            measured += f"; accounted: at most {at_most(accounted)}"
        if found.repeatable:
            measured += "; accounted: none, since the noise can be repeated from a seed"
        outcome: Outcome = "pass" if found.ceiling >= self.max_epsilon else "undetermined"
        if accounted is not None and accounted <= self.max_epsilon:
            outcome = "pass"
        if shown > self.max_epsilon or (accounted is not None and shown > accounted):
            outcome = "fail"
        return Statement("epsilon", "model", text, measured, shown, None, limit, outcome)


_TAIL_ALONE = "So of the average patient nothing was shown."


def _not_shown(one: Statement) -> Statement:
    """A statement about the model where chance explains what was found: it cannot fail."""
    if one.outcome != "fail":
        return one
    return replace(one, outcome="undetermined", measured=f"{one.measured}; chance gives as much", high=False)


def _lift(rate: _Rate) -> tuple[float, float]:
    return rate.tpr.low / rate.fpr, rate.fpr


def _outcome(holds: bool) -> Outcome:
    return "pass" if holds else "fail"


def _beside(estimate: Estimate, limit: float) -> Outcome:
    return "pass" if estimate.high <= limit else "fail" if estimate.low > limit else "undetermined"


def _small(p_value: float) -> str:
    return "less than 0.1%" if p_value < 0.001 else f"{p_value:.1%}"


def percent(rate: float) -> str:
    r"""A rate in words.

    Example:
        >>> percent(0.025)
        '2.5\xa0%'
    """
    return f"{100 * rate:.3g}\N{NO-BREAK SPACE}%"
