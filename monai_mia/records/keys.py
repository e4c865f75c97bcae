# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Secret keys in files: what a seed, which everybody may know, must not decide is drawn with one of them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["KEY_BYTES", "check_key", "kept_key", "keyed_digest", "new_key", "read_key"]

#: Length of a key: as many bytes as SHA-256 has, too many to try.
KEY_BYTES = 32


def new_key() -> bytes:
    """A new key, of the operating system's randomness."""
    return secrets.token_bytes(KEY_BYTES)


def check_key(key: bytes) -> bytes:
    """The key, if it is one.

    Raises:
        InputError: it is not of 32 bytes.
    """
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise InputError(
            f"key must be {KEY_BYTES} secret bytes, got {got}. Draw one with monai_mia.records.new_key(), and keep it: "
            "the same key repeats the draw."
        )
    return key


def read_key(path: str | os.PathLike[str]) -> bytes:
    """The key in a file of 64 hexadecimal digits.

    Raises:
        InputError: there is no such file, or it holds something else, which is not shown.
    """
    path = Path(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    except OSError as error:
        raise InputError(
            f"key must be in a file that can be read, got {str(path)!r} ({error.strerror}). Restore it from a copy, or "
            f"draw a new one: openssl rand -hex {KEY_BYTES} > FILE."
        ) from error
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{path.name} must hold {2 * KEY_BYTES} hexadecimal digits, got another content in {str(path)!r}. Restore "
            "it from a copy: what was drawn with the lost key cannot be drawn again."
        )
    return key


def kept_key(path: str | os.PathLike[str], given: bytes | None = None) -> bytes:
    """The key in a file; where there is none, the given one or else a new one is written there (0600).

    Raises:
        InputError: the file holds no key, or another than the given one.
    """
    path = Path(path)
    if not os.path.lexists(path):
        files.write(path, (new_key() if given is None else check_key(given)).hex() + "\n")
    key = read_key(path)
    if given is not None and not hmac.compare_digest(key, given):
        raise InputError(
            f"key must be the one that was drawn with before, got another than in {str(path)!r}. Give that one, or "
            "choose another --output_dir."
        )
    return key


def keyed_digest(key: bytes, message: Sequence[Any]) -> bytes:
    """HMAC-SHA256 of a JSON-like message, 32 bytes; without the key they are as good as random."""
    return hmac.new(key, json.dumps(message).encode(), hashlib.sha256).digest()
