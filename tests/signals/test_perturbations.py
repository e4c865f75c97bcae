# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Perturbed queries: known answers of models that we make up, and a real evaluator against asking it by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import evaluate, items, network
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import AsDiscreted
from torch import Tensor, nn

from monai_mia.errors import InputError
from monai_mia.handlers.signals import SignalRecorder
from monai_mia.records.table import SignalTable
from monai_mia.signals.perturbations import Flip, Noise, PerturbedQueries, Shift, Variant, WindowOverlap
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import access_of, segmentation_signals

VARIANTS: list[Variant] = [Flip(0), Flip(1), Shift(0, 1), Shift(1, -2), Noise(0.1)]


def image(seed: int = 0, shape: tuple[int, ...] = (1, 9, 10, 11)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pointwise(values: Tensor) -> Tensor:
    """A model that judges each voxel by its intensity alone, so that it commutes with flips and shifts."""
    return torch.cat([-values, values])


def record(
    model: Callable[[Tensor], Tensor], label: Tensor | None = None, case: Tensor | None = None, **options: Any
) -> dict[str, float]:
    """Signals of the variants of one image of a model that is a function."""
    case = image() if case is None else case
    return PerturbedQueries(**options)(
        Release(model(case)),
        label,
        image=case,
        case_id="case",
        ask=lambda changed, _: Release(model(changed)),
        inferer=SimpleInferer(),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_answer_is_mapped_back(variant: Variant) -> None:
    case = image()
    before = case.clone()
    back = variant.undo(variant.change(case, "case"))
    assert torch.equal(case, before)
    assert back.shape == case.shape
    if isinstance(variant, Noise):
        assert (back - case).std() == pytest.approx(0.1 * case.std().item(), rel=0.1)
    else:
        inner = (slice(None), slice(2, -2), slice(2, -2))  # what a shift pushes over the edge is lost
        assert torch.equal(back[inner], case[inner])
        assert not torch.equal(variant.change(case, "case"), case)


def test_asking_twice_asks_the_same() -> None:
    case = image()
    noise = Noise(0.5)
    assert torch.equal(noise.change(case, "a"), noise.change(case, "a"))
    assert not torch.equal(noise.change(case, "a"), noise.change(case, "b"))
    assert not torch.equal(noise.change(case, "a"), Noise(0.5, seed=1).change(case, "a"))


def test_a_model_that_commutes_agrees_with_itself() -> None:
    found = record(pointwise, perturbations=[Flip(0), Flip(1), Flip(2)], label=(image(1) > 0).long())
    plain = segmentation_signals(Release(pointwise(image())), (image(1) > 0).long())
    assert found["agreement"] == found["agreement_flip_1"] == 1
    soft = segmentation_signals(Release(pointwise(image())), pointwise(image()).argmax(0, keepdim=True))["soft_dice"]
    assert found["soft_agreement"] == pytest.approx(soft)
    assert found["robust_dice"] == pytest.approx(plain["dice"])
    assert found["log_odds_foreground_flip_2"] == pytest.approx(plain["log_odds_foreground"], rel=1e-5)


def test_a_model_that_ignores_the_image_answers_elsewhere() -> None:
    """The left half whatever is asked: mirrored back it is the right half, which shares no voxel; moved by 1, 3/4."""

    def left(values: Tensor) -> Tensor:
        logits = torch.zeros(2, *values.shape[1:])
        logits[1, :4] = 3
        logits[0, 4:] = 3
        return logits

    found = record(left, case=image(shape=(1, 8, 8, 8)), perturbations=[Flip(0), Shift(0, 1), Flip(1)])
    assert found["agreement_flip_0"] == 0
    assert found["agreement_shift_0_1"] == pytest.approx(2 * 3 / (4 + 3))
    assert found["agreement_flip_1"] == 1
    assert found["agreement"] == pytest.approx((6 / 7 + 1) / 3)
    sure = 1 / (1 + math.exp(-3))
    assert found["soft_agreement_flip_1"] == pytest.approx(2 * 4 * sure / (8 / 2 + 4), rel=1e-5)
    assert found["soft_agreement_flip_0"] == pytest.approx(2 * 4 * (1 - sure) / (8 / 2 + 4), rel=1e-5)


def test_names_access_and_what_a_release_allows() -> None:
    label = (image(1) > 0).long()
    found = record(pointwise, label)
    assert {access_of(name) for name in found} == {"mask", "mask+label", "probabilities", "probabilities+label"}
    assert access_of("robust_log_likelihood_foreground") == access_of("log_likelihood_foreground_noise_0_1")
    assert all(name.replace("_", "").isalnum() and name == name.lower() for name in found)
    blind = record(pointwise)
    assert {access_of(name) for name in blind} == {"mask", "probabilities"}
    assert all(found[name] == value for name, value in blind.items())

    def masked(changed: Tensor, _: Any = None) -> Release:
        return Release(pointwise(changed).argmax(0, keepdim=True), "mask", n_classes=2)

    options = {"image": image(), "case_id": "case", "ask": masked, "inferer": None}
    only = PerturbedQueries()(masked(image()), label, **options)
    assert {access_of(name) for name in only} == {"mask", "mask+label"}
    assert all(found[name] == pytest.approx(value) for name, value in only.items())


def test_sigmoid_in_2d() -> None:
    case = image(shape=(1, 12, 13))
    model = lambda values: torch.cat([values, 1 - values])  # noqa: E731
    query = PerturbedQueries([Flip(0), Flip(1)], signals=["dice", "soft_dice"])
    label = torch.cat([(case > 0), (case < 1)]).float()
    found = query(
        Release(model(case), activation="sigmoid"),
        label,
        image=case,
        case_id="case",
        ask=lambda changed, _: Release(model(changed), activation="sigmoid"),
        inferer=None,
    )
    assert found["agreement"] == 1
    assert found["robust_dice"] == 1
    assert set(found) >= {"soft_dice_flip_1", "robust_soft_dice"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PerturbedQueries([]), "variants must be at least one"),
        (lambda: PerturbedQueries([Flip(0), Flip(0)]), "names that differ, got flip_0, flip_0"),
        (lambda: PerturbedQueries(signals=["hausdorff"]), "got 'hausdorff'"),
        (lambda: record(pointwise, signals=["dice"]), "signals of PerturbedQueries must be some of"),
        (lambda: record(pointwise, perturbations=[Flip(3)]), r"axis of a perturbed query must be in \[0, 3\), got 3"),
        (lambda: record(pointwise, perturbations=[WindowOverlap()]), "must have sliding windows for overlap_0_5"),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


class TestInAnEvaluator:
    """The recorder asks the evaluator's own network, through its own inferer."""

    def test_a_variant_is_what_asking_by_hand_gives(self, tmp_path: Path) -> None:
        net = network()
        evaluate([SignalRecorder(tmp_path / "target.csv", signals=[PerturbedQueries([Flip(1), Noise(0.3)])])], net)
        table = SignalTable.read(tmp_path)
        net.eval()
        for item in items(3):
            for variant in (Flip(1), Noise(0.3)):
                with torch.no_grad():
                    answer = net(variant.change(item["image"], item["case_id"])[None])[0]
                expected = segmentation_signals(Release(variant.undo(answer)), item["label"])
                row = table.case_ids.index(item["case_id"])
                for name in ("dice", "log_likelihood_foreground", "log_odds_foreground"):
                    found = table.signal(f"{name}_{variant.name}", "target")[row]
                    assert found == pytest.approx(expected[name], rel=1e-5), name
        assert table.access["agreement"] == "mask"
        assert table.access["robust_dice"] == "mask+label"

    def test_the_adversary_sees_what_is_released(self, tmp_path: Path) -> None:
        """An output defence that always answers background agrees with itself, whatever the network says."""

        def silent(item: dict[str, Any]) -> dict[str, Any]:
            return {"pred": torch.zeros_like(item["pred"][:1])}

        recorder = SignalRecorder(
            tmp_path / "target.csv", signals=[PerturbedQueries()], transform=silent, release="mask", n_classes=2
        )
        evaluate([recorder])
        table = SignalTable.read(tmp_path)
        assert (table.signal("agreement", "target") == 1).all()
        assert not [name for name in table.signals if "log" in name]

    def test_the_network_is_asked_in_evaluation_mode(self, tmp_path: Path) -> None:
        """With dropout an unchanged query would otherwise be answered differently."""
        net = nn.Sequential(nn.Dropout(0.9), network())
        evaluate([SignalRecorder(tmp_path / "target.csv", signals=[PerturbedQueries([Noise(0.0)])])], net)  # type: ignore[arg-type]
        table = SignalTable.read(tmp_path)
        assert (table.signal("agreement", "target") == 1).all()

    def test_windows_disagree_where_they_overlap(self, tmp_path: Path) -> None:
        """A network that answers by the place in its window: another overlap puts a voxel elsewhere."""

        class Placed(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                ramp = torch.arange(x.shape[2], dtype=x.dtype)[:, None, None].expand_as(x)
                return torch.cat([ramp, 4 - ramp], 1)

        for overlap, same in ((0.0, True), (0.5, False)):
            inferer = SlidingWindowInferer((4, 8, 8), overlap=0.0)
            folder = tmp_path / str(overlap)
            evaluator = SupervisedEvaluator(
                device=torch.device("cpu"),
                val_data_loader=DataLoader(Dataset(items(2))),
                network=Placed(),
                inferer=inferer,
                val_handlers=[
                    SignalRecorder(folder / "target.csv", signals=[PerturbedQueries([WindowOverlap(overlap)])])
                ],
            )
            evaluator.run()
            agreement = SignalTable.read(folder).signal("agreement", "target")
            assert inferer.overlap == 0.0
            assert (agreement == 1).all() if same else (agreement < 0.9).all()

    def test_nothing_else_changes(self, tmp_path: Path) -> None:
        """The signals of the plain query are those without variants, to the last digit."""
        evaluate([SignalRecorder(tmp_path / "a" / "target.csv")])
        both = [segmentation_signals, PerturbedQueries([Shift(2, 1)])]
        evaluate([SignalRecorder(tmp_path / "b" / "target.csv", signals=both)])
        plain, more = SignalTable.read(tmp_path / "a"), SignalTable.read(tmp_path / "b")
        for name in plain.signals:
            assert (plain.signal(name, "target") == more.signal(name, "target")).all()


def test_masks_of_a_defence_need_no_reference(tmp_path: Path) -> None:
    recorder = SignalRecorder(
        tmp_path / "target.csv",
        signals=[PerturbedQueries()],
        transform=AsDiscreted("pred", argmax=True),
        release="mask",
        n_classes=2,
    )
    evaluate([recorder])
    agreement = SignalTable.read(tmp_path).signal("agreement", "target")
    assert ((agreement > 0) & (agreement < 1)).all()


def test_from_a_config_and_into_a_key() -> None:
    """What a config builds is what Python builds, and its repr, which keys a file of signals, tells every option."""
    parser = ConfigParser(
        {
            "signal": {
                "_target_": "monai_mia.signals.PerturbedQueries",
                "variants": [
                    {"_target_": "monai_mia.signals.Flip", "axis": 1},
                    {"_target_": "monai_mia.signals.Noise", "sigma": 0.2, "seed": 7},
                ],
            }
        }
    )
    built = parser.get_parsed_content("signal")
    assert built == PerturbedQueries([Flip(1), Noise(0.2, 7)])
    assert pickle.loads(pickle.dumps(built)) == built
    assert repr(built) == "PerturbedQueries(variants=[Flip(axis=1), Noise(sigma=0.2, seed=7)], signals=None)"
