"""Prototypes that look at the whole image: a garment, a digit or a pose is more than one patch of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 16  # images are compared at about this size; a finer one tells little more and costs memory


class Templates(nn.Module):
    """Soft assignment of images to templates: the responsibilities of a von Mises-Fisher mixture (Banerjee et al. 2005)
    of the directions in which images differ from their mean. It is fitted once (train/build.py), and rests in training.

    channels, size: of the images (B, C, size, size) in [-1, 1]; count: templates w; temperature: the lower, the fewer
    templates share an image.
    """

    def __init__(self, channels: int, size: int, count: int, temperature: float):
        super().__init__()
        self.pool = nn.AvgPool2d(max(1, size // SIDE))
        side = size // self.pool.kernel_size
        self.temperature = temperature
        self.register_buffer("mean", torch.zeros(channels, side, side))
        self.register_buffer("vectors", F.normalize(torch.randn(count, channels * side * side), dim=1))  # (w, D)

    def direction(self, pooled: Tensor) -> Tensor:
        """Of each pooled image (B, C, h, w) from the mean one: (B, D) of unit length."""
        return F.normalize((pooled - self.mean).flatten(1), dim=1, eps=1e-3)

    def embed(self, x: Tensor) -> Tensor:
        """The direction of each image from the mean image: (B, C, H, W) -> (B, D) of unit length."""
        return self.direction(self.pool(x.float()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> scores (B, w), float32, of sum 1."""
        with torch.autocast(x.device.type, enabled=False):
            z = self.embed(x)
            lengths = self.vectors.square().sum(1)
            return F.linear(z, self.vectors * (2 / self.temperature), -lengths / self.temperature).softmax(1)
