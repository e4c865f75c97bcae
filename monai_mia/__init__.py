# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Membership inference on medical segmentation models: attacks, defences and audits in MONAI's own forms.

The names that a user types, such as ``monai_mia.Audit``, are listed in ``__init__.pyi``. Each is loaded when it is
first used, so that this import alone loads neither torch nor monai.
"""

import os
import sys

_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  (pathlib could be anybody's yet)
if sys.argv[:1] == ["-m"] and {"monai_mia", "-mmonai_mia"} & {*sys.orig_argv} and sys.path[0] == os.getcwd() != _HERE:  # noqa: PTH109
    # "python -m monai_mia" searches the folder that it is started in, which may be that of a bundle nobody trusts yet.
    del sys.path[0]

import lazy_loader  # noqa: E402

__version__ = "0.1.0"

# dir() does not list them: MONAI looks through all modules whose names begin with "monai" for the components that a
# config names without their modules, and would load everything, optional packages included.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
