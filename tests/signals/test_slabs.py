# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Predictions in slabs: the same as whole, whatever the windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_study
from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.networks.nets import UNet
from torch import nn

from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.signals.quality import Utility
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import SegmentationSums, TopProbabilities, segmentation_signals
from monai_mia.signals.slabs import SlabInferer, SlabPrediction

INFERERS: dict[str, tuple[tuple[int, ...], Inferer]] = {
    "overlap": ((40, 20, 18), SlidingWindowInferer((16, 16, 16), 4, 0.5)),
    "odd": ((37, 21, 19), SlidingWindowInferer((16, 8, 16), 3, 0.3)),
    "gaussian": ((40, 20, 18), SlidingWindowInferer((16, 16, 16), 2, 0.5, "gaussian")),
    "gaussian, one number": ((40, 20, 18), SlidingWindowInferer(16, 2, mode="gaussian")),
    "smaller than a window": ((9, 20, 6), SlidingWindowInferer((16, 16, 16), 4, 0.25)),
    "one window deep": ((16, 40, 16), SlidingWindowInferer((16, 16, 16), 1, 0.75)),
    "coordinates": ((24, 16, 16), SlidingWindowInferer((16, 16, 16), 2, with_coord=True)),
    "adaptive": ((40, 20, 18), SlidingWindowInfererAdapt((16, 16, 16), 4, 0.5)),
    "slices": ((20, 16, 24), SliceInferer(0, (16, 16), 4, 0.25)),
    "slices of another axis": ((20, 16, 24), SliceInferer(2, (16, 16), 4, 0.25)),
    "two dimensions": ((40, 24), SlidingWindowInferer((16, 16), 4, 0.5)),
}


class Place(nn.Module):
    """A network that is told where it looks."""

    def forward(self, x: torch.Tensor, places: Any = None) -> torch.Tensor:
        where = torch.tensor([[float(s.start) for s in place[2:]] for place in places]).sum(1)
        return torch.cat([x, x * 2 + where[:, None, None, None, None] / 10], 1)


def network(name: str) -> nn.Module:
    if name == "coordinates":
        return Place()
    torch.manual_seed(0)
    dims = 2 if "slices" in name or "two" in name else 3
    return UNet(dims, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE").eval()


@pytest.mark.parametrize("name", INFERERS)
def test_slabs_are_the_stitched_prediction(name: str) -> None:
    spatial, inferer = INFERERS[name]
    net, image = network(name), torch.randn(1, 1, *spatial)
    slabs: list[tuple[torch.Tensor, int]] = []
    with torch.no_grad():
        whole = inferer(image, net)[0]
        (prediction,) = SlabInferer(inferer, 3, always=True)(image, net)
        assert isinstance(prediction, SlabPrediction)
        prediction.stream(lambda slab, start: slabs.append((slab.clone(), start)))
    assert [start for _, start in slabs] == np.cumsum([0, *(slab.shape[1] for slab, _ in slabs[:-1])]).tolist()
    assert torch.allclose(torch.cat([slab for slab, _ in slabs], dim=1), whole, atol=1e-5)
    assert max(slab.shape[1] for slab, _ in slabs) <= 20  # a window's depth


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("thickness", [1, 2, 7, 30])
def test_signals_of_slabs_are_those_of_the_whole(activation: str, thickness: int) -> None:
    values = torch.randn(3, 30, 12, 10) * 3
    label = torch.randint(0, 3, (1, 10, 4, 5)).repeat_interleave(3, 1).repeat_interleave(3, 2).repeat_interleave(2, 3)
    if activation == "sigmoid":
        label = (label == torch.arange(3)[:, None, None, None]).int()
    for sums, whole in (
        (SegmentationSums(), segmentation_signals(Release(values, "logits", activation), label)),
        (TopProbabilities().in_slabs(), TopProbabilities()(Release(values, "logits", activation), None)),
    ):
        for start in range(0, 30, thickness):
            sums.add(Release(values[:, start : start + thickness], "logits", activation), label, start)
        assert sums.result() == pytest.approx(whole, rel=1e-5, abs=1e-7)


def test_small_or_other_predictions_stay_whole() -> None:
    net, image = network("overlap"), torch.randn(1, 1, 16, 16, 16)
    windows = SlidingWindowInferer((16, 16, 16))
    assert isinstance(SlabInferer(windows, 3)(image, net), torch.Tensor)
    assert isinstance(SlabInferer(SimpleInferer(), 3, always=True)(image, net), torch.Tensor)
    large = torch.empty(1, 1, 512, 512, 400, device="meta")
    assert isinstance(SlabInferer(windows, 14)(large, net)[0], SlabPrediction)


def test_an_inferer_that_does_more_than_to_stitch_stays_whole() -> None:
    class Flipped(SlidingWindowInferer):
        def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs.flip(2), network, *args, **kwargs).flip(2)

    class Named(SlidingWindowInferer):
        pass

    image, net = torch.rand(1, 1, 12, 12, 12), torch.nn.Conv3d(1, 3, 1)
    assert isinstance(SlabInferer(Flipped((8, 8, 8)), 3, always=True)(image, net), torch.Tensor)
    assert isinstance(SlabInferer(Named((8, 8, 8)), 3, always=True)(image, net)[0], SlabPrediction)


def test_another_resolution_is_refused() -> None:
    inferer = SlabInferer(SlidingWindowInferer((16, 16, 16)), 3, always=True)
    (prediction,) = inferer(torch.randn(1, 1, 32, 16, 16), nn.AvgPool3d(2))
    with pytest.raises(InputError, match=r"resolution of its input .* slabs: false"):
        prediction.stream(lambda slab, start: None)


def test_a_study_in_slabs_has_the_same_table(cohort: list[dict[str, Any]], tmp_path: Path) -> None:
    windows = {"inferer#roi_size": [12, 8, 8], "inferer#overlap": 0.5}
    tables = []
    for slabs in (False, True):
        study = small_study(
            cohort,
            tmp_path / str(slabs),
            slabs=slabs,
            signals=[TopProbabilities()],
            release="probabilities",
            models_dir=str(tmp_path / "models"),
            inference_overrides={"network_def#channels": [4, 8, 8], **windows},
        )
        study.record()
        tables.append(SignalTable.read(tmp_path / str(slabs) / "private/signals"))
    whole, parts = tables
    assert whole.signals == parts.signals
    assert np.allclose(whole.values, parts.values, rtol=1e-5, atol=1e-6)


def test_what_needs_the_whole_prediction_is_refused_before_training(cohort: Any, tmp_path: Path) -> None:
    for options, named in (({"maps": True}, "maps"), ({"signals": [Utility()]}, "Utility")):
        with pytest.raises(InputError, match=f"slabs must be null or false with {named}"):
            small_study(cohort, tmp_path / "out", slabs=True, **options).record()
    assert not (tmp_path / "out").exists()
