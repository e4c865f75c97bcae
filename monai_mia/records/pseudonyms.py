# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Names for individuals that only the owner of a study can resolve: keyed hashes, the key in ``private/``.

A plain hash of an id is no pseudonym: whoever can list the ids of a hospital hashes them all and looks it up.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from monai_mia.errors import InputError
from monai_mia.records.keys import kept_key

__all__ = ["KEY_FILE", "Pseudonyms"]

#: Name of the key's file, in ``private/``.
KEY_FILE = "pseudonym.key"


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms of patients: the beginning of HMAC-SHA256 of the id, with a key (RFC 2104).

    Attributes:
        key: 32 secret bytes; whoever has it can test whether a pseudonym is of an id.
        n_digits: how many hexadecimal digits of the hash are shown. 10 are 40 bits: among 10,000 patients two share
            one with a probability of 5e-5.

    Example:
        >>> names = Pseudonyms(bytes(32))
        >>> names("patient_001")
        'P-3e7c35c5b5'
        >>> Pseudonyms(b"1" * 32)("patient_001") == names("patient_001")
        False
    """

    key: bytes = field(repr=False)
    n_digits: int = 10

    def __call__(self, name: str) -> str:
        """The pseudonym of an id."""
        return f"P-{hmac.new(self.key, name.encode(), hashlib.sha256).hexdigest()[: self.n_digits]}"

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """From each id to its pseudonym; no two share one.

        Raises:
            InputError: two do, by chance.
        """
        found = {name: self(name) for name in names}
        if len(set(found.values())) < len(found):
            raise InputError(f"n_digits must be larger to tell {len(found)} individuals apart, got {self.n_digits}.")
        return found

    @classmethod
    def kept_in(cls, folder: str | os.PathLike[str], n_digits: int = 10) -> Pseudonyms:
        """Those of a study, whose key is kept in its private folder (0600).

        The key is drawn from the operating system the first time, and from no seed: a seed is in the report. If it is
        removed, a new one is drawn, and earlier pseudonyms cannot be resolved any more.

        Args:
            folder: ``private/`` of the study.
            n_digits: see the class.

        Raises:
            InputError: the file is there and holds no key.
        """
        return cls(kept_key(Path(folder) / KEY_FILE), n_digits)
