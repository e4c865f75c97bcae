# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Signatures of archives: Ed25519, of the package cryptography, which is needed for nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_mia.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["private_key", "public_key", "signature", "verified"]


def private_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Read a private key, as ``openssl genpkey -algorithm ed25519`` writes it.

    Raises:
        InputError: the file is no such key, or asks for a password; or cryptography is not installed.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _read(path, "sign", lambda data: serialization.load_pem_private_key(data, None))
    found: Ed25519PrivateKey = _of_kind(key, Ed25519PrivateKey, path, "sign")
    return found


def public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """Read a public key, as ``openssl pkey -pubout`` writes it.

    Raises:
        InputError: the file is no such key; or cryptography is not installed.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _read(path, "signer", serialization.load_pem_public_key)
    found: Ed25519PublicKey = _of_kind(key, Ed25519PublicKey, path, "signer")
    return found


def signature(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """The public key, 32 bytes, and the signature, 64 bytes."""
    return key.public_key().public_bytes_raw() + key.sign(data)


def verified(key: Ed25519PublicKey, signed: bytes, data: bytes) -> bool:
    """Whether the signature (64 bytes) of the data was made by the holder of this key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signed, data)
    except InvalidSignature:
        return False
    return True


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InputError('signatures must have cryptography, got none. pip install "monai-mia[sign]".') from error
    return serialization


def _read(path: str | os.PathLike[str], option: str, load: Any) -> Any:
    try:
        return load(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{option} must be a PEM file of an Ed25519 key, got {str(path)!r}, which is not.") from error


def _of_kind(key: Any, kind: type, path: str | os.PathLike[str], option: str) -> Any:
    if not isinstance(key, kind):
        raise InputError(f"{option} must be an Ed25519 key, got {type(key).__name__.strip('_')} in {str(path)!r}.")
    return key
