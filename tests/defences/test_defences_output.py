# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Output defences: what each promises, as properties of random predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HIPPOCAMPUS, PHANTOM, SLICES, small_study
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.layers import GaussianFilter
from monai.networks.nets import UNet
from monai.transforms import Activations, Compose
from overlays import BOTH, CASES, KEPT, OVERLAYS
from torch import nn

from monai_mia import defences
from monai_mia.defences import inferer as inferers
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.signals.perturbations import Flip, PerturbedQueries
from monai_mia.signals.release import boundary_distance


def predictions(activation: str, scale: float = 3.0) -> list[torch.Tensor]:
    """2D and 3D, few and many classes; some voxels saturated, some tied."""
    rng = torch.Generator().manual_seed(0)
    channels = (2, 4, 11) if activation == "softmax" else (1, 3)
    made = [scale * torch.randn(c, *size, generator=rng) for c in channels for size in ((33, 21), (9, 8, 7))]
    for z in made:
        z[:, 0] *= 30
        z[:, 1] = z[:, 1].round()
    return made


def states(p: torch.Tensor, activation: str) -> torch.Tensor:
    return p.argmax(0) if activation == "softmax" else p >= 0.5


@pytest.mark.parametrize(("name", "options", "activation"), CASES)
def test_probabilities_stay_valid_and_argmax_where_promised(name: str, options: Any, activation: Any) -> None:
    activate = Activations(softmax=activation == "softmax", sigmoid=activation == "sigmoid")
    for z in predictions(activation):
        p = activate(z)
        for kind, given in (("logits", z), ("probabilities", p)):
            before = given.clone()
            defence = getattr(defences, name)(**options, release=kind, activation=activation)
            q = defence(given, z)
            assert torch.equal(given, before)  # the prediction itself is left alone
            assert q.shape == z.shape
            assert q.dtype == torch.float32
            assert q.min() >= 0
            assert q.max() <= 1
            if activation == "softmax":
                assert (q.double().sum(0) - 1).abs().max() < 1e-6
            if (name, options) in KEPT:
                assert torch.equal(states(q, activation), states(p, activation))
            assert torch.equal(q, defence(given, z))
            logits = getattr(defences, name)(**options, release=kind, activation=activation, output="logits")(given, z)
            assert (activate(logits) - q).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "options", "activation"), CASES)
def test_dictionary_form_meta_and_half(name: str, options: Any, activation: Any) -> None:
    z = predictions(activation)[3]
    image = torch.randn(1, *z.shape[1:])
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    meta = MetaTensor(z.half(), affine=affine, meta={"filename_or_obj": "case"})
    expected = getattr(defences, name)(**options, activation=activation)(z.half().float(), image)
    item = {"pred": meta, "image": image}
    for end in ("d", "D", "Dict"):
        result = getattr(defences, name + end)("pred", activation=activation, **options)(item)["pred"]
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.affine, affine)
        assert result.meta["filename_or_obj"] == "case"
        assert torch.equal(result.as_tensor(), expected)
        assert item["pred"] is meta


def test_hard_mask_is_what_the_mask_release_wants() -> None:
    z = predictions("softmax")[3]
    assert torch.equal(defences.HardMask()(z)[0], z.argmax(0).float())
    # In the published code the logit of a one-channel network is rounded: 0.4 is then background, and 7 stays 7.
    logit = torch.tensor([[[-0.4, 0.4, 7.0]]])
    assert defences.HardMask(activation="sigmoid")(logit).tolist() == [[[0, 1, 1]]]


def test_rounding_moves_little_and_onto_the_grid() -> None:
    for z in predictions("softmax", 1.0):
        q = defences.RoundProbabilities(2)(z)
        assert (q * 100 - (q * 100).round()).abs().max() < 1e-4
        assert (q - z.softmax(0)).abs().max() < 0.02
    for values in ([0.33, 0.34, 0.33], [0.449, 0.451, 0.1]):  # the second ties when it is rounded
        q = defences.RoundProbabilities(1, release="probabilities")(torch.tensor(values).reshape(3, 1, 1))
        assert q.flatten().argmax() == 1
    p = torch.tensor([0.46, 0.54, 0.5, 0.11]).reshape(1, 2, 2)
    q = defences.RoundProbabilities(1, release="probabilities", activation="sigmoid")(p)
    assert q.flatten().tolist() == pytest.approx([0.4, 0.6, 0.6, 0.1])


