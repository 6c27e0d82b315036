"""Numbers about prototypes, on labels with known answers, and the scripts that print them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.measures.features import fidelity, grain
from analysis.measures.quality import captured_and_tad, entropy_bits, evaluate, held_out_accuracy
from analysis.schemas import DISTANCE, QUALITY, RECONSTRUCTION, distance_of


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
    found = evaluate(scores, labels)
    table = found.table
    assert table.loc["seen", "latent"] > 0.99 and table.loc["seen", "prototype"] == 2 and found.captured == ["seen"]
    assert 0.4 < table.loc["hidden", "latent"] < 0.6


def test_ten_positives_are_in_every_fold():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = pd.DataFrame({"rare": (rng.permutation(300) < 10).astype(int)})
        scores = rng.normal(size=(300, 4))
        scores[:, 0] += 9 * labels["rare"]
        assert evaluate(scores, labels).table.loc["rare", "latent"] > 0.99


def test_a_regression_is_judged_on_other_images_than_it_learnt_on():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, 3, 300), rng.integers(0, 3, 3000)
    told, noise = np.eye(3)[labels], rng.normal(size=(300, 60))
    assert held_out_accuracy(told, labels, np.eye(3)[others], others) == 1.0
    by_heart = held_out_accuracy(noise, labels, noise, labels)
    assert by_heart > 0.5 and held_out_accuracy(noise, labels, rng.normal(size=(3000, 60)), others) < 0.4


def test_quality_script(trained):
    for extra in ([], ["--untrained"]):
        done = trained.run("analysis/evaluation/prototype_quality.py", *extra)
        assert "40 images" in done.stdout
    folder = trained.records / "prototype_quality" / "tiny_v0"
    assert set(pd.read_csv(folder / "quality.csv")["attribute"]) <= {"Bright", "Left"}
    assert (folder / "untrained.csv").is_file()
    assert all(0.5 <= QUALITY.read(folder, of)["single"] <= 1 for of in ("quality", "untrained"))


def test_reconstruction_script(trained):
    trained.run("analysis/evaluation/reconstruct.py", "--num_samples", 5, "--steps", 8)
    folder = trained.records / "reconstruct" / "tiny_v0"
    numbers = RECONSTRUCTION.read(folder)
    arrays = np.load(folder / "reconstruct.npz")
    assert numbers["network_calls"] == 2 * 7 + 15 and arrays["original"].shape == (5, 16, 16, 3)
    error = (arrays["original"].astype(float) - arrays["own"]) ** 2
    expected = np.mean(10 * np.log10(255**2 / error.mean((1, 2, 3))))
    assert numbers["own"]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert numbers["own"]["psnr"] > numbers["random"]["psnr"] and set(numbers["fixed"]) == {"psnr", "ssim"}
    assert Image.open(folder / "reconstruct.png").width > 300


def test_fidelity_of_known_points():
    line = np.arange(20.0)[:, None] @ np.ones((1, 2))
    same = fidelity(line, line + 1e-3, 2)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    far = fidelity(line, line + 100, 2)
    assert set(far.values()) == {0.0}
    half = fidelity(
        line, np.concatenate([line[:10], line[:10] + 500]) + 1e-3, 2
    )  # half the points are nowhere, half the data are not met
    assert half["precision"] == 0.5 and 0.4 < half["coverage"] < 0.7 and 0.4 < half["density"] < 0.7


def test_grain_of_known_images(tmp_path):
    ramp = np.add.outer(np.arange(8), 3 * np.arange(8)).astype(np.uint8)
    board = (np.indices((8, 8)).sum(0) % 2 * 10).astype(np.uint8)
    for name, pixels in (("ramp", ramp), ("board", board)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert (
        grain([tmp_path / "ramp.png"]) == 0 and grain([tmp_path / "board.png"]) == 40
    )  # four neighbours, ten levels each
    assert grain([tmp_path / "ramp.png", tmp_path / "board.png"]) == 20


def test_frechet_distance_without_inception(trained):
    pytest.importorskip("efficientnet_lite_pytorch", reason="optional extra [features]")
    made = trained.run("train/conditional_sampling.py", "--steps", 2, "--total_gen_num", 8).stdout
    folder = made.split(" images in ")[1].split(" (")[0]
    done = trained.run("analysis/evaluation/fid.py", "--features", "efficientnet-lite0", "--images", folder)
    assert "Frechet distance (EfficientNet-lite0)" in done.stdout and "FID" not in done.stdout.split("images a side")[
        0
    ].replace("/FID/", "")
    file = Path(done.stdout.split("protocol: ")[1].strip())
    numbers = DISTANCE.read(file.parent, file.stem)
    assert distance_of(numbers) == ("Frechet distance (efficientnet-lite0)", numbers["frechet_distance"])
    assert numbers["frechet_distance"] > 0 and numbers["dims"] == 1280 and 0 <= numbers["precision"] <= 1
