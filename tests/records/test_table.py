# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of signals: an exact round trip, and refusals that name the thing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import environment
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROPERTY, game

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.table import ACCESS_LEVELS, SignalTable, write_signals

#: Any text but control characters: no file system, DICOM header or CSV of a cohort holds those in an id.
IDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=6)
ODD_IDS = ["a,b", 'say "x"', "'", "", " lead", "trail ", "ä漢字🫁", "two\nlines", "-1e5", "nan", "#", ";", "\\"]


def write_table(table: SignalTable, folder: Path) -> None:
    for m, model in enumerate(table.model_ids):
        columns = {name: table.values[m, :, s].tolist() for s, name in enumerate(table.signals)}
        write_signals(
            folder / f"{model}.csv", model, table.case_ids, table.patient_ids, table.member[m], columns, table.access
        )


def small(folder: Path, **changes: dict) -> Path:
    """A target and a shadow on four patients; ``changes`` replaces what is written for a model."""
    defaults = {
        "case_ids": ["c1", "c2", "c3", "c4"],
        "patient_ids": ["p1", "p2", "p3", "p4"],
        "member": [True, True, False, False],
        "signals": {"dice": [0.1, 0.2, 0.3, 0.4], "loss": [1.0, 2.0, 3.0, 4.0]},
        "access": {"dice": "mask+label"},
    }
    for model in ("target", "shadow_00"):
        write_signals(folder / f"{model}.csv", model, **{**defaults, **changes.get(model, {})})
    return folder


# Round trip


@PROPERTY
@given(
    st.lists(st.tuples(IDS, IDS), min_size=2, max_size=5, unique_by=lambda pair: pair[0]),
    st.lists(IDS, min_size=1, max_size=3, unique=True),
    st.data(),
)
def test_round_trip_is_exact(pairs, signals, data):
    """Any finite float and any id: the table that is read is the table that was written, bit for bit."""
    pairs = sorted(pairs)
    case_ids, patient_ids = zip(*pairs, strict=True)
    finite = st.floats(allow_nan=False, allow_infinity=False)
    shape = (2, len(pairs), len(signals))
    count = math.prod(shape)
    values = np.array(data.draw(st.lists(finite, min_size=count, max_size=count))).reshape(shape)
    inside = {patient: data.draw(st.tuples(st.booleans(), st.booleans())) for patient in patient_ids}
    member = np.array([[inside[patient][m] for patient in patient_ids] for m in range(2)])
    access = {name: data.draw(st.sampled_from(ACCESS_LEVELS)) for name in signals}
    table = SignalTable(("shadow_00", "target"), case_ids, patient_ids, tuple(signals), member, values, access)
    with tempfile.TemporaryDirectory() as folder:
        write_table(table, Path(folder))
        again = SignalTable.read(folder)
    for name in ("model_ids", "case_ids", "patient_ids", "signals", "access"):
        assert getattr(again, name) == getattr(table, name)
    np.testing.assert_array_equal(again.member, member)
    assert again.values.tobytes() == values.tobytes()


@pytest.mark.parametrize("odd", ODD_IDS)
def test_odd_ids_survive(tmp_path, odd):
    cases, patients = [f"{odd}{n}" for n in range(4)], [f"{n}{odd}" for n in range(4)]
    change = {"case_ids": cases, "patient_ids": patients, "signals": {f"{odd}x": [1.0, 2.0, 3.0, 4.0]}}
    table = SignalTable.read(small(tmp_path, target=change, shadow_00=change))
    assert table.case_ids == tuple(sorted(cases))
    assert set(table.patient_ids) == set(patients)
    assert table.signals == (f"{odd}x",)


