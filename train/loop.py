"""The training loop. Everything random is a function of (seed, step), so resuming has nothing to restore but tensors."""

import copy
import math
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models.denoiser import expand
from models.losses import distinctness, spread, squared_error
from models.patronus import HIDDEN, Guess, Patronus
from models.samplers import SeededNoise, sample
from train.config import INIT_IMAGES, Config
from train.data.dataset import ImageSet
from train.distributed import mean_over_processes
from train.errors import UserError, listed
from train.images import grid, save_png, to_tensor, to_uint8
from train.metrics import append_metrics, read_metrics, rewind_metrics
from train.muon import Muon, inner_weights
from train.runs import save_checkpoint
from train.whole_files import replace_file

SAMPLE_COLUMNS = 8
READING = 0.25  # of the images off which the decoder learns to read hidden scores; of the others it has what is shown alone
SIGNALS_EVERY = 10  # steps, of several processes


def total_steps(config: Config, images: int) -> int:
    train = config.train
    return train.steps or math.ceil(train.epochs * images / train.batch_size)


def batch_indices(seed: int, step: int, batch_size: int, images: int) -> np.ndarray:
    """Indices of a step's global batch: consecutive pieces of one seeded permutation an epoch, none dropped."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // images
    order = {epoch: np.random.default_rng([seed, epoch]).permutation(images) for epoch in set(epochs.tolist())}
    return np.array([order[epoch][position % images] for epoch, position in zip(epochs.tolist(), positions.tolist())])


class Phase(NamedTuple):
    """What learns in the steps [begin, end): 'encoder' (with the decoder, every score shown), 'decoder' (alone), or 'denoiser'."""

    name: str
    begin: int
    end: int


def phase_of(config: Config, step: int, steps: int) -> Phase:
    train = config.train
    ends = (train.encoder_steps, train.encoder_steps + train.decoder_steps, steps)
    begin = 0
    for name, end in zip(("encoder", "decoder", "denoiser"), ends):
        if step < end:
            break
        begin = end
    return Phase(name, begin if step < steps else ends[1], end)


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Linear warm-up, then constant or half a cosine to 0, in each phase anew."""
    train, phase = config.train, phase_of(config, step, steps)
    length = phase.end - phase.begin
    rate = train.lr if phase.name == "denoiser" else train.encoder_lr
    rate *= min(1.0, (step - phase.begin + 1) / max(1, min(train.warmup_steps, length // 4)))
    if train.lr_decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * (step - phase.begin) / max(1, length)))
    return rate


def ema_decay(highest: float, step: int) -> float:
    """Decay of the moving average of weights after so many steps: it warms up, min(highest, (1 + k) / (10 + k))."""
    return min(highest, (1 + step) / (10 + step))


def draw_shown(config: Config, count: int, generator: torch.Generator, hiding: bool) -> Tensor:
    """Which scores each image of a global batch shows: bool (count, m). Of an image that hides some, a share drawn log-uniformly from 1 / m to 1 is
    either all that it shows or all that it hides, since what is asked later is mostly about one score alone or about all but a few.

    hiding: every image hides some, not only train.mask.share of them.
    """
    scores, mask = config.model.encoder.prototypes, config.train.mask
    hidden = torch.rand(count, 1, generator=generator) < (1.0 if hiding else mask.share) * config.model.masked
    chosen = torch.rand(count, scores, generator=generator) < scores ** -torch.rand(count, 1, generator=generator)
    shown = chosen ^ (torch.rand(count, 1, generator=generator) < 0.5)
    return ~hidden | (shown & (torch.rand(count, 1, generator=generator) >= mask.empty))


def draw_sigmas(config: Config, model: Patronus, count: int, generator: torch.Generator, complete: Tensor) -> Tensor:
    """Noise levels of a global batch, of which `complete` (count,) bool show every score: (count,)."""
    if model.schedule is not None:  # t uniform, Ho et al. 2020
        t = torch.randint(model.schedule.timesteps, (count,), generator=generator)
        return model.schedule.sigma(t.to(model.schedule.log_sigmas.device)).cpu()
    noise = config.train.noise
    low, top = noise.high_range
    uniform = torch.rand(count, generator=generator) * (top - low) + low
    normal = torch.randn(count, generator=generator) * noise.deviation + noise.mean
    high = torch.randperm(count, generator=generator) < round(noise.high_share * count)
    return torch.where(high | ~complete, uniform, normal).exp()


def initialise(model: Patronus, config: Config, train: ImageSet, device: torch.device) -> None:
    """Draw the prototypes from patches of training images where the config asks for it. Raises UserError."""
    if config.model.encoder.init != "data":
        return
    chosen = np.sort(np.random.default_rng(config.train.seed).permutation(len(train))[:INIT_IMAGES])
    generator = torch.Generator().manual_seed(config.train.seed)
    try:
        model.encoder.initialise_prototypes(to_tensor(train.pixels[chosen]).to(device), generator)
    except ValueError as error:
        raise UserError(f"model.encoder.prototypes: {error} of {len(chosen)} images") from None


def peak_memory(device: torch.device) -> float | None:
    """The most that this process has held so far, in GB: of the GPU's memory where it trains there, else of the machine's. None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def draw_losses(folder: Path, config: Config) -> Path | None:
    """loss.png from metrics.jsonl, which is there once anything is logged; the losses of encoder, decoder and denoiser are different ones, parted by
    lines."""
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


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class TrainingLoss(nn.Module):
    """Images and noise -> the loss of one batch, as one module so that DDP sees a single forward."""

    def __init__(self, model: Patronus, config: Config):
        super().__init__()
        self.model, self.train_config = model, config.train

    def forward(self, x0: Tensor, phase: str, shown: Tensor, *noise: Tensor) -> Tensor:
        """x0 (B, C, H, W), shown (B, m) bool -> scalar. noise: that of the scores (B, m) in the encoder's phase, else sigma (B,), that of the
        images, and off which of them the decoder may read hidden scores (B,) bool."""
        config, model = self.train_config, self.model
        s = model.score(x0)  # (B, m)
        seen = s + noise[0] if phase == "encoder" else s
        if model.standardiser is not None and s.requires_grad:
            model.standardiser.update(seen.detach())
        seen = torch.where(shown, seen, HIDDEN) if model.masked else seen
        if phase == "encoder":
            loss = squared_error(model.estimate(seen) - x0, config.detail).mean()
            if config.spread:
                loss = loss + config.spread * spread(gather(s))
        else:
            sigma, pixels, reading = noise
            z, known, given = x0 + expand(sigma, x0) * pixels, model.standardised(s).detach(), None
            loss = torch.zeros((), device=x0.device)
            if model.reader is not None:
                rows, share = (slice(None), 1.0) if phase == "denoiser" else (reading.nonzero()[:, 0], READING)
                guess, given = model.read(z[rows], sigma[rows]), Guess(torch.zeros_like(known), known.new_zeros(len(known), 1))
                given.scores[rows], given.trust[rows] = guess.scores.detach(), guess.trust
                loss = (guess.scores - known[rows]).square().mean(1).sum() / (share * len(x0))
            if phase == "decoder":
                loss = loss + squared_error(model.estimate(seen, given) - x0, config.detail).mean()
            else:
                weight = model.loss_weight(sigma) * torch.where(shown.all(1), 1.0, config.mask.weight)  # (B,)
                loss = loss + (weight * squared_error(model.denoise(z, sigma, seen, given) - x0, config.detail)).mean()
        if config.distinct_weight:
            loss = loss + config.distinct_weight * distinctness(model.encoder.prototypes, config.distinct_margin)
        return loss


def gather(s: Tensor) -> Tensor:
    """The scores of all processes' images, with gradients to all of them: (B, m) -> (world B, m)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(torch.distributed.nn.functional.all_gather(s))
    return s


@contextmanager
def interruptible():
    """Yields a list that receives the number of a SIGINT or SIGTERM; a second signal acts as usual."""
    received, previous = [], {}

    def handler(number, frame):
        received.append(number)
        for sig, old in previous.items():
            signal.signal(sig, old)

    for sig in (signal.SIGINT, signal.SIGTERM):
        previous[sig] = signal.signal(sig, handler)
    try:
        yield received
    finally:
        for sig, old in previous.items():
            signal.signal(sig, old)


class Logger:
    """metrics.jsonl always; TensorBoard and Weights & Biases where the config asks."""

    def __init__(self, folder: Path, config: Config, step: int):
        self.path, self.writers = folder / "metrics.jsonl", []
        rewind_metrics(self.path, step)
        if config.train.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("train.tensorboard: package tensorboard is not installed; pip install tensorboard") from None
            board = SummaryWriter(folder / "tensorboard", purge_step=step)
            self.writers.append(lambda row: [board.add_scalar(k, v, row["step"]) for k, v in row.items() if k != "step"])
        if config.train.wandb:
            try:
                import wandb
            except ImportError:
                raise UserError("train.wandb: package wandb is not installed; pip install wandb") from None
            run = wandb.init(project=config.train.wandb, name=f"{config.name}-{folder.name}", config=config.plain(), dir=folder)
            self.writers.append(lambda row: run.log(row, step=row["step"]))

    def write(self, row: dict) -> None:
        append_metrics(self.path, row)
        for write in self.writers:
            write(row)


class Trainer:
    """State of a training and its steps. Every process holds one; the first alone writes.

    state: a checkpoint to go on from, or None for a new start; fresh: the model is untrained, so its prototypes are to be drawn.
    """

    def __init__(
        self, config: Config, model: Patronus, train: ImageSet, device: torch.device, rank=0, world=1, state: dict | None = None, fresh: bool = True
    ):
        self.config, self.data, self.device, self.rank, self.world = config, train, device, rank, world
        self.steps = total_steps(config, len(train))
        if config.train.batch_size % (world * config.train.accumulate) or self.batch_size(0) % world:
            raise UserError(
                f"train.batch_size {config.train.batch_size} and encoder_batch_size {self.batch_size(0)} must divide by {world} processes, and the "
                f"first by these x train.accumulate {config.train.accumulate}"
            )
        if not config.train.encoder_steps + config.train.decoder_steps < self.steps:
            first = f"train.encoder_steps {config.train.encoder_steps} and decoder_steps {config.train.decoder_steps}"
            raise UserError(f"{first}: must be fewer together than the {self.steps} steps of the training")
        if state is not None and "decoder" in state:
            raise UserError("this run was begun by an earlier version of Patronus; it can be used, and trained on with --init_from")
        self.memory_format = torch.contiguous_format if config.train.memory_format == "contiguous" else torch.channels_last
        self.model = model.to(device, memory_format=self.memory_format).train()
        if state is None and fresh:
            initialise(model, config, train, device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.train.ema else None
        learnt = [self.model.encoder, *([self.model.decoder] if self.model.decoder else [])]
        groups = [learnt, [self.model.unet, *([self.model.reader] if self.model.reader else [])]]
        inner = inner_weights(self.model.unet) if config.train.muon_lr else []
        taken = set(inner)
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for module in group for p in module.parameters() if p not in taken]} for group in groups],
            lr=config.train.lr,
            weight_decay=config.train.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self.muon = Muon(inner, config.train.muon_lr) if inner else None
        self.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.train.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.step, self.ahead = 0, None  # the next step's images, on a GPU
        if state is not None:
            self._restore(state)
        if config.train.compile:
            self.model.unet.compile()
        loss = TrainingLoss(self.model, config)
        # encoder and U-Net take turns, so each leaves parameters unused; buffers are kept equal by the standardiser itself
        self.loss = DistributedDataParallel(loss, find_unused_parameters=True, broadcast_buffers=False) if world > 1 else loss

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *([self.muon] if self.muon is not None else [])]

    def batch_size(self, step: int) -> int:
        """Of the global batch of a step: encoder and decoder may take another one."""
        train = self.config.train
        denoising = phase_of(self.config, step, self.steps).name == "denoiser"
        return train.batch_size if denoising else train.encoder_batch_size or train.batch_size

    def images_seen(self) -> int:
        first = min(self.step, self.config.train.encoder_steps + self.config.train.decoder_steps)
        return first * self.batch_size(0) + (self.step - first) * self.config.train.batch_size

    def _restore(self, state: dict) -> None:
        if (state.get("muon") is None) != (self.muon is None):
            raise UserError("train.muon_lr: with --resume it can be changed, but neither given nor taken away; start a new run with --init_from")
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
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

    def _draw(self, step: int) -> tuple[Tensor, ...]:
        """What a step draws for its global batch: the scores shown, then what TrainingLoss takes as noise."""
        generator = torch.Generator().manual_seed((self.config.train.seed << 32) + step)
        count, scores, phase = self.batch_size(step), self.config.model.encoder.prototypes, phase_of(self.config, step, self.steps).name
        if phase == "encoder":
            return torch.ones(count, scores, dtype=torch.bool), self.config.train.score_noise * torch.randn(count, scores, generator=generator)
        shown = draw_shown(self.config, count, generator, hiding=phase == "decoder")
        complete = shown.all(1) & (phase == "denoiser")
        sigmas = draw_sigmas(self.config, self.model, count, generator, complete)
        pixels = torch.randn((count, *np.array(self.data.pixels.shape)[[3, 1, 2]]), generator=generator)
        return shown, sigmas, pixels, torch.rand(count, generator=generator) < READING

    def _inputs(self, step: int) -> list[list[Tensor]]:
        """This process's part of a step, one list a forward pass: uint8 images (n, H, W, C), scores shown, noise. Copied to a GPU without waiting."""
        config = self.config.train
        indices = batch_indices(config.seed, step, self.batch_size(step), len(self.data))
        # how far scores spread is a matter of the whole batch, and batches without the denoiser are small
        accumulate = config.accumulate if phase_of(self.config, step, self.steps).name == "denoiser" else 1
        pieces, drawn = np.array_split(np.arange(len(indices)), self.world * accumulate)[self.rank :: self.world], self._draw(step)
        parts = [[torch.from_numpy(np.array(self.data.pixels[indices[piece]])), *(values[piece] for values in drawn)] for piece in pieces]
        if self.device.type == "cuda":
            parts = [[values.pin_memory() for values in part] for part in parts]
        return [[values.to(self.device, non_blocking=True) for values in part] for part in parts]

    def _train_step(self) -> tuple[Tensor, Tensor]:
        """One optimiser step on the global batch; this process's mean loss and the gradient's norm, left on the device so that nothing waits."""
        config, step = self.config.train, self.step
        phase = phase_of(self.config, step, self.steps).name
        parts = self.ahead[1] if self.ahead and self.ahead[0] == step else self._inputs(step)
        torch.manual_seed((config.seed << 32) + step * self.world + self.rank)  # dropout
        rate = learning_rate(self.config, step, self.steps)
        self.optimizer.param_groups[0]["lr"] = rate * (config.encoder_lr_scale if phase == "denoiser" else 1.0)
        self.optimizer.param_groups[1]["lr"] = rate
        if self.muon is not None:
            self.muon.param_groups[0]["lr"] = rate / config.lr * config.muon_lr
        for optimizer in self.optimizers():
            optimizer.zero_grad(set_to_none=True)
        moving = phase == "denoiser" and config.encoder_lr_scale > 0
        self.model.encoder.requires_grad_(phase == "encoder" or moving)
        if self.model.decoder is not None:
            self.model.decoder.requires_grad_(phase != "denoiser" or moving)

        total = torch.zeros((), device=self.device)
        for number, (pixels, *drawn) in enumerate(parts):
            x0 = to_tensor(pixels).contiguous(memory_format=self.memory_format)
            if self.world > 1:
                self.loss.require_backward_grad_sync = number == len(parts) - 1
            with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
                loss = self.loss(x0, phase, *drawn) / len(parts)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        if self.device.type == "cuda" and step + 1 < self.steps:
            self.ahead = step + 1, self._inputs(step + 1)
        working = [optimizer for optimizer in self.optimizers() if any(p.grad is not None for p in parameters_of(optimizer))]
        for optimizer in working:
            self.scaler.unscale_(optimizer)
        trained = [p for optimizer in working for p in parameters_of(optimizer) if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, config.clip or math.inf)
        for optimizer in working:
            self.scaler.step(optimizer)
        self.scaler.update()
        self._average()
        self.step += 1
        return total, norm

    def _read(self, waiting: list[tuple[int, Tensor, Tensor]]) -> tuple[float, float]:
        """The mean loss and the last norm of steps whose results nobody has looked at yet. Raises UserError where one is not finite."""
        losses, norms = (torch.stack(values).float().cpu() for values in list(zip(*waiting))[1:])
        wrong = ~losses.isfinite() | (~norms.isfinite() & (not self.scaler.is_enabled()))
        if wrong.any():
            first = int(wrong.int().argmax())
            step, loss, norm = waiting[first][0], losses[first].item(), norms[first].item()
            indices = batch_indices(self.config.train.seed, step, self.batch_size(step), len(self.data))
            ids = listed((self.data.ids[i] for i in indices), 200)
            raise UserError(f"step {step}: the loss ({loss}) or its gradient ({norm}) is not finite; the last checkpoint is kept. Batch: {ids}")
        return losses.mean().item(), norms[-1].item()

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average, started anew in each phase."""
        if self.ema is None:
            return
        k = self.step - phase_of(self.config, self.step, self.steps).begin
        decay = ema_decay(self.config.train.ema, k)
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, theirs in zip(self.ema.buffers(), self.model.buffers()):
            mine.copy_(theirs)

    @torch.no_grad()
    def save_samples(self, folder: Path, test: ImageSet) -> Path:
        """Test images drawn at random above what the model makes of their scores and fixed noise; also as samples.png."""
        model = (self.ema or self.model).eval()
        # sets may stand in order of class
        rows = np.sort(np.random.default_rng(self.config.train.seed).permutation(len(test))[:SAMPLE_COLUMNS])
        pixels = test.pixels[rows]
        x0 = to_tensor(pixels).to(self.device).contiguous(memory_format=self.memory_format)
        sampler, steps = model.best_sampling
        sigmas, noise = model.sigmas(steps), SeededNoise(range(len(x0)), x0.shape[1:], self.device)
        made = to_uint8(sample(sampler, model.denoiser(model.score(x0)), sigmas[0].float() * noise(), sigmas, noise))
        model.train()
        rows = grid(np.concatenate([pixels, made]), len(x0))
        save_png(rows, folder / "samples.png")
        return save_png(rows, folder / "samples" / f"step_{self.step:07d}.png")

    def run(self, folder: Path, test: ImageSet) -> int | None:
        """Train to the end, or until a signal, whose number is returned. The checkpoint is saved either way."""
        config = self.config.train
        logger = Logger(folder, self.config, self.step) if self.rank == 0 else None
        every = 0.1 if sys.stderr.isatty() else 10.0  # seconds between redraws: a log file wants fewer
        bar = tqdm(total=self.steps, initial=self.step, unit="step", disable=self.rank != 0, dynamic_ncols=True, mininterval=every)
        losses, images, since, waiting = [], 0, time.perf_counter(), []  # since the last line of the log; and results not looked at
        with bar, interruptible() as received:
            while self.step < self.steps:
                step = self.step
                images += self.batch_size(step)
                waiting.append((step, *self._train_step()))
                bar.update()
                last, stop = self.step == self.steps, self._agreed(bool(received))
                save = last or stop or self.step % config.checkpoint_every == 0
                if save or self.step % config.log_every == 0:
                    loss, norm = self._read(waiting)
                    losses, waiting = [*losses, *[loss] * len(waiting)], []
                if last or stop or self.step % config.log_every == 0:
                    mean = mean_over_processes(torch.tensor(float(np.mean(losses)), device=self.device), self.world).item()
                    speed = images / (time.perf_counter() - since)
                    bar.set_postfix(refresh=False, loss=f"{mean:.4f}", img_s=f"{speed:.0f}")
                    if logger:
                        rate = self.optimizer.param_groups[1]["lr"]
                        row = {"step": self.step, "images": self.images_seen(), "loss": mean, "lr": rate, "grad_norm": norm}
                        logger.write(row | {"images_per_second": round(speed, 2), "peak_memory_gb": peak_memory(self.device)})
                    losses, images, since = [], 0, time.perf_counter()
                denoising = phase_of(self.config, self.step, self.steps).name == "denoiser"
                if self.rank == 0 and (last or (self.step % config.samples_every == 0 and denoising)):
                    self.save_samples(folder, test)
                    draw_losses(folder, self.config)
                if self.rank == 0 and save:  # last: whoever goes on from here has all that belongs to the steps before
                    save_checkpoint(folder, self.state())
                if stop:
                    return received[0] if received else signal.SIGTERM
        return None

    def _agreed(self, received: bool) -> bool:
        """Whether any process has received a signal, asked every few steps since an answer makes them wait for each other."""
        if self.world == 1:
            return received
        if self.step % SIGNALS_EVERY and self.step != self.steps:
            return False
        return mean_over_processes(torch.tensor(float(received), device=self.device), self.world).item() > 0
