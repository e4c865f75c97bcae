# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle offers to an audit: read from its configs, before anything of it runs."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_mia.bundle.config import QUERY_OPTIONS
from monai_mia.bundle.inspection import parts
from monai_mia.bundle.inspection.config import Config
from monai_mia.bundle.inspection.execution import Executed, Read, Use, executed
from monai_mia.bundle.inspection.folder import below, importable, links_out, taking_over, writable_by_others
from monai_mia.bundle.training import take_out
from monai_mia.errors import InputError, ascii_only

__all__ = ["Inspection", "inspect_bundle"]

_ADVICE = {
    "network_def": "Name it with --set network_def=@ID, or give a config that has it with --inference.",
    "inferer": 'Give one, such as --set "inferer={_target_: SlidingWindowInferer, roi_size: [96, 96, 96]}".',
    "preprocessing": "Name it with --set preprocessing=@ID: what images pass before the network sees them.",
}


#: What of a training config may be evaluated where it cannot be told exactly.
_TRAINED = ("network_def", "trainer", "train")


@dataclass(frozen=True)
class Inspection:
    """What an audit can do with a bundle; nothing of the bundle has been executed to find out.

    Attributes:
        root: the bundle's folder.
        style: ``flat`` (ids of an inference config), ``validate`` (ids below ``validate``) or ``template`` (ids of
            other names, found by what the evaluator refers to).
        inference_files: configs to ask models through, merged from left to right.
        train_files: configs to train from.
        ids: where each part was found.
        inference_overrides: what makes a study find these parts in the configs, which stay as they are.
        train_overrides: the same for training.
        activation: ``softmax`` or ``sigmoid``, or None if the postprocessing does not tell.
        decision: ``argmax``, ``threshold`` or empty: how the postprocessing makes a mask.
        channels: channels of the network's output, or None if no file tells.
        label_transforms: what training makes of a reference beside its place, such as channels of one label map.
        checkpoint: where the bundle's weights are, relative to it, or None.
        missing: what is missing to ask a model.
        missing_for_training: what is missing to train shadows.
        executed: code in the configs, and what runs without them; with what is known as harmless.
        scripts: what Python can import of the bundle.
        links: links that lead out of the bundle.
        writable: files and folders that others than their owner and group can change.
        group_writable: those that the group can change.
        reads_labels: whether the preprocessing reads references itself.
    """

    root: str
    style: str
    inference_files: tuple[str, ...]
    train_files: tuple[str, ...]
    ids: Mapping[str, str]
    inference_overrides: Mapping[str, Any]
    train_overrides: Mapping[str, Any]
    activation: str | None
    decision: str
    channels: int | None
    label_transforms: tuple[Mapping[str, Any], ...]
    checkpoint: str | None
    missing: tuple[str, ...] = ()
    missing_for_training: tuple[str, ...] = ()
    executed: tuple[Executed, ...] = ()
    scripts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    group_writable: tuple[str, ...] = ()
    reads_labels: bool = field(default=False)

    @property
    def trains(self) -> bool:
        """Whether shadows can be trained from the bundle's own config."""
        return bool(self.train_files) and not self.missing_for_training

    def require(self) -> None:
        """Refuse a bundle that cannot be asked, and one that others can change.

        Raises:
            InputError: what is missing, or who could change what would be executed.
        """
        if self.writable:
            shown = ", ".join(self.writable[:3]) + (" and more" if len(self.writable) > 3 else "")
            raise InputError(
                f"bundle must not be writable by others, since its configs are executed, got {shown}. Check what it "
                f"would run (monai-mia inspect --bundle {self.root}), then: chmod -R o-w {self.root}"
            )
        if self.missing:
            raise InputError(f"bundle {self.root!r} {self.missing[0]}")

    def text(self) -> str:
        """What was found, for a terminal."""

        def listed(names: Sequence[str]) -> str:
            return ", ".join(names) or "none"

        lines = [
            f"Bundle            {self.root}",
            f"Style             {self.style}",
            f"Asked through     {listed(self.inference_files)}",
            *(f"  {role:<16}{name}" for role, name in self.ids.items()),
            f"Activation        {self.activation or 'unknown: give --activation softmax, sigmoid or none'}",
            f"Output channels   {self.channels if self.channels is not None else 'unknown: give --n_labels'}",
            "References        "
            + (
                "read by the bundle's own preprocessing"
                if self.reads_labels
                else "loaded beside the image and resampled onto its grid (nearest, zeros outside)"
            ),
        ]
        if self.label_transforms:
            lines.append(f"  then            {listed([str(one.get('_target_')) for one in self.label_transforms])}")
        lines.append(f"Checkpoint        {self.checkpoint or 'none in models/: give --checkpoint'}")
        lines.append(
            f"Shadows           can be trained from {listed(self.train_files)}"
            if self.trains
            else "Shadows           cannot be trained: audit a checkpoint with --members, --nonmembers and "
            "--shadows 0. Then only thresholds on the target's own signals are tried: leakage that is found is real, "
            "but stronger attacks, which compare with shadows, are not tried."
        )
        for what, problems in (("Missing", self.missing), ("Missing to train", self.missing_for_training)):
            lines += [f"{what:<18}{problem}" for problem in problems]
        lines += [""]
        for what, runs in (("would execute", True), ("leaves alone", False)):
            found = [one for one in self.executed if one.runs == runs and not one.harmless]
            lines += [f"Code that an audit {what} ({len(found)})"]
            lines += [f"  {_place(one)}: {one.code}" for one in found]
        lines += [f"Expressions that are known as harmless: {sum(one.harmless for one in self.executed)}"]
        lines += [f"Scripts of the bundle, which its configs may import: {listed(self.scripts)}"]
        lines += [f"Links that lead out of the bundle: {listed(self.links)}"]
        lines += [f"Writable by others, so that an audit refuses it: {listed(self.writable)}"]
        if self.group_writable:
            lines += [f"Writable by the group: {len(self.group_writable)} files or folders; make sure who is in it."]
        return "\n".join(map(ascii_only, lines))


