"""Installed without the clone: the packages find their configs and templates, and records go where one works."""

import os
import shutil
import subprocess
import sys

from conftest import DEVICE, REPO, draw_images


def test_an_installed_copy_trains_from_its_own_configs(tmp_path):
    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    kept = shutil.ignore_patterns("records", "data", "tests", "build", "__pycache__", ".*", "*.egg-info")
    shutil.copytree(REPO, source, ignore=kept)  # pip builds in the source tree
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        str(source),
    ]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    templates = [f"analysis/templates/{file.name}" for file in (REPO / "analysis" / "templates").iterdir()]
    for file in (*templates, "configs/paper/celeba.yaml"):
        assert (site / file).is_file(), file

    images = draw_images(work / "images", size=32)
    settings = {
        "data.path": images,
        "data.image_size": 32,
        "model.base_channels": 8,
        "train.steps": 2,
        "train.batch_size": 4,
    }
    settings |= {"train.encoder_steps": 0, "train.decoder_steps": 0, "model.encoder.prototypes": 5}
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PATRONUS_")} | {
        "PYTHONPATH": str(site)
    }
    arguments += ["--config", "configs/folder.yaml", "--device", DEVICE]
    call = [sys.executable, "-m", "train.train_patronus", *arguments]
    done = subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((work / "records" / "patronus").glob("*/version_0/checkpoints/last.pt")), done.stdout
