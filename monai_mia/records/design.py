# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Designs: which patients each model may train on, decided before any model is trained.

A coin decides, and the coin takes a seed, which is no secret, and a key, which is one: who has the seed, the cohort and
this code cannot draw the design again without the key. A report holds a commitment to both.

A case is a mapping with at least ``case_id``, ``patient_id``, ``image`` and ``label`` (paths); a patient is never
split between two sides of a model.
"""

from __future__ import annotations

import csv
import hmac
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.keys import check_key, keyed_digest
from monai_mia.records.streams import Stream, stream

__all__ = ["TARGET", "Case", "Design", "check_commitment", "check_drawn", "held_out_patients", "require_canaries"]

Case = Mapping[str, Any]

#: What cells that are JSON begin with.
_JSON = ('["', '"')

#: The id of the audited model, and the stem of further targets' ids; shadows are ``shadow_00``, ``shadow_01``, ...
TARGET = "target"

_COLUMNS = ("case_id", "patient_id", "image", "label")

#: What is hashed first: no draw with the same key begins so.
_COMMITMENT = "commitment to a design"


@dataclass(frozen=True)
class Design:
    """Who trained on whom.

    Attributes:
        cases: the cohort, N cases.
        member: for each model id, whether it trains on each case, shape (N,), bool.
        kind: ``randomised`` (a coin decided the target's members) or ``observational`` (a released target).
        seed: the seed of the coin; the key that it took as well is in no design.
    """

    cases: tuple[Case, ...]
    member: Mapping[str, NDArray[np.bool_]]
    kind: Literal["randomised", "observational"]
    seed: int

    def __post_init__(self) -> None:
        """Refuse designs that could not tell members from non-members."""
        ids = Counter(str(case["case_id"]) for case in self.cases)
        duplicate = [name for name, count in ids.items() if count > 1]
        if duplicate:
            raise InputError(
                f"case_id must be unique in the cohort, got {', '.join(map(repr, duplicate))} more than once."
            )
        patients = np.array([str(case["patient_id"]) for case in self.cases])
        for model, row in self.member.items():
            split = sorted(map(str, set(patients[row]) & set(patients[~row])))
            if split:
                raise InputError(
                    f"patient must be a member or a non-member of {model!r}, got {', '.join(map(repr, split))} on both "
                    "sides. Put all cases of a patient on one side."
                )
            for side, chosen in (("members", row), ("non-members", ~row)):
                if len(set(patients[chosen])) < 2:
                    raise InputError(
                        f"{side} of {model!r} must be at least 2 patients, got {len(set(patients[chosen]))}. "
                        "Give a larger cohort."
                    )

    @classmethod
    def randomised(cls, cases: Sequence[Case], shadows: int, seed: int = 0, targets: int = 1, *, key: bytes) -> Design:
        """A design in which a keyed coin decides, by patient, the members of the target and of every shadow.

        The same cases, seed and key give the same design; without the key nothing of it can be told.

        Formal guarantees: every model trains on half of the patients; shadows ``2k`` and ``2k+1`` are complementary,
        so that each patient is in exactly half of an even number of shadows; a design with more shadows or targets
        holds the same models and others; the targets are drawn independently. Patients whose cases have a ``canary``
        (:func:`~monai_mia.data.plant_canaries`) are not counted in the half: a fair coin of its own decides on each, as
        a one-run audit of epsilon demands.

        Args:
            cases: the cohort.
            shadows: how many shadows, at least 0.
            seed: seed of the coin.
            targets: how many targets (``target``, ``target_01``, ...), all attacked by the same shadows; at least 1.
            key: 32 secret bytes. A study has its own in its folder; elsewhere draw one
                (:func:`monai_mia.records.new_key`) and keep it, or fix one where nothing is secret, as in a simulation.
        """
        shadow_members = _shadows(cases, shadows, seed, key)
        if targets < 1:
            raise InputError(f"targets must be at least 1, got {targets}.")
        names = [TARGET, *(f"{TARGET}_{number:02d}" for number in range(1, targets))]
        drawn = {name: _rows(cases, _half(cases, Stream.TARGET_MEMBERS, seed, n, key)) for n, name in enumerate(names)}
        return cls(tuple(cases), {**drawn, **shadow_members}, "randomised", seed)

    @classmethod
    def observational(
        cls,
        cases: Sequence[Case],
        members: Sequence[str],
        nonmembers: Sequence[str],
        shadows: int,
        seed: int = 0,
        *,
        key: bytes,
    ) -> Design:
        """A design around a released target; only the shadows' members are decided by a coin.

        Args:
            cases: the cohort; cases named on neither side are left out.
            members: case ids or patient ids that the target was trained on.
            nonmembers: case ids or patient ids that it was not trained on.
            shadows: how many shadows, at least 0.
            seed: seed of the coin.
            key: as in :meth:`randomised`.
        """
        known = {str(case[key]) for case in cases for key in ("case_id", "patient_id")}
        for name, side in (("members", members), ("nonmembers", nonmembers)):
            unknown = sorted(set(side) - known)
            if unknown:
                raise InputError(
                    f"{name} must be case or patient ids of the cohort, got {', '.join(map(repr, unknown[:5]))}"
                    f"{' and more' if len(unknown) > 5 else ''}."
                )

        for name in sorted({*members, *nonmembers}):
            of_case = {str(case["patient_id"]) for case in cases if str(case["case_id"]) == name}
            of_patient = {str(case["patient_id"]) for case in cases if str(case["patient_id"]) == name}
            if of_case and of_patient and of_case != of_patient:
                raise InputError(
                    f"{name!r} must name a case or a patient, got the id of a case of one patient and of another "
                    "patient. Give ids that differ."
                )

        def named(case: Case, side: set[str]) -> bool:
            return str(case["case_id"]) in side or str(case["patient_id"]) in side

        ins, outs = set(members), set(nonmembers)
        both = [str(case["case_id"]) for case in cases if named(case, ins) and named(case, outs)]
        if both:
            raise InputError(f"members and nonmembers must not overlap, got case {', '.join(map(repr, both))} in both.")
        kept = [case for case in cases if named(case, ins | outs)]
        target = np.array([named(case, ins) for case in kept], dtype=bool)
        return cls(tuple(kept), {TARGET: target, **_shadows(kept, shadows, seed, key)}, "observational", seed)

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The targets first, then the shadows."""
        return tuple(self.member)

    @property
    def targets(self) -> tuple[str, ...]:
        """The models that are attacked; the first is :data:`TARGET`."""
        return tuple(model for model in self.member if model == TARGET or model.startswith(f"{TARGET}_"))

    @property
    def shadows(self) -> tuple[str, ...]:
        """The models that the adversary trained."""
        return tuple(model for model in self.member if model not in self.targets)

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """The patient of each case, length N."""
        return tuple(str(case["patient_id"]) for case in self.cases)

    @property
    def patients_assumed(self) -> int:
        """How many patients are assumed: the cohort named none, and each of their scans counts as a patient."""
        return len({str(case["patient_id"]) for case in self.cases if case.get("patient_assumed")})

    def members(self, model_id: str) -> list[Case]:
        """The datalist that ``model_id`` trains on."""
        return [case for case, chosen in zip(self.cases, self.member[model_id], strict=True) if chosen]

    def queries(self, model_id: str) -> list[dict[str, Any]]:
        """The datalist that ``model_id`` is asked about: every case, with its ``member`` flag (0 or 1)."""
        return [{**case, "member": int(chosen)} for case, chosen in zip(self.cases, self.member[model_id], strict=True)]

    def commitment(self, key: bytes) -> str:
        """A commitment to the key and to who is a member of the first target: 64 hexadecimal digits.

        It is HMAC-SHA256, with the key, of kind, seed, cases, patients and membership. It hides: without the key it is
        as good as random, whatever else was drawn with the key (each draw is of another message). It binds: a second
        key or design with the same commitment would be a collision of SHA-256, since all keys are of one length. The
        other models follow from seed and key, so that a study keeps its commitment when shadows are added.
        """
        member = self.member[TARGET]
        rows = sorted(
            [str(case["case_id"]), str(case["patient_id"]), int(flag)]
            for case, flag in zip(self.cases, member, strict=True)
        )
        return keyed_digest(check_key(key), [_COMMITMENT, self.kind, self.seed, rows]).hex()

    def drawn_again(self, key: bytes) -> Design:
        """The design that this seed and key give for the same cohort; it is this one, if it was drawn so.

        A recorded design with canaries does not tell who they are, and cannot be drawn again.
        """
        if self.kind == "randomised":
            return Design.randomised(self.cases, len(self.shadows), self.seed, len(self.targets), key=key)
        ins = [str(case["case_id"]) for case in self.members(TARGET)]
        outs = [str(case["case_id"]) for case in self.cases if str(case["case_id"]) not in {*ins}]
        return Design.observational(self.cases, ins, outs, len(self.shadows), self.seed, key=key)

    def facts(self) -> dict[str, Any]:
        """What may be told of the design: its kind, its seed, and how many there are on each side of the target.

        ``n_assumed`` patients are no more than assumed.
        """
        member = self.member[TARGET]
        patients = np.array(self.patient_ids)
        return {
            "kind": self.kind,
            "seed": self.seed,
            "n_shadow": len(self.shadows),
            "n_member": len(set(patients[member])),
            "n_nonmember": len(set(patients[~member])),
            "n_member_cases": int(member.sum()),
            "n_nonmember_cases": int((~member).sum()),
            "n_assumed": self.patients_assumed,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the design as CSV, one row a case and one column of 0 and 1 a model; private, it is the secret."""
        rows = [
            [*(_cell(case[name]) for name in _COLUMNS), *(int(row[n]) for row in self.member.values())]
            for n, case in enumerate(self.cases)
        ]
        kinds = sorted({str(case["canary"]) for case in self.cases if case.get("canary")})
        about: dict[str, Any] = {"kind": self.kind, "seed": self.seed, **({"canaries": kinds} if kinds else {})}
        assumed = [n for n, case in enumerate(self.cases) if case.get("patient_assumed")]
        about |= {"assumed": assumed} if assumed else {}
        files.write_artefact(path, files.csv_text([[*_COLUMNS, *self.member], *rows]), **about)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Design:
        """Read a design that :meth:`write` wrote.

        Raises:
            InputError: there is none, or it is not as it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"design must be a CSV file written by a study, got {path}, which does not exist.")
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            if tuple(header[:4]) != _COLUMNS:
                raise InputError(f"columns of {path} must begin with {', '.join(_COLUMNS)}, got {', '.join(header)}.")
            rows = list(reader)
        about = files.read_json(path.with_suffix(".json"))
        found = files.sha256(path)
        if "kind" not in about or about.get("sha256", found) != found:
            raise InputError(
                f"design must be as a study wrote it, with {path.with_suffix('.json').name} beside it, got {path}, "
                "which was torn or changed. Run the study again."
            )
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header) or not {*row[4:]} <= {"0", "1"}:
                raise InputError(
                    f"line {number} of {path} must hold {len(header)} values, 0 or 1 for each model, got {row}."
                )
        cases: list[dict[str, Any]] = [dict(zip(_COLUMNS, map(_value, row[:4]), strict=True)) for row in rows]
        member = {model: np.array([row[4 + m] == "1" for row in rows]) for m, model in enumerate(header[4:])}
        for n in about.get("assumed", ()):
            cases[n]["patient_assumed"] = True
        return cls(tuple(cases), member, about["kind"], int(about["seed"]))


