# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The one overlay that audits any bundle: made from the options' own texts, and every way to an audit is the same."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLES, KEY_FILE, PHANTOM, bundle_here
from docstring_parser import parse

from monai_mia.__main__ import main
from monai_mia.studies import Recording, Resources, bundle_study

OVERLAY = BUNDLES / "overlays" / "audit" / "audit.yaml"
HEAD = """\
# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
#
# Overlay that turns any bundle's config into an audit of the bundle, which stays as it is:
#
# python -m monai.bundle run --config_file "['DIR/configs/inference.json', '<overlays>/audit/audit.yaml']" \\
#     --cohort cohort.csv --audit_dir OUT
#
# The bundle's config comes first: its folder is the bundle. The same from the command line:
# monai-mia audit --bundle DIR --cohort cohort.csv --output OUT
#
# Written by tests/bundle/test_overlay.py from the texts of monai_mia.studies.bundle_study, Recording and Resources.
"""
#: Objects, which a config gives by a component of its own; and what the first config tells.
NOT_HERE = {"bundle", "attacks", "audit", "options", "signals", "transform_id"}


#: Ids that bundles have themselves, as other things.
RENAMED = {"output_dir": "audit_dir", "train": "train_configs", "inference": "inference_configs"}


def options() -> dict[str, tuple[object, str]]:
    """Every option with its default and its text."""
    found = {}
    for source in (bundle_study, Recording, Resources):
        texts = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(source) or "").params}
        if inspect.isclass(source):
            defaults = {one.name: None if one.default is MISSING else one.default for one in fields(source)}
        else:
            given = inspect.signature(source).parameters
            defaults = {n: None if p.default is inspect.Parameter.empty else p.default for n, p in given.items()}
        for name, default in defaults.items():
            if name not in NOT_HERE and name not in found:
                found[name] = default, re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", texts[name]).replace("``", "")
    return found


def overlay() -> str:
    """The overlay as it has to be."""
    lines, passed = [], []
    for name, (default, text) in options().items():
        key = RENAMED.get(name, name)
        value = "{}" if name == "overrides" else json.dumps(default)
        comment = " ".join(text.split())
        line = f"{key}: {value}  # {comment}"
        if len(line) > 120:
            words, rows = comment.split(), ["#"]
            for word in words:
                if len(rows[-1]) + len(word) >= 119:
                    rows.append("#")
                rows[-1] += f" {word}"
            line = "\n".join([*rows, f"{key}: {value}"])
        lines.append(line)
        passed.append(f'  {name}: "@{key}"')
    study = ["audit_study:", "  _target_: monai_mia.studies.audit_bundle", *passed]
    run = ["initialize: []", 'run: ["$@audit_study.main()"]', "finalize: []"]
    return "\n".join([HEAD, *lines, "", *study, "", *run, ""])


def test_it_is_made_from_the_options() -> None:
    if OVERLAY.read_text() != overlay():
        OVERLAY.write_text(overlay())
        pytest.fail(f"{OVERLAY.name} did not say what the options say; it was written again: look at it and commit it.")
    assert yaml.safe_load(OVERLAY.read_text())["shadows"] is None


def test_every_way_to_an_audit_gives_the_same_table(cohort: list[dict[str, object]], tmp_path: Path) -> None:
    """The bundle's own config, the overlay and the command line."""
    listed = tmp_path / "cohort.csv"
    rows = [["case_id", "patient_id", "image", "label"]]
    rows += [[str(case[key]) for key in rows[0]] for case in cohort]
    listed.write_text("\n".join(",".join(row) for row in rows) + "\n")
    few = {"--shadows": "2", "--epochs": "1", "--n_jobs": "1", "--key_file": str(KEY_FILE)}
    words = [word for pair in few.items() for word in pair]
    main(["audit", "--bundle", str(PHANTOM), "--cohort", str(listed), "--output", str(tmp_path / "command"), *words])
    bundle_here(
        "run", "--config_file", f"['{PHANTOM / 'configs/inference.json'}', '{OVERLAY}']",
        "--cohort", str(listed), "--audit_dir", str(tmp_path / "overlay"), *words,
    )  # fmt: skip
    bundle_here(
        "run", "--config_file", str(PHANTOM / "configs/audit.yaml"), "--cohort", str(listed),
        "--output_dir", str(tmp_path / "own"), "--shadows", "2", "--n_jobs", "1", "--study#epochs", "1",
        "--key_file", str(KEY_FILE),
    )  # fmt: skip
    for name in ("target", "shadow_00", "shadow_01"):
        tables = [
            (tmp_path / way / f"private/signals/{name}.csv").read_bytes() for way in ("command", "overlay", "own")
        ]
        assert tables[0] == tables[1] == tables[2]
