# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Vulnerability and covariates: a planted effect is found, none is seldom, and small subgroups are not shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from monai_mia.audit.individuals.covariates import Covariate, associations, image_covariates, listed_covariates, rarity
from monai_mia.audit.individuals.vulnerability import SideVulnerability, Vulnerability, VulnerabilityResult
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, Resampling

QUICK = Vulnerability(resampling=Resampling(n_resamples=300), n_permutations=499)
NONE = Estimate(0.0, 0.0, 0.0)


def side(name: str, certainty: np.ndarray) -> SideVulnerability:
    rounds = np.full(len(certainty), 8)
    rate = (certainty > np.median(certainty)).astype(float)
    return SideVulnerability(name, rounds, rate, certainty, NONE, NONE, NONE, 0.0, NONE, 0.0, (), (), None)


def result(members: np.ndarray, seed: int = 0) -> VulnerabilityResult:
    """Patients with this certainty as members, and one of pure chance as non-members."""
    others = np.random.default_rng([seed, 99]).random(len(members))
    ids = tuple(f"p{u:03d}" for u in range(len(members)))
    return VulnerabilityResult("a", 0.05, ("m",), ids, side("members", members), side("nonmembers", others), 0.95)


def cases(**columns: Any) -> list[dict[str, Any]]:
    n = len(next(iter(columns.values())))
    return [
        {"case_id": f"c{k}", "patient_id": f"p{k:03d}", "image": "i", "label": "l", "member": 1}
        | {name: values[k] for name, values in columns.items()}
        for k in range(n)
    ]


def test_planted_effects_are_found_and_the_others_are_not():
    rng = np.random.default_rng(0)
    volume, site = rng.random(120), np.repeat(["A", "B", "C"], 40)
    certainty = np.clip(0.5 + 0.3 * (volume - 0.5) + 0.15 * (site == "B") + 0.05 * rng.normal(size=120), 0, 1)
    listed = [
        Covariate("label_1_ml", volume, "size"),
        Covariate("site", site, "datalist"),
        Covariate("noise", rng.random(120), "image quality"),
        Covariate("sex", rng.permutation(np.repeat(["f", "m"], 60)), "datalist"),
    ]
    found, gaps = associations(result(certainty), listed, QUICK)
    assert not gaps
    by_name = {one.covariate: one for one in found}
    assert {name for name, one in by_name.items() if one.p_adjusted < 0.05} == {"label_1_ml", "site"}
    assert [one.p_value for one in found] == sorted(one.p_value for one in found)
    size = by_name["label_1_ml"]
    assert size.correlation is not None
    assert size.correlation.value == pytest.approx(stats.spearmanr(volume, certainty).statistic)
    assert 0.4 < size.correlation.low < size.correlation.value < size.correlation.high < 1
    assert size.nonmember_correlation is not None
    assert size.nonmember_correlation.low < 0 < size.nonmember_correlation.high
    groups = {group.value: group for group in by_name["site"].subgroups}
    assert [group.n_patients for group in groups.values()] == [40, 40, 40]
    for name, group in groups.items():
        assert group.certain.value == pytest.approx(certainty[site == name].mean())
        assert group.certain.low < group.certain.value < group.certain.high
    assert groups["B"].certain.low > groups["A"].certain.high


def test_a_null_cohort_seldom_has_a_finding():
    """Six covariates, 120 cohorts: any finding after Holm in about 5 % of them, 12 % at most."""
    findings, first = 0, []
    for seed in range(120):
        rng = np.random.default_rng([7, seed])
        listed = [Covariate(f"x{k}", rng.random(40), "size") for k in range(4)]
        listed += [Covariate(f"g{k}", rng.permutation(np.repeat(["a", "b"], 20)), "datalist") for k in range(2)]
        options = Vulnerability(resampling=Resampling(n_resamples=20, seed=seed), n_permutations=199)
        found, _ = associations(result(rng.random(40), seed), listed, options)
        findings += any(one.p_adjusted <= 0.05 for one in found)
        first += [one.p_value for one in found if one.covariate in ("x0", "g0")]
    assert findings <= stats.binom(120, 0.05).ppf(0.995)
    assert stats.kstest(first, "uniform").pvalue > 0.001


