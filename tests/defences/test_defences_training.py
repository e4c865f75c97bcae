# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Training defences: what each changes in a training, what it must not change, and that it resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HIPPOCAMPUS, PHANTOM, SLICES, SMALL, small_study
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import PatchDiscriminator
from monai.networks.utils import one_hot
from monai.transforms import Compose, CutMix, MixUp, RandFlipd
from overlays import OVERLAYS, TRAINING_OVERLAYS, inference_files, options_of
from scipy.integrate import quad
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.audit import Audit
from monai_mia.bundle.config import BundleConfig, load_weights
from monai_mia.bundle.training import Training
from monai_mia.data import phantom_cohort
from monai_mia.defences.adversarial import AdversarialRegularisation
from monai_mia.defences.averaging import WeightAveraging
from monai_mia.defences.distillation import Distillation
from monai_mia.defences.held_out import HeldOutCases, undisturbed
from monai_mia.defences.laplace import LaplaceFit, LaplaceNetwork
from monai_mia.defences.losses import LossFloor, SoftDiceCELoss
from monai_mia.defences.mixing import ColumnSplice, MixedBatch
from monai_mia.defences.monitor import LeakageMonitor
from monai_mia.errors import InputError
from monai_mia.handlers.resuming import Checkpointer, EpochSeeder

# The 2D bundle's network, for a test.
THIN = {"network_def#channels": [4, 8], "network_def#strides": [2]}

FLIP = Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=0)])
KEEP = Compose([])


def cases(n: int, seed: int, size: int = 8) -> list[dict[str, Any]]:
    """Images of noise with unrelated references: all that can be learned of them is by heart."""
    rng = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.rand(1, size, size, generator=rng),
            "label": torch.randint(0, 3, (1, size, size), generator=rng),
            "case_id": f"case_{seed}_{k}",
            "patient_id": f"patient_{seed}_{k // 2}",
        }
        for k in range(n)
    ]


MEMBERS, HELD_OUT, OTHERS = cases(8, 1), cases(6, 2), cases(8, 3)


def small_network(seed: int = 0, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(8, 3, 3, padding=1))


def learner() -> nn.Sequential:
    """A network that learns its members by heart."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 3, 1)]
    return nn.Sequential(*layers)


def log_likelihoods(network: nn.Module, group: Sequence[dict[str, Any]]) -> list[float]:
    network.eval()
    with torch.no_grad():
        return [-float(F.cross_entropy(network(case["image"][None]), case["label"])) for case in group]


def trainer_of(
    handlers: Sequence[Any] = (), network: nn.Module | None = None, epochs: int = 4, **options: Any
) -> SupervisedTrainer:
    """A trainer as a bundle's: random flips, shuffling, dropout, seeded anew each epoch."""
    network = small_network() if network is None else network
    dataset = Dataset(MEMBERS, Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=0)]))
    trainer = SupervisedTrainer(
        **{
            "device": torch.device("cpu"),
            "max_epochs": epochs,
            "train_data_loader": DataLoader(dataset, batch_size=4, shuffle=True),
            "network": network,
            "optimizer": torch.optim.Adam(network.parameters(), lr=0.01),
            "loss_function": DiceCELoss(to_onehot_y=True, softmax=True),
            "train_handlers": list(handlers),
            **options,
        }
    )
    EpochSeeder(5, dataset).attach(trainer)
    return trainer


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def plain_weights(epochs: int = 4) -> dict[str, Tensor]:
    trainer = trainer_of(epochs=epochs)
    trainer.run()
    return weights(trainer.network)


def held_out(data: Sequence[dict[str, Any]] = HELD_OUT, transform: Any = FLIP) -> HeldOutCases:
    return HeldOutCases(data, transform, batch_size=4)


class Kill(BaseException):
    """Stands for a kill of the process."""


def check_resumes(
    make: Callable[[nn.Module], Any], folder: Path, epochs: int, killed_after: int, **options: Any
) -> Any:
    """A training killed after some epochs, and gone on with from its checkpoint, gives the weights of a whole one."""

    def checkpointed(name: str) -> tuple[SupervisedTrainer, Any]:
        network = options["network"]() if "network" in options else small_network()
        defence = make(network)
        trainer = trainer_of([defence], network, epochs)
        objects = {"network": network, "optimizer": trainer.optimizer, "defence": defence}
        Checkpointer(folder / f"{name}.pt", objects, "key").attach(trainer)
        return trainer, defence

    whole, _ = checkpointed("whole")
    whole.run()
    killed, _ = checkpointed("killed")

    def kill(engine: Any) -> None:
        if engine.state.epoch == killed_after + 1:
            raise Kill

    killed.add_event_handler(Events.EPOCH_STARTED, kill)
    with pytest.raises(Kill):
        killed.run()
    resumed, defence = checkpointed("killed")
    started: list[int] = []
    resumed.add_event_handler(Events.EPOCH_STARTED, lambda: started.append(resumed.state.epoch))
    resumed.run()
    assert started[0] == killed_after + 1
    assert same(weights(whole.network), weights(resumed.network))
    return defence


