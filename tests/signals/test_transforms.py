# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Maps as MONAI transforms."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch

from monai_mia import signals
from monai_mia.errors import InputError
from monai_mia.signals import transforms
from monai_mia.signals.release import Release

LOGITS = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
LABEL = torch.randint(0, 3, (1, 5, 6, 7), generator=torch.Generator().manual_seed(1))

MAPS = {
    "LossMap": lambda: -signals.log_likelihood_map(Release(LOGITS), LABEL),
    "LogOddsMap": lambda: signals.log_odds_map(Release(LOGITS), LABEL),
    "EntropyMap": lambda: signals.entropy_map(Release(LOGITS)),
    "MaximumProbabilityMap": lambda: signals.maximum_probability_map(Release(LOGITS)),
    "MarginMap": lambda: signals.margin_map(Release(LOGITS)),
}


@pytest.mark.parametrize("name", MAPS)
def test_array_and_dictionary_form_agree(name: str) -> None:
    expected = MAPS[name]()[None]
    assert torch.equal(getattr(transforms, name)()(LOGITS, LABEL), expected)
    for alias in ("d", "D", "Dict"):
        result = getattr(transforms, name + alias)("pred")({"pred": LOGITS, "label": LABEL})
        (added,) = set(result) - {"pred", "label"}
        assert added.startswith("pred_")
        assert torch.equal(result[added], expected)


@pytest.mark.parametrize("name", MAPS)
def test_meta_data_ride_along(name: str) -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    result = getattr(transforms, name)()(MetaTensor(LOGITS, affine=affine), MetaTensor(LABEL))
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)


def test_every_map_is_tested() -> None:
    names = {name for name in transforms.__all__ if name.endswith("Map")} - {"VoxelMap"}
    assert names == set(MAPS)


def test_from_a_config_in_postprocessing() -> None:
    """As a bundle would name it, on decollated items, with sigmoid."""
    config = {"map": {"_target_": "monai_mia.signals.transforms.LossMapd", "keys": "pred", "activation": "sigmoid"}}
    transform = ConfigParser(config).get_parsed_content("map")
    batch = {"pred": LOGITS[None, :1], "label": (LABEL[None] > 0).float()}
    item = transform(decollate_batch(batch)[0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS[:1], (LABEL > 0).float(), reduction="none")
    assert torch.allclose(item["pred_loss"], expected)


def test_missing_label_is_named() -> None:
    with pytest.raises(InputError, match="label must be given for LossMap"):
        transforms.LossMapd("pred")({"pred": LOGITS})


def test_missing_key() -> None:
    assert transforms.MarginMapd("other", allow_missing_keys=True)({"pred": LOGITS}).keys() == {"pred"}
    with pytest.raises(KeyError, match="other"):
        transforms.MarginMapd("other")({"pred": LOGITS})
