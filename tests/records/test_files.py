# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Files: whole or not at all, private unless said otherwise, keyed by content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import environment
from hypothesis import given
from hypothesis import strategies as st
from oracles import PROPERTY

from monai_mia.records import files


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_write_makes_folders_and_returns_the_path(tmp_path):
    path = files.write(tmp_path / "a/b/c.txt", "grün\n")
    assert path == tmp_path / "a/b/c.txt"
    assert path.read_bytes() == "grün\n".encode()
    assert files.write(path, b"\0\1").read_bytes() == b"\0\1"
    assert [item.name for item in path.parent.iterdir()] == ["c.txt"]


def test_files_are_private_unless_said_otherwise(tmp_path):
    before = os.umask(0o022)
    try:
        assert mode(files.write(tmp_path / "private", "")) == 0o600
        assert mode(files.write(tmp_path / "public", "", private=False)) == 0o644
        os.umask(0o027)
        assert mode(files.write(tmp_path / "group", "", private=False)) == 0o640
        assert os.umask(0o027) == 0o027, "the umask is put back"
    finally:
        os.umask(before)


def test_private_folder_shuts_others_out(tmp_path):
    assert mode(files.private_folder(tmp_path / "a/private")) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(files.private_folder(tmp_path / "open")) == 0o700


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    """A full disk: the old content stays whole, no temporary file stays."""
    path = files.write(tmp_path / "file", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Ctrl-C is no Exception, and is cleaned up after all the same."""
    path = files.write(tmp_path / "file", "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kill_leaves_a_whole_file(tmp_path):
    """SIGKILL in the middle of endless rewriting: the file is one of those written, to the last byte."""
    path = tmp_path / "file"
    loop = (
        "from monai_mia.records import files\nfor n in range(10**9):\n"
        f"    files.write({str(path)!r}, str(n % 10) * 300_000)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", loop], env=environment())
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_text()
        assert len(content) == 300_000
        assert len(set(content)) == 1
        path.unlink()


# JSON


def test_json_round_trip(tmp_path):
    content = {"a": [1, 2.5, None], "ä": {"b": True}, "tiny": 5e-324}
    assert files.read_json(files.write_json(tmp_path / "x.json", content)) == content
    assert (tmp_path / "x.json").read_text().endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_is_not_json(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"[1, 2]", b'"text"', b"\xff\xfe", b"null"])
def test_a_missing_or_torn_file_reads_as_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert files.read_json(tmp_path / "x.json") == {}


def test_an_artefact_is_current_if_it_is_whole_and_of_that_key(tmp_path):
    path = tmp_path / "x.csv"
    assert not files.is_current(path, "k")
    files.write_artefact(path, "abc", key="k", seconds=1)
    assert files.is_current(path, "k")
    assert files.read_json(tmp_path / "x.json")["seconds"] == 1
    assert not files.is_current(path, "other")
    path.write_text("ab")
    assert not files.is_current(path, "k"), "a torn artefact"
    path.unlink()
    assert not files.is_current(path, "k")


def test_an_older_key_never_vouches_for_a_newer_artefact(tmp_path, monkeypatch):
    """Killed between the artefact and its key: neither key holds."""
    path = tmp_path / "x.csv"
    files.write_artefact(path, "old", key="old")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_artefact(path, "new", key="new")
    assert path.read_text() == "new"
    assert not files.is_current(path, "old")
    assert not files.is_current(path, "new")


# Hashes


def test_sha256_known_answer(tmp_path):
    """FIPS 180-2, appendix B.1: SHA-256 of "abc"."""
    path = files.write(tmp_path / "abc", "abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 17])
def test_sha256_without_file_digest(tmp_path, monkeypatch, size):
    """Python 3.10 has no hashlib.file_digest."""
    content = bytes(range(256)) * (size // 256 + 1)
    path = files.write(tmp_path / "x", content[:size])
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    assert files.sha256(path) == hashlib.sha256(content[:size]).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5), st.randoms(use_true_random=False))
def test_digest_ignores_the_order_of_keys(content, random):
    keys = list(content)
    random.shuffle(keys)
    assert files.digest({key: content[key] for key in keys}) == files.digest(content)


@PROPERTY
@given(JSON, JSON)
def test_digest_tells_contents_apart(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (files.digest(first) == files.digest(second)) == same


def test_digest_takes_paths_as_text():
    assert files.digest({"path": Path("/a/b")}) == files.digest({"path": "/a/b"})
    assert files.digest([1, 2]) != files.digest([2, 1])
    with pytest.raises(TypeError):
        files.digest({"a": object()})
