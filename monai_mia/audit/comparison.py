# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A comparison of attacks: several targets, several numbers of shadows, every attack, one table.

One target tells how that model fares; several, drawn by independent coins and attacked by the same shadows, tell how an
attack fares. Scores are kept in files, so that only what is new is computed again.
"""

from __future__ import annotations

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_mia import __version__, statistics
from monai_mia.attacks import Attack, EverySignal
from monai_mia.attacks.adversary import AdversaryView
from monai_mia.attacks.attack import missing_maps
from monai_mia.audit.criteria import percent
from monai_mia.audit.disclosure.gate import UNTOLD, Disclosure
from monai_mia.audit.printing import assumed_in_words, data_frame, flat, text_table, wrapped
from monai_mia.audit.scoring import access_needed, score_cases
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.folder import Recorded
from monai_mia.records.streams import Stream, stream
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling
from monai_mia.statistics.epsilon import EpsilonBound

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Adversary",
    "Comparison",
    "ComparisonResult",
    "ComparisonRow",
    "DefenceRow",
    "DefenceStudyResult",
    "by_patient",
]

Array = NDArray[np.float64]

_Attacks = Callable[[int], Sequence[Attack | EverySignal]]


@dataclass(frozen=True)
class ComparisonRow:
    """How one attack fared with one number of shadows, by patient, over all targets.

    Attributes:
        name: the attack's name.
        access: what the adversary needs.
        n_shadow: how many shadows it had; 0 if it reads none.
        auc: mean over targets.
        target_aucs: the AUC of each target.
        tpr_at_fpr: for each FPR, the TPR, or None below the resolution; one threshold for all targets.
        transferred: of an attack with a threshold of its own: TPR and FPR of its decision, else None.
        seconds: to score all targets, with all that the attack fits; of the machine that ran it. What several attacks
            share, such as a network that was trained before or voxelwise features, is counted with the first.
    """

    name: str
    access: str
    n_shadow: int
    auc: Estimate
    target_aucs: tuple[float, ...]
    tpr_at_fpr: dict[float, Estimate | None]
    transferred: tuple[float, float] | None
    seconds: float


@dataclass(frozen=True)
class ComparisonResult:
    """All rows, and what one may conclude.

    Attributes:
        rows: by number of shadows, then by AUC, best first.
        targets: how many targets.
        patients: how many patients.
        resolution: the smallest FPR that can be told from 0.
        reference: the reference attack (with its number of shadows) that the gains are over.
        member: whether a target trained on a patient, shape (T, P).
        scores: by name and number of shadows, every target's scores of the patients, shape (T, P).
        samples: by name and number of shadows, resampled AUCs and TPRs at :attr:`Comparison.headline_fpr`, (B,) each.
        gains: by name and number of shadows, AUC minus the reference's and the ratio of the TPRs at
            :attr:`Comparison.headline_fpr`, each with its paired interval.
        withheld: of :meth:`shared`, names of the attacks whose rows are not told.
        patients_assumed: how many of them are no more than assumed, one a scan.
    """

    rows: tuple[ComparisonRow, ...]
    targets: int
    patients: int
    resolution: float
    reference: tuple[str, int] | None
    member: NDArray[np.bool_]
    scores: dict[tuple[str, int], Array]
    samples: dict[tuple[str, int], tuple[Array, Array]]
    gains: dict[tuple[str, int], dict[str, Estimate]]
    withheld: tuple[str, ...] = ()
    patients_assumed: int = 0

    def shared(self, disclosure: Disclosure) -> ComparisonResult:
        """What may be shared of it: few rows, the best of each number of shadows first, with rounded numbers.

        Args:
            disclosure: how much may be told.
        """
        if disclosure.everything:
            return self
        sides = int(self.member.sum(axis=1).min()), int((~self.member).sum(axis=1).min())
        ranked: list[tuple[int, ComparisonRow]] = []
        for count in sorted({row.n_shadow for row in self.rows}):
            ranked += enumerate(row for row in self.rows if row.n_shadow == count)
        first = [row for row in self.rows if (row.name, row.n_shadow) == self.reference]
        wanted = [*first, *(row for _, row in sorted(ranked, key=lambda pair: pair[0]))]
        kept = list(dict.fromkeys((row.name, row.n_shadow) for row in wanted))
        kept = kept[: disclosure.n_attacks(*sides, self.targets)]

        def rate_of(rate: Estimate | None, fpr: float) -> Estimate | None:
            shown = rate is not None and disclosure.divides(rate.value, fpr, *sides)
            return disclosure.coarse(rate) if shown else None

        return replace(
            self,
            rows=tuple(
                replace(
                    disclosure.coarse(row),
                    target_aucs=(),
                    transferred=None,
                    tpr_at_fpr={fpr: rate_of(rate, fpr) for fpr, rate in row.tpr_at_fpr.items()},
                )
                for row in self.rows
                if (row.name, row.n_shadow) in kept
            ),
            gains={
                key: {"auc": disclosure.coarse(gains["auc"]), "tpr_ratio": UNTOLD}
                for key, gains in self.gains.items()
                if key in kept
            },
            withheld=tuple(sorted({row.name for row in self.rows} - {name for name, _ in kept})),
        )

    def __str__(self) -> str:
        """The rows, for a terminal of 100 columns."""
        fprs = [fpr for fpr, value in self.rows[0].tpr_at_fpr.items() if value is not None]
        heads = ["attack", "shadows", "AUC", *(f"TPR@{fpr:.3g}" for fpr in fprs)]
        rows = []
        for row in self.rows:
            rates = [row.tpr_at_fpr[fpr] for fpr in fprs]
            cells = ["" if rate is None else f"{rate.value:.3f}" for rate in rates]
            rows.append([row.name, str(row.n_shadow), str(row.auc), *cells])
        about = f"{self.targets} targets, {self.patients} patients; rates below {percent(self.resolution)} unresolved"
        assumed = wrapped(assumed_in_words(self.patients_assumed, self.patients))
        return "\n".join([*text_table(heads, rows), about, *assumed])

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each attack and number of shadows.

        Columns are ``attack``, ``access``, ``n_shadow``, ``auc``, ``tpr@<fpr>``, ``gain_auc``, ``gain_tpr_ratio`` and
        ``seconds``; beside a number with an interval stand ``<name> low`` and ``<name> high``.

        Raises:
            InputError: pandas is not installed.
        """
        rows = []
        for row in self.rows:
            cells: dict[str, Any] = {"attack": row.name, "access": row.access, "n_shadow": row.n_shadow}
            cells |= flat("auc", row.auc)
            for fpr, value in row.tpr_at_fpr.items():
                cells |= flat(f"tpr@{fpr:g}", value)
            gain = self.gains.get((row.name, row.n_shadow), {})
            cells |= {**flat("gain_auc", gain.get("auc")), **flat("gain_tpr_ratio", gain.get("tpr_ratio"))}
            rows.append({**cells, "seconds": row.seconds})
        return data_frame(rows)


