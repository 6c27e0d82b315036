"""Kill everything that takes long, dozens of times at random moments, go on, and compare with what was never
interrupted.

  python tests/campaigns/interruptions.py [--kills 24] [--seed 0]

Minutes, not for CI; tests/test_interruptions.py runs the same functions with a kill or two each. Prints what was tried;
ends at the first difference.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import DEVICE, REPO, Bench, draw_images
from zygote import Fork

SETTINGS = {"train.steps": 50, "train.encoder_steps": 12, "train.decoder_steps": 12, "train.checkpoint_every": 7}
SETTINGS |= {"train.samples_every": 20, "train.log_every": 1, "model.dropout": 0.1}
WITHOUT_CAPABILITIES = (  # of the process that runs it: capset(version 3 of this process, none of them)
    "import ctypes; ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())"
)
LATENT = ["--set", "epochs=60", "--set", "width=32", "--set", "layers=2"]
SAMPLING = ["--total_gen_num", 40, "--batch", 4, "--steps", 10]
CACHING = (
    "import sys; from train.config import DataConfig; from train.data.dataset import load_split; "
    "load_split(DataConfig(source='folder', path=sys.argv[1], image_size=48, channels=3), 'train')"
)


def command(script: str, *args) -> list[str]:
    """A script and its options; begin() runs it in a fork."""
    return [script, *map(str, args)]


def fresh(line: list[str]) -> list[str]:
    """The command line of a script in an interpreter of its own, which takes seconds to start."""
    return [sys.executable, str(REPO / line[0]), *line[1:]]


def begin(bench: Bench, line: list[str], **options) -> subprocess.Popen | Fork:
    if line[0].endswith(".py"):
        return bench.begin(*line, **options)
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True} | options
    return subprocess.Popen(line, env=bench.environment, cwd=bench.home, text=True, **options)


def finish(process: subprocess.Popen | Fork, seconds: float = 300) -> str:
    """Wait for success; -> what it wrote to stderr."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return errors


def killed(bench: Bench, line: list[str], delay: float) -> bool:
    """Run a command and kill it after so many seconds; False where it was done before."""
    process = begin(bench, line)
    try:
        process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


def until_done(bench: Bench, line: Callable[[], list[str]], most: int, rng, seconds: float) -> int:
    """Kill a command again and again, `most` times at most, after random times up to `seconds`, then let it finish. ->
    how often it was killed."""
    kills = 0
    while kills < most and killed(bench, line(), rng.uniform(0.3, 1) * seconds):
        kills += 1
    finish(begin(bench, line()))
    return kills


def duration(bench: Bench, line: list[str]) -> float:
    started = time.perf_counter()
    finish(begin(bench, line))
    return time.perf_counter() - started


LineOf = Callable[[int, bool], list[str]]


def campaign(
    bench: Bench, kills: int, rng, line_of: LineOf, begun: Callable[[int], Path], check: Callable[[int], None]
) -> int:
    """Work number 0 at a stretch, then number 1, 2, ... each killed and gone on with, until so many kills have hit.

    line_of(number, whether it goes on) -> command; begun(number): what is there once there is something to go on with;
    check(number): compare with 0.
    """
    seconds, hit, number = duration(bench, line_of(0, False)), 0, 0
    while hit < kills:
        number += 1
        more = until_done(bench, lambda n=number: line_of(n, begun(n).exists()), kills - hit, rng, seconds)
        hit, seconds = hit + more, seconds if more else 0.7 * seconds  # the first time takes longer: strike earlier
        check(number)
    return hit


def nothing_left(folder: Path) -> None:
    left = [str(path) for path in folder.rglob("*") if ".tmp" in path.name or path.name.endswith(".parts")]
    assert not left, left


