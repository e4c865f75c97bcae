# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""BIDS-like folders as a cohort."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_mia.data import read_cohort
from monai_mia.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def pairs(path: Path, **options: str) -> dict[str, tuple[str, str]]:
    """Patient and mask of each case."""
    cases = read_cohort(path, **options)
    return {
        case["case_id"]: (case["patient_id"], str(Path(case["label"]).relative_to(path.resolve()))) for case in cases
    }


def test_sessions_beside_and_derivatives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w_mask.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_label-core_desc-x_dseg.nii.gz",
        "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_desc-preproc_T1w.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii",
        "sub-02/anat/sub-02_run-2_T1w.nii",
        "sub-02/anat/sub-02_run-1_dseg.nii",
        "sub-02/anat/sub-02_run-2_dseg.nii",
        "sub-02/func/sub-02_bold.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsite\tlabel\nsub-01\t70\tn/a\tx\n03\t1\tb\tx\n")
    assert pairs(tmp_path) == {
        "sub-01_ses-1_T1w": ("sub-01", "sub-01/ses-1/anat/sub-01_ses-1_T1w_mask.nii.gz"),
        "sub-01_ses-2_T1w": (
            "sub-01",
            "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_label-core_desc-x_dseg.nii.gz",
        ),
        "sub-02_run-1_T1w": ("sub-02", "sub-02/anat/sub-02_run-1_dseg.nii"),
        "sub-02_run-2_T1w": ("sub-02", "sub-02/anat/sub-02_run-2_dseg.nii"),
    }
    assert "1 of 5 images" in caplog.text
    assert "patient of its own" not in caplog.text
    first, *_, last = read_cohort(tmp_path)
    assert (first["age"], first["site"]) == ("70", "")
    assert (last["age"], last["site"]) == ("", "")


def test_what_is_ambiguous_is_refused_and_can_be_told(tmp_path: Path) -> None:
    anat = "sub-01/anat/sub-01"
    touch(tmp_path, f"{anat}_T1w.nii.gz", f"{anat}_T2w.nii.gz", f"{anat}_mask.nii.gz")
    with pytest.raises(InputError, match="images must tell one image of each mask"):
        read_cohort(tmp_path)
    assert list(pairs(tmp_path, images="*_T2w.nii.gz")) == ["sub-01_T2w"]
    touch(tmp_path, f"derivatives/auto/{anat}_mask.nii.gz")
    with pytest.raises(InputError, match=r"masks must tell one mask of each image, got 2 for sub-01/anat/sub-01_T2w"):
        read_cohort(tmp_path, images="*_T2w.nii.gz")
    found = pairs(tmp_path, images="*_T2w.nii.gz", masks="derivatives/auto/*")
    assert found["sub-01_T2w"][1] == f"derivatives/auto/{anat}_mask.nii.gz"


def test_no_mask_and_no_participant(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(InputError, match=r"must hold masks .* got 1 images"):
        read_cohort(tmp_path)
    touch(tmp_path, "sub-01/anat/sub-01_T1w_seg.nii.gz")
    (tmp_path / "participants.tsv").write_text("name\tage\nsub-01\t3\n")
    with pytest.raises(InputError, match="column participant_id, got name, age"):
        read_cohort(tmp_path)


def test_plain_names_of_several_sessions(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        touch(tmp_path, f"sub-01/{session}/anat/T1w.nii.gz", f"sub-01/{session}/anat/mask.nii.gz")
    assert [case["case_id"] for case in read_cohort(tmp_path)] == ["sub-01_ses-1_anat_T1w", "sub-01_ses-2_anat_T1w"]


def test_masks_in_the_space_of_a_template(tmp_path: Path) -> None:
    """They lie elsewhere than the scan, whatever their name has in common with it."""
    touch(
        tmp_path,
        *(f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in range(1, 5)),
        "derivatives/fmri/sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-1_desc-brain_mask.nii.gz",
        "derivatives/fmri/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/fmri/sub-02/anat/sub-02_space-MNI152NLin2009cAsym_dseg.nii.gz",
        "derivatives/fmri/sub-03/anat/sub-03_space-orig_dseg.nii.gz",
        "derivatives/fmri/sub-04/anat/sub-04_space-T1wNative_dseg.nii.gz",
    )
    assert pairs(tmp_path) == {
        "sub-01_T1w": ("sub-01", "derivatives/fmri/sub-01/anat/sub-01_desc-brain_mask.nii.gz"),
        "sub-03_T1w": ("sub-03", "derivatives/fmri/sub-03/anat/sub-03_space-orig_dseg.nii.gz"),
        "sub-04_T1w": ("sub-04", "derivatives/fmri/sub-04/anat/sub-04_space-T1wNative_dseg.nii.gz"),
    }


def test_linked_folders(tmp_path: Path) -> None:
    store = touch(tmp_path / "store", "sub-01/anat/sub-01_T1w.nii.gz", "masks/sub-01/anat/sub-01_dseg.nii.gz")
    (tmp_path / "study" / "derivatives").mkdir(parents=True)
    (tmp_path / "study" / "sub-01").symlink_to(store / "sub-01")
    (tmp_path / "study" / "derivatives" / "m").symlink_to(store / "masks")
    (tmp_path / "study" / "derivatives" / "loop").symlink_to(tmp_path / "study")
    assert [case["patient_id"] for case in read_cohort(tmp_path / "study")] == ["sub-01"]


@pytest.mark.parametrize("link", ["sourcedata/sub-01", "code/test_subject", "derivatives/zz/sub-03/anat"])
def test_a_link_elsewhere_takes_no_patient_away(link: str, tmp_path: Path) -> None:
    """Wherever it is in the order of folders."""
    for n in range(1, 4):
        touch(tmp_path, f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz", f"sub-0{n}/anat/sub-0{n}_seg.nii.gz")
    (tmp_path / link).parent.mkdir(parents=True)
    if "derivatives" in link:
        touch(tmp_path / "store", "other.txt")
        (tmp_path / link).symlink_to(tmp_path / "store")
    else:
        (tmp_path / link).symlink_to(tmp_path / "sub-01")
    assert [case["patient_id"] for case in read_cohort(tmp_path)] == ["sub-01", "sub-02", "sub-03"]


def test_a_table_of_participants_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w_seg.nii.gz")
    table = tmp_path / "participants.tsv"
    for content, message in (
        ("participant_id\tsite\nsub-01\tZürich\n".encode("latin-1"), r"participants\.tsv must be text in UTF-8"),
        (b"age\tparticipant_id\n3\n", "must have a participant_id in each row"),
        (b"participant_id\tage\n\t\nsub-01\t3\t\t\n\t4\n", "must have a participant_id in each row"),
        (b"participant_id\tage\nsub-01\t3\t4\n", r"line 2 of .*participants\.tsv must have 2 cells"),
    ):
        table.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_cohort(tmp_path)


def test_options_of_another_kind_of_cohort_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label,patient_id\ni,l,p\n")
    with pytest.raises(InputError, match=r"labels and masks must be left out for '.*a\.csv'"):
        read_cohort(tmp_path / "a.csv", labels={"Liver": 1}, masks="*_seg*")
