"""A small decoder from scores to images: what any subset of the scores says of the image, E[x0 | s], in one cheap
call."""

from torch import Tensor, nn

LARGEST_GRID = 16  # cells a side that are grown from the condition: their weights are condition x width x cells^2


class ScoreDecoder(nn.Module):
    """A condition vector (B, width of the condition) -> x0-hat (B, C, H, W): what a denoiser knows at infinite noise,
    at a fraction of its cost.

    size: image side, divisible by 4. It grows a grid of size / 4 linearly from the condition, of large images a coarser
    one that is doubled with a convolution each time, and refines it with two convolutions.
    """

    def __init__(self, condition: int, channels: int, size: int, width: int = 64):
        super().__init__()
        side, doublings = size // 4, []
        while side > LARGEST_GRID and side % 2 == 0:
            side //= 2
            doublings += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(
            nn.Linear(condition, width * side * side),
            nn.Unflatten(1, (width, side, side)),
            nn.SiLU(),
            *doublings,
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 16 * channels, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, condition: Tensor) -> Tensor:
        return self.layers(condition)
