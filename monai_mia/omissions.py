# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What a study's training leaves out of a bundle's config: what writes, or looks at cases that are no members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["REPLACED", "UNUSED", "handler_lists", "is_omitted"]

#: Ids of a training config that are set to null.
UNUSED = tuple(f"train#trainer#{name}" for name in ("key_train_metric", "additional_metrics", "postprocessing"))

#: Ids that a study replaces, and so never evaluates.
REPLACED = ("train#dataset#data", *UNUSED)

_OMITTED = re.compile(
    r"(Checkpoint|ClearML|EarlyStop|TensorBoard)\w*|(Logfile|MLFlow|Stats|Trt|Validation)Handler"
    r"|(Classification|Metrics)Saver|MetricLogger|ModelCheckpoint|PostProcessing|ProbMapProducer"
)


def is_omitted(handler: Any, config: Any) -> bool:
    """Whether a training leaves out a handler: a component or an expression that calls such a class, or leads to one.

    Args:
        handler: item of a list of handlers.
        config: a parser, or what reads as one.
    """
    for _ in range(10):
        if isinstance(handler, str) and handler.startswith("@") and handler[1:] in config:
            handler = config[handler[1:]]
    if isinstance(handler, Mapping):
        called = [str(handler.get("_target_", "")).rpartition(".")[2]]
    else:  # "$monai.handlers.CheckpointSaver(...) if @save else None"
        called = re.findall(r"(\w+)\s*\(", handler) if str(handler).startswith("$") else []
    return any(_OMITTED.fullmatch(name) for name in called)


def handler_lists(config: Any) -> list[str]:
    """Ids of the lists of handlers of a training config, references to them followed."""
    found = []
    for name in ("train#handlers", "train#trainer#train_handlers"):
        for _ in range(10):
            if name in config and str(config[name]).startswith("@"):
                name = config[name][1:].replace("::", "#")
        if name in config:
            found.append(name)
    return list(dict.fromkeys(found))