@dataclass(frozen=True)
class Comparison:
    """Every attack against every target of a study, with several numbers of shadows.

    Args:
        attacks: a function from a number of shadows to the attacks that it allows, such as
            :func:`~monai_mia.attacks.all_attacks`, or several; None among them counts nothing.
        budgets: numbers of shadows; the first so many of the study's are used.
        references: names of attacks; gains are over the one of them with the highest TPR at ``headline_fpr`` with most
            shadows.
        fprs: FPRs at which the TPR is reported.
        headline_fpr: the FPR of the gains.
        resampling: of patients and of targets, for the intervals; its seed is that of folds, too.

    Intervals are percentiles of a bootstrap that draws patients and targets, both with replacement; all attacks are
    measured on the same resamples. Scores are pooled over targets, after each target's median and spread over its
    patients (members or not) are removed, so that one threshold serves all and an FPR of 1% is told with 100
    non-members in all.
    """

    attacks: _Attacks | Sequence[_Attacks | None]
    budgets: Sequence[int] = (1, 4, 16)
    references: Sequence[str] = ()
    fprs: Sequence[float] = (0.1, 0.05, 0.01)
    headline_fpr: float = 0.05
    resampling: Resampling = Resampling(n_resamples=1000)

    @property
    def seed(self) -> int:
        """The seed of the resampling, which is that of everything."""
        return self.resampling.seed

    def check(self, n_shadow: int, maps: bool) -> None:
        """Refuse what cannot be compared, before anything is trained.

        Args:
            n_shadow: shadows that there are, or will be.
            maps: whether predictions are, or will be, recorded.
        """
        if not self.budgets or min(self.budgets) < 1:
            raise InputError(f"budgets must be numbers of shadows, at least 1, got {list(self.budgets)}.")
        if max(self.budgets) > n_shadow:
            raise InputError(
                f"shadows must be at least {max(self.budgets)}, the largest of the budgets, got {n_shadow}. "
                "Train more (--shadows), or drop that budget."
            )
        if self.references and self.headline_fpr not in self.fprs:
            raise InputError(f"headline_fpr must be one of fprs {list(self.fprs)}, got {self.headline_fpr}.")
        lists = {budget: self.listed(budget) for budget in self.budgets}
        known = {item.name for item in lists[max(lists)] if not isinstance(item, EverySignal)}
        unknown = [name for name in self.references if name not in known]
        if unknown:
            raise InputError(f"references must be names of attacks that are compared, got {unknown[0]!r}.")
        for budget, listed in lists.items():
            for item in listed:
                if not isinstance(item, EverySignal) and item.min_shadows > budget:
                    raise InputError(
                        f"budgets must be at least {item.min_shadows} for attack {item.name!r}, got {budget}. List it "
                        "for larger budgets only."
                    )
                if getattr(item, "needs_maps", False) and not maps:
                    raise missing_maps(item.name)
            names = Counter(attack.name for attack in listed)
            twice = [name for name, count in names.items() if count > 1]
            if twice:
                raise InputError(f"attacks must have different names, got {twice[0]!r} more than once.")

    def score(self, recorded: Recorded) -> ComparisonResult:
        """Score every attack against every target with every number of shadows.

        Scores are kept beside the study's signals, so that only what is new is computed again.

        Args:
            recorded: what the study recorded; its targets should be at least 4.

        Raises:
            InputError: an attack cannot be carried out on what was recorded.
        """
        design, table = recorded.design, recorded.table
        self.check(len(design.shadows), recorded.maps is not None)
        members = np.stack([table.members(target) for target in design.targets])
        rows, samples, of_patients = [], {}, {}
        weights = self.weights(members, table)
        tasks = self._tasks(table, design)
        bar = tqdm(tasks, "scoring", disable=not tasks, mininterval=0.5 if sys.stderr.isatty() else 20.0)
        for attack, budget in bar:
            bar.set_postfix_str(attack.name, refresh=False)
            scores, seconds, access = self._scores(attack, budget, recorded)
            row, drawn = self._row(attack, budget, access, scores, members, table, weights, seconds)
            rows.append(row)
            samples[row.name, row.n_shadow] = drawn
            of_patients[row.name, row.n_shadow] = by_patient(scores, table)
        return self._result(rows, of_patients, samples, members, table, design.patients_assumed)

    def listed(self, budget: int) -> list[Attack | EverySignal]:
        """The attacks that a number of shadows allows."""
        lists = [self.attacks] if callable(self.attacks) else self.attacks
        return [attack for attacks in lists if attacks is not None for attack in attacks(budget)]

    def _tasks(self, table: SignalTable, design: Design) -> list[tuple[Attack, int]]:
        tasks: list[tuple[Attack, int]] = []
        for budget in sorted(self.budgets):
            view = AdversaryView.of(table, design.targets[0], design.shadows[:budget])
            listed = self.listed(budget)
            for item in listed:
                expanded = item.attacks(view, tuple(listed)) if isinstance(item, EverySignal) else (item,)
                # An attack that reads no shadow is the same with any number.
                tasks += [(attack, budget) for attack in expanded if attack.min_shadows or budget == min(self.budgets)]
        return tasks

    def _scores(self, attack: Attack, budget: int, recorded: Recorded) -> tuple[Array, float, str]:
        """Scores of all targets, shape (T, N), from the file if they were computed before."""
        table, design, features = recorded.table, recorded.design, recorded.features
        shadows = design.shadows[:budget]
        reads = recorded.maps if getattr(attack, "needs_maps", False) else None
        maps = {target: None if reads is None else reads(target, shadows) for target in design.targets}
        models = (*design.targets, *shadows)
        key = files.digest(
            [
                __version__,
                repr(attack),
                shadows,
                design.targets,
                self.seed,
                [recorded.hashes[model] for model in models],
                [getattr(item, "keys", None) for item in maps.values()],
                np.nan_to_num(features).tolist(),
            ]
        )
        path = recorded.scores / f"{files.digest([attack.name, budget])[:16]}.csv"
        first = AdversaryView.of(table, design.targets[0], shadows)
        access = access_needed(attack, first)
        if files.is_current(path, key):
            with path.open(newline="", encoding="utf-8") as stream:
                stored = [[float(cell) for cell in row] for row in list(csv.reader(stream))[1:]]
            return np.array(stored).T, float(files.read_json(path.with_suffix(".json"))["seconds"]), access
        start = time.perf_counter()
        scores = []
        for target in design.targets:
            view: AdversaryView = replace(
                AdversaryView.of(table, target, shadows), features=features, maps=maps[target]
            )
            scores.append(score_cases(attack, view, table.members(target), self.seed))
        seconds = time.perf_counter() - start
        stacked = np.stack(scores)
        content = files.csv_text([design.targets, *([repr(float(value)) for value in column] for column in stacked.T)])
        files.private_folder(path.parent)
        files.write_artefact(path, content, key=key, attack=attack.name, n_shadow=budget, seconds=seconds)
        return stacked, seconds, access

    def weights(self, members: NDArray[np.bool_], table: SignalTable) -> Array:
        """How often each (target, patient) occurs in each resample, shape (B, T, P)."""
        n_targets, n_patients = len(members), len(set(table.patient_ids))
        rng = stream(Stream.COMPARISON_RESAMPLES, self.seed)
        drawn = self.resampling.counts(rng, n_patients)
        targets = self.resampling.counts(rng, n_targets)
        return np.asarray(targets[:, :, None] * drawn[:, None, :], dtype=np.float64)

    def _row(
        self,
        attack: Attack,
        budget: int,
        access: str,
        scores: Array,
        members: NDArray[np.bool_],
        table: SignalTable,
        weights: Array,
        seconds: float,
    ) -> tuple[ComparisonRow, tuple[Array, Array]]:
        pooled, inside = by_patient(scores, table), by_patient(members, table) > 0.5
        aucs, auc_samples = statistics.mean_over_targets(lambda roc: roc.auc, pooled, inside, weights)
        spread = np.stack([_standardised(row) for row in pooled]).ravel()
        flat, flat_weights = inside.ravel(), weights.reshape(len(weights), -1)
        curve = statistics.roc(spread, flat)
        sampled = list(statistics.resampled_rocs(spread, flat, flat_weights))
        rates: dict[float, Estimate | None] = {}
        n_member = int(inside.sum(axis=1).min())  # the same patients are members of several targets: those of one count
        for fpr in self.fprs:
            drawn = np.concatenate([block.tpr_at(fpr) for block in sampled])
            rate = self.resampling.proportion(float(curve.tpr_at(fpr)), drawn, n_member)
            rates[fpr] = rate if fpr >= statistics.resolution(flat) else None
        headline = np.concatenate([block.tpr_at(self.headline_fpr) for block in sampled])
        claimed = pooled >= 0
        decided = getattr(attack, "decides", False)
        row_ = ComparisonRow(
            name=attack.name,
            access=access,
            n_shadow=budget if attack.min_shadows else 0,
            auc=self.resampling.estimate(float(aucs.mean()), auc_samples),
            target_aucs=tuple(map(float, aucs)),
            tpr_at_fpr=rates,
            transferred=(float(claimed[inside].mean()), float(claimed[~inside].mean())) if decided else None,
            seconds=seconds,
        )
        return row_, (auc_samples, headline)

    def _result(
        self,
        rows: list[ComparisonRow],
        scores: dict[tuple[str, int], Array],
        samples: dict[tuple[str, int], tuple[Array, Array]],
        members: NDArray[np.bool_],
        table: SignalTable,
        assumed: int,
    ) -> ComparisonResult:
        rows = sorted(rows, key=lambda row: (row.n_shadow, -row.auc.value))
        most = max(self.budgets)
        candidates = [row for row in rows if row.name in self.references and row.n_shadow == most]
        reference = max(candidates, key=self._headline, default=None)
        gains: dict[tuple[str, int], dict[str, Estimate]] = {}
        if reference is not None and reference.tpr_at_fpr[self.headline_fpr] is not None:
            floor = 1 / (len(members) * len(set(table.patient_ids)))
            auc, tpr = samples[reference.name, reference.n_shadow]
            for row in rows:
                own_auc, own_tpr = samples[row.name, row.n_shadow]
                ratio = own_tpr / np.maximum(tpr, floor)
                value = self._headline(row) / max(self._headline(reference), floor)
                gains[row.name, row.n_shadow] = {
                    "auc": self.resampling.estimate(row.auc.value - reference.auc.value, own_auc - auc),
                    "tpr_ratio": self.resampling.estimate(value, ratio),
                }
        n_out = sum(len({p for p, m in zip(table.patient_ids, side, strict=True) if not m}) for side in members)
        return ComparisonResult(
            rows=tuple(rows),
            targets=len(members),
            patients=len(set(table.patient_ids)),
            patients_assumed=assumed,
            resolution=1 / n_out,
            reference=(reference.name, reference.n_shadow) if gains and reference is not None else None,
            member=by_patient(members, table) > 0.5,
            scores=scores,
            samples=samples,
            gains=gains,
        )

    def _headline(self, row: ComparisonRow) -> float:
        value = row.tpr_at_fpr.get(self.headline_fpr)
        return 0.0 if value is None else value.value


