# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI engines from a bundle's own configs: train a model on its members, ask a model about every case.

Nothing of the bundle that writes is run, and no file of it changes.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import TerminateOnNan
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler
from monai.transforms import Activationsd, AsDiscreted, Compose, ResampleToMatchd
from monai.utils import set_determinism
from torch import nn

from monai_mia import files
from monai_mia.data.datasets import CaseSubset
from monai_mia.data.foreign import apply
from monai_mia.data.volumes import LABEL_GRID, case_loader
from monai_mia.errors import InputError
from monai_mia.handlers import Checkpointer, EpochSeeder, MapRecorder, ProgressFile, SignalRecorder, tensor_bytes
from monai_mia.omissions import UNUSED, handler_lists, is_omitted
from monai_mia.outputs import one_output
from monai_mia.slabs import SlabInferer
from monai_mia.unwrapping import bare_network

__all__ = ["BundleConfig", "Query", "Training", "check_inference", "load_weights"]

logger = logging.getLogger(__name__)

#: Ids that a config must define to train from, and to be asked through.
TRAINING_IDS = ("network_def", "train#dataset#data", "train#trainer", "train#trainer#max_epochs")
QUERY_IDS = ("network_def", "inferer", "preprocessing")

#: Id of what an inference config may say of queries alone: ``label``, a transform of the reference when it lies on the
#: image's grid; ``output``, the key or the number of the prediction among several outputs; ``amp``, on a GPU.
QUERY_OPTIONS = "mia_query"

#: Id of cases that a training config may ask for: see :attr:`monai_mia.study.Study.auxiliary`.
AUXILIARY = "auxiliary"


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
        """Hash of all of the bundle that a component can depend on: configs, metadata, Python files, overrides."""
        root = Path(self.root)
        paths = [root / name for name in (*self.files, "configs/metadata.json")]
        paths += [Path(name) / one for name, _, names in files.walk(root) for one in names if one.endswith(".py")]
        return files.digest([[files.sha256(path) for path in paths if path.is_file()], self.overrides])


# The last preprocessed cohort is kept, for all the models that a process works on.
_shared: dict[str, Any] = {}


def _share(key: str, make: Callable[[], Any]) -> Any:
    if key not in _shared:
        _shared.clear()
        _shared[key] = make()
    return _shared[key]


