# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Individuals of a whole study: what is written where, and what is left out of the report and why."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import small_study

from monai_mia.audit.individuals.covariates import Individuals
from monai_mia.audit.individuals.leakage_map import log_likelihoods
from monai_mia.audit.individuals.vulnerability import Vulnerability
from monai_mia.audit.report import check_report
from monai_mia.audit.report.rescoring import measure_individuals, report_individuals, rescore
from monai_mia.data import phantom_cohort
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.maps import MapStore
from monai_mia.statistics import Resampling
from monai_mia.studies.study import Study

QUICK = Vulnerability(fpr=0.25, min_cell=3, resampling=Resampling(n_resamples=100), n_permutations=99)
AFFINE = np.array([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -3.0], [0.0, 0.0, 1.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """14 patients with covariates good and bad, in a space of their own."""
    cases = phantom_cohort(tmp_path_factory.mktemp("individuals"), n_patients=14, size=16, seed=0)
    for case in cases:
        number = int(case["patient_id"][-3:])
        case |= {"site": "north" if number % 2 else "south", "age": 40 + number, "scanner": "one"}
        case |= {"sex": "" if number == 3 else "fm"[number % 2], "ward": "small ward" if number < 2 else "large ward"}
        for key in ("image", "label"):
            volume = nib.load(case[key])
            nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), AFFINE), case[key])
    return cases


