# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""White-box signals: gradients against autograd and a closed form, influence against the dense formula."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PHANTOM, SMALL
from evaluations import evaluate, items, network
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import UNet
from sklearn.metrics import roc_auc_score
from torch import nn

from monai_mia.bundle.config import BundleConfig
from monai_mia.bundle.query import Query
from monai_mia.errors import InputError
from monai_mia.handlers.signals import SignalRecorder
from monai_mia.records.table import ACCESS_LEVELS, SignalTable
from monai_mia.signals.difficulty import Predictability
from monai_mia.signals.perturbations import Flip, PerturbedQueries
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import TopProbabilities, segmentation_signals
from monai_mia.signals.white_box import WhiteBox, case_gradient, influence

INFERERS = {
    "whole": SimpleInferer(),
    "windows": SlidingWindowInferer((8, 16, 8), 3, 0.25),
    "gaussian": SlidingWindowInferer((8, 16, 8), 2, 0.5, mode="gaussian"),
    "cached weights": SlidingWindowInferer((8, 16, 8), 2, 0.5, mode="gaussian", cache_roi_weight_map=True),
    "one window": SlidingWindowInferer((32, 32, 32)),
}


@pytest.mark.parametrize("name", INFERERS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradient_is_that_of_the_stitched_prediction(name: str, activation: Any) -> None:
    """All windows in one graph, as autograd would do it with memory for them; with a dropout that must not act."""
    torch.manual_seed(0)
    with torch.inference_mode():  # as a query does
        net = UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="BATCH", dropout=0.5)
        image = torch.randn(1, 16, 18, 12)
        label = torch.randint(0, 2, (1 if activation == "softmax" else 2, 16, 18, 12))
        found = case_gradient(net, INFERERS[name], image, label, activation)
    twin = UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="BATCH", dropout=0.5).eval()
    twin.load_state_dict({key: value.clone() for key, value in net.state_dict().items()})
    prediction = INFERERS[name](image.clone()[None], twin)
    if activation == "softmax":
        loss = nn.functional.cross_entropy(prediction, label.clone())
    else:
        loss = nn.functional.binary_cross_entropy_with_logits(prediction, label.clone()[None].float())
    loss.backward()
    assert net.training
    for key, parameter in twin.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[key], parameter.grad, atol=1e-7, rtol=1e-4), key


def test_gradient_of_a_linear_model() -> None:
    """Multinomial regression: the mean of (p - y) x."""
    torch.manual_seed(1)
    net = nn.Conv2d(2, 3, 1)
    image, label = torch.randn(2, 6, 7), torch.randint(0, 3, (1, 6, 7))
    found = case_gradient(net, SimpleInferer(), image, label)
    p = net(image[None])[0].detach().softmax(0) - nn.functional.one_hot(label[0], 3).movedim(-1, 0)
    expected = torch.einsum("chw,dhw->cd", p, image) / 42
    assert torch.allclose(found["weight"][..., 0, 0], expected, atol=1e-6)
    assert torch.allclose(found["bias"], p.mean((1, 2)), atol=1e-6)
    signals = WhiteBox(influence=False)(
        Release(net(image[None])[0].detach()), label, image=image, network=net, inferer=SimpleInferer()
    )
    norm = torch.cat([expected.flatten(), p.mean((1, 2))]).norm().item()
    assert signals["negative_gradient_norm"] == pytest.approx(-norm, rel=1e-5)


def test_gradient_of_the_bundles_own_loss() -> None:
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    net, item = network().eval(), items(1)[0]
    loss(net(item["image"][None]), item["label"][None]).backward()
    found = case_gradient(net, SlidingWindowInferer((8, 8, 8)), item["image"], item["label"], loss=loss)
    for name, parameter in net.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-7, rtol=1e-4), name  # type: ignore[arg-type]


def test_layers_make_up_the_whole() -> None:
    net = network()
    item = items(1)[0]
    found = WhiteBox()(
        Release(torch.zeros(2, 8, 8, 8)), item["label"], image=item["image"], network=net, inferer=SimpleInferer()
    )
    whole = found.pop("negative_gradient_norm")
    assert len(found) == len({name.rpartition(".")[0] for name, _ in net.named_parameters()})
    assert all(name.startswith("negative_gradient_norm_") and "." not in name for name in found)
    assert sum(value**2 for value in found.values()) == pytest.approx(whole**2, rel=1e-6)


