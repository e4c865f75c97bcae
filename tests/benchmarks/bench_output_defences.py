# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What output defences add to inference; prints, decides nothing. Run it as a script.

The hippocampus bundle's UNet and inferer (windows of 48 x 64 x 48, overlap 0.25) on a 256 x 256 x 128 volume, 3
classes. One inference, then for each defence the least of several calls on its logits, in one process. A smooth image
gives the untrained network boundaries that are neither everywhere nor nowhere.
"""

from __future__ import annotations

import sys
import time

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch.nn import functional as F  # noqa: N812

from monai_mia.defences import output as defences

DEFENCES = {
    "argmax": defences.HardMask(),
    "noise": defences.GaussianNoise(0.1, "benchmark"),
    "noise on logits": defences.GaussianNoise(0.1, "benchmark", "logits"),
    "rounding": defences.RoundProbabilities(1),
    "top 2": defences.TopClasses(2),
    "temperature": defences.Temperature(2.0),
    "clipping": defences.ClipConfidence(0.9),
    "smoothing": defences.SmoothBoundary(),
    "softmax alone": defences.OutputDefence(),
}


def seconds(call, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(rounds: int = 3) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = UNet(3, 1, 3, channels=(16, 32, 64), strides=(2, 2), norm="INSTANCE").eval().to(device)
    inferer = SlidingWindowInferer((48, 64, 48), sw_batch_size=4, overlap=0.25)
    image = F.interpolate(torch.randn(1, 1, 16, 16, 8), size=(256, 256, 128), mode="trilinear").to(device)
    with torch.inference_mode():
        logits = inferer(image, net)[0]
        inference = min(
            seconds(lambda: inferer(image, net), device) for _ in range(rounds if device.type == "cuda" else 1)
        )
        print(f"{device}, {torch.get_num_threads()} threads: inference {inference:.2f} s")
        for name, defence in DEFENCES.items():
            found = min(seconds(lambda d=defence: d(logits, image[0]), device) for _ in range(rounds))
            print(f"{name}: {found:.3f} s, {found / inference:.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
