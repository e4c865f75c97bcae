# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Copies and collapsed generators are found; scans of other patients are neither."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_mia.audit.novelty import check_generator, check_variety, scan_features
from monai_mia.data.phantoms import phantom
from monai_mia.errors import InputError

Array = NDArray[np.float64]
Scan = tuple[NDArray[np.float64], NDArray[np.uint8]]


def scans(patients: range) -> list[Scan]:
    return [phantom(20, 0, patient) for patient in patients]


def features(found: list[Scan]) -> Array:
    return np.stack([scan_features(image, label) for image, label in found])


TRAINING, UNSEEN, GENERATED = scans(range(24)), scans(range(100, 124)), scans(range(200, 212))
NAMES = [f"patient {n}" for n in range(24)]


class TestCopies:
    def test_scans_of_other_patients_are_none(self) -> None:
        """Null: what is drawn from the same people as the training, but is not of it, is new and varied."""
        found = check_generator(features(GENERATED), features(TRAINING), NAMES, features(UNSEEN))
        assert not found.copy.any()
        assert found.from_held_out
        assert 0.7 < np.median(found.closeness) < 1.3
        assert 0.7 < found.variety.diversity < 1.3
        assert not found.variety.collapsed
        copies = found.share_of_copies()
        assert copies.value == copies.low == 0
        assert copies.high == pytest.approx(1 - 0.025 ** (1 / 12))

    @pytest.mark.parametrize("flip", [(), (0,), (1, 2), (0, 1, 2)])
    @pytest.mark.parametrize("noise", [0.0, 0.3])
    def test_copies_are_found(self, flip: tuple[int, ...], noise: float) -> None:
        """Mirrored, of another scale of intensities, and with noise of a third of the image's deviation."""
        rng = np.random.default_rng(0)
        taken = [3, 11, 17]
        copies = []
        for n in taken:
            image, label = (np.flip(part, flip) for part in TRAINING[n])
            copies.append((50 + 0.1 * (image + noise * image.std() * rng.standard_normal(image.shape)), label))
        found = check_generator(features([*GENERATED, *copies]), features(TRAINING), NAMES, features(UNSEEN))
        assert np.flatnonzero(found.copy).tolist() == [12, 13, 14]
        assert found.index[12:].tolist() == taken
        if not noise:
            assert found.distance[12:] == pytest.approx(0, abs=1e-6)

    def test_the_mean_scan_is_no_copy(self) -> None:
        """It is close to all training scans, but to none in particular."""
        blurred = [
            (np.mean([TRAINING[k][0] / TRAINING[k][0].std() for k in part], axis=0), TRAINING[part[0]][1] * 0 + 1)
            for part in (range(12), range(12, 24))
        ]
        assert not check_generator(features(blurred), features(TRAINING), NAMES, features(UNSEEN)).copy.any()

    def test_without_unseen_patients_training_scans_are_compared(self) -> None:
        """Two visits of a patient are no measure of how far people are apart."""
        twice = [*TRAINING, *TRAINING]
        found = check_generator(features(GENERATED), features(twice), [*NAMES, *NAMES])
        assert not found.from_held_out
        assert not found.copy.any()
        assert found.reference.min() > 0.1
        alone = check_generator(features(GENERATED), features(TRAINING), NAMES)
        assert found.reference[:24] == pytest.approx(alone.reference, abs=1e-6)


class TestVariety:
    def test_collapse_is_found(self) -> None:
        rng = np.random.default_rng(1)
        image, label = GENERATED[0]
        same = [(image + 0.05 * image.std() * rng.standard_normal(image.shape), label) for _ in range(6)]
        found = check_variety(features(same), features(TRAINING), NAMES)
        assert found.collapsed
        assert found.diversity < 0.1

    def test_two_modes_are_a_collapse(self) -> None:
        """Half of the pairs differ as people do, but each scan has its twins."""
        rng = np.random.default_rng(2)
        two = [
            (image + 0.05 * image.std() * rng.standard_normal(image.shape), label) for image, label in GENERATED[:2] * 4
        ]
        found = check_variety(features(two), features(TRAINING), NAMES)
        assert found.collapsed
        assert found.nearest < 0.1 < 0.5 < found.diversity

    def test_constant_images_are_all_the_same(self) -> None:
        flat = [(np.full((20, 20, 20), float(n)), np.ones((20, 20, 20))) for n in range(3)]
        assert check_variety(features(flat), features(TRAINING), NAMES).diversity == pytest.approx(0, abs=1e-9)


class TestFeatures:
    def test_scale_free_and_of_unit_variance(self) -> None:
        image, label = TRAINING[0]
        found = scan_features(image, label)
        assert found.shape == (2, 16, 16, 16)
        assert found[0].mean() == pytest.approx(0, abs=1e-9)
        assert found[0].std() == pytest.approx(1)
        assert scan_features(3 * image - 70, 2 * label) == pytest.approx(found)
        assert found[1].mean() == pytest.approx((label > 0).mean(), abs=0.02)

    def test_slices(self) -> None:
        image, label = TRAINING[0]
        assert scan_features(image[..., 8], label[..., 8], edge=8).shape == (2, 8, 8)

    def test_bad_input(self) -> None:
        image, label = TRAINING[0]
        with pytest.raises(InputError, match="must have the same shape"):
            scan_features(image, label[1:])
        with pytest.raises(InputError, match="image must be finite"):
            scan_features(np.where(label, np.nan, image), label)
        with pytest.raises(InputError, match="scans must be at least 2"):
            check_variety(features(GENERATED[:1]), features(TRAINING), NAMES)
        with pytest.raises(InputError, match="at least 2 patients"):
            check_variety(features(GENERATED), features(TRAINING), ["one"] * 24)
        with pytest.raises(InputError, match="must differ between patients"):
            check_variety(features(GENERATED), features([TRAINING[0]] * 3), ["a", "b", "c"])
