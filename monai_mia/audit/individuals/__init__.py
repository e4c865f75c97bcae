# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""How vulnerable individual patients are, what it goes with, and where in the anatomy the evidence lies."""

from monai_mia.audit.individuals.covariates import (
    Association,
    Covariate,
    Individuals,
    Subgroup,
    associations,
    image_covariates,
    listed_covariates,
    rarity,
)
from monai_mia.audit.individuals.leakage_map import Leakage, LeakageMap, RegisteredMap
from monai_mia.audit.individuals.vulnerability import Vulnerability, VulnerabilityResult

__all__ = [
    "Association",
    "Covariate",
    "Individuals",
    "Leakage",
    "LeakageMap",
    "RegisteredMap",
    "Subgroup",
    "Vulnerability",
    "VulnerabilityResult",
    "associations",
    "image_covariates",
    "listed_covariates",
    "rarity",
]
