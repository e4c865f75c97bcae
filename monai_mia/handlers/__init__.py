# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""MONAI handlers: they record signals and maps, carry out attacks, and keep a training reproducible and resumable.

Attacks are never imported here; a config hands them over.
"""

from monai_mia.handlers.attacks import AttackRunner
from monai_mia.handlers.maps import MapRecorder
from monai_mia.handlers.resuming import Checkpointer, EpochSeeder, ProgressFile
from monai_mia.handlers.signals import Signal, SignalRecorder

__all__ = ["AttackRunner", "Checkpointer", "EpochSeeder", "MapRecorder", "ProgressFile", "Signal", "SignalRecorder"]
