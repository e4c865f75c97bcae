# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Patient-level DP-SGD: known answers, the bound for every network and loss, what is refused, and the account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLES, KEY, SMALL, small_study
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import (
    UNETR,
    AttentionUnet,
    BasicUNet,
    DynUNet,
    SegResNet,
    SwinUNETR,
    UNet,
    VNet,
)
from scipy import stats
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from monai_mia.data import phantom_cohort
from monai_mia.dp import (
    ClippedSum,
    PatientDataset,
    PatientDPSGD,
    PatientLoader,
    PoissonPatientSampler,
    accounted_epsilon,
    default_delta,
    noise_multiplier_for,
    with_group_norm,
)
from monai_mia.dp.noise import gaussian, new_key, uniform
from monai_mia.errors import InputError
from monai_mia.handlers.resuming import EpochSeeder, ProgressFile
from monai_mia.records import files
from monai_mia.studies.dp_audit import one_run_audit, sensitivity_audit
from monai_mia.studies.jobs import run_jobs

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore:.*use_reentrant.*"),
]

SOFTMAX = {"softmax": True, "to_onehot_y": True}
GROUP = ("GROUP", {"num_groups": 2})


def cases(patients: int, each: int = 1, size: int = 16, dimensions: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """Images with a bright disc, and their references; ``each`` cases a patient."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for patient in range(patients):
        for visit in range(each):
            shape = (1, *(size,) * dimensions)
            label = (torch.rand(shape, generator=rng, dtype=torch.float64) < 0.2).double()
            image = label + 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)
            found.append(
                {"image": image, "label": label, "patient_id": f"p{patient:03}", "case_id": f"{patient}_{visit}"}
            )
    return found


def unet(norm: Any = GROUP, dimensions: int = 2) -> nn.Module:
    return UNet(dimensions, 1, 2, channels=(8, 16), strides=(2,), norm=norm).double()


def trainer(
    update: PatientDPSGD,
    data: Sequence[dict[str, Any]],
    network: nn.Module | None = None,
    rate: float = 0.5,
    epochs: int = 1,
    steps: int | None = None,
    loss: nn.Module | None = None,
    lr: float = 0.1,
    loader: Any = None,
    secure: bool = False,
    **options: Any,
) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = unet() if network is None else network
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader or PatientLoader(Dataset(list(data)), rate, steps, secure=secure),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr),
        loss_function=loss or DiceCELoss(**SOFTMAX),
        inferer=SimpleInferer(),
        iteration_update=update,
        **options,
    )
    engine.logger.setLevel("WARNING")
    return engine


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


class TestAccounting:
    """The accounted epsilon, against answers measured with two other libraries."""

    @pytest.mark.parametrize(
        ("sigma", "delta", "epsilon"),
        [(0.5, 1e-5, 72.899), (1.0, 1e-5, 12.603), (2.0, 1e-5, 4.238), (4.0, 1e-5, 1.819), (1.0, 1e-3, 9.441)],
    )
    def test_known_answers(self, sigma, delta, epsilon):
        found, accountant = accounted_epsilon([(sigma, 0.04, 2000)], delta)
        assert found == pytest.approx(epsilon, abs=2e-3)
        assert accountant == "prv"

    def test_small_numbers_of_steps(self):
        delta = 12**-1.1
        assert accounted_epsilon([(1.0, 0.2, 16)], delta)[0] == pytest.approx(1.4355, abs=1e-3)
        assert accounted_epsilon([(1.0, 0.2, 3)], delta)[0] == pytest.approx(0.3361, abs=1e-3)
        assert accounted_epsilon([(1.0, 0.02, 16)], delta)[0] == 0.0  # Opacus says -0.04

    def test_one_full_step_is_the_gaussian_mechanism(self):
        """Without sampling, epsilon at delta has a closed form; the accountant is above it, and close."""
        sigma, delta = 1.0, 1e-5
        exact = 4.377178  # of a 1-GDP mechanism
        found, _ = accounted_epsilon([(sigma, 1.0, 1)], delta)
        assert exact - 1e-6 <= found <= exact + 0.05

    def test_nothing_done_costs_nothing_and_no_noise_costs_all(self):
        assert accounted_epsilon([], 1e-5) == (0.0, "prv")
        assert accounted_epsilon([(0.0, 0.1, 1)], 1e-5)[0] == math.inf

    def test_phases_add_up(self):
        once = accounted_epsilon([(1.0, 0.1, 50)], 1e-5)[0]
        assert accounted_epsilon([(1.0, 0.1, 20), (1.0, 0.1, 30)], 1e-5)[0] == pytest.approx(once, abs=0.02)
        assert accounted_epsilon([(1.0, 0.1, 20), (4.0, 0.1, 30)], 1e-5)[0] < once

    @pytest.mark.parametrize(("epsilon", "sigma"), [(1, 4.18), (3, 1.841), (8, 1.034)])
    def test_noise_for_an_epsilon(self, epsilon, sigma):
        delta = 200**-1.1
        found = noise_multiplier_for(epsilon, delta, 0.04, 2000)
        assert found == pytest.approx(sigma, abs=0.012)  # there, found to 0.01 in epsilon
        assert epsilon - 0.06 <= accounted_epsilon([(found, 0.04, 2000)], delta)[0] <= epsilon

    def test_a_large_epsilon(self):
        sigma = noise_multiplier_for(1000.0, 1e-5, 0.2, 60)
        epsilon, accountant = accounted_epsilon([(sigma, 0.2, 60)], 1e-5)
        assert 998 < epsilon <= 1000
        assert accountant == "rdp"

    def test_unreachable(self):
        with pytest.raises(InputError, match=r"target_epsilon must be one that noise can reach, got 1e-05 .* fewer"):
            noise_multiplier_for(1e-5, 1e-7, 0.5, 10_000)

    def test_a_small_epsilon(self):
        """Below what Renyi divergences of Opacus' orders can show."""
        sigma = noise_multiplier_for(0.1, 1e-5, 0.1, 10)
        assert 0.085 < accounted_epsilon([(sigma, 0.1, 10)], 1e-5)[0] <= 0.1

    def test_default_delta(self):
        assert default_delta(170) == 1e-5
        assert default_delta(100_000) == pytest.approx(1e-6)


class TestNoise:
    """The strong generator."""

    def test_uniform_is_uniform(self):
        values = uniform(b"k" * 32, "test", 200_000)
        assert 0 < values.min() < 1e-4
        assert 1 - 1e-4 < values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 0.01

    def test_gaussian_is_gaussian(self):
        values = gaussian(b"k" * 32, "test", 200_000)
        assert stats.kstest(values, "norm").pvalue > 0.01
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01

    def test_a_stream_for_each_key_and_purpose(self):
        one, same = gaussian(b"a" * 32, "x", 1000), gaussian(b"a" * 32, "x", 1000)
        assert (one == same).all()
        for other in (gaussian(b"b" * 32, "x", 1000), gaussian(b"a" * 32, "y", 1000)):
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15

    def test_secure_keys_ignore_the_seed(self):
        keys = []
        for secure in (True, False):
            for _ in range(2):
                torch.manual_seed(0)
                keys.append(new_key(secure))
        assert keys[0] != keys[1]
        assert keys[2] == keys[3]


class TestSampling:
    """Coins, one a patient and step."""

    def test_known_answer(self):
        """Each patient in each step with probability q, independently: means, variance and covariance."""
        torch.manual_seed(0)
        drawn = np.zeros((4000, 10))
        for step, patients in enumerate(PoissonPatientSampler(10, 0.2, 4000, secure=False)):
            drawn[step, patients] = 1
        np.testing.assert_allclose(drawn.mean(axis=0), 0.2, atol=0.025)
        assert drawn.sum(axis=1).var() == pytest.approx(10 * 0.2 * 0.8, rel=0.1)
        assert np.abs(np.corrcoef(drawn.T) - np.eye(10)).max() < 0.06
        assert (drawn.sum(axis=1) == 0).mean() == pytest.approx(0.8**10, abs=0.02)

    def test_each_epoch_is_drawn_anew(self):
        torch.manual_seed(0)
        sampler = PoissonPatientSampler(50, 0.5, 4, secure=False)
        assert list(sampler) != list(sampler)

    def test_a_patient_is_all_of_their_cases_patches_and_augmentations(self):
        class Cropped(Dataset):
            def __getitem__(self, n: int) -> Any:
                return [self.data[n], self.data[n]] if n == 0 else self.data[n]

        data = cases(2, each=2)
        dataset = PatientDataset(Cropped([data[0], data[2], data[1], data[3]]), augmentations=3)
        assert [[patch["case_id"] for patch in dataset[n]] for n in range(len(dataset))] == [
            ["0_0"] * 6 + ["0_1"] * 3,
            ["1_0"] * 3 + ["1_1"] * 3,
        ]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_empty_draws_are_batches(self, workers):
        torch.manual_seed(1)
        loader = PatientLoader(Dataset(cases(3)), 0.3, steps=12, secure=False, num_workers=workers)
        sizes = [len(batch) for batch in loader]
        assert len(sizes) == len(loader) == 12
        assert 0 in sizes

    def test_steps_by_default_show_everybody_once(self):
        assert len(PatientLoader(Dataset(cases(3)), 0.25)) == 4


NETWORKS = {
    "UNet, group": lambda: UNet(2, 1, 2, channels=(8, 16), strides=(2,), norm=GROUP),
    "UNet, instance, residual": lambda: UNet(2, 1, 2, channels=(8, 16), strides=(2,), num_res_units=2, norm="INSTANCE"),
    "UNet, 3D": lambda: UNet(3, 1, 2, channels=(8, 16), strides=(2,), norm=GROUP),
    "DynUNet": lambda: DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 8, 16], res_block=True),
    "SegResNet": lambda: SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "SegResNet, 3D": lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "AttentionUnet": lambda: with_group_norm(AttentionUnet(2, 1, 2, channels=(8, 16), strides=(2,))),
    "BasicUNet": lambda: BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 16, 8)),
    "UNETR": lambda: UNETR(1, 2, 16, 8, 16, 32, 2, spatial_dims=2, norm_name="instance"),
    "SwinUNETR": lambda: SwinUNETR(1, 2, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), feature_size=12, spatial_dims=2),
    "SwinUNETR, checkpointing": lambda: SwinUNETR(
        1, 2, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), feature_size=12, spatial_dims=2, use_checkpoint=True
    ),
    "VNet": lambda: with_group_norm(VNet(2, 1, 2)),
}
LOSSES = {"Dice": DiceLoss, "Dice+CE": DiceCELoss, "batch Dice": partial(DiceLoss, batch=True)}


