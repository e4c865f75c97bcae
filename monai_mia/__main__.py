# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""``monai-mia``, or ``python -m monai_mia``: audit any bundle, see what it would run, and what needs no config.

A command imports what it needs when it is chosen: ``report``, ``compare``, ``archive``, ``card``, ``doctor`` and
``verify`` load neither torch nor monai.
"""

from __future__ import annotations

import argparse
import collections.abc
import inspect
import logging
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from docstring_parser import parse

from monai_mia import __version__
from monai_mia.errors import InputError, one_line
from monai_mia.records.files import shipped_bundles


class _Command(NamedTuple):
    """A command: what it is for, its options, and what it does with them."""

    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="monai-mia", description="Membership inference audits of MONAI bundles.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, command in _COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen:  # the options of the others are not needed, and what tells them may be heavy
            command.options(one)
    given = parser.parse_args(words)
    with one_line():
        _COMMANDS[given.command].run(given)


def _yaml(option: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--{option} must have a value in YAML, got {value!r}.") from error


def add_options(parser: argparse.ArgumentParser, source: Callable[..., Any], skip: set[str]) -> None:
    """Add an option for each parameter of a function or field of a dataclass, with its type and its text."""
    texts = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(source) or "").params}
    hints = typing.get_type_hints(source.__init__ if inspect.isclass(source) else source)
    for name, parameter in inspect.signature(source).parameters.items():
        if name in skip or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        required = parameter.default is inspect.Parameter.empty
        text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", texts[name]).replace("``", "").replace("\n", " ")
        how = _kind(name, hints[name])
        if how.get("action") != "store_true":
            how |= {"required": required, "default": None if required else parameter.default}
        parser.add_argument(f"--{name}", help=text.replace("%", "%%"), **how)


def _kind(name: str, hint: Any) -> dict[str, Any]:
    """How argparse reads a value of that type; text where it may be more than one thing."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [one for one in members if one is not type(None)]
    first, origin = kinds[0], typing.get_origin(kinds[0])
    if first is bool:
        return {"action": "store_true"} if len(members) == 1 else {"type": _switch, "metavar": "{true,false}"}
    if origin is typing.Literal:
        return {"choices": typing.get_args(first)}
    if first in (int, float):
        several = any(typing.get_origin(one) is collections.abc.Sequence for one in kinds)
        return {"type": first, "metavar": "N", **({"nargs": "+"} if several else {})}
    if origin is collections.abc.Sequence:
        return {"nargs": "+", "metavar": "FILE"}
    if origin is collections.abc.Mapping:
        return {"type": lambda value: _yaml(name, value), "metavar": "MAPPING"}
    return {"metavar": name.upper()}


def _switch(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {value!r}")
    return value.lower() == "true"


def _bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, help="the bundle's folder")
    parser.add_argument("--inference", nargs="+", help="configs to query models through, relative to the bundle")
    parser.add_argument("--train", nargs="+", help="configs to train from, relative to the bundle")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="override an id of the configs; YAML value"
    )


def _overrides(pairs: list[str]) -> dict[str, Any]:
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set must be ID=VALUE, got {pair!r}.")
        overrides[name.replace("::", "#")] = _yaml("set", value)
    return overrides


def _audit_options(parser: argparse.ArgumentParser) -> None:
    from monai_mia.studies import Recording, Resources, bundle_study

    _bundle_options(parser)
    parser.add_argument("--output", required=True, help="folder of the audit, the only one that is written")
    others = {"bundle", "output_dir", "inference", "train", "overrides", "attacks", "audit", "options"}
    add_options(parser, bundle_study, others)
    add_options(parser, Recording, {"activation", "signals", "transform_id"})
    add_options(parser, Resources, set())


def _audit(given: argparse.Namespace) -> None:
    from monai_mia.studies import bundle_study

    logging.basicConfig(level=logging.WARNING, format="monai_mia: %(message)s")
    options = vars(given)
    options.pop("command")
    overrides, prediction = _overrides(options.pop("set")), options.pop("prediction")
    if prediction is not None and prediction.lstrip("-").isdigit():
        prediction = int(prediction)
    bundle_study(output_dir=options.pop("output"), overrides=overrides, prediction=prediction, **options).main()


def _inspect(given: argparse.Namespace) -> None:
    from monai_mia.bundle.inspection import inspect_bundle

    with warnings.catch_warnings():  # MONAI's hold names that are in the bundle
        warnings.simplefilter("ignore")
        print(inspect_bundle(given.bundle, given.inference, given.train, _overrides(given.set)).text())


def _output_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="OUT", help="folder of the study")


def _wait_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for another run in the same folder")


def _report_options(parser: argparse.ArgumentParser) -> None:
    _output_option(parser)
    parser.add_argument("--seed", type=int, help="seed of resamples; by default the audit's")
    parser.add_argument("--policy", metavar="POLICY.yaml", help="criteria, and min_cell; by default the audit's")
    _wait_option(parser)


