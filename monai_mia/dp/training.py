# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The step of patient-level DP-SGD, as the ``iteration_update`` of MONAI's trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data.utils import list_data_collate
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_mia.dp import noise
from monai_mia.dp.accounting import accounted_epsilon, default_delta, noise_multiplier_for
from monai_mia.dp.loader import PatientLoader
from monai_mia.dp.mechanism import ClippedSum
from monai_mia.dp.validation import Patches, validate
from monai_mia.errors import InputError
from monai_mia.signals.release import bare_network

__all__ = ["PatientDPSGD"]

logger = logging.getLogger(__name__)


class PatientDPSGD:
    r"""One step of DP-SGD whose unit is the patient; give it to a ``SupervisedTrainer`` as ``iteration_update``.

    For each patient drawn, the gradient of the mean loss over all their patches, clipped to norm C; the sum over
    patients plus Gaussian noise of standard deviation ``noise_multiplier`` * C, divided by the expected number of
    patients q N; one optimizer step. A draw of nobody is a step of noise alone, and counts. The data loader must be a
    :class:`~monai_mia.dp.PatientLoader`, which knows q and N.

    .. math:: g = \frac{1}{qN} \Bigl(\sum_i \min(1, C / \|g_i\|)\, g_i + \mathcal N(0, \sigma^2 C^2 I)\Bigr)

    Epsilon at the end of each epoch is in ``engine.state.metrics["epsilon"]``, where MONAI's loggers find it. The loss
    that the trainer outputs is of the patients themselves, and not private; neither is a metric on them, a choice of
    the epoch by them, or what preprocessing learned from them.

    Args:
        max_norm: clip norm C of a patient's gradient.
        noise_multiplier: sigma; 0 clips without a guarantee. Or
        target_epsilon: the epsilon at the end of the training, from which sigma is found.
        delta: probability with which the guarantee may fail; by default :func:`~monai_mia.dp.default_delta`.
        patches_per_pass: patches in one backward pass, to save memory; by default all of a patient.
        secure: whether the noise comes from the operating system's generator. False repeats a training by its seed, as
            a study needs; a model that is released needs True.

    Raises:
        InputError: before the first step, if something breaks the bound
            (:func:`~monai_mia.dp.validation.validate`), the epsilon cannot be reached, or delta is not below 1 / N.

    Source: `Abadi et al. (2016) <https://arxiv.org/abs/1607.00133>`_; the patient as the unit is ours.
    """

    def __init__(
        self,
        max_norm: float = 1.0,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        delta: float | None = None,
        patches_per_pass: int | None = None,
        secure: bool = True,
    ) -> None:
        if not (max_norm > 0 and math.isfinite(max_norm)):
            raise InputError(f"max_norm must be positive and finite, got {max_norm}.")
        if (noise_multiplier is None) == (target_epsilon is None):
            raise InputError(
                "one of noise_multiplier and target_epsilon must be given, got "
                + ("neither." if noise_multiplier is None else "both.")
            )
        if noise_multiplier is not None and not noise_multiplier >= 0:
            raise InputError(f"noise_multiplier must be at least 0, got {noise_multiplier}.")
        if target_epsilon is not None and not target_epsilon > 0:
            raise InputError(f"target_epsilon must be positive, got {target_epsilon}.")
        if delta is not None and not 0 < delta < 1:
            raise InputError(f"delta must be in (0, 1), got {delta}.")
        if patches_per_pass is not None and patches_per_pass < 1:
            raise InputError(f"patches_per_pass must be at least 1, got {patches_per_pass}.")
        self.max_norm = max_norm
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.delta = delta
        self.patches_per_pass = patches_per_pass
        self.secure = secure
        #: Steps taken: (noise multiplier, sample rate, number of steps).
        self.history: list[tuple[float, float, int]] = []
        self._sum: ClippedSum | None = None
        self._validated = False
        self._loss = 0.0
        self._about: dict[str, Any] = {}

    def __call__(self, engine: SupervisedTrainer, patients: Sequence[Patches]) -> list[dict[str, Any]]:
        """Take a step.

        Args:
            engine: the trainer.
            patients: those drawn, each a list of patches; may be empty.

        Returns:
            One dictionary with the mean loss of the patients drawn, which is not private.
        """
        total = self._start(engine)
        if patients and not self._validated:
            validate(engine, lambda patches: self._gradient(engine, patches)[0], patients[0])
            self._validated = True
        self.clipped_sum(engine, patients)
        self._step(engine, total)
        engine.state.output = output = [{CommonKeys.LOSS: torch.tensor(self._loss)}]
        return output

    def clipped_sum(self, engine: SupervisedTrainer, patients: Sequence[Patches]) -> list[Tensor]:
        """The sum of these patients' clipped gradients, before noise.

        :func:`monai_mia.studies.dp_audit.sensitivity_audit` measures it.

        Args:
            engine: the trainer.
            patients: each a list of patches.

        Returns:
            One tensor a trainable parameter.
        """
        total = self._start(engine)
        total.begin()
        losses = []
        for patches in patients:
            gradients, loss = self._gradient(engine, patches)
            if math.isfinite(total.add(gradients)) and math.isfinite(loss):
                losses.append(loss)
        self._loss = sum(losses) / len(losses) if losses else self._loss  # of a draw of nobody: the last one's
        return total.total

    @property
    def privacy(self) -> dict[str, Any]:
        """The guarantee so far: epsilon, delta, and all that they follow from; empty before the first step.

        Epsilon is None without noise.
        """
        if not self._about:
            return {}
        epsilon, accountant = accounted_epsilon(self.history, self._about["delta"])
        return {
            "unit": "patient",
            "neighbouring": "add or remove one patient",
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "accountant": accountant,
            "steps": sum(steps for _, _, steps in self.history),
            "secure_noise": self.secure,
            **self._about,
        }

    def state_dict(self) -> dict[str, Any]:
        """The account, so that a resumed training continues it."""
        return {"history": [list(steps) for steps in self.history], "loss": self._loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an account."""
        self.history = [(float(sigma), float(rate), int(steps)) for sigma, rate, steps in state["history"]]
        self._loss = float(state["loss"])

    def _start(self, engine: SupervisedTrainer) -> ClippedSum:
        if self._sum is not None:
            return self._sum
        loader = engine.data_loader
        if not isinstance(loader, PatientLoader):
            raise InputError(
                f"train_data_loader must be a monai_mia.dp.PatientLoader, got {type(loader).__name__}. Only coins "
                "tossed for each patient anew in each step are what the accountant counts."
            )
        sampler = loader.batch_sampler
        n_patients, rate = sampler.n_patients, sampler.sample_rate
        delta = default_delta(n_patients) if self.delta is None else self.delta
        if delta >= 1 / n_patients:
            raise InputError(
                f"delta must be below 1 / {n_patients}, the number of patients, got {delta:g}: otherwise releasing one "
                f"patient's scan would be allowed. Leave it out for {default_delta(n_patients):g}."
            )
        steps = engine.state.max_epochs * engine.state.epoch_length
        if self.noise_multiplier is None:
            assert self.target_epsilon is not None
            self.noise_multiplier = noise_multiplier_for(self.target_epsilon, delta, rate, steps)
        self._about = {
            "delta": delta,
            "noise_multiplier": self.noise_multiplier,
            "max_norm": self.max_norm,
            "sample_rate": rate,
            "n_patients": n_patients,
            "augmentations": loader.dataset.augmentations,
        }
        logger.info(
            "patient-level DP-SGD: noise multiplier %.3f, clip norm %g, sample rate %g of %d patients, %d steps",
            self.noise_multiplier, self.max_norm, rate, n_patients, steps,
        )  # fmt: skip
        trained = [parameter for parameter in bare_network(engine.network).parameters() if parameter.requires_grad]
        self._sum = ClippedSum(trained, self.max_norm)
        return self._sum

    def _gradient(self, engine: SupervisedTrainer, patches: Patches) -> tuple[list[Tensor | None], float]:
        """The gradient of the mean loss over a patient's patches, and that loss."""
        assert self._sum is not None
        network = bare_network(engine.network).train()
        size = self.patches_per_pass or len(patches)
        gradients: list[Tensor | None] = [None] * len(self._sum.parameters)
        mean_loss = 0.0
        for start in range(0, len(patches), size):
            chunk = list(patches[start : start + size])
            loss = self._chunk_loss(engine, network, chunk) * (len(chunk) / len(patches))
            found = torch.autograd.grad(loss, self._sum.parameters, allow_unused=True)
            mean_loss += float(loss.detach())
            gradients = [
                new if old is None else old if new is None else old + new
                for old, new in zip(gradients, found, strict=True)
            ]
        return gradients, mean_loss

    def _chunk_loss(self, engine: SupervisedTrainer, network: nn.Module, chunk: list[Mapping[str, Any]]) -> Tensor:
        try:
            collated = list_data_collate(chunk)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                "patches of a patient must have one shape, got several. Crop or pad them in the preprocessing, or set "
                "patches_per_pass: 1."
            ) from error
        batch = engine.prepare_batch(collated, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets, *rest = batch
        args, kwargs = rest if rest else ((), {})
        device_type = torch.device(engine.state.device).type
        with torch.autocast(device_type, enabled=bool(engine.amp), **(engine.amp_kwargs if engine.amp else {})):
            loss: Tensor = engine.loss_function(engine.inferer(inputs, network, *args, **kwargs), targets)
        return loss.mean()

    def _step(self, engine: SupervisedTrainer, total: ClippedSum) -> None:
        assert self.noise_multiplier is not None
        sampler = engine.data_loader.batch_sampler
        expected = sampler.sample_rate * sampler.n_patients
        noisy = total.noisy(self.noise_multiplier, noise.new_key(self.secure))
        engine.optimizer.zero_grad(set_to_none=True)
        for parameter, value in zip(total.parameters, noisy, strict=True):
            parameter.grad = (value / expected).to(parameter.dtype)
        engine.optimizer.step()
        self._count(self.noise_multiplier, sampler.sample_rate)
        if engine.state.iteration % engine.state.epoch_length == 0:
            epsilon, _ = accounted_epsilon(self.history, self._about["delta"])
            engine.state.metrics["epsilon"] = epsilon
            logger.info("epoch %d: epsilon %.2f at delta %g", engine.state.epoch, epsilon, self._about["delta"])

    def _count(self, sigma: float, rate: float) -> None:
        if self.history and self.history[-1][:2] == (sigma, rate):
            self.history[-1] = (sigma, rate, self.history[-1][2] + 1)
        else:
            self.history.append((sigma, rate, 1))
