# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a bundle are: by their standard ids, or by what its engines refer to."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_mia.bundle.inspection.config import Config, class_of
from monai_mia.errors import InputError
from monai_mia.records import files

#: Endings of config files, in the order they are looked for.
_ENDINGS = ("json", "yaml", "yml")

#: Workflows that a model can be asked through, in the order they are looked for, with those they are laid upon.
_WORKFLOWS = (("inference",), ("train", "evaluate"), ("test",), ("train",))

#: What an audit needs of a bundle to ask a model, and the evaluator's argument that refers to it.
_ROLES = {
    "network_def": "network",
    "inferer": "inferer",
    "preprocessing": "",
    "postprocessing": "postprocessing",
    "device": "device",
}

#: Transforms of a reference that are about its place, which a query sees to itself; others change its meaning.
_PLACING = (
    "AddChannel", "BorderPad", "CastToType", "CenterSpatialCrop", "CropForeground", "DataStats", "DivisiblePad",
    "EnsureChannelFirst", "EnsureType", "Flip", "Identity", "Load", "Orientation", "Rand", "Resample", "Resize",
    "Rotate", "Save", "Spacing", "SpatialCrop", "SpatialPad", "SqueezeDim", "ToDevice", "ToNumpy", "ToTensor",
    "Transpose", "Zoom",
)  # fmt: skip

#: Datasets that write, or that leave out a part of the cohort.
_WRITING = ("PersistentDataset", "CacheNTransDataset", "LMDBDataset", "GDSDataset", "SmartCacheDataset")


def workflow(folder: Path) -> tuple[str, ...]:
    """The configs that a model is asked through."""
    for names in _WORKFLOWS:
        found = [named(folder, name) for name in names]
        if all(found):
            return tuple(name for one in found for name in one)
    raise InputError(
        f"bundle must have configs/inference.json, evaluate.json or train.json (or .yaml), got none in "
        f"{str(folder)!r}. Give --bundle DIR, the folder above configs/, or name the config with --inference."
    )


def named(folder: Path, name: str) -> tuple[str, ...]:
    """The config of that name in the bundle, if there is one."""
    for ending in _ENDINGS:
        if (folder / "configs" / f"{name}.{ending}").is_file():
            return (f"configs/{name}.{ending}",)
    return ()


def found_ids(config: Config, given: Collection[str] = ()) -> dict[str, str]:
    """Where each part is: by its standard name, below ``validate``, or by what the evaluator refers to."""
    name = config.engine("Evaluator", ("validate#evaluator", "evaluator"))
    evaluator = config[name] if name else {}
    loader = config.component(evaluator.get("val_data_loader"))
    dataset = config.component(loader.get("dataset"))
    evaluates = config.engine("Trainer", ("train#trainer", "trainer")) is not None
    ids: dict[str, str] = {}
    for role, argument in _ROLES.items():
        node, place = evaluator.get(argument), f"{name}#{argument}"
        if role == "preprocessing":
            node, place = dataset.get("transform"), ""
        referred = config.id_of(node, place)
        standard = [role, referred]
        if role not in ("network_def", "device") and evaluates:  # the config's own id may be the training's
            standard = [f"validate#{role}", referred, role]
        if role in given:
            standard = [role]
        found = [one for one in standard if one and one in config and config[one] is not None]
        if found:
            ids[role] = found[0]
    return ids


def style(config: Config, ids: Mapping[str, str]) -> str:
    """``flat``, ``validate`` or ``template``."""
    parts = [ids[role] for role in ("inferer", "preprocessing") if role in ids]
    if any(name.startswith("validate#") for name in parts):
        return "validate"
    return "flat" if all(role == name for role, name in ids.items()) else "template"


def loaded_keys(config: Config, ids: Mapping[str, str]) -> set[str]:
    """The keys that the preprocessing loads."""
    if "preprocessing" not in ids:
        return set()
    loaders = [one for one in config.transforms(f"@{ids['preprocessing']}") if class_of(one).startswith("Load")]
    return {key for one in loaders for key in config.keys(one)}


def activation_of(config: Config, chain: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """The activation, and how a mask is made of it."""
    activation, decision = None, ""
    for one in chain:
        name = class_of(one)
        if name.startswith("Activations"):
            for kind in ("softmax", "sigmoid"):
                if _any_true(config, one.get(kind)):
                    activation = kind
        elif name.startswith("AsDiscrete") and not decision:
            if _any_true(config, one.get("argmax")):
                decision = "argmax"
            elif one.get("threshold") is not None:
                decision = "threshold"
    if activation is None and decision == "argmax":  # of logits, as well as of probabilities
        activation = "softmax"
    return activation, decision


def _any_true(config: Config, node: Any) -> bool:
    value = config.value(node)
    return any(one is True for one in value) if isinstance(value, list) else value is True


def channels(folder: Path, config: Config, ids: Mapping[str, str]) -> int | None:
    """Channels of the network's output, if the metadata or the network's options tell."""
    node: Any = files.read_json(folder / "configs" / "metadata.json")
    for key in ("network_data_format", "outputs", "pred", "num_channels"):
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, int):
        return node
    network = config.component(f"@{ids['network_def']}") if "network_def" in ids else {}
    for key in ("out_channels", "num_classes", "n_classes"):
        value = config.value(network.get(key))
        if isinstance(value, int):
            return value
    return None


