# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The result of Hintersdorf et al. (2022) on classifiers, small: does the code of the attacks behave as published?

Their protocol: a target and one shadow of the same architecture and as many disjoint data, three score attacks fitted
on the shadow and transferred unchanged, defences on target and shadow alike. Their small network (two convolutions of
5 x 5 and one hidden layer), Adam 1e-3, batches of 64, 100 epochs. Ours: the data, averages over seeds, and the diagonal
instead of a Kronecker factorisation for the last-layer Laplace. A classifier is a segmentation network of one voxel, so
that signals and defences are the package's own.

    python tests/replication.py digits
    python tests/replication.py slices [DATASET_DIR [SEEDS]]   # 2D slices of phantoms, or of a cohort
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd, Resize
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from monai_mia.attacks import TopScores, TransferredThreshold
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.data import phantom_cohort, read_cohort
from monai_mia.defences import LaplaceFit, LaplaceNetwork, Temperature
from monai_mia.signals.release import Release, entropy_map

ATTACKS = {
    "entropy": TransferredThreshold("negative_entropy", "best_accuracy", pooled=False, remove_offsets=False),
    "maximum score": TransferredThreshold("maximum_probability", "youden", pooled=False, remove_offsets=False),
    "top 3": TopScores(pooled=False),
}

SIGNALS = ("negative_entropy", "maximum_probability", "second_probability", "third_probability")


@dataclass(frozen=True)
class Images:
    """Images, shape (N, 1, H, W); a class each, shape (N,); and whose they are: no patient is on two sides."""

    images: torch.Tensor
    labels: torch.Tensor
    patients: np.ndarray

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1

    def quarters(self, seed: int) -> list[np.ndarray]:
        """Members and non-members of the target, then of the shadow: indices, disjoint by patient."""
        names = np.random.default_rng(seed).permutation(np.unique(self.patients))
        return [np.flatnonzero(np.isin(self.patients, part)) for part in np.array_split(names, 4)]


@dataclass(frozen=True)
class Defence:
    """Of target and shadow."""

    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    temperature: float = 1.0
    prior_precision: float | None = None


DEFENCES: Mapping[str, Defence] = {
    "none": Defence(),
    "L2": Defence(weight_decay=1e-2),
    "label smoothing": Defence(label_smoothing=0.1),
    "temperature": Defence(temperature=10.0),
    "last-layer Laplace": Defence(prior_precision=1.0),
}


def digits() -> Images:
    """1,797 handwritten digits of 8 x 8, as scikit-learn ships them; each counts as a patient."""
    values, labels = load_digits(return_X_y=True)
    images = torch.tensor(values / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return Images(images, torch.tensor(labels), np.arange(len(labels)))


def slices(cases: Sequence[Mapping[str, str]], size: int = 32, every: int = 4) -> Images:
    """2D slices of volumes; the class of a slice is the highest label in it."""
    keys = ["image", "label"]
    load = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            Orientationd(keys, "RAS", labels=None),
            NormalizeIntensityd("image"),
        ]
    )
    resize = Resize((size, size))
    images, labels, patients = [], [], []
    for case in cases:
        item = load(dict(case))
        for k in range(0, item["image"].shape[2], every):
            images.append(resize(item["image"][:, :, k].as_tensor()).as_tensor())
            labels.append(int(item["label"][0, :, k].max()))
            patients.append(case["patient_id"])
    return Images(torch.stack(images).float(), torch.tensor(labels), np.array(patients))


