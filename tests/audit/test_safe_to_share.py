# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What may be shared names nobody: a study of a cohort full of canary words, searched in every byte of its reports."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import logging
import re
import stat
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from conftest import small_study
from evaluations import evaluate, network
from matplotlib.text import Text
from monai.data.utils import list_data_collate
from monai.handlers import TensorBoardStatsHandler
from monai.transforms import Compose
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import FileDataset, FileMetaDataset

from monai_mia.__main__ import main
from monai_mia.attacks import EverySignal, GlobalLoss
from monai_mia.audit.audit import Audit
from monai_mia.audit.comparison import Comparison
from monai_mia.audit.disclosure.archive import check_archive, report_leaks, write_archive
from monai_mia.audit.report import figures
from monai_mia.data import header_values, write_identifiers
from monai_mia.data.phantoms import phantom
from monai_mia.errors import InputError
from monai_mia.handlers.attacks import AttackRunner
from monai_mia.handlers.signals import SignalRecorder
from monai_mia.records.identifiers import Identifiers
from monai_mia.records.pseudonyms import KEY_FILE, Pseudonyms
from monai_mia.statistics import Resampling
from monai_mia.studies import ComparisonStudy
from monai_mia.studies.jobs import run_jobs
from monai_mia.studies.study import Study

#: Words of the cohort below, none of which is a word of anything else.
FOLDER, UID, SITE, TEXT = "Zorqual_Infirmary", "1.2.826.0.1.3680043.8.498.7733901", "Quillobrax", "Vexmoor protocol 9"
PATIENT, CASE = "ZQX-{:04d}", "kwv{:03d}-visit{}"


def canary_cohort(folder: Path, n_patients: int = 9) -> list[dict[str, Any]]:
    """Phantoms whose names, folders, headers and covariates are canary words."""
    cases = []
    for patient in range(n_patients):
        for visit in range(2 if patient % 3 == 0 else 1):
            case: dict[str, Any] = {
                "case_id": CASE.format(patient, visit),
                "patient_id": PATIENT.format(patient),
                "site": f"{SITE}-{patient % 2}",
            }
            for key, values in zip(("image", "label"), phantom(16, 0, patient, visit), strict=True):
                volume = nib.Nifti1Image(values.astype(np.float32 if key == "image" else np.uint8), np.eye(4))
                volume.header["descrip"] = f"{TEXT} {patient}".encode()
                volume.header["db_name"] = b"Thrindle"
                volume.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{UID}.{patient}".encode()))
                path = folder / FOLDER / f"{key}s" / f"{case['case_id']}_{key}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(volume, path)
                case[key] = str(path)
            cases.append(case)
    return cases


@pytest.fixture(scope="module")
def drawn() -> list[str]:
    """Every text that a picture of this module's reports shows."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, drawn: list[str]) -> Study:
    """A finished study of them; treat its folder as read-only."""
    folder = tmp_path_factory.mktemp("canaries")
    original = figures.png

    def png(figure: Any) -> bytes:
        drawn.extend(str(text.get_text()) for text in figure.findobj(Text))
        return original(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", png)
        study = small_study(canary_cohort(folder), folder / f"{SITE}_output")
        study.run()
        comparison = Comparison(
            lambda _: [GlobalLoss(), EverySignal()], budgets=(2,), resampling=Resampling(n_resamples=20)
        )
        ComparisonStudy(study, comparison).score()
    return study


@pytest.fixture
def output(finished: Study, tmp_path: Path) -> Path:
    """A copy of the report and the identifiers, to be spoilt."""
    source, copy = Path(finished.output_dir), tmp_path / "out"
    (copy / "private").mkdir(parents=True)
    (copy / "report").mkdir()
    (copy / "private/identifiers.json").write_bytes((source / "private/identifiers.json").read_bytes())
    for name in ("index.html", "report.json"):
        (copy / "report" / name).write_bytes((source / "report" / name).read_bytes())
    return copy


def plain_texts(data: bytes) -> str:
    """A slow and simple twin of the search's reader: bytes, what base64 stands for, metadata of PNG."""
    texts = [data.decode("latin-1")]
    for match in re.finditer(rb"base64,([A-Za-z0-9+/=]+)", data):
        texts.append(plain_texts(base64.b64decode(match[1])))
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            texts.append(repr(picture.info))
    return html.unescape("\n".join(texts)).replace("<wbr>", "").lower()


