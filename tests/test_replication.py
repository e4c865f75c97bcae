# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The score attacks behave on classifiers as Hintersdorf et al. (2022) published; see replication.py."""

from __future__ import annotations

import numpy as np
import pytest
from replication import ATTACKS, DEFENCES, digits, measured, slices, trained_pair

from monai_mia.data import phantom_cohort

SEEDS = range(2)


@pytest.fixture(scope="module")
def pairs():
    return {
        name: [trained_pair(digits(), DEFENCES[name], seed) for seed in SEEDS] for name in ("none", "label smoothing")
    }


@pytest.fixture(scope="module")
def found(pairs):
    return {
        name: [measured(digits(), pairs[of][seed], DEFENCES[name], seed) for seed in SEEDS]
        for name, of in (("none", "none"), ("label smoothing", "label smoothing"), ("temperature", "none"))
    }


def change(found, name, key):
    return np.mean([run[key] - plain[key] for run, plain in zip(found[name], found["none"], strict=True)])


def test_label_smoothing_reveals_more(found):
    for attack in ATTACKS:
        assert change(found, "label smoothing", f"{attack}: AUC") > 0.02, attack
    assert change(found, "label smoothing", "top 3: FPR") < 0


def test_a_temperature_blinds_the_entropy_and_not_the_top_scores(found):
    assert change(found, "temperature", "entropy: AUC") < -0.01
    assert change(found, "temperature", "top 3: AUC") > -0.01


def test_scaled_images_are_called_members(found):
    for attack in ATTACKS:
        assert np.mean([run[f"{attack}: FPR, scaled"] for run in found["none"]]) > 0.95, attack


def test_attacks_are_at_chance_on_images_that_a_coin_divides(pairs):
    """The same networks, but who is called a member has nothing to do with them."""
    runs = [measured(digits(), pairs["none"][seed], DEFENCES["none"], seed + 100) for seed in SEEDS]
    for attack in ATTACKS:
        assert abs(np.mean([run[f"{attack}: AUC"] for run in runs]) - 0.5) < 0.05, attack


def test_slices_keep_patients_apart(tmp_path):
    data = slices(phantom_cohort(tmp_path, 12), every=8)
    assert data.images.shape[1:] == (1, 32, 32)
    assert set(data.labels.tolist()) == {0, 1, 2}
    sides = [set(data.patients[index]) for index in data.quarters(0)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 12