@pytest.mark.parametrize(
    ("name", "loss"),
    # Every network, and every loss: a patient's gradient is clipped whatever made it.
    [(name, loss) for name in NETWORKS for loss in LOSSES if loss == "Dice+CE" or name in ("UNet, group", "UNETR")],
)
def test_one_patient_moves_the_sum_by_the_clip_norm_at_most(name, loss):
    """Every supported network and loss: an outlier among the patients, several patches each (float64 to 1e-12)."""
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    for module in network.modules():
        if isinstance(module, _DropoutNd):  # masks that move on when a patient is taken out are no privacy loss
            module.p = 0.0
    dimensions, size = (3, 8) if "3D" in name else (2, {"Basic": 32, "SwinU": 64}.get(name[:5], 16))
    data = cases(3, each=2, size=size, dimensions=dimensions)
    data[0]["image"] = data[0]["image"] * 50
    update = PatientDPSGD(max_norm=1e-3, noise_multiplier=1.0, secure=False)
    engine = trainer(update, data, network, loss=LOSSES[loss](**SOFTMAX))
    patients = [PatientDataset(Dataset(data))[n] for n in range(3)]

    def clipped_sum(chosen):
        return [part.clone() for part in update.clipped_sum(engine, chosen)]

    found = sensitivity_audit(clipped_sum, patients, 1e-3, tolerance=1e-5)
    assert not found.flagged
    assert found.ratio == pytest.approx(1, abs=1e-6)
    reference = _reference_sum(engine, patients, 1e-3)
    for one, two in zip(clipped_sum(patients), reference, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def _reference_sum(engine: SupervisedTrainer, patients: Sequence[Any], max_norm: float) -> list[torch.Tensor]:
    """The same sum, by an independent loop."""
    parameters = list(engine.network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for patches in patients:
        engine.network.zero_grad()
        image, label = (torch.stack([torch.as_tensor(patch[key]) for patch in patches]) for key in ("image", "label"))
        engine.loss_function(engine.network(image), label).backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))
        for part, parameter in zip(total, parameters, strict=True):
            if parameter.grad is not None:
                part += parameter.grad * min(1.0, float(max_norm / norm))
    return total


