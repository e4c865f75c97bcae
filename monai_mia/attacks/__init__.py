# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks: functions from what the adversary knows to one score per case, higher = more likely a member.

Reach them in a bundle's config by ``_target_: monai_mia.attacks.LiRA`` and the like.
"""

from monai_mia.attacks.attack import Attack, without_offsets
from monai_mia.attacks.calibration import DifficultyCalibration
from monai_mia.attacks.lira import LiRA, offline_lira, online_lira
from monai_mia.attacks.standard import standard_attacks
from monai_mia.attacks.threshold import EverySignal, GlobalLoss, Threshold

__all__ = [
    "Attack",
    "DifficultyCalibration",
    "EverySignal",
    "GlobalLoss",
    "LiRA",
    "Threshold",
    "offline_lira",
    "online_lira",
    "standard_attacks",
    "without_offsets",
]
