# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
from .attacks import (
    BASE,
    RMIA,
    AdversaryView,
    Attack,
    BaVarIA,
    DifficultyCalibration,
    EverySignal,
    FeatureRegression,
    GlobalLoss,
    LearnedCombination,
    LiRA,
    MultivariateLiRA,
    PredictabilityError,
    QuantileRegression,
    Threshold,
    TopScores,
    TransferredThreshold,
    VoxelCalibration,
    standard_attacks,
)
from .audit import (
    AttackResult,
    Audit,
    AuditResult,
    Comparison,
    ComparisonResult,
    Criteria,
    Verdict,
    judge,
)
from .bundle import (
    BundleConfig,
)
from .data import (
    dicom_cohort,
    phantom_cohort,
    read_cohort,
)
from .dp import (
    PatientDPSGD,
    accounted_epsilon,
)
from .errors import (
    InputError,
)
from .handlers import (
    AttackRunner,
    MapRecorder,
    SignalRecorder,
)
from .neural_attacks import (
    BlindNetwork,
    MapAttacker,
)
from .records import (
    Design,
    MapStore,
    SignalTable,
    StudyFolder,
)
from .signals import (
    PerturbedQueries,
    Release,
    Utility,
    WhiteBox,
    segmentation_signals,
)
from .statistics import (
    Estimate,
    Resampling,
)
from .studies import (
    ComparisonStudy,
    Defence,
    DefenceStudy,
    FalsePositiveStudy,
    Recipe,
    Recording,
    Released,
    Resources,
    Study,
    audit_bundle,
    bundle_study,
)

__all__ = [
    "BASE",
    "RMIA",
    "AdversaryView",
    "Attack",
    "AttackResult",
    "AttackRunner",
    "Audit",
    "AuditResult",
    "BaVarIA",
    "BlindNetwork",
    "BundleConfig",
    "Comparison",
    "ComparisonResult",
    "ComparisonStudy",
    "Criteria",
    "Defence",
    "DefenceStudy",
    "Design",
    "DifficultyCalibration",
    "Estimate",
    "EverySignal",
    "FalsePositiveStudy",
    "FeatureRegression",
    "GlobalLoss",
    "InputError",
    "LearnedCombination",
    "LiRA",
    "MapAttacker",
    "MapRecorder",
    "MapStore",
    "MultivariateLiRA",
    "PatientDPSGD",
    "PerturbedQueries",
    "PredictabilityError",
    "QuantileRegression",
    "Recipe",
    "Recording",
    "Release",
    "Released",
    "Resampling",
    "Resources",
    "SignalRecorder",
    "SignalTable",
    "Study",
    "StudyFolder",
    "Threshold",
    "TopScores",
    "TransferredThreshold",
    "Utility",
    "Verdict",
    "VoxelCalibration",
    "WhiteBox",
    "accounted_epsilon",
    "audit_bundle",
    "bundle_study",
    "dicom_cohort",
    "judge",
    "phantom_cohort",
    "read_cohort",
    "segmentation_signals",
    "standard_attacks",
]

__version__: str
