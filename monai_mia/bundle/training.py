# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Train one model of a study from the bundle's own training config, without the handlers that write."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import TerminateOnNan
from monai.bundle import ConfigParser
from monai.handlers import LrScheduleHandler
from monai.utils import set_determinism
from torch import nn

from monai_mia.bundle.config import (
    HELD_OUT,
    TRAINING_IDS,
    BundleConfig,
    build_component,
    job_settings,
    once_a_process,
    told_in_one_line,
)
from monai_mia.errors import InputError
from monai_mia.handlers.resuming import Checkpointer, EpochSeeder, ProgressFile, tensor_bytes
from monai_mia.records import files
from monai_mia.signals.release import bare_network

__all__ = ["Training", "is_removed", "take_out"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The training of one model, as a job that any process can do.

    Attributes:
        bundle: the bundle's training config.
        cohort: all cases of the study; read and preprocessed once a process.
        members: the cases this model trains on.
        held_out: cases of patients that no model trains on, for defences that need some; they replace the config's id
            ``held_out``, if it has one.
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
    held_out: Sequence[Mapping[str, Any]] = ()

    @property
    def path(self) -> Path:
        """The finished model's weights, a plain ``state_dict``."""
        return Path(self.folder) / "model.pt"

    def run(self) -> None:
        """Train to the last epoch, resuming from the last checkpoint; choosing an epoch would touch non-members."""
        start = time.perf_counter()
        with job_settings(self.threads, self.bundle.root), told_in_one_line(self, "training"):
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
        shared = once_a_process(
            files.digest(["train", self.bundle.fingerprint(), self.cohort_key]),
            lambda: build_component(parser, "train#dataset", self.bundle),
        )
        parser = self.bundle.parser(TRAINING_IDS)
        members, held_out = [*map(dict, self.members)], [*map(dict, self.held_out)]
        parser.globals.update(mia_cohort=shared, mia_members=members, mia_held_out=held_out)
        if HELD_OUT in parser and held_out:
            parser[HELD_OUT] = "$mia_held_out"
        dataset = {"_target_": "monai_mia.data.CaseSubset", "dataset": "$mia_cohort", "data": "$mia_members"}
        parser["train#dataset"] = dataset
        listed = take_out(parser)
        set_determinism(self.seed)
        trainer = build_component(parser, "train#trainer", self.bundle)
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


def _loss(trainer: Engine) -> float:
    output = trainer.state.output
    first = output[0] if isinstance(output, list) else output
    return float(first["loss"])


#: Ids of a training config that are set to null.
_UNUSED = tuple(f"train#trainer#{name}" for name in ("key_train_metric", "additional_metrics", "postprocessing"))

_REMOVED = re.compile(
    r"(Checkpoint|ClearML|EarlyStop|TensorBoard)\w*|(Logfile|MLFlow|Stats|Trt|Validation)Handler"
    r"|(Classification|Metrics)Saver|MetricLogger|ModelCheckpoint|PostProcessing|ProbMapProducer"
)


def is_removed(handler: Any, config: Any) -> bool:
    """Whether a training leaves out a handler: a component or an expression that calls such a class, or leads to one.

    Args:
        handler: item of a list of handlers.
        config: a parser, or what reads as one.
    """
    for _ in range(10):
        if isinstance(handler, str) and handler.startswith("@") and handler[1:] in config:
            handler = config[handler[1:]]
    if isinstance(handler, Mapping):
        called = [str(handler.get("_target_", "")).rpartition(".")[2]]
    else:  # "$monai.handlers.CheckpointSaver(...) if @save else None"
        called = re.findall(r"(\w+)\s*\(", handler) if str(handler).startswith("$") else []
    return any(_REMOVED.fullmatch(name) for name in called)


def take_out(parser: ConfigParser) -> list[str]:
    """Take out of a training config the handlers that write, and what looks at cases that a model does not train on.

    Returns:
        Ids of the lists of handlers.

    Raises:
        InputError: handlers are no list, so that none could be taken out.
    """
    parser.resolve_macro_and_relative_ids()  # a list of handlers, or one of them, may be either
    # Taken out, not disabled: a disabled handler's validation set would still be built.
    listed = _handler_lists(parser)
    for name in listed:
        if isinstance(parser[name], list):
            parser[name] = [handler for handler in parser[name] if not is_removed(handler, parser)]
        elif parser[name] is not None:
            raise InputError(
                f"{name!r} must be a list of handlers, got a {type(parser[name]).__name__}, of which none could be "
                "left out that writes. Override it, such as with []."
            )
    for unused in (name for name in _UNUSED if name in parser):
        parser[unused] = None
    return listed


def _handler_lists(config: Any) -> list[str]:
    """Ids of the lists of handlers of a training config, references to them followed."""
    found = []
    for name in ("train#handlers", "train#trainer#train_handlers"):
        for _ in range(10):
            if name in config and str(config[name]).startswith("@"):
                name = config[name][1:].replace("::", "#")
        if name in config:
            found.append(name)
    return list(dict.fromkeys(found))