def same_tensors(a, b) -> None:
    """Nested dicts, lists and tensors, equal bit for bit."""
    import torch

    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same_tensors(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same_tensors(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same_checkpoint(ours: Path, theirs: Path) -> None:
    import torch

    same_tensors(*(torch.load(path, weights_only=True) for path in (ours, theirs)))


def training(bench: Bench, kills: int, rng) -> int:
    line, whole = command("train/train_patronus.py", "--config", bench.write_config(SETTINGS)), bench.version(0)

    def check(number: int) -> None:
        folder = bench.version(number)
        same_checkpoint(folder / "checkpoints" / "last.pt", whole / "checkpoints" / "last.pt")
        steps = [json.loads(row)["step"] for row in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, SETTINGS["train.steps"] + 1))
        for sample in (whole / "samples").glob("*.png"):
            assert (folder / "samples" / sample.name).read_bytes() == sample.read_bytes()
        nothing_left(bench.records)
        assert sorted(path.name for path in whole.parent.iterdir()) == sorted(
            f"version_{i}" for i in range(number + 1)
        )  # none lost

    return campaign(
        bench, kills, rng, lambda n, on: [*line, "--resume", str(n)] if on else line, lambda n: bench.version(n), check
    )


def latent_training(bench: Bench, kills: int, rng) -> int:
    line = command("train/train_latent_ddim.py", "--dataset", "tiny", "--version_num", 0)
    folder = bench.records / "latent_ddim" / "tiny_v0"

    def check(number: int) -> None:
        ours, whole = folder / f"version_{number}", folder / "version_0"
        for name in ("last.pt", "best.pt"):
            same_checkpoint(ours / name, whole / name)
        assert (ours / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
        nothing_left(folder)

    return campaign(
        bench,
        kills,
        rng,
        lambda n, on: [*line, "--resume", str(n)] if on else [*line, *LATENT],
        lambda n: folder / f"version_{n}",
        check,
    )


def sampling(bench: Bench, kills: int, rng) -> int:
    line = command("train/conditional_sampling.py", "--dataset", "tiny", "--version_num", 0, *SAMPLING)
    folder = bench.records / "FID" / "cond_tiny_0"

    def check(number: int) -> None:
        whole, ours = ({path.name: path.read_bytes() for path in (folder / f"run_{n}").iterdir()} for n in (0, number))
        assert whole == ours and len(whole) == SAMPLING[1]
        nothing_left(folder)

    return campaign(
        bench, kills, rng, lambda n, on: [*line, "--run", str(n)] if on else line, lambda n: folder / f"run_{n}", check
    )


def heat_maps(bench: Bench, kills: int, rng) -> int:
    options = ["--dataset", "tiny", "--version_num", 0, "--n_samples", 1, "--outdir"]
    line = command("analysis/mechanism/heatmaps.py", *options)

    def file(number: int) -> Path:
        return bench.home / f"maps_{number}" / "heatmaps_network.npy"

    def check(number: int) -> None:
        assert file(number).read_bytes() == file(0).read_bytes()
        nothing_left(file(number).parent)

    return campaign(bench, kills, rng, lambda n, on: [*line, str(file(n).parent)], file, check)


def caching(bench: Bench, kills: int, rng) -> int:
    images = draw_images(bench.home / "many", count=1500, size=100)
    (images / "metadata.csv").unlink()
    cache, held = bench.home / "data" / "cache", {}

    def check(number: int) -> None:
        found = {path.name: path.read_bytes() for path in cache.glob("*x48_*")}
        assert found and held in ({}, found)
        held.update(found)
        nothing_left(cache)
        for name in found:
            (cache / name).unlink()

    finish(begin(bench, [sys.executable, "-c", CACHING, str(images)]))
    check(0)
    return campaign(
        bench, kills, rng, lambda n, on: [sys.executable, "-c", CACHING, str(images)], lambda n: cache, check
    )


def two_at_once(bench: Bench) -> int:
    """Two trainings, two samplings, two latent trainings and two cachings of the same at a time. -> how many pairs."""
    config, known = bench.write_config(SETTINGS), {path.name for path in bench.version(0).parent.glob("version_*")}
    train = command("train/train_patronus.py", "--config", config)
    for process in [begin(bench, train) for _ in range(2)]:
        finish(process)
    new = sorted({path.name for path in bench.version(0).parent.glob("version_*")} - known)
    assert len(new) == 2
    for name in new:
        same_checkpoint(
            bench.version(0).with_name(name) / "checkpoints" / "last.pt", bench.version(0) / "checkpoints" / "last.pt"
        )
    named = ["--dataset", "tiny", "--version_num", 0]
    for script, options, parent in (
        ("train/conditional_sampling.py", SAMPLING, "FID/cond_tiny_0"),
        ("train/train_latent_ddim.py", LATENT, "latent_ddim/tiny_v0"),
    ):
        before = len([path for path in (bench.records / parent).glob("*") if path.is_dir()])
        for process in [begin(bench, command(script, *named, *options)) for _ in range(2)]:
            finish(process)
        assert len([path for path in (bench.records / parent).glob("*") if path.is_dir()]) == before + 2
    for path in (bench.home / "data" / "cache").glob("*.npy"):
        path.unlink()
    for process in [begin(bench, train) for _ in range(2)]:
        finish(process)
    nothing_left(bench.home)
    return 4


def one_line(errors: str) -> str:
    """The single line of an error among progress bars."""
    assert "Traceback" not in errors, errors
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0]


def full_disk(bench: Bench, limits: list[int]) -> int:
    """No file may grow beyond so many bytes: training (new and resumed), sampling, latent training, a figure. -> how
    many writes were refused."""
    config, refused = (
        bench.write_config(SETTINGS | {"train.steps": 40, "train.encoder_steps": 5, "train.decoder_steps": 5}),
        0,
    )
    train = command("train/train_patronus.py", "--config", config)
    finish(begin(bench, [*train, "--set", "train.steps=14"]))
    version = max(int(path.name.removeprefix("version_")) for path in bench.version(0).parent.glob("version_*"))
    named = ["--dataset", "tiny", "--version_num", version]
    lines = [
        train,
        [*train, "--resume", str(version), "--set", "train.steps=40"],
        command("train/conditional_sampling.py", *named, *SAMPLING),
        command("train/train_latent_ddim.py", *named, *LATENT),
        command("analysis/interpretability/ownership.py", *named),
    ]
    for limit in limits:
        for line in lines:
            process = begin(bench, line, file_limit=limit)
            _, errors = process.communicate(timeout=300)
            if process.returncode != 0:
                assert process.returncode == 2 and "cannot be written (File too large)" in one_line(errors), errors
                refused += 1
        finish(
            begin(bench, command("train/conditional_sampling.py", *named, "--total_gen_num", 1, "--steps", 2))
        )  # the run is intact
    finish(begin(bench, [*train, "--resume", str(version), "--set", "train.steps=40"]))
    steps = [json.loads(row)["step"] for row in (bench.version(version) / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
    return refused


def read_only(bench: Bench) -> int:
    """Records and data that may not be written to, by a user without the privilege to do it all the same. -> how many
    scripts were refused."""
    line = command("train/train_patronus.py", "--config", bench.config)
    folders = [path for path in bench.records.rglob("*") if path.is_dir()] + [bench.records]
    bench.prelude = WITHOUT_CAPABILITIES if os.getuid() == 0 else ""  # root may write anywhere
    for folder in folders:
        folder.chmod(0o555)
    named = ["--dataset", "tiny", "--version_num", 0]
    lines = [
        line,
        command("train/conditional_sampling.py", *named, *SAMPLING),
        command("analysis/interpretability/ownership.py", *named),
    ]
    try:
        for line in lines:
            process = begin(bench, line)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 2 and "Permission denied" in one_line(errors), errors
    finally:
        bench.prelude = ""
        for folder in folders:
            folder.chmod(0o755)
    return len(lines)


def damaged_checkpoint(bench: Bench, cuts: list[float]) -> int:
    """The last checkpoint cut short from outside: a word, and the one before is taken. Both: one line. -> how many
    damages."""
    config = bench.write_config(SETTINGS)
    for cut in cuts:
        finish(begin(bench, command("train/train_patronus.py", "--config", config)))
        folder = max(
            bench.version(0).parent.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_"))
        )
        version, last = folder.name.removeprefix("version_"), folder / "checkpoints" / "last.pt"
        whole, previous = last.read_bytes(), folder / "checkpoints" / "previous.pt"
        last.write_bytes(whole[: int(cut * len(whole))])
        line = command("train/train_patronus.py", "--config", config, "--resume", version)
        assert "taking previous.pt of step 49 instead" in finish(begin(bench, line))
        same_checkpoint(last, bench.version(0) / "checkpoints" / "last.pt")
        for path in (last, previous):
            path.write_bytes(whole[: int(cut * len(whole))])
        process = begin(bench, line)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2 and "restore it from a copy" in one_line(errors), errors
    return 2 * len(cuts)


def half_a_machine(bench: Bench, port: int = 29671) -> float:
    """One of two processes is killed; the other ends with a line, and one alone goes on to the same weights. -> seconds
    until all had ended."""
    import torch

    # small steps: float error differs with the number of processes and grows with the size of Muon's over 100 of them
    changes = SETTINGS | {"model.dropout": 0.0, "train.steps": 100, "train.muon_lr": 1e-4}
    train = ["train/train_patronus.py", "--config", str(bench.write_config(changes, "half.yaml"))]
    before = len(list(bench.version(0).parent.glob("version_*")))
    finish(begin(bench, command(*train)))
    group = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    process = begin(bench, [*group, *fresh([*train, "--device", DEVICE])[1:]])
    metrics = bench.version(before + 1) / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 10:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    listed = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(listed[-1]), signal.SIGKILL)
    started = time.perf_counter()
    _, errors = process.communicate(timeout=90)
    seconds = time.perf_counter() - started
    assert (
        process.returncode != 0
        and ("lost contact" in errors or "SIGTERM" in errors)  # on a busy machine the launcher ends it first
        and "train_patronus.py" not in errors.split("lost contact")[0].split("closing signal")[0]
    ), errors
    finish(begin(bench, [*command(*train), "--resume", str(before + 1)]))
    one, two = (
        torch.load(bench.version(v) / "checkpoints" / "last.pt", weights_only=True)["model"]
        for v in (before, before + 1)
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=5e-3, rtol=2e-2)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="of every kind of work (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    rng, total = np.random.default_rng(args.seed), 0
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home))
        for work in (training, latent_training, sampling, heat_maps, caching):
            started = time.perf_counter()
            hit = work(bench, args.kills, rng)
            total += hit
            print(
                (
                    f"{work.__name__}: killed {hit} times, gone on, nothing lost or different "
                    f"({time.perf_counter() - started:.0f} s)"
                ),
                flush=True,
            )
        print(f"{total} kills survived in all")
        print(f"two at once: {two_at_once(bench)} pairs, nothing shared")
        print(
            f"full disk: {full_disk(bench, [100, 1000, 4000, 20000, 60000, 150000])} writes refused in "
            "a line, the run intact"
        )
        print(f"read-only records: {read_only(bench)} scripts refused in a line")
        print(f"damaged checkpoints: {damaged_checkpoint(bench, [0.0, 0.3, 0.9, 0.999])} survived or refused in a line")
        print(
            f"half a machine: all processes had ended {half_a_machine(bench):.1f} s after one was "
            "killed; one alone went on to the same weights"
        )


if __name__ == "__main__":
    main()
