# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""LiRA on several signals at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.covariance import LedoitWolf

from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, in_and_out, keep_signals, require_option, require_shadows, without_offsets
from monai_mia.attacks.bayes import gap_prior
from monai_mia.attacks.lira import difference_variance, smallest_variance

__all__ = ["MultivariateLiRA"]


@dataclass(frozen=True)
class MultivariateLiRA:
    r"""Log-likelihood ratio of two multivariate Gaussians with one covariance for all cases.

    .. math:: (\mu_{in} - \mu_{out})^T \Sigma^{-1} \left(x - \frac{\mu_{in} + \mu_{out}}2\right)
        \quad\text{(online)},\qquad
        \frac{1^T \Sigma^{-1} (x - \mu_{out})}{\sqrt{1^T \Sigma^{-1} 1}} \quad\text{(offline)}

    Signals of one segmentation are strongly correlated: summing their log-likelihood ratios, as published, counts the
    same evidence several times. The covariance of the shadows' residuals is pooled over cases and shrunk (Ledoit and
    Wolf). The gap between both means is ``common`` to all cases, which few shadows can tell, or that of each ``case``,
    shrunk towards the common one as far as noise explains it; on hippocampus the common one is better, because cases of
    a larger gap are noisier. Offline, every signal counts as gaining as many standard deviations from membership. A
    side without a shadow is estimated (:func:`~monai_mia.attacks.in_and_out`).

    Cost: 1 shadow, better with more. Source: `Carlini et al. (2022) <https://arxiv.org/abs/2112.03570>`_ (section VI,
    several queries) with the covariance shrunk after `Ledoit and Wolf (2004)
    <https://doi.org/10.1016/S0047-259X(03)00096-4>`_; the pooling, the common gap and the removal of whole-model
    offsets are ours.

    Attributes:
        signals: the signals, at least one.
        mode: ``online`` uses shadows with and without the case, ``offline`` those without it.
        gap: ``common`` or ``case``, online only.
        remove_offsets: whether how well a whole model fits is subtracted first
            (:func:`~monai_mia.attacks.without_offsets`).
    """

    signals: tuple[str, ...] = ("log_likelihood", "log_odds_foreground", "soft_dice")
    mode: Literal["online", "offline"] = "online"
    gap: Literal["common", "case"] = "common"
    remove_offsets: bool = True
    min_shadows: int = 1

    def __post_init__(self) -> None:
        """Refuse unknown options; keep the signals as a tuple, which a config gives as a list."""
        keep_signals(self, self.signals)
        require_option("mode", self.mode, ("online", "offline"))
        require_option("gap", self.gap, ("common", "case"))

    @property
    def name(self) -> str:
        """``multi-signal LiRA <mode>: <signals>``."""
        options = ", gap per case" if self.gap == "case" and self.mode == "online" else ""
        kept = "" if self.remove_offsets else ", offsets kept"
        return f"multi-signal LiRA {self.mode}{options}: {' + '.join(self.signals)}{kept}"

    def __call__(self, view: AdversaryView) -> Array:
        """Scores in nats (online) or standard deviations (offline), shape (N,)."""
        require_shadows(self, view)
        parts = [self._standardised(name, view) for name in self.signals]
        excess, gap = (np.stack([part[k] for part in parts], axis=-1) for k in (0, 1))
        covariance = LedoitWolf(assume_centered=True).fit(np.stack([part[2] for part in parts], axis=-1)).covariance_
        covariance += np.finfo(np.float64).eps * np.eye(len(covariance))  # no signal may vary at all
        weights = np.linalg.solve(covariance, gap.T).T
        scores = np.einsum("ns,ns->n", excess, weights)
        if self.mode == "offline":
            scores /= np.sqrt(weights[0].sum())
        return np.asarray(scores)

    def _standardised(self, name: str, view: AdversaryView) -> tuple[Array, Array, Array]:
        """One signal's excess (N,), gap (N,) and residuals (K,), in standard deviations of the residuals."""
        target, shadow = view.signal(name)
        member, own = view.shadow_member, view.cohort
        if self.remove_offsets:
            target, shadow = without_offsets(target, shadow, own)
        n_in, n_out = member.sum(axis=0), (~member).sum(axis=0)
        ins, outs = in_and_out(target, shadow, member, cohort=own)
        middle, gap = (ins + outs) / 2, ins - outs
        count = np.where(member, n_in, n_out)
        some = (count > 1) & own
        if some.any():
            # The mean took a degree of freedom from each case's residuals.
            residual = ((shadow - np.where(member, ins, outs)) * np.sqrt(count / np.maximum(count - 1, 1)))[some]
            variance = float(residual @ residual / len(residual))
        else:
            residual = (target - middle)[own] / np.sqrt(1 + 1 / len(shadow))
            variance = difference_variance(target, middle, len(shadow), own)
        variance = max(variance, smallest_variance(shadow[:, own]))
        if self.mode == "offline":
            excess, gap = target - outs, np.full_like(gap, np.sqrt(variance))
        else:
            excess = target - middle
            mean, varied = gap_prior(ins[own], outs[own], n_in[own], n_out[own], variance, variance)
            noise = variance * (1 / np.maximum(n_in, 1) + 1 / np.maximum(n_out, 1))
            gap = mean + (gap - mean) * (varied / (varied + noise) if self.gap == "case" else 0.0)
        deviation = np.sqrt(variance)
        return excess / deviation, gap / deviation, residual / deviation