@dataclass(frozen=True)
class Training:
    """The training of one model, as a job that any process can do.

    Attributes:
        bundle: the bundle's training config.
        cohort: all cases of the study; read and preprocessed once a process.
        members: the cases this model trains on.
        auxiliary: cases of patients that no model trains on, for defences that need some; they replace the config's id
            ``auxiliary``, if it has one.
        model_id: id of the model.
        seed: seed of this model's weights, shuffling and augmentation.
        folder: where ``model.pt``, ``model.json`` and, meanwhile, the checkpoint are written.
        progress: the file that tells how far it is.
        key: hash of all that the model depends on.
        cohort_key: hash of the cohort's cases and files.
        checkpoint_interval: epochs between checkpoints.
        threads: CPU threads.
    """

    bundle: BundleConfig
    cohort: Sequence[Mapping[str, Any]]
    members: Sequence[Mapping[str, Any]]
    model_id: str
    seed: int
    folder: str
    progress: str
    key: str
    cohort_key: str
    checkpoint_interval: int = 1
    threads: int = 1
    auxiliary: Sequence[Mapping[str, Any]] = ()

    @property
    def path(self) -> Path:
        """The finished model's weights, a plain ``state_dict``."""
        return Path(self.folder) / "model.pt"

    def run(self) -> None:
        """Train to the last epoch, resuming from the last checkpoint; choosing an epoch would touch non-members."""
        start = time.perf_counter()
        with _settings(self.threads, self.bundle.root), _one_line(self, "training"):
            trainer, dataset, extras = self._trainer()
            checkpointer = Checkpointer(
                Path(self.folder) / "checkpoint.pt",
                {"network": trainer.network, "optimizer": trainer.optimizer, **extras},
                self.key,
                self.checkpoint_interval,
            )
            if trainer.amp:
                trainer.add_event_handler(Events.STARTED, lambda: checkpointer.objects.update(scaler=trainer.scaler))
            losses: list[float] = []
            trainer.add_event_handler(Events.EPOCH_STARTED, losses.clear)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(_loss(trainer)))
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED, TerminateOnNan(output_transform=lambda _: _loss(trainer))
            )
            for handler in (checkpointer, EpochSeeder(self.seed, dataset), ProgressFile(self.progress, "epochs")):
                handler.attach(trainer)
            trainer.run()
            stopped = getattr(trainer.state, "stopped_by", None)  # a defence that ended it on purpose
            early = stopped is None and trainer.state.epoch < trainer.state.max_epochs
            if early or not all(map(math.isfinite, losses)):
                raise InputError(
                    f"training of {self.model_id!r} must reach epoch {trainer.state.max_epochs} with a finite loss, "
                    f"got {losses[-1] if losses else 'none'} in epoch {trainer.state.epoch}. Lower the learning rate."
                )
            network = bare_network(trainer.network)
            files.write_artefact(
                self.path,
                tensor_bytes({name: value.cpu() for name, value in network.state_dict().items()}),
                key=self.key,
                model_id=self.model_id,
                seed=self.seed,
                epochs=trainer.state.epoch,
                stopped_by=stopped,
                n_cases=len(self.members),
                privacy=getattr(trainer._process_function, "privacy", None),
                final_loss=sum(losses) / len(losses) if losses else None,
                seconds=time.perf_counter() - start,
            )
            checkpointer.path.unlink(missing_ok=True)

    def _trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        parser = self.bundle.parser(TRAINING_IDS)
        if str(parser["train#dataset"].get("_target_", "")).endswith("CacheDataset"):
            parser["train#dataset#progress"] = False
        # Cases are no config: an id that begins with "$" would be executed, one with "@" be looked up.
        parser.globals["mia_cases"] = [*map(dict, self.cohort)]
        parser["train#dataset#data"] = "$mia_cases"
        shared = _share(
            files.digest(["train", self.bundle.fingerprint(), self.cohort_key]),
            lambda: _instantiated(parser, "train#dataset", self.bundle),
        )
        parser = self.bundle.parser(TRAINING_IDS)
        members, auxiliary = [*map(dict, self.members)], [*map(dict, self.auxiliary)]
        parser.globals.update(mia_cohort=shared, mia_members=members, mia_auxiliary=auxiliary)
        if AUXILIARY in parser and auxiliary:
            parser[AUXILIARY] = "$mia_auxiliary"
        dataset = {"_target_": "monai_mia.data.CaseSubset", "dataset": "$mia_cohort", "data": "$mia_members"}
        parser["train#dataset"] = dataset
        parser.resolve_macro_and_relative_ids()  # a list of handlers, or one of them, may be either
        # Taken out, not disabled: a disabled handler's validation set would still be built.
        listed = handler_lists(parser)
        for name in listed:
            if isinstance(parser[name], list):
                parser[name] = [handler for handler in parser[name] if not is_omitted(handler, parser)]
            elif parser[name] is not None:
                raise InputError(
                    f"{name!r} must be a list of handlers, got a {type(parser[name]).__name__}, of which none could be "
                    "left out that writes. Override it, such as with []."
                )
        for unused in (name for name in UNUSED if name in parser):
            parser[unused] = None
        set_determinism(self.seed)
        trainer = _instantiated(parser, "train#trainer", self.bundle)
        trainer.logger.setLevel(logging.CRITICAL)  # an error is raised, and told once
        built = parser.get_parsed_content(listed[-1]) or [] if listed else []
        schedulers = [handler.lr_scheduler for handler in built if isinstance(handler, LrScheduleHandler)]
        # A defence may hold state of its own: an account of epsilon, a discriminator, averaged weights.
        parts = (*built, trainer._process_function, trainer.prepare_batch, trainer.loss_function)
        keeping = [
            part
            for part in parts
            if hasattr(part, "load_state_dict") and not (isinstance(part, nn.Module) and not part.state_dict())
        ]
        return (
            trainer,
            shared,
            {f"scheduler_{n}": scheduler for n, scheduler in enumerate(schedulers)}
            | {f"defence_{n}": part for n, part in enumerate(keeping)},
        )


