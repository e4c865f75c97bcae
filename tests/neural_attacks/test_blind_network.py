# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The blind network: finds what statistics miss, never meets a patient twice, and says when it cannot."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import small_study
from scipy.ndimage import gaussian_filter

from monai_mia.attacks import GlobalLoss
from monai_mia.audit.audit import Audit
from monai_mia.audit.disclosure import Disclosure
from monai_mia.errors import InputError
from monai_mia.neural_attacks import BlindNetwork
from monai_mia.statistics import Resampling
from monai_mia.statistics.roc import roc

QUICK = {"size": 8, "epochs": 6, "folds": 2, "batch_size": 8}


def images(folder, arrays, groups=None):
    """One case an array."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for n, array in enumerate(arrays):
        path = folder / f"{n:03d}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), path)
        patient = f"{n:03d}" if groups is None else groups[n]
        cases.append({"case_id": f"case_{n:03d}", "patient_id": patient, "image": str(path)})
    return cases


def noise(n, seed=0, axes=3):
    return np.random.default_rng(seed).normal(size=(n, *[10] * axes))


def sides(n, seed=0):
    return np.random.default_rng([seed, 1]).permutation(n) < n // 2


@pytest.mark.parametrize("axes", [2, 3])
def test_it_sees_where_things_are(tmp_path, axes):
    """A bright half, up or down: the same histogram, which no statistic of intensities tells apart."""
    arrays, member = noise(40, axes=axes), sides(40)
    half = np.where(np.arange(10) < 5, 1.0, -1.0).reshape(10, *[1] * (axes - 1))
    arrays += 1.5 * np.where(member.reshape(-1, *[1] * axes), half, -half)
    found = BlindNetwork(**QUICK, flips=False)(images(tmp_path, arrays), member)
    assert roc(found.scores, member).auc > 0.9
    assert found.p_value(member, [f"{n:03d}" for n in range(40)], 499, 0) < 0.05


def test_it_sees_brightness_and_contrast(tmp_path):
    member = sides(40)
    arrays = 100 + 20 * np.stack([gaussian_filter(array, 1) for array in noise(40)])
    arrays[member] *= 1.2
    found = BlindNetwork(**QUICK)(images(tmp_path, arrays), member)
    assert roc(found.scores, member).auc > 0.9


def test_alike_images_are_not_told_apart(tmp_path):
    """Mean within-fold AUC of four draws; one has a deviation of about .1."""
    cases = images(tmp_path, noise(40))
    found = []
    for seed in range(4):
        scored = BlindNetwork(**{**QUICK, "epochs": 2}, seed=seed)(cases, sides(40, seed))
        for fold in range(2):
            part = scored.folds == fold
            found.append(float(roc(scored.scores[part], sides(40, seed)[part]).auc))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.14 / np.sqrt(8))


def test_a_patient_is_never_on_both_sides_of_a_fold(tmp_path):
    """Four cases a patient: all in one fold, and dealt memberships keep them together."""
    arrays = np.repeat(noise(10), 4, axis=0)
    groups = [f"{n // 4:03d}" for n in range(40)]
    member = np.repeat(sides(10), 4)
    network = BlindNetwork(**{**QUICK, "epochs": 1}, retrainings=20)
    found = network(images(tmp_path, arrays, groups), member)
    for per_case in (found.folds, *found.dealt):
        assert len(set(zip(groups, per_case.tolist(), strict=True))) == 10
    assert found.dealt.shape == found.dealt_scores.shape == (20, 40)
    assert (found.dealt.sum(axis=1) == member.sum()).all()
    assert 1 / 21 <= found.p_value(member, groups, 9, 0) <= 1


def test_the_same_seed_gives_the_same_scores_and_a_file_saves_the_work(tmp_path, monkeypatch):
    cases, member = images(tmp_path / "images", noise(12)), sides(12)
    network = BlindNetwork(**{**QUICK, "epochs": 1})
    path = tmp_path / "private" / "blind.npz"
    first, again = network(cases, member, path), network(cases, member)
    np.testing.assert_array_equal(first.scores, again.scores)
    for fold in range(2):
        ranks = np.sort(first.scores[first.folds == fold])
        np.testing.assert_allclose(ranks, (np.arange(len(ranks)) + 0.5) / len(ranks))
    monkeypatch.setattr(BlindNetwork, "_images", lambda *_: pytest.fail("it was there"))
    kept = network(cases, member, path)
    np.testing.assert_array_equal(kept.scores, first.scores)
    assert kept.seconds == first.seconds
    for other in ({"member": ~member}, {"key": "another cohort"}):
        with pytest.raises(pytest.fail.Exception, match="it was there"):
            network(cases, **{"member": member, "path": path, **other})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"size": 4}, "size must be at least 8, got 4"),
        ({"retrainings": 19}, "retrainings must be 0 or at least 20, got 19"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        BlindNetwork(**options)


def test_cohorts_that_it_cannot_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="folds must be at most the number of patients, 3, got 5"):
        BlindNetwork()(images(tmp_path, noise(3)), sides(3))
    mixed = [*images(tmp_path / "a", noise(4)), *images(tmp_path / "b", noise(4, axes=2))]
    for n, case in enumerate(mixed):
        case["patient_id"] = str(n)
    with pytest.raises(InputError, match="images must have as many channels and axes as each other"):
        BlindNetwork(**QUICK)(mixed, sides(8))


def test_a_study_reports_it(cohort, tmp_path):
    """By the images of the audited cases, in the order of the table; its file is private, its row in the report."""
    audit = Audit([GlobalLoss()], resampling=Resampling(n_resamples=50), n_permutations=50, disclosure=Disclosure(1))
    study = small_study(cohort, tmp_path, audit=audit, shadows=2, blind_network=BlindNetwork(**{**QUICK, "epochs": 1}))
    result = study.run()
    assert result.blind_network is not None
    assert (tmp_path / "private" / "blind_network.npz").is_file()
    content = json.loads((tmp_path / "report" / "report.json").read_text())["controls"]
    assert content["blind_network"]["name"] == "blind network"
    assert content["permuted_membership"]["n_models"] == 1
    assert "quantile_0.5" in {shift["feature"] for shift in content["shifts"]}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "A small network that was trained on the images alone" in page
    assert "A model with other members" in page
