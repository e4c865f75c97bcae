# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates of an attack, their intervals, and what chance alone gives: pure functions of scores and membership."""

from monai_mia.statistics.estimate import Estimate, Resampling
from monai_mia.statistics.permutation import holm, permuted_aucs, permuted_members, permuted_tails, tail_p_values
from monai_mia.statistics.resampling import (
    group_means,
    mean_over_targets,
    means_by_group,
    patient_folds,
    percentiles,
    resampled_means,
    simultaneous_reach,
    weights_by_group,
)
from monai_mia.statistics.roc import (
    Roc,
    auc_interval,
    auc_of_ranks,
    aucs,
    balanced_accuracy,
    clopper_pearson,
    resampled_rocs,
    resolution,
    resolved,
    roc,
)

__all__ = [
    "Estimate",
    "Resampling",
    "Roc",
    "auc_interval",
    "auc_of_ranks",
    "aucs",
    "balanced_accuracy",
    "clopper_pearson",
    "group_means",
    "holm",
    "mean_over_targets",
    "means_by_group",
    "patient_folds",
    "percentiles",
    "permuted_aucs",
    "permuted_members",
    "permuted_tails",
    "resampled_means",
    "resampled_rocs",
    "resolution",
    "resolved",
    "roc",
    "simultaneous_reach",
    "tail_p_values",
    "weights_by_group",
]
