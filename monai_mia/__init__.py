# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Membership inference on medical segmentation models: attacks, defences and audits in MONAI's own forms.

The names that a user types, such as ``monai_mia.Audit``, are listed in ``__init__.pyi``. Each is loaded when it is
first used, so that this import alone loads neither torch nor monai.
"""

import os
import sys


def _keep_bundles_out_of_the_search_path() -> None:
    """Where this package is the command, no file of a bundle may take the place of a module, such as a ``numpy.py``.

    ``python -m`` searches the folder that it is started in, and PYTHONPATH may name any.
    """
    here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    module = sys.argv[:1] == ["-m"] and not {"monai_mia", "-mmonai_mia"}.isdisjoint(sys.orig_argv)
    if module and sys.path[0] == os.getcwd() != here:
        del sys.path[0]
    if not (module or os.path.basename(sys.argv[0]) in ("monai-mia", "monai-mia.exe")) or sys.argv[1:2] != ["inspect"]:
        return
    own = tuple(os.path.realpath(one) + os.sep for one in (sys.prefix, sys.base_prefix))
    for word in filter(None, sys.argv[2:]):
        bundle = os.path.realpath(word.rpartition("=")[2])
        for entry in map(os.path.realpath, sys.path):
            if f"{entry}{os.sep}".startswith(f"{bundle}{os.sep}") and not entry.startswith(own):
                sys.exit(
                    f"monai_mia: bundle must not lie where Python searches for modules, got {entry!a} in sys.path. "
                    "Take it out of PYTHONPATH."
                )


if getattr(sys, "argv", None):
    _keep_bundles_out_of_the_search_path()

import lazy_loader  # noqa: E402

__version__ = "0.1.0"

# dir() does not list them: MONAI looks through all modules whose names begin with "monai" for the components that a
# config names without their modules, and would load everything, optional packages included.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
