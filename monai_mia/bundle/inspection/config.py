# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's configs, merged and read as data: no expression is evaluated, nothing is built."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle import ConfigItem, ConfigParser, ReferenceResolver
from monai.bundle.utils import MACRO_KEY

from monai_mia.errors import InputError

__all__ = ["Config", "class_of", "leaves"]

#: What refers to another id, in a string or an expression.
_REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")

#: Bytes of a config, values in all configs together once macros and aliases are replaced, and letters of an id.
_MAX_BYTES, _MAX_VALUES, _MAX_ID = 4 * 2**20, 100_000, 1000


class Config:
    """A merged config, macros replaced, read as data."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.parser = ConfigParser(config=content)

    @classmethod
    def read(cls, folder: Path, names: Sequence[str], overrides: Mapping[str, Any], macros: bool = True) -> Config:
        """Read and merge a bundle's configs, and replace their macros.

        Raises:
            InputError: a file is missing or is no config.
        """
        paths = [folder / name for name in names]
        for path in paths:
            if not path.is_file():
                raise InputError(
                    f"{path} must be a config file, got no such file. Give --bundle DIR, the folder above configs/."
                )
        metadata = folder / "configs" / "metadata.json"
        for path in (*paths, metadata):
            if path.is_file() and path.stat().st_size > _MAX_BYTES:
                raise InputError(
                    f"{path} must be a config of at most {_MAX_BYTES} bytes, got {path.stat().st_size}. Take out what "
                    "is no config, such as lists of data."
                )
        try:
            parser = ConfigParser()
            parser.read_config([str(path) for path in paths])
            if metadata.is_file():  # part of the config to MONAI, as "_meta_"
                parser.read_meta(str(metadata))
            _refuse_growth(cls(parser.get()), names)
            _refuse_other_files(parser.get(), names)
            for name, value in overrides.items():
                _override(parser, name, value)
            if not macros:
                return cls(parser.get())
            parser.resolve_macro_and_relative_ids()
            _refuse_code(parser.get("_meta_", {}), metadata)
        except InputError:
            raise
        except Exception as error:
            raise _unreadable(paths, error) from error
        return cls(parser.get())

    @cached_property
    def items(self) -> dict[str, ConfigItem]:
        """What MONAI makes of each id when it is to evaluate one; nothing is evaluated."""
        _refuse_growth(self, ["the bundle's configs"])
        try:
            self.parser.parse()
        except Exception as error:
            raise _unreadable(["the bundle's configs"], error) from error
        return dict(self.parser.ref_resolver.items)

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except KeyError:
            return False
        return True

    def __getitem__(self, name: str) -> Any:
        # Not as the parser does, which for each id that is not there looks for ones that are spelled alike.
        node: Any = self.parser.get()
        for key in ReferenceResolver.split_id(name) if name else ():
            known = {str(n): item for n, item in enumerate(node)} if isinstance(node, list) else node
            if not isinstance(known, Mapping) or key not in known:
                raise KeyError(name)
            node = known[key]
        return node

    def value(self, node: Any) -> Any:
        """What a reference leads to; an expression stays as it is."""
        for _ in range(10):
            if not (isinstance(node, str) and node.startswith("@") and node[1:] in self):
                break
            node = self[node[1:]]
        return node

    def resolved(self, node: Any, depth: int = 0) -> Any:
        """A copy in which references that are no part of an expression are replaced by what they lead to."""
        if depth > 30:  # a circle, which MONAI refuses
            return node
        if isinstance(node, dict):
            return {name: self.resolved(one, depth + 1) for name, one in node.items()}
        if isinstance(node, list):
            return [self.resolved(one, depth + 1) for one in node]
        found = self.value(node)
        return found if found is node else self.resolved(found, depth + 1)

    def component(self, node: Any) -> dict[str, Any]:
        """The component that a node is or refers to, or an empty one."""
        node = self.value(node)
        return node if isinstance(node, dict) and "_target_" in node else {}

    def transforms(self, node: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
        """Every transform of a chain, in order, whether it is listed, referred to, or joined in an expression."""
        if depth > 10:
            return
        if isinstance(node, str):
            for name in _REFERENCE.findall(node):
                if name in self:
                    yield from self.transforms(self[name], depth + 1)
        elif isinstance(node, list):
            for one in node:
                yield from self.transforms(one, depth + 1)
        elif isinstance(node, dict):
            if "transforms" in node:
                yield from self.transforms(node["transforms"], depth + 1)
            elif "_target_" in node:
                yield node

    def keys(self, transform: Mapping[str, Any]) -> set[str]:
        """The keys of a dictionary transform, as far as they are written."""
        found: set[str] = set()
        pending = [transform.get("keys")]
        while pending:
            node = self.value(pending.pop())
            if isinstance(node, list):
                pending += node
            elif isinstance(node, str):
                known = re.search(r"(?:CommonKeys|Keys)\.(\w+)$", node)
                found.add(known.group(1).lower() if known else node)
        return found

    def engine(self, ending: str, preferred: Sequence[str]) -> str | None:
        """Id of a component whose class ends so."""
        for name in (*preferred, *self._ids(self.parser.get(), "", 2)):
            if name in self and class_of(self[name]).endswith(ending):
                return name
        return None

    def _ids(self, node: Any, prefix: str, depth: int) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield f"{prefix}{key}"
            if depth > 1:
                yield from self._ids(value, f"{prefix}{key}#", depth - 1)

    def evaluator(self) -> dict[str, Any]:
        """The evaluator, or an empty one."""
        name = self.engine("Evaluator", ("evaluator", "validate#evaluator"))
        return self.component(f"@{name}") if name else {}

    def id_of(self, node: Any, fallback: str) -> str | None:
        """The id that a node refers to, or ``fallback`` if the node is written in place."""
        if isinstance(node, str) and node.startswith("@") and node[1:] in self:
            return node[1:].replace("::", "#")  # as the parser writes it
        return fallback if node is not None and fallback in self else None


def _unreadable(names: Sequence[str | Path], error: Exception) -> InputError:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"{', '.join(map(str, names))} must be a bundle's configs, JSON or YAML, got {text}. Restore the file."
    )


def _refuse_other_files(content: Any, names: Sequence[str]) -> None:
    """A macro may name a file, relative to wherever the audit is started; nothing would tell when it changes."""
    for place, node in leaves(content, ""):
        path = ConfigParser.split_path_id(node[1:])[0] if isinstance(node, str) and node.startswith("%") else ""
        if path:
            raise InputError(
                f"{', '.join(names)} must be read whole, got the file {path!r} in {place!r} by a macro. Give the "
                "configs one after the other (--inference, --train), and refer to ids of the same config."
            )


def _refuse_growth(config: Config, names: Sequence[str]) -> None:
    """A few aliases of YAML, or macros, that lead to each other can stand for more than a machine holds."""
    sizes: dict[int | str, tuple[float, float]] = {}

    def size(node: Any, place: str) -> tuple[float, float]:
        """Values of a node and of all that it stands for, and letters of the longest id in it; infinite in a circle."""
        key: int | str = id(node)
        if len(place) > _MAX_ID:
            return 1, math.inf
        if isinstance(node, dict | list):
            children = ((below, one) for _, below, one in ReferenceResolver.iter_subconfigs(place, node))
        elif isinstance(node, str) and node.startswith(MACRO_KEY):
            if len(node) > _MAX_ID:
                return 1, math.inf
            key, target = place, ConfigParser.resolve_relative_ids(place, node)[1:]
            children = ((target, config[target]) for _ in range(target in config))
        else:
            return 1, 0
        if key not in sizes:
            sizes[key] = math.inf, math.inf
            total, longest = 1.0, 0.0
            for below, one in children:
                values, letters = size(one, below)
                own = (
                    0 if isinstance(node, str) else len(below) - len(place)
                )  # what a macro stands for comes to its place
                total, longest = total + values, max(longest, letters + own)
            sizes[key] = total, longest
        return sizes[key]

    values, letters = size(config[""], "")
    if values > _MAX_VALUES or letters > _MAX_ID:
        raise InputError(
            f"{', '.join(names)} must have at most {_MAX_VALUES} values, macros and aliases replaced, no circle of "
            f"them, and ids of at most {_MAX_ID} letters, got more. Take out what is no config, as lists of data."
        )


def _refuse_code(metadata: Any, path: Path) -> None:
    """Code in metadata would run where a config refers to it (``@_meta_#...``), and nobody would look for it there."""
    for place, node in leaves(metadata, ""):
        if (isinstance(node, str) and node.startswith("$")) or place.rpartition("#")[2] == "_target_":
            raise InputError(f"{path} must hold no code, got some in {place!r}. Take it out.")


def _override(parser: ConfigParser, name: str, value: Any) -> None:
    try:
        parser[name] = copy.deepcopy(value)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"override must be ID=VALUE of an id that there is, got {name!r}. Correct the id.") from error


def class_of(node: Any) -> str:
    """Class of a component, without its module; empty for anything else."""
    target = node.get("_target_", "") if isinstance(node, dict) else ""
    return str(target).rpartition(".")[2]


def leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value of a config with its id."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{place}#{key}".lstrip("#").replace("::", "#").lstrip("+"))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from leaves(value, f"{place}#{number}")
    else:
        yield place, node
