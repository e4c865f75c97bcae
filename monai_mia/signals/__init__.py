# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Signals: one released prediction, and the reference if the adversary has it, reduced to a few numbers.

A higher signal means a better fit.
"""

from monai_mia.signals.difficulty import Predictability
from monai_mia.signals.perturbations import Flip, Noise, PerturbedQueries, Shift, WindowOverlap
from monai_mia.signals.quality import Calibration, Utility
from monai_mia.signals.release import (
    BAND,
    CLIP,
    Release,
    bare_network,
    boundary_distance,
    entropy_map,
    log_likelihood_map,
    log_odds_map,
    margin_map,
    maximum_probability_map,
)
from monai_mia.signals.segmentation import ACCESS, SegmentationSums, TopProbabilities, access_of, segmentation_signals
from monai_mia.signals.slabs import SlabInferer, SlabPrediction
from monai_mia.signals.white_box import WhiteBox

__all__ = [
    "ACCESS",
    "BAND",
    "CLIP",
    "Calibration",
    "Flip",
    "Noise",
    "PerturbedQueries",
    "Predictability",
    "Release",
    "SegmentationSums",
    "Shift",
    "SlabInferer",
    "SlabPrediction",
    "TopProbabilities",
    "Utility",
    "WhiteBox",
    "WindowOverlap",
    "access_of",
    "bare_network",
    "boundary_distance",
    "entropy_map",
    "log_likelihood_map",
    "log_odds_map",
    "margin_map",
    "maximum_probability_map",
    "segmentation_signals",
]
