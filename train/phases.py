"""The phases of a training: which modules learn in which steps, on which batches, by which loss and at which rate."""

import math
from collections.abc import Callable
from typing import NamedTuple

from train.config import Config
from train.losses import READING, decoder_loss, denoiser_loss, encoder_loss


class Phase(NamedTuple):
    """What happens in the steps [begin, end)."""

    name: str  # for people
    begin: int
    end: int
    batch_size: int  # of all processes and accumulated parts together
    accumulate: int
    lr: float  # the highest, after the warm-up
    scale: float  # of that rate, for encoder and decoder
    learns: frozenset[str]  # modules of Patronus; the others rest
    noisy: bool  # whether it works on noisy images
    hides: float  # share of images that hide some of their scores
    reads: float  # share of images whose hidden scores are read off the noisy image
    wide: float  # share of noise levels drawn uniformly in train.noise.high_range
    loss: Callable

    @property
    def steps(self) -> int:
        return self.end - self.begin


def total_steps(config: Config, images: int) -> int:
    train = config.train
    return train.steps or math.ceil(train.epochs * images / train.batch_size)


def phases_of(config: Config, steps: int) -> list[Phase]:
    """The phases of a training of that many steps, in order; those without steps are left out, but for the last."""
    train, scale = config.train, config.train.encoder_lr_scale
    hides = float(config.model.masked)
    first, second = train.encoder_steps, train.encoder_steps + train.decoder_steps
    # how far scores spread is a matter of the whole batch, so the small batches of the first phases are not accumulated
    early = {
        "batch_size": train.encoder_batch_size or train.batch_size,
        "accumulate": 1,
        "lr": train.encoder_lr,
        "scale": 1.0,
    }
    late = {"batch_size": train.batch_size, "accumulate": train.accumulate, "lr": train.lr, "scale": scale}
    denoising = {"unet", "reader"} | ({"encoder", "decoder"} if scale > 0 else set())
    phases = [
        Phase(
            "encoder", 0, first, **early,
            learns=frozenset({"encoder", "decoder"}), noisy=False, hides=0.0, reads=0.0, wide=0.0, loss=encoder_loss,
        ),
        Phase(
            "decoder", first, second, **early,
            learns=frozenset({"decoder", "reader"}), noisy=True, hides=hides, reads=READING, wide=1.0,
            loss=decoder_loss,
        ),
        Phase(
            "denoiser", second, steps, **late,
            learns=frozenset(denoising), noisy=True, hides=hides * train.mask.share, reads=1.0,
            wide=train.noise.high_share, loss=denoiser_loss,
        ),
    ]  # fmt: skip
    return [phase for phase in phases[:-1] if phase.steps] + phases[-1:]


def phase_at(phases: list[Phase], step: int) -> Phase:
    """The phase of a step; the last one also after its end."""
    return next((phase for phase in phases if step < phase.end), phases[-1])


def images_before(phases: list[Phase], step: int) -> int:
    """How many images the steps before that one take."""
    return sum(phase.batch_size * max(0, min(step, phase.end) - phase.begin) for phase in phases)


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Linear warm-up, then constant or half a cosine to 0, in each phase anew."""
    train, phase = config.train, phase_at(phases_of(config, steps), step)
    rate = phase.lr * min(1.0, (step - phase.begin + 1) / max(1, min(train.warmup_steps, phase.steps // 4)))
    if train.lr_decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * (step - phase.begin) / max(1, phase.steps)))
    return rate


def ema_decay(highest: float, step: int) -> float:
    """Decay of the moving average of weights after so many steps: it warms up, min(highest, (1 + k) / (10 + k))."""
    return min(highest, (1 + step) / (10 + step))
