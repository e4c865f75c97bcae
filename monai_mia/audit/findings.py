# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report says, as far as a criterion reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_mia.statistics import Estimate
from monai_mia.statistics.accounted import stated_epsilon

__all__ = ["AttackFinding", "Findings", "largest_epsilon"]


@dataclass(frozen=True)
class AttackFinding:
    """What a report says of one attack.

    Attributes:
        name: the attack's name.
        n_shadow: how many shadows it used.
        p_value: of its AUC, over all attacks.
        tail_p_value: of its tail, over all attacks; None of a blind one, and in reports of schema 1.4 and before.
        auc: with an interval that holds although the attack was chosen as the best, as all of them do.
        rates: the TPR at each resolved FPR that may be told.
        lift: how many times its FPR its TPR is at least, where none of them is told; else None.
    """

    name: str
    n_shadow: int
    p_value: float
    tail_p_value: float | None
    auc: Estimate
    rates: Mapping[float, Estimate]
    lift: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> AttackFinding:
        """Read a row of ``attacks`` of ``report.json``."""
        rates = {float(fpr): Estimate.of_json(rate) for fpr, rate in row["tpr_at_fpr"].items() if rate is not None}
        tail = row.get("tail_p_value")
        return cls(
            str(row["name"]),
            int(row["n_shadow"]),
            float(row["p_value"]),
            None if tail is None else float(tail),
            Estimate.of_json(row, "auc"),
            rates,
            None if row["lift"] is None else float(row["lift"]),
        )


@dataclass(frozen=True)
class Findings:
    """What a report says, as far as a criterion reads it.

    Attributes:
        attacks: the attacks that are told of, best first.
        n_attacks: how many were tried.
        most_shadows: how many shadows any of them used.
        blinds: the blind baseline and the blind network, as far as there are, the stronger first.
        gain: AUC of the best attack minus that of the stronger blind one, or 0.5 if that is more; None without one.
        n_member: member patients; units, where the design is not known.
        n_nonmember: non-member patients, likewise.
        resolution: the smallest FPR that is resolved.
        randomised: whether a coin decided who is a member.
        detectable: the AUC that chance gives the best attack in 1 of 20 permutations.
        placebo: the attack on models in the target's stead, as ``controls`` has it, or None.
        shifts: image statistics of members against non-members, those that are told of, likewise.
        n_shifts: how many were compared.
        halves: each side against itself, likewise.
        image_tail: how seldom chance gives an image statistic such a tail, or None.
        matched: the best attack within strata of patients who are alike as images, likewise.
        networked: whether a blind network was trained.
        claims: what claims are worth, likewise, or None.
        epsilon: the largest audited epsilon of all attacks, whose bounds hold at once, or None.
        ceiling: what a perfect attack would have shown.
        accounted: accounted epsilon of the target's training, or None; none is without noise that nobody can repeat.
        repeatable: whether the training has an account that bounds nothing, since its noise can be repeated.
        confidence: coverage of the intervals.
    """

    attacks: Sequence[AttackFinding]
    n_attacks: int
    most_shadows: int
    blinds: Sequence[AttackFinding]
    gain: Estimate | None
    n_member: int
    n_nonmember: int
    resolution: float
    randomised: bool
    detectable: float
    placebo: Mapping[str, Any] | None
    shifts: Sequence[Mapping[str, Any]]
    n_shifts: int
    halves: Sequence[Mapping[str, Any]]
    image_tail: float | None
    matched: Mapping[str, Any] | None
    networked: bool
    claims: Mapping[str, Any] | None
    epsilon: float | None
    ceiling: float
    accounted: float | None
    repeatable: bool
    confidence: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Findings:
        """Read the content of ``report.json``."""
        design, vulnerability, controls = content.get("design", {}), content["exposure"], content["controls"]
        shown, ceiling = largest_epsilon(content["attacks"])
        blinds = [controls[name] for name in ("blind_baseline", "blind_network") if controls[name] is not None]
        gain = controls["attack_minus_blind"]
        return cls(
            attacks=[AttackFinding.of(row) for row in content["attacks"]],
            n_attacks=len(content["attacks"]) + len(content["withheld"]),
            most_shadows=max(int(row["n_shadow"]) for row in (*content["attacks"], *content["withheld"])),
            blinds=sorted(map(AttackFinding.of, blinds), key=lambda blind: -blind.auc.value),
            gain=None if gain is None else Estimate.of_json(gain),
            n_member=int(design.get("n_member", vulnerability.get(f"n_{content['unit']}s"))),
            n_nonmember=int(design.get("n_nonmember", round(1 / float(vulnerability["resolution"])))),
            resolution=float(vulnerability["resolution"]),
            randomised=design.get("kind") == "randomised",
            detectable=float(controls["null"]["auc_95"]),
            placebo=controls.get("permuted_membership"),
            shifts=controls.get("shifts", ()),
            n_shifts=int(controls.get("n_shifts", 0)),
            halves=controls.get("halves", ()),
            image_tail=controls.get("image_tail"),
            matched=controls.get("matched"),
            networked=controls["blind_network"] is not None,
            claims=content["claims"],
            epsilon=shown,
            ceiling=ceiling,
            accounted=stated_epsilon(content.get("target", {}).get("privacy")),
            repeatable=(content.get("target", {}).get("privacy") or {}).get("secure_noise") is False,
            confidence=float(content["confidence"]),
        )

    @property
    def best(self) -> AttackFinding:
        """The attack with the highest AUC."""
        return self.attacks[0]


def largest_epsilon(attacks: Sequence[Mapping[str, Any]]) -> tuple[float | None, float]:
    """The largest audited epsilon of the attacks of a report, whose bounds hold at once, and the largest ceiling."""
    bounded = [row for row in attacks if row["epsilon"] is not None]
    shown = max((float(row["epsilon_lower_bound"]) for row in bounded), default=None)
    return shown, max((float(row["epsilon"]["ceiling"]) for row in bounded), default=0.0)
