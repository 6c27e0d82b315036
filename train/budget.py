"""What this machine allows, from a few timed steps of the very training: the number format, and how many steps a budget of minutes holds."""

import time
from collections.abc import Callable

from train.config import Config
from train.loop import Trainer

TIMED_STEPS = 6  # after two of warm-up
PREPARATION = 0.4  # of a budget at most, for the steps in which encoder and decoder learn alone
RESERVE = 0.05  # of a budget, for checkpoints and samples
ENDLESS = 10**9  # steps of a trial, so that its learning rates do not end

MakeTrainer = Callable[[Config], Trainer]


def with_training(config: Config, **changes) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def step_seconds(trainer: Trainer, step: int) -> float:
    """Mean time of one training step from that step on. The trainer is spoilt by it."""
    trainer.step = step
    for number in range(2 + TIMED_STEPS):
        if number == 2:
            start = time.perf_counter()
        trainer._train_step()
    return (time.perf_counter() - start) / TIMED_STEPS


def faster_precision(config: Config, make_trainer: MakeTrainer) -> str:
    """float32 or bfloat16, whichever takes less time for a step of this network at its batch."""
    first = config.train.encoder_steps + config.train.decoder_steps
    trials = {name: with_training(config, precision=name, minutes=None, epochs=None, steps=ENDLESS) for name in ("float32", "bfloat16")}
    seconds = {name: step_seconds(make_trainer(trial), first) for name, trial in trials.items()}
    return min(seconds, key=seconds.get)


def budget_steps(config: Config, make_trainer: MakeTrainer) -> dict[str, int]:
    """encoder_steps, decoder_steps and steps that train.minutes allow: the first two shrink in proportion where they would take too much."""
    train = config.train
    trial = make_trainer(with_training(config, minutes=None, steps=ENDLESS))
    first = {"encoder_steps": train.encoder_steps, "decoder_steps": train.decoder_steps}
    begins = {"encoder_steps": 0, "decoder_steps": train.encoder_steps}
    budget = 60 * train.minutes * (1 - RESERVE)
    needed = sum(count * step_seconds(trial, begins[name]) for name, count in first.items() if count)
    shrink = min(1.0, PREPARATION * budget / max(needed, 1e-9))
    fitted = {name: max(1, int(shrink * count)) if count else 0 for name, count in first.items()}
    denoising = (budget - shrink * needed) / step_seconds(trial, sum(first.values()))
    return fitted | {"steps": sum(fitted.values()) + max(1, int(denoising))}
