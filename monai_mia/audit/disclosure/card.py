# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The privacy section of a model card, and putting it into a bundle."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from monai_mia.audit.disclosure.archive import report_leaks
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.folder import StudyFolder

__all__ = ["read_card", "write_card"]

# Between these the section of a README is ours; what else it says is left alone.
_BEGIN, _END = "<!-- monai_mia: privacy -->", "<!-- monai_mia: end of privacy -->"
_CARD = ("privacy.json", "model_card.md")


def write_card(output_dir: str | os.PathLike[str], bundle: str | os.PathLike[str], write: bool = True) -> list[Path]:
    """Put the privacy section into a bundle: ``privacy`` in its metadata, and a section in its README.

    An earlier section of ours is replaced; all else stays as it is.

    Args:
        output_dir: folder of a finished study.
        bundle: folder of the bundle that is to be released.
        write: whether to write; otherwise only what would be refused is.

    Returns:
        The files that are (or would be) written.

    Raises:
        InputError: there is no such study or bundle; the section names a patient; released weights were audited that
            are not in the bundle; or its README has a section of that name that is not ours.
    """
    privacy, section = _read_card(output_dir)
    root = Path(bundle)
    metadata_path, readme_path = root / "configs" / "metadata.json", root / "docs" / "README.md"
    metadata = files.read_json(metadata_path)
    if not metadata:
        raise InputError(f"bundle must have a configs/metadata.json, got {str(root)!r} without.")
    audited = privacy["audited"]
    weights = [path for path in sorted((root / "models").glob("*")) if path.is_file()]
    if audited["design"] == "observational" and weights:
        hashes = [files.sha256(path) for path in weights]
        if audited["checkpoint_sha256"] not in hashes:
            raise InputError(
                f"bundle must hold the weights that were audited, got other files in {str(root / 'models')!r}. Audit "
                "the weights that are to be released."
            )
    readme = (
        readme_path.read_text(encoding="utf-8") if readme_path.is_file() else f"# {metadata.get('name', root.name)}\n"
    )
    ours = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}\n?", re.DOTALL)
    others = ours.sub("", readme)
    if re.search(r"^##\s+Privacy\s*$", others, re.MULTILINE):
        raise InputError(
            f"docs/README.md must have no section 'Privacy' of its own, got one in {str(readme_path)!r}. Rename or "
            "remove it."
        )
    block = f"{_BEGIN}\n{section.rstrip()}\n{_END}\n"
    readme = ours.sub(lambda _: block, readme, count=1) if ours.search(readme) else f"{readme.rstrip()}\n\n{block}"
    if write:
        text = json.dumps({**metadata, "privacy": privacy}, indent=4, ensure_ascii=False) + "\n"
        files.write(metadata_path, text, private=False)
        files.write(readme_path, readme, private=False)
    return [metadata_path, readme_path]


def read_card(output_dir: str | os.PathLike[str]) -> str:
    """The section as text: ``privacy`` for metadata.json, and the section of the README.

    Raises:
        InputError: there is no finished study; or the section names a patient.
    """
    privacy, section = _read_card(output_dir)
    return f"{json.dumps({'privacy': privacy}, indent=4, ensure_ascii=False)}\n\n{section}"


def _read_card(output_dir: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The content of ``privacy.json`` and ``model_card.md``, if they name nobody."""
    folder = StudyFolder(output_dir).report
    missing = [name for name in _CARD if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"output_dir must hold report/ of a finished study, got {str(output_dir)!r} without {', '.join(missing)}. "
            "Run the study again: what is trained and recorded is kept."
        )
    found = sorted({leak.file for leak in report_leaks(output_dir)} & set(_CARD))
    if found:
        raise InputError(f"report must hold no id, path or header value of the cohort, got one in {', '.join(found)}.")
    return files.read_json(folder / _CARD[0]), (folder / _CARD[1]).read_text(encoding="utf-8")
