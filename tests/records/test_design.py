# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Designs: patients are never split, halves are balanced, more shadows change nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import KEY
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import PROPERTY

from monai_mia.errors import InputError
from monai_mia.records.design import TARGET, Design

IDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=5)


def cohort(sizes, names=None):
    """Patients with so many cases each."""
    names = names or [f"patient_{n}" for n in range(len(sizes))]
    return [
        {"case_id": f"{name}/{k}", "patient_id": name, "image": f"{name}_{k}.nii.gz", "label": f"{name}_{k}_seg.nii.gz"}
        for name, size in zip(names, sizes, strict=True)
        for k in range(size)
    ]


sizes_ = st.lists(st.integers(1, 4), min_size=4, max_size=12)
seeds = st.integers(0, 2**32)


def patients_of(design, model):
    """Patients with any case in, and with any case out."""
    row = design.member[model]
    sides = ({p for p, inside in zip(design.patient_ids, row, strict=True) if inside == side} for side in (True, False))
    return tuple(sides)


# Randomised


@PROPERTY
@given(sizes_, st.integers(0, 7), seeds)
def test_a_patient_is_never_split_and_halves_are_balanced(sizes, shadows, seed):
    design = Design.randomised(cohort(sizes), shadows, seed, key=KEY)
    for model in design.model_ids:
        ins, outs = patients_of(design, model)
        assert not ins & outs
        assert len(ins) + len(outs) == len(sizes)
        assert abs(len(ins) - len(outs)) <= 1


@PROPERTY
@given(sizes_, st.integers(1, 5), seeds)
def test_a_patient_is_in_exactly_half_of_the_shadows(sizes, pairs, seed):
    design = Design.randomised(cohort(sizes), 2 * pairs, seed, key=KEY)
    seen = Counter()
    for model in design.model_ids[1:]:
        seen.update(patients_of(design, model)[0])
    assert dict(seen) == dict.fromkeys(design.patient_ids, pairs)


@PROPERTY
@given(sizes_, st.integers(1, 4), seeds)
def test_pairs_of_shadows_are_complementary(sizes, pairs, seed):
    design = Design.randomised(cohort(sizes), 2 * pairs, seed, key=KEY)
    for k in range(pairs):
        first, second = (design.member[f"shadow_{number:02d}"] for number in (2 * k, 2 * k + 1))
        np.testing.assert_array_equal(first, ~second)


@PROPERTY
@given(sizes_, st.integers(0, 5), st.integers(1, 4), seeds)
def test_more_shadows_begin_with_the_same_models(sizes, shadows, more, seed):
    """So that shadows can be added to a study that is finished."""
    cases = cohort(sizes)
    few, many = (
        Design.randomised(cases, shadows, seed, key=KEY),
        Design.randomised(cases, shadows + more, seed, key=KEY),
    )
    assert many.model_ids[: shadows + 1] == few.model_ids
    for model in few.model_ids:
        np.testing.assert_array_equal(many.member[model], few.member[model])


@PROPERTY
@given(sizes_, seeds, st.randoms(use_true_random=False))
def test_the_order_of_cases_decides_nothing(sizes, seed, random):
    cases = cohort(sizes)
    shuffled = list(cases)
    random.shuffle(shuffled)
    first, second = Design.randomised(cases, 3, seed, key=KEY), Design.randomised(shuffled, 3, seed, key=KEY)
    for model in first.model_ids:
        assert patients_of(first, model) == patients_of(second, model)


def test_every_patient_is_as_likely_a_member_and_seeds_differ():
    """Coin of 500 seeds: every patient a member in half of them, up to 4 standard errors."""
    counts = Counter()
    halves = set()
    for seed in range(500):
        ins, _ = patients_of(Design.randomised(cohort([1] * 10), 0, seed, key=KEY), TARGET)
        counts.update(ins)
        halves.add(frozenset(ins))
    assert len(halves) > 150  # of 252 that there are
    assert all(abs(count - 250) < 4 * np.sqrt(500) / 2 for count in counts.values())


