# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle offers to an audit, and what it would execute: read from its configs, before anything of it runs."""

from monai_mia.bundle.inspection.bundle import Inspection, inspect_bundle
from monai_mia.bundle.inspection.execution import Executed
from monai_mia.bundle.inspection.folder import writable_by_others

__all__ = ["Executed", "Inspection", "inspect_bundle", "writable_by_others"]
