"""Training as a user runs it: whole scripts on tiny data."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import DEVICE, REPO

from train import runs
from train.build import build_model
from train.config import load_config
from train.data.dataset import ImageSet
from train.draws import batch_indices, draw_sigmas
from train.errors import UserError
from train.phases import learning_rate
from train.trainer import Trainer


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def assert_same_state(a, b):
    assert a["step"] == b["step"]
    for part in ("model", "ema"):
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), f"{part}.{name}"
    for part in ("optimizer", "muon"):
        assert a[part]["state"].keys() == b[part]["state"].keys() != set()
        for key, moments in a[part]["state"].items():
            for name, value in moments.items():
                assert torch.equal(value, b[part]["state"][key][name])


def test_a_run_leaves_what_it_promises(trained):
    folder = trained.version(0)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["train"]["weight_decay"] == 0.01 and config["name"] == "tiny"
    assert (folder / "samples" / "step_0000006.png").is_file()
    assert (folder / "loss.png").stat().st_size > 2000 and (folder / "samples.png").is_file()
    assert all(row["images_per_second"] > 0 and 0.05 < row["peak_memory_gb"] < 24 for row in rows)
    assert weights(folder)["step"] == 6 and weights(folder)["config"] == config
    assert not list(folder.rglob("*.tmp*"))


def test_sigterm_saves_and_resuming_goes_on(bench):
    named = ["--set", "name=mine"]
    process = bench.begin("train/train_patronus.py", "--config", bench.config, *named, "--set", "train.steps=5000")
    folder = bench.records / "patronus" / "mine" / "version_0"
    metrics = folder / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 4:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    output = "".join(process.communicate(timeout=120))
    assert (
        process.returncode == 128 + signal.SIGTERM and f"--config {bench.config} --set name=mine --resume 0" in output
    )
    stopped = weights(folder)["step"]
    assert stopped >= 4
    bench.train("--resume", 0, *named, "--set", f"train.steps={stopped + 4}")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert weights(folder)["step"] == stopped + 4 and steps == list(range(1, stopped + 5))


def test_resuming_from_a_checkpoint_equals_never_having_stopped(bench):
    """The trainer itself: six steps at a stretch against three, a round trip through the file, and three more."""
    config = load_config(bench.config)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    data = ImageSet(pixels, [str(i) for i in range(20)], pd.DataFrame(index=range(20)), None)

    def trainer(state=None):
        torch.manual_seed(0)
        return Trainer(config, build_model(config), data, torch.device(DEVICE), state=state)

    whole = trainer()
    for _ in range(6):
        whole.train_step()
    half = trainer()
    for _ in range(3):
        half.train_step()
    path = bench.home / "state.pt"
    torch.save(half.state(), path)
    torch.manual_seed(123)  # whatever happened in between
    rest = trainer(torch.load(path, weights_only=True))
    for _ in range(3):
        rest.train_step()
    assert_same_state(whole.state(), rest.state())


def test_what_is_set_when_a_run_goes_on_counts(bench):
    """Another weight decay, and an average of weights, which then starts at those of the checkpoint."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    data = ImageSet(pixels, [str(i) for i in range(20)], pd.DataFrame(index=range(20)), None)

    def trainer(*settings, state=None):
        config = load_config(bench.config, settings)
        return Trainer(config, build_model(config), data, torch.device(DEVICE), state=state)

    begun = trainer("train.ema=null")
    begun.train_step()
    rest = trainer("train.ema=0.9", "train.weight_decay=0.5", state=begun.state())
    assert [group["weight_decay"] for group in rest.optimizer.param_groups] == [0.5, 0.5]
    expected = begun.model.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in rest.ema.state_dict().items())


