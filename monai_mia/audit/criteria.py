# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Statements for whoever decides on a release: each with what was measured, its threshold, and pass or fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from monai_mia import statistics
from monai_mia.errors import InputError
from monai_mia.statistics.epsilon import at_least, at_most

__all__ = [
    "Conclusion",
    "Statement",
    "Statements",
    "percent",
]

Outcome = Literal["pass", "fail", "undetermined"]

#: Claims of up to so many times the allowed share may go unseen, for want of known non-members, before none seen proves
#: nothing.
_UNSEEN = 4

_WORDS = {
    "support": "The evidence supports a release: every statement holds.",
    "reject": "The evidence speaks against a release.",
    "undetermined": "The evidence is not enough for either. A person decides, or more is measured.",
}


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
    """

    name: str
    about: Literal["validity", "power", "model"]
    text: str
    measured: str
    value: float | None
    ci: tuple[float, float] | None
    threshold: str
    outcome: Outcome


@dataclass(frozen=True)
class Conclusion:
    """What the statements come to.

    Attributes:
        recommendation: ``support``, ``reject`` or ``undetermined``.
        statements: the statements.
    """

    recommendation: Literal["support", "reject", "undetermined"]
    statements: tuple[Statement, ...]

    @property
    def text(self) -> str:
        """The recommendation in a sentence."""
        return _WORDS[self.recommendation]

    def as_json(self) -> dict[str, Any]:
        """For ``privacy.json``."""
        return {"recommendation": self.recommendation, "statements": [asdict(one) for one in self.statements]}


@dataclass(frozen=True)
class Statements:
    """The thresholds of the statements; the defaults' reasons are in docs/report_format.md.

    Attributes:
        min_patients: so many member and non-member patients at least.
        significance: a blind attack counts if chance gives its AUC less often than this.
        min_gain_over_blind: where the images alone tell members in a randomised design, the attack must be better by
            more than this.
        tail_significance: a rate counts, however few false alarms it rests on, if chance gives it less often than this.
        max_detectable: chance may give the best attack at most this AUC, in 1 of 20 permutations.
        min_shadows: so many shadows at least for some attack.
        max_auc: the AUC of the best attack is at most this.
        max_lift: its TPR is at most this many times the FPR.
        min_false_alarms: the smallest FPR at which so many non-members would be accused is the one that can pass.
        max_claimed: share of the members who can be claimed while few claims are false.
        max_epsilon: the audited epsilon is at most this.
    """

    min_patients: int = 10
    significance: float = 0.05
    min_gain_over_blind: float = 0.1
    tail_significance: float = 0.01
    max_detectable: float = 0.75
    min_shadows: int = 4
    max_auc: float = 0.65
    max_lift: float = 4.0
    min_false_alarms: int = 10
    max_claimed: float = 0.05
    max_epsilon: float = 1.39

    def __post_init__(self) -> None:
        """Refuse thresholds that nothing, or anything, could pass."""
        for name in ("significance", "tail_significance", "max_claimed"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} must be in (0, 1), got {getattr(self, name)}.")
        for name in ("max_auc", "max_detectable"):
            if not 0.5 < getattr(self, name) < 1:
                raise InputError(f"{name} must be in (0.5, 1), got {getattr(self, name)}.")
        for name, lowest in (("min_patients", 1), ("min_shadows", 0), ("min_false_alarms", 1), ("max_lift", 1)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {getattr(self, name)}.")
        for name in ("max_epsilon", "min_gain_over_blind"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}.")

    def judge(self, content: Mapping[str, Any]) -> Conclusion:
        """Hold what a report says against the thresholds.

        Args:
            content: of ``report.json``, see :func:`~monai_mia.audit.report.as_json`.

        Returns:
            ``undetermined`` if the audit is not valid, ``reject`` if a statement about the model fails, ``support`` if
            every statement holds, and else ``undetermined``.
        """
        found = (
            self._patients(content),
            self._conclusive(content),
            self._blind(content),
            self._detectable(content),
            self._shadows(content),
            self._auc(content),
            self._rate(content),
            self._claims(content),
            self._epsilon(content),
        )
        if any(one.outcome == "fail" for one in found if one.about == "validity"):
            return Conclusion("undetermined", found)
        if any(one.outcome == "fail" for one in found if one.about == "model"):
            return Conclusion("reject", found)
        holds = all(one.outcome == "pass" for one in found)
        return Conclusion("support" if holds else "undetermined", found)

    def _patients(self, content: Mapping[str, Any]) -> Statement:
        members, others = _sides(content)
        return Statement(
            "patients", "validity", "There are enough patients on both sides.", f"{members} and {others}",
            min(members, others), None, f"at least {self.min_patients} each",
            _outcome(min(members, others) >= self.min_patients),
        )  # fmt: skip

    def _conclusive(self, content: Mapping[str, Any]) -> Statement:
        level = str(content["verdict"]["level"])
        return Statement(
            "verdict", "validity", "No control puts the audit’s verdict in doubt.", level, None, None,
            "not inconclusive", _outcome(level != "inconclusive"),
        )  # fmt: skip

    def _blind(self, content: Mapping[str, Any]) -> Statement:
        """In a randomised design the sides differ by chance alone, so that a lead over the images is enough."""
        controls = content["controls"]
        blinds = [controls[name] for name in ("blind_baseline", "blind_network") if controls[name] is not None]
        randomised = content.get("design", {}).get("kind") == "randomised"
        text = "The images alone do not tell members from non-members, or far less than the attack does."
        limit = f"p at least {self.significance:g}"
        if not blinds:
            outcome: Outcome = "pass" if randomised else "undetermined"
            measured = "not measured; a coin drew the members" if randomised else "not measured"
            return Statement("blind", "validity", text, measured, None, None, limit, outcome)
        corrected = statistics.holm([blind["p_value"] for blind in blinds])
        worst, p_value = min(zip(blinds, corrected, strict=True), key=lambda pair: float(pair[1]))
        told = p_value < self.significance
        gain = controls["attack_minus_blind"]
        led = randomised and gain is not None and gain["ci"][0] > self.min_gain_over_blind
        measured = f"AUC {_with_ci(worst['auc'], worst['auc_ci'])}, p {p_value:.3f}"
        if told and led:
            measured += f"; the attack has {gain['value']:+.3f} [{gain['ci'][0]:.3f}, {gain['ci'][1]:.3f}] more"
            limit += f", or a lead above {self.min_gain_over_blind:g}"
        return Statement(
            "blind", "validity", text, measured, worst["auc"], _pair(worst["auc_ci"]), limit, _outcome(led or not told)
        )

    def _detectable(self, content: Mapping[str, Any]) -> Statement:
        value = float(content["controls"]["null"]["auc_95"])
        return Statement(
            "detectable", "power", "A leak could be told from chance.", f"from an AUC of {value:.3f} on", value, None,
            f"at most {self.max_detectable:g}", _outcome(value <= self.max_detectable),
        )  # fmt: skip

    def _shadows(self, content: Mapping[str, Any]) -> Statement:
        count = max(int(attack["n_shadow"]) for attack in content["attacks"])
        return Statement(
            "shadows", "power", "The attacks were strong: they had shadow models to compare with.", f"{count} shadows",
            count, None, f"at least {self.min_shadows}", _outcome(count >= self.min_shadows),
        )  # fmt: skip

    def _auc(self, content: Mapping[str, Any]) -> Statement:
        best = content["attacks"][0]
        low, high = _pair(best["auc_ci_simultaneous"])
        return Statement(
            "auc", "model", "The best attack hardly tells members from non-members.",
            f"AUC {_with_ci(best['auc'], (low, high))}", best["auc"], (low, high), f"at most {self.max_auc:g}",
            _beside(low, high, self.max_auc),
        )  # fmt: skip

    def _rate(self, content: Mapping[str, Any]) -> Statement:
        """Any rate that is clearly too high fails; one that rests on enough false alarms can pass."""
        text = "Nobody is found almost surely: few members while few others are falsely accused."
        rates = [
            (float(fpr), rate["value"], _pair(rate["ci"]))
            for fpr, rate in content["attacks"][0]["tpr_at_fpr"].items()
            if rate is not None
        ]
        limit = f"TPR at most {self.max_lift:g} × FPR"
        if not rates:
            return Statement("rate", "model", text, "below resolution", None, None, limit, "undetermined")
        failing = [rate for rate in rates if rate[2][0] > self.max_lift * rate[0]]
        n_others = 1 / float(content["exposure"]["resolution"])
        sound = [rate for rate in rates if rate[0] * n_others >= self.min_false_alarms - 1e-9]
        fpr, value, ci = (
            max(failing, key=lambda rate: rate[2][0] / rate[0]) if failing else min(sound) if sound else max(rates)
        )
        outcome: Outcome = "fail" if failing else "undetermined"
        if not failing and sound and ci[1] <= self.max_lift * fpr:
            outcome = "pass"
        tail = None if failing else self._sharper(content, sound)
        if tail is not None:  # the attack with the best AUC need not be the one that finds a few almost surely
            name, fpr, value, ci, outcome = tail
            text = f"{text[:-1]}, not even by “{name}”."
        return Statement(
            "rate", "model", text, f"TPR {_with_ci(value, ci)} at {percent(fpr)} FPR", value, ci, limit, outcome
        )

    def _sharper(
        self, content: Mapping[str, Any], rates: Sequence[tuple[float, float, tuple[float, float]]]
    ) -> tuple[str, float, float, tuple[float, float], Outcome] | None:
        """Another attack whose rate is above the limit where the best one is sound, the most extreme one.

        It fails the statement if its lower bound is above the limit after a correction for the number of attacks
        (Bonferroni); else it leaves it undetermined.
        """
        attacks = content["attacks"]
        n_member, _ = _sides(content)
        found: list[tuple[float, str, float, float, tuple[float, float], Outcome]] = []
        for number, attack in enumerate(attacks):
            p_value = attack.get("tail_p_value")  # none in reports of schema 1.4 and before
            rare = p_value is not None and p_value < self.tail_significance
            fprs = [fpr for fpr, _, _ in rates] if number else []
            for fpr in map(float, attack["tpr_at_fpr"]) if rare else fprs:
                rate = attack["tpr_at_fpr"].get(f"{fpr:g}")
                if rate is None or rate["value"] <= self.max_lift * fpr:
                    continue
                confidence = 1 - (1 - float(content["confidence"])) / len(attacks)
                exact = statistics.clopper_pearson(round(rate["value"] * n_member), n_member, confidence)
                ci = _pair(rate["ci"])
                sure = min(exact[0], ci[0]) > self.max_lift * fpr
                found.append(
                    (rate["value"] / fpr, attack["name"], fpr, rate["value"], ci, "fail" if sure else "undetermined")
                )
        if not found:
            return None
        _, name, fpr, value, ci, outcome = max(found, key=lambda one: (one[-1] == "fail", one[0]))
        return name, fpr, value, ci, outcome

    def _claims(self, content: Mapping[str, Any]) -> Statement:
        claims = content["claims"]
        text = "Hardly any member can be named with confidence."
        limit = f"at most {percent(self.max_claimed)} of members"
        if claims is None:
            return Statement("claims", "model", text, "too few patients", None, None, limit, "undetermined")
        low, high = _pair(claims["tpr_ci"])
        measured = f"{_with_ci(claims['tpr'], (low, high))} claimed, {percent(claims['q'])} false at most"
        resolved = claims["fewest"] / claims["n_member"]
        outcome = _beside(low, high, max(self.max_claimed, resolved))
        if low > self.max_claimed:
            outcome = "fail"
        if resolved > self.max_claimed:  # what could not have been seen is said, and too much of it proves nothing
            limit += f"; under {percent(resolved)} could not be seen"
            outcome = "undetermined" if outcome == "pass" and resolved > _UNSEEN * self.max_claimed else outcome
        return Statement("claims", "model", text, measured, claims["tpr"], (low, high), limit, outcome)

    def _epsilon(self, content: Mapping[str, Any]) -> Statement:
        """A lower bound refutes; it supports only where it could have refuted, or where an accountant bounds it."""
        best = content["attacks"][0]
        privacy = content.get("target", {}).get("privacy") or {}
        accounted = privacy.get("epsilon")
        text = "The privacy loss that attacks show is small."
        limit = f"epsilon at most {self.max_epsilon:g}"
        shown = best["epsilon_lower_bound"]
        if shown is None:
            return Statement("epsilon", "model", text, "not measured", None, None, limit, "undetermined")
        ceiling = float(best["epsilon"]["ceiling"])
        measured = f"at least {at_least(shown)}; {at_least(ceiling)} could have been shown"
        if accounted is not None:
            measured += f"; accounted: at most {at_most(accounted)}"
        outcome: Outcome = "pass" if ceiling >= self.max_epsilon else "undetermined"
        if accounted is not None and accounted <= self.max_epsilon:
            outcome = "pass"
        if shown > self.max_epsilon or (accounted is not None and shown > accounted):
            outcome = "fail"
        return Statement("epsilon", "model", text, measured, shown, None, limit, outcome)


def _sides(content: Mapping[str, Any]) -> tuple[int, int]:
    """Member and non-member patients; units, where the design is not known."""
    design, exposure = content.get("design", {}), content["exposure"]
    members = design.get("n_member", exposure.get(f"n_{content['unit']}s"))
    return int(members), int(design.get("n_nonmember", round(1 / float(exposure["resolution"]))))


def _outcome(holds: bool) -> Outcome:
    return "pass" if holds else "fail"


def _beside(low: float, high: float, limit: float) -> Outcome:
    return "pass" if high <= limit else "fail" if low > limit else "undetermined"


def _pair(ci: Sequence[float]) -> tuple[float, float]:
    return float(ci[0]), float(ci[1])


def _with_ci(value: float, ci: Sequence[float]) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


def percent(rate: float) -> str:
    r"""A rate in words.

    Example:
        >>> percent(0.025)
        '2.5\xa0%'
    """
    return f"{100 * rate:.3g}\N{NO-BREAK SPACE}%"
