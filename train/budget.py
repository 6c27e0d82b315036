"""What this machine allows, from a few timed steps of the training: formats, and the steps in a budget of minutes."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from train.config import Config
from train.distributed import broadcast
from train.trainer import Trainer

TRIAL_IMAGES = 1000  # of the training set
TIMED_STEPS, TIMED_SECONDS = 8, 1.0  # at most, but one step at least
PREPARATION = 0.5  # of a budget at most, for the steps in which encoder and decoder learn alone
RESERVE = 0.05  # of a budget, for checkpoints and samples
ENDLESS = 10**9  # steps of a trial, so that its learning rates do not end

MakeTrainer = Callable[[Config], Trainer]


def with_training(config: Config, **changes) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def step_seconds(trainer: Trainer, step: int) -> float:
    """Median time of a few training steps from that step on, in seconds; the minimum would be optimistic.

    The trainer learns meanwhile: use one to throw away.
    """

    def timed() -> float:
        start = time.perf_counter()
        trainer.step_or_advice().loss.item()  # waits for the device
        return time.perf_counter() - start

    trainer.step = step
    timed()
    count = min(TIMED_STEPS, 1 + int(TIMED_SECONDS / timed()))
    return float(np.median([timed() for _ in range(broadcast(count, trainer.world))]))


def fastest_formats(config: Config, make_trainer: MakeTrainer, step: int | None = None) -> dict[str, str]:
    """The number and memory formats left at auto, whichever take least time for a step of this network at its batch.

    step: which; by default the denoiser's first.
    """
    train = config.train
    step = train.encoder_steps + train.decoder_steps if step is None else step
    precisions = ("float32", "bfloat16") if train.precision == "auto" else (train.precision,)
    formats = ("channels_last", "contiguous") if train.memory_format == "auto" else (train.memory_format,)
    choices = [{"precision": precision, "memory_format": layout} for precision in precisions for layout in formats]
    if len(choices) == 1:
        return choices[0]
    trial = {"minutes": None, "epochs": None, "steps": ENDLESS, "compile": False}
    seconds = [step_seconds(make_trainer(with_training(config, **trial, **choice)), step) for choice in choices]
    return choices[int(np.argmin(seconds))]


class Budget(NamedTuple):
    """What train.minutes buy on a machine."""

    encoder_steps: int
    decoder_steps: int
    steps: int  # of all phases together
    preparation: float  # seconds that encoder and decoder would take in full
    step_seconds: float  # of the denoiser

    @property
    def fitted(self) -> dict[str, int]:
        """The settings of train that they become."""
        return {name: getattr(self, name) for name in ("encoder_steps", "decoder_steps", "steps")}

    @property
    def denoiser_steps(self) -> int:
        return self.steps - self.encoder_steps - self.decoder_steps

    def minutes_for(self, denoiser_steps: int) -> float:
        """The budget that would buy so many steps of the denoiser here: `budget_steps` the other way round."""
        denoising = denoiser_steps * self.step_seconds
        share = PREPARATION / (1 - PREPARATION)  # of the denoiser's time, at most
        return (denoising + min(self.preparation, share * denoising)) / (1 - RESERVE) / 60


def budget_steps(config: Config, make_trainer: MakeTrainer) -> Budget:
    """What train.minutes buy: the steps of encoder and decoder shrink in proportion where they would take too much."""
    train = config.train
    trial = make_trainer(with_training(config, minutes=None, steps=ENDLESS))
    first = {"encoder_steps": train.encoder_steps, "decoder_steps": train.decoder_steps}
    begins = {"encoder_steps": 0, "decoder_steps": train.encoder_steps}
    budget = 60 * train.minutes * (1 - RESERVE)
    needed = sum(count * step_seconds(trial, begins[name]) for name, count in first.items() if count)
    shrink = min(1.0, PREPARATION * budget / max(needed, 1e-9))
    fitted = {name: max(1, int(shrink * count)) if count else 0 for name, count in first.items()}
    seconds = step_seconds(trial, sum(first.values()))
    steps = sum(fitted.values()) + max(1, int((budget - shrink * needed) / seconds))
    return Budget(**fitted, steps=steps, preparation=needed, step_seconds=seconds)
