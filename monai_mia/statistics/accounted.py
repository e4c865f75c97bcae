# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""An accounted epsilon: whether it may be stated, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_mia.statistics.epsilon import at_most

__all__ = ["epsilon_in_words", "stated_epsilon"]


def stated_epsilon(privacy: Mapping[str, Any] | None) -> float | None:
    """The epsilon that may be stated of a training, from its account; None if there is none.

    There is none without noise, and none where the noise can be repeated from a seed: whoever knows or finds the seed
    takes the noise away, whatever an accountant says.

    Args:
        privacy: what the training accounted for: ``epsilon`` and ``secure_noise``; None: it has no account.
    """
    if not privacy or privacy.get("secure_noise") is not True or privacy.get("epsilon") is None:
        return None
    return float(privacy["epsilon"])


def epsilon_in_words(privacy: Mapping[str, Any]) -> str:
    """What stands in the place of an accounted epsilon, on one line.

    Example:
        >>> account = {"epsilon": 3.0, "delta": 1e-5, "unit": "patient", "secure_noise": True}
        >>> epsilon_in_words(account)
        'at most 3.00 at delta 1e-05 (patients)'
        >>> epsilon_in_words({**account, "secure_noise": False})
        'none: the noise can be repeated from a seed (secure: false), so that nothing is bounded'
    """
    if privacy.get("secure_noise") is not True:
        return "none: the noise can be repeated from a seed (secure: false), so that nothing is bounded"
    epsilon = stated_epsilon(privacy)
    bounded = "no bound" if epsilon is None else f"at most {at_most(epsilon)}"
    return f"{bounded} at delta {privacy['delta']:g} ({privacy['unit']}s)"