def test_known_answers() -> None:
    p = torch.tensor([0.6, 0.3, 0.1]).reshape(3, 1, 1)
    assert defences.TopClasses(2, release="probabilities")(p).flatten().tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    clip = defences.ClipConfidence(0.52, release="probabilities")
    assert clip(p).flatten().tolist() == pytest.approx([0.52, 0.36, 0.12])
    sure = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1)
    assert clip(sure).flatten().tolist() == pytest.approx([0.24, 0.52, 0.24])
    warm = defences.Temperature(2.0)(torch.tensor([2.0, 0.0]).reshape(2, 1, 1))
    assert warm[0].item() == pytest.approx(torch.tensor(1.0).sigmoid().item())


@pytest.mark.parametrize("activation", BOTH)
@pytest.mark.parametrize("scale", [3.0, 1.0, 0.5])
def test_fitted_temperature(activation: Any, scale: float) -> None:
    """Labels drawn from the logits' own probabilities: logits times 3 need T = 3, calibrated ones T = 1."""
    rng = torch.Generator().manual_seed(1)
    z = [2 * torch.randn(3, 60, 60, generator=rng) for _ in range(6)]
    if activation == "softmax":
        labels = [torch.multinomial(a.softmax(0).flatten(1).T, 1, generator=rng).T.reshape(1, 60, 60) for a in z]
    else:
        labels = [torch.bernoulli(a.sigmoid(), generator=rng) for a in z]
    fitted = defences.Temperature.fit([scale * a for a in z], labels, activation)
    assert fitted.temperature == pytest.approx(scale, rel=0.03)


def test_no_temperature_fits_a_network_that_is_always_right() -> None:
    z = torch.randn(3, 8, 8)
    with pytest.raises(InputError, match="held-out"):
        defences.Temperature.fit([z], [z.argmax(0)[None]])
    with pytest.raises(InputError, match="at least one held-out case"):
        defences.Temperature.fit([], [])


@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_noise_is_fixed_per_case(on: Any) -> None:
    """Asked twice it answers once, so nothing averages away; other cases and other keys have independent noise."""
    rng = torch.Generator().manual_seed(2)
    z, image = 0.1 * torch.randn(2, 40, 40, generator=rng), torch.randn(1, 40, 40, generator=rng)
    noise = defences.GaussianNoise(0.1, "secret", on)
    truth, answer = z.softmax(0), noise(z, image)
    assert all(torch.equal(answer, defences.GaussianNoise(0.1, "secret", on)(z, image)) for _ in range(8))
    first = (answer - truth)[0].flatten()
    for other in (noise(z, image + 1), defences.GaussianNoise(0.1, "other", on)(z, image)):
        second = (other - truth)[0].flatten()
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1  # 4 standard errors
    assert torch.equal(noise(z), noise(z))  # without an image the prediction fixes it
    assert not torch.equal(noise(z), answer)


def test_noise_averages_away_over_changed_images() -> None:
    """Sharp edge: an adversary who changes the image a little gets new noise, and 64 answers have an eighth of it."""
    rng = torch.Generator().manual_seed(3)
    z, image = 0.1 * torch.randn(2, 40, 40, generator=rng), torch.randn(1, 40, 40, generator=rng)
    noise, truth = defences.GaussianNoise(0.05, "secret"), z.softmax(0)
    once = (noise(z, image) - truth).std().item()
    changed = torch.stack([noise(z, image + 1e-4 * n) for n in range(64)]).mean(0)
    assert (changed - truth).std().item() == pytest.approx(once / 8, rel=0.15)
    same = torch.stack([noise(z, image) for _ in range(64)]).mean(0)
    assert (same - truth).std().item() == pytest.approx(once, rel=1e-4)


def test_noise_has_its_sigma_and_null() -> None:
    z = torch.zeros(2, 1, 100, 1000)
    q = defences.GaussianNoise(0.3, "k", "logits", output="logits")(z, z[:1])
    assert (q[0] - q[1]).std().item() == pytest.approx(0.3 * 2**0.5, rel=0.01)
    assert (q[0] - q[1]).mean().abs() < 0.01
    assert torch.allclose(defences.GaussianNoise(0.0, "k")(z), z.softmax(0))


def test_smoothing_stays_in_its_band() -> None:
    z = torch.full((2, 24, 24), -4.0)
    z[1, :, 12:] = 4
    z[0, :, :12] = 4
    p, q = z.softmax(0), defences.SmoothBoundary(1.0, band=2)(z)
    moved = (p - q).abs().amax((0, 1)) > 1e-4
    assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13]
    assert (q[:, 0] - q[:, 12]).abs().max() < 1e-6  # the edge of the volume smears nothing
    flat = torch.ones(2, 24, 24) * torch.tensor([3.0, 0]).reshape(2, 1, 1)
    assert torch.equal(defences.SmoothBoundary()(flat), flat.softmax(0))


