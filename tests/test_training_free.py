"""Training-free denoisers against closed forms and the naive loop, and their programs."""

import argparse
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.naive import naive_square
from conftest import DEVICE, Bench
from PIL import Image

from analysis.mechanism import batches
from analysis.mechanism.agreement import CHANCE, similarities
from analysis.mechanism.batches import in_threads
from analysis.mechanism.comparison import bits_told, compare, conclusion, published_order, table_of
from analysis.mechanism.sensitivity import (
    Cone,
    between,
    cuts,
    marks,
    sensitivity,
    wiener_sensitivity,
    window_side,
)
from models.locality import LocalityDenoiser, Masks, PSPCFlex, smallest_windows
from models.pspc import PUBLISHED_SIZES, Boxes, PSPCSquare, published_levels
from models.samplers import euler
from models.schedule import karras_sigmas
from models.training_free import EmpiricalDenoiser, GaussianDenoiser, PixelMajor
from models.unet import UNet

GENERATOR = torch.Generator().manual_seed(0)


def draw(count: int, channels: int = 3, side: int = 8) -> torch.Tensor:
    """Smooth random images, uint8 (N, H, W, C)."""
    coarse = torch.rand(count, channels, side // 4, side // 4, generator=GENERATOR)
    return (
        torch.nn.functional.interpolate(coarse, side, mode="bilinear")
        .mul(255)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
    )


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2).double() / 127.5 - 1


