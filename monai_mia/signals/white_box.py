# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""White-box signals: what the weights themselves tell about a case, through the gradient of its loss.

The adversary has the weights, so that no output defence stands in between.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from monai.utils import evenly_divisible_all_gather
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn import functional as F  # noqa: N812

from monai_mia.errors import InputError
from monai_mia.signals.release import Release, bare_network

__all__ = ["WhiteBox", "case_gradient", "influence"]

# Places that a coordinate of a gradient is added to in its sketch.
_HASHES = 4


def case_gradient(
    network: nn.Module,
    inferer: Any,
    image: Tensor,
    label: Tensor,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    loss: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Gradient of a case's loss with respect to every parameter, through the bundle's inferer.

    It is that of the stitched prediction, exactly, with memory for the outputs of all windows and the activations of
    one batch of them: the outputs are stitched as leaves of a graph of their own first, and the gradient that arrives
    at each leaf is pulled back through the network when its window is seen again.

    Args:
        network: a network whose output are logits; it is evaluated in evaluation mode, and not changed.
        inferer: any MONAI inferer that combines what the network says of parts of the image.
        image: shape (channels, *spatial).
        label: class indices, shape (1, *spatial), for softmax; 0 or 1, shape (C, *spatial), for sigmoid.
        activation: ``softmax`` or ``sigmoid`` (cross-entropies averaged over channels).
        loss: a loss of the stitched prediction, shape (1, C, *spatial), and the label, shape (1, 1 or C, *spatial); by
            default the mean cross-entropy over the volume, in nats.

    Returns:
        The gradient of each parameter, by name, in its shape.
    """
    network = bare_network(network)
    with torch.inference_mode(False), torch.enable_grad():
        # Copies, since nothing made in inference mode can take part in a gradient.
        network, inferer = copy.deepcopy(network).eval(), copy.deepcopy(inferer)
        image, label = image.clone()[None], label.to(image.device, copy=True)[None]
        parameters = {name: value.detach() for name, value in network.named_parameters()}
        leaves: list[Tensor] = []

        def leaf(window: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            with torch.no_grad():
                output = network(window, *args, **kwargs)
            if not isinstance(output, Tensor):
                raise InputError(f"network must give one tensor for white-box signals, got {type(output).__name__}.")
            leaves.append(output.detach().requires_grad_())
            return leaves[-1].clone()  # an inferer may weight it in place

        prediction = inferer(image, leaf)
        label = label.to(prediction.device)
        if loss is not None:
            value = copy.deepcopy(loss).to(prediction.device)(prediction, label)
        elif activation == "softmax":
            value = F.cross_entropy(prediction, label[:, 0].long())
        else:
            value = F.binary_cross_entropy_with_logits(prediction, (label > 0).to(prediction.dtype))
        arriving = iter(torch.autograd.grad(value, leaves))
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}

        def pulled(window: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            def forward(weights: Mapping[str, Tensor]) -> Any:
                return functional_call(network, dict(weights), (window, *args), kwargs)

            output, pull = vjp(forward, parameters)[:2]
            for name, gradient in pull(next(arriving))[0].items():
                total[name] += gradient
            return output.detach()  # type: ignore[no-any-return]

        with torch.no_grad():
            inferer(image, pulled)
    return total


def influence(gradients: Tensor, damping: float = 0.1) -> tuple[Tensor, Tensor]:
    r"""How much each case pulls at the weights, in the metric of all cases' gradients.

    With the gradients :math:`g_i`, their empirical Fisher matrix :math:`F = \frac{1}{N}\sum_i g_i g_i^\top`, and
    :math:`H = F + \lambda I`:

    Args:
        gradients: shape (N, K).
        damping: :math:`\lambda` in mean eigenvalues of F within its rank, :math:`\operatorname{tr} F / \min(N, K)`.

    Returns:
        The self-influence :math:`g_i^\top H^{-1} g_i`, at least 0, and the alignment :math:`g_i^\top H^{-1} \bar g`
        with the mean gradient of all cases, its own among them; each of shape (N,), float64.
    """
    gradients = gradients.double()
    n, k = gradients.shape
    fisher = gradients.T @ gradients / n
    shift = damping * fisher.trace() / min(n, k)
    damped = fisher + max(float(shift), torch.finfo(torch.float64).tiny) * torch.eye(k, dtype=torch.float64)
    solved = torch.cholesky_solve(gradients.T, torch.linalg.cholesky(damped)).T
    return (solved * gradients).sum(1), solved @ gradients.mean(0)


@dataclass
class WhiteBox:
    """White-box signals of each case: how far, and where to, the case would still pull the weights.

    =================================  ===========================================================================
    signal                             definition
    =================================  ===========================================================================
    negative_gradient_norm             minus the Euclidean norm of the gradient of the case's loss
    negative_gradient_norm_<layer>     the same for the parameters of one layer, ``.`` replaced by ``_``
    negative_influence                 minus the self-influence of :func:`influence`
    negative_alignment                 minus the alignment of :func:`influence`
    =================================  ===========================================================================

    Higher = better fit: what a model has learnt pulls no longer. The gradients of members sum up to little, so that
    what aligns with the mean gradient of all cases is rather a non-member. The last two compare a case with all that
    the recorder sees, without their membership. They keep one sketch a case: a gradient of more than ``sketch``
    parameters is projected onto that many numbers at random, which keeps inner products up to an error of about
    ``sketch ** -0.5`` of the product of the norms.

    Cost: two forward passes and one backward pass more a case, no shadow. Access: white-box. Sources: gradient norms of
    `Nasr et al. (2019) <https://arxiv.org/abs/1812.00910>`_; influence as in the inverse Hessian attack of `Suri et al.
    (2024) <https://arxiv.org/abs/2406.11544>`_, whose Hessian is that of the training loss and whose other gradients
    are those of all other training cases. An adversary has neither; here the empirical Fisher matrix and all queried
    cases stand for them, and the terms are signals of their own.

    Attributes:
        loss: see :func:`case_gradient`; the bundle's own training loss is a good choice. By default the mean
            cross-entropy.
        layers: whether each layer's norm is recorded, too.
        influence: whether the last two are.
        damping: see :func:`influence`.
        sketch: numbers that are kept of a gradient; memory is ``sketch ** 2`` and ``sketch`` a case.
        max_parameters: a larger network is refused for the influence.
        seed: seed of the projection.
        definition: the loss and its options in words, for the key of a file of signals.
    """

    loss: nn.Module | None = field(default=None, repr=False)
    layers: bool = True
    influence: bool = True
    damping: float = 0.1
    sketch: int = 1024
    max_parameters: int = 5_000_000
    seed: int = 0
    definition: str = field(default="mean cross-entropy", init=False)
    needs: ClassVar[tuple[str, ...]] = ("image", "network", "inferer")
    _sketches: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options that give no finite influence."""
        if not self.damping > 0:
            raise InputError(f"damping must be positive, got {self.damping}.")
        if self.sketch < _HASHES or self.sketch % _HASHES:
            raise InputError(f"sketch must be a multiple of {_HASHES}, got {self.sketch}.")
        if self.loss is not None:
            self.definition = _told(self.loss)

    def start(self) -> None:
        """Forget the cases of the model before."""
        self._sketches.clear()

    def __call__(
        self, release: Release, label: Tensor | None, *, image: Tensor, network: nn.Module, inferer: Any
    ) -> dict[str, float]:
        """The norms of one case; of the release only the activation counts."""
        if label is None:
            raise InputError("label must be given for white-box signals, got None.")
        gradient = case_gradient(network, inferer, image, label, release.activation, self.loss)
        squares: dict[str, Tensor] = {}
        for name, value in gradient.items():
            layer = name.rpartition(".")[0].replace(".", "_") or name
            squares[layer] = squares.get(layer, 0) + value.double().square().sum()
        total = torch.stack(list(squares.values())).sum()
        found = {"negative_gradient_norm": -float(total.sqrt())}
        if self.layers:
            found |= {f"negative_gradient_norm_{layer}": -float(value.sqrt()) for layer, value in squares.items()}
        if self.influence:
            self._sketches.append(self._sketch(torch.cat([value.flatten() for value in gradient.values()])))
        return found

    def finish(self) -> dict[str, list[float]]:
        """What takes the gradients of all cases."""
        if not self.influence:
            return {}
        own = torch.stack(self._sketches) if self._sketches else torch.zeros(0, self.sketch, dtype=torch.float64)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        everyone = evenly_divisible_all_gather(own)
        counts = evenly_divisible_all_gather(torch.tensor([len(own)])).tolist()
        mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        pull, alignment = influence(everyone, self.damping)
        return {"negative_influence": (-pull[mine]).tolist(), "negative_alignment": (-alignment[mine]).tolist()}

    def _sketch(self, gradient: Tensor) -> Tensor:
        """A gradient's inner products with others, in few numbers: each coordinate is added to four of them."""
        n = len(gradient)
        if n > self.max_parameters:
            raise InputError(
                f"network must have at most {self.max_parameters} parameters for the influence, got {n}. Set "
                "WhiteBox(influence=False) for gradient norms alone."
            )
        gradient = gradient.double().cpu()
        if n <= self.sketch:
            return gradient
        rng = torch.Generator().manual_seed(self.seed)
        width = self.sketch // _HASHES
        parts = []
        for _ in range(_HASHES):
            place = torch.randint(width, (n,), generator=rng)
            sign = torch.randint(2, (n,), generator=rng) * 2 - 1
            parts.append(torch.zeros(width, dtype=torch.float64).index_add_(0, place, gradient * sign))
        sketch: Tensor = torch.cat(parts) / _HASHES**0.5
        return sketch


def _told(loss: nn.Module) -> str:
    """A loss with all its options: a module's own repr leaves out most of them."""
    parts = []
    for name, part in loss.named_modules():
        options = {key: value for key, value in vars(part).items() if isinstance(value, (bool, int, float, str))}
        parts.append(f"{name} {type(part).__name__} {sorted((key, str(value)) for key, value in options.items())}")
    return "; ".join([*parts, *(f"{name} {value.tolist()}" for name, value in loss.state_dict().items())])
