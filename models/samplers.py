"""Solvers of the probability-flow ODE dz/dsigma = (z - D(z, sigma)) / sigma, and its ancestral sibling.

Every solver takes (denoiser, z (B, ...), sigmas (n + 1,), trace) and returns z at the last noise level. Grids may fall
(generation) or rise (inversion). `trace(sigma, x0_hat)` is called once a step with the level and the estimate of x0.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.denoiser import Denoiser

Trace = Callable[[float, Tensor], None]


def _estimate(denoiser: Denoiser, z: Tensor, sigma: Tensor) -> Tensor:
    return denoiser(z, sigma.to(z).expand(len(z)))


@torch.no_grad()
def euler(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """First order; the same as DDIM with eta = 0 (Song et al. 2021). n network calls."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        x0 = _estimate(denoiser, z, sigma)
        if trace:
            trace(sigma.item(), x0)
        z = z + ((following - sigma) / sigma).to(z) * (z - x0)
    return z


@torch.no_grad()
def heun(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """Second order (Karras et al. 2022, Alg. 1). 2n network calls, one fewer where the grid ends at 0."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        x0 = _estimate(denoiser, z, sigma)
        if trace:
            trace(sigma.item(), x0)
        slope = (z - x0) / sigma.to(z)
        ahead = z + (following - sigma).to(z) * slope
        if following > 0:
            slope = (slope + (ahead - _estimate(denoiser, ahead, following)) / following.to(z)) / 2
            ahead = z + (following - sigma).to(z) * slope
        z = ahead
    return z


@torch.no_grad()
def dpmpp_2m(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2), in lambda = -ln(sigma). n network calls."""
    lambdas = -sigmas.log()
    previous = None
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        x0 = _estimate(denoiser, z, sigma)
        if trace:
            trace(sigma.item(), x0)
        target = x0
        if previous is not None and following > 0:
            r = (lambdas[i] - lambdas[i - 1]) / (lambdas[i + 1] - lambdas[i])
            target = x0 + ((x0 - previous) / (2 * r).to(z))
        shrink = (following / sigma).to(z)
        z = shrink * z + (1 - shrink) * target
        previous = x0
    return z


@torch.no_grad()
def ancestral(denoiser: Denoiser, z: Tensor, sigmas: Tensor, noise: Callable[[], Tensor], eta: float = 1.0, trace: Trace | None = None) -> Tensor:
    """DDIM with eta, which at eta = 1 is DDPM's ancestral sampling (Song et al. 2021, Eq. 16). n network calls.

    noise(): fresh standard normal noise like z, from the caller's own generators. Falling grids only.
    """
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        x0 = _estimate(denoiser, z, sigma)
        if trace:
            trace(sigma.item(), x0)
        up = eta * (following**2 * (sigma**2 - following**2) / sigma**2).clamp(min=0).sqrt()
        down = (following**2 - up**2).clamp(min=0).sqrt()
        z = x0 + (down / sigma).to(z) * (z - x0)
        if following > 0:
            z = z + up.to(z) * noise()
    return z


SOLVERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
SAMPLERS = (*SOLVERS, "ancestral")


def sample(
    name: str, denoiser: Denoiser, z: Tensor, sigmas: Tensor, noise: Callable[[], Tensor], eta: float = 1.0, trace: Trace | None = None
) -> Tensor:
    """Run the sampler of that name; `noise` and `eta` matter to "ancestral" alone."""
    if name == "ancestral":
        return ancestral(denoiser, z, sigmas, noise, eta, trace)
    return SOLVERS[name](denoiser, z, sigmas, trace)


def invert(denoiser: Denoiser, x0: Tensor, sigmas: Tensor, solver: Callable = heun) -> Tensor:
    """The noise z at the highest level from which the same grid leads back to x0 (deterministic inversion).

    x0: (B, ...) images; sigmas: a falling grid closed by 0, as for generation. x0 is taken as the state at the lowest positive
    level, which is off by at most that level.
    """
    return solver(denoiser, x0, sigmas[:-1].flip(0))


class SeededNoise:
    """One generator an image, so that an image's noise depends on its own seed and on nothing beside it.

    Drawn on the CPU in float32, whatever the device, so that one seed means one image everywhere.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.shape, self.device = tuple(shape), device

    def __call__(self) -> Tensor:
        """Standard normal noise (B, *shape), fresh at every call."""
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(self.device)
