"""Image -> a dense code, as DiffAE and InfoDiffusion have it: what Patronus is compared with.

Preechakul et al. 2022, "Diffusion Autoencoders"; Wang et al. 2023, "InfoDiffusion", whose encoder is the same and whose
loss adds `mmd`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.prototype_encoder import Match
from models.receptive_field import ReceptiveField
from models.unet import GROUPS


class DownBlock(nn.Module):
    """Halve the side by a convolution, then a residual block: GroupNorm - SiLU - conv twice, plus skip."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.down = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, out_channels) for _ in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)  # (B, out, H / 2, W / 2)
        h = x
        for norm, conv in zip(self.norms, self.convs):
            h = conv(F.silu(norm(h)))
        return x + h


class DenseEncoder(nn.Module):
    """The downward half of a U-Net, pooled over places, and one linear layer.

    It stands where a PrototypeEncoder stands. A coordinate of the code takes the place of a prototype's score; its
    patch is the whole image. Codes are not bounded.

    in_channels: C of the images (B, C, H, W), which lie in [-1, 1]; size: their side.
    width: m, length of the code; channels: of each level, multiples of 8.
    """

    highest = None
    competing = False
    templates = None

    def __init__(self, in_channels: int, size: int, width: int, channels: Sequence[int]):
        super().__init__()
        self.receptive_field = ReceptiveField((size,), (1,), (0,))
        widths = [in_channels, *channels]
        self.levels = nn.Sequential(*(DownBlock(a, b) for a, b in zip(widths, widths[1:])))
        self.norm = nn.GroupNorm(GROUPS, widths[-1])
        self.linear = nn.Linear(widths[-1], width)

    @property
    def prototypes(self) -> Tensor:
        """The direction of each coordinate in the pooled features: (m, D)."""
        return self.linear.weight

    @property
    def width(self) -> int:
        """The number of coordinates."""
        return len(self.prototypes)

    def largest_map(self, side: int) -> int:
        """Values of the largest feature map of one image of that many pixels a side."""
        return max(block.down.out_channels * (side // 2 ** (i + 1)) ** 2 for i, block in enumerate(self.levels))

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> pooled features as one cell (B, D, 1, 1)."""
        return F.silu(self.norm(self.levels(x))).mean((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the code (B, m), float32."""
        return self.linear(self.embed(x).flatten(1)).float()

    def similarities(self, x: Tensor) -> Tensor:
        """The code as a map of one cell: (B, m, 1, 1)."""
        return self(x)[:, :, None, None]

    @torch.no_grad()
    def match(self, x: Tensor) -> Match:
        """The code of images (B, C, H, W), of which every coordinate sees the whole image."""
        code = self(x)
        return Match(code, torch.tensor([0, 0, *x.shape[2:]], device=x.device).expand(*code.shape, 4))

    @torch.no_grad()
    def best_vectors(self, x: Tensor, k: int) -> Tensor:
        """The pooled features, which are those of every coordinate k: (B, C, H, W) -> (B, D)."""
        return self.embed(x).flatten(1)
