# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Audits of a differential-privacy claim: right code passes, planted mistakes are found.

The mistakes run in Opacus itself, as a user would have made them. Section 1.2 of the notes on DP measured their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from conftest import KEY
from monai.data.utils import list_data_collate
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import UNet
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import Tensor, nn

from monai_mia.errors import InputError
from monai_mia.statistics.epsilon import EpsilonBound, canary_epsilon, epsilon_lower_bound, gdp_epsilon
from monai_mia.studies.dp_audit import ClaimAudit, SensitivityAudit, many_run_audit, one_run_audit, sensitivity_audit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

#: A patient: patches (K, 1, *spatial) and their references, of the same shape.
Patient = tuple[Tensor, Tensor]
GradientSum = Callable[[Sequence[Patient]], list[Tensor]]

CLIP = 1e-4  # so small that it binds
SOFTMAX = {"softmax": True, "to_onehot_y": True}


def loop(network: nn.Module, loss: nn.Module, clip: float = CLIP) -> GradientSum:
    """The recommended form: one gradient for a patient, over all patches, clipped once."""
    parameters = list(network.parameters())

    def gradient_sum(patients: Sequence[Patient]) -> list[Tensor]:
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for image, label in patients:
            gradients = torch.autograd.grad(loss(network(image), label), parameters)
            norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
            for part, gradient in zip(total, gradients, strict=True):
                part += gradient * min(1.0, float(clip / norm))
        return total

    return gradient_sum


def opacus(network: nn.Module, loss: nn.Module, clip: float = CLIP) -> GradientSum:
    """Opacus on the flattened patches, as ``list_data_collate`` and ``make_private`` do it: each patch is clipped."""
    hooked = GradSampleModule(network)
    sgd = torch.optim.SGD(network.parameters(), 1.0)
    optimizer = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1)

    def gradient_sum(patients: Sequence[Patient]) -> list[Tensor]:
        patches = [[{"x": x, "y": y} for x, y in zip(*patient, strict=True)] for patient in patients]
        batch = list_data_collate(patches)
        optimizer.zero_grad()
        loss(hooked(batch["x"]), batch["y"]).backward()
        optimizer.clip_and_accumulate()
        total = [parameter.summed_grad.clone() for parameter in network.parameters()]
        optimizer.zero_grad()
        return total

    return gradient_sum


def unet(dimensions: int = 2, norm: object = ("GROUP", {"num_groups": 2})) -> UNet:
    torch.manual_seed(0)
    return UNet(dimensions, 1, 2, channels=(8, 16), strides=(2,), norm=norm).double()


def patient(seed: int, patches: int = 1, dimensions: int = 2) -> Patient:
    """Patches of one region: alike, as crops of one volume are."""
    rng = torch.Generator().manual_seed(seed)
    shape = (1, *(16,) * dimensions)
    image = torch.randn(shape, generator=rng, dtype=torch.float64)
    label = (torch.rand(shape, generator=rng) < 0.1).double()
    noise = torch.randn((patches, *shape), generator=rng, dtype=torch.float64)
    return image + 0.1 * noise, label.expand(patches, *shape).clone()


# Sensitivity


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("loss", [DiceLoss(**SOFTMAX), DiceLoss(batch=True, **SOFTMAX), DiceCELoss(**SOFTMAX)])
def test_a_loop_over_patients_passes(dimensions, loss):
    """Exactly the clip norm, even with a batch Dice, which then couples one patient's patches only (section 2.2)."""
    patients = [patient(seed, patches, dimensions) for seed, patches in enumerate((1, 3, 2))]
    patients[1] = (50 * patients[1][0], patients[1][1])
    audit = sensitivity_audit(loop(unet(dimensions), loss), patients, CLIP)
    assert audit.ratio == pytest.approx(1.0, abs=1e-9)
    assert not audit.flagged
    assert audit.verdict.endswith("the most of 3 patients: the clipping holds on this batch.")


def test_opacus_passes_where_a_patient_is_one_sample():
    """Opacus clips to C / (norm + 1e-6) of the norm: not more than C."""
    audit = sensitivity_audit(opacus(unet(), DiceLoss(**SOFTMAX)), [patient(seed) for seed in range(4)], CLIP)
    assert 0.99 < audit.ratio <= 1.0
    assert not audit.flagged


