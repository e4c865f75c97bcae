# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Difficulty calibration: how much better than models that did not train on a case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_mia.attacks.attack import Array, require_shadows, require_sides, without_offsets
from monai_mia.table import Knowledge

__all__ = ["DifficultyCalibration"]


@dataclass(frozen=True)
class DifficultyCalibration:
    """The target's signal minus the mean signal of the shadows that did not train on the case.

    Cost: 2 shadows (a complementary pair), better with more. Source: `Watson et al. (2022)
    <https://arxiv.org/abs/2111.08440>`_; the removal of whole-model offsets is ours.

    Attributes:
        signal: the signal to calibrate.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "log_odds_foreground"
    remove_offsets: bool = True
    min_shadows: int = 2

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
        require_sides(self, knowledge.shadow_member, 0, 1)
        target, shadow = knowledge.signal(self.signal)
        if self.remove_offsets:
            target, shadow = without_offsets(target, shadow)
        out = ~knowledge.shadow_member
        return np.asarray(target - (shadow * out).sum(axis=0) / out.sum(axis=0))
