# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Output defences: MONAI transforms from a raw prediction to what may leave the model.

Each exists as an array transform of one item and as a dictionary transform (``HardMaskd`` with its aliases
``HardMaskD`` and ``HardMaskDict``). For batches, and for bundles that are left as they are, there is
:class:`~monai_mia.defences.DefendedInferer`. None needs a training, and none protects weights.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscrete, Transform
from monai.utils import convert_to_tensor
from scipy.optimize import minimize_scalar
from torch import Tensor

from monai_mia.defences.smoothing import PLANES, blurred, bounding_box, gaussian_matrix
from monai_mia.errors import InputError
from monai_mia.signals.release import CLIP, Release, boundary_distance, log_likelihood_map

__all__ = [
    "ClipConfidence",
    "GaussianNoise",
    "HardMask",
    "OutputDefence",
    "RoundProbabilities",
    "SmoothBoundary",
    "Temperature",
    "TopClasses",
    "keyed_digest",
]

Kind = Literal["logits", "probabilities"]
Activation = Literal["softmax", "sigmoid"]

# Voxels defended at once. The same on every device, because noise is drawn slab by slab.
_SLAB = 1 << 16

# Noisy probabilities are clipped here from below, as by He et al. (2020), so that something is left to renormalise.
_FLOOR = 1e-6


