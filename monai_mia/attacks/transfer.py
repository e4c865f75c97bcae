# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Decisions learned on shadows and transferred to the target unchanged, as the segmentation papers do.

A score of 0 or more is the claim "member" (``decides``): an audit can report how right those claims are.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_curve
from sklearn.neural_network import MLPClassifier

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, SignalAttack, keep_signals, require_option, require_shadows, sorted_rows

__all__ = ["TopScores", "TransferredThreshold"]

Rule = Literal["best_accuracy", "youden", "mean_member"]


def fitted_threshold(values: Array, member: NDArray[np.bool_], rule: Rule) -> float:
    """The threshold that a rule finds on shadows; "member" is claimed at or above it.

    Args:
        values: signal, shape (K,), higher = better fit.
        member: whether the shadow trained on the case, shape (K,).
        rule: see :class:`TransferredThreshold`.

    Example:
        >>> fitted_threshold(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]), "youden")
        2.0
    """
    if rule == "mean_member":
        return float(values[member].mean() if member.any() else values.max())
    if rule == "youden":
        if member.all() or not member.any():
            return float(values.min() if member.any() else values.max())
        fpr, tpr, thresholds = roc_curve(member, values, drop_intermediate=False)
        return float(thresholds[1:][np.argmax((tpr - fpr)[1:])])  # the first is infinite: no claim at all
    grid = np.linspace(values.min(), values.max(), 10_000)
    ins, outs = np.sort(values[member]), np.sort(values[~member])
    right = len(ins) - np.searchsorted(ins, grid, "left") + np.searchsorted(outs, grid, "left")
    return float(grid[np.argmax(right)])


@dataclass(frozen=True)
class TransferredThreshold(SignalAttack):
    """The target's signal minus a threshold that was fitted where membership is known: on shadows.

    Rules, and who published them for which signal:

    - ``best_accuracy``: the most accurate of 10,000 equally spaced values (`Hintersdorf et al. (2022)
      <https://arxiv.org/abs/2111.09076>`_, entropy).
    - ``youden``: the largest TPR - FPR (the same, maximum score).
    - ``mean_member``: the shadow's mean on its own members (`Chobola et al. (2023)
      <https://arxiv.org/abs/2212.01082>`_, global loss: ``soft_dice`` for their Dice loss, ``log_likelihood`` for
      cross-entropy). Theirs is the mean over training batches; here both sides are recorded in evaluation.

    The papers fit on one shadow and transfer as it is: ``pooled=False, remove_offsets=False``. By default the cases of
    all shadows are pooled, and how well a whole model fits is subtracted first, which the threshold would mistake for
    membership. Ranks, and so the ROC, are those of the signal in each form.

    Cost: 1 shadow.

    Attributes:
        signal: the signal.
        rule: how the threshold is found.
        pooled: whether on all shadows or on the first only.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signal: str = "negative_entropy"
    rule: Rule = "best_accuracy"
    pooled: bool = True
    remove_offsets: bool = True
    min_shadows: int = 1

    decides = True

    def __post_init__(self) -> None:
        """Refuse an unknown rule."""
        require_option("rule", self.rule, ("best_accuracy", "youden", "mean_member"))

    @property
    def name(self) -> str:
        """``transferred <rule>: <signal>``."""
        options = ("" if self.pooled else ", one shadow") + ("" if self.remove_offsets else ", offsets kept")
        return f"transferred {self.rule.replace('_', ' ')}: {self.signal}{options}"

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in units of the signal, shape (N,); at or above 0 a case is called a member."""
        if not self.pooled:
            view = replace(view, shadow=view.shadow[:1], shadow_member=view.shadow_member[:1])
        target, shadow = self.read(view)
        own, member = view.cohort, view.shadow_member
        return target - fitted_threshold(shadow[:, own].ravel(), member[:, own].ravel(), self.rule)


@dataclass(frozen=True)
class TopScores:
    """A small network on the mean of the largest probabilities of each voxel, trained on shadows.

    64 hidden units, Adam with rate 1e-2, batches of 16 (for each pooled shadow), until the loss has not fallen by 5e-4
    in 15 epochs. The score is the log-odds of membership.

    The paper trains on one shadow and raw scores: ``pooled=False``. By default all shadows are pooled, and each model's
    signals, the target's too, are standardised over cases, so that no whole model's offset is taken for membership and
    mean probabilities near 1 can be told apart.

    Cost: 1 shadow. Source: top-3 attack of `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_ after Salem
    et al. (2019); the mean over voxels is ours.

    Attributes:
        signals: the signals, by default of three classes or more; with two classes leave the third out.
        pooled: whether on all shadows, standardised, or on the first only, raw.
        max_epochs: most epochs, should the loss go on falling.
        seed: seed of the network.
    """

    signals: tuple[str, ...] = ("maximum_probability", "second_probability", "third_probability")
    pooled: bool = True
    max_epochs: int = 200
    seed: int = 0
    min_shadows: int = 1

    decides = True

    def __post_init__(self) -> None:
        """Keep the signals as a tuple, which a config gives as a list."""
        keep_signals(self, self.signals)

    @property
    def name(self) -> str:
        """``top scores: <signals>``."""
        return f"top scores: {' + '.join(self.signals)}" + ("" if self.pooled else ", one shadow")

    def __call__(self, view: AdversaryView) -> Array:
        """Log-odds in nats, shape (N,); at or above 0 a case is called a member."""
        require_shadows(self, view)
        pairs = [view.signal(name) for name in self.signals]
        target, shadow = (np.stack(side, axis=-1) for side in zip(*pairs, strict=True))
        shadows = slice(None) if self.pooled else slice(1)
        shadow, member = shadow[shadows], view.shadow_member[shadows]
        if self.pooled:
            target, shadow = (_standardised(values, view.cohort) for values in (target, shadow))
        shadow, member = shadow[:, view.cohort], member[:, view.cohort]
        rows, inside = sorted_rows(shadow.reshape(-1, shadow.shape[-1]), member.ravel())
        if inside.all() or not inside.any():
            return np.zeros(len(target))
        network = MLPClassifier(
            hidden_layer_sizes=(64,),
            learning_rate_init=1e-2,
            batch_size=min(16 * len(shadow), len(rows)),
            max_iter=self.max_epochs,
            n_iter_no_change=15,
            tol=5e-4,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping at max_epochs is no failure
            network.fit(rows, inside)
        out, chance = np.clip(network.predict_proba(target), np.finfo(np.float64).tiny, None).T
        return np.asarray(np.log(chance) - np.log(out))


def _standardised(signals: Array, cohort: NDArray[np.bool_]) -> Array:
    """Mean 0 and standard deviation 1 over the cohort, shape (..., N, S); 0 where a signal is constant."""
    centred = signals - signals[..., cohort, :].mean(axis=-2, keepdims=True)
    deviation = centred[..., cohort, :].std(axis=-2, keepdims=True)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0))
