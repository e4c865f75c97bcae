# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_mia``: what needs no config of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_mia import __version__, sharing
from monai_mia.errors import InputError


def bundles_folder() -> Path:
    """The shipped bundles: beside the modules in an installed wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "bundles" if (package / "bundles").is_dir() else package.parent / "bundles"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m monai_mia", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bundles", help="print the folders of the bundles that come with the package")
    commands.add_parser("overlays", help="print the folder of the overlays that change a bundle, such as defences")
    sharing.add_commands(commands)
    options = parser.parse_args(arguments)
    if hasattr(options, "run"):
        try:
            options.run(options)
        except InputError as error:
            raise SystemExit(f"monai_mia: {error}") from error
        return
    if options.command == "overlays":
        print(bundles_folder() / "overlays")
        return
    for folder in sorted(bundles_folder().iterdir()):
        if (folder / "configs").is_dir():
            print(folder)


if __name__ == "__main__":
    main()
