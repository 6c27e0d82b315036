"""Latent models: a known distribution comes back, resuming changes nothing, unconditional images and their FID."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import DEVICE, draw_images
from PIL import Image
from pytorch_fid import inception

from analysis.evaluation.fid import frechet
from models.latent import LatentMLP, LatentModel, LatentUNet1d
from models.prototype_encoder import MAX_SCORE
from models.samplers import SeededNoise, heun
from models.schedule import LinearSchedule
from train import latents, runs
from train.data import dataset
from train.data.dataset import load_split
from train.errors import UserError
from train.latent_loop import LatentTrainer
from train.latents import ScoreSplits, build_latent, latent_config
from train.scores import encode

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"


def mixture(count: int) -> torch.Tensor:
    """Scores of two Gaussian clusters in four dimensions, of which the first two are correlated within each."""
    generator = torch.Generator().manual_seed(3)
    which = (torch.rand(count, generator=generator) < 0.4).float()[:, None]
    n = torch.randn(count, 4, generator=generator)
    n[:, 1] = 0.8 * n[:, 0] + 0.6 * n[:, 1]
    return torch.tensor([2.0, 3.0, 1.0, 4.0]) + 0.3 * n + which * torch.tensor([1.5, 0.0, -0.5, 2.0])


def test_a_known_mixture_comes_back(tmp_path):
    torch.manual_seed(0)
    scores = mixture(3000)
    config = latent_config({"width": 96, "layers": 3, "epochs": 60, "lr": 2e-3}, "test")
    splits, device = ScoreSplits(scores[300:], scores[:300]), torch.device(DEVICE)
    trainer = LatentTrainer(config, build_latent(config, 4, MAX_SCORE), splits, {}, device)
    trainer.run(tmp_path)
    model = trainer.averaged
    sigmas = model.sigmas(18)
    drawn = model.scores(heun(model.denoise, float(sigmas[0]) * SeededNoise(range(4000), (4,), DEVICE)(), sigmas)).cpu()
    torch.testing.assert_close(drawn.mean(0), scores.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(0), scores.std(0), atol=0.06, rtol=0)
    torch.testing.assert_close(torch.corrcoef(drawn.T), torch.corrcoef(scores.T), atol=0.08, rtol=0)
    assert ((drawn[:, 0] > 2.75).float().mean() - 0.4).abs() < 0.04  # both clusters, in their shares
    assert (tmp_path / "best.pt").is_file() and trainer.best < json.loads(
        (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    )["held_out"]


def test_few_vectors_get_as_many_steps_as_learning_takes():
    steps = {vectors: latent_config({}, "test").steps(vectors) for vectors in (40, 6000, 60000)}
    assert steps == {40: 5600, 6000: 5600, 60000: 28125}  # 120 epochs of 60,000
    assert latent_config({"epochs": 3}, "test").steps(600) == 8


def test_resuming_changes_nothing(tmp_path):
    scores = ScoreSplits(mixture(200), mixture(40))

    def trainer(state=None):
        torch.manual_seed(0)
        config = latent_config(
            {
                "network": "unet1d",
                "formulation": "eps",
                "multipliers": [1, 2],
                "blocks": 1,
                "epochs": 4,
                "batch_size": 64,
            },
            "test",
        )
        return LatentTrainer(config, build_latent(config, 4, MAX_SCORE), scores, {}, torch.device(DEVICE), state)

    straight, first = trainer(), trainer()
    for _ in range(6):
        straight.train_step()
    for _ in range(3):
        first.train_step()
    first.save_last(tmp_path)
    second = trainer(torch.load(tmp_path / "last.pt", weights_only=True))
    for _ in range(3):
        second.train_step()
    torch.testing.assert_close(straight.averaged.state_dict(), second.averaged.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("splits", "enough"), [({"train": 3}, True), ({"train": 2}, False), ({"train": 1, "val": 5}, False)]
)
def test_a_deviation_takes_two_vectors(tmp_path, monkeypatch, splits, enough):
    listing = SimpleNamespace(splits=[split for split, count in splits.items() for _ in range(count)])
    run = SimpleNamespace(name="tiny", config=SimpleNamespace(data=None))
    monkeypatch.setattr(latents, "scores_file", lambda run, split: tmp_path / f"{split}.npy")
    monkeypatch.setattr(latents, "list_source", lambda data: listing)
    for split, count in splits.items():
        np.save(tmp_path / f"{split}.npy", np.ones((count, 4), dtype=np.float32))
    if enough:
        assert [len(part) for part in latents.cached_scores(run, torch.device("cpu"))] == [2, 1]
    else:
        with pytest.raises(UserError, match="tiny: a latent model learns from 2 training images at least"):
            latents.cached_scores(run, torch.device("cpu"))


@pytest.fixture
def placed_run(trained, tmp_path, monkeypatch):
    """A run with images of its own; its latent models and caches lie below a temporary folder."""
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    monkeypatch.setattr(latents, "LATENTS_DIR", tmp_path / "latents")
    monkeypatch.setattr(dataset, "DATA_DIR", tmp_path / "data")
    run = runs.load_run("tiny", 0)
    data = run.config.data.model_copy(update={"path": str(draw_images(tmp_path / "images")), "metadata": None})
    return run._replace(config=run.config.model_copy(update={"data": data}))


def test_cached_scores_are_those_of_the_present_encoder_and_images(placed_run):
    def found():
        scores = latents.cached_scores(placed_run, torch.device("cpu"))
        expected = encode(placed_run.model, load_split(placed_run.config.data, "train"), progress=False)
        assert torch.equal(scores.train, expected)
        return len(expected)

    assert found() == 28  # of 40, without 20 % for testing and 10 % for validation
    placed_run.model.encoder.prototypes.mul_(2)  # as of a version that was deleted and trained anew
    assert found() == 28
    draw_images(Path(placed_run.config.data.path), 50)
    dataset._list_source.cache_clear()
    assert found() == 35


def test_a_latent_model_of_another_training_of_the_same_step_is_refused(placed_run):
    config, scores = latent_config({"width": 8, "layers": 1}, "test"), torch.rand(20, 6)
    splits, origin = ScoreSplits(scores, scores), latents.origin_of(placed_run)
    trainer = LatentTrainer(config, build_latent(config, 6, None), splits, origin, torch.device("cpu"))
    folder = latents.latents_folder(placed_run) / "version_0"
    folder.mkdir(parents=True)
    trainer.save_best(folder)
    for name in ("version_0_old", "version_²"):  # no versions
        (folder.with_name(name)).mkdir()
        trainer.save_best(folder.with_name(name))
    assert latents.load_latent(placed_run)[1] == 0
    placed_run.model.encoder.prototypes.mul_(2)
    with pytest.raises(UserError, match="learnt the scores of another training of tiny version 0, at step 6"):
        latents.load_latent(placed_run)
    trainer.origin = {"run_step": placed_run.step}  # as files of before
    trainer.save_best(folder)
    assert latents.load_latent(placed_run)[1] == 0
    with pytest.raises(UserError, match="another training"):
        latents.load_latent(placed_run._replace(step=7))


@pytest.mark.parametrize("scores", [5, 30, 100])
def test_the_published_network_takes_any_length(scores):
    net = LatentUNet1d(8, (1, 2, 4), 1).eval()
    x = torch.randn(2, scores)
    assert net(x, torch.tensor([3.0, 50.0])).shape == x.shape
    assert LatentMLP(scores, 16, 2)(x, torch.tensor([3.0, 50.0])).shape == x.shape


def test_denoiser_of_a_silent_network_has_a_closed_form():
    model = LatentModel(LatentMLP(3, 8, 2), 3)  # zero output: D = c_skip z, E[x0 | z] of unit Gaussian scores
    z, sigma = torch.randn(4, 3), torch.tensor([0.1, 1.0, 2.0, 10.0])
    torch.testing.assert_close(model.denoise(z, sigma), z / (1 + sigma[:, None] ** 2))
    eps = LatentModel(LatentMLP(3, 8, 2), 3, LinearSchedule(100))
    torch.testing.assert_close(eps.denoise(z, sigma), z)


def test_scores_stay_in_their_range():
    model = LatentModel(LatentMLP(2, 8, 2), 2, None, MAX_SCORE)
    model.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    s = model.scores(torch.tensor([[100.0, 0.0], [-100.0, 0.0]]))
    assert s.tolist() == [[pytest.approx(MAX_SCORE), 5.0], [0.0, 5.0]]
    torch.testing.assert_close(model.scores(model.standardise(torch.tensor([[2.0, 5.0]]))), torch.tensor([[2.0, 5.0]]))


@pytest.fixture(scope="module")
def with_latent(trained):
    small = ["--set", "width=32", "--set", "layers=2", "--set", "epochs=4"]
    done = trained.run("train/train_latent_ddim.py", *small)
    assert "unconditional_sampling.py" in done.stdout
    return trained


def images(folder):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(folder.iterdir())}


def test_unconditional_images_do_not_depend_on_batches(with_latent):
    options = ["--steps", 3, "--total_gen_num", 7]
    parent = with_latent.records / "FID" / "uncond_tiny_0"
    with_latent.run("train/unconditional_sampling.py", *options, "--batch", 7)
    with_latent.run("train/unconditional_sampling.py", *options, "--batch", 2)
    one, two = images(parent / "run_0"), images(parent / "run_1")
    assert len(one) == 7 and all(np.abs(one[name] - two[name]).max() <= 1 for name in one)
    assert np.abs(one["000000.png"] - one["000001.png"]).max() > 1
    assert json.loads((parent / "run_0.json").read_text())["latent_version"] == 0
    with_latent.run("train/unconditional_sampling.py", *options, "--eta", 0.5)
    assert json.loads((parent / "run_2.json").read_text())["sampler"] == "ancestral"


@pytest.mark.parametrize(
    ("script", "args", "expected"),
    [
        ("train/unconditional_sampling.py", ["--latent_version", 8], "no such latent model"),
        ("train/unconditional_sampling.py", ["--eta", 0.5, "--sampler", "heun"], "--sampler ancestral"),
        ("train/train_latent_ddim.py", ["--set", "depth=3"], "depth: unknown key; allowed here: network"),
        ("train/train_latent_ddim.py", ["--resume", 5], "holds no training"),
        ("train/train_latent_ddim.py", ["--resume", 0, "--set", "width=64"], "only epochs, batch_size, lr"),
        ("train/train_latent_ddim.py", ["--set", f"seed={10**20}"], "seed = 1000"),
        ("analysis/evaluation/fid.py", ["--images", "/nowhere"], "no such folder"),
        ("analysis/evaluation/fid.py", ["--inception-weights", "/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_bad_input_is_one_line(with_latent, inception_home, script, args, expected):
    with_latent.environment["TORCH_HOME"] = str(inception_home)
    done = with_latent.run(script, *args, check=False)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def inception_home(tmp_path_factory):
    """A TORCH_HOME with Inception weights, randomly initialised but for a scale that lets features differ, in the
    format that pytorch-fid reads."""

    class Built(Exception):
        pass

    def stop(module, state_dict):
        raise Built(module)

    torch.manual_seed(0)
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(torch.nn.Module, "load_state_dict", stop),
        pytest.raises(Built) as built,
    ):
        inception.fid_inception_v3()
    net = built.value.args[0]
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    home = tmp_path_factory.mktemp("torch_home")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(net.state_dict(), home / "hub" / "checkpoints" / WEIGHTS)
    return home


def test_fid_is_that_of_pytorch_fid_by_hand(with_latent, inception_home, tmp_path):
    with_latent.environment["TORCH_HOME"] = str(
        tmp_path
    )  # the weights are given as a file, as on a machine without a network
    with_latent.run("train/conditional_sampling.py", "--steps", 3, "--total_gen_num", 12, "--seed", 5)
    folder = sorted((with_latent.records / "FID" / "cond_tiny_0").glob("run_*/"))[-1]
    weights = inception_home / "hub" / "checkpoints" / WEIGHTS
    done = with_latent.run(
        "analysis/evaluation/fid.py", "--images", folder, "--dims", 64, "--inception-weights", weights
    )
    report = json.loads(next((with_latent.records / "fid_scores" / "tiny_v0").glob("cond_*.json")).read_text())
    assert report["images_a_side"] == 10 and report["images_a_side_of_floor"] == 5 and report["sampling"]["seed"] == 5
    pair = [report["folders"]["generated"], report["folders"]["real"]]
    command = [sys.executable, "-m", "pytorch_fid", *pair, "--dims", "64", "--device", DEVICE, "--num-workers", "0"]
    by_hand = subprocess.run(
        command,
        env=with_latent.environment | {"TORCH_HOME": str(inception_home)},
        capture_output=True,
        text=True,
        check=True,
    )
    value = float(by_hand.stdout.split("FID:")[1])
    assert report["fid"] == pytest.approx(value, rel=1e-6, abs=1e-9) and value > 1e-3
    assert "python -m pytorch_fid" in done.stdout and "64 features need" in done.stdout


def test_samples_that_are_their_sources_keep_every_attribute(bench, inception_home):
    bench.environment["TORCH_HOME"] = str(inception_home)
    judge = ["analysis/evaluation/fid.py", "--dims", 64, "--attributes"]
    bench.images = draw_images(bench.home / "many", 120)
    bench.config = bench.write_config({"name": "many"})
    bench.train()
    assert "attributes of the source kept: " in bench.run(*judge).stdout
    samples = bench.records / "FID" / "cond_many_0" / "run_0"
    for real in next((bench.records / "FID").glob("real_many_test_*")).glob("*.png"):
        shutil.copy(real, samples)
    assert "attributes of the source kept: 1.000" in bench.run(*judge).stdout
    samples.with_suffix(".json").unlink()
    done = bench.run(*judge, "--images", samples, check=False)
    assert done.returncode == 2 and "no conditional samples" in done.stderr


def test_fid_refuses_what_is_not_comparable(with_latent, inception_home, tmp_path):
    with_latent.environment["TORCH_HOME"] = str(inception_home)
    done = with_latent.run("analysis/evaluation/fid.py", "--dims", 64, "--attributes", check=False)
    assert done.returncode == 2 and "no attribute that at least 10 test images have" in done.stderr
    assert "FID" not in done.stdout.replace("/FID/", "")  # refused before anything is measured
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for text in ("is 20x20, but the run's images are 16x16", "something else than PNGs"):
        done = with_latent.run("analysis/evaluation/fid.py", "--images", tmp_path, "--dims", 64, check=False)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
        (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    done = with_latent.run("analysis/evaluation/fid.py", "--inception-weights", tmp_path / "bad.pth", check=False)
    assert done.returncode == 2 and "not a readable checkpoint" in done.stderr


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 3))
    assert frechet(a, a + np.array([3.0, 0, 0])) == pytest.approx(9, abs=1e-4)
    assert frechet(a, 2 * a) == pytest.approx(
        np.trace(np.cov(a, rowvar=False)) + 3 * 0 + (a.mean(0) ** 2).sum(), abs=1e-4
    )
