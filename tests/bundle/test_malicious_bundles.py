# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Bundles that want to run code: ``inspect`` says so, whatever the way, runs nothing, and ends; others are not told.

``OPEN`` and ``TRAP`` in the table make a file. Where a row is proved, MONAI really runs it as an audit would, and the
file is there: the danger is one.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_styles
from conftest import BUNDLES, environment
from monai.bundle import ConfigParser
from monai.data import PersistentDataset
from zoo_styles import STYLES, change, config_of, of

from monai_mia.__main__ import main
from monai_mia.bundle.config import BundleConfig
from monai_mia.bundle.inspection import Executed, harmless, inspect_bundle
from monai_mia.bundle.inspection.config import Config
from monai_mia.bundle.inspection.execution import Read, Use, executed
from monai_mia.bundle.query import check_inference
from monai_mia.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

OPEN = "open('TRAP', 'w')"


@pytest.fixture
def spleen(tmp_path: Path) -> Path:
    return zoo_styles.spleen(tmp_path / "spleen")


def running(bundle: Path, **options: Any) -> list[Executed]:
    """What is told as code that an audit would execute."""
    return [one for one in inspect_bundle(bundle, **options).executed if one.runs and not one.harmless]


def device(code: str) -> dict[str, Any]:
    """A bundle that runs code as it chooses a device."""
    return {"device": f"$(torch.device('cpu'), {code})[0]"}


def needs(*nodes: Any, **ids: Any) -> dict[str, Any]:
    """A bundle whose inferer, a harmless one, requires other things."""
    return {"inferer": of("SimpleInferer", _requires_=list(nodes)), **ids}


def loads(**options: Any) -> dict[str, Any]:
    """A bundle that loads images so."""
    return {"preprocessing": of("Compose", transforms=[of("LoadImaged", keys="image", **options)])}


