# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Named streams: no two draws coincide, and every draw of the package has a name."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import ROOT

from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream, stream_seed

PACKAGE = ROOT / "monai_mia"
#: What makes or seeds a generator of numpy or of Python.
MAKERS = {"default_rng", "SeedSequence", "RandomState", "Philox", "PCG64", "MT19937", "seed"}
#: Where that is done without a name, and why.
UNNAMED = {
    ("records/streams.py", "default_rng"): "the one place",
    ("defences/output.py", "Philox"): "noise on outputs is keyed by a secret and by the output itself",
}
#: Seeds and numbers that numpy alone would mix up, by padding or by splitting into words of 32 bits.
ENTROPY = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 2**40), (2**32,), (0, 1, 0), (1, 0, 0), (10,)]


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def test_every_generator_of_the_package_has_a_name() -> None:
    """Exempt are torch's generators, which MONAI seeds and reads, and the noise of DP-SGD, a secret keyed hash."""
    found = {
        (name, node.func.attr)
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS
        if not ast.unparse(node.func).startswith("torch.")
    }
    assert found == set(UNNAMED)


def test_no_generator_is_made_under_another_name() -> None:
    """``from numpy.random import default_rng`` would escape the test above."""
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("numpy.random", "random"), name


def test_each_stream_is_drawn_from_in_one_place() -> None:
    """Two places with one name would draw the same."""
    used = Counter(
        node.attr
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Stream"
    )
    assert used == Counter(name.name for name in Stream)


def test_names_are_unique() -> None:
    assert len({name.value for name in Stream}) == len(Stream.__members__)


def test_streams_differ_by_name_seed_and_numbers() -> None:
    """Of any length, zeros included: what numpy's padding would make equal."""
    drawn = {(name, *numbers): stream(name, *numbers).bytes(16) for name in Stream for numbers in ENTROPY}
    assert len(set(drawn.values())) == len(drawn)
    assert np.random.default_rng([0, 1]).random() == np.random.default_rng([0, 1, 0]).random()  # why it is needed


def test_the_same_stream_is_the_same_bit_for_bit() -> None:
    """On every machine and in every version: the second is recorded."""
    first, second = stream(Stream.TARGET_MEMBERS, 3, 1), stream(Stream.TARGET_MEMBERS, np.int64(3), np.int32(1))
    np.testing.assert_array_equal(first.random(100), second.random(100))
    assert stream(Stream.TARGET_MEMBERS, 0, 0).integers(10**6, size=3).tolist() == RECORDED
    assert stream_seed(Stream.BLIND_FOLDS, 0, 1) == stream_seed(Stream.BLIND_FOLDS, 0, 1)
    assert stream_seed(Stream.BLIND_FOLDS, 0, 1) != stream_seed(Stream.BLIND_FOLDS, 1, 0)
    assert 0 <= stream_seed(Stream.BLIND_FOLDS, 0) < 2**32


@pytest.mark.parametrize("numbers", [(-1,), (0, -1)])
def test_a_negative_seed_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="seed must be at least 0, got"):
        stream(Stream.PATIENT_FOLDS, *numbers)


#: Changing what names are hashed to changes every number of a study.
RECORDED = [578561, 217139, 758705]
