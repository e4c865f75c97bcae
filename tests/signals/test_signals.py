# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Signals: known answers, oracles, and one contract for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from scipy.ndimage import distance_transform_cdt

from monai_mia import signals
from monai_mia.errors import InputError
from monai_mia.signals import segmentation
from monai_mia.signals.release import Release, boundary_distance
from monai_mia.signals.segmentation import TopProbabilities, segmentation_signals


def volume(seed: int = 0, classes: int = 3, shape: tuple[int, ...] = (9, 10, 11)) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and a blocky reference that they fit to some degree."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (1, 1, *((n + 3) // 4 for n in shape)), generator=rng).float()
    label = torch.nn.functional.interpolate(coarse, scale_factor=4)[0][(slice(None), *(slice(n) for n in shape))].long()
    one_hot = torch.nn.functional.one_hot(label[0], classes).movedim(-1, 0).float()
    return 2 * one_hot + torch.randn(one_hot.shape, generator=rng), label


def multilabel(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and overlapping labels of two channels."""
    logits, label = volume(seed)
    reference = torch.cat([label >= 1, label >= 2]).float()
    return logits[1:] + reference, reference


CASES = {
    "softmax logits": lambda seed: (Release(volume(seed)[0]), volume(seed)[1]),
    "softmax probabilities": lambda seed: (Release(volume(seed)[0].softmax(0), "probabilities"), volume(seed)[1]),
    "softmax mask": lambda seed: (Release(volume(seed)[0].argmax(0, True), "mask", n_classes=3), volume(seed)[1]),
    "sigmoid logits": lambda seed: (Release(multilabel(seed)[0], activation="sigmoid"), multilabel(seed)[1]),
    "sigmoid probabilities": lambda seed: (
        Release(multilabel(seed)[0].sigmoid(), "probabilities", "sigmoid"),
        multilabel(seed)[1],
    ),
    "sigmoid mask": lambda seed: (
        Release((multilabel(seed)[0] > 0).float(), "mask", "sigmoid"),
        multilabel(seed)[1],
    ),
}


def test_cross_entropy_is_torchs() -> None:
    logits, label = volume()
    expected = -torch.nn.functional.cross_entropy(logits[None].double(), label).item()
    assert segmentation_signals(Release(logits), label)["log_likelihood"] == pytest.approx(expected, abs=1e-6)


def test_binary_cross_entropy_is_torchs() -> None:
    logits, reference = multilabel()
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), reference.double()).item()
    found = segmentation_signals(Release(logits, activation="sigmoid"), reference)["log_likelihood"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_dice_is_monais() -> None:
    """MONAI's metric leaves out classes that the reference lacks; all are present here."""
    logits, label = volume()
    one_hot = torch.nn.functional.one_hot(label[0], 3).movedim(-1, 0)[None]
    predicted = torch.nn.functional.one_hot(logits.argmax(0), 3).movedim(-1, 0)[None]
    expected = DiceMetric(include_background=False, reduction="none")(predicted, one_hot)[0]
    found = segmentation_signals(Release(logits), label)
    assert found["dice_class_1"] == pytest.approx(expected[0].item(), abs=1e-6)
    assert found["dice_class_2"] == pytest.approx(expected[1].item(), abs=1e-6)
    assert found["dice"] == pytest.approx(expected.mean().item(), abs=1e-6)


def test_soft_dice_is_one_minus_monais_loss() -> None:
    logits, label = volume()
    loss = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0)
    expected = 1 - loss(logits[None], label[None]).item()
    assert segmentation_signals(Release(logits), label)["soft_dice"] == pytest.approx(expected, abs=1e-5)


def test_log_odds_do_not_saturate() -> None:
    """With two classes the log-odds are the difference of the logits, however sure the network is."""
    for margin in (1.0, 40.0, 500.0):
        logits = torch.tensor([0.0, margin]).reshape(2, 1, 1).expand(2, 4, 4)
        found = segmentation_signals(Release(logits.clone()), torch.ones(1, 4, 4))["log_odds"]
        assert found == pytest.approx(margin, rel=1e-6)


def test_log_odds_of_probabilities_are_clipped() -> None:
    certain = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 3, 3).clone()
    found = segmentation_signals(Release(certain, "probabilities"), torch.ones(1, 3, 3))["log_odds"]
    assert found == pytest.approx(-math.log(1e-12), rel=1e-3)