def test_the_target_and_the_shadows_are_drawn_apart():
    """A shadow that copied the target's members would tell the adversary all."""
    cases = cohort([1] * 40)
    overlaps = []
    for seed in range(50):
        design = Design.randomised(cases, 4, seed, key=KEY)
        overlaps += [(design.member[TARGET] == design.member[f"shadow_{k:02d}"]).mean() for k in (0, 2)]
    assert max(overlaps) < 1
    assert np.mean(overlaps) == pytest.approx(0.5, abs=0.04)


def test_names_and_kind():
    design = Design.randomised(cohort([1] * 6), 11, seed=3, key=KEY)
    assert design.model_ids == (TARGET, *(f"shadow_{k:02d}" for k in range(11)))
    assert (design.kind, design.seed) == ("randomised", 3)


# Datalists


def test_datalists_hold_every_case_once():
    design = Design.randomised(cohort([2, 1, 3, 1, 2]), 2, key=KEY)
    for model in design.model_ids:
        members, queries = design.members(model), design.queries(model)
        assert [case["case_id"] for case in queries] == [case["case_id"] for case in design.cases]
        assert [case["case_id"] for case in queries if case["member"] == 1] == [case["case_id"] for case in members]
        assert {case["member"] for case in queries} == {0, 1}
        assert all("member" not in case for case in members)


def test_other_keys_of_a_case_ride_along():
    cases = [{**case, "site": n} for n, case in enumerate(cohort([1] * 4))]
    design = Design.randomised(cases, 0, key=KEY)
    assert [case["site"] for case in design.queries(TARGET)] == [0, 1, 2, 3]


# Observational


@PROPERTY
@given(sizes_, st.integers(0, 4), seeds, st.data())
def test_an_observational_design_keeps_the_targets_members(sizes, shadows, seed, data):
    cases = cohort(sizes)
    names = sorted({case["patient_id"] for case in cases})
    order = data.draw(st.permutations(names))
    cut = data.draw(st.integers(2, len(names) - 2))
    left_out = data.draw(st.integers(0, len(names) - cut - 2))
    members, nonmembers = order[:cut], order[cut : len(order) - left_out]
    design = Design.observational(cases, members, nonmembers, shadows, seed, key=KEY)
    assert patients_of(design, TARGET) == (set(members), set(nonmembers))
    assert design.kind == "observational"
    for model in design.model_ids[1:]:
        ins, outs = patients_of(design, model)
        assert not ins & outs
        assert ins | outs == set(members) | set(nonmembers)
        assert abs(len(ins) - len(outs)) <= 1


def test_sides_are_named_by_case_or_by_patient():
    cases = cohort([2, 1, 1, 2])
    by_patient = Design.observational(cases, ["patient_0", "patient_1"], ["patient_2", "patient_3"], 2, key=KEY)
    by_case = Design.observational(
        cases, ["patient_0/0", "patient_0/1", "patient_1"], ["patient_2/0", "patient_3/0", "patient_3/1"], 2, key=KEY
    )
    for model in by_patient.model_ids:
        np.testing.assert_array_equal(by_patient.member[model], by_case.member[model])


# Round trip


@PROPERTY
@given(st.lists(IDS, min_size=4, max_size=7, unique=True), st.integers(0, 3), seeds)
@example(['["', '["a"]', "[", '"'], 1, 0)
def test_round_trip(names, shadows, seed):
    design = Design.randomised(cohort([2] * len(names), names), shadows, seed, key=KEY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "design.csv"
        design.write(path)
        again = Design.read(path)
    assert again.cases == design.cases
    assert again.model_ids == design.model_ids
    assert (again.kind, again.seed) == (design.kind, design.seed)
    for model in design.model_ids:
        np.testing.assert_array_equal(again.member[model], design.member[model])


def test_round_trip_of_an_observational_design(tmp_path):
    names = [f"patient_{n}" for n in range(5)]
    design = Design.observational(cohort([1] * 5), names[:2], names[2:], 1, seed=9, key=KEY)
    design.write(tmp_path / "design.csv")
    again = Design.read(tmp_path / "design.csv")
    assert (again.kind, again.seed) == ("observational", 9)


def test_the_file_is_private(tmp_path):
    Design.randomised(cohort([1] * 4), 0, key=KEY).write(tmp_path / "design.csv")
    assert (tmp_path / "design.csv").stat().st_mode & 0o077 == 0


# Refusals


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments, **({} if call == Design.read else {"key": KEY}))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_duplicate_case_ids_are_named():
    cases = [*cohort([1] * 5), {"case_id": "patient_2/0", "patient_id": "other", "image": "", "label": ""}]
    assert "'patient_2/0' more than once" in refusal(Design.randomised, cases, 2)


