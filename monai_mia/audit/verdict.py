# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The verdict of an audit: the answer in one word, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monai_mia import statistics

if TYPE_CHECKING:
    from monai_mia.audit.controls import Controls
    from monai_mia.audit.results import AttackResult, Interval
from monai_mia.audit.results import Verdict

__all__ = [
    "VerdictRules",
    "judge",
]


@dataclass(frozen=True)
class VerdictRules:
    """When a verdict is what; the defaults' reasons are in docs/report_format.md.

    Attributes:
        significance: an attack counts if chance gives its AUC less often than this, over all attacks tried.
        tail_significance: or if chance gives its TPR at some reported FPR less often than this, over all attacks and
            FPRs.
        high_auc: the verdict is ``high`` if the best attack's interval of the AUC lies above this.
        high_lift: or if the interval of its TPR, at some reported FPR, lies above this many times the FPR; of another
            attack, if its tail counts and the interval does so after a correction for the number of attacks.
        min_gain_over_blind: where membership can be told without the model, an attack must be better than that by more
            than this, or the audit is ``inconclusive``.
        max_detectable: where chance gives the best attack this AUC in 1 of 20 cases, finding nothing is
            ``inconclusive``: the cohort is too small to see less.
        min_patients: fewer patients than this on a side are ``inconclusive``.
    """

    significance: float = 0.05
    tail_significance: float = 0.01
    high_auc: float = 0.7
    high_lift: float = 4.0
    min_gain_over_blind: float = 0.1
    max_detectable: float = 0.75
    min_patients: int = 10


def judge(
    rules: VerdictRules,
    attacks: Sequence[AttackResult],
    blinds: Sequence[AttackResult],
    attack_minus_blind: tuple[float, Interval] | None,
    sides: tuple[int, int],
    detectable: float,
    randomised: bool,
    controls: Controls | None = None,
    confidence: float = 0.95,
) -> Verdict:
    """The verdict; see docs/report_format.md for the rules in words.

    Args:
        rules: the thresholds.
        attacks: results, best first.
        blinds: the blind baseline and the blind network, as far as there are, the stronger first.
        attack_minus_blind: AUC of the best attack minus that of the stronger blind one, with its interval.
        sides: number of member and of non-member patients.
        detectable: the AUC that chance gives the best attack in 1 of 20 permutations; less would not be noticed.
        randomised: whether a coin decided the members.
        controls: what further controls found, or None.
        confidence: coverage of the attacks' intervals.
    """
    best = attacks[0]
    if min(sides) < rules.min_patients:
        few = (
            f"Only {sides[0]} member and {sides[1]} non-member patients: too few to tell anything (at least "
            f"{rules.min_patients} on each side are needed)."
        )
        return Verdict("inconclusive", (few,))
    which = f"The best of {len(attacks)} attacks, “{best.name}”," if len(attacks) > 1 else f"The attack “{best.name}”"
    evidence = f"{which} has an AUC of {with_ci(best.auc, best.auc_ci)}"
    reasons = [f"{evidence}; chance alone reaches that in {_small(best.p_value)} of cases."]
    by_auc, tail = best.p_value < rules.significance, _sharpest(rules, attacks, sides[0], confidence)
    shown = by_auc or tail is not None
    doubts, remarks = _doubts(rules, blinds, attack_minus_blind, randomised, controls, shown)
    unclear = None if randomised or tail is None else _without_model(rules, tail, blinds, controls)
    if unclear is not None:
        tail = None
        (remarks if by_auc else doubts).append(unclear)
    if doubts:
        remedy = "Take both sides from one source, or let the tool train the target (a randomised design)."
        return Verdict("inconclusive", (*reasons, *doubts, remedy))
    reasons += remarks
    if not shown:
        reasons[0] = f"{reasons[0]} So nothing was shown."
        if detectable > rules.max_detectable:
            reasons.append(
                f"With so few patients, only a measured AUC above {detectable:.2f} could be told from chance."
            )
            return Verdict("inconclusive", tuple(reasons))
        reasons.append(
            f"A measured AUC above {detectable:.2f} would have counted as more than chance. This is no proof of "
            "privacy: other attacks, more shadows or more patients could find more."
        )
        return Verdict("low", tuple(reasons))
    if by_auc:
        lifts = [(value[1][0] / fpr, fpr, value) for fpr, value in best.tpr_at_fpr.items() if value is not None]
        lift, fpr, value = max(lifts, default=(0.0, 0.0, (0.0, (0.0, 0.0))))
        if best.auc_ci[0] > rules.high_auc:
            reasons.append(
                f"The whole interval of the AUC lies above {rules.high_auc:g}: membership is told with ease."
            )
            return Verdict("high", tuple(reasons))
        if lift > rules.high_lift:
            found = with_ci(*value)
            reasons.append(f"While it falsely accuses {fpr:.1%} of the others, it finds {found} of the members.")
            return Verdict("high", tuple(reasons))
    else:
        reasons[0] = f"{reasons[0]} So of the average patient nothing was shown."
    if tail is not None:
        joined = "And" if by_auc else "But"
        rare = f"chance gives any attack a rate as unlikely in {_small(tail.p_value)} of cases"
        reasons.append(f"{joined} {tail.text}; {rare}.")
        if tail.ci[0] > rules.high_lift * tail.fpr:
            return Verdict("high", tuple(reasons))
    reasons.append(
        f"The evidence about an average patient is limited (AUC not clearly above {rules.high_auc:g}); "
        "single patients may still stand out."
    )
    return Verdict("moderate", tuple(reasons))


