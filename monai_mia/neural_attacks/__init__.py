# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Neural attacks: MONAI networks that read the maps which models released, trained on the shadows' maps.

It is an attack like any other: options are fields, what the adversary sees is the argument, a higher score is more
likely a member. It is trained on the shadows' maps, whose members the adversary knows, and then scores the target's.
:class:`BlindNetwork` is trained likewise on the images alone, as a control.
Reach them in a bundle's config by ``_target_: monai_mia.neural_attacks.type_two`` and the like.
"""

from monai_mia.neural_attacks.attacker import MapAttacker
from monai_mia.neural_attacks.blind import BlindNetwork
from monai_mia.neural_attacks.inputs import INPUTS
from monai_mia.neural_attacks.published import (
    calibrated_maps,
    concatenation,
    learned_attacks,
    structured_loss_map,
    type_one,
    type_two,
)

__all__ = [
    "INPUTS",
    "BlindNetwork",
    "MapAttacker",
    "calibrated_maps",
    "concatenation",
    "learned_attacks",
    "structured_loss_map",
    "type_one",
    "type_two",
]