def test_patch_level_clipping_sold_as_patient_level_is_flagged():
    """A patient of four patches contributes 3.98 C (section 1.2): the one with most patches is named."""
    patients = [patient(seed, patches) for seed, patches in enumerate((1, 2, 1, 4))]
    names = ["one", "two", "another", "four"]
    audit = sensitivity_audit(opacus(unet(), DiceLoss(**SOFTMAX)), patients, CLIP, names)
    assert audit.flagged
    assert audit.worst == "four"
    assert audit.ratio == pytest.approx(3.98, abs=0.03)
    assert audit.changes["two"] == pytest.approx(2 * CLIP, rel=0.02)
    assert audit.verdict.startswith("patient 'four' changes the clipped sum by 3.9")
    assert audit.verdict.endswith("the accounted epsilon is void.")
    right = sensitivity_audit(loop(unet(), DiceLoss(**SOFTMAX)), patients, CLIP, names)
    assert right.ratio == pytest.approx(1.0, abs=1e-9)


def test_a_batch_coupled_dice_is_flagged():
    """Plain patients already move the others' gradients: 1.02 C in the table of section 1.2, as little as that."""
    audit = sensitivity_audit(opacus(unet(), DiceLoss(batch=True, **SOFTMAX)), [patient(s) for s in range(4)], CLIP)
    assert audit.flagged
    assert audit.ratio == pytest.approx(1.02, abs=0.015)


def test_a_batch_coupled_dice_and_a_canary_that_is_all_foreground():
    """In MONAI's UNet, such a patient turns the others' gradients; (2 B - 1) C would be the most (section 1.2)."""
    loss = {"include_background": False, **SOFTMAX}
    canary = torch.full((1, 1, 16, 16), 50.0).double(), torch.ones(1, 1, 16, 16).double()
    patients = [patient(seed) for seed in range(4)] + [canary]
    coupled = sensitivity_audit(opacus(unet(), DiceLoss(batch=True, **loss)), patients, CLIP, list("abcdX"))
    assert coupled.worst == "X"
    assert 2 < coupled.ratio < 9
    assert not sensitivity_audit(opacus(unet(), DiceLoss(**loss)), patients, CLIP).flagged


def test_batch_norm_without_parameters_is_flagged():
    """Opacus lets it train; an outlier moves all statistics: 5.2 C in section 1.2, on another network."""
    patients = [patient(seed) for seed in range(4)]
    patients[1] = (50 * patients[1][0], patients[1][1])
    norm = ("BATCH", {"affine": False})
    audit = sensitivity_audit(opacus(unet(norm=norm), DiceLoss(**SOFTMAX)), patients, CLIP)
    assert audit.flagged
    assert audit.worst == "1"
    assert audit.ratio > 2


def test_known_changes():
    """A sum of vectors: each contributes its norm; replaced by another, the norm of the difference."""
    vectors = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.tensor([6.0, 8.0])]

    def total(patients):
        return sum(patients, torch.zeros(2)), torch.zeros(3)

    audit = sensitivity_audit(total, vectors, 5.0)
    assert dict(audit.changes) == pytest.approx({"0": 5.0, "1": 1.0, "2": 10.0})
    assert (audit.worst, audit.ratio, audit.allowed, audit.flagged) == ("2", 2.0, 5.0, True)
    replaced = sensitivity_audit(total, vectors, 5.0, replacement=torch.tensor([-3.0, -4.0]))
    assert dict(replaced.changes) == pytest.approx({"0": 10.0, "1": np.hypot(3.0, 5.0), "2": 15.0})
    assert (replaced.allowed, replaced.ratio) == (10.0, 1.5)
    alone = sensitivity_audit(total, vectors[:1], 5.0)
    assert (alone.ratio, alone.flagged) == (1.0, False)


def test_a_patient_who_makes_the_sum_infinite_is_flagged():
    """One NaN voxel; clipping multiplies it by NaN (section 1.2). The others are not blamed."""
    patients = [patient(seed) for seed in range(4)]
    for broken in (2, 3):
        patients[broken][0][0, 0, 3, 3] = torch.nan
        audit = sensitivity_audit(opacus(unet(), DiceLoss(**SOFTMAX)), patients, CLIP)
        assert audit.flagged
        assert audit.ratio == np.inf
        assert {name for name, change in audit.changes.items() if change == np.inf} == {"2", str(broken)}


