# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of a study: how models are made, which one is audited, what is recorded, and where the work runs.

The command line is made from these classes, their texts included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

from monai_mia.bundle.config import BundleConfig, bundle_root
from monai_mia.errors import InputError
from monai_mia.handlers.signals import Signal
from monai_mia.records import files
from monai_mia.signals.segmentation import access_of

__all__ = ["Recipe", "Recording", "Released", "Resources"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained and queried: the configs of a bundle, and what is overridden in them.

    Attributes:
        bundle: folder of the bundle; by default the one whose config ``monai.bundle run`` was given.
        train: training config: the bundle's own and overlays, merged from left to right.
        inference: config to query a model through, likewise.
        train_overrides: id-value pairs for the training config.
        inference_overrides: id-value pairs for the inference config.
    """

    bundle: str | None = None
    train: Sequence[str] = ("configs/train.json",)
    inference: Sequence[str] = ("configs/inference.json",)
    train_overrides: Mapping[str, Any] = field(default_factory=dict)
    inference_overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The bundle's folder."""
        return bundle_root() if self.bundle is None else str(self.bundle)

    @property
    def metadata(self) -> dict[str, Any]:
        """The bundle's ``metadata.json``; empty if there is none."""
        return files.read_json(Path(self.root) / "configs" / "metadata.json")

    def training(self) -> BundleConfig:
        """The training config."""
        return BundleConfig(self.root, tuple(self.train), dict(self.train_overrides))

    def querying(self) -> BundleConfig:
        """The config to query a model through."""
        return BundleConfig(self.root, tuple(self.inference), dict(self.inference_overrides))


@dataclass(frozen=True)
class Released:
    """A target that was released: its weights, and who it was trained on. The design is then observational.

    Attributes:
        checkpoint: the weights.
        members: case or patient ids it was trained on, as a list or a text file with one a line.
        nonmembers: case or patient ids it was not trained on, likewise.
        recipe: how it is queried, where that is not as the shadows are: another architecture, or a defence that the
            shadows do without; None: as the shadows.
    """

    checkpoint: str
    members: str | Sequence[str]
    nonmembers: str | Sequence[str]
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Recording:
    """What leaves a model about a case, and what is recorded of it.

    Attributes:
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``.
        activation: ``softmax`` (one class a voxel) or ``sigmoid`` (labels that may overlap).
        transform_id: id, in the inference config, of a dictionary transform of ``pred`` before it leaves the model,
            such as an output defence; by default the activation or the argmax that ``release`` asks for.
        n_labels: label files hold integers in [0, n_labels); by default as the bundle's metadata says.
        signals: what is recorded of each query beside :func:`~monai_mia.signals.segmentation_signals`: dataclasses that
            :class:`~monai_mia.handlers.SignalRecorder` can call, such as
            :class:`~monai_mia.signals.PerturbedQueries` or :class:`~monai_mia.signals.WhiteBox`.
        maps: whether the predictions themselves are recorded too, for attacks that read them.
        maps_resolution: by which factor recorded maps are down-sampled, one number or one an axis.
        slabs: whether sliding-window predictions are made and read in slabs, so that large volumes need little memory;
            None: those above 1 GiB, where all that is recorded can be read so. The numbers differ by rounding.
    """

    release: Literal["logits", "probabilities", "mask"] = "logits"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    transform_id: str | None = None
    n_labels: int | None = None
    signals: Sequence[Signal] = ()
    maps: bool = False
    maps_resolution: int | Sequence[int] = 1
    slabs: bool | None = None

    def check(self) -> None:
        """Refuse what cannot be recorded."""
        for name, choices in (("release", ("logits", "probabilities", "mask")), ("activation", ("softmax", "sigmoid"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for signal in self.signals:
            if not is_dataclass(signal) or isinstance(signal, type):  # a function's repr is a memory address
                raise InputError(f"signals must be dataclass objects that can be called, got {signal!r}.")
        factors = [self.maps_resolution] if isinstance(self.maps_resolution, int) else list(self.maps_resolution)
        if not factors or not all(isinstance(factor, int) and factor >= 1 for factor in factors):
            raise InputError(f"maps_resolution must be integers of at least 1, got {self.maps_resolution}.")
        if self.n_labels is not None and self.n_labels < 2:
            raise InputError(f"n_labels must be at least 2, the background included, got {self.n_labels}.")
        whole = [repr(signal) for signal in self.signals if not hasattr(signal, "in_slabs")]
        if self.slabs and (self.maps or self.transform_id is not None or whole):
            also = [*whole, *["maps"] * self.maps, *[str(self.transform_id)] * (self.transform_id is not None)]
            raise InputError(f"slabs must be null or false with {', '.join(also)}, got true: they need it whole.")

    def labels(self, recipe: Recipe) -> int:
        """The number of classes, background included.

        Raises:
            InputError: it is not given, and the bundle does not tell it.
        """
        if self.n_labels is not None:
            return self.n_labels
        if self.activation == "sigmoid":
            return 2
        node: Any = recipe.metadata
        for key in ("network_data_format", "outputs", "pred", "num_channels"):
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, int):
            raise InputError(
                f"n_labels must be given, since the metadata of {recipe.root!r} has no "
                "network_data_format.outputs.pred.num_channels, got None."
            )
        return node

    def access_of(self, signal: str) -> str:
        """The access that a signal needs.

        Raises:
            InputError: this release does not give it.
        """
        access = access_of(signal)
        if self.release == "mask" and access.startswith("probabilities"):
            raise InputError(
                f"release must be logits or probabilities for signal {signal!r}, got 'mask'. Take attacks that read it "
                "off the list, or use standard_attacks with this release."
            )
        return access


@dataclass(frozen=True)
class Resources:
    """Where a study runs, and with what.

    Attributes:
        n_jobs: processes; by default one a core, or one where there is a GPU.
        threads: CPU threads of each process; results are the same bit for bit for the same number.
        checkpoint_interval: epochs between checkpoints of a training.
        cache_rate: share of the cohort that is kept in memory for queries.
        models_dir: where models are trained and kept; by default in the study's folder. Studies with the same cohort,
            design and training can share one, and train once.
        wait: whether to wait for another run in the same folder, instead of ending with a line that names it.
    """

    n_jobs: int | None = None
    threads: int = 1
    checkpoint_interval: int = 1
    cache_rate: float = 1.0
    models_dir: str | None = None
    wait: bool = False

    def check(self) -> None:
        """Refuse numbers that nothing can run with."""
        for name in ("n_jobs", "threads", "checkpoint_interval"):
            value = getattr(self, name)
            if not (name == "n_jobs" and value is None) and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number, at least 1, got {value!r}.")
        if not 0 <= self.cache_rate <= 1:
            raise InputError(f"cache_rate must be in [0, 1], got {self.cache_rate}.")
