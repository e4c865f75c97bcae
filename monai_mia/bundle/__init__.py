# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI engines from a bundle's own configs: train a model on its members, query a model about every case.

Nothing of the bundle that writes is run, and no file of it changes.
"""

from monai_mia.bundle.config import BundleConfig, bundle_root, load_weights
from monai_mia.bundle.query import Query, check_inference
from monai_mia.bundle.training import Training

__all__ = ["BundleConfig", "Query", "Training", "bundle_root", "check_inference", "load_weights"]
