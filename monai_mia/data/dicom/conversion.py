# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A tree of DICOM files as a cohort of NIfTI files: what belongs together, what cannot be used, what is converted."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from monai_mia.data.dicom.headers import BadFileError, Instance, LeftOut, Tree, files_below
from monai_mia.data.dicom.references import Reference, label_of, label_volume
from monai_mia.data.dicom.series import LPS_TO_RAS, Series
from monai_mia.data.headers import header_values, quiet
from monai_mia.data.tables import patient_of
from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.identifiers import IDENTIFIERS, Identifiers
from monai_mia.records.volumes import write_volume

__all__ = ["Conversion"]

#: Part of each key: another number converts everything anew.
_FORMAT = 1

_SHOWN = 20
_COLUMNS = ("case_id", "patient_id", "image", "label", "source")


@dataclass(frozen=True)
class _Job:
    """A series and its references, to be converted."""

    case_id: str
    patient: str
    instances: tuple[Instance, ...]
    references: tuple[Reference, ...]

    @property
    def source(self) -> str:
        return self.instances[0].file.name

    @property
    def stamps(self) -> list[Any]:
        sources = (*self.instances, *(reference.instance for reference in self.references))
        return sorted(instance.file.stamp for instance in sources)


@dataclass(frozen=True)
class Conversion:
    """The conversion of a tree; :func:`~monai_mia.data.dicom_cohort` says what each option is."""

    folder: Path
    path: Path
    labels: Mapping[str, int] | None = None
    threshold: float = 0.5
    skip_bad: bool = False
    patient_id: Callable[[Mapping[str, Any]], str] | None = None

    def cases(self) -> list[dict[str, Any]]:
        """Convert what is not converted yet; the cases of the cohort."""
        self._check()
        files.private_folder(self.folder)
        with quiet():
            return self._cases()

    def _check(self) -> None:
        if not self.path.is_dir():
            raise InputError(f"path must be a folder of DICOM files, got {str(self.path)!r}, which is none.")
        folder, path = self.folder.resolve(), self.path.resolve()
        if folder == path or path.is_relative_to(folder):
            raise InputError(f"folder must be another than the DICOM files', got {str(self.folder)!r}.")
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold must be in (0, 1], got {self.threshold}.")
        if self.labels is not None and not isinstance(self.labels, Mapping):
            raise InputError(f"labels must give an integer for each name, as in {{Liver: 1}}, got {self.labels!r}.")
        if self.labels is not None and not self.labels:
            raise InputError("labels must name at least one segment, got none. Leave it out to use segment numbers.")
        for name, value in (self.labels or {}).items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**16:
                raise InputError(f"labels must be whole numbers from 1 to 65535, got {value!r} for {name!r}.")

    def _cases(self) -> list[dict[str, Any]]:
        found = files_below(self.path.resolve(), self.folder.resolve())
        options = [_FORMAT, list((self.labels or {}).items()), self.labels is None, self.threshold]
        key = files.digest([options, self.skip_bad, self.patient_id is None, [file.stamp for file in found]])
        record = self.folder / "cohort.csv"
        if files.is_current(record, key) and files.is_whole(self.folder / "left_out.csv"):
            rows = list(csv.DictReader(io.StringIO(record.read_text(encoding="utf-8"))))
            if files.is_complete(record, key, [self.folder / row[name] for row in rows for name in ("image", "label")]):
                return self._completed(rows)
        tree = Tree.read(found)
        jobs, left_out, counts = self._jobs(tree)
        self._stop(left_out)
        rows, failed = self._convert(jobs, options)
        left_out += failed
        self._stop(left_out)
        if not rows:
            raise InputError(
                f"path must hold at least one series with a reference, got none in {str(self.path)!r}: "
                f"{_told(counts)}; {len(left_out)} left out. Add references (DICOM-SEG or RTSTRUCT) to the tree."
            )
        for row in rows:
            row.pop("key")
        self._identify(jobs)
        self._keep(rows, left_out, counts, key)
        self._tidy(rows)
        return self._completed(rows)

    def _jobs(self, tree: Tree) -> tuple[list[_Job], list[LeftOut], dict[str, int]]:
        """What belongs together: each series with its references, what cannot be used, and the rest in numbers."""
        left_out, wanted = _with_patients(tree), defaultdict(list)
        unread: set[str] = set()  # patients with what is or may be a reference that cannot be read
        spoilt = {Path(bad.source).parent for bad in tree.bad}
        images = {Path(one.file.name).parent for instances in tree.series.values() for one in instances}
        unread |= {bad.patient for bad in left_out if bad.patient and Path(bad.source).parent not in images}
        for instance in tree.references:
            patient = instance.text("PatientID")
            try:
                reference = Reference.read(instance)
            except BadFileError as bad:
                left_out.append(LeftOut(instance.file.name, bad.kind, str(bad), patient))
                unread.add(patient)
                continue
            try:
                wanted[self._series(reference, tree)].append(reference)
            except BadFileError as bad:
                left_out.append(LeftOut(instance.file.name, bad.kind, str(bad), patient))
        jobs = []
        for uid, references in sorted(wanted.items()):
            instances = sorted(tree.series[uid], key=lambda instance: instance.file.name)
            patient = instances[0].text("PatientID")
            case_id = f"series_{sha256(uid.encode()).hexdigest()[:12]}"
            try:
                self._check_series(instances, references)
                if any(instance.file.path.parent.relative_to(self.path.resolve()) in spoilt for instance in instances):
                    raise BadFileError("beside a file that cannot be read", "that file may be one of its slices")
                if patient in unread:
                    raise BadFileError("beside a file that cannot be read", "that may be one of its references")
            except BadFileError as bad:
                left_out.append(LeftOut(instances[0].file.name, bad.kind, str(bad), patient, case_id))
                continue
            ordered = sorted(references, key=lambda reference: reference.instance.file.name)
            jobs.append(_Job(case_id, patient, tuple(instances), tuple(ordered)))
        self._check_names([reference for references in wanted.values() for reference in references])
        patients = {uid: instances[0].text("PatientID") for uid, instances in tree.series.items()}
        with_reference = {patients[uid] for uid in wanted}
        counts = {
            "series": len(tree.series),
            "series without a reference": len(set(tree.series) - set(wanted)),
            "patients": len(set(patients.values())),
            "patients without a reference": len(set(patients.values()) - with_reference),
            "structures without a region": sum(r.empty for references in wanted.values() for r in references),
            **tree.ignored,
        }
        return jobs, left_out, counts

    def _series(self, reference: Reference, tree: Tree) -> str:
        """The series that a reference is about."""
        patient = reference.instance.text("PatientID")
        same = {uid for uid, instances in tree.series.items() if instances[0].text("PatientID") == patient}
        if reference.series:
            there = [uid for uid in reference.series if uid in tree.series]
            if not there:
                text = "its series is no CT or MR series of this tree"
                raise BadFileError("reference without its series", text if same else f"{text}, nor any of its patient")
            if len(there) > 1:
                raise BadFileError("reference to several series", f"{len(there)}")
        else:
            there = [
                uid
                for uid in sorted(same)
                if reference.frame and tree.series[uid][0].text("FrameOfReferenceUID") == reference.frame
            ]
            if not there:
                raise BadFileError("reference without its series", "it names none, and none has its frame of reference")
            if len(there) > 1:
                raise BadFileError("reference to several series", f"it names none, and {len(there)} share its frame")
        if there[0] not in same:
            raise BadFileError("reference of another patient", "its PatientID is not that of its series")
        return there[0]

    def _check_series(self, instances: Sequence[Instance], references: Sequence[Reference]) -> None:
        if len({instance.text("PatientID") for instance in instances}) > 1:
            raise BadFileError("one series of several patients")
        if self.patient_id is None and not instances[0].text("PatientID"):
            raise BadFileError("no PatientID", "give patient_id, or it cannot be told whose scan it is")
        uid = instances[0].text("SeriesInstanceUID")
        there = {instance.text("SOPInstanceUID") for instance in instances}
        for reference in references:
            missing = len(reference.images.get(uid, frozenset()) - there)
            if missing:
                raise BadFileError(
                    "missing slices or irregular gaps", f"its reference names {missing} that are not there"
                )
        Series.of(instances)

    def _check_names(self, references: Sequence[Reference]) -> None:
        """Without labels a number must mean the same everywhere; what was found is kept for the user to look up."""
        found: Counter[tuple[int, str]] = Counter()
        for reference in references:
            found.update((segment.number, segment.name) for segment in reference.segments)
        files.write_artefact(
            self.folder / "segments.csv",
            files.csv_text(
                [["number", "name", "references"], *([str(n), name, str(found[n, name])] for n, name in sorted(found))]
            ),
        )
        if self.labels is None:
            names: dict[int, set[str]] = defaultdict(set)
            for number, name in found:
                names[number].add(name)
            mixed = sorted(number for number, called in names.items() if len(called) > 1)
            if mixed:
                raise InputError(
                    f"labels must say which integer each segment has, got none, and number {mixed[0]} has "
                    f"{len(names[mixed[0]])} names. They are listed in {self.folder / 'segments.csv'}."
                )
        elif found:
            used = {label_of(segment, self.labels) for reference in references for segment in reference.segments}
            patterns = list(self.labels)
            unused = sorted(set(range(len(patterns))) - {chosen[1] for chosen in used if chosen is not None})
            if unused:
                raise InputError(
                    f"labels must name segments that are there, got {', '.join(repr(patterns[n]) for n in unused)}, of "
                    f"which there is none, or none that is not named before. Those found are listed in "
                    f"{self.folder / 'segments.csv'}."
                )

    def _convert(self, jobs: Sequence[_Job], options: Any) -> tuple[list[dict[str, str]], list[LeftOut]]:
        rows = [
            {
                "case_id": job.case_id,
                "patient_id": job.patient,
                "image": f"images/{job.case_id}.nii.gz",
                "label": f"labels/{job.case_id}.nii.gz",
                "source": job.source,
                "key": files.digest([options, job.stamps]),
            }
            for job in jobs
        ]
        new = [n for n, row in enumerate(rows) if not self._is_converted(row)]
        if new:  # what the record is of is about to be overwritten
            files.withdraw(self.folder / "cohort.csv")
        done = Parallel(n_jobs=min(4, cpu_count()), prefer="threads", return_as="generator")(
            delayed(self._convert_one)(jobs[n], rows[n]) for n in new
        )
        interval = 0.5 if sys.stderr.isatty() else 20.0
        bar = tqdm(done, "converting series", len(new), disable=not new, mininterval=interval)
        failed = {n: bad for n, bad in zip(new, bar, strict=True) if bad is not None}
        return [row for n, row in enumerate(rows) if n not in failed], list(failed.values())

    def _is_converted(self, row: Mapping[str, str]) -> bool:
        about = files.read_json(self.folder / "converted" / f"{row['case_id']}.json")
        return about.get("key") == row["key"] and all(
            (path := self.folder / row[name]).is_file() and about.get(name) == files.content_sha256(path)
            for name in ("image", "label")
        )

    def _convert_one(self, job: _Job, row: Mapping[str, str]) -> LeftOut | None:
        about = self.folder / "converted" / f"{job.case_id}.json"
        files.remove(about)
        try:
            series = Series.of(job.instances)
            label = label_volume(job.references, series.grid, self.labels, self.threshold)
            affine = LPS_TO_RAS @ series.grid.affine
            write_volume(self.folder / row["label"], label, affine)
            write_volume(self.folder / row["image"], series.values(), affine)
        except BadFileError as bad:
            return LeftOut(job.source, bad.kind, str(bad), job.patient, job.case_id)
        made = {name: files.content_sha256(self.folder / row[name]) for name in ("image", "label")}
        files.write_json(about, {"key": row["key"], **made})
        return None

    def _stop(self, left_out: Sequence[LeftOut]) -> None:
        """Refuse the tree for what cannot be used, all at once, unless it may be left out."""
        if left_out and not self.skip_bad:
            shown = "; ".join(f"{bad.source}: {bad.text}" for bad in left_out[:_SHOWN])
            more = f"; and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
            raise InputError(
                f"DICOM files must be readable and complete, got {len(left_out)} that are not: {shown}{more}. Mend "
                "them, take them out of the tree, or leave them out with skip_bad."
            )

    def _keep(
        self, rows: Sequence[dict[str, str]], left_out: Sequence[LeftOut], counts: Mapping[str, int], key: str
    ) -> None:
        """Write what was converted and what was left out; the numbers alone are in left_out.json."""
        lines = [[bad.source, bad.kind, bad.text, bad.patient, bad.case_id] for bad in left_out]
        heads = ["source", "kind", "text", "patient_id", "case_id"]
        kept = {row["patient_id"] for row in rows}
        files.write_artefact(
            self.folder / "left_out.csv",
            files.csv_text([heads, *lines]),
            converted=len(rows),
            left_out=dict(sorted(Counter(bad.kind for bad in left_out).items())),
            patients_left_out=len({bad.patient for bad in left_out if bad.patient} - kept),
            seen=dict(counts),
        )
        content = files.csv_text([list(_COLUMNS), *([row[name] for name in _COLUMNS] for row in rows)])
        written = [self.folder / row[name] for row in rows for name in ("image", "label")]
        files.write_artefact(self.folder / "cohort.csv", content, written, key=key)

    def _identify(self, jobs: Sequence[_Job]) -> None:
        """Keep what the headers say of the patients, for a search of whatever is to be shared."""
        texts, names = set[str](), set[str]()
        for job in jobs:
            for instance in (job.instances[0], *(reference.instance for reference in job.references)):
                texts |= header_values(instance.file.path)
            texts |= {instance.text("SOPInstanceUID") for instance in job.instances}
            names |= {instance.file.name for instance in job.instances}
        folders = {str(parent) for name in names for parent in Path(name).parents} - {"."}
        Identifiers({"header value": frozenset(texts), "path": frozenset(folders)}).write(self.folder / IDENTIFIERS)

    def _tidy(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Remove what was converted from files that are no longer there."""
        kept = {row["case_id"] for row in rows}
        for name in ("images", "labels", "converted"):
            for path in (self.folder / name).glob("series_*"):
                if path.name.partition(".")[0] not in kept:
                    path.unlink()

    def _completed(self, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
        cases = []
        for row in rows:
            case = {name: row[name] for name in ("case_id", "patient_id")}
            case |= {name: str((self.folder / row[name]).resolve()) for name in ("image", "label")}
            if not case["patient_id"] and self.patient_id is not None:
                told = {"case_id": row["case_id"], "source": row["source"]}
                case["patient_id"] = patient_of(told, self.patient_id)
            cases.append(case)
        return cases


def _with_patients(tree: Tree) -> list[LeftOut]:
    """The files that cannot be read, each with the patient of those around it, if that is one.

    Around it is the nearest folder above, short of the tree's, with anything in it, or below, that can be read.
    """
    around: dict[Path, set[str]] = defaultdict(set)
    for instance in (*tree.references, *(one for instances in tree.series.values() for one in instances)):
        for folder in Path(instance.file.name).parents:
            around[folder].add(instance.text("PatientID"))
    found = []
    for bad in tree.bad:
        own, *above = Path(bad.source).parents
        patients = next((around[folder] for folder in (own, *above[:-1]) if folder in around), set[str]())
        found.append(replace(bad, patient=min(patients)) if len(patients) == 1 and not bad.patient else bad)
    return found


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "it has no DICOM files"
