# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A checker's command against archives that were tampered with, and against what was never one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import environment
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_report import ABOUT, make_table, run

from monai_mia.audit.disclosure import write_archive
from monai_mia.audit.disclosure.checking import check_shared
from monai_mia.audit.disclosure.policy import Policy
from monai_mia.audit.report import write_report
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.folder import StudyFolder
from monai_mia.records.identifiers import Identifiers

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of an audit with a strong leak, made by its owner's thresholds."""
    folder = tmp_path_factory.mktemp("checked") / "out"
    table = make_table(4.0, 60, scans=1)
    weights = hashlib.sha256(b"weights").hexdigest()
    design = {**ABOUT["design"], "n_member": 30, "n_nonmember": 30, "n_member_cases": 30, "n_nonmember_cases": 30}
    about = {**ABOUT, "design": design, "target": {**ABOUT["target"], "checkpoint_sha256": weights}}
    write_report(run(table, min_cell=5), table, folder / "report", about)
    study = StudyFolder(folder)
    files.write_json(study.root / "study.json", {})
    Identifiers.of([{"case_id": "SCAN-00001", "patient_id": "PATIENT-0001"}], []).write(
        study.private / "identifiers.json"
    )
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private and public keys of two people, and one of another kind."""
    folder = tmp_path_factory.mktemp("keys")
    paths = {}
    made = {
        "one": Ed25519PrivateKey.generate(),
        "two": Ed25519PrivateKey.generate(),
        "curve": ec.generate_private_key(ec.SECP256R1()),
    }
    for name, key in made.items():
        paths[name] = folder / f"{name}.pem"
        paths[name].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        paths[f"{name}.pub"] = folder / f"{name}.pub.pem"
        paths[f"{name}.pub"].write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return paths


@pytest.fixture(scope="module")
def archive(output: Path, keys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "report.zip"
    write_archive(output, path, sign=keys["one"])
    return path


def repacked(archive: Path, path: Path, change: Callable[[Files], None]) -> Path:
    """The archive with other content and a manifest that agrees with it, as a forger makes it."""
    with zipfile.ZipFile(archive) as old:
        found = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(found.pop("manifest.json"))
    signature = found.pop("manifest.sig")
    change(found)
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("manifest.json", json.dumps(manifest))
        new.writestr("manifest.sig", signature)
        for name, data in found.items():
            new.writestr(name, data)
    return path


def test_an_honest_archive(archive: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    found = check_shared(
        archive, model=tmp_path / "model.pt", signer=keys["one.pub"], policy=policy(tmp_path, "min_cell: 5")
    )
    assert found.signed
    assert found.verdict == found.own
    assert found.verdict.recommendation == "reject"


def policy(folder: Path, text: str) -> Policy:
    (folder / "tre.yaml").write_text(text)
    return Policy.read(folder / "tre.yaml")


def edit(name: str, old: str, new: str) -> Callable[[Files], None]:
    def change(found: Files) -> None:
        text = found[name].decode()
        assert old in text
        found[name] = text.replace(old, new).encode()

    return change


def number(found: Files) -> None:
    content = json.loads(found["report/report.json"])
    content["attacks"][0]["auc"] = 0.5
    content["attacks"][0]["auc_ci"] = [0.4, 0.6]
    found["report/report.json"] = json.dumps(content).encode()


def level(found: Files) -> None:
    content = json.loads(found["report/report.json"])
    content["verdict"]["level"] = "low"
    found["report/report.json"] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("report/summary.html", "<strong>reject</strong>", "<strong>support</strong>"), "summary.html"),
        (edit("report/model_card.md", "reject", "support"), "model_card.md"),
        (edit("report/privacy.json", '"reject"', '"support"'), "privacy.json"),
        (edit("report/index.html", "Risk found: high", "Risk found: low"), "index.html"),
        (edit("report/index.html", "<strong>reject</strong>", "<strong>support</strong>"), "index.html"),
        (number, "verdict of report.json must follow"),
        (level, "verdict of report.json must follow"),
        (lambda found: found.pop("report/report.json"), "must hold report.json"),
        (lambda found: found.update({"report/report.json": b"{"}), "report.json must be JSON"),
        (lambda found: found.update({"report/report.json": b"{}"}), "must follow its schema"),
        (lambda found: found.update({"report/run.py": b""}), "files of a report alone"),
        (lambda found: found.update({"report/big.json": b"0" * (65 << 20)}), "at most 500 files and 64 MiB"),
        (lambda found: found.update({f"report/{n}.md": b"" for n in range(600)}), "at most 500 files"),
    ],
)
def test_forged(archive: Path, tmp_path: Path, change: Callable[[Files], None], words: str) -> None:
    """The manifest was hashed again; the pages and the numbers no longer agree."""
    path = repacked(archive, tmp_path / "forged.zip", change)
    with pytest.raises(InputError, match=words):
        check_shared(path, policy(tmp_path, "min_cell: 5"))


def test_a_bomb_is_not_unpacked(archive: Path, tmp_path: Path) -> None:
    """306 kB that are 598 MiB: refused by the sizes that the archive states; a lie about these ends at them."""
    path = tmp_path / "bomb.zip"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", "{}")
        for n in range(5):
            bomb.writestr(f"report/{n}.json", b"0" * (20 << 20))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="Do not unpack it"):
        check_shared(path)
    size = (20 << 20).to_bytes(4, "little")
    path.write_bytes(buffer.getvalue().replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="must be one that monai_mia wrote"):
        check_shared(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(InputError, match="must be one that monai_mia wrote"):
        check_shared(tmp_path / "file.zip")


def test_other_weights(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"other weights")
    with pytest.raises(InputError, match="must be the one that was audited"):
        check_shared(archive, policy(tmp_path, "min_cell: 5"), tmp_path / "model.pt")
    with pytest.raises(InputError, match="model must be a file that can be read"):
        check_shared(archive, policy(tmp_path, "min_cell: 5"), tmp_path / "none.pt")


def test_fewer_patients_than_the_policy_allows(archive: Path) -> None:
    with pytest.raises(InputError, match="min_cell of the report must be at least 10, got 5"):
        check_shared(archive)


def test_signatures(archive: Path, output: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    lenient = policy(tmp_path, "min_cell: 5")
    with pytest.raises(InputError, match="the signature of another"):
        check_shared(archive, lenient, signer=keys["two.pub"])
    with pytest.raises(InputError, match="the signature of another or of something else"):
        check_shared(repacked(archive, tmp_path / "again.zip", lambda _: None), lenient, signer=keys["one.pub"])
    plain = tmp_path / "plain.zip"
    write_archive(output, plain)
    with pytest.raises(InputError, match="archive must be signed"):
        check_shared(plain, lenient, signer=keys["one.pub"])
    assert check_shared(plain, lenient).fingerprint is None
    assert check_shared(archive, lenient).signed is None
    for path in (keys["curve.pub"], keys["one"], tmp_path / "tre.yaml"):
        with pytest.raises(InputError, match="signer must be"):
            check_shared(archive, lenient, signer=path)
    with pytest.raises(InputError, match="sign must be an Ed25519 key"):
        write_archive(output, plain, sign=keys["curve"])


def test_the_policy_judges(archive: Path, tmp_path: Path) -> None:
    found = check_shared(archive, policy(tmp_path, "min_cell: 2\nmin_patients: 100"))
    assert (found.verdict.level, found.own.level) == ("inconclusive", "high")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_acu: 0.6", "policy must hold .*, got 'max_acu'"),
        ("max_auc: low", "max_auc must be a number"),
        ("max_auc: 1.6", "max_auc must be in"),
        ("min_cell: 2.5", "min_cell must be a whole number"),
        ("min_cell: 0", "min_cell must be at least 1"),
        ("min_cell: true", "min_cell must be a whole number"),
        ("- 1", "policy must hold names and numbers"),
        ("a: [", "policy must be a YAML file"),
        ("a: !!python/object:os.system 1", "policy must be a YAML file"),
    ],
)
def test_policies_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        policy(tmp_path, text)


def test_as_a_command(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "tre.yaml").write_text("min_cell: 5\nmax_auc: 0.6\n")
    command = [sys.executable, "-P", "-m", "monai_mia", "check", str(archive)]
    run_ = {"capture_output": True, "text": True, "env": environment()}
    fine = subprocess.run([*command, "--policy", str(tmp_path / "tre.yaml")], **run_)
    assert fine.returncode == 0, fine.stderr
    assert "By your policy: high; reject." in fine.stdout
    assert "It is signed, by a key with SHA-256" in fine.stdout
    refused = subprocess.run(command, **run_)
    assert refused.returncode != 0
    assert "min_cell of the report must be at least 10" in refused.stderr
    assert "Traceback" not in refused.stderr
