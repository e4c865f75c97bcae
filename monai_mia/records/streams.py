# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Named random streams: every draw has a generator of its own, so that no two draws of one seed coincide.

A study has one seed and draws for many purposes: designs, folds, resamples, permutations. Each purpose has a name here,
and the name is part of what its generator is seeded with. The seed is no secret; what would tell who was a member (who
trains on whom, from which weights, in which order) is drawn with a key as well.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum, unique

import numpy as np

from monai_mia.errors import InputError
from monai_mia.records.keys import check_key, keyed_digest

__all__ = ["Stream", "stream", "stream_seed"]


@unique
class Stream(Enum):
    """What is drawn; each name is used in one place of the package."""

    # designs and data
    TARGET_MEMBERS = "members of a target"
    SHADOW_MEMBERS = "members of a pair of shadows"
    HELD_OUT_PATIENTS = "held-out patients"
    TARGET_TRAINING = "training of a target"
    SHADOW_TRAINING = "training of a shadow"
    CANARY_PATIENTS = "patients of canaries"
    CANARY_CONTENT = "content of a canary"
    PHANTOM_ANATOMY = "anatomy of a phantom"
    PHANTOM_SCAN = "scan of a phantom"
    # statistics
    PATIENT_RESAMPLES = "resamples of patients, members and non-members apart"
    PATIENT_GAPS = "shares of patients in a Bayesian bootstrap"
    PATIENT_FOLDS = "folds of patients"
    MEMBER_PERMUTATIONS = "permutations of membership"
    ACCURACY_FOLDS = "folds of balanced accuracy"
    EPSILON_SPLIT = "halves of an audited epsilon"
    ONE_RUN_TIES = "ties of a one-run audit"
    CONFORMAL_TIES = "ties of conformal p-values"
    CLAIM_SPLITS = "splits of non-members of claims"
    CLAIM_RESAMPLES = "splits of non-members of claims in each resample"
    # audits
    COMPARISON_RESAMPLES = "resamples of a comparison"
    TARGET_RESAMPLES = "resamples of targets for false positives"
    SOURCE_RESAMPLES = "resamples of a source's patients for false positives"
    BLIND_FOLDS = "folds of the blind baseline"
    VULNERABILITY_RESAMPLES = "resamples of vulnerability"
    RELIABILITY = "permutations and resamples of reliability"
    MODEL_HALVES = "halves of the models"
    NUMERIC_COVARIATE = "permutations and resamples of a numeric covariate"
    CATEGORICAL_COVARIATE = "permutations and resamples of a categorical covariate"
    LEAKAGE_RESAMPLES = "resamples of a leakage map"
    MONITOR_RESAMPLES = "resamples of the leakage monitor"
    DP_COINS = "coins of a one-run audit of DP training"
    DP_RUNS = "runs of an audit of DP training"
    # neural attacks
    NEURAL_ATTACK_FOLDS = "folds of a map attacker"
    NEURAL_ATTACK_BATCHES = "items of a map attacker's training"
    NEURAL_ATTACK_VALIDATION = "validation pairs of a map attacker"
    NEURAL_ATTACK_QUERIES = "patches that a map attacker scores"
    BLIND_FLIPS = "flips of the blind network"
    # checks of an attack
    SIMULATED_GAME = "simulated game"
    SIMULATED_ORDER = "order of cases or shadows"


def stream(name: Stream, seed: int, *numbers: int, key: bytes | None = None) -> np.random.Generator:
    """Return the generator of a named draw.

    Its entropy is the SHA-256 of name, seed and numbers, so that draws of another name, another seed, or other or more
    numbers are independent. numpy alone pads a list of numbers with zeros: ``[seed, 1]`` and ``[seed, 1, 0]`` draw the
    same. With a key it is their HMAC-SHA256: a draw that must stay secret, and that no seed tells.

    Args:
        name: what is drawn.
        seed: of the study or the audit, at least 0.
        numbers: which of several draws of that name, each at least 0.
        key: 32 secret bytes, for what must not follow from the seed alone.

    Raises:
        InputError: the seed or a number is negative, or the key is none.

    Example:
        >>> first, second = stream(Stream.PATIENT_FOLDS, 0), stream(Stream.PATIENT_FOLDS, 0, 0)
        >>> bool(first.random() == second.random())
        False
    """
    whole = [int(number) for number in (seed, *numbers)]
    if min(whole) < 0:
        raise InputError(f"seed must be at least 0, got {', '.join(map(str, whole))}.")
    message = [name.value, *whole]
    if key is None:
        entropy = hashlib.sha256(json.dumps(message).encode()).digest()
    else:
        entropy = keyed_digest(check_key(key), message)
    return np.random.default_rng(np.frombuffer(entropy, dtype="<u4").tolist())


def stream_seed(name: Stream, seed: int, *numbers: int, key: bytes | None = None) -> int:
    """Return a seed in [0, 2**32) from a named stream, for a library that makes its own generator (scikit-learn)."""
    return int(stream(name, seed, *numbers, key=key).integers(2**32))
