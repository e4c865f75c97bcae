# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A study of any bundle, which stays as it is: run by ``python -m monai_mia audit`` and the overlay ``audit.yaml``."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from monai_mia.attacks import standard_attacks
from monai_mia.audit.audit import Audit
from monai_mia.bundle.config import QUERY_OPTIONS
from monai_mia.bundle.inspection import Inspection, inspect_bundle
from monai_mia.data import read_cohort
from monai_mia.errors import InputError
from monai_mia.records.design import Case
from monai_mia.records.folder import StudyFolder
from monai_mia.statistics import Resampling
from monai_mia.studies.study import Study

__all__ = [
    "bundle_study",
]

logger = logging.getLogger(__name__)

#: Shadows of an audit that says no number, where they can be trained.
SHADOWS = 8

#: Values that references of known conversions hold.
_VALUES = {"ConvertToMultiChannelBasedOnBratsClasses": 5}

_ADVISORY = "https://github.com/Project-MONAI/MONAI/security/advisories/GHSA-873f-pvrv-4x83"


def bundle_study(
    bundle: str | os.PathLike[str],
    cohort: str | Sequence[Case] | Callable[[], Sequence[Case]],
    output_dir: str | os.PathLike[str],
    *,
    shadows: int | None = None,
    checkpoint: str | None = None,
    members: str | Sequence[str] | None = None,
    nonmembers: str | Sequence[str] | None = None,
    activation: Literal["softmax", "sigmoid", "none"] | None = None,
    release: Literal["logits", "probabilities", "mask"] = "logits",
    seed: int = 0,
    epochs: int | None = None,
    n_labels: int | None = None,
    labels: Mapping[str, int] | None = None,
    prediction: str | int | None = None,
    config: Sequence[str] | None = None,
    train_config: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    audit: Audit | None = None,
    **options: Any,
) -> Study:
    """A study of a bundle, from its own configs.

    With ``members`` and ``nonmembers`` its checkpoint is audited. Without them, a target is trained as the shadows are,
    from the bundle's training config: what is audited then is the recipe.

    Args:
        bundle: the bundle's folder.
        cohort: what :func:`~monai_mia.data.read_cohort` reads, a list of cases, or a function that gives one.
        output_dir: the only folder that is written.
        shadows: number of shadows; by default 8, or 0 where none can be trained.
        checkpoint: weights of the released target; by default those in the bundle's ``models``.
        members: case or patient ids it was trained on, as a list or a text file.
        nonmembers: case or patient ids it was not trained on.
        activation: ``softmax`` or ``sigmoid``; by default as the bundle's postprocessing says. ``none``: the network
            gives probabilities itself.
        release: what leaves the model.
        seed: seed of the design, the models and the audit.
        epochs: epochs of a training, instead of the bundle's own.
        n_labels: label files hold integers in [0, n_labels); by default as the bundle's channels say.
        labels: of a cohort in DICOM: integer of each segment by its name, as :func:`~monai_mia.data.dicom_cohort` takes
            it.
        prediction: key or number of the prediction, for a network with several outputs.
        config: configs to ask models through, relative to the bundle.
        train_config: configs to train from.
        overrides: ids and values on top of both, where they have them.
        audit: the attacks and how they are measured; by default those that so many shadows allow.
        options: of :class:`~monai_mia.studies.Study`.

    Raises:
        InputError: the bundle cannot be audited so; the message says what is missing.
    """
    found = inspect_bundle(bundle, config, train_config, overrides)
    found.require()
    _check_output(Path(bundle), Path(output_dir))
    warnings.warn(
        f"the configs of {str(bundle)!r} are executed: any '_target_' in them is called and any '$' expression is "
        f"evaluated. Only proceed if the bundle is from a source you trust (see {_ADVISORY}, and "
        f"python -m monai_mia inspect --bundle {bundle}).",
        stacklevel=2,
    )
    released = members is not None or nonmembers is not None or checkpoint is not None
    shadows = _shadows(found, shadows, released)
    if released and checkpoint is None:
        if found.checkpoint is None:
            raise InputError(
                f"checkpoint must be given, got none, and there is none in {str(Path(bundle) / 'models')!r}. Give "
                "--checkpoint FILE."
            )
        checkpoint = str(Path(bundle) / found.checkpoint)
    known, given = _activation(found, activation)
    if given and release == "logits":
        release = "probabilities"
    if n_labels is None:
        n_labels = _labels(found, known)
    if labels is not None:
        if not isinstance(cohort, str):
            raise InputError("labels must be left out for a cohort that is no path, got both. Drop one of them.")
        converted, skip_bad = StudyFolder(output_dir).dicom, options.get("skip_bad", False)
        cohort = partial(read_cohort, cohort, converted=converted, labels=labels, skip_bad=skip_bad)
    asking, training = dict(found.inference_overrides), dict(found.train_overrides)
    if prediction is not None:
        asking[QUERY_OPTIONS] = {**asking.get(QUERY_OPTIONS, {}), "output": prediction}
    transform_id = None
    if given:  # what leaves the network is released as it is, or cut to a mask
        transform_id = "mia_release"
        asking[transform_id] = {"_target_": "Identityd", "keys": "pred"}
        if release == "mask":
            decision = {"argmax": True} if known == "softmax" else {"threshold": 0.5}
            asking[transform_id] = {"_target_": "AsDiscreted", "keys": "pred", **decision}
    if epochs is not None:
        training["train#trainer#max_epochs"] = epochs
    return Study(
        bundle_root=str(bundle),
        cohort=cohort,
        output_dir=str(output_dir),
        audit=audit or Audit(partial(standard_attacks, release=release), resampling=Resampling(seed=seed)),
        shadows=shadows,
        seed=seed,
        checkpoint=checkpoint,
        members=members,
        nonmembers=nonmembers,
        train_files=found.train_files or ("configs/train.json",),
        inference_files=found.inference_files,
        train_overrides=training,
        inference_overrides=asking,
        release=release,
        activation=known,
        transform_id=transform_id,
        n_labels=n_labels,
        **options,
    )


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
        raise InputError(f"bundle {found.root!r} {lacking} Give --shadows 0, or a config with --train_config.")
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
