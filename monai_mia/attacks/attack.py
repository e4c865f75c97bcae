# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What every attack is, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError

__all__ = ["Attack", "SignalAttack", "in_and_out", "require_shadows", "without_offsets"]

Array = NDArray[np.float64]


@runtime_checkable
class Attack(Protocol):
    """An attack: options are fields, what the adversary sees is the argument.

    Attributes:
        name: unique among the attacks of an audit, printed in the report.
        signals: the signals it reads.
        min_shadows: how many shadows it needs at least.

    Further attributes count as False where an attack does not have them: ``needs_features`` (it reads image
    statistics), ``needs_nonmembers`` (it is fitted to known non-members of the target), ``needs_maps`` (it reads
    recorded maps, and declares its own ``access``) and ``decides`` (a score of 0 or more is the claim "member", from a
    threshold learned on shadows).
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

    def __call__(self, view: AdversaryView) -> Array:
        """One finite score per case, shape (N,), higher = more likely a member."""


def require_shadows(attack: Attack, view: AdversaryView) -> None:
    """Refuse an attack that has too few shadows."""
    count = len(view.shadow)
    if count < attack.min_shadows:
        raise InputError(
            f"shadows must be at least {attack.min_shadows} for attack {attack.name!r}, got {count}. "
            "Train more shadows (--shadows), or take the attack off the list."
        )


class SignalAttack:
    """Base of an attack on one signal: its name, what it reads, and how.

    A subclass is a frozen dataclass with a field ``signal``, if it has an option for it a field ``remove_offsets``, a
    ``kind`` and ``__call__``.

    Attributes:
        signal: the signal.
        remove_offsets: whether how well a whole model fits is subtracted first (:func:`without_offsets`); None: the
            attack compares no models.
    """

    signal: str
    remove_offsets: bool | None = None

    @property
    def kind(self) -> str:
        """What the name begins with."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """``<kind>: <signal>``, and whether offsets are kept."""
        return f"{self.kind}: {self.signal}" + (", offsets kept" if self.remove_offsets is False else "")

    @property
    def signals(self) -> tuple[str, ...]:
        """The one signal."""
        return (self.signal,)

    @property
    def min_shadows(self) -> int:
        """One shadow."""
        return 1

    def read(self, view: AdversaryView) -> tuple[Array, Array]:
        """The signal of the target, shape (N,), and of the shadows, (M, N), less offsets if they are removed.

        Raises:
            InputError: there are too few shadows, or the signal is not recorded.
        """
        require_shadows(self, view)
        target, shadow = view.signal(self.signal)
        return without_offsets(target, shadow, view.cohort) if self.remove_offsets else (target, shadow)

    def __call__(self, view: AdversaryView) -> Array:
        """One finite score per case, shape (N,), higher = more likely a member."""
        raise NotImplementedError


def missing_maps(name: str) -> InputError:
    """The refusal of an attack that reads maps where none are recorded."""
    return InputError(
        f"maps must be recorded for attack {name!r}, got none. Record them (maps: true in the study), or take the "
        "attack off the list."
    )


def granted_features(attack: Attack, view: AdversaryView) -> Array:
    """Image statistics, shape (N, F), a missing value as its feature's median; refused by name if there are none."""
    if view.features is None:
        raise InputError(
            f"features must be given for attack {attack.name!r}, got none. "
            "Hand image statistics to the audit (features=...), or take the attack off the list."
        )
    own = view.features[view.cohort]
    some = ~np.isnan(own).all(axis=0)
    known = view.features[:, some]
    return np.where(np.isnan(known), np.nanmedian(own[:, some], axis=0), known)


def granted_nonmembers(attack: Attack, view: AdversaryView) -> NDArray[np.bool_]:
    """Cases known as non-members, shape (N,); refused by name if there are none."""
    if view.nonmember is None or not view.nonmember.any():
        raise InputError(
            f"nonmember must tell some known non-members for attack {attack.name!r}, got none. "
            "Let an audit run the attack, which grants them by cross-fitting, or take it off the list."
        )
    return view.nonmember


def require_option(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse an unknown option."""
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def keep_signals(attack: Attack, signals: Sequence[str]) -> None:
    """Set the ``signals`` of a frozen attack to a tuple, as a config gives a list; refuse an empty one."""
    object.__setattr__(attack, "signals", tuple(signals))
    if not attack.signals:
        raise InputError("signals must be at least one, got none.")


def without_offsets(target: Array, shadow: Array, cohort: NDArray[np.bool_] | None = None) -> tuple[Array, Array]:
    """Subtract from each model how much better or worse it fits everything.

    A whole model's offset (one network is simply better trained) says nothing about one case, and drowns what does.
    It is estimated by the median over all cases of the difference to the case's mean over models; half of the cases
    are members of every model of a balanced design, so that membership does not bias it.

    Args:
        target: shape (N,).
        shadow: shape (M, N).
        cohort: the cases that tell the offset, shape (N,), bool; by default all.

    Returns:
        The same two arrays, less their offsets.
    """
    if not len(shadow):
        return target, shadow
    every = np.concatenate([target[None], shadow])
    excess = (every - every.mean(axis=0))[:, slice(None) if cohort is None else cohort]
    every = every - np.median(excess, axis=1, keepdims=True)
    return every[0], every[1:]


def average(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Mean over the chosen shadows, shape (N,); NaN where none is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values.sum(axis=0, where=chosen) / chosen.sum(axis=0))


def in_and_out(
    target: Array,
    shadow: Array,
    member: NDArray[np.bool_],
    mean: Callable[[Array, NDArray[np.bool_]], Array] = average,
    cohort: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array]:
    """Mean signal of the shadows that trained on each case, and of those that did not.

    A side without a shadow is estimated from the other and the mean gap between them over all cases that have both.
    If no case has both, as with one shadow, the gap is how much more the shadows exceed the target on their members
    than on other cases: noisy, but unbiased if the target's members were dealt by another coin. If even that does not
    exist, because all shadows trained on all cases or on none, the gap is taken as 0, which moves no rank.

    Args:
        target: the target's signal, shape (N,); only read to estimate the gap.
        shadow: the shadows' signal, shape (M, N), M at least 1.
        member: whether a shadow trained on a case, shape (M, N).
        mean: of values (M, N) over chosen ones (M, N), NaN where none is chosen.
        cohort: the cases that tell the gap, shape (N,), bool; by default all.

    Returns:
        Two arrays of shape (N,), finite.
    """
    ins, outs = mean(shadow, member), mean(shadow, ~member)
    no_in, no_out = np.isnan(ins), np.isnan(outs)
    if no_in.any() or no_out.any():
        own = np.ones(len(target), dtype=bool) if cohort is None else cohort
        gap, both = 0.0, ~(no_in | no_out) & own
        side = member[:, own]
        if both.any():
            gap = float((ins[both] - outs[both]).mean())
        elif side.any() and not side.all():
            excess = (shadow - target)[:, own]
            gap = float(excess[side].mean() - excess[~side].mean())
        ins, outs = np.where(no_in, outs + gap, ins), np.where(no_out, ins - gap, outs)
    return ins, outs


def sorted_rows(features: Array, values: NDArray[Any]) -> tuple[Array, NDArray[Any]]:
    """Rows in an order of their own, so that nothing fitted to them depends on the order of cases or shadows."""
    order = np.lexsort([values, *features.T])
    return features[order], values[order]
