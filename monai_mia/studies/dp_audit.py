# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Audits of a training that claims differential privacy: does one patient do more than the claim allows?

Both look at the code as it runs, not at what it is meant to do, and need nothing of it but a function to call.

- :func:`sensitivity_audit`, before the noise: takes each patient out of a step in turn and measures by how much the sum
  of clipped gradients changes. The accountant's epsilon rests on this never being more than the clip norm. It names the
  patient that breaks it, costs one step for each patient, and sees a change of a thousandth. It says nothing of the
  noise, the sampling or the accounting.
- :func:`one_run_audit` and :func:`many_run_audit`, after the noise: play the membership game with canaries on all that
  is released, and bound epsilon from below. A bound above the claimed epsilon refutes it, whatever the mistake. They
  see large mistakes only, and only as far as their ceiling.

Two mistakes that they find, both of which train without a complaint: a loss that couples the patients of a batch
(``DiceLoss(batch=True)``), and gradients that are clipped for each patch while the claim is about patients.

A canary shows most if its gradient is larger than the clip norm and orthogonal to those of other canaries. The
adversary of differential privacy sees all that is released: the score may be read off the parameters (the projection
of the update on the canary's own gradient), not only off predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.records.keys import check_key
from monai_mia.records.streams import Stream, stream
from monai_mia.statistics.epsilon import EpsilonBound, at_least, canary_epsilon, epsilon_lower_bound

__all__ = ["ClaimAudit", "SensitivityAudit", "many_run_audit", "one_run_audit", "sensitivity_audit"]

Patient = TypeVar("Patient")


@dataclass(frozen=True)
class SensitivityAudit:
    """How much of a step's clipped gradient sum hangs on one patient.

    Attributes:
        allowed: the most that a patient may change it: the clip norm, or twice of it if patients were replaced.
        changes: norm of the change that each patient makes, by the patient's name; private.
        tolerance: what is forgiven, as a share of ``allowed``.
    """

    allowed: float
    changes: Mapping[str, float]
    tolerance: float

    @property
    def worst(self) -> str:
        """Name of the patient that changes most."""
        return max(self.changes, key=self.changes.__getitem__)

    @property
    def ratio(self) -> float:
        """The largest change over what is allowed; at most 1 if the clipping holds. Infinite if it was not finite."""
        return self.changes[self.worst] / self.allowed

    @property
    def flagged(self) -> bool:
        """Whether a patient changed more than is allowed: the accounted epsilon is then void."""
        return self.ratio > 1 + self.tolerance

    @property
    def verdict(self) -> str:
        """The finding in one sentence; it names the patient."""
        found = f"patient {self.worst!r} changes the clipped sum by {self.ratio:.3f} times what is allowed"
        if self.flagged:
            return f"{found}: the accounted epsilon is void."
        return f"{found}, the most of {len(self.changes)} patients: the clipping holds on this batch."


@dataclass(frozen=True)
class ClaimAudit:
    """What the canaries proved about a claimed epsilon.

    Attributes:
        claimed_epsilon: what the accountant said.
        bounds: what was proved, by method, each beside its ceiling; together they hold with the audit's confidence.
    """

    claimed_epsilon: float
    bounds: Mapping[str, EpsilonBound]

    @property
    def best(self) -> str:
        """The method that proved most."""
        return max(self.bounds, key=lambda method: self.bounds[method].value)

    @property
    def flagged(self) -> bool:
        """Whether the claim is refuted."""
        return self.bounds[self.best].value > self.claimed_epsilon

    @property
    def conclusive(self) -> bool:
        """Whether a perfect attack on as many canaries could have refuted the claim at all."""
        return max(bound.ceiling for bound in self.bounds.values()) > self.claimed_epsilon

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""
        bound = self.bounds[self.best]
        found = (
            f"{self.best}: epsilon is at least {at_least(bound.value)} at delta {bound.delta:g}, of "
            f"{bound.ceiling:.2f} that could have been shown; claimed is {self.claimed_epsilon:.2f}"
        )
        if self.flagged:
            return f"{found}. The claim is refuted."
        return found + (". The claim stands." if self.conclusive else ". So few canaries cannot refute the claim.")


def sensitivity_audit(
    gradient_sum: Callable[[Sequence[Patient]], Tensor | Sequence[Tensor]],
    patients: Sequence[Patient],
    max_norm: float,
    names: Sequence[str] | None = None,
    replacement: Patient | None = None,
    tolerance: float = 1e-3,
) -> SensitivityAudit:
    """Take each patient out of a batch in turn, and measure by how much the sum of clipped gradients changes.

    A clean audit of one batch is no proof: run it with patients who stand out (intensities times 50, empty or full
    references), since clipping and coupling show where gradients are large and unlike each other.

    Args:
        gradient_sum: from a batch of patients to its clipped gradients, summed over patients, before noise and before
            any division: one tensor, or one for each parameter. It must give the same when asked twice, and also take
            one patient fewer than the batch.
        patients: the batch, at least one; each is whatever ``gradient_sum`` takes, with all patches and visits in it.
        max_norm: the clip norm that the accountant relies on.
        names: the patients' names in the finding; by default their number in the batch.
        replacement: a patient to put in the place of the one taken out, for a guarantee about replacement; a patient
            may then change twice the clip norm.
        tolerance: what is forgiven, as a share of the allowed change: rounding in single precision.

    Cost: one step for each patient, and two.
    """
    if not patients:
        raise InputError("patients must be at least 1, got none.")
    if not max_norm > 0:
        raise InputError(f"max_norm must be positive, got {max_norm}.")
    called = [str(number) for number in range(len(patients))] if names is None else list(names)
    if len(set(called)) != len(patients) or len(called) != len(patients):
        raise InputError(f"names must be {len(patients)} different names, got {len(set(called))} of {len(called)}.")
    allowed = max_norm if replacement is None else 2 * max_norm
    whole, again = _flat(gradient_sum(patients)), _flat(gradient_sum(patients))
    drift = _distance(whole, again) if torch.isfinite(whole).all() else 0.0  # what is not finite is a finding
    if drift > tolerance * allowed / 2:
        raise InputError(
            f"gradient_sum must give the same for the same patients, got a difference of {drift / allowed:.3g} times "
            "what one patient may change. Fix the seeds of augmentation, dropout and noise inside it."
        )
    changes = {}
    for number, name in enumerate(called):
        others = [patient for place, patient in enumerate(patients) if place != number]
        if replacement is not None:
            others.insert(number, replacement)
        rest = _flat(gradient_sum(others))
        if not torch.isfinite(whole).all() and not torch.isfinite(rest).all():  # someone else's doing, or both's
            alone = _flat(gradient_sum([patients[number]]))
            changes[name] = _distance(alone, torch.zeros_like(alone))
        else:
            changes[name] = _distance(whole, rest)
    return SensitivityAudit(allowed, changes, tolerance)


def _flat(gradients: Tensor | Sequence[Tensor]) -> Tensor:
    parts = [gradients] if isinstance(gradients, Tensor) else gradients
    return torch.cat([part.detach().to("cpu", torch.float64).flatten() for part in parts])


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        raise InputError(
            f"gradient_sum must be of one size for every batch, got {one.numel()} and {other.numel()} numbers. "
            "Give zeros for parameters without a gradient."
        )
    norm = float(torch.linalg.vector_norm(one - other))
    return norm if isfinite(norm) else inf


def one_run_audit(
    train: Callable[[NDArray[np.bool_], int], ArrayLike],
    n_canaries: int,
    claimed_epsilon: float,
    delta: float,
    confidence: float = 0.95,
    guesses: Sequence[tuple[int, int]] | None = None,
    gaussian: bool = False,
    seed: int = 0,
    *,
    key: bytes,
) -> ClaimAudit:
    """Audit a claim by one training with many canary patients, a fair coin deciding each one's membership.

    Args:
        train: from the coins, shape (M,), bool, and a seed to a score for each canary, shape (M,), higher = more likely
            that it was in: trains privately on the canaries that are in, beside any other patients, and reads the
            scores off what is released.
        n_canaries: M, at least 2.
        claimed_epsilon: what the accountant says of this training, patients being added or removed.
        delta: at which delta, in [0, 1); in (0, 1) if ``gaussian``.
        confidence: probability that a claim which holds is not refuted.
        guesses: as in :func:`monai_mia.statistics.epsilon.canary_epsilon`.
        gaussian: whether the claim is the trade-off curve of a Gaussian mechanism (no subsampling, or very many
            steps), which a second bound then refutes sooner. The error is shared between both.
        seed: seed of the coins, the ties, and the training.
        key: 32 secret bytes that coins and training are drawn with as well, or whoever knows the seed knows who was
            in; as in :meth:`monai_mia.records.Design.randomised`.

    Cost: one training.
    """
    if n_canaries < 2:
        raise InputError(f"n_canaries must be at least 2, got {n_canaries}.")
    methods = [("one run", False), ("one run, Gaussian", True)][: 1 + gaussian]
    rng = stream(Stream.DP_COINS, seed, key=check_key(key))
    member = rng.random(n_canaries) < 0.5
    scores = np.asarray(train(member.copy(), int(rng.integers(2**31))), dtype=np.float64)
    if scores.shape != member.shape:
        raise InputError(f"train must return {n_canaries} scores, got shape {scores.shape}.")
    each = 1 - (1 - confidence) / len(methods)
    return ClaimAudit(
        claimed_epsilon,
        {name: canary_epsilon(scores, member, delta, each, guesses, curve, seed) for name, curve in methods},
    )


def many_run_audit(
    train: Callable[[bool, int], float],
    n_runs: int,
    claimed_epsilon: float,
    delta: float,
    confidence: float = 0.95,
    gaussian: bool = False,
    seed: int = 0,
) -> ClaimAudit:
    """Audit a claim by many trainings, half of them with one more patient: the canary.

    Args:
        train: from whether the canary is in, and a seed that differs between calls, to a score, higher = more likely
            that it was in. For an audit of one step: the noisy gradient sum, projected on what the canary changes.
        n_runs: trainings with the canary, and as many without; at least 4. Half of them choose the threshold.
        claimed_epsilon: what the accountant says of this training, patients being added or removed.
        delta: at which delta, in [0, 1); in (0, 1) if ``gaussian``.
        confidence: probability that a claim which holds is not refuted.
        gaussian: as in :func:`one_run_audit`.
        seed: seed of the split and the trainings.

    Cost: ``2 * n_runs`` trainings, or steps.
    """
    if n_runs < 4:
        raise InputError(f"n_runs must be at least 4, got {n_runs}.")
    methods = [("Clopper-Pearson", False), ("Clopper-Pearson, Gaussian", True)][: 1 + gaussian]
    member = np.arange(2 * n_runs) % 2 == 0
    seeds = stream(Stream.DP_RUNS, seed).integers(2**32, size=2 * n_runs)
    scores = [float(train(bool(inside), int(number))) for inside, number in zip(member, seeds, strict=True)]
    each = 1 - (1 - confidence) / len(methods)
    return ClaimAudit(
        claimed_epsilon,
        {name: epsilon_lower_bound(scores, member, "split", delta, each, seed, curve) for name, curve in methods},
    )
