# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What every attack promises, checked on simulated games, as scikit-learn's ``check_estimator`` does for estimators.

A game is ``signal = difficulty of the case + delta * (trained on it) + noise``, for a target and shadows in
complementary pairs. Where many cases are played, an AUC must be four standard errors beyond chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, Attack
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream

__all__ = ["ContractError", "attack_checks", "check_attack"]

Check = Callable[[Attack], None]
Members = NDArray[np.bool_]

#: Signals of a game whose attack reads none.
_SIGNALS = ("log_likelihood",)


class ContractError(AssertionError):
    """An attack breaks what every attack promises; the message says which promise, and what was found."""


def check_attack(attack: Attack) -> None:
    """Check an attack against what every attack promises; nothing is returned if it keeps all of it.

    The attack is run on simulated games. Signals are any real numbers, as log-likelihoods are: to check an attack that
    takes other signals for probabilities, give it one whose name begins with ``log_likelihood``. Optional attributes
    are believed and checked: ``needs_features``, ``needs_nonmembers``, ``remove_offsets`` (False: a whole model's
    offset matters) and ``pooled`` (False: of the shadows only the first is read).

    Args:
        attack: the attack, with the options that it is to be checked with.

    Raises:
        ContractError: a promise is broken.
        InputError: the attack reads recorded maps, which no game has.

    Example:
        >>> from monai_mia.attacks import LiRA
        >>> check_attack(LiRA())
    """
    for check in attack_checks():
        check(attack)


def attack_checks() -> tuple[Check, ...]:
    """Return the checks of :func:`check_attack`, each a function of an attack, named ``check_...``.

    Example:
        A test for each in pytest::

            @pytest.mark.parametrize("check", attack_checks(), ids=lambda check: check.__name__)
            def test_contract(check):
                check(MyAttack())
    """
    return (
        check_attributes,
        check_scores,
        check_fewest_shadows,
        check_too_few_shadows,
        check_constant_signals,
        check_separable_members,
        check_leaky_members,
        check_chance,
        check_sign,
        check_order_of_cases,
        check_order_of_shadows,
        check_foreign_cases,
        check_inputs,
        check_repetition,
        check_offsets,
        check_cases_in_every_shadow,
        check_equal_shadows,
        check_unknown_signal,
        check_needs,
    )


def check_attributes(attack: Attack) -> None:
    """It has a name for the report, the signals it reads and the shadows it needs."""
    if not isinstance(attack, Attack):
        raise ContractError(
            f"an attack must have name, signals, min_shadows and __call__, got {type(attack).__name__} without all."
        )
    _require(attack, isinstance(attack.name, str), "have a text as its name", attack.name)
    _require(attack, bool(attack.name) and "\n" not in attack.name, "have a name of one line", attack.name)
    named = isinstance(attack.signals, tuple) and all(isinstance(name, str) for name in attack.signals)
    _require(attack, named, "name its signals in a tuple", attack.signals)
    counted = isinstance(attack.min_shadows, int) and attack.min_shadows >= 0
    _require(attack, counted, "have min_shadows of at least 0", attack.min_shadows)


def check_scores(attack: Attack) -> None:
    """One finite number per case, float64."""
    scores = attack(_game(attack, 30, 6).view)
    _require(attack, isinstance(scores, np.ndarray), "return an array", type(scores).__name__)
    _require(attack, scores.shape == (30,), "give one score for each of 30 cases", f"shape {scores.shape}")
    _require(attack, scores.dtype == np.float64, "give scores as float64", scores.dtype)
    _finite(attack, scores, "on a plain game")


def check_fewest_shadows(attack: Attack) -> None:
    """``min_shadows`` are enough for scores that tell cases apart."""
    scores = attack(_first_shadows(_game(attack, 30, 8).view, attack.min_shadows))
    _finite(attack, scores, f"with {attack.min_shadows} shadows")
    n_values = len(set(scores.tolist()))
    _require(attack, n_values >= 8, "tell 30 cases apart with min_shadows shadows", f"{n_values} different scores")