def classifier(n_classes: int, size: int, seed: int) -> nn.Module:
    """Logits of shape (B, n_classes, 1, 1)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 128), nn.ReLU(),
        nn.Unflatten(1, (128, 1, 1)), nn.Conv2d(128, n_classes, 1),
    )  # fmt: skip


def trained(data: Images, members: np.ndarray, defence: Defence, seed: int, epochs: int) -> nn.Module:
    network = classifier(data.n_classes, data.images.shape[-1], seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=defence.weight_decay)
    loss = nn.CrossEntropyLoss(label_smoothing=defence.label_smoothing)
    images, labels = data.images[members], data.labels[members]
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            loss(network(images[batch])[..., 0, 0], labels[batch]).backward()
            optimizer.step()
    if defence.prior_precision is None:
        return network.eval()
    laplace = LaplaceNetwork(network)
    LaplaceFit(defence.prior_precision).fit(laplace, [images])
    return laplace.eval()


def signals(network: nn.Module, images: torch.Tensor, defence: Defence) -> tuple[np.ndarray, torch.Tensor]:
    """Signals of each image, shape (N, 4), and the predicted classes; an image takes the place of a voxel."""
    with torch.no_grad():
        logits = network(images)[..., 0].transpose(0, 1).double()
    released = Temperature(defence.temperature)(logits)
    entropy = entropy_map(Release(released, "probabilities")).flatten()
    top = released[..., 0].topk(3, dim=0).values
    return torch.cat([-entropy[None], top]).T.numpy(), logits[..., 0].argmax(dim=0)


def trained_pair(data: Images, defence: Defence, seed: int, epochs: int = 100) -> tuple[nn.Module, nn.Module]:
    """Target and shadow."""
    mine, _, its, _ = data.quarters(seed)
    return trained(data, mine, defence, seed, epochs), trained(data, its, defence, seed + 1000, epochs)


def transferred(known: np.ndarray, inside: np.ndarray, asked: np.ndarray) -> AdversaryView:
    """What an adversary knows of the shadow's cases, shape (K, S), who asks a target about others, shape (N, S)."""
    foreign = np.arange(len(known) + len(asked)) >= len(known)
    return AdversaryView(
        SIGNALS,
        target=np.concatenate([known, asked]),
        shadow=np.concatenate([known, asked])[None],
        shadow_member=np.concatenate([inside, np.zeros(len(asked), dtype=bool)])[None],
        patient_ids=tuple(map(str, range(len(foreign)))),
        foreign=foreign,
    )


def measured(data: Images, pair: tuple[nn.Module, nn.Module], defence: Defence, seed: int) -> dict[str, float]:
    """Accuracy on members and non-members; AUC, FPR, and FPR on images scaled by 255, of each transferred attack."""
    target, shadow = pair
    mine, other, its, others = data.quarters(seed)
    asked = np.concatenate([mine, other])
    values, predicted = signals(target, data.images[asked], defence)
    known, _ = signals(shadow, data.images[np.concatenate([its, others])], defence)
    scaled, _ = signals(target, 255 * data.images[other], defence)
    right = (predicted == data.labels[asked]).numpy()
    member = np.arange(len(asked)) < len(mine)
    found = {"accuracy, members": right[member].mean(), "accuracy, non-members": right[~member].mean()}
    inside = np.arange(len(known)) < len(its)
    for name, attack in ATTACKS.items():
        # Learned on the shadow's cases alone; the target's are others, and so are those that are scaled.
        scores, claimed = (attack(transferred(known, inside, side))[len(known) :] for side in (values, scaled))
        found[f"{name}: AUC"] = roc_auc_score(member, scores)
        found[f"{name}: FPR"] = (scores[~member] >= 0).mean()
        found[f"{name}: FPR, scaled"] = (claimed >= 0).mean()
    return found


def table(data: Images, seeds: Sequence[int], epochs: int = 100) -> str:
    """Means over seeds, AUC with the standard error of its paired change against no defence."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in DEFENCES}
    for seed in tqdm(seeds, "seeds"):
        pairs: dict[Defence, tuple[nn.Module, nn.Module]] = {}
        for name, defence in DEFENCES.items():
            training = replace(defence, temperature=1.0)
            if training not in pairs:
                pairs[training] = trained_pair(data, training, seed, epochs)
            found[name].append(measured(data, pairs[training], defence, seed))
    columns = [f"{name}: AUC (change), FPR, FPR scaled" for name in ATTACKS]
    head = ["defence", "accuracy, members / non-members", *columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in found.items():

        def mean(key: str, runs: list[dict[str, float]] = runs) -> float:
            return float(np.mean([run[key] for run in runs]))

        cells = [f"{mean('accuracy, members'):.3f} / {mean('accuracy, non-members'):.3f}"]
        for attack in ATTACKS:
            key = f"{attack}: AUC"
            change = np.array([run[key] - plain[key] for run, plain in zip(runs, found["none"], strict=True)])
            error = change.std(ddof=1) / len(change) ** 0.5
            difference = "" if name == "none" else f" ({change.mean():+.3f}, s.e. {error:.3f})"
            fprs = f"{mean(f'{attack}: FPR'):.3f}, {mean(f'{attack}: FPR, scaled'):.3f}"
            cells.append(f"{mean(key):.3f}{difference}, {fprs}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def main(which: str, dataset_dir: str | None = None, seeds: int = 10) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if which == "digits":
            data = digits()
        elif dataset_dir is None:
            data = slices(phantom_cohort(folder))
        else:
            data = slices(read_cohort(dataset_dir, patient_id=lambda case: str((int(case["case_id"][-3:]) + 1) // 2)))
    print(f"{len(data.labels)} images of {len(set(data.patients))} patients, {data.n_classes} classes, {seeds} seeds\n")
    print(table(data, range(seeds)))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