def test_permutation_agrees_with_kruskal_and_wallis():
    rng = np.random.default_rng(3)
    groups = rng.permutation(np.repeat(["a", "b", "c"], 20))
    certainty = np.round(rng.random(60) + 0.12 * (groups == "a"), 2)  # with ties
    (one,), _ = associations(
        result(certainty), [Covariate("g", groups, "datalist")], replace(QUICK, n_permutations=5000)
    )
    expected = stats.kruskal(*(certainty[groups == name] for name in "abc")).pvalue
    assert one.p_value == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((30, 30), {"a": 30, "b": 30}),
        ((30, 20, 6, 6), {"a": 30, "b": 20, "others": 12}),  # small ones together are enough
        ((30, 20, 3), {"a": 30, "others": 23}),  # one alone would be told by subtraction
        ((30, 3), None),
        ((9, 9, 9), None),
    ],
)
def test_small_subgroups_are_not_shown(sizes: tuple[int, ...], shown: dict[str, int] | None):
    groups = np.repeat(list("abcd")[: len(sizes)], sizes)
    certainty = np.random.default_rng(0).random(len(groups))
    found, gaps = associations(result(certainty), [Covariate("site", groups, "datalist")], QUICK)
    if shown is None:
        assert not found
        assert gaps == ("covariate 'site' must have two subgroups of at least 10 patients to be shown, got fewer.",)
    else:
        assert {group.value: group.n_patients for group in found[0].subgroups} == shown
        assert [group.value for group in found[0].subgroups] == sorted(shown)


def test_covariates_that_few_patients_tell_apart_are_not_both_shown():
    """One patient of site A was scanned elsewhere: sums over the two differ by him."""
    site = np.repeat(["A", "B"], 30)
    scanner = np.where(np.arange(60) == 0, "B", site)
    sex = np.tile(["f", "m"], 30)
    listed = [
        Covariate(name, values, "datalist") for name, values in (("site", site), ("scanner", scanner), ("sex", sex))
    ]
    found, gaps = associations(result(np.random.default_rng(0).random(60)), listed, QUICK)
    assert {one.covariate for one in found} == {"site", "sex"}
    assert len(gaps) == 1
    assert gaps[0].startswith(
        "covariate 'scanner' must differ from 'site' in enough patients, got subgroups that differ in"
    )
    both = [listed[0], replace(listed[0], name="again")]
    same, none = associations(result(np.random.default_rng(0).random(60)), both, QUICK)
    assert (len(same), none) == (2, ())


def test_turns_of_few_patients_as_non_members_are_not_shown():
    groups = np.repeat(["a", "b"], 20)
    found = result(np.random.default_rng(0).random(40))
    rounds = np.where(np.arange(40) < 31, 8, 0)  # 20 of a and 11 of b
    for n, shown in ((31, [True, True]), (29, [False, False])):  # else the one were what the other leaves
        others = replace(found.nonmembers, n_rounds=np.where(np.arange(40) < n, rounds, 0))
        (one,), _ = associations(replace(found, nonmembers=others), [Covariate("site", groups, "datalist")], QUICK)
        assert [np.isfinite(group.nonmember_certain.value) for group in one.subgroups] == shown
        assert all(np.isfinite(group.certain.value) for group in one.subgroups)


def test_columns_of_the_datalist():
    listed, gaps = listed_covariates(
        cases(age=[str(k) for k in range(20)], sex=["0", "1"] * 10, site=["A"] * 10 + ["B"] * 10),
        [f"p{k:03d}" for k in range(20)],
    )
    assert not gaps
    assert {one.name: one.numeric for one in listed} == {"age": True, "sex": False, "site": False}
    np.testing.assert_array_equal(listed[0].values, np.arange(20.0))