def _report(given: argparse.Namespace) -> None:
    from monai_mia.audit.disclosure.policy import Policy
    from monai_mia.audit.report.rescoring import rescore
    from monai_mia.records import StudyFolder

    policy = None if given.policy is None else Policy.read(given.policy)
    result = rescore(given.output, seed=given.seed, wait=given.wait, policy=policy)
    about = StudyFolder(given.output).about()
    privacy, assumed = about.get("target", {}).get("privacy"), about.get("design", {}).get("n_assumed", 0)
    print(result.text(privacy=privacy, assumed=assumed))
    print(f"Report: {StudyFolder(given.output).report / 'index.html'}")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    _output_option(parser)
    parser.add_argument(
        "--shadows", type=int, nargs="+", metavar="N", help="numbers of shadows; by default 1, 4, 16, ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of resamples and folds")
    parser.add_argument("--policy", metavar="POLICY.yaml", help="a file with min_cell; by default 10")
    _wait_option(parser)


def _compare(given: argparse.Namespace) -> None:
    from monai_mia.attacks import EverySignal, published_attacks
    from monai_mia.audit import report
    from monai_mia.audit.comparison import Comparison
    from monai_mia.audit.disclosure.policy import Policy
    from monai_mia.records import StudyFolder
    from monai_mia.statistics import Resampling

    policy = Policy() if given.policy is None else Policy.read(given.policy)
    folder = StudyFolder(given.output)
    recorded = folder.recorded()
    n_shadow = len(recorded.design.shadows)
    budgets = given.shadows or [4**k for k in range(10) if 4**k <= n_shadow]
    listed = {budget: published_attacks(budget) for budget in budgets}

    def is_recorded(attack: Any) -> bool:
        return isinstance(attack, EverySignal) or set(attack.signals) <= set(recorded.table.signals)

    lacking = sorted({attack.name for attacks in listed.values() for attack in attacks if not is_recorded(attack)})
    if lacking:
        print(f"Left out, since the study did not record what they read: {', '.join(lacking)}.")
    comparison = Comparison(
        lambda budget: [attack for attack in listed[budget] if is_recorded(attack)],
        budgets=budgets,
        resampling=Resampling(n_resamples=1000, seed=given.seed),
    )
    with folder.lock(given.wait):
        result = comparison.score(recorded)
        with folder.reporting():
            report.write_comparison(result, comparison, folder.report, policy.disclosure)
    print(f"Comparison: {folder.report / 'comparison.md'} ({len(result.rows)} rows)")


def _archive_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="OUT", help="folder of the study")
    what.add_argument("--check", metavar="FILE", help="an archive to check against its manifest")
    parser.add_argument("--archive", metavar="FILE", help="the .zip to write; by default OUT/report.zip")
    parser.add_argument("--sign", metavar="KEY.pem", help="private Ed25519 key of who vouches for the archive")
    parser.add_argument(
        "--allow", metavar="WORD", nargs="*", default=[], help="words that may appear though the cohort has them"
    )


def _archive(given: argparse.Namespace) -> None:
    from monai_mia.audit.disclosure import check_archive, write_archive

    def tell_allowed(manifest: Mapping[str, Any]) -> None:
        allowed = manifest.get("searched", {}).get("allowed", 0)
        if allowed:
            print(f"{allowed} values were not searched for, since the user who packed it allowed them (--allow).")

    if given.check is not None:
        manifest = check_archive(given.check)
        print(f"{given.check}: {len(manifest['files'])} files, as in its manifest")
        tell_allowed(manifest)
        return
    path = given.archive or f"{given.output}/report.zip"
    manifest = write_archive(given.output, path, given.allow, given.sign)
    searched = manifest["searched"]
    print(f"Searched for {searched['values']} ids, paths and header values: none is in the report.")
    if searched["too_short"]:
        print(f"{searched['too_short']} values are too short to be told from other text, and were not searched for.")
    tell_allowed(manifest)
    print(f"Archive: {path}")


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="FILE.zip", help="the archive that was handed over")
    parser.add_argument("--policy", metavar="POLICY.yaml", help="your thresholds: any of the criteria, and min_cell")
    parser.add_argument("--model", metavar="model.pt", help="the weights that are to be released")
    parser.add_argument("--signer", metavar="KEY.pem", help="public Ed25519 key of who must have signed it")