def noisy(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return (
        images[: len(sigma)] + sigma[:, None, None, None] * torch.randn(images[: len(sigma)].shape, generator=GENERATOR)
    ).float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("xflip", [False, True])
def test_empirical_is_the_softmax_of_distances(channels, xflip):
    pixels = draw(30, channels)
    images = as_images(pixels)
    images = torch.cat([images, images.flip(3)]) if xflip else images
    sigma = torch.tensor([0.002, 0.1, 0.5, 2.0, 80.0])
    z = noisy(images, sigma)
    distance = (z.double()[:, None] - images[None]).square().flatten(2).sum(2)
    expected = torch.einsum("bn,nchw->bchw", (-distance / (2 * sigma.double()[:, None] ** 2)).softmax(1), images)
    for bound in (4e9, 30000):  # in memory, and in many chunks
        data = PixelMajor(pixels, xflip, max_memory=bound)
        assert len(data) == len(images) and (bound > 1e6 or data.chunk_size(4 * 64 * channels) < 30)
        torch.testing.assert_close(EmpiricalDenoiser(data)(z, sigma).double(), expected, atol=1e-5, rtol=0)


def test_gaussian_is_the_posterior_mean_of_its_moments():
    pixels = draw(40, 1)
    flat = as_images(pixels).flatten(1)
    mean, covariance = flat.mean(0), torch.from_numpy(np.cov(flat.numpy(), rowvar=False, bias=True))
    sigma = torch.tensor([0.01, 0.3, 5.0])
    z = noisy(as_images(pixels), sigma)
    solve = [
        torch.linalg.solve(covariance + s**2 * torch.eye(64), (x.double().flatten() - mean))
        for x, s in zip(z, sigma.double())
    ]
    expected = torch.stack([(mean + covariance @ v).view(1, 8, 8) for v in solve])
    torch.testing.assert_close(GaussianDenoiser(PixelMajor(pixels))(z, sigma).double(), expected, atol=1e-5, rtol=0)
    many = PixelMajor(draw(100, 1))  # more images than values: the other way round
    few = GaussianDenoiser(many, rank=3)
    assert few.vectors.shape == (64, 3) and len(GaussianDenoiser(many).values) == 64
    torch.testing.assert_close(
        few(z, torch.full((3,), 1e-6)), few(few(z, torch.full((3,), 1e-6)), torch.full((3,), 1e-6)), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_boxes_add_and_their_spread_is_the_transpose(size):
    boxes = Boxes(9, 8, size, torch.device(DEVICE))
    maps = torch.rand(9, 8, 3, generator=GENERATOR).to(DEVICE)
    expected = torch.nn.functional.avg_pool2d(maps.permute(2, 0, 1)[:, None], size, 1)[:, 0].permute(1, 2, 0) * size**2
    torch.testing.assert_close(boxes.sums(maps), expected)
    windows = torch.rand(expected.shape, generator=GENERATOR).to(DEVICE)
    assert (boxes.sums(maps) * windows).sum().item() == pytest.approx(
        (maps * boxes.spread(windows)).sum().item(), rel=1e-5
    )
    assert boxes.cover.min() >= 1 and boxes.cover.sum() == np.prod(boxes.shape) * size**2


@pytest.mark.parametrize(("channels", "bound"), [(3, 4e9), (1, 4e9), (3, 40000)])
def test_square_composites_equal_the_naive_loop(channels, bound):
    pixels = draw(25, channels)
    sizes, levels = [8, 5, 3, 1, 3], torch.tensor([50.0, 2.0, 0.4, 0.05, 0.002])
    denoiser = PSPCSquare(PixelMajor(pixels, False, max_memory=bound), sizes, levels)
    z = noisy(as_images(pixels), levels)  # every image another level, in one batch
    found = denoiser(z, levels)
    for i, size in enumerate(sizes):
        expected = naive_square(as_images(pixels), z[i : i + 1], levels[i : i + 1], size)
        assert (found[i] - expected[0]).abs().max() < 1e-4
    torch.testing.assert_close(denoiser.differentiable(z, levels), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("xflip", [False, True])
@pytest.mark.parametrize("bound", [4e9, 40000])
def test_weights_sum_to_one_however_far_images_lie_from_the_data(bound, xflip):
    grey = torch.full((25, 8, 8, 3), 51, dtype=torch.uint8)
    level = torch.tensor([0.002])
    denoiser = PSPCSquare(PixelMajor(grey, xflip, max_memory=bound), [5], level)
    z = 3 * torch.randn(2, 3, 8, 8, generator=GENERATOR)
    torch.testing.assert_close(denoiser(z, level.expand(2)), torch.full_like(z, -0.6), atol=1e-5, rtol=0)


def test_the_published_schedule_on_32_pixels():
    pixels = draw(40, 3, 32)
    levels = published_levels().float()
    denoiser, z = PSPCSquare(PixelMajor(pixels)), noisy(as_images(pixels), levels)
    found = denoiser(z, levels)
    for i in (6, 8, 11, 17):
        expected = naive_square(as_images(pixels), z[i : i + 1], levels[i : i + 1], PUBLISHED_SIZES[i])
        assert (found[i] - expected[0]).abs().max() < 1e-4
    assert denoiser.window(0.1) == 3 and denoiser.window(1000.0) == 32


def naive_flex(images, z, sigma, windows):
    """Pixel by pixel."""
    _, _, h, w = z.shape
    out = torch.zeros_like(z)
    for y in range(h):
        for x in range(w):
            mask = windows[y * w + x].view(h, w)
            distance = ((z[:, None] - images[None]) * mask).square().flatten(2).sum(2)
            weights = (-distance / (2 * sigma[:, None] ** 2)).softmax(1)
            out[:, :, y, x] = weights @ images[:, :, y, x]
    return out


def test_flexible_composites_equal_the_naive_loop():
    pixels, levels = draw(20, 3), torch.tensor([3.0, 0.3])
    heat = torch.rand(2, 8, 8, 8, 8, generator=GENERATOR)
    denoiser = PSPCFlex(PixelMajor(pixels, True), heat, [1, 0.4], levels)
    images = as_images(pixels)
    images = torch.cat([images, images.flip(3)])
    z = noisy(images, levels)
    found = denoiser(z, levels)
    torch.testing.assert_close(found[:1], EmpiricalDenoiser(PixelMajor(pixels, True))(z[:1], levels[:1]))
    expected = naive_flex(images, z[1:].double(), levels[1:].double(), smallest_windows(heat[1], 0.4))
    torch.testing.assert_close(found[1:].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(denoiser.differentiable(z, levels), found, atol=1e-5, rtol=0)


def naive_locality(images, z, sigma, threshold):
    """Value by value, from the covariance: images (N, C, H, W), z (C, H, W), both float64."""
    flat, noisy = images.flatten(1), z.flatten()
    covariance = torch.from_numpy(np.cov(flat.numpy(), rowvar=False, bias=True))
    wiener = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64))
    rows = wiener / wiener.diagonal()[:, None]
    out = torch.zeros_like(noisy)
    for q in range(len(noisy)):
        mask = rows[q].abs() >= threshold * rows.abs().max()
        distance = (flat[:, mask] - noisy[mask]).square().sum(1)
        out[q] = (-distance / (2 * sigma**2)).softmax(0) @ flat[:, q]
    return out.view(z.shape)


@pytest.mark.parametrize(("channels", "xflip", "bound"), [(3, False, 4e9), (1, True, 4e9), (1, False, 4.2e5)])
def test_locality_equals_the_naive_loop(channels, xflip, bound):
    pixels, levels = draw(60, channels), torch.tensor([5.0, 0.7, 0.1, 0.01])
    pixels += torch.randint(
        0, 40, pixels.shape, generator=GENERATOR, dtype=torch.uint8
    )  # of full rank, so that masks are not tiny
    data = PixelMajor(pixels, xflip, max_memory=bound)
    images = as_images(pixels)
    images = torch.cat([images, images.flip(3)]) if xflip else images
    denoiser, z = LocalityDenoiser(data, 0.1), noisy(images, levels)
    found = denoiser(z, levels)
    for i, level in enumerate(levels.double()):
        expected = naive_locality(images, z[i].double(), level, 0.1)
        assert (found[i] - expected).abs().max() < 1e-5
    torch.testing.assert_close(denoiser.differentiable(z, levels), found, atol=1e-5, rtol=0)


def test_locality_without_a_threshold_is_empirical_and_white_data_have_single_pixels():
    pixels, levels = draw(20, 1), torch.tensor([2.0, 0.2])
    data, z = PixelMajor(pixels), noisy(as_images(pixels), levels)
    torch.testing.assert_close(
        LocalityDenoiser(data, 0)(z, levels), EmpiricalDenoiser(data)(z, levels), atol=1e-5, rtol=0
    )
    grey, step = torch.full((16, 16), 120), 100 * torch.eye(16)
    steps = torch.cat([grey + step, grey - step]).to(torch.uint8)  # +- unit vectors: the covariance is c I
    assert LocalityDenoiser(PixelMajor(steps.view(32, 4, 4, 1))).mask(0.5).equal(torch.eye(16, dtype=torch.bool))
    mask = LocalityDenoiser(PixelMajor(steps.repeat(1, 2).view(32, 4, 8, 1))).mask(0.5)
    assert mask.equal(torch.eye(16, dtype=torch.bool).repeat(2, 2))  # itself and its copy


def test_locality_of_constant_pixels_and_of_one_image():
    pixels = draw(30, 1)
    pixels[:, :4] = 7  # half of the image never varies
    mask = LocalityDenoiser(PixelMajor(pixels), 0.02).mask(1.0)
    assert mask[:32].sum() == 32 and mask[:32, :32].equal(torch.eye(32, dtype=torch.bool)) and mask[32:].sum() > 64
    found = LocalityDenoiser(PixelMajor(pixels))(torch.randn(2, 1, 8, 8, generator=GENERATOR), torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(found[:, :, :4], torch.full((2, 1, 4, 8), 7 / 127.5 - 1))
    one = draw(1)
    found = LocalityDenoiser(PixelMajor(one))(torch.randn(1, 3, 8, 8, generator=GENERATOR), torch.tensor([0.3]))
    torch.testing.assert_close(found, as_images(one).float(), atol=1e-6, rtol=0)


def test_pixels_of_equal_masks_share_one_and_sparse_products_are_the_same():
    some = torch.zeros(40, 40, dtype=torch.bool).fill_diagonal_(True)
    some[20:] = False
    some[20:, 3] = True  # twenty pixels that look at one
    masks, values = Masks(some), torch.rand(40, 5, generator=GENERATOR)
    assert masks.unique.is_sparse_csr and masks.unique.shape == (20, 40)  # pixel 3's own mask is theirs
    torch.testing.assert_close(masks.sums(values)[masks.owner], some.float() @ values)


def test_the_directions_of_a_low_rank_are_found_where_the_covariance_does_not_fit():
    generator = torch.Generator().manual_seed(1)
    images = 127 + 12 * torch.randn(300, 4, generator=generator) @ torch.randn(4, 400, generator=generator)
    pixels = images.clamp(0, 255).round().to(torch.uint8).view(300, 20, 20, 1)
    whole, bounded = GaussianDenoiser(PixelMajor(pixels), 4), GaussianDenoiser(PixelMajor(pixels, max_memory=1.2e6), 4)
    torch.testing.assert_close(bounded.values, whole.values, rtol=1e-6, atol=0)
    z = noisy(as_images(pixels), torch.tensor([0.5]))
    torch.testing.assert_close(bounded(z, torch.tensor([0.5])), whole(z, torch.tensor([0.5])), atol=1e-4, rtol=0)


def test_smallest_windows_hold_their_share():
    heat = torch.zeros(2, 2, 2, 2)
    heat[:, :] = torch.tensor([[0.5, 0.3], [0.15, 0.05]])
    for share, kept in (
        (0.4, [1, 0, 0, 0]),
        (0.45, [1, 0, 0, 0]),
        (0.7, [1, 1, 0, 0]),
        (0.9, [1, 1, 1, 0]),
        (1.0, [1, 1, 1, 1]),
    ):
        assert smallest_windows(heat, share)[0].int().tolist() == kept, share
    heat[1, 0] = 0
    with pytest.raises(ValueError, match=r"pixel \(1, 0\) is zero everywhere"):
        smallest_windows(heat, 0.5)


def test_one_image_returns_itself_and_euler_ends_on_images():
    pixels, levels = draw(1), torch.tensor([0.5])
    z = torch.randn(1, 3, 8, 8, generator=GENERATOR)
    image = as_images(pixels).float()
    data = PixelMajor(pixels)
    for denoiser in (
        EmpiricalDenoiser(data),
        GaussianDenoiser(data),
        LocalityDenoiser(data),
        PSPCSquare(data, [3], levels),
        PSPCFlex(data, torch.ones(1, 8, 8, 8, 8), [0.3], levels),
    ):
        torch.testing.assert_close(denoiser(z, levels), image, atol=1e-6, rtol=0)
    many = draw(12)
    ends = euler(
        EmpiricalDenoiser(PixelMajor(many)), 80 * torch.randn(5, 3, 8, 8, generator=GENERATOR), karras_sigmas(18)
    )
    assert torch.cdist(ends.flatten(1), as_images(many).float().flatten(1)).min(1).values.max() < 1e-3


def test_sensitivity_is_the_jacobian():
    z, matrix = torch.randn(2, 1, 3, 3, generator=GENERATOR), torch.randn(9, 9, generator=GENERATOR)

    def linear(z, sigma):
        return (z.flatten(1) @ matrix.T).view(z.shape)

    torch.testing.assert_close(sensitivity(linear, z, torch.tensor(1.0)), matrix.abs().view(3, 3, 3, 3))
    pixels = draw(10, 1)
    denoiser = PSPCSquare(PixelMajor(pixels), [3], torch.tensor([0.3]))
    heat = sensitivity(denoiser.differentiable, noisy(as_images(pixels), torch.tensor([0.3])), torch.tensor(0.3))
    assert heat[4, 4, 4, 4] > 0 and heat[0, 0, 3:].max() == 0 and heat[4, 4, 7].max() == 0  # nothing beyond two pixels


@pytest.mark.parametrize("name", ["empirical", "gaussian", "square", "flex", "locality"])
def test_gradients_are_finite_differences(name):
    data, level = PixelMajor(draw(20, 3), True), torch.tensor([0.8])
    denoiser = {
        "empirical": lambda: EmpiricalDenoiser(data),
        "gaussian": lambda: GaussianDenoiser(data),
        "square": lambda: PSPCSquare(data, [3], level),
        "flex": lambda: PSPCFlex(data, torch.rand(1, 8, 8, 8, 8, generator=GENERATOR), [0.5], level),
        "locality": lambda: LocalityDenoiser(data),
    }[name]()
    z = noisy(as_images(draw(1, 3)), level).requires_grad_(True)
    direction, pixel = torch.randn(z.shape, generator=GENERATOR), (0, 1, 4, 3)
    gradient = torch.autograd.grad(denoiser.differentiable(z, level)[pixel], z)[0]
    ahead, behind = (denoiser(z.detach() + step * direction, level)[pixel] for step in (0.01, -0.01))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind).item() / 0.02, rel=0.02, abs=2e-4)


@pytest.mark.parametrize("layers", [0, 2, 7])
def test_growing_windows_have_the_gradients_of_automatic_differentiation(layers):
    torch.manual_seed(layers)
    unet = UNet(
        3,
        4,
        base=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(False, False),
        unshuffle=2,
        pixel_channels=8,
        pixel_layers=layers,
    )
    for scale in unet.pixels.scales:
        torch.nn.init.normal_(scale.weight, std=0.3)
    model = torch.nn.Module()  # what a Patronus is to sensitivity
    model.unet = unet.eval()
    condition = torch.randn(2, 4, generator=GENERATOR)

    def denoiser(z, sigma):
        return 0.3 * z + sigma.view(-1, 1, 1, 1) * unet(z, sigma, condition)

    z = torch.randn(2, 3, 16, 16, generator=GENERATOR)
    plain = sensitivity(denoiser, z, torch.tensor(0.7), stride=3)
    torch.testing.assert_close(
        sensitivity(denoiser, z, torch.tensor(0.7), stride=3, model=model), plain, rtol=1e-4, atol=1e-6
    )
    assert not unet.pixels._forward_hooks and not unet.last._forward_hooks

    def of_half(part):
        def half(z, sigma):
            return 0.3 * z + sigma.view(-1, 1, 1, 1) * unet(z, sigma, condition[part : part + 1])

        return sensitivity(half, z[part : part + 1], torch.tensor(0.7), stride=3, model=model)

    torch.testing.assert_close(sum(in_threads(of_half, [0, 1], 2)) / 2, plain, rtol=1e-4, atol=1e-6)
    path, time = unet.pixels, torch.randn(2, 32, generator=GENERATOR)
    features = torch.randn(2, 8, 8, 8, generator=GENERATOR).requires_grad_(True)
    pixels = torch.randn(2, 3, 16, 16, generator=GENERATOR).requires_grad_(True)
    x = torch.cat([torch.nn.functional.pixel_shuffle(unet.last(features), 2), pixels], dim=1)
    weights = torch.randn(2, 3, generator=GENERATOR)
    for y, column in ((0, 0), (15, 3), (8, 9)):
        expected = torch.autograd.grad(
            (path(x, time)[:, :, y, column] * weights).sum(), [features, pixels], retain_graph=True
        )
        found = Cone(unet, x.detach(), time).gradient(y, column, weights)
        torch.testing.assert_close(found, tuple(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decoded", [False, True])
def test_gradients_through_what_is_read_of_the_scores_are_those_of_automatic_differentiation(decoded):
    torch.manual_seed(0)
    model = torch.nn.Module()  # what a Patronus is to sensitivity
    model.unet, model.reader = torch.nn.Module(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    model.unet.pixels = None
    spread, layers = torch.nn.Linear(5, 48), [torch.nn.Linear(5, 9), torch.nn.SiLU(), torch.nn.Linear(9, 48)]
    if decoded:
        model.decoder = torch.nn.Sequential(*layers, torch.nn.Unflatten(1, (3, 4, 4)))

    def denoiser(z, sigma):
        read = model.reader(z).sin()
        base = model.decoder(read) if decoded else 0
        return z**2 + spread(read).view(z.shape) + 2 * base + (base * z).tanh()

    z = torch.randn(2, 3, 4, 4, generator=GENERATOR)
    plain = sensitivity(denoiser, z, torch.tensor(0.7))
    torch.testing.assert_close(sensitivity(denoiser, z, torch.tensor(0.7), model=model), plain, rtol=1e-4, atol=1e-6)
    with cuts(None, model.reader) as (none, readings):
        model.reader(z)
    assert none == [] and len(readings) == 1 and not model.reader._forward_hooks


def test_the_sensitivity_of_the_wiener_filter_is_that_of_its_denoiser():
    denoiser = GaussianDenoiser(PixelMajor(draw(50, 3)))
    found = wiener_sensitivity(denoiser.filter(0.4), (3, 8, 8)).float()
    z = torch.randn(2, 3, 8, 8, generator=GENERATOR)
    torch.testing.assert_close(found, sensitivity(denoiser.differentiable, z, torch.tensor(0.4)), rtol=1e-3, atol=1e-5)


def test_the_side_of_what_is_looked_at():
    y = torch.arange(21)[:, None, None, None] - torch.arange(21)[:, None]
    x = torch.arange(21)[:, None, None] - torch.arange(21)
    distance = torch.maximum(y.abs(), x.abs())  # (21, 21, 21, 21)
    assert window_side((distance == 0).float(), 0.9) == 1
    assert window_side(torch.ones(21, 21, 21, 21), 1.0) == pytest.approx(21)  # never more than the image
    ring = (distance == 1).double()
    maps = torch.where(distance == 0, 0.6, 0.4 * ring / ring.sum((2, 3), keepdim=True)).double()
    around = (ring.sum((2, 3)) + 1).sqrt()  # 3, less at the edges
    assert window_side(maps, 0.6) == 1
    assert window_side(maps, 0.9) == pytest.approx((1 + 0.75 * (around - 1)).mean().item())


class Shift:
    """A denoiser that is `by` above 0."""

    def __init__(self, by):
        self.by = by

    def __call__(self, z, sigma):
        return torch.zeros_like(z) + self.by


def test_the_comparison_is_the_mean_squared_difference_with_its_error():
    x0, levels = torch.zeros(4, 1, 8, 8), torch.tensor([2.0, 0.5], dtype=torch.float64)
    others = {"empirical": Shift(3.0), "gaussian": Shift(torch.arange(4.0).view(4, 1, 1, 1)), "pspc_sq": Shift(0.5)}
    others["pspc_flex"] = Shift(0.50001)  # as far as pspc_sq, but for rounding
    found = compare({"conditional": Shift(0.0), "unconditional": Shift(0.25)}, others, x0, levels, 0)
    table = table_of(found.rows).set_index(["images", "network", "sigma", "denoiser"])
    row = table.loc[("noisy", "conditional", 2.0, "gaussian")]
    assert row["difference"] == 3.5 and row["standard_error"] == pytest.approx(np.std([0, 1, 4, 9], ddof=1) / 2)
    assert table.loc[("noisy", "conditional", 2.0, "unconditional")]["difference"] == 0.0625  # what s adds
    assert set(table.loc["trajectory"].index.get_level_values("network")) == {"unconditional"}
    assert found.told.loc[2.0, "s"] == pytest.approx(64 * 0.0625 / 4 / np.log(2))
    order = published_order(found.rows).set_index(["images", "network", "nearer"])
    assert order.loc[("noisy", "conditional", "gaussian")]["holds"] == [2.0, 0.5]
    assert order.loc[("noisy", "conditional", "pspc_sq")]["undecided"] == [2.0, 0.5]  # 3.25 +- 2.0
    assert order.loc[("noisy", "conditional", "pspc_flex")]["undecided"] == [2.0, 0.5]


def test_samples_alike_have_similarity_one_and_chance_is_that_of_others():
    rng = np.random.default_rng(0)
    network = rng.normal(size=(40, 300))
    vectors = {
        "network": network,
        "same": 2 * network + np.arange(40)[:, None],
        "other": rng.normal(size=(40, 300)),
        "flat": np.ones((40, 300)),
    }
    found = similarities(vectors, centre=False)
    np.testing.assert_allclose(found["same"], 1)
    np.testing.assert_allclose(found["flat"], 0)
    assert abs(np.mean(found["other"])) < 0.05 and abs(np.mean(found[CHANCE])) < 0.05
    assert np.mean(similarities(vectors | {"same": network.copy()}, centre=True)["same"]) == pytest.approx(1)
    common = 100 * rng.normal(size=300)  # what all samples have in common is no likeness
    centred = similarities({"network": network + common, "other": vectors["other"] + common}, centre=True)
    assert abs(np.mean(centred["other"])) < 0.05
    turned = np.array([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    assert similarities({"network": turned}, centre=False)[CHANCE] == pytest.approx([0, 0, -1])


def test_bits_of_scores_and_of_the_best_patches_by_hand():
    """Images are 1, all denoisers answer a number; n pixels at noise level 2."""
    x0, sigma = torch.ones(1, 1, 2, 2), torch.tensor([2.0])
    answers = {"nothing": 0.0, "knowing": 0.5, "gaussian": 0.2, "pspc_sq": 0.4, "locality": 0.3}
    told = bits_told({name: answer * x0 for name, answer in answers.items()}, "knowing", "nothing", x0, sigma)
    bit = 4 / (np.log(2) * 4)
    assert told == pytest.approx(
        {"s": 0.25 * bit, "s_check": 0.75 * bit, "patches": (0.64 - 0.36) * bit, "left": 0.25 * bit}
    )


def test_the_conclusion_names_levels_at_which_patches_are_a_twentieth_closer():
    levels = {  # sigma: gaussian, empirical, pspc_sq, locality
        4.0: (1.0, 2.0, 0.96, 3.0),
        2.0: (1.0, 2.0, 0.5, 3.0),
        1.0: (3.0, 1.2, 1.0, 0.5),
        0.5: (9.0, 1.0, 2.0, 0.9),
    }
    names = ("gaussian", "empirical", "pspc_sq", "locality")
    rows = [
        {"images": "noisy", "network": "plain", "sigma": sigma, "denoiser": name, "difference": value}
        for sigma, values in levels.items()
        for name, value in zip(names, values)
    ]
    text = conclusion(pd.DataFrame(rows))
    assert text.endswith("best at 3 of 4 levels (sigma 2, 1, 0.5), there 6.0 times closer than the Gaussian")
    worse = [row | {"difference": 99.0} if row["denoiser"] in ("pspc_sq", "locality") else row for row in rows]
    assert "at no noise level better" in conclusion(pd.DataFrame(worse))


def test_an_order_is_judged_at_the_levels_of_which_it_is_said():
    rows = [
        {"images": "noisy", "network": "plain", "sigma": sigma, "denoiser": name, "differences": differences}
        for sigma in (10.0, 1.0, 0.1)
        for name, differences in (("pspc_sq", [1.0, 1.1]), ("gaussian", [2.0, 2.1]), ("empirical", [3.0, 3.1]))
    ]
    order = published_order(rows).set_index("nearer")["holds"]
    assert order["pspc_sq"] == [1.0] and order["gaussian"] == [10.0, 1.0, 0.1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: PSPCSquare(data), "window size 32 does not fit images of 8x8"),
        (lambda data: PSPCSquare(data, [3, 3]), "2 window sizes for 18 noise levels"),
        (lambda data: PSPCFlex(data, torch.ones(18, 8, 8, 4, 4)), r"expected \(18, 8, 8, 8, 8\)"),
        (
            lambda data: PSPCFlex(PixelMajor(draw(4), max_memory=50000), torch.ones(18, 8, 8, 8, 8)),
            "windows of 8x8 images take",
        ),
        (lambda data: LocalityDenoiser(data, 1.0), r"threshold of masks must lie in \[0, 1\), not 1.0"),
        (lambda data: LocalityDenoiser(data, -0.1), "threshold of masks"),
        (
            lambda data: LocalityDenoiser(PixelMajor(draw(4), max_memory=50000)),
            r"\(8x8x3\) need 0.0 GB; use smaller images",
        ),
        (
            lambda data: LocalityDenoiser(PixelMajor(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))),
            r"150528 values an image \(224x224x3\) need 475.8 GB; use smaller images \(--image_size\)",
        ),
        (lambda data: GaussianDenoiser(PixelMajor(draw(99), max_memory=1e5)), r"\(8x8x3\) needs .* \(--rank\)"),
        (lambda data: EmpiricalDenoiser(data)(torch.zeros(1, 1, 8, 8), torch.ones(1)), "noisy images are"),
        (lambda data: PixelMajor(torch.zeros(5, 8, 8, 3, dtype=torch.uint8), max_memory=100), "the images alone take"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(PixelMajor(draw(4)))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Bench:
    """A bench with a run, and an EDM zip of 16x16 images."""
    bench = Bench(tmp_path_factory.mktemp("mechanism"))
    bench.train()
    with zipfile.ZipFile(bench.home / "set.zip", "w") as target:
        for i, pixels in enumerate(draw(30, 3, 16).numpy()):
            Image.fromarray(pixels).save(bench.home / "one.png")
            target.write(bench.home / "one.png", f"00000/img{i:08d}.png")
    return bench


SIZES = ["--n_steps", 3, "--patch_sizes", "16,5,3"]


def test_denoise_and_sample_programs(archive):
    zip_file, out = archive.home / "set.zip", archive.home / "out"
    common = ["--data", zip_file, "--outdir", out, "--n_samples", 5]
    denoise, sample = "analysis/mechanism/denoise.py", "analysis/mechanism/sample.py"
    archive.run(denoise, *common, *SIZES, "--batch", 2)
    outputs = [np.load(out / f"pspc_sq_outputs_t_{i:02d}_of_03.npy") for i in range(3)]
    assert (
        all(o.shape == (5, 3, 16, 16) and o.dtype == np.float32 for o in outputs)
        and (out / "pspc_sq_outputs_t_02_of_03.png").is_file()
    )
    archive.run(denoise, *common, *SIZES, "--batch", 5, "--t_idx", 1)
    np.testing.assert_allclose(np.load(out / "pspc_sq_outputs_t_01_of_03.npy"), outputs[1], atol=1e-5)
    assert not list(out.glob(".*parts"))
    for name in ("empirical", "gaussian", "locality"):
        archive.run(denoise, *common, "--denoiser", name, "--n_steps", 3, "--t_idx", 2, "--xflip", "false")
        assert np.load(out / f"{name}_outputs_t_02_of_03.npy").shape == (5, 3, 16, 16)
    archive.run(denoise, *common, "--denoiser", "locality", "--n_steps", 3, "--t_idx", 2, "--image_size", 8)
    assert np.load(out / "locality_outputs_t_02_of_03.npy").shape == (5, 3, 8, 8)
    np.save(archive.home / "z.npy", np.zeros((3, 2, 3, 16, 16), np.float32))
    archive.run(denoise, *common, *SIZES, "--z", archive.home / "z.npy", "--t_idx", 0)
    assert len(np.load(out / "pspc_sq_outputs_t_00_of_03.npy")) == 2
    unknown = ["--denoiser", "network", "--n_steps", 3, "--z", archive.home / "z.npy", "--t_idx", 0]
    refused = archive.run(denoise, *common, *unknown, check=False)
    assert refused.returncode == 2 and "give --hide_scores" in refused.stderr
    archive.run(denoise, *common, *unknown, "--hide_scores")
    assert len(np.load(out / "network_outputs_t_00_of_03.npy")) == 2
    archive.run(sample, *common, "--denoiser", "empirical", "--n_steps", 4, "--batch", 3)
    ends = np.load(out / "empirical_samples.npy")
    archive.run(sample, *common, "--denoiser", "network", "--n_steps", 4, "--sampler", "heun")
    assert ends.shape == np.load(out / "network_samples.npy").shape == (5, 3, 16, 16)


@pytest.mark.parametrize("stride", [1, 2, 3, 20])
def test_heat_maps_between_strides_are_exact_where_maps_only_move(stride):
    offsets = np.arange(9)[:, None, None, None] - np.arange(9)[:, None], np.arange(9)[:, None, None] - np.arange(9)
    maps = np.exp(-(offsets[0] ** 2) / 5.0) * np.exp(
        -np.abs(offsets[1] - 1) / 3.0
    )  # one kernel, cut off at the image's edges: (9, 9, 9, 9)
    assert maps.shape == (9, 9, 9, 9)
    some = maps[np.ix_(marks(9, stride), marks(9, stride))]
    np.testing.assert_allclose(between(some, stride), maps, rtol=1e-12)


def test_a_pixel_between_takes_more_of_the_nearer_map():
    maps = np.zeros((2, 2, 4, 4))
    maps[1] = 1  # of pixels in row 3
    assert between(maps, 3)[1, 0, :, 0] == pytest.approx([1, 1 / 3, 0, 0])  # where one map reaches it counts alone


def test_heatmaps_schedule_and_comparison(archive):
    out, own = archive.home / "own", ["--n_steps", 2]
    told = archive.run("analysis/mechanism/heatmaps.py", *own, "--outdir", out, "--n_samples", 2).stdout
    maps = np.load(out / "heatmaps_network.npy")
    archive.run("analysis/mechanism/heatmaps.py", *own, "--outdir", out / "strided", "--n_samples", 2, "--stride", 3)
    strided = np.load(out / "strided" / "heatmaps_network.npy")
    np.testing.assert_allclose(strided[:, ::3, ::3], maps[:, ::3, ::3], rtol=1e-4, atol=1e-6)
    assert maps.shape == (2, 16, 16, 16, 16) and maps.dtype == np.float32 and maps.min() >= 0
    file = out / "heatmaps_network.npy"
    following = next(line for line in told.splitlines() if "fit_schedule.py" in line).split()[1:]
    assert following[1:] == [*own[:1], "2", "--heatmaps", str(file)]
    archive.run(*following, "--outdir", out, "--n_samples", 2, "--candidates", "3,16")
    fitted = json.loads((out / "schedule.json").read_text())
    for i in range(2):
        assert fitted["errors"]["patch_sizes"][i][str(fitted["patch_sizes"][i])] == min(
            fitted["errors"]["patch_sizes"][i].values()
        )
    both = ["--patch_sizes", out / "schedule.json", "--heatmaps", file, "--thresholds", out / "schedule.json"]
    done = archive.run("analysis/mechanism/compare.py", *own, "--outdir", out, "--n_samples", 3, *both)
    assert "patches explain the unconditional network" in done.stdout
    assert (out / "compare.png").is_file() and (out / "pictures.png").is_file()
    lines = [line.split(",") for line in (out / "compare.csv").read_text().splitlines()[1:]]
    names = {"empirical", "gaussian", "pspc_sq", "pspc_flex", "locality"}
    assert len(lines) == 2 * (3 * 5 + 1) and {line[3] for line in lines} == names | {"unconditional"}
    assert len(json.loads((out / "compare.json").read_text())["rows"][0]["differences"]) == 3
    done = archive.run(
        "analysis/mechanism/agree.py", *own, "--outdir", out / "agree", "--n_samples", 3, "--batch", 2, *both
    )
    agreed = json.loads((out / "agree" / "agree.json").read_text())
    made, found = (
        dict(zip(agreed["denoisers"], np.load(out / "agree" / "samples.npy"))),
        agreed["similarities"]["pixels"],
    )
    assert set(made) == names | {"network"} and made["locality"].shape == (3, 3, 16, 16)
    assert found["locality"][1] == pytest.approx(
        np.corrcoef(made["locality"][1].ravel(), made["network"][1].ravel())[0, 1]
    )
    folders = ["--compare", out, "--agree", out / "agree", "--heatmaps", out]
    tables = archive.run("analysis/mechanism/tables.py", *folders).stdout
    assert (
        tables.count("network, noisy images:") == 2 and "| locality |" in tables and "| Wiener filter, 90% |" in tables
    )
    lost = archive.run("analysis/mechanism/tables.py", "--compare", out / "nowhere", check=False)
    assert lost.returncode == 2 and "run analysis/mechanism/compare.py first" in lost.stderr
    looked = json.loads((out / "radius.json").read_text())["sides"]  # of fit_schedule.py, the last to write it
    assert set(looked) == {f"{n}, {p}%" for n in ("network", "Wiener filter") for p in (50, 90)} | {"square schedule"}
    assert looked["square schedule"] == fitted["patch_sizes"]
    assert looked["network, 50%"] == [pytest.approx(window_side(torch.from_numpy(level), 0.5)) for level in maps]
    assert (out / "radius.png").is_file()


def test_an_edm_pickle_runs_only_when_trusted(archive):
    repo = archive.home / "clone"
    (repo / "torch_utils").mkdir(parents=True)
    (repo / "torch_utils" / "__init__.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, z, sigma):\n"
        "        return z / (1 + sigma[:, None, None, None] ** 2)\n"
    )
    code = f"import sys, pickle; sys.path.insert(0, {str(repo)!r}); from torch_utils import Net; "
    code += f"pickle.dump({{'ema': Net()}}, open({str(archive.home / 'net.pkl')!r}, 'wb'))"
    (archive.home / "make.py").write_text(code)
    archive.run(archive.home / "make.py")
    denoise = "analysis/mechanism/denoise.py"
    common = [
        "--data",
        archive.home / "set.zip",
        "--denoiser",
        "network",
        "--network_pkl",
        archive.home / "net.pkl",
        "--outdir",
        archive.home / "edm",
    ]
    common += ["--n_samples", 2, "--t_idx", 0]
    refused = archive.run(denoise, *common, check=False)
    assert refused.returncode == 2 and "--trust_pickle" in refused.stderr
    lost = archive.run(denoise, *common, "--trust_pickle", check=False)
    assert lost.returncode == 2 and "needs the module torch_utils" in lost.stderr
    archive.run(denoise, *common, "--trust_pickle", "--edm_repo", repo)
    assert np.abs(np.load(archive.home / "edm" / "network_outputs_t_00_of_18.npy")).max() < 0.1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--data", "/nowhere"], "neither a file or folder nor a name"),
        (["--t_idx", 18], "there are noise levels 0 to 17"),
        (["--patch_sizes", "3,4"], "2 numbers for 18 noise levels"),
        (["--patch_sizes", "large"], "numbers separated by commas"),
        (["--n_steps", 5], "the published schedule has 18 levels"),
        ([], "window size 32 does not fit images of 16x16"),
        (["--denoiser", "pspc_flex"], "make them with"),
        (["--denoiser", "pspc_flex", "--heatmaps", "/nowhere.npy"], "not a readable .npy"),
        (["--denoiser", "pspc_flex", "--heatmaps", __file__], "does not begin as one"),
        (["--denoiser", "locality", "--mask_threshold", 1], "--mask_threshold must lie in [0, 1), not 1"),
        (["--denoiser", "locality", "--mask_threshold", -0.5], "--mask_threshold must lie in [0, 1), not -0.5"),
        (["--denoiser", "locality", "--mask_threshold", "nan"], "--mask_threshold must lie in [0, 1), not nan"),
        (["--denoiser", "gaussian", "--max_memory", 0.0003], "(--image_size), fewer directions (--rank)"),
        (["--denoiser", "locality", "--max_memory", 0.001], "(16x16x3) need 0.0 GB; use smaller images (--image_size)"),
        (["--denoiser", "empirical", "--image_size", 4], "--image_size must be at least 8"),
        (["--denoiser", "empirical", "--max_memory", 1e-6], "the images alone take"),
        (["--denoiser", "empirical", "--z", "/nowhere.npy"], "--z /nowhere.npy"),
    ],
)
def test_bad_input_is_one_line(archive, args, expected):
    data = [] if "--data" in args else ["--data", archive.home / "set.zip"]
    done = archive.run("analysis/mechanism/denoise.py", *data, *args, check=False)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_work_is_gone_on_with_on_the_same_training_of_a_run_alone(monkeypatch):
    place = SimpleNamespace(name="faces", version=2, time=1.0)
    monkeypatch.setattr(batches, "find_run", lambda name, version: place)
    options = {"dataset": None, "version_num": None, "data": "fmnist", "network_pkl": None, "device": "cpu"}

    def settings(**changes) -> dict:
        return batches.settings_of(argparse.Namespace(**options | changes), [0] * 5)

    before = [settings(), settings(denoiser="network"), settings(data=None, denoiser="pspc_sq")]
    assert all(s["dataset"] == "faces" and s["version_num"] == 2 and s["images"] == 5 for s in before)
    alone = settings(denoiser="pspc_sq"), settings(denoiser="network", network_pkl="file")
    place.time = 2.0  # it was trained on
    after = [settings(), settings(denoiser="network"), settings(data=None, denoiser="pspc_sq")]
    assert all(one != other for one, other in zip(before, after))
    assert alone == (settings(denoiser="pspc_sq"), settings(denoiser="network", network_pkl="file"))
