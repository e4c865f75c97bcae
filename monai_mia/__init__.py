# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Membership inference on medical segmentation models, in MONAI's own forms.

Importing this package loads neither torch nor monai: the statistics half (``table``, ``designs``, ``attacks``,
``statistics``, ``epsilon``, ``claims``, ``controls``, ``audit``, ``report``) runs on a laptop. Name classes in a
bundle's config by their full path, for example ``_target_: monai_mia.handlers.SignalRecorder``.
"""

__version__ = "0.1.0"
