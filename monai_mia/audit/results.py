# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What an audit finds, as it is handed to verdict, report and handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia.audit.controls import Controls
from monai_mia.errors import InputError
from monai_mia.statistics.claims import ClaimsEvaluation
from monai_mia.statistics.epsilon import EpsilonBound

if TYPE_CHECKING:
    from monai_mia.audit.controls import Controls

__all__ = [
    "AttackResult",
    "AuditResult",
    "Interval",
    "Verdict",
]

Array = NDArray[np.float64]

Interval = tuple[float, float]


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
        auc_ci_simultaneous: interval that holds for all attacks of the audit at once, and so for the best of them.
        p_value: probability under permuted membership that the best of all attacks of the audit reaches this AUC.
        tail_p_value: probability under permuted membership that any attack of the audit has, at any resolved FPR, a TPR
            that chance gives as seldom as the least likely one of this attack; 1 without a resolved FPR; None of a
            blind one.
        tpr_at_fpr: for each FPR, the TPR and its interval, or None below the resolution of the cohort.
        advantage: largest TPR - FPR, and its interval; optimistic.
        advantage_ci: interval of the advantage.
        balanced_accuracy: of a threshold chosen on other patients.
        balanced_accuracy_ci: its interval.
        epsilon_lower_bound: audited epsilon, or None where the unit is not the patient.
        auc_gain: AUC minus that of the global loss, with its paired interval.
        transferred: of an attack with a threshold of its own, fitted on shadows: TPR, FPR and balanced accuracy of its
            decision, each with its interval; else None.
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
    auc_ci_simultaneous: Interval
    p_value: float
    tail_p_value: float | None
    tpr_at_fpr: Mapping[float, tuple[float, Interval] | None]
    advantage: float
    advantage_ci: Interval
    balanced_accuracy: float
    balanced_accuracy_ci: Interval
    epsilon_lower_bound: EpsilonBound | None
    auc_gain: tuple[float, Interval] | None
    transferred: Mapping[str, tuple[float, Interval]] | None
    roc: Mapping[str, list[float]]
    seconds: float


@dataclass(frozen=True)
class AuditResult:
    """What an audit found; :func:`monai_mia.audit.report.write_report` prints it.

    Attributes:
        target: id of the audited model in the table.
        unit: ``patient`` or ``case``.
        unit_ids: names of the U units; private.
        member: whether the target trained on a unit, shape (U,).
        attacks: sorted by AUC, best first.
        blind: the blind baseline as if it were an attack, or None without image statistics.
        blind_network: the blind network as if it were an attack, or None if none was trained.
        attack_minus_blind: AUC of the best attack minus that of the stronger blind one, with its paired interval.
        controls: further controls.
        null: what chance gives: quantiles of the best AUC under permuted membership.
        exposure: for each unit, the smallest FPR at which the best attack still calls it a member; private.
        utility: mean and interval of each utility metric on members, on non-members, and their gap.
        claims: what claims of membership by the best attack would have been worth, or None if the cohort is too small.
        canaries: for each kind of canary, bounds on epsilon by method; empty without canaries.
        verdict: the verdict.
        seconds: time of the audit.
    """

    target: str
    unit: str
    unit_ids: tuple[str, ...]
    member: NDArray[np.bool_]
    attacks: tuple[AttackResult, ...]
    blind: AttackResult | None
    blind_network: AttackResult | None
    attack_minus_blind: tuple[float, Interval] | None
    controls: Controls
    null: Mapping[str, float]
    exposure: Array
    utility: Mapping[str, Mapping[str, Any]]
    claims: ClaimsEvaluation | None
    canaries: Mapping[str, Mapping[str, EpsilonBound]]
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
class Verdict:
    """The answer in one word, and why.

    Attributes:
        level: ``low``, ``moderate``, ``high`` or ``inconclusive``.
        reasons: sentences for a reader without a background in privacy.
    """

    level: Literal["low", "moderate", "high", "inconclusive"]
    reasons: tuple[str, ...]
