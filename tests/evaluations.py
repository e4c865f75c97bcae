# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A small evaluation: cases of eight voxels an edge, a small network, MONAI's evaluator."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.utils import set_determinism


def items(n: int = 12) -> list[dict[str, Any]]:
    """Cases of eight voxels an edge, two a patient."""
    rng = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(1, 8, 8, 8, generator=rng),
            "label": torch.randint(0, 2, (1, 8, 8, 8), generator=rng).float(),
            "case_id": f"case_{k}",
            "patient_id": f"patient_{k // 2}",
            "member": (k // 2) % 2,
        }
        for k in range(n)
    ]


def network(seed: int = 0) -> UNet:
    set_determinism(seed)
    return UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="INSTANCE")


def evaluate(handlers: list[Any], net: UNet | None = None, batch_size: int = 1, **options: Any) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items()), batch_size=batch_size),
        network=net or network(),
        inferer=SlidingWindowInferer((8, 8, 8)),
        val_handlers=handlers,
        **options,
    )
    evaluator.run()
    return evaluator