class TestInfluence:
    def test_the_dense_formula(self) -> None:
        rng = torch.Generator().manual_seed(0)
        gradients = torch.randn(7, 12, generator=rng, dtype=torch.float64)
        fisher = sum(torch.outer(g, g) for g in gradients) / 7
        inverse = torch.linalg.inv(fisher + 0.3 * torch.trace(fisher) / 7 * torch.eye(12, dtype=torch.float64))
        own, alignment = influence(gradients, damping=0.3)
        for n, g in enumerate(gradients):
            assert own[n] == pytest.approx((g @ inverse @ g).item())
            assert alignment[n] == pytest.approx((g @ inverse @ gradients.mean(0)).item())

    def test_orthogonal_gradients(self) -> None:
        """F = I / N: the self-influence is N / (1 + damping), whatever the scale; aligned is its own share alone."""
        own, alignment = influence(5 * torch.eye(6), damping=0.5)
        assert own.numpy() == pytest.approx(6 / 1.5)
        assert alignment.numpy() == pytest.approx(1 / 1.5)

    def test_it_does_not_depend_on_the_units_of_the_loss(self) -> None:
        gradients = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for one, other in zip(influence(gradients), influence(1e-6 * gradients), strict=True):
            assert torch.allclose(one, other, rtol=1e-6)

    def test_no_gradient_at_all(self) -> None:
        own, alignment = influence(torch.zeros(3, 5))
        assert own.tolist() == alignment.tolist() == [0, 0, 0]

    def test_sketches_keep_inner_products(self) -> None:
        """Unbiased, and within a few times the declared error."""
        rng = torch.Generator().manual_seed(2)
        gradients = torch.randn(20, 30_000, generator=rng) + torch.randn(30_000, generator=rng)
        exact = gradients.double() @ gradients.double().T
        scale = exact.diag().sqrt().outer(exact.diag().sqrt())
        errors = []
        for seed in range(3):
            white_box = WhiteBox(seed=seed)
            sketches = torch.stack([white_box._sketch(gradient) for gradient in gradients])
            assert sketches.shape == (20, 1024)
            errors.append((sketches @ sketches.T - exact) / scale)
        assert torch.stack(errors).square().mean().sqrt() < 2 * 1024**-0.5
        assert torch.stack(errors).mean(0).abs().mean() < 1024**-0.5

    def test_influence_of_sketches_is_the_dense_one(self) -> None:
        """30 cases, 20,000 parameters, three directions that matter."""
        rng = torch.Generator().manual_seed(3)
        gradients = torch.randn(30, 3, generator=rng) @ torch.randn(3, 20_000, generator=rng)
        gradients += 0.3 * torch.randn(30, 20_000, generator=rng)
        n = len(gradients)
        gram = gradients.double() @ gradients.double().T  # g^T (F + s I)^-1 g = N (G (G + N s I)^-1)_ii
        shift = 0.1 * gram.trace() / n  # N times the damping
        expected = n * (gram @ torch.linalg.inv(gram + shift * torch.eye(n))).diag()
        white_box = WhiteBox()
        found, _ = influence(torch.stack([white_box._sketch(gradient) for gradient in gradients]))
        assert np.corrcoef(found, expected)[0, 1] > 0.98


class TestRecorded:
    """In an evaluator, whole."""

    def test_one_column_a_signal_one_row_a_case(self, tmp_path: Path) -> None:
        white_box = WhiteBox()
        for model in range(2):  # the same object for two models, one after the other
            recorder = SignalRecorder(tmp_path / f"model_{model}.csv", signals=[segmentation_signals, white_box])
            evaluate([recorder], network(model), batch_size=5)
        evaluate([SignalRecorder(tmp_path / "alone" / "model_1.csv", signals=[WhiteBox()])], network(1))
        table, alone = SignalTable.read(tmp_path), SignalTable.read(tmp_path / "alone")
        assert alone.signals[-2:] == ("negative_influence", "negative_alignment")
        for name in alone.signals:
            assert table.access[name] == "white-box"
            assert table.signal(name, "model_1") == pytest.approx(alone.signal(name, "model_1"), rel=1e-4)
            assert (table.signal(name, "model_0") != table.signal(name, "model_1")).all()
        net = network(1)
        gradients = [
            torch.cat([g.flatten() for g in case_gradient(net, SimpleInferer(), i["image"], i["label"]).values()])
            for i in items()
        ]
        order = [alone.case_ids.index(item["case_id"]) for item in items()]
        own, _ = influence(torch.stack([WhiteBox()._sketch(g) for g in gradients]))
        assert alone.signal("negative_influence", "model_1")[order] == pytest.approx(-own.numpy(), rel=1e-3)

    def test_an_output_defence_does_not_stand_in_between(self, tmp_path: Path) -> None:
        def silent(item: dict[str, Any]) -> dict[str, Any]:
            return {"pred": torch.zeros_like(item["pred"][:1])}

        options: dict[str, Any] = {"transform": silent, "release": "mask", "n_classes": 2}
        evaluate([SignalRecorder(tmp_path / "a" / "target.csv", signals=[WhiteBox()], **options)])
        evaluate([SignalRecorder(tmp_path / "b" / "target.csv", signals=[WhiteBox()])])
        assert (tmp_path / "a" / "target.csv").read_text() == (tmp_path / "b" / "target.csv").read_text()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_parameters": 10}, "case 'case_0': network must have at most 10 parameters"),
            ({"damping": 0.0}, "damping must be positive"),
            ({"sketch": 6}, "sketch must be a multiple of 4"),
        ],
    )
    def test_refusals(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            evaluate([SignalRecorder(tmp_path / "target.csv", signals=[WhiteBox(**options)])])

    def test_norms_alone_for_a_large_network(self, tmp_path: Path) -> None:
        signals = [WhiteBox(max_parameters=10, influence=False, layers=False)]
        evaluate([SignalRecorder(tmp_path / "target.csv", signals=signals)])
        assert SignalTable.read(tmp_path).signals == ("negative_gradient_norm",)

    def test_without_a_label(self) -> None:
        image, net = torch.zeros(1, 3, 3), nn.Conv2d(1, 2, 1)
        with pytest.raises(InputError, match="label must be given"):
            WhiteBox()(Release(torch.zeros(2, 3, 3)), None, image=image, network=net, inferer=SimpleInferer())


def test_members_pull_less(tmp_path: Path) -> None:
    """Noise that a network has learnt by heart tells its members; before it is trained nothing does."""
    rng = torch.Generator().manual_seed(0)
    cases = [(torch.randn(1, 8, 8, generator=rng), torch.randint(0, 2, (1, 8, 8), generator=rng)) for _ in range(24)]
    member = np.arange(24) % 2 == 0
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 2, 3, padding=1))

    def areas() -> dict[str, float]:
        white_box = WhiteBox(layers=False)
        rows = [
            white_box(Release(torch.zeros(2, 8, 8)), y, image=x, network=net, inferer=SimpleInferer()) for x, y in cases
        ]
        columns = {"negative_gradient_norm": [row["negative_gradient_norm"] for row in rows], **white_box.finish()}
        return {name: float(roc_auc_score(member, values)) for name, values in columns.items()}

    before = areas()
    images = torch.stack([x for (x, _), m in zip(cases, member, strict=True) if m])
    labels = torch.stack([y for (_, y), m in zip(cases, member, strict=True) if m])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels[:, 0]).backward()
        optimizer.step()
    after = areas()
    for name, area in after.items():
        assert 0.2 < before[name] < 0.8, name
        assert area > 0.9, name