#: What is changed in an inference config, and a part of what must be listed.
PROVED: dict[str, tuple[dict[str, Any], str]] = {
    "an expression": (device(OPEN), OPEN),
    "a reference": ({**device("@evil"), "evil": f"${OPEN}"}, f"evil: ${OPEN}"),
    "a reference to a part": ({**device("@evil::0"), "evil": [f"${OPEN}"]}, f"evil#0: ${OPEN}"),
    "a reference by the old separator": ({**device("@evil#0"), "evil": [f"${OPEN}"]}, f"evil#0: ${OPEN}"),
    "a reference in a text of an expression": ({**device("'x@evil'[0]"), "evil": f"${OPEN}"}, f"evil: ${OPEN}"),
    "a reference to all of the config": ({**device("@"), "imports": [f"${OPEN}"]}, f"imports#0: ${OPEN}"),
    "an empty id": ({**device("@evil::"), "evil": {"": f"${OPEN}"}}, f"${OPEN}"),
    "an id that looks like two": ({**device("@evil::a::b"), "evil": {"a::b": f"${OPEN}"}}, f"evil#a#b: ${OPEN}"),
    "a macro": ({"device": "%evil", "evil": f"$[torch.device('cpu'), {OPEN}][0]"}, "device: $[torch"),
    "a macro of a part": ({"inferer": "%evil::0", "evil": [of("SimpleInferer", _requires_=f"${OPEN}")]}, OPEN),
    "a macro within one": ({"imports": [needs("%two")["inferer"]], "inferer": "%imports::0", "two": f"${OPEN}"}, OPEN),
    "a relative id": (needs("@###evil", evil=f"${OPEN}"), f"evil: ${OPEN}"),
    "_requires_": (needs(f"${OPEN}"), f"inferer#_requires_#0: ${OPEN}"),
    "_desc_": ({"inferer": of("SimpleInferer", _desc_=f"${OPEN}")}, f"inferer#_desc_: ${OPEN}"),
    "_disabled_": ({"inferer": of("SimpleInferer", _disabled_=f"${OPEN} and False")}, "inferer#_disabled_: $"),
    "an argument of what is disabled": (needs(of("SimpleInferer", _disabled_=True, x=f"${OPEN}")), OPEN),
    "_target_ of Python": (needs(of("open", file="TRAP", mode="w")), "_target_: open"),
    "_target_ of builtins": (needs(of("builtins.open", file="TRAP", mode="w")), "_target_: builtins.open"),
    "_target_ of os": (needs(of("os.mkdir", path="TRAP")), "_target_: os.mkdir"),
    "_target_ of subprocess": (needs(of("subprocess.check_call", args=["touch", "TRAP"])), "subprocess.check_call"),
    "_target_ through MONAI": (needs(of("monai.utils.misc.os.mkdir", path="TRAP")), "monai.utils.misc.os.mkdir"),
    "_target_ of MONAI that runs": (needs(of("run_cmd", cmd_list=["touch", "TRAP"])), "_target_: run_cmd"),
    "_target_ by an expression": (needs(of("$open", file="TRAP", mode="w")), "_target_: $open"),
    "_target_ by a reference": (needs(of("@evil", file="TRAP", mode="w"), evil="$open"), "_target_: @evil"),
    "_target_ by a name in a reference": (needs(of("@evil", path="TRAP"), evil="os.mkdir"), "_target_: @evil"),
    "_mode_": (needs(of("SimpleInferer", _mode_="callable"), f"${OPEN}"), "_mode_: 'callable'"),
    "_mode_ by a reference": (needs(of("SimpleInferer", _mode_="@mode"), f"${OPEN}", mode="callable"), "_mode_:"),
    "an import under any id": ({"notes": {"a": "$import own_trap"}}, "notes#a: $import own_trap"),
    "an import by another name": ({"notes": "$from own_trap import x as len"}, "notes: $from own_trap"),
    "an import before what is none": ({"notes": "$import own_trap; 1 @ y"}, "notes: $import own_trap"),
    "an import of two": ({"notes": "$import own_trap, os"}, "notes: $import own_trap"),
    "a chain of attributes": (device("monai.utils.misc.os.mkdir('TRAP')"), "os.mkdir"),
    "__import__": (device("__import__('os').mkdir('TRAP')"), "__import__"),
    "importlib": ({**device("importlib.import_module('own_trap')"), "imports": ["$import importlib"]}, "importlib"),
    "getattr": (device("getattr(os, 'mk' + 'dir')('TRAP')"), "getattr"),
    "a lambda": (device("(lambda: open('TRAP', 'w'))()"), "lambda"),
    "a lambda that hides a name": (device("(lambda eval: 0) and list(map(eval, [\"open('TRAP', 'w')\"]))"), "eval"),
    "a lambda that is given": (device("list(map(lambda mode: open('TRAP', mode), ['w']))"), "lambda"),
    "a comprehension": (device("[open('TRAP', mode) for mode in 'w']"), "for mode"),
    "a comprehension that hides a name": (device("[open for open in [1]] + [*map(open, ['TRAP'], 'w')]"), "open"),
    "a walrus": (device("(f := open)('TRAP', 'w')"), ":="),
    "a formatted text": (device("f\"{open('TRAP', 'w')}\""), 'f"'),
    "dunder attributes": (device("().__class__.__base__.__subclasses__() and " + OPEN), "__subclasses__"),
    "partial": ({**device("functools.partial(open, 'TRAP')('w')"), "imports": ["$import functools"]}, "partial"),
    "exec": (device('exec(\'open("TRAP", "w")\')'), "exec"),
    "a reader by its name": (loads(reader="own_trap.Reader"), "reader: 'own_trap.Reader'"),
    "a reader in a list": (loads(reader=["PILReader", "own_trap.Reader"]), "reader: 'own_trap.Reader'"),
    "a reader by a reference": ({**loads(reader="@evil"), "evil": "own_trap.Reader"}, "reader: 'own_trap.Reader'"),
    "a class of the bundle": (needs(of("own_trap.Class")), "_target_: own_trap.Class"),
    "a module in the place of one that is not installed": (needs("$monai.utils.optional_import('cucim')"), "cucim.py"),
}


