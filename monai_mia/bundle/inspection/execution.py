# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What of a bundle an audit would execute, and who could change it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigExpression

from monai_mia.bundle.inspection.config import REFERENCE, Config, leaves
from monai_mia.bundle.training import REPLACED, handler_lists, is_removed
from monai_mia.records import files

__all__ = ["Executed", "executed", "writable_by_others"]

#: Arguments with which a component unpickles a file, which executes what is in it.
_PICKLES = (("allow_pickle", True), ("weights_only", False))

#: Packages whose classes are what a config is made of; functions, and classes of others, may do anything.
_COMPONENTS = (
    *(f"monai.{name}." for name in ("data", "engines", "handlers", "inferers", "losses", "metrics", "networks")),
    *("monai.optimizers.", "monai.transforms.", "monai_mia."),
)


@dataclass(frozen=True)
class Executed:
    """Code in a config: a ``$`` expression, or a ``_target_`` that is no part of MONAI.

    Attributes:
        file: the config's name.
        id: where in it.
        code: the expression or the target.
        runs: whether an audit evaluates it; others are read and left alone.
    """

    file: str
    id: str
    code: str
    runs: bool


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
    paths = [folder, *_below(folder), *(folder / name for name in configs)]
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


def _below(folder: Path) -> list[Path]:
    """All files and folders below, those that links lead to included."""
    return sorted(Path(name) / one for name, folders, names in files.walk(folder) for one in (*folders, *names))


def executed(
    folder: Path,
    asked: Config,
    inference: Sequence[str],
    ids: Mapping[str, str],
    trained: Config | None,
    train: Sequence[str],
    label: Sequence[Mapping[str, Any]],
) -> Iterator[Executed]:
    """Every expression and every foreign target of the configs that an audit reads.

    ``label`` are the transforms of references that queries take over from a training config.
    """
    taken = {node for _, node in leaves(list(label), "") if isinstance(node, str)}
    referred = [name for node in taken for name in REFERENCE.findall(node)]
    running = _reached(asked, [*(ids[role] for role in ids if role != "postprocessing"), *referred])
    training: set[str] = set()
    if trained is not None:
        trainer = trained.engine("Trainer", ("train#trainer", "trainer"))
        training = _reached(trained, [name for name in (trainer, "network_def", "network") if name])
    locator = ComponentLocator()
    for name in dict.fromkeys((*inference, *train)):
        reached = (running if name in inference else set()) | (training if name in train else set())
        content = ConfigParser.load_config_file(str(folder / name))
        for place, node in leaves(content, ""):
            config = asked if name in inference else trained
            within = any(place == one or place.startswith(f"{one}#") for one in reached)
            runs = place.startswith("imports") or (
                within and config is not None and not (place in config and _skipped(config, place))
            )
            last = place.rpartition("#")[2]
            runs |= isinstance(node, str) and (node in taken or ConfigExpression.is_import_statement(node))
            if isinstance(node, str) and node.startswith("$"):
                yield Executed(name, place, node, runs)
            elif last == "_target_" or _names_a_class(place, node):
                if not _of_monai(str(node), locator):
                    yield Executed(name, place, str(node), runs)
            elif (last, node) in _PICKLES:
                yield Executed(name, place, f"{last}: {node}", runs)


def _names_a_class(place: str, node: Any) -> bool:
    """Whether MONAI imports what a text names: a reader or a writer of images, or one in a list, or a merger."""
    names = [name for name in place.split("#") if not name.isdigit()]
    return isinstance(node, str) and names[-1:] in (["reader"], ["writer"], ["merger_cls"])


def _of_monai(target: str, locator: ComponentLocator) -> bool:
    """Whether a target is a component of MONAI or ours; ``monai.utils.misc.os.system`` and ``run_cmd`` are none."""
    if "." not in target:
        target = f"{locator.get_component_module_name(target)}.{target}"
    found = locate(target) if target.startswith(_COMPONENTS) else None
    return isinstance(found, type) and f"{found.__module__}.".startswith(_COMPONENTS)


def _reached(config: Config, roots: Sequence[str]) -> set[str]:
    """Ids that evaluating some ids evaluates, by what they refer to, less what a study's training leaves out."""
    reached: set[str] = set()
    pending = [name.replace("::", "#") for name in roots]
    while pending:
        name = pending.pop()
        if name in reached or name not in config:
            continue
        if any(name.startswith(f"{one}#") for one in reached):
            continue
        reached.add(name)
        for place, node in leaves(config[name], name):
            if isinstance(node, str) and not _skipped(config, place):
                pending += [one.replace("::", "#") for one in REFERENCE.findall(node)]
    return reached


def _skipped(config: Config, place: str) -> bool:
    """Whether a place is in a handler, a metric or a datalist that an audit's training takes out or replaces."""
    if any(place == one or place.startswith(f"{one}#") for one in REPLACED):
        return True
    for listed in handler_lists(config):
        if place.startswith(f"{listed}#") and isinstance(config[listed], list):
            number = place.removeprefix(f"{listed}#").partition("#")[0]
            return is_removed(config[f"{listed}#{number}"], config)
    return False