class TestAuxiliaryCases:
    def test_there_must_be_some(self) -> None:
        with pytest.raises(InputError, match=r"held_out must be cases .* got none\. In a study set held_out"):
            held_out([])

    def test_an_epoch_is_the_same_again_and_another_is_not(self) -> None:
        def drawn(epoch: int) -> Tensor:
            torch.manual_seed(3)
            trainer, given = trainer_of(epochs=1), held_out()
            given.attach(trainer)
            trainer.state.epoch = epoch
            trainer.fire_event(Events.EPOCH_STARTED)
            torch.manual_seed(3)
            return torch.cat([given.batch()["image"].as_tensor() for _ in range(4)])

        assert torch.equal(drawn(1), drawn(1))
        assert not torch.equal(drawn(1), drawn(2))
        assert len(drawn(1)) == 4 + 2 + 4 + 2  # two rounds of six cases

    def test_nothing_random_is_disturbed(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        with undisturbed():
            torch.rand(3)
        held_out().batch()
        assert torch.equal(torch.rand(1), expected)


def mixer(name: str) -> Any:
    return {"mixup": MixUp, "cutmix": CutMix, "splice": ColumnSplice}[name]


class TestMixing:
    @pytest.mark.parametrize(("spatial", "axis"), [((5, 8), -1), ((5, 8), 0), ((3, 4, 6), -1), ((3, 4, 6), 1)])
    def test_splice_voxel_by_voxel(self, spatial: tuple[int, ...], axis: int) -> None:
        data = torch.rand(4, 2, *spatial)
        splice = ColumnSplice(4, axis=axis)
        splice.set_random_state(seed=1)
        result = splice(data)
        shares, partners, _ = splice._params
        for item in range(4):
            seam = int(shares[item] * spatial[axis])
            for voxel in np.ndindex(2, *spatial):
                place = voxel[1:][axis]
                source = partners[item] if place < seam else item
                assert result[item][voxel] == data[source][voxel]

    def test_seams_are_beta(self) -> None:
        """Beta(2, 2) has mean 1/2 and variance 1/20."""
        splice = ColumnSplice(20000)
        splice.set_random_state(seed=0)
        splice.randomize()
        shares = splice._params[0].double()
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(shares.var()) == pytest.approx(0.05, abs=0.002)

    @pytest.mark.parametrize("name", ["mixup", "cutmix", "splice"])
    @pytest.mark.parametrize("spatial", [(8, 8), (4, 6, 8)])
    def test_references_are_mixed_as_images_are(self, name: str, spatial: tuple[int, ...]) -> None:
        label = torch.randint(0, 3, (6, 1, *spatial))
        torch.manual_seed(0)
        image, reference = MixedBatch(mixer(name), 3)({"image": (label == 1).float(), "label": label}, "cpu")
        assert not torch.equal(image, (label == 1).float())
        torch.testing.assert_close(image[:, 0], reference[:, 1])
        torch.testing.assert_close(reference.sum(dim=1), torch.ones(6, *spatial))
        soft = ((reference > 0) & (reference < 1)).any()
        assert bool(soft) == (name == "mixup")

    def test_batches_differ_and_are_the_same_from_the_same_seed(self) -> None:
        batch = {"image": torch.rand(4, 1, 8, 8), "label": torch.randint(0, 3, (4, 1, 8, 8))}
        prepare = MixedBatch(MixUp, 3)
        torch.manual_seed(0)
        first, second = prepare(batch)[0], prepare(batch)[0]
        torch.manual_seed(0)
        assert torch.equal(prepare(batch)[0], first)
        assert not torch.equal(first, second)

    def test_never_and_labels_of_several_channels(self) -> None:
        batch = {"image": torch.rand(2, 1, 8, 8), "label": torch.randint(0, 2, (2, 3, 8, 8))}
        image, label = MixedBatch(MixUp, 3, prob=0)(batch)
        assert torch.equal(image, batch["image"])
        assert torch.equal(label, batch["label"].float())

    def test_a_last_batch_may_be_small_but_not_every_one(self) -> None:
        single = {"image": torch.rand(1, 1, 8, 8), "label": torch.zeros(1, 1, 8, 8)}
        prepare = MixedBatch(ColumnSplice, 2)
        with pytest.raises(InputError, match="batch_size must be at least 2"):
            prepare(single)
        prepare({"image": torch.rand(3, 1, 8, 8), "label": torch.zeros(3, 1, 8, 8)})
        assert torch.equal(prepare(single)[0], single["image"])

    @pytest.mark.parametrize(("make", "message"), [
        (lambda: ColumnSplice(2, alpha=0), "alpha must be above 0"),
        (lambda: MixedBatch(MixUp, 2, prob=2), "prob must be in"),
    ])  # fmt: skip
    def test_refusals(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()

    def test_losses_of_one_hot_references_are_those_of_indices(self) -> None:
        logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 1, 6, 6))
        expected = DiceCELoss(to_onehot_y=True, softmax=True)(logits, label)
        for loss in (DiceCELoss(softmax=True), SoftDiceCELoss(softmax=True)):
            torch.testing.assert_close(loss(logits, one_hot(label, 3)), expected)

    def test_losses_of_soft_references(self) -> None:
        """Cross-entropy is linear in the reference; only the soft Dice is 0, and least, where the prediction is it."""
        logits = torch.randn(2, 3, 6, 6)
        first, second = (one_hot(torch.randint(0, 3, (2, 1, 6, 6)), 3) for _ in range(2))
        loss = SoftDiceCELoss(softmax=True)
        torch.testing.assert_close(
            loss.ce(logits, 0.3 * first + 0.7 * second), 0.3 * loss.ce(logits, first) + 0.7 * loss.ce(logits, second)
        )
        own = logits.softmax(dim=1).detach()
        assert float(loss.dice(logits, own)) == pytest.approx(0, abs=1e-5)
        assert float(DiceCELoss(softmax=True).dice(logits, own)) > 0.3
        entropy = -(own * own.log()).sum(dim=1).mean()
        torch.testing.assert_close(loss(logits, own), entropy, atol=1e-5, rtol=1e-5)


