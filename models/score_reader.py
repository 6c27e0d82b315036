"""What a noisy image tells of its own scores, E[s | z]: so that a denoiser need not do without the scores that nobody
gave it."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.denoiser import expand
from models.unet import laid_out

CELLS = 4  # cells a side from which scores are read


class ScoreReader(nn.Module):
    """z (B, C, H, W) and its noise level sigma (B,) -> standardised scores (B, m), near 0 where the noise leaves
    nothing to read.

    Three convolutions of stride 2, each scaled and shifted by the noise level, over the image brought to unit size.
    """

    def __init__(self, channels: int, scores: int, width: int = 64):
        super().__init__()
        widths = [width, 2 * width, 2 * width]
        self.convs = nn.ModuleList(
            [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip([channels, *widths], widths)]
        )
        self.level = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 2 * sum(widths)))
        self.head = nn.Sequential(nn.Linear(CELLS**2 * widths[-1], 4 * width), nn.SiLU(), nn.Linear(4 * width, scores))

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        h = laid_out(z / (1 + expand(sigma, z) ** 2).sqrt(), self.convs[0])
        scales = self.level(sigma.float().log()[:, None]).split([2 * conv.out_channels for conv in self.convs], dim=1)
        for conv, scale in zip(self.convs, scales):
            gain, shift = scale[:, :, None, None].chunk(2, dim=1)
            h = F.silu(conv(h) * (1 + gain) + shift)  # (B, width, H / 2, W / 2)
        return self.head(F.adaptive_avg_pool2d(h, CELLS).flatten(1)).float()