def by_patient(values: Array | NDArray[np.bool_], table: SignalTable) -> Array:
    """Means over each patient's cases, of every target: shape (T, N) to (T, P)."""
    return statistics.means_by_group(values, table.patient_ids)


def _standardised(scores: Array) -> Array:
    """Less their median, over their median absolute deviation (or whatever spread they have)."""
    centred = scores - np.median(scores)
    spread = float(np.median(np.abs(centred))) or float(centred.std()) or 1.0
    return np.asarray(centred / spread)


@dataclass(frozen=True)
class Adversary:
    """What the best of the attacks finds, by patient, over all targets.

    Attributes:
        attack: the one with the highest AUC.
        auc: mean over targets.
        tpr: TPR at the headline FPR, or None below the resolution.
        auc_change: AUC minus that of the best attack without the defence, paired.
    """

    attack: str
    auc: Estimate
    tpr: Estimate | None
    auc_change: Estimate


@dataclass(frozen=True)
class DefenceRow:
    """One defence.

    Attributes:
        name: its name.
        release: what leaves the model.
        adaptive: the adversary who knows it: shadows are trained and queried under it.
        non-adaptive: the one who does not: shadows have no defence.
        utility: by metric, mean over patients who are non-members, over all targets.
        gap: the same of members minus non-members.
        accounted_epsilon: (epsilon, delta) of the first target's training, if it has any; epsilon None: no bound.
        audited_epsilon: what the adaptive adversary proves on the first target.
        training_s: mean seconds of a training.
        query_s: mean seconds of asking a model about the cohort.
        repeatable_noise: whether the training has an account that bounds nothing, since its noise can be repeated.
    """

    name: str
    release: str
    adaptive: Adversary
    non_adaptive: Adversary
    utility: dict[str, Estimate]
    gap: dict[str, Estimate]
    accounted_epsilon: tuple[float | None, float] | None
    audited_epsilon: EpsilonBound
    training_s: float
    query_s: float
    repeatable_noise: bool = False


