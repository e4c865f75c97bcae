# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious twins of the statistics, and simulated games whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray
from scipy import stats

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.records.table import SignalTable

Array = NDArray[np.float64]
Members = NDArray[np.bool_]

SIGNALS = ("log_likelihood", "log_odds_foreground", "dice")

#: The same examples in every run, however long one takes.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


# Twins


def mann_whitney(scores: Sequence[float], member: Sequence[bool]) -> float:
    """Share of (member, non-member) pairs that are in order; a tie is half in order."""
    ins = [score for score, inside in zip(scores, member, strict=True) if inside]
    outs = [score for score, inside in zip(scores, member, strict=True) if not inside]
    wins = 0.0
    for high in ins:
        for low in outs:
            wins += 1.0 if high > low else 0.5 if high == low else 0.0
    return wins / (len(ins) * len(outs))


def tpr_at(scores: Sequence[float], member: Sequence[bool], fpr: float) -> float:
    """Largest TPR of any decision ``score >= threshold`` whose FPR is at most ``fpr``."""
    ins = [score for score, inside in zip(scores, member, strict=True) if inside]
    outs = [score for score, inside in zip(scores, member, strict=True) if not inside]
    best = 0.0
    for threshold in set(scores):
        if sum(score >= threshold for score in outs) <= fpr * len(outs) + 1e-9:
            best = max(best, sum(score >= threshold for score in ins) / len(ins))
    return best


def lira(target: Array, shadow: Array, member: Members, variance: str, online: bool) -> list[float]:
    """LiRA case by case, as its paper writes it: Gaussians fitted with numpy, densities from scipy."""
    deviation = {}
    for side in (True, False):
        residuals, freedom = [], 0
        for case in range(len(target)):
            values = shadow[member[:, case] == side, case]
            residuals += list(values - values.mean())
            freedom += len(values) - 1
        deviation[side] = float(np.sqrt(np.sum(np.square(residuals)) / freedom))
    scores = []
    for case, value in enumerate(target):
        fits = {}
        for side in (True, False):
            values = shadow[member[:, case] == side, case]
            sd = deviation[side] if variance == "pooled" else float(values.std(ddof=1))
            fits[side] = stats.norm(values.mean(), sd)
        if online:
            scores.append(float(fits[True].logpdf(value) - fits[False].logpdf(value)))
        else:
            scores.append(float(fits[False].isf(fits[False].sf(value)) - fits[False].mean()) / float(fits[False].std()))
    return scores


def rmia(log_ratio: Array, gamma: float) -> list[float]:
    """The share of cases that each case exceeds by a factor, as its paper writes it; half where it is exactly met."""
    scores = []
    for x in log_ratio:
        wins = [1.0 if x - np.log(gamma) > z else 0.5 if x - np.log(gamma) == z else 0.0 for z in log_ratio]
        scores.append(sum(wins) / len(wins))
    return scores


def predictive_density(value: float, shadows: Array, prior: tuple[float, float, float, float]) -> float:
    """Density of the next value under a normal-inverse-gamma prior, by summing over a grid of means and variances.

    Args:
        value: where.
        shadows: values that were seen.
        prior: mean, its weight in values, degrees of freedom and scale of the variance.
    """
    mean, weight, freedom, scale = prior
    mu = np.linspace(-20, 20, 1001)[:, None]
    log_var = np.linspace(-6, 8, 281)
    sd = np.exp(log_var / 2)
    log_prior = stats.invgamma(freedom / 2, scale=freedom * scale / 2).logpdf(sd**2) + log_var  # of the log-variance
    log_prior = log_prior + stats.norm(mean, sd / np.sqrt(weight)).logpdf(mu)
    log_posterior = log_prior + sum(stats.norm(mu, sd).logpdf(seen) for seen in shadows)
    posterior = np.exp(log_posterior - log_posterior.max())
    return float((posterior * stats.norm(mu, sd).pdf(value)).sum() / posterior.sum())


def best_threshold(values: Sequence[float], member: Sequence[bool], candidates: Sequence[float], rule: str) -> float:
    """The best quality that any candidate threshold reaches by calling everything at or above it a member."""
    best = -np.inf
    for threshold in candidates:
        claims = [value >= threshold for value in values]
        right = [claim == inside for claim, inside in zip(claims, member, strict=True)]
        rates = [np.mean([c for c, inside in zip(claims, member, strict=True) if inside == side]) for side in (1, 0)]
        best = max(best, float(np.mean(right)) if rule == "best_accuracy" else float(rates[0] - rates[1]))
    return best


def all_deals(scores: Array, member: Members, groups: Sequence[str]) -> Iterator[tuple[float, ...]]:
    """AUCs of every way to deal as many memberships as there are among the groups."""
    names = sorted(set(groups))
    inside = {name: bool(np.asarray(member)[list(groups).index(name)]) for name in names}
    for chosen in combinations(names, sum(inside.values())):
        dealt = [group in chosen for group in groups]
        yield tuple(mann_whitney(list(row), dealt) for row in scores)