def _patients(cases: Sequence[Case]) -> list[str]:
    return sorted({str(case["patient_id"]) for case in cases})


def _rows(cases: Sequence[Case], patients: set[str]) -> NDArray[np.bool_]:
    return np.array([str(case["patient_id"]) in patients for case in cases], dtype=bool)


def _half(cases: Sequence[Case], name: Stream, seed: int, number: int, key: bytes) -> set[str]:
    """Half of the patients, and of the canaries each with a coin of its own."""
    canaries = _patients([case for case in cases if case.get("canary")])
    others = sorted(set(_patients(cases)) - set(canaries))
    rng = stream(name, seed, number, key=check_key(key))
    chosen = {others[n] for n in rng.permutation(len(others))[: len(others) // 2]}
    return chosen | {canary for canary, coin in zip(canaries, rng.random(len(canaries)), strict=True) if coin < 0.5}


def _shadows(cases: Sequence[Case], shadows: int, seed: int, key: bytes) -> dict[str, NDArray[np.bool_]]:
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}.")
    if shadows < 0:
        raise InputError(f"shadows must be at least 0, got {shadows}.")
    member = {}
    for number in range(shadows):
        half = _half(cases, Stream.SHADOW_MEMBERS, seed, number // 2, key)
        rows = _rows(cases, half if number % 2 == 0 else set(_patients(cases)) - half)
        member[f"shadow_{number:02d}"] = rows
    return member


def held_out_patients(cases: Sequence[Case], share: float, seed: int, *, key: bytes) -> set[str]:
    """The patients who are held out, so that no audited model trains on them, drawn by a study's seed and key.

    Args:
        cases: the cohort; patients whose cases have a ``canary`` are never held out.
        share: of the patients, in [0, 1].
        seed: of the study.
        key: of the study: that somebody was not trained on is as secret as that somebody was.
    """
    if not 0 <= share <= 1:
        raise InputError(f"held_out must be in [0, 1], got {share}.")
    patients = sorted({str(case["patient_id"]) for case in cases if not case.get("canary")})
    drawn = stream(Stream.HELD_OUT_PATIENTS, seed, key=check_key(key)).permutation(patients)
    return set(drawn[: round(share * len(patients))].tolist())


def check_commitment(commitment: Any, design: Design, key: bytes) -> None:
    """Whether a report's ``design.commitment`` is to this design and key.

    Args:
        commitment: what the report holds.
        design: what its owner shows: the recorded design.
        key: likewise.

    Raises:
        InputError: it is not.
    """
    if not isinstance(commitment, str) or not hmac.compare_digest(commitment, design.commitment(key)):
        raise InputError(
            f"key and design must fit the commitment, got a commitment to others ({str(commitment)[:12]}...). The "
            "report is of another study, or the key or the design was changed after it."
        )


def check_drawn(design: Design, key: bytes) -> None:
    """Whether a recorded design without canaries is the one that its seed and key give.

    Raises:
        InputError: another model's members differ; it is named.
    """
    again = design.drawn_again(key)
    other = [model for model in design.model_ids if not np.array_equal(design.member[model], again.member[model])]
    if other:
        raise InputError(
            "members of every model must follow from the design's seed and key, got others for "
            f"{', '.join(other[:5])}. The recorded design was changed, or the key is another's."
        )


def _cell(value: Any) -> Any:
    """An image of several files as JSON, and a text that looks like JSON."""
    return json.dumps(value) if isinstance(value, list) or str(value).startswith(_JSON) else value


def _value(cell: str) -> Any:
    return json.loads(cell) if cell.startswith(_JSON) else cell


def require_canaries(design: Design) -> None:
    """Refuse, before anything is trained, canaries of which the coins left too few on a side."""
    member = design.member[TARGET]
    for kind in sorted({str(case.get("canary") or "") for case in design.cases} - {""}):
        sides = [
            {case["patient_id"] for case, flag in zip(design.cases, member, strict=True)
             if case.get("canary") == kind and flag == side}
            for side in (True, False)
        ]  # fmt: skip
        if min(map(len, sides)) < 4:
            raise InputError(
                f"canaries of kind {kind!r} must be at least 4 on each side of the target, got {len(sides[0])} members "
                f"and {len(sides[1])} non-members. Plant more of them, or take another seed."
            )
