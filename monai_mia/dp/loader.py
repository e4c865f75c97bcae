# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Patients, drawn by independent coins, each with all that belongs to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from monai.data import DataLoader
from torch import distributed
from torch.utils.data import Dataset, Sampler

from monai_mia.dp import noise
from monai_mia.errors import InputError

__all__ = ["PatientDataset", "PatientLoader", "PoissonPatientSampler"]


class PatientDataset(Dataset[Any]):
    """A patient an item: everything that a dataset of cases holds of them.

    Args:
        dataset: any whose ``data`` is a datalist with the patient of each case, such as MONAI's ``CacheDataset``.
        augmentations: how often each case is read, its random transforms running anew each time; the patient's gradient
            is the mean over all (augmentation multiplicity, De et al. 2022), which costs time but no privacy.
        patient_key: field of the datalist that names the patient.

    An item is a list of all patches: of every case, and of every patch where a transform crops several.
    """

    def __init__(self, dataset: Any, augmentations: int = 1, patient_key: str = "patient_id") -> None:
        if augmentations < 1:
            raise InputError(f"augmentations must be at least 1, got {augmentations}.")
        self.dataset = dataset
        self.augmentations = augmentations
        cases: dict[str, list[int]] = {}
        for number, case in enumerate(dataset.data):
            if patient_key not in case:
                raise InputError(
                    f"cases must name their patient under {patient_key!r}, got one with {', '.join(map(str, case))}. "
                    "Add it to the datalist: the unit of privacy is the patient."
                )
            cases.setdefault(str(case[patient_key]), []).append(number)
        self.cases = [cases[patient] for patient in sorted(cases)]

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.cases)

    def __getitem__(self, patient: int) -> list[Any]:
        """All patches of a patient."""
        patches: list[Any] = []
        for case in self.cases[patient]:
            for _ in range(self.augmentations):
                item = self.dataset[case]
                patches += item if isinstance(item, list) else [item]
        return patches


class PoissonPatientSampler(Sampler[list[int]]):
    """For each step, the patients whose coin came up; often none.

    Under ``torchrun`` all processes toss the same coins, and each takes its share of those drawn.

    Args:
        n_patients: number of patients N, of all processes.
        sample_rate: probability q of each patient in each step.
        steps: steps in an epoch.
        secure: see :func:`monai_mia.dp.noise.new_key`.
    """

    def __init__(self, n_patients: int, sample_rate: float, steps: int, secure: bool = True) -> None:
        if n_patients < 2:
            raise InputError(
                f"patients must be at least 2 to hide one among them, got {n_patients}. Train on more patients."
            )
        if not 0 < sample_rate <= 1:
            raise InputError(f"sample_rate must be in (0, 1], got {sample_rate}.")
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}.")
        self.n_patients = n_patients
        self.sample_rate = sample_rate
        self.steps = steps
        self.secure = secure

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of the patients of each step, sorted."""
        rank, world = 0, 1
        if noise.several_processes():
            rank, world = distributed.get_rank(), distributed.get_world_size()
        key = noise.new_key(self.secure)
        for step in range(self.steps):
            drawn = np.flatnonzero(noise.uniform(key, f"patients {step}", self.n_patients) < self.sample_rate)
            yield [int(patient) for patient in drawn if patient % world == rank]


class PatientLoader(DataLoader):
    """The data loader of patient-level DP-SGD: a batch is a list of patients, a patient a list of patches.

    Args:
        dataset: cases, as :class:`PatientDataset` takes them.
        sample_rate: probability q of a patient to be in a step. Large ones (0.1 to 0.25) and few steps serve best.
        steps: steps in an epoch; by default 1 / q, so that a patient is drawn once on average.
        augmentations: see :class:`PatientDataset`.
        patient_key: field of the datalist that names the patient.
        secure: whether the coins come from the operating system; False repeats a training by its seed.
        num_workers: processes that load.
        kwargs: of torch's ``DataLoader``, less those that batch.
    """

    def __init__(
        self,
        dataset: Any,
        sample_rate: float,
        steps: int | None = None,
        augmentations: int = 1,
        patient_key: str = "patient_id",
        secure: bool = True,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"):
            if name in kwargs:
                raise InputError(f"{name} must be left out: coins draw the patients, got {kwargs[name]!r}.")
        patients = PatientDataset(dataset, augmentations, patient_key)
        steps = max(1, round(1 / sample_rate)) if steps is None and sample_rate > 0 else steps
        sampler = PoissonPatientSampler(len(patients), sample_rate, 0 if steps is None else steps, secure)
        super().__init__(patients, num_workers, batch_sampler=sampler, collate_fn=_as_they_are, **kwargs)


def _as_they_are(patients: Sequence[Any]) -> list[Any]:
    return list(patients)
