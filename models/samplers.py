"""Solvers of the probability-flow ODE dz/dsigma = (z - D(z, sigma)) / sigma, and its ancestral sibling.

Every solver takes (denoiser, z (B, ...), sigmas (n + 1,), trace) and returns z at the last noise level. Grids may fall
(generation) or rise (inversion). `trace(sigma, x0_hat)` is called once a step with the level and the estimate of x0.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.denoiser import Denoiser

Trace = Callable[[float, Tensor], None]


def _estimate(denoiser: Denoiser, z: Tensor, sigma: float, trace: Trace | None = None) -> Tensor:
    x0 = denoiser(z, z.new_full((len(z),), sigma))
    if trace:
        trace(sigma, x0)
    return x0


def _steps(sigmas: Tensor) -> list[tuple[float, float]]:
    """Neighbouring levels of a grid as plain numbers, so that no step waits for a device: level and following level."""
    levels = sigmas.tolist()
    return list(zip(levels, levels[1:]))


@torch.no_grad()
def euler(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """First order; the same as DDIM with eta = 0 (Song et al. 2021). n network calls."""
    for sigma, following in _steps(sigmas):
        x0 = _estimate(denoiser, z, sigma, trace)
        z = z + (following - sigma) / sigma * (z - x0)
    return z


@torch.no_grad()
def heun(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """Second order (Karras et al. 2022, Alg. 1). 2n network calls, one fewer where the grid ends at 0."""
    for sigma, following in _steps(sigmas):
        x0 = _estimate(denoiser, z, sigma, trace)
        slope = (z - x0) / sigma
        ahead = z + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - _estimate(denoiser, ahead, following)) / following) / 2
            ahead = z + (following - sigma) * slope
        z = ahead
    return z


@torch.no_grad()
def dpmpp_2m(denoiser: Denoiser, z: Tensor, sigmas: Tensor, trace: Trace | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2), in lambda = -ln(sigma). n network calls."""
    previous = step_before = None
    for sigma, following in _steps(sigmas):
        x0 = target = _estimate(denoiser, z, sigma, trace)
        if following > 0:
            step = math.log(sigma / following)  # in lambda
            if previous is not None:
                target = x0 + (x0 - previous) * (step / (2 * step_before))
            step_before = step
        shrink = following / sigma
        z = shrink * z + (1 - shrink) * target
        previous = x0
    return z


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    z: Tensor,
    sigmas: Tensor,
    noise: Callable[[], Tensor],
    eta: float = 1.0,
    trace: Trace | None = None,
) -> Tensor:
    """DDIM with eta, which at eta = 1 is DDPM's ancestral sampling (Song et al. 2021, Eq. 16). n network calls.

    noise(): fresh standard normal noise like z, from the caller's own generators. Falling grids only.
    """
    for sigma, following in _steps(sigmas):
        x0 = _estimate(denoiser, z, sigma, trace)
        up = eta * math.sqrt(max(0.0, following**2 * (sigma**2 - following**2) / sigma**2))
        down = math.sqrt(max(0.0, following**2 - up**2))
        z = x0 + down / sigma * (z - x0)
        if following > 0:
            z = z + up * noise()
    return z


SOLVERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
SAMPLERS = (*SOLVERS, "ancestral")


def sample(
    name: str,
    denoiser: Denoiser,
    z: Tensor,
    sigmas: Tensor,
    noise: Callable[[], Tensor],
    eta: float = 1.0,
    trace: Trace | None = None,
) -> Tensor:
    """Run the sampler of that name; `noise` and `eta` matter to "ancestral" alone."""
    if name == "ancestral":
        return ancestral(denoiser, z, sigmas, noise, eta, trace)
    return SOLVERS[name](denoiser, z, sigmas, trace)


def invert(denoiser: Denoiser, x0: Tensor, sigmas: Tensor, solver: Callable = heun) -> Tensor:
    """The noise z at the highest level from which the same grid leads back to x0 (deterministic inversion).

    x0: (B, ...) images; sigmas: a falling grid closed by 0, as for generation. x0 is taken as the state at the lowest
    positive level, which is off by at most that level.
    """
    return solver(denoiser, x0, sigmas[:-1].flip(0))


class SeededNoise:
    """One generator an image, so that an image's noise depends on its own seed and on nothing beside it.

    Drawn on the CPU in float32, whatever the device, so that one seed means one image everywhere.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.shape, self.device = tuple(shape), torch.device(device)

    def __call__(self) -> Tensor:
        """Standard normal noise (B, *shape), fresh at every call."""
        pinned = self.device.type == "cuda"  # memory that it copies without being waited for
        noise = torch.empty(len(self.generators), *self.shape, pin_memory=pinned)
        for generator, image in zip(self.generators, noise):
            torch.randn(self.shape, generator=generator, out=image)
        return noise.to(self.device, non_blocking=True)
