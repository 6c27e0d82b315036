"""When a prototype appears while the model denoises, and by when it is decided."""

import numpy as np
import torch
from torch import Tensor

from analysis.edits import Encoding, Gesture, edit, guided
from models.samplers import heun
from train.runs import Run


def half_rise(t: np.ndarray, curve: np.ndarray) -> float:
    """The timestep at which a curve (steps,), given at falling timesteps t, first reaches half of its last value, interpolated linearly.

    NaN where the curve does not rise.
    """
    half = curve[-1] / 2
    if not half > 0:
        return np.nan
    after = int(np.argmax(curve >= half))
    if after == 0:
        return float(t[0])
    share = (half - curve[after - 1]) / (curve[after] - curve[after - 1])
    return float(t[after - 1] + share * (t[after] - t[after - 1]))


def spectral_centroid(difference: np.ndarray) -> float:
    """Mean spatial frequency, in cycles an image, of what an edit changes: (H, W), weighted by power, its mean left out."""
    power = np.abs(np.fft.fft2(difference - difference.mean())) ** 2
    h, w = difference.shape
    frequency = np.hypot(np.fft.fftfreq(h)[:, None] * h, np.fft.fftfreq(w)[None] * w)
    return float((frequency * power).sum() / max(power.sum(), 1e-12))


def trace_scores(run: Run, encoding: Encoding, s: Tensor, gesture: Gesture, show: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Regenerate under scores s (n, m) and encode every estimate of x0.

    Returns (sigmas (T,), scores (T, n, m), estimates of image `show` (T, C, H, W), the last images).
    """
    sigmas, scores, shown = [], [], []

    def trace(sigma, x0):
        sigmas.append(sigma)
        scores.append(run.model.score(x0.clamp(-1, 1)).cpu())
        shown.append(x0[show])

    last = edit(run.model, encoding, s, gesture, batch=len(s), trace=trace)
    return torch.tensor(sigmas, dtype=torch.float64), torch.stack(scores), torch.stack(shown), last


def switched_scores(run: Run, encoding: Encoding, early: Tensor, gesture: Gesture, sigmas: Tensor, cuts: Tensor, prototype: int) -> Tensor:
    """Score of a prototype in images edited to `early` (n, m) above the noise levels `cuts` (S,) and under their own scores below: (S, n)."""
    count, n = len(cuts), len(early)
    until = cuts.to(encoding.noise).repeat_interleave(n)[:, None, None, None]  # (S n, 1, 1, 1)
    own = encoding.scores.repeat(count, 1)
    before, after = guided(run.model, early.repeat(count, 1), own, gesture.guidance), run.model.denoiser(own)

    def denoiser(z, sigma):
        return torch.where(sigma[:, None, None, None] > until, before(z, sigma), after(z, sigma))

    made = heun(denoiser, encoding.noise.repeat(count, 1, 1, 1), sigmas).clamp(-1, 1)
    return run.model.score(made)[:, prototype].view(count, n).cpu()
