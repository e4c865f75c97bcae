# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_mia``: audit any bundle, see what it would run, and what needs no config of its own."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from monai_mia import __version__
from monai_mia.audit.disclosure import card
from monai_mia.errors import InputError


def bundles_folder() -> Path:
    """The shipped bundles: beside the modules in an installed wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "bundles" if (package / "bundles").is_dir() else package.parent / "bundles"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    given = _parser().parse_args(arguments)
    try:
        if hasattr(given, "run"):
            given.run(given)
            return
        {
            "audit": _audit,
            "inspect": _inspect,
            "report": _report,
            "bundles": _bundles,
            "overlays": _overlays,
        }[given.command](given)
    except InputError as error:
        raise SystemExit(f"monai_mia: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monai_mia", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    audit = commands.add_parser("audit", help="audit any bundle, which stays as it is; run it again to resume")
    inspect = commands.add_parser("inspect", help="what of a bundle can be audited, and what it would execute")
    for command in (audit, inspect):
        command.add_argument("--bundle", required=True, help="the bundle's folder")
        command.add_argument("--config", nargs="+", help="configs to ask models through, relative to the bundle")
        command.add_argument("--train_config", nargs="+", help="configs to train from, relative to the bundle")
        command.add_argument(
            "--set", action="append", default=[], metavar="ID=VALUE", help="override an id of the configs; YAML value"
        )
    audit.add_argument(
        "--cohort",
        required=True,
        help="a dataset.json, a CSV file, a folder of images and labels, BIDS-like folders, or DICOM files",
    )
    audit.add_argument("--output", required=True, help="folder of the audit, the only one that is written")
    audit.add_argument("--shadows", type=int, help="shadow models; by default 8, or 0 where none can be trained")
    audit.add_argument("--checkpoint", help="weights to audit; with --members by default models/model.pt of the bundle")
    audit.add_argument("--members", help="file of case or patient ids that the checkpoint was trained on, one a line")
    audit.add_argument("--nonmembers", help="file of case or patient ids that it was not trained on")
    audit.add_argument("--activation", choices=("softmax", "sigmoid", "none"), help="by default as the bundle says")
    audit.add_argument("--release", choices=("logits", "probabilities", "mask"), default="logits")
    audit.add_argument("--n_labels", type=int, help="label files hold integers below it; by default as the bundle says")
    audit.add_argument(
        "--labels", metavar="MAPPING", help="of DICOM: integer of each segment by its name, {Liver: 1, Tumour*: 2}"
    )
    audit.add_argument("--prediction", help="key or number of the prediction, of a network with several outputs")
    audit.add_argument("--epochs", type=int, help="epochs of a training; by default the bundle's own")
    audit.add_argument(
        "--skip_bad", action="store_true", help="go on without cases that cannot be used; the report counts them"
    )
    audit.add_argument(
        "--archive", metavar="FILE", help="a .zip for the report, if it holds no identifier of the cohort"
    )
    audit.add_argument("--seed", type=int, default=0)
    audit.add_argument("--n_jobs", type=int, help="processes; by default one a core, or one where there is a GPU")
    audit.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    report = commands.add_parser(
        "report", help="attack again what an audit recorded, by the standard attacks, and report; no model is run"
    )
    report.add_argument("--output", required=True, help="folder of the audit")
    report.add_argument("--seed", type=int, help="seed of resamples; by default the audit's")
    commands.add_parser("bundles", help="print the folders of the bundles that come with the package")
    commands.add_parser("overlays", help="print the folder of the overlays that change a bundle, such as defences")
    card.add_commands(commands)
    return parser


def _yaml(option: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--{option} must have a value in YAML, got {value!r}.") from error


def _overrides(pairs: list[str]) -> dict[str, Any]:
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set must be ID=VALUE, got {pair!r}.")
        overrides[name.replace("::", "#")] = _yaml("set", value)
    return overrides


def _audit(given: argparse.Namespace) -> None:
    from monai_mia.studies.bundle import bundle_study

    logging.basicConfig(level=logging.WARNING, format="monai_mia: %(message)s")
    prediction = given.prediction
    if prediction is not None and prediction.lstrip("-").isdigit():
        prediction = int(prediction)
    study = bundle_study(
        given.bundle,
        given.cohort,
        given.output,
        shadows=given.shadows,
        checkpoint=given.checkpoint,
        members=given.members,
        nonmembers=given.nonmembers,
        activation=given.activation,
        release=given.release,
        seed=given.seed,
        epochs=given.epochs,
        n_labels=given.n_labels,
        labels=None if given.labels is None else _yaml("labels", given.labels),
        prediction=prediction,
        config=given.config,
        train_config=given.train_config,
        overrides=_overrides(given.set),
        n_jobs=given.n_jobs,
        threads=given.threads,
        skip_bad=given.skip_bad,
        archive=given.archive,
    )
    study.main()


def _inspect(given: argparse.Namespace) -> None:
    from monai_mia.bundle.inspection import inspect_bundle

    print(inspect_bundle(given.bundle, given.config, given.train_config, _overrides(given.set)).text())


def _report(given: argparse.Namespace) -> None:
    from monai_mia.audit.report.rescoring import rescore

    print(rescore(given.output, seed=given.seed))
    print(f"Report: {Path(given.output) / 'report' / 'index.html'}")


def _bundles(_: argparse.Namespace) -> None:
    for folder in sorted(bundles_folder().iterdir()):
        if (folder / "configs").is_dir():
            print(folder)


def _overlays(_: argparse.Namespace) -> None:
    print(bundles_folder() / "overlays")


if __name__ == "__main__":
    main()