def test_label_smoothing_is_of_the_cross_entropy_alone() -> None:
    logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 1, 6, 6))
    smoothed = DiceCELoss(to_onehot_y=True, softmax=True, label_smoothing=0.1)
    log_p = logits.log_softmax(dim=1)
    target = 0.9 * one_hot(label, 3) + 0.1 / 3
    expected = DiceLoss(to_onehot_y=True, softmax=True)(logits, label) - (target * log_p).sum(dim=1).mean()
    torch.testing.assert_close(smoothed(logits, label), expected)
    binary = [DiceCELoss(sigmoid=True, label_smoothing=rate)(logits[:, :1], label > 0) for rate in (0.0, 0.1)]
    assert torch.equal(binary[0], binary[1])


class TestLossFloor:
    def gradients(self, handlers: list[Any], epoch: int = 1, **options: Any) -> tuple[list[Tensor], float, nn.Module]:
        """Gradients of one step, the loss that was logged, and the network as it was."""
        trainer = trainer_of(handlers, small_network(dropout=0), 1, **options)
        trainer.state.epoch = epoch
        trainer.state.iteration = epoch_length = trainer.state.epoch_length
        trainer.state.epoch_length = epoch_length
        batch = next(iter(DataLoader(Dataset(MEMBERS), batch_size=8)))
        trainer.optimizer.step = lambda: None
        trainer._iteration(trainer, batch)
        found = [parameter.grad.clone() for parameter in trainer.network.parameters()]
        return found, float(trainer.state.output[0]["loss"]), trainer.network

    def test_above_the_floor_it_is_the_plain_step(self) -> None:
        plain, loss, _ = self.gradients([])
        floored, logged, _ = self.gradients([LossFloor(loss * 0.99)])
        assert all(map(torch.equal, plain, floored))
        assert logged == loss

    @pytest.mark.parametrize(("epoch", "activation"), [(1, "softmax"), (3, "softmax"), (2, "sigmoid")])
    def test_below_it_climbs(self, epoch: int, activation: Any) -> None:
        plain, loss, _ = self.gradients([])
        climbing, logged, _ = self.gradients([LossFloor(loss * 1.01, activation)], epoch)
        assert all(torch.equal(-p, c) for p, c in zip(plain, climbing, strict=True))
        assert logged == loss

    def test_below_it_flattens_in_even_epochs(self) -> None:
        """Against the definition, voxel by voxel."""
        _, loss, network = self.gradients([])
        flattening, logged, _ = self.gradients([LossFloor(loss * 1.01)], epoch=2)
        assert logged == loss
        image = torch.stack([case["image"] for case in MEMBERS])
        label = torch.stack([case["label"] for case in MEMBERS])
        network.zero_grad()
        logits = network(image)
        total = torch.zeros(())
        n_wrong = 0
        for b, y, x in np.ndindex(8, 8, 8):
            log_p, true = logits[b, :, y, x].log_softmax(0), int(label[b, 0, y, x])
            if int(log_p.argmax()) != true:
                p = float(log_p[true].detach().exp())
                total = total - sum((p if c == true else (1 - p) / 2) * log_p[c] for c in range(3))
                n_wrong += 1
        assert 0 < n_wrong < 512
        (total / 512 - DiceCELoss(to_onehot_y=True, softmax=True)(logits, label)).backward()
        for found, parameter in zip(flattening, network.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, atol=1e-6, rtol=1e-4)

    def test_training_stays_at_the_floor(self) -> None:
        found: dict[str, list[float]] = {"plain": [], "floor": []}
        for name, losses in found.items():
            trainer = trainer_of([LossFloor(1.6)] if name == "floor" else [], learner(), 40)

            def record(engine: Any, losses: list[float] = losses) -> None:
                losses.append(float(engine.state.output[0]["loss"]))

            trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
            trainer.run()
        assert np.mean(found["plain"][-10:]) < 1.5
        assert np.mean(found["floor"][-10:]) == pytest.approx(1.6, abs=0.05)

    def test_refusal(self) -> None:
        with pytest.raises(InputError, match="alpha must be above 0"):
            LossFloor(0)


class Seen(nn.Module):
    """A discriminator that remembers what it is shown, by the sum of the reference's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 1, 1)
        self.shown: list[Tensor] = []

    def forward(self, pairs: Tensor) -> Tensor:
        self.shown.append(pairs.detach())
        logits: Tensor = self.layer(pairs)
        return logits


class Agreement(nn.Module):
    """A discriminator that reads the mean probability of the reference alone."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        agreement = (pairs[:, :3] * pairs[:, 3:]).sum(dim=1).mean(dim=(1, 2))
        logits: Tensor = self.line(10 * agreement[:, None])
        return logits


def min_max(weight: float = 0.1, discriminator: nn.Module | None = None, **options: Any) -> AdversarialRegularisation:
    with undisturbed():
        torch.manual_seed(1)
        discriminator = discriminator or PatchDiscriminator(2, 8, 6, num_layers_d=1, norm="INSTANCE", dropout=0.1)
    return AdversarialRegularisation(discriminator, held_out(), weight, **options)