@dataclass(frozen=True)
class _Tail:
    """A TPR that is too high for chance, with an interval for all attacks at once."""

    attack: str
    p_value: float
    fpr: float
    value: float
    ci: Interval

    @property
    def text(self) -> str:
        return (
            f"“{self.attack}” finds {with_ci(self.value, self.ci)} of the members while it falsely accuses "
            f"{self.fpr:.1%} of the others"
        )


def _sharpest(rules: VerdictRules, attacks: Sequence[AttackResult], n_member: int, confidence: float) -> _Tail | None:
    """Of the attacks whose tail chance hardly gives, the rate that lies the furthest above its FPR.

    The interval is corrected for the number of attacks (Bonferroni), and never narrower than that of the one rate.
    """
    corrected = 1 - (1 - confidence) / len(attacks)
    found = []
    for attack in attacks:
        p_value = attack.tail_p_value
        if p_value is None or p_value >= rules.tail_significance:
            continue
        for fpr, rate in attack.tpr_at_fpr.items():
            if rate is not None:
                exact = statistics.clopper_pearson(round(rate[0] * n_member), n_member, corrected)
                ci = min(rate[1][0], exact[0]), max(rate[1][1], exact[1])
                found.append(_Tail(attack.name, p_value, fpr, rate[0], ci))
    return max(found, key=lambda tail: tail.ci[0] / tail.fpr, default=None)


def _without_model(
    rules: VerdictRules, tail: _Tail, blinds: Sequence[AttackResult], controls: Controls | None
) -> str | None:
    """Why a tail may be one of the images, where no coin dealt the sides."""
    of_images = None if controls is None else controls.image_tail
    if of_images is None:
        return f"But while {tail.text}, whether the images alone single them out was not measured."
    if of_images < rules.significance:
        return (
            f"But while {tail.text}, an image statistic singles out members, too (chance gives any as unlikely a tail "
            f"in {_small(of_images)} of cases): those who stand out may do so as images, and not in the model’s memory."
        )
    for blind in blinds:
        rate = blind.tpr_at_fpr.get(tail.fpr)
        if rate is not None and rate[1][1] >= tail.value:
            return (
                f"But while {tail.text}, the images alone ({blind.name}) find {with_ci(*rate)}: that a few stand out "
                "may be theirs, and no memory."
            )
    return None


def _doubts(
    rules: VerdictRules,
    blinds: Sequence[AttackResult],
    attack_minus_blind: tuple[float, Interval] | None,
    randomised: bool,
    controls: Controls | None,
    shown: bool,
) -> tuple[list[str], list[str]]:
    """Controls that fail so that nothing can be concluded, and those of which only the reader should know.

    ``shown`` is whether the best attack is better than chance: where a coin dealt the sides and nothing was shown,
    there is nothing that stand-ins could explain.
    """
    doubts: list[str] = []
    remarks: list[str] = []
    corrected = statistics.holm([one.p_value for one in blinds])
    told = [one for one, p_value in zip(blinds, corrected, strict=True) if p_value < rules.significance]
    if told and attack_minus_blind is not None:
        words = f"membership can be told without the model ({told[0].name}, AUC {with_ci(told[0].auc, told[0].auc_ci)})"
        gain = with_ci(*attack_minus_blind)
        if not randomised or attack_minus_blind[1][0] <= rules.min_gain_over_blind:
            doubts.append(
                f"But {words}; the attack has {gain} more than the images alone. Members and non-members differ as "
                "images, so that the attack may have found that difference and no memory, or may have been hindered "
                "by it."
            )
        else:
            remarks.append(f"Although {words}, the attack is clearly better ({gain} more).")
    if controls is None:
        return doubts, remarks
    stand_in = controls.stand_in
    if stand_in is not None and stand_in.p_value < rules.significance and (shown or not randomised):
        words = (
            f"a model with other members gives the same patients away (AUC {with_ci(stand_in.auc, stand_in.auc_ci)})"
        )
        gain = with_ci(*stand_in.attack_minus)
        if not randomised or stand_in.attack_minus[1][0] <= rules.min_gain_over_blind:
            doubts.append(
                f"But {words}, where an AUC of one half was due; the attack on the target has {gain} more. What the "
                "attack finds is no memory of the target's."
            )
        else:
            remarks.append(f"Although {words}, the attack on the target is clearly better ({gain} more).")
    if randomised:
        return doubts, remarks  # a coin dealt the sides: what is left differs by chance alone
    shifts = controls.shifted(rules.significance)
    if shifts:
        named = ", ".join(shift.feature for shift in shifts[:3]) + (" and others" if len(shifts) > 3 else "")
        doubts.append(
            f"Members and non-members differ in {len(shifts)} of {len(controls.shifts)} image statistics ({named}), "
            "allowing for how many were compared."
        )
    drifting = [half for half in controls.drifting(rules.significance) if half.side == "nonmembers"]
    for half in drifting:
        doubts.append(
            "The attack tells the first half of the non-members from the second, in the order of their ids (AUC "
            f"{with_ci(half.auc, half.auc_ci)}). Cases differ along the list, and none of these is a member."
        )
    return doubts, remarks


def with_ci(value: float, ci: Interval) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


def _small(p_value: float) -> str:
    return "less than 0.1%" if p_value < 0.001 else f"{p_value:.1%}"
