"""How fast this machine trains, samples and explains: one command for any device, with a text file to send in.

The published network is trained as an ordinary loop trains it (float32, one step after the other) and as this project
does, side by side. The rest is measured alone: our defaults at 32 and 64 pixels, sampling, inversion, information,
patches. Weights are untrained and images random: neither changes what a step costs. Nothing is downloaded.
"""

import argparse
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm

from analysis.edits import encode_and_invert
from analysis.measures.information import measure_information
from global_config import RECORDS_DIR, REPO_DIR
from models.pspc import PSPCSquare
from models.training_free import PixelMajor
from train import recipe
from train.budget import fastest_formats
from train.build import build_model
from train.config import load_config
from train.data.dataset import ImageSet
from train.distributed import images_a_call, pick_device, processes
from train.errors import enough_memory, run_script
from train.generation import Sampling, sample_batch
from train.images import to_tensor
from train.precision import pick_precision
from train.scores import encode
from train.trainer import Trainer
from train.whole_files import replace_file

ENDLESS = 10**9  # steps, so that learning rates do not end
STEPS = 18  # of inversion
SMALL = ["model.base_channels=8", "train.batch_size=4", "train.encoder_batch_size=4"]  # of --quick


class Line(NamedTuple):
    """One row of the table: rates a second; memory in GB, of a GPU alone."""

    what: str
    unit: str
    rate: float
    memory: float | None
    ordinary: float | None = None  # the rate of an ordinary implementation


def random_images(count: int, side: int, channels: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, [str(i) for i in range(count)], pd.DataFrame(index=range(count)), None)


def settled(device: torch.device) -> float:
    """The time once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measured(action: Callable, images: int, device: torch.device, seconds: float) -> tuple[float, float | None]:
    """Images a second of an action that works through so many, and the most memory that it takes, in GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    action()  # compiles, tunes and allocates
    start = settled(device)
    action()
    repeats = max(1, int(seconds / (settled(device) - start)))
    start = settled(device)
    for _ in range(repeats):
        action()
    rate = repeats * images / (settled(device) - start)
    return rate, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def trainer_of(name: str, quick: bool, device: torch.device, images: int) -> Trainer:
    """A trainer of a config as the training script makes it, in the fastest formats, at its denoiser's first step."""
    config = load_config(
        f"configs/{name}.yaml", [f"train.steps={ENDLESS}", "data.source=folder", *(SMALL if quick else [])]
    )
    data = random_images(images, config.data.image_size, config.data.channels)
    config = recipe.settle(config, data.pixels)
    config.train.precision = pick_precision(config.train.precision, device)

    def make(config) -> Trainer:
        torch.manual_seed(0)
        return Trainer(config, build_model(config), data, device)

    formats = fastest_formats(config, make)
    trainer = make(config.model_copy(update={"train": config.train.model_copy(update=formats)}))
    trainer.step = trainer.phases[-1].begin
    return trainer


