"""Data and weights that go to extremes: each trains and can be looked at, or is refused in one line."""

import numpy as np
import pytest
import torch
from conftest import draw_images
from PIL import Image

from train.errors import UserError
from train.images import to_uint8

SCRIPTS = {
    "train/conditional_sampling.py": ["--total_gen_num", 3, "--steps", 3],
    "train/train_latent_ddim.py": ["--set", "epochs=2", "--set", "width=16", "--set", "layers=2"],
    "train/unconditional_sampling.py": ["--total_gen_num", 3, "--steps", 3],
    "analysis/interpretability/visualize_prototype.py": ["--steps", 3, "--prototypes", "1"],
    "analysis/interpretability/ownership.py": [],
    "analysis/interpretability/information.py": ["--num_samples", 50, "--prototypes", "0,1"],
    "analysis/interpretability/trace_emergence.py": [
        "--draws",
        50,
        "--num_samples",
        2,
        "--steps",
        3,
        "--prototypes",
        "1",
    ],
    "analysis/manipulation/manipulate.py": ["--set", "1=max", "--images", "0", "--steps", 3],
    "analysis/evaluation/reconstruct.py": ["--steps", 3],
    "analysis/evaluation/consistency.py": ["--steps", 3, "--prototypes", "0,1"],
    "analysis/evaluation/extrapolate.py": ["--steps", 3, "--frames", 2],
    "analysis/evaluation/prototype_quality.py": [],
    "analysis/evaluation/faithfulness.py": ["--steps", 3, "--num_samples", 4],
    "analysis/diagnosis/diagnose.py": ["--steps", 3],
}
LOOKING = ("train/conditional_sampling.py", "analysis/interpretability/visualize_prototype.py")
INFORMATION = "analysis/interpretability/information.py"


def use(bench, scripts=SCRIPTS) -> dict[str, str]:
    """Scripts on the newest run: '' where one went through, else the one line in which it refuses."""
    said = {}
    for script in scripts:
        options = SCRIPTS[script]
        done = bench.run(script, *options, check=False)
        errors = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        assert "Traceback" not in done.stderr and (done.returncode, len(errors)) in ((0, 0), (2, 1)), (
            f"{script}: {done.stderr}"
        )
        said[script] = "".join(errors)
    return said


def folder_config(bench, images, **changes):
    bench.config = bench.write_config({"data.path": str(images), "data.metadata": None} | changes)


def test_one_image_is_refused_with_what_it_takes(bench):
    draw_images(bench.home / "one", count=1)
    folder_config(bench, bench.home / "one")
    done = bench.train(check=False)
    assert done.returncode == 2 and "test split is empty (images: train 1, val 0, test 0)" in done.stderr


def test_images_that_are_all_the_same(bench):
    draw_images(bench.home / "one", count=1)
    (bench.home / "same").mkdir()
    for i in range(20):
        (bench.home / "same" / f"{i}.png").write_bytes((bench.home / "one" / "000.png").read_bytes())
    folder_config(bench, bench.home / "same")
    bench.train()
    said = use(bench)
    assert not said["train/unconditional_sampling.py"] and not said["analysis/interpretability/visualize_prototype.py"]
    assert "no attribute" in said["analysis/evaluation/prototype_quality.py"]


def test_attributes_that_every_image_has(bench):
    table = bench.images / "metadata.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text("\n".join(",".join([*row[:2], "Bright" if i == 0 else "1"]) for i, row in enumerate(rows)) + "\n")
    bench.train()
    labelled = ("evaluation/faithfulness", "evaluation/prototype_quality", "diagnosis/diagnose")
    said = use(bench, [*LOOKING, INFORMATION, *(f"analysis/{name}.py" for name in labelled)])
    assert not said[INFORMATION] and "two attributes" in said["analysis/diagnosis/diagnose.py"]


def test_images_smaller_than_a_patch_and_batches_larger_than_the_data(bench):
    fields = {"model.encoder.kernels": [5, 5], "model.encoder.strides": [2, 2], "model.encoder.paddings": [2, 2]}
    bench.config = bench.write_config(fields | {"data.image_size": 8, "train.batch_size": 200})
    bench.train()  # a field of 13 pixels, images of 8
    assert not any(use(bench, [*LOOKING, "analysis/interpretability/ownership.py"]).values())
    too_small = bench.write_config(
        {"data.image_size": 8, "model.encoder.kernels": [9, 9], "model.encoder.paddings": [0, 0]}, "small.yaml"
    )
    done = bench.run("train/train_patronus.py", "--config", too_small, check=False)
    assert done.returncode == 2 and "leave no cell" in done.stderr


def test_a_prototype_that_nothing_matches(bench):
    bench.train()
    path = bench.version(0) / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    for weights in (state["model"], state["ema"]):
        weights["encoder.features.2.bias"][0], weights["encoder.features.2.weight"][0] = 0, 0
        weights["encoder.prototypes"][1] = torch.eye(8)[0] * -1  # a direction in which no patch points
    torch.save(state, path)
    scripts = [*LOOKING, INFORMATION, "analysis/interpretability/ownership.py", "analysis/manipulation/manipulate.py"]
    assert not any(use(bench, scripts).values())


def test_weights_that_are_no_numbers(bench):
    bench.train()
    path = bench.version(0) / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    state["ema"]["unet.last.bias"][:] = float("nan")
    torch.save(state, path)
    assert all("unet.last.bias" in line for line in use(bench, LOOKING).values())
    with pytest.raises(UserError, match="1 of 2 images"):
        to_uint8(torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), float("nan"))]))


def test_ones_own_grey_16_bit_images_of_mixed_sizes(bench):
    folder, rng = bench.home / "grey", np.random.default_rng(0)
    folder.mkdir()
    for i in range(30):
        h, w = rng.integers(10, 40, 2)
        values = rng.integers(0, 20000, (h, w), dtype=np.uint16)
        values[: h // 2] += np.uint16(40000 * (i % 2))
        Image.fromarray(values).save(folder / f"scan_{i}.png")
    folder_config(bench, folder, **{"data.channels": 1})
    bench.train()
    latent = ["train/train_latent_ddim.py", "train/unconditional_sampling.py"]
    assert not any(use(bench, [*LOOKING, *latent, "analysis/evaluation/faithfulness.py"]).values())
    made = sorted((bench.records / "FID" / "cond_tiny_0" / "run_0").glob("*.png"))
    with Image.open(made[0]) as image:
        assert len(made) == 3 and image.mode == "L" and image.size == (16, 16)
    cached = np.load(next((bench.home / "data" / "cache").glob("folder_train_1x16_*.npy")))
    bright = cached[:, :8].mean((1, 2, 3)) > 128  # 16 bits are scaled, not clipped
    assert 0 < bright.sum() < len(bright)