class TestStep:
    """One step, against arithmetic."""

    def test_without_clipping_and_noise_it_is_the_mean_gradient(self):
        """At q = 1: N patients' mean gradient; a patient with two cases counts once."""
        data = cases(2) + cases(1, each=2, seed=1)
        data[2]["patient_id"] = data[3]["patient_id"] = "two cases"
        engine = trainer(PatientDPSGD(1e9, noise_multiplier=0), data, rate=1.0, steps=1)
        before = weights(engine.network)
        patients = [[data[0]], [data[1]], data[2:]]
        expected = torch.cat([part.flatten() for part in _reference_sum(engine, patients, 1e9)]) / 3
        engine.network.zero_grad()
        engine.run()
        torch.testing.assert_close(before - weights(engine.network), 0.1 * expected, rtol=1e-9, atol=1e-12)

    def test_a_draw_of_nobody_is_a_step_of_noise_over_the_expected_number(self):
        engine = trainer(PatientDPSGD(2.0, noise_multiplier=3.0, secure=False), cases(4), rate=1e-12, steps=1, lr=1.0)
        before = weights(engine.network)
        engine.run()
        noise = (before - weights(engine.network)) * (1e-12 * 4) / (3 * 2)
        assert noise.std() == pytest.approx(1, abs=0.05)
        assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01

    def test_a_patient_that_is_not_finite_adds_nothing(self):
        parameters = [nn.Parameter(torch.zeros(3))]
        total = ClippedSum(parameters, 1.0)
        total.add([torch.tensor([3.0, 0.0, 4.0])])
        total.add([torch.tensor([math.nan, 0.0, 0.0])])
        total.add([torch.tensor([math.inf, 0.0, 0.0])])
        torch.testing.assert_close(total.total[0], torch.tensor([0.6, 0.0, 0.8]))

    def test_patches_in_several_passes_are_the_same(self):
        data = cases(1, each=5) + cases(1, seed=3)
        data[-1]["patient_id"] = "other"
        sums = []
        for size in (None, 1, 2):
            update = PatientDPSGD(1e-2, noise_multiplier=1.0, patches_per_pass=size)
            sums.append(torch.cat([part.flatten() for part in update.clipped_sum(trainer(update, data), [data[:5]])]))
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(sums[0], sums[2], rtol=1e-9, atol=1e-12)

    def test_a_half_precision_network_sums_in_single(self):
        assert ClippedSum([nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))], 1.0).total[0].dtype == torch.float32


