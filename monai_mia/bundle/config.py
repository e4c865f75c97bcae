# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's configs: read, overridden, built; and its weights, never read as a pickle."""

from __future__ import annotations

import contextlib
import copy
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["BundleConfig", "bundle_root", "load_weights"]


#: Ids that a config must define to train from, and to be asked through.
TRAINING_IDS = ("network_def", "train#dataset#data", "train#trainer", "train#trainer#max_epochs")
QUERY_IDS = ("network_def", "inferer", "preprocessing")

#: Id of what an inference config may say of queries alone: ``label``, a transform of the reference when it lies on the
#: image's grid; ``output``, the key or the number of the prediction among several outputs; ``amp``, on a GPU.
QUERY_OPTIONS = "mia_query"

#: Id of cases that a training config may ask for: see :attr:`monai_mia.studies.Study.held_out`.
HELD_OUT = "held_out"


def bundle_root() -> str:
    """The folder of the bundle whose config ``python -m monai.bundle run`` was given; MONAI puts it on ``sys.path``."""
    return sys.path[1] if len(sys.path) > 1 else str(Path.cwd())


@dataclass(frozen=True)
class BundleConfig:
    """Where a bundle's configs are, and what is overridden in them.

    Attributes:
        root: the bundle's folder.
        files: config files, merged from left to right; relative ones are in ``root``.
        overrides: id-value pairs, as on the command line of ``monai.bundle run``.
    """

    root: str
    files: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def parser(self, needed: Sequence[str]) -> ConfigParser:
        """Read the configs.

        Raises:
            InputError: a file or an id is missing.
        """
        paths = [Path(self.root) / name for name in self.files]
        for path in paths:
            if not path.is_file():
                raise InputError(
                    f"{path} must be a config file, got no such file. Pass --bundle_root DIR, the folder of the "
                    "bundle, or the right overlay."
                )
        parser = ConfigParser()
        try:
            parser.read_config([str(path) for path in paths])
        except Exception as error:
            raise InputError(f"{', '.join(map(str, paths))} must be configs of a bundle ({error}).") from error
        meta = Path(self.root) / "configs" / "metadata.json"
        if meta.is_file():
            parser.read_meta(str(meta))
        for name, value in {"bundle_root": self.root, **self.overrides}.items():
            try:
                parser[name] = copy.deepcopy(value)  # later overrides, and the parser, change it in place
            except (KeyError, ValueError) as error:
                raise InputError(f"override {name!r} must be an id of {', '.join(map(str, paths))}.") from error
        missing = [name for name in needed if name not in parser]
        if missing:
            raise InputError(
                f"{', '.join(map(str, paths))} must define {', '.join(missing)}, got no such id. "
                "Add it, or name the file that has it."
            )
        return parser

    def fingerprint(self) -> str:
        """Hash of all of the bundle that a component can depend on: configs, metadata, Python files, overrides.

        The metadata's ``privacy``, which a finished audit puts there, is no part of it.
        """
        root = Path(self.root)
        meta = {
            key: value for key, value in files.read_json(root / "configs/metadata.json").items() if key != "privacy"
        }
        paths = [root / name for name in self.files]
        paths += [Path(name) / one for name, _, names in files.walk(root) for one in names if one.endswith(".py")]
        return files.digest([meta, [files.sha256(path) for path in paths if path.is_file()], self.overrides])


# The last preprocessed cohort is kept, for all the models that a process works on.
_shared: dict[str, Any] = {}


def once_a_process(key: str, make: Callable[[], Any]) -> Any:
    """Return what was made for this key, or make it in the place of the last one."""
    if key not in _shared:
        _shared.clear()
        _shared[key] = make()
    return _shared[key]


def build_network(bundle: BundleConfig, checkpoint: str | None) -> tuple[ConfigParser, nn.Module, torch.device]:
    """Return the parsed inference config, its network (with the checkpoint's weights, if given), and its device."""
    parser = bundle.parser(QUERY_IDS)
    device = build_component(parser, "device", bundle) if "device" in parser else torch.device("cpu")
    network = build_component(parser, "network_def", bundle)
    if checkpoint is not None:
        load_weights(network, checkpoint, bundle.root)
    return parser, network, device


