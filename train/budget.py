"""What this machine allows, from a few timed steps of the very training: the number format, and how many steps a budget of minutes holds."""

import time
from collections.abc import Callable

from train.config import Config
from train.loop import Trainer

TIMED_STEPS = 6  # after two of warm-up
ENCODER_SHARE = 0.3  # of a budget at most, for the steps in which the encoder learns alone
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
    first = config.train.encoder_steps
    trials = {name: with_training(config, precision=name, minutes=None, epochs=None, steps=ENDLESS) for name in ("float32", "bfloat16")}
    seconds = {name: step_seconds(make_trainer(trial), first) for name, trial in trials.items()}
    return min(seconds, key=seconds.get)


def budget_steps(config: Config, make_trainer: MakeTrainer) -> tuple[int, int]:
    """(encoder_steps, steps) that train.minutes allow."""
    train = config.train
    trial = make_trainer(with_training(config, minutes=None, steps=ENDLESS))
    encoder_steps, budget = train.encoder_steps, 60 * train.minutes * (1 - RESERVE)
    if encoder_steps:
        each = step_seconds(trial, 0)
        encoder_steps = max(1, min(encoder_steps, int(ENCODER_SHARE * budget / each)))
        budget -= encoder_steps * each
    return encoder_steps, encoder_steps + max(1, int(budget / step_seconds(trial, train.encoder_steps)))