def check_too_few_shadows(attack: Attack) -> None:
    """Fewer than ``min_shadows`` are refused by an InputError that names the attack and both numbers."""
    view = _game(attack, 20, 8).view
    for count in range(attack.min_shadows):
        told = (repr(attack.name), f"at least {attack.min_shadows}", f"got {count}")
        _refused(attack, _first_shadows(view, count), f"{count} shadows", told)


def check_constant_signals(attack: Attack) -> None:
    """A signal that no training changes (an empty reference has Dice 1 in every model) tells no case apart."""
    view = _game(attack, 12, 6).view
    for constant in (0.0, 1e6, -3.0):
        flat = replace(view, target=np.full_like(view.target, constant), shadow=np.full_like(view.shadow, constant))
        scores = attack(flat)
        _finite(attack, scores, f"where every signal is {constant:g}")
        _require(
            attack, np.ptp(scores) == 0, f"give equal scores where every signal is {constant:g}", np.unique(scores)
        )


def check_separable_members(attack: Attack) -> None:
    """Members that fit twenty standard deviations better are told perfectly."""
    game = _game(attack, 60, 8, delta=20.0, spread=0.5)
    auc = _auc(attack(game.view), game.member)
    _require(attack, auc == 1, "tell members who fit 20 standard deviations better perfectly", f"AUC {auc:.3f}")


def check_leaky_members(attack: Attack) -> None:
    """Members that fit one standard deviation better score higher than chance."""
    for seed in (0, 1):
        game = _game(attack, 1000, 8, seed=seed)
        auc, error = _auc(attack(game.view), game.member), _standard_error(500, 500)
        _require(attack, auc > 0.5 + 4 * error, "score members who fit better higher than chance", f"AUC {auc:.3f}")


def check_chance(attack: Attack) -> None:
    """Without leakage it is at chance."""
    game = _game(attack, 1000, 5, delta=0.0, seed=5)
    auc = _auc(attack(game.view), game.member)
    _require(attack, abs(auc - 0.5) < 4 * _standard_error(500, 500), "be at chance without leakage", f"AUC {auc:.3f}")


def check_sign(attack: Attack) -> None:
    """Where models fit members worse, members score lower, or, if the attack learns the sign of its shadows, higher."""
    game = _game(attack, 1000, 8, delta=-1.0)
    auc = _auc(attack(game.view), game.member)
    apart = abs(auc - 0.5) > 4 * _standard_error(500, 500)
    _require(attack, apart, "score members who fit worse lower, or higher if it learns the sign", f"AUC {auc:.3f}")


def check_order_of_cases(attack: Attack) -> None:
    """Cases in another order have the same scores in that order."""
    view = _game(attack, 40, 6).view
    order = _order(40)
    _same(attack, attack(_chosen(view, order)), attack(view)[order], "not depend on the order of cases")


def check_order_of_shadows(attack: Attack) -> None:
    """Shadows are exchangeable; an attack that is not ``pooled`` reads the first."""
    view = _game(attack, 40, 6).view
    order = _order(len(view.shadow))
    if not getattr(attack, "pooled", True):
        order = np.concatenate([[0], order[order > 0]])
        _same(attack, attack(_first_shadows(view, 1)), attack(view), "read the first shadow only (pooled is False)")
    moved = replace(view, shadow=view.shadow[order], shadow_member=view.shadow_member[order])
    _same(attack, attack(moved), attack(view), "not depend on the order of shadows")


def check_foreign_cases(attack: Attack) -> None:
    """Cases of another source are scored, and change no score of the cohort, however strange they are."""
    for shadows in (1, 2, 6):
        view = _game(attack, 50, shadows).view
        foreign = np.arange(50) >= 40
        strange = replace(
            view,
            target=np.where(foreign[:, None], 0.9, view.target),
            shadow=np.where(foreign[:, None], 0.01, view.shadow),
            shadow_member=view.shadow_member & ~foreign,
            features=None if view.features is None else np.where(foreign[:, None], 1e3, view.features),
            nonmember=None if view.nonmember is None else view.nonmember & ~foreign,
            foreign=foreign,
        )
        scores = attack(strange)
        _finite(attack, scores, "on foreign cases")
        _same(
            attack, scores[:40], attack(_chosen(view, np.arange(40))), "learn nothing from foreign cases (view.cohort)"
        )


