# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A study of any bundle, which stays as it is: run by ``monai-mia audit`` and the overlay ``audit.yaml``."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from monai_mia.attacks import Attack, EverySignal, standard_attacks
from monai_mia.audit.audit import Audit
from monai_mia.audit.disclosure.policy import Policy
from monai_mia.bundle.config import QUERY_OPTIONS, bundle_root
from monai_mia.bundle.inspection import Inspection, inspect_bundle
from monai_mia.data import read_cohort
from monai_mia.errors import InputError
from monai_mia.records.design import Case
from monai_mia.records.files import shipped_bundles
from monai_mia.records.folder import StudyFolder
from monai_mia.statistics import Resampling
from monai_mia.studies.jobs import command
from monai_mia.studies.options import Recipe, Recording, Released, Resources
from monai_mia.studies.study import Study

__all__ = ["audit_bundle", "bundle_study"]

logger = logging.getLogger(__name__)

#: Shadows of an audit that says no number, where they can be trained.
SHADOWS = 8

#: Values that references of known conversions hold.
_VALUES = {"ConvertToMultiChannelBasedOnBratsClasses": 5}

_ADVISORY = "https://github.com/Project-MONAI/MONAI/security/advisories/GHSA-873f-pvrv-4x83"


def bundle_study(
    cohort: str | Sequence[Case] | Callable[[], Sequence[Case]],
    output_dir: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    *,
    shadows: int | None = None,
    checkpoint: str | None = None,
    members: str | Sequence[str] | None = None,
    nonmembers: str | Sequence[str] | None = None,
    activation: Literal["softmax", "sigmoid", "none"] | None = None,
    seed: int = 0,
    key_file: str | None = None,
    epochs: int | None = None,
    labels: Mapping[str, int] | None = None,
    prediction: str | int | None = None,
    inference: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    attacks: Sequence[Attack | EverySignal] | Callable[[int], Sequence[Attack | EverySignal]] | None = None,
    audit: Audit | None = None,
    policy: str | None = None,
    skip_bad: bool = False,
    archive: str | None = None,
    **options: Any,
) -> Study:
    """A study of a bundle, from its own configs.

    With ``members`` and ``nonmembers`` its checkpoint is audited. Without them, a target is trained as the shadows are,
    from the bundle's training config: what is audited then is the recipe.

    Args:
        cohort: a dataset.json, a CSV file, a folder of images and labels, BIDS-like folders, or DICOM files; in Python
            also a list of cases, or a function that gives one.
        output_dir: folder of the audit, the only one that is written; run again with the same one to resume.
        bundle: the bundle's folder; by default that of the config that ``monai.bundle run`` was given.
        shadows: shadow models; by default 8, or 0 where none can be trained.
        checkpoint: weights to audit; with ``members`` by default models/model.pt of the bundle.
        members: file of case or patient ids that the checkpoint was trained on, one a line; in Python also a list.
        nonmembers: file of case or patient ids that it was not trained on.
        activation: ``softmax`` (one class a voxel), ``sigmoid`` (labels that may overlap) or ``none`` (the network
            gives probabilities itself); by default as the bundle's postprocessing says.
        seed: seed of the design, the models and the audit.
        key_file: file of the key (64 hexadecimal digits) with which the design is drawn, to repeat a study; by default
            the study draws a key of its own, and keeps it in its private folder.
        epochs: epochs of a training, of target and shadows; by default the bundle's own.
        labels: of a cohort in DICOM: integer of each segment by its name, {Liver: 1, Tumour*: 2}.
        prediction: key or number of the prediction, of a network with several outputs.
        inference: configs to query models through, relative to the bundle; by default the bundle's own.
        train: configs to train from, relative to the bundle; by default the bundle's own.
        overrides: ids and values on top of the bundle's configs, where they have them.
        attacks: the attacks; by default those that so many shadows and this release allow.
        audit: the attacks and how they are measured, instead.
        policy: YAML file of the criteria that the verdict is judged by, and of ``min_cell``, the fewest patients of a
            side that the report may tell of; by default those documented.
        skip_bad: go on without cases that cannot be used; the report counts them.
        archive: a .zip for the report, if it holds no identifier of the cohort.
        options: of :class:`~monai_mia.studies.Recording`, :class:`~monai_mia.studies.Resources` and
            :class:`~monai_mia.studies.Study`, by their names.

    Raises:
        InputError: the bundle cannot be audited so; the message says what is missing.
    """
    root = bundle_root() if bundle is None else os.fspath(bundle)
    found = inspect_bundle(root, inference, train, overrides)
    found.require()
    _check_output(Path(root), Path(output_dir))
    _warn_of_execution(root)
    recording, resources = (
        {one.name: options.pop(one.name) for one in fields(kind) if one.name in options}
        for kind in (Recording, Resources)
    )
    known_options = {one.name for one in fields(Study)} - {"recipe", "recording", "resources"}
    unknown = [name for name in options if name not in known_options]
    if unknown:
        raise InputError(
            f"options must be of an audit, its Recording, Resources or Study, got {', '.join(unknown)}. See "
            "bundles/overlays/audit/audit.yaml for their names."
        )
    released = members is not None or nonmembers is not None or checkpoint is not None
    for one, other, both in (
        ("attacks", "audit", attacks is not None and audit is not None),
        ("policy", "audit", policy is not None and audit is not None),
        ("target", "checkpoint, members and nonmembers", released and options.get("target") is not None),
        ("transform_id", "activation none", activation == "none" and recording.get("transform_id") is not None),
    ):
        if both:
            raise InputError(f"{one} must be left out with {other}, got both. Drop one of them.")
    rules = Policy() if policy is None else Policy.read(policy)
    shadows = _shadows(found, shadows, released)
    target = options.pop("target", None)
    if released:
        target = _released(found, checkpoint, members, nonmembers)
    elif isinstance(target, Recipe):
        # Epochs count for both: else target and shadows would differ in more than the target's recipe says.
        own = {} if epochs is None else {"train#trainer#max_epochs": epochs}
        target = replace(target, bundle=target.bundle or root, train_overrides={**own, **target.train_overrides})
    known, given = _activation(found, activation)
    if given and recording.get("release", "logits") == "logits":
        recording["release"] = "probabilities"
    release = recording.get("release", "logits")
    if recording.get("n_labels") is None:
        recording["n_labels"] = _labels(found, known)
    if labels is not None:
        if not isinstance(cohort, str):
            raise InputError("labels must be left out for a cohort that is no path, got both. Drop one of them.")
        cohort = partial(read_cohort, cohort, converted=StudyFolder(output_dir).dicom, labels=labels, skip_bad=skip_bad)
    asking, training = dict(found.inference_overrides), dict(found.train_overrides)
    if prediction is not None:
        asking[QUERY_OPTIONS] = {**asking.get(QUERY_OPTIONS, {}), "output": prediction}
    if given:  # what leaves the network is released as it is, or cut to a mask
        recording["transform_id"] = "mia_release"
        asking["mia_release"] = {"_target_": "Identityd", "keys": "pred"}
        if release == "mask":
            decision = {"argmax": True} if known == "softmax" else {"threshold": 0.5}
            asking["mia_release"] = {"_target_": "AsDiscreted", "keys": "pred", **decision}
    if epochs is not None:
        training["train#trainer#max_epochs"] = epochs
    recipe = Recipe(
        bundle=root,
        train=found.train_files or ("configs/train.json",),
        inference=found.inference_files,
        train_overrides=training,
        inference_overrides=asking,
    )
    return Study(
        recipe=recipe,
        cohort=cohort,
        output_dir=os.fspath(output_dir),
        audit=audit
        or Audit(
            attacks or partial(standard_attacks, release=release),
            resampling=Resampling(seed=seed),
            criteria=rules.criteria,
            disclosure=rules.disclosure,
        ),
        target=target,
        shadows=shadows,
        seed=seed,
        key_file=key_file,
        recording=Recording(activation=known, **recording),
        resources=Resources(**resources),
        skip_bad=skip_bad,
        archive=archive,
        **options,
    )


