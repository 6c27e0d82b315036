"""The training loop. What is random is a function of (seed, step), so resuming has nothing to restore but tensors."""

import copy
import math
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models.patronus import Patronus
from models.samplers import SeededNoise, sample
from train.build import initialise, measured_sigma_data
from train.config import Config
from train.data.dataset import ImageSet
from train.distributed import broadcast, mean_over_processes
from train.draws import Drawer, Draws, batch_indices
from train.errors import UserError, enough_memory, listed
from train.images import grid, save_png, to_tensor, to_uint8
from train.log import Logger, draw_losses, peak_memory
from train.losses import PhaseLoss
from train.muon import Muon, inner_weights
from train.phases import Phase, ema_decay, images_before, learning_rate, phase_at, phases_of, total_steps
from train.prefetch import Prefetcher
from train.runs import save_checkpoint, save_config
from train.signals import interruptible

SAMPLE_COLUMNS = 8
SIGNALS_EVERY = 10  # steps, of several processes
LARGEST_CACHE = 1e9  # bytes of the scores of all training images
MODULES = ("encoder", "decoder", "unet", "reader")


class Batch(NamedTuple):
    """The inputs of one forward pass."""

    pixels: Tensor  # uint8 (n, H, W, C)
    rows: Tensor  # (n,) of the training set
    draws: Draws