class TestTraining:
    """Through MONAI's trainer."""

    def test_account_and_metric(self):
        """All steps count, draws of nobody too; epsilon stands beside the other metrics."""
        update = PatientDPSGD(1.0, noise_multiplier=1.0, delta=12**-1.1, secure=False)
        engine = trainer(update, cases(12), rate=0.2, epochs=2, steps=8)
        engine.run()
        assert update.history == [(1.0, 0.2, 16)]
        assert engine.state.metrics["epsilon"] == pytest.approx(1.4355, abs=1e-3)
        assert update.privacy["epsilon"] == engine.state.metrics["epsilon"]
        assert update.privacy["unit"] == "patient"
        assert math.isfinite(engine.state.output[0]["loss"])

    def test_target_epsilon(self):
        update = PatientDPSGD(1.0, target_epsilon=3.0, secure=False)
        trainer(update, cases(12), rate=0.25, epochs=3, steps=4).run()
        assert 2.9 < update.privacy["epsilon"] <= 3.0
        assert update.privacy["delta"] == 1e-5

    def test_it_learns(self):
        """With little noise the loss falls: the sign of the update is right."""
        update = PatientDPSGD(1.0, noise_multiplier=0.01, secure=False)
        engine = trainer(update, cases(12), rate=0.5, epochs=25, lr=0.5)
        losses = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: losses.append(float(engine.state.output[0]["loss"]))
        )
        engine.run()
        assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])

    def test_same_seed_same_weights_and_secure_noise_never(self):
        found = []
        for secure in (False, False, True):
            engine = trainer(PatientDPSGD(1.0, noise_multiplier=1.0, secure=secure), cases(4), steps=2)
            torch.manual_seed(0)
            engine.run()
            found.append(weights(engine.network))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_resumed_is_undisturbed(self):
        """Weights and account of a training in two parts are those of one."""

        def run(epochs, state=None):
            update = PatientDPSGD(1.0, noise_multiplier=1.0, secure=False)
            data = Dataset(cases(6))
            engine = trainer(update, cases(6), epochs=epochs, loader=PatientLoader(data, 0.5, 3, secure=False))
            EpochSeeder(5, data).attach(engine)
            if state is not None:
                engine.network.load_state_dict(state["network"])
                update.load_state_dict(state["update"])
                engine.state.epoch = engine.state.max_epochs - 1
                engine.state.iteration = 3 * engine.state.epoch
                engine.state.epoch_length = 3
            engine.run()
            return {"network": engine.network.state_dict(), "update": update.state_dict()}

        whole = run(2)
        parts = run(2, run(1))
        assert whole["update"] == parts["update"]
        assert whole["update"]["history"] == [[1.0, 0.5, 6]]
        for name, value in whole["network"].items():
            assert torch.equal(value, parts["network"][name]), name

    def test_validation_leaves_no_trace(self):
        """Random states and weights are as if it had not been: the first step's noise is that of the seed."""
        engine = trainer(PatientDPSGD(1.0, noise_multiplier=0.5, secure=False), cases(4), rate=1.0, steps=1)
        plain = PatientDPSGD(1.0, noise_multiplier=0.5, secure=False)
        plain._validated = True
        other = trainer(plain, cases(4), rate=1.0, steps=1)
        for each in (engine, other):
            torch.manual_seed(3)
            each.run()
        assert torch.equal(weights(engine.network), weights(other.network))

    def test_audited_is_below_accounted(self):
        """A hundred canary patients with gradients of their own, one step: no more is proved than is claimed."""
        count, sigma = 100, 1.0
        claimed = accounted_epsilon([(sigma, 1.0, 1)], 1e-5)[0]

        def train(member, seed):
            data = [
                {
                    "image": torch.eye(count, dtype=torch.float64)[n][None],
                    "label": torch.ones(1, 1),
                    "patient_id": f"{n:03}",
                }
                for n in np.flatnonzero(member)
            ]
            network = nn.Linear(count, 1, bias=False).double()
            loss = _Mean()
            engine = trainer(
                PatientDPSGD(1.0, noise_multiplier=sigma, secure=False), data, network, 1.0, steps=1, loss=loss, lr=1.0
            )
            before = weights(network)
            torch.manual_seed(seed)
            engine.run()
            return ((before - weights(network)) * len(data)).numpy()

        audit = one_run_audit(train, count, claimed, 1e-5, gaussian=True, key=KEY)
        assert not audit.flagged
        assert max(bound.value for bound in audit.bounds.values()) > 0  # it does see the canaries


