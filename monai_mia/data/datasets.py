# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""One cached cohort, shared by all the models of a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from monai_mia.errors import InputError

__all__ = ["CaseSubset"]


class CaseSubset(Dataset[Any]):
    """The cases of a shared dataset that one model is shown.

    The shared dataset reads and preprocesses the cohort once; its random transforms still run for each item.

    Args:
        dataset: a dataset whose ``data`` is a datalist with ``case_id`` (any of MONAI's, e.g. ``CacheDataset``).
        data: the datalist of the model, in the order it is shown; fields that the shared items lack, such as
            ``member``, are added to them.
    """

    def __init__(self, dataset: Any, data: Sequence[Mapping[str, Any]]) -> None:
        self.dataset = dataset
        self.data = list(data)
        index = {case["case_id"]: n for n, case in enumerate(dataset.data)}
        unknown = [case["case_id"] for case in self.data if case["case_id"] not in index]
        if unknown:
            raise InputError(f"data must be cases of the shared dataset, got {unknown[0]!r}, which is not.")
        self.indices = [index[case["case_id"]] for case in self.data]

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.indices)

    def __getitem__(self, n: int) -> Any:
        """The n-th case, as the shared dataset gives it."""
        item = self.dataset[self.indices[n]]
        if isinstance(item, list):  # transforms that crop several patches from a volume
            return [{**self.data[n], **_numbers(patch)} for patch in item]
        return {**self.data[n], **_numbers(item)}


def _numbers(item: Mapping[str, Any]) -> dict[str, Any]:
    """Bool as float32, for MONAI's losses take norms of references, which torch refuses of bool."""
    return {
        name: value.float() if isinstance(value, Tensor) and value.dtype == torch.bool else value
        for name, value in item.items()
    }
