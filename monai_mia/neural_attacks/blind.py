# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The blind network: what a network makes of the images alone, without any model to audit."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from monai.data import Dataset
from monai.networks.nets import ResNet
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import nn

from monai_mia import __version__, statistics
from monai_mia.audit.controls import BlindScores
from monai_mia.data.volumes import image_loader
from monai_mia.errors import InputError
from monai_mia.neural_attacks.attacker import named
from monai_mia.neural_attacks.networks import PooledNetwork, fit
from monai_mia.records import files
from monai_mia.records.streams import Stream, stream

__all__ = ["BlindNetwork"]

# Smaller than an attacker's: it is trained once a fold, and sees each image once, not once a shadow.
_TINY = partial(ResNet, "basic", [1, 1, 1, 1], [8, 8, 16, 16], conv1_t_size=3, conv1_t_stride=2, no_max_pool=True)
_ADAMW = partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-2)


@dataclass(frozen=True)
class BlindNetwork:
    """A small MONAI network that tells members from non-members by the images alone: a blind control.

    It sees what statistics of an image miss: shape, texture, position. Images are resampled to a cube (or square) of
    ``size`` voxels an edge, whatever their field of view, and given twice: standardised over the cohort, so that
    brightness counts, and each by itself, so that contrast does. Each patient is scored by a network trained on the
    other folds' patients.

    Cost: ``folds`` trainings, each of ``epochs`` passes over the other folds' images; as much again for each of
    ``retrainings``. On one core it is a minute for 260 volumes with the defaults. Access: none, no model is asked.

    Attributes:
        size: edge of the images that the network sees, voxels.
        network: makes the network, as in :class:`MapAttacker`.
        optimizer: makes the optimizer of the parameters.
        batch_size: images in a training step.
        epochs: passes over the other folds' images; all of them, no epoch is chosen.
        folds: parts into which patients are split.
        flips: whether images are flipped at random in training.
        retrainings: how often all folds are trained again, on memberships that were dealt out anew, for an exact
            p-value. 0, or at least 20, with which 0.05 can be undercut; 0 gives a conservative p-value from the folds,
            see :meth:`~monai_mia.audit.controls.BlindScores.p_value`.
        seed: of folds, weights, order and dealings.
    """

    size: int = 24
    network: Callable[..., nn.Module] = _TINY
    optimizer: Callable[..., Any] = _ADAMW
    batch_size: int = 16
    epochs: int = 12
    folds: int = 5
    flips: bool = True
    retrainings: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that could not be carried out."""
        for option, lowest in (("size", 8), ("batch_size", 2), ("epochs", 1), ("folds", 2), ("seed", 0)):
            if getattr(self, option) < lowest:
                raise InputError(f"{option} must be at least {lowest}, got {getattr(self, option)}.")
        if 0 != self.retrainings < 20:
            raise InputError(
                f"retrainings must be 0 or at least 20, got {self.retrainings}: fewer could never give a p-value below "
                "0.05."
            )

    def __call__(
        self,
        cases: Sequence[Mapping[str, Any]],
        member: NDArray[np.bool_],
        path: str | Path | None = None,
        key: str = "",
    ) -> BlindScores:
        """Out-of-fold scores of the cases; no patient's network has seen an image of theirs.

        Args:
            cases: N cases with ``image`` (a path) and ``patient_id``.
            member: whether the target trained on each, shape (N,), bool.
            path: file that keeps the scores, or None.
            key: what the images are, for the file: a hash of the cohort.

        Returns:
            The scores: ranks within the fold, in (0, 1), so that folds can be compared.

        Raises:
            InputError: fewer patients than folds, or an image that cannot be read.
        """
        groups = [str(case["patient_id"]) for case in cases]
        if len(set(groups)) < self.folds:
            raise InputError(
                f"folds must be at most the number of patients, {len(set(groups))}, got {self.folds}. Set fewer folds."
            )
        key = files.digest([__version__, key, groups, np.asarray(member).tolist(), self._fingerprint()])
        if path is not None and files.is_current(Path(path), key):
            seconds = float(files.read_json(Path(path).with_suffix(".json"))["seconds"])
            with np.load(path) as kept:
                return BlindScores(kept["scores"], kept["folds"], kept["dealt"], kept["dealt_scores"], seconds)
        start = time.perf_counter()
        images = self._images(cases)
        folds = np.zeros(len(cases), dtype=np.int64)
        for number, part in enumerate(statistics.patient_folds(groups, self.seed, self.folds)):
            folds[part] = number
        dealt = statistics.permuted_members(member, groups, self.retrainings, self.seed)
        scores = [self._scores(images, sides, folds) for sides in (member, *dealt)]
        found = BlindScores(
            scores[0], folds, dealt, np.array(scores[1:]).reshape(dealt.shape), time.perf_counter() - start
        )
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, scores=found.scores, folds=folds, dealt=dealt, dealt_scores=found.dealt_scores)
            files.write_artefact(path, buffer.getvalue(), key=key, seconds=found.seconds)
        return found

    def _fingerprint(self) -> list[Any]:
        return [[option.name, named(getattr(self, option.name))] for option in fields(self)]

    def _images(self, cases: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """What the network sees, shape (N, 2 C, *spatial)."""
        load = image_loader()

        def shrink(case: Mapping[str, Any]) -> torch.Tensor:
            image = load(case["image"]).float()
            resized = Resize([self.size] * (image.ndim - 1), mode="area")(image)
            plain: torch.Tensor = convert_to_tensor(resized, track_meta=False)
            return plain

        loaded = Parallel(n_jobs=min(4, cpu_count()), prefer="threads")(delayed(shrink)(case) for case in cases)
        if len({image.shape for image in loaded}) > 1:
            raise InputError(
                f"images must have as many channels and axes as each other for a blind network, got "
                f"{sorted({tuple(image.shape) for image in loaded})}. Leave the blind network out."
            )
        images = torch.stack(loaded)
        axes = tuple(range(2, images.ndim))
        whole = (images - images.mean((0, *axes), keepdim=True)) / (images.std((0, *axes), keepdim=True) + 1e-6)
        single = (images - images.mean(axes, keepdim=True)) / (images.std(axes, keepdim=True) + 1e-6)
        return torch.cat([whole, single], dim=1)

    def _scores(self, images: torch.Tensor, member: NDArray[np.bool_], folds: NDArray[np.int64]) -> NDArray[np.float64]:
        scores = np.empty(len(folds))
        for fold in range(self.folds):
            held_out = np.flatnonzero(folds == fold)
            logits = self._logits(images, np.asarray(member), np.flatnonzero(folds != fold), held_out, fold)
            scores[held_out] = (logits.argsort().argsort() + 0.5) / len(held_out)
        return scores

    def _logits(
        self,
        images: torch.Tensor,
        member: NDArray[np.bool_],
        train: NDArray[np.int64],
        held_out: NDArray[np.int64],
        fold: int,
    ) -> NDArray[np.float64]:
        """Logits of the cases held out, by a network trained on the others."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rng = stream(Stream.BLIND_FLIPS, self.seed, fold)
        spatial = images.ndim - 2

        def item(case: int) -> dict[str, torch.Tensor]:
            image = images[case]
            if self.flips:
                image = image.flip([1 + axis for axis in range(spatial) if rng.random() < 0.5])
            return {"image": image[None], "label": torch.tensor([float(member[case])])}

        with torch.random.fork_rng():
            torch.manual_seed(self.seed + fold)
            network = PooledNetwork(self.network, spatial, images.shape[1], "mean").to(device)
            items = Dataset(train.tolist(), item)
            fit(network, items, self.optimizer, self.epochs, self.batch_size, device)
        network.eval()
        with torch.inference_mode():
            batches = np.array_split(held_out, -(-len(held_out) // self.batch_size))
            logits = [network(images[batch][:, None].to(device))[:, 0].double().cpu().numpy() for batch in batches]
        return np.concatenate(logits)