@dataclass(frozen=True)
class Query:
    """Asking one model about every case of the cohort, as a job that any process can do.

    Attributes:
        bundle: the bundle's inference config; its ``device``, ``network_def``, ``inferer`` and ``preprocessing`` are
            used, nothing else.
        cohort: the cases with the model's ``member`` flag.
        model_id: id of the model.
        checkpoint: the model's weights.
        path: the ``<model_id>.csv`` to write, or None: only maps are recorded.
        progress: the file that tells how far it is.
        key: hash of all that the signals depend on.
        cohort_key: hash of the cohort's cases and files.
        transform_id: id, in the inference config, of a dictionary transform of the prediction, such as an output
            defence; by default the activation or the argmax that ``release`` asks for.
        recorder: options of :class:`~monai_mia.handlers.SignalRecorder`.
        maps: the ``<model_id>.npz`` to write in the same pass, or None.
        maps_key: hash of all that the maps depend on.
        map_options: options of :class:`~monai_mia.handlers.MapRecorder`: ``resolution``, ``labels``, ``images``.
        cache_rate: share of the preprocessed cohort that is kept in memory for the next model.
        threads: CPU threads.
        at_input: functions that make dictionary transforms of what the network is given, after the preprocessing; each
            case's draw depends on ``source`` and its name.
        without: transforms of the preprocessing that are left out, by the beginning of their class names.
        source: what the cases' draws depend on, if they are changed at all.
        slabs: whether sliding-window predictions are made and read in slabs; None: those above 1 GiB, if all that is
            recorded can be read in slabs.
    """

    bundle: BundleConfig
    cohort: Sequence[Mapping[str, Any]]
    model_id: str
    checkpoint: str
    path: str | None
    progress: str
    key: str
    cohort_key: str
    transform_id: str | None = None
    recorder: Mapping[str, Any] = field(default_factory=dict)
    maps: str | None = None
    maps_key: str = ""
    map_options: Mapping[str, Any] = field(default_factory=dict)
    cache_rate: float = 1.0
    threads: int = 1
    at_input: Sequence[Callable[[], Any]] = ()
    without: Sequence[str] = ()
    source: str = ""
    slabs: bool | None = None

    def run(self) -> None:
        """Query the model in an evaluator of our own: none of the bundle's postprocessing, metrics or savers runs."""
        start = time.perf_counter()
        with _settings(self.threads, self.bundle.root), _one_line(self, "querying"), torch.inference_mode():
            parser, network, device = _network(self.bundle, self.checkpoint)
            recorders = self._recorders(self._transform(parser))
            cases = [{key: value for key, value in case.items() if key != "member"} for case in self.cohort]
            shared = _share(
                files.digest(["query", self.bundle.fingerprint(), self.cohort_key, self.cache_rate, self.source]),
                lambda: CacheDataset(
                    cases,
                    Compose([self._preprocessing(parser), _WithLabel(self._option(parser, "label")), self._change]),
                    cache_rate=self.cache_rate,
                    progress=False,
                ),
            )
            evaluator = SupervisedEvaluator(
                device=device,
                val_data_loader=DataLoader(CaseSubset(shared, self.cohort), batch_size=1),
                network=network.to(device),
                inferer=self._inferer(parser),
                val_handlers=[*recorders, ProgressFile(self.progress, "cases")],
                decollate=False,
                amp=bool(self._option(parser, "amp")) and torch.device(device).type == "cuda",
            )
            evaluator.logger.setLevel(logging.CRITICAL)
            set_determinism(0)
            evaluator.run()
        for path in filter(None, (self.path, self.maps)):
            beside = Path(path).with_suffix(".json")
            files.write_json(beside, {**files.read_json(beside), "seconds": time.perf_counter() - start})

    def _inferer(self, parser: ConfigParser) -> Any:
        """The bundle's, which gives one tensor, in slabs where that is wanted and possible."""
        inferer, which = _instantiated(parser, "inferer", self.bundle), self._option(parser, "output")
        whole = one_output(inferer, which, self.bundle.root)
        signals = self.recorder.get("signals", ())
        possible = self.maps is None and self.transform_id is None and all(hasattr(s, "in_slabs") for s in signals)
        if self.slabs is False or not possible:
            return whole
        return SlabInferer(inferer, self.recorder["n_classes"], bool(self.slabs), which)

    def _option(self, parser: ConfigParser, name: str) -> Any:
        """What the config says of queries alone, or None."""
        name = f"{QUERY_OPTIONS}#{name}"
        return _instantiated(parser, name, self.bundle) if name in parser else None

    def _preprocessing(self, parser: ConfigParser) -> Any:
        """The bundle's, less what is left out."""
        whole = _instantiated(parser, "preprocessing", self.bundle)
        if not self.without:
            return whole
        steps = whole.transforms if isinstance(whole, Compose) else (whole,)
        kept = [step for step in steps if not type(step).__name__.startswith(tuple(self.without))]
        if len(kept) == len(steps):
            raise InputError(
                f"preprocessing must have a transform that is left out ({', '.join(self.without)}), got none. Take the "
                "source off the list."
            )
        return Compose(kept)

    def _change(self, data: Mapping[str, Any]) -> Any:
        """What the network is given about a foreign case."""
        return apply(self.at_input, data, [self.source, str(data["case_id"])]) if self.at_input else data

    def _recorders(self, transform: Any) -> list[SignalRecorder | MapRecorder]:
        checkpoint = files.sha256(self.checkpoint)
        recorders: list[SignalRecorder | MapRecorder] = []
        if self.path is not None:
            about = {"key": self.key, "checkpoint": checkpoint}
            recorders.append(
                SignalRecorder(self.path, self.model_id, transform=transform, about=about, **self.recorder)
            )
        if self.maps is not None:
            shared = {
                name: value for name, value in self.recorder.items() if name in ("release", "activation", "n_classes")
            }
            about = {"key": self.maps_key, "checkpoint": checkpoint}
            options = {**shared, **self.map_options}
            recorders.append(
                MapRecorder(
                    self.maps, self.model_id, transform=transform, cohort=self.cohort_key, about=about, **options
                )
            )
        return recorders

    def _transform(self, parser: ConfigParser) -> Any:
        """What turns the network's logits into the release."""
        if self.transform_id is not None:
            return _released(parser, self.transform_id, self.bundle)
        release, softmax = self.recorder.get("release", "logits"), self.recorder.get("activation") != "sigmoid"
        if release == "logits":
            return None
        activate = Activationsd("pred", softmax=softmax, sigmoid=not softmax)
        if release == "probabilities":
            return activate
        return Compose([activate, AsDiscreted("pred", argmax=True) if softmax else AsDiscreted("pred", threshold=0.5)])