class TestAdversarialRegularisation:
    def test_without_weight_it_is_the_plain_training_bit_for_bit(self) -> None:
        trainer = trainer_of([min_max(0)])
        trainer.run()
        assert same(weights(trainer.network), plain_weights())
        with_weight = trainer_of([min_max(0.5)])
        with_weight.run()
        assert not same(weights(with_weight.network), plain_weights())

    def test_the_discriminator_sees_members_and_auxiliary_cases_only(self) -> None:
        """A reference is told by its counts of classes, which flips do not change."""
        discriminator = Seen()
        trainer_of([min_max(0.1, discriminator)], epochs=3).run()

        def counts(labels: Sequence[Tensor]) -> set[tuple[int, ...]]:
            return {tuple(int((label == c).sum()) for c in range(3)) for label in labels}

        shown = {tuple(map(int, item[3:].sum(dim=(1, 2)))) for pairs in discriminator.shown for item in pairs}
        members, others = (counts([case["label"] for case in group]) for group in (MEMBERS, HELD_OUT))
        assert shown == members | others
        assert not shown & (counts([case["label"] for case in OTHERS]) - members - others)

    @pytest.mark.parametrize("gain", ["log", "probability"])
    def test_what_is_minimised(self, gain: Any) -> None:
        """The discriminator tells the share of class 1 in the reference: its logits are known."""
        discriminator = Seen()
        with torch.no_grad():
            discriminator.layer.weight.zero_()[0, 4] = 10.0
            discriminator.layer.bias.fill_(-3.0)
        term = min_max(0.7, discriminator, gain=gain, learning_rate=0.0)
        found: list[float] = []
        trainer = trainer_of([term], epochs=1)
        trainer.add_event_handler(
            IterationEvents.LOSS_COMPLETED,
            lambda: found.append(float(trainer.state.output["loss"] - trainer.state.output["logged_loss"])),
        )
        labels: list[Tensor] = []
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: labels.append(trainer.state.batch["label"]))
        trainer.run()
        for value, label in zip(found, labels, strict=True):
            z = 10 * (label == 1).float().mean(dim=(1, 2, 3)) - 3
            expected = (F.logsigmoid(z) if gain == "log" else z.sigmoid()).mean()
            assert value == pytest.approx(0.7 * float(expected), abs=1e-5)
        assert 0 <= trainer.state.metrics["discriminator_accuracy"] <= 1

    def test_a_large_weight_takes_the_advantage_away(self) -> None:
        """The discriminator reads the mean probability of the reference, and cannot learn cases by heart."""
        gaps, accuracies = [], []
        for weight in (0.0, 5.0):
            network = learner()
            trainer = trainer_of([min_max(weight, Agreement(), learning_rate=0.1, steps=2)], network, 40)
            trainer.run()
            gaps.append(np.mean(log_likelihoods(network, MEMBERS)) - np.mean(log_likelihoods(network, OTHERS)))
            accuracies.append(trainer.state.metrics["discriminator_accuracy"])
        assert gaps[0] > 0.4
        assert accuracies[0] > 0.9
        assert gaps[1] < gaps[0] / 3
        assert accuracies[1] < 0.75

    def test_it_resumes(self, tmp_path: Path) -> None:
        check_resumes(lambda network: min_max(0.5), tmp_path, 4, 2)

    @pytest.mark.parametrize(("options", "message"), [
        ({"weight": -1}, "weight must be at least 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"gain": "sum"}, "gain must be log or probability"),
    ])  # fmt: skip
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            min_max(**options)


def distillation(temperature: float | None = None, teacher_epochs: int = 2, **options: Any) -> Distillation:
    with undisturbed():
        fresh = small_network(seed=9)
    return Distillation(held_out(transform=KEEP), fresh, teacher_epochs, temperature=temperature, **options)


class TestDistillation:
    @pytest.mark.parametrize("temperature", [None, 3.0])
    def test_the_network_starts_again_and_sees_no_member(self, temperature: float | None) -> None:
        defence = distillation(temperature)
        seen: dict[int, list[Tensor]] = {}
        states: list[tuple[int, float]] = []
        network = small_network()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        scheduler = defence.lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        trainer = trainer_of([defence], network, epochs=4, optimizer=optimizer)
        network.register_forward_hook(
            lambda module, inputs, _: seen.setdefault(trainer.state.epoch, []).append(inputs[0])
        )
        trainer.add_event_handler(
            Events.EPOCH_STARTED, lambda: states.append((len(optimizer.state), optimizer.param_groups[0]["lr"]))
        )
        at_switch: list[dict[str, Tensor]] = []
        trainer.add_event_handler(
            Events.EPOCH_STARTED, lambda: at_switch.append(weights(network)) if trainer.state.epoch == 3 else None
        )
        hidden: list[bool] = []
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: hidden.append(same(weights(network), weights(defence.fresh)))
        )
        trainer.run()
        assert hidden == [True, True, False, False]  # nothing can save the teacher
        assert same(at_switch[0], weights(defence.fresh))
        assert states == [(0, 0.01), (4, 0.005), (0, 0.01), (4, 0.005)]
        sums = [round(float(case["image"].sum()), 3) for case in HELD_OUT]
        for epoch, images in seen.items():
            shown = {round(float(image.sum()), 3) for image in torch.cat(images)}
            assert len(images) == 2
            assert (shown <= set(sums)) == (epoch > 2)

    def test_the_teacher_is_the_plain_training(self) -> None:
        defence = distillation(teacher_epochs=4)
        trainer_of([defence], epochs=5).run()
        assert defence.teacher is not None
        assert same(weights(defence.teacher), plain_weights(4))

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    @pytest.mark.parametrize("temperature", [None, 1.0, 4.0])
    def test_the_loss(self, activation: Any, temperature: float | None) -> None:
        """Against the definitions, in numpy."""
        defence = distillation(temperature, 1, activation=activation)
        softmax = activation == "softmax"
        loss = DiceCELoss(to_onehot_y=True, softmax=True) if softmax else DiceCELoss(sigmoid=True)
        trainer = trainer_of([defence], epochs=2, loss_function=lambda p, y: loss(p, y if softmax else y.expand_as(p)))
        checked = []

        def check(engine: Any) -> None:
            if engine.state.epoch == 2:
                output = engine.state.output
                assert defence.teacher is not None
                with torch.no_grad():
                    teacher = defence.teacher(output["image"]).double()
                student = output["pred"].detach().double()
                if temperature is None:
                    hard = teacher.argmax(dim=1, keepdim=True) if softmax else (teacher.sigmoid() > 0.5).double()
                    assert torch.equal(output["label"], hard.to(output["label"].dtype))
                    expected = loss(student, hard)
                elif softmax:
                    t, s = (v.div(temperature).softmax(dim=1) for v in (teacher, student))
                    expected = temperature**2 * (t * (t.log() - s.log())).sum(dim=1).mean()
                else:
                    t, s = (v.div(temperature).sigmoid() for v in (teacher, student))
                    divergence = t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()
                    expected = temperature**2 * divergence.mean()
                assert float(output["loss"]) == pytest.approx(float(expected), rel=1e-4)
                checked.append(True)

        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, check)
        trainer.run()
        assert len(checked) == 2

    @pytest.mark.parametrize("killed_after", [1, 2, 3])
    def test_it_resumes(self, killed_after: int, tmp_path: Path) -> None:
        check_resumes(lambda network: distillation(2.0), tmp_path, 4, killed_after)

    @pytest.mark.parametrize(("options", "message"), [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"teacher_epochs": 0}, "teacher_epochs must be at least 1"),
    ])  # fmt: skip
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            distillation(**options)

    def test_the_teacher_must_end_before_the_training(self) -> None:
        with pytest.raises(InputError, match="teacher_epochs must be less than the epochs of the training, 2, got 2"):
            trainer_of([distillation()], epochs=2).run()


