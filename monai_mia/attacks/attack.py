# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What every attack is, and what several of them share."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.table import Knowledge

__all__ = ["Attack", "require_shadows", "without_offsets"]

Array = NDArray[np.float64]


@runtime_checkable
class Attack(Protocol):
    """An attack: options are fields, what the adversary sees is the argument.

    Attributes:
        name: unique among the attacks of an audit, printed in the report.
        signals: the signals it reads.
        min_shadows: how many shadows it needs at least.
    """

    @property
    def name(self) -> str:
        """Unique among the attacks of an audit."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the attack reads; they decide the access it needs."""

    @property
    def min_shadows(self) -> int:
        """How many shadows it needs at least."""

    def __call__(self, knowledge: Knowledge) -> Array:
        """One finite score per case, shape (N,), higher = more likely a member."""


def require_shadows(attack: Attack, knowledge: Knowledge) -> None:
    """Refuse an attack that has too few shadows."""
    count = len(knowledge.shadow)
    if count < attack.min_shadows:
        raise InputError(
            f"shadows must be at least {attack.min_shadows} for attack {attack.name!r}, got {count}. "
            "Train more shadows (--shadows), or take the attack off the list."
        )


def require_sides(attack: Attack, inside: NDArray[np.bool_], n_in: int, n_out: int) -> None:
    """Refuse shadows that left a case with too few of its sides."""
    ins = inside.sum(axis=0)
    for count, need, side in ((ins, n_in, "in"), (len(inside) - ins, n_out, "out of")):
        if (count < need).any():
            raise InputError(
                f"every case must be {side} the training of at least {need} shadows for attack {attack.name!r}, "
                f"got {int(count.min())} for {int((count < need).sum())} cases. Train more shadows, in pairs."
            )


def without_offsets(target: Array, shadow: Array) -> tuple[Array, Array]:
    """Subtract from each model how much better or worse it fits everything.

    A whole model's offset (one network is simply better trained) says nothing about one case, and drowns what does.
    It is estimated by the median over all cases of the difference to the case's mean over models; half of the cases
    are members of every model of a balanced design, so that membership does not bias it.

    Args:
        target: shape (N,).
        shadow: shape (M, N).

    Returns:
        The same two arrays, less their offsets.
    """
    if not len(shadow):
        return target, shadow
    every = np.concatenate([target[None], shadow])
    every = every - np.median(every - every.mean(axis=0), axis=1, keepdims=True)
    return every[0], every[1:]