class OutputDefence(Transform):
    """Base of the array transforms. By itself it is the activation.

    Args:
        release: whether it is given ``logits`` or ``probabilities``.
        activation: ``softmax`` (the channels are classes) or ``sigmoid`` (each channel is a label of its own).
        output: what it returns: ``probabilities``, or ``logits`` whose activation they are (logarithms or log-odds of
            probabilities clipped to [1e-12, 1 - 1e-12]), for what applies the activation afterwards.
    """

    needs_image = False

    def __init__(
        self, release: Kind = "logits", activation: Activation = "softmax", output: Kind = "probabilities"
    ) -> None:
        for name, value, allowed in (
            ("release", release, ("logits", "probabilities")),
            ("activation", activation, ("softmax", "sigmoid")),
            ("output", output, ("logits", "probabilities")),
        ):
            if value not in allowed:
                raise InputError(f"{name} must be {' or '.join(allowed)}, got {value!r}.")
        self.release = release
        self.activation = activation
        self.output = output

    def __call__(self, prediction: Tensor, image: Tensor | None = None) -> Tensor:
        """Defend one prediction.

        Args:
            prediction: shape (C, *spatial), 2D or 3D, on any device.
            image: what the network was given, for defences that are fixed per case.

        Returns:
            Shape (C, *spatial), at least float32, with the affine and meta data of the prediction if it has any.

        Raises:
            InputError: the prediction is not finite, not of that shape, or not what ``release`` says.
        """
        plain = convert_to_tensor(prediction, track_meta=False).detach()
        Release(plain, self.release, self.activation)  # refuses what cannot be defended
        plain = plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain
        defended = self.defend(plain, None if image is None else convert_to_tensor(image, track_meta=False))
        if isinstance(prediction, MetaTensor):
            defended = MetaTensor(defended, meta=prediction.meta, applied_operations=prediction.applied_operations)
        return defended

    def defend(self, values: Tensor, image: Tensor | None) -> Tensor:
        """The output for plain values, shape (C, *spatial); slab by slab, to need little memory beside them."""
        flat = values.flatten(1)
        result = torch.empty_like(flat)
        draw = self.noise_of(values, image)
        for start in range(0, flat.shape[1], _SLAB):
            slab = flat[:, start : start + _SLAB]
            result[:, start : start + _SLAB] = self._released(self.change(self._logits_or_probabilities(slab), draw))
        return result.reshape(values.shape)

    def noise_of(self, values: Tensor, image: Tensor | None) -> Callable[[Tensor], Tensor] | None:
        """Where noise for a slab comes from."""
        return None

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Defended probabilities, shape (C, V); ``p`` may be overwritten."""
        return p

    def _logits_or_probabilities(self, slab: Tensor) -> Tensor:
        return self._probabilities(slab)

    def _probabilities(self, slab: Tensor) -> Tensor:
        if self.release == "logits":
            return slab.softmax(dim=0) if self.activation == "softmax" else slab.sigmoid()
        p = slab.clamp(0, 1)
        return p / p.sum(dim=0) if self.activation == "softmax" else p

    def _logits(self, slab: Tensor) -> Tensor:
        return slab if self.release == "logits" else _inverse(slab, self.activation)

    def _activated(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=0) if self.activation == "softmax" else logits.sigmoid()

    def _released(self, p: Tensor) -> Tensor:
        return p if self.output == "probabilities" else _inverse(p, self.activation)


class HardMask(OutputDefence):
    """Only the predicted label of each voxel: the argmax of softmax, or p >= 0.5 of each sigmoid channel.

    It keeps the argmax. It is no defence against label-only attacks, such as thresholds on Dice.

    Args:
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: with ``logits``, those of the one-hot mask.
        one_hot: whether a softmax mask is one-hot, shape (C, *spatial), or class indices, shape (1, *spatial).

    Source: Chobola et al. (2023), whose code rounds logits of one-channel networks instead; this one does not.
    """

    def __init__(
        self,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
        one_hot: bool = False,
    ) -> None:
        super().__init__(release, activation, output)
        self.one_hot = one_hot

    def defend(self, values: Tensor, image: Tensor | None) -> Tensor:
        """The mask, float32."""
        if self.activation == "sigmoid":
            mask = AsDiscrete(threshold=0.0 if self.release == "logits" else 0.5)(values)
        else:
            flat = values.flatten(1)
            slabs = range(0, flat.shape[1], _SLAB)
            index = torch.cat([_first_largest(flat[:, start : start + _SLAB]) for start in slabs])
            one_hot = values.shape[0] if self.one_hot or self.output == "logits" else None
            mask = AsDiscrete(to_onehot=one_hot)(index.float().reshape(1, *values.shape[1:]))
        return self._released(convert_to_tensor(mask, track_meta=False))


class GaussianNoise(OutputDefence):
    r"""Gaussian noise on logits or probabilities, fixed per case by a secret key.

    The noise is drawn from HMAC-SHA256 of the key over the image. The same query gets the same answer, bit for bit, so
    that nothing is gained by asking twice; another case gets independent noise. **An adversary who changes the image a
    little gets new noise**, and the mean of n such answers has it only :math:`1/\sqrt n` as large: limit the queries.

    The argmax is not kept. Probabilities are clipped to [1e-6, 1] and renormalised.

    Args:
        sigma: standard deviation, at least 0: nats on logits, in probability otherwise.
        key: the secret, a non-empty string; who has it can take the noise away.
        space: where it is added, ``logits`` or ``probabilities``.
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: as :class:`OutputDefence`.

    Without an image the noise is fixed by the prediction. Then models with the same key have different noise, but an
    inference that is not repeatable to the last bit, as on a GPU, gets new noise each time.

    It is drawn on the CPU by NumPy's Philox with a 128-bit key of its own, so that every device adds the same;
    ``torch.Generator`` on a CPU has 2^32 seeds, few enough to try them all.

    Source: He et al. (2020), with noise that averages away. Access: none needed. Cost: no shadow models.
    """

    needs_image = True

    def __init__(
        self,
        sigma: float,
        key: str | None,
        space: Kind = "probabilities",
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if not 0 <= sigma < math.inf:
            raise InputError(f"sigma must be at least 0 and finite, got {sigma}.")
        if space not in ("logits", "probabilities"):
            raise InputError(f"space must be logits or probabilities, got {space!r}.")
        self.sigma = sigma
        self.space = space
        self._key = _secret(key)

    def noise_of(self, values: Tensor, image: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Standard normal noise of the case, slab by slab."""
        digest = keyed_digest(self._key, values if image is None else image)
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))

        def draw(like: Tensor) -> Tensor:
            drawn = generator.standard_normal(tuple(like.shape), dtype=np.float32)
            return torch.from_numpy(drawn).to(like.device, like.dtype)

        return draw

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """See the class."""
        assert noise is not None
        drawn = noise(p)
        noisy = torch.add(p, drawn, alpha=self.sigma, out=drawn)
        if self.space == "logits":
            return self._activated(noisy)
        if self.activation == "sigmoid":
            return noisy.clamp_(0, 1)
        noisy.clamp_(_FLOOR, 1)
        return noisy.div_(noisy.sum(dim=0))

    def _logits_or_probabilities(self, slab: Tensor) -> Tensor:
        return self._logits(slab) if self.space == "logits" else self._probabilities(slab)


