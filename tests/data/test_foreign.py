# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Foreign sources: image and reference stay together, files are made once, and what cannot be used is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flipd, Lambdad, ScaleIntensityd

from monai_mia.data import ForeignSource, PermutePatchesd, PureNoised, standard_sources
from monai_mia.errors import InputError

Cohort = list[dict[str, Any]]


def volumes(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return nib.load(case["image"]).get_fdata(), nib.load(case["label"]).get_fdata()


class TestPermutePatches:
    @pytest.mark.parametrize("shape", [(7, 6, 9), (8, 5)])
    @pytest.mark.parametrize("size", [1, 3])
    def test_image_and_reference_move_together(self, shape: tuple[int, ...], size: int) -> None:
        """The same values as before, each beside its own label, in another order; the rest stays."""
        image = torch.arange(float(np.prod(shape))).reshape(1, *shape)
        transform = PermutePatchesd(["image", "label"], patch_size=size)
        transform.set_random_state(0)
        before = image.clone()
        found = transform({"image": image, "label": image * 2})
        torch.testing.assert_close(found["label"], found["image"] * 2)
        assert sorted(found["image"].flatten().tolist()) == image.flatten().tolist()
        assert not torch.equal(found["image"], image)
        torch.testing.assert_close(image, before)
        rest = tuple(slice(edge // size * size, None) for edge in shape)
        torch.testing.assert_close(found["image"][0][rest], image[0][rest])

    def test_blocks_stay_whole(self) -> None:
        """With blocks of 2 on 4 x 4, each block is one of the four."""
        image = torch.arange(16.0).reshape(1, 4, 4)
        transform = PermutePatchesd("image", patch_size=2)
        transform.set_random_state(1)
        found = transform({"image": image})["image"]

        def blocks(volume: torch.Tensor) -> set[tuple[float, ...]]:
            return {tuple(volume[0, y : y + 2, x : x + 2].flatten().tolist()) for y in (0, 2) for x in (0, 2)}

        assert blocks(found) == blocks(image)

    def test_bad_options(self) -> None:
        with pytest.raises(InputError, match="patch_size must be at least 1 voxel, got 0"):
            PermutePatchesd("image", patch_size=0)
        with pytest.raises(InputError, match=r"patch_size must fit into \(4, 4\), got 5"):
            PermutePatchesd("image", patch_size=5)({"image": torch.zeros(1, 4, 4)})


def test_pure_noise_has_the_images_moments_and_nothing_else() -> None:
    image = MetaTensor(torch.randn(1, 40, 40, 40).cumsum(1) * 3 + 100)
    transform = PureNoised("image")
    transform.set_random_state(0)
    found = transform({"image": image})["image"]
    assert float(found.mean()) == pytest.approx(float(image.mean()), abs=5 * float(image.std()) / 40**1.5)
    assert float(found.std()) == pytest.approx(float(image.std()), rel=0.02)
    correlation = np.corrcoef(found.flatten(), image.flatten())[0, 1]
    assert abs(correlation) < 5 / 40**1.5


class TestSource:
    def test_the_battery(self, cohort: Cohort, tmp_path: Path) -> None:
        """Each changes the image or what the network is given, keeps all classes, and draws for each scan anew."""
        for source in standard_sources():
            cases = source.cases(cohort[:3], tmp_path / source.folder, 0)
            assert [case["patient_id"] for case in cases] == [case["patient_id"] for case in cohort[:3]]
            assert len({case["case_id"] for case in cases} | {case["case_id"] for case in cohort}) == 3 + len(cohort)
            same = source.name == "held out" or source.at_input or source.without
            for case, original in zip(cases, cohort[:3], strict=True):
                image, label = volumes(case)
                before, reference = volumes(original)
                assert np.array_equal(image, before) == bool(same), source.name
                assert set(np.unique(label)) == set(np.unique(reference))
                assert np.isfinite(image).all()
        names = [source.name for source in standard_sources(2, {"elsewhere": cohort, "nothing": None})]
        assert "mirrored, axis 1" in names
        assert "mirrored, axis 2" not in names
        assert names[-1] == "elsewhere"

    def test_files_are_made_once_and_the_same_each_time(self, cohort: Cohort, tmp_path: Path) -> None:
        source = next(item for item in standard_sources() if item.name == "bias field")
        first = source.cases(cohort[:2], tmp_path / "a", 0)
        again = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nii.gz"))]
        source.cases(cohort[:2], tmp_path / "a", 0)
        assert again == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nii.gz"))]
        second = source.cases(cohort[:2], tmp_path / "b", 0)
        other = source.cases(cohort[:2], tmp_path / "c", 1)
        assert Path(first[0]["image"]).read_bytes() == Path(second[0]["image"]).read_bytes()
        assert Path(first[0]["image"]).read_bytes() != Path(other[0]["image"]).read_bytes()
        fields = [volumes(case)[0] / volumes(original)[0] for case, original in zip(first, cohort, strict=False)]
        assert not np.allclose(*fields)

    def test_a_cohort_from_elsewhere(self, cohort: Cohort, tmp_path: Path) -> None:
        cases = ForeignSource("other", cohort=lambda: cohort[3:5]).cases(cohort[:3], tmp_path, 0)
        assert [case["image"] for case in cases] == [case["image"] for case in cohort[3:5]]
        assert not list(tmp_path.iterdir())

    def test_bad_input(self, cohort: Cohort, tmp_path: Path) -> None:
        gone = ForeignSource("cut", [partial(ScaleIntensityd, "label", minv=0.0, maxv=1.0)])
        with pytest.raises(InputError, match=r"source 'cut' must leave voxels .* none of class 2 in 2 of 2"):
            gone.cases(cohort[:2], tmp_path / "cut", 0)
        assert not (tmp_path / "cut/source.csv").exists()
        with pytest.raises(InputError, match=r"source 'held out' must have cases, got none\. Hold patients out"):
            ForeignSource("held out").cases([], tmp_path, 0)
        with pytest.raises(InputError, match="name of a foreign source must have a letter"):
            ForeignSource("  ")
        for bad in (Flipd("image"), partial(Lambdad, keys="image", func=lambda x: x)):
            with pytest.raises(InputError, match="must be functions that make one and can be told apart"):
                ForeignSource("x", [bad])  # an object of an unknown state, and a function without a name
