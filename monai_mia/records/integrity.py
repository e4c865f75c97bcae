# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a study are as they were written, and of what they were made from. Nothing is changed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monai_mia.errors import InputError
from monai_mia.records import files
from monai_mia.records.design import TARGET, Design, check_commitment, check_drawn
from monai_mia.records.folder import StudyFolder
from monai_mia.records.keys import read_key

__all__ = ["Examination", "Finding", "examine"]

State = Literal["whole", "stale", "torn", "missing", "unfinished", "unchecked"]

#: Names of files that a study makes; a folder of such a name is in a file's place.
_SUFFIXES = (".csv", ".json", ".pt", ".npz", ".key", ".html", ".md", ".png")
#: What a run leaves for those who watch it.
_PASSING = ("study.lock", "study.lock.json", "progress.json", "queried.json", "traceback.txt")
#: States, the worst last.
_WORSE: tuple[State, ...] = ("unchecked", "whole", "unfinished", "stale", "missing", "torn")
_AGAIN = "run the study again, which makes it anew"


@dataclass(frozen=True)
class Finding:
    """What is the matter with one file.

    Attributes:
        name: its path, relative to the study's folder.
        state: ``whole``; ``stale``: made from something that has changed since; ``torn``: not as it was written;
            ``missing``; ``unfinished``: a run was stopped, and the next one goes on; ``unchecked``: no hash of it is
            kept.
        why: how that is known, and what to do; empty of what is whole.
    """

    name: str
    state: State
    why: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.state:10} {self.name}{': ' if self.why else ''}{self.why}"