@pytest.mark.parametrize(
    "value", [5e-324, -0.0, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3, -2.2250738585072014e-308, np.nextafter(1, 2)]
)
def test_extreme_floats_survive(tmp_path, value):
    change = {"signals": {"dice": [value, 2.0, 3.0, 4.0]}}
    table = SignalTable.read(small(tmp_path, target=change, shadow_00=change))
    assert table.values[1, 0, 0].tobytes() == np.float64(value).tobytes()


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    """An interpreter that is told to complain about the locale's encoding has nothing to complain about."""
    ids = {"case_ids": ["ä", "漢", "c", "d"], "patient_ids": ["ü", "字", "p", "q"]}
    small(tmp_path, target=ids, shadow_00=ids)
    read = (
        "import monai_mia, warnings; from monai_mia.records import SignalTable\n"
        "warnings.simplefilter('error', EncodingWarning)\n"  # from here on, what is read is ours
        f"print(ascii(SignalTable.read({str(tmp_path)!r}).patient_ids))"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", read]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.stdout.strip() == ascii(("p", "q", "ü", "字")), result.stderr


def test_rows_are_sorted_by_case_in_the_file_and_in_memory(tmp_path):
    order = {
        "case_ids": ["c3", "c1", "c4", "c2"],
        "patient_ids": ["p3", "p1", "p4", "p2"],
        "member": [False, True, False, True],
        "signals": {"dice": [0.3, 0.1, 0.4, 0.2], "loss": [3.0, 1.0, 4.0, 2.0]},
    }
    shuffled = SignalTable.read(small(tmp_path / "a", target=order))
    plain = SignalTable.read(small(tmp_path / "b"))
    np.testing.assert_array_equal(shuffled.values, plain.values)
    np.testing.assert_array_equal(shuffled.member, plain.member)
    assert (tmp_path / "a/target.csv").read_bytes() == (tmp_path / "b/target.csv").read_bytes()


def test_the_file_is_as_documented(tmp_path):
    small(tmp_path)
    lines = (tmp_path / "target.csv").read_text().splitlines()
    assert lines[0] == "model_id,case_id,patient_id,member,dice,loss"
    assert lines[1] == "target,c1,p1,1,0.1,1.0"
    about = json.loads((tmp_path / "target.json").read_text())
    hashed = files.sha256(tmp_path / "target.csv")
    assert about == {"sha256": hashed, "model_id": "target", "access": {"dice": "mask+label"}}


def test_what_the_rows_depend_on_is_kept_beside_them(tmp_path):
    write_signals(tmp_path / "m.csv", "m", ["c"], ["p"], [True], {"s": [1.0]}, {}, key="abc", release="mask")
    about = json.loads((tmp_path / "m.json").read_text())
    assert about["key"] == "abc"
    assert about["release"] == "mask"
    assert files.is_current(tmp_path / "m.csv", "abc")


def test_models_can_be_named(tmp_path):
    small(tmp_path)
    assert SignalTable.read(tmp_path).model_ids == ("shadow_00", "target")
    assert SignalTable.read(tmp_path, ["target"]).model_ids == ("target",)
    named = SignalTable.read(tmp_path, ["target", "shadow_00"])
    assert named.model_ids == ("target", "shadow_00")


# Refusals


def refusal(folder: Path, **options) -> str:
    with pytest.raises(InputError) as error:
        SignalTable.read(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_named(tmp_path):
    message = refusal(small(tmp_path), models=["target", "shadow_07"])
    assert "'shadow_07'" in message
    assert str(tmp_path / "shadow_07.csv") in message


def test_an_empty_folder_is_named(tmp_path):
    assert str(tmp_path) in refusal(tmp_path)


def test_missing_rows_are_named(tmp_path):
    short = {
        "case_ids": ["c1", "c2", "c4"],
        "patient_ids": ["p1", "p2", "p4"],
        "member": [True, False, False],
        "signals": {"dice": [1.0, 2.0, 4.0], "loss": [1.0, 2.0, 4.0]},
    }
    message = refusal(small(tmp_path, target=short))
    assert "cases of 'target' must be those of 'shadow_00'" in message
    assert "'c3'" in message


def test_a_case_of_another_patient_is_named(tmp_path):
    message = refusal(small(tmp_path, target={"patient_ids": ["p1", "p9", "p3", "p4"]}))
    assert "'target'" in message
    assert "'c2'" in message


@pytest.mark.parametrize(
    ("signals", "named"),
    [
        ({"dice": [1.0] * 4}, "loss"),
        ({"dice": [1.0] * 4, "loss": [1.0] * 4, "entropy": [1.0] * 4}, "entropy"),
        ({"loss": [1.0] * 4, "dice": [1.0] * 4}, "their order"),
    ],
    ids=["fewer", "more", "another order"],
)
def test_other_signals_are_named(tmp_path, signals, named):
    message = refusal(small(tmp_path, target={"signals": signals}))
    assert "signals of 'target' must be those of 'shadow_00'" in message
    assert f"differ in {named}" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named(tmp_path, value):
    message = refusal(small(tmp_path, target={"signals": {"dice": [1.0] * 4, "loss": [1.0, 2.0, value, value]}}))
    for part in ("'loss'", "'c3'", "'target'", str(value), "2 such values"):
        assert part in message


def test_a_duplicate_case_is_named(tmp_path):
    message = refusal(small(tmp_path, target={"case_ids": ["c1", "c2", "c2", "c4"]}))
    assert "'c2' twice" in message
    assert "target.csv" in message


def test_a_patient_on_both_sides_is_named(tmp_path):
    both = {"patient_ids": ["p1", "p2", "p2", "p4"]}
    message = refusal(small(tmp_path, target=both, shadow_00=both))
    assert "'p2' on both sides of 'shadow_00'" in message


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("target,c4,p4,0", "line 5"),
        ("target,c4,p4,2,1.0,1.0", "line 5"),
        ("target,c4,p4,True,1.0,1.0", "line 5"),
        ("shadow_00,c4,p4,0,1.0,1.0", "line 5"),
        ("target,c4,p4,0,1.0,1.0,1.0", "line 5"),
        ("target,c4,p4,0,1.0,one", "line 5"),
        ("target,c4,p4,0,1.0,", "line 5"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, named):
    path = small(tmp_path) / "target.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:4], line]) + "\n")
    message = refusal(tmp_path)
    assert named in message
    assert str(path) in message


@pytest.mark.parametrize("header", ["", "model_id,case_id,patient_id,member", "case_id,patient_id,member,dice", "\0"])
def test_a_malformed_header_is_named(tmp_path, header):
    path = small(tmp_path) / "target.csv"
    path.write_text(f"{header}\n")
    message = refusal(tmp_path)
    assert str(path) in message
    assert "model_id, case_id, patient_id, member" in message


def test_a_torn_file_is_refused(tmp_path):
    """A copy that broke off inside a line; our own writes are atomic."""
    path = small(tmp_path) / "target.csv"
    path.write_bytes(path.read_bytes()[:-14])
    assert "target" in refusal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"values": np.zeros((3, 4, 4))}, {"member": np.zeros((3, 5), dtype=bool)}, {"signals": ("dice",)}],
)
def test_shapes_must_agree(change):
    with pytest.raises(InputError, match="must be of shape"):
        replace(game(n=4, shadows=2).table, **change)


