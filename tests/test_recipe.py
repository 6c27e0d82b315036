"""Settings that are derived: from the size of images, from the images, from the length of a training."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from models.receptive_field import ReceptiveField
from train import recipe
from train.build import UNMEASURED, build_model, measured_sigma_data
from train.config import validate
from train.data.dataset import ImageSet

SMALLEST = {"name": "x", "data": {"source": "mnist5k", "image_size": 32, "channels": 1}, "train": {"epochs": 3}}


def config(size: int = 32, channels: int = 1, **train):
    data = {"source": "folder", "image_size": size, "channels": channels}
    return validate({"name": "x", "data": data, "train": train or {"epochs": 3}}, "test")


def images(pixels: np.ndarray) -> ImageSet:
    return ImageSet(pixels, [str(i) for i in range(len(pixels))], pd.DataFrame(index=range(len(pixels))), None)


@pytest.mark.parametrize("size", [8, 16, 28, 32, 36, 48, 64, 96, 128, 224, 256, 512])
def test_every_size_gets_a_network_that_fits(size):
    found = config(size)
    unit = found.model.unshuffle * 2 ** (len(found.model.multipliers) - 1)
    assert size % unit == 0 and (len(found.model.multipliers) == 4 or size // unit < 8 or size // unit % 2)
    field = found.model.encoder.receptive_field
    assert isinstance(field, ReceptiveField) and (
        size < 32 or (16 - 6 <= field.cells(size) < 32 and field.size < size / 2)
    )


def test_the_default_run_has_the_sizes_that_its_readme_names():
    found = config(32, 3)
    assert found.model.multipliers == [1, 2] and found.model.sigma_max == 20
    assert found.train.noise.mean == -2.0 and found.train.noise.high_range == [-2.5, 3.0]
    larger = config(64, 3)
    assert larger.model.multipliers == [1, 2, 2] and larger.model.sigma_max == 40
    assert larger.train.noise.high_range == [-2.5, 3.7]


def test_the_share_that_place_explains():
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 2, (16, 16, 1)) * 100.0  # variance 2,500 over places
    noise = rng.normal(0, 50, (400, 16, 16, 1))  # variance 2,500 over images
    assert recipe.place_share(np.clip(pattern + 70 + 0 * noise, 0, 255).astype(np.uint8)) == pytest.approx(1, abs=0.01)
    half = recipe.place_share(np.clip(pattern / 2 + noise / 2 + 100, 0, 255).astype(np.uint8))
    assert half == pytest.approx(0.5, abs=0.03)
    rolled = [np.roll(pattern, rng.integers(0, 16, 2), (0, 1)) for _ in range(400)]  # a texture: it is anywhere
    assert abs(recipe.place_share(np.array(rolled, dtype=np.uint8))) < 0.01
    assert recipe.place_share(np.full((5, 8, 8, 3), 7, np.uint8)) == 0
    assert recipe.coordinates(np.array(rolled, dtype=np.uint8)) == 0


def test_steps_of_encoder_and_decoder():
    assert recipe.first_steps(6000, 64, None) == recipe.FEWEST_ENCODER_STEPS
    assert recipe.first_steps(16_000, 64, None) == 30 * 16_000 // 64
    assert recipe.first_steps(200_000, 64, None) == recipe.MOST_ENCODER_STEPS
    assert recipe.first_steps(6000, 64, 1000) == 250 and recipe.first_steps(6000, 64, 3) == 0


def test_what_is_given_is_not_derived():
    given = {"model": {"encoder": {"coordinates": 1.5}, "sigma_data": 0.3}, "train": {"steps": 100, "encoder_steps": 7}}
    before = validate(SMALLEST | given, "test")
    settled = recipe.settle(before, np.zeros((50, 32, 32, 1), np.uint8))
    assert settled.model.encoder.coordinates == 1.5 and settled.model.sigma_data == 0.3
    assert (settled.train.encoder_steps, settled.train.decoder_steps) == (7, 25)
    assert before.train.decoder_steps == "auto"  # the config itself is left alone
    assert recipe.settle(settled, np.zeros((50, 32, 32, 1), np.uint8)) == settled


def test_sigma_data_is_the_deviation_of_what_the_decoder_leaves():
    found = recipe.settle(config(16, 3), np.zeros((50, 16, 16, 3), np.uint8))
    model = build_model(found).eval()
    assert model.sigma_data == UNMEASURED
    train = images(np.random.default_rng(0).integers(0, 2, (40, 16, 16, 3), dtype=np.uint8) * 255)  # -1 and 1
    model.estimate = lambda s: torch.full((len(s), 3, 16, 16), 0.0)
    assert measured_sigma_data(model, train, torch.device("cpu")) == pytest.approx(1.0, abs=0.01)
    model.estimate = lambda s: torch.full((len(s), 3, 16, 16), 1.0)  # 0 or 2 is left
    assert measured_sigma_data(model, train, torch.device("cpu")) == pytest.approx(2**0.5, abs=0.06)


def test_a_run_holds_what_was_derived_and_goes_on_with_it(bench):
    """Sigma_data is measured between the phases, whether or not the run is interrupted there."""
    auto = {"model.sigma_data": "auto", "model.encoder.coordinates": "auto", "train.encoder_steps": "auto"}
    settings = auto | {"train.decoder_steps": "auto", "train.steps": 8}
    bench.config = bench.write_config(settings)
    bench.train()
    stored = yaml.safe_load((bench.version(0) / "config.yaml").read_text())
    assert (stored["train"]["encoder_steps"], stored["train"]["decoder_steps"]) == (2, 2)
    assert 0 < stored["model"]["sigma_data"] < 2 and stored["model"]["encoder"]["coordinates"] in (0.0, 2.0)
    state = torch.load(bench.version(0) / "checkpoints" / "last.pt", weights_only=True)
    assert state["config"] == stored
    metrics = (bench.version(0) / "metrics.jsonl").read_text().splitlines()
    bench.train("--set", "train.steps=4", "--set", "train.encoder_steps=2", "--set", "train.decoder_steps=1")
    again = yaml.safe_load((bench.version(1) / "config.yaml").read_text())
    assert again["model"]["sigma_data"] != "auto" and len(metrics) == len([json.loads(line) for line in metrics]) == 8
