# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Defences: what a model's owner does against membership inference, at release or in training.

Name them in a bundle's config by ``_target_: monai_mia.defences.MixedBatch`` and the like;
``bundles/overlays/defences`` has an overlay for each. Differential privacy is in :mod:`monai_mia.dp`.
"""

from monai_mia.defences.adversarial import AdversarialRegularisation
from monai_mia.defences.averaging import WeightAveraging
from monai_mia.defences.distillation import Distillation
from monai_mia.defences.held_out import HeldOutCases
from monai_mia.defences.inferer import DefendedInferer, MCDropoutInferer
from monai_mia.defences.laplace import LaplaceFit, LaplaceNetwork
from monai_mia.defences.losses import LossFloor, SoftDiceCELoss
from monai_mia.defences.mixing import ColumnSplice, MixedBatch
from monai_mia.defences.monitor import LeakageMonitor
from monai_mia.defences.output import (
    ClipConfidence,
    GaussianNoise,
    HardMask,
    OutputDefence,
    RoundProbabilities,
    SmoothBoundary,
    Temperature,
    TopClasses,
)
from monai_mia.defences.output_dictionary import (
    ClipConfidenceD,
    ClipConfidenced,
    ClipConfidenceDict,
    GaussianNoiseD,
    GaussianNoised,
    GaussianNoiseDict,
    HardMaskD,
    HardMaskd,
    HardMaskDict,
    OutputDefenced,
    RoundProbabilitiesD,
    RoundProbabilitiesd,
    RoundProbabilitiesDict,
    SmoothBoundaryD,
    SmoothBoundaryd,
    SmoothBoundaryDict,
    TemperatureD,
    Temperatured,
    TemperatureDict,
    TopClassesD,
    TopClassesd,
    TopClassesDict,
)

__all__ = [
    "AdversarialRegularisation",
    "ClipConfidence",
    "ClipConfidenceD",
    "ClipConfidenceDict",
    "ClipConfidenced",
    "ColumnSplice",
    "DefendedInferer",
    "Distillation",
    "GaussianNoise",
    "GaussianNoiseD",
    "GaussianNoiseDict",
    "GaussianNoised",
    "HardMask",
    "HardMaskD",
    "HardMaskDict",
    "HardMaskd",
    "HeldOutCases",
    "LaplaceFit",
    "LaplaceNetwork",
    "LeakageMonitor",
    "LossFloor",
    "MCDropoutInferer",
    "MixedBatch",
    "OutputDefence",
    "OutputDefenced",
    "RoundProbabilities",
    "RoundProbabilitiesD",
    "RoundProbabilitiesDict",
    "RoundProbabilitiesd",
    "SmoothBoundary",
    "SmoothBoundaryD",
    "SmoothBoundaryDict",
    "SmoothBoundaryd",
    "SoftDiceCELoss",
    "Temperature",
    "TemperatureD",
    "TemperatureDict",
    "Temperatured",
    "TopClasses",
    "TopClassesD",
    "TopClassesDict",
    "TopClassesd",
    "WeightAveraging",
]
