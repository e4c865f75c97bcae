# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks without shadows: a single signal as the score."""

from __future__ import annotations

from dataclasses import dataclass

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack

__all__ = ["EverySignal", "GlobalLoss", "Threshold"]


@dataclass(frozen=True)
class Threshold(SignalAttack):
    """The signal itself: whoever the model fits well is called a member.

    Cost: no shadow. Source: `Yeom et al. (2018) <https://arxiv.org/abs/1709.01604>`_ for the loss; for entropy and
    maximum probability of a released prediction `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_.

    Attributes:
        signal: the signal to threshold.
    """

    signal: str
    min_shadows: int = 0

    kind = "threshold"

    def __call__(self, view: AdversaryView) -> Array:
        """The target's signal, shape (N,)."""
        return view.signal(self.signal)[0].copy()


@dataclass(frozen=True)
class GlobalLoss(Threshold):
    """The mean cross-entropy of the whole volume as score, the baseline of every other attack.

    Cost: no shadow. Source: `Chobola et al. (2023) <https://arxiv.org/abs/2212.01082>`_,
    `He et al. (2020) <https://arxiv.org/abs/1912.09685>`_.
    """

    signal: str = "log_likelihood"

    @property
    def name(self) -> str:
        """``global loss``."""
        return "global loss"


@dataclass(frozen=True)
class EverySignal:
    """Stands in a list of attacks for one :class:`Threshold` per recorded signal that no other threshold covers."""

    name = "every signal"

    def attacks(self, view: AdversaryView, others: tuple[object, ...]) -> tuple[Threshold, ...]:
        """The thresholds it stands for."""
        covered = {other.signal for other in others if isinstance(other, Threshold)}
        return tuple(Threshold(signal) for signal in view.signals if signal not in covered)
