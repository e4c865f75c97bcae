# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of a study: each reaches what it is about, and what cannot be is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import PHANTOM

from monai_mia.errors import InputError
from monai_mia.studies import Recipe, Recording, Released, Resources, bundle_study
from monai_mia.studies.bundle import audit_bundle


def study(tmp_path: Path, **options: Any) -> Any:
    return bundle_study([], tmp_path / "out", PHANTOM, **options)


def test_options_go_by_their_own_names_to_whichever_part_has_them(tmp_path: Path) -> None:
    made = study(tmp_path, maps=True, slabs=False, n_jobs=3, wait=True, held_out=0.2, targets=2)
    assert made.recording == Recording(maps=True, slabs=False, n_labels=3)
    assert made.resources == Resources(n_jobs=3, wait=True)
    assert (made.held_out, made.targets, made.shadows) == (0.2, 2, 8)
    assert made.recipe.root == str(PHANTOM)


def test_epochs_are_those_of_target_and_shadows(tmp_path: Path) -> None:
    """Else their trainings would differ in more than the target's recipe says."""
    key = "train#trainer#max_epochs"
    other = Recipe(str(PHANTOM), train=("configs/train.json", "configs/poison.yaml"))
    made = study(tmp_path, epochs=3, target=other)
    assert made.recipe.train_overrides[key] == made.target.train_overrides[key] == 3
    own = Recipe(str(PHANTOM), train_overrides={key: 5})
    assert study(tmp_path, epochs=3, target=own).target.train_overrides[key] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "options must be of an audit, its Recording, Resources or Study, got epoch"),
        ({"members": ["a"]}, "checkpoint, members and nonmembers must be given together"),
        ({"members": ["a"], "nonmembers": ["b"]}, "checkpoint must be given, got none, and there is none in"),
        (
            {"checkpoint": "x.pt", "members": ["a"], "nonmembers": ["b"], "target": Released("y.pt", ["a"], ["b"])},
            "target must be left out with checkpoint",
        ),
        ({"labels": {"a": 1}}, "labels must be left out for a cohort that is no path"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        study(tmp_path, **options)
    assert "\n" not in str(refusal.value)
    with pytest.raises(SystemExit, match=message):  # in a config: no traceback of MONAI's
        audit_bundle(cohort=[], output_dir=tmp_path / "out", bundle=PHANTOM, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"n_jobs": 0}, {"threads": "two"}, {"checkpoint_interval": -1}])
def test_resources_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} must be a whole number, at least 1"):
        Resources(**options).check()


def test_what_an_audit_writes_into_the_metadata_changes_no_training(tmp_path: Path) -> None:
    """``card --write`` puts the result of a finished study there, and the study must go on afterwards."""
    bundle = tmp_path / "bundle"
    shutil.copytree(PHANTOM, bundle)
    recipe = Recipe(str(bundle))
    before = recipe.training().fingerprint()
    path = bundle / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "privacy": {"recommendation": "reject"}}))
    assert recipe.training().fingerprint() == before
    path.write_text(json.dumps({**metadata, "version": "another"}))
    assert recipe.training().fingerprint() != before
