"""Numbers about prototypes, on labels with known answers, and the scripts that print them."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.measures.quality import captured_and_tad, entropy_bits, evaluate


def test_tad_on_a_known_answer():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 4000))
    labels = np.array([a, b, a])  # the third shares all its entropy with the first
    single = np.array([[0.9, 0.6, 0.5], [0.5, 0.7, 0.6], [0.9, 0.6, 0.5]])
    assert captured_and_tad(single, labels) == ([], 0.0)
    captured, tad = captured_and_tad(np.array([[0.9, 0.6], [0.8, 0.95]]), labels[:2])
    assert captured == [0, 1] and tad == pytest.approx(0.3 + 0.15)
    assert entropy_bits(np.array([0, 1])) == pytest.approx(1)


def test_latent_auroc_finds_what_is_there_and_only_that():
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"seen": rng.integers(0, 2, 600), "hidden": rng.integers(0, 2, 600)})
    scores = rng.normal(size=(600, 4))
    scores[:, 2] -= 4 * labels["seen"]
    table, captured, _, _ = evaluate(scores, labels)
    assert table.loc["seen", "latent"] > 0.99 and table.loc["seen", "prototype"] == 2 and captured == ["seen"]
    assert 0.4 < table.loc["hidden", "latent"] < 0.6


def test_quality_script(trained):
    for extra in ([], ["--untrained"]):
        done = trained.run("analysis/evaluation/prototype_quality.py", "--device", "cpu", *extra)
        assert "40 images" in done.stdout
    folder = trained.records / "prototype_quality" / "tiny_v0"
    assert set(pd.read_csv(folder / "quality.csv")["attribute"]) <= {"Bright", "Left"} and (folder / "untrained.csv").is_file()


def test_reconstruction_script(trained):
    trained.run("analysis/evaluation/reconstruct.py", "--device", "cpu", "--num_samples", 5, "--steps", 8)
    folder = trained.records / "reconstruct" / "tiny_v0"
    numbers = json.loads((folder / "reconstruct.json").read_text())
    arrays = np.load(folder / "reconstruct.npz")
    assert numbers["network_calls"] == 2 * 7 + 15 and arrays["original"].shape == (5, 16, 16, 3)
    error = (arrays["original"].astype(float) - arrays["own"]) ** 2
    expected = np.mean(10 * np.log10(255**2 / error.mean((1, 2, 3))))
    assert numbers["own"]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert numbers["own"]["psnr"] > numbers["random"]["psnr"] and set(numbers["fixed"]) == {"psnr", "ssim"}
    assert Image.open(folder / "reconstruct.png").width > 300
