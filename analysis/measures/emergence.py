"""When a prototype appears in the estimates of x0 while the model denoises (Weng et al. 2026, Sec. 4.3)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from analysis.edits import EditOptions, Encoding, edit
from analysis.measures.counterfactuals import Pairs
from train.images import GREY
from train.runs import Run


def half_rise(t: np.ndarray, curve: np.ndarray) -> float:
    """The timestep at which a curve (steps,), given at falling timesteps t, first reaches half of its last value,
    interpolated linearly.

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
    """Mean spatial frequency, in cycles an image, of what an edit changes: (H, W), weighted by power, its mean left
    out."""
    power = np.abs(np.fft.fft2(difference - difference.mean())) ** 2
    h, w = difference.shape
    frequency = np.hypot(np.fft.fftfreq(h)[:, None] * h, np.fft.fftfreq(w)[None] * w)
    return float((frequency * power).sum() / max(power.sum(), 1e-12))


def true_change(pairs: Pairs) -> float:
    """How far counterfactuals without and with an attribute lie apart, the median Euclidean distance of images in [-1,
    1].

    Two images so far apart are told from each other through noise of a level proportional to it, and no better by
    anyone: all else known, the attribute is one bit sent through a Gaussian channel.
    """
    change = (pairs.present.astype(float) - pairs.absent.astype(float)) / GREY  # (n, H, W, C)
    return float(np.median(np.sqrt(np.square(change).sum((1, 2, 3)))))


class Trace(NamedTuple):
    """A regeneration of n images at T noise levels: sigmas (T,), scores of the estimates (T, n, m), the estimates of
    one image (T, C, H, W), and the images it ends in (n, C, H, W)."""

    sigmas: Tensor
    scores: Tensor
    estimates: Tensor
    images: Tensor


def trace_scores(run: Run, encoding: Encoding, s: Tensor, options: EditOptions, image: int) -> Trace:
    """Regenerate under scores s (n, m) and encode every estimate of x0; those of one image are kept."""
    sigmas, scores, estimates = [], [], []

    def trace(sigma, x0):
        sigmas.append(sigma)
        scores.append(run.model.score(x0.clamp(-1, 1)).cpu())
        estimates.append(x0[image])

    last = edit(run.model, encoding, s, options.steps, options.guidance[0], batch=len(s), trace=trace)
    return Trace(torch.tensor(sigmas, dtype=torch.float64), torch.stack(scores), torch.stack(estimates), last)