class _Mean(nn.Module):
    """Ten times the mean output: a gradient larger than the clip norm."""

    def forward(self, prediction, label):
        return 10 * prediction.mean()


class _Remembers(nn.Module):
    """A loss weighed by the images before."""

    def __init__(self) -> None:
        super().__init__()
        self.level = 1.0

    def forward(self, prediction, label):
        loss = self.level * prediction.square().mean()
        self.level = 0.5 * self.level + float(prediction.detach().square().mean())
        return loss


class TestRefusals:
    """What breaks the bound, named with the remedy before any step."""

    def refused(self, data=None, match="", network=None, update=None, **options):
        engine = trainer(
            update or PatientDPSGD(1.0, noise_multiplier=1.0, secure=False),
            cases(4) if data is None else data,
            network,
            **{"rate": 1.0, "steps": 1, **options},
        )
        before = {name: value.clone() for name, value in engine.network.state_dict().items()}
        with pytest.raises(InputError, match=match):
            engine.run()
        for name, value in engine.network.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_running_statistics(self):
        self.refused(network=unet("BATCH"), match="must not change buffers .*running_mean.*with_group_norm")
        self.refused(
            network=unet(("INSTANCE", {"track_running_stats": True})), match="must not change buffers .*running"
        )

    def test_batch_norm_without_statistics_stays_within_a_patient(self):
        network = unet(("BATCH", {"track_running_stats": False, "affine": False}))
        trainer(PatientDPSGD(1.0, noise_multiplier=1.0), cases(4), network, rate=1.0, steps=1).run()

    def test_a_loss_that_remembers(self):
        self.refused(loss=_Remembers(), match="must not depend on who was seen before")

    def test_accumulated_gradients(self):
        self.refused(accumulation_steps=2, match="accumulation_steps must be 1 .*got 2.*patches_per_pass")

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_half_precision(self):
        self.refused(amp=True, match="amp must be off, or with .*bfloat16")

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_bfloat16_is_fine(self):
        update = PatientDPSGD(1.0, noise_multiplier=1.0)
        network = unet().float()
        data = [{key: v.float() if isinstance(v, torch.Tensor) else v for key, v in case.items()} for case in cases(4)]
        trainer(update, data, network, 1.0, steps=1, amp=True, amp_kwargs={"dtype": torch.bfloat16}).run()
        assert update.history == [(1.0, 1.0, 1)]

    def test_another_loader(self):
        loader = DataLoader(Dataset(cases(4)), batch_size=2)
        self.refused(loader=loader, match="train_data_loader must be a monai_mia.dp.PatientLoader, got DataLoader")

    def test_delta_that_would_release_a_patient(self):
        update = PatientDPSGD(1.0, noise_multiplier=1.0, delta=0.25)
        self.refused(update=update, match=r"delta must be below 1 / 4, .* got 0.25.*Leave it out for 1e-05")

    def test_epsilon_out_of_reach(self):
        update = PatientDPSGD(1.0, target_epsilon=1e-5, delta=1e-7)
        self.refused(update=update, match="target_epsilon must be one that noise can reach")

    @pytest.mark.parametrize("count", [0, 1])
    def test_nobody_to_hide_among(self, count):
        with pytest.raises(InputError, match=f"patients must be at least 2 .*got {count}"):
            PatientLoader(Dataset(cases(count)), 0.5)

    def test_cases_without_a_patient(self):
        data = [{key: value for key, value in case.items() if key != "patient_id"} for case in cases(2)]
        with pytest.raises(InputError, match="cases must name their patient under 'patient_id'"):
            PatientLoader(Dataset(data), 0.5)

    def test_patches_of_several_shapes(self):
        data = cases(2, each=2)
        data[1] = {**cases(1, size=32)[0], "patient_id": data[0]["patient_id"]}
        self.refused(data, match="patches of a patient must have one shape.*patches_per_pass: 1")
        update = PatientDPSGD(1.0, noise_multiplier=1.0, patches_per_pass=1)
        trainer(update, data, rate=1.0, steps=1).run()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({}, "one of noise_multiplier and target_epsilon must be given, got neither"),
            ({"noise_multiplier": 1, "target_epsilon": 1}, "got both"),
            ({"noise_multiplier": -1}, "noise_multiplier must be at least 0"),
            ({"target_epsilon": 0}, "target_epsilon must be positive"),
            ({"noise_multiplier": 1, "max_norm": 0}, "max_norm must be positive"),
            ({"noise_multiplier": 1, "max_norm": math.inf}, "max_norm must be positive and finite"),
            ({"noise_multiplier": 1, "delta": 1}, r"delta must be in \(0, 1\)"),
            ({"noise_multiplier": 1, "patches_per_pass": 0}, "patches_per_pass must be at least 1"),
        ],
    )
    def test_options(self, options, match):
        with pytest.raises(InputError, match=match):
            PatientDPSGD(**options)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"sample_rate": 0.0}, "sample_rate must be in"),
            ({"sample_rate": 1.5}, "sample_rate must be in"),
            ({"sample_rate": 0.5, "steps": 0}, "steps must be at least 1"),
            ({"sample_rate": 0.5, "augmentations": 0}, "augmentations must be at least 1"),
            ({"sample_rate": 0.5, "batch_size": 4}, "batch_size must be left out"),
        ],
    )
    def test_loader_options(self, options, match):
        with pytest.raises(InputError, match=match):
            PatientLoader(Dataset(cases(4)), **options)


