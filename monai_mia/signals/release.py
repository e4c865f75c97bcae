# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""One released prediction, voxel by voxel: maps that are pure functions of one case, and shells around boundaries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from monai_mia.errors import InputError

__all__ = [
    "Release",
    "bare_network",
    "boundary_distance",
    "entropy_map",
    "log_likelihood_map",
    "log_odds_map",
    "margin_map",
    "maximum_probability_map",
]

#: Width of the boundary band, in voxels (Chebyshev distance to the nearest voxel of another label).
BAND = 3

#: Probabilities are clipped to [CLIP, 1 - CLIP] before a logarithm; logits are never clipped.
CLIP = 1e-12

# Probabilities below this lose digits in float32.
_UNDERFLOW = 1e-30


@dataclass(frozen=True)
class Release:
    """What leaves the model about one case.

    Attributes:
        values: shape (C, *spatial) for ``logits`` and ``probabilities``; for a ``mask`` class indices of shape
            (1, *spatial) with softmax, and 0 or 1 of shape (C, *spatial) with sigmoid.
        kind: ``logits``, ``probabilities`` or ``mask``.
        activation: ``softmax`` (one of C classes a voxel, class 0 is the background) or ``sigmoid`` (C labels that
            may overlap).
        n_classes: C; needed for a softmax mask only.
    """

    values: Tensor
    kind: Literal["logits", "probabilities", "mask"] = "logits"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    n_classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse a release that no signal could be read from."""
        if self.kind not in ("logits", "probabilities", "mask"):
            raise InputError(f"release must be logits, probabilities or mask, got {self.kind!r}.")
        if self.activation not in ("softmax", "sigmoid"):
            raise InputError(f"activation must be softmax or sigmoid, got {self.activation!r}.")
        if self.values.ndim not in (3, 4):
            raise InputError(f"prediction must be of shape (C, *spatial) in 2D or 3D, got {tuple(self.values.shape)}.")
        if self.activation == "softmax" and self.classes < 2:
            raise InputError(
                f"prediction must have at least 2 channels with softmax, got {self.classes}. "
                "Set activation: sigmoid for a one-channel network."
            )
        low, high = _range(self.values)
        if not math.isfinite(low + high):
            raise InputError("prediction must be finite, got NaN or infinity. Was the network trained to the end?")
        if self.kind != "logits":
            top = self.classes - 1 if self.kind == "mask" and self.activation == "softmax" else 1
            whole = self.kind == "probabilities" or bool((self.values == self.values.round()).all())
            if low < -1e-3 or high > top + 1e-3 or not whole:
                raise InputError(
                    f"prediction must be {self.kind}, in [0, {top}], got values from {low:g} to {high:g}. Apply the "
                    "activation, or release logits."
                )

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        if self.kind == "mask" and self.activation == "softmax":
            if self.n_classes is None:
                raise InputError("n_classes must be given for a released mask, got None.")
            return self.n_classes
        return int(self.values.shape[0])


def log_likelihood_map(release: Release, label: Tensor) -> Tensor:
    r"""Log-probability of the reference at each voxel: minus the cross-entropy.

    Args:
        release: logits or probabilities.
        label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid, where
            channels are averaged.

    Returns:
        Shape (*spatial), nats, at most 0, dtype of the release.

    Access: probabilities+label.

    Example:
        >>> logits = torch.zeros(4, 2, 2)  # four classes, all alike
        >>> log_likelihood_map(Release(logits), torch.zeros(1, 2, 2))[0, 0]  # -ln 4
        tensor(-1.3863)
    """
    return _voxels(release, label).log_likelihood.reshape(release.values.shape[1:])


def log_odds_map(release: Release, label: Tensor) -> Tensor:
    r"""Log-odds of the reference at each voxel, :math:`\log p/(1-p)`, which do not saturate where p is near 1.

    Args:
        release: logits (exact, never clipped) or probabilities (clipped to [1e-12, 1 - 1e-12]).
        label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid, where
            channels are averaged.

    Returns:
        Shape (*spatial), nats, float64, finite.

    Access: probabilities+label. Source: scaled logit of `Carlini et al. (2022) <https://arxiv.org/abs/2112.03570>`_.

    Example:
        >>> log_odds_map(Release(torch.tensor([[[0.0]], [[2.0]]])), torch.ones(1, 1, 1)).round(decimals=4)
        tensor([[2.]], dtype=torch.float64)
    """
    return _voxels(release, label).log_odds.reshape(release.values.shape[1:])


def entropy_map(release: Release) -> Tensor:
    """Entropy of the predicted distribution at each voxel, in nats, at least 0; shape (*spatial).

    Access: probabilities. Source: `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_. With sigmoid the
    binary entropies of the channels are averaged.
    """
    return _voxels(release).entropy.reshape(release.values.shape[1:])


def maximum_probability_map(release: Release) -> Tensor:
    """Probability of the predicted class at each voxel; shape (*spatial).

    Access: probabilities. Source: `Hintersdorf et al. (2022) <https://arxiv.org/abs/2111.09076>`_. With sigmoid that
    of the likelier state, averaged over channels.
    """
    return _voxels(release).maximum_probability.reshape(release.values.shape[1:])


def margin_map(release: Release) -> Tensor:
    """Probability of the likeliest class minus that of the second, in [0, 1]; shape (*spatial).

    Access: probabilities. With sigmoid that of the likelier state minus that of the other, averaged over channels.
    """
    return _voxels(release).margin.reshape(release.values.shape[1:])


def boundary_distance(label: Tensor, band: int = BAND) -> Tensor:
    """In which shell around the boundaries of the reference a voxel lies; no distance transform is needed.

    Args:
        label: class indices, shape (1, *spatial), or one channel a label, shape (C, *spatial); integers.
        band: number of shells.

    Returns:
        Shape (*spatial), uint8: k if a voxel of another label is k voxels away (Chebyshev distance, both sides of
        a boundary), 0 if none is within ``band``. The edge of the volume is no boundary.

    Example:
        >>> boundary_distance(torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]]), band=2)
        tensor([[0, 2, 1, 1, 2, 0, 0, 0]], dtype=torch.uint8)
    """
    high = low = label
    within = torch.zeros(label.shape[1:], dtype=torch.uint8, device=label.device)  # at how many radii one is in reach
    for _ in range(band):
        high, low = _extend(high, torch.maximum), _extend(low, torch.minimum)
        within += any_of(high != low)
    return (band + 1 - within) * (within > 0)


def any_of(channels: Tensor) -> Tensor:
    """``channels.any(0)``, but fast for one channel, the usual case."""
    return channels[0] if len(channels) == 1 else channels.any(0)


def _extend(values: Tensor, extreme) -> Tensor:  # type: ignore[no-untyped-def]
    """Extreme over the neighbours along each spatial axis in turn: over a cube of 3."""
    for dim in range(1, values.ndim):
        n = values.shape[dim]
        out = values.clone()
        ahead, behind = out.narrow(dim, 0, n - 1), out.narrow(dim, 1, n - 1)
        extreme(ahead, values.narrow(dim, 1, n - 1), out=ahead)
        extreme(behind, values.narrow(dim, 0, n - 1), out=behind)
        values = out
    return values


@dataclass(frozen=True)
class Voxels:
    """A run of V voxels of one case, flattened: ``values`` (C, V), ``label`` (1 or C, V) or None."""

    values: Tensor
    label: Tensor | None
    kind: str
    activation: str

    @cached_property
    def log_p(self) -> Tensor:
        """Log-probabilities of the C classes; for sigmoid of state 1 of the C labels."""
        if self.kind == "logits":
            return F.log_softmax(self.values, 0) if self.activation == "softmax" else F.logsigmoid(self.values)
        return self.values.clamp(min=CLIP).log()

    @cached_property
    def p(self) -> Tensor:
        """Probabilities, shape (C, V)."""
        if self.kind == "logits":
            return self.log_p.exp() if self.activation == "softmax" else self.values.sigmoid()
        return self.values

    @cached_property
    def reference(self) -> Tensor:
        """The reference: class indices (V,) for softmax, bool (C, V) for sigmoid."""
        assert self.label is not None
        return self.label[0].long() if self.activation == "softmax" else self.label > 0

    @cached_property
    def one_hot(self) -> Tensor:
        """The reference of softmax as bool (C, V)."""
        return torch.arange(len(self.values), device=self.values.device)[:, None] == self.reference

    @cached_property
    def log_likelihood(self) -> Tensor:
        if self.activation == "softmax":
            return self.log_p.gather(0, self.reference[None])[0]
        if self.kind == "logits":
            return F.logsigmoid(torch.where(self.reference, self.values, -self.values)).mean(0)
        return torch.where(self.reference, self.values, 1 - self.values).clamp(min=CLIP).log().mean(0)

    @property
    def log_odds(self) -> Tensor:
        if self.activation == "sigmoid":
            values = self.values.double()
            if self.kind == "logits":
                return torch.where(self.reference, values, -values).mean(0)
            return torch.where(self.reference, values, 1 - values).clamp(CLIP, 1 - CLIP).logit().mean(0)
        if self.kind == "probabilities":
            return self.values.gather(0, self.reference[None])[0].double().clamp(CLIP, 1 - CLIP).logit()
        # 1 - p as the sum of the other classes, which keeps its digits where p is near 1 ...
        rest = (self.p * ~self.one_hot).sum(0).double()
        odds = self.log_likelihood.double() - rest.log()
        lost = rest < _UNDERFLOW  # ... until they vanish in float32, beyond 70 nats; those are rare, and done exactly.
        if lost.any():
            values = self.values[:, lost].double()
            own = self.one_hot[:, lost]
            odds[lost] = values[own.T.nonzero(as_tuple=True)[::-1]] - values.masked_fill(own, -torch.inf).logsumexp(0)
        return odds

    @property
    def entropy(self) -> Tensor:
        if self.activation == "softmax":
            return -(self.p * self.log_p).sum(0)
        p = self.p
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean(0)

    @property
    def maximum_probability(self) -> Tensor:
        p = self.p
        return p.amax(0) if self.activation == "softmax" else torch.maximum(p, 1 - p).mean(0)

    @property
    def margin(self) -> Tensor:
        if self.activation == "softmax":
            first, second = self.ranked(2)
            return first - second
        return (2 * self.p - 1).abs().mean(0)

    def ranked(self, n: int) -> list[Tensor]:
        """The n largest probabilities of softmax, in falling order."""
        ranked = [self.p[0], *(torch.full_like(self.p[0], -1.0) for _ in range(n - 1))]
        for p in self.p[1:]:  # several times faster than topk over the leading axis
            for k in range(n - 1, 0, -1):
                ranked[k] = torch.maximum(ranked[k], torch.minimum(ranked[k - 1], p))
            ranked[0] = torch.maximum(ranked[0], p)
        return ranked

    @property
    def predicted(self) -> Tensor:
        """Which foreground labels are predicted, bool: (C - 1, V) for softmax, (C, V) for sigmoid."""
        if self.activation == "softmax":
            best, index = self.values[0], torch.zeros_like(self.values[0], dtype=torch.int64)
            for c, value in enumerate(self.values[1:], start=1):  # ten times faster than argmax over the leading axis
                index = torch.maximum(index, (value > best) * c)  # the last to exceed all before it
                best = torch.maximum(best, value)
            return foreground_of(index, len(self.values))
        return self.values > (0 if self.kind == "logits" else 0.5)


def foreground_of(index: Tensor, n_classes: int) -> Tensor:
    """Masks of the C - 1 foreground classes from class indices, shape (N,) to (C - 1, N)."""
    return index[None] == torch.arange(1, n_classes, device=index.device)[:, None]


def _voxels(release: Release, label: Tensor | None = None) -> Voxels:
    if release.kind == "mask":
        raise InputError("release must be logits or probabilities for this map, got a mask.")
    if label is not None:
        check_label(label, release.activation, release.classes, tuple(release.values.shape[1:]))
        label = label.to(release.values.device).flatten(1)
    return Voxels(at_least_single(release.values).flatten(1), label, release.kind, release.activation)


def at_least_single(values: Tensor) -> Tensor:
    """At least float32: probabilities and their logarithms do not fit in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _range(values: Tensor) -> tuple[float, float]:
    """Smallest and largest value in one pass; NaN if there is one."""
    low, high = torch.aminmax(values)
    return float(low), float(high)


def check_label(label: Tensor, activation: str, classes: int, spatial: tuple[int, ...]) -> None:
    """Refuse a reference that does not belong to a release of this activation, number of classes and size."""
    expected = (1 if activation == "softmax" else classes, *spatial)
    if tuple(label.shape) != expected:
        raise InputError(f"label must be of shape {expected} ({activation}), got {tuple(label.shape)}.")
    low, high = _range(label)
    limit = classes if activation == "softmax" else 2
    if low < 0 or high >= limit:
        raise InputError(f"label must be integers in [0, {limit}), got values from {low:g} to {high:g}.")


def bare_network(network: nn.Module) -> nn.Module:
    """The network itself, whose state has the names that a bundle expects."""
    return network.module if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else network
