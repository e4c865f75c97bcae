# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a study: where each of its files is, what it holds, and which process works in it.

``report/`` may be shared, ``private/`` may not: who was a member is itself the secret.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import Design
from monai_mia.records.identifiers import IDENTIFIERS, Identifiers
from monai_mia.records.image_statistics import ImageStatistics
from monai_mia.records.keys import kept_key, read_key
from monai_mia.records.maps import MapStore, RecordedMaps
from monai_mia.records.pseudonyms import Pseudonyms
from monai_mia.records.table import SignalTable

__all__ = ["Recorded", "StudyFolder"]

#: Version of study.json and of the folder's layout; 1 had ``examination.csv``.
SCHEMA = "2"


@dataclass(frozen=True)
class Recorded:
    """What attacks read of a study: its design, the signals of its models, and what goes with them.

    Attributes:
        design: who is a member of what.
        table: the signals.
        features: image statistics of the table's cases, shape (N, F).
        maps: from a target and shadows to their recorded maps, or None where none are recorded.
        hashes: SHA-256 of each model's signals, a key for what is computed from them.
        scores: folder in which scores of attacks are kept.
    """

    design: Design
    table: SignalTable
    features: NDArray[np.float64]
    maps: Callable[[str, Sequence[str]], RecordedMaps] | None
    hashes: Mapping[str, str]
    scores: Path

    def with_shadows_of(self, other: Recorded, scores: Path) -> Recorded:
        """These targets before an adversary whose shadows are those of another study of the same design.

        Only signals that both recorded are kept, and no maps.
        """
        names = tuple(name for name in self.table.signals if name in other.table.signals)
        mine, theirs = (
            table.values[:, :, [table.signals.index(name) for name in names]] for table in (self.table, other.table)
        )
        shadow = np.array([model in self.design.shadows for model in self.table.model_ids])
        table = replace(
            self.table,
            signals=names,
            values=np.where(shadow[:, None, None], theirs, mine),
            access={name: self.table.access[name] for name in names},
        )
        hashes = {model: (other if model in self.design.shadows else self).hashes[model] for model in table.model_ids}
        return replace(self, table=table, maps=None, hashes=hashes, scores=scores)


