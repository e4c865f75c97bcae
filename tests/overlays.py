# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The overlays of training defences, and the options that a test trains them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import BUNDLES, SMALL

OVERLAYS = BUNDLES / "overlays" / "defences"

# Whatever is found in the folder; that of DP-SGD is trained in test_dp.py.
TRAINING_OVERLAYS = [
    path
    for path in sorted(OVERLAYS.glob("*.yaml"))
    if "\n# Overlay on train.json" in path.read_text() and path.stem != "dp_sgd"
]


def options_of(overlay: Path, given: list[dict[str, Any]]) -> dict[str, Any]:
    """As few epochs as an overlay allows, and its held-out cases if it wants any."""
    text = overlay.read_text()
    epochs = {"epochs": 1} if "\nepochs:" in text else {"train#trainer#max_epochs": 1}
    return {**SMALL, **epochs, **({"held_out": given} if "\nheld_out:" in text else {})}


def inference_files(overlay: Path) -> list[str]:
    beside = overlay.with_name(f"{overlay.stem}_inference.yaml")
    return ["configs/inference.json", *([str(beside)] if beside.is_file() else [])]


#: Output defences, the options of each, and the activations they take.
BOTH = ("softmax", "sigmoid")
KEPT: list[tuple[str, dict[str, Any]]] = [  # these promise the argmax
    ("HardMask", {"one_hot": True}),
    *(("RoundProbabilities", {"decimals": n}) for n in (0, 1, 2, 5)),
    ("TopClasses", {"k": 2}),
    ("Temperature", {"temperature": 2.5}),
    ("ClipConfidence", {"maximum": 0.7}),
]
ALL: list[tuple[str, dict[str, Any]]] = [
    *KEPT,
    ("GaussianNoise", {"sigma": 0.3, "key": "a"}),
    ("GaussianNoise", {"sigma": 0.5, "key": "a", "space": "logits"}),
    ("SmoothBoundary", {"sigma": 0.8}),
]
CASES = [(name, options, act) for name, options in ALL for act in BOTH if (name, act) != ("TopClasses", "sigmoid")]