def check_inputs(attack: Attack) -> None:
    """What it is given is neither changed nor returned."""
    view = _game(attack, 20, 6).view
    arrays = {name: getattr(view, name) for name in ("target", "shadow", "shadow_member", "features", "nonmember")}
    before = {name: array.copy() for name, array in arrays.items()}
    scores = attack(view)
    for name, array in arrays.items():
        _require(attack, np.array_equal(array, before[name]), f"leave view.{name} as it is", "another one afterwards")
        _require(
            attack, not np.shares_memory(scores, array), f"return scores of their own, no part of view.{name}", "one"
        )


def check_repetition(attack: Attack) -> None:
    """The same view gives the same scores again, bit for bit."""
    view = _game(attack, 20, 6).view
    first, second = attack(view), attack(view)
    _require(attack, np.array_equal(first, second), "give the same scores again", "others")


def check_offsets(attack: Attack) -> None:
    """With ``remove_offsets`` how well a whole model fits moves no score; with False a shadow's does."""
    removes = getattr(attack, "remove_offsets", None)
    if removes is None:
        return
    view = _game(attack, 40, 6).view
    shift = np.zeros((len(view.shadow), 1, 1))
    shift[-1 if getattr(attack, "pooled", True) else 0] = 5.0
    scores = attack(view)
    for moved in (replace(view, target=view.target + 5.0), replace(view, shadow=view.shadow + shift)):
        if removes:
            _same(attack, attack(moved), scores, "not depend on how well a whole model fits (remove_offsets)")
    if not removes:
        same = np.allclose(attack(moved), scores, rtol=1e-9, atol=1e-9)
        _require(attack, not same, "depend on how well a shadow fits (remove_offsets is False)", "equal scores")


def check_cases_in_every_shadow(attack: Attack) -> None:
    """Cases that no shadow left out are scored on the scale of the others, whatever the number of shadows."""
    for shadows in (1, 3, 8):
        game = _game(attack, 600, shadows, delta=2.0, seed=3, spread=0.5)
        special, member = np.arange(600) < 200, game.view.shadow_member | (np.arange(600) < 200)
        added = (member & ~game.view.shadow_member) * 2.0
        scores = attack(replace(game.view, shadow=game.view.shadow + added[..., None], shadow_member=member))
        _finite(attack, scores, "on cases that every shadow trained on")
        for side in (special, ~special):
            # Members of one side against non-members of the other: on another scale one of the two would be at chance.
            chosen = (side & game.member) | (~side & ~game.member)
            auc = _auc(scores[chosen], game.member[chosen])
            _require(
                attack,
                auc > 0.5 + 4 * _standard_error(100, 200),
                f"score cases that all of {len(member)} shadows trained on as it scores others",
                f"AUC {auc:.3f} between both",
            )


def check_equal_shadows(attack: Attack) -> None:
    """Shadows that all trained on every case, or on none, give finite scores."""
    view = _game(attack, 60, 3, delta=2.0, spread=0.5).view
    for inside in (True, False):
        scores = attack(replace(view, shadow_member=np.full_like(view.shadow_member, inside)))
        _finite(attack, scores, f"where the shadows trained on {'all cases' if inside else 'none'}")


def check_unknown_signal(attack: Attack) -> None:
    """A signal that is not recorded is refused by an InputError that names it or the recorded ones."""
    if attack.signals:
        view = _game(attack, 20, 8).view
        names = tuple(f"recorded_{number}" for number in range(len(view.signals)))
        _refused(attack, replace(view, signals=names), "another signal", ("signal", *names[:1]))


def check_needs(attack: Attack) -> None:
    """Image statistics and known non-members are declared and asked for by name, or unread."""
    view = _game(attack, 20, 8).view
    for name, declared, stripped in (
        ("features", "needs_features", replace(view, features=None)),
        ("nonmember", "needs_nonmembers", replace(view, nonmember=None)),
    ):
        if getattr(attack, declared, False):
            _refused(attack, stripped, f"no {name}", (f"{name} must", repr(attack.name), "got none"))
        else:
            scores = attack(stripped)
            _require(attack, np.array_equal(scores, attack(view)), f"not read {name}, or declare {declared}", "both")


