# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Rates of an attack, their intervals, and what chance alone gives: pure functions of scores and membership."""

from monai_mia.statistics.estimate import Estimate, Resampling
from monai_mia.statistics.permutation import holm, permuted_aucs, permuted_members, permuted_tails, tail_p_values
from monai_mia.statistics.resampling import (
    gaps_by_group,
    group_means,
    mean_over_targets,
    means_by_group,
    patient_folds,
    percentiles,
    reach_of_best,
    resampled_means,
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
    resampled_tprs,
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
    "gaps_by_group",
    "group_means",
    "holm",
    "mean_over_targets",
    "means_by_group",
    "patient_folds",
    "percentiles",
    "permuted_aucs",
    "permuted_members",
    "permuted_tails",
    "reach_of_best",
    "resampled_means",
    "resampled_rocs",
    "resampled_tprs",
    "resolution",
    "resolved",
    "roc",
    "tail_p_values",
    "weights_by_group",
]
