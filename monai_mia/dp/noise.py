# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Randomness that a privacy claim can rest on: a keyed stream, of a strong hash, in double precision."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import distributed

__all__ = ["gaussian", "new_key", "several_processes", "uniform"]

_KEY_BYTES = 32


def new_key(secure: bool) -> bytes:
    """A key of 32 bytes; of several processes all get the first one's.

    Args:
        secure: whether it comes from the operating system, as a release needs it; else from torch's global generator,
            so that a seed repeats the training, and whoever knows the seed can take the noise away.
    """
    key = os.urandom(_KEY_BYTES) if secure else torch.randint(256, (_KEY_BYTES,), dtype=torch.uint8).numpy().tobytes()
    if several_processes():
        shared = [key]
        distributed.broadcast_object_list(shared, src=0)
        key = shared[0]
    return key


def several_processes() -> bool:
    """Whether this is one of several processes, as under ``torchrun``."""
    return distributed.is_available() and distributed.is_initialized()


def uniform(key: bytes, purpose: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), 53 bits each, shape (count,); the same for the same key and purpose."""
    stream = hashlib.shake_128(key + purpose.encode()).digest(8 * count)
    values = (np.frombuffer(stream, dtype="<u8") >> np.uint64(11)).astype(np.float64)
    values += 0.5
    values *= 2.0**-53
    return values


def gaussian(key: bytes, purpose: str, count: int) -> NDArray[np.float64]:
    """Standard normal numbers, shape (count,).

    Each is the sum of four, halved: the gaps between the doubles that one inverse gives would tell which sum the noise
    was added to (`Holohan and Braghin (2021) <https://arxiv.org/abs/2107.10138>`_).
    """
    draws = uniform(key, purpose, 4 * count)
    ndtri(draws, out=draws)
    return np.asarray(draws.reshape(4, count).sum(axis=0) / 2)
