# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Handlers, each alone in a plain MONAI engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import environment
from evaluations import evaluate, items, network
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, MetricsSaver, from_engine
from monai.networks.nets import UNet
from monai.transforms import Activationsd, AsDiscreted, Compose, Lambdad, RandGaussianNoised
from monai.utils import set_determinism

from monai_mia import attacks
from monai_mia.audit.audit import Audit
from monai_mia.errors import InputError
from monai_mia.handlers.attacks import AttackRunner
from monai_mia.handlers.maps import MapRecorder
from monai_mia.handlers.resuming import Checkpointer, EpochSeeder
from monai_mia.handlers.signals import SignalRecorder
from monai_mia.records import files
from monai_mia.records.maps import MapStore
from monai_mia.records.table import SignalTable
from monai_mia.signals.release import Release
from monai_mia.signals.segmentation import segmentation_signals
from monai_mia.signals.white_box import WhiteBox
from monai_mia.statistics import Resampling


def test_recorder_writes_the_signals_of_the_raw_output(tmp_path: Path) -> None:
    net = network()
    evaluate([SignalRecorder(tmp_path / "target.csv")], net)
    table = SignalTable.read(tmp_path)
    assert table.model_ids == ("target",)
    net.eval()
    for item in items():
        with torch.no_grad():
            logits = net(item["image"][None])[0]
        expected = segmentation_signals(Release(logits), item["label"])
        row = table.values[0, table.case_ids.index(item["case_id"])]
        assert dict(zip(table.signals, row, strict=True)) == pytest.approx(expected, rel=1e-5)
    assert table.access["dice"] == "mask+label"


def test_recorder_is_not_disturbed_by_postprocessing_nor_disturbs_it(tmp_path: Path) -> None:
    """In a bundle's own evaluator, which argmaxes and decollates, Dice and signals are what they are alone."""
    post = Compose(
        [
            Activationsd("pred", softmax=True),
            AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2),
        ]
    )
    metric = {"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))}
    evaluate([SignalRecorder(tmp_path / "plain" / "target.csv")])
    without = evaluate([], postprocessing=post, key_val_metric=metric)
    metric = {"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))}
    both = evaluate(
        [SignalRecorder(tmp_path / "post" / "target.csv")], postprocessing=post, key_val_metric=metric, batch_size=4
    )
    plain, post_table = SignalTable.read(tmp_path / "plain"), SignalTable.read(tmp_path / "post")
    assert torch.allclose(torch.tensor(plain.values), torch.tensor(post_table.values), rtol=1e-5)
    assert both.state.metrics["dice"] == pytest.approx(without.state.metrics["dice"], abs=1e-6)
    assert plain.signal("dice", "target").mean() == pytest.approx(without.state.metrics["dice"], abs=1e-6)


def test_release_is_what_leaves_the_model(tmp_path: Path) -> None:
    """A mask-only release has no signal of probabilities."""
    mask = AsDiscreted("pred", argmax=True)
    evaluate([SignalRecorder(tmp_path / "target.csv", transform=mask, release="mask", n_classes=2)])
    assert all(signal.startswith(("dice", "volume_ratio")) for signal in SignalTable.read(tmp_path).signals)


def test_own_signal(tmp_path: Path) -> None:
    def brightness(release: Release, label: torch.Tensor | None) -> dict[str, float]:
        return {"brightness": float(release.values.mean())}

    brightness.access = "probabilities"  # type: ignore[attr-defined]
    evaluate([SignalRecorder(tmp_path / "target.csv", signals=[brightness])])
    table = SignalTable.read(tmp_path)
    assert table.signals == ("brightness",)
    assert table.access == {"brightness": "probabilities"}


def test_signals_see_what_they_need(tmp_path: Path) -> None:
    """The case's image and name, and the model itself, asked once more: about twice the image, twice the answer."""

    class Doubled:
        access = "probabilities"
        needs = ("image", "case_id", "ask", "network")

        def __call__(self, release: Release, label: torch.Tensor | None, **given: Any) -> dict[str, float]:
            assert set(given) == set(self.needs)
            assert isinstance(given["network"], torch.nn.Conv3d)
            answer = given["ask"](2 * given["image"])
            assert isinstance(answer, Release)
            return {
                "twice": float((answer.values / release.values).mean()),
                "image": float(given["image"].sum()),
                "case": float(given["case_id"].removeprefix("case_")),
            }

    net = torch.nn.Conv3d(1, 2, 1, bias=False)
    evaluate([SignalRecorder(tmp_path / "target.csv", signals=[Doubled()])], net, batch_size=5)  # type: ignore[arg-type]
    table = SignalTable.read(tmp_path)
    assert table.signal("twice", "target") == pytest.approx(2)
    for item in items():
        row = table.case_ids.index(item["case_id"])
        assert table.signal("image", "target")[row] == pytest.approx(float(item["image"].sum()), rel=1e-5)
        assert f"case_{table.signal('case', 'target')[row]:g}" == item["case_id"]


def test_a_signal_that_needs_what_nobody_gives(tmp_path: Path) -> None:
    def blind(release: Release, label: torch.Tensor | None, depth: torch.Tensor) -> dict[str, float]:
        return {"depth": float(depth.mean())}

    blind.needs = ("depth",)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="case 'case_0': evaluator must give depth for"):
        evaluate([SignalRecorder(tmp_path / "target.csv", signals=[blind])])


class Ranked:
    """A signal that is known only when all cases are: a case's place in the order of the brightest voxel."""

    access = "mask"
    needs = ("image",)

    def start(self) -> None:
        self.seen: list[float] = []

    def __call__(self, release: Release, label: torch.Tensor | None, image: torch.Tensor) -> dict[str, float]:
        self.seen.append(float(image.max()))
        return {"brightest": self.seen[-1]}

    def finish(self) -> dict[str, list[float]]:
        return {"place": [float(sum(other < one for other in self.seen)) for one in self.seen]}


def test_signals_of_all_cases_together(tmp_path: Path) -> None:
    ranked = Ranked()
    for run in range(2):  # the same object for two models: it starts anew
        evaluate([SignalRecorder(tmp_path / f"model_{run}.csv", signals=[ranked, segmentation_signals])], batch_size=5)
    table = SignalTable.read(tmp_path)
    assert table.signals[0] == "brightest"
    assert table.signals[-1] == "place"
    for model in table.model_ids:
        expected = table.signal("brightest", model).argsort().argsort()
        assert (table.signal("place", model) == expected).all()

    ranked.finish = lambda: {"place": [float("nan")] * 12}  # type: ignore[method-assign]
    with pytest.raises(InputError, match="signals must be finite, got nan for place"):
        evaluate([SignalRecorder(tmp_path / "broken.csv", signals=[ranked])])


def test_recorder_names_what_the_datalist_lacks(tmp_path: Path) -> None:
    data = [{"image": torch.zeros(1, 8, 8, 8)}]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=DataLoader(Dataset(data)), network=network(),
        val_handlers=[SignalRecorder(tmp_path / "target.csv")],
    )  # fmt: skip
    with pytest.raises(InputError, match="must have case_id, patient_id, member"):
        evaluator.run()
    assert not list(tmp_path.iterdir())