class Result(NamedTuple):
    """Of one step: this process's mean loss and the gradient's norm, left on the device so that nothing waits."""

    step: int
    loss: Tensor
    norm: Tensor


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class Trainer:
    """State of a training and its steps. Every process holds one; the first alone writes.

    state: a checkpoint to go on from, or None for a new start; fresh: the model is untrained, its prototypes are drawn.
    """

    def __init__(
        self,
        config: Config,
        model: Patronus,
        train: ImageSet,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        state: dict | None = None,
        fresh: bool = True,
    ):
        self.config, self.data, self.device, self.rank, self.world = config, train, device, rank, world
        self.steps = total_steps(config, len(train))
        self.phases = phases_of(config, self.steps)
        self._check(state)
        contiguous = config.train.memory_format == "contiguous"
        self.memory_format = torch.contiguous_format if contiguous else torch.channels_last
        self.model = model.to(device, memory_format=self.memory_format).train()
        if state is None and fresh:
            initialise(model, config, train, device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.train.ema else None
        self._make_optimizers()
        self.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.train.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.step, self.phase, self.scores = 0, None, None
        self.folder: Path | None = None  # of the run, in the first process
        if state is not None:
            self._restore(state)
        if config.train.compile:
            self.model.unet.compile()
        loss = PhaseLoss(self.model, config.train)
        if world > 1:  # modules take turns; weights and buffers become those of the first process, once:
            loss = DistributedDataParallel(loss, find_unused_parameters=True)
            loss.broadcast_buffers = False  # from then on the standardiser keeps its own equal
        self.loss = loss
        self.draw = Drawer(config, self.phases, np.array(train.pixels.shape)[[3, 1, 2]].tolist())
        self.load = Prefetcher(self._batches, device, self.steps)

    def _check(self, state: dict | None) -> None:
        train = self.config.train
        if any(phase.batch_size % (self.world * phase.accumulate) for phase in self.phases):
            raise UserError(
                f"train.batch_size {train.batch_size} and encoder_batch_size {self.phases[0].batch_size} must divide "
                f"by {self.world} processes, and the first by these x train.accumulate {train.accumulate}"
            )
        if not self.phases[-1].steps > 0:
            first = f"train.encoder_steps {train.encoder_steps} and decoder_steps {train.decoder_steps}"
            raise UserError(f"{first}: must be fewer together than the {self.steps} steps of the training")
        if state is not None and "decoder" in state:
            raise UserError(
                "this run was begun by an earlier version of Patronus; it can be used, and trained on with --init_from"
            )

    def _make_optimizers(self) -> None:
        """AdamW of two groups, encoder with decoder and U-Net with reader; Muon of the U-Net's inner weights."""
        train = self.config.train
        inner = inner_weights(self.model.unet) if train.muon_lr else []
        by_muon = set(inner)
        pairs = ("encoder", "decoder"), ("unet", "reader")
        groups = [[m for name in pair if (m := getattr(self.model, name)) is not None] for pair in pairs]
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for module in group for p in module.parameters() if p not in by_muon]} for group in groups],
            lr=train.lr,
            weight_decay=train.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.muon = Muon(inner, train.muon_lr) if inner else None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *([self.muon] if self.muon is not None else [])]

    def _restore(self, state: dict) -> None:
        if (state.get("muon") is None) != (self.muon is None):
            raise UserError(
                "train.muon_lr: with --resume it can be changed, but neither given nor taken away; "
                "start a new run with --init_from"
            )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"] or state["model"])  # none where the run kept no average until now
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # rates are set at every step
            group["weight_decay"] = self.config.train.weight_decay
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        if state["scaler"]:  # none where the run trained in another precision until now
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def state(self) -> dict:
        return {
            "config": self.config.plain(),
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "muon": self.muon.state_dict() if self.muon is not None else None,
            "scaler": self.scaler.state_dict(),
        }

    def _batches(self, step: int) -> list[Batch]:
        """This process's part of a step, one batch a forward pass, on the CPU. Called in another thread."""
        phase = phase_at(self.phases, step)
        indices = batch_indices(self.config.train.seed, step, phase.batch_size, len(self.data))
        pieces = np.array_split(np.arange(phase.batch_size), self.world * phase.accumulate)[self.rank :: self.world]
        return [
            Batch(
                torch.from_numpy(np.array(self.data.pixels[indices[piece]])),
                torch.from_numpy(indices[piece]),
                self.draw(phase, step, piece),
            )
            for piece in pieces
        ]

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def _images(self, pixels: Tensor) -> Tensor:
        return to_tensor(pixels).contiguous(memory_format=self.memory_format)

    def _enter(self, phase: Phase) -> None:
        """Set what learns from here on. Where the encoder rests for an epoch or more, all images are scored once."""
        if phase is self.phase:
            return
        self.phase = phase
        for name in MODULES:
            if getattr(self.model, name) is not None:
                getattr(self.model, name).requires_grad_(name in phase.learns)
        fits = len(self.data) * self.config.model.encoder.scores * 4 <= LARGEST_CACHE
        pays = phase.steps * phase.batch_size >= len(self.data)
        self.scores = self._score_all(phase.batch_size) if "encoder" not in phase.learns and fits and pays else None
        if "unet" in phase.learns and self.config.model.sigma_data == "auto":
            self._measure()

    def _measure(self) -> None:
        """Set model.sigma_data to what was left for the U-Net to do when it begins to learn."""
        value = broadcast(measured_sigma_data(self.model, self.data, self.device), self.world)
        model = self.config.model.model_copy(update={"sigma_data": value})
        self.config = self.config.model_copy(update={"model": model})
        for each in (self.model, self.ema):
            if each is not None:
                each.sigma_data = value
        if self.folder is not None:
            save_config(self.folder, self.config.plain())

    @torch.no_grad()
    def _score_all(self, batch: int) -> Tensor:
        """Scores of all training images, on the device: (N, m)."""
        parts, starts = [], range(0, len(self.data), batch)
        for start in tqdm(starts, desc="scoring all images", unit="batch", leave=False, disable=self.rank != 0):
            pixels = torch.from_numpy(np.array(self.data.pixels[start : start + batch])).to(self.device)
            with self._autocast():
                parts.append(self.model.score(self._images(pixels)))
        return torch.cat(parts)

    def _set_rates(self, phase: Phase) -> None:
        train, rate = self.config.train, learning_rate(self.config, self.step, self.steps)
        self.optimizer.param_groups[0]["lr"] = rate * phase.scale
        self.optimizer.param_groups[1]["lr"] = rate
        if self.muon is not None:
            self.muon.param_groups[0]["lr"] = rate / train.lr * train.muon_lr

    def train_step(self) -> Result:
        """One optimiser step on the global batch."""
        phase, step = phase_at(self.phases, self.step), self.step
        self._enter(phase)
        batches = self.load(step)
        seed = np.random.SeedSequence([self.config.train.seed, step, self.rank]).generate_state(1)
        torch.manual_seed(int(seed[0]))  # dropout
        self._set_rates(phase)
        for optimizer in self.optimizers():
            optimizer.zero_grad(set_to_none=True)
        loss = self._backward(phase, batches)
        norm = self._descend()
        self._average(step - phase.begin)
        self.step += 1
        return Result(step, loss, norm)

    def step_or_advice(self) -> Result:
        """train_step. Raises UserError, which says how to halve its images at once, where its memory does not
        suffice."""
        phase = phase_at(self.phases, self.step)
        advice = f"give --set train.encoder_batch_size={max(1, phase.batch_size // 2)}: half the images at once"
        if "unet" in phase.learns:
            twice = 2 * phase.accumulate
            advice = f"give --set train.accumulate={twice}: half the images at once, the same result"
        with enough_memory(self.device, advice):
            return self.train_step()

    def _backward(self, phase: Phase, batches: list[Batch]) -> Tensor:
        """Gradients of the mean loss of all batches; that loss, detached."""
        total = torch.zeros((), device=self.device)
        for number, (pixels, rows, draws) in enumerate(batches):
            if self.world > 1:
                self.loss.require_backward_grad_sync = number == len(batches) - 1
            scores = None if self.scores is None else self.scores[rows]
            with self._autocast():
                loss = self.loss(phase, self._images(pixels), scores, draws) / len(batches)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _descend(self) -> Tensor:
        """Step every optimizer that has gradients; their norm before clipping."""
        working = [
            optimizer for optimizer in self.optimizers() if any(p.grad is not None for p in parameters_of(optimizer))
        ]
        for optimizer in working:
            self.scaler.unscale_(optimizer)
        trained = [p for optimizer in working for p in parameters_of(optimizer) if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.config.train.clip or math.inf)
        for optimizer in working:
            self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    @torch.no_grad()
    def _average(self, steps: int) -> None:
        """Exponential moving average of the weights, `steps` into the phase; it starts anew in each."""
        if self.ema is None:
            return
        decay = ema_decay(self.config.train.ema, steps)
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, theirs in zip(self.ema.buffers(), self.model.buffers()):
            mine.copy_(theirs)

    def _read(self, results: list[Result]) -> tuple[float, float]:
        """The mean loss and the last norm of some steps. Raises UserError where one is not finite."""
        _, losses, norms = zip(*results)
        losses, norms = torch.stack([torch.stack(losses).float(), torch.stack(norms).float()]).cpu()
        wrong = ~losses.isfinite() | (~norms.isfinite() & (not self.scaler.is_enabled()))
        if wrong.any():
            first = int(wrong.int().argmax())
            step, loss, norm = results[first][0], losses[first].item(), norms[first].item()
            batch = phase_at(self.phases, step).batch_size
            indices = batch_indices(self.config.train.seed, step, batch, len(self.data))
            ids = listed((self.data.ids[i] for i in indices), 200)
            raise UserError(
                f"step {step}: the loss ({loss}) or its gradient ({norm}) is not finite; the last checkpoint is kept. "
                f"Batch: {ids}"
            )
        return losses.mean().item(), norms[-1].item()

    @torch.no_grad()
    def save_samples(self, folder: Path, test: ImageSet) -> Path:
        """Random test images above what the model makes of their scores and fixed noise; also as samples.png."""
        model = (self.ema or self.model).eval()
        # sets may stand in order of class
        rows = np.sort(np.random.default_rng(self.config.train.seed).permutation(len(test))[:SAMPLE_COLUMNS])
        pixels = test.pixels[rows]
        x0 = self._images(torch.from_numpy(np.array(pixels)).to(self.device))
        sampler, steps = model.best_sampling
        sigmas, noise = model.sigmas(steps), SeededNoise(range(len(x0)), x0.shape[1:], self.device)
        z = sigmas[0].float() * noise()
        samples = to_uint8(sample(sampler, model.denoiser(model.score(x0)), z, sigmas, noise))
        model.train()
        picture = grid(np.concatenate([pixels, samples]), len(x0))
        save_png(picture, folder / "samples.png")
        return save_png(picture, folder / "samples" / f"step_{self.step:07d}.png")

    def run(self, folder: Path, test: ImageSet) -> int | None:
        """Train to the end, or until a signal, whose number is returned. The checkpoint is saved either way."""
        train = self.config.train
        self.folder = folder if self.rank == 0 else None
        logger = Logger(folder, self.config, self.step) if self.rank == 0 else None
        progress = Progress(self)
        with progress.bar, interruptible() as received:
            while self.step < self.steps:
                progress.add(self.step_or_advice())
                last, stop = self.step == self.steps, self._agreed(bool(received))
                save = last or stop or self.step % train.checkpoint_every == 0
                log = last or stop or self.step % train.log_every == 0
                if save or log:
                    progress.look()  # no weights are saved before their losses are known to be finite
                if log:
                    row = progress.row()
                    if logger:
                        logger.write(row)
                if self.rank == 0 and self._sample_now():
                    self.save_samples(folder, test)
                    draw_losses(folder, self.config)
                if self.rank == 0 and save:  # after samples and plots, so that a resumed run finds them
                    save_checkpoint(folder, self.state())
                if stop:
                    return received[0] if received else signal.SIGTERM
        return None

    def _sample_now(self) -> bool:
        denoising = self.step > self.phases[-1].begin
        return self.step == self.steps or (denoising and self.step % self.config.train.samples_every == 0)

    def _agreed(self, received: bool) -> bool:
        """Whether any process has received a signal; asked every few steps, since all wait for the answer."""
        if self.world == 1:
            return received
        if self.step % SIGNALS_EVERY and self.step != self.steps:
            return False
        return mean_over_processes(torch.tensor(float(received), device=self.device), self.world).item() > 0


