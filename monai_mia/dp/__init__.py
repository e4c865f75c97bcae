# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Patient-level DP-SGD: a network trained so that no patient shows by more than epsilon says.

The unit of privacy is a patient: all volumes, visits, slices, patches and augmentations. A step draws patients by
independent coins (:class:`PatientLoader`), gives each one gradient over all that was drawn of them, clips it, sums, and
adds noise (:class:`PatientDPSGD`, the ``iteration_update`` of a ``SupervisedTrainer``).
"""

from monai_mia.dp.accounting import accounted_epsilon, default_delta, noise_multiplier_for
from monai_mia.dp.loader import PatientDataset, PatientLoader, PoissonPatientSampler
from monai_mia.dp.mechanism import ClippedSum
from monai_mia.dp.norms import with_group_norm
from monai_mia.dp.training import PatientDPSGD

__all__ = [
    "ClippedSum",
    "PatientDPSGD",
    "PatientDataset",
    "PatientLoader",
    "PoissonPatientSampler",
    "accounted_epsilon",
    "default_delta",
    "noise_multiplier_for",
    "with_group_norm",
]
