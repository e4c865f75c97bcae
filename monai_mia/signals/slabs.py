# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Sliding-window predictions of large volumes, finished slab by slab: the stitched prediction never exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.inferers import (
    Inferer,
    SliceInferer,
    SlidingWindowInferer,
    SlidingWindowInfererAdapt,
    sliding_window_inference,
)
from torch import Tensor, nn

from monai_mia.errors import InputError
from monai_mia.signals.outputs import one_output, select_prediction
from monai_mia.signals.release import Release, check_label

__all__ = ["SlabInferer", "SlabPrediction"]

#: A stitched prediction above this many bytes is made in slabs, unless told otherwise.
LARGE = 1 << 30


@dataclass(frozen=True)
class SlabPrediction:
    """The prediction of one image, not made yet.

    Attributes:
        image: what the network is given, shape (1, channels, *spatial).
        network: the model.
        inferer: the bundle's.
        output: which output is the prediction, as :func:`~monai_mia.signals.outputs.select_prediction` takes it.
    """

    image: Tensor
    network: Callable[..., Any]
    inferer: SlidingWindowInferer
    output: str | int | None = None

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of the volume, voxels."""
        return tuple(self.image.shape[2:])

    def signals(
        self, signals: Sequence[Any], released: Callable[[Tensor], Release], label: Tensor | None
    ) -> list[dict[str, float]]:
        """Predict, and read signals of each slab.

        Args:
            signals: functions with a method ``in_slabs``, such as :func:`~monai_mia.signals.segmentation_signals`.
            released: gives what leaves the model of a slab.
            label: the reference of the whole volume, or None.

        Returns:
            What each signal found.

        Raises:
            InputError: a signal needs the whole prediction, or the reference does not fit.
        """
        whole = [str(signal) for signal in signals if not hasattr(signal, "in_slabs")]
        if whole:
            raise InputError(f"signals must be able to read slabs, got {', '.join(whole)}. Set slabs: false.")
        sums = [signal.in_slabs() for signal in signals]

        def consume(slab: Tensor, start: int) -> None:
            release = released(slab)
            if start == 0 and label is not None:
                check_label(label, release.activation, release.classes, self.spatial)
            for one in sums:
                one.add(release, label, start)

        self.stream(consume)
        return [one.result() for one in sums]

    def stream(self, consume: Callable[[Tensor, int], None]) -> None:
        """Predict, and hand over each slab as soon as no further window touches it.

        MONAI's own :func:`~monai.inferers.sliding_window_inference` moves and weighs the windows. What is kept is one
        window's depth along the first spatial axis, on the device that predicts.

        Args:
            consume: called with a slab of the stitched prediction, shape (C, n, *spatial[1:]), and its first plane;
                slabs come in order, and the memory of one is reused for the next.

        Raises:
            InputError: the network's output has another resolution than its input.
        """
        stitcher = _Stitcher(self.spatial, consume)
        slices = isinstance(self.inferer, SliceInferer)
        window = list(self.inferer.orig_roi_size) if slices else self.inferer.roi_size
        if slices:
            window.insert(self.inferer.spatial_dim, 1)
        asked = partial(self.inferer.network_wrapper, self.network) if slices else self.network

        def predict(windows: Tensor, places: list[list[slice]]) -> Tensor:
            stitcher.places = [place[2:] for place in places]
            given = asked(windows, places) if self.inferer.with_coord else asked(windows)
            return select_prediction(given, windows, self.output)

        sliding_window_inference(
            self.image,
            window,
            self.inferer.sw_batch_size,
            predict,
            self.inferer.overlap,
            self.inferer.mode,
            self.inferer.sigma_scale,
            self.inferer.padding_mode,
            self.inferer.cval,
            self.inferer.sw_device,
            progress=self.inferer.progress,
            roi_weight_map=self.inferer.roi_weight_map,
            process_fn=stitcher.add,
            with_coord=True,
        )
        stitcher.flush(None)


class _Stitcher:
    """Weighted sums of windows, over the depth of one window."""

    def __init__(self, spatial: tuple[int, ...], consume: Callable[[Tensor, int], None]) -> None:
        self.spatial = spatial
        self.consume = consume
        self.places: list[list[slice]] = []
        self._sums: Tensor | None = None
        self._start = 0

    def add(self, predicted: tuple[Tensor, ...], windows: Tensor, weights: Tensor) -> tuple[tuple[Tensor], Tensor]:
        """Called by MONAI with what a batch of windows gave; what goes back has no channel, and so takes no memory."""
        values = predicted[0]
        if values.shape[2:] != windows.shape[2:]:
            raise InputError(
                f"network must predict at the resolution of its input to be asked in slabs, got "
                f"{tuple(values.shape[2:])} for windows of {tuple(windows.shape[2:])}. Set slabs: false."
            )
        size = tuple(windows.shape[2:])
        weights = weights.reshape(size).to(values.device)
        if self._sums is None:
            padded = [max(n, w) for n, w in zip(self.spatial, size, strict=True)]
            self._before = [(p - n) // 2 for p, n in zip(padded, self.spatial, strict=True)]
            self._sums = values.new_zeros((values.shape[1], size[0], *padded[1:]), dtype=torch.float32)
            self._weights = self._sums.new_zeros(self._sums.shape[1:])
        for window, (depth, *rest) in zip(values, self.places, strict=True):
            if depth.start > self._start:
                self.flush(depth.start)
            self._sums[(slice(None), slice(None), *rest)] += window * weights
            self._weights[(slice(None), *rest)] += weights
        return (values[:, :0],), weights

    def flush(self, start: int | None) -> None:
        """Hand over the planes before ``start``, or all that are left."""
        assert self._sums is not None
        depth = self._sums.shape[1]
        ready = depth if start is None else min(start - self._start, depth)
        self._sums[:, :ready] /= self._weights[:ready]
        inside = [slice(b, b + n) for b, n in zip(self._before, self.spatial, strict=True)]
        first, last = max(self._start, inside[0].start), min(self._start + ready, inside[0].stop)
        if last > first:
            planes = slice(first - self._start, last - self._start)
            self.consume(self._sums[(slice(None), planes, *inside[1:])], first - inside[0].start)
        for kept in (*self._sums, self._weights):  # channel by channel, to need little memory
            kept[: depth - ready] = kept[ready:].clone()
            kept[depth - ready :] = 0
        self._start += ready


class SlabInferer(Inferer):  # type: ignore[misc]
    """An inferer that puts off large predictions, so that they are made in slabs.

    Args:
        inferer: the bundle's; any but MONAI's sliding windows, and subclasses that call them as they do, is left as it
            is.
        n_classes: channels of the prediction, to tell how large it is.
        always: also for small volumes.
        output: which output is the prediction, as :func:`~monai_mia.signals.outputs.select_prediction` takes it.

    Its call gives a list of one :class:`SlabPrediction`, which :class:`~monai_mia.handlers.SignalRecorder` reads, or
    the prediction.
    """

    def __init__(self, inferer: Inferer, n_classes: int, always: bool = False, output: str | int | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.n_classes = n_classes
        self.always = always
        self.output = output
        # Whoever overrides the call may do more with a prediction than to stitch it.
        calls = [kind.__call__ for kind in (SlidingWindowInferer, SlidingWindowInfererAdapt, SliceInferer)]
        self._slides = type(inferer).__call__ in calls

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        size = inputs[0, 0].numel() * self.n_classes * inputs.element_size()
        if self._slides and len(inputs) == 1 and (self.always or size > LARGE):
            return [SlabPrediction(inputs, network, self.inferer, self.output)]
        return one_output(self.inferer, self.output)(inputs, network, *args, **kwargs)