class TestWeightAveraging:
    def test_the_network_holds_the_average_between_epochs(self) -> None:
        network = small_network()
        trainer = trainer_of([WeightAveraging(network, momentum=0.3)], network, epochs=3)
        average = [value.clone() for value in network.parameters()]
        steps: list[list[Tensor]] = []
        trainer.add_event_handler(  # before the handlers of the iteration's end
            IterationEvents.MODEL_COMPLETED, lambda: steps.append([p.detach().clone() for p in network.parameters()])
        )

        def check() -> None:
            for step in steps:
                average[:] = [0.7 * a + 0.3 * p for a, p in zip(average, step, strict=True)]
            steps.clear()
            for mean, held in zip(average, network.parameters(), strict=True):
                torch.testing.assert_close(held, mean)

        trainer.add_event_handler(Events.EPOCH_COMPLETED, check)
        trainer.run()
        check()

    def test_the_training_does_not_notice(self) -> None:
        network = small_network()
        defence = WeightAveraging(network)
        trainer_of([defence], network).run()
        assert same(defence.state_dict()["trained"], plain_weights())
        assert not same(weights(network), plain_weights())

    def test_it_resumes(self, tmp_path: Path) -> None:
        check_resumes(lambda network: WeightAveraging(network, 0.2), tmp_path, 4, 2)

    @pytest.mark.parametrize("momentum", [0.0, 1.0, -0.1])
    def test_refusals(self, momentum: float) -> None:
        with pytest.raises(InputError, match="momentum must be in"):
            WeightAveraging(small_network(), momentum)


