"""Tiny data and runs that tests share. Everything is written below a temporary folder."""

import atexit
import json
import os
import select
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
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


@cache
def zygote() -> subprocess.Popen:
    command = [sys.executable, str(REPO / "tests" / "zygote.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    atexit.register(process.kill)
    return process


def ask_zygote(request: dict, seconds: int = 300) -> int:
    """Exit status of a script run in a fork of the zygote."""
    process = zygote()
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise TimeoutError(f"{request['script']} took more than {seconds} s")
    return int(process.stdout.readline())


class Bench:
    """A temporary home for data and records, in which scripts run as a user runs them."""

    def __init__(self, home: Path):
        self.home, self.records = home, home / "records"
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

    def run(self, script: str, *args, check: bool = True, launcher: list[str] | None = None) -> subprocess.CompletedProcess:
        """Run a script to its end; without a launcher in a fork of a process that has torch loaded already."""
        args = [str(REPO / script), *map(str, args)]
        if launcher:
            done = subprocess.run([*launcher, *args], env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=300)
        else:
            outputs = {name: str(self.home / f".{name}") for name in ("stdout", "stderr")}
            request = {"script": args[0], "args": args[1:], "cwd": str(self.home), "environment": self.environment}
            code = ask_zygote(request | outputs)
            done = subprocess.CompletedProcess(args, code, *(Path(file).read_text() for file in outputs.values()))
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def train(self, *args, **options) -> subprocess.CompletedProcess:
        return self.run("train/train_patronus.py", "--config", self.config, "--device", "cpu", *args, **options)

    def version(self, number: int) -> Path:
        return self.records / "patronus" / "tiny" / f"version_{number}"


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Bench:
    """A bench with one finished run, shared and not to be changed."""
    bench = Bench(tmp_path_factory.mktemp("trained"))
    bench.train()
    return bench
