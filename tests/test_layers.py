# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The rooms: every import runs down, no circle, no torch in the light half; the folders are what is checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import ROOT, environment

PACKAGE = ROOT / "monai_mia"

#: The floors, lowest first: a room imports from rooms on floors below its own, and from itself.
FLOORS = (
    ("errors",),
    ("records",),
    ("statistics",),
    ("attacks", "data", "signals"),
    ("audit", "defences", "dp", "handlers"),
    ("bundle", "neural_attacks"),
    ("studies",),
    ("generators", "__main__"),
)
#: Rooms that an output checker's laptop can load: numpy, scipy and scikit-learn, neither torch nor monai.
LIGHT = ("errors", "records", "statistics", "attacks", "audit")
HEAVY = {"torch", "monai", "ignite", "opacus"}
#: What a room never reads, though its floor would allow it.
UNKNOWN = {"attacks": {"statistics"}, "audit": {"data", "signals"}, "handlers": {"attacks"}, "dp": {"attacks"}}
UNKNOWN |= {"defences": {"attacks"}, "bundle": {"attacks", "audit"}}


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    """Every import of a module: at its top, within functions, and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole module"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules() else str(node.module)


@cache
def edges() -> dict[str, frozenset[str]]:
    """The modules of the package that each of them imports."""
    return {
        name: frozenset(other for other in imports(tree) if other in modules() and other != name)
        for name, tree in modules().items()
    }


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_rooms_are_those_of_the_plan() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__pycache__"}
    assert entries == {"__init__", *(room for rooms in FLOORS for room in rooms)}
    assert len(entries) <= 16


def test_every_import_runs_down() -> None:
    for module, imported in edges().items():
        for other in imported:
            rooms = room_of(module), room_of(other)
            if "" in rooms or rooms[0] == rooms[1]:
                continue
            assert floor_of(rooms[1]) < floor_of(rooms[0]), f"{module} imports {other}, which is not below it"
            assert rooms[1] not in UNKNOWN.get(rooms[0], ()), f"{module} imports {other}, of which it must not know"


def test_no_circle_of_imports() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module in done:
            return
        for other in sorted(edges()[module]):
            visit(other, (*path, module))
        done.add(module)

    for module in edges():
        visit(module, ())


@pytest.mark.parametrize("room", LIGHT)
def test_the_light_half_names_nothing_heavy(room: str) -> None:
    for module, tree in modules().items():
        if room_of(module) == room:
            assert not {name.partition(".")[0] for name in imports(tree)} & HEAVY, module


def loaded_after(*names: str) -> dict[str, set[str]]:
    """Top-level packages that are loaded after each import, in one fresh interpreter."""
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    print(name, *sorted({loaded.partition('.')[0] for loaded in sys.modules}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    found = {name: set(kept) for name, *kept in lines if name in names}
    assert set(found) == set(names)
    return found


def test_the_light_half_loads_nothing_heavy() -> None:
    """What its own imports bring along counts, too."""
    light = [module for module in modules() if room_of(module) in LIGHT]
    assert len(light) > 50
    for module, loaded in loaded_after(*light).items():
        assert not loaded & HEAVY, module


def test_the_package_alone_loads_next_to_nothing() -> None:
    (loaded,) = loaded_after("monai_mia").values()
    assert not loaded & {"numpy", "scipy", "sklearn", "matplotlib", *HEAVY}


def test_each_module_can_be_the_first_to_be_imported() -> None:
    """No order of imports is needed: checked as text above, and here for real where nothing heavy is loaded.

    One interpreter, which forgets the package before each; what is not of the package stays loaded.
    """
    light = sorted(module for module in modules() if room_of(module) in ("", *LIGHT))
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    for loaded in [one for one in sys.modules if one.partition('.')[0] == 'monai_mia']:\n"
        "        del sys.modules[loaded]\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        print(name, repr(error))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr


def test_the_lazy_names_are_found_and_monais_search_for_components_does_not_load_them() -> None:
    """MONAI searches every module whose name begins with "monai", and reads every member that ``dir`` lists."""
    code = (
        "import monai_mia, sys, inspect\n"
        "inspect.getmembers(monai_mia)\n"
        "assert not {'torch', 'numpy', 'opacus'} & set(sys.modules)\n"
        "for name in monai_mia.__all__:\n"
        "    assert getattr(monai_mia, name).__name__ == name, name\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
