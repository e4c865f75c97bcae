# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Watch a training leak: what tells members from non-members, epoch by epoch, beside Dice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from monai_mia.defences.held_out import epoch_end, undisturbed
from monai_mia.errors import InputError
from monai_mia.records.streams import Stream, stream
from monai_mia.signals.release import Release, bare_network
from monai_mia.signals.segmentation import segmentation_signals

__all__ = ["LeakageMonitor"]

logger = logging.getLogger(__name__)


class LeakageMonitor:
    """Measure, during training, how well one signal tells members from known non-members: a handler of a trainer.

    Every few epochs the network is asked about a sample of both, as it would be when released. Into
    ``engine.state.metrics``, where TensorBoard and MLflow handlers find them beside Dice, go ``member_dice``,
    ``nonmember_dice``, ``dice_gap``, ``signal_gap`` (members minus non-members) and ``leakage_auc`` with a 95 %
    interval by patient, ``leakage_auc_low`` and ``leakage_auc_high``. An AUC of one half means that the signal tells
    nothing.

    It is measured after the last step of an epoch, before validation and savers run, without disturbing the training:
    weights are the same as without it, bit for bit. A threshold on one signal is a weak attack: a low AUC is no proof
    of privacy, a high one is proof of leakage.

    Args:
        members: datalist of cases that are trained on.
        nonmembers: datalist of cases that are not: in a study the held-out ones, in a bundle those of its validation.
        transform: preprocessing without random transforms.
        inferer: as the network is deployed.
        n_cases: about as many members, and non-members, are asked about, evenly from the lists.
        interval: epochs between measurements; the last epoch is always measured.
        signal: one of :func:`~monai_mia.signals.segmentation_signals`.
        stop_above: AUC at which training stops. The weights of the last measured epoch below it are kept; with a saver,
            take the interval of the validation, so that none is saved in between.
        activation: ``softmax`` or ``sigmoid``.
        n_resamples: of the patients, for the interval.

    Raises:
        InputError: a list is empty or the AUC is above ``stop_above`` from the first measurement on.
    """

    def __init__(
        self,
        members: Sequence[Mapping[str, Any]],
        nonmembers: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        inferer: Inferer,
        n_cases: int = 20,
        interval: int = 1,
        signal: str = "log_likelihood",
        stop_above: float | None = None,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        n_resamples: int = 1000,
    ) -> None:
        if not len(members) or not len(nonmembers):
            raise InputError(
                f"members and nonmembers must be cases, got {len(members)} and {len(nonmembers)}. In a study set "
                "held_out, the share of patients that is held out; in a bundle alone pass --held_out "
                "'@validate#dataset#data'."
            )
        if stop_above is not None and not 0 < stop_above <= 1:
            raise InputError(f"stop_above must be an AUC in (0, 1], got {stop_above}.")
        if min(n_cases, interval) < 1:
            raise InputError(f"n_cases and interval must be at least 1, got {n_cases} and {interval}.")
        self.samples = tuple(
            CacheDataset([dict(case) for case in _evenly(cases, n_cases)], transform, progress=False)
            for cases in (members, nonmembers)
        )
        self.inferer = inferer
        self.interval = interval
        self.signal = signal
        self.stop_above = stop_above
        self.activation = activation
        self.n_resamples = n_resamples
        #: What was measured: one mapping an epoch.
        self.history: list[dict[str, float]] = []
        self._kept: dict[str, Tensor] = {}
        self._stopped = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(epoch_end(), self)
        for event in (Events.EPOCH_STARTED, Events.EPOCH_COMPLETED):  # the first, if resumed after the stop
            engine.add_event_handler(event, self._stop)

    def state_dict(self) -> dict[str, Any]:
        """What was measured, and the weights to fall back on."""
        return {"history": list(self.history), "kept": dict(self._kept), "stopped": self._stopped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was."""
        self.history, self._kept, self._stopped = list(state["history"]), dict(state["kept"]), state["stopped"]

    def __call__(self, engine: Any) -> None:
        """Measure at the end of an epoch."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        measured = self.measure(bare_network(engine.network), engine.state.device)
        engine.state.metrics.update(measured)
        self.history.append({"epoch": epoch, **measured})
        logger.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
        if self.stop_above is None:
            return
        network = bare_network(engine.network)
        if measured["leakage_auc"] <= self.stop_above:
            self._kept = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        elif not self._kept:
            raise InputError(
                f"stop_above must be at least the AUC of the first measurement, {measured['leakage_auc']:.3f} after "
                f"epoch {epoch}, got {self.stop_above}. Raise it, measure earlier, or take more cases."
            )
        else:
            network.load_state_dict(self._kept)
            self._stopped = True

    def measure(self, network: torch.nn.Module, device: Any = None) -> dict[str, float]:
        """Ask a network about both samples."""
        training = network.training
        network.eval()
        with undisturbed(), torch.no_grad():
            (members, patients), (others, other_patients) = (
                self._ask(network, sample, device) for sample in self.samples
            )
        network.train(training)
        low, high = _auc_interval(members[:, 1], others[:, 1], patients, other_patients, self.n_resamples)
        dice, signal = (members.mean(axis=0) - others.mean(axis=0)).tolist()
        return {
            "member_dice": float(members[:, 0].mean()),
            "nonmember_dice": float(others[:, 0].mean()),
            "dice_gap": dice,
            "signal_gap": signal,
            "leakage_auc": float(_wins(members[:, 1], others[:, 1]).mean()),
            "leakage_auc_low": low,
            "leakage_auc_high": high,
        }

    def _ask(self, network: torch.nn.Module, sample: Any, device: Any) -> tuple[NDArray[np.float64], list[str]]:
        rows, patients = [], []
        for n, item in enumerate(sample):
            prediction = self.inferer(item["image"][None].to(device), network)[0]
            label = torch.as_tensor(item["label"])
            signals = segmentation_signals(
                Release(convert_to_tensor(prediction, track_meta=False), "logits", self.activation),
                convert_to_tensor(label, track_meta=False),
            )
            if self.signal not in signals:
                raise InputError(f"signal must be one of {', '.join(signals)}, got {self.signal!r}.")
            rows.append([signals["dice"], signals[self.signal]])
            patients.append(str(item.get("patient_id", n)))
        return np.array(rows), patients

    def _stop(self, engine: Any) -> None:
        if self._stopped:
            logger.info("epoch %d: the AUC is above %g, training stops.", engine.state.epoch, self.stop_above)
            engine.state.stopped_by = type(self).__name__
            engine.state.epoch -= engine.last_event_name == Events.EPOCH_STARTED  # that one is not trained
            engine.terminate()


def _evenly(cases: Sequence[Mapping[str, Any]], n: int) -> Sequence[Mapping[str, Any]]:
    return cases[:: max(1, len(cases) // n)]


def _wins(members: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a member is above a non-member, one half in a tie; its mean is the AUC."""
    return np.asarray((np.sign(members[:, None] - others[None]) + 1) / 2)


def _auc_interval(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    patients: Sequence[str],
    other_patients: Sequence[str],
    n_resamples: int,
) -> tuple[float, float]:
    """Percentiles of the AUC over resampled patients, each side for itself."""
    rng = stream(Stream.MONITOR_RESAMPLES, 0)
    wins = _wins(members, others)
    weights = [_resampled(ids, n_resamples, rng) for ids in (patients, other_patients)]
    aucs = np.einsum("rm,mn,rn->r", weights[0], wins, weights[1], optimize=True)
    low, high = np.percentile(aucs, [2.5, 97.5]).tolist()
    return low, high


def _resampled(patients: Sequence[str], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much each case weighs in each resample of the patients, shape (n, cases), sum 1."""
    unique, index = np.unique(np.asarray(patients), return_inverse=True)
    counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=n)[:, index].astype(float)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