class TestLaplace:
    def test_one_weight(self) -> None:
        """Logistic regression of one voxel: precision and mean prediction in closed form, and by integration."""
        network = LaplaceNetwork(nn.Conv2d(1, 1, 1)).eval()
        weight, bias = 1.5, -0.4
        layer = network.layer
        assert isinstance(layer, nn.Conv2d)
        nn.init.constant_(layer.weight, weight)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, bias)
        x = torch.tensor([0.3, -1.2, 2.0, 0.7]).view(4, 1, 1, 1)
        LaplaceFit(prior_precision=0.5, activation="sigmoid").fit(network, [x[:3], x[3:]])
        values = x.flatten().double().numpy()
        p = expit(weight * values + bias)
        variance = 1 / (0.5 + (p * (1 - p) * values**2).sum()), 1 / (0.5 + (p * (1 - p)).sum())
        assert float(network.weight_variance) == pytest.approx(variance[0], rel=1e-5)
        assert float(network.bias_variance) == pytest.approx(variance[1], rel=1e-5)
        for value in (-3.0, 0.2, 4.0):
            with torch.no_grad():
                found = float(network(torch.full((1, 1, 1, 1), value)).sigmoid())
            mean, deviation = weight * value + bias, math.sqrt(variance[0] * value**2 + variance[1])
            assert found == pytest.approx(expit(mean / math.sqrt(1 + math.pi / 8 * deviation**2)), rel=1e-5)
            exact, _ = quad(
                lambda z, m=mean, s=deviation: expit(m + s * z) * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), -9, 9
            )
            assert found == pytest.approx(exact, abs=0.015)

    @pytest.mark.parametrize("last", [
        nn.Conv2d(4, 3, 3, padding=1), nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        nn.Conv2d(4, 3, 3, padding=1, bias=False),
    ], ids=["convolution", "transposed", "without bias"])  # fmt: skip
    def test_against_the_jacobian(self, last: nn.Module) -> None:
        """Gauss-Newton diagonal, and variance of each logit, from the Jacobian of the logits, written out."""
        torch.manual_seed(0)
        network = LaplaceNetwork(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), last)).double().eval()
        images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
        LaplaceFit(prior_precision=0.2).fit(network, [images])

        parameters = dict(last.named_parameters())

        def jacobian(image: Tensor) -> dict[str, Tensor]:
            features = network.observe(image[None])[1].detach()
            result = torch.func.jacrev(lambda p: torch.func.functional_call(last, p, (features,))[0])(parameters)
            return {name: value.detach() for name, value in result.items()}

        for name, value in parameters.items():
            precision = torch.full_like(value, 0.2)
            for image in images:
                p = network.observe(image[None])[0][0].softmax(dim=0).detach()
                square = jacobian(image)[name].square()
                rows = (p * (1 - p)).view(*p.shape, *[1] * value.ndim)
                precision += (rows * square).sum(dim=(0, 1, 2)) / p[0].numel()
            torch.testing.assert_close(network.variances[name], 1 / precision.detach())
        expected = sum(
            (jacobian(images[0])[name].square() * variance).flatten(3).sum(dim=3)
            for name, variance in network.variances.items()
        )
        with torch.no_grad():
            plain, found = network.observe(images[:1])[0], network(images[:1])
        torch.testing.assert_close(found[0], plain[0] / (1 + math.pi / 8 * expected).sqrt())

    @pytest.mark.parametrize("num_res_units", [0, 1])
    def test_without_a_fit_it_is_the_network(self, num_res_units: int) -> None:
        options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
        network = LaplaceNetwork("UNet", num_res_units=num_res_units, norm="INSTANCE", **options).eval()
        image = torch.rand(2, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(network(image), network.network(image))
            LaplaceFit().fit(network, [image])
            assert not torch.equal(network(image), network.network(image))
            network.train()
            assert torch.equal(network(image), network.network(image))

    def test_it_is_fitted_at_the_end_and_disturbs_nothing(self) -> None:
        network = LaplaceNetwork(small_network())
        trainer = trainer_of([LaplaceFit()], network)
        trainer.run()
        found = weights(network.network)
        assert same(found, plain_weights())
        assert all(float(value.min()) > 0 for value in network.variances.values())

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match="last_layer must be the layer that gives the logits, got '0'"):
            LaplaceFit().fit(LaplaceNetwork(small_network(), last_layer="0"), [torch.rand(1, 1, 8, 8)])
        with pytest.raises(InputError, match="last_layer must be a convolution or Linear of the network, got '7'"):
            LaplaceNetwork(small_network(), last_layer="7")
        with pytest.raises(InputError, match="prior_precision must be above 0"):
            LaplaceFit(0)
        with pytest.raises(InputError, match="network_def must be a LaplaceNetwork"):
            trainer_of([LaplaceFit()]).run()


def monitor(**options: Any) -> LeakageMonitor:
    return LeakageMonitor(MEMBERS, OTHERS, KEEP, SimpleInferer(), **options)