def _check(given: argparse.Namespace) -> None:
    from monai_mia.audit.disclosure.checking import check_shared
    from monai_mia.audit.disclosure.policy import Policy

    policy = Policy() if given.policy is None else Policy.read(given.policy)
    found = check_shared(given.archive, policy, given.model, given.signer)
    design, told = found.content.get("design", {}), found.content["disclosure"]["min_cell"]
    print(
        f"{given.archive}: {len(found.manifest['files'])} files, as in its manifest; pages say what report.json says."
    )
    print("Of index.html the verdict and the AUCs were compared, not each sentence and picture.")
    print("Whether the numbers were measured cannot be seen from them.")
    print(
        f"A {design.get('kind', 'design of unknown')} design, {design.get('n_member')} member and "
        f"{design.get('n_nonmember')} non-member patients; nothing is told of fewer than {told} of a side."
    )
    if given.model is not None:
        print("It is about these weights.")
    if found.fingerprint is None:
        print("It is not signed.")
    elif found.signed:
        print("It is signed by the holder of the key that was given.")
    else:
        print(f"It is signed, by a key with SHA-256 {found.fingerprint}; give it (--signer) to check that.")
    for statement in found.verdict.statements:
        print(f"  {statement.outcome:13}{statement.text} {statement.measured} (threshold: {statement.threshold})")
    whose = "your policy" if given.policy is not None else "the documented thresholds"
    print(f"By {whose}: {found.verdict.level}; {found.verdict.recommendation}. {found.verdict.text}")
    if (found.own.level, found.own.recommendation) != (found.verdict.level, found.verdict.recommendation):
        print(f"By the thresholds that it was made with: {found.own.level}; {found.own.recommendation}.")


def _card_options(parser: argparse.ArgumentParser) -> None:
    _output_option(parser)
    parser.add_argument("--bundle", metavar="DIR", help="a bundle for configs/metadata.json and docs/README.md")
    parser.add_argument("--write", action="store_true", help="write into the bundle; without, nothing is changed")


def _card(given: argparse.Namespace) -> None:
    from monai_mia.audit.disclosure.card import read_card, write_card

    if given.write and given.bundle is None:
        raise InputError("bundle must be given to write into it, got --write alone. Add --bundle DIR.")
    if given.bundle is None:
        print(read_card(given.output))
        return
    paths = write_card(given.output, given.bundle, given.write)
    verb = "Written" if given.write else "Would be written, with --write"
    print("\n".join(f"{verb}: {path}" for path in paths))


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    _output_option(parser)
    parser.add_argument("--images", action="store_true", help="read the cohort's images too: are they those of then?")


def _doctor(given: argparse.Namespace) -> None:
    from monai_mia.records.integrity import examine

    examination = examine(given.output, given.images)
    print(examination.text())
    if not examination.whole:
        raise SystemExit(1)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", required=True, metavar="FILE", help="report.json, as it was filed")
    parser.add_argument("--design", required=True, metavar="FILE", help="design.csv, which its owner shows")
    parser.add_argument("--key", required=True, metavar="FILE", help="design.key, which its owner shows")


def _verify(given: argparse.Namespace) -> None:
    from monai_mia.records.design import Design, check_commitment, check_drawn
    from monai_mia.records.files import read_json
    from monai_mia.records.keys import read_key

    said = read_json(given.report).get("design", {}).get("commitment")
    if said is None:
        raise InputError(f"report must hold design.commitment, got none in {given.report!r}. Give its report.json.")
    design, key = Design.read(given.design), read_key(given.key)
    check_commitment(said, design, key)
    print("The report is committed to this key and to these members of the target.")
    if read_json(Path(given.design).with_suffix(".json")).get("canaries"):
        print("It has canaries, of whom a recorded design does not tell: that coins dealt the sides is not checked.")
        return
    check_drawn(design, key)
    print(f"Who is a member of what, in {len(design.member)} models, follows from seed {design.seed} and the key.")


def _bundles(_: argparse.Namespace) -> None:
    for folder in sorted(shipped_bundles().iterdir()):
        if (folder / "configs").is_dir():
            print(folder)


def _overlays(_: argparse.Namespace) -> None:
    print(shipped_bundles() / "overlays")


def _no_options(_: argparse.ArgumentParser) -> None:
    pass


_COMMANDS = {
    "audit": _Command("audit any bundle, which stays as it is; run it again to resume", _audit_options, _audit),
    "inspect": _Command("what of a bundle can be audited, and what it would execute", _bundle_options, _inspect),
    "report": _Command(
        "attack again what an audit recorded, by the standard attacks, and report; no model is run",
        _report_options,
        _report,
    ),
    "compare": _Command(
        "compare the attacks on what a study of several targets recorded; no model is run", _compare_options, _compare
    ),
    "archive": _Command(
        "pack the report of a study, after a search for everything that names a patient; or check such a pack",
        _archive_options,
        _archive,
    ),
    "check": _Command(
        "check an archive that was handed over, and judge its report by your own policy", _check_options, _check
    ),
    "card": _Command("print the privacy section of a model card, or put it into a bundle", _card_options, _card),
    "doctor": _Command(
        "say of each file of a study whether it is whole, stale or torn; exit status 0 if all are whole",
        _doctor_options,
        _doctor,
    ),
    "verify": _Command(
        "check the key and the design that an owner shows against the commitment in a report", _verify_options, _verify
    ),
    "bundles": _Command("print the folders of the bundles that come with the package", _no_options, _bundles),
    "overlays": _Command(
        "print the folder of the overlays that change a bundle, such as defences", _no_options, _overlays
    ),
}


if __name__ == "__main__":
    main()
