# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What of a bundle an audit would execute: all that is not known as harmless."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.config_item import ComponentLocator, ConfigComponent, ConfigExpression

from monai_mia.bundle.inspection import harmless
from monai_mia.bundle.inspection.config import Config, leaves
from monai_mia.bundle.inspection.expressions import is_harmless, is_import, is_parsed

__all__ = ["Executed", "Read", "Use", "executed"]


@dataclass(frozen=True)
class Executed:
    """Code in a config: a ``$`` expression, or what of a component is not known as harmless.

    Attributes:
        file: the config's name; ``--set`` where the user overrides it, ``(audit)`` where an audit changes it.
        id: where in it.
        code: the expression, the target, or the argument with its value.
        runs: whether an audit evaluates it; others are read and left alone.
        harmless: whether it is known as harmless; only expressions are told then.
    """

    file: str
    id: str
    code: str
    runs: bool
    harmless: bool = False


class Read(NamedTuple):
    """A config as the bundle has it: merged from files, with what the user overrides."""

    config: Config
    names: Sequence[str]
    overrides: Mapping[str, Any]


class Use(NamedTuple):
    """A config as an audit makes it, and the ids that it asks for."""

    config: Config
    ids: Sequence[str]


class _Code(NamedTuple):
    id: str
    code: str
    harmless: bool


def executed(folder: Path, read: Sequence[Read], uses: Sequence[Use]) -> list[Executed]:
    """Every expression of a bundle's configs, and every component that is not known as harmless.

    Args:
        folder: the bundle's.
        read: the configs as they are.
        uses: what an audit makes of them.
    """
    run = {one for use in uses for one in _codes(use.config, _reached(use.config, use.ids))}
    written = [(one, *found) for one in read for found in _located(folder, one)]
    # An audit copies a trainer, or a dataset, to another place.
    moved = {one.code for one in run.difference(code for _, _, code in written)}
    found: dict[tuple[str, str, str], Executed] = {}
    for _, file, code in written:
        before = found.get((file, code.id, code.code))
        runs = code in run or code.code in moved or (before is not None and before.runs)
        found[file, code.id, code.code] = Executed(file, code.id, code.code, runs, code.harmless)
    known = {code.code for _, _, code in written}
    others = [Executed("(audit)", one.id, one.code, True) for one in run if one.code not in known and not one.harmless]
    return [*found.values(), *sorted(others, key=lambda one: one.id)]


def _located(folder: Path, read: Read) -> Iterator[tuple[str, _Code]]:
    """The code of a config, each with the file that it is from."""
    files = {name: _places(ConfigParser.load_config_file(str(folder / name))) for name in reversed(read.names)}
    files = {"--set": {name.replace("::", "#") for name in read.overrides}, **files}
    for code in _codes(read.config, read.config.items):
        place, file = code.id, ""
        while place and not file:  # what a macro stands for has no place of its own in a file
            file = next((name for name, known in files.items() if place in known), "")
            place = place.rpartition("#")[0]
        yield file or ", ".join(read.names), code


def _places(content: Any) -> set[str]:
    return {place.rsplit("#", n)[0] for place, _ in leaves(content, "") for n in range(place.count("#") + 1)}


def _codes(config: Config, ids: Iterable[str]) -> Iterator[_Code]:
    """The code under some ids of a config."""
    for name in ids:
        node, place = config.items[name].get_config(), name.replace("::", "#")
        if ConfigExpression.is_expression(node):
            yield _Code(place, node if is_parsed(node) else f"{node} (no Python)", is_harmless(node))
        elif ConfigComponent.is_instantiable(node):
            for argument, code in _unknown(config, node):
                yield _Code(f"{place}#{argument}".lstrip("#"), code, False)


def _reached(config: Config, ids: Sequence[str]) -> list[str]:
    """Ids that MONAI evaluates when it is asked for some: what they refer to, and every import, wherever it is."""
    found: dict[str, None] = {}
    pending = [name for name, one in config.items.items() if _is_import(one.get_config())]
    pending += [ReferenceResolver.normalize_id(name) for name in ids]
    while pending:
        name = pending.pop()
        if name not in found and name in config.items:
            found[name] = None
            pending += ReferenceResolver.find_refs_in_config(config.items[name].get_config(), name)
    return list(found)


def _is_import(node: Any) -> bool:
    return ConfigExpression.is_expression(node) and "import" in node and is_import(node)


def _unknown(config: Config, node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a component is not known as harmless: its class, or arguments of it."""
    if node.get("_disabled_") is True or str(node.get("_disabled_")).strip().lower() == "true":
        return
    target = node["_target_"]
    kind = _known_class(target) if isinstance(target, str) else None
    if kind is None:
        yield "_target_", str(target)
        return
    for name, value in node.items():
        if name in ("_target_", "_disabled_", "_requires_", "_desc_"):
            continue
        allowed = harmless.VALUES.get(f"{kind}.{name}", harmless.VALUES.get(name))
        if allowed is None and name not in harmless.ARGUMENTS:
            yield str(name), f"{name}: {value!r}"
        elif allowed is not None:
            found = config.resolved(value)
            for one in found if isinstance(found, list) else [found]:
                same = any(type(one) is type(other) and one == other for other in allowed)
                if not same and not ConfigComponent.is_instantiable(one):
                    yield str(name), f"{name}: {one!r}"


def _known_class(target: str) -> str | None:
    """Name of the class that MONAI takes for a target, if it is on the list."""
    module, _, name = target.rpartition(".")
    if not module:
        found = _locator().get_component_module_name(name)
        module = found[0] if isinstance(found, list) else str(found)
    classes, modules = _known_classes()
    kind = getattr(modules.get(module), name, None)
    return classes.get(kind) if isinstance(kind, type) else None


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


@cache
def _known_classes() -> tuple[dict[type, str], dict[str, ModuleType]]:
    """The classes of the list with their names, and the modules that they can be found by."""
    classes: dict[type, str] = {}
    modules: dict[str, ModuleType] = {}
    for module, names in harmless.CLASSES.items():
        offered = modules[module] = importlib.import_module(module)
        for name in names.split():
            for one in (name, f"{name}d") if module == "monai.transforms" else (name,):
                kind = getattr(offered, one, None)
                if isinstance(kind, type):
                    classes[kind] = one
                    modules[kind.__module__] = sys.modules[kind.__module__]
    return classes, modules