def repeated(values: Array, weights: Sequence[float]) -> Array:
    """Every value as often as its integer weight says."""
    copies = []
    for value, weight in zip(values, weights, strict=True):
        copies += [value] * int(weight)
    return np.asarray(copies)


# Games


@dataclass(frozen=True)
class Game:
    """A simulated audit: ``signal = mu + delta * in + sigma * noise``, of section 7 of the notes on peers.

    Attributes:
        table: the signals of the target and its shadows.
        mu: difficulty of a case, shape (N,).
        delta: effect of membership on a case, shape (N,).
        sigma: noise of a case, shape (N,).
    """

    table: SignalTable
    mu: Array
    delta: Array
    sigma: Array

    @property
    def view(self) -> AdversaryView:
        """What the attacks see; image statistics that tell nothing, and half of the non-members as such."""
        return granted(AdversaryView.of(self.table), self.member)

    @property
    def member(self) -> Members:
        """The target's members."""
        return self.table.members("target")

    @property
    def log_likelihood_ratio(self) -> Array:
        """The exact score of the first signal: no attack can do better."""
        excess = self.table.values[0, :, 0] - self.mu
        return np.asarray((excess * self.delta - self.delta**2 / 2) / self.sigma**2)


def granted(view: AdversaryView, member: Members, seed: int = 0) -> AdversaryView:
    """The same knowledge with random image statistics, shape (N, 4), and a random half of the non-members named."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((len(member), 4))
    return replace(view, features=features, nonmember=~member & (rng.random(len(member)) < 0.5))


def game(
    n: int = 400,
    shadows: int = 8,
    delta: float = 1.0,
    seed: int = 0,
    heteroscedastic: bool = False,
    spread: float = 1.5,
    noise: float = 1.0,
    offsets: float = 0.0,
    cases_per_patient: int = 1,
    signals: Sequence[str] = SIGNALS,
    access: dict[str, str] | None = None,
) -> Game:
    """Play a game.

    Args:
        n: cases, an even number of patients.
        shadows: in complementary pairs, like a randomised design.
        delta: mean effect of membership.
        seed: seed of everything.
        heteroscedastic: whether effect and noise differ between cases.
        spread: how much the cases' difficulty differs.
        noise: scale of the noise.
        offsets: how much whole models differ.
        cases_per_patient: consecutive cases of one patient.
        signals: independent repetitions of the noise, one a signal.
        access: the access that each signal needs.
    """
    rng = np.random.default_rng(seed)
    patients = n // cases_per_patient
    rows = [_half(patients, rng)]
    for _ in range((shadows + 1) // 2):
        half = _half(patients, rng)
        rows += [half, ~half]
    member = np.repeat(np.stack(rows[: shadows + 1]), cases_per_patient, axis=1)
    mu = rng.normal(1.0, spread, n)
    effect = rng.gamma(2.0, delta / 2, n) if heteroscedastic else np.full(n, delta)
    sigma = noise * (rng.uniform(0.6, 1.4, n) if heteroscedastic else np.ones(n))
    values = rng.standard_normal((shadows + 1, n, len(signals))) * sigma[:, None]
    values += (mu + effect * member)[..., None]
    values += offsets * rng.standard_normal((shadows + 1, 1, 1))
    table = SignalTable(
        model_ids=("target", *(f"shadow_{number:02d}" for number in range(shadows))),
        case_ids=tuple(f"case_{number:05d}" for number in range(n)),
        patient_ids=tuple(f"patient_{number // cases_per_patient:05d}" for number in range(n)),
        signals=tuple(signals),
        member=member,
        values=values,
        access=access or {},
    )
    return Game(table, mu, effect, sigma)


def hidden_tail(n: int = 400, seed: int = 2) -> SignalTable:
    """One member in seven gives itself away; the others score as much lower as it takes for an AUC of one half."""
    quiet = game(n=n, shadows=0, delta=0.0, spread=0.0, seed=seed)
    values, members = quiet.table.values.copy(), np.flatnonzero(quiet.member)
    values[0, members[n // 14 :]] -= 0.3
    values[0, members[: n // 14]] += 50
    return replace(quiet.table, values=values)


def _half(patients: int, rng: np.random.Generator) -> Members:
    return np.asarray(rng.permutation(patients) < patients // 2)


def binormal(n: int, separation: float) -> tuple[Array, Members]:
    """Scores at the quantiles of N(separation, 1) for n members and of N(0, 1) for n non-members: no randomness."""
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return np.concatenate([separation + quantiles, quantiles]), np.repeat([True, False], n)


def plain(value: Any) -> Any:
    """A result without its times, in plain types, to be compared."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name != "seconds"}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
