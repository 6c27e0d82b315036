"""The one gesture that all analysis shares: encode, invert, set scores, regenerate from the same x_T."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.patronus import Patronus
from models.samplers import heun, invert

STEPS = 18  # Heun: 34 network calls to invert, 35 to regenerate


class Encoding(NamedTuple):
    """Scores s (B, m) and the noise x_T (B, C, H, W) from which the images come back."""

    scores: Tensor
    noise: Tensor


def encode_and_invert(model: Patronus, x0: Tensor, steps: int = STEPS) -> Encoding:
    """Images (B, C, H, W) in [-1, 1] -> their scores and their x_T under those scores."""
    with torch.no_grad():
        s = model.score(x0)
    return Encoding(s, invert(model.denoiser(s), x0, model.sigmas(steps)))


def regenerate(model: Patronus, noise: Tensor, s: Tensor, steps: int = STEPS) -> Tensor:
    """Images from x_T (B, C, H, W) and scores (B, m), not clipped."""
    return heun(model.denoiser(s), noise, model.sigmas(steps))


def with_score(s: Tensor, prototype: int, value: float | Tensor) -> Tensor:
    """A copy of s (B, m) with one prototype's score set."""
    edited = s.clone()
    edited[:, prototype] = value
    return edited
