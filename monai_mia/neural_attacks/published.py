# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The neural attacks of the literature, and ours: options of :class:`~monai_mia.neural_attacks.MapAttacker`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from monai.networks.nets import ResNet

from monai_mia.attacks.attack import require_option
from monai_mia.neural_attacks.attacker import MapAttacker

__all__ = ["calibrated_maps", "concatenation", "learned_attacks", "structured_loss_map", "type_one", "type_two"]

Form = Literal["faithful", "corrected"]

#: What both papers' attacks have in common here: one shadow, 30 epochs, of which the last counts.
_FAITHFUL: dict[str, Any] = {"epochs": 30, "patience": 0, "flips": False, "n_shadows": 1}


def type_one(form: Form = "corrected", **options: Any) -> MapAttacker:
    """Chobola et al.'s Type-I attack: a classifier of the released prediction alone.

    ``faithful``: one shadow; whole slices, one drawn of each case in each of 30 epochs; a ResNet-34, NAdam 1e-4, binary
    cross-entropy, batches of 4, the last epoch, decision at 0.5. It differs from the paper in three ways: the network
    begins with random weights, not ImageNet's, which would be a download; patients are kept apart, in two folds, so
    that each network learns from half of the shadow's cases; the logits of eight slices of a volume are averaged.
    ``corrected``: all shadows, whole volumes at half the resolution, a small 3D network, the best epoch on patients
    left out.

    Args:
        form: ``faithful`` or ``corrected``.
        options: any of :class:`MapAttacker`.

    Access: probabilities. Source: `Chobola et al. (2023) <https://arxiv.org/abs/2212.01082>`_.
    """
    return _chobola("Type-I", "prediction", form, options)


def type_two(form: Form = "corrected", **options: Any) -> MapAttacker:
    """Chobola et al.'s Type-II attack: a classifier of prediction and reference, as :func:`type_one`.

    Access: probabilities+label. Source: `Chobola et al. (2023) <https://arxiv.org/abs/2212.01082>`_.
    """
    return _chobola("Type-II", "prediction+label", form, options)


def _chobola(name: str, inputs: str, form: str, options: dict[str, Any]) -> MapAttacker:
    require_option("form", form, ("faithful", "corrected"))
    faithful: dict[str, Any] = {
        "spatial_dims": 2,
        "n_queries": 8,
        "network": partial(ResNet, "basic", [3, 4, 6, 3], [64, 128, 256, 512], conv1_t_stride=2, bias_downsample=False),
        "optimizer": partial(torch.optim.NAdam, lr=1e-4),
        "batch_size": 4,
        **_FAITHFUL,
    }
    chosen = faithful if form == "faithful" else {"downsample": 2}
    return MapAttacker(**{"name": f"{name}, {form}", "inputs": inputs, **chosen, **options})


def structured_loss_map(form: Form = "corrected", **options: Any) -> MapAttacker:
    """He et al.'s structured loss map: a classifier of patches of the cross-entropy map, whose scores are averaged.

    ``faithful``: one shadow; slices; random square patches, trained one by one, six of them averaged for a case; a
    ResNet-50. The paper's patches are 90 pixels of maps at an eighth of the resolution of street scenes; give
    ``patch_size`` for other than 24. Its code has no training; Adam 1e-4 and 30 epochs are ours. It differs in three
    more ways: the stem is one 3x3 convolution, not three; the last stage halves the resolution, where the paper's keeps
    it; patients are kept apart, in two folds. ``corrected``: all shadows, cubes around the foreground, weighed by
    learned attention, a small 3D network, the best epoch on patients left out.

    Args:
        form: ``faithful`` or ``corrected``.
        options: any of :class:`MapAttacker`; ``fitted_on`` gives the independent form.

    Access: probabilities+label. Source: `He et al. (2020) <https://arxiv.org/abs/1912.09685>`_.
    """
    return _he("structured loss map", "loss", form, options)


def concatenation(form: Form = "corrected", **options: Any) -> MapAttacker:
    """He et al.'s other classifier: of probabilities and one-hot reference, as :func:`structured_loss_map`.

    Access: probabilities+label. Source: `He et al. (2020) <https://arxiv.org/abs/1912.09685>`_.
    """
    return _he("concatenation", "concatenation", form, options)


def _he(name: str, inputs: str, form: str, options: dict[str, Any]) -> MapAttacker:
    require_option("form", form, ("faithful", "corrected"))
    dims = options.get("spatial_dims", 2 if form == "faithful" else 3)
    faithful: dict[str, Any] = {
        "spatial_dims": dims,
        "patch_size": (24,) * dims,
        "n_queries": 6,
        "network": partial(ResNet, "bottleneck", [3, 4, 6, 3], [64, 128, 256, 512], conv1_t_size=3, conv1_t_stride=2),
        "optimizer": partial(torch.optim.Adam, lr=1e-4),
        "batch_size": 16,
        **_FAITHFUL,
    }
    corrected: dict[str, Any] = {
        "spatial_dims": dims,
        "patch_size": (24,) * dims,
        "n_patches": 2,
        "n_queries": 8,
        "foreground": True,
        "pooling": "attention",
    }
    return MapAttacker(
        **{"name": f"{name}, {form}", "inputs": inputs, **(faithful if form == "faithful" else corrected), **options}
    )


def calibrated_maps(**options: Any) -> MapAttacker:
    """Ours: a small 3D network on where the target fits a case better than models that never saw it.

    Per voxel, the log-odds of the reference minus their mean over the shadows that did not train on the case, less how
    much better the whole model fits; beside it the gap between shadows with and without the case, and their level;
    each in four regions (foreground and background, within one voxel of a boundary and beyond). When a shadow plays
    the target in training, it is calibrated without itself and without its complement, and the target without one
    pair, so that the number of shadows tells nothing.

    Cost: 4 shadows, in complementary pairs as :meth:`monai_mia.records.Design.randomised` draws them.
    Access: probabilities+label.

    Args:
        options: any of :class:`MapAttacker`.
    """
    return MapAttacker(**{"name": "calibrated maps", "inputs": "calibrated", "downsample": 2, **options})


def learned_attacks(n_shadow: int, **options: Any) -> list[MapAttacker]:
    """Every neural attack that ``n_shadow`` shadows allow; faithful forms, which use one shadow, for one only.

    Args:
        n_shadow: number of shadows, at least 0.
        options: of :class:`MapAttacker`, for all of them, such as ``downsample`` and ``cache_dir``.

    Example:
        >>> [attacker.name for attacker in learned_attacks(4)]
        ['Type-I, corrected', 'Type-II, corrected', 'structured loss map, corrected', 'concatenation, corrected', \
'calibrated maps']
    """
    makers = (type_one, type_two, structured_loss_map, concatenation)
    attackers = []
    if n_shadow >= 1:
        forms: tuple[Form, ...] = ("faithful", "corrected") if n_shadow == 1 else ("corrected",)
        attackers += [make(form, **options) for form in forms for make in makers]
    if n_shadow >= 4:
        attackers.append(calibrated_maps(**options))
    return attackers
