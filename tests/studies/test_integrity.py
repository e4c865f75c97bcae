# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What is torn is found and made again, what cannot be is one line, and an image that was edited is another image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import small_study

from monai_mia.__main__ import main
from monai_mia.data import check_cohort, phantom_cohort, read_cohort
from monai_mia.errors import InputError
from monai_mia.records import Design, StudyFolder, files
from monai_mia.records.integrity import examine
from monai_mia.studies import Study

#: Every private table and record of a small study, and what is beside it.
PRIVATE = [
    "design.csv", "design.json", "image_statistics.csv", "image_statistics.json", "scores.csv", "scores.json",
    "cases.csv", "identifiers.json", "signals/shadow_00.csv", "signals/target.json", "models/target/model.json",
]  # fmt: skip


@pytest.fixture
def copied(study: Study, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study.output_dir, tmp_path / "copy"))


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def doctor(folder: Path, *words: str) -> int:
    """The exit status of the command."""
    try:
        main(["doctor", "--output", str(folder), *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_finished_study_is_whole(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(study.output_dir).rglob("*")}
    assert doctor(Path(study.output_dir), "--images") == 0
    said = capsys.readouterr().out
    for name in ("private/design.key", "private/scores.csv", "report/report.json", "study.json"):
        assert f"whole      {name}\n" in said
    assert "0 unfinished, 0 missing, 0 stale, 0 torn" in said.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in Path(study.output_dir).rglob("*")} == before


def test_what_is_torn_is_found_and_made_again(study: Study, cohort: Any, copied: Path) -> None:
    """All of it at once; torn is cut in half, which is what a crash of a file system leaves."""
    expected = tables(copied)
    for name in PRIVATE:
        path = copied / "private" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (copied / "report/report.json").write_text("{")
    found = {one.name: one.state for one in examine(copied).findings}
    for name in PRIVATE:
        assert found.get(f"private/{name}") in ("torn", "unfinished"), name
    assert found["report/report.json"] == "torn"
    assert doctor(copied) == 1
    small_study(cohort, copied).run()
    assert tables(copied) == expected
    assert doctor(copied) == 0


def test_a_torn_table_is_no_table_for_who_only_reads(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``report`` runs no study: what is torn is one line, not a traceback."""
    for name in ("image_statistics.csv", "design.csv"):
        path = copied / "private" / name
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(SystemExit, match="torn or changed"):
            main(["report", "--output", str(copied)])
    capsys.readouterr()


def test_what_is_made_from_something_else_is_stale(copied: Path) -> None:
    path = copied / "private/signals/target.csv"
    about = files.read_json(path.with_suffix(".json"))
    text = path.read_text().splitlines()
    cells = text[1].split(",")
    text[1] = ",".join([*cells[:-1], repr(float(cells[-1]) + 1)])
    files.write_artefact(path, "\n".join(text) + "\n", **{k: v for k, v in about.items() if k != "sha256"})
    found = {one.name: one for one in examine(copied).findings}
    for name in ("private/scores.csv", "private/cases.csv", "report/index.html"):
        assert found[name].state == "stale", name
        assert "private/signals/target.csv changed" in found[name].why
    assert found["private/signals/target.csv"].state == "whole"
    # Signals of other weights.
    weights = StudyFolder(copied).weights("shadow_00")
    files.write_artefact(weights, b"others")
    found = {one.name: one for one in examine(copied).findings}
    assert found["private/signals/shadow_00.csv"].state == "stale"


def test_a_model_that_is_gone_is_missing(copied: Path) -> None:
    StudyFolder(copied).weights("shadow_01").unlink()
    found = {one.name: one.state for one in examine(copied).findings}
    assert found["private/models/shadow_01/model.pt"] == "missing"
    assert doctor(copied) == 1


@pytest.mark.parametrize("name", ["scores.csv", "signals/target.csv", "image_statistics.json", "design.csv"])
def test_a_folder_in_the_place_of_a_file_is_one_line(name: str, cohort: Any, copied: Path) -> None:
    path = copied / "private" / name
    path.unlink()
    path.mkdir()
    assert {one.name: one.state for one in examine(copied).findings}[f"private/{name}"] == "torn"
    with pytest.raises(InputError, match=rf"{path.name} must be a file, got a folder in its place") as refusal:
        small_study(cohort, copied).run()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["private/signals", "private/models", "report"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_a_link_to_nowhere_in_the_place_of_a_folder_is_one_line(
    name: str, kind: str, cohort: Any, copied: Path
) -> None:
    path = copied / name
    shutil.rmtree(path)
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to(copied / "nowhere")
    with pytest.raises(InputError, match="must be a folder, got a file or a link that leads nowhere") as refusal:
        small_study(cohort, copied).run()
    assert "\n" not in str(refusal.value)


def test_a_link_to_nowhere_in_the_place_of_a_table_is_replaced(cohort: Any, copied: Path) -> None:
    expected = tables(copied)
    for name in ("scores.csv", "signals/target.csv", "image_statistics.csv"):
        path = copied / "private" / name
        path.unlink()
        path.symlink_to(copied / "nowhere")
    assert doctor(copied) == 1
    small_study(cohort, copied).run()
    assert tables(copied) == expected
    assert not (copied / "nowhere").exists()


def test_a_file_that_nobody_may_read_is_one_line(cohort: Any, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may read everything."""
    kept, own = str(copied / "private/signals/target.csv"), open

    def refuse(path: Any, *options: Any, **more: Any) -> Any:
        if str(path) == kept:
            raise PermissionError(13, "Permission denied", kept)
        return own(path, *options, **more)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"target.csv must be readable, got no permission") as refusal:
        small_study(cohort, copied).run()
    assert "\n" not in str(refusal.value)
    assert {one.name: one.state for one in examine(copied).findings}["private/signals/target.csv"] == "torn"


class TestImages:
    """An image is its content."""

    def edited(self, path: Path) -> None:
        """Another image in the same place, of the same size, with the same time."""
        before = path.stat()
        volume = nib.load(path)
        values = np.asarray(volume.dataobj)
        flipped = nib.Nifti1Image(np.ascontiguousarray(values[::-1]), volume.affine)
        size = len(path.read_bytes())
        nib.save(flipped, path)
        content = path.read_bytes()
        path.write_bytes(content + b"\0" * max(0, size - len(content)))
        os.truncate(path, max(size, len(content)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_an_image_that_was_edited_in_place_is_read_again(self, tmp_path: Path) -> None:
        cases = phantom_cohort(tmp_path / "cohort", 4, size=16, seed=0)
        # Plain NIfTI, whose size does not depend on what is in it.
        for case in cases:
            plain = case["image"].removesuffix(".gz")
            nib.save(nib.load(case["image"]), plain)
            case["image"] = plain
        first = check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        before = Path(cases[0]["image"]).stat()
        self.edited(Path(cases[0]["image"]))
        after = Path(cases[0]["image"]).stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        second = check_cohort(cases, 3, tmp_path / "image_statistics.csv")
        assert first.fingerprints[0] != second.fingerprints[0]
        assert first.fingerprints[1:] == second.fingerprints[1:]

    def test_doctor_knows_it(self, study: Study, cohort: Any, tmp_path: Path) -> None:
        moved = []
        for case in cohort:
            images = {key: str(shutil.copy(case[key], tmp_path / f"{case['case_id']}_{key}.nii.gz"))
                      for key in ("image", "label")}  # fmt: skip
            moved.append({**case, **images})
        out = Path(shutil.copytree(study.output_dir, tmp_path / "out"))
        stamps = {path: path.stat().st_mtime_ns for path in out.glob("private/models/*/model.pt")}
        small_study(moved, out).run()  # elsewhere, and the same: nothing is trained again
        assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
        assert doctor(out, "--images") == 0
        self.edited(Path(moved[0]["image"]))
        assert doctor(out, "--images") == 1
        found = {one.name: one.state for one in examine(out, images=True).findings}
        assert found[f"case {moved[0]['case_id']}"] == "stale"
        Path(moved[1]["label"]).unlink()
        found = {one.name: one.state for one in examine(out, images=True).findings}
        assert found[f"case {moved[1]['case_id']}"] == "missing"

    def test_a_record_of_files_knows_their_content(self, tmp_path: Path) -> None:
        """A phantom that was cut is made again; one that was copied is the same."""
        cases = phantom_cohort(tmp_path / "here", 4, size=16, seed=0)
        path = Path(cases[0]["image"])
        content = path.read_bytes()
        path.write_bytes(content[:50])
        assert files.changed_files(tmp_path / "here/cohort.csv") == [f"images/{path.name}"]
        phantom_cohort(tmp_path / "here", 4, size=16, seed=0)
        assert path.read_bytes() == content
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        assert files.changed_files(tmp_path / "there/cohort.csv") == []


class TestAssumedPatients:
    """Where a cohort names no patients, each scan is one, and every page says that this is assumed."""

    def test_from_the_cohort_to_every_page(
        self, cohort: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listed = tmp_path / "cohort.csv"
        listed.write_text("image,label\n" + "".join(f"{case['image']},{case['label']}\n" for case in cohort))
        cases = read_cohort(listed)
        assert all(case["patient_assumed"] for case in cases)
        assert not any("patient_assumed" in case for case in read_cohort(listed, patient_id=lambda case: "p"))
        study = small_study(cases, tmp_path / "out")
        study.main()
        said = " ".join(capsys.readouterr().out.split())
        assert f"Patients are assumed: the cohort names none of the {len(cases)}" in said
        report = tmp_path / "out/report"
        content = json.loads((report / "report.json").read_text())
        assert content["design"]["n_assumed"] == len(cases)
        assert json.loads((report / "privacy.json").read_text())["audited"]["n_assumed"] == len(cases)
        for name in ("index.html", "summary.html", "model_card.md"):
            assert "Patients are assumed: the cohort names none of" in (report / name).read_text(), name
        # What was recorded tells it, too, to who reads it again.
        assert Design.read(study.folder.design_file).patients_assumed == len(cases)
        main(["report", "--output", str(tmp_path / "out")])
        assert "Patients are assumed" in " ".join(capsys.readouterr().out.split())

    def test_named_patients_are_not_assumed(self, study: Study) -> None:
        content = json.loads((Path(study.output_dir) / "report/report.json").read_text())
        assert content["design"]["n_assumed"] == 0
        assert "assumed" not in (Path(study.output_dir) / "report/index.html").read_text()
