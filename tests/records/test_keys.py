# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Keys: drawn once, kept for their owner alone, and refused in one line where they do not fit."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import KEY, KEY_FILE

from monai_mia.errors import InputError
from monai_mia.records import Design, StudyFolder, files
from monai_mia.records.design import check_commitment, check_drawn
from monai_mia.records.keys import KEY_BYTES, kept_key, keyed_digest, read_key
from monai_mia.records.streams import Stream, stream, stream_seed

CASES = [{"case_id": f"c{n:02d}", "patient_id": f"p{n // 2:02d}", "image": "i", "label": "l"} for n in range(24)]
OTHER = bytes(range(1, 33))


def test_a_key_is_drawn_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    first = folder.draw_key()
    assert len(first) == KEY_BYTES
    assert folder.draw_key() == folder.key() == first
    assert stat.S_IMODE(folder.key_file.stat().st_mode) == 0o600
    assert StudyFolder(tmp_path / "other").draw_key() != first
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_given_key_is_copied_and_must_stay_the_same(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "out")
    assert folder.draw_key(KEY_FILE) == folder.draw_key() == KEY
    (tmp_path / "other.key").write_text(OTHER.hex())
    with pytest.raises(InputError, match="key must be the one that was drawn with before, got another") as refusal:
        folder.draw_key(tmp_path / "other.key")
    assert "\n" not in str(refusal.value)
    assert KEY.hex() not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "00" * 31, "zz" * 32, "é" * 64, KEY.hex() + "00"])
def test_what_is_no_key_is_refused_and_not_shown(content: str, tmp_path: Path) -> None:
    path = tmp_path / "design.key"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"design.key must hold 64 hexadecimal digits") as refusal:
        read_key(path)
    assert not content or content not in str(refusal.value)


@pytest.mark.parametrize("path", ["missing.key", "."])
def test_a_key_that_cannot_be_read_is_refused_in_one_line(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="key must be in a file that can be read") as refusal:
        read_key(tmp_path / path)
    assert "\n" not in str(refusal.value)


def test_a_dangling_link_in_its_place_is_no_place_for_a_new_key(tmp_path: Path) -> None:
    (tmp_path / "design.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="key must be in a file that can be read"):
        kept_key(tmp_path / "design.key")


@pytest.mark.parametrize("key", [b"", b"short", "text", None])
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(InputError, match="key must be 32 secret bytes, got"):
        Design.randomised(CASES, 2, key=key)  # type: ignore[arg-type]


def test_a_keyed_stream_is_the_hmac_of_its_name_and_numbers() -> None:
    """So that it can be drawn again elsewhere."""
    message = json.dumps(["members of a target", 0, 0]).encode()
    entropy = np.frombuffer(hmac.new(KEY, message, hashlib.sha256).digest(), dtype="<u4").tolist()
    assert stream(Stream.TARGET_MEMBERS, 0, 0, key=KEY).random() == np.random.default_rng(entropy).random()
    seeds = [stream_seed(Stream.TARGET_TRAINING, 0, 0, key=key) for key in (None, KEY, OTHER)]
    assert len(set(seeds)) == 3


class TestCommitment:
    def test_construction(self) -> None:
        """What the documentation says an auditor can compute."""
        design = Design.randomised(CASES, 2, 5, key=KEY)
        members = {case["case_id"] for case in design.members("target")}
        rows = sorted([case["case_id"], case["patient_id"], int(case["case_id"] in members)] for case in CASES)
        message = json.dumps(["commitment to a design", "randomised", 5, rows]).encode()
        assert design.commitment(KEY) == hmac.new(KEY, message, hashlib.sha256).hexdigest()

    def test_it_binds(self) -> None:
        """Another key, seed, member, patient or kind has another commitment; more shadows have not."""
        design = Design.randomised(CASES, 2, 0, key=KEY)
        flipped = {**design.member, "target": ~design.member["target"]}
        others = [
            design.commitment(OTHER),
            Design.randomised(CASES, 2, 1, key=KEY).commitment(KEY),
            Design(design.cases, flipped, "randomised", 0).commitment(KEY),
            Design(design.cases, design.member, "observational", 0).commitment(KEY),
            Design(design.cases[:-2], {m: row[:-2] for m, row in design.member.items()}, "randomised", 0).commitment(
                KEY
            ),
        ]
        assert len({design.commitment(KEY), *others}) == 1 + len(others)
        assert Design.randomised(CASES[::-1], 8, 0, 2, key=KEY).commitment(KEY) == design.commitment(KEY)

    def test_it_hides(self) -> None:
        """Its bits are those of a fair coin, whoever is a member, and no draw with the key repeats them."""
        keys = [hashlib.sha256(bytes([n])).digest() for n in range(200)]
        design = Design.randomised(CASES, 0, 0, key=KEY)
        bits = np.unpackbits(np.frombuffer(b"".join(bytes.fromhex(design.commitment(key)) for key in keys), np.uint8))
        assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(bits))
        assert design.commitment(KEY) != keyed_digest(KEY, ["members of a target", 0, 0]).hex()

    def test_what_is_shown_is_checked(self) -> None:
        design = Design.randomised(CASES, 4, 3, 2, key=KEY)
        check_commitment(design.commitment(KEY), design, KEY)
        check_drawn(design, KEY)
        for said, key in ((design.commitment(KEY), OTHER), (None, KEY), ("0" * 64, KEY)):
            with pytest.raises(InputError, match="key and design must fit the commitment") as refusal:
                check_commitment(said, design, key)
            assert "\n" not in str(refusal.value)
        changed = Design(design.cases, {**design.member, "shadow_01": design.member["target"]}, "randomised", 3)
        check_commitment(changed.commitment(KEY), changed, KEY)  # it is of the target's members
        with pytest.raises(InputError, match=r"members of every model must follow .* got others for shadow_01"):
            check_drawn(changed, KEY)

    def test_an_observational_design_is_drawn_again_too(self) -> None:
        ins, outs = ["p00", "p01", "p02"], ["p03", "p04", "p05"]
        design = Design.observational(CASES, ins, outs, 4, 1, key=KEY)
        check_drawn(design, KEY)
        with pytest.raises(InputError, match="got others for shadow_00"):
            check_drawn(design, OTHER)


class TestFolder:
    def test_another_key_than_the_one_committed_to_is_refused(self, tmp_path: Path) -> None:
        folder = StudyFolder(tmp_path)
        design = Design.randomised(CASES, 2, key=folder.draw_key(KEY_FILE))
        with folder.lock():
            said = folder.commit(design, KEY)
            assert folder.commit(design, KEY) == said == folder.about()["identity"]["commitment"]
            files.write(folder.key_file, OTHER.hex())
            with pytest.raises(InputError, match=r"design.key must fit the commitment in study.json") as refusal:
                folder.commit(Design.randomised(CASES, 2, key=folder.key()), folder.key())
        assert "\n" not in str(refusal.value)

    def test_a_design_without_its_key_is_refused(self, tmp_path: Path) -> None:
        """A key that was lost must not be drawn anew, or every model would be trained again on other members."""
        folder = StudyFolder(tmp_path)
        Design.randomised(CASES, 2, key=folder.draw_key()).write(folder.design_file)
        folder.key_file.unlink()
        with pytest.raises(InputError, match=r"design.key must be beside the design that was drawn with it"):
            folder.draw_key()
