"""Patronus: a denoiser that knows of the image only its similarities to learned patch prototypes (Weng et al. 2026)."""

import torch
from torch import Tensor, nn

from models.denoiser import Denoiser, edm_denoise, edm_scales, eps_denoise
from models.prototype_encoder import PrototypeEncoder
from models.schedule import LinearSchedule, ddim_sigmas, karras_sigmas
from models.unet import UNet


class Standardiser(nn.Module):
    """Running mean and deviation of a batch of vectors (B, m), updated while training, over all processes."""

    def __init__(self, width: int, momentum: float = 0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def update(self, s: Tensor) -> None:
        moments = torch.stack([s.float().mean(0), s.float().square().mean(0)])  # (2, m)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean, variance = moments[0], (moments[1] - moments[0] ** 2).clamp(min=0)
        rate = torch.where(self.started > 0, self.momentum, 1.0)
        self.mean.lerp_(mean, rate)
        self.variance.lerp_(variance, rate)
        self.started.fill_(1)

    def forward(self, s: Tensor) -> Tensor:
        return (s - self.mean) / (self.variance + 1e-6).sqrt()


class Patronus(nn.Module):
    """Prototype encoder and conditional U-Net as one model, in one of two formulations behind one interface.

    schedule: the published formulation, eps at integer t of that schedule; None is the EDM formulation with
        sigma_data and sigma_skip (see edm_scales).
    standardise: s enters the U-Net standardised by running moments rather than raw.
    """

    def __init__(
        self,
        encoder: PrototypeEncoder,
        unet: UNet,
        schedule: LinearSchedule | None = None,
        sigma_data: float = 0.5,
        sigma_skip: float = 0.5,
        standardise: bool = False,
    ):
        super().__init__()
        self.encoder, self.unet, self.schedule = encoder, unet, schedule
        self.sigma_data, self.sigma_skip = sigma_data, sigma_skip
        self.standardiser = Standardiser(len(encoder.prototypes)) if standardise else None

    def score(self, x0: Tensor) -> Tensor:
        """Prototype scores of clean images in [-1, 1]: (B, C, H, W) -> s (B, m)."""
        return self.encoder(x0)

    def network(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The U-Net on raw scores; s is standardised here where the model does so."""
        return self.unet(x, t, s if self.standardiser is None else self.standardiser(s))

    def denoise(self, z: Tensor, sigma: Tensor, s: Tensor) -> Tensor:
        """E[x0 | z, s] of z = x0 + sigma n: (B, C, H, W), (B,), (B, m) -> (B, C, H, W), float32."""
        if self.schedule is None:
            return edm_denoise(self.network, self.sigma_data, self.sigma_skip, z, sigma, s)
        return eps_denoise(self.network, self.schedule, z, sigma, s)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """What the squared error of D is multiplied by: (B,) -> (B,). In the published formulation it becomes the squared error of eps;
        in ours every level counts alike, 1 / c_out^2 (Karras et al. 2022, Sec. 5)."""
        if self.schedule is not None:
            return sigma**-2
        return edm_scales(sigma, self.sigma_data, self.sigma_skip)[1] ** -2

    def denoiser(self, s: Tensor) -> Denoiser:
        """The Denoiser of images whose scores are s (B, m)."""
        return lambda z, sigma: self.denoise(z, sigma, s)

    def sigmas(self, steps: int) -> Tensor:
        """The falling grid of noise levels for this formulation, closed by 0: (steps + 1,)."""
        return karras_sigmas(steps) if self.schedule is None else ddim_sigmas(self.schedule, steps)
