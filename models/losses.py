"""Losses on the denoiser's error, and the prototypes' distinctness."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_error(error: Tensor, detail: float = 0.0) -> Tensor:
    """Mean square per image of error (B, C, H, W), plus `detail` times that of its differences between neighbouring
    pixels: (B,).

    Any positive definite quadratic form of the error has the same minimiser, E[x0 | z, s]; this one weighs fine scales
    up, where natural spectra hold little energy, so that small parts are worth representing in s.
    """
    loss = error.square().flatten(1).mean(1)  # (B,)
    if detail:
        for axis in (2, 3):
            loss = loss + detail * error.diff(dim=axis).square().flatten(1).mean(1)
    return loss


def spread(s: Tensor, least: float = 0.3) -> Tensor:
    """What keeps scores (B, m) from saying nothing or the same: the mean of relu(least - deviation) plus the mean
    squared correlation of pairs.

    A scalar; the two terms of Bardes et al. 2022 (VICReg), on the scores themselves. Needs no labels: it lets no
    prototype be constant over the batch, and none repeat what others say together, so that every colour and part of an
    image finds a prototype of its own.
    """
    centred = s - s.mean(0)
    with torch.autocast(s.device.type, enabled=False):
        covariance = centred.T @ centred / max(1, len(s) - 1)  # (m, m)
    deviation = (covariance.diagonal() + 1e-6).sqrt()
    correlation = covariance / (deviation[:, None] * deviation + 1e-4)
    others = correlation.square().sum() - correlation.diagonal().square().sum()
    return F.relu(least - deviation).mean() + others / len(deviation) ** 2


def distinctness(prototypes: Tensor, margin: float = 0.2) -> Tensor:
    """Mean over prototypes (m, D) of relu(margin - cosine distance to the nearest other one), a scalar (Weng et al.
    2026).

    The cosine distance is 1 - |cos|. Zero for a single prototype.
    """
    m = len(prototypes)
    if m < 2:
        return prototypes.new_zeros(())
    unit = F.normalize(prototypes, dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        distance = 1 - (unit @ unit.T).abs()  # (m, m)
    itself = torch.eye(m, dtype=torch.bool, device=prototypes.device)
    nearest = distance.masked_fill(itself, math.inf).amin(1)
    return F.relu(margin - nearest).mean()


def mmd(s: Tensor, prior: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between codes s (B, m) and draws of a prior (B, m), a scalar >= 0 up to chance.

    Gaussian kernel exp(-|a - b|^2 / m), as in InfoVAE (Zhao et al. 2019), unbiased: pairs of a point with itself are
    left out.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / a.shape[1])

    n = len(s)
    others = 1 - torch.eye(n, device=s.device)
    within = ((kernel(s, s) + kernel(prior, prior)) * others).sum() / max(1, n * (n - 1))
    return within - 2 * kernel(s, prior).mean()