@pytest.fixture(scope="module")
def finished(cohort: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two targets and six shadows with maps; treat its folder as read-only."""
    folder = tmp_path_factory.mktemp("individuals_study") / "out"
    study = small_study(cohort, folder, shadows=6, targets=2, maps=True, individuals=QUICK, leakage_map=True)
    study.run()
    return study


def out(study: Study) -> Path:
    return Path(study.output_dir)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class TestStudy:
    def test_the_report_has_all_parts(self, finished: Study) -> None:
        content = json.loads((out(finished) / "report/report.json").read_text())
        assert content["schema"] == "2.0"
        check_report(content)
        found = content["individuals"]
        assert found["min_cell"] == 3
        vulnerability = found["exposure"]
        assert (vulnerability["n_models"], vulnerability["n_patients"], vulnerability["fpr"]) == (8, 14, 0.25)
        assert vulnerability["attack"] == "RMIA online: soft_dice"
        assert vulnerability["members"]["n_rounds"] + vulnerability["nonmembers"]["n_rounds"] == pytest.approx(8)
        assert vulnerability["members"]["reliability"]["n_patients"] <= 14
        names = {one["covariate"] for one in found["covariates"]}
        assert {"label_1_ml", "label_2_ml", "contrast", "rarity", "age", "site"} <= names
        (site,) = [one for one in found["covariates"] if one["covariate"] == "site"]
        assert {group["value"]: group["n_patients"] for group in site["subgroups"]} == {"north": 7, "south": 7}
        assert [profile["label"] for profile in found["leakage"]["profiles"]] == [1, 2]
        pictures = {path.stem for path in (out(finished) / "report/figures").glob("*.png")}
        assert {"individuals", "leakage_profile", "leakage_map"} <= pictures
        page = (out(finished) / "report/index.html").read_text()
        assert 'id="individuals"' in page
        assert "How often patients are detected" in page

    def test_what_is_missing_is_told_and_the_rest_is_made(self, finished: Study) -> None:
        gaps = json.loads((out(finished) / "report/report.json").read_text())["individuals"]["gaps"]
        assert any("'sex' must be given for every patient" in gap for gap in gaps)
        assert any("'scanner' must vary over the patients, got one value" in gap for gap in gaps)
        assert any("'ward' must have two subgroups of at least 3" in gap for gap in gaps)
        page = (out(finished) / "report/index.html").read_text()
        assert "must vary over the patients, got one value" in page

    def test_is_not_lost_when_the_report_is_made_again(self, finished: Study) -> None:
        with pytest.raises(InputError, match="section on individuals"):
            rescore(out(finished))

    def test_nobody_is_named_in_the_report(self, finished: Study, cohort: list[dict[str, Any]]) -> None:
        told = "".join(
            path.read_text() for path in (out(finished) / "report").rglob("*") if path.suffix in (".html", ".json")
        )
        for case in cohort:
            assert case["case_id"] not in told
            assert case["patient_id"] not in told
            assert Path(case["image"]).name not in told
        assert "small ward" not in told  # two patients

    def test_private_files(self, finished: Study, cohort: list[dict[str, Any]]) -> None:
        table = rows(out(finished) / "private/individuals.csv")
        patients = sorted({case["patient_id"] for case in cohort})
        assert [row["patient_id"] for row in table] == patients
        assert all(int(row["members_rounds"]) + int(row["nonmembers_rounds"]) == 8 for row in table)
        assert {"members_detected", "members_certainty", "rarity", "site", "age"} <= set(table[0])
        for name in ("private/individuals.csv", "private/leakage/cases.csv"):
            assert stat.S_IMODE((out(finished) / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((out(finished) / "private/leakage").stat().st_mode) == 0o700

    def test_the_maps_of_cases_are_the_evidence_in_their_space(
        self, finished: Study, cohort: list[dict[str, Any]]
    ) -> None:
        design = Design.read(out(finished) / "private/design.csv")
        table = finished.folder.table(design.model_ids)
        maps = MapStore(out(finished) / "private/maps").of(table, "target", design.shadows)
        listed = rows(out(finished) / "private/leakage/cases.csv")
        assert [row["case_id"] for row in listed] == list(table.case_ids)
        for n, row in enumerate(listed[:3]):
            volume = nib.load(out(finished) / "private/leakage" / row["file"])
            image = nib.load(next(case["image"] for case in cohort if case["case_id"] == row["case_id"]))
            # The bundle turns volumes to RAS before the network sees them.
            np.testing.assert_allclose(volume.affine, nib.as_closest_canonical(image).affine, atol=1e-5)
            assert row["member"] == str(int(table.members("target")[n]))
            label = maps.label(n)
            outside = [m for m, model in enumerate(design.shadows) if not table.members(model)[n]]
            mean = np.mean([log_likelihoods(maps.shadow(m, n), label) for m in outside], axis=0)
            expected = log_likelihoods(maps.target(n), label) - mean
            np.testing.assert_allclose(np.asarray(volume.dataobj), expected, atol=1e-4)

    def test_again_from_what_was_recorded(self, finished: Study, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        """The same numbers as in the study's own report, without an image or a network."""
        found = report_individuals(finished.output_dir, QUICK, cases=cohort)
        content = json.loads((out(finished) / "report/report.json").read_text())["individuals"]
        again = json.loads((out(finished) / "report/individuals.json").read_text())
        assert {**content, "schema": "1"} == again
        assert found.leakage is not None
        page = (out(finished) / "report/individuals.html").read_text()
        assert "What is missing" in page
        told = page + (out(finished) / "report/individuals.md").read_text()
        assert not any(case["patient_id"] in told or case["case_id"] in told for case in cohort)


class TestRefused:
    def test_a_leakage_map_without_maps(self, cohort: list[dict[str, Any]], tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"maps must be true to locate evidence \(leakage_map\), got false"):
            small_study(cohort, tmp_path / "out", leakage_map=True).run()
        assert not (tmp_path / "out").exists()

    def test_a_folder_without_a_study(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="design must be a CSV file"):
            report_individuals(tmp_path)

    def test_too_few_patients_for_the_fpr_is_a_gap(self, finished: Study) -> None:
        design = Design.read(out(finished) / "private/design.csv")
        found = measure_individuals(finished.folder, design, Vulnerability(fpr=0.05), False)
        assert found.vulnerability is None
        assert found.associations == ()
        assert found.gaps[0].startswith("vulnerability: fpr must be at least the resolution of each model, got 0.05")

    def test_too_few_patients_for_a_map_is_a_gap(self, finished: Study) -> None:
        design = Design.read(out(finished) / "private/design.csv")
        found = measure_individuals(finished.folder, design, replace(QUICK, min_cell=30), True)
        assert isinstance(found, Individuals)
        assert found.leakage is not None
        assert found.leakage.registered is None
        assert any(gap.startswith("leakage map: each side must have at least 30") for gap in found.gaps)
        assert found.vulnerability is None
        assert any(gap.startswith("vulnerability: patients must be at least 30 as members") for gap in found.gaps)

    def test_broken_maps_are_a_gap_that_names_nobody(self, finished: Study, tmp_path: Path) -> None:
        """The error names a case and a folder; the report must not."""
        folder = tmp_path / "copy"
        shutil.copytree(out(finished), folder)
        path = folder / "private/maps/shadow_02.npz"
        whole = path.read_bytes()
        half = len(whole) // 2
        path.write_bytes(whole[:half] + bytes(byte ^ 255 for byte in whole[half : half + 400]) + whole[half + 400 :])
        found = report_individuals(folder, QUICK)
        assert found.vulnerability is not None
        assert found.leakage is None
        assert "leakage map: what was recorded cannot be read; the log says why." in found.gaps
        shutil.rmtree(folder / "private/maps")
        found = report_individuals(folder, QUICK)
        assert "leakage map: maps must be recorded (maps: true in the study), got none." in found.gaps
        assert not any(str(tmp_path) in gap or "phantom_0" in gap for gap in found.gaps)

    def test_canaries_are_no_patients(self, finished: Study) -> None:
        design = Design.read(out(finished) / "private/design.csv")
        canary = design.patient_ids[0]
        marked = tuple({**case, "canary": "plain" if case["patient_id"] == canary else ""} for case in design.cases)
        found = measure_individuals(finished.folder, replace(design, cases=marked), QUICK, True)
        assert found.vulnerability is not None
        assert canary not in found.vulnerability.patient_ids
        assert found.leakage is not None
        path = out(finished) / "private/design.json"
        about = files.read_json(path)
        try:
            files.write_json(path, {**about, "canaries": ["plain"]})
            with pytest.raises(InputError, match="study must be without canaries"):
                report_individuals(finished.output_dir)
        finally:
            files.write_json(path, about)
