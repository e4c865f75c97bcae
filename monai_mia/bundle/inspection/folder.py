# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What lies in a bundle's folder beside its configs: what Python can import, links, and who could change it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from importlib.machinery import all_suffixes
from pathlib import Path, PurePath

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["below", "importable", "links_out", "taking_over", "writable_by_others"]

#: Files and folders of a bundle, links followed; one that leads to a whole disk would take hours.
_MAX_PATHS = 200_000

#: Folders of a bundle that nothing imports unless a config says so.
_OWN = ("configs", "docs", "models", "scripts")


def below(folder: Path) -> list[Path]:
    """All files and folders below, those that links lead to included.

    Raises:
        InputError: they are more than a bundle has.
    """
    found: list[Path] = []
    for name, folders, names in files.walk(folder):
        found += (Path(name) / one for one in (*folders, *names))
        if len(found) > _MAX_PATHS:
            raise InputError(
                f"bundle must hold at most {_MAX_PATHS} files, links followed, got more in {str(folder)!r}. Take out "
                "data, and links that lead out of it."
            )
    return sorted(found)


def importable(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """What Python can import of a bundle, relative to it; what it compiled of that is left out."""
    names = (path.relative_to(folder) for path in paths if path.name.endswith(tuple(all_suffixes())))
    return tuple(sorted(str(name) for name in names if name.parent.name != "__pycache__"))


def taking_over(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Files that run though no config names them, and why.

    While a bundle is audited its folder is searched for modules: MONAI and torch look for many that need not be
    installed, and of one beside its compiled form Python may run the latter.
    """
    for name in map(PurePath, importable(folder, paths)):
        if name.parts[0] not in _OWN:
            module = name.parts[0].partition(".")[0]
            yield str(name), f"any import of {module!r} may find it, those of installed packages included"
    for path in paths:
        if path.parent.name == "__pycache__" and path.suffix == ".pyc":
            yield (
                str(path.relative_to(folder)),
                "Python may run it in the place of the script that it was compiled from",
            )


def links_out(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """Links that lead out of a bundle, with where they lead."""
    whole = folder.resolve()
    found = []
    for path in paths:
        if path.is_symlink() and not path.resolve().is_relative_to(whole):
            found.append(f"{path.relative_to(folder)} -> {path.readlink()}")
    return tuple(found)


def writable_by_others(
    root: str | os.PathLike[str], configs: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What others, and what the group can change of a bundle, or replace in its stead.

    Args:
        root: the bundle's folder.
        configs: configs that may lie elsewhere.

    Returns:
        Names relative to the folder; ``.`` is the folder, ``..`` and so on are those above it.
    """
    folder = Path(root).resolve()
    found: tuple[list[str], list[str]] = ([], [])
    paths = [folder, *below(folder), *(folder / name for name in configs)]
    # What a link leads to, and a config elsewhere, can be replaced by whoever may write to a folder above it.
    above = {parent for path in paths for parent in path.resolve().parents if folder not in (parent, *parent.parents)}
    elsewhere = [path for path in paths if folder not in (path, *path.parents)]
    for path in dict.fromkeys((*(path for path in paths if path not in elsewhere), *elsewhere)):
        try:
            mode = path.stat().st_mode
        except OSError:  # a link to nowhere is never executed
            continue
        name = "." if path == folder else str(path.relative_to(folder) if folder in path.parents else path)
        for bit, names in zip((stat.S_IWOTH, stat.S_IWGRP), found, strict=True):
            if mode & bit:
                names.append(name)
    for parent in sorted(above, reverse=True):
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # as a temporary folder has it: all but renaming
            within = parent in folder.parents
            found[0].append("/".join([".."] * (folder.parents.index(parent) + 1)) if within else str(parent))
    return tuple(found[0]), tuple(found[1])
