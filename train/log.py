"""What a training writes about itself: lines of numbers, the plot of its loss, the memory that it took."""

import sys
from pathlib import Path

import torch

from train.config import Config
from train.errors import UserError
from train.metrics import append_metrics, read_metrics, rewind_metrics
from train.whole_files import replace_file


def peak_memory(device: torch.device) -> float | None:
    """The most memory that this process has held so far, in GB: the GPU's where it trains there. None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def draw_losses(folder: Path, config: Config) -> Path | None:
    """loss.png from metrics.jsonl, once anything is logged. Lines part the phases, whose losses are different ones."""
    from matplotlib.figure import Figure  # slow to import, and not needed before

    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        return None
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=0.8)
    for end in {config.train.encoder_steps, config.train.encoder_steps + config.train.decoder_steps} - {0}:
        axis.axvline(end, color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    return replace_file(folder / "loss.png", lambda file: figure.savefig(file, dpi=120))


class Logger:
    """metrics.jsonl always; TensorBoard and Weights & Biases where the config asks."""

    def __init__(self, folder: Path, config: Config, step: int):
        self.path, self.writers = folder / "metrics.jsonl", []
        rewind_metrics(self.path, step)
        if config.train.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError(
                    "train.tensorboard: package tensorboard is not installed; pip install tensorboard"
                ) from None
            board = SummaryWriter(folder / "tensorboard", purge_step=step)
            self.writers.append(
                lambda row: [board.add_scalar(k, v, row["step"]) for k, v in row.items() if k != "step"]
            )
        if config.train.wandb:
            try:
                import wandb
            except ImportError:
                raise UserError("train.wandb: package wandb is not installed; pip install wandb") from None
            name = f"{config.name}-{folder.name}"
            run = wandb.init(project=config.train.wandb, name=name, config=config.plain(), dir=folder)
            self.writers.append(lambda row: run.log(row, step=row["step"]))

    def write(self, row: dict) -> None:
        append_metrics(self.path, row)
        for write in self.writers:
            write(row)
