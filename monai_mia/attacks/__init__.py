# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks: functions from what the adversary knows to one score per case, higher = more likely a member.

Reach them in a bundle's config by ``_target_: monai_mia.attacks.LiRA`` and the like.
"""

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Attack, SignalAttack, in_and_out, without_offsets
from monai_mia.attacks.bayes import BaVarIA
from monai_mia.attacks.checks import ContractError, attack_checks, check_attack
from monai_mia.attacks.combination import LearnedCombination
from monai_mia.attacks.lira import DifficultyCalibration, LiRA, offline_lira, online_lira
from monai_mia.attacks.lists import all_attacks, published_attacks, standard_attacks
from monai_mia.attacks.multivariate import MultivariateLiRA
from monai_mia.attacks.quantile import FeatureRegression, PredictabilityError, QuantileRegression
from monai_mia.attacks.rmia import BASE, RMIA, log_probability
from monai_mia.attacks.threshold import EverySignal, GlobalLoss, Threshold
from monai_mia.attacks.transfer import TopScores, TransferredThreshold
from monai_mia.attacks.voxelwise import VoxelCalibration

__all__ = [
    "BASE",
    "RMIA",
    "AdversaryView",
    "Attack",
    "BaVarIA",
    "ContractError",
    "DifficultyCalibration",
    "EverySignal",
    "FeatureRegression",
    "GlobalLoss",
    "LearnedCombination",
    "LiRA",
    "MultivariateLiRA",
    "PredictabilityError",
    "QuantileRegression",
    "SignalAttack",
    "Threshold",
    "TopScores",
    "TransferredThreshold",
    "VoxelCalibration",
    "all_attacks",
    "attack_checks",
    "check_attack",
    "in_and_out",
    "log_probability",
    "offline_lira",
    "online_lira",
    "published_attacks",
    "standard_attacks",
    "without_offsets",
]
