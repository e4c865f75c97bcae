# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Results show themselves: what they print, the frames that they become, the curves that they draw."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from oracles import game

from monai_mia.attacks import DifficultyCalibration, EverySignal, GlobalLoss, LiRA
from monai_mia.audit.audit import Audit
from monai_mia.audit.comparison import ComparisonResult, ComparisonRow
from monai_mia.audit.printing import WIDTH, text_table
from monai_mia.audit.results import AuditResult
from monai_mia.errors import InputError
from monai_mia.statistics import Estimate, Resampling


@pytest.fixture(scope="module")
def result() -> AuditResult:
    played = game(n=200, shadows=8, delta=1.5)
    audit = Audit(
        [GlobalLoss(), EverySignal(), DifficultyCalibration(), LiRA()],
        fprs=(0.1, 0.05, 0.02, 0.01, 0.001),
        resampling=Resampling(n_resamples=100),
        n_permutations=400,
    )
    return audit.run(played.table, features=np.random.default_rng(0).normal(size=(200, 3)))


@pytest.fixture
def compared() -> ComparisonResult:
    """Two rows, one of them without a rate that is resolved."""
    rates = {0.1: Estimate(0.5, 0.4, 0.6), 0.01: None}
    rows = (
        ComparisonRow("global loss", "probabilities+label", 0, Estimate(0.6, 0.5, 0.7), (0.6,), rates, None, 1.0),
        ComparisonRow("a long name of an attack " * 4, "white-box", 8, Estimate(0.9, 0.8, 1.0), (0.9,), rates, None, 2),
    )
    gains = {(rows[1].name, 8): {"auc": Estimate(0.3, 0.2, 0.4), "tpr_ratio": Estimate(2.0, 1.5, 2.5)}}
    return ComparisonResult(rows, 4, 80, 0.025, ("global loss", 0), np.ones((4, 80), bool), {}, {}, gains)