def check_inference(bundle: BundleConfig, checkpoint: str | None = None, transform_id: str | None = None) -> None:
    """Build all that queries will need, and load the weights of a released target, before anything is trained."""
    with _settings(torch.get_num_threads(), bundle.root):
        parser, _, _ = _network(bundle, checkpoint)
        for name in ("inferer", "preprocessing", *([QUERY_OPTIONS] if QUERY_OPTIONS in parser else [])):
            _instantiated(parser, name, bundle)
        if transform_id is not None:
            _released(parser, transform_id, bundle)


def _released(parser: ConfigParser, transform_id: str, bundle: BundleConfig) -> Any:
    """The transform of that id."""
    if transform_id not in parser:
        raise InputError(f"transform_id must be an id of {', '.join(bundle.files)}, got {transform_id!r}.")
    return _instantiated(parser, transform_id, bundle)


def _network(bundle: BundleConfig, checkpoint: str | None) -> tuple[ConfigParser, nn.Module, torch.device]:
    parser = bundle.parser(QUERY_IDS)
    device = _instantiated(parser, "device", bundle) if "device" in parser else torch.device("cpu")
    network = _instantiated(parser, "network_def", bundle)
    if checkpoint is not None:
        load_weights(network, checkpoint, bundle.root)
    return parser, network, device


_LABEL_TRANSFORMS = (case_loader("label"), ResampleToMatchd("label", key_dst="image", **LABEL_GRID))


class _WithLabel:
    """Load the reference and bring it onto the image's grid, unless the bundle's preprocessing has done so."""

    def __init__(self, transform: Any = None) -> None:
        self.transforms = Compose([*_LABEL_TRANSFORMS, *([transform] if transform else [])])

    def __call__(self, data: Mapping[str, Any]) -> Any:
        return data if hasattr(data["label"], "shape") else self.transforms(dict(data))


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


def _instantiated(parser: ConfigParser, name: str, bundle: BundleConfig) -> Any:
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


@contextlib.contextmanager
def _one_line(job: Training | Query, doing: str) -> Iterator[None]:
    """Where a component of the bundle fails, the user is told in one line; the traceback is kept beside the model."""
    kept = Path(job.progress).with_name("traceback.txt")
    kept.unlink(missing_ok=True)
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
def _settings(threads: int, bundle_root: str) -> Iterator[None]:
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


def _loss(trainer: Engine) -> float:
    output = trainer.state.output
    first = output[0] if isinstance(output, list) else output
    return float(first["loss"])
