# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Per-voxel calibration: where in a volume the target makes fewer errors than models that did not train on it.

Every map is compared, voxel by voxel, with the mean map of the shadows that did not train on the case (*out of
sample*), and the difference is reduced to a few numbers. Two references tell where to look:

- regions: shells around the reference's boundary, its interior, and where out-of-sample predictions disagree;
- the out-of-sample *error*, the reference (one-hot) minus the mean predicted probabilities. It is minus the gradient of
  the cross-entropy by the logits, so to first order a training step on the case moves its prediction along it, and,
  since a network is smooth, along the error smoothed over neighbours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from monai_mia.attacks.adversary import AdversaryView, Maps
from monai_mia.attacks.attack import Array, missing_maps, require_shadows
from monai_mia.errors import InputError

__all__ = ["FEATURES", "VoxelCalibration", "require_maps", "voxel_features"]

Feature = Literal[
    "log_odds_boundary",
    "log_odds_shell_1",
    "log_odds_shell_2",
    "log_odds_shell_3",
    "log_odds_interior",
    "log_odds_disagreement",
    "error_recovered",
    "error_recovered_smooth",
    "error_recovered_logits",
    "error_recovered_logits_smooth",
    "agreement",
    "agreement_smooth",
    "agreement_logits",
]

#: What the difference of the maps is reduced to; see :class:`VoxelCalibration`.
FEATURES: tuple[Feature, ...] = get_args(Feature)

# Logits of sure voxels are unbounded and would outweigh all others.
_CLIP = 8.0
# Width of the smoothing, in voxels (standard deviation of a Gaussian).
_SMOOTH = 1.0
# Shells, as :data:`monai_mia.signals.BAND`, which needs torch.
_BAND = 3
# Out-of-sample probabilities of the reference between these are in doubt.
_DOUBT = (0.1, 0.9)
# Several attacks read the same features, and several targets the same shadows'; computing them takes minutes.
_KEPT = 16

_Key = tuple[object, ...]
_computed: OrderedDict[_Key, Array] = OrderedDict()


def require_maps(attack: object, view: AdversaryView) -> Maps:
    """The recorded maps, or an error that names the attack."""
    if view.maps is None:
        raise missing_maps(getattr(attack, "name", str(attack)))
    if getattr(view.maps, "release", "logits") == "mask":
        raise InputError(
            f"maps must be of logits or probabilities for attack {getattr(attack, 'name', attack)!r}, got masks. Take "
            "the attack off the list."
        )
    return view.maps