def test_patients_of_several_cases():
    rows = [
        {"case_id": f"c{k}", "patient_id": f"p{k // 2}", "age": k, "site": "AB"[k // 6], "hand": "lr"[k % 2]}
        for k in range(12)
    ]
    listed, gaps = listed_covariates(rows, [f"p{k}" for k in range(6)])
    values = {one.name: one.values.tolist() for one in listed}
    assert values == {"age": [0.5, 2.5, 4.5, 6.5, 8.5, 10.5], "site": ["A"] * 3 + ["B"] * 3}
    assert gaps == ["covariate 'hand' must be one category for each patient, got several for one patient."]


@pytest.mark.parametrize("empty", ["", " ", None, float("nan"), "NaN"])
def test_an_empty_cell_is_a_gap(empty: object):
    listed, gaps = listed_covariates(cases(site=["A", "B", empty], sex=["f", "m", "f"]), ["p000", "p001", "p002"])
    assert [one.name for one in listed] == ["sex"]
    assert gaps == ["covariate 'site' must be given for every patient, got empty cells. Fill them in."]


def test_what_cannot_be_compared_is_a_gap_and_the_rest_is_made():
    rng = np.random.default_rng(0)
    certainty = rng.random(40)
    listed = [
        Covariate("scanner", np.repeat(["one"], 40), "datalist"),
        Covariate("voxel_size", np.ones(40), "image quality"),
        Covariate("broken", np.where(np.arange(40) == 0, np.nan, 1.0), "size"),
        Covariate("volume", rng.random(40), "size"),
    ]
    found, gaps = associations(result(certainty), listed, QUICK)
    assert [one.covariate for one in found] == ["volume"]
    assert found[0].p_adjusted == found[0].p_value
    assert gaps == (
        "covariate 'scanner' must vary over the patients, got one value.",
        "covariate 'voxel_size' must vary over the patients, got one value.",
        "covariate 'broken' must be finite for every patient, got values that are not.",
    )
    with pytest.raises(InputError, match="must be of 40 patients, got 3"):
        associations(result(certainty), [Covariate("x", np.ones(3), "size")], QUICK)
    _, gaps = listed_covariates(cases(a=["x", "y"], b=[["l"], ["m"]]), ["p000", "p001"], ["a", "b", "c"])
    assert "'b' must be of text or numbers" in gaps[0]
    assert "'c' must be a column of the datalist" in gaps[1]
    listed, gaps = listed_covariates(cases(b=[["l"], ["m"]]), ["p000", "p001"])
    assert (listed, gaps) == ([], [])


def test_image_covariates():
    names = ["mean", "quantile_0.05", "quantile_0.95", "spacing_0", "spacing_1", "label_1_ml", "label_2_ml"]
    rng = np.random.default_rng(0)
    features = rng.random((14, 7)) + 1
    groups = [f"p{k // 2}" for k in range(14)]
    found, gaps = image_covariates(features, names, groups, 3)
    assert not gaps
    by_name = {one.name: one.values for one in found}
    assert [*by_name] == ["label_1_ml", "label_2_ml", "voxel_size", "contrast", "rarity"]
    pooled = features.reshape(7, 2, 7).mean(axis=1)
    np.testing.assert_allclose(by_name["label_2_ml"], pooled[:, 6])
    np.testing.assert_allclose(by_name["voxel_size"], pooled[:, 3] * pooled[:, 4])
    np.testing.assert_allclose(by_name["contrast"], (pooled[:, 2] - pooled[:, 1]) / pooled[:, 0])
    _, gaps = image_covariates(features, names, groups, 7)
    assert gaps == ["neighbours must be fewer than the 7 patients, got 7."]


def test_rarity_by_hand():
    """All distances, sorted; a column that does not vary or misses a value says nothing."""
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.normal(size=(12, 3)) * [1, 10, 100], np.ones(12), np.full(12, np.nan)])
    groups = [f"{k:02d}" for k in range(12)]
    kept = features[:, :3]
    scaled = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    distances = np.sort(np.linalg.norm(scaled[:, None] - scaled[None], axis=-1), axis=1)[:, 1:4]
    np.testing.assert_allclose(rarity(features, groups, 3), distances.mean(axis=1) / np.sqrt(3))
    assert rarity(np.ones((4, 2)), list("abcd"), 1).tolist() == [0.0] * 4
