# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of signals: one row per (model, case), the only interface between the MONAI half and the statistics.

On disk it is one ``<model_id>.csv`` per model (floats by ``repr``, an exact round trip) with a ``<model_id>.json``
beside it. In memory it is dense: every model was asked about every case.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records import files

__all__ = ["SignalTable", "write_signals"]

#: What the adversary gets, weakest first; each level includes the ones before it.
ACCESS_LEVELS = ("mask", "mask+label", "probabilities", "probabilities+label", "white-box")

_COLUMNS = ("model_id", "case_id", "patient_id", "member")


@dataclass(frozen=True)
class SignalTable:
    """Signals of M models on N cases.

    Attributes:
        model_ids: names of the models, length M.
        case_ids: names of the cases, length N, sorted.
        patient_ids: the patient of each case, length N.
        signals: names of the signals, length S.
        member: whether a model trained on a case, shape (M, N), bool.
        values: shape (M, N, S), float64, finite; a higher value means a better fit.
        access: access level that each signal needs.
    """

    model_ids: tuple[str, ...]
    case_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    signals: tuple[str, ...]
    member: NDArray[np.bool_]
    values: NDArray[np.float64]
    access: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no attack could use."""
        for name, level in self.access.items():
            if level not in ACCESS_LEVELS:
                raise InputError(f"access of {name!r} must be one of {', '.join(ACCESS_LEVELS)}, got {level!r}.")
        shape = (len(self.model_ids), len(self.case_ids), len(self.signals))
        if self.values.shape != shape:
            raise InputError(f"values must be of shape {shape} (models, cases, signals), got {self.values.shape}.")
        if self.member.shape != shape[:2]:
            raise InputError(f"member must be of shape {shape[:2]} (models, cases), got {self.member.shape}.")
        bad = np.argwhere(~np.isfinite(self.values))
        if len(bad):
            m, n, s = bad[0]
            raise InputError(
                f"signal {self.signals[s]!r} of case {self.case_ids[n]!r} must be finite in {self.model_ids[m]!r}, "
                f"got {self.values[m, n, s]} ({len(bad)} such values). Delete its signals file to record it again."
            )
        patients = np.asarray(self.patient_ids)
        for m, row in enumerate(self.member):
            split = set(patients[row]) & set(patients[~row])
            if split:
                raise InputError(
                    f"patient must be on one side of a model, got {str(min(split))!r} on both sides of "
                    f"{self.model_ids[m]!r}."
                )

    @classmethod
    def read(cls, folder: str | os.PathLike[str], models: Sequence[str] | None = None) -> SignalTable:
        """Read ``<folder>/<model_id>.csv`` of every model.

        Args:
            folder: the folder of a study's signals.
            models: model ids to read, in this order; by default all there are, sorted.

        Raises:
            InputError: a file is missing, misses rows, holds other signals than the first, or holds NaN.
        """
        folder = Path(folder)
        if models is None:
            models = sorted(path.stem for path in folder.glob("*.csv"))
        if not models:
            raise InputError(
                f"signals must be in {folder}/<model_id>.csv, got an empty folder. Query the models first."
            )
        rows = {model: _read_model(folder / f"{model}.csv", model) for model in models}
        first = rows[models[0]]
        case_ids = tuple(sorted(first.patient))
        for model, other in rows.items():
            if other.signals != first.signals:
                odd = sorted(set(other.signals) ^ set(first.signals)) or ["their order"]
                raise InputError(
                    f"signals of {model!r} must be those of {models[0]!r}, they differ in {', '.join(odd)}. "
                    "Record both with the same settings."
                )
            if other.patient != first.patient:
                case = sorted(set(other.patient.items()) ^ set(first.patient.items()))[0][0]
                raise InputError(
                    f"cases of {model!r} must be those of {models[0]!r}, they differ in {case!r}. "
                    "Delete the incomplete file to record it again."
                )
        member = np.stack([[rows[model].member[case] for case in case_ids] for model in models])
        values = np.stack([[rows[model].values[case] for case in case_ids] for model in models])
        access = files.read_json(folder / f"{models[0]}.json").get("access", {})
        patients = tuple(first.patient[case] for case in case_ids)
        return cls(tuple(models), case_ids, patients, first.signals, member.astype(bool), values, access)

    def only(self, cases: NDArray[np.bool_]) -> SignalTable:
        """The same models on some of the cases; ``cases`` of shape (N,), bool."""
        kept = np.flatnonzero(cases)
        return replace(
            self,
            case_ids=tuple(self.case_ids[n] for n in kept),
            patient_ids=tuple(self.patient_ids[n] for n in kept),
            member=self.member[:, kept],
            values=self.values[:, kept],
        )

    def members(self, model: str) -> NDArray[np.bool_]:
        """Whether ``model`` trained on each case, shape (N,). For the audit alone."""
        return np.asarray(self.member[self.model_ids.index(model)])

    def signal(self, name: str, model: str) -> NDArray[np.float64]:
        """Values of one signal of one model, shape (N,)."""
        if name not in self.signals:
            raise InputError(f"signal must be one of {', '.join(self.signals)}, got {name!r}.")
        return self.values[self.model_ids.index(model), :, self.signals.index(name)]


@dataclass(frozen=True)
class _ModelRows:
    signals: tuple[str, ...]
    patient: dict[str, str]
    member: dict[str, bool]
    values: dict[str, NDArray[np.float64]]


def _read_model(path: Path, model: str) -> _ModelRows:
    if not path.is_file():
        raise InputError(f"signals of {model!r} must be in {path}, got no such file. Query that model first.")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = tuple(next(reader, ()))
        if header[:4] != _COLUMNS or len(header) == 4:
            raise InputError(f"columns of {path} must be {', '.join(_COLUMNS)} and signals, got {', '.join(header)}.")
        rows = _ModelRows(header[4:], {}, {}, {})
        for number, row in enumerate(reader, start=2):
            if len(row) != len(header) or row[0] != model or row[3] not in ("0", "1"):
                raise InputError(f"line {number} of {path} must be a row of model {model!r}, got {row[:4]}.")
            if row[1] in rows.patient:
                raise InputError(f"case_id must be unique in {path}, got {row[1]!r} twice.")
            rows.patient[row[1]] = row[2]
            rows.member[row[1]] = row[3] == "1"
            try:
                rows.values[row[1]] = np.array(row[4:], dtype=np.float64)
            except ValueError as error:
                raise InputError(f"signals in line {number} of {path} must be numbers ({error}).") from error
    return rows


def write_signals(
    path: str | os.PathLike[str],
    model_id: str,
    case_ids: Sequence[str],
    patient_ids: Sequence[str],
    member: Sequence[bool],
    signals: Mapping[str, Sequence[float]],
    access: Mapping[str, str],
    **about: Any,
) -> None:
    """Write one model's rows, sorted by case, and beside them a JSON file with their access levels and ``about``.

    Args:
        path: the ``<model_id>.csv`` to write, atomically.
        model_id: name of the model.
        case_ids: names of the cases, length N.
        patient_ids: the patient of each case, length N.
        member: whether the model trained on each case, length N.
        signals: a sequence of N floats for each signal.
        access: access level that each signal needs.
        about: what the rows depend on, for instance their ``key``.
    """
    rows = [
        [
            model_id,
            case_ids[n],
            patient_ids[n],
            int(member[n]),
            *(repr(float(column[n])) for column in signals.values()),
        ]
        for n in sorted(range(len(case_ids)), key=lambda n: case_ids[n])
    ]
    content = files.csv_text([[*_COLUMNS, *signals], *rows])
    files.write_artefact(path, content, model_id=model_id, access=dict(access), **about)
