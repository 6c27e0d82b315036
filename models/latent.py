"""Small networks that model the score vector s itself, so that Patronus can sample without any image (Weng et al. 2026,
Sec. 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.denoiser import edm_denoise, eps_denoise
from models.schedule import LinearSchedule, ddim_sigmas, karras_sigmas
from models.unet import GROUPS, sinusoids

TIME_WIDTH = 64


class LatentMLP(nn.Module):
    """Fully connected, x and time at the entry of every layer, as the latent DDIM of Preechakul et al. 2022: scores
    have no order."""

    def __init__(self, scores: int, width: int = 512, layers: int = 6):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.entries = nn.ModuleList([nn.Linear(scores if i == 0 else width + scores, width) for i in range(layers)])
        self.scales = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.last = nn.Linear(width + scores, scores)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, m), t (B,) -> (B, m)."""
        time = F.silu(self.time_mlp(sinusoids(t, TIME_WIDTH)))  # (B, width)
        h = x
        for i, (entry, scale, norm) in enumerate(zip(self.entries, self.scales, self.norms)):
            h = entry(h if i == 0 else torch.cat([h, x], dim=1))
            h = F.silu(norm(h) * (1 + scale(time)))
        return self.last(torch.cat([h, x], dim=1))


class Block1d(nn.Module):
    """GroupNorm - SiLU - conv, plus projected time, GroupNorm - SiLU - dropout - conv, plus skip, along a vector."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class LatentUNet1d(nn.Module):
    """The published latent network: a U-Net without skip connections along the vector of scores (Weng et al. 2026,
    App.).

    base: channels of the first level; multipliers: one a level; blocks: residual blocks a level; embedding: width of
    the time embedding, by default 4 base; kernel: of the first and the last convolution. Vectors may have any length:
    they are padded with zeros at the end to a multiple of 2^(levels - 1).
    """

    def __init__(
        self,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 3,
        dropout: float = 0.2,
        embedding: int | None = None,
        kernel: int = 3,
    ):
        super().__init__()
        self.base, self.unit = base, 2 ** (len(multipliers) - 1)
        embedding = embedding or 4 * base
        self.time_mlp = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.first = nn.Conv1d(1, base, kernel, padding=kernel // 2)
        channels = base
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(Block1d(channels, base * multiplier, embedding, dropout))
                channels = base * multiplier
            if level < len(multipliers) - 1:
                self.down.append(nn.Conv1d(channels, channels, 4, stride=2, padding=1))
        self.middle = nn.ModuleList([Block1d(channels, channels, embedding, dropout) for _ in range(2)])
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks):
                self.up.append(Block1d(channels, base * multiplier, embedding, dropout))
                channels = base * multiplier
            if level > 0:
                self.up.append(nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1))
        self.last = nn.Conv1d(channels, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, m), t (B,) -> (B, m)."""
        m = x.shape[1]
        time = self.time_mlp(sinusoids(t, self.base))  # (B, 4 base)
        h = self.first(F.pad(x, (0, -m % self.unit))[:, None])  # (B, base, m)
        for layer in (*self.down, *self.middle, *self.up):
            h = layer(h, time) if isinstance(layer, Block1d) else layer(h)
        return self.last(h)[:, 0, :m]


class LatentModel(nn.Module):
    """A network over standardised scores, whose `denoise` is a Denoiser, with the way back to scores.

    schedule: the published formulation (eps on that schedule, T = 100); None is the EDM formulation with unit data
        deviation.
    highest: scores above it cannot be; None for similarities without a bound. Mean and deviation of the scores are
        buffers (m,).
    """

    def __init__(
        self, network: nn.Module, scores: int, schedule: LinearSchedule | None = None, highest: float | None = None
    ):
        super().__init__()
        self.network, self.schedule, self.highest = network, schedule, highest
        self.register_buffer("mean", torch.zeros(scores))
        self.register_buffer("deviation", torch.ones(scores))

    def fit(self, s: Tensor) -> None:
        """Take mean and deviation from scores (N, m); a score that never varies keeps deviation 1e-6."""
        self.mean.copy_(s.mean(0))
        self.deviation.copy_(s.std(0).clamp(min=1e-6))

    def standardise(self, s: Tensor) -> Tensor:
        return (s - self.mean) / self.deviation

    def scores(self, z: Tensor) -> Tensor:
        """Standardised vectors -> scores within their range [0, highest]."""
        s = z * self.deviation + self.mean
        return s if self.highest is None else s.clamp(0, self.highest)

    def denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[standardised s | z] of z = s + sigma n: (B, m), (B,) -> (B, m)."""

        def network(x: Tensor, t: Tensor, _) -> Tensor:
            return self.network(x, t)

        if self.schedule is None:
            return edm_denoise(network, 1.0, 1.0, z, sigma, None)
        return eps_denoise(network, self.schedule, z, sigma, None)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """What the squared error of D is multiplied by, (B,): eps loss as published, or every level alike (Karras et
        al. 2022, Sec. 5)."""
        return sigma**-2 if self.schedule is not None else (sigma**2 + 1) / sigma**2

    def sigmas(self, steps: int) -> Tensor:
        """The falling grid of noise levels for this formulation, closed by 0: (steps + 1,)."""
        return karras_sigmas(steps) if self.schedule is None else ddim_sigmas(self.schedule, steps)
