# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""A number with its interval: how it prints, what it becomes in JSON; and the bootstrap that gives it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, Resampling, auc_interval, clopper_pearson, percentiles, weights_by_group

AUC = Estimate(0.812, 0.76, 0.861)


class TestEstimate:
    """Known texts and known JSON."""

    def test_prints_itself(self) -> None:
        assert str(AUC) == f"{AUC}" == "0.812 [0.760, 0.861]"
        assert f"{AUC:.1f}" == "0.8 [0.8, 0.9]"
        assert f"{AUC:.0%}" == "81% [76%, 86%]"
        assert f"{Estimate(0.01, -0.02, 0.04):+.3f}" == "+0.010 [-0.020, +0.040]"
        assert f"{Estimate(math.nan, math.nan, math.nan):.2f}" == "nan [nan, nan]"

    def test_json_has_two_forms_and_both_are_read_back(self) -> None:
        assert AUC.as_json() == {"value": 0.812, "ci": [0.76, 0.861]}
        assert AUC.named("auc") == {"auc": 0.812, "auc_ci": [0.76, 0.861]}
        assert Estimate.of_json(json.loads(json.dumps(AUC.as_json()))) == AUC
        assert Estimate.of_json({**AUC.named("auc"), "other": 1}, "auc") == AUC
        assert Estimate.of_json({"auc": 0.8, "wide": [0, 1]}, "auc", "wide") == Estimate(0.8, 0.0, 1.0)

    def test_minus_it_turns_the_interval(self) -> None:
        assert Estimate(-0.812, -0.861, -0.76) == -AUC
        turned = -AUC
        assert -turned == AUC

    def test_it_only_gets_wider(self) -> None:
        assert AUC.wider((0.7, 0.8)) == Estimate(0.812, 0.7, 0.861)
        assert AUC.wider((0.8, 0.9)) == Estimate(0.812, 0.76, 0.9)
        assert AUC.wider((0.8, 0.82)) == AUC

    def test_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            AUC.value = 1.0  # type: ignore[misc]


class TestResampling:
    """Quantiles, exact intervals, draws."""

    def test_the_interval_is_of_percentiles(self) -> None:
        samples = np.random.default_rng(0).normal(size=999)
        found = Resampling(confidence=0.8).estimate(0.25, samples)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(samples, [0.1, 0.9])))
        assert found.value == 0.25
        assert Resampling(0.8).interval(samples) == percentiles(samples, 0.8) == found.ci

    def test_undefined_resamples_do_not_count(self) -> None:
        found = Resampling(0.9).estimate(1.0, np.array([1.0, math.nan, 1.0]))
        assert found.ci == (1.0, 1.0)
        assert np.isnan(Resampling().interval(np.full(3, math.nan))).all()

    @pytest.mark.parametrize(("value", "n"), [(0.0, 20), (1.0, 20), (0.5, 20)])
    def test_a_share_is_never_narrower_than_clopper_and_pearson(self, value: float, n: int) -> None:
        exact = stats.binomtest(round(value * n), n).proportion_ci(0.95, "exact")
        found = Resampling().proportion(value, np.full(10, value), n)
        assert found.ci == pytest.approx((exact.low, exact.high))
        assert found.ci == clopper_pearson(round(value * n), n)
        wide = Resampling().proportion(value, np.array([0.0, 1.0]), n)
        assert wide.low < found.low or found.low == 0
        assert wide.high > found.high or found.high == 1

    def test_an_auc_is_never_narrower_than_newcombes(self) -> None:
        found = Resampling(0.9).auc(1.0, np.ones(10), 15, 25)
        assert found.ci == auc_interval(1.0, 15, 25, 0.9)
        assert found.low < 1

    def test_weights_draw_patients_on_each_side(self) -> None:
        member, groups = np.array([True, True, False, False, False]), ["a", "a", "b", "c", "c"]
        weights = Resampling(n_resamples=50, seed=3).weights(member, groups)
        np.testing.assert_array_equal(weights, weights_by_group(member, groups, 50, 3))
        np.testing.assert_array_equal(weights[:, 0], 1)  # the only member
        np.testing.assert_array_equal(weights[:, 3], weights[:, 4])  # of one patient
        np.testing.assert_array_equal(weights[:, 2] + weights[:, 3], 2)

    def test_counts_and_draws_are_of_n(self) -> None:
        rng = np.random.default_rng(0)
        counts = Resampling(n_resamples=2000).counts(rng, 4)
        assert counts.shape == (2000, 4)
        assert (counts.sum(axis=1) == 4).all()
        assert counts.mean(axis=0) == pytest.approx(np.ones(4), abs=0.1)
        drawn = Resampling(n_resamples=2000).drawn(rng, 4)
        assert drawn.shape == (2000, 4)
        assert np.bincount(drawn.ravel()) / 8000 == pytest.approx(np.full(4, 0.25), abs=0.03)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
    def test_refused(self, confidence: float) -> None:
        with pytest.raises(InputError, match=rf"confidence must be in \(0, 1\), got {confidence}"):
            Resampling(confidence)
        with pytest.raises(InputError, match="n_resamples must be at least 1, got 0"):
            Resampling(n_resamples=0)