@dataclass(frozen=True)
class VoxelCalibration:
    r"""One number from the target's map minus the shadows' out-of-sample mean map.

    With out-of-sample probabilities :math:`\bar p`, their error :math:`e = y - \bar p` against the one-hot reference,
    and the difference :math:`d = p - \bar p`, ``feature`` is one of

    - ``error_recovered``: :math:`\langle d, e \rangle / \langle e, e \rangle`, the share of the error of models that
      did not see the case which the target does not make: 0 for such a model, 1 if the target draws the reference
      exactly; ``_smooth`` with a smoothed :math:`e` as the direction, ``_logits`` with logits (centred over classes,
      clipped to 8 nats) in place of probabilities in :math:`d`, which goes above 1;
    - ``agreement``: :math:`\langle d, y \rangle` per foreground voxel: more probability on the reference; ``_smooth``
      with a smoothed reference, ``_logits`` in logits;
    - ``log_odds_<region>``: mean difference of the log-odds of the reference (clipped to 8 nats) over ``boundary``
      (within 3 voxels, both sides), ``shell_1`` to ``shell_3``, ``interior`` (foreground beyond them) or
      ``disagreement`` (out-of-sample probability of the reference in [0.1, 0.9]). An empty region gives 0.

    Where no shadow left a case out, all shadows stand in. Access: probabilities+label. Cost: 1 shadow, better with
    more, and recorded maps (``Study(maps=True)``). Source: ours; the linearisation behind it is that of `Ilyas et al.
    (2022) <https://arxiv.org/abs/2202.00622>`_.

    Attributes:
        feature: what the difference is reduced to.
        level: from where differences count: the ``out``-of-sample mean map, or the ``middle`` between that and the mean
            map of the shadows that did train on the case, which takes all shadows and so has less noise.
    """

    feature: Feature = "error_recovered"
    level: Literal["out", "middle"] = "out"
    signals: ClassVar[tuple[str, ...]] = ()
    access: ClassVar[str] = "probabilities+label"
    min_shadows: ClassVar[int] = 1
    needs_maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse an unknown feature."""
        if self.feature not in FEATURES:
            raise InputError(f"feature must be one of {', '.join(FEATURES)}, got {self.feature!r}.")
        if self.level not in ("out", "middle"):
            raise InputError(f"level must be one of out, middle, got {self.level!r}.")

    @property
    def name(self) -> str:
        """``voxelwise: <feature>``, and the level."""
        return f"voxelwise: {self.feature}" + (", from the middle" if self.level == "middle" else "")

    def __call__(self, view: AdversaryView) -> Array:
        """Scores, shape (N,); a share, nats, or probability, as the feature is."""
        require_shadows(self, view)
        features = voxel_features(require_maps(self, view), view.shadow_member, level=self.level)
        return features[:, FEATURES.index(self.feature)].copy()


def voxel_features(
    maps: Maps, shadow_member: NDArray[np.bool_], player: int | None = None, level: Literal["out", "middle"] = "out"
) -> Array:
    """All :data:`FEATURES` of one model against the shadows, shape (N, K).

    Args:
        maps: the recorded maps.
        shadow_member: whether a shadow trained on a case, shape (M, N).
        player: the shadow that plays the target, compared with the others less the one that is its complement (which
            would tell by its absence on which side the player is); None for the target.
        level: from where differences count: the ``out``-of-sample mean map, or the ``middle`` between that and the mean
            map of the shadows that did train on the case, which has less noise.
    """
    models = list(range(len(shadow_member))) if player is not None else [None]
    keys, cases = getattr(maps, "keys", None), tuple(getattr(maps, "case_ids", ()))
    if keys is None:
        found = _features(maps, shadow_member, [player])[0]
    else:
        # The shadows' features do not depend on the target.
        known = tuple(keys)[player is not None :]
        key: _Key = (known, cases, player is None, shadow_member.shape, shadow_member.tobytes())
        if key not in _computed:
            _computed[key] = _features(maps, shadow_member, models)
            while len(_computed) > _KEPT:
                _computed.popitem(last=False)
        found = _computed[key][player or 0]
    return found[0] - found[1] / 2 if level == "middle" else np.array(found[0])


def opponents(member: NDArray[np.bool_], player: int | None, cohort: NDArray[np.bool_] | None = None) -> list[int]:
    """The shadows that a player is compared with: all but itself and its complement, if others remain."""
    if player is None:
        return list(range(len(member)))
    others = [m for m in range(len(member)) if m != player]
    own = member if cohort is None else member[:, cohort]
    return [m for m in others if not (own[m] == ~own[player]).all()] or others


def _features(maps: Maps, member: NDArray[np.bool_], players: Sequence[int | None]) -> Array:
    """For each player its features and those of its in-sample mean map (all are linear), shape (P, 2, N, K)."""
    against = [opponents(member, player) for player in players]
    result = np.empty((len(players), 2, member.shape[1], len(FEATURES)))
    for case in range(member.shape[1]):
        truth = _Truth.of(maps.label(case), maps.activation)
        shadows = [truth.read(maps.shadow(m, case)) for m in range(len(member))]
        known: dict[tuple[int, ...], tuple[_Reference, list[float]]] = {}
        for k, player in enumerate(players):
            rivals = tuple(against[k])
            if rivals not in known:
                reference = _Reference.of(truth, [shadows[m] for m in _outside(rivals, member[:, case])])
                inside = [shadows[m] for m in rivals if member[m, case]]
                known[rivals] = reference, [*reference.reduce(_mean(inside))] if inside else [0.0] * len(FEATURES)
            own = truth.read(maps.target(case)) if player is None else shadows[player]
            reference, gap = known[rivals]
            result[k, :, case] = [*reference.reduce(own)], gap
    return result


def _outside(rivals: Sequence[int], inside: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(m for m in rivals if not inside[m]) or tuple(rivals)


@dataclass(frozen=True)
class _Map:
    """A released map, flattened: clipped logits and probabilities, shape (C, V), log-odds of the reference, (V,)."""

    logits: NDArray[np.float32]
    p: NDArray[np.float32]
    log_odds: NDArray[np.float32]


def _mean(maps: Sequence[_Map]) -> _Map:
    return _Map(*(np.mean([getattr(item, name) for item in maps], axis=0) for name in ("logits", "p", "log_odds")))


@dataclass(frozen=True)
class _Truth:
    """The reference of one case: one-hot, shape (C, V), the same smoothed, and regions, shape (V,) each."""

    one_hot: NDArray[np.float32]
    smooth: NDArray[np.float32]
    regions: tuple[NDArray[np.bool_], ...]
    foreground: int
    spatial: tuple[int, ...]
    activation: str

    @classmethod
    def of(cls, label: NDArray[np.uint8], activation: str) -> _Truth:
        spatial = label.shape[1:]
        if activation == "softmax":
            classes = np.arange(max(2, int(label.max()) + 1))
            one_hot = (classes[:, None] == label[0].reshape(-1)).astype(np.float32)
        else:
            one_hot = label.reshape(len(label), -1).astype(np.float32)
        # Of labels that overlap, another number for each combination.
        places = np.tensordot(2 ** np.arange(len(label)), label.astype(np.int64), axes=1)
        index, shells = places.reshape(-1), _shells(places).reshape(-1)
        regions = (shells > 0, *(shells == k for k in range(1, _BAND + 1)), (index > 0) & (shells == 0))
        foreground = max(1, int((index > 0).sum()))
        return cls(one_hot, _smooth(one_hot, spatial), regions, foreground, spatial, activation)

    def read(self, values: NDArray[np.float32]) -> _Map:
        """A map of shape (C, *spatial); with softmax its logits are centred over the classes."""
        logits = values.reshape(len(values), -1)
        if self.activation == "sigmoid":
            logits = np.clip(logits, -_CLIP, _CLIP)
            own = np.where(self.one_hot > 0, logits, -logits).mean(axis=0)
            return _Map(logits, special.expit(logits), own)
        logits = np.clip(logits - logits.mean(axis=0), -_CLIP, _CLIP)
        p = np.exp(logits)
        total = p.sum(axis=0)
        likely = (p[: len(self.one_hot)] * self.one_hot).sum(axis=0)
        odds = np.log(likely) - np.log(np.maximum(total - likely, 1e-30))
        return _Map(logits, p / total, np.clip(odds, -_CLIP, _CLIP))


@dataclass(frozen=True)
class _Reference:
    """The out-of-sample mean of one case, and the directions and regions in which a map is compared with it."""

    truth: _Truth
    mean: _Map
    error: NDArray[np.float32]
    smooth_error: NDArray[np.float32]
    doubt: NDArray[np.bool_]

    @classmethod
    def of(cls, truth: _Truth, maps: Sequence[_Map]) -> _Reference:
        mean, one_hot = _mean(maps), truth.one_hot
        error = -mean.p
        error[: len(one_hot)] += one_hot
        absolute = np.abs(error)
        # The probability that the reference lacks: half of the absolute sum with softmax, the mean with sigmoid.
        missing = absolute.sum(axis=0) / 2 if truth.activation == "softmax" else absolute.mean(axis=0)
        return cls(
            truth,
            mean,
            error,
            _smooth(error, truth.spatial),
            (1 - missing >= _DOUBT[0]) & (1 - missing <= _DOUBT[1]),
        )

    def reduce(self, own: _Map) -> Iterator[float]:
        """The :data:`FEATURES` of a map, in order."""
        truth, classes = self.truth, len(self.truth.one_hot)
        d, d_logits, gain = own.p - self.mean.p, own.logits - self.mean.logits, own.log_odds - self.mean.log_odds
        for region in (*truth.regions, self.doubt):
            yield float(gain[region].mean()) if region.any() else 0.0
        error = max(float(np.vdot(self.error, self.error)), 1e-6)
        for change in (d, d_logits):
            yield float(np.vdot(change, self.error)) / error
            yield float(np.vdot(change, self.smooth_error)) / error
        yield float(np.vdot(d[:classes], truth.one_hot)) / truth.foreground
        yield float(np.vdot(d[:classes], truth.smooth)) / truth.foreground
        yield float(np.vdot(d_logits[:classes], truth.one_hot)) / truth.foreground


def _smooth(channels: NDArray[np.float32], spatial: tuple[int, ...]) -> NDArray[np.float32]:
    blurred = [ndimage.gaussian_filter(channel.reshape(spatial), _SMOOTH) for channel in channels]
    return np.stack(blurred).reshape(len(channels), -1)


def _shells(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """As :func:`monai_mia.signals.boundary_distance`: k within k voxels of another label, 0 beyond the band."""
    within = np.zeros(label.shape, dtype=np.int64)
    for radius in range(1, _BAND + 1):
        size = 2 * radius + 1
        within += ndimage.maximum_filter(label, size) != ndimage.minimum_filter(label, size)
    return (_BAND + 1 - within) * (within > 0)
