"""What is random in a step: which images it takes, and noise, drawn for each image from a seed of its own.

Both are functions of (seed, step) and of the image's place in the step's global batch. So resuming has nothing to
restore, and each of several processes draws for its own images only.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.schedule import LinearSchedule
from train.config import Config
from train.phases import Phase, images_before

UNIFORMS = 5  # uniform numbers an image, beside those that choose scores


class Draws(NamedTuple):
    """Of the B images of a forward pass; None where the phase has no use for it."""

    shown: Tensor  # (B, m) bool: the scores that the networks see
    score_noise: Tensor | None = None  # (B, m), without noisy images
    sigma: Tensor | None = None  # (B,)
    noise: Tensor | None = None  # (B, C, H, W) standard normal
    reading: Tensor | None = None  # (R,) rows whose hidden scores are read off the noisy image; None for all


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The seeded permutation of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def batch_indices(seed: int, step: int, batch_size: int, images: int) -> np.ndarray:
    """Indices of a step's global batch: consecutive pieces of one seeded permutation an epoch, none dropped."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, images)
    return np.concatenate([epoch_order(seed, epoch, images)[places[epochs == epoch]] for epoch in np.unique(epochs)])


def evenly(share: float, positions: np.ndarray) -> np.ndarray:
    """That share of consecutive positions, evenly spaced: bool. The images at them are in random order already."""
    return np.floor((positions + 1) * share) > np.floor(positions * share)


def seeded(seeds: np.ndarray, uniforms: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Uniform numbers in [0, 1) (B, uniforms) and standard normal ones (B, *shape), each row from a seed below 2^32."""
    generator = torch.Generator()  # on the CPU on any device, so that a seed means the same everywhere
    uniform, normal = torch.empty(len(seeds), uniforms), torch.empty(len(seeds), *shape)
    for seed, row, image in zip(seeds.tolist(), uniform, normal):
        generator.manual_seed(seed)
        torch.rand(uniforms, generator=generator, out=row)
        torch.randn(tuple(shape), generator=generator, out=image)
    return uniform, normal


def draw_shown(phase: Phase, empty: float, uniform: Tensor, choice: Tensor) -> Tensor:
    """Which scores each image shows: bool (B, m), of uniform numbers (B, 4) and (B, m).

    Of an image that hides some, a share drawn log-uniformly from 1 / m to 1 is either all that it shows or all that it
    hides, since what is asked later is mostly about one score alone or about all but a few. A share `empty` of them
    shows none.
    """
    hides, exponent, inverted, none = uniform[:, :, None].unbind(1)  # (B, 1) each
    chosen = choice < choice.shape[1] ** -exponent
    return (hides >= phase.hides) | ((chosen ^ (inverted < 0.5)) & (none >= empty))


def draw_sigmas(config: Config, schedule: LinearSchedule | None, uniform: Tensor, wide: Tensor) -> Tensor:
    """Noise levels (B,) of uniform numbers (B,).

    On a schedule t is uniform (Ho et al. 2020). Else ln sigma is uniform in train.noise.high_range where `wide` (B,)
    says so, and normal elsewhere.
    """
    if schedule is not None:
        return schedule.sigma((uniform * schedule.timesteps).long())
    noise = config.train.noise
    low, top = noise.high_range
    inside = (uniform + 2**-25).clamp(max=1 - 2**-24)  # multiples of 2^-24, of which the largest would round to 1
    normal = torch.special.ndtri(inside.double()).float()
    return torch.where(wide, low + (top - low) * uniform, noise.mean + noise.deviation * normal).exp()


class Drawer:
    """Draws for images (C, H, W) of a training; callable from any thread."""

    def __init__(self, config: Config, phases: list[Phase], shape: Sequence[int]):
        self.config, self.phases, self.shape = config, phases, tuple(shape)
        self.schedule = LinearSchedule(config.model.timesteps) if config.model.formulation == "eps" else None

    def __call__(self, phase: Phase, step: int, piece: np.ndarray) -> Draws:
        """For the images at places `piece` of the step's global batch."""
        train, scores = self.config.train, self.config.model.encoder.scores
        seeds = np.random.SeedSequence([train.seed, step]).generate_state(phase.batch_size)[piece]
        uniform, noise = seeded(seeds, UNIFORMS + scores, self.shape if phase.noisy else (scores,))
        shown = draw_shown(phase, train.mask.empty, uniform[:, :4], uniform[:, UNIFORMS:])
        if not phase.noisy:
            return Draws(shown, score_noise=train.score_noise * noise)
        positions = images_before(self.phases, step) + piece
        wide = torch.from_numpy(evenly(phase.wide, positions)) | ~shown.all(1)
        sigma = draw_sigmas(self.config, self.schedule, uniform[:, 4], wide)
        reading = None if phase.reads == 1 else torch.from_numpy(np.flatnonzero(evenly(phase.reads, positions)))
        return Draws(shown, None, sigma, noise, reading)
