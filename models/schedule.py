"""The variance-preserving schedule of DDPM, and grids of noise levels.

Everything else in the project speaks of sigma, the noise of z = x0 + sigma * n; a DDPM state is x_t = sqrt(abar_t) z
with sigma_t = sqrt((1 - abar_t) / abar_t) (Song et al. 2021; Karras et al. 2022).
"""

import torch
from torch import Tensor, nn


class LinearSchedule(nn.Module):
    """Linear betas from 1e-4 to 0.02, both scaled by 1000 / timesteps (Ho et al. 2020; Weng et al. 2026)."""

    def __init__(self, timesteps: int = 1000):
        super().__init__()
        scale = 1000 / timesteps
        # on the CPU where torch.device("meta") builds the rest, since values are read
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64, device="cpu")
        if not betas[-1] < 1:
            raise ValueError(f"{timesteps} timesteps give betas up to {betas[-1]:.2f}; at least 21 are needed")
        abar = torch.cumprod(1 - betas, dim=0)
        log_sigmas = 0.5 * torch.log((1 - abar) / abar)
        self.sigma_max = log_sigmas[-1].exp().item()
        self.register_buffer("log_sigmas", log_sigmas, persistent=False)  # (T,) float64

    @property
    def timesteps(self) -> int:
        return len(self.log_sigmas)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of timesteps t in [0, T - 1], fractional ones too (log-linear between neighbours).

        On the schedule's device, wherever t is.
        """
        t = t.to(self.log_sigmas.device).double().clamp(0, self.timesteps - 1)
        low = t.floor().long().clamp(max=self.timesteps - 2)
        a, b = self.log_sigmas[low], self.log_sigmas[low + 1]
        return torch.exp(a + (t - low) * (b - a)).float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Fractional timestep of a noise level: the inverse of `sigma`, clamped to [0, T - 1]."""
        log_sigma = sigma.double().log().clamp(self.log_sigmas[0], self.log_sigmas[-1])
        low = (torch.searchsorted(self.log_sigmas, log_sigma, right=True) - 1).clamp(0, self.timesteps - 2)
        a, b = self.log_sigmas[low], self.log_sigmas[low + 1]
        return (low + (log_sigma - a) / (b - a)).float()


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Falling noise levels of Karras et al. 2022, Eq. 5, closed by 0: (steps + 1,) float64. One step goes from
    sigma_max to 0."""
    if steps < 1:
        raise ValueError(f"a grid of noise levels needs at least 1 step, not {steps}")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def ddim_sigmas(schedule: LinearSchedule, steps: int) -> Tensor:
    """Falling noise levels at `steps` evenly spaced timesteps of a schedule, closed by 0.

    (steps + 1,) float64 on the CPU, as of `karras_sigmas`. One step goes from the last timestep to 0.
    """
    if not 1 <= steps <= schedule.timesteps:
        raise ValueError(f"steps must lie in [1, {schedule.timesteps}], not {steps}")
    t = torch.linspace(schedule.timesteps - 1, 0, steps, dtype=torch.float64)
    sigmas = schedule.sigma(t).double().cpu()
    return torch.cat([sigmas, sigmas.new_zeros(1)])
