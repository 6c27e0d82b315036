"""The one gesture that all analysis shares: encode, invert, set scores, regenerate from the same x_T."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from models.patronus import Patronus
from models.prototype_encoder import Match
from models.samplers import Trace, heun, invert

BATCH = 100  # images a network call


class Encoding(NamedTuple):
    """Scores s (B, m) and the noise x_T (B, C, H, W) from which the images come back."""

    scores: Tensor
    noise: Tensor


def _batched(function: Callable[[slice], Tensor], count: int, batch: int, title: str | None) -> Tensor:
    """function(rows) for consecutive pieces of `count` rows, concatenated, under a progress bar where there is a title."""
    starts = range(0, count, batch)
    bar = tqdm(starts, desc=title, unit="batch", leave=False, disable=title is None or len(starts) < 2)
    return torch.cat([function(slice(start, start + batch)) for start in bar])


@torch.no_grad()
def encode_and_invert(model: Patronus, x0: Tensor, steps: int, batch: int = BATCH, title: str | None = None) -> Encoding:
    """Images (B, C, H, W) in [-1, 1] -> their scores and their x_T under those scores; `steps` Heun steps, 2 steps - 2 network calls."""
    s, sigmas = _batched(lambda rows: model.score(x0[rows]), len(x0), batch, None), model.sigmas(steps)
    return Encoding(s, _batched(lambda rows: invert(model.denoiser(s[rows]), x0[rows], sigmas), len(x0), batch, title))


@torch.no_grad()
def regenerate(
    model: Patronus, noise: Tensor, s: Tensor, steps: int, batch: int = BATCH, title: str | None = None, trace: Trace | None = None
) -> Tensor:
    """Images (B, C, H, W) from x_T (B, C, H, W) and scores (B, m), not clipped; `steps` Heun steps, 2 steps - 1 network calls.

    trace is that of models.samplers, called for one batch after the other.
    """
    sigmas = model.sigmas(steps)
    return _batched(lambda rows: heun(model.denoiser(s[rows]), noise[rows], sigmas, trace), len(noise), batch, title)


def with_score(s: Tensor, prototype: int, value: float | Tensor) -> Tensor:
    """A copy of s (B, m) with one prototype's score set."""
    edited = s.clone()
    edited[:, prototype] = value
    return edited


def patch_box(model: Patronus, match: Match, image: int, prototype: int, side: int) -> tuple[int, int, int, int]:
    """Where a prototype matches best in one image of a batch: (top, left, bottom, right) in an image of side x side pixels."""
    row, column = match.rows[image, prototype].item(), match.columns[image, prototype].item()
    return model.encoder.receptive_field.box(row, column, side, side)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape (Shoemake 1985); straight where they point the same or the opposite way."""
    cosine = (F.normalize(a.flatten(), dim=0) * F.normalize(b.flatten(), dim=0)).sum().clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, share)
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
