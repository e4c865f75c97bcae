# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Somebody who has a report, the ids of the cohort and this code, and not the key of the study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_mia.records import Design, streams
from monai_mia.records.design import held_out_patients

SEEDS = range(100)


def _drawn(cases: Sequence[Any], design: Design, held_out: float) -> Iterator[Design]:
    """What the code draws from each seed: without a key, as before there was one; and with keys that come to mind."""
    for seed in SEEDS:
        for key in (None, bytes(32), hashlib.sha256(str(seed).encode()).digest()):
            with pytest.MonkeyPatch.context() as patch:
                if key is None:
                    patch.setattr(streams, "keyed_digest", _unkeyed)
                apart = held_out_patients(cases, held_out, seed, key=key or bytes(32))
                left = [case for case in cases if str(case["patient_id"]) not in apart]
                yield Design.randomised(left, len(design.shadows), seed, len(design.targets), key=key or bytes(32))


def _unkeyed(_: bytes, message: Sequence[Any]) -> bytes:
    """The entropy of a stream without a key."""
    return hashlib.sha256(json.dumps(message).encode()).digest()


def agreements(cases: Sequence[Any], design: Design, held_out: float = 0.0) -> NDArray[np.float64]:
    """Balanced agreement of each guess with who was a member of each model, shape (guesses, models); 0.5 is chance."""
    found = []
    for guess in _drawn(cases, design, held_out):
        row = []
        for model in design.model_ids:
            members = {str(case["patient_id"]) for case in guess.members(model)}
            truth = {str(case["patient_id"]) for case in design.members(model)}
            others = {*design.patient_ids} - truth
            row.append((len(members & truth) / len(truth) + 1 - len(members & others) / len(others)) / 2)
        found.append(row)
    return np.array(found)


def recovers_nothing(cases: Sequence[Any], design: Design, held_out: float = 0.0) -> bool:
    """Whether the guesses are those of chance: right for half of the patients, and never right about all models."""
    found = agreements(cases, design, held_out)
    deviation = found[:, 0].std() / np.sqrt(len(found))
    return bool(abs(found[:, 0].mean() - 0.5) < 4 * deviation and (found.min(axis=1) < 1).all())
