# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The contract that is shipped: it finds each broken promise, and says which."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from monai_mia.attacks import (
    ContractError,
    DifficultyCalibration,
    Threshold,
    VoxelCalibration,
    attack_checks,
    check_attack,
    checks,
)
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError

Scores = Callable[[AdversaryView], np.ndarray]
GOOD = DifficultyCalibration("log_likelihood")
_calls = count()


@dataclass(frozen=True)
class Broken:
    """An attack that does what a function says."""

    scores: Scores
    name: str = "broken"
    signals: tuple[str, ...] = ("log_likelihood",)
    min_shadows: int = 1

    def __call__(self, view: AdversaryView) -> np.ndarray:
        return self.scores(view)


def changing(view: AdversaryView) -> np.ndarray:
    scores = GOOD(view)
    view.target[0] += 1
    return scores


def noisy(view: AdversaryView) -> np.ndarray:
    return GOOD(view) + 1e-3 * next(_calls)


def by_place(view: AdversaryView) -> np.ndarray:
    return GOOD(view) + np.linspace(0, 0.1, len(view.target)) * (np.ptp(view.target) > 0)


def of_the_first(view: AdversaryView) -> np.ndarray:
    return GOOD(replace(view, shadow=view.shadow[:1], shadow_member=view.shadow_member[:1]))


def by_whatever_there_is(view: AdversaryView) -> np.ndarray:
    """The mean of the shadows without a case, or of those with it."""
    shadow, out = view.shadow[:, :, 0], ~view.shadow_member | view.shadow_member.all(axis=0)
    return view.target[:, 0] - shadow.mean(axis=0, where=out)


def over_everything(view: AdversaryView) -> np.ndarray:
    return GOOD(replace(view, foreign=None))


BROKEN: list[tuple[str, str, Scores]] = [
    ("check_scores", "one score for each", lambda view: GOOD(view)[:-1]),
    ("check_scores", "float64", lambda view: GOOD(view).astype(np.float32)),
    ("check_scores", "finite", lambda view: GOOD(view) * np.nan),
    ("check_fewest_shadows", "tell 30 cases apart", lambda view: np.sign(GOOD(view))),
    ("check_too_few_shadows", "refuse 0 shadows", lambda view: view.target[:, 0].copy()),
    ("check_constant_signals", "equal scores", lambda view: np.arange(len(view.target), dtype=float)),
    ("check_separable_members", "perfectly", lambda view: -GOOD(view)),
    ("check_leaky_members", "higher than chance", lambda view: -GOOD(view)),
    ("check_chance", "chance", lambda view: np.where(view.nonmember, -100.0, GOOD(view))),
    ("check_sign", "lower, or higher", lambda view: np.random.default_rng(0).normal(size=len(view.target))),
    ("check_order_of_cases", "order of cases", by_place),
    ("check_order_of_shadows", "order of shadows", of_the_first),
    ("check_foreign_cases", "foreign cases", over_everything),
    ("check_inputs", "leave view.target", changing),
    ("check_inputs", "no part of view.target", lambda view: view.target[:, 0]),
    ("check_repetition", "same scores again", noisy),
    ("check_cases_in_every_shadow", "trained on as it scores", by_whatever_there_is),
    ("check_equal_shadows", "finite scores where the shadows", lambda view: GOOD(view) / view.shadow_member.any()),
    ("check_unknown_signal", "refuse another signal", lambda view: view.target[:, 0].copy()),
    ("check_needs", "not read features", lambda view: GOOD(view) + (view.features is None)),
]  # fmt: skip


@pytest.mark.parametrize(("check", "promise", "scores"), BROKEN, ids=[f"{name}: {what}" for name, what, _ in BROKEN])
def test_a_broken_promise_is_found_and_named(check: str, promise: str, scores: Scores) -> None:
    with pytest.raises(ContractError, match="attack 'broken' must") as error, np.errstate(all="ignore"):
        getattr(checks, check)(Broken(scores))
    assert promise in str(error.value)
    assert isinstance(error.value, AssertionError)


def test_what_is_no_attack_is_named() -> None:
    with pytest.raises(ContractError, match="must have name, signals, min_shadows and __call__, got function"):
        check_attack(lambda view: view)  # type: ignore[arg-type]
    for wrong, told in (
        ({"name": "a\nb"}, "one line"),
        ({"signals": ["a"]}, "tuple"),
        ({"min_shadows": -1}, "least 0"),
    ):
        with pytest.raises(ContractError, match=told):
            check_attack(Broken(GOOD, **wrong))


def test_declared_offsets_are_checked() -> None:
    @dataclass(frozen=True)
    class Claims(Broken):
        remove_offsets: bool = True

    with pytest.raises(ContractError, match="how well a whole model fits"):
        checks.check_offsets(Claims(DifficultyCalibration("log_likelihood", remove_offsets=False)))
    with pytest.raises(ContractError, match="remove_offsets is False"):
        checks.check_offsets(Claims(GOOD, remove_offsets=False))


def test_a_good_attack_passes_and_one_on_maps_is_refused() -> None:
    check_attack(GOOD)
    check_attack(Threshold("whatever"))
    with pytest.raises(InputError, match="must read signals alone to be checked, got 'voxelwise: error_recovered'"):
        check_attack(VoxelCalibration())


def test_every_check_of_the_module_is_carried_out() -> None:
    tree = ast.parse(Path(checks.__file__).read_text())
    named = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")]
    assert {check.__name__ for check in attack_checks()} == {*named} - {"check_attack"}
