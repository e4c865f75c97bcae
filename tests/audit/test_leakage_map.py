# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The leakage map: an effect that is planted at a boundary lies there, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from array_maps import ArrayMaps
from conftest import KEY
from numpy.typing import NDArray
from scipy import special

from monai_mia.audit.individuals.leakage_map import LeakageMap, distance_profile, log_likelihoods, signed_distance
from monai_mia.errors import InputError
from monai_mia.records.design import Design
from monai_mia.records.table import SignalTable
from monai_mia.signals.release import CLIP, Release, log_likelihood_map
from monai_mia.statistics import Resampling

SIZE = 14
QUICK = LeakageMap(reach=4, resampling=Resampling(n_resamples=200))


def balls(n: int, seed: int) -> NDArray[np.uint8]:
    """References, shape (N, 1, *spatial): a ball of radius 4 somewhere in the volume."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"))
    centres = rng.integers(5, SIZE - 5, (n, 3))
    return np.array([[((grid - c[:, None, None, None]) ** 2).sum(axis=0) <= 16] for c in centres], dtype=np.uint8)


class Game:
    """Two targets and six shadows; a model is surer of the reference of its members in one shell of the boundary."""

    def __init__(self, gain: float, n: int = 40, cases: int = 1, seed: int = 0, activation: str = "softmax") -> None:
        rng = np.random.default_rng([seed, 1])
        patients = [f"p{k // cases:02d}" for k in range(n)]
        listed = [{"case_id": f"c{k:02d}", "patient_id": p, "image": "", "label": ""} for k, p in enumerate(patients)]
        design = Design.randomised(listed, 6, seed, 2, key=KEY)
        self.targets, self.shadows = design.targets, design.shadows
        member = np.stack(list(design.member.values()))
        ids = tuple(str(case["case_id"]) for case in listed)
        zeros = np.zeros((*member.shape, 1))
        self.table = SignalTable(design.model_ids, ids, tuple(patients), ("dice",), member, zeros)
        self.labels = balls(n, seed)
        self.activation = activation
        sign = 2.0 * self.labels[:, 0] - 1
        distance = np.stack([signed_distance(label[0]) for label in self.labels])
        shell = (distance >= 0) & (distance < 1)
        odds = 2 * sign + rng.normal(size=sign.shape)  # of class 1
        noise = 0.3 * rng.normal(size=(len(member), *sign.shape))
        self.odds = odds + gain * member[:, :, None, None, None] * shell * sign + noise

    def maps(self, target: str, shadows: tuple[str, ...]) -> ArrayMaps:
        rows = [self.table.model_ids.index(model) for model in (target, *shadows)]
        odds = self.odds[rows]
        if self.activation == "sigmoid":
            return ArrayMaps(odds[:, :, None].astype(np.float32), self.labels, "sigmoid")
        return ArrayMaps(np.stack([-odds / 2, odds / 2], axis=2).astype(np.float32), self.labels)

    def locate(self, options: LeakageMap = QUICK, **arguments: object):
        return options.locate(self.table, self.targets, self.shadows, self.maps, **arguments)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_effect_at_the_boundary_lies_there(activation: str) -> None:
    """Planted in the first layer outside: the bin from 0 to 1, and no other."""
    found = Game(1.5, activation=activation).locate()
    assert found.labels == (1,)
    np.testing.assert_array_equal(found.distances, np.arange(8) - 3.5)
    planted = found.distances == 0.5
    assert found.low[0, planted] > 0.05
    assert found.difference[0, planted] == found.members[0, planted] - found.nonmembers[0, planted]
    covered = (found.low[0] <= 0) & (found.high[0] >= 0)
    assert covered[~planted].sum() >= 6  # of seven intervals of 95 %
    assert abs(found.difference[0, ~planted]).max() < found.difference[0, planted] / 5
    assert found.share[0, planted] > 0.7
    assert found.share[0].sum() == pytest.approx(1.0)
    # In the registered crop: red in a ring around the structure, nothing within and beyond.
    assert found.registered is not None
    evidence, structure = found.registered.evidence, found.registered.structure
    middle = tuple(edge // 2 for edge in evidence.shape)
    assert structure[middle] == 1
    distance = signed_distance(structure > 0.5)
    ring, rest = (distance >= 0) & (distance < 1), (distance < -1) | (distance > 2)
    assert np.nanmean(evidence[ring]) > 10 * abs(np.nanmean(evidence[rest]))
    assert found.n_patients == (
        40 - (~Game(1.5).table.member[:2]).all(axis=0).sum(),
        40 - Game(1.5).table.member[:2].all(axis=0).sum(),
    )


def test_without_an_effect_there_is_no_evidence() -> None:
    """Over eight games and eight bins, an interval misses zero about as often as it says."""
    missed = []
    for seed in range(8):
        found = Game(0.0, seed=seed, n=30).locate()
        missed += [*((found.low[0] > 0) | (found.high[0] < 0))]
    assert np.mean(missed) < 0.16


def test_the_evidence_of_a_case_by_hand() -> None:
    kept: dict[int, NDArray[np.float32]] = {}
    game = Game(1.0, n=30)
    game.locate(keep=lambda case, evidence: kept.__setitem__(case, evidence))
    assert sorted(kept) == [*range(30)]
    case = 7
    outside = [m for m in range(2, 8) if not game.table.member[m, case]]
    assert len(outside) == 3
    sign = 2.0 * game.labels[case, 0] - 1
    likely = special.log_expit(game.odds[:, case] * sign)
    np.testing.assert_allclose(kept[case], likely[0] - likely[outside].mean(axis=0), atol=1e-5)


def test_log_likelihoods_are_those_of_the_signals() -> None:
    """As :func:`monai_mia.signals.log_likelihood_map`, which needs torch."""
    rng = np.random.default_rng(0)
    values, label = 5 * rng.normal(size=(3, 4, 5)), rng.integers(3, size=(1, 4, 5)).astype(np.uint8)
    expected = log_likelihood_map(Release(torch.tensor(values)), torch.tensor(label))
    np.testing.assert_allclose(log_likelihoods(values, label), expected.numpy().reshape(4, 5), atol=1e-6)
    several = rng.integers(2, size=(3, 4, 5)).astype(np.uint8)
    likely = np.log(np.where(several > 0, special.expit(values), special.expit(-values))).mean(axis=0)
    np.testing.assert_allclose(log_likelihoods(values, several, "sigmoid"), likely)
    sure = np.array([[60000.0], [-60000.0]])
    assert log_likelihoods(sure, np.array([[1]], dtype=np.uint8)) == pytest.approx(np.log(CLIP))


def test_signed_distance_by_hand() -> None:
    mask = np.zeros((5, 5))
    mask[2, 2] = 1
    distance = signed_distance(mask)
    assert (distance[2, 2], distance[2, 3], distance[2, 4]) == (-0.5, 0.5, 1.5)
    assert distance[1, 1] == pytest.approx(np.sqrt(2) - 0.5)
    assert np.isposinf(signed_distance(np.zeros(3))).all()
    assert np.isneginf(signed_distance(np.ones(3))).all()
    evidence = np.stack([np.ones((5, 5)), distance])
    sums, counts = distance_profile(evidence, mask, 2)
    np.testing.assert_array_equal(counts, [0, 1, 8, 12])
    np.testing.assert_array_equal(sums[0], counts)
    assert sums[1, 1] == -0.5


def test_patients_are_the_unit() -> None:
    """Cases of a patient count as one: with three of each, as many patients on the sides as there are."""
    found = Game(1.5, n=60, cases=3).locate()
    assert max(found.n_patients) <= 20
    assert found.registered is not None
    assert (
        Game(1.5, n=45, cases=3)
        .locate(LeakageMap(reach=4, resampling=Resampling(n_resamples=20), min_cell=15))
        .registered
        is None
    )


def test_few_patients_are_not_shown() -> None:
    found = Game(1.5, n=12).locate(LeakageMap(reach=4, resampling=Resampling(n_resamples=20), min_cell=12))
    assert np.isnan(found.difference).all()
    assert np.isnan(found.low).all()
    assert found.registered is None


def test_what_cannot_be_located_is_refused() -> None:
    game = Game(0.0, n=8)
    with pytest.raises(InputError, match="shadows must be at least 1"):
        QUICK.locate(game.table, game.targets, (), game.maps)
    with pytest.raises(InputError, match="got masks"):
        QUICK.locate(
            game.table,
            game.targets,
            game.shadows,
            lambda *pair: ArrayMaps(game.maps(*pair).values, game.labels, release="mask"),
        )
    game.labels[:] = 0
    with pytest.raises(InputError, match="must hold a foreground label"):
        game.locate()
    for option in ("reach", "largest", "min_cell"):
        with pytest.raises(InputError, match=option):
            LeakageMap(**{option: 0})


def test_an_empty_reference_among_others_is_left_out() -> None:
    game = Game(1.5)
    game.labels[3] = 0
    found = game.locate()
    assert np.isfinite(found.difference).all()
    assert found.low[0, 4] > 0.05


def test_slices_are_located_as_volumes_are() -> None:
    """2D: the middle slice of each volume."""
    game = Game(1.5)
    middle = SIZE // 2
    game.labels, game.odds = game.labels[..., middle], game.odds[..., middle]
    found = game.locate()
    assert found.registered is not None
    assert found.registered.evidence.ndim == 2
    assert found.difference[0, 4] > 0.05