@pytest.mark.parametrize("name", PROVED)
def test_is_listed_and_really_runs(name: str, spleen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = json.loads(json.dumps(PROVED[name]).replace("TRAP", str(tmp_path / "trap")))
    for module in ("own_trap", "cucim"):
        (spleen / f"{module}.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
        sys.modules.pop(module, None)
    change(spleen, **changes)
    main(["inspect", "--bundle", str(spleen)])
    printed = capsys.readouterr().out
    told = printed.split("Code that an audit would execute")[1].split("Code that an audit leaves alone")[0]
    assert expected in told
    assert not (tmp_path / "trap").exists()
    found = inspect_bundle(spleen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_inference(BundleConfig(str(spleen), found.inference_files, found.inference_overrides))
        except Exception as error:  # once the trap is there, it may fail
            print(error)
    assert (tmp_path / "trap").exists()


class Evil:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


#: What torch takes for "unpickle whatever is there".
FALSE = (False, "", 0, [])


@pytest.mark.parametrize("value", [*FALSE, "@no"], ids=repr)
def test_a_cache_that_is_unpickled(value: Any, spleen: Path, tmp_path: Path) -> None:
    """A ``weights_only`` that is false in any way, of a dataset that another component requires."""
    PersistentDataset([{"a": 1}], None, cache_dir=tmp_path / "cache")[0]
    (cached,) = (tmp_path / "cache").glob("*.pt")
    torch.save(Evil(tmp_path / "trap"), cached)
    data = of("PersistentDataset", data=[{"a": 1}], transform=None, cache_dir=str(cached.parent), weights_only=value)
    change(spleen, **needs("$@evil[0]", evil=data, no=False))
    assert "PersistentDataset" in {one.code for one in running(spleen)}
    found = inspect_bundle(spleen)
    check_inference(BundleConfig(str(spleen), found.inference_files, found.inference_overrides))
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("value", [*map(repr, FALSE), "None", "1", "@no"])
def test_a_checkpoint_that_is_unpickled(value: str, spleen: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "trap")))
    code = f"torch.load({str(tmp_path / 'evil.pt')!r}, weights_only={value})"
    change(spleen, **device(code), no=False)
    assert [code in one.code for one in running(spleen)] == [True]
    change(spleen, **device(code.replace(value, "True")))
    assert not running(spleen)


#: The same without a proof: what needs a network or another package, or is listed since nobody knows it.
LISTED: dict[str, tuple[dict[str, Any], str]] = {
    "os.environ": (device("os.environ['HOME']"), "os.environ"),
    "torch.load without a word": (device("torch.load('x.pt')"), "torch.load"),
    "torch.load by keywords": (
        device("torch.load('x.pt', **{'weights_only': True, 'pickle_module': @x})"),
        "torch.load",
    ),
    "torch.load with another pickle": (device("torch.load('x', weights_only=True, pickle_module=os)"), "torch.load"),
    "torch.jit.load": (device("torch.jit.load('x.ts')"), "torch.jit.load"),
    "torch.jit.load as a target": (needs(of("torch.jit.load", f="x.ts")), "_target_: torch.jit.load"),
    "torch.load as a target": (needs(of("torch.load", f="x.pt", weights_only=True)), "_target_: torch.load"),
    "torch.hub": (device("torch.hub.load('a/b', 'c')"), "torch.hub"),
    "numpy.load": (device("np.load('x.npy', allow_pickle=True)"), "np.load"),
    "a function that is given": (loads(converter="$os.system"), "$os.system"),
    "a function of a transform": ({"preprocessing": of("Lambdad", keys="image", func="$os.system")}, "$os.system"),
    "a module that is given": (device("[os][0]"), "[os]"),
    "format": (device("'{0.__class__}'.format(1)"), "format"),
    "an import of what opens a browser": ({"notes": "$import antigravity"}, "antigravity"),
    "a module with another name": ({"notes": "$import subprocess as np"}, "subprocess as np"),
    "a relative import": ({"notes": "$from . import os"}, "from . import os"),
    "_mode_ debug": ({"inferer": of("SimpleInferer", _mode_="debug")}, "_mode_: 'debug'"),
    "_debug_": ({"inferer": of("SimpleInferer", _debug_=True)}, "_debug_: True"),
    "_target_ of no text": (needs(of("x", _target_=["os.system"])), "_target_: ['os.system']"),
    "_target_ with a space": (needs(of(" UNet")), "_target_:  UNet"),
    "_target_ in a module of MONAI": (needs(of("monai.transforms.io.dictionary.os.system")), "dictionary.os.system"),
    "_target_ that parses other configs": (needs(of("ConfigParser", config={"a": "$1"})), "ConfigParser"),
    "_target_ that is not finished": (needs(of("monai.")), "_target_: monai."),
    "an argument that is passed on": (loads(allow_pickle=True), "allow_pickle: True"),
    "an argument that nobody knows": ({"inferer": of("SlidingWindowInferer", roi_size=8, later=1)}, "later: 1"),
    "a reader that unpickles": (loads(reader=of("NumpyReader", allow_pickle="@yes"), x=1), "allow_pickle: '@yes'"),
    "a reader that unpickles, somehow": (loads(reader=of("NumpyReader", allow_pickle=1)), "allow_pickle: 1"),
    "a reader by an expression": (loads(reader="$str('os.system')"), "reader: \"$str('os.system')\""),
    "a writer": ({"preprocessing": of("SaveImaged", keys="image", output_dir="/", writer="os.system")}, "SaveImaged"),
    "a merger": ({"inferer": of("PatchInferer", merger_cls="os.system")}, "PatchInferer"),
    "a transform by its name": (needs(of("TorchVisiond", keys="image", name="os.system")), "name: 'os.system'"),
    "a hash": (needs(of("CacheDataset", data=[], hash_as_key=True, hash_func="$os.system")), "hash_func: '$os.system'"),
    "PersistentDataset": (needs(of("PersistentDataset", data=[], cache_dir="x", hash_transform="$id")), "$id"),
    "PersistentDataset with a protocol": (needs(of("PersistentDataset", data=[], pickle_module="dill")), "Persistent"),
    "CacheNTransDataset": (needs(of("CacheNTransDataset", data=[], cache_dir="x")), "CacheNTransDataset"),
    "LMDBDataset": (needs(of("monai.data.LMDBDataset", data=[], cache_dir="x")), "monai.data.LMDBDataset"),
    "GDSDataset": (needs(of("GDSDataset", data=[], cache_dir="x", device=0)), "GDSDataset"),
    "a data set that is downloaded": (needs(of("monai.apps.DecathlonDataset", download=True)), "DecathlonDataset"),
    "a download": (needs(of("monai.apps.download_url", url="https://x")), "monai.apps.download_url"),
    "a bundle that is downloaded": (needs(of("monai.bundle.load", name="x", source="ngc")), "monai.bundle.load"),
    "load_from_ngc": (device("monai.apps.mmars.load_from_mmar('x', 'y')"), "load_from_mmar"),
    "a perceptual loss": (needs(of("PerceptualLoss", spatial_dims=2)), "PerceptualLoss"),
    "weights by a switch": ({"network_def": of("DenseNet121", pretrained=True)}, "pretrained: True"),
    "weights by a switch of words": ({"network_def": of("DenseNet121", pretrained="no")}, "pretrained: 'no'"),
    "weights by a url": ({"network_def": of("HoVerNet", pretrained_url="http://x")}, "pretrained_url: 'http://x'"),
    "weights by default": ({"network_def": of("EfficientNetBN", model_name="efficientnet-b0")}, "EfficientNetBN"),
    "what Python cannot read": ({"notes": "$import )", "device": "$torch.device('cpu'"}, "'cpu' (no Python)"),
    "what is too deep for Python": ({"device": "$" + "(" * 3000 + ")" * 3000}, "(no Python)"),
    "what is deep": ({"device": "$" + "-" * 3000 + "1"}, "----"),
    "a zero": ({"device": "$1\0"}, "$1\\x00 (no Python)"),
    "two statements": ({"device": "$1\nimport os"}, "$1\\nimport os"),
}


@pytest.mark.parametrize("name", LISTED)
def test_is_listed(name: str, spleen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = LISTED[name]
    change(spleen, **changes)
    main(["inspect", "--bundle", str(spleen)])
    printed = capsys.readouterr().out
    assert expected in printed.split("Code that an audit would execute")[1].split("Code that an audit leaves alone")[0]


#: What is changed below ``train`` of a training config, and a part of what must be listed.
TRAINED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a transform": (lambda train: train["random_transforms"].append(of("own.Evil")), "_target_: own.Evil"),
    "a handler": (lambda train: train["handlers"].append(of("own.Evil")), "_target_: own.Evil"),
    "a handler by a macro": (lambda train: train.update(x=[of("own.Evil")], handlers="%#x"), "_target_: own.Evil"),
    "the handlers by an expression": (lambda train: train.update(handlers="$[own.Evil]"), "$[own.Evil]"),
    "a prepare_batch": (lambda train: train["trainer"].update(prepare_batch="$own.evil"), "$own.evil"),
    "an amp": (lambda train: train["trainer"].update(amp="$own.evil()"), "own.evil()"),
    "workers": (lambda train: train["dataloader"].update(num_workers="$own.evil()"), "own.evil()"),
    "a collate_fn": (
        lambda train: train["dataloader"].update(collate_fn=of("own.evil", _mode_="callable")),
        "own.evil",
    ),
    "a compiler": (lambda train: train["trainer"].update(compile=True), "compile: True"),
    "a trainer": (lambda train: train["trainer"].update(_target_="own.SupervisedTrainer"), "own.SupervisedTrainer"),
    "a cache": (lambda train: train["dataset"].update(hash_func="$own.evil"), "hash_func: '$own.evil'"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_is_listed_of_a_training(name: str, spleen: Path) -> None:
    harm, expected = TRAINED[name]
    train = config_of(spleen, "train")["train"]
    harm(train)
    change(spleen, "train", train=train)
    assert any(expected in f"{one.id.rpartition('#')[2]}: {one.code}" for one in running(spleen))


def drawn(rng: random.Random, depth: int = 0) -> Any:
    """A part of a config: numbered calls of ``T``, references, macros, components, keys that look like ids."""

    def reference() -> str:
        begin = rng.choice(["@", "@", "@", "@", "@#", "@##", "@::", "%"])
        return begin + rng.choice(
            ["", "a", "b", "c", "a::b", "a#0", "b::1", "é", "0", "a::", "a::_requires_", "b::a::b"]
        )

    kind = rng.random()
    if kind < 0.3 or depth > 3:
        arguments = [reference() for _ in range(rng.choice([0, 0, 1, 2]))]
        return rng.choice(["$T({})", "$T({}) and 'x@b'", "$import os", "$[T({}) for _ in 'x']"]).format(
            ", ".join([str(rng.randrange(10**9)), *arguments])
        )
    if kind < 0.55:
        return reference()
    if kind < 0.7:
        return [drawn(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    names = ["a", "b", "c", "", "a::b", "0", "x#y", " a", "é", "_requires_", "_disabled_", "_desc_", "@a", "$1"]
    content = {rng.choice(names): drawn(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return {"_target_": "builtins.dict", **content} if kind < 0.85 else content


def test_what_monai_evaluates_is_told(tmp_path: Path) -> None:
    """Random configs: each expression that MONAI evaluates, asked for an id, is one that is told to run."""
    rng, evaluated = random.Random(0), 0
    for _ in range(700):
        content = {name: drawn(rng) for name in rng.sample("abcd", 4)}
        (tmp_path / "c.json").write_text(json.dumps(content))
        called: list[int] = []
        parser = ConfigParser(globals={"T": lambda number, *_, called=called: called.append(number)})
        parser.read_config(str(tmp_path / "c.json"))
        with contextlib.suppress(Exception):  # references to nothing, and in a circle
            parser.get_parsed_content("a")
        try:
            used = Config.read(tmp_path, ["c.json"], {}, macros=False)
            told = executed(tmp_path, [Read(used, ["c.json"], {})], [Use(used, ["a"])])
        except InputError:  # such as macros in a circle: an audit ends here
            continue
        running = " ".join(one.code for one in told if one.runs)
        assert all(f"T({number}" in running for number in called), content
        evaluated += len(called)
    assert evaluated > 50


class TestFolders:
    def test_modules_that_take_the_place_of_others(self, spleen: Path) -> None:
        """MONAI and torch import many modules by their names, whether they are installed or not."""
        compiled = Path("scripts") / "__pycache__" / "own.cpython-311.pyc"
        for name in ("nibabel.py", "cucim/core/__init__.py", "scripts/own.py", "lz4.so", str(compiled), "configs/x.py"):
            (spleen / name).parent.mkdir(parents=True, exist_ok=True)
            (spleen / name).touch()
        told = {one.file: one.code for one in running(spleen)}
        assert told.keys() == {"nibabel.py", str(Path("cucim/core/__init__.py")), "lz4.so", str(compiled)}
        assert "any import of 'cucim'" in told[str(Path("cucim/core/__init__.py"))]
        assert "in the place of the script" in told[str(compiled)]

    def test_links_that_lead_out(self, spleen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "m.py").touch()
        (spleen / "scripts").symlink_to("../code")
        (spleen / "models").mkdir()
        (spleen / "models" / "model.pt").symlink_to("/etc/passwd")
        (spleen / "models" / "other.pt").symlink_to("model.pt")
        (spleen / "within").symlink_to("configs")
        found = inspect_bundle(spleen)
        assert found.scripts == ("scripts/m.py",)
        assert [one.split()[0] for one in found.links] == ["models/model.pt", "models/other.pt", "scripts"]
        main(["inspect", "--bundle", str(spleen)])
        assert "scripts -> ../code" in capsys.readouterr().out

    def test_a_link_to_everything(self, spleen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monai_mia.bundle.inspection.folder._MAX_PATHS", 20)
        (tmp_path / "disk").mkdir()
        for n in range(30):
            (tmp_path / "disk" / str(n)).touch()
        (spleen / "docs").symlink_to(tmp_path / "disk")
        with pytest.raises(InputError, match="must hold at most 20 files"):
            inspect_bundle(spleen)

    def test_a_config_in_another_language(self, spleen: Path) -> None:
        (spleen / "configs" / "own.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(InputError, match=r"own\.py must be a bundle's configs"):
            inspect_bundle(spleen, inference=["configs/own.py"])
        for name in ("inference.json", "train.json"):
            (spleen / "configs" / name).rename(spleen / "configs" / name.replace("json", "py"))
        with pytest.raises(InputError, match=r"must have configs/inference\.json"):
            inspect_bundle(spleen)


class TestOverrides:
    def test_are_looked_at(self, spleen: Path) -> None:
        (told,) = running(spleen, overrides={"device": device("own.evil")["device"]})
        assert (told.file, told.id) == ("--set", "device")

    def test_in_the_place_of_code_make_it_harmless(self, spleen: Path) -> None:
        change(spleen, **device("own.evil"))
        assert not running(spleen, overrides={"device": "cpu"})


#: Text of an inference config, whole, that must end in one line.
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "a YAML tag": ("yaml", b"device: !!python/object/apply:os.mkdir ['TRAP']", "could not determine a constructor"),
    "a YAML name": ("yaml", b"device: !!python/name:os.system", "could not determine a constructor"),
    "a bomb of aliases": (
        "yaml",
        b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 30)),
        "at most 100000 values",
    ),
    "a circle of aliases": ("yaml", b"a: &a [*a]", "no circle"),
    "a bomb of macros": (
        "json",
        json.dumps({"a0": [1] * 10} | {f"a{n}": [f"%a{n - 1}"] * 10 for n in range(1, 30)}).encode(),
        "at most 100000 values",
    ),
    "a circle of macros": ("json", b'{"a": ["%b"], "b": ["%a"]}', "no circle"),
    "a macro of all": ("json", b'{"a": ["%"]}', "no circle"),
    "a macro of a file": ("json", b'{"a": "%/etc/other.json::x"}', "by a macro"),
    "a long macro": ("json", b'{"a": "%' + b"." * 100_000 + b'"}', "at most 100000 values"),
    "long ids": ("json", json.dumps({"x" * 900_000: [1] * 90_000}).encode(), "ids of at most 1000 letters"),
    "long ids by aliases": (
        "yaml",
        b"a: &a {" + b"y" * 500 + b": [" + b"1, " * 1000 + b"]}\nb: {" + b"x" * 600 + b": {c: *a}}",
        "ids of at most 1000 letters",
    ),
    "a relative id out of range": ("json", b'{"a": "%#####x"}', "out of the range"),
    "deep nesting": ("json", b"[" * 100_000 + b"]" * 100_000, "maximum recursion depth"),
    "deep nesting in YAML": ("yaml", b"a: " + b"[" * 5_000 + b"]" * 5_000, "recursion"),
    "a large file": ("json", b'{"a": "' + b" " * 5_000_000 + b'"}', "at most 4194304 bytes"),
    "no UTF-8": ("json", b'{"a": "\xff\xfe"}', "can't decode byte"),
    "no mapping": ("json", b'["a"]', "must be a bundle's configs"),
    "a line that erases itself": ("yaml", b"a: [\x1b[2K", "special characters are not allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name: str, spleen: Path, tmp_path: Path) -> None:
    ending, text, expected = REFUSED[name]
    (spleen / "configs" / "inference.json").unlink()
    (spleen / "configs" / f"inference.{ending}").write_bytes(text.replace(b"TRAP", bytes(tmp_path / "trap")))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--bundle", str(spleen)])
    assert expected in str(ended.value)
    assert str(ended.value).isprintable()
    assert not (tmp_path / "trap").exists()


def test_references_in_a_circle_end(spleen: Path) -> None:
    change(spleen, **needs("@a", a=["@b"], b=["@a"], reader="@reader"), **loads(reader="@reader"))
    assert [one.code for one in running(spleen)] == ["reader: '@reader'"]


def test_the_last_of_two_values_is_told(spleen: Path) -> None:
    path = spleen / "configs" / "inference.json"
    path.write_text('{"device": "cpu", "device": "$own.evil",' + path.read_text().replace('"device"', '"d"', 1)[1:])
    assert [one.code for one in running(spleen)] == ["$own.evil"]


#: Erases a line, begins one, turns the order of letters round, takes no room, looks like another letter.
TRICKS = ("\x1b[2K\r", "\nCode that an audit leaves alone (0)\n", "\u202e", "\u200b", "\u0430", "\x9b1A", "\ud800")


@pytest.mark.parametrize("trick", TRICKS, ids=ascii)
def test_what_is_printed_is_plain(trick: str, spleen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(spleen)
    label = of(f"own.Label{trick}", keys="label")
    train = config_of(spleen, "train")["train"]
    train["preprocessing"] = of("Compose", transforms=[label])
    change(spleen, "train", train=train)
    change(
        spleen,
        device=f"$own.evil('{trick}')",
        **{f"net{trick}": config["network_def"], f"x{trick}: $1": f"$own{trick}"},
    )
    if trick.isprintable():
        change(spleen, network_def=None, network=f"$@net{trick}.to(@device)")
    if "\ud800" not in trick:
        (spleen / f"own{trick}.py").touch()
        (spleen / f"link{trick}").symlink_to("/etc")
    main(["inspect", "--bundle", str(spleen)])
    printed = capsys.readouterr()
    assert all(line.isascii() and line.isprintable() for line in printed.out.splitlines())
    assert printed.out.count("\nCode that an audit leaves alone") == 1
    assert trick not in printed.err


def test_an_error_is_plain(spleen: Path) -> None:
    (spleen / "configs" / "metadata.json").write_text(json.dumps({"a\x1b[2K\n": "$1"}))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--bundle", str(spleen), "--set", "a\x1b[2K=1"])
    assert str(ended.value).isprintable()


class TestWhereItIsStarted:
    """Python searches the folder that ``python -m`` is started in, and those of PYTHONPATH, for modules."""

    def inspected(self, spleen: Path, *how: str, **variables: str) -> str:
        done = subprocess.run(
            [*how, "inspect", "--bundle", "."],
            cwd=spleen,
            env=environment() | variables,
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    @pytest.fixture
    def trapped(self, spleen: Path, tmp_path: Path) -> Path:
        """A bundle with a trap in the place of each module that the command itself imports."""
        for name in (
            "numpy",
            "logging",
            "argparse",
            "inspect",
            "lazy_loader",
            "docstring_parser",
            "yaml",
            "torch",
            "monai",
        ):
            (spleen / f"{name}.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
        return spleen

    @pytest.mark.parametrize("option", [(), ("-P",)])
    def test_its_files_do_not_run(self, option: tuple[str, ...], trapped: Path, tmp_path: Path) -> None:
        printed = self.inspected(trapped, sys.executable, *option, "-m", "monai_mia")
        assert "numpy.py: any import of 'numpy' may find it" in printed
        assert not (tmp_path / "trap").exists()

    def test_it_is_refused_in_the_search_path(self, trapped: Path, tmp_path: Path) -> None:
        path = os.pathsep.join([environment()["PYTHONPATH"], "scripts"])
        printed = self.inspected(trapped, sys.executable, "-m", "monai_mia", PYTHONPATH=path)
        assert printed.startswith("monai_mia: bundle must not lie where Python searches for modules, got ")
        assert len(printed.splitlines()) == 1
        assert not (tmp_path / "trap").exists()


class TestHarmless:
    """What does nothing but what an audit is about is not told as code."""

    @pytest.mark.parametrize("style", STYLES)
    def test_of_the_zoo(self, style: str, tmp_path: Path) -> None:
        found = inspect_bundle(STYLES[style](tmp_path / "bundle"))
        assert not [one for one in found.executed if one.runs and not one.harmless]
        alone = {one.code.rpartition(".")[2] for one in found.executed if not one.runs and not one.harmless}
        writing = {"SaveImaged", "TensorBoardStatsHandler", "CheckpointSaver", "MetricsSaver", "LogfileHandler"}
        assert alone <= writing | {"run()", "$@checkpointloader(@evaluator)", "PersistentDataset"}

    @pytest.mark.parametrize("name", ["hippocampus_unet2d", "hippocampus_unet3d", "phantom_unet3d"])
    def test_of_the_package(self, name: str) -> None:
        assert not running(BUNDLES / name)

    def test_own_scripts_are_told(self, spleen: Path) -> None:
        change(spleen, network_def=of("scripts.net.Net"))
        assert [(one.id, one.code) for one in running(spleen)] == [("network_def#_target_", "scripts.net.Net")]

    @pytest.mark.parametrize(
        "code",
        [
            "$torch.device(f\"cuda:{@n}\" if torch.cuda.is_available() else 'cpu')",
            "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))",
            "$[{'image': i, **j} for i, j in zip(glob.glob(os.path.join(@d, '*')), @datalist) if not i.endswith('x')]",
            "$monai.data.load_decathlon_datalist(@d, data_list_key='training')[: int(0.9 * len(@datalist))]",
            "$datetime.datetime.now().strftime(@d + '/%H%M%S')",
            "$(monai.utils.GridSampleMode.BILINEAR, np.float32, 'a' if @n > 1 else None)",
            "$filter(lambda p: p.requires_grad, @network.parameters())",
            "$import glob",
            "$torch.load(@d + '/x.pt', map_location='cpu', weights_only=True)['model']",
        ],
    )
    def test_expressions(self, code: str, spleen: Path) -> None:
        change(spleen, **needs(code), n=1, d="dir")
        assert not running(spleen)

    def test_the_lists_name_what_there_is(self) -> None:
        arguments = {"beta_end", "beta_start", "constant_values", "value", "affine_lps_to_ras"}  # passed on
        arguments |= {"brightness", "contrast", "hue", "saturation"}
        for module, names in harmless.CLASSES.items():
            for name in names.split():
                kind = getattr(importlib.import_module(module), name)
                assert isinstance(kind, type), name
                arguments |= inspect.signature(kind).parameters.keys()
                array = getattr(importlib.import_module(module), f"{name}d", kind)
                arguments |= inspect.signature(array).parameters.keys()
        for name in harmless.FUNCTIONS - {"datetime.now", "skimage.measure.label"}:  # that may not be installed
            name = re.sub(r"^dist\.", "torch.distributed.", re.sub(r"^ndimage\.", "scipy.ndimage.", name))
            module, _, function = name.partition(".")
            node = importlib.import_module(module)
            for part in function.split("."):
                node = getattr(node, part)
            assert callable(node), name
        assert arguments >= harmless.ARGUMENTS
        assert not harmless.ARGUMENTS & harmless.VALUES.keys()
