"""Visualising and sampling a tiny run, as a user does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DEVICE, DEVICELESS, REPO
from PIL import Image
from sklearn.metrics import roc_auc_score

from analysis.drawing.figures import rendered
from analysis.drawing.sheet import GAP, Sheet
from analysis.measures.auroc import best_attributes, single_auroc
from analysis.schemas import HEALTH
from models import samplers
from models.prototype_encoder import PrototypeEncoder
from train import generation, runs
from train.data.dataset import ImageSet, load_split
from train.images import to_tensor, to_uint8
from train.scores import encode

SCRIPTS = [
    "train/train_patronus.py",
    "train/conditional_sampling.py",
    "analysis/interpretability/visualize_prototype.py",
]
MAIN = '\nif __name__ == "__main__":'
EVERY = sorted(
    str(file.relative_to(REPO))
    for room in ("analysis", "train")
    for file in (REPO / room).rglob("*.py")
    if MAIN in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", EVERY)
def test_help_needs_nothing_installed(tmp_path, script):
    command = [sys.executable, "-I", "-S", str(REPO / script), "--help"]  # without any package, from anywhere
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {Path(script).name}"), done.stderr
    assert ("--device" in done.stdout) == (script not in DEVICELESS)


def test_a_script_runs_the_code_that_it_lies_beside(tmp_path):
    other = tmp_path / "other"
    (other / "train").mkdir(parents=True)
    (other / "train" / "train_patronus.py").write_bytes((REPO / "train" / "train_patronus.py").read_bytes())
    (other / "global_config.py").write_text("raise SystemExit('of the other clone')")
    command = [sys.executable, str(other / "train" / "train_patronus.py")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and "of the other clone" in done.stderr


def samples(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def folder_of(done) -> Path:
    """Where a sampling script says that its images are."""
    return Path(done.stdout.split(" images in ")[1].split(" (")[0])


def sample(bench, *args, **options):
    return bench.run("train/conditional_sampling.py", "--steps", 3, *args, **options)


def test_sampling_is_exact_resumable_and_independent_of_batches_and_processes(trained):
    first = folder_of(sample(trained, "--total_gen_num", 13, "--batch", 13))
    number, whole = first.name.removeprefix("run_"), samples(first)
    assert sorted(whole) == [f"{i:06d}.png" for i in range(13)] and whole["000000.png"].shape == (16, 16, 3)
    (first / "000004.png").unlink()
    (first / "000009.png").unlink()
    assert "2 of them new" in sample(trained, "--total_gen_num", 13, "--batch", 1, "--run", number).stdout
    again = samples(first)
    second = folder_of(sample(trained, "--total_gen_num", 13, "--batch", 3, processes=2))
    shared = samples(second)
    for name in whole:
        for other in (again, shared):
            assert np.abs(whole[name].astype(int) - other[name]).max() <= 1
    assert not np.array_equal(whole["000000.png"], whole["000001.png"])
    settings = json.loads(second.with_suffix(".json").read_text())
    assert settings["steps"] == 3 and settings["averaged_weights"] is True
    refused = sample(trained, "--total_gen_num", 14, "--run", number, check=False)
    assert refused.returncode == 2 and "total_gen_num = 13" in refused.stderr


@pytest.mark.parametrize(
    ("script", "args", "expected"),
    [
        (1, ["--dataset", "cats"], "there are tiny"),
        (1, ["--version_num", 9], "there are 0"),
        (1, ["--steps", 0], "at least 1"),
        (1, ["--run", 77], "run_77"),
        (2, ["--prototypes", "0,99"], "the run has 0 to 5"),
        (2, ["--prototypes", "a"], "separated by commas"),
        (2, ["--device", "quantum"], "--device quantum"),
    ],
)
def test_what_does_not_exist_is_said_in_one_line(trained, script, args, expected):
    done = trained.run(SCRIPTS[script], *args, check=False)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_without_a_run_the_message_says_how_to_train(bench):
    done = bench.run(SCRIPTS[2], check=False)
    assert done.returncode == 2 and "train_patronus.py" in done.stderr


def test_a_foreign_checkpoint_is_refused_and_runs_nothing(bench):
    class Evil:
        def __reduce__(self):
            return (open, (str(bench.home / "evil"), "w"))

    file = bench.version(0) / "checkpoints" / "last.pt"
    file.parent.mkdir(parents=True)
    torch.save({"config": Evil()}, file)
    done = bench.run(SCRIPTS[1], check=False)
    assert done.returncode == 2 and "not a readable checkpoint" in done.stderr and not (bench.home / "evil").exists()


def test_visualisation(trained):
    done = trained.run(SCRIPTS[2], "--steps", 3, "--prototypes", "5,0")
    folder = trained.records / "vis_prototype" / "tiny_v0"
    assert {path.name for path in folder.iterdir()} == {
        "prototypes.png",
        "prototypes.pdf",
        "prototypes.npz",
        "health.csv",
        "about.json",
    }
    cards = np.load(folder / "prototypes.npz")
    assert (
        cards["prototypes"].tolist() == [5, 0]
        and cards["expected_high"].shape == (2, 16, 16, 3)
        and cards["after"].shape == (2, 3, 16, 16, 3)
    )
    difference = np.abs(cards["expected_high"].astype(int) - cards["expected_low"]).mean(-1)
    assert (
        np.abs(difference - cards["where"]).max() <= 1 and cards["where"].max() > 0
    )  # the map is what the two pictures differ by
    assert all(len(set(line)) == 5 for line in cards["patch_ids"].tolist())  # five images a prototype

    trained.run(SCRIPTS[2], "--paper", "--num_samples", 4, "--steps", 3, "--prototypes", "5,0")
    drawn = np.load(folder / "paper.npz")
    assert drawn["prototypes"].tolist() == [5, 0] and drawn["regenerated"].shape == (2, 16, 16, 3)
    for i in range(2):  # the patch is what the box cuts out, and its score is the map's maximum
        top, left, bottom, right = drawn["boxes"][i]
        assert np.array_equal(
            drawn["patches"][i][: bottom - top, : right - left], drawn["regenerated"][i][top:bottom, left:right]
        )
        assert drawn["maps"][i].max() == pytest.approx(drawn["score_after"][i], rel=1e-5)
    table = HEALTH.read(folder)
    assert (
        len(table) == 6
        and table["usage"].sum() == pytest.approx(1, abs=1e-4)
        and set(table["attribute"].str.removeprefix("not ")) <= {"Bright", "Left"}
    )
    assert "health.csv" in done.stdout


def test_auroc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, (60, 3)).astype(float), rng.integers(0, 2, 60).astype(float)
    scores[:, 2] = -labels
    expected = [roc_auc_score(labels, scores[:, k]) for k in range(3)]
    np.testing.assert_allclose(single_auroc(scores, labels), expected)
    with_gap = np.append(labels, np.nan)
    np.testing.assert_allclose(single_auroc(np.vstack([scores, scores[:1]]), with_gap), expected)
    names, best = best_attributes(scores, pd.DataFrame({"x": labels, "constant": np.ones(60)}))
    expected_names = ["x" if auroc >= 0.5 else "not x" for auroc in expected]
    assert names == expected_names and names[2] == "not x" and best[2] == 1
    which = rng.integers(0, 3, 60)
    classes = pd.DataFrame({name: (which == i).astype(int) for i, name in enumerate("abc")})
    single = np.stack([which == 0, which != 0], axis=1).astype(float)
    assert best_attributes(single, classes)[0][0] == "a" and best_attributes(single, classes)[0][1] in "bc"
    assert np.isnan(single_auroc(scores, np.ones(60))).all()


def test_the_command_line_offers_every_sampler():
    assert tuple(generation.SAMPLERS) == samplers.SAMPLERS


def test_encoding_in_batches_equals_one_by_one():
    torch.manual_seed(0)
    encoder = PrototypeEncoder(1, 4, [8], [3], [2], [1])
    model = type("Model", (), {"score": staticmethod(encoder)})()
    pixels = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), dtype=np.uint8)
    images = ImageSet(pixels, list("abcdefghijk"), pd.DataFrame(index=range(11)), None)
    torch.testing.assert_close(
        encode(model, images, batch=4, progress=False), encode(model, images, batch=1, progress=False)
    )


def test_one_step_is_what_the_scores_say(trained, monkeypatch):
    folder = folder_of(trained.run("train/conditional_sampling.py", "--steps", 1, "--total_gen_num", 2))
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    model = runs.load_run("tiny", 0, DEVICE).model
    s = model.score(to_tensor(load_split(runs.load_run("tiny", 0).config.data, "test").pixels[:2]).to(DEVICE))
    z = model.sigma_max * samplers.SeededNoise(range(2), (3, 16, 16), DEVICE)()
    expected = to_uint8(model.denoise(z, torch.full((2,), model.sigma_max, device=DEVICE), s))
    assert np.abs(np.stack(list(samples(folder).values())).astype(int) - expected).max() <= 1


def test_a_sheet_puts_pictures_where_it_says():
    sheet = Sheet(["", "a row"], ["", ""], side=1.0, notes=True)
    sheet.picture(0, 0, np.full((2, 4, 3), (255, 0, 0), np.uint8))  # twice as wide as high
    sheet.picture(1, 1, np.full((4, 4, 1), 100, np.uint8), box=(1, 1, 3, 3), note="below")
    sheet.figure.set_dpi(100)
    drawn = rendered(sheet.figure)

    def at(row: int, column: int, down: float, right: float) -> list[int]:
        """The colour at shares of a cell of one inch."""
        x, y = sheet.left + column * (1 + GAP) + right, sheet.top + row * sheet.pitch + down
        return drawn[round(100 * y), round(100 * x)].tolist()

    assert at(0, 0, 0.5, 0.03) == at(0, 0, 0.28, 0.5) == [255, 0, 0]  # the width is filled, half of the height
    assert at(0, 0, 0.2, 0.5) == at(0, 0, 0.8, 0.5) == at(0, 1, 0.5, 0.5) == [255, 255, 255]
    assert at(1, 1, 0.5, 0.5) == at(1, 1, 0.05, 0.05) == [100, 100, 100]
    red, green, _ = at(1, 1, 0.25, 0.5)  # the box starts a quarter down
    assert red > 200 and green < 60
    assert drawn.shape[0] == round(100 * (sheet.top + 2 * sheet.pitch))