class TestStudy:
    """A finished one."""

    def test_no_canary_word_in_any_byte_of_the_report(self, finished: Study) -> None:
        """By a search that shares nothing with the package's own."""
        words = [FOLDER, UID, SITE, TEXT, "Thrindle", *(PATIENT.format(n) for n in range(9))]
        words += [f"kwv{n:03d}" for n in range(9)]
        words += [str(Path(finished.output_dir).parent), Path(finished.output_dir).parent.name]
        words += [hashlib.sha256(PATIENT.format(n).encode()).hexdigest()[:12] for n in range(9)]
        paths = [path for path in Path(finished.output_dir, "report").rglob("*") if path.is_file()]
        assert {path.name for path in paths} >= {"index.html", "report.json", "comparison.png", "comparison.md"}
        for path in paths:
            text = plain_texts(path.read_bytes())
            for word in words:
                assert word.lower() not in text, (path.name, word)

    def test_nor_in_any_picture(self, finished: Study, drawn: list[str]) -> None:
        identifiers = finished.folder.identifiers()
        assert any("AUC" in text for text in drawn)
        assert not [text for text in drawn if identifiers.in_text(text)]

    def test_the_packages_own_search_agrees(self, finished: Study) -> None:
        assert report_leaks(finished.output_dir) == []

    def test_every_kind_of_identifier_is_known(self, finished: Study) -> None:
        values = finished.folder.identifiers().values
        assert values["patient id"] == {PATIENT.format(n) for n in range(9)}
        assert len(values["case id"]) == 12
        assert {FOLDER, f"{SITE}_output", finished.recipe.root} <= values["path"]
        assert values["covariate"] == {f"{SITE}-0", f"{SITE}-1"}  # fewer than 10 patients each
        assert values["header value"] == {"Thrindle"} | {
            text for n in range(9) for text in (f"{TEXT} {n}", f"{UID}.{n}")
        }

    def test_private_files_are_the_owners(self, finished: Study) -> None:
        private = Path(finished.output_dir) / "private"
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        listed = [path for path in private.rglob("*") if path.is_file()]
        assert {"design.csv", "identifiers.json", "pseudonym.key", "cases.csv"} <= {path.name for path in listed}
        assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in listed} == {
            path.name: "0o600" for path in listed
        }
        assert stat.S_IMODE((Path(finished.output_dir) / "study.json").stat().st_mode) == 0o600

    def test_cases_are_linked_by_pseudonyms(self, finished: Study) -> None:
        private = Path(finished.output_dir) / "private"
        names = Pseudonyms.kept_in(private)
        rows = [line.split(",") for line in (private / "cases.csv").read_text().splitlines()]
        assert rows[0][:4] == ["case_id", "patient_id", "pseudonym", "member"]
        assert [row[2] for row in rows[1:]] == [names(row[1]) for row in rows[1:]]
        assert len({row[2] for row in rows[1:]}) == 9


HIDING = {
    "html.html": lambda word: f"<td>{word}</td>",
    "broken.html": lambda word: f"<td>{word[:3]}<wbr>{word[3:]}</td>",
    "entities.html": lambda word: "".join(f"&#{ord(letter)};" for letter in word),
    "url.html": lambda word: "<a href='" + "".join(f"%{ord(letter):02x}" for letter in word) + "'>",
    "lower.md": str.lower,
    "escaped.json": lambda word: '"' + "".join(f"\\u{ord(letter):04x}" for letter in word) + '"',
    "wide.md": lambda word: word.encode("utf-16"),
    "base64.html": lambda word: b"data:image/png;base64," + base64.b64encode(f"some text {word} more".encode()),
}


def picture(word: str, compressed: bool) -> bytes:
    about, buffer = PngInfo(), io.BytesIO()
    about.add_text("Title", word, zip=compressed)
    Image.new("L", (4, 4)).save(buffer, format="png", pnginfo=about)
    return buffer.getvalue()