def test_a_run_finds_its_images_from_any_folder_and_where_they_are_moved_to(bench):
    def placed(folder):
        return ["--set", f"data.path={folder}", "--set", f"data.metadata={folder}/metadata.csv"]

    bench.train(*placed("images"))  # relative to the folder where one works
    stored = yaml.safe_load((bench.version(0) / "config.yaml").read_text())["data"]
    assert stored["path"] == str(bench.images) and stored["metadata"] == str(bench.images / "metadata.csv")
    bench.images.rename(bench.home / "moved")
    more = ["--resume", 0, "--set", "train.steps=7"]
    done = bench.train(*more, check=False)
    assert done.returncode == 2 and "images does not exist; set data.path" in done.stderr
    done = bench.train(*more, *placed("moved"), "--set", "data.limit=3", check=False)
    assert done.returncode == 2 and "--set data.limit=3: with --resume only train.*, data.path" in done.stderr
    bench.train(*more, *placed("moved"))
    state = weights(bench.version(0))
    assert state["step"] == 7 and state["config"]["data"]["path"] == str(bench.home / "moved")
    (bench.home / "moved").rename(bench.home / "again")
    bench.train("--resume", 0, *placed("again"))  # no step is left
    state = weights(bench.version(0))
    assert state["step"] == 7 and state["config"]["data"]["path"] == str(bench.home / "again")


def test_samples_may_come_before_the_first_line_of_the_log(bench):
    bench.train("--set", "train.samples_every=4", "--set", "train.log_every=100")
    assert (bench.version(0) / "samples" / "step_0000004.png").is_file() and (bench.version(0) / "loss.png").is_file()


def test_muon_cannot_come_or_go_within_a_run(bench):
    bench.train()
    done = bench.train("--resume", 0, "--set", "train.muon_lr=null", "--set", "train.steps=9", check=False)
    assert done.returncode == 2 and "train.muon_lr" in done.stderr and "Traceback" not in done.stderr
    bench.train("--resume", 0, "--set", "train.muon_lr=0.01", "--set", "train.steps=9")
    assert weights(bench.version(0))["step"] == 9


def test_compiled_training_takes_the_same_losses(bench, monkeypatch):
    def losses(changes):
        config = load_config(bench.write_config(changes))
        pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
        data = ImageSet(pixels, [str(i) for i in range(20)], pd.DataFrame(index=range(20)), None)
        torch.manual_seed(0)
        trainer = Trainer(config, build_model(config), data, torch.device(DEVICE))
        return [trainer.train_step().loss.item() for _ in range(4)]

    compiled = []
    whole = torch.nn.Module.compile
    # the graph is captured and differentiated as ever, but not turned into C++, which takes a minute
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compiled.append(self) or whole(self, backend="aot_eager")
    )
    plain = losses({"model.dropout": 0.0})
    assert not compiled
    np.testing.assert_allclose(losses({"model.dropout": 0.0, "train.compile": True}), plain, rtol=1e-4)
    assert len(compiled) == 1


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_checkpoint(bench):
    config = load_config(bench.config)
    pixels = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    data = ImageSet(pixels, [f"image_{i}" for i in range(20)], pd.DataFrame(index=range(20)), None)
    trainer = Trainer(config, build_model(config), data, torch.device(DEVICE))
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert trainer._read([(3, one, zero), (4, one * 3, one)]) == (2.0, 1.0)
    with pytest.raises(UserError, match=r"step 4: the loss \(nan\).*image_"):
        trainer._read([(3, one, zero), (4, one * float("nan"), one), (5, one * float("nan"), one)])


def test_a_budget_of_minutes_becomes_steps_once(bench):
    done = bench.train(
        "--set", "train.minutes=0.03", "--set", "train.encoder_steps=1000", "--set", "train.precision=auto"
    )
    assert "minutes allow" in done.stdout
    train = yaml.safe_load((bench.version(0) / "config.yaml").read_text())["train"]
    assert (
        train["minutes"] is None
        and 0 < train["encoder_steps"] < train["steps"]
        and train["precision"] in ("float32", "bfloat16")
    )
    assert weights(bench.version(0))["step"] == train["steps"]
    done = bench.train("--resume", 0, "--set", "train.minutes=1", check=False)
    assert done.returncode == 2 and "with --resume give train.steps" in done.stderr
    done = bench.train("--set", "train.minutes=1", "--set", "train.steps=3", check=False)
    assert done.returncode == 2 and "one of steps, epochs and minutes" in done.stderr