def test_uniform_prediction() -> None:
    """Four equal classes: entropy ln 4, maximum probability 1/4, margin 0, log-odds -ln 3."""
    found = segmentation_signals(Release(torch.zeros(4, 5, 6)), torch.zeros(1, 5, 6))
    assert found["negative_entropy"] == pytest.approx(-math.log(4), abs=1e-6)
    assert found["maximum_probability"] == pytest.approx(0.25)
    assert found["margin"] == pytest.approx(0, abs=1e-7)
    assert found["log_odds"] == pytest.approx(-math.log(3))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_runners_up_are_those_of_topk(classes: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(classes, 9, 10, 11, generator=torch.Generator().manual_seed(4))
    logits[0] += 1
    top = logits.softmax(0).flatten(1).double().topk(min(3, classes), 0).values
    predicted = (logits.argmax(0) > 0).flatten()
    release = Release(logits if kind == "logits" else logits.softmax(0), kind)  # type: ignore[arg-type]
    monkeypatch.setattr(segmentation, "_CHUNK", {"cpu": 700})  # in slabs
    found = TopProbabilities()(release, None)
    names = ("second_probability", "third_probability")[: classes - 1]
    assert set(found) == {name + suffix for name in names for suffix in ("", "_predicted")}
    for k, name in enumerate(names, start=1):
        assert found[name] == pytest.approx(top[k].mean().item(), rel=1e-5)
        assert found[f"{name}_predicted"] == pytest.approx(top[k, predicted].mean().item(), rel=1e-5)
        assert signals.access_of(name) == "probabilities"
    fit = segmentation_signals(release, None)
    assert found["second_probability"] == pytest.approx(fit["maximum_probability"] - fit["margin"], abs=1e-5)


def test_runners_up_of_sigmoid_and_of_nothing_predicted() -> None:
    """A channel's runner-up is its less likely state; a mask has none."""
    values = torch.tensor([0.9, 0.2]).reshape(2, 1, 1).expand(2, 4, 4).clone()
    found = TopProbabilities()(Release(values, "probabilities", "sigmoid"), None)
    assert found == pytest.approx({"second_probability": 0.15, "second_probability_predicted": 0.15})
    nothing = TopProbabilities()(Release(values / 2, "probabilities", "sigmoid"), None)
    assert nothing["second_probability_predicted"] == nothing["second_probability"] == pytest.approx(0.275)
    with pytest.raises(InputError, match="must be logits or probabilities for TopProbabilities, got a mask"):
        TopProbabilities()(Release(torch.zeros(1, 4, 4), "mask", n_classes=2), None)


def test_boundary_distance_is_the_chessboard_transform() -> None:
    """The distance to the nearest voxel of another label is that of scipy's transform, label by label."""
    _, label = volume(3, shape=(13, 9, 12))
    expected = np.zeros(label.shape[1:], dtype=np.int64)
    for value in label.unique():
        inside = (label[0] == value).numpy()
        expected += np.where(inside, distance_transform_cdt(inside, "chessboard"), 0)
    expected[expected > 3] = 0
    assert np.array_equal(boundary_distance(label).numpy(), expected)


@pytest.mark.parametrize("name", CASES)
def test_slabs_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release, label = CASES[name](1)
    whole = segmentation_signals(release, label)
    monkeypatch.setattr(segmentation, "_CHUNK", {"cpu": 700})  # a fraction of a plane at a time
    assert segmentation_signals(release, label) == pytest.approx(whole, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_signals_agree_with_an_obvious_twin(name: str) -> None:
    """Each region's mean, computed from the whole maps with plain numpy."""
    release, label = CASES[name](2)
    found = segmentation_signals(release, label)
    if release.kind == "mask":
        assert set(found) == {s for s in found if s.startswith(("dice", "volume_ratio"))}
        return
    odds = signals.log_odds_map(release, label).numpy()
    likelihood = signals.log_likelihood_map(release, label).double().numpy()
    softmax = release.activation == "softmax"
    threshold = 0 if release.kind == "logits" else 0.5
    predicted = (release.values.argmax(0) > 0 if softmax else (release.values > threshold).any(0)).numpy()
    reference = (label > 0).any(0).numpy()
    shells = boundary_distance(label.to(torch.uint8)).numpy()
    regions = {
        "": np.ones_like(predicted),
        "_foreground": predicted | reference,
        "_boundary": shells > 0,
        **{f"_shell_{k}": shells == k for k in (1, 2, 3)},
    }
    for suffix, region in regions.items():
        assert found[f"log_odds{suffix}"] == pytest.approx(odds[region].mean(), rel=1e-5)
        assert found[f"log_likelihood{suffix}"] == pytest.approx(likelihood[region].mean(), rel=1e-5)
    entropy = signals.entropy_map(release).double().numpy()
    assert found["negative_entropy_predicted"] == pytest.approx(-entropy[predicted].mean(), rel=1e-5)
    volumes = sorted([predicted.sum(), reference.sum()]) if softmax else None
    if volumes:
        assert found["volume_ratio"] == pytest.approx(volumes[0] / volumes[1])


class TestContract:
    """What holds for every signal."""

    @pytest.mark.parametrize("name", CASES)
    def test_finite_named_and_declared(self, name: str) -> None:
        release, label = CASES[name](0)
        for signal, value in segmentation_signals(release, label).items():
            assert math.isfinite(value), signal
            assert signals.access_of(signal)

    @pytest.mark.parametrize("name", CASES)
    def test_a_better_fit_is_higher(self, name: str) -> None:
        """The prediction is pulled towards the reference; no signal that uses the reference may fall."""
        release, label = CASES[name](0)
        softmax = release.activation == "softmax"
        one_hot = torch.nn.functional.one_hot(label[0].long(), 3).movedim(-1, 0).float() if softmax else label.float()
        if release.kind == "logits":
            better = release.values + 6 * (one_hot - 0.5)
        elif release.kind == "probabilities":
            better = 0.2 * release.values + 0.8 * one_hot
        else:
            better = label.clone()
        perfect = segmentation_signals(Release(better, release.kind, release.activation, release.n_classes), label)
        for signal, value in segmentation_signals(release, label).items():
            assert perfect[signal] >= value - 1e-9, signal

    @pytest.mark.parametrize("name", CASES)
    def test_without_a_reference_only_what_needs_none(self, name: str) -> None:
        release, label = CASES[name](0)
        blind, full = segmentation_signals(release, None), segmentation_signals(release, label)
        assert {signals.access_of(signal) for signal in blind} <= {"probabilities"}
        for signal, value in blind.items():
            assert full[signal] == pytest.approx(value)

    @pytest.mark.parametrize("name", CASES)
    def test_2d_is_3d_of_depth_one(self, name: str) -> None:
        release, label = CASES[name](0)
        flat = Release(release.values[:, :, :, 4], release.kind, release.activation, release.n_classes)
        deep = Release(release.values[:, :, :, 4:5], release.kind, release.activation, release.n_classes)
        assert segmentation_signals(flat, label[..., 4]) == pytest.approx(segmentation_signals(deep, label[..., 4:5]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_precision(self, dtype: torch.dtype) -> None:
        logits, label = volume()
        single = segmentation_signals(Release(logits.to(dtype).float()), label)
        other = segmentation_signals(Release(logits.to(dtype)), label)
        for signal, value in single.items():
            assert other[signal] == pytest.approx(value, rel=2e-2, abs=2e-2), signal

    def test_inputs_are_unchanged(self) -> None:
        logits, label = volume()
        before = logits.clone(), label.clone()
        segmentation_signals(Release(logits), label)
        assert torch.equal(logits, before[0])
        assert torch.equal(label, before[1])


class TestEmpty:
    """Empty references and predictions are scored, and never as a perfect fit."""

    def test_empty_reference(self) -> None:
        logits, label = volume()
        found = segmentation_signals(Release(logits), torch.zeros_like(label))
        assert found["dice"] == 0
        assert found["volume_ratio"] == 0
        # There is no boundary; what was wrongly predicted stands for it, which is no good fit.
        assert found["log_odds_boundary"] == found["log_odds_shell_2"] == found["log_odds_foreground"]
        assert found["log_odds_boundary"] < found["log_odds"]

    def test_empty_prediction(self) -> None:
        _, label = volume()
        logits = torch.zeros(3, *label.shape[1:])
        logits[0] = 5
        found = segmentation_signals(Release(logits), label)
        assert found["dice"] == 0
        assert found["margin_predicted"] == found["margin"]

    def test_both_empty(self) -> None:
        logits = torch.zeros(3, 4, 4, 4)
        logits[0] = 5
        found = segmentation_signals(Release(logits), torch.zeros(1, 4, 4, 4))
        assert found["dice"] == 1
        assert found["volume_ratio"] == 1
        assert found["log_odds_foreground"] == found["log_odds"] == pytest.approx(5 - math.log(2))

    def test_class_absent_from_both_counts_as_right(self) -> None:
        logits, label = volume(classes=2)
        logits = torch.cat([logits, torch.full_like(logits[:1], -9)])
        assert segmentation_signals(Release(logits), label)["dice_class_2"] == 1


@pytest.mark.parametrize(
    ("release", "label", "message"),
    [
        (lambda x: Release(x), lambda y: y + 1, "label must be integers in"),
        (lambda x: Release(x), lambda y: y[:, 1:], "label must be of shape"),
        (lambda x: Release(x), lambda y: y.expand(3, -1, -1, -1), "label must be of shape"),
        (lambda x: Release(x[:1]), lambda y: y, "activation: sigmoid"),
        (lambda x: Release(x * torch.nan), lambda y: y, "must be finite"),
        (lambda x: Release(x, "scores"), lambda y: y, "got 'scores'"),  # type: ignore[arg-type]
        (lambda x: Release(x, activation="relu"), lambda y: y, "got 'relu'"),  # type: ignore[arg-type]
        (lambda x: Release(x.argmax(0, True), "mask"), lambda y: y, "n_classes must be given"),
        (lambda x: Release(x[0, 0]), lambda y: y, "of shape"),
    ],
)
def test_refusals(release, label, message: str) -> None:  # type: ignore[no-untyped-def]
    logits, reference = volume()
    with pytest.raises(InputError, match=message):
        segmentation_signals(release(logits), label(reference))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CASES)))
def test_flips_change_nothing(seed: int, name: str) -> None:
    release, label = CASES[name](seed)
    flipped = Release(release.values.flip(2), release.kind, release.activation, release.n_classes)
    assert segmentation_signals(flipped, label.flip(2)) == pytest.approx(segmentation_signals(release, label), rel=1e-5)
