# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Carrying out an attack: the access it needs, and its scores of all cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from monai_mia import statistics
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Attack
from monai_mia.errors import InputError
from monai_mia.records.table import ACCESS_LEVELS

__all__ = ["access_needed", "granted", "needed", "score_cases"]

Array = NDArray[np.float64]


def access_needed(attack: Attack, view: AdversaryView) -> str:
    """The access level of an attack: the higher of what its signals need and, if it reads maps, what it declares."""
    return needed(attack, view.access_of(attack.signals))


def needed(attack: Attack, read: str) -> str:
    """The same, where the access that its signals need is known."""
    declared = getattr(attack, "access", None)
    if declared is None:
        return read
    return max(str(declared), read, key=ACCESS_LEVELS.index) if attack.signals else str(declared)


def score_cases(attack: Attack, view: AdversaryView, member: NDArray[np.bool_], seed: int = 0) -> Array:
    """An attack's scores of all cases, shape (N,).

    An attack that ``needs_nonmembers`` is cross-fitted by patient: the patients are dealt into folds without regard to
    membership, and those of a fold are scored by an adversary who knows the non-members of the other folds only. So
    under the null no case's own membership touches its score. (A permutation test deals membership anew but not the
    fit, so that its p-value is approximate for such an attack.)

    Args:
        attack: the attack.
        view: what the adversary knows, without known non-members.
        member: whether the target trained on a case, shape (N,); also True for what must never be granted as a known
            non-member, such as a canary, whose coin another canary's score must not know.
        seed: seed of the folds.
    """
    if not getattr(attack, "needs_nonmembers", False):
        values = np.asarray(attack(view), dtype=np.float64)
    else:
        values = np.full(len(member), np.nan)
        for part in statistics.patient_folds(view.patient_ids, seed):
            granted = ~member & ~part
            values[part] = attack(replace(view, nonmember=granted))[part]
    if values.shape != member.shape or not np.isfinite(values).all():
        raise InputError(
            f"scores of attack {attack.name!r} must be {len(member)} finite numbers, got shape "
            f"{values.shape} with {int((~np.isfinite(values)).sum())} that are not finite."
        )
    return values


def granted(needed: str, granted: str) -> bool:
    """Whether an access level grants another."""
    if needed == "mask+label" and granted == "probabilities":
        return False  # probabilities alone do not come with a reference
    return ACCESS_LEVELS.index(needed) <= ACCESS_LEVELS.index(granted)