def test_the_encoder_rests_after_its_steps_and_learns_before(bench):
    """Two steps of the encoder, one of the decoder, then one or three of the denoiser's: encoder and decoder stay as
    they were, bit for bit."""
    bench.train("--set", "train.steps=4")
    bench.train("--set", "train.steps=6")
    early, late = (weights(bench.version(v))["model"] for v in (0, 1))
    for name in early:
        same = torch.equal(early[name], late[name])
        assert same == name.startswith(("encoder.", "decoder.", "standardiser.")), name


def test_a_run_of_an_earlier_version_can_be_used_but_not_resumed(bench):
    """Its config knows none of the newer settings, and its checkpoint holds a decoder beside the model."""
    older = {
        "model.residual": False,
        "model.masked": False,
        "model.reader": False,
        "train.encoder_steps": 0,
        "train.decoder_steps": 0,
    }
    bench.config = bench.write_config(older | {"model.encoder.similarity": "log", "train.encoder_lr_scale": 0.1})
    bench.train()
    path = bench.version(0) / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    for section, keys in (
        (
            state["config"]["model"],
            ("residual", "masked", "reader", "sigma_data", "sigma_max", "pixel_channels", "pixel_layers"),
        ),
        (state["config"]["model"]["encoder"], ("temperature",)),
        (
            state["config"]["train"],
            ("minutes", "mask", "score_noise", "spread", "decoder_steps", "encoder_batch_size", "encoder_lr"),
        ),
    ):
        for key in keys:
            del section[key]
    torch.save(state | {"decoder": {}}, path)
    bench.run("train/conditional_sampling.py", "--steps", 3, "--total_gen_num", 2)
    bench.run(
        "analysis/manipulation/manipulate.py", "--steps", 3, "--set", "1=max"
    )  # joint, since it cannot hide scores
    refused = bench.run(
        "analysis/manipulation/manipulate.py", "--steps", 3, "--set", "1=max", "--others", "release", check=False
    )
    assert refused.returncode == 2 and "use transport, joint or keep" in refused.stderr
    done = bench.train("--resume", 0, "--set", "train.steps=9", check=False)
    assert done.returncode == 2 and "--init_from" in done.stderr


def test_two_trainings_at_once_get_two_versions(bench, monkeypatch):
    monkeypatch.setattr(runs, "RUNS_DIR", bench.records / "patronus")
    config = load_config(bench.config)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: runs.new_run_folder(config), range(16)))
    assert sorted(folder.name for folder in folders) == sorted(f"version_{i}" for i in range(16))


def test_tensorboard_events(bench):
    pytest.importorskip("tensorboard")
    bench.train("--set", "train.tensorboard=true")
    assert list((bench.version(0) / "tensorboard").glob("events*"))


def test_two_processes_train_like_one(bench):
    bench.config = bench.write_config({"model.dropout": 0.0})
    bench.train()
    bench.train(processes=2)
    one, two = (
        [json.loads(line)["loss"] for line in (bench.version(v) / "metrics.jsonl").read_text().splitlines()]
        for v in (0, 1)
    )
    assert one == pytest.approx(two, rel=1e-3)


UNLIKE = """
import os
import torch
from train import trainer

first, run = trainer.initialise, trainer.Trainer.run

def initialise(model, *args):
    first(model, *args)
    model.encoder.templates.vectors.mul_(1 + float(os.environ["RANK"]))

def compared(self, *args):
    found = [None, None]
    torch.distributed.all_gather_object(found, self.model.encoder.templates.vectors)
    assert torch.equal(*found)
    return run(self, *args)

trainer.initialise, trainer.Trainer.run = initialise, compared
"""


def test_templates_are_those_of_the_first_process(bench):
    bench.config, bench.prelude = bench.write_config({"model.encoder.templates": 2}), UNLIKE
    assert "broadcast_buffers" not in bench.train(processes=2).stderr  # which torch warns of


def test_accumulation_changes_nothing_but_float_error(bench):
    bench.config = bench.write_config({"model.dropout": 0.0, "model.standardise_scores": False})
    bench.train()
    bench.train("--set", "train.accumulate=4")
    a, b = (weights(bench.version(v))["model"] for v in (0, 1))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-3, rtol=1e-2)