@dataclass(frozen=True)
class Examination:
    """What was found of each file, by name."""

    findings: tuple[Finding, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is stale, torn, missing or unfinished."""
        return all(one.state in ("whole", "unchecked") for one in self.findings)

    def text(self) -> str:
        """A line for each file of which there is something to say, those that are whole first, and the counts."""
        order: tuple[State, ...] = ("whole", "unfinished", "missing", "stale", "torn")
        lines = [str(one) for state in order for one in self.findings if one.state == state]
        counts = Counter(one.state for one in self.findings)
        told = [f"{counts[state]} {state}" for state in order]
        return "\n".join([*lines, f"{', '.join(told)}; {counts['unchecked']} of which no hash is kept."])


def examine(output_dir: str | os.PathLike[str], images: bool = False) -> Examination:
    """Examine every file of a study, and of the studies within it.

    Args:
        output_dir: the study's folder.
        images: whether the images and references of the cohort are read as well, and compared with what they were.

    Raises:
        InputError: the folder holds no study.
    """
    root = Path(output_dir)
    if not os.path.lexists(StudyFolder(root).study_file):
        raise InputError(f"output must be the folder of a study, got {str(root)!r} without study.json. Give --output.")
    found: dict[str, Finding] = {}

    def note(one: Finding | None) -> None:
        """The worst that is known of a file is what counts."""
        if one is not None and _WORSE.index(one.state) >= _WORSE.index(found.get(one.name, one).state):
            found[one.name] = one

    for folder, names, file_names in os.walk(root):
        here = Path(folder)
        for name in [*names, *file_names]:
            path = here / name
            note(_examined(path, path.relative_to(root).as_posix()))
        names[:] = [name for name in names if not (here / name).is_symlink()]
    for name, known in list(found.items()):
        if known.state in ("whole", "stale"):
            for one in _recorded(root, root / name):
                note(one)
    for study_file in sorted(root.rglob(StudyFolder(root).study_file.name)):
        if study_file.is_file():
            for one in _study(root, study_file.parent, images):
                note(one)
    return Examination(tuple(found[name] for name in sorted(found)))


def _examined(path: Path, name: str) -> Finding | None:
    """What can be said of one path by itself; None of a folder, of what is beside an artefact, and of passing files."""
    if path.is_symlink() and not path.exists():
        return Finding(name, "torn", f"a link that leads nowhere; remove it, and {_AGAIN}")
    if path.is_dir():
        if path.suffix in _SUFFIXES:
            return Finding(name, "torn", f"a folder in a file's place; move it away, and {_AGAIN}")
        return None
    if path.match(".*.tmp"):
        return Finding(name, "unfinished", "left by a run that was killed; the next one removes it")
    if path.name in _PASSING:
        return None
    try:
        return _by_kind(path, name)
    except (OSError, InputError) as error:
        return Finding(name, "torn", _line(error))


def _by_kind(path: Path, name: str) -> Finding | None:
    beside = path.with_suffix(".json")
    if path.suffix == ".json":
        content = _json(path)
        others = [one for one in path.parent.glob(f"{_escaped(path.stem)}.*") if one.suffix in (".csv", ".pt", ".npz")]
        if content is None:
            return Finding(name, "torn", f"no JSON; {_AGAIN}")
        if "sha256" not in content:
            return Finding(name, "whole")
        return None if others else Finding(name, "missing", f"what it is about is gone; {_AGAIN}")
    if path.suffix == ".key":
        read_key(path)
        return Finding(name, "whole")
    if path.name == "checkpoint.pt":
        return Finding(name, "unfinished", "a training that was stopped; the next run goes on with it")
    if path.suffix in (".csv", ".pt", ".npz"):
        if files.is_whole(path):
            return Finding(name, "whole")
        if files.read_json(beside).get("sha256") is None:
            return Finding(name, "unfinished", f"no hash beside it vouches for it yet; {_AGAIN}")
        return Finding(name, "torn", f"its bytes are not those that were written; {_AGAIN}")
    return Finding(name, "unchecked")


def _json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]


def _recorded(root: Path, path: Path) -> Iterator[Finding]:
    """What an artefact says of other files: those that it is a record of, and those that it was made from."""
    about = files.read_json(path.with_suffix(".json")) if path.suffix in (".csv", ".pt", ".npz") else {}
    name = path.relative_to(root).as_posix()
    if "files" in about:
        changed = files.changed_files(path)
        for one in about["files"]:
            inside = (path.parent / one).relative_to(root).as_posix()
            state: State = "torn" if (path.parent / one).is_file() else "missing"
            why = f"not as {path.name} has it; {_AGAIN}"
            yield Finding(inside, state, why) if one in changed else Finding(inside, "whole")
    study = next((one for one in path.parents if StudyFolder(one).study_file.is_file()), root)
    odd = _changed_sources(study, about.get("made_from", {}))
    if odd:
        yield Finding(name, "stale", f"{odd} changed after it was made; {_AGAIN}")


def _changed_sources(study: Path, made_from: Mapping[str, str]) -> str:
    """The first of these files that has another content now; empty if none has."""
    for name, known in made_from.items():
        if _content(study / name) != known:
            return name
    return ""


def _content(path: str | os.PathLike[str]) -> str | None:
    """SHA-256 of a file; None if it is not there or cannot be read."""
    try:
        return files.content_sha256(path)
    except (OSError, InputError):
        return None


def _study(root: Path, study: Path, images: bool) -> Iterator[Finding]:
    """What can be said of a study as a whole: its report, its design and key, its models and their signals."""

    def named(path: Path) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    plain = StudyFolder(study)
    about = plain.about()
    if not about.get("identity"):
        yield Finding(named(plain.study_file), "torn", f"it does not say whose study this is; {_AGAIN}")
    report = files.read_json(plain.reported_file)
    if not report and plain.report.is_dir():
        for path in sorted(plain.report.rglob("*")):
            if path.is_file():
                yield Finding(named(path), "unfinished", f"a run was stopped while it wrote the report; {_AGAIN}")
    stale = _changed_sources(study, report.get("made_from", {}))
    for name, known in report.get("files", {}).items():
        path = plain.report / name
        if not path.is_file():
            yield Finding(named(path), "missing", _AGAIN)
        elif _content(path) != known:
            yield Finding(named(path), "torn", f"its bytes are not those that were written; {_AGAIN}")
        else:
            yield Finding(named(path), "stale" if stale else "whole", f"{stale} changed; {_AGAIN}" if stale else "")
    if not plain.design_file.is_file():
        return
    try:
        design = plain.design()
    except InputError:
        return  # it is torn, which is said already
    yield from _secret(design, plain, about.get("identity", {}).get("commitment"), named)
    folder = StudyFolder(study, study / about["models"]) if "models" in about else plain
    released = about.get("identity", {}).get("target") is not None
    for model in design.model_ids:
        weights, signals, maps = folder.weights(model), folder.signals(model), folder.maps(model)
        trained = not (released and model == TARGET)
        if trained and not weights.is_file():
            yield Finding(named(weights), "missing", "it is not trained yet; run the study again")
        if not signals.is_file():
            yield Finding(named(signals), "missing", "the model is not queried yet; run the study again")
        known = files.read_json(weights.with_suffix(".json")).get("sha256")
        for path in (signals, maps):
            of = files.read_json(path.with_suffix(".json")).get("checkpoint")
            if trained and known is not None and of is not None and of != known:
                yield Finding(named(path), "stale", f"recorded of other weights than {named(weights)}; {_AGAIN}")
    if images:
        yield from _images(design, plain)


def _secret(design: Design, folder: StudyFolder, commitment: str | None, named: Any) -> Iterator[Finding]:
    """Whether the key fits the commitment, and the design the key."""
    if not folder.key_file.is_file():
        yield Finding(named(folder.key_file), "missing", "restore it from a copy: the study cannot go on without it")
        return
    try:
        key = folder.key()
        if commitment is not None:
            check_commitment(commitment, design, key)
        if not folder.canaries():
            check_drawn(design, key)
    except InputError as error:
        yield Finding(named(folder.key_file), "torn", _line(error))


def _images(design: Design, folder: StudyFolder) -> Iterator[Finding]:
    """Whether the images and references are those that the models were trained and queried with."""
    try:
        recorded = folder.image_statistics()
    except InputError:
        return  # it is torn or missing, which is said already
    prints = dict(zip(recorded.case_ids, recorded.fingerprints, strict=True))
    for case in design.cases:
        paths = [path for key in ("image", "label") for path in files.paths_of(case[key])]
        name = f"case {case['case_id']}"
        gone = [path for path in paths if not Path(path).is_file()]
        if gone:
            yield Finding(name, "missing", f"{gone[0]} is not there")
        elif files.digest([_content(path) for path in paths]) != prints.get(str(case["case_id"])):
            yield Finding(name, "stale", f"its image or reference changed after it was recorded; {_AGAIN}")
        else:
            yield Finding(name, "whole")