@dataclass(frozen=True)
class _Game:
    """What an attack sees, and the target's members, shape (N,), which it does not."""

    view: AdversaryView
    member: Members


def _game(attack: Attack, n: int, shadows: int, delta: float = 1.0, seed: int = 0, spread: float = 1.5) -> _Game:
    """Play a game of n cases, one a patient, with at least as many shadows as the attack needs."""
    if getattr(attack, "needs_maps", False):
        raise InputError(
            f"attack must read signals alone to be checked, got {attack.name!r}, which needs maps. Test it on maps."
        )
    rng = stream(Stream.SIMULATED_GAME, seed)
    shadows, signals = max(shadows, attack.min_shadows), tuple(attack.signals) or _SIGNALS
    rows = [_half(n, rng)]
    for _ in range((shadows + 1) // 2):
        half = _half(n, rng)
        rows += [half, ~half]
    member = np.stack(rows[: shadows + 1])
    difficulty = rng.normal(1.0, spread, n)
    values = rng.standard_normal((shadows + 1, n, len(signals))) + (difficulty + delta * member)[..., None]
    view = AdversaryView(
        signals=signals,
        target=values[0],
        shadow=values[1:],
        shadow_member=member[1:],
        patient_ids=tuple(f"patient_{number:05d}" for number in range(n)),
        features=rng.standard_normal((n, 4)),
        nonmember=~member[0] & (rng.random(n) < 0.5),
    )
    return _Game(view, member[0])


def _half(n: int, rng: np.random.Generator) -> Members:
    return np.asarray(rng.permutation(n) < n // 2)


def _order(n: int) -> NDArray[np.int64]:
    return stream(Stream.SIMULATED_ORDER, n).permutation(n)


def _first_shadows(view: AdversaryView, count: int) -> AdversaryView:
    return replace(view, shadow=view.shadow[:count], shadow_member=view.shadow_member[:count])


def _chosen(view: AdversaryView, cases: NDArray[np.int64]) -> AdversaryView:
    """The same view of these cases, in this order."""
    return replace(
        view,
        target=view.target[cases],
        shadow=view.shadow[:, cases],
        shadow_member=view.shadow_member[:, cases],
        patient_ids=tuple(np.asarray(view.patient_ids)[cases].tolist()),
        features=None if view.features is None else view.features[cases],
        nonmember=None if view.nonmember is None else view.nonmember[cases],
    )


def _auc(scores: Array, member: Members) -> float:
    """Share of (member, non-member) pairs in order; a tie is half in order."""
    ins, outs = scores[member][:, None], scores[~member]
    return float(((ins > outs) + (ins == outs) / 2).mean())


def _standard_error(n_member: int, n_nonmember: int) -> float:
    """Of an AUC of one half."""
    return float(np.sqrt((n_member + n_nonmember + 1) / (12 * n_member * n_nonmember)))


def _require(attack: Attack, kept: bool, promise: str, found: object) -> None:
    if not kept:
        raise ContractError(f"attack {getattr(attack, 'name', attack)!r} must {promise}, got {found}.")


def _finite(attack: Attack, scores: Array, where: str) -> None:
    _require(attack, bool(np.isfinite(scores).all()), f"give finite scores {where}", scores[~np.isfinite(scores)][:3])


def _same(attack: Attack, scores: Array, others: Array, promise: str) -> None:
    same = np.allclose(scores, others, rtol=1e-9, atol=1e-9)
    _require(
        attack, same, promise, "other scores" if same else f"scores that differ by {np.abs(scores - others).max()}"
    )


def _refused(attack: Attack, view: AdversaryView, what: str, told: tuple[str, ...]) -> None:
    """Refuse an attack that takes what it must refuse, or whose refusal does not say why."""
    try:
        attack(view)
    except InputError as error:
        for text in told:
            _require(attack, text in str(error), f"say {text!r} when it refuses {what}", str(error))
        return
    _require(attack, False, f"refuse {what} with an InputError", "scores")
