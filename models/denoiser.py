"""The one interface, D(z, sigma) = E[x0 | z], and the adapters that turn a network into it."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from models.schedule import LinearSchedule

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, noise embedding input (B,), s) -> like x


class Denoiser(Protocol):
    """z (B, ...) = x0 + sigma * n and sigma (B,) -> the estimate of E[x0 | z] (B, ...), float32."""

    def __call__(self, z: Tensor, sigma: Tensor) -> Tensor: ...


def expand(sigma: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), ready to be multiplied with `like` (B, ...)."""
    return sigma.float().view(-1, *[1] * (like.dim() - 1))


def eps_denoise(network: Network, schedule: LinearSchedule, z: Tensor, sigma: Tensor, s: Tensor) -> Tensor:
    """D = z - sigma * eps_theta(x_t, t, s) with x_t = z / sqrt(1 + sigma^2) (Niedoba et al. 2025, Sec. 2)."""
    level = expand(sigma, z)
    eps = network(z / (1 + level**2).sqrt(), schedule.timestep(sigma), s)
    return z - level * eps.float()


def edm_scales(sigma: Tensor, sigma_data: float, sigma_skip: float) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) of D = c_skip z + c_out F(c_in z), like sigma.

    c_skip = sigma_skip^2 / (sigma^2 + sigma_skip^2), and c_out gives F's target unit variance for data of deviation
    sigma_data. With sigma_skip = sigma_data it is Karras et al. 2022, Table 1. A smaller one asks F for the clean image
    above that level instead of for a mixture with the noise, which a network of few channels a pixel cannot carry (Li
    and He 2025, "Back to Basics").
    """
    c_skip = sigma_skip**2 / (sigma**2 + sigma_skip**2)
    c_out = (((1 - c_skip) * sigma_data) ** 2 + (c_skip * sigma) ** 2).sqrt()
    return c_skip, c_out, 1 / (sigma**2 + sigma_data**2).sqrt()


def edm_denoise(network: Network, sigma_data: float, sigma_skip: float, z: Tensor, sigma: Tensor, s: Tensor) -> Tensor:
    """Preconditioned denoiser (Karras et al. 2022, Eq. 7)."""
    c_skip, c_out, c_in = edm_scales(expand(sigma, z), sigma_data, sigma_skip)
    return c_skip * z + c_out * network(c_in * z, sigma.float().log() / 4, s).float()
