"""The campaign of tests/campaigns/interruptions.py in short: a kill or two of each kind, and what a full disk does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
import interruptions

from train.errors import UserError
from train.metrics import append_metrics, read_metrics, rewind_metrics
from train.whole_files import beside, clear_leftovers, new_folder, replace_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes by POSIX signals")


def test_killed_work_goes_on_to_the_same_bits(bench):
    rng = np.random.default_rng(1)
    assert interruptions.training(bench, 1, rng) == 1
    assert interruptions.sampling(bench, 1, rng) == 1


def test_a_damaged_checkpoint_is_passed_over_with_a_word(bench):
    bench.run("train/train_patronus.py", "--config", bench.write_config(interruptions.SETTINGS))
    assert interruptions.damaged_checkpoint(bench, [0.5]) == 2


def test_the_death_of_a_process_ends_the_group_and_another_number_of_processes_goes_on(bench):
    assert interruptions.half_a_machine(bench) < 60


def test_a_full_disk_is_one_line(bench):
    bench.train()
    assert interruptions.full_disk(bench, [2000]) >= 3


@pytest.mark.skipif(os.getuid() == 0 and sys.platform != "linux", reason="root may write anywhere")
def test_records_that_may_not_be_written_to(bench):
    bench.train()
    assert interruptions.read_only(bench) == 3


def test_leftovers_of_the_dead_are_cleared_and_those_of_the_living_kept(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from train.whole_files import beside; p = "
        "beside(Path(sys.argv[1]) / 'x.pt'); "
    )
    dead = subprocess.run(
        [sys.executable, "-c", code + "p.write_text(''); print(p)", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    dead, ours = Path(dead.stdout.strip()), beside(tmp_path / "x.pt")
    foreign = tmp_path / ".x.pt.another-host.1.abcdef.tmp.pt"
    for path in (ours, foreign):
        path.write_text("")
    assert dead.is_file()
    clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, foreign])


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = replace_file(tmp_path / "a.txt", lambda file: file.write_text("whole"))

    def half(file):
        file.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        UserError, match="a.txt: cannot be written .No space left on device.; what was there before is intact"
    ):
        replace_file(path, half)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_never_seen_without_its_contents_and_never_shared(tmp_path):
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "x").write_text("")
    numbers = iter(range(9))
    folder = new_folder(
        tmp_path, lambda making: (making / "x").write_text("ours"), lambda: tmp_path / f"version_{next(numbers)}"
    )
    assert folder.name == "version_1" and (folder / "x").read_text() == "ours"
    with pytest.raises(UserError):
        new_folder(tmp_path / "version_0" / "x", lambda making: None, lambda: tmp_path / "y")


def test_metrics_that_were_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        append_metrics(path, {"step": step})
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2]
    rewind_metrics(path, 1)
    append_metrics(path, {"step": 2})
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2] and path.read_text().endswith("\n")
