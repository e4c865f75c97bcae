# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Generators of scans: MONAI networks that learn image and reference together, and what they are trained and drawn by.

A scan and its reference are one volume of several channels, the image and one channel a class, cut into blocks whose
voxels are channels: so a small network on a coarse grid makes a fine scan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from monai.config import KeysCollection
from monai.engines import DiffusionPrepareBatch
from monai.inferers import DiffusionInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.utils import pixelshuffle, pixelunshuffle
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_mia.errors import InputError

__all__ = ["DiffusionGenerator", "GanGenerator", "JoinScand", "ScanFormat", "ScanGenerator"]


@dataclass(frozen=True)
class ScanFormat:
    """How a scan and its reference are one volume.

    Attributes:
        n_labels: number of classes, background included.
        spatial_size: of a scan, voxels, each a multiple of ``patch``.
        patch: edge of a block whose voxels become channels; 1 keeps the grid.
    """

    n_labels: int
    spatial_size: Sequence[int]
    patch: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be cut into blocks."""
        if self.n_labels < 2:
            raise InputError(f"n_labels must be at least 2, background included, got {self.n_labels}.")
        if self.patch < 1 or any(edge < 1 or edge % self.patch for edge in self.spatial_size):
            raise InputError(
                f"spatial_size must be multiples of patch={self.patch}, got {list(self.spatial_size)}. "
                "Choose other --spatial_size."
            )

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.spatial_size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the joint volume: ``(channels, *grid)``."""
        channels = (1 + self.n_labels) * self.patch**self.spatial_dims
        return (channels, *(edge // self.patch for edge in self.spatial_size))

    def coarse(self, channels: int, factor: int) -> tuple[int, ...]:
        """Shape of a grid that is coarser than the joint volume's by ``factor``, with so many channels.

        Raises:
            InputError: the grid is no multiple of ``factor``.
        """
        if any(edge % factor for edge in self.shape[1:]):
            raise InputError(
                f"spatial_size must be multiples of {factor * self.patch}, got {list(self.spatial_size)}. "
                "Choose other --spatial_size."
            )
        return (channels, *(edge // factor for edge in self.shape[1:]))

    def join(self, image: Tensor, label: Tensor) -> Tensor:
        """One volume of a scan.

        Args:
            image: shape ``(1, *spatial_size)``, in [-1, 1].
            label: shape ``(1, *spatial_size)``, integers in [0, n_labels).

        Returns:
            Shape :attr:`shape`, float32, in [-1, 1].
        """
        found = label.long()
        if int(found.max()) >= self.n_labels or int(found.min()) < 0:
            raise InputError(
                f"labels must be integers in [0, {self.n_labels}), got {int(found.min())} to {int(found.max())}."
            )
        classes = nn.functional.one_hot(found[0], self.n_labels).movedim(-1, 0).float()
        joint = torch.cat([image.float(), 2 * classes - 1])[None]
        return joint[0] if self.patch == 1 else pixelunshuffle(joint, self.spatial_dims, self.patch)[0]

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """The scan and the reference of a volume; the inverse of :meth:`join`.

        Args:
            joint: shape :attr:`shape`.

        Returns:
            Image, shape ``(1, *spatial_size)``, in [-1, 1]; label of the same shape, integers, the class whose channel
            is largest.
        """
        volume = joint if self.patch == 1 else pixelshuffle(joint[None], self.spatial_dims, self.patch)[0]
        return volume[:1].clamp(-1, 1), volume[1:].argmax(dim=0, keepdim=True)


class JoinScand(MapTransform):  # type: ignore[misc]
    """Join image and label into one volume, in the image's place; nothing else of the item is kept.

    Args:
        scan_format: how.
        keys: of image and label.
    """

    def __init__(self, scan_format: ScanFormat, keys: KeysCollection = ("image", "label")) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise InputError(f"keys must be those of image and label, got {self.keys}.")
        self.scan_format = scan_format

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """An item of the image alone."""
        image, label = (convert_to_tensor(data[key], track_meta=False) for key in self.keys)
        return {self.keys[0]: self.scan_format.join(image, label)}


class ScanGenerator(Protocol):
    """What a generator study trains and draws from."""

    #: What it is, in a report.
    kind: str

    def engine(self, loader: Any, device: torch.device) -> Engine:
        """The trainer, and nothing trained yet."""

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must hold, after :meth:`engine`."""

    def loss(self, output: Any) -> float:
        """The loss of an iteration, from the trainer's output."""

    def sample(self, count: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Joint volumes, shape ``(count, *shape)``; draws are torch's global ones."""

    def recipe(self) -> str:
        """All that a training depends on, but for its epochs."""

    def drawing(self) -> str:
        """All that a draw depends on besides."""


def _described(*parts: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+|, max_epochs=\d+|max_epochs=\d+, ", "", repr(parts))


class _CleanPrepareBatch(DiffusionPrepareBatch):  # type: ignore[misc]
    """As MONAI's, for a network that predicts the scan itself: of few blocks' channels, noise could not be told."""

    def get_target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The scan."""
        return images


class DiffusionGenerator:
    """A diffusion model: scans emerge from noise, step by step.

    The network predicts the scan that is under the noise (``prediction_type: sample`` of both schedulers), not the
    noise: that is smooth, so few channels do.

    Args:
        network: such as ``monai.networks.nets.DiffusionModelUNet``.
        optimizer: makes the optimizer of the parameters.
        trainer: makes a ``monai.engines.SupervisedTrainer``.
        scheduler: adds noise in training, such as ``monai.networks.schedulers.DDPMScheduler``.
        sampler: takes it away, such as ``monai.networks.schedulers.DDIMScheduler``.
        steps: of the sampler.
        momentum: of the moving average of weights from which scans are drawn, in (0, 1).
    """

    kind = "diffusion model"

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., Any],
        trainer: Callable[..., Engine],
        scheduler: Any,
        sampler: Any,
        steps: int = 50,
        momentum: float = 0.005,
    ) -> None:
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}.")
        for name, item in (("scheduler", scheduler), ("sampler", sampler)):
            if item.prediction_type != "sample":
                raise InputError(f"prediction_type of {name} must be 'sample', got {str(item.prediction_type)!r}.")
        self.network, self.make_optimizer, self.make_trainer = network, optimizer, trainer
        self.scheduler, self.sampler, self.steps, self.momentum = scheduler, sampler, steps, momentum

    def engine(self, loader: Any, device: torch.device) -> Engine:
        """A trainer that adds noise and has the network undo it."""
        network = self.network.to(device)
        self.average = EMAHandler(network, momentum=self.momentum)
        self.optimizer = self.make_optimizer(network.parameters())
        engine = self.make_trainer(
            device=device,
            train_data_loader=loader,
            network=network,
            optimizer=self.optimizer,
            prepare_batch=_CleanPrepareBatch(self.scheduler.num_train_timesteps),
            inferer=DiffusionInferer(self.scheduler),
            decollate=False,
        )
        self.average.attach(engine)
        return engine

    def state(self) -> dict[str, Any]:
        """Network, average, optimizer."""
        return {"network": self.network, "average": self.average.ema_model, "optimizer": self.optimizer}

    def loss(self, output: Any) -> float:
        """Mean square error of the scan."""
        return float(output["loss"].detach())

    @torch.no_grad()
    def sample(self, count: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Draw from the averaged network; the scheduler's steps are MONAI's."""
        network = self.average.ema_model.eval()
        noise = torch.randn(count, *shape, device=device)
        self.sampler.set_timesteps(self.steps, device=device)
        drawn: Tensor = DiffusionInferer(self.sampler).sample(noise, network, verbose=False)
        return drawn

    def recipe(self) -> str:
        """Networks and options."""
        noise = (self.scheduler.prediction_type, [float(a) for a in self.scheduler.alphas_cumprod[:: 1 << 4]])
        return _described("diffusion", self.network, self.make_optimizer, self.make_trainer, noise, self.momentum)

    def drawing(self) -> str:
        """The sampler and its steps."""
        return _described(type(self.sampler).__name__, self.steps)


class GanGenerator:
    """A GAN: one network makes scans, another tells them from real ones, and each learns from the other.

    Args:
        network: makes scans from latent codes, such as ``monai.networks.nets.Generator``; a tanh follows.
        discriminator: tells scans, such as ``monai.networks.nets.Discriminator`` with ``last_act: null``.
        optimizer: makes the optimizer of the generating network's parameters.
        discriminator_optimizer: the same, of the discriminator's.
        trainer: makes a ``monai.engines.GanTrainer``.
        latent_size: numbers in a latent code.
        criterion: of ``monai.losses.PatchAdversarialLoss``. Its ``hinge`` goes through a tanh, which may leave a
            discriminator that was fooled without a gradient for a while.
        noise: standard deviation of what is added to scans before the discriminator sees them, at least 0: it has few
            scans to learn from, and would know them by heart.
        momentum: of the moving average of weights from which scans are drawn, in (0, 1).
    """

    kind = "GAN"

    def __init__(
        self,
        network: nn.Module,
        discriminator: nn.Module,
        optimizer: Callable[..., Any],
        discriminator_optimizer: Callable[..., Any],
        trainer: Callable[..., Engine],
        latent_size: int = 64,
        criterion: str = "least_squares",
        noise: float = 0.1,
        momentum: float = 0.005,
    ) -> None:
        if noise < 0:
            raise InputError(f"noise must be at least 0, got {noise}.")
        self.network, self.discriminator = network, discriminator
        self.make_optimizers = (optimizer, discriminator_optimizer)
        self.make_trainer = trainer
        self.latent_size, self.noise, self.momentum = latent_size, noise, momentum
        self.criterion = PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=True)

    def engine(self, loader: Any, device: torch.device) -> Engine:
        """A trainer of both networks in turn."""
        network, discriminator = self.network.to(device), self.discriminator.to(device)
        self.average = EMAHandler(network, momentum=self.momentum)
        self.optimizers = [
            make(part.parameters()) for make, part in zip(self.make_optimizers, (network, discriminator), strict=True)
        ]
        engine = self.make_trainer(
            device=device,
            train_data_loader=loader,
            g_network=network,
            g_optimizer=self.optimizers[0],
            g_loss_function=self._fooling_loss,
            d_network=discriminator,
            d_optimizer=self.optimizers[1],
            d_loss_function=self._telling_loss,
            g_inferer=_bounded,
            d_prepare_batch=_reals,
            latent_shape=self.latent_size,
            decollate=False,
        )
        self.average.attach(engine)
        return engine

    def _judged(self, scans: Tensor) -> Tensor:
        verdict: Tensor = self.discriminator(scans + self.noise * torch.randn_like(scans))
        return verdict

    def _fooling_loss(self, fakes: Tensor) -> Tensor:
        loss: Tensor = self.criterion(self._judged(fakes), target_is_real=True, for_discriminator=False)
        return loss

    def _telling_loss(self, fakes: Tensor, reals: Tensor) -> Tensor:
        found: Tensor = self.criterion(self._judged(fakes.detach()), target_is_real=False, for_discriminator=True)
        loss: Tensor = found + self.criterion(self._judged(reals), target_is_real=True, for_discriminator=True)
        return loss / 2

    def state(self) -> dict[str, Any]:
        """Both networks, the average, both optimizers."""
        return {
            "network": self.network,
            "discriminator": self.discriminator,
            "average": self.average.ema_model,
            "optimizer": self.optimizers[0],
            "discriminator_optimizer": self.optimizers[1],
        }

    def loss(self, output: Any) -> float:
        """The discriminator's; it says whether one side has won, not how good scans are."""
        return float(output["d_loss"])

    @torch.no_grad()
    def sample(self, count: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Draw from the averaged network."""
        return _bounded(torch.randn(count, self.latent_size, device=device), self.average.ema_model.eval())

    def recipe(self) -> str:
        """Networks and options."""
        parts = (self.network, self.discriminator, self.make_optimizers, self.make_trainer)
        options = (self.latent_size, self.criterion.criterion, self.noise, self.momentum)
        return _described("gan", *parts, *options)

    def drawing(self) -> str:
        """Nothing."""
        return ""


def _bounded(latents: Tensor, network: nn.Module) -> Tensor:
    scans: Tensor = network(latents).tanh()
    return scans


def _reals(batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **options: Any) -> Tensor:
    """What MONAI's ``GanTrainer`` is shown: its own way wants a tensor, not an item of a data set."""
    image: Tensor = convert_to_tensor(batch["image"], track_meta=False)
    return image.to(device=device, non_blocking=non_blocking, **options)
