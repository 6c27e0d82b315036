"""A small decoder from scores to images, under which the encoder learns before the denoiser joins."""

from torch import Tensor, nn


class ScoreDecoder(nn.Module):
    """s (B, m), standardised -> x0-hat (B, C, H, W): what a denoiser knows at infinite noise, E[x0 | s], at a fraction of its cost.

    size: image side, divisible by 4. It grows a grid of size / 4 linearly from s and refines it with two convolutions.
    """

    def __init__(self, scores: int, channels: int, size: int, width: int = 64):
        super().__init__()
        side = size // 4
        self.layers = nn.Sequential(
            nn.Linear(scores, width * side * side),
            nn.Unflatten(1, (width, side, side)),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 16 * channels, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, s: Tensor) -> Tensor:
        return self.layers(s)
