"""The encoder of DiffAE and InfoDiffusion in the place of prototypes, and the discrepancy to a normal distribution."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from analysis.measures.health import health_table
from models.dense_encoder import DenseEncoder
from models.losses import mmd
from train import recipe
from train.config import validate
from train.errors import UserError


def encoder(channels=(8, 16), width=5) -> DenseEncoder:
    torch.manual_seed(0)
    return DenseEncoder(3, 16, width, channels).eval()


def test_the_code_is_linear_in_what_is_pooled_over_places():
    net, x = encoder(), torch.randn(2, 3, 16, 16)
    features = net.embed(x)
    assert features.shape == (2, 16, 1, 1) and net.levels(x).shape == (2, 16, 4, 4)
    assert torch.allclose(net(x), features.flatten(1) @ net.prototypes.T + net.linear.bias, atol=1e-6)


def test_features_are_means_over_places_of_blocks_that_add_to_what_they_are_given():
    net, x = encoder(), torch.randn(2, 3, 16, 16)
    by_hand = torch.nn.functional.silu(net.norm(net.levels(x))).flatten(2).mean(2)
    torch.testing.assert_close(net.best_vectors(x, 0), by_hand)
    block = net.levels[0]
    with torch.no_grad():
        block.convs[1].weight.zero_()
        block.convs[1].bias.zero_()
    torch.testing.assert_close(block(x), block.down(x))


def test_it_stands_where_a_prototype_encoder_stands():
    net, x = encoder(), torch.randn(2, 3, 16, 16)
    match = net.match(x)
    assert torch.equal(match.scores, net(x)) and torch.equal(net.similarities(x)[:, :, 0, 0], net(x))
    assert (match.boxes == torch.tensor([0, 0, 16, 16])).all() and net.receptive_field.cells(16) == 1
    assert net.highest is None and len(net.prototypes) == 5 and net.largest_map(16) == 8 * 64


def test_every_pixel_reaches_every_coordinate():
    net, x = encoder(), torch.randn(1, 3, 16, 16, requires_grad=True)
    for k in range(5):
        (gradient,) = torch.autograd.grad(net(x)[0, k], x)
        assert (gradient.abs().sum(1) > 0).all()


def test_mmd_against_its_closed_form():
    """Of two normal distributions N(0, I) and N(mu, I) the squared discrepancy under exp(-|a - b|^2 / m) is known."""
    m, mean, n = 4, torch.tensor([2.0, 1.0, 0.0, -1.0]), 4000
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, m, generator=generator) for _ in range(2))
    base = (1 + 4 / m) ** (-m / 2)  # E exp(-|d|^2 / m) of d ~ N(0, 2 I)
    shifted = base * math.exp(-mean.square().sum().item() / (m + 4))
    assert mmd(first + mean, second).item() == pytest.approx(2 * base - 2 * shifted, abs=0.012)
    assert mmd(first, second).item() == pytest.approx(0, abs=0.003)


def test_mmd_leaves_out_pairs_of_a_point_with_itself():
    found = mmd(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
    between = (1 + math.exp(-4) + 2 * math.exp(-1)) / 4
    assert found.item() == pytest.approx(math.exp(-1) + math.exp(-4) - 2 * between)


def test_mmd_pulls_codes_towards_the_prior():
    generator = torch.Generator().manual_seed(0)
    codes = (torch.randn(64, 3, generator=generator) * 0.3 + 0.8).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        mmd(codes, torch.randn(64, 3, generator=generator)).backward()
        optimizer.step()
    assert codes.mean(0).abs().max() < 0.4 and 0.6 < codes.std(0).mean() < 1.4


@pytest.mark.parametrize("size", [8, 16, 32, 48, 64, 224])
def test_levels_end_at_four_to_seven_pixels(size):
    layers = recipe.dense_layers(size)
    assert len({len(values) for values in layers.values()}) == 1 and (4 <= size // 2 ** len(layers["channels"]) < 8)


def test_a_run_with_a_dense_code_trains_and_can_be_looked_at(bench):
    names = ("channels", "kernels", "strides", "paddings")
    settings = {f"model.encoder.{name}": "auto" for name in names} | {"model.encoder.kind": "dense"}
    bench.config = bench.write_config(settings | {"train.spread": 0.0, "train.score_noise": 0.0, "train.mmd": 0.1})
    bench.train()
    assert yaml.safe_load((bench.version(0) / "config.yaml").read_text())["model"]["encoder"]["kind"] == "dense"
    bench.run("analysis/evaluation/prototype_quality.py", "--device", "cpu")
    bench.run("train/conditional_sampling.py", "--total_gen_num", 2, "--device", "cpu", "--steps", 1)
    refused = bench.run("train/convert_released.py", "--export", check=False)
    assert refused.returncode == 2 and "model.encoder.kind" in refused.stderr


def test_widths_must_divide_by_the_groups():
    values = {"name": "x", "data": {"source": "mnist5k", "image_size": 32, "channels": 1}, "train": {"epochs": 3}}
    with pytest.raises(UserError, match="divide by the 8 groups"):
        validate(values | {"model": {"encoder": {"kind": "dense", "channels": [12, 16]}}}, "test")


def test_its_coordinates_have_a_health_table():
    run = SimpleNamespace(model=SimpleNamespace(encoder=encoder()))
    scores = np.random.default_rng(0).normal(size=(20, 5))
    table = health_table(run, scores, pd.DataFrame(index=range(20)), np.ones(5))
    assert not table["dead"].any() and not table["duplicate"].any() and len(table) == 5
