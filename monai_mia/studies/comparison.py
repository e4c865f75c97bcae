# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A comparison study: several targets, trained and queried once, and every attack on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tqdm import tqdm

from monai_mia.audit import report
from monai_mia.audit.comparison import Comparison, ComparisonResult
from monai_mia.studies.jobs import command
from monai_mia.studies.study import Study

__all__ = ["ComparisonStudy"]


@dataclass(frozen=True)
class ComparisonStudy:
    """A study whose targets every attack is compared on.

    Attributes:
        study: the study; its ``targets`` should be at least 4.
        comparison: the attacks and how they are compared.
    """

    study: Study
    comparison: Comparison

    def main(self) -> None:
        """Train, query and score what is not done yet; a command, as :meth:`monai_mia.studies.Study.main`."""
        self._command(self.run)

    def record(self) -> None:
        """Train and query what is not done yet; a command."""

        def run() -> None:
            self._check()
            self.study.record()

        command(run)

    def rescore(self) -> None:
        """Score what was recorded; a command that needs no image, no network and no training."""
        self._command(self.score)

    def run(self) -> ComparisonResult:
        """Do all that is not done yet.

        Raises:
            InputError: as :meth:`monai_mia.studies.Study.run` and :meth:`monai_mia.audit.comparison.Comparison.score`.
        """
        self._check()
        with self.study.folder.lock(self.study.resources.wait):
            self.study.record()
            return self.score()

    def score(self) -> ComparisonResult:
        """Score what was recorded, and write the table.

        Raises:
            InputError: nothing was recorded yet; or an attack cannot be carried out on what was.
        """
        self._check()
        folder = self.study.folder
        with folder.lock(self.study.resources.wait):
            result = self.comparison.score(folder.recorded())
            with folder.reporting():
                report.write_comparison(result, self.comparison, folder.report, self.study.audit.disclosure)
        return result

    def _check(self) -> None:
        self.comparison.check(self.study.shadows, self.study.recording.maps)

    def _command(self, run: Callable[[], ComparisonResult]) -> None:
        result = command(run)
        tqdm.write(f"Comparison: {self.study.folder.report / 'comparison.md'} ({len(result.rows)} rows)")
