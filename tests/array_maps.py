# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Recorded maps that are held in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class ArrayMaps:
    """Maps in memory: ``values`` (1 + M, N, C, *spatial), the target first; ``labels`` (N, 1 or C, *spatial)."""

    values: NDArray[np.float32]
    labels: NDArray[np.uint8]
    activation: str = "softmax"
    release: str = "logits"

    def target(self, case: int) -> NDArray[np.float32]:
        return self.values[0, case]

    def shadow(self, shadow: int, case: int) -> NDArray[np.float32]:
        return self.values[1 + shadow, case]

    def label(self, case: int) -> NDArray[np.uint8]:
        return self.labels[case]
