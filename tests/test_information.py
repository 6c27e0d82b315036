"""Information by denoisers, against closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.interpretability.trace_emergence import chosen_prototypes
from models.information import Levels, integrate, measure, quantile_level

PIXELS = 4


def gaussian(loading: torch.Tensor, tau: float):
    """x0 ~ N(0, S) and c = loading . x0 + tau n: the two exact denoisers given c (B,), posterior covariances by sigma,
    and draws."""
    root = torch.randn(PIXELS, PIXELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    precision = torch.linalg.inv(root @ root.T + 0.1 * torch.eye(PIXELS))

    def covariances(sigma: float):
        plain = torch.linalg.inv(precision + torch.eye(PIXELS) / sigma**2)
        knowing = torch.linalg.inv(precision + torch.eye(PIXELS) / sigma**2 + torch.outer(loading, loading) / tau**2)
        return plain, knowing

    def denoiser(c=None):
        def denoise(z, sigma):
            lines = []
            for i, level in enumerate(sigma.tolist()):
                target = z[i].flatten().double() / level**2
                covariance = covariances(level)[c is not None]
                lines.append(covariance @ (target if c is None else target + loading * c[i] / tau**2))
            return torch.stack(lines).view_as(z).float()

        return denoise

    def draw(count: int, generator):
        x = (
            torch.randn(count, PIXELS, generator=generator, dtype=torch.float64)
            @ torch.linalg.cholesky(torch.linalg.inv(precision)).T
        )
        return x.view(count, 1, 1, PIXELS).float(), x @ loading + tau * torch.randn(
            count, generator=generator, dtype=torch.float64
        )

    return denoiser, covariances, draw, precision


def test_an_error_of_the_knowing_denoiser_cancels_in_the_mean_of_both_estimates():
    """Its square is added to one and taken from the other; the mean is <x0 - D, D_c - D>."""
    denoiser, covariances, draw, _ = gaussian(torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64), 0.3)
    generator, count, level, size = torch.Generator().manual_seed(0), 4000, 0.7, 0.4
    x0, c = draw(count, generator)
    wrong = size * torch.randn(x0.shape, generator=generator)
    exact, sigma, noise = denoiser(c), torch.full((count,), level), torch.randn(x0.shape, generator=generator)
    found = measure(denoiser(), lambda z, sigma: exact(z, sigma) + wrong, x0, sigma, noise)
    squared, errors = (part.flatten(1).sum(1).mean().item() for part in found)
    plain, knowing = covariances(level)
    truth = (plain.trace() - knowing.trace()).item() / level**2 / math.log(2)
    excess = PIXELS * size**2 / level**2 / math.log(2)
    assert squared - truth == pytest.approx(excess, rel=0.1) and errors - truth == pytest.approx(-excess, rel=0.1)
    assert (squared + errors) / 2 == pytest.approx(truth, abs=0.05 * excess)


def test_gaussian_information_a_level_and_in_total():
    loading, tau = torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64), 0.3
    denoiser, covariances, draw, precision = gaussian(loading, tau)
    generator = torch.Generator().manual_seed(0)
    levels = Levels.uniform(0.05, 30, 12)
    count = 6000
    sigma, bins = levels.draw(count, np.random.default_rng(0))
    x0, c = draw(count, generator)
    found = measure(denoiser(), denoiser(c), x0, torch.tensor(sigma), torch.randn(x0.shape, generator=generator))
    squared, errors = (part.flatten(1).sum(1).double().numpy()[:, None] for part in found)

    def truth(level):  # bits an e-fold
        plain, knowing = covariances(level)
        return (plain.trace() - knowing.trace()).item() / level**2 / math.log(2)

    variance = (loading @ torch.linalg.inv(precision) @ loading).item() + tau**2
    left = (loading @ covariances(0.05)[0] @ loading).item() + tau**2  # of c, given z at the lowest level
    total = 0.5 * math.log2(variance / left)
    bits = integrate(levels, bins, squared)
    assert bits.total[0] == pytest.approx(total, rel=0.02)
    assert abs(bits.total[0] - total) < 3 * bits.error[0]
    assert integrate(levels, bins, errors).total[0] == pytest.approx(total, rel=0.1)  # the same mean, more noise
    fine = np.array(
        [[truth(s) for s in np.exp(np.linspace(a, b, 33))] for a, b in zip(levels.edges[:-1], levels.edges[1:])]
    ).mean(1)
    np.testing.assert_allclose(bits.density[0, :-1], fine, rtol=0.12, atol=0.01)

    adapted = levels.adapted(squared, bins)
    sigma, bins = adapted.draw(count, np.random.default_rng(1))
    found = measure(
        denoiser(), denoiser(c), x0, torch.tensor(sigma), torch.randn(x0.shape, generator=generator)
    ).squared
    again = integrate(adapted, bins, found.flatten(1).sum(1).double().numpy()[:, None])
    assert (
        again.total[0] == pytest.approx(total, rel=0.02) and again.error[0] < bits.error[0]
    )  # importance sampling pays and does not bias


def test_only_the_pixel_that_is_told_has_information():
    tau = 0.5  # pixels independent, of unit variance; c tells the second

    def denoiser(c=None):
        def denoise(z, sigma):
            level = sigma.float()[:, None, None, None] ** 2
            out = z / (1 + level)
            if c is not None:
                precision = 1 + 1 / level[..., 0] + tau**-2
                out[..., 1] = (z[..., 1] / level[..., 0] + c[:, None, None] / tau**2) / precision
            return out

        return denoise

    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(4000, 1, 1, 3, generator=generator)
    c = x0[:, 0, 0, 1] + tau * torch.randn(4000, generator=generator)
    levels = Levels.uniform(0.05, 30, 12)
    sigma, bins = levels.draw(4000, np.random.default_rng(0))
    noise = torch.randn(x0.shape, generator=generator)
    found = (
        measure(denoiser(), denoiser(c), x0, torch.tensor(sigma, dtype=torch.float32), noise)
        .squared[:, 0, 0]
        .double()
        .numpy()
    )
    bits = integrate(levels, bins, found)
    assert bits.total[[0, 2]].tolist() == [0, 0]
    seen = 1 / (1 + 0.05**-2)
    assert bits.total[1] == pytest.approx(0.5 * math.log2((1 + tau**2) / (seen + tau**2)), rel=0.04)

    nothing = measure(denoiser(), denoiser(), x0, torch.tensor(sigma, dtype=torch.float32), noise)
    assert nothing.squared.abs().max() == 0 and nothing.errors.abs().max() == 0


def test_naming_one_of_n_points_tells_log2_n_bits():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(8, 1, 1, 4, generator=generator)
    which = torch.arange(100_000) % 8

    def blind(z, sigma):
        distance = (z[:, None] - points).flatten(2).square().sum(2) / (2 * sigma[:, None] ** 2)
        return (torch.softmax(-distance, 1)[:, :, None, None, None] * points).sum(1)

    levels = Levels.uniform(0.02, 40, 16)
    sigma, bins = levels.draw(100_000, np.random.default_rng(0))
    x0 = points[which]
    noise = torch.randn(x0.shape, generator=generator)
    found = measure(blind, lambda z, sigma: x0, x0, torch.tensor(sigma, dtype=torch.float32), noise)
    bits = integrate(levels, bins, found.squared.flatten(1).sum(1).double().numpy()[:, None])
    assert bits.total[0] == pytest.approx(3, rel=0.03) and abs(bits.total[0] - 3) < 3 * bits.error[0]


def test_quantiles_of_a_known_density():
    levels = Levels.uniform(1.0, math.e**2, 2)  # two e-folds and the tail of half of one
    flat, high, none = [1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]
    found = quantile_level(levels, np.array([flat, high, none]), 0.5)
    assert found[0] == pytest.approx(math.e) and found[1] == pytest.approx(math.e**2) and np.isnan(found[2])
    assert quantile_level(levels, np.array([flat]), 0.25)[0] == pytest.approx(math.e**1.5)


def test_draws_are_spread_evenly_and_weighted_back():
    levels = Levels.uniform(0.1, 10, 4)._replace(shares=np.array([0.1, 0.2, 0.3, 0.3, 0.1]))
    sigma, bins = levels.draw(1000, np.random.default_rng(0))
    assert np.bincount(bins).tolist() == [100, 200, 300, 300, 100]
    assert (
        (np.log(sigma) >= levels.edges[bins] - 1e-9)
        & (np.log(sigma) <= np.append(levels.edges[1:], levels.edges[-1])[bins] + 1e-9)
    ).all()
    assert levels.weights(bins).mean() == pytest.approx(levels.widths.sum())


def test_the_tail_above_the_highest_level_is_counted():
    """The integral of sigma^-2 over ln sigma from sigma_min up is 1 / (2 sigma_min^2)."""
    levels = Levels.uniform(0.5, 1.0, 4)
    sigma, bins = levels.draw(20_000, np.random.default_rng(0))
    bits = integrate(levels, bins, sigma[:, None] ** -2)
    assert bits.total[0] == pytest.approx(2, rel=0.01) and bits.density[0, -1] == pytest.approx(1, rel=0.01)


def test_levels_where_nothing_was_found_are_still_drawn_now_and_then():
    levels = Levels.uniform(0.5, 20.0, 4)
    _, bins = levels.draw(1000, np.random.default_rng(0))
    adapted = levels.adapted((bins == 1).astype(float)[:, None], bins, least=0.2)
    np.testing.assert_allclose(np.delete(adapted.shares, 1), 0.2 * np.delete(levels.shares, 1))
    assert adapted.shares.sum() == pytest.approx(1)


def test_the_error_of_two_draws():
    levels = Levels.uniform(0.5, 20.0, 1)
    bits = integrate(levels, np.array([0, 0]), np.array([[1.0], [3.0]]), weights=np.ones(2))
    assert bits.total[0] == 2 and bits.error[0] == pytest.approx(1)  # deviation sqrt(2), over sqrt(2)


def test_an_attribute_of_one_class_chooses_no_prototype_to_be_traced():
    run = SimpleNamespace(config=SimpleNamespace(data=SimpleNamespace(source="faces")))
    smiling = np.arange(20) % 2
    test = SimpleNamespace(attributes=pd.DataFrame({"Red_Hair": 0, "Smiling": smiling}))
    scores = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    scores[:, 2] = torch.from_numpy(smiling)
    assert chosen_prototypes(SimpleNamespace(prototypes=None), run, test, scores) == [2]