class TestLeakageMonitor:
    def test_the_training_does_not_notice(self) -> None:
        trainer = trainer_of([monitor(interval=2)])
        trainer.run()
        assert same(weights(trainer.network), plain_weights())

    def test_what_is_measured(self) -> None:
        """The AUC is scikit-learn's, of the mean log-likelihood, computed anew."""
        network = learner()
        defence = monitor()
        metrics: dict[str, Any] = {}
        trainer = trainer_of([], network, epochs=20)
        # A logger that is attached before still finds this epoch's numbers.
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: metrics.update(trainer.state.metrics))
        defence.attach(trainer)
        trainer.run()
        scores = [*log_likelihoods(network, MEMBERS), *log_likelihoods(network, OTHERS)]
        expected = roc_auc_score([1] * 8 + [0] * 8, scores)
        assert expected > 0.6
        assert metrics["leakage_auc"] == pytest.approx(expected)
        assert metrics["leakage_auc_low"] <= metrics["leakage_auc"] <= metrics["leakage_auc_high"]
        assert metrics["signal_gap"] == pytest.approx(np.mean(scores[:8]) - np.mean(scores[8:]), abs=1e-5)
        assert metrics["dice_gap"] == pytest.approx(metrics["member_dice"] - metrics["nonmember_dice"])
        assert [entry["epoch"] for entry in defence.history] == list(range(1, 21))

    def test_the_interval_is_by_patient(self) -> None:
        """Cases of a patient that are copies of each other say no more than one."""
        from monai_mia.defences.monitor import _auc_interval

        rng = np.random.default_rng(0)
        a, b = rng.normal(0.5, 1, 15), rng.normal(0, 1, 15)
        ids = [f"p{n}" for n in range(15)]
        single = _auc_interval(a, b, ids, ids, 2000)
        copies = _auc_interval(np.tile(a, 4), np.tile(b, 4), ids * 4, ids * 4, 2000)
        assert single == pytest.approx(copies, abs=0.02)
        naive = _auc_interval(
            np.tile(a, 4), np.tile(b, 4), [f"{n}" for n in range(60)], [f"{n}" for n in range(60)], 2000
        )
        assert naive[1] - naive[0] < 0.7 * (single[1] - single[0])

    def stopping(self, aucs: list[float], **options: Any) -> tuple[LeakageMonitor, SupervisedTrainer, list[Any]]:
        defence = monitor(stop_above=0.7, **options)
        found = iter(aucs)
        defence.measure = lambda *_: {"leakage_auc": next(found)}  # type: ignore[method-assign]
        trainer = trainer_of([], epochs=8)
        kept: list[Any] = []
        defence.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: kept.append(weights(trainer.network)))
        return defence, trainer, kept

    def test_it_stops_and_keeps_the_last_epoch_below(self) -> None:
        _, trainer, kept = self.stopping([0.5, 0.69, 0.71])
        trainer.run()
        assert trainer.state.epoch == 3
        assert trainer.state.stopped_by == "LeakageMonitor"
        assert same(weights(trainer.network), kept[1])
        assert same(kept[2], kept[1])  # what validates or saves at the end of the epoch has it already
        assert same(kept[1], plain_weights(2))

    def test_it_stops_again_if_it_is_resumed_after(self, tmp_path: Path) -> None:
        for aucs in ([0.5, 0.9], []):
            defence, trainer, _ = self.stopping(aucs)
            objects = {"network": trainer.network, "optimizer": trainer.optimizer, "defence": defence}
            Checkpointer(tmp_path / "checkpoint.pt", objects, "key").attach(trainer)
            trainer.run()
            assert trainer.state.stopped_by == "LeakageMonitor"
            assert trainer.state.epoch == 2
        assert len(defence.history) == 2

    def test_it_refuses_to_release_what_leaks_from_the_start(self) -> None:
        _, trainer, _ = self.stopping([0.9])
        with pytest.raises(InputError, match=r"stop_above must be at least the AUC of the first measurement, 0\.900"):
            trainer.run()

    def test_it_resumes(self, tmp_path: Path) -> None:
        defence = check_resumes(lambda network: monitor(stop_above=1.0), tmp_path, 4, 2)
        assert [entry["epoch"] for entry in defence.history] == [1, 2, 3, 4]

    @pytest.mark.parametrize(("options", "message"), [
        ({"stop_above": 0.0}, "stop_above must be an AUC"),
        ({"n_cases": 0}, "n_cases and interval must be at least 1"),
        ({"nonmembers": []}, "members and nonmembers must be cases, got 8 and 0"),
    ])  # fmt: skip
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        given = {"members": MEMBERS, "nonmembers": OTHERS, "transform": KEEP, "inferer": SimpleInferer(), **options}
        with pytest.raises(InputError, match=message):
            LeakageMonitor(**given)

    def test_an_unknown_signal(self) -> None:
        with pytest.raises(InputError, match=r"signal must be one of .*log_likelihood"):
            monitor(signal="brightness").measure(small_network())


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cases of a study, and held-out ones."""
    found = [
        [{key: case[key] for key in ("case_id", "patient_id", "image", "label")} for case in phantom_cohort(
            tmp_path_factory.mktemp("patients"), n_patients=n, size=16, seed=seed)]
        for n, seed in ((4, 0), (2, 1))
    ]  # fmt: skip
    return found[0], found[1]


class TestOverlays:
    def test_they_are_found(self) -> None:
        assert {path.stem for path in TRAINING_OVERLAYS} >= {
            "averaging", "crop", "cutmix", "distillation", "distillation_hard", "dropout", "early_stop", "l2",
            "label_smoothing", "laplace", "leakage_monitor", "min_max", "mixup", "relax_loss", "splice",
        }  # fmt: skip

    @pytest.mark.parametrize("overlay", TRAINING_OVERLAYS, ids=lambda path: path.stem)
    def test_it_trains_in_a_study(self, overlay: Path, patients: Any, tmp_path: Path) -> None:
        study = small_study(
            patients[0],
            tmp_path,
            audit=Audit([GlobalLoss()]),
            shadows=0,
            train=["configs/train.json", str(overlay)],
            train_overrides=options_of(overlay, patients[1]),
            inference=inference_files(overlay),
        )
        design, _ = study.record()
        assert len(study.folder.table(design.model_ids).case_ids) == len(patients[0])

    @pytest.mark.parametrize("overlay", TRAINING_OVERLAYS, ids=lambda path: path.stem)
    def test_it_trains_on_slices(self, overlay: Path, patients: Any, tmp_path: Path) -> None:
        """The 2D bundle: a batch is of slices of volumes, and the inferer is another."""
        study = small_study(
            patients[0],
            tmp_path,
            bundle=str(SLICES),
            audit=Audit([GlobalLoss()]),
            shadows=0,
            train=["configs/train.json", str(overlay)],
            train_overrides={**options_of(overlay, patients[1]), **THIN, "slices": 2},
            inference=inference_files(overlay),
            inference_overrides=THIN,
        )
        design, _ = study.record()
        assert len(study.folder.table(design.model_ids).case_ids) == len(patients[0])

    @pytest.mark.parametrize("bundle", [PHANTOM, HIPPOCAMPUS, SLICES], ids=lambda path: path.name)
    @pytest.mark.parametrize("overlay", TRAINING_OVERLAYS, ids=lambda path: path.stem)
    def test_it_changes_the_config_of_each_bundle(self, overlay: Path, bundle: Path) -> None:
        """Network, loss and number of epochs of each bundle, as the overlay's comment says."""
        plain, defended = (
            BundleConfig(str(bundle), ("configs/train.json", *more)).parser([]) for more in ((), (str(overlay),))
        )
        epochs = plain.get_parsed_content("train#trainer#max_epochs")
        factor = {"early_stop": 0.5, "crop": 3, "distillation": 2, "distillation_hard": 2}.get(overlay.stem, 1)
        assert defended.get_parsed_content("train#trainer#max_epochs") == factor * epochs
        network = defended.get_parsed_content("network_def")
        state = network.state_dict() if overlay.stem != "laplace" else network.network.state_dict()
        shapes = {name: value.shape for name, value in plain.get_parsed_content("network_def").state_dict().items()}
        assert {name: value.shape for name, value in state.items()} == shapes
        assert callable(defended.get_parsed_content("loss"))

    @pytest.mark.parametrize("overlay", ["averaging", "distillation", "min_max"])
    def test_a_study_resumes_its_state(
        self, overlay: str, patients: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = OVERLAYS / f"{overlay}.yaml"
        options = {**options_of(path, patients[1]), "epochs": 2}
        options |= {} if overlay == "distillation" else {"train#trainer#max_epochs": 3}
        bundle = BundleConfig(str(PHANTOM), ("configs/train.json", str(path)), options)

        def training(name: str) -> Training:
            folder = tmp_path / name
            return Training(
                bundle, patients[0], patients[0][:3], "target", 1, str(folder), str(folder / "p.json"), "k", overlay
            )

        training("whole").run()
        save = Checkpointer.save

        def kill(self: Checkpointer, engine: Any) -> None:
            save(self, engine)
            if engine.state.epoch == 2:
                raise Kill

        with monkeypatch.context() as context:
            context.setattr(Checkpointer, "save", kill)
            with pytest.raises(Kill):
                training("killed").run()
        training("killed").run()
        whole, resumed = (torch.load(training(name).path, weights_only=True) for name in ("whole", "killed"))
        assert same(whole, resumed)

    def test_weights_trained_with_dropout_load_in_the_plain_network(self, tmp_path: Path) -> None:
        bundle = BundleConfig(str(PHANTOM), ("configs/train.json", str(OVERLAYS / "dropout.yaml")))
        network = bundle.parser([]).get_parsed_content("network_def")
        assert any(isinstance(module, nn.Dropout) and module.p == 0.2 for module in network.modules())
        torch.save(network.state_dict(), tmp_path / "model.pt")
        plain = BundleConfig(str(PHANTOM), ("configs/inference.json",)).parser([]).get_parsed_content("network_def")
        load_weights(plain, tmp_path / "model.pt", str(PHANTOM))

    def test_crops_are_half_the_inference_window(self) -> None:
        parser = BundleConfig(str(HIPPOCAMPUS), ("configs/train.json", str(OVERLAYS / "crop.yaml"))).parser([])
        last = parser.get_parsed_content("train#random_transforms")[-1]
        item = {"image": torch.rand(1, 48, 64, 48), "label": torch.rand(1, 48, 64, 48)}
        assert last(item)["image"].shape == last(item)["label"].shape == (1, 24, 32, 24)

    @pytest.mark.parametrize("overlay", ["min_max", "distillation", "distillation_hard", "leakage_monitor"])
    def test_without_auxiliary_cases_nothing_is_trained(self, overlay: str, patients: Any, tmp_path: Path) -> None:
        path = OVERLAYS / f"{overlay}.yaml"
        study = small_study(
            patients[0],
            tmp_path,
            audit=Audit([GlobalLoss()]),
            shadows=0,
            train=["configs/train.json", str(path)],
            train_overrides=options_of(path, []),
        )
        with pytest.raises(InputError, match="In a study set held_out, the share of patients that is held out"):
            study.record()
        assert not list(tmp_path.rglob("*.pt"))

    def test_in_a_bundle_alone(self, tmp_path: Path) -> None:
        """As ``monai.bundle run`` builds it: with the bundle's metrics, validation and saver."""
        for overlay in ("mixup", "leakage_monitor", "averaging"):
            parser = ConfigParser()
            parser.read_config([str(PHANTOM / "configs/train.json"), str(OVERLAYS / f"{overlay}.yaml")])
            for name, value in {
                **SMALL,
                "bundle": str(PHANTOM),
                "ckpt_dir": str(tmp_path / overlay),
                "cohort": phantom_cohort(tmp_path / "cohort", n_patients=5, size=16, seed=0),
                "train#trainer#max_epochs": 1,
                "val_interval": 1,
                "validate#inferer#roi_size": [16, 16, 16],
                **({"held_out": "@validate#dataset#data"} if overlay == "leakage_monitor" else {}),
            }.items():
                parser[name] = value
            trainer = parser.get_parsed_content("train#trainer")
            trainer.run()
            saved = torch.load(tmp_path / overlay / "model.pt", weights_only=True)
            assert same(saved, weights(trainer.network)), overlay
            if overlay == "leakage_monitor":
                assert 0 <= trainer.state.metrics["leakage_auc"] <= 1
