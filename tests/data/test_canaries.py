# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Canaries: whose volumes they are, what is changed in them, and that a study takes them for patients."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import KEY, KEY_FILE, PHANTOM, SMALL, varied
from monai.bundle import ConfigParser

from monai_mia.data import Lesion, Permuted, Plain, Shifted, Swapped, check_cohort, phantom_cohort, plant_canaries
from monai_mia.data import canaries as canaries_module
from monai_mia.errors import InputError
from monai_mia.records.design import Design


def volume(path: str) -> Any:
    return nib.load(path).get_fdata()


def planted(cases: Any, kind: Any, n: int, folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    return [case for case in plant_canaries(cases, [kind], n, folder, seed) if "canary" in case]


def source_of(folder: Path, cohort: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The case that each canary was, as ``canaries.csv`` tells."""
    by_id = {case["case_id"]: case for case in cohort}
    with (folder / "canaries.csv").open(newline="") as stream:
        return {row["case_id"]: by_id[row["source"]] for row in csv.DictReader(stream)}


def write(path: Path, values: Any, affine: Any = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values), np.eye(4) if affine is None else affine), path)
    return str(path)


@pytest.fixture
def unlike(tmp_path: Path) -> list[dict[str, Any]]:
    """Six patients whose volumes differ in shape; voxels of 1 x 2 x 0.5 mm; an oblique, shifted affine."""
    rng = np.random.default_rng(0)
    cases = []
    for n in range(6):
        shape = (10 + n, 12, 20 - n)
        affine = np.array([[0, -2, 0, 5], [1, 0, 0, -7], [0, 0, 0.5, 3], [0, 0, 0, 1]], dtype=float)
        label = np.zeros(shape, np.uint8)
        label[3:6, 4:8, 6:12] = 1 + n % 2
        cases.append(
            {
                "case_id": f"c{n}",
                "patient_id": f"p{n}",
                "image": write(
                    tmp_path / "images" / f"c{n}.nii.gz", rng.normal(100, 20, shape).astype(np.float32), affine
                ),
                "label": write(tmp_path / "labels" / f"c{n}.nii.gz", label, affine),
                "age": 60 + n,
            }
        )
    return cases


class TestWhoTheyAre:
    def test_they_take_the_place_of_patients(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        mixed = plant_canaries(cohort, [Plain(), Shifted()], 3, tmp_path, seed=1)
        canaries = [case for case in mixed if "canary" in case]
        assert Counter(case["canary"] for case in {c["patient_id"]: c for c in canaries}.values()) == {
            "plain": 3,
            "shifted": 3,
        }
        assert {case["patient_id"] for case in canaries} == {f"canary_{n:03d}" for n in range(6)}
        assert all(case["case_id"].startswith(case["patient_id"] + "_") for case in canaries)
        assert len({case["case_id"] for case in mixed}) == len(mixed) == len(cohort)
        # Nobody is both: the sources' patients are gone, with all their volumes, and the others are as they were.
        source = source_of(tmp_path, cohort)
        gone = {case["patient_id"] for case in source.values()}
        assert [case for case in mixed if "canary" not in case] == [c for c in cohort if c["patient_id"] not in gone]
        assert Counter(c["case_id"] for c in source.values()) == Counter(
            c["case_id"] for c in cohort if c["patient_id"] in gone
        )
        assert len({(c["patient_id"], source[c["case_id"]]["patient_id"]) for c in canaries}) == 6

    def test_a_design_flips_a_coin_for_each(self, tmp_path: Path) -> None:
        """Over 200 designs each canary is a member as often as not: 100, four standard deviations are 28."""
        cases = [{"case_id": f"c{n}", "patient_id": f"p{n}", "image": __file__, "label": __file__} for n in range(12)]
        mixed = plant_canaries(cases, [Plain()], 6, tmp_path)
        count = sum(Design.randomised(mixed, 0, seed, key=KEY).member["target"].astype(int) for seed in range(200))
        assert (abs(count - 100) < 28).all()

    def test_the_coins_of_canaries_are_independent(self) -> None:
        """Of 20 canaries, binomially many are members: mean 10, variance 5; of the 10 patients, always half."""
        cases = [
            {"case_id": name, "patient_id": name, "image": "", "label": "", "canary": kind}
            for name, kind in [*((f"canary_{n:03d}", "plain") for n in range(20)), *((f"p{n}", "") for n in range(10))]
        ]
        rows = np.array([Design.randomised(cases, 0, seed, key=KEY).member["target"] for seed in range(1000)])
        count = rows[:, :20].sum(axis=1)
        assert abs(count.mean() - 10) < 0.3  # four standard errors
        assert abs(count.var() - 5) < 0.9
        assert (rows[:, 20:].sum(axis=1) == 5).all()

    def test_seeded(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        kinds = [Lesion(2, 3.0), Swapped()]
        first, again, _ = (
            plant_canaries(cohort, kinds, 3, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        for x, y in zip(first, again, strict=True):
            assert x["case_id"] == y["case_id"]
            for key in ("image", "label"):
                assert Path(x[key]).read_bytes() == Path(y[key]).read_bytes()
        drawn = [{c["case_id"] for c in source_of(tmp_path / name, cohort).values()} for name in "abc"]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_written_once_and_mended(
        self, cohort: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []
        make = canaries_module._made
        monkeypatch.setattr(canaries_module, "_made", lambda *a: (made.append(a[1]["case_id"]), make(*a))[1])
        canaries = planted(lambda: cohort, Shifted(), 2, tmp_path)
        assert len(made) == len(canaries)
        assert planted(cohort, Shifted(), 2, tmp_path) == canaries
        assert len(made) == len(canaries)
        before = Path(canaries[0]["label"]).read_bytes()
        Path(canaries[0]["label"]).unlink()
        planted(cohort, Shifted(), 2, tmp_path)
        assert Path(canaries[0]["label"]).read_bytes() == before
        planted(cohort, Shifted(0.25), 2, tmp_path)
        assert Path(canaries[0]["label"]).read_bytes() != before

    @pytest.mark.parametrize(
        ("kinds", "n", "message"),
        [
            ([], 1, "kinds must be one or several that differ, got"),
            ([Plain(), Plain()], 1, "kinds must be one or several that differ"),
            (["plain"], 1, "kinds must be Plain, Swapped, Permuted, Shifted or Lesion, got 'plain'"),
            ([Plain()], 0, "n must be a whole number, at least 1, got 0"),
            ([Plain(), Swapped()], 5, "n must leave each canary a patient, got 5 of 2 kinds for 9 patients"),
            ([Swapped()], 1, "n must be large enough to swap references between patients, got 1 with"),
        ],
    )
    def test_refusals(self, cohort: Any, tmp_path: Path, kinds: Any, n: int, message: str) -> None:
        with pytest.raises(InputError, match=message):
            plant_canaries(cohort, kinds, n, tmp_path)
        assert not any(tmp_path.iterdir())

    def test_refusals_of_cohorts(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        mixed = plant_canaries(cohort, [Plain()], 2, tmp_path)
        with pytest.raises(InputError, match="case_id must not begin with 'canary_'"):
            plant_canaries(mixed, [Plain()], 2, tmp_path)
        with pytest.raises(InputError, match="does not exist"):
            plant_canaries([{**case, "label": "nowhere.nii"} for case in cohort], [Plain()], 2, tmp_path)
        garbage = tmp_path / "garbage.nii.gz"
        garbage.write_bytes(b"this is no image")
        with pytest.raises(InputError, match="cases must be readable"):
            plant_canaries([{**case, "label": str(garbage)} for case in cohort], [Shifted()], 2, tmp_path)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Permuted(1), "n_labels must be a whole number, at least 2, got 1"),
            (lambda: Shifted(1.0), r"fraction must be in \(0, 1\), got 1\.0"),
            (lambda: Lesion(0, 1.0), "radius must be above 0 mm, got 0"),
            (lambda: Lesion(3, 0.0), "contrast must be finite and not 0, got 0"),
            (lambda: Lesion(3, 1.0, -1), "label must be a class, at least 0, or None, got -1"),
        ],
    )
    def test_refusals_of_kinds(self, make: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()


class TestWhatIsChanged:
    def test_plain(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        canaries = planted(cohort, Plain(), 3, tmp_path)
        for case in canaries:
            source = source_of(tmp_path, cohort)[case["case_id"]]
            assert (case["image"], case["label"]) == (source["image"], source["label"])
        assert {path.name for path in tmp_path.iterdir()} == {"canaries.csv", "canaries.json"}

    def test_swapped_references_are_each_given_away_once(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        canaries = planted(cohort, Swapped(), 6, tmp_path)
        source = source_of(tmp_path, cohort)
        labels = {case["case_id"]: volume(case["label"]) for case in source.values()}
        donors = []
        for case in canaries:
            own = source[case["case_id"]]
            assert case["image"] == own["image"]
            (donor,) = [name for name, label in labels.items() if np.array_equal(label, volume(case["label"]))]
            patient = {c["case_id"]: c["patient_id"] for c in cohort}
            assert patient[donor] != own["patient_id"]
            donors.append(donor)
        assert sorted(donors) == sorted(labels)

    @pytest.mark.parametrize("owner", [[0, 1], [0, 0, 1, 1], [0, 0, 1, 2], [0, 1, 1, 2, 3, 3, 3, 4, 5]])
    def test_donors(self, owner: list[int]) -> None:
        donors = canaries_module._donors(owner)
        assert sorted(donors) == list(range(len(owner)))
        assert all(owner[n] != owner[donor] for n, donor in enumerate(donors))

    def test_a_swapped_reference_is_stretched_to_the_image(self, unlike: list[dict[str, Any]], tmp_path: Path) -> None:
        canaries = planted(unlike, Swapped(), 6, tmp_path / "canaries")
        for case in canaries:
            image, label = nib.load(case["image"]), nib.load(case["label"])
            assert label.shape == image.shape
            assert np.allclose(label.affine, image.affine)
            # The box of class 1 or 2 that fills 3/10..6/15 of the extent does so still, within a voxel.
            assert set(np.unique(label.get_fdata())) in ({0.0, 1.0}, {0.0, 2.0})
            assert case["age"] >= 60
        check_cohort(canaries, 3, tmp_path / "image_statistics.csv")

    def test_permuted(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        for case in planted(cohort, Permuted(3), 3, tmp_path):
            before, after = volume(source_of(tmp_path, cohort)[case["case_id"]]["label"]), volume(case["label"])
            for value, expected in ((0, 1), (1, 2), (2, 0)):
                assert set(np.unique(after[before == value])) == {expected}
        with pytest.raises(InputError, match="n_labels must be above all classes, got 2"):
            planted(cohort, Permuted(2), 3, tmp_path / "other")

    def test_shifted(self, unlike: list[dict[str, Any]], tmp_path: Path) -> None:
        for case in planted(unlike, Shifted(0.5), 3, tmp_path / "canaries"):
            before, after = (
                nib.load(source_of(tmp_path / "canaries", unlike)[case["case_id"]]["label"]),
                nib.load(case["label"]),
            )
            assert np.allclose(before.affine, after.affine)
            before, after = before.get_fdata(), after.get_fdata()
            corner = np.argwhere(before)[0]
            moved = (corner + np.round(0.5 * np.array(before.shape))) % before.shape
            assert after[tuple(moved.astype(int))] == before[tuple(corner)]
            assert Counter(after.ravel()) == Counter(before.ravel())
            assert ((after > 0) & (before > 0)).sum() == 0

    @pytest.mark.parametrize("label", [None, 2])
    def test_lesion(self, unlike: list[dict[str, Any]], tmp_path: Path, label: int | None) -> None:
        """A ball of 2 mm in voxels of 1 x 2 x 0.5 mm, 4 deviations brighter, around foreground."""
        folder = tmp_path / "canaries"
        for case in planted(unlike, Lesion(2.0, 4.0, label), 3, folder):
            source = source_of(folder, unlike)[case["case_id"]]
            before, after = volume(source["image"]), volume(case["image"])
            assert np.allclose(nib.load(case["image"]).affine, nib.load(source["image"]).affine)
            changed = np.argwhere(after != before)
            added = (after - before)[tuple(changed.T)]
            assert np.allclose(added, 4 * before.std(), rtol=1e-4)
            spacing = np.sqrt((nib.load(source["image"]).affine[:3, :3] ** 2).sum(axis=0))
            assert spacing.tolist() == [1, 2, 0.5]
            centre = changed.mean(axis=0)  # a whole ball is symmetric
            grid = np.stack(np.meshgrid(*map(np.arange, before.shape), indexing="ij"), axis=-1)
            ball = np.linalg.norm((grid - centre) * spacing, axis=-1) <= 2.0
            assert np.array_equal(ball, after != before)
            reference = volume(source["label"])
            assert reference[tuple(centre.astype(int))] > 0
            if label is None:
                assert case["label"] == source["label"]
            else:
                assert np.array_equal(volume(case["label"]), np.where(ball, label, reference))

    def test_lesion_without_foreground_or_room(self, tmp_path: Path) -> None:
        image = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
        case = {
            "case_id": "a",
            "patient_id": "a",
            "image": write(tmp_path / "a.nii", image),
            "label": write(tmp_path / "b.nii", np.zeros((9, 9, 9), np.uint8)),
        }
        (canary,) = planted([case], Lesion(4.0, 1.0), 1, tmp_path / "fits")
        assert (volume(canary["image"]) != image)[4, 4, 0]
        with pytest.raises(InputError, match=r"radius must let the lesion fit into each image, got 5\.0 mm"):
            planted([case], Lesion(5.0, 1.0), 1, tmp_path / "not")

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((9, 9, 8), r"reference must have its image's shape, got \(9, 9, 8\) in .*b\.nii"),
            ((9, 9, 9, 2), r"reference must have one channel of class indices, got 2 in .*b\.nii"),
        ],
    )
    def test_lesion_in_another_reference(self, tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
        case = {
            "case_id": "a",
            "patient_id": "a",
            "image": write(tmp_path / "a.nii", np.random.default_rng(0).normal(size=(9, 9, 9))),
            "label": write(tmp_path / "b.nii", np.zeros(shape, np.uint8)),
        }
        with pytest.raises(InputError, match=message):
            planted([case], Lesion(2.0, 1.0), 1, tmp_path / "canaries")

    def test_lesion_in_several_channels(self, tmp_path: Path) -> None:
        """In each channel by its own deviation; channels stay last in the file."""
        image = np.random.default_rng(0).normal(size=(9, 8, 7, 2)).astype(np.float32) * np.float32([1, 10])
        label = np.zeros((9, 8, 7), np.uint8)
        label[4, 4, 3] = 1
        case = {
            "case_id": "a",
            "patient_id": "a",
            "image": write(tmp_path / "a.nii", image),
            "label": write(tmp_path / "b.nii", label),
        }
        (canary,) = planted([case], Lesion(0.5, -2.0), 1, tmp_path / "canaries")
        added = volume(canary["image"]) - image
        assert np.argwhere(added.any(axis=-1)).tolist() == [[4, 4, 3]]
        assert np.allclose(added[4, 4, 3], -2 * image.std(axis=(0, 1, 2)), rtol=1e-4)


def test_the_audit_of_the_phantom_bundle(tmp_path: Path) -> None:
    """The documented config, smaller: canaries are patients of the study, they are examined, trained on and asked."""
    parser = ConfigParser()
    parser.read_config(str(PHANTOM / "configs/canary_audit.yaml"))
    parser.update({"study#bundle": str(PHANTOM), "output_dir": str(tmp_path / "out"), "patients": 46, "canaries": 14})
    configured = parser.get_parsed_content("study")
    assert not (tmp_path / "out").exists()  # nothing is written before the study looks at its folder
    study = varied(
        configured, n_jobs=1, key_file=str(KEY_FILE), seed=1, inference_overrides=SMALL,
        train_overrides={**SMALL, "train#trainer#max_epochs": 1},
        cohort=partial(configured.cohort, cases=partial(phantom_cohort, tmp_path / "phantoms", 46, 16)),
    )  # fmt: skip
    design, image_statistics = study.record()
    kinds = {case["patient_id"]: case.get("canary") for case in design.cases}
    assert sorted(name for name, kind in kinds.items() if kind) == [f"canary_{n:03d}" for n in range(42)]
    assert set(filter(None, kinds.values())) == {"swapped", "lesion", "plain"}
    assert (
        set(image_statistics.case_ids)
        == set(study.folder.table(design.model_ids).case_ids)
        == {case["case_id"] for case in design.cases}
    )
    assert (tmp_path / "out/private/canaries/canaries.csv").stat().st_mode & 0o077 == 0
    result = study.run()
    assert len(result.member) == 4  # the patients that are no canaries
    assert set(result.canaries) == {"swapped", "lesion", "plain"}
    assert all(bound.ceiling > 0 for bounds in result.canaries.values() for bound in [bounds["one run"]])
    few = replace(study, output_dir=str(tmp_path / "few"), cohort=partial(study.cohort, n=3, folder=tmp_path / "three"))
    with pytest.raises(InputError, match=r"canaries of kind '\w+' must be at least 4 on each side of the target"):
        few.run()
    assert not (tmp_path / "few/private/models").exists()
