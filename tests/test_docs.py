# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The documentation: it builds without a warning, its links lead somewhere, and what it tells to paste works."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from conftest import ROOT, environment
from monai.bundle import ConfigParser
from monai.utils.module import instantiate

from monai_mia import attacks, signals
from monai_mia.attacks import Attack, attack_checks
from monai_mia.records.table import ACCESS_LEVELS
from monai_mia.signals.release import Release

DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("bundles/*/docs/*.md"))
    if "_build" not in path.parts
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page in one of the languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def pasted(page: str, folder: Path) -> ModuleType:
    """The first Python block of a how-to, saved as a module and imported."""
    path = folder / f"pasted_{page}.py"
    path.write_text(blocks(DOCS / "howto" / f"{page}.md", "python")[0])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-d", str(tmp_path / "trees"), "-b", "html"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    for page in ("index", "quickstart", "howto/attack", "results", "api"):
        assert (tmp_path / "html" / f"{page}.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_path_of_a_machine(page: Path) -> None:
    found = re.search(r"(?<![\w.])/(work|tmp|root|home)\b", page.read_text())
    assert found is None, found


def test_everything_public_is_told() -> None:
    text = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    vocabulary = (DOCS / "vocabulary.md").read_text()
    for name in (*signals.ACCESS, *ACCESS_LEVELS, *attacks.__all__):
        assert f"`{name}" in vocabulary, name
    for room in {path.relative_to(ROOT / "monai_mia").parts[0] for path in ROOT.glob("monai_mia/*/*.py")}:
        assert f"monai_mia.{room}" in text, room


def test_the_api_page_has_every_public_module() -> None:
    """By itself, or by the room that exports what it holds."""
    text = (DOCS / "api.md").read_text()
    for path in ROOT.glob("monai_mia/*/**/*.py"):
        if "__all__" in path.read_text() and path.stem != "__init__":
            parts = path.relative_to(ROOT).with_suffix("").parts
            rooms = [".".join(parts[:length]) for length in range(2, len(parts) + 1)]
            assert any(f".. automodule:: {room}\n" in text for room in rooms), rooms[-1]


def test_the_api_page_names_every_attack_and_map() -> None:
    text = (DOCS / "api.md").read_text()
    from monai_mia.signals import transforms

    names = [f"monai_mia.attacks.{name}" for name in attacks.__all__]
    names += [f"monai_mia.signals.transforms.{name}" for name in transforms.__all__ if not name.endswith(("D", "Dict"))]
    for name in names:
        assert re.search(rf"{re.escape(name)}$", text, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_can_be_read(page: Path) -> None:
    for body in blocks(page, "python"):
        compile(body, str(page), "exec")
    for body in blocks(page, "json"):
        json.loads(body)
    for body in blocks(page, "yaml"):
        parser = ConfigParser()
        for key, value in yaml.safe_load(body).items():
            parser[key.lstrip("+").partition("#")[0]] = value
        parser.parse()


def targets(node: object) -> list[str]:
    """Every ``_target_`` of a config."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets(value)]
    return [name for value in node for name in targets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_targets_of_blocks_exist(page: Path) -> None:
    own = ("my_attacks.", "scripts.")  # what the reader has pasted
    for body in blocks(page, "yaml", "json"):
        for target in targets(yaml.safe_load(body)):
            if "." in target and not target.startswith(own):
                assert callable(instantiate(target, "callable")), target


@pytest.mark.parametrize("check", attack_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("removed", [True, False])
def test_attack_of_the_howto(check: Callable[[Attack], None], removed: bool, tmp_path: Path) -> None:
    """Pasted from the page, it keeps the contract of all attacks."""
    check(pasted("attack", tmp_path).MedianCalibration(remove_offsets=removed))


def test_signal_of_the_howto(tmp_path: Path) -> None:
    connectedness = pasted("signal", tmp_path).connectedness
    assert connectedness.access in ACCESS_LEVELS
    mask = torch.zeros(1, 6, 6, 6)
    assert connectedness(Release(mask, "mask", n_classes=2), None) == {"connectedness": 1.0}
    mask[:, 0, 0, :3] = 1
    mask[:, 4, 4, 4] = 1
    logits = torch.cat([0.5 - mask, mask - 0.5])
    for release in (
        Release(mask, "mask", n_classes=2),
        Release(logits),
        Release(logits.softmax(0), "probabilities"),
        Release(mask - 0.5, activation="sigmoid"),
    ):
        assert connectedness(release, None) == {"connectedness": 0.75}


def test_defence_of_the_howto(tmp_path: Path) -> None:
    module = pasted("defence", tmp_path)
    probabilities = torch.rand(2, 3, 4, 4).softmax(1)
    result = module.RoundProbabilitiesd("pred", decimals=1)({"pred": probabilities})["pred"]
    assert torch.equal(result, torch.round(probabilities, decimals=1))
    assert torch.equal(result * 10, torch.round(result * 10))
