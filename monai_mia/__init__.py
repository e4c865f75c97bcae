# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Membership inference on medical segmentation models: attacks, defences and audits in MONAI's own forms.

The names that a user types, such as ``monai_mia.Audit``, are listed in ``__init__.pyi``. Each is loaded when it is
first used, so that this import alone loads neither torch nor monai.
"""

import lazy_loader

__version__ = "0.1.0"

# dir() does not list them: MONAI looks through all modules whose names begin with "monai" for the components that a
# config names without their modules, and would load everything, optional packages included.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
