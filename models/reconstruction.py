"""A small decoder from scores to images: what any subset of the scores says of the image, E[x0 | s], in one cheap call."""

from torch import Tensor, nn


class ScoreDecoder(nn.Module):
    """A condition vector (B, width of the condition) -> x0-hat (B, C, H, W): what a denoiser knows at infinite noise, at a fraction of its cost.

    size: image side, divisible by 4. It grows a grid of size / 4 linearly from the condition and refines it with two convolutions.
    """

    def __init__(self, condition: int, channels: int, size: int, width: int = 64):
        super().__init__()
        side = size // 4
        self.layers = nn.Sequential(
            nn.Linear(condition, width * side * side),
            nn.Unflatten(1, (width, side, side)),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 16 * channels, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, condition: Tensor) -> Tensor:
        return self.layers(condition)