def _train_in_processes(rank: int, world: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    engine = trainer(
        PatientDPSGD(0.01, noise_multiplier=1.0, secure=False), cases(6, each=2), rate=0.6, steps=4, epochs=2
    )
    torch.manual_seed(7 + (0 if rank == 0 else 100 * rank))  # only the first process's seed counts
    engine.run()
    if rank == 0:
        torch.save(weights(engine.network), out)
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    """Under torchrun the clipped sums are added up, and the noise is added once."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _train_in_processes(0, 1, port, str(tmp_path / "one.pt"))
    # Both are forked from a third, which has imported what is heavy; this one may have threads.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["monai.bundle", "monai_mia.studies", "pytest"]
    )
    torch.multiprocessing.start_processes(
        _train_in_processes, (2, port, str(tmp_path / "two.pt")), 2, start_method="forkserver"
    )
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["BATCH", ("INSTANCE", {"track_running_stats": True, "affine": True})])
def test_with_group_norm(norm):
    """No buffer is left, the channels are, and what keeps no statistics stays."""
    network = with_group_norm(UNet(3, 1, 2, channels=(6, 12), strides=(2,), norm=norm), groups=8)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert [(n.num_groups, n.num_channels) for n in norms] == [(2, 6), (4, 12), (2, 2)][: len(norms)]
    assert not list(network.buffers())
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    kept = with_group_norm(UNet(2, 1, 2, channels=(6, 12), strides=(2,), norm="INSTANCE"))
    assert not [module for module in kept.modules() if isinstance(module, nn.GroupNorm)]


def test_a_private_study(tmp_path):
    """The overlay in a study: the account is in the report, target and shadow are private, and it resumes."""
    data = phantom_cohort(tmp_path / "phantoms", 8, seed=0)
    overlay = str(BUNDLES / "overlays/defences/dp_sgd.yaml")
    study = small_study(
        data,
        tmp_path / "out",
        shadows=1,
        train=("configs/train.json", overlay),
        train_overrides={**SMALL, "train#trainer#max_epochs": 2, "secure": False, "target_epsilon": 3.0},
    )
    result = study.run()
    target = files.read_json(tmp_path / "out/report/report.json")["target"]
    assert target["privacy"]["unit"] == "patient"
    assert target["privacy"]["steps"] == 10
    # Its noise can be repeated: what was accounted for stays in the private folder, and is stated nowhere.
    assert target["privacy"]["secure_noise"] is False
    assert target["privacy"]["epsilon"] is None
    assert 2.9 < study.folder.trained("target")["privacy"]["epsilon"] <= 3.0
    page = (tmp_path / "out/report/index.html").read_text(encoding="utf-8")
    assert "Accounted ε of the training" in page
    assert "no release" in page
    assert "accounted epsilon: none: the noise can be repeated" in result.text(privacy=target["privacy"])
    for name in ("index.html", "summary.html", "model_card.md"):
        text = (tmp_path / "out/report" / name).read_text(encoding="utf-8")
        assert "the noise can be repeated from a seed" in text, name
    shadow = files.read_json(tmp_path / "out/private/models/shadow_00/model.json")
    assert shadow["privacy"]["epsilon"] <= 3.0
    progress = files.read_json(tmp_path / "out/private/models/shadow_00/progress.json")
    assert progress["epsilon"] == pytest.approx(shadow["privacy"]["epsilon"])


def test_the_progress_bar_tells_epsilon(tmp_path, capsys):
    """The largest epsilon that any of the trainings has spent so far, beside how many are done."""

    class Job:
        def __init__(self, name: str, epsilon: float | None) -> None:
            self.progress = str(tmp_path / f"{name}.json")
            self.epsilon = epsilon

        def run(self) -> None:
            spent = {} if self.epsilon is None else {"epsilon": self.epsilon}
            files.write_json(self.progress, {"done": 2, "total": 2, **spent})

    run_jobs([Job("a", 1.5), Job("b", 2.25)], "training", n_jobs=1)
    assert "2/2 models, epsilon 2.25" in capsys.readouterr().err
    run_jobs([Job("c", None)], "training", n_jobs=1)
    assert "epsilon" not in capsys.readouterr().err


def test_a_killed_private_training_continues_its_account(tmp_path):
    """Half of the epochs, then a new process: the same weights and the same epsilon as in one go."""
    data = phantom_cohort(tmp_path / "phantoms", 6, seed=0)
    found = {}
    for name, stops in (("whole", False), ("parts", True)):
        overrides = {**SMALL, "train#trainer#max_epochs": 2, "secure": False, "target_epsilon": 3.0}
        study = small_study(
            data,
            tmp_path / name,
            shadows=1,
            train=("configs/train.json", str(BUNDLES / "overlays/defences/dp_sgd.yaml")),
            train_overrides=overrides,
        )
        if stops:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ProgressFile, "__call__", _stop)
                with pytest.raises(KeyboardInterrupt):
                    study.run()
            assert (tmp_path / name / "private/models/target/checkpoint.pt").is_file()
        study.record()
        folder = tmp_path / name / "private/models/target"
        found[name] = torch.load(folder / "model.pt"), files.read_json(folder / "model.json")["privacy"]
    assert found["whole"][1] == found["parts"][1]
    for key, value in found["whole"][0].items():
        assert torch.equal(value, found["parts"][0][key]), key


def _stop(self: ProgressFile, engine: Any) -> None:
    raise KeyboardInterrupt
