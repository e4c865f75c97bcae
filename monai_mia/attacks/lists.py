# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Lists of attacks: what an audit tries unless it is told which, what the papers published, and all there are."""

from __future__ import annotations

from collections.abc import Sequence

from monai_mia.attacks.attack import Attack
from monai_mia.attacks.bayes import BaVarIA
from monai_mia.attacks.combination import LearnedCombination
from monai_mia.attacks.lira import DifficultyCalibration, LiRA
from monai_mia.attacks.multivariate import MultivariateLiRA
from monai_mia.attacks.quantile import FeatureRegression, PredictabilityError, QuantileRegression
from monai_mia.attacks.rmia import BASE, RMIA
from monai_mia.attacks.threshold import EverySignal, GlobalLoss, Threshold
from monai_mia.attacks.transfer import TopScores, TransferredThreshold
from monai_mia.attacks.voxelwise import FEATURES, VoxelCalibration
from monai_mia.errors import InputError

__all__ = ["all_attacks", "published_attacks", "standard_attacks"]


def standard_attacks(n_shadow: int, release: str = "logits") -> list[Attack | EverySignal]:
    """The global loss, every other signal as a threshold, and what ``n_shadow`` shadows allow beyond.

    From 2 shadows on difficulty calibration, from 4 on LiRA, both on the log-likelihood (the whole volume) and on the
    log-odds of the foreground; if only masks are released, on the Dice of the whole volume and of the boundary.

    Args:
        n_shadow: number of shadows, at least 0.
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``.

    Example:
        >>> [attack.name for attack in standard_attacks(2)[2:]]
        ['calibrated: log_likelihood', 'calibrated: log_odds_foreground']
    """
    _check(n_shadow)
    masks = release == "mask"
    attacks: list[Attack | EverySignal] = [EverySignal()] if masks else [GlobalLoss(), EverySignal()]
    for signal in ("dice", "dice_boundary") if masks else ("log_likelihood", "log_odds_foreground"):
        if n_shadow >= 2:
            attacks.append(DifficultyCalibration(signal))
        if n_shadow >= 4:
            # Offline LiRA with a pooled variance would rank cases as difficulty calibration does.
            attacks += [LiRA(signal), LiRA(signal, variance="case"), LiRA(signal, mode="offline", variance="case")]
    return attacks


def published_attacks(n_shadow: int, release: str = "logits", signals: Sequence[str] | None = None) -> list[Attack]:
    """Every published attack on signals that ``n_shadow`` shadows allow, in its published and its corrected form.

    For a comparison; some need image statistics or known non-members, which an audit has. Attacks on one signal are
    listed for the log-likelihood, the log-odds of the foreground and the soft Dice; if only masks are released, for the
    Dice of the whole volume and of the boundary.

    Args:
        n_shadow: number of shadows, at least 0.
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``.
        signals: the recorded signals; an attack that reads another one is left off the list. By default none is.

    Example:
        >>> len(published_attacks(0)), len(published_attacks(1)), len(published_attacks(4))
        (6, 48, 54)
    """
    _check(n_shadow)
    masks = release == "mask"
    fits = ("dice", "dice_boundary") if masks else ("log_likelihood", "log_odds_foreground", "soft_dice")
    attacks: list[Attack] = []
    if masks:
        attacks += [Threshold("dice"), QuantileRegression("dice"), FeatureRegression("dice")]
    else:
        attacks += [GlobalLoss(), Threshold("negative_entropy"), Threshold("maximum_probability")]
        attacks += [QuantileRegression(), FeatureRegression(), PredictabilityError()]
    if n_shadow >= 1:
        for published in (True, False):
            form = {"pooled": not published, "remove_offsets": not published}
            if masks:
                attacks.append(TransferredThreshold("dice", "mean_member", **form))
                continue
            attacks += [TransferredThreshold(name, "mean_member", **form) for name in ("soft_dice", "log_likelihood")]
            attacks.append(TransferredThreshold("negative_entropy", "best_accuracy", **form))
            attacks.append(TransferredThreshold("maximum_probability", "youden", **form))
            scores = ("maximum_probability", "second_probability", "third_probability")
            recorded = tuple(name for name in scores if signals is None or name in signals)
            attacks += [TopScores(recorded, pooled=not published)] if recorded else []
        for fit in fits:
            attacks += [DifficultyCalibration(fit), DifficultyCalibration(fit, remove_offsets=False), LiRA(fit)]
            attacks += [RMIA(fit), RMIA(fit, remove_offsets=False), RMIA(fit, "offline"), BASE(fit, "offline")]
            attacks += [BaVarIA(fit), BaVarIA(fit, predictive="n"), BaVarIA(fit, "offline")]
        attacks += [MultivariateLiRA(fits), MultivariateLiRA(fits, "offline")]
    if n_shadow >= 4:
        attacks += [LiRA(fit, mode, variance="case") for fit in fits for mode in ("online", "offline")]
    return [attack for attack in attacks if signals is None or set(attack.signals) <= set(signals)]


