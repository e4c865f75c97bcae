# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Cohorts: reading, examining, sharing, making up."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import CacheDataset
from monai.data.utils import set_rnd
from monai.transforms import Compose, Lambdad, RandLambdad

from monai_mia.data import CaseSubset, check_cohort, phantom_cohort, read_cohort
from monai_mia.data import cohorts as cohorts_module
from monai_mia.data.checks import invalid_cases
from monai_mia.data.cohorts import read_ids
from monai_mia.data.phantoms import phantom
from monai_mia.errors import InputError


def write(path: Path, values: Any, spacing: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values), np.diag([spacing] * 3 + [1.0])), path)
    return str(path)


def pair(folder: Path, name: str, image: Any = None, label: Any = None) -> dict[str, Any]:
    """A sound case, unless told otherwise."""
    rng = np.random.default_rng(list(name.encode()))  # no two patients have the same image
    image = rng.normal(size=(6, 7, 8)) if image is None else image
    label = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8) if label is None else label
    return {
        "case_id": name,
        "patient_id": name,
        "image": write(folder / "images" / f"{name}.nii.gz", image),
        "label": write(folder / "labels" / f"{name}.nii.gz", label),
    }


class TestReading:
    def test_decathlon(self, tmp_path: Path) -> None:
        items = [
            {"image": "./imagesTr/a_1.nii.gz", "label": "./labelsTr/a_1.nii.gz", "patient_id": "p", "site": "x"},
            {"image": "./imagesTr/a_2.nii.gz", "label": "./labelsTr/a_2.nii.gz"},
        ]
        (tmp_path / "dataset.json").write_text(json.dumps({"training": items}))
        first, second = read_cohort(tmp_path)
        assert first["case_id"] == "a_1"
        assert first["patient_id"] == "p"
        assert first["site"] == "x"
        assert first["image"] == str(tmp_path.resolve() / "imagesTr" / "a_1.nii.gz")
        assert second["patient_id"] == "a_2"
        assert read_cohort(tmp_path / "dataset.json") == [first, second]

    def test_csv(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("image,label,patient_id,case_id,age\ni/x.nii,l/x.nii,p 1,c-1,70\n")
        (case,) = read_cohort(tmp_path / "list.csv")
        assert (case["case_id"], case["patient_id"], case["age"]) == ("c-1", "p 1", "70")
        assert case["label"] == str(tmp_path.resolve() / "l" / "x.nii")

    @pytest.mark.parametrize("names", [("images", "labels"), ("imagesTr", "labelsTr")])
    def test_folders(self, tmp_path: Path, names: tuple[str, str]) -> None:
        for name in names:
            (tmp_path / name).mkdir()
            for case in ("b.nii.gz", "a.nii", "._a.nii", "notes.txt"):
                (tmp_path / name / case).touch()
        assert [case["case_id"] for case in read_cohort(tmp_path)] == ["a", "b"]

    def test_patient_from_the_name(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("image,label,patient_id\nx_01.nii,y.nii,\nx_02.nii,y.nii,known\n")
        cases = read_cohort(tmp_path / "list.csv", patient_id=lambda case: case["case_id"][:1])
        assert [case["patient_id"] for case in cases] == ["x", "known"]

    def test_without_patients_it_warns(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "list.csv").write_text("image,label\nx.nii,y.nii\n")
        read_cohort(tmp_path / "list.csv")
        assert "patient of its own" in caplog.text

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: None, "got .* without"),
            (lambda p: shutil.rmtree(p), "does not exist"),
            (lambda p: (p / "dataset.json").write_text("{"), "must be JSON"),
            (lambda p: (p / "dataset.json").write_text("{}"), "must have a list 'training'"),
            (lambda p: (p / "dataset.json").write_text('{"training": []}'), "at least one case"),
            (
                lambda p: (p / "dataset.json").write_text('{"training": [{"image": "x"}]}'),
                "item 0 .* must have 'label'",
            ),
            (lambda p: [(p / d).mkdir() for d in ("images", "labels")], "at least one case"),
        ],
    )
    def test_refusals(self, tmp_path: Path, make: Any, message: str) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        make(folder)
        with pytest.raises(InputError, match=message):
            read_cohort(folder)

    def test_unpaired_folders_name_the_odd_one(self, tmp_path: Path) -> None:
        for name in ("images/a.nii", "images/b.nii", "labels/a.nii"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        with pytest.raises(InputError, match=r"differ in b\.nii"):
            read_cohort(tmp_path)

    def test_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The Decathlon's archive is fetched into the folder above, and only if the folder is not there."""
        folder = tmp_path / "Task04_Hippocampus"

        def fetch(url: str, archive: Path, into: Path, **_: Any) -> None:
            assert url.endswith("Task04_Hippocampus.tar")
            assert into == tmp_path
            folder.mkdir()
            (folder / "dataset.json").write_text('{"training": [{"image": "a.nii", "label": "b.nii"}]}')

        monkeypatch.setattr(cohorts_module, "download_and_extract", fetch)
        for _ in range(2):
            assert len(read_cohort(folder, download="Task04_Hippocampus")) == 1
        with pytest.raises(InputError, match="must end in 'Task04_Hippocampus'"):
            read_cohort(tmp_path / "other", download="Task04_Hippocampus")


class TestIds:
    """Who is one patient."""

    def test_zero_is_an_id(self, tmp_path: Path) -> None:
        items = [{"image": f"i{n}", "label": f"l{n}", "patient_id": n // 2, "case_id": n} for n in range(4)]
        (tmp_path / "dataset.json").write_text(json.dumps({"training": items}))
        cases = read_cohort(tmp_path)
        assert [case["patient_id"] for case in cases] == ["0", "0", "1", "1"]
        assert [case["case_id"] for case in cases] == ["0", "1", "2", "3"]

    def test_blanks_make_no_other_patient(self, tmp_path: Path) -> None:
        names = ("anna", "anna ", " anna")
        rows = "".join(f"i{n},l{n},{name}\n" for n, name in enumerate(names))
        (tmp_path / "a.csv").write_text("image,label,patient_id\n" + rows)
        assert {case["patient_id"] for case in read_cohort(tmp_path / "a.csv")} == {"anna"}

    def test_other_encodings_and_paths_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes("image,label,patient_id\ni,l,Müller\n".encode("latin-1"))
        with pytest.raises(InputError, match=r"a\.csv must be text in UTF-8"):
            read_cohort(tmp_path / "a.csv")
        with pytest.raises(InputError, match=r"a\.csv must be text in UTF-8"):
            read_ids(tmp_path / "a.csv")
        (tmp_path / "b.json").write_text(json.dumps({"training": [{"image": 5, "label": "l", "patient_id": "Anna"}]}))
        with pytest.raises(InputError, match=r"item 0 .* must have 'image', the path of a file") as error:
            read_cohort(tmp_path / "b.json")
        assert "Anna" not in str(error.value)

    @pytest.mark.parametrize("found", [None, "", "  "])
    def test_a_function_that_names_nobody(self, found: Any, tmp_path: Path) -> None:
        """Else all such cases were one patient, called None."""
        (tmp_path / "a.csv").write_text("image,label\ni/scan_7,l\n")
        with pytest.raises(InputError, match=f"patient_id must give the patient .* got {found!r} for scan_7"):
            read_cohort(tmp_path / "a.csv", patient_id=lambda case: found)
        with pytest.raises(InputError, match=r"got KeyError for scan_7"):
            read_cohort(tmp_path / "a.csv", patient_id=lambda case: case["nothing"])

    def test_rows_that_are_none(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("image,label,patient_id,site\ni,l,anna,Bern, Inselspital\n")
        with pytest.raises(InputError, match=r"line 2 of .*a\.csv must have 4 cells"):
            read_cohort(path)
        path.write_text("image,label,patient_id,patient_id\ni,l,anna,berta\n")
        with pytest.raises(InputError, match=r"must have each column once, got patient_id twice"):
            read_cohort(path)
        path.write_text("image,label,patient_id,site\ni,l,anna\n")
        assert read_cohort(path)[0]["site"] == ""

    def test_names_that_are_no_text(self, tmp_path: Path) -> None:
        for name in ("images", "labels"):
            (tmp_path / name).mkdir()
            (tmp_path / os.fsdecode(os.fsencode(name) + b"/m\xfcller.nii")).touch()
        with pytest.raises(InputError, match=r"image must be text in UTF-8, got '.*m.udcfcller") as error:
            read_cohort(tmp_path)
        str(error.value).encode()


class TestExamination:
    def test_statistics(self, tmp_path: Path) -> None:
        image = np.arange(6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8)
        label = np.zeros((6, 7, 8), np.uint8)
        label[:2] = 2
        case = pair(tmp_path, "a", image, label)
        write(Path(case["image"]), image, spacing=2.0)
        write(Path(case["label"]), label, spacing=2.0)
        found = check_cohort([case], 3, tmp_path / "image_statistics.csv")
        row = dict(zip(found.names, found.of(["a"])[0], strict=True))
        assert row["mean"] == pytest.approx(image.mean())
        assert row["quantile_0.5"] == pytest.approx(np.median(image))
        assert (row["size_0"], row["spacing_2"]) == (6, 2.0)
        assert row["label_2_ml"] == pytest.approx(2 * 7 * 8 * 8 / 1000)
        assert row["label_1_ml"] == 0

    def test_a_reference_in_another_order_of_voxels(self, tmp_path: Path) -> None:
        label = np.zeros((6, 7, 8), np.uint8)
        label[:2, :3] = 1
        case = pair(tmp_path, "a", label=label)
        before = check_cohort([case], 2, tmp_path / "a.csv")
        stored = nib.Nifti1Image(label, np.eye(4)).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
        nib.save(stored, case["label"])
        assert nib.load(case["label"]).shape != (6, 7, 8)
        np.testing.assert_allclose(check_cohort([case], 2, tmp_path / "b.csv").features, before.features)

    def test_a_reference_in_another_place(self, tmp_path: Path) -> None:
        """Its affine says that it lies beside the image; a query would find no reference there."""
        label = np.zeros((6, 7, 8), np.uint8)
        label[:3] = 1
        case = pair(tmp_path, "a", label=label)
        affine = np.eye(4)
        for shift, outside in ((-1, None), (-2, "67 %"), (-40, "100 %")):
            affine[0, 3] = shift
            nib.save(nib.Nifti1Image(label, affine), case["label"])
            if outside is None:
                check_cohort([case], 2, tmp_path / "image_statistics.csv")
                continue
            with pytest.raises(InputError, match=f"a: label must lie within its image, got {outside}"):
                check_cohort([case], 2, tmp_path / "image_statistics.csv")

    def test_cases_of_two_and_of_three_axes(self, tmp_path: Path) -> None:
        flat, flat_label = np.random.default_rng(0).normal(size=(6, 7)), np.zeros((6, 7), np.uint8)
        cases = [pair(tmp_path, "solid"), pair(tmp_path, "flat", flat, flat_label), pair(tmp_path, "other")]
        for order, named in ((cases, "flat"), (cases[1::-1], "solid")):
            with pytest.raises(InputError, match=f"1 of . that are not: {named}: image must have as many axes"):
                check_cohort(order, 3, tmp_path / f"{named}.csv")

    def test_the_same_image_of_two_patients(self, tmp_path: Path) -> None:
        """As a member's and as a non-member's it would hide what a model knows."""
        image, other = np.random.default_rng(1).normal(size=(2, 6, 7, 8))
        cases = [pair(tmp_path, "a", image), pair(tmp_path, "b", other), pair(tmp_path, "twin", image)]
        nib.save(nib.load(cases[2]["image"]), tmp_path / "plain.nii")  # another file, the same voxels
        cases[2]["image"] = str(tmp_path / "plain.nii")
        for _ in range(2):  # and again, from what is kept
            with pytest.raises(InputError, match=r"1 of 3 .*: twin: image must be another .*, got that of a;"):
                check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        assert list(invalid_cases(cases, 3, tmp_path / "image_statistics.csv")) == ["twin"]
        cases[2]["patient_id"] = "a"
        assert len(check_cohort(cases, 3, tmp_path / "image_statistics.csv").case_ids) == 3

    def test_all_bad_cases_are_named_at_once(self, tmp_path: Path) -> None:
        constant, unfinite = np.ones((6, 7, 8)), np.ones((6, 7, 8))
        unfinite[0, 0, 0] = np.nan
        cases = [
            pair(tmp_path, "sound"),
            pair(tmp_path, "constant", image=constant),
            pair(tmp_path, "nan", image=unfinite),
            pair(tmp_path, "shape", label=np.zeros((6, 7, 9), np.uint8)),
            pair(tmp_path, "values", label=np.full((6, 7, 8), 7, np.uint8)),
            pair(tmp_path, "halves", label=np.full((6, 7, 8), 0.5)),
            pair(tmp_path, "garbage"),
            pair(tmp_path, "missing"),
            pair(tmp_path, "torn"),
        ]
        Path(cases[6]["image"]).write_bytes(b"this is no image")
        Path(cases[7]["label"]).unlink()
        torn = Path(cases[8]["image"])
        torn.write_bytes(torn.read_bytes()[:200])
        with pytest.raises(InputError) as caught:
            check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        message = str(caught.value)
        assert "\n" not in message
        assert "got 8 of 9" in message
        for part in (
            "constant: image must not be constant, got 1 everywhere",
            "nan: image must be finite, got 1 voxels",
            "shape: label must have the shape of its image",
            "values: label must hold integers in [0, 3), got 7",
            "halves: label must hold integers in [0, 3), got 0.5",
            "garbage: image",
            "missing: label",
            "torn: image",
        ):
            assert part in message
        assert "sound" not in message.replace("readable and sound", "")

    def test_only_changed_files_are_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cases = [pair(tmp_path, name) for name in ("a", "b")]
        first = check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        pair(tmp_path, "b", image=np.random.default_rng(5).normal(size=(6, 7, 8)))
        read: list[str] = []
        from monai_mia.data import checks

        examine_case = checks._check_case
        monkeypatch.setattr(checks, "_check_case", lambda c, n: (read.append(c["case_id"]), examine_case(c, n))[1])
        second = check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        assert read == ["b"]
        assert first.fingerprints[0] == second.fingerprints[0]
        assert first.fingerprints[1] != second.fingerprints[1]
        with (tmp_path / "image_statistics.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == 2


class TestSharing:
    def test_the_cohort_is_prepared_once_and_augmented_for_each(self) -> None:
        prepared: list[int] = []
        transform = Compose(
            [
                Lambdad("image", lambda x: (prepared.append(x), x)[1]),
                RandLambdad("image", lambda x: x + 100, prob=1.0),
            ]
        )
        shared = CacheDataset([{"case_id": str(n), "image": n} for n in range(4)], transform, progress=False)
        subsets = [CaseSubset(shared, [{"case_id": c, "member": 1} for c in chosen]) for chosen in ("02", "31")]
        assert [item["image"] for item in subsets[0]] == [100, 102]
        assert [item["image"] for item in subsets[1]] == [103, 101]
        assert subsets[1][0] == {"case_id": "3", "image": 103, "member": 1}
        assert prepared == [0, 1, 2, 3]

    def test_patches_carry_the_case(self) -> None:
        class Patches:
            data = ({"case_id": "a"},)

            def __getitem__(self, n: int) -> list[dict[str, int]]:
                return [{"image": 1}, {"image": 2}]

        (item,) = CaseSubset(Patches(), [{"case_id": "a", "member": 0}])
        assert item == [{"case_id": "a", "member": 0, "image": 1}, {"case_id": "a", "member": 0, "image": 2}]

    def test_random_transforms_are_seeded_through_it(self) -> None:
        transform = RandLambdad("image", lambda x: x + 100, prob=0.5)
        shared = CacheDataset([{"case_id": str(n), "image": n} for n in range(20)], transform, progress=False)
        subset = CaseSubset(shared, shared.data)
        draws = []
        for seed in (1, 1, 2):
            set_rnd(subset, seed)
            draws.append([item["image"] for item in subset])
        assert draws[0] == draws[1] != draws[2]

    def test_unknown_case(self) -> None:
        with pytest.raises(InputError, match="got 'b'"):
            CaseSubset(CacheDataset([{"case_id": "a"}], progress=False), [{"case_id": "b"}])


class TestPhantoms:
    def test_seeded(self, tmp_path: Path) -> None:
        first = phantom_cohort(tmp_path / "a", 4, 12, seed=3)
        second = phantom_cohort(tmp_path / "b", 4, 12, seed=3)
        for x, y in zip(first, second, strict=True):
            assert Path(x["image"]).read_bytes() == Path(y["image"]).read_bytes()
            assert Path(x["label"]).read_bytes() == Path(y["label"]).read_bytes()
        other = phantom_cohort(tmp_path / "c", 4, 12, seed=4)
        assert Path(first[0]["image"]).read_bytes() != Path(other[0]["image"]).read_bytes()

    def test_patients_with_two_visits(self, tmp_path: Path) -> None:
        cases = phantom_cohort(tmp_path, 4, 12)
        assert [case["patient_id"] for case in cases].count("patient_000") == 2
        assert len(cases) == 6

    def test_sound_and_like_itself(self) -> None:
        """A patient's two visits are more alike than two patients, in image and in reference."""
        image, label = phantom(24, 0, 1, 0)
        again, label_again = phantom(24, 0, 1, 1)
        other, _ = phantom(24, 0, 2, 0)
        assert set(np.unique(label)) == {0, 1, 2}
        assert (label != label_again).any()
        alike, unlike = (np.corrcoef(image.ravel(), x.ravel())[0, 1] for x in (again, other))
        assert alike > 0.8 > unlike

    def test_written_once(self, tmp_path: Path) -> None:
        cases = phantom_cohort(tmp_path, 2, 8)
        stamp = Path(cases[0]["image"]).stat().st_mtime_ns
        phantom_cohort(tmp_path, 2, 8)
        assert Path(cases[0]["image"]).stat().st_mtime_ns == stamp
        phantom_cohort(tmp_path, 2, 8, seed=1)
        assert Path(cases[0]["image"]).stat().st_mtime_ns != stamp
