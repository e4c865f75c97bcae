# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Voxelwise calibration and the learned combination: known answers, planted leaks, chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from array_maps import ArrayMaps
from numpy.typing import NDArray
from oracles import game
from scipy import special

from monai_mia.attacks import Attack, LearnedCombination, VoxelCalibration
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.voxelwise import FEATURES, _shells, opponents, voxel_features
from monai_mia.errors import InputError
from monai_mia.signals.release import boundary_distance
from monai_mia.statistics.roc import roc

SHAPE = (8, 10, 6)


def blocks(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """References: a box of class 1 beside a box of class 2, each of another size."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 1, *SHAPE), dtype=np.uint8)
    for case in range(n):
        end = rng.integers(4, 7)
        labels[case, 0, 1:end, 2:6, 1:4] = 1
        labels[case, 0, 1:end, 6:9, 1:5] = 2
    return labels


def played(n: int = 60, shadows: int = 8, leak: float = 1.0, seed: int = 0) -> tuple[AdversaryView, NDArray[np.bool_]]:
    """A game with maps: models see the reference with smooth errors of the case, members with less of them."""
    rng = np.random.default_rng(seed)
    table = game(n=n, shadows=shadows, delta=leak, seed=seed)
    labels = blocks(n, seed)
    one_hot = (np.arange(3)[:, None, None, None] == labels).astype(np.float32)  # (N, 3, ...)
    difficulty = rng.normal(0, 1.5, (n, 3, *SHAPE))
    logits = 2 * one_hot + difficulty
    values = []
    for inside in np.concatenate([table.member[None], table.view.shadow_member]):
        error = one_hot - special.softmax(logits, axis=1)
        gain = leak * inside[:, None, None, None, None] * error
        values.append(logits + gain + rng.normal(0, 1.0, logits.shape))
    maps = ArrayMaps(np.array(values, dtype=np.float32), labels)
    return replace(table.view, maps=maps), table.member


def test_error_recovered_against_its_definition():
    view, _ = played(n=4, shadows=6)
    member, maps = view.shadow_member, view.maps
    scores = VoxelCalibration("error_recovered")(view)
    agreement = VoxelCalibration("agreement")(view)
    for case in range(4):
        out = []
        for m in range(6):
            if not member[m, case]:
                z = maps.shadow(m, case).astype(float)
                out.append(special.softmax(np.clip(z - z.mean(0), -8, 8), axis=0))
        mean = sum(out) / len(out)
        z = maps.target(case).astype(float)
        own = special.softmax(np.clip(z - z.mean(0), -8, 8), axis=0)
        y = np.stack([maps.label(case)[0] == c for c in range(3)]).astype(float)
        assert scores[case] == pytest.approx(((own - mean) * (y - mean)).sum() / ((y - mean) ** 2).sum(), rel=1e-4)
        assert agreement[case] == pytest.approx(((own - mean) * y).sum() / (maps.label(case) > 0).sum(), rel=1e-3)


def test_a_perfect_target_recovers_the_whole_error_and_an_unseen_one_none():
    view, _ = played(n=6, shadows=4)
    values = view.maps.values.copy()
    one_hot = np.arange(3)[:, None, None, None] == view.maps.labels
    values[0] = np.where(one_hot, 40.0, -40.0)
    perfect = replace(view, maps=ArrayMaps(values, view.maps.labels))
    np.testing.assert_allclose(VoxelCalibration("error_recovered")(perfect), 1.0, atol=1e-3)
    values[1:] = values[1]
    values[0] = values[1]
    same = replace(view, maps=ArrayMaps(values, view.maps.labels))
    for feature in FEATURES:
        np.testing.assert_allclose(VoxelCalibration(feature)(same), 0.0, atol=1e-4, err_msg=feature)


def test_every_feature_sees_a_planted_leak():
    view, member = played(n=80, shadows=8, leak=2.0)
    for feature in FEATURES:
        auc = roc(VoxelCalibration(feature)(view), member).auc
        # Boxes this small have no interior, and few voxels are three from a boundary.
        assert auc == 0.5 if feature == "log_odds_interior" else auc > 0.8, feature


def test_interior_is_what_lies_deeper_than_the_shells():
    label = np.zeros((1, 1, 12, 12, 12), dtype=np.uint8)
    label[..., 1:11, 1:11, 1:11] = 1
    values = np.zeros((2, 1, 2, 12, 12, 12), dtype=np.float32)
    values[0, 0, 1, 4:8, 4:8, 4:8] = 3.0  # the target is surer in the 4 x 4 x 4 core alone
    features = voxel_features(ArrayMaps(values, label), np.zeros((1, 1), dtype=bool))[0]
    found = dict(zip(FEATURES, features, strict=True))
    assert found["log_odds_interior"] == pytest.approx(3.0)
    assert found["log_odds_boundary"] == 0


@pytest.mark.parametrize("attack", [VoxelCalibration(), VoxelCalibration("agreement"), LearnedCombination(maps=True,
    signals=("log_likelihood", "dice"))], ids=lambda attack: attack.name)  # fmt: skip
def test_null(attack: Attack):
    aucs = []
    for seed in range(6):
        view, member = played(n=60, shadows=4, leak=0.0, seed=seed)
        aucs.append(float(roc(attack(view), member).auc))
    # Standard error of one AUC of 30 against 30: 0.075; of the mean of 6: 0.031.
    assert abs(np.mean(aucs) - 0.5) < 4 * 0.031


def test_the_middle_lies_between_shadows_with_and_without_the_case():
    view, member = played(n=60, shadows=6)
    maps, inside = view.maps, view.shadow_member
    out, middle = (voxel_features(maps, inside, level=level) for level in ("out", "middle"))
    # All features are linear: the gap is what the mean in-sample map has over the mean out-of-sample one.
    gaps = 2 * (out - middle)
    for case in (0, 7):
        values = maps.values.copy()
        values[0, case] = maps.values[1:][inside[:, case]][0, case]
        alike = values.copy()
        for m in np.flatnonzero(inside[:, case]):
            alike[1 + m, case] = values[0, case]  # all in-sample maps alike, and the target's, too
        moved = voxel_features(ArrayMaps(alike, maps.labels), inside)
        half = voxel_features(ArrayMaps(alike, maps.labels), inside, level="middle")
        np.testing.assert_allclose(half[case], moved[case] / 2, rtol=1e-4, atol=1e-6)
    assert (gaps[:, FEATURES.index("error_recovered")] > 0).mean() > 0.9
    scores = VoxelCalibration("error_recovered", "middle")(view)
    np.testing.assert_allclose(scores, middle[:, FEATURES.index("error_recovered")])
    assert roc(scores, member).auc > 0.6


def test_one_shadow_is_enough_and_a_case_that_none_left_out_is_compared_with_all():
    view, member = played(n=60, shadows=2, leak=4.0)
    one = replace(view, shadow=view.shadow[:1], shadow_member=view.shadow_member[:1],
                  maps=ArrayMaps(view.maps.values[:2], view.maps.labels))  # fmt: skip
    scores = VoxelCalibration()(one)
    assert np.isfinite(scores).all()
    assert roc(scores, member).auc > 0.7


def test_shells_are_those_of_the_signals():
    label = blocks(3)[2]
    expected = boundary_distance(torch.as_tensor(label)).numpy()
    np.testing.assert_array_equal(_shells(label[0].astype(np.int64)), expected)


def test_overlapping_labels_of_a_sigmoid():
    rng = np.random.default_rng(0)
    labels = (rng.random((5, 2, *SHAPE)) < 0.3).astype(np.uint8)
    values = rng.normal(0, 1, (3, 5, 2, *SHAPE)).astype(np.float32)
    values[0] = np.where(labels > 0, 40.0, -40.0)
    maps = ArrayMaps(values, labels, "sigmoid")
    features = voxel_features(maps, np.zeros((2, 5), dtype=bool))
    np.testing.assert_allclose(features[:, FEATURES.index("error_recovered")], 1.0, atol=1e-3)
    assert (features[:, FEATURES.index("log_odds_boundary")] > 0).all()


def test_maps_must_be_there():
    view = game(n=20, shadows=4).view
    for attack in (VoxelCalibration(), LearnedCombination(maps=True, signals=view.signals)):
        with pytest.raises(InputError, match="maps must be recorded") as error:
            attack(replace(view, signals=view.signals))
        assert repr(attack.name) in str(error.value)


def test_maps_of_masks_are_refused():
    view, _ = played(n=6, shadows=4)
    view.maps.release = "mask"
    with pytest.raises(InputError, match="maps must be of logits or probabilities"):
        VoxelCalibration()(view)


def test_options_are_checked():
    with pytest.raises(InputError, match="feature must be one of"):
        VoxelCalibration("everything")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="level must be one of out, middle"):
        VoxelCalibration(level="in")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="signals must be at least one"):
        LearnedCombination(signals=())
    with pytest.raises(InputError, match="folds must be at least 2"):
        LearnedCombination(folds=1)


def test_a_player_never_meets_itself_or_its_complement():
    member = game(n=20, shadows=6).view.shadow_member
    assert opponents(member, 2) == [0, 1, 4, 5]
    assert opponents(member, None) == [0, 1, 2, 3, 4, 5]
    assert opponents(member[:2], 0) == [1]  # better one than none


def test_the_combination_is_better_than_its_parts_where_they_differ():
    # Two signals with independent noise: the sum is right, and a third is nothing but noise.
    table = game(n=400, shadows=8, delta=1.0, spread=1.0)
    view = table.view
    combined = LearnedCombination(signals=view.signals)(view)
    singles = [LearnedCombination(signals=(name,))(view) for name in view.signals]
    best = max(float(roc(scores, table.member).auc) for scores in singles)
    assert roc(combined, table.member).auc > best + 0.02


def test_the_combination_comes_close_to_the_exact_ratio_of_one_signal():
    table = game(n=600, shadows=16, delta=1.0, signals=("log_likelihood",))
    scores = LearnedCombination(signals=("log_likelihood",))(table.view)
    optimum = float(roc(table.log_likelihood_ratio, table.member).auc)
    assert roc(scores, table.member).auc > optimum - 0.03


def test_the_combination_learns_nothing_from_a_foreign_case():
    view = game(n=60, shadows=4).view
    foreign = np.arange(60) >= 50
    attack = LearnedCombination(signals=view.signals)
    strange = replace(
        view,
        target=np.where(foreign[:, None], 1e3, view.target),
        shadow=np.where(foreign[:, None], -1e3, view.shadow),
        shadow_member=view.shadow_member & ~foreign,
        foreign=foreign,
    )
    alone = replace(
        view,
        target=view.target[:50],
        shadow=view.shadow[:, :50],
        shadow_member=view.shadow_member[:, :50],
        patient_ids=view.patient_ids[:50],
    )
    scores = attack(strange)
    np.testing.assert_allclose(scores[:50], attack(alone), rtol=1e-9)
    assert (scores[50:] > scores[:50].max()).all()  # far better fitted by the target than by any shadow


def test_the_combination_learns_from_shadows_alone():
    table = game(n=60, shadows=6)
    attack = LearnedCombination(signals=table.view.signals)
    scores = attack(table.view)
    shuffled = replace(table.view, patient_ids=tuple(reversed(table.view.patient_ids)))
    assert np.isfinite(attack(shuffled)).all()
    with pytest.raises(InputError, match="patients must be at least 5"):
        attack(replace(table.view, patient_ids=("a", "b") * 30))
    assert np.isfinite(scores).all()