def all_attacks(
    n_shadow: int,
    release: str = "logits",
    signals: Sequence[str] | None = None,
    perturbations: bool = False,
    white_box: bool = False,
    maps: bool = False,
) -> list[Attack]:
    """The published attacks, and what a dense prediction offers beyond a score of the whole volume.

    That is: combinations of calibrated signals, voxelwise calibration of recorded maps, label-only attacks on the
    response to perturbed queries, and white-box signals. Networks on maps are in
    :func:`monai_mia.neural_attacks.learned_attacks`, which needs torch.

    Args:
        n_shadow: number of shadows, at least 0.
        release: what leaves the model: ``logits``, ``probabilities`` or ``mask``, of which no attack reads maps.
        signals: the recorded signals; an attack that reads another one is left off the list. By default none is.
        perturbations: whether :class:`~monai_mia.signals.PerturbedQueries` were recorded, of ``dice``, ``soft_dice``,
            ``log_likelihood``, ``log_likelihood_foreground`` and ``log_odds_foreground``; of masks of ``dice``.
        white_box: whether :class:`~monai_mia.signals.WhiteBox` signals were recorded.
        maps: whether maps were recorded.

    Example:
        >>> [attack.name for attack in all_attacks(4)[len(published_attacks(4)) :]]
        ['learned combination: 17 signals']
    """
    attacks = published_attacks(n_shadow, release, signals)
    masks = release == "mask"
    maps = maps and not masks
    plain = ("dice", "dice_boundary", "volume_ratio") if masks else LearnedCombination().signals
    robust = ("agreement", "robust_dice") if masks else _ROBUST
    more = (*plain, *robust) if perturbations else plain
    if perturbations:
        attacks += [Threshold(name) for name in ("agreement", "soft_agreement", "robust_dice") if name in robust]
    if white_box:
        attacks += [Threshold(name) for name in _WHITE_BOX]
    if n_shadow >= 1:
        calibrated = ("agreement", "robust_dice", "robust_soft_dice") if perturbations else ()
        attacks += [LiRA(name) for name in calibrated if name in robust]
        attacks += [LiRA(name) for name in _WHITE_BOX] if white_box else []
        attacks += [VoxelCalibration(feature) for feature in FEATURES] if maps else []
        if maps and n_shadow >= 2:
            attacks += [VoxelCalibration(name, "middle") for name in ("error_recovered", "agreement")]
    if n_shadow >= 4:
        attacks.append(LearnedCombination(plain))
        attacks += [LearnedCombination(plain, maps=True)] if maps else []
        attacks += [LearnedCombination(more)] if perturbations else []
        attacks += [LearnedCombination(more, maps=True)] if perturbations and maps else []
        attacks += [LearnedCombination((*more, *_WHITE_BOX), maps=maps)] if white_box else []
    return [attack for attack in attacks if signals is None or set(attack.signals) <= set(signals)]


_ROBUST = (
    "agreement",
    "soft_agreement",
    "robust_dice",
    "robust_soft_dice",
    "robust_log_likelihood",
    "robust_log_likelihood_foreground",
    "robust_log_odds_foreground",
)

_WHITE_BOX = ("negative_gradient_norm", "negative_influence", "negative_alignment")


def _check(n_shadow: int) -> None:
    if not isinstance(n_shadow, int) or n_shadow < 0:
        raise InputError(f"n_shadow must be a whole number, at least 0, got {n_shadow!r}.")