# What the adversary is given


def test_knowledge_splits_target_and_shadows():
    table = game(n=6, shadows=4).table
    view = AdversaryView.of(table)
    np.testing.assert_array_equal(view.target, table.values[0])
    np.testing.assert_array_equal(view.shadow, table.values[1:])
    np.testing.assert_array_equal(view.shadow_member, table.member[1:])
    other = AdversaryView.of(table, "shadow_02", ["shadow_03", "target"])
    np.testing.assert_array_equal(other.target, table.values[3])
    np.testing.assert_array_equal(other.shadow, table.values[[4, 0]])
    np.testing.assert_array_equal(other.shadow_member, table.member[[4, 0]])


def test_knowledge_without_shadows():
    view = AdversaryView.of(game(n=6, shadows=4).table, shadows=[])
    assert view.shadow.shape == (0, 6, 3)
    assert view.shadow_member.shape == (0, 6)


def test_the_target_is_never_its_own_shadow():
    with pytest.raises(InputError, match="shadows must not hold the target, got 'target'"):
        AdversaryView.of(game(n=6, shadows=2).table, "target", ["shadow_00", "target"])


@pytest.mark.parametrize(("target", "shadows"), [("nobody", None), ("target", ["shadow_00", "nobody"])])
def test_unknown_models_are_named(target, shadows):
    with pytest.raises(InputError, match="model must be one of target, shadow_00, shadow_01, got 'nobody'"):
        AdversaryView.of(game(n=6, shadows=2).table, target, shadows)


def test_signals_are_taken_by_name():
    table = game(n=6, shadows=2).table
    target, shadow = AdversaryView.of(table).signal("dice")
    np.testing.assert_array_equal(target, table.values[0, :, 2])
    np.testing.assert_array_equal(shadow, table.values[1:, :, 2])
    np.testing.assert_array_equal(table.signal("dice", "shadow_01"), table.values[2, :, 2])
    for ask in (AdversaryView.of(table).signal, lambda name: table.signal(name, "target")):
        with pytest.raises(InputError, match=r"signal must be one of .*, got 'surprise'"):
            ask("surprise")


def test_members_are_the_targets():
    table = game(n=6, shadows=2).table
    np.testing.assert_array_equal(table.members("target"), table.member[0])


# Access


def knowledge_with(access: dict[str, str]) -> AdversaryView:
    return AdversaryView(tuple(access), *(np.zeros(0),) * 2, np.zeros(0, dtype=bool), (), access)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], "mask"),
        (["mask"], "mask"),
        (["mask", "mask+label"], "mask+label"),
        (["mask", "probabilities"], "probabilities"),
        (["mask+label", "probabilities"], "probabilities+label"),
        (["probabilities", "probabilities+label"], "probabilities+label"),
        (["mask+label", "white-box"], "white-box"),
    ],
)
def test_access_is_the_highest_that_any_signal_needs(levels, expected):
    access = {f"signal_{n}": level for n, level in enumerate(levels)}
    view = knowledge_with(access)
    assert view.access_of(list(access)) == expected
    assert view.access_of(list(reversed(access))) == expected


@pytest.mark.parametrize("declared", ["mask", "mask+label", "probabilities", "probabilities+label"])
def test_an_undeclared_signal_is_taken_to_need_everything_that_is_released(declared):
    view = knowledge_with({"known": declared})
    assert view.access_of(["known", "unknown"]) == "probabilities+label"


@PROPERTY
@given(st.lists(st.sampled_from(ACCESS_LEVELS), min_size=1, max_size=5), st.sampled_from(ACCESS_LEVELS))
def test_one_more_signal_never_needs_less_access(levels, more):
    view = knowledge_with({**{str(n): level for n, level in enumerate(levels)}, "more": more})
    names = [str(n) for n in range(len(levels))]
    rank = ACCESS_LEVELS.index
    together = view.access_of([*names, "more"])
    assert rank(together) >= max(rank(view.access_of(names)), rank(more))
    needs_label = {"mask+label", "probabilities+label", "white-box"}
    assert (together in needs_label) == bool(needs_label & {*levels, more})