def test_tolerance_is_for_rounding_only():
    assert not SensitivityAudit(1.0, {"a": 1.0009}, 1e-3).flagged
    assert SensitivityAudit(1.0, {"a": 1.0011}, 1e-3).flagged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": []}, "patients must be at least 1, got none"),
        ({"max_norm": 0.0}, "max_norm must be positive, got 0"),
        ({"names": ["a", "a"]}, "names must be 2 different names, got 1 of 2"),
        ({"gradient_sum": lambda p: torch.randn(2)}, "the same for the same patients, .* Fix the seeds"),
        ({"gradient_sum": lambda p: torch.zeros(len(p))}, "one size for every batch, got 2 and 1 numbers"),
    ],
)
def test_steps_that_cannot_be_audited_are_refused(options, message):
    given = {"gradient_sum": lambda p: torch.zeros(2), "patients": [1, 2], "max_norm": 1.0, **options}
    with pytest.raises(InputError, match=message):
        sensitivity_audit(**given)


# One run


def one_hot_step(gradient: Callable[[nn.Module, nn.Module, float], GradientSum], m: int = 1000) -> Callable:
    """Test e7 of section 5.6 of the notes on DP: one noisy step, sigma = C = 1, four equal one-hot patches a canary."""

    def train(member: np.ndarray, seed: int) -> np.ndarray:
        network = nn.Linear(m, 1, bias=False).double()
        rows = torch.eye(m, dtype=torch.float64)[torch.from_numpy(member)]
        patients = [(row.expand(4, m).clone(), torch.zeros(4)) for row in rows]
        (total,) = gradient(network, _TenMeans(), 1.0)(patients)
        noise = torch.randn(total.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (total + noise).flatten().numpy()

    return train


class _TenMeans(nn.Module):
    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        return 10 * output.mean()


def test_one_run_refutes_patch_level_clipping():
    """Table of section 5.6: naive 5.01 and 9.92 (f-DP) over a claim of 4.377, the loop 1.65 and 2.27 under it."""
    claimed = gdp_epsilon(1.0, 1e-5)
    assert claimed == pytest.approx(4.377, abs=1e-3)
    naive = one_run_audit(one_hot_step(opacus), 1000, claimed, 1e-5, key=KEY)
    assert naive.flagged
    assert naive.bounds["one run"].value == pytest.approx(5.01, abs=0.3)
    assert naive.verdict.endswith("claimed is 4.38. The claim is refuted.")
    right = one_run_audit(one_hot_step(loop), 1000, claimed, 1e-5, key=KEY)
    assert not right.flagged
    assert right.bounds["one run"].value == pytest.approx(1.65, abs=0.5)
    assert right.verdict.endswith("The claim stands.")
    curve = one_run_audit(one_hot_step(opacus), 1000, claimed, 1e-5, 0.9, [(250, 250)], gaussian=True, key=KEY)
    assert curve.best == "one run, Gaussian"
    assert curve.bounds[curve.best].value == pytest.approx(9.92, abs=0.2)
    assert curve.bounds[curve.best].value < gdp_epsilon(4.0, 1e-5), "the truth: four times the clip norm"


def test_one_run_is_the_statistics_of_its_coins():
    """The canaries' scores and coins, as the statistics half sees them; the error is shared by the methods."""
    seen = {}

    def train(member, seed):
        seen["member"] = member.copy()
        seen["scores"] = np.random.default_rng(seed).normal(size=60) + 3 * member
        return seen["scores"]

    audit = one_run_audit(train, 60, 2.0, 1e-5, gaussian=True, seed=5, key=KEY)
    for name, gaussian in (("one run", False), ("one run, Gaussian", True)):
        expected = canary_epsilon(seen["scores"], seen["member"], 1e-5, 0.975, gaussian=gaussian, seed=5)
        assert audit.bounds[name] == expected
    assert 15 < seen["member"].sum() < 45
    assert audit == one_run_audit(train, 60, 2.0, 1e-5, gaussian=True, seed=5, key=KEY)
    coins = seen["member"]
    one_run_audit(train, 60, 2.0, 1e-5, seed=6, key=KEY)
    assert (seen["member"] != coins).any()


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_true_claims_are_not_refuted(mu):
    """A Gaussian mechanism and its own epsilon, 60 times each: at most one false alarm in a thousand such counts."""

    def one(member, seed):
        return np.random.default_rng(seed).normal(size=100) + mu * member

    def many(member, seed):
        return np.random.default_rng(seed).normal() + mu * member

    claimed = gdp_epsilon(mu, 1e-5)
    for audit in (
        lambda seed: one_run_audit(one, 100, claimed, 1e-5, gaussian=True, seed=seed, key=KEY),
        lambda seed: many_run_audit(many, 50, claimed, 1e-5, gaussian=True, seed=seed),
    ):
        assert sum(audit(seed).flagged for seed in range(60)) <= stats.binom.isf(1e-3, 60, 0.05)


# Many runs


def noisy_step(batch: bool, sigma: float) -> tuple[Callable[[bool, int], float], SensitivityAudit]:
    """One step of DP-SGD in Opacus on four patients, and a canary that is all foreground; the adversary's score.

    The patients are empty images with little foreground, the network 1x1 convolution. The score is the noisy
    gradient sum, projected on what the canary changes in it.
    """
    network = nn.Conv2d(1, 1, 1).double()
    nn.init.constant_(network.weight, 10.0)
    nn.init.constant_(network.bias, -2.0)
    gradient_sum = opacus(network, DiceLoss(sigmoid=True, batch=batch))
    patients = [(0 * image, label) for image, label in map(patient, range(4))]
    canary = torch.ones(1, 1, 16, 16).double(), torch.ones(1, 1, 16, 16).double()

    without, whole = (
        torch.cat([part.flatten() for part in gradient_sum(batch)]) for batch in (patients, [*patients, canary])
    )
    direction = (whole - without) / (whole - without).norm()

    def train(with_canary: bool, seed: int) -> float:
        noise = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return float(((whole if with_canary else without) + sigma * CLIP * noise) @ direction)

    return train, sensitivity_audit(gradient_sum, [*patients, canary], CLIP)


def test_many_runs_refute_a_batch_coupled_dice():
    """The canary turns all four others round: 7.3 C of the 9 C that five patients can. Noise 4 C, claimed 0.93."""
    claimed = gdp_epsilon(1 / 4, 1e-5)
    train, sensitivity = noisy_step(batch=True, sigma=4.0)
    assert sensitivity.ratio == pytest.approx(7.33, abs=0.05)
    audit = many_run_audit(train, 500, claimed, 1e-5)
    assert audit.flagged
    assert claimed < audit.bounds["Clopper-Pearson"].value < gdp_epsilon(sensitivity.ratio / 4, 1e-5)


def test_many_runs_let_an_uncoupled_dice_stand():
    train, sensitivity = noisy_step(batch=False, sigma=4.0)
    assert sensitivity.ratio <= 1
    audit = many_run_audit(train, 500, gdp_epsilon(1 / 4, 1e-5), 1e-5, gaussian=True)
    assert not audit.flagged
    assert audit.conclusive


def test_many_runs_are_the_statistics_of_their_scores():
    seen = []

    def train(with_canary, seed):
        seen.append((with_canary, seed, np.random.default_rng(seed).normal() + 2 * with_canary))
        return seen[-1][2]

    audit = many_run_audit(train, 40, 1.0, 1e-5, gaussian=True, seed=3)
    member, seeds, scores = zip(*seen, strict=True)
    assert sum(member) == 40
    assert len(seen) == len(set(seeds)) == 80
    for name, gaussian in (("Clopper-Pearson", False), ("Clopper-Pearson, Gaussian", True)):
        expected = epsilon_lower_bound(scores, member, "split", 1e-5, 0.975, 3, gaussian)
        assert audit.bounds[name] == expected


def test_few_canaries_say_so():
    """16 runs a side: eight count, and no attack could have shown 3."""
    audit = many_run_audit(lambda inside, seed: float(inside), 16, 3.0, 0.0)
    assert audit.bounds["Clopper-Pearson"].value == audit.bounds["Clopper-Pearson"].ceiling < 3.0
    assert not audit.flagged
    assert not audit.conclusive
    assert audit.verdict.endswith("claimed is 3.00. So few canaries cannot refute the claim.")


def test_the_best_bound_decides():
    bounds = {name: EpsilonBound(value, 1e-5, 0.975, "one run", 5.0) for name, value in (("one", 2.0), ("two", 3.0))}
    assert ClaimAudit(2.5, bounds).flagged
    assert ClaimAudit(2.5, bounds).best == "two"
    assert not ClaimAudit(3.0, bounds).flagged


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_run_audit(lambda m, s: m, 1, 1.0, 0.0, key=KEY), "n_canaries must be at least 2, got 1"),
        (
            lambda: one_run_audit(lambda m, s: m[:3], 9, 1.0, 0.0, key=KEY),
            r"train must return 9 scores, got shape \(3,\)",
        ),
        (lambda: one_run_audit(lambda m, s: m, 9, 1.0, 0.0, gaussian=True, key=KEY), r"delta must be in \(0, 1\)"),
        (lambda: many_run_audit(lambda m, s: m, 3, 1.0, 0.0), "n_runs must be at least 4, got 3"),
        (lambda: many_run_audit(lambda m, s: np.nan, 9, 1.0, 0.0), "scores must be finite, got 18"),
    ],
)
def test_impossible_audits_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
