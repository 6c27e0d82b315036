"""Training of a latent model: everything random is a function of (seed, step), so resuming has nothing to restore but
tensors."""

import copy
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.denoiser import expand
from models.latent import LatentModel
from models.schedule import LinearSchedule
from train.draws import batch_indices
from train.errors import UserError, enough_memory
from train.latents import LatentConfig, ScoreSplits
from train.metrics import append_metrics, rewind_metrics
from train.phases import ema_decay
from train.prefetch import Prefetcher
from train.signals import interruptible
from train.whole_files import save_tensors

CHECKPOINT_LINES = 20
LINES = 200  # of metrics.jsonl at most, one an epoch where epochs are fewer
WARMUP = 100
LEVELS = 16  # noise levels at which held-out vectors are tried


def draw_levels(schedule: LinearSchedule | None, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (count,): uniform t as published, or ln sigma normal(-0.5, 1.4): EDM's with the data's deviation at
    1."""
    if schedule is not None:
        return schedule.sigma(torch.randint(schedule.timesteps, (count,), generator=generator))
    return (torch.randn(count, generator=generator) * 1.4 - 0.5).exp()


def denoising_loss(model: LatentModel, z0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Weighted squared error on standardised vectors z0 (B, m) at levels sigma (B,): scalar."""
    error = model.denoise(z0 + expand(sigma, z0) * noise, sigma) - z0
    return (model.loss_weight(sigma) * error.square().mean(1)).mean()


class Inputs(NamedTuple):
    """Of a step: rows of the training scores (B,), noise levels (B,), noise (B, m)."""

    rows: Tensor
    sigma: Tensor
    noise: Tensor


class LatentTrainer:
    """State of a latent training. origin: whose scores these are, plain values for its files; state: what last.pt
    holds, to go on from, or None."""

    def __init__(
        self,
        config: LatentConfig,
        model: LatentModel,
        scores: ScoreSplits,
        origin: dict,
        device: torch.device,
        state: dict | None = None,
    ):
        self.config, self.origin, self.device = config, origin, device
        self.steps = config.steps(len(scores.train))
        self.interval = max(math.ceil(len(scores.train) / config.batch_size), self.steps // LINES)
        # on the CPU, where noise is drawn
        self.schedule = LinearSchedule(config.timesteps) if config.formulation == "eps" else None
        if state is None:
            model.fit(scores.train)
        self.model = model.to(device).train()
        self.averaged = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, fused=True)
        self.step, self.best = 0, math.inf
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
        self.train = self.model.standardise(scores.train.to(device))
        held = self.model.standardise(scores.held_out.to(device))
        generator = torch.Generator().manual_seed(config.seed)
        self.held = held.repeat(
            math.ceil(LEVELS * 16 / len(held)), 1
        )  # enough trials for a steady mean on small sets too
        self.held_levels = draw_levels(self.schedule, len(self.held), generator).to(device)
        self.held_noise = torch.randn(self.held.shape, generator=generator).to(device)
        self.load = Prefetcher(self._inputs, device, self.steps)

    def _rate(self) -> float:
        rate = self.config.lr * min(1.0, (self.step + 1) / WARMUP)
        return (
            rate * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)) if self.config.lr_decay == "cosine" else rate
        )

    def _seed(self, step: int) -> int:
        return int(np.random.SeedSequence([self.config.seed, step]).generate_state(1)[0])

    def _inputs(self, step: int) -> Inputs:
        """On the CPU. Called in another thread."""
        rows = batch_indices(self.config.seed, step, self.config.batch_size, len(self.train))
        generator = torch.Generator().manual_seed(self._seed(step))
        sigma = draw_levels(self.schedule, len(rows), generator)
        return Inputs(torch.from_numpy(rows), sigma, torch.randn(len(rows), self.train.shape[1], generator=generator))

    def train_step(self) -> Tensor:
        """One step; its loss, left on the device so that nothing waits for it."""
        rows, sigma, noise = self.load(self.step)
        torch.manual_seed(self._seed(self.step))  # dropout
        self.optimizer.param_groups[0]["lr"] = self._rate()
        loss = denoising_loss(self.model, self.train[rows], sigma, noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = ema_decay(self.config.ema, self.step)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Of the averaged weights, at the same levels and noise every time."""
        return denoising_loss(self.averaged, self.held, self.held_levels, self.held_noise).item()

    def _plain(self) -> dict:
        return self.origin | {"config": self.config.model_dump(mode="json"), "step": self.step}

    def save_best(self, folder: Path) -> None:
        save_tensors(folder / "best.pt", self._plain() | {"model": self.averaged.state_dict(), "held_out": self.best})

    def save_last(self, folder: Path) -> None:
        state = self._plain() | {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.best,
        }
        save_tensors(folder / "last.pt", state | {"optimizer": self.optimizer.state_dict()})

    def run(self, folder: Path) -> int | None:
        """Train to the end, or until a signal, whose number is returned. last.pt is saved either way, best.pt whenever
        it improves."""
        losses = []
        metrics = folder / "metrics.jsonl"
        rewind_metrics(metrics, self.step)
        bar = tqdm(total=self.steps, initial=self.step, unit="step", dynamic_ncols=True, mininterval=1.0)
        advice = f"give --set batch_size={max(1, self.config.batch_size // 2)}"
        with bar, interruptible() as received, enough_memory(self.device, advice):
            while self.step < self.steps:
                losses.append(self.train_step())
                bar.update()
                last = self.step == self.steps
                if last or self.step % self.interval == 0:
                    held_out = self.held_out_loss()
                    if held_out < self.best:
                        self.best = held_out
                        self.save_best(folder)
                    loss, losses = torch.stack(losses).mean().item(), []
                    if not math.isfinite(loss):
                        raise UserError(
                            f"step {self.step}: the loss is {loss}; what was saved before is kept. Lower lr"
                        )
                    append_metrics(metrics, {"step": self.step, "loss": loss, "held_out": held_out})
                    bar.set_postfix(refresh=False, loss=f"{loss:.4f}", held_out=f"{held_out:.4f}")
                if last or received or self.step % (CHECKPOINT_LINES * self.interval) == 0:
                    self.save_last(folder)
                if received:
                    return received[0]
        return None