class Progress:
    """The progress bar, and the results since the last line of the log, on the device until they are looked at."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        every = 0.1 if sys.stderr.isatty() else 10.0  # seconds between redraws: a log file wants fewer
        self.bar = tqdm(
            total=trainer.steps,
            initial=trainer.step,
            unit="step",
            disable=trainer.rank != 0,
            dynamic_ncols=True,
            mininterval=every,
        )
        self._begin()

    def _begin(self) -> None:
        self.losses, self.norm, self.images, self.since, self.results = [], math.nan, 0, time.perf_counter(), []

    def add(self, result: Result) -> None:
        self.results.append(result)
        self.images += self.trainer.phase.batch_size
        self.bar.update()

    def look(self) -> None:
        """Wait for the device and take in the results. Raises UserError where one is not finite."""
        if self.results:
            loss, self.norm = self.trainer._read(self.results)
            self.losses += [loss] * len(self.results)
            self.results = []

    def row(self) -> dict:
        """The line of the log for the steps since the last one."""
        trainer = self.trainer
        mean = torch.tensor(float(np.mean(self.losses)), device=trainer.device)
        mean, speed = mean_over_processes(mean, trainer.world).item(), self.images / (time.perf_counter() - self.since)
        self.bar.set_postfix(refresh=False, loss=f"{mean:.4f}", img_s=f"{speed:.0f}")
        row = {
            "step": trainer.step,
            "images": images_before(trainer.phases, trainer.step),
            "loss": mean,
            "lr": trainer.optimizer.param_groups[1]["lr"],
            "grad_norm": self.norm,
            "images_per_second": round(speed, 2),
            "peak_memory_gb": peak_memory(trainer.device),
        }
        self._begin()
        return row
