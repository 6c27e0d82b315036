"""Which samples a report shows, and what it has made anew: those of the present training step, with their distance."""

import json
import os
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from analysis import report, results
from analysis.evaluation.fid import generated_folder, settings_of
from analysis.evaluation.fid_folders import exactly
from analysis.reporting import sources
from train.errors import UserError


class Run(NamedTuple):
    name: str = "tiny"
    version: int = 0
    step: int = 6


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SAMPLES_DIR", tmp_path / "FID")
    monkeypatch.setattr(results, "RECORDS_DIR", tmp_path)
    monkeypatch.setattr(sources, "present", lambda run, name: True)
    monkeypatch.setattr(report, "latent_of_step", lambda run: False)
    return tmp_path


def sampled(records, kind: str, number: int, step: int):
    folder = records / "FID" / f"{kind}_tiny_0" / f"run_{number}"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "000000.png")
    folder.with_name(f"run_{number}.json").write_text(json.dumps({"training_step": step}))
    return folder


def judged(records, folder):
    file = records / "fid_scores" / "tiny_v0" / f"{folder.parent.name}_{folder.name}_test_1280_efficientnet.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")


def work():
    return [(script.rsplit("/", 1)[1], options) for _, script, options in report.missing_work(Run(), True)]


def test_without_samples_they_are_made_and_judged(records):
    scripts = [script for script, _ in work()]
    assert scripts == [
        "conditional_sampling.py",
        "fid.py",
        "train_latent_ddim.py",
        "unconditional_sampling.py",
        "fid.py",
    ]


def test_samples_that_are_there_are_judged_and_not_made_again(records):
    folders = [sampled(records, kind, 0, step=6) for kind in ("cond", "uncond")]
    assert [script for script, _ in work()] == ["fid.py", "fid.py"]
    assert [options[options.index("--images") + 1] for _, options in work()] == [str(folder) for folder in folders]
    for folder in folders:
        judged(records, folder)
    assert work() == []


def test_samples_of_an_earlier_step_are_made_again(records):
    for kind in ("cond", "uncond"):
        judged(records, sampled(records, kind, 0, step=3))
    assert results.newest_samples(Run(), "cond") is None
    assert [script for script, _ in work()].count("fid.py") == 2 and "conditional_sampling.py" in dict(work())


def test_stale_samples_do_not_hide_those_of_the_present_step(records):
    present = sampled(records, "cond", 0, step=6)
    sampled(records, "cond", 1, step=3)  # newer, of another step
    assert results.newest_samples(Run(), "cond") == present


def test_the_distance_is_of_samples_of_the_present_step(records):
    present = sampled(records, "uncond", 0, step=6)
    sampled(records, "uncond", 1, step=3)
    args = SimpleNamespace(images=None, kind="uncond")
    assert generated_folder(args, Run(), None, 4) == present
    with pytest.raises(UserError, match="no unconditional samples of its present training step"):
        generated_folder(args, Run(step=7), None, 4)


def test_results_of_an_earlier_step_are_not_taken_for_present_ones(records):
    first, second = Run(step=3), Run()
    folder = results.results_folder("faithfulness", first)
    file = folder / "faithfulness.json"
    assert not results.is_current(file, first)
    file.write_text("{}")
    assert results.is_current(file, first) and not results.is_current(file, second)
    results.results_folder("faithfulness", second, kind="_untrained")  # makes other files
    assert not results.is_current(file, second)
    results.results_folder("faithfulness", second)  # and was stopped before it wrote any
    os.utime(folder / "about.json", ns=(0, file.stat().st_mtime_ns + 1))
    assert not results.is_current(file, second)
    file.write_text("{}")
    os.utime(folder / "about.json", ns=(0, file.stat().st_mtime_ns))
    assert results.is_current(file, second)


def test_a_part_of_the_images_is_of_what_they_are_now(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((4, 4, 3), 10, np.uint8)).save(folder / f"{number}.png")
    files = sorted(folder.iterdir())
    assert exactly(files, 4) == folder
    first = exactly(files, 2)
    assert [path.name for path in sorted(first.iterdir())] == ["0.png", "1.png"] and exactly(files, 2) == first
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(files[0])
    os.utime(files[0], ns=(0, 0))
    again = exactly(files, 2)
    assert np.asarray(Image.open(again / "0.png")).max() == 200 and np.asarray(Image.open(first / "0.png")).max() == 10
    assert settings_of(again) == tmp_path / "samples.json"
