# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Generators of scans, and the study that trains, draws and checks them."""

from monai_mia.generators.networks import DiffusionGenerator, GanGenerator, JoinScand, ScanFormat, ScanGenerator
from monai_mia.generators.study import GeneratorStudy

__all__ = ["DiffusionGenerator", "GanGenerator", "GeneratorStudy", "JoinScand", "ScanFormat", "ScanGenerator"]