def test_a_patient_on_both_sides_is_named():
    cases = cohort([1, 1, 2, 1, 1])
    members, nonmembers = ["patient_0", "patient_1", "patient_2/0"], ["patient_2/1", "patient_3", "patient_4"]
    message = refusal(Design.observational, cases, members, nonmembers, 2)
    assert f"non-member of {TARGET!r}, got 'patient_2' on both sides" in message


def test_overlap_is_named():
    cases = cohort([1] * 5)
    message = refusal(
        Design.observational,
        cases,
        ["patient_0", "patient_1", "patient_2"],
        ["patient_2/0", "patient_3", "patient_4"],
        2,
    )
    assert "must not overlap, got case 'patient_2/0'" in message


@pytest.mark.parametrize("side", ["members", "nonmembers"])
def test_unknown_ids_are_named(side):
    sides = {"members": ["patient_0", "patient_1"], "nonmembers": ["patient_2", "patient_3"]}
    sides[side].append("stranger")
    message = refusal(Design.observational, cohort([1] * 4), sides["members"], sides["nonmembers"], 0)
    assert message.startswith(f"{side} must be case or patient ids of the cohort, got 'stranger'")


def test_many_unknown_ids_are_counted_out():
    strangers = [f"stranger_{n}" for n in range(7)]
    message = refusal(Design.observational, cohort([1] * 4), strangers, ["patient_0"], 0)
    assert "'stranger_4' and more" in message
    assert "stranger_5" not in message


@pytest.mark.parametrize(("members", "nonmembers", "side"), [(1, 3, "members"), (3, 1, "non-members"), (2, 0, "non-")])
def test_a_side_needs_two_patients(members, nonmembers, side):
    names = [f"patient_{n}" for n in range(4)]
    message = refusal(Design.observational, cohort([3] * 4), names[:members], names[members : members + nonmembers], 0)
    assert message.startswith(side)
    assert f"{TARGET!r} must be at least 2 patients, got {min(members, nonmembers)}" in message


@pytest.mark.parametrize("patients", [0, 1, 2, 3])
def test_a_cohort_needs_four_patients(patients):
    """However many cases they have: a patient is one unit."""
    assert "at least 2 patients" in refusal(Design.randomised, cohort([9] * patients), 0)


def test_a_negative_number_of_shadows_is_refused():
    assert "shadows must be at least 0, got -1" in refusal(Design.randomised, cohort([1] * 4), -1)


def test_a_missing_file_is_named(tmp_path):
    assert str(tmp_path / "design.csv") in refusal(Design.read, tmp_path / "design.csv")


def test_another_csv_file_is_named(tmp_path):
    (tmp_path / "design.csv").write_text("id,split\n1,train\n")
    message = refusal(Design.read, tmp_path / "design.csv")
    assert "case_id, patient_id, image, label" in message
    assert str(tmp_path / "design.csv") in message


def test_further_targets_are_drawn_by_coins_of_their_own():
    cases = [{"case_id": f"c{n}", "patient_id": f"p{n // 2}", "image": "i", "label": "l"} for n in range(200)]
    one, four = (
        Design.randomised(cases, shadows=4, seed=3, key=KEY),
        Design.randomised(cases, shadows=4, seed=3, targets=4, key=KEY),
    )
    assert one.targets == ("target",)
    assert four.targets == ("target", "target_01", "target_02", "target_03")
    assert four.shadows == one.shadows == ("shadow_00", "shadow_01", "shadow_02", "shadow_03")
    assert four.model_ids == (*four.targets, *four.shadows)
    for model in one.model_ids:
        np.testing.assert_array_equal(one.member[model], four.member[model])
    # Two coins agree on half of 100 patients, give or take 5.
    for a in range(4):
        for b in range(a):
            agree = (four.member[four.targets[a]] == four.member[four.targets[b]]).mean()
            assert 0.5 - 4 * 0.05 < agree < 0.5 + 4 * 0.05
    with pytest.raises(InputError, match="targets must be at least 1, got 0"):
        Design.randomised(cases, shadows=2, targets=0, key=KEY)