def label_transforms(configs: Sequence[Config], chains: Sequence[Any], activation: str | None) -> list[dict[str, Any]]:
    """What a bundle makes of a reference, as it trains or validates, beside its place.

    Args:
        configs: the configs to look into, in this order.
        chains: the transforms of the training data, if they are not under a standard id.
        activation: with ``softmax`` class indices are wanted, not channels.
    """
    for config in configs:
        for node in (*chains, "@train#preprocessing", "@train#dataset#transform", "@validate#preprocessing"):
            found = [
                config.resolved(one)
                for one in config.transforms(node)
                if config.keys(one) == {"label"} and not class_of(one).startswith(_PLACING)
            ]
            found = [one for one in found if activation != "softmax" or one.get("to_onehot") is None]
            if found:
                return [{**one, "keys": "label"} for one in found]
    return []


def training_overrides(config: Config) -> tuple[dict[str, Any], list[str]]:
    """What makes a study find the parts of a training where this config has them, and what is missing of them.

    Where there is no ``train#trainer``, the trainer and its dataset are copied below ``train``, and their old ids refer
    to the copies, so that whatever else refers to them gets these.
    """
    trainer_id = config.engine("Trainer", ("train#trainer", "trainer"))
    if trainer_id is None:
        return {}, ["must define 'train#trainer' to train shadows, got no trainer."]
    trainer = copy.deepcopy(config[trainer_id])
    overrides: dict[str, Any] = {}
    missing = []
    if "network_def" not in config:
        network = config.id_of(trainer.get("network"), f"{trainer_id}#network")
        if network is None:
            missing.append("must define 'network_def' to train shadows, got no such id.")
        overrides["network_def"] = f"@{network}"
    if "max_epochs" not in trainer:
        missing.append(f"must define '{trainer_id}#max_epochs' to train shadows, got no such id.")
    loader = config.component(trainer.get("train_data_loader"))
    if trainer.get("amp"):
        trainer["amp"] = _where_cuda(trainer["amp"], False)
        overrides[f"{trainer_id}#amp"] = trainer["amp"]
    loader_id = config.id_of(trainer.get("train_data_loader"), f"{trainer_id}#train_data_loader")
    dataset_id = config.id_of(loader.get("dataset"), f"{loader_id}#dataset")
    dataset = _kept_in_memory(config.component(loader.get("dataset")))
    if "data" not in dataset:
        return {}, [*missing, f"must define a dataset with data for {trainer_id!r} to train shadows, got none."]
    if loader.get("num_workers") and not loader.keys() & {"persistent_workers", "prefetch_factor"}:
        overrides[f"{loader_id}#num_workers"] = _where_cuda(
            loader["num_workers"], 0
        )  # the study's processes are enough
    if trainer_id == "train#trainer" and dataset_id == "train#dataset":
        return overrides | ({"train#dataset": dataset} if dataset != config[dataset_id] else {}), missing
    moved: dict[str, Any] = {"dataset": dataset, "trainer": trainer}
    handlers = config.value(trainer.get("train_handlers"))
    if isinstance(handlers, list):
        moved["handlers"] = copy.deepcopy(handlers)
        trainer["train_handlers"] = "@train#handlers"
    if dataset_id is not None and dataset_id.startswith(f"{trainer_id}#"):
        trainer["train_data_loader"] = {**loader, "dataset": "@train#dataset"}
    elif dataset_id != "train#dataset":
        overrides[str(dataset_id)] = "@train#dataset"
    if trainer_id != "train#trainer":
        overrides[trainer_id] = "@train#trainer"
    if isinstance(config.parser.get("train"), dict):
        return {f"train#{name}": value for name, value in moved.items()} | overrides, missing
    return {"train": moved} | overrides, missing


def _where_cuda(node: Any, otherwise: Any) -> str:
    """What a node says on a GPU, and something else on a CPU."""
    return f"$({str(node).removeprefix('$')}) if torch.cuda.is_available() else {otherwise}"


def _kept_in_memory(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset; in the place of one that writes a cache, or shows a part of its data, one that keeps all in memory."""
    if class_of(dataset) not in _WRITING:
        return copy.deepcopy(dict(dataset))
    kept = {name: copy.deepcopy(value) for name, value in dataset.items() if name in ("data", "transform")}
    return {"_target_": "CacheDataset", **kept}
