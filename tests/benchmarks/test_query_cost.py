# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What recording signals costs beside the inference itself; prints, decides nothing.

A UNet of the Model Zoo's spleen size on a 256 x 256 x 128 volume with 3 classes: time of the sliding window alone and
of the signals after it, and the peak memory of a process that does the one, or both.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import environment

SCRIPT = """
import json, resource, sys, time
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai_mia.signals import Release, segmentation_signals
signals, device = sys.argv[1] == "both", sys.argv[2]
torch.manual_seed(0)
torch.set_num_threads(2)
net = UNet(3, 1, 3, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="BATCH")
net = net.eval().to(device)
image = torch.randn(1, 1, 256, 256, 128, device=device)
label = torch.randint(0, 3, (1, 32, 32, 16), device=device)
for dim in (1, 2, 3):
    label = label.repeat_interleave(8, dim)
inferer = SlidingWindowInferer((96, 96, 96), sw_batch_size=4, overlap=0.5)
def sync():
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
def once():
    start = sync()
    with torch.inference_mode():
        logits = inferer(image, net)
        middle = sync()
        if signals:
            segmentation_signals(Release(logits[0]), label)
    return middle - start, sync() - middle
if device == "cuda":
    once()
inference, extra = once()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if device == "cuda":
    peak = torch.cuda.max_memory_allocated() / 2**20
print(json.dumps({"inference_s": inference, "signals_s": extra, "peak_mib": peak}))
"""


def measure(what: str, device: str) -> dict[str, float]:
    command = [sys.executable, "-c", SCRIPT, what, device]
    env = {**environment(), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.benchmark
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_cost_of_signals(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    alone, both = measure("alone", device), measure("both", device)
    share = both["signals_s"] / both["inference_s"]
    with capsys.disabled():
        print(
            f"\n{device}: inference {both['inference_s']:.1f} s, signals {both['signals_s']:.2f} s ({share:.1%}); peak "
            f"{alone['peak_mib']:.0f} MiB alone, {both['peak_mib']:.0f} MiB with signals "
            f"({both['peak_mib'] - alone['peak_mib']:+.0f} MiB; one float32 map of the volume is 32 MiB)"
        )
    assert both["signals_s"] > 0
