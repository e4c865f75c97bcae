# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The attacks that an audit tries unless it is told which."""

from __future__ import annotations

from monai_mia.attacks.attack import Attack
from monai_mia.attacks.calibration import DifficultyCalibration
from monai_mia.attacks.lira import LiRA
from monai_mia.attacks.threshold import EverySignal, GlobalLoss
from monai_mia.errors import InputError

__all__ = ["standard_attacks"]


def standard_attacks(n_shadow: int, release: str = "logits") -> list[Attack | EverySignal]:
    """The global loss, every other signal as a threshold, and what ``n_shadow`` shadows allow beyond.

    From 2 shadows on difficulty calibration, from 4 on LiRA, both on the log-likelihood (the whole volume) and on the
    log-odds of the foreground; if only masks are released, on the Dice of the whole volume and of the boundary.

    Args:
        n_shadow: number of shadows, at least 0.
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``.

    Example:
        >>> [attack.name for attack in standard_attacks(2)[2:]]
        ['calibrated: log_likelihood', 'calibrated: log_odds_foreground']
    """
    if not isinstance(n_shadow, int) or n_shadow < 0:
        raise InputError(f"n_shadow must be a whole number, at least 0, got {n_shadow!r}.")
    masks = release == "mask"
    attacks: list[Attack | EverySignal] = [EverySignal()] if masks else [GlobalLoss(), EverySignal()]
    for signal in ("dice", "dice_boundary") if masks else ("log_likelihood", "log_odds_foreground"):
        if n_shadow >= 2:
            attacks.append(DifficultyCalibration(signal))
        if n_shadow >= 4:
            # Offline LiRA with a pooled variance would rank cases as difficulty calibration does.
            attacks += [LiRA(signal), LiRA(signal, variance="case"), LiRA(signal, mode="offline", variance="case")]
    return attacks
