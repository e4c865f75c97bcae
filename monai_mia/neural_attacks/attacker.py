# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The attacker: a MONAI network trained on the shadows' maps by a MONAI engine, and asked about the target's."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from monai.networks.nets import ResNet
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_mia import __version__
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import Array, missing_maps, require_option, require_shadows
from monai_mia.errors import InputError
from monai_mia.handlers.resuming import tensor_bytes
from monai_mia.neural_attacks.inputs import INPUTS, MapInputs
from monai_mia.neural_attacks.networks import BestEpoch, PooledNetwork, fit
from monai_mia.records import files
from monai_mia.records.design import TARGET
from monai_mia.records.folder import StudyFolder
from monai_mia.records.maps import RecordedMaps
from monai_mia.records.streams import Stream, stream

__all__ = ["MapAttacker"]

# Trained networks that a process keeps for the next target.
_N_FITS = 32

_fits: OrderedDict[str, dict[str, Tensor]] = OrderedDict()


# Small, since memberships are few; batch norm, since norms of one case would remove how well it fits.
_SMALL = partial(ResNet, "basic", [1, 1, 1, 1], [8, 16, 32, 32], conv1_t_size=3, conv1_t_stride=2, no_max_pool=True)
_ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)


@dataclass(frozen=True)
class MapAttacker:
    """A MONAI network that tells members from the map released about them.

    The network sees patches of the input maps, or whole ones, and gives one logit per case. It is trained by
    :class:`monai.engines.SupervisedTrainer` with binary cross-entropy on every (shadow, case) pair. With ``folds`` of
    at least 2, the network that scores a patient was trained on other patients' maps only, as where the shadow's data
    are not the target's. The best epoch is chosen on the shadows' maps of the patients left out, never the target's.

    Cost: see ``n_shadows``. Access: as ``inputs`` and ``mask`` say.

    Attributes:
        name: unique among the attacks of an audit.
        inputs: what the network reads, one of :data:`INPUTS`: the released ``prediction`` (C channels); that and the
            one-hot reference (2C); the map of the ``loss`` (1, cross-entropy in nats); a ``concatenation`` of
            probabilities and one-hot reference (2C); or ``calibrated`` log-odds (16, see :func:`calibrated_maps`).
        mask: whether the attacker takes the released maps' argmax first: the adversary who only gets masks.
        spatial_dims: 3, or 2: slices along the last axis of volumes. 2D maps are read as they are with either.
        patch_size: edges of a patch, ``spatial_dims`` integers, of which 2D maps take the first two; None: the whole
            map or slice.
        n_patches: patches (or slices) of a case in one training step.
        n_queries: patches (or slices) of a case when it is scored; evenly spaced slices where the slice is whole.
        foreground: whether patches are centred at random on the foreground (of the reference, or of the prediction
            where the attacker reads no reference) rather than anywhere.
        pooling: ``mean`` of the patches' logits, or ``attention``: learned weights over the patches' features.
        network: makes the network that reads a patch: any of MONAI's that takes ``spatial_dims``, ``in_channels`` (or
            ``n_input_channels``) and ``num_classes`` (or ``out_channels``). In a config:
            ``{_target_: DenseNet121, _mode_: callable, dropout_prob: 0.2}``.
        optimizer: makes the optimizer of the parameters, likewise.
        batch_size: (shadow, case) pairs in a training step.
        epochs: passes over all pairs, at most; few shadows or cases need more of them for as many steps.
        patience: epochs without a better loss on patients left out after which training stops; the best epoch is kept.
            0: the last epoch is kept, whatever it is.
        folds: parts into which patients are split, each scored by a network trained on the others (two: on half of the
            patients); 1: the network is trained on all of them, those that it scores included.
        flips: whether patches are flipped at random in training.
        downsample: factor by which input maps are averaged, after the loss or log-odds was computed.
        n_shadows: how many of the shadows are used, from the first; None: all.
        fitted_on: output folder of another study with recorded maps, on whose shadows the network is trained instead
            (He et al.'s independent shadows).
        cache_dir: folder in which trained networks are kept, or None; several targets share them.
        decides: whether a score above 0 is the attacker's claim.
        seed: of weights, order, patches and folds.
    """

    name: str
    inputs: str = "loss"
    mask: bool = False
    spatial_dims: int = 3
    patch_size: Sequence[int] | None = None
    n_patches: int = 1
    n_queries: int = 1
    foreground: bool = False
    pooling: Literal["mean", "attention"] = "mean"
    network: Callable[..., nn.Module] = _SMALL
    optimizer: Callable[..., Any] = _ADAMW
    batch_size: int = 16
    epochs: int = 6
    patience: int = 2
    folds: int = 2
    flips: bool = True
    downsample: int = 1
    n_shadows: int | None = None
    fitted_on: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    decides: bool = True
    seed: int = 0
    needs_maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        require_option("inputs", self.inputs, INPUTS)
        require_option("pooling", self.pooling, ("mean", "attention"))
        if self.spatial_dims not in (2, 3):
            raise InputError(f"spatial_dims must be 2 or 3, got {self.spatial_dims}.")
        if self.patch_size is not None and len(self.patch_size) != self.spatial_dims:
            raise InputError(f"patch_size must be {self.spatial_dims} integers, got {self.patch_size}.")
        for option in ("n_patches", "n_queries", "batch_size", "epochs", "folds", "downsample"):
            if getattr(self, option) < 1:
                raise InputError(f"{option} must be at least 1, got {getattr(self, option)}.")
        if self.patience and self.folds < 2:
            raise InputError(
                f"folds must be at least 2 where patience is {self.patience}, got {self.folds}: the best epoch is "
                "chosen on patients left out. Set patience: 0, or more folds."
            )

    @property
    def signals(self) -> tuple[str, ...]:
        """None; it reads maps."""
        return ()

    @property
    def access(self) -> str:
        """What the adversary needs: ``mask`` or ``probabilities``, and ``+label`` where the reference is read."""
        return ("mask" if self.mask else "probabilities") + ("" if self.inputs == "prediction" else "+label")

    @property
    def min_shadows(self) -> int:
        """1 shadow; 4, in complementary pairs, to calibrate; none if it is trained elsewhere."""
        if self.inputs == "calibrated":
            return 4
        return 0 if self.fitted_on is not None else 1

    def __call__(self, view: AdversaryView) -> Array:
        """One logit per case, shape (N,); above 0: more likely a member, as the network sees it.

        Raises:
            InputError: no maps were recorded, or too few shadows.
        """
        require_shadows(self, view)
        if not isinstance(view.maps, RecordedMaps):
            raise missing_maps(self.name)
        asked = MapInputs(self, view)
        learnt = asked if self.fitted_on is None else self._elsewhere(StudyFolder(self.fitted_on), asked)
        folds = self._folds(learnt.patient_ids)
        scores = np.zeros(asked.n_cases)
        for fold in range(self.folds):
            # Trained elsewhere, each fold's network knows no patient here: all are asked about all, and averaged.
            cases = np.arange(asked.n_cases) if learnt is not asked else np.flatnonzero(folds == fold)
            if not len(cases):
                continue
            network = self._trained(learnt, folds, fold)
            views = [self._logits(network, asked, pairs) for pairs in asked.views(cases)]
            scores[cases] += np.mean(views, axis=0) / (1 if learnt is asked else self.folds)
        return scores

    def _folds(self, patient_ids: Sequence[str]) -> NDArray[np.int64]:
        """To which part each case belongs; a patient is in one."""
        names, index = np.unique(np.asarray(patient_ids), return_inverse=True)
        drawn = stream(Stream.NEURAL_ATTACK_FOLDS, self.seed).permutation(len(names)) % self.folds
        return np.asarray(drawn[index])

    def _elsewhere(self, folder: StudyFolder, asked: MapInputs) -> MapInputs:
        """The shadows of another study."""
        table = folder.table()
        shadows = [model for model in table.model_ids if not model.startswith(TARGET)]
        maps = folder.map_store().of(table, TARGET, shadows)
        cohort = MapInputs(self, replace(AdversaryView.of(table, TARGET, shadows), maps=maps))
        if cohort.n_channels != asked.n_channels:
            raise InputError(
                f"maps of {folder.root} must have as many channels as this study's, {asked.n_channels}, got "
                f"{cohort.n_channels}. Map its labels to this study's first."
            )
        return cohort

    def _trained(self, cohort: MapInputs, folds: NDArray[np.int64], fold: int) -> PooledNetwork:
        """The network for the patients of one fold, trained on the others'; kept for other targets."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = PooledNetwork(self.network, cohort.dims, cohort.n_channels, self.pooling)
        key = files.digest([__version__, self._fingerprint(), cohort.fingerprint, folds.tolist(), fold])
        path = None if self.cache_dir is None else Path(self.cache_dir) / f"{key[:32]}.pt"
        if key in _fits:
            network.load_state_dict(_fits[key])
        elif path is not None and files.is_current(path, key):
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            self._train(network, cohort, folds, fold)
            if path is not None:
                files.private_folder(path.parent)
                files.write_artefact(path, tensor_bytes(network.state_dict()), key=key, attack=self.name)
        _fits[key] = network.state_dict()
        while len(_fits) > _N_FITS:
            _fits.popitem(last=False)
        return network

    def _fingerprint(self) -> list[Any]:
        """All that a trained network depends on, but for the maps."""
        ignored = ("name", "n_queries", "fitted_on", "cache_dir", "decides")
        names = [option.name for option in fields(self) if option.name not in ignored]
        return [[name, named(getattr(self, name))] for name in names]

    def _train(self, network: PooledNetwork, cohort: MapInputs, folds: NDArray[np.int64], fold: int) -> None:
        pairs = cohort.pairs
        left_out = folds[pairs[:, 1]] == fold if self.folds > 1 else np.zeros(len(pairs), dtype=bool)
        train = pairs[~left_out]
        rng = stream(Stream.NEURAL_ATTACK_BATCHES, self.seed, fold)
        if self.inputs == "calibrated":
            network.standardise(cohort(*pair) for pair in rng.permutation(train)[:64].tolist())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        handlers = []
        if self.patience:
            handlers.append(BestEpoch(lambda: self._loss(network, cohort, pairs[left_out]), network, self.patience))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            items = _Pairs(train, partial(self._item, cohort, rng))
            fit(network, items, self.optimizer, self.epochs, self.batch_size, device, handlers)
        network.to("cpu")

    def _loss(self, network: PooledNetwork, cohort: MapInputs, pairs: NDArray[np.int64]) -> float:
        """Binary cross-entropy on pairs left out, in nats."""
        chosen = stream(Stream.NEURAL_ATTACK_VALIDATION, self.seed).permutation(pairs)[:1024]
        margin = self._logits(network, cohort, chosen) * np.where(cohort.member[chosen[:, 0] - 1, chosen[:, 1]], 1, -1)
        return float(np.logaddexp(0, -margin).mean())

    def _item(self, cohort: MapInputs, rng: np.random.Generator, model: int, case: int) -> dict[str, Tensor]:
        patches = cohort.patches(model, case, self.n_patches, rng)
        if self.flips:
            axes = tuple(2 + axis for axis in range(cohort.dims) if rng.random() < 0.5)
            patches = np.flip(patches, axes)
        member = torch.tensor([float(cohort.member[model - 1, case])])
        return {"image": torch.from_numpy(np.ascontiguousarray(patches)), "label": member}

    def _logits(self, network: PooledNetwork, cohort: MapInputs, pairs: NDArray[np.int64]) -> Array:
        """The network's logit of each (model, case) pair, shape (len(pairs),)."""
        device = next(network.parameters()).device
        training, logits = network.training, []
        network.eval()
        with torch.inference_mode():
            for start in range(0, len(pairs), self.batch_size):
                batch = [
                    cohort.patches(model, case, self.n_queries, stream(Stream.NEURAL_ATTACK_QUERIES, self.seed, case))
                    for model, case in pairs[start : start + self.batch_size].tolist()
                ]
                logits.append(network(torch.from_numpy(np.stack(batch)).to(device))[:, 0].double().cpu().numpy())
        network.train(training)
        return np.concatenate(logits)


@dataclass(frozen=True)
class _Pairs:
    """(shadow, case) pairs as a data set."""

    pairs: NDArray[np.int64]
    item: Callable[[int, int], dict[str, Tensor]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.item(*self.pairs[index].tolist())


def named(value: Any) -> Any:
    """An option as JSON: a factory by what it makes and with what."""
    if isinstance(value, partial):
        return [
            named(value.func),
            [named(item) for item in value.args],
            {k: named(v) for k, v in value.keywords.items()},
        ]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return list(value) if isinstance(value, tuple) else value
