# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Perturbed queries: the model is asked about a case again, slightly changed, and how its answer changes is a signal.

They are deterministic: the same case changed in the same way is the same query, so that asking twice tells no more
than asking once. What the adversary sees of an answer is its release, after any output defence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import access_of, segmentation_signals

__all__ = ["Flip", "Noise", "PerturbedQueries", "Shift", "Variant", "WindowOverlap"]


class Variant(Protocol):
    """One way of asking about a case again.

    Attributes:
        name: suffix of its signals: lower case, digits and underscores.
    """

    @property
    def name(self) -> str:
        """Suffix of its signals."""

    def change(self, image: Tensor, case_id: str) -> Tensor:
        """The image to ask about, of the shape of the image."""

    def undo(self, values: Tensor) -> Tensor:
        """An answer of shape (C, *spatial), mapped back to the voxels of the image."""

    def inferer(self, inferer: Any) -> Any:
        """The inferer to ask through."""


@dataclass(frozen=True)
class _Same:
    """A variant that changes nothing."""

    def change(self, image: Tensor, case_id: str) -> Tensor:
        """The image itself."""
        return image

    def undo(self, values: Tensor) -> Tensor:
        """The answer itself."""
        return values

    def inferer(self, inferer: Any) -> Any:
        """The same inferer."""
        return inferer


@dataclass(frozen=True)
class Flip(_Same):
    """The image mirrored along a spatial axis.

    Example:
        >>> Flip(0).name, Flip(0).change(torch.tensor([[1, 2, 3]]), "case").tolist()
        ('flip_0', [[3, 2, 1]])
    """

    axis: int = 0

    @property
    def name(self) -> str:
        """``flip_<axis>``."""
        return f"flip_{self.axis}"

    def change(self, image: Tensor, case_id: str) -> Tensor:
        """The mirrored image."""
        return image.flip(_dim(image, self.axis))

    def undo(self, values: Tensor) -> Tensor:
        """The answer, mirrored back."""
        return values.flip(_dim(values, self.axis))


@dataclass(frozen=True)
class Shift(_Same):
    """The image moved by a few voxels along a spatial axis; its last plane fills what is left empty.

    The planes that leave the volume are never asked about; mapped back, they get the answer of the nearest that stays.

    Example:
        >>> Shift(0, 1).change(torch.tensor([[1, 2, 3]]), "case").tolist()
        [[1, 1, 2]]
        >>> Shift(0, 1).undo(torch.tensor([[1, 1, 2]])).tolist()
        [[1, 2, 2]]
        >>> Shift(0, -2).name
        'shift_0_minus_2'
    """

    axis: int = 0
    voxels: int = 1

    @property
    def name(self) -> str:
        """``shift_<axis>_<voxels>``, with ``minus_`` where it is negative."""
        return f"shift_{self.axis}_{'minus_' if self.voxels < 0 else ''}{abs(self.voxels)}"

    def change(self, image: Tensor, case_id: str) -> Tensor:
        """The moved image."""
        return self._moved(image, self.voxels)

    def undo(self, values: Tensor) -> Tensor:
        """The answer, moved back."""
        return self._moved(values, -self.voxels)

    def _moved(self, values: Tensor, voxels: int) -> Tensor:
        dim = _dim(values, self.axis)
        n = values.shape[dim]
        return values.index_select(dim, (torch.arange(n, device=values.device) - voxels).clamp(0, n - 1))


@dataclass(frozen=True)
class Noise(_Same):
    """Gaussian noise on the image, the same whenever the same case is asked about.

    Attributes:
        sigma: its standard deviation, in standard deviations of the image.
        seed: seed of the noise; that of a case depends on it and on the case's name.
    """

    sigma: float = 0.1
    seed: int = 0

    @property
    def name(self) -> str:
        """``noise_<sigma>``, with ``_`` for the decimal point."""
        return f"noise_{self.sigma:g}".replace(".", "_").replace("-", "_")

    def change(self, image: Tensor, case_id: str) -> Tensor:
        """The noisy image."""
        rng = torch.Generator().manual_seed(int(files.digest([self.seed, case_id])[:15], 16))
        noise = torch.randn(image.shape, generator=rng).to(image)  # drawn on the CPU: the same for every device
        return image + self.sigma * image.float().std().to(image) * noise


@dataclass(frozen=True)
class WindowOverlap(_Same):
    """The same image through other sliding windows: where windows that overlap disagree, the answer changes.

    Who asks must run the inference, which users of a service do not, although they need no more of its answer than for
    other perturbations. It says nothing about images that fit into one window. For a
    :class:`monai.inferers.SlidingWindowInferer` or any inferer with an attribute ``overlap``.

    Attributes:
        overlap: the overlap to ask with, in [0, 1).
    """

    overlap: float = 0.5

    @property
    def name(self) -> str:
        """``overlap_<overlap>``, with ``_`` for the decimal point."""
        return f"overlap_{self.overlap:g}".replace(".", "_")

    def inferer(self, inferer: Any) -> Any:
        """The inferer with the other overlap."""
        if not hasattr(inferer, "overlap"):
            raise InputError(
                f"inferer must have sliding windows for {self.name}, got {type(inferer).__name__}. Leave it out."
            )
        other = copy.copy(inferer)
        other.overlap = self.overlap
        return other