def ordinary_step(config, device: torch.device) -> Callable:
    """A step of the published training as an ordinary loop takes it: float32, AdamW, the loss read at every step."""
    torch.manual_seed(0)
    model = build_model(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr)
    pixels = random_images(config.train.batch_size, config.data.image_size, config.data.channels).pixels
    abar = 1 / (1 + (2 * model.schedule.log_sigmas).exp())

    def step() -> float:
        x0 = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).to(device)
        t = torch.randint(model.schedule.timesteps, (len(x0),), device=device)
        noise, kept = torch.randn_like(x0), abar[t].float().view(-1, 1, 1, 1)
        eps = model.unet(kept.sqrt() * x0 + (1 - kept).sqrt() * noise, t.float(), model.score(x0))
        loss = F.mse_loss(eps, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def training_lines(args, device: torch.device) -> Iterable[Line]:
    """Training of the published network, ordinary and ours, and of our defaults."""
    images = 64 if args.quick else 2000
    for name in ("paper/fmnist", "faces", "faces64"):
        trainer = trainer_of(name, args.quick, device, images)
        batch, ordinary = trainer.phases[-1].batch_size, None
        if name.startswith("paper/"):
            ordinary, _ = measured(ordinary_step(trainer.config, device), batch, device, args.seconds)
        rate, memory = measured(trainer.train_step, batch, device, args.seconds)
        train = trainer.config.train
        formats = f"{train.precision}, {train.memory_format}, batch {batch}"
        yield Line(f"training, configs/{name}.yaml ({formats})", "images", rate, memory, ordinary)


def analysis_lines(args, device: torch.device) -> Iterable[Line]:
    """Sampling, inversion, information and patch composites at the default's size."""
    config = load_config("configs/faces.yaml", ["model.encoder.coordinates=2.0", *(SMALL if args.quick else [])])
    torch.manual_seed(0)
    model = build_model(config).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    side, batch = config.data.image_size, images_a_call(device, model.largest_map(config.data.image_size))
    batch = min(batch, 8) if args.quick else batch
    images = random_images(2 * batch, side, config.data.channels)
    known = encode(model, images, device=device, progress=False)
    x0, sampling = to_tensor(images.pixels[:batch], device), Sampling(batch, *model.best_sampling)
    sigmas = model.sigmas(sampling.steps)

    def draw():
        return sample_batch(
            model,
            lambda numbers: known[numbers].to(device),
            list(range(batch)),
            sampling,
            sigmas=sigmas,
            data=config.data,
            device=device,
        )

    what = f"sampling, {sampling.sampler} in {sampling.steps} steps, batch {batch}"
    yield Line(what, "images", *measured(draw, batch, device, args.seconds))
    invert = measured(lambda: encode_and_invert(model, x0, STEPS), batch, device, args.seconds)
    yield Line(f"inversion, {STEPS} Heun steps, batch {batch}", "images", *invert)
    prototypes, draws = list(range(4 if args.quick else 32)), 16 if args.quick else 32
    ask = measured(
        lambda: measure_information(model, images, known, prototypes, draws, 0.5), draws, device, args.seconds
    )
    yield Line(f"information of {len(prototypes)} prototypes", "draws", *ask)
    data = PixelMajor(torch.from_numpy(random_images(64 if args.quick else 2000, side, 3).pixels)).to(device)
    window, few = torch.ones(2, device=device), x0[:2]
    composite = PSPCSquare(data, [7], torch.ones(1, dtype=torch.float64)).to(device)
    patches = measured(lambda: composite(few, window), len(few), device, args.seconds)
    yield Line(f"PSPC, windows of 7 over {len(data)} images", "images", *patches)


def commit() -> str:
    """The commit that is measured, marked where files differ from it."""
    ask = ["git", "-C", str(REPO_DIR), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the CPU."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def surroundings(args, device: torch.device) -> list[str]:
    """Hardware, versions, date and settings."""
    lines = [
        f"date: {date.today()}",
        f"commit: {commit()}",
        f"settings: {'quick, ' if args.quick else ''}{args.seconds:g} s a line",
    ]
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        lines.append(
            f"device: {about.name}, {about.total_memory / 1e9:.0f} GB, compute capability {about.major}.{about.minor}"
        )
    capability = torch.backends.cpu.get_cpu_capability()
    lines.append(f"CPU: {processor()}, {capability}, {torch.get_num_threads()} threads of torch")
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return [*lines, f"versions: Python {platform.python_version()}, {versions}", f"system: {platform.platform()}"]


def table(lines: list[Line]) -> list[str]:
    rows = [f"{'':72} {'a second':>16} {'ordinary loop':>14} {'ratio':>6} {'memory':>8}"]
    for line in lines:
        ordinary = f"{line.ordinary:14.4g} {line.rate / line.ordinary:6.2f}" if line.ordinary else " " * 21
        memory = f"{line.memory:5.2f} GB" if line.memory is not None else ""
        rows.append(f"{line.what:72} {line.rate:9.4g} {line.unit:6} {ordinary} {memory:>8}".rstrip())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument(
        "--seconds", type=float, help="a line, beside what it takes to begin (default: 10; 0.2 with --quick)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and sets: whether it runs, not how fast")
    args = parser.parse_args()
    args.seconds = args.seconds or (0.2 if args.quick else 10)

    device, lines = pick_device(args.device), []
    advice = "take a card with more memory, or --quick"
    with processes(device), enough_memory(device, advice):
        for part in (training_lines, analysis_lines):
            lines += tqdm(part(args, device), desc=part.__name__.replace("_", " "), leave=False)
    text = "\n".join([*surroundings(args, device), "", *table(lines)]) + "\n"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    name = "".join(letter if letter.isalnum() else "_" for letter in name)[:40]
    file = RECORDS_DIR / "benchmarks" / f"{date.today()}_{name}{'_quick' if args.quick else ''}.txt"
    replace_file(file, lambda path: path.write_text(text, encoding="utf-8"))
    print(text + f"\nwritten to {file}")


if __name__ == "__main__":
    run_script(main)
