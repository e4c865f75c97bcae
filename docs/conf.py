# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx builds these pages offline: ``sphinx-build -W --keep-going docs docs/_build``."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from monai_mia import __version__

project = "monai_mia"
author = "The monai_mia contributors"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autoclass_content = "class"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay short; the docstrings say what each argument is
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a dataclass documents its fields once, in the class

html_theme = "furo"
html_title = f"monai_mia {version}"
html_copy_source = False


def escape_stars(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """A shape such as (C, *spatial) is no emphasis."""
    lines[:] = [re.sub(r"\*(?=(spatial|patch)\b)", r"\\*", line) for line in lines]


def setup(app) -> None:  # type: ignore[no-untyped-def]
    app.connect("autodoc-process-docstring", escape_stars, priority=400)  # before Napoleon