@pytest.mark.parametrize("activation", BOTH)
@pytest.mark.parametrize(
    ("size", "sigma", "band"),  # more planes than are smoothed at once, axes shorter than the kernel, and of one voxel
    [((70, 41), 1.0, 3), ((5, 6, 7), 2.5, 1), ((67, 9, 33), 0.6, 2), ((1, 40, 3), 1.5, 4), ((40, 8, 36), 12.0, 1)],
)
def test_smoothing_is_that_of_monai_divided_by_its_weight(activation, size, sigma, band) -> None:
    z = 2 * torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    z[:, (size[0] + 1) // 2 :] = torch.tensor([6.0, -5, -6]).reshape(3, *[1] * len(size))  # a part without boundaries
    before = z.clone()
    found = defences.SmoothBoundary(sigma, band, activation=activation)(MetaTensor(z))
    assert isinstance(found, MetaTensor)
    assert torch.equal(z, before)
    p = z.softmax(0) if activation == "softmax" else z.sigmoid()
    label = p.argmax(0, keepdim=True) if activation == "softmax" else (p >= 0.5).long()
    blur = GaussianFilter(len(size), sigma)
    smooth = torch.cat([blur(channel[None, None])[0] for channel in p]) / blur(torch.ones(1, 1, *size))[0]
    near = boundary_distance(label, band) > 0
    assert near.any()
    torch.testing.assert_close(found.as_tensor(), torch.where(near, smooth, p), rtol=1e-4, atol=1e-6)


class TwoHeads(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.cat([x, -x], 1), "features": x}


@pytest.mark.parametrize("activation", BOTH)
def test_defended_inferer(activation: Any) -> None:
    """Batches, item by item; the activation of what is returned are the defended probabilities."""
    net = UNet(2, 1, 3, channels=(4, 8), strides=(2,)).eval()
    images = torch.randn(2, 1, 40, 32)
    inferer = SlidingWindowInferer((32, 32))
    noise = defences.GaussianNoise(0.2, "k", activation=activation, output="logits")
    with torch.inference_mode():
        raw = inferer(images, net)
        defended = inferers.DefendedInferer(inferer, noise)(images, net)
        named = inferers.DefendedInferer("SlidingWindowInferer", noise, roi_size=(32, 32))(MetaTensor(images), net)
        plain = inferers.DefendedInferer(inferer, Activations(sigmoid=True))(images, net)
    assert torch.equal(defended, torch.stack([noise(z, x) for z, x in zip(raw, images, strict=True)]))
    assert torch.equal(torch.as_tensor(named), defended)
    assert torch.equal(plain, raw.sigmoid())


def test_outputs_of_a_network_with_several() -> None:
    x, mask = torch.randn(1, 1, 8, 8), defences.HardMask()
    result = inferers.DefendedInferer(SimpleInferer(), mask, output="out")(x, TwoHeads())
    assert torch.equal(result[0, 0], (x[0, 0] < 0).float())
    with pytest.raises(InputError, match="'out', 'features'"):
        inferers.DefendedInferer(SimpleInferer(), mask)(x, TwoHeads())
    with pytest.raises(InputError, match="Leave it out"):
        inferers.DefendedInferer(SimpleInferer(), mask, output="out")(x, nn.Conv2d(1, 2, 1))


def test_mc_dropout() -> None:
    """One answer a case, the mean of the passes; the network and the global generator are as before."""
    torch.manual_seed(0)
    net = UNet(2, 1, 2, channels=(4, 8), strides=(2,), dropout=0.3, norm="BATCH").train()
    modes = [module.training for module in net.modules()]
    x, made = torch.randn(1, 1, 16, 16), inferers.MCDropoutInferer("SimpleInferer", 3, "k")
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    state = torch.get_rng_state()
    with torch.no_grad():
        one, two, other = made(x, net), made(x, net), made(x + 0.01, net)
        few = inferers.MCDropoutInferer(SimpleInferer(), 3, "k", output="probabilities")(x, net)
        many, more = (
            inferers.MCDropoutInferer(SimpleInferer(), 200, key, output="probabilities")(x, net) for key in "kl"
        )
    assert torch.equal(one, two)
    assert (one - other).abs().max() > 0.05
    assert torch.allclose(one.softmax(1), few, atol=1e-6)
    assert (many - more).abs().mean() < (many - few).abs().mean() / 2  # passes average out
    assert modes == [module.training for module in net.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())
    with pytest.raises(InputError, match="dropout layers"):
        made(x, UNet(2, 1, 2, channels=(4, 8), strides=(2,)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: defences.GaussianNoise(0.1, None), "key must be a secret"),
        (lambda: defences.GaussianNoise(0.1, " "), "secrets.token_hex"),
        (lambda: defences.GaussianNoise(-0.1, "k"), "sigma must be at least 0"),
        (lambda: defences.GaussianNoise(0.1, "k", "masks"), "space must be"),  # type: ignore[arg-type]
        (lambda: inferers.MCDropoutInferer(SimpleInferer(), 2, ""), "key must be a secret"),
        (lambda: inferers.MCDropoutInferer(SimpleInferer(), 0, "k"), "passes must be"),
        (lambda: inferers.DefendedInferer(SimpleInferer(), defences.HardMask(), roi_size=3), "left out"),
        (lambda: defences.Temperature(0), "temperature must be above 0"),
        (lambda: defences.Temperature(float("nan")), "temperature must be above 0"),
        (lambda: defences.TopClasses(4, n_classes=3), "k must be an integer from 1 to the number of classes, 3"),
        (lambda: defences.TopClasses(4)(torch.zeros(3, 2, 2)), "number of classes, 3, got 4"),
        (lambda: defences.TopClasses(0), "k must be"),
        (lambda: defences.TopClasses(1, activation="sigmoid"), "must be softmax"),
        (lambda: defences.RoundProbabilities(6), "decimals must be"),
        (lambda: defences.RoundProbabilities(-1), "decimals must be"),
        (lambda: defences.ClipConfidence(0.5), "maximum must be above 0.5"),
        (lambda: defences.SmoothBoundary(0), "sigma must be above 0"),
        (lambda: defences.SmoothBoundary(1, 0), "band must be"),
        (lambda: defences.HardMask(activation="relu"), "activation must be"),  # type: ignore[arg-type]
        (lambda: defences.HardMask()(torch.zeros(1, 2, 2)), "activation: sigmoid"),
        (lambda: defences.Temperature(2, release="probabilities")(3 * torch.ones(2, 2, 2)), "must be probabilities"),
        (lambda: defences.GaussianNoised("pred", sigma=1, key="k")({"pred": torch.zeros(2, 2, 2)}), "image_key: null"),
    ],
)
def test_bad_input(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("bundle", [PHANTOM, HIPPOCAMPUS, SLICES], ids=lambda bundle: bundle.name)
@pytest.mark.parametrize(
    "name", ["argmax", "noise", "rounding", "top_k", "temperature", "clipping", "mc_dropout", "smoothing"]
)
def test_overlay(name: str, bundle: Path) -> None:
    """Each works with all bundles, inside a Compose, through the bundle's own inferer."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/inference.json"), str(OVERLAYS / f"{name}.yaml")])
    parser.update({"noise_key": "words", "dropout_key": "words", "dropout_passes": 2})
    if name == "mc_dropout" and bundle == SLICES:
        parser["inferer#inferer"] = "SliceInferer"
    chain = Compose([parser.get_parsed_content("defence")])
    network = parser.get_parsed_content("network_def").eval()
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        logits = parser.get_parsed_content("inferer")(image, network)[0]
    released = chain({"pred": logits, "image": image[0], "label": None})["pred"]
    if name == "argmax":
        assert torch.equal(released[0], logits.argmax(0).float())
    else:
        assert (released.sum(0) - 1).abs().max() < 1e-6
        unchanged = bool((released - logits.softmax(0)).abs().max() < 1e-6)
        assert unchanged == (name == "mc_dropout")  # which is in the inferer


def test_in_a_study(cohort: Any, tmp_path: Path) -> None:
    """Noise in the release, new for each changed image; a study without a key is refused; then rounding."""
    small = {"network_def#channels": [4, 8, 8]}

    def run(name: str, **overrides: Any) -> SignalTable:
        small_study(
            cohort,
            tmp_path / "out",
            shadows=1,
            inference=("configs/inference.json", str(OVERLAYS / f"{name}.yaml")),
            inference_overrides={**small, **overrides},
            release="probabilities",
            transform_id="defence",
            signals=[PerturbedQueries((Flip(0),))],
        ).record()
        return SignalTable.read(tmp_path / "out/private/signals")

    rounded = run("rounding")
    noisy = run("noise", noise_key="k", noise_image_key="image")
    again = run("noise", noise_key="another", noise_image_key="image")
    with pytest.raises(InputError, match="noise_key"):
        run("noise")
    flipped = next(name for name in noisy.signals if name.startswith("log_likelihood") and "flip_0" in name)
    for name in ("log_likelihood", flipped):
        values = [table.signal(name, "target") for table in (rounded, noisy, again)]
        assert (values[0] != values[1]).all()
        assert (values[1] != values[2]).all()  # the key alone
