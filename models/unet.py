"""The conditional U-Net (x, t, c) -> output like x. It knows nothing of prototypes (Weng et al. 2026, Sec. 3 and
App.)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8
HEADS = 4


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Half sines, half cosines of t (B,), which may be fractional, at frequencies 10000^(-i / (half - 1)): (B,
    width)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Attention(nn.Module):
    """x + MHA(GroupNorm(x)) over all positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.mhsa = nn.MultiheadAttention(channels, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        y, _ = self.mhsa(y, y, y, need_weights=False)
        return x + y.transpose(1, 2).reshape(b, c, h, w)


class ResidualBlock(nn.Module):
    """GroupNorm - SiLU - conv, plus time and condition per channel, GroupNorm - SiLU - dropout - conv, plus skip."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float, attention: bool):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.condition = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = Attention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """x (B, in, H, W); time and condition (B, embedding), already activated."""
        h = self.conv1(F.silu(self.norm1(x)))  # (B, out, H, W)
        h = h + (self.time(time) + self.condition(condition))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attention(self.skip(x) + h)


def laid_out(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """x in the memory format of a convolution's weights (kernels larger than 1x1), which all that follows keeps."""
    return x.contiguous(memory_format=torch.channels_last if conv.weight.stride(1) == 1 else torch.contiguous_format)


class Upsample(nn.Module):
    """Nearest neighbour x 2, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelPath(nn.Module):
    """Convolutions at full resolution over the U-Net's features and the pixels themselves, noise level by scale and
    shift.

    Pixels folded into channels leave a U-Net a few channels a pixel: it cannot copy what it sees, let alone take the
    noise off it. A thin path at full resolution can, for little: most of denoising at low noise is local.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, out_channels: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.scales = nn.ModuleList([nn.Linear(embedding, 2 * channels) for _ in range(layers)])
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)])
        self.last = nn.Conv2d(channels, out_channels, 3, padding=1)
        for scale in self.scales:
            nn.init.zeros_(scale.weight)
            nn.init.zeros_(scale.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, in, H, W), time (B, embedding) -> (B, out, H, W)."""
        h = self.first(laid_out(x, self.first))  # (B, channels, H, W)
        for scale, conv in zip(self.scales, self.convs):
            gain, shift = scale(time)[:, :, None, None].chunk(2, dim=1)
            h = h + conv(F.silu(h * (1 + gain) + shift))
        return self.last(F.silu(h))


class UNet(nn.Module):
    """Denoising network of images (B, in_channels, H, W), time (B,) and a condition vector (B, condition).

    base: channels of the first level, a multiple of 8; multipliers: one a level; blocks: residual blocks a level going
    down (one more going up); attention: one boolean a level (the bottleneck always attends, between its two blocks).
    unshuffle: side of the pixel blocks folded into channels before the network and unfolded after it; 1 leaves pixels
        alone.
    zero_output: start with a last convolution of zeros; out_channels: of the output, by default those of the input.
    pixel_channels, pixel_layers: of a thin path at full resolution behind the U-Net (PixelPath); 0 channels for none.
    H and W must be divisible by unshuffle * 2^(levels - 1).
    """

    def __init__(
        self,
        in_channels: int,
        condition: int,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: Sequence[bool] = (False, False, False, False),
        dropout: float = 0.1,
        unshuffle: int = 1,
        zero_output: bool = False,
        out_channels: int | None = None,
        pixel_channels: int = 0,
        pixel_layers: int = 4,
    ):
        super().__init__()
        self.base, self.unshuffle = base, unshuffle
        embedding = 4 * base
        self.time_mlp = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.condition_mlp = nn.Sequential(nn.Linear(condition, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        channels = base
        self.first = nn.Conv2d(in_channels * unshuffle**2, channels, 3, padding=1)
        skips = [channels]
        self.down = nn.ModuleList()
        for level, (multiplier, attend) in enumerate(zip(multipliers, attention, strict=True)):
            for _ in range(blocks):
                self.down.append(ResidualBlock(channels, base * multiplier, embedding, dropout, attend))
                channels = base * multiplier
                skips.append(channels)
            if level < len(multipliers) - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        self.middle = nn.ModuleList(
            [ResidualBlock(channels, channels, embedding, dropout, attend) for attend in (True, False)]
        )
        self.up = nn.ModuleList()
        for level, (multiplier, attend) in reversed(list(enumerate(zip(multipliers, attention)))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(channels + skips.pop(), base * multiplier, embedding, dropout, attend))
                channels = base * multiplier
            if level > 0:
                self.up.append(Upsample(channels))
        self.last_norm = nn.GroupNorm(GROUPS, channels)
        out_channels = out_channels or in_channels
        self.last = nn.Conv2d(channels, (pixel_channels or out_channels) * unshuffle**2, 3, padding=1)
        path = (
            PixelPath(pixel_channels + in_channels, pixel_channels, pixel_layers, out_channels, embedding)
            if pixel_channels
            else None
        )
        self.pixels = path
        if zero_output:
            last = self.last if path is None else path.last
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def largest_map(self, side: int) -> int:
        """Values of the largest feature map of one image of that many pixels a side."""
        folded = self.last_norm.num_channels * (side // self.unshuffle) ** 2
        return folded if self.pixels is None else max(folded, self.pixels.first.out_channels * side**2)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        time = F.silu(self.time_mlp(sinusoids(t, self.base)))  # (B, 4 base)
        pixels = x
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)  # (B, C u^2, H/u, W/u)
        condition = F.silu(self.condition_mlp(condition))  # (B, 4 base)
        h = self.first(laid_out(x, self.first))  # (B, base, H/u, W/u)
        skips = [h]
        for layer in self.down:
            h = layer(h, time, condition) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        for block in self.middle:
            h = block(h, time, condition)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), time, condition)
            else:
                h = layer(h)
        h = self.last(F.silu(self.last_norm(h)))  # (B, C u^2, H/u, W/u)
        h = F.pixel_shuffle(h, self.unshuffle) if self.unshuffle > 1 else h  # (B, C, H, W)
        return h if self.pixels is None else self.pixels(torch.cat([h, pixels], dim=1), time)
