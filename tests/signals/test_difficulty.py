# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The predictability of a reference: known answers, and nothing to predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from monai_mia.errors import InputError
from monai_mia.signals.difficulty import Predictability
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import access_of

SHAPE = (24, 25, 26)


def measured(image: torch.Tensor, label: torch.Tensor, **options: object) -> dict[str, float]:
    classes = max(2, int(label.max()) + 1)
    release = Release(torch.zeros(classes, *label.shape[1:]))
    return Predictability(**options)(release, label, image=image)  # type: ignore[arg-type]


def test_the_bayes_classifier_is_reached() -> None:
    """Intensities N(label, 1): the posterior is a logistic regression, its log-likelihood an integral."""
    rng = torch.Generator().manual_seed(0)
    label = (torch.rand(1, *SHAPE, generator=rng) < 0.5).long()
    image = label + torch.randn(1, *SHAPE, generator=rng)
    found = measured(image, label, n_voxels=12_000, scales=())
    # By symmetry: the mean over N(1, 1) of log sigmoid(x - 1/2).
    expected, _ = quad(lambda x: norm.pdf(x, 1) * -np.log1p(np.exp(0.5 - x)), -10, 12)
    assert found["predictability"] == pytest.approx(expected, abs=0.02)


def test_a_reference_that_the_image_does_not_tell() -> None:
    """Nothing to predict: minus the entropy of the labels, and over the foreground the log of its share."""
    rng = torch.Generator().manual_seed(1)
    label = (torch.rand(1, *SHAPE, generator=rng) < 0.02).long()
    found = measured(torch.randn(1, *SHAPE, generator=rng), label)
    share = label.float().mean().item()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert found["predictability"] == pytest.approx(-entropy, abs=0.02)
    assert found["predictability_foreground"] == pytest.approx(np.log(share), abs=0.5)


def test_an_easier_case_is_higher() -> None:
    rng = torch.Generator().manual_seed(2)
    label = torch.zeros(1, *SHAPE, dtype=torch.long)
    label[:, 6:15, 6:15, 6:15] = 1
    label[:, 15:20, 6:15, 6:15] = 2
    found = [measured(label + noise * torch.randn(1, *SHAPE, generator=rng), label) for noise in (0.2, 1.0, 5.0)]
    for name in ("predictability", "predictability_foreground"):
        values = [one[name] for one in found]
        assert values == sorted(values, reverse=True)
        assert all(value < 0 for value in values)


def test_smoothing_sees_the_neighbourhood() -> None:
    rng = torch.Generator().manual_seed(3)
    label = torch.zeros(1, *SHAPE, dtype=torch.long)
    label[:, :12, ::8] = label[:, :12, 1::8] = label[:, :12, 2::8] = 1
    image = label + 2 * torch.randn(1, *SHAPE, generator=rng)
    assert measured(image, label)["predictability"] > measured(image, label, scales=())["predictability"] + 0.02


def test_the_model_does_not_matter_and_asking_twice_gives_the_same() -> None:
    rng = torch.Generator().manual_seed(4)
    label = torch.randint(0, 3, (1, *SHAPE), generator=rng)
    image = torch.randn(2, *SHAPE, generator=rng)  # two channels
    releases = [
        Release(torch.randn(3, *SHAPE, generator=rng)),
        Release(torch.rand(3, *SHAPE, generator=rng), "probabilities"),
        Release(torch.zeros(1, *SHAPE), "mask", n_classes=3),
    ]
    first, *others = (Predictability()(release, label, image=image) for release in releases)
    assert all(other == first for other in others)
    assert Predictability(seed=1)(releases[0], label, image=image) != first
    assert {access_of(name) for name in first} == {"mask+label"}


def test_sigmoid_averages_its_channels_in_2d() -> None:
    """One channel that follows from the image, one that is empty: half of the first one's."""
    rng = torch.Generator().manual_seed(5)
    label = (torch.rand(1, 60, 60, generator=rng) < 0.5).float()
    image = label + 0.5 * torch.randn(1, 60, 60, generator=rng)
    alone = Predictability()(Release(torch.zeros(1, 60, 60), activation="sigmoid"), label, image=image)
    both = torch.cat([label, torch.zeros_like(label)])
    found = Predictability()(Release(torch.zeros(2, 60, 60), activation="sigmoid"), both, image=image)
    assert found["predictability"] == pytest.approx(alone["predictability"] / 2, abs=1e-3)


@pytest.mark.parametrize("value", [0, 1])
def test_one_label_alone_is_certain_and_finite(value: int) -> None:
    found = measured(torch.randn(1, *SHAPE), torch.full((1, *SHAPE), value))
    assert -1e-3 < found["predictability"] < 0
    assert found["predictability_foreground"] == found["predictability"]


def test_a_label_of_one_voxel() -> None:
    label = torch.zeros(1, *SHAPE, dtype=torch.long)
    label[0, 3, 3, 3] = 1
    assert np.isfinite(list(measured(torch.randn(1, *SHAPE), label).values())).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Predictability(held_out=1.0), "held_out must be in"),
        (lambda: Predictability(n_voxels=5), "n_voxels must be at least 100, got 5"),
        (lambda: measured(torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)), "image must have the label's shape"),
        (
            lambda: Predictability()(Release(torch.zeros(2, 4, 4)), None, image=torch.zeros(1, 4, 4)),
            "label must be given",
        ),
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()
