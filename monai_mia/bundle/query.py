# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI engines from a bundle's own configs: train a model on its members, ask a model about every case.

Nothing of the bundle that writes is run, and no file of it changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd, AsDiscreted, Compose, ResampleToMatchd
from monai.utils import set_determinism

from monai_mia.bundle.config import (
    QUERY_OPTIONS,
    BundleConfig,
    build_component,
    build_network,
    job_settings,
    once_a_process,
    told_in_one_line,
)
from monai_mia.data.datasets import CaseSubset
from monai_mia.data.foreign import apply
from monai_mia.data.volumes import LABEL_GRID, case_loader
from monai_mia.errors import InputError
from monai_mia.handlers.maps import MapRecorder
from monai_mia.handlers.resuming import ProgressFile
from monai_mia.handlers.signals import SignalRecorder
from monai_mia.records import files
from monai_mia.signals.outputs import one_output
from monai_mia.signals.slabs import SlabInferer

__all__ = ["Query", "check_inference"]

logger = logging.getLogger(__name__)


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
        with job_settings(self.threads, self.bundle.root), told_in_one_line(self, "querying"), torch.inference_mode():
            parser, network, device = build_network(self.bundle, self.checkpoint)
            recorders = self._recorders(self._transform(parser))
            cases = [{key: value for key, value in case.items() if key != "member"} for case in self.cohort]
            shared = once_a_process(
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
        inferer, which = build_component(parser, "inferer", self.bundle), self._option(parser, "output")
        whole = one_output(inferer, which, self.bundle.root)
        signals = self.recorder.get("signals", ())
        possible = self.maps is None and self.transform_id is None and all(hasattr(s, "in_slabs") for s in signals)
        if self.slabs is False or not possible:
            return whole
        return SlabInferer(inferer, self.recorder["n_classes"], bool(self.slabs), which)

    def _option(self, parser: ConfigParser, name: str) -> Any:
        """What the config says of queries alone, or None."""
        name = f"{QUERY_OPTIONS}#{name}"
        return build_component(parser, name, self.bundle) if name in parser else None

    def _preprocessing(self, parser: ConfigParser) -> Any:
        """The bundle's, less what is left out."""
        whole = build_component(parser, "preprocessing", self.bundle)
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
    with job_settings(torch.get_num_threads(), bundle.root):
        parser, _, _ = build_network(bundle, checkpoint)
        for name in ("inferer", "preprocessing", *([QUERY_OPTIONS] if QUERY_OPTIONS in parser else [])):
            build_component(parser, name, bundle)
        if transform_id is not None:
            _released(parser, transform_id, bundle)


def _released(parser: ConfigParser, transform_id: str, bundle: BundleConfig) -> Any:
    """The transform of that id."""
    if transform_id not in parser:
        raise InputError(f"transform_id must be an id of {', '.join(bundle.files)}, got {transform_id!r}.")
    return build_component(parser, transform_id, bundle)


_LABEL_TRANSFORMS = (case_loader("label"), ResampleToMatchd("label", key_dst="image", **LABEL_GRID))


class _WithLabel:
    """Load the reference and bring it onto the image's grid, unless the bundle's preprocessing has done so."""

    def __init__(self, transform: Any = None) -> None:
        self.transforms = Compose([*_LABEL_TRANSFORMS, *([transform] if transform else [])])

    def __call__(self, data: Mapping[str, Any]) -> Any:
        return data if hasattr(data["label"], "shape") else self.transforms(dict(data))