def audit_bundle(**options: Any) -> Study:
    """The study of :func:`bundle_study`, for a config: what the user must mend ends the process with one line."""
    return command(lambda: bundle_study(**options))


def _warn_of_execution(root: str) -> None:
    """Say that a bundle's configs are code, unless it is one of those that come with the package."""
    if Path(root).resolve().parent == shipped_bundles():
        return
    warnings.warn(
        f"the configs of {root!r} are executed: any '_target_' in them is called and any '$' expression is "
        f"evaluated. Only proceed if the bundle is from a source you trust (see {_ADVISORY}, and "
        f"monai-mia inspect --bundle {root}).",
        stacklevel=3,
    )


def _released(
    found: Inspection,
    checkpoint: str | None,
    members: str | Sequence[str] | None,
    nonmembers: str | Sequence[str] | None,
) -> Released:
    """The released target."""
    if members is None or nonmembers is None:
        given = {"checkpoint": checkpoint, "members": members, "nonmembers": nonmembers}
        raise InputError(
            "checkpoint, members and nonmembers must be given together for a released target, got "
            f"{', '.join(name for name, value in given.items() if value is not None)}."
        )
    if checkpoint is None and found.checkpoint is None:
        raise InputError(
            f"checkpoint must be given, got none, and there is none in {str(Path(found.root) / 'models')!r}. Give "
            "--checkpoint FILE."
        )
    return Released(checkpoint or str(Path(found.root) / str(found.checkpoint)), members, nonmembers)