@dataclass(frozen=True)
class PerturbedQueries:
    """Signals from a few perturbed queries of each case; to be recorded beside those of the case itself.

    For a variant v (``flip_0``, say):

    ====================  ==================================================================  =====================
    signal                definition                                                          access
    ====================  ==================================================================  =====================
    agreement_v           Dice of v's mask with the mask of the plain query                   mask
    soft_agreement_v      Dice of v's probabilities with the mask of the plain query          probabilities
    <signal>_v            a signal of :func:`~monai_mia.signals.segmentation_signals` of v    that of the signal
    agreement             mean of agreement_v over the perturbations                          mask
    soft_agreement        mean of soft_agreement_v over the perturbations                     probabilities
    robust_<signal>       mean of <signal>_v over the perturbations                           that of the signal
    ====================  ==================================================================  =====================

    Both agreements are averaged over foreground classes, and count a class that both lack as 1. ``agreement`` and
    ``robust_dice`` are the scores of a label-only adversary without and with the reference.

    Cost: one more query of each model a variant; four by default, so that querying takes about five times as long.
    Sources: label-only attacks from the robustness to small changes, `Choquette-Choo et al. (2021)
    <https://arxiv.org/abs/2007.14321>`_, on segmentation `Zhang et al. (2023)
    <https://doi.org/10.1109/TDSC.2022.3154029>`_; several queries a case, `Carlini et al. (2022)
    <https://arxiv.org/abs/2112.03570>`_.

    Attributes:
        perturbations: the ways of asking again; their names differ.
        signals: which signals of a variant's release are kept; by default ``dice`` and the ``log_likelihood`` and
            ``log_odds`` of the foreground, as far as the release and the label allow.
    """

    perturbations: Sequence[Variant] = (Flip(0), Shift(0, 1), Shift(1, 1), Noise(0.1))
    signals: Sequence[str] | None = None
    needs: ClassVar[tuple[str, ...]] = ("image", "case_id", "ask", "inferer")

    def __post_init__(self) -> None:
        """Refuse perturbations that could not be told apart, and signals that do not exist."""
        names = [variant.name for variant in self.perturbations]
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"perturbations must be at least one, with names that differ, got {', '.join(names) or 'none'}."
            )
        for signal in self.signals or ():
            access_of(signal)

    def __call__(
        self,
        release: Release,
        label: Tensor | None,
        *,
        image: Tensor,
        case_id: str,
        ask: Callable[..., Release],
        inferer: Any,
    ) -> dict[str, float]:
        """All signals of one case.

        Args:
            release: the plain query's.
            label: the reference, or None.
            image: shape (channels, *spatial).
            case_id: the case's name.
            ask: asks the model about an image through an inferer.
            inferer: the plain query's.
        """
        plain = _mask(release)
        found: dict[str, dict[str, float]] = {}
        for variant in self.perturbations:
            answer = ask(variant.change(image, case_id), variant.inferer(inferer))
            back = Release(variant.undo(answer.values), answer.kind, answer.activation, answer.n_classes)
            answers = segmentation_signals(back, plain)
            part = {name: answers[signal] for name, signal in _RESPONSES.items() if signal in answers}
            values = segmentation_signals(back, label)
            kept = [name for name in _KEPT if name in values] if self.signals is None else self.signals
            missing = [name for name in kept if name not in values]
            if missing:
                raise InputError(
                    f"signals of PerturbedQueries must be some of {', '.join(values)}, got {missing[0]!r}."
                )
            found[variant.name] = part | {name: values[name] for name in kept}
        row = {f"{name}_{variant}": value for variant, part in found.items() for name, value in part.items()}
        for name in next(iter(found.values())):
            mean = sum(part[name] for part in found.values()) / len(found)
            row[name if name in _RESPONSES else f"robust_{name}"] = mean
        return row


# Responses: signals of a variant's answer, with the mask of the plain query in place of the reference.
_RESPONSES = {"agreement": "dice", "soft_agreement": "soft_dice"}

_KEPT = ("dice", "log_likelihood_foreground", "log_odds_foreground")


def _dim(values: Tensor, axis: int) -> int:
    if not 0 <= axis < values.ndim - 1:
        raise InputError(f"axis of a perturbed query must be in [0, {values.ndim - 1}), got {axis}.")
    return axis + 1


def _mask(release: Release) -> Tensor:
    """The released mask: class indices (1, *spatial) for softmax, 0 or 1 (C, *spatial) for sigmoid."""
    if release.kind == "mask":
        return release.values.long()
    if release.activation == "softmax":
        return release.values.argmax(0, keepdim=True)
    return (release.values > (0 if release.kind == "logits" else 0.5)).long()
