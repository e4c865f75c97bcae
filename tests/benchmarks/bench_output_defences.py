# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What output defences add to inference; prints, decides nothing. Run it as a script.

Two networks with sliding windows on a 256 x 256 x 128 volume, 3 classes: the hippocampus bundle's small UNet, and one
of five levels with residual units, as bundles for CT organs have. One inference each; then for each defence the least
of several calls on the small one's logits, in one process. What it adds is its time less that of the softmax, which an
undefended bundle takes as well. The untrained network sees boundaries everywhere, the worst case for smoothing, whose
time depends on them; a second row gives it the boundaries of two organs that fill a twentieth of the volume. On a CPU
the seconds are those of the process, which other processes disturb little.
"""

from __future__ import annotations

import sys
import time

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch.nn import functional as F  # noqa: N812

from monai_mia.defences import output as defences

NETWORKS = {
    "small": ({"channels": (16, 32, 64), "strides": (2, 2)}, (48, 64, 48)),
    "five levels": ({"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2}, (96, 96, 96)),
}

DEFENCES = {
    "softmax": defences.OutputDefence(),
    "argmax": defences.HardMask(),
    "noise": defences.GaussianNoise(0.1, "benchmark"),
    "noise on logits": defences.GaussianNoise(0.1, "benchmark", "logits"),
    "rounding": defences.RoundProbabilities(1),
    "top 2": defences.TopClasses(2),
    "temperature": defences.Temperature(2.0),
    "clipping": defences.ClipConfidence(0.9),
    "smoothing": defences.SmoothBoundary(),
}


def seconds(call, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def organs(logits: torch.Tensor) -> torch.Tensor:
    """Logits of the same shape, whose two foreground classes are an ellipsoid each."""
    axes = [torch.linspace(-1, 1, n, device=logits.device) for n in logits.shape[1:]]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    inside = [4 * (1 - ((x - c) / 0.35) ** 2 - (y / 0.35) ** 2 - (z / 0.4) ** 2) for c in (-0.4, 0.4)]
    return torch.stack([torch.zeros_like(x), *inside])


def main(rounds: int = 3) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image = F.interpolate(torch.randn(1, 1, 16, 16, 8), size=(256, 256, 128), mode="trilinear").to(device)
    inference = {}
    with torch.inference_mode():
        for name, (options, window) in NETWORKS.items():
            net = UNet(3, 1, 3, norm="INSTANCE", **options).eval().to(device)
            inferer = SlidingWindowInferer(window, sw_batch_size=4, overlap=0.25)
            if device.type == "cuda":
                inferer(image, net)  # the first call chooses its kernels
            inference[name] = seconds(lambda run=inferer, net=net: run(image, net), device)
            print(f"{device}, {torch.get_num_threads()} threads, {name}: inference {inference[name]:.2f} s")
            if name == "small":
                logits = inferer(image, net)[0]
        softmax = 0.0
        rows = [(name, defence, logits) for name, defence in DEFENCES.items()]
        rows.append(("smoothing, two organs", defences.SmoothBoundary(), organs(logits)))
        for name, defence, given in rows:
            found = min(seconds(lambda d=defence, g=given: d(g, image[0]), device) for _ in range(rounds))
            softmax = found if name == "softmax" else softmax
            shares = ", ".join(f"{(found - softmax) / whole:.1%} of {net}" for net, whole in inference.items())
            print(f"{name}: {found:.3f} s; adds {shares}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