@dataclass(frozen=True)
class DefenceStudyResult:
    """All rows, the undefended one first, and how they were measured.

    Each row is of models of its own, of which one at most is released, so that all rows are told: see
    docs/explanation/disclosure.md.
    """

    rows: tuple[DefenceRow, ...]
    targets: int
    shadows: int
    patients: int
    headline_fpr: float
    confidence: float
    patients_assumed: int = 0

    def shared(self, disclosure: Disclosure) -> DefenceStudyResult:
        """What may be shared of it: rounded numbers, and no rate of too few patients.

        Args:
            disclosure: how much may be told.
        """
        if disclosure.everything:
            return self
        side = self.patients // 2

        def of(adversary: Adversary) -> Adversary:
            tpr = adversary.tpr
            shown = tpr is not None and disclosure.divides(tpr.value, self.headline_fpr, side, side)
            return replace(disclosure.coarse(adversary), tpr=disclosure.coarse(tpr) if shown else None)

        rows = [
            replace(
                disclosure.coarse(row),
                adaptive=of(row.adaptive),
                non_adaptive=of(row.non_adaptive),
                audited_epsilon=disclosure.bound(row.audited_epsilon),
            )
            for row in self.rows
            if disclosure.shows(side)
        ]
        return replace(self, rows=tuple(rows))