def test_the_repr_keys_a_file() -> None:
    """It tells every option and nothing of the cases seen, and survives the way to another process."""
    white_box, item = WhiteBox(seed=3), items(1)[0]
    before = repr(white_box)
    white_box(
        Release(torch.zeros(2, 8, 8, 8)), item["label"], image=item["image"], network=network(), inferer=SimpleInferer()
    )
    assert repr(pickle.loads(pickle.dumps(white_box))) == before
    assert all(name in before for name in ("layers", "influence", "damping", "sketch", "max_parameters", "seed=3"))
    losses = [DiceLoss(softmax=True), DiceLoss(sigmoid=True), DiceLoss(softmax=True, smooth_dr=1e-3)]
    losses += [nn.CrossEntropyLoss(torch.tensor([1.0, weight])) for weight in (1.0, 2.0)]
    assert len({before, *(repr(WhiteBox(loss)) for loss in losses)}) == 6
    assert repr(WhiteBox(DiceLoss(softmax=True))) == repr(WhiteBox(losses[0]))


def test_a_query_job_records_every_kind_of_signal(cohort: list[dict[str, Any]], tmp_path: Path) -> None:
    """In a job of a study, in inference mode; the plain signals stay what they are, digit by digit."""
    bundle = BundleConfig(str(PHANTOM), ("configs/inference.json",), SMALL)
    torch.manual_seed(0)
    net = bundle.parser(()).get_parsed_content("network_def")
    torch.save(net.state_dict(), tmp_path / "model.pt")
    cases = [{**{k: case[k] for k in ("case_id", "patient_id", "image", "label")}, "member": 0} for case in cohort[:3]]
    more = (TopProbabilities(), Predictability(), PerturbedQueries([Flip(0)]), WhiteBox())
    for name, signals in (("plain", ()), ("all", more)):
        recorder = {"n_classes": 2, "signals": (segmentation_signals, *signals)}
        Query(
            bundle=bundle,
            cohort=cases,
            model_id="target",
            checkpoint=str(tmp_path / "model.pt"),
            path=str(tmp_path / name / "target.csv"),
            progress=str(tmp_path / "progress.json"),
            key="key",
            cohort_key="cohort",
            recorder=pickle.loads(pickle.dumps(recorder)),
        ).run()
    plain, both = ((tmp_path / name / "target.csv").read_text().splitlines() for name in ("plain", "all"))
    assert all(line.startswith(short + ",") for short, line in zip(plain, both, strict=True))
    table = SignalTable.read(tmp_path / "all")
    assert set(table.access.values()) == set(ACCESS_LEVELS)
    for family in ("second_probability", "predictability", "agreement", "robust_dice", "negative_influence"):
        assert family in table.signals