class RoundProbabilities(OutputDefence):
    """Probabilities rounded to a number of decimals, still with the sum 1 and the same argmax.

    With softmax by largest remainders: every value is rounded down, and the units that are left go to the classes that
    lost most, so that no value moves by a unit or more. Where this ties the predicted class with one before it, a unit
    more moves from that one to it. With sigmoid each value is rounded, and 0.5 is avoided: states stay what they are.

    Args:
        decimals: 0 to 5; a unit is 10^-decimals.
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: as :class:`OutputDefence`.

    Example:
        >>> p = torch.tensor([0.45, 0.44, 0.11]).reshape(3, 1, 1)
        >>> RoundProbabilities(1, release="probabilities")(p).flatten()
        tensor([0.5000, 0.4000, 0.1000])
    """

    def __init__(
        self,
        decimals: int = 1,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if decimals not in range(6):
            raise InputError(f"decimals must be an integer from 0 to 5, got {decimals}. float32 holds no more.")
        self.decimals = int(decimals)

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """See the class."""
        scale, unit = 10**self.decimals, 10.0**-self.decimals
        if self.activation == "sigmoid":
            rounded = p.mul(scale).round_().div_(scale)
            above, below = rounded.clamp(min=min(0.5 + unit, 1.0)), rounded.clamp(max=max(0.5 - unit, 0.0))
            return torch.where(p >= 0.5, above, below)
        predicted = _first_largest(p)
        scaled = p.mul_(scale)
        units: Tensor = scaled.floor()
        remainder = scaled.sub_(units)
        left = scale - units.sum(dim=0)
        ranks = _ranks(remainder)
        units += _bytes(ranks < left.to(ranks.dtype))  # much faster than comparing integers with floats
        tied = (_first_largest(units) != predicted).nonzero()[:, 0]
        if len(tied):
            few = units[:, tied]
            one = torch.ones_like(few[:1])
            few.scatter_add_(0, _first_largest(few).long()[None], -one)
            units[:, tied] = few.scatter_add_(0, predicted[tied].long()[None], one)
        return units.div_(scale)


class TopClasses(OutputDefence):
    """The k likeliest classes of each voxel; the others get 0, and the rest is renormalised. It keeps the argmax.

    Args:
        k: number of classes; 1 is the one-hot mask.
        n_classes: number of classes of the network, to refuse a larger k at once; None: when it is asked.
        release: as :class:`OutputDefence`.
        activation: ``softmax``.
        output: as :class:`OutputDefence`.

    Source: `Shokri et al. (2017) <https://arxiv.org/abs/1610.05820>`_, section VIII, without renormalising.
    """

    def __init__(
        self,
        k: int,
        n_classes: int | None = None,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if activation != "softmax":
            raise InputError(
                f"activation must be softmax for the top classes, got {activation!r}. Labels that may overlap have no "
                "order; use RoundProbabilities or ClipConfidence."
            )
        self.k = k
        self._check(n_classes)

    def _check(self, n_classes: int | None) -> None:
        if not (isinstance(self.k, int) and self.k >= 1 and (n_classes is None or self.k <= n_classes)):
            among = "" if n_classes is None else f" to the number of classes, {n_classes}"
            raise InputError(f"k must be an integer from 1{among}, got {self.k}.")

    def defend(self, values: Tensor, image: Tensor | None) -> Tensor:
        """See the class."""
        self._check(int(values.shape[0]))
        return super().defend(values, image)

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """See the class."""
        p.mul_(_bytes(_ranks(p) < self.k))
        return p.div_(p.sum(dim=0))


class Temperature(OutputDefence):
    """Logits divided by a temperature. It keeps the argmax, and is invertible: who knows or guesses it undoes it.

    It adds no privacy against such an adversary; it calibrates, and it misleads attacks with fixed thresholds.

    Args:
        temperature: above 0; above 1 predictions are less sure.
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: as :class:`OutputDefence`.

    Source: `Guo et al. (2017) <https://arxiv.org/abs/1706.04599>`_.
    """

    def __init__(
        self,
        temperature: float,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature must be above 0 and finite, got {temperature}.")
        self.temperature = temperature

    @classmethod
    def fit(
        cls,
        logits: Iterable[Tensor],
        labels: Iterable[Tensor],
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> Temperature:
        """The temperature of the least negative log-likelihood over all voxels, between 0.05 and 20.

        Args:
            logits: one item a case, shape (C, *spatial); of held-out non-members, or members look like everybody.
            labels: of each, class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid.
            activation: as :class:`OutputDefence`.
            output: as :class:`OutputDefence`.

        Raises:
            InputError: there are no cases, or no temperature in that range is the best.
        """
        cases: list[tuple[Tensor, Tensor]] = [
            (convert_to_tensor(z, track_meta=False), convert_to_tensor(y, track_meta=False))
            for z, y in zip(logits, labels, strict=True)
        ]
        if not cases:
            raise InputError("logits must be of at least one held-out case, got none.")
        voxels = sum(z[0].numel() for z, _ in cases)

        def loss(log_temperature: float) -> float:
            scale = math.exp(-log_temperature)
            total = sum(
                float(log_likelihood_map(Release(z.double() * scale, activation=activation), y).sum()) for z, y in cases
            )
            return -total / voxels

        low, high = math.log(0.05), math.log(20)
        best = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
        if min(best - low, high - best) < 1e-3:
            raise InputError(
                f"temperature must have a best value between 0.05 and 20, got {math.exp(best):g}. Fit it on held-out "
                "cases, on which the network is neither always right nor no better than chance."
            )
        return cls(math.exp(best), "logits", activation, output)

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """See the class; ``p`` are logits."""
        return self._activated(p / self.temperature)

    def _logits_or_probabilities(self, slab: Tensor) -> Tensor:
        return self._logits(slab)


class ClipConfidence(OutputDefence):
    """No probability above a maximum; what is cut goes to the other classes in proportion. It keeps the argmax.

    With sigmoid probabilities are clipped to [1 - maximum, maximum].

    Args:
        maximum: above 0.5, at most 1.
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: as :class:`OutputDefence`.
    """

    def __init__(
        self,
        maximum: float = 0.9,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if not 0.5 < maximum <= 1:
            raise InputError(f"maximum must be above 0.5 and at most 1, got {maximum}. At 0.5 classes would tie.")
        self.maximum = maximum

    def change(self, p: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """See the class."""
        if self.activation == "sigmoid":
            return p.clamp_(1 - self.maximum, self.maximum)
        # Products with bytes: several times faster than masked_fill and where.
        over, rest = _bytes(p > self.maximum), p.mul_(_bytes(p <= self.maximum)).sum(dim=0)  # over: one class at most
        clipped = reduce(torch.bitwise_or, over)
        sure = clipped * (rest <= CLIP)
        p *= rest.clamp_(min=CLIP).reciprocal_().mul_(1 - self.maximum).mul_(clipped).add_(1 - clipped)
        if sure.any():
            p.masked_fill_(sure.bool(), (1 - self.maximum) / (len(p) - 1))
            p.mul_(1 - over)
        return p.add_(over, alpha=self.maximum)


class SmoothBoundary(OutputDefence):
    """Probabilities smoothed by a Gaussian near the predicted boundaries, where members are best told apart.

    The argmax is not kept: thin structures may vanish.

    Args:
        sigma: standard deviation of the Gaussian, voxels, above 0.
        band: width of the band on each side of a boundary, voxels (Chebyshev distance), at least 1.
        release: as :class:`OutputDefence`.
        activation: as :class:`OutputDefence`.
        output: as :class:`OutputDefence`.
    """

    def __init__(
        self,
        sigma: float = 1.0,
        band: int = 3,
        release: Kind = "logits",
        activation: Activation = "softmax",
        output: Kind = "probabilities",
    ) -> None:
        super().__init__(release, activation, output)
        if not 0 < sigma < math.inf:
            raise InputError(f"sigma must be above 0 and finite, got {sigma}.")
        if not (isinstance(band, int) and 1 <= band <= 255):
            raise InputError(f"band must be an integer from 1 to 255, got {band}.")
        self.sigma = sigma
        self.band = band

    def defend(self, values: Tensor, image: Tensor | None) -> Tensor:
        """See the class."""
        result = self._probabilities(values)
        label = _first_largest(result)[None] if self.activation == "softmax" else (result >= 0.5).to(torch.uint8)
        near = boundary_distance(label, self.band) > 0
        if near.any():
            sharp, result = result, result.clone()
            gauss = {size: gaussian_matrix(size, self.sigma, result) for size in near.shape}
            for start in range(0, len(near), PLANES):
                planes = near[start : start + PLANES]
                if planes.any():
                    box = bounding_box(planes)
                    box = (slice(start + box[0].start, start + box[0].stop), *box[1:])
                    for source, target in zip(sharp, result, strict=True):
                        target[box] = torch.where(near[box], blurred(source, box, gauss), source[box])
        return self._released(result)


def keyed_digest(key: bytes, case: Tensor) -> bytes:
    """HMAC-SHA256 of a case's values, the same on every device; 32 bytes."""
    values = convert_to_tensor(case, track_meta=False).detach().to("cpu", torch.float32).contiguous() + 0.0  # -0 is 0
    code = hmac.new(key, repr(tuple(values.shape)).encode(), hashlib.sha256)
    code.update(values.numpy().data)
    return code.digest()


def _secret(key: str | None) -> bytes:
    if not isinstance(key, str) or not key.strip():
        raise InputError(
            f"key must be a secret string, got {'none' if key is None else 'an empty or other value'}. Make one with "
            "python -c 'import secrets; print(secrets.token_hex())', keep it, and give it as key (noise_key in the "
            "overlay)."
        )
    return key.encode()


def _inverse(p: Tensor, activation: str) -> Tensor:
    """Logits whose activation is p."""
    log = p.clamp(min=CLIP).log_()
    return log if activation == "softmax" else log - (1 - p).clamp_(min=CLIP).log_()


def _bytes(mask: Tensor) -> Tensor:
    """A mask as 0 and 1 in the same memory; arithmetic with them is several times faster than with booleans."""
    return mask.view(torch.uint8)


def _first_largest(values: Tensor) -> Tensor:
    """Argmax over the leading axis, several times faster than torch's; the first of equals."""
    best = values[0].clone()
    index = torch.zeros(best.shape, dtype=torch.uint8 if len(values) < 256 else torch.int32, device=best.device)
    for c, value in enumerate(values[1:], start=1):
        index.masked_fill_(value > best, c)  # the last to exceed all before it
        torch.maximum(best, value, out=best)
    return index


def _ranks(values: Tensor) -> Tensor:
    """Place of each value over the leading axis in falling order, from 0; of equals the first is before."""
    n = len(values)
    if n > 8:
        return values.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    ranks = torch.arange(n, dtype=torch.uint8, device=values.device)[:, None].repeat(1, values.shape[1])
    for a in range(n):
        for b in range(a + 1, n):
            after = _bytes(values[b] > values[a])
            ranks[a] += after
            ranks[b] -= after
    return ranks
