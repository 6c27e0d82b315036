"""The information of a condition, measured with a denoiser: what it is worth, where in the image, and at which noise
levels.

For exact denoisers D(z, sigma) = E[x0 | z] and D(z, sigma; c) = E[x0 | z, c], the bits that a condition c gives about
the image seen through noise are
    I(c; x0 + sigma_min n) = 1 / ln 2 * integral over ln sigma, from sigma_min up, of E |D(z, sigma; c) - D(z, sigma)|^2
    / sigma^2
(Guo, Shamai and Verdu 2005, for the sum; Kong et al. 2024, "Interpretable diffusion via information decomposition", for
the squared gap, which is never negative and splits over pixels and levels). The gap equals the difference of the two
squared errors in the mean for exact denoisers only, so that difference stands beside it as a check: where it is far
smaller, the gap is an error of the denoisers, not information of the condition. An error e of D(z; c) adds |e|^2 to the
one and takes it from the other, so the mean of both, <x0 - D(z), D(z; c) - D(z)>, holds it to first order only: it
tells *when* a condition informs.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from models.denoiser import Denoiser, expand

# the integral of (sigma_max / sigma)^2 over ln sigma above sigma_max: there the gap itself is taken as constant
TAIL = 0.5


class Gap(NamedTuple):
    """Bits an e-fold of the noise level, pixel by pixel, each like x0 (B, C, H, W): by the squared gap, and by the
    difference of squared errors."""

    squared: Tensor
    errors: Tensor


def gap(unconditional: Tensor, conditional: Tensor, x0: Tensor, sigma: Tensor) -> Gap:
    """The density of information from two estimates of x0 (B, C, H, W), without the condition and knowing it, at noise
    levels sigma (B,)."""
    scale = 1 / (math.log(2) * expand(sigma, x0) ** 2)
    errors = (unconditional - x0).square() - (conditional - x0).square()
    return Gap(scale * (conditional - unconditional).square(), scale * errors)


def measure(unconditional: Denoiser, conditional: Denoiser, x0: Tensor, sigma: Tensor, noise: Tensor) -> Gap:
    """`gap` of two denoisers on the same noisy images x0 + sigma noise: (B, C, H, W), (B,), (B, C, H, W)."""
    z = x0 + expand(sigma, x0) * noise
    return gap(unconditional(z, sigma), conditional(z, sigma), x0, sigma)


class Levels(NamedTuple):
    """Where noise levels are drawn: bins of ln sigma, ascending, and one more for all above the last, drawn at its
    edge.

    edges (K + 1,): of ln sigma; shares (K + 1,): how likely each bin and the tail are drawn, positive, of sum 1.
    """

    edges: np.ndarray
    shares: np.ndarray

    @classmethod
    def uniform(cls, sigma_min: float, sigma_max: float, bins: int) -> "Levels":
        """Every e-fold from sigma_min to sigma_max alike."""
        edges = np.linspace(math.log(sigma_min), math.log(sigma_max), bins + 1)
        widths = np.append(np.diff(edges), TAIL)
        return cls(edges, widths / widths.sum())

    @property
    def widths(self) -> np.ndarray:
        """What a density in each bin is multiplied by: (K + 1,)."""
        return np.append(np.diff(self.edges), TAIL)

    @property
    def sigmas(self) -> np.ndarray:
        """The middle of each bin, and the highest level: (K + 1,)."""
        return np.exp(np.append((self.edges[1:] + self.edges[:-1]) / 2, self.edges[-1]))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noise levels (count,), one from each of `count` equally likely ranges, in random order; and the bin of each
        (count,)."""
        u = rng.permutation((np.arange(count) + rng.random(count)) / count)
        ends = np.cumsum(self.shares)
        bins = np.minimum(np.searchsorted(ends, u, side="right"), len(self.shares) - 1)
        inside = (u - (ends - self.shares)[bins]) / self.shares[bins]
        lower, upper = self.edges[bins], np.append(self.edges[1:], self.edges[-1])[bins]
        return np.exp(lower + inside * (upper - lower)), bins

    def adapted(self, values: np.ndarray, bins: np.ndarray, least: float = 0.2) -> "Levels":
        """Levels drawn in proportion to width times root mean square of densities `values` (n, Q) found in those bins
        (n,), each query alike; a share `least` stays as it is."""
        known = values / np.maximum(np.abs(values).mean(0), 1e-12)  # (n, Q)
        densities = [
            np.sqrt(np.square(known[bins == b]).mean()) if (bins == b).any() else np.nan
            for b in range(len(self.shares))
        ]
        densities = np.nan_to_num(np.array(densities), nan=np.nanmean(densities)) * self.widths
        return self._replace(shares=least * self.shares + (1 - least) * densities / densities.sum())

    def weights(self, bins: np.ndarray) -> np.ndarray:
        """What the density of a draw is multiplied by, so that the mean over draws is the integral: (n,)."""
        return (self.widths / self.shares)[bins]


class Bits(NamedTuple):
    """Integrals in bits: of Q queries (Q,), their standard errors (Q,), and their densities in bits an e-fold (Q, K +
    1)."""

    total: np.ndarray
    error: np.ndarray
    density: np.ndarray


def integrate(levels: Levels, bins: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> Bits:
    """Densities `values` (n, Q) of n independent draws, in their bins (n,) of `levels` -> bits.

    weights (n,): those of `levels` where they are not given. The standard error takes draws as independent, which is on
    the safe side of their stratification.
    """
    weighted = (levels.weights(bins) if weights is None else weights)[:, None] * values  # (n, Q)
    n, k = len(weighted), len(levels.shares)
    density = np.stack([weighted[bins == b].sum(0) for b in range(k)], axis=1) / (n * levels.widths)  # (Q, K + 1)
    return Bits(weighted.mean(0), weighted.std(0, ddof=1) / math.sqrt(n), density)


def quantile_level(levels: Levels, density: np.ndarray, share: float) -> np.ndarray:
    """The noise level above which that share of the information lies, of densities (Q, K + 1): (Q,); nan where there is
    none."""
    mass = np.clip(density, 0, None) * levels.widths  # (Q, K + 1)
    above = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]  # (Q, K + 1): mass from each edge up
    levels_of = [np.interp(-share * line[0], -line, levels.edges) if line[0] > 0 else np.nan for line in above]
    return np.exp(levels_of)
