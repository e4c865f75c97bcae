# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The commands about what leaves: ``python -m monai_mia archive``."""

from __future__ import annotations

import argparse
from typing import Any

from monai_mia.archive import check_archive, write_archive

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser of ``python -m monai_mia``; each sets ``run``, which takes the options.

    Args:
        commands: what ``argparse.ArgumentParser.add_subparsers`` gave.
    """
    archive = commands.add_parser(
        "archive",
        help="pack the report of a study, after a search for everything that names a patient; or check such a pack",
    )
    what = archive.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="OUT", help="folder of the study")
    what.add_argument("--check", metavar="FILE", help="an archive to check against its manifest")
    archive.add_argument("--archive", metavar="FILE", help="the .zip to write; by default OUT/report.zip")
    archive.add_argument(
        "--allow", metavar="WORD", nargs="*", default=[], help="words that may appear though the cohort has them"
    )
    archive.set_defaults(run=_archive)


def _archive(options: argparse.Namespace) -> None:
    if options.check is not None:
        manifest = check_archive(options.check)
        print(f"{options.check}: {len(manifest['files'])} files, as in its manifest")
        return
    path = options.archive or f"{options.output}/report.zip"
    manifest = write_archive(options.output, path, options.allow)
    searched = manifest["searched"]
    print(f"Searched for {searched['values']} ids, paths and header values: none is in the report.")
    if searched["too_short"]:
        print(f"{searched['too_short']} values are too short to be told from other text, and were not searched for.")
    print(f"Archive: {path}")
