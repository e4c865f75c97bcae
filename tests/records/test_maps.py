# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The store of maps: an exact round trip, whole or not there, and never of another design."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from monai_mia.attacks.adversary import Maps
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.maps import IMAGES, LABELS, MapStore, MapWriter, design_digest
from monai_mia.records.table import SignalTable

CASES = ("case/1", "case_2", "case_3", "case_4")
MEMBER = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)
MODELS = ("target", "shadow_00", "shadow_01")


def values(model: int, case: int) -> np.ndarray:
    """Maps of odd shapes; what float16 holds exactly."""
    return np.random.default_rng([model, case]).integers(-9, 9, (2, 3 + case, 4, 5)).astype(np.float16)


def record(folder: Path, member: np.ndarray = MEMBER, labels: bool = True, **about: object) -> MapStore:
    common = {"cohort": "c", "resolution": [1], **about}
    for m, model in enumerate(MODELS):
        with MapWriter(folder / f"{model}.npz") as writer:
            for n, case in enumerate(CASES):
                writer.add(case, values(m, n))
            digest = design_digest(CASES, member[m])
            writer.close(model_id=model, release="logits", activation="softmax", design=digest, key=model, **common)
    for name in (LABELS, IMAGES)[: int(labels)]:
        with MapWriter(folder / f"{name}.npz") as writer:
            for n, case in enumerate(CASES):
                writer.add(case, (values(9, n)[:1] > 0).astype(np.uint8))
            writer.close(**common)
    return MapStore(folder)


def table(member: np.ndarray = MEMBER, cases: tuple[str, ...] = CASES) -> SignalTable:
    shape = (len(member), len(cases))
    return SignalTable(MODELS, cases, cases, ("dice",), member[:, : len(cases)], np.zeros((*shape, 1)))


def test_round_trip_is_exact_in_any_order(tmp_path: Path) -> None:
    store = record(tmp_path / "maps")
    assert store.model_ids == ("shadow_00", "shadow_01", "target")
    order = [2, 0, 3, 1]
    maps = store.view("target", MODELS[1:], [CASES[n] for n in order], cache=1)
    assert (maps.n_shadows, maps.release, maps.resolution) == (2, "logits", (1,))
    assert len(set(maps.keys)) == 3
    for position, n in enumerate(order):
        np.testing.assert_array_equal(maps.target(position), values(0, n))
        np.testing.assert_array_equal(maps.shadow(1, position), values(2, n))
        np.testing.assert_array_equal(maps.label(position), values(9, n)[:1] > 0)
        assert maps.shapes[position] == values(0, n).shape
    assert maps.target(0).dtype == np.float32
    assert maps.label(0).dtype == np.uint8
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(maps)).target(0), values(0, 2))


def test_a_view_fulfils_the_protocol_and_tells_no_membership(tmp_path: Path) -> None:
    maps: Maps = record(tmp_path).of(table())
    said = repr(maps) + repr(vars(maps))
    assert design_digest(CASES, MEMBER[0]) not in said.replace(repr(vars(maps)["_models"]), "")
    # Two stores that differ in the target's membership alone give views that differ in nothing.
    other = record(tmp_path / "other", member=np.array([~MEMBER[0], *MEMBER[1:]])).view("target", MODELS[1:], CASES)
    assert other.keys == maps.keys  # type: ignore[attr-defined]
    for n in range(len(CASES)):
        np.testing.assert_array_equal(other.target(n), maps.target(n))


def test_changed_values_change_neither_store_nor_cache(tmp_path: Path) -> None:
    maps = record(tmp_path).of(table())
    maps.target(0)[:] = 0
    np.testing.assert_array_equal(maps.target(0), values(0, 0))


def test_same_maps_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        record(tmp_path / folder)
    assert files.sha256(tmp_path / "a/target.npz") == files.sha256(tmp_path / "b/target.npz")
    assert files.is_current(tmp_path / "a/target.npz", "target")
    with np.load(tmp_path / "a/target.npz") as archive:  # it is a plain npz
        np.testing.assert_array_equal(archive["0"], values(0, 0))


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    record(tmp_path / "maps")
    assert (tmp_path / "maps").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "maps").iterdir())


def test_half_written_maps_are_ignored(tmp_path: Path) -> None:
    """A writer that dies leaves no file under the model's name; a torn file counts as missing."""
    store = record(tmp_path)
    writer = MapWriter(tmp_path / "shadow_02.npz")
    writer.add("case_2", values(0, 0))
    assert "shadow_02" not in store.model_ids
    writer.discard()
    assert not list(tmp_path.glob(".*"))
    path = tmp_path / "shadow_01.npz"
    os.truncate(path, path.stat().st_size - 10)
    assert store.model_ids == ("shadow_00", "target")
    with pytest.raises(InputError, match=r"maps of 'shadow_01' must be in .* Query that model"):
        store.of(table())


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    store = record(tmp_path)
    path = tmp_path / "target.npz"
    content = bytearray(path.read_bytes())
    content[120] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"must be readable .* Delete the file"):
        store.of(table()).target(0)


def test_another_design_is_refused_by_name(tmp_path: Path) -> None:
    store = record(tmp_path)
    other = MEMBER.copy()
    other[2] = ~other[2]
    with pytest.raises(
        InputError, match=r"maps of 'shadow_01' .* a map store from another design.*Give the map store of"
    ):
        store.of(table(other))


def test_another_cohort_is_refused_by_name(tmp_path: Path) -> None:
    store = record(tmp_path)
    with pytest.raises(InputError, match="another cohort: they differ in 'case_4'"):
        store.of(table(cases=CASES[:3]))
    with pytest.raises(InputError, match="none of 'case_5' and 0 more: it is a map store from another cohort"):
        store.view("target", MODELS[1:], (*CASES, "case_5"))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    store = record(tmp_path)
    with MapWriter(tmp_path / "shadow_01.npz") as writer:
        for n, case in enumerate(CASES):
            writer.add(case, values(2, n))
        writer.close(release="mask", activation="softmax", cohort="c", resolution=[1])
    with pytest.raises(InputError, match=r"'shadow_01' .* another release"):
        store.view("target", MODELS[1:], CASES)


@pytest.mark.parametrize("what", ["label", "image"])
def test_what_was_not_recorded_is_named(tmp_path: Path, what: str) -> None:
    maps = record(tmp_path, labels=False).of(table())
    with pytest.raises(InputError, match=f"{what}s must be in the map store, got none"):
        getattr(maps, what)(0)


def test_references_of_another_resolution_are_not_used(tmp_path: Path) -> None:
    store = record(tmp_path)
    with MapWriter(tmp_path / "labels.npz") as writer:
        for case in CASES:
            writer.add(case, np.zeros((1, 2, 2, 2), dtype=np.uint8))
        writer.close(cohort="c", resolution=[2])
    with pytest.raises(InputError, match="labels must be in the map store"):
        store.of(table()).label(0)


def test_misuse_is_refused_by_name(tmp_path: Path) -> None:
    store = record(tmp_path)
    with pytest.raises(InputError, match="shadows must not hold the target"):
        store.view("target", ["target"], CASES)
    with pytest.raises(InputError, match=r"shadow must be in \[0, 2\), got -1"):
        store.of(table()).shadow(-1, 0)
    with MapWriter(tmp_path / "x.npz") as writer:
        writer.add("a", values(0, 0))
        with pytest.raises(InputError, match="case_id must be unique"):
            writer.add("a", values(0, 0))