class TestPrint:
    """A terminal of 100 columns."""

    def test_an_audit_fits_and_tells_the_best_and_the_verdict(self, result: AuditResult) -> None:
        text = str(result)
        lines = text.splitlines()
        assert max(map(len, lines)) <= WIDTH
        assert lines[1].split() == [
            "attack",
            "AUC",
            "[95%",
            "interval]",
            "TPR@0.1",
            "TPR@0.05",
            "TPR@0.02",
            "TPR@0.01",
            "epsilon",
            ">=",
        ]
        best = result.best
        assert lines[3].startswith(best.name[:16])
        assert str(best.auc) in lines[3]
        assert f"{best.tpr_at_fpr[0.1].value:.3f}" in lines[3]  # type: ignore[union-attr]
        assert f"Verdict: {result.verdict.level.upper()}" in lines
        assert f"Recommendation about a release: {result.verdict.recommendation}" in lines
        assert "blind baseline" in text
        assert " ".join(result.verdict.reasons[0].split()) in " ".join(text.split())

    def test_few_rows_but_always_the_global_loss(self, result: AuditResult) -> None:
        text = result.text(n_rows=1)
        assert "global loss" in text
        assert f"... and {len(result.attacks) - 2} more attacks." in text

    def test_an_account_is_told(self, result: AuditResult) -> None:
        assert "accounted epsilon: at most 8.00 at delta 1e-05 (patients)" in result.text(
            privacy={"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "secure_noise": True}
        )
        assert "accounted epsilon: no bound" in result.text(
            privacy={"epsilon": None, "delta": 0.1, "unit": "patient", "secure_noise": True}
        )

    def test_an_attack(self, result: AuditResult) -> None:
        lines = str(result.best).splitlines()
        assert lines[0].startswith(f"{result.best.name} (access: ")
        assert lines[1].split() == ["AUC", *f"{result.best.auc}, p {result.best.p_value:.3f}".split()]
        assert any("0.1\N{NO-BREAK SPACE}% FPR" in line and "below resolution" in line for line in lines)
        assert max(map(len, lines)) <= WIDTH

    def test_a_comparison(self, compared: ComparisonResult) -> None:
        lines = str(compared).splitlines()
        assert lines[0].split() == ["attack", "shadows", "AUC", "TPR@0.1"]
        assert lines[2].split() == ["global", "loss", "0", "0.600", "[0.500,", "0.700]", "0.500"]
        assert "…" in lines[3]
        assert max(map(len, lines)) <= WIDTH
        assert lines[-1].startswith("4 targets, 80 patients; rates below 2.5")

    def test_a_table_keeps_something_of_a_name(self) -> None:
        lines = text_table(["attack", "a", "b"], [["x" * 60, "1" * 50, "2" * 50]])
        assert lines[2].startswith("x" * 15 + "…  1")


class TestFrame:
    """One row an attack."""

    def test_without_pandas(self, result: AuditResult, compared: ComparisonResult, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        for shown in (result, result.best, compared):
            with pytest.raises(
                InputError, match=r"pandas must be installed for to_frame, got none\. Run: pip install pandas"
            ):
                shown.to_frame()

    def test_an_audit(self, result: AuditResult) -> None:
        pytest.importorskip("pandas")
        frame = result.to_frame()
        assert list(frame["attack"]) == [*(attack.name for attack in result.attacks), "blind baseline"]
        row = frame.iloc[0]
        assert (row["auc"], row["auc low"], row["auc high"]) == (result.best.auc.value, *result.best.auc.ci)
        assert row["tpr@0.1"] == result.best.tpr_at_fpr[0.1].value  # type: ignore[union-attr]
        assert frame["tpr@0.001"].isna().all()
        assert row["epsilon_lower_bound"] == result.best.epsilon_lower_bound.value  # type: ignore[union-attr]

    def test_an_attacks_roc(self, result: AuditResult) -> None:
        pytest.importorskip("pandas")
        frame = result.best.to_frame()
        assert list(frame.columns) == ["fpr", "tpr"]
        assert np.trapezoid(frame["tpr"], frame["fpr"]) == pytest.approx(result.best.auc.value)

    def test_a_comparison(self, compared: ComparisonResult) -> None:
        pytest.importorskip("pandas")
        frame = compared.to_frame()
        assert list(frame["n_shadow"]) == [0, 8]
        assert frame["gain_auc"].isna()[0]
        assert (frame["gain_auc"][1], frame["gain_tpr_ratio high"][1]) == (0.3, 2.5)
        assert frame["tpr@0.01"].isna().all()


class TestRoc:
    """The curves of the report, on any axes."""

    def test_a_figure_of_its_own(self, result: AuditResult, tmp_path: Path) -> None:
        axes = result.plot_roc()
        labels = [curve.label for curve in result.curves()]
        assert labels[0] == f"best attack: {result.best.name}"
        assert labels[-1] == "blind baseline: the images alone"
        (legend,) = axes.figure.legends
        words = [" ".join(text.get_text().split()) for text in legend.get_texts()]
        assert words[0] == f"AUC {result.best.auc.value:.3f} · {labels[0]}"
        assert words[-1] == "AUC 0.500 · chance"
        assert axes.get_xlim()[0] == pytest.approx(1 / 200)  # half of the resolution
        assert axes.get_xscale() == axes.get_yscale() == "log"
        axes.figure.savefig(tmp_path / "roc.png")
        assert (tmp_path / "roc.png").stat().st_size > 1000

    def test_given_axes_and_no_other(self, result: AuditResult) -> None:
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert result.plot_roc(left) is left
        assert not figure.legends
        assert left.get_legend() is not None
        assert not right.lines

    def test_the_curve_is_the_roc(self, result: AuditResult) -> None:
        axes = result.best.plot_roc()
        (line,) = [line for line in axes.lines if str(line.get_label()).startswith(f"AUC {result.best.auc.value:.3f}")]
        x, y = line.get_data()
        for fpr, rate in result.best.tpr_at_fpr.items():
            if rate is not None:
                at = np.searchsorted(x, fpr + 1e-9, side="right") - 1
                assert y[at] == pytest.approx(max(rate.value, y[at] if rate.value == 0 else 0))