def load_weights(network: nn.Module, checkpoint: str | Path, bundle_root: str) -> None:
    """Load a checkpoint, never as a pickle.

    Args:
        network: the network to load into.
        checkpoint: a ``state_dict``, or a mapping with one under ``model``, ``network`` or ``state_dict``.
        bundle_root: the bundle that built the network, for the message.

    Raises:
        InputError: the file is missing, is no checkpoint of plain tensors, or belongs to another network.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f"checkpoint must be a file, got {str(checkpoint)!r}, which does not exist.")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"checkpoint must be a state_dict of plain tensors, got {str(checkpoint)!r}, which torch cannot load with "
            f"weights_only=True ({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
            "Where it was trained, save torch.save(network.state_dict(), FILE)."
        ) from error
    for key in ("model", "network", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    expected = network.state_dict()
    given = (
        {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        if isinstance(state, dict)
        else {}
    )
    if given and all(name.startswith("module.") for name in given):  # saved from several processes
        given = {name.removeprefix("module."): value for name, value in given.items()}
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    shapes = sorted(name for name in expected.keys() & given.keys() if expected[name].shape != given[name].shape)
    if missing or unknown or shapes:
        first = (missing or unknown or shapes)[0]
        raise InputError(
            f"checkpoint must hold the weights of network_def of {bundle_root!r}, got {str(checkpoint)!r} with "
            f"{len(missing)} missing, {len(unknown)} unknown and {len(shapes)} misshapen tensors (first: {first!r}). "
            "Give the checkpoint or the config of the same network."
        )
    network.load_state_dict(given)


def build_component(parser: ConfigParser, name: str, bundle: BundleConfig) -> Any:
    """Build what an id of a config defines; why it cannot be is told in one line."""
    try:
        return parser.get_parsed_content(name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name!r} in {', '.join(bundle.files)} of {bundle.root!r} must be a component that can be built, got "
            f"{_cause(error)}. Install what the bundle needs (its metadata.json tells), or override or overlay what "
            "does not fit."
        ) from error


def _cause(error: BaseException) -> str:
    """What it all began with, in one line; an error that is for the user is raised as it is."""
    where = ""
    cause = error
    while True:
        if isinstance(cause, InputError):
            raise cause from error
        transform = re.search(r"applying transform <(?:\w+\.)*(\w+)", str(cause))
        where = f" in {transform[1]}" if transform else where
        if cause.__cause__ is None:
            break
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or ["no message"]
    if "Original Traceback" in str(cause):  # of a process that loads data
        return f"{lines[-1].rstrip('.')}{where}"
    return f"{type(cause).__name__}: {lines[0].rstrip('.')}{where}"


class _Job(Protocol):
    @property
    def bundle(self) -> BundleConfig: ...
    @property
    def model_id(self) -> str: ...
    @property
    def progress(self) -> str: ...


@contextlib.contextmanager
def told_in_one_line(job: _Job, doing: str) -> Iterator[None]:
    """Where a component of the bundle fails, the user is told in one line; the traceback is kept beside the model."""
    kept = Path(job.progress).with_name("traceback.txt")
    files.remove(kept)
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        cause = _cause(error)
        files.write(kept, traceback.format_exc())
        raise InputError(
            f"{doing} of {job.model_id!r} must be possible with {', '.join(job.bundle.files)} of {job.bundle.root!r}, "
            f"got {cause}. Override or overlay what does not fit, or take the case that does not fit off the cohort. "
            f"{kept} has the traceback."
        ) from error


@contextlib.contextmanager
def job_settings(threads: int, bundle_root: str) -> Iterator[None]:
    """CPU threads, and the bundle's own ``scripts`` importable, for the time of one job."""
    before = torch.get_num_threads()
    path = str(Path(bundle_root).resolve())
    torch.set_num_threads(threads)
    # Behind Python's own modules, which a file of the bundle must not take the place of.
    sys.path.insert(next((n for n, one in enumerate(sys.path) if one.endswith("-packages")), len(sys.path)), path)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ in the bundle
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(path)
        torch.set_num_threads(before)