@dataclass(frozen=True)
class StudyFolder:
    """Where each file of a study is, and what it holds. Nothing here needs an image, a network or torch.

    Attributes:
        root: the study's ``output_dir``.
        models_dir: where its models are, if another study shares them.

    Example:
        >>> StudyFolder("audit").signals("target").as_posix()
        'audit/private/signals/target.csv'
    """

    root: str | os.PathLike[str]
    models_dir: str | os.PathLike[str] | None = None

    # --- where things are

    @property
    def study_file(self) -> Path:
        """``study.json``: what was run; private."""
        return Path(self.root) / "study.json"

    @property
    def report(self) -> Path:
        """The folder that may be shared."""
        return Path(self.root) / "report"

    @property
    def private(self) -> Path:
        """The folder that may not."""
        return Path(self.root) / "private"

    @property
    def design_file(self) -> Path:
        """Who is a member of what."""
        return self.private / "design.csv"

    @property
    def key_file(self) -> Path:
        """The key that the design was drawn with, without which the seed tells nothing of it."""
        return self.private / "design.key"

    @property
    def image_statistics_file(self) -> Path:
        """What was found in each case's files."""
        return self.private / "image_statistics.csv"

    @property
    def identifiers_file(self) -> Path:
        """What would name a patient."""
        return self.private / IDENTIFIERS

    @property
    def reported_file(self) -> Path:
        """Hashes of the report's files, and of what they were made from, once all of them are written."""
        return self.private / "reported.json"

    @property
    def leaks_file(self) -> Path:
        """Which identifiers were found in the report, when last it was searched."""
        return self.private / "leaks.json"

    @property
    def dicom(self) -> Path:
        """The converted DICOM cohort."""
        return self.private / "dicom"

    @property
    def scores_file(self) -> Path:
        """The scores of every patient."""
        return self.private / "scores.csv"

    @property
    def audit_file(self) -> Path:
        """What the audit found, exactly, of which the report tells what may be shared."""
        return self.private / "audit.json"

    @property
    def cases_file(self) -> Path:
        """Whose each case is, and under which pseudonym."""
        return self.private / "cases.csv"

    @property
    def vulnerability_file(self) -> Path:
        """How often each patient was detected."""
        return self.private / "individuals.csv"

    @property
    def leakage_maps(self) -> Path:
        """Where in each case the evidence lies."""
        return self.private / "leakage"

    @property
    def blind_network_file(self) -> Path:
        """The scores of a network that saw the images alone."""
        return self.private / "blind_network.npz"

    @property
    def attack_scores(self) -> Path:
        """The scores of compared attacks, a file each."""
        return self.private / "comparison"

    @property
    def foreign_gaps_file(self) -> Path:
        """What could not be done about foreign scans."""
        return self.private / "foreign" / "gaps.json"

    def signals(self, model: str) -> Path:
        """The signals of a model."""
        return self.private / "signals" / f"{model}.csv"

    def maps(self, model: str) -> Path:
        """The recorded predictions of a model."""
        return self.private / "maps" / f"{model}.npz"

    def model(self, model: str) -> Path:
        """The folder of a model that the study trained."""
        return (self.private / "models" if self.models_dir is None else Path(self.models_dir)) / model

    def weights(self, model: str) -> Path:
        """The weights of a model that the study trained."""
        return self.model(model) / "model.pt"

    def foreign(self, source: str) -> Path:
        """The scans of a foreign source."""
        return self.private / "foreign" / source

    def foreign_signals(self, source: str) -> Path:
        """The folder of the models' signals about a foreign source."""
        return self.foreign(source) / "signals"

    def foreign_image_statistics(self, source: str) -> Path:
        """What was found in the files of a foreign source."""
        return self.foreign(source) / self.image_statistics_file.name

    def within(self, name: str, training: str) -> StudyFolder:
        """A study within this one; those whose models are trained alike (``training``, a hash) share them."""
        return StudyFolder(self.private / name, self.private / "models" / training[:16])

    # --- what they hold

    def design(self) -> Design:
        """The recorded design.

        Raises:
            InputError: nothing is recorded.
        """
        return Design.read(self.design_file)

    def key(self) -> bytes:
        """The key that the design was drawn with.

        Raises:
            InputError: there is none, or the file holds something else.
        """
        return read_key(self.key_file)

    def draw_key(self, given: str | os.PathLike[str] | None = None, wait: bool = False) -> bytes:
        """The key of this study; the first time it is drawn from the operating system, or copied.

        Args:
            given: a file with the key to use, as for a study that is to be repeated.
            wait: as in :meth:`lock`.

        Raises:
            InputError: there is a design already, and no key, or another; or another run works here.
        """
        with self.lock(wait):
            if os.path.lexists(self.design_file) and not os.path.lexists(self.key_file):
                raise InputError(
                    f"{self.key_file.name} must be beside the design that was drawn with it, got none in "
                    f"{str(self.private)!r}: it was removed, or the study is of an older version, whose designs took "
                    "none. Restore it from a copy, or choose another --output_dir."
                )
            return kept_key(self.key_file, None if given is None else read_key(given))

    def canaries(self) -> tuple[str, ...]:
        """The kinds of canaries that were planted; the recorded design does not tell in which cases."""
        return tuple(files.read_json(self.design_file.with_suffix(".json")).get("canaries") or ())

    def table(self, models: Sequence[str] | None = None) -> SignalTable:
        """The recorded signals of these models; by default of all."""
        return SignalTable.read(self.signals("").parent, models)

    def image_statistics(self) -> ImageStatistics:
        """The image statistics, as they were found before anything was trained."""
        return ImageStatistics.read(self.image_statistics_file)

    def map_store(self) -> MapStore:
        """The recorded predictions of all models."""
        return MapStore(self.maps("").parent)

    def has_maps(self) -> bool:
        """Whether predictions are recorded."""
        return self.maps("").parent.is_dir()

    def pseudonyms(self) -> Pseudonyms:
        """The names under which individuals go; their key is drawn the first time."""
        return Pseudonyms.kept_in(self.private)

    def identifiers(self) -> Identifiers:
        """What would name a patient of this study or of a study within it.

        Raises:
            InputError: none are recorded.
        """
        return Identifiers.read(self.private)

    def about(self) -> dict[str, Any]:
        """What was run, from ``study.json``; empty before it is finished."""
        return files.read_json(self.study_file)

    def trained(self, model: str) -> dict[str, Any]:
        """What was written beside a model's weights: seconds, epochs, the account of its privacy."""
        return files.read_json(self.weights(model).with_suffix(".json"))

    def queried(self, model: str) -> dict[str, Any]:
        """What was written beside a model's signals."""
        return files.read_json(self.signals(model).with_suffix(".json"))

    def sources(self, models: Sequence[str] | None = None) -> dict[str, str]:
        """SHA-256 of what attacks read, by its path in the folder: what is made from it is stale once one changes.

        Args:
            models: those whose signals are read; by default all signals and designs, those of studies within included.
        """
        if models is None:
            found = [path for path in self.private.rglob("*.csv") if path.parent.name == self.signals("").parent.name]
            paths = sorted([*found, *self.private.rglob(self.design_file.name)])
        else:
            paths = [self.design_file, *map(self.signals, models)]
        return {path.relative_to(self.root).as_posix(): files.content_sha256(path) for path in paths}

    def is_recorded(self) -> bool:
        """Whether every model of the design was trained and queried."""
        return self.design_file.is_file() and all(self.queried(model) for model in self.design().model_ids)

    def recorded(self) -> Recorded:
        """All that attacks read.

        Raises:
            InputError: nothing is recorded; or the study has canaries, and the recorded design does not tell where.
        """
        design = self.design()
        if self.canaries():
            raise InputError(
                f"study must be without canaries, got {str(self.root)!r} with some. Run its own config, or give "
                "another --output_dir."
            )
        table = self.table(design.model_ids)
        store = self.map_store()

        def maps(target: str, shadows: Sequence[str]) -> RecordedMaps:
            return store.of(table, target, shadows)

        return Recorded(
            design=design,
            table=table,
            features=self.image_statistics().of(table.case_ids),
            maps=maps if self.has_maps() else None,
            hashes={model: str(self.queried(model).get("sha256")) for model in design.model_ids},
            scores=self.attack_scores,
        )

    # --- who works in it

    def identify(self, **identity: Any) -> None:
        """Note whose folder this is.

        Raises:
            InputError: it is another study's.
        """
        study = self.about()
        known = study.get("identity", {})
        other = [name for name, value in identity.items() if known.get(name, value) != value]
        if other:
            raise InputError(
                f"output_dir must be empty or hold this study, got {str(self.root)!r} of a study with another "
                f"{', another '.join(other)}. Choose another --output_dir."
            )
        files.write_json(self.study_file, {**study, "identity": {**known, **identity}})

    def commit(self, design: Design, key: bytes) -> str:
        """Note the commitment to a design and its key before anything is trained.

        Raises:
            InputError: the study committed itself to another.
        """
        commitment, known = design.commitment(key), self.about().get("identity", {}).get("commitment")
        if known not in (None, commitment):
            raise InputError(
                f"{self.key_file.name} must fit the commitment in {self.study_file.name}, got another key in "
                f"{str(self.key_file)!r}. Restore it from a copy, or choose another --output_dir."
            )
        self.identify(commitment=commitment)
        return commitment

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Note, in private, what is written to the report meanwhile, and what it was made from.

        The note on an earlier report goes first, so that it never vouches for one of which only a part was written.
        """
        files.remove(self.reported_file)
        yield
        found = sorted(path for path in self.report.rglob("*") if path.is_file())
        hashes = {path.relative_to(self.report).as_posix(): files.sha256(path) for path in found}
        files.write_json(self.reported_file, {"files": hashes, "made_from": self.sources()})

    def note(self, **about: Any) -> None:
        """Add to ``study.json``."""
        files.write_json(self.study_file, {**self.about(), **about})

    @contextlib.contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Keep every other run out of this folder; the same process may enter again.

        The lock is the operating system's, so that it ends with the process, however that ends; it holds on file
        systems that several machines share, if these support locks. What a killed run left half-written is removed.

        Args:
            wait: whether to wait for another run to end.

        Raises:
            InputError: another run works here, which is named; or the folder holds something else than a study.
        """
        self._refuse_others()
        path = files.private_folder(self.private).resolve() / "study.lock"
        lock = FileLock(path, mode=0o600, is_singleton=True)
        holder = path.with_name("study.lock.json")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            known = files.read_json(holder)
            who = f"process {known.get('process')} on {known.get('host')!r} since {known.get('since')}" if known else ""
            raise InputError(
                f"output_dir must be free, got {str(self.root)!r}, in which another run works ({who or 'unknown'}). "
                "Wait for it (--wait; in a config study#wait), or choose another --output_dir."
            ) from error
        try:
            if lock.lock_counter == 1:
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                files.write_json(holder, {"host": socket.gethostname(), "process": os.getpid(), "since": now})
                for folder in (self.root, *([] if self.models_dir is None else [self.models_dir])):
                    files.remove_abandoned(folder)
            if not self.study_file.is_file():
                files.write_json(self.study_file, {"schema": SCHEMA, "identity": {}})
            yield
        finally:
            if lock.lock_counter == 1:  # before another run, which writes its own, can take over
                with contextlib.suppress(OSError):
                    holder.unlink()
            lock.release()

    def _refuse_others(self) -> None:
        """Refuse a folder that holds something else, or a study of an older layout."""
        root = Path(self.root)
        others = (path for path in files.entries(root) if path.name != "private") if root.is_dir() else ()
        if any(others) and not self.study_file.is_file():
            raise InputError(
                f"output_dir must be empty or hold a study, got {str(root)!r} with other files. Choose another "
                "--output_dir."
            )
        schema = self.about().get("schema", SCHEMA)
        if schema != SCHEMA:
            raise InputError(
                f"output_dir must be of this version's layout ({SCHEMA}), got {str(root)!r} of layout {schema}. Choose "
                "another --output_dir and run the study again, or use the version that made it."
            )
