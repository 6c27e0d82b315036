"""Image -> distance maps to learned patch prototypes -> scores s (Weng et al. 2026, Sec. 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.receptive_field import ReceptiveField

EPSILON = 1e-4  # of the log similarity
MAX_SCORE = math.log(1 / EPSILON)  # the score of a perfect match, 9.21


class Match(NamedTuple):
    """Scores and the cells that gave them."""

    scores: Tensor  # (B, m)
    rows: Tensor  # (B, m), int64
    columns: Tensor  # (B, m), int64


def similarity(distance: Tensor) -> Tensor:
    """log((d + 1) / (d + eps)) of squared distances d >= 0; in [0, 9.21]."""
    return torch.log((distance + 1) / (distance + EPSILON))


class PrototypeEncoder(nn.Module):
    """Convolutions with ReLU, then squared distances of every cell to m prototypes.

    in_channels: C of the images (B, C, H, W), which lie in [-1, 1].
    channels: output channels of each convolution; the last one is the prototypes' dimension D.
    kernels, strides, paddings: one integer a layer.
    coordinates: scale of two channels with each pixel's (x, y), appended to the image so that a prototype is a look *at a place*: right
        for aligned sets such as faces and X-rays; 0 appends none, as published.
    normalise: patch vectors and prototypes of unit length, so that distances lie in [0, 4] and scores use their whole range.
    scaled_init: weights that keep the scale of activations (He et al. 2015) instead of the published N(0, 0.1).
    log_scores: similarity log((d + 1) / (d + eps)); otherwise -d, the paper's 'linear'.
    """

    def __init__(
        self,
        in_channels: int,
        num_prototypes: int,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        paddings: Sequence[int],
        coordinates: float = 0.0,
        normalise: bool = False,
        scaled_init: bool = False,
        log_scores: bool = True,
    ):
        super().__init__()
        self.coordinates, self.normalise = coordinates, normalise
        self.log_scores = log_scores
        self.receptive_field = ReceptiveField(tuple(kernels), tuple(strides), tuple(paddings))
        layers, width = [], in_channels + 2 * (coordinates > 0)
        for out, kernel, stride, padding in zip(channels, kernels, strides, paddings, strict=True):
            conv = nn.Conv2d(width, out, kernel, stride, padding)
            if scaled_init:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.normal_(conv.bias, 0, 0.1)
            else:
                nn.init.normal_(conv.weight, 0, 0.1)
            layers += [conv, nn.ReLU()]
            width = out
        self.features = nn.Sequential(*layers)
        self.prototypes = nn.Parameter(torch.rand(num_prototypes, width))  # (m, D)

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W'), one vector a patch."""
        if self.coordinates:
            b, _, h, w = x.shape
            ys = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
            xs = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
            x = torch.cat([x, self.coordinates * xs, self.coordinates * ys], dim=1)  # (B, C + 2, H, W)
        return self.features(x)

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances of every cell to every prototype, (B, C, H, W) -> (B, m, H', W'), >= 0, float32."""
        z = self.embed(x)
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers: float32 throughout
            z = z.float().permute(0, 2, 3, 1)  # (B, H', W', D)
            p = self.prototypes.float()
            if self.normalise:
                z, p = F.normalize(z, dim=-1, eps=1e-3), F.normalize(p, dim=-1, eps=1e-3)
            d = (z * z).sum(-1, keepdim=True) - 2 * (z @ p.T) + (p * p).sum(-1)  # (B, H', W', m)
            return torch.relu(d).permute(0, 3, 1, 2)  # (B, m, H', W')

    def scores_of(self, distances: Tensor) -> Tensor:
        """Scores of any tensor of squared distances, elementwise."""
        return similarity(distances) if self.log_scores else -distances

    def forward(self, x: Tensor) -> Tensor:
        """Scores s of images: (B, C, H, W) -> (B, m)."""
        return self.scores_of(self.distances(x).flatten(2).amin(-1))

    @torch.no_grad()
    def match(self, x: Tensor) -> Match:
        """Scores with the cell of each prototype's best patch: (B, C, H, W) -> three times (B, m)."""
        d = self.distances(x)
        best, cell = d.flatten(2).min(-1)  # (B, m)
        width = d.shape[-1]
        return Match(self.scores_of(best), cell // width, cell % width)

    @torch.no_grad()
    def initialise_prototypes(self, x: Tensor, generator: torch.Generator) -> None:
        """Set the prototypes to the vectors of m random patches of the images x (B, C, H, W).

        Raises ValueError where the images hold fewer than m patches.
        """
        z = self.embed(x).permute(0, 2, 3, 1).flatten(0, 2)  # (B * H' * W', D)
        m = len(self.prototypes)
        if len(z) < m:
            raise ValueError(f"{m} prototypes cannot be drawn from {len(z)} patches")
        chosen = torch.randperm(len(z), generator=generator)[:m].to(z.device)
        self.prototypes.copy_(z[chosen])