def test_a_loss_that_is_not_finite_stops_with_the_batch(bench):
    done = bench.train("--set", "train.lr=1e30", "--set", "train.clip=null", "--set", "train.steps=50", check=False)
    assert done.returncode == 2 and "not finite" in done.stderr and ".png" in done.stderr
    assert "Traceback" not in done.stderr


BAD = {
    "train.lr=fast": "train.lr",
    "train.lr=-1": "train.lr",
    "train.speed=3": "unknown key",
    "model.base_channels=12": "groups",
    "data.image_size=17": "divide",
    "data.source=cats": "cifar10",
    "model.encoder.prototypes=1000000": "patches",
    "model.encoder.kernels=[3]": "one entry a layer",
    "train.epochs=0": "train.epochs",
    "train.batch_size=7.5": "train.batch_size",
    "data.where=Cat": "Bright",
    "data.where=__import__('os')": "only attribute names",
    "data.path=/nowhere": "does not exist",
    "train.encoder_steps=6": "encoder_steps",
    "model.attention=[true]": "attention",
}


@pytest.mark.parametrize("setting", BAD)
def test_bad_settings_are_one_line_and_nothing_is_written(bench, setting):
    done = bench.train("--set", setting, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip() and "img/s" not in line]
    assert len(lines) == 1 and BAD[setting] in lines[0], done.stderr
    assert not (bench.records / "patronus").exists()


def test_bad_files(bench):
    for text, expected in (("a: [", "not valid YAML"), ("- 1", "must hold"), ("name: x\nname: y", "stands twice")):
        file = bench.home / "bad.yaml"
        file.write_text(text)
        done = bench.run("train/train_patronus.py", "--config", file, check=False)
        assert done.returncode == 2 and expected in done.stderr and "bad.yaml" in done.stderr
    done = bench.train("--resume", 7, check=False)
    assert done.returncode == 2 and "--resume 7" in done.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "configs" / "paper").glob("*.yaml")))
def test_two_steps_of_every_published_config(bench, name):
    channels = load_config(REPO / "configs" / "paper" / f"{name}.yaml").data.channels
    settings = {
        "data.source": "folder",
        "data.path": str(bench.images),
        "data.image_size": 64 if name == "chexpert" else 32,
    }
    settings |= {"train.batch_size": 2, "train.steps": 2, "model.base_channels": 8}
    settings |= {"train.precision": "float32", "train.memory_format": "channels_last"}  # not timed
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    bench.run("train/train_patronus.py", "--config", REPO / "configs" / "paper" / f"{name}.yaml", *arguments)
    state = weights(bench.records / "patronus" / f"{name}_paper" / "version_0")
    assert state["step"] == 2 and state["ema"] is None
    assert state["model"]["encoder.features.0.weight"].shape[1] == channels


def test_every_image_is_seen_once_an_epoch():
    seen = [i for step in range(5) for i in batch_indices(0, step, 4, 10)]
    assert sorted(seen[:10]) == list(range(10)) and sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_the_largest_uniform_number_is_a_finite_noise_level(bench):
    """torch.rand's largest float32, which a long training meets; ndtri(1 - 2^-24) is 5.29, ndtri(1/2) 0."""
    config = load_config(bench.config)
    uniform = torch.tensor([1 - 2**-24, 0.5, 0.0])
    sigma = draw_sigmas(config, None, uniform, torch.zeros(3, dtype=torch.bool))
    deviations = (sigma.log() - config.train.noise.mean) / config.train.noise.deviation
    torch.testing.assert_close(deviations, torch.tensor([5.29, 0.0, -5.42]), atol=0.02, rtol=0)


def test_learning_rate_warms_up_and_falls(bench):
    config = load_config(
        bench.config,
        ["train.steps=1000", "train.warmup_steps=100", "train.encoder_steps=0", "train.decoder_steps=0", "train.lr=1"],
    )
    assert learning_rate(config, 0, 1000) == pytest.approx(0.01, rel=1e-3)
    assert learning_rate(config, 500, 1000) == pytest.approx(0.5)
    assert learning_rate(config, 999, 1000) < 1e-4