def test_recorder_names_the_case_it_cannot_score(tmp_path: Path) -> None:
    broken = network()
    broken.register_forward_hook(lambda *_: torch.full((1, 2, 8, 8, 8), torch.nan))
    with pytest.raises(InputError, match="case 'case_0': prediction must be finite"):
        evaluate([SignalRecorder(tmp_path / "target.csv")], broken)


def test_attacks_at_the_end_of_an_evaluation(tmp_path: Path) -> None:
    """Their AUC and TPR stand in ``engine.state.metrics``, and MetricsSaver writes them beside Dice."""
    for shadow in range(2):
        evaluate([SignalRecorder(tmp_path / f"signals/shadow_{shadow:02d}.csv")], network(1 + shadow))
    audit = Audit(
        [attacks.GlobalLoss(), attacks.EverySignal()],
        fprs=(0.5,),
        resampling=Resampling(n_resamples=50),
        n_permutations=50,
    )
    post = Compose(
        [Activationsd("pred", softmax=True), AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2)]
    )
    metric = {"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))}
    evaluator = evaluate(
        [
            SignalRecorder(tmp_path / "signals/target.csv"),
            AttackRunner(audit, tmp_path / "signals", prefix="attack: "),
            MetricsSaver(str(tmp_path / "metrics"), metrics="*"),
        ],
        postprocessing=post,
        key_val_metric=metric,
    )
    expected = audit.run(SignalTable.read(tmp_path / "signals")).attack("global loss")
    assert evaluator.state.metrics["attack: global loss AUC"] == expected.auc.value
    assert evaluator.state.metrics["attack: global loss TPR@0.5"] == expected.tpr_at_fpr[0.5].value
    saved = (tmp_path / "metrics" / "metrics.csv").read_text()
    assert "dice" in saved
    assert "attack: global loss AUC" in saved


class TestTraining:
    """A resumed training is the undisturbed one, bit for bit."""

    def trainer(self, path: Path | None, epochs: int, key: str = "k") -> SupervisedTrainer:
        set_determinism(7)
        net = network(7)
        data = Dataset(items(), Compose([RandGaussianNoised("image", prob=0.5), Lambdad("image", lambda x: x)]))
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=DataLoader(data, batch_size=4, shuffle=True),
            network=net,
            optimizer=optimizer,
            loss_function=lambda x, y: torch.nn.functional.cross_entropy(x, y[:, 0].long()),
        )
        if path:
            Checkpointer(path, {"network": net, "optimizer": optimizer}, key).attach(trainer)
        EpochSeeder(3, data).attach(trainer)
        return trainer

    def test_resumed_is_undisturbed(self, tmp_path: Path) -> None:
        whole = self.trainer(None, 4)
        whole.run()
        self.trainer(tmp_path / "checkpoint.pt", 2).run()
        torch.rand(17)  # whatever happened in between
        resumed = self.trainer(tmp_path / "checkpoint.pt", 4)
        resumed.run()
        assert resumed.state.iteration == whole.state.iteration
        for name, value in whole.network.state_dict().items():
            assert torch.equal(value, resumed.network.state_dict()[name]), name

    def test_checkpoint_of_another_training_is_not_resumed(self, tmp_path: Path) -> None:
        self.trainer(tmp_path / "checkpoint.pt", 2).run()
        other = self.trainer(tmp_path / "checkpoint.pt", 2, key="other")
        other.run()
        assert other.state.iteration == 6  # trained again, from the first epoch

    def test_torn_checkpoint_is_not_resumed(self, tmp_path: Path) -> None:
        self.trainer(tmp_path / "checkpoint.pt", 2).run()
        whole = (tmp_path / "checkpoint.pt").read_bytes()
        for torn in (whole[: len(whole) // 2], b"PK torn", b""):
            (tmp_path / "checkpoint.pt").write_bytes(torn)
            trainer = self.trainer(tmp_path / "checkpoint.pt", 1)
            trainer.run()
            assert trainer.state.iteration == 3

    def test_epochs_differ(self) -> None:
        """The seed depends on the epoch: no two epochs draw the same noise."""
        seen: list[torch.Tensor] = []
        trainer = self.trainer(None, 2)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(torch.rand(1)))
        trainer.run()
        assert seen[0] != seen[3]


DISTRIBUTED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
import evaluations as t
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai_mia.handlers import SignalRecorder
from monai_mia.signals import WhiteBox
from monai.data import DistributedSampler
torch.distributed.init_process_group("gloo")
data = Dataset(t.items(11))
for even in (False, True):
    path = {folder!r} + ("/even" if even else "/uneven") + "/target.csv"
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), network=t.network(),
        val_data_loader=DataLoader(data, sampler=DistributedSampler(data, even_divisible=even, shuffle=False)),
        val_handlers=[SignalRecorder(path), SignalRecorder(path + ".white", "target", [WhiteBox()])])
    evaluator.run()
    Path({folder!r}, f"recorded_{{even}}_{{torch.distributed.get_rank()}}").touch()
    torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two processes that record a table each way: with a sampler that gives each case once, then with another."""
    folder = tmp_path_factory.mktemp("distributed")
    script = folder / "run.py"
    script.write_text(DISTRIBUTED.format(tests=str(Path(__file__).parent.parent), folder=str(folder)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    return folder, subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def test_two_processes_give_the_table_of_one(
    distributed: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, result = distributed
    assert {path.name for path in folder.glob("recorded_*")} == {"recorded_False_0", "recorded_False_1"}, result.stderr
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=DataLoader(Dataset(items(11))), network=network(),
        val_handlers=[
            SignalRecorder(tmp_path / "one" / "target.csv"),
            SignalRecorder(tmp_path / "white" / "target.csv", signals=[WhiteBox()]),
        ],
    )  # fmt: skip
    evaluator.run()
    assert (folder / "uneven" / "target.csv").read_bytes() == (tmp_path / "one" / "target.csv").read_bytes()
    # The influence compares a case with those of both processes; their order is another, and so is the last digit.
    (tmp_path / "both").mkdir()
    shutil.copy(folder / "uneven" / "target.csv.white", tmp_path / "both" / "target.csv")
    both, one = SignalTable.read(tmp_path / "both"), SignalTable.read(tmp_path / "white")
    assert both.signals == one.signals
    assert both.values == pytest.approx(one.values, rel=1e-6, abs=1e-9)


def test_repeated_cases_of_a_sampler_are_refused(
    distributed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = distributed
    assert result.returncode != 0
    assert "even_divisible=False" in result.stderr
    assert not (folder / "even" / "target.csv").exists()


class TestMaps:
    """Maps are what the signals were computed from."""

    def logits(self, net: UNet, item: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            return net.eval()(item["image"][None])[0]

    def test_recorder_keeps_the_raw_output_once_its_references(self, tmp_path: Path) -> None:
        net, written = network(), []
        for model in ("target", "shadow_00"):
            recorders = [
                SignalRecorder(tmp_path / f"signals/{model}.csv"),
                MapRecorder(tmp_path / f"maps/{model}.npz", images=True, cohort="c", about={"key": "k"}),
            ]
            evaluate(recorders, net, postprocessing=Activationsd("pred", softmax=True), batch_size=4)
            written.append((tmp_path / "maps/labels.npz").stat().st_mtime_ns)
        assert written[0] == written[1]
        assert files.is_current(tmp_path / "maps/target.npz", "k")
        maps = MapStore(tmp_path / "maps").of(SignalTable.read(tmp_path / "signals"))
        for item in items():
            n = maps.case_ids.index(item["case_id"])
            logits = torch.from_numpy(maps.target(n))
            torch.testing.assert_close(logits, self.logits(net, item), rtol=1e-3, atol=1e-3)
            assert torch.equal(torch.from_numpy(maps.label(n)).float(), item["label"])
            torch.testing.assert_close(torch.from_numpy(maps.image(n)), item["image"], rtol=1e-3, atol=1e-3)

    def test_resolution_averages_maps_and_takes_the_middle_of_references(self, tmp_path: Path) -> None:
        net = network()
        evaluate([MapRecorder(tmp_path / "target.npz", resolution=(3, 2, 1))], net)
        maps = MapStore(tmp_path).view("target", [], ["case_0"])
        logits, label = self.logits(net, items()[0]), items()[0]["label"]
        assert maps.resolution == (3, 2, 1)
        assert maps.target(0).shape == (2, 3, 4, 8)
        assert maps.target(0)[1, 2, 1, 5] == pytest.approx(float(logits[1, 6:, 2:4, 5].mean()), abs=2e-3)
        assert maps.label(0)[0, 1, 2, 3] == label[0, 4, 5, 3]
        assert maps.label(0)[0, 2, 0, 0] == label[0, 7, 1, 0]

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    def test_released_probabilities_are_kept_as_logits(self, tmp_path: Path, activation: Any) -> None:
        net = network()
        activate = Activationsd("pred", softmax=activation == "softmax", sigmoid=activation == "sigmoid")
        recorder = MapRecorder(
            tmp_path / "target.npz", transform=activate, release="probabilities", activation=activation, labels=False
        )
        evaluate([recorder], net)
        kept = torch.from_numpy(MapStore(tmp_path).view("target", [], ["case_3"]).target(0))
        logits = self.logits(net, items()[3])
        expected = logits.log_softmax(0) if activation == "softmax" else logits
        torch.testing.assert_close(kept, expected, rtol=1e-3, atol=1e-3)

    def test_a_mask_is_kept_one_hot(self, tmp_path: Path) -> None:
        net = network()
        mask = AsDiscreted("pred", argmax=True)
        evaluate([MapRecorder(tmp_path / "target.npz", transform=mask, release="mask", n_classes=2)], net)
        maps = MapStore(tmp_path).view("target", [], ["case_3"])
        assert maps.release == "mask"
        best = self.logits(net, items()[3]).argmax(0)
        assert torch.equal(torch.from_numpy(maps.target(0)), torch.stack([best == 0, best == 1]).float())

    def test_a_failed_evaluation_leaves_nothing(self, tmp_path: Path) -> None:
        broken = network()
        broken.register_forward_hook(lambda *_: torch.full((1, 2, 8, 8, 8), torch.nan))
        with pytest.raises(InputError, match="case 'case_0': prediction must be finite"):
            evaluate([MapRecorder(tmp_path / "target.npz")], broken)
        assert not list(tmp_path.iterdir())

    def test_misuse_is_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="resolution must be integers of at least 1, got 0"):
            MapRecorder(tmp_path / "target.npz", resolution=0)
        with pytest.raises(InputError, match="resolution must be one integer or 3, one an axis"):
            evaluate([MapRecorder(tmp_path / "target.npz", resolution=(2, 2))])
