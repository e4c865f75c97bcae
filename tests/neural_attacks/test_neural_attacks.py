# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Learned attackers: a planted leak is found, and none where there is none; what they read is what they say."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DenseNet, ResNet, SEResNet50, resnet18
from scipy.special import log_softmax, softmax

from monai_mia import neural_attacks
from monai_mia.attacks import Attack
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.errors import InputError
from monai_mia.neural_attacks import (
    MapAttacker,
    calibrated_maps,
    concatenation,
    learned_attacks,
    structured_loss_map,
    type_one,
    type_two,
)
from monai_mia.neural_attacks.inputs import MapInputs
from monai_mia.neural_attacks.networks import BestEpoch, PooledNetwork
from monai_mia.records.maps import LABELS, MapStore, MapWriter, design_digest
from monai_mia.records.table import SignalTable, write_signals
from monai_mia.signals.release import boundary_distance
from monai_mia.statistics.roc import roc

N_PATIENTS, N_CASES = 24, 48

PUBLISHED = (type_one, type_two, structured_loss_map, concatenation)

#: A network that trains in a second.
TINY = partial(ResNet, "basic", [1, 1, 1, 1], [8, 8, 8, 8], conv1_t_size=3, conv1_t_stride=2, no_max_pool=True)
QUICK: dict[str, Any] = {
    "network": TINY,
    "optimizer": partial(torch.optim.AdamW, lr=5e-3),
    "epochs": 6,
    "patience": 3,
    "batch_size": 16,
    "downsample": 1,
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small tensors gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball(rng: np.random.Generator, dims: int) -> np.ndarray:
    """A label of its own size in a map of its own size, shape (1, *spatial)."""
    shape = rng.integers(7, 10, size=dims)
    away = np.indices(shape) - (shape / 2 + rng.uniform(-1, 1, dims)).reshape(-1, *[1] * dims)
    return (np.square(away).sum(axis=0) < rng.uniform(2, 3) ** 2).astype(np.uint8)[None]


def store(
    folder: Path,
    leak: float,
    dims: int = 3,
    shadows: int = 4,
    seed: int = 0,
    labels: bool = True,
    targets: int = 1,
    activation: str = "softmax",
    n_patients: int = N_PATIENTS,
) -> tuple[AdversaryView, np.ndarray]:
    """A recorded study whose models are surer of their members near the boundary, and who is a member."""
    rng = np.random.default_rng(seed)
    cases = [f"case_{n:02d}" for n in range(2 * n_patients)]
    patients = [f"patient_{n // 2:02d}" for n in range(2 * n_patients)]
    reference = [ball(rng, dims) for _ in cases]
    difficulty = [rng.normal(1, 0.3) + rng.normal(0, 0.3, label.shape[1:]) for label in reference]
    near = [boundary_distance(torch.from_numpy(label.astype(np.int16)), 1).numpy() > 0 for label in reference]
    member = {}
    for model in [f"target_{n:02d}" if n else "target" for n in range(targets)] + [
        f"shadow_{m:02d}" for m in range(shadows)
    ]:
        half = rng.permutation(n_patients) < n_patients // 2
        if model.startswith("shadow") and int(model[-2:]) % 2:
            half = ~member[f"shadow_{int(model[-2:]) - 1:02d}"][::2]
        member[model] = np.repeat(half, 2)
    common = {"cohort": str(seed), "resolution": [1]}
    for model, row in member.items():
        with MapWriter(folder / f"maps/{model}.npz") as writer:
            for n, case in enumerate(cases):
                odds = difficulty[n] + rng.normal(0, 0.3, near[n].shape) + leak * near[n] * row[n]
                signed = np.where(reference[n][0] > 0, odds, -odds)
                logits = np.stack([0 * signed, signed]) if activation == "softmax" else signed[None]
                writer.add(case, logits.astype(np.float16))
            digest = design_digest(cases, row)
            writer.close(release="logits", activation=activation, design=digest, key=f"{seed} {model}", **common)
        write_signals(
            folder / f"signals/{model}.csv", model, cases, patients, row.tolist(), {"dice": [0.0] * len(cases)}, {}
        )
    if labels:
        with MapWriter(folder / f"maps/{LABELS}.npz") as writer:
            for case, label in zip(cases, reference, strict=True):
                writer.add(case, label)
            writer.close(**common)
    return known(folder), member["target"]


def known(folder: Path, target: str = "target") -> AdversaryView:
    table = SignalTable.read(folder / "signals")
    shadows = [model for model in table.model_ids if model.startswith("shadow")]
    return replace(AdversaryView.of(table, target, shadows), maps=MapStore(folder / "maps").of(table, target, shadows))


def auc(scores: np.ndarray, member: np.ndarray) -> float:
    assert scores.shape == (N_CASES,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    return float(roc(scores, member).auc)


#: Standard error of an AUC of one half, by patient: sqrt(25 / (12 * 12 * 12)).
CHANCE = 0.12

#: Shipped forms, but for a network, patches and steps that suit maps of eight voxels an edge and a hundred pairs.
PLANTED = [
    type_one(**QUICK),
    structured_loss_map(**QUICK, patch_size=(6, 6, 6), n_queries=4),
    calibrated_maps(**QUICK),
]
#: These must learn what reference and prediction mean together, which takes more passes over so few pairs.
PATIENT = [
    pytest.param(type_two(**QUICK), marks=pytest.mark.slow, id="Type-II"),
    pytest.param(
        concatenation(**{**QUICK, "epochs": 24, "patience": 24}, patch_size=(6, 6, 6), n_queries=4),
        marks=pytest.mark.slow,
        id="concatenation",
    ),
]


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdversaryView, np.ndarray, Path]:
    folder = tmp_path_factory.mktemp("leaky")
    return *store(folder, leak=2.0, targets=2), folder


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without a leak, and nine targets that are asked about."""
    folder = tmp_path_factory.mktemp("tight")
    store(folder, leak=0.0, targets=9)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> AdversaryView:
    return store(tmp_path_factory.mktemp("small"), leak=2.0, n_patients=6)[0]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> OrderedDict[str, Any]:
    """An empty memory of trained networks."""
    memory: OrderedDict[str, Any] = OrderedDict()
    monkeypatch.setattr(neural_attacks.attacker, "_fits", memory)
    return memory


@pytest.mark.parametrize("attack", [*(pytest.param(attack, id=attack.inputs) for attack in PLANTED), *PATIENT])
def test_a_planted_leak_is_found(attack: MapAttacker, leaky: tuple[AdversaryView, np.ndarray, Path]) -> None:
    """Members fit better at the boundary only, by several times what cases differ."""
    view, member, _ = leaky
    scores = attack(view)
    assert auc(scores, member) > 0.9
    assert ((scores > 0) == member).mean() > 0.75  # it decides, too


@pytest.mark.parametrize("attack", PLANTED, ids=lambda attack: attack.inputs)
def test_without_a_leak_there_is_only_chance(attack: MapAttacker, tight: Path) -> None:
    """The same attackers; targets are drawn apart, so that the mean over nine has a third of the error of one."""
    table = SignalTable.read(tight / "signals")
    targets = [model for model in table.model_ids if model.startswith("target")]
    aucs = [auc(attack(known(tight, target)), table.members(target)) for target in targets]
    assert len(aucs) == 9
    assert abs(np.mean(aucs) - 0.5) < 3 * CHANCE / 3


@pytest.mark.parametrize(
    "attack",
    [
        *(pytest.param(make(), id=make().name) for make in (*PUBLISHED, calibrated_maps)),
        *(pytest.param(make("faithful"), id=make("faithful").name) for make in (type_one, structured_loss_map)),
        # The same large networks on other channels.
        *(
            pytest.param(make("faithful"), id=make("faithful").name, marks=pytest.mark.slow)
            for make in (type_two, concatenation)
        ),
    ],
)
def test_shipped_forms_run(attack: MapAttacker, small: AdversaryView, forgetful: OrderedDict[str, Any]) -> None:
    """As they are, but for one pass over the pairs and fewer patches a score: finite, and the same once more."""
    assert isinstance(attack, Attack)
    assert attack.access == ("probabilities" if attack.inputs == "prediction" else "probabilities+label")
    assert attack.decides
    short = replace(attack, epochs=1, n_queries=min(2, attack.n_queries))
    scores = short(small)
    assert scores.shape == (12,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 6
    forgetful.clear()
    torch.rand(3)  # whatever happened in between
    np.testing.assert_array_equal(short(small), scores)


def test_what_the_network_learns_from(leaky: tuple[AdversaryView, np.ndarray, Path]) -> None:
    """Patches of the shipped concatenation, beside the membership of their shadow: the leak is there, and unmixed."""
    attack = concatenation(patch_size=(6, 6, 6))
    reads = MapInputs(attack, leaky[0])
    rng = np.random.default_rng(0)
    sure, labels = [], []
    for model, case in reads.pairs.tolist():
        item = attack._item(reads, rng, model, case)
        probability, hot = item["image"].split(2, dim=1)
        assert hot[:, 1].sum() > 0  # around the foreground
        sure.append(float((probability * hot).sum(dim=1)[hot[:, 1] > 0].mean()))
        labels.append(bool(item["label"]))
    assert roc(sure, labels).auc > 0.99
    np.testing.assert_array_equal(labels, leaky[0].shadow_member.T.reshape(-1))


@pytest.mark.parametrize(("inputs", "activation"), [("loss", "sigmoid"), ("calibrated", "softmax")])
def test_images_in_two_dimensions(inputs: str, activation: str, tmp_path: Path) -> None:
    view, member = store(tmp_path, leak=2.0, dims=2, activation=activation)
    attack = MapAttacker(**{**QUICK, "name": "2D", "inputs": inputs, "spatial_dims": 2, "epochs": 8})
    assert auc(attack(view), member) > 0.85


def test_volumes_as_slices(leaky: tuple[AdversaryView, np.ndarray, Path]) -> None:
    """Slices are drawn in training, and pooled when a case is scored."""
    view, member, _ = leaky
    options = {
        **QUICK,
        "network": partial(TINY),
        "spatial_dims": 2,
        "patch_size": (8, 8),
        "n_patches": 4,
        "n_queries": 6,
        "batch_size": 8,  # many slices show no boundary: more steps
        "epochs": 8,
    }
    assert auc(structured_loss_map(**{**options, "foreground": False, "pooling": "mean"})(view), member) > 0.85


def test_an_attacker_that_only_gets_masks(tmp_path: Path) -> None:
    """Low log-odds turn into wrong voxels, which is all that a mask tells."""
    view, member = store(tmp_path, leak=-3.0)
    attack = type_two(**{**QUICK, "mask": True})
    assert attack.access == "mask+label"
    assert auc(attack(view), member) > 0.9


def test_type_one_reads_no_reference(tmp_path: Path) -> None:
    """It declares that it needs none, and works where there is none; the others say what they miss."""
    view, _ = store(tmp_path, leak=2.0, labels=False, n_patients=8)
    assert type_one().access == "probabilities"
    assert type_one(mask=True).access == "mask"
    assert np.isfinite(type_one(**{**QUICK, "epochs": 1})(view)).all()
    for attack in (type_two(), structured_loss_map(), concatenation(), calibrated_maps()):
        assert attack.access == "probabilities+label"
        with pytest.raises(InputError, match="labels must be in the map store"):
            attack(view)


def test_what_the_network_reads(leaky: tuple[AdversaryView, np.ndarray, Path]) -> None:
    """Each input against its definition."""
    view = leaky[0]
    assert view.maps is not None
    logits, label = view.maps.shadow(1, 3), view.maps.label(3)

    def read(inputs: str, **options: Any) -> np.ndarray:
        return MapInputs(MapAttacker("x", inputs=inputs, **options), view)(2, 3)

    hot = np.concatenate([label == 0, label == 1]).astype(float)
    loss = -(log_softmax(logits, axis=0) * hot).sum(axis=0)
    np.testing.assert_array_equal(read("prediction"), logits)
    np.testing.assert_array_equal(read("prediction+label"), np.concatenate([logits, hot]))
    np.testing.assert_allclose(read("concatenation"), np.concatenate([softmax(logits, axis=0), hot]), atol=1e-3)
    np.testing.assert_allclose(read("loss")[0], loss, rtol=1e-3, atol=1e-6)
    assert read("prediction", mask=True).sum() == label.size
    # Odd extents: the last block is smaller, and its mean is of what it has.
    corner = loss[tuple(slice(2 * ((n - 1) // 2), None) for n in loss.shape)]
    assert read("loss", downsample=2)[0, -1, -1, -1] == pytest.approx(corner.mean(), rel=1e-3)


def test_calibration_against_its_definition(tmp_path: Path) -> None:
    """Excess over the shadows that did not train on the case, without the shadow itself and its complement."""
    view, _ = store(tmp_path, leak=1.0, shadows=6)
    maps, member = view.maps, view.shadow_member
    assert maps is not None
    reads = MapInputs(MapAttacker("x", inputs="calibrated"), view)
    case, shadow = 7, 2
    label = maps.label(case)
    shell = boundary_distance(torch.from_numpy(label.astype(np.int16)), 4).numpy()
    near_inside = (label[0] > 0) & (shell == 1)

    def odds(m: int, n: int) -> np.ndarray:
        logits = maps.target(n) if m < 0 else maps.shadow(m, n)
        own = np.where(maps.label(n)[0] > 0, logits[1], logits[0])
        return own - np.where(maps.label(n)[0] > 0, logits[0], logits[1])

    means = np.empty((6, N_CASES))
    for n in range(N_CASES):
        near = boundary_distance(torch.from_numpy(maps.label(n).astype(np.int16)), 4).numpy() == 1
        for m in range(6):
            means[m, n] = odds(m, n)[near & (maps.label(n)[0] > 0)].mean()

    def offset(m: int) -> float:
        return float(np.median(means[m] - means.mean(axis=0)))

    others = [m for m in range(6) if m not in (2, 3)]
    level = {m: (odds(m, case) - offset(m)) * near_inside for m in (*others, shadow)}
    out = np.mean([level[m] for m in others if not member[m, case]], axis=0)
    ins = np.mean([level[m] for m in others if member[m, case]], axis=0)
    channels = reads(1 + shadow, case)
    assert channels.shape == (16, *label.shape[1:])
    np.testing.assert_allclose(channels[1], level[shadow] - out, atol=0.02)
    np.testing.assert_allclose(channels[5], ins - out, atol=0.02)
    np.testing.assert_allclose(channels[9], out, atol=0.02)
    np.testing.assert_array_equal(channels[13], near_inside)


def test_the_number_of_calibrating_shadows_tells_nothing(tmp_path: Path) -> None:
    """For a shadow that plays the target, and for the target, the same number on each side of every case."""
    view, _ = store(tmp_path, leak=1.0, shadows=6)
    reads = MapInputs(MapAttacker("x", inputs="calibrated"), view)
    targets = [int(pair[0, 0]) for pair in reads.views(np.arange(3))]
    assert targets == [0, -1, -2]
    for model in (*targets, *range(1, 7)):
        kept = np.delete(view.shadow_member, reads._left_out(model), axis=0)
        assert (kept.sum(axis=0) == 2).all()
        assert ((~kept).sum(axis=0) == 2).all()
    assert {reads._left_out(model) for model in targets} == {(0, 1), (2, 3), (4, 5)}


def test_shadows_that_cannot_calibrate_are_refused(tmp_path: Path) -> None:
    view, _ = store(tmp_path, leak=1.0)
    with pytest.raises(InputError, match="shadows must be at least 4 for attack 'calibrated maps', got 2"):
        calibrated_maps()(replace(view, shadow=view.shadow[:2]))
    everyone = np.ones_like(view.shadow_member)
    with pytest.raises(InputError, match="must be in and out of the training of other shadows"):
        calibrated_maps(**QUICK)(replace(view, shadow_member=everyone))


class TestFits:
    """A network is trained on the shadows alone, once for all targets."""

    def test_another_seed_gives_other_scores(self, small: AdversaryView) -> None:
        first, second = (type_one(**{**QUICK, "epochs": 1, "seed": seed})(small) for seed in (5, 6))
        assert (first != second).all()

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_another_target_needs_no_training(
        self,
        leaky: tuple[AdversaryView, np.ndarray, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        forgetful: OrderedDict[str, Any],
        on_disk: bool,
    ) -> None:
        attack = type_one(**{**QUICK, "epochs": 1, "cache_dir": tmp_path if on_disk else None})
        first = attack(leaky[0])
        if on_disk:
            forgetful.clear()
            assert len(list(tmp_path.glob("*.pt"))) == 2
        monkeypatch.setattr(MapAttacker, "_train", None)  # would fail
        np.testing.assert_array_equal(attack(leaky[0]), first)
        assert (attack(known(leaky[2], "target_01")) != first).any()
        with pytest.raises(TypeError):
            replace(attack, epochs=2)(leaky[0])

    def test_a_patient_is_scored_by_a_network_that_never_saw_him(self) -> None:
        patients = [f"p{n // 3}" for n in range(30)]
        folds = MapAttacker("x", folds=2)._folds(patients)
        assert all(len(set(folds[3 * n : 3 * n + 3])) == 1 for n in range(10))
        assert sorted(np.bincount(folds)) == [15, 15]

    def test_independent_shadows(self, leaky: tuple[AdversaryView, np.ndarray, Path], tmp_path: Path) -> None:
        """Trained on another study, with other patients: it needs none of this one's shadows."""
        _, _, folder = leaky
        (tmp_path / "here").mkdir()
        view, member = store(tmp_path / "here", leak=2.0, seed=1)
        (tmp_path / "private").symlink_to(folder)
        attack = replace(PLANTED[1], fitted_on=tmp_path)
        assert attack.min_shadows == 0
        alone = MapStore(tmp_path / "here/maps").view("target", [], [f"case_{n:02d}" for n in range(N_CASES)])
        empty = replace(view, shadow=view.shadow[:0], shadow_member=view.shadow_member[:0], maps=alone)
        assert auc(attack(empty), member) > 0.9

    def test_the_best_epoch_is_kept(self) -> None:
        """The one with the least loss; training stops when it has not fallen for a while."""
        network = torch.nn.Linear(1, 1)
        losses = iter([3.0, 1.0, 2.0, 4.0, 0.0])
        from ignite.engine import Engine

        engine = Engine(lambda *_: network.weight.data.fill_(engine.state.epoch))
        BestEpoch(lambda: next(losses), network, patience=2).attach(engine)
        engine.run([0], max_epochs=5)
        assert engine.state.epoch == 4
        assert network.weight.item() == 2


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(
    "make",
    [
        partial(TINY),
        partial(DenseNet, init_features=16, growth_rate=8, block_config=(1, 1)),
        partial(SEResNet50, layers=(1, 1, 1, 1), inplanes=64),
        partial(resnet18, False),
    ],
)
def test_any_network_of_monai(make: Any, pooling: Any) -> None:
    """One logit a case, whatever the network calls its channels; equal patches give what one of them gives."""
    network = PooledNetwork(make, 2, 3, pooling).eval()
    patches = torch.randn(2, 1, 3, 32, 32)
    logits = network(patches)
    assert logits.shape == (2, 1)
    torch.testing.assert_close(network(patches.expand(2, 4, 3, 32, 32)), logits)
    assert logits[0] != logits[1]


def test_from_a_config() -> None:
    parser = ConfigParser(
        {
            "attack": {
                "_target_": "monai_mia.neural_attacks.type_two",
                "network": {"_target_": "DenseNet121", "_mode_": "callable", "dropout_prob": 0.2},
                "optimizer": {"_target_": "torch.optim.NAdam", "_mode_": "callable", "lr": 0.01},
                "epochs": 3,
            }
        }
    )
    attack = parser.get_parsed_content("attack")
    assert attack.name == "Type-II, corrected"
    assert attack.epochs == 3
    assert type(PooledNetwork(attack.network, 3, 2, "mean").network).__name__ == "DenseNet121"
    assert attack.optimizer([torch.zeros(1, requires_grad=True)]).defaults["lr"] == 0.01
    assert attack._fingerprint() != type_two(epochs=3)._fingerprint()


def test_the_faithful_forms_are_the_papers() -> None:
    """Section 1.3 and 3.2 of the notes: Chobola's network, optimiser, batch and epochs; He's patches."""
    for attack in (type_one("faithful"), type_two("faithful")):
        network = PooledNetwork(attack.network, 2, 2, "mean")
        # ResNet-34 has 21797672 weights; here with two channels in, not three, and one logit out, not a thousand.
        expected = 21797672 - 7 * 7 * 64 - 513 * 999
        assert sum(p.numel() for p in network.parameters()) == expected
        optimizer = attack.optimizer(network.parameters())
        assert type(optimizer).__name__ == "NAdam"
        assert optimizer.defaults["lr"] == 1e-4
        assert (attack.batch_size, attack.epochs, attack.patience, attack.n_shadows) == (4, 30, 0, 1)
        assert attack.decides
        assert attack.spatial_dims == 2
    for attack in (structured_loss_map("faithful"), concatenation("faithful")):
        assert (attack.n_queries, attack.pooling, attack.n_patches, attack.n_shadows) == (6, "mean", 1, 1)
        assert not attack.foreground


@pytest.mark.parametrize(
    ("n_shadow", "forms", "calibrated"),
    [
        (0, (), False),
        (1, ("faithful", "corrected"), False),
        (3, ("corrected",), False),
        (4, ("corrected",), True),
        (16, ("corrected",), True),
    ],
)
def test_every_learned_attack(n_shadow: int, forms: Sequence[Any], calibrated: bool) -> None:
    """Faithful forms for one shadow only; options reach every attacker; names differ; none needs more shadows."""
    attacks = learned_attacks(n_shadow, seed=7, cache_dir="here")
    expected = [make(form).name for form in forms for make in PUBLISHED] + ["calibrated maps"] * calibrated
    assert [attack.name for attack in attacks] == expected
    assert len(set(expected)) == len(expected)
    assert all((attack.seed, attack.cache_dir) == (7, "here") for attack in attacks)
    assert all(attack.min_shadows <= n_shadow for attack in attacks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "everything"}, "inputs must be one of prediction, "),
        ({"pooling": "max"}, "pooling must be one of mean, attention"),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"patch_size": (8, 8)}, "patch_size must be 3 integers"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"folds": 1}, "folds must be at least 2 where patience is 2, got 1"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MapAttacker("x", **options)


def test_missing_maps_are_named(leaky: tuple[AdversaryView, np.ndarray, Path]) -> None:
    with pytest.raises(InputError, match=r"maps must be recorded for attack 'Type-II, corrected', got none"):
        type_two()(replace(leaky[0], maps=None))
    fewer: Sequence[Any] = leaky[0].shadow_member[:3]
    with pytest.raises(InputError, match="maps must be of the table's 3 shadows"):
        type_two()(replace(leaky[0], shadow_member=fewer, shadow=leaky[0].shadow[:3]))
