# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Controls: what membership looks like without the model, and what chance alone gives.

- :func:`blind_baseline` and :class:`BlindScores`: membership told from the images, which never saw the model.
- :func:`placebo_scores` and :func:`within_sides`: the attack on a model whose members another coin drew, joined with
  the target's membership.
- :func:`feature_shifts`: image statistics that differ between members and non-members.
- :func:`matched_strata`: the attack within strata of patients who are alike as images.
- :func:`image_tail`: a few members who stand out in an image statistic.
- :func:`split_halves`: two halves of one side, told apart by an attack's scores.
"""

from monai_mia.audit.controls.blind import BlindScores, blind_baseline
from monai_mia.audit.controls.matching import MatchedStrata, matched_strata
from monai_mia.audit.controls.placebo import Placebo, PlaceboScores, placebo, placebo_scores, within_sides
from monai_mia.audit.controls.shifts import (
    Controls,
    FeatureShift,
    SplitHalf,
    feature_shifts,
    image_tail,
    measure_controls,
    split_half_band,
    split_halves,
)

__all__ = [
    "BlindScores",
    "Controls",
    "FeatureShift",
    "MatchedStrata",
    "Placebo",
    "PlaceboScores",
    "SplitHalf",
    "blind_baseline",
    "feature_shifts",
    "image_tail",
    "matched_strata",
    "measure_controls",
    "placebo",
    "placebo_scores",
    "split_half_band",
    "split_halves",
    "within_sides",
]