def _place(one: Executed) -> str:
    """Where code is; an id is quoted if it could be taken for more than that."""
    plain = re.fullmatch(r"[\w#.-]*", one.id)
    return f"{one.file} {one.id if plain else repr(one.id)}".rstrip()


def inspect_bundle(
    root: str | os.PathLike[str],
    inference: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Inspection:
    """Read a bundle's configs and say what an audit can do with it; no expression and no component of it is evaluated.

    Args:
        root: the bundle's folder.
        inference: configs to query a model through, relative to the folder; by default ``configs/inference``, or
            ``configs/evaluate`` laid upon ``configs/train``, or ``configs/test``, or ``configs/train`` alone.
        train: configs to train from; by default ``configs/train``, if there is one.
        overrides: ids and values on top of them.

    Raises:
        InputError: the folder holds no bundle, or its configs cannot be read.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"bundle must be a folder, got {str(root)!r}, which is none. Give --bundle DIR.")
    inference = tuple(inference) if inference else parts.workflow(folder)
    train = tuple(train) if train else parts.named(folder, "train")
    overrides = {name.replace("::", "#"): value for name, value in (overrides or {}).items()}
    own_asked = _known(folder, inference, overrides) | {n: v for n, v in overrides.items() if "#" not in n}
    own_train = _known(folder, train, overrides) if train else {}
    unknown = sorted(overrides.keys() - own_asked.keys() - own_train.keys())
    if unknown:
        raise InputError(
            f"override must be an id of {', '.join((*inference, *train))}, got {unknown[0]!r}. Correct the id."
        )
    asked = Config.read(folder, inference, own_asked)
    trained = Config.read(folder, train, own_train) if train else None
    ids = parts.found_ids(asked, overrides)
    missing = [
        f"must define {role!r} in {', '.join(inference)}, got no such id. {advice}"
        for role, advice in _ADVICE.items()
        if role not in ids
    ]
    own = parts.loaded_keys(asked, ids)
    if own and "image" not in own:
        missing.append(
            f"must read its images under the key 'image', got {', '.join(sorted(own))} in {ids['preprocessing']!r}. "
            "Override the keys with --set."
        )
    chain = list(asked.transforms(f"@{ids['postprocessing']}")) if "postprocessing" in ids else []
    train_overrides: dict[str, Any] = {}
    problems = ["must have a configs/train.json or .yaml to train shadows, got none."]
    if trained is not None:
        train_overrides, problems = parts.training_overrides(trained)
    activation, decision = parts.activation_of(asked, chain)
    lifted = train_overrides.get("train", {}).get("dataset", {}).get("transform")
    configs = [one for one in (trained, asked) if one is not None]
    label = parts.label_transforms(configs, [lifted], activation)
    inference_overrides: dict[str, Any] = own_asked | {
        role: f"@{name}" for role, name in ids.items() if role not in ("postprocessing",) and role != name
    }
    options: dict[str, Any] = {}
    reads_labels = "label" in own
    if label and not reads_labels:
        options["label"] = {"_target_": "Compose", "transforms": copy.deepcopy(label)}
    if asked.value(asked.evaluator().get("amp")) is True:
        options["amp"] = True
    if options:
        inference_overrides[QUERY_OPTIONS] = options
    weights = [path for path in (folder / "models").glob("model.*") if path.suffix in (".pt", ".pth")]
    paths = below(folder)
    read = [Read(asked, inference, own_asked)]
    uses = [_queries(folder, inference, inference_overrides)]
    if trained is not None:
        read += [Read(trained, train, own_train)]
        try:
            uses += _trainings(folder, train, own_train | train_overrides)
        except InputError:  # it cannot be trained from; what is missing might be given
            uses.append(Use(trained, _TRAINED))
    code = executed(folder, read, uses)
    code += [Executed(name, "", why, True) for name, why in taking_over(folder, paths)]
    writable, group = writable_by_others(folder, (*inference, *train))
    return Inspection(
        root=str(root),
        style=parts.style(asked, ids),
        inference_files=inference,
        train_files=train,
        ids=ids,
        inference_overrides=inference_overrides,
        train_overrides=own_train | train_overrides,
        activation=activation,
        decision=decision,
        channels=parts.channels(folder, asked, ids),
        label_transforms=tuple(label),
        checkpoint=str(sorted(weights)[0].relative_to(folder)) if weights else None,
        missing=tuple(missing),
        missing_for_training=tuple(problems),
        executed=tuple(code),
        scripts=importable(folder, paths),
        links=links_out(folder, paths),
        writable=writable,
        group_writable=group,
        reads_labels=reads_labels,
    )


def _queries(folder: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> Use:
    """What queries evaluate: as :class:`monai_mia.bundle.query.Query` does."""
    config = Config.read(folder, names, {"bundle_root": str(folder), **overrides}, macros=False)
    return Use(config, ("device", "network_def", "inferer", "preprocessing", QUERY_OPTIONS))


def _trainings(folder: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> list[Use]:
    """What a training evaluates: as :class:`monai_mia.bundle.training.Training` does.

    Raises:
        InputError: it cannot be trained from.
    """
    overrides = {"bundle_root": str(folder), **overrides}
    cohort = Config.read(folder, names, {**overrides, "train#dataset#data": []}, macros=False)
    training = Config.read(folder, names, {**overrides, "train#dataset": None}, macros=False)
    listed: list[str] = []
    with contextlib.suppress(InputError, KeyError, ValueError):  # a training ends by it, before it evaluates this
        listed = take_out(training.parser)
    uses = [Use(cohort, ["train#dataset"]), Use(training, ["train#trainer", *listed])]
    return [one for one in uses if one.config.items]  # which is read here


def _known(folder: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of what these configs have."""
    config = Config.read(folder, names, {})
    return {name: value for name, value in overrides.items() if name.partition("#")[0] in config}
