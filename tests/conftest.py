"""Tiny data and runs that tests share. Everything is written below a temporary folder."""

import itertools
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from zygote import Fork

os.environ["OMP_NUM_THREADS"] = "1"  # of every process that tests start
os.environ["PATRONUS_PRETRAINED_DIR"] = os.devnull  # tests meet no shipped run but their own
torch.set_num_threads(1)  # one process of pytest a core
DEVICE = os.environ.get("PATRONUS_TEST_DEVICE", "cpu")  # of every script, trainer and trained run here
# closed forms of pure functions are compared on the CPU, the only device sure to have float64 and the seeded generators
DEVICELESS = {  # scripts that compute nothing
    "train/convert_released.py",
    "train/data/photographs.py",
    "train/export_run.py",
    "analysis/diagnosis/plant_bias.py",
    "analysis/diagnosis/plant_mark.py",
    "analysis/mechanism/tables.py",
}
REPO = Path(__file__).resolve().parent.parent

TINY = {
    "name": "tiny",
    "data": {"source": "folder", "image_size": 16, "channels": 3},
    "model": {
        "base_channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "dropout": 0.1,
        "residual": True,
        "masked": True,
        "reader": True,
        "sigma_data": 0.5,
        "sigma_skip": 0.5,
        "sigma_max": 80.0,
        "unshuffle": 1,
        "pixel_channels": 0,
        "encoder": {
            "prototypes": 6,
            "channels": [8, 8],
            "kernels": [3, 3],
            "strides": [2, 1],
            "paddings": [1, 0],
            "coordinates": 0.5,
            "templates": 0,
            "similarity": "competing",
            "temperature": 0.1,
        },
    },
    "train": {
        "batch_size": 8,
        "steps": 6,
        "encoder_steps": 2,
        "decoder_steps": 1,
        "encoder_lr_scale": 0.0,
        "muon_lr": 0.02,
        "score_noise": 0.1,
        "spread": 0.3,
        "encoder_batch_size": None,
        "lr": 1e-3,
        "detail": 0.0,
        "noise": {"mean": -1.2, "deviation": 1.0},
        "log_every": 1,
        "checkpoint_every": 3,
        "samples_every": 100,
        "precision": "float32",
        "memory_format": "channels_last",
    },
}


def draw_images(folder: Path, count: int = 40, size: int = 20, channels: int = 3) -> Path:
    """Coloured squares, and metadata.csv with the attributes Bright and Left."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["img_filename,split,Bright,Left"]
    for i in range(count):
        bright, left = rng.integers(2), rng.integers(2)
        pixels = rng.integers(0, 40, (size, size, channels), dtype=np.uint8) + np.uint8(150 * bright)
        pixels[5:15, 2 if left else 10 :][:, :8] = 255
        Image.fromarray(pixels.squeeze()).save(folder / f"{i:03d}.png")
        rows.append(f"{i:03d}.png,{'test' if i % 4 == 0 else 'train'},{bright},{left}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def group_variables(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each process of a group on this machine."""
    if processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class Bench:
    """A temporary home for data and records, in which scripts run as a user runs them."""

    def __init__(self, home: Path):
        self.home, self.records, self.numbers = home, home / "records", itertools.count()
        self.prelude = ""  # code that runs before a script
        self.environment = os.environ | {
            "PATRONUS_DATA_DIR": str(home / "data"),
            "PATRONUS_RECORDS_DIR": str(self.records),
            "PATRONUS_PRETRAINED_DIR": str(home / "pretrained"),
            "OMP_NUM_THREADS": "1",
        }
        self.images = draw_images(home / "images")
        self.config = self.write_config({})

    def write_config(self, changes: dict, name: str = "tiny.yaml") -> Path:
        """The tiny config with {'section.key': value} changes."""
        values = yaml.safe_load(yaml.safe_dump(TINY))
        values["data"] |= {"path": str(self.images), "metadata": str(self.images / "metadata.csv")}
        for key, value in changes.items():
            node = values
            *path, last = key.split(".")
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
        file = self.home / name
        file.write_text(yaml.safe_dump(values))
        return file

    def begin(self, script: str, *args, file_limit: int | None = None, variables: dict | None = None) -> Fork:
        """Start a script in a fork of a process that has torch loaded already; on DEVICE, where it computes.

        variables: of the environment, beside those of the bench.
        """
        args = self.with_device(script, args)
        return Fork(
            str(REPO / script),
            args,
            self.environment | (variables or {}),
            self.home,
            self.home / f".output_{next(self.numbers)}",
            self.prelude,
            file_limit,
        )

    @staticmethod
    def with_device(script: str, args) -> list[str]:
        args = [str(part) for part in args]
        return args if "--device" in args or script in DEVICELESS else [*args, "--device", DEVICE]

    def run(self, script: str, *args, check: bool = True, processes: int = 1) -> subprocess.CompletedProcess:
        """Run a script to its end, in several processes as torchrun would: output of the first, errors of all."""
        forks = [self.begin(script, *args, variables=of_one) for of_one in group_variables(processes)]
        outputs, errors = zip(*[fork.communicate(300) for fork in forks])
        worst = max((fork.returncode for fork in forks), key=abs)
        done = subprocess.CompletedProcess([script, *args], worst, outputs[0], "".join(errors))
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def train(self, *args, **options) -> subprocess.CompletedProcess:
        return self.run("train/train_patronus.py", "--config", self.config, *args, **options)

    def version(self, number: int) -> Path:
        return self.records / "patronus" / "tiny" / f"version_{number}"


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Bench:
    """A bench with one finished run on images enough for statistics of attributes, shared and not to be changed."""
    bench = Bench(tmp_path_factory.mktemp("many"))
    bench.images = draw_images(bench.home / "many", 160, 16)
    bench.config = bench.write_config({})
    bench.train()
    return bench


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Bench:
    """A bench with one finished run, shared and not to be changed."""
    bench = Bench(tmp_path_factory.mktemp("trained"))
    bench.train()
    return bench
