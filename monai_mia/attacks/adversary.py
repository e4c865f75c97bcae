# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The adversary's view: all that an attack is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records.table import ACCESS_LEVELS, SignalTable

__all__ = ["AdversaryView", "Maps", "highest_access"]


class Maps(Protocol):
    """Recorded maps of the target and M shadows, read one case at a time; see :mod:`monai_mia.records.maps`."""

    @property
    def activation(self) -> str:
        """``softmax`` or ``sigmoid``."""

    def target(self, case: int) -> NDArray[np.float32]:
        """The target's logits, or one-hot mask, of case n, shape (C, *spatial)."""

    def shadow(self, shadow: int, case: int) -> NDArray[np.float32]:
        """The same of shadow m."""

    def label(self, case: int) -> NDArray[np.uint8]:
        """The reference of case n, shape (1 or C, *spatial)."""


@dataclass(frozen=True)
class AdversaryView:
    """All that an attack may see: every model's signals, and the membership of the shadows only.

    The target's membership is not a field, so that it cannot leak into a score.

    Attributes:
        signals: names of the S signals; a higher value means a better fit.
        target: signals of the target, shape (N, S).
        shadow: signals of the shadows, shape (M, N, S).
        shadow_member: whether a shadow trained on a case, shape (M, N), bool.
        patient_ids: the patient of each case, length N.
        access: access level that each signal needs, one of :data:`ACCESS_LEVELS`.
        features: statistics of each case's image, which the adversary holds, shape (N, F), or None.
        nonmember: cases of which the adversary knows that the target did not train on them, shape (N,), bool, or None;
            an audit never grants it for the cases that it scores.
        maps: the recorded maps of target and shadows, or None.
        foreign: cases of another source than the cohort, shape (N,), bool, or None: an attack scores them, and learns
            nothing from them.
    """

    signals: tuple[str, ...]
    target: NDArray[np.float64]
    shadow: NDArray[np.float64]
    shadow_member: NDArray[np.bool_]
    patient_ids: tuple[str, ...]
    access: Mapping[str, str] = field(default_factory=dict)
    features: NDArray[np.float64] | None = None
    nonmember: NDArray[np.bool_] | None = None
    maps: Maps | None = None
    foreign: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, table: SignalTable, target: str = "target", shadows: Sequence[str] | None = None, **known: Any
    ) -> AdversaryView:
        """What an adversary against ``target`` sees of a table.

        Args:
            table: the signals of target and shadows.
            target: id of the audited model.
            shadows: ids of the shadows; by default all other models.
            known: further fields, such as ``features`` or ``maps``.

        Raises:
            InputError: there is no such model, or the target is among the shadows.
        """
        for name in (target, *(shadows or ())):
            if name not in table.model_ids:
                raise InputError(f"model must be one of {', '.join(table.model_ids)}, got {name!r}.")
        if shadows is None:
            shadows = [model for model in table.model_ids if model != target]
        if target in shadows:
            raise InputError(
                f"shadows must not hold the target, got {target!r} among them. Its membership is the secret."
            )
        index = [table.model_ids.index(model) for model in shadows]
        return cls(
            signals=table.signals,
            target=table.values[table.model_ids.index(target)],
            shadow=table.values[index],
            shadow_member=table.member[index],
            patient_ids=table.patient_ids,
            access=table.access,
            **known,
        )

    @property
    def cohort(self) -> NDArray[np.bool_]:
        """Cases from which an attack may learn (offsets, variances, thresholds, fits), shape (N,)."""
        return np.ones(len(self.target), dtype=bool) if self.foreign is None else ~self.foreign

    def signal(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The target's (N,) and the shadows' (M, N) values of one signal.

        Raises:
            InputError: no signal has that name.
        """
        if name not in self.signals:
            raise InputError(f"signal must be one of {', '.join(self.signals)}, got {name!r}.")
        index = self.signals.index(name)
        return self.target[:, index], self.shadow[:, :, index]

    def access_of(self, signals: Sequence[str]) -> str:
        """The access level that these signals need; an undeclared signal counts as ``probabilities+label``."""
        return highest_access([self.access.get(name, "probabilities+label") for name in signals])


def highest_access(levels: Sequence[str]) -> str:
    """The level that includes all of these; ``mask`` if there are none."""
    highest = max(levels, key=ACCESS_LEVELS.index, default="mask")
    # A reference segmentation beside plain probabilities is the level that has both.
    if highest == "probabilities" and "mask+label" in levels:
        return "probabilities+label"
    return highest