class TestSearch:
    """Known answers: what is planted is found, what is not is not."""

    @pytest.mark.parametrize("name", HIDING)
    @pytest.mark.parametrize(
        ("kind", "word"),
        [
            ("patient id", PATIENT.format(3)),
            ("case id", CASE.format(3, 0)),
            ("path", FOLDER),
            ("covariate", f"{SITE}-0"),
            ("header value", f"{UID}.5"),
        ],
    )
    def test_what_is_planted_is_found(self, output: Path, name: str, kind: str, word: str) -> None:
        content = HIDING[name](word)
        (output / "report" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        leaks = report_leaks(output)
        assert {(leak.file, leak.kind) for leak in leaks} >= {(name, kind)}
        assert {leak.file for leak in leaks} == {name}
        assert word not in repr(leaks)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_metadata_of_pictures(self, output: Path, compressed: bool) -> None:
        word = f"{TEXT} 4"
        (output / "report/a.png").write_bytes(picture(word, compressed))
        assert [(leak.file, leak.kind) for leak in report_leaks(output)] == [("a.png", "header value")]
        inside = base64.b64encode(picture(word, compressed)).decode()
        (output / "report/a.png").unlink()
        (output / "report/b.html").write_text(f"<img src='data:image/png;base64,{inside}'>")
        assert [(leak.file, leak.kind) for leak in report_leaks(output)] == [("b.html", "header value")]

    def test_after_the_end_of_a_picture(self, output: Path) -> None:
        (output / "report/a.png").write_bytes(picture("nothing", False) + PATIENT.format(1).encode())
        assert [leak.kind for leak in report_leaks(output)] == ["patient id"]

    def test_names_of_files(self, output: Path) -> None:
        (output / f"report/{PATIENT.format(1)}.md").write_text("nothing")
        assert [leak.kind for leak in report_leaks(output)] == ["patient id"]

    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
    def test_a_plain_hash_is_no_pseudonym(self, output: Path, algorithm: str) -> None:
        digest = hashlib.new(algorithm, PATIENT.format(1).encode()).hexdigest()
        (output / "report/a.md").write_text(digest)
        assert [leak.kind for leak in report_leaks(output)] == ["patient id"]

    def test_a_pseudonym_is_none(self, output: Path) -> None:
        names = Pseudonyms.kept_in(output / "private")
        (output / "report/a.md").write_text(" ".join(names(PATIENT.format(n)) for n in range(9)))
        assert report_leaks(output) == []

    def test_words_not_parts_of_words(self) -> None:
        found = Identifiers({"patient id": frozenset({"anna", "123456"})})
        assert found.in_text("scan of Anna_2")
        assert found.in_text("id=123456")
        for text in ("annals", "hosanna", "0.123456", "1234567", "123456.5", "a123", "anna1"):
            assert not found.in_text(text), text

    def test_what_is_too_short_is_counted(self) -> None:
        found = Identifiers({"patient id": frozenset({"7", "12345", "ab1", "abc1"})})
        wanted, too_short = found.sought()
        assert (set(wanted) & {"7", "12345", "ab1", "abc1"}, too_short) == ({"abc1"}, 3)

    def test_words_of_the_package_name_nobody_unless_they_are_ids(self) -> None:
        word = "verdict"
        assert not Identifiers({"path": frozenset({word})}).in_text(word)
        assert Identifiers({"patient id": frozenset({word})}).in_text(word)

    def test_parts_of_what_the_report_names_on_purpose(self) -> None:
        """A folder called like the organ that the bundle is called after."""
        found = Identifiers({"path": frozenset({"zorgan"}), "patient id": frozenset({"quxid"})})
        wanted, _ = found.sought(["zorgan_unet", "quxid_unet"])
        assert "zorgan" not in wanted
        assert wanted["quxid"] == "patient id"

    def test_a_long_report_is_searched_in_seconds(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        (tmp_path / "report.json").write_text(json.dumps(rng.random(100_000).tolist()))
        found = Identifiers({"patient id": frozenset(f"ZQX-{n:06d}" for n in range(3000))})
        start = time.perf_counter()
        assert found.leaks(tmp_path) == []
        assert time.perf_counter() - start < 60

    def test_what_many_patients_share_is_no_identifier(self) -> None:
        cases = [
            {"case_id": f"c{n}", "patient_id": f"p{n}", "image": "a", "label": "b", "scanner": "Wibblex" if n else "Q9"}
            for n in range(11)
        ]
        assert Identifiers.of(cases).values["covariate"] == {"Q9"}
        assert Identifiers.of(cases, headers=lambda _: {"Wibblex", "Q9"}).values["header value"] == {"Q9"}
        assert Identifiers.of(cases[:10]).values["covariate"] == {"Q9", "Wibblex"}

    def test_no_identifiers(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"identifiers.json of a finished study"):
            Identifiers.read(tmp_path)


class TestArchive:
    """What leaves."""

    def test_holds_the_report_and_a_manifest_and_nothing_else(self, finished: Study, tmp_path: Path) -> None:
        output = Path(finished.output_dir)
        manifest = write_archive(output, tmp_path / "a.zip")
        expected = {
            f"report/{path.relative_to(output / 'report').as_posix()}": path.read_bytes()
            for path in (output / "report").rglob("*")
            if path.is_file()
        }
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            names = archive.namelist()
            assert names == ["manifest.json", *sorted(expected)]
            assert {name: archive.read(name) for name in names[1:]} == expected
            assert json.loads(archive.read("manifest.json")) == manifest
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()}
        assert manifest["searched"]["values"] > 40
        assert manifest["searched"]["allowed"] == 0
        assert check_archive(tmp_path / "a.zip") == manifest

    def test_same_report_same_bytes(self, output: Path, tmp_path: Path) -> None:
        write_archive(output, tmp_path / "a.zip")
        (output / "report/index.html").touch()
        write_archive(output, tmp_path / "b.zip")
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_a_leak_is_refused_and_not_repeated(self, output: Path, tmp_path: Path) -> None:
        (output / "report/notes.md").write_text(f"about {PATIENT.format(2)}")
        with pytest.raises(InputError, match=r"a patient id in notes.md") as refused:
            write_archive(output, tmp_path / "a.zip")
        assert PATIENT.format(2) not in str(refused.value)
        assert not (tmp_path / "a.zip").exists()
        noted = output / "private/leaks.json"
        assert PATIENT.format(2).lower() in noted.read_text()
        assert stat.S_IMODE(noted.stat().st_mode) == 0o600
        write_archive(output, tmp_path / "a.zip", allowed=[PATIENT.format(2)])
        assert not noted.exists()

    @pytest.mark.parametrize("name", ["notes.docx", "notes.zip", "table.csv"])
    def test_other_files_are_refused(self, output: Path, tmp_path: Path, name: str) -> None:
        (output / "report" / name).write_text("nothing")
        with pytest.raises(InputError, match=re.escape(name)):
            write_archive(output, tmp_path / "a.zip")

    def test_links_are_refused(self, output: Path, tmp_path: Path) -> None:
        (output / "report/more.json").symlink_to(output / "private/identifiers.json")
        with pytest.raises(InputError, match=r"more.json"):
            write_archive(output, tmp_path / "a.zip")

    def test_not_into_the_report(self, output: Path) -> None:
        with pytest.raises(InputError, match="outside of report/"):
            write_archive(output, output / "report/a.zip")

    @pytest.mark.parametrize("change", ["changed", "additional", "missing"])
    def test_check(self, output: Path, tmp_path: Path, change: str) -> None:
        write_archive(output, tmp_path / "a.zip")
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        if change == "changed":
            content["report/index.html"] += b" "
        elif change == "additional":
            content["report/more.md"] = b""
        else:
            del content["report/index.html"]
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        with pytest.raises(InputError, match="got 1 that are"):
            check_archive(tmp_path / "b.zip")

    @pytest.mark.parametrize(
        "name", ["../../evil.md", "report/../evil.md", "/report/a.md", "private/design.json", "report/a.sh"]
    )
    def test_a_name_that_no_report_has(self, tmp_path: Path, name: str) -> None:
        """Though its manifest lists it."""
        manifest = {"files": {name: hashlib.sha256(b"x").hexdigest()}}
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
            archive.writestr(name, b"x")
        with pytest.raises(InputError, match=f"the files of a report alone, got {re.escape(name)}"):
            check_archive(tmp_path / "a.zip")

    @pytest.mark.parametrize("where", ["before", "comment"])
    def test_what_hides_beside_the_files(self, output: Path, tmp_path: Path, where: str) -> None:
        write_archive(output, tmp_path / "a.zip")
        if where == "before":
            (tmp_path / "a.zip").write_bytes(b"patients" + (tmp_path / "a.zip").read_bytes())
        else:
            with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
                archive.comment = b"patients"
        with pytest.raises(InputError, match="a comment, or bytes before the archive"):
            check_archive(tmp_path / "a.zip")

    def test_what_was_allowed_is_told(self, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = write_archive(output, tmp_path / "a.zip", allowed=[PATIENT.format(2)])
        assert manifest["searched"]["allowed"] > 0
        main(["archive", "--check", str(tmp_path / "a.zip")])
        assert "values were not searched for, since the user who packed it allowed them" in capsys.readouterr().out

    @pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
    def test_what_is_no_archive(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(InputError, match="archive must be one that monai_mia wrote"):
            check_archive(tmp_path / "a.zip")

    def test_command(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["archive", "--output", str(output), "--archive", str(output / "a.zip")])
        assert "none is in the report" in capsys.readouterr().out
        main(["archive", "--check", str(output / "a.zip")])
        assert "2 files, as in its manifest" in capsys.readouterr().out
        (output / "report/notes.md").write_text(PATIENT.format(2))
        with pytest.raises(SystemExit, match=r"notes\.md"):
            main(["archive", "--output", str(output)])
        with pytest.raises(SystemExit, match="report/ of a finished study"):
            main(["archive", "--output", str(output / "private")])


class TestPseudonyms:
    """Keyed, stable, the owner's."""

    def test_the_key_is_kept(self, tmp_path: Path) -> None:
        names = Pseudonyms.kept_in(tmp_path)
        assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
        assert Pseudonyms.kept_in(tmp_path)("a") == names("a") != names("b")

    def test_another_study_has_others(self, tmp_path: Path) -> None:
        assert Pseudonyms.kept_in(tmp_path / "a")("x") != Pseudonyms.kept_in(tmp_path / "b")("x")

    def test_known_answer(self) -> None:
        """RFC 4231, test case 2."""
        assert Pseudonyms(b"Jefe")("what do ya want for nothing?") == "P-5bdcc146bf"

    def test_no_two_share_one(self) -> None:
        with pytest.raises(InputError, match="n_digits must be larger"):
            Pseudonyms(bytes(32), n_digits=1).of(map(str, range(20)))

    def test_a_damaged_key_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / KEY_FILE).write_text("no key")
        with pytest.raises(InputError, match="64 hexadecimal digits"):
            Pseudonyms.kept_in(tmp_path)
        assert "no key" in (tmp_path / KEY_FILE).read_text()

    def test_the_key_is_not_printed(self) -> None:
        assert "Jefe" not in repr(Pseudonyms(b"Jefe"))


class TestHeaders:
    """What headers hold is known, so that it can be searched for."""

    def test_dicom(self, tmp_path: Path) -> None:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{UID}.1"
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data = FileDataset(str(tmp_path / "a.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        data.PatientID, data.PatientName, data.PatientBirthDate = "ZQX-0001", "Wibble^Ada", "19310207"
        data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, f"{UID}.1"
        data.ImageType, data.Rows = ["ORIGINAL", "PRIMARY"], 4
        data.save_as(tmp_path / "a.dcm")
        expected = {"ZQX-0001", "Wibble^Ada", "Wibble", "Ada", "19310207", f"{UID}.1"}
        assert header_values(tmp_path / "a.dcm") == expected
        assert header_values(tmp_path) == expected  # a series is a folder
        for name in ("a.img", "a.nii.gz", "a.png"):  # whatever it is called
            assert header_values((tmp_path / "a.dcm").rename(tmp_path / name)) == expected
            (tmp_path / name).rename(tmp_path / "a.dcm")

    def test_of_dicom_is_never_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Pydicom warns of a date that is none, and quotes it."""
        caplog.set_level(logging.DEBUG)
        data = FileDataset(str(tmp_path / "a.dcm"), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            data.add_new("PatientBirthDate", "DA", "Thrindle-no-date")
            data.save_as(tmp_path / "a.dcm")
            assert "Thrindle" in "".join(str(one.message) for one in warned)
            warned.clear()
            caplog.clear()
            assert "Thrindle-no-date" in header_values(tmp_path / "a.dcm")
        assert "Thrindle" not in caplog.text + "".join(str(one.message) for one in warned)

    def test_what_is_no_image_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.nii.gz").write_bytes(b"torn")
        (tmp_path / "a.dcm").write_bytes(b"torn")
        assert header_values(tmp_path) == set()

    def test_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        monkeypatch.setattr("monai_mia.data.headers.header_values", lambda path: read.append(path) or ["Thrindle"])
        case = {"case_id": "case_1", "patient_id": "patient_1", "image": "a.nii", "label": "b.nii"}
        for key in ("1", "1", "2"):
            write_identifiers(tmp_path / "identifiers.json", [case], key)
        assert read == ["a.nii", "b.nii"] * 2


@dataclass(frozen=True)
class Collating:
    """A job whose batch cannot be collated, or whose transform fails."""

    progress: str
    transform: bool = False
    model_id: str = "target"

    def run(self) -> None:
        """Fail as MONAI does."""
        items = [{"image": torch.full((1, n, 2), 777.125), "case_id": PATIENT.format(n)} for n in (2, 3)]
        if self.transform:
            Compose([lambda _: 1 / 0], log_stats=True)(items[0])
        list_data_collate(items)


class TestLogs:
    """What fails is told without the patient's data."""

    @pytest.mark.parametrize("transform", [False, True])
    def test_failing_jobs_print_no_voxels(
        self, tmp_path: Path, transform: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        job = Collating(str(tmp_path / "progress.json"), transform)
        with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError):
            job.run()
        printed = caplog.text + "".join(capfd.readouterr())
        assert "777.125" in printed  # else this test could not fail
        assert PATIENT.format(2) in printed or not transform
        caplog.clear()
        with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError) as failed:
            run_jobs([job], "failing", n_jobs=1)
        printed = caplog.text + str(failed.value) + "".join(capfd.readouterr())
        assert "777" not in printed
        assert PATIENT.format(2) not in printed
        assert transform or "[1, 3, 2]" in printed  # the shapes tell what is wrong

    def test_loggers_get_rates_and_no_cases(self, tmp_path: Path) -> None:
        """What TensorBoard is handed: names of attacks and plain numbers."""

        class Writer:
            def __init__(self) -> None:
                self.written: list[tuple[Any, ...]] = []

            def add_scalar(self, *arguments: Any) -> None:
                self.written.append(arguments)

            def flush(self) -> None:
                pass

        for shadow in range(2):
            evaluate([SignalRecorder(tmp_path / f"signals/shadow_{shadow:02d}.csv")], network(1 + shadow))
        audit = Audit(
            [GlobalLoss(), EverySignal()], fprs=(0.5,), resampling=Resampling(n_resamples=50), n_permutations=50
        )
        writer = Writer()
        evaluator = evaluate(
            [
                SignalRecorder(tmp_path / "signals/target.csv"),
                AttackRunner(audit, tmp_path / "signals"),
                TensorBoardStatsHandler(writer, iteration_log=False),
            ]
        )
        names = [name for name, *_ in writer.written]
        assert "global loss AUC" in names
        assert all(isinstance(value, float) for _, value, _ in writer.written)
        assert not [text for text in names if re.search(r"case_\d|patient_\d|/", text)]
        assert not evaluator.state.metric_details


def test_gaps_are_told_without_cases() -> None:
    ids = Identifiers({"case id": frozenset({"scan_0815"})})
    for text in ("others: label of scan_0815 is missing", "others: cases must be files, got '/srv/ward/a.nii'"):
        assert ids.withheld(text) == "others: the reason names a case or a folder, and is in private/."
    assert ids.withheld("scan_0815: torn") == "The reason names a case or a folder, and is in private/."
    for text in ("others: 3 of 4 scans", "a/b is no folder", "got [1, 2]/3: too small"):
        assert ids.withheld(text) == text