def _check_output(bundle: Path, output: Path) -> None:
    if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
        raise InputError(
            f"output_dir must be outside the bundle, which stays as it is, got {str(output)!r}. Choose another "
            "--output."
        )


def _shadows(found: Inspection, shadows: int | None, released: bool) -> int:
    """How many shadows, if they can be trained."""
    if found.trains:
        return SHADOWS if shadows is None else shadows
    lacking = found.missing_for_training[0]
    if not released:
        raise InputError(
            f"bundle {found.root!r} {lacking} Without a training config only a checkpoint whose members are known can "
            "be audited: give --members FILE and --nonmembers FILE."
        )
    if shadows:
        raise InputError(f"bundle {found.root!r} {lacking} Give --shadows 0, or a config with --train.")
    logger.warning(
        "No shadows can be trained (the bundle %s) Thresholds on the target's own signals are tried, and nothing that "
        "compares with other models: leakage that is found is real; where none is found, stronger attacks may find it.",
        lacking,
    )
    return 0


def _activation(found: Inspection, given: str | None) -> tuple[Literal["softmax", "sigmoid"], bool]:
    """The activation, and whether the network has applied it itself."""
    if given not in (None, "softmax", "sigmoid", "none"):
        raise InputError(f"activation must be softmax, sigmoid or none, got {given!r}.")
    known = found.activation if given in (None, "none") else given
    if known is None and given == "none" and found.decision == "threshold":
        known = "sigmoid"
    if known is None and found.channels == 1:
        known = "sigmoid"
    if known is None and given == "none":
        known = "softmax"
    if known is None:
        raise InputError(
            f"activation must be given, since the postprocessing of {found.root!r} does not tell it, got none. Give "
            "--activation softmax (one class a voxel), sigmoid (labels that may overlap), or none (the network gives "
            "probabilities)."
        )
    return ("sigmoid" if known == "sigmoid" else "softmax"), given == "none"


def _labels(found: Inspection, activation: str) -> int:
    """The number of values that label files hold."""
    for one in found.label_transforms:
        name = str(one.get("_target_")).rpartition(".")[2]
        values = next((n for known, n in _VALUES.items() if name.startswith(known)), None)
        if values is None:
            raise InputError(
                f"n_labels must be given, since {found.root!r} changes references by {name}, got none. Give "
                "--n_labels N: label files hold integers below N."
            )
        if activation == "sigmoid":
            return values
        raise InputError(
            f"activation must be sigmoid for references with channels that {name} makes, got {activation!r}. Give "
            "--activation sigmoid."
        )
    if activation == "sigmoid":
        return 2
    if found.channels is None:
        raise InputError(
            f"n_labels must be given, since {found.root!r} does not tell its number of classes, got none. Give "
            "--n_labels N, the background included."
        )
    return found.channels
