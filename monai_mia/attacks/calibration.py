# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Difficulty calibration: how much better than models that did not train on a case."""

from __future__ import annotations

from dataclasses import dataclass

from monai_mia.attacks.attack import Array, in_and_out, require_shadows, without_offsets
from monai_mia.table import Knowledge

__all__ = ["DifficultyCalibration"]


@dataclass(frozen=True)
class DifficultyCalibration:
    """The target's signal minus the mean signal of the shadows that did not train on the case.

    A case that every shadow trained on is compared with what they would have given without it, as far as the other
    cases tell (:func:`~monai_mia.attacks.in_and_out`).

    Cost: 1 shadow; from 2 (a complementary pair) on every case has a shadow without it. Source: `Watson et al. (2022)
    <https://arxiv.org/abs/2111.08440>`_; the removal of whole-model offsets is ours.

    Attributes:
        signal: the signal to calibrate.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_odds_foreground"
    remove_offsets: bool = True
    min_shadows: int = 1

    @property
    def name(self) -> str:
        """``calibrated: <signal>``."""
        return f"calibrated: {self.signal}" + ("" if self.remove_offsets else ", offsets kept")

    @property
    def signals(self) -> tuple[str, ...]:
        """The one signal."""
        return (self.signal,)

    def __call__(self, knowledge: Knowledge) -> Array:
        """Scores in units of the signal, shape (N,)."""
        require_shadows(self, knowledge)
        target, shadow = knowledge.signal(self.signal)
        if self.remove_offsets:
            target, shadow = without_offsets(target, shadow, knowledge.cohort)
        return target - in_and_out(target, shadow, knowledge.shadow_member, cohort=knowledge.cohort)[1]
