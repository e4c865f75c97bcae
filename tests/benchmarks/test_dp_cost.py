# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a step of patient-level DP-SGD costs beside a plain one over the same patches; prints, decides nothing.

Eight patients of two patches of 32^3 each, 3D UNets with group norms. Time is the least of several steps, alternating;
memory the growth of the peak of a process that takes one kind of step only. Per-sample gradients are Opacus' hooks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import environment

SCRIPT = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from monai.data import Dataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai_mia.dp import PatientDPSGD, PatientLoader
kinds, units, device = sys.argv[1].split(","), int(sys.argv[2]), torch.device(sys.argv[3])
torch.set_num_threads(1)
def network():
    torch.manual_seed(0)
    norm = ("GROUP", {"num_groups": 2})
    return UNet(3, 1, 2, channels=(16, 32, 64), strides=(2, 2), num_res_units=units, norm=norm).to(device)
data = []
for patient in range(8):
    for patch in range(2):
        image = torch.randn(1, 32, 32, 32)
        data.append({"image": image, "label": (image > 1).float(), "patient_id": str(patient)})
def sync():
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
def trainer(loader, update=None):
    net = network()
    made = SupervisedTrainer(device, 1, loader, net, torch.optim.SGD(net.parameters(), 0.1),
        DiceCELoss(to_onehot_y=True, softmax=True), inferer=SimpleInferer(), iteration_update=update)
    made.state.max_epochs, made.state.epoch_length, made.state.iteration = 1, 10**6, 1
    return made
batch = torch.stack([d["image"] for d in data]), torch.stack([d["label"] for d in data])
patients = [data[2 * n: 2 * n + 2] for n in range(8)]
def plain():
    made = trainer(DataLoader(Dataset(data), batch_size=16))
    x, y = (part.to(device) for part in batch)
    def step():
        made.network.train()
        made.optimizer.zero_grad()
        made.loss_function(made.network(x), y).backward()
        made.optimizer.step()
    return step
def private():
    update = PatientDPSGD(1.0, noise_multiplier=1.0)
    made = trainer(PatientLoader(Dataset(data), 1.0, 1), update)
    return lambda: update(made, patients)
def hooks():
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    net = GradSampleModule(network())
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    optimizer = DPOptimizer(sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=16)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    x, y = (part.to(device) for part in batch)
    def step():
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
    return step
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
steps = {kind: {"plain": plain, "private": private, "hooks": hooks}[kind]() for kind in kinds}
times = {kind: [] for kind in kinds}
for round in range(int(sys.argv[4])):
    for kind, step in steps.items():
        start = sync()
        step()
        times[kind].append(sync() - start)
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
if device.type == "cuda":
    peak = torch.cuda.max_memory_allocated() / 2**20
print(json.dumps({**{kind: min(values) for kind, values in times.items()}, "peak_mib": peak}))
"""


def measure(kinds: str, units: int, device: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-c", SCRIPT, kinds, str(units), device, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.benchmark
@pytest.mark.parametrize("units", [0, 2])
def test_a_private_step(units: int) -> None:
    """Ratio of times, and memory of each kind of step alone."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = measure("plain,private,hooks", units, device, 12)
    memory = {kind: measure(kind, units, device, 2)["peak_mib"] for kind in ("plain", "private", "hooks")}
    print(
        f"\nres{units} on {device}: plain {found['plain']:.3f} s, patient-level {found['private']:.3f} s "
        f"({found['private'] / found['plain']:.2f}x), Opacus hooks {found['hooks']:.3f} s "
        f"({found['hooks'] / found['plain']:.2f}x); peak memory beyond the start, MiB: {memory}"
    )
