"""Prototypes that look at the whole image: a garment, a digit or a pose is more than one patch of it."""

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 16  # images are compared at about this size; a finer one tells little more and costs memory


class Templates(nn.Module):
    """Soft assignment of images to templates: the responsibilities of a von Mises-Fisher mixture (Banerjee et al. 2005)
    of the directions in which images differ from their mean. It is fitted once by `learn`, and rests in training.

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

    def embed(self, x: Tensor) -> Tensor:
        """The direction of each image from the mean image: (B, C, H, W) -> (B, D) of unit length."""
        return F.normalize((self.pool(x.float()) - self.mean).flatten(1), dim=1, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> scores (B, w), float32, of sum 1."""
        with torch.autocast(x.device.type, enabled=False):
            z = self.embed(x)
            lengths = self.vectors.square().sum(1)
            return F.linear(z, self.vectors * (2 / self.temperature), -lengths / self.temperature).softmax(1)

    @torch.no_grad()
    def draw(self, x: Tensor, generator: torch.Generator) -> None:
        """Set the templates to w random images of x (B, C, H, W). Raises ValueError where there are fewer."""
        if len(x) < len(self.vectors):
            raise ValueError(f"{len(self.vectors)} templates cannot be drawn from {len(x)} images")
        self.mean.copy_(self.pool(x).mean(0))
        chosen = torch.randperm(len(x), generator=generator)[: len(self.vectors)].to(x.device)
        self.vectors.copy_(self.embed(x[chosen]))

    @torch.no_grad()
    def learn(self, x: Tensor, seed: int) -> None:
        """Set the templates to the means of k-means clusters of images x (B, C, H, W). Raises ValueError where there
        are fewer."""
        if len(x) < len(self.vectors):
            raise ValueError(f"{len(self.vectors)} templates cannot be learnt from {len(x)} images")
        self.mean.copy_(self.pool(x).mean(0))
        clusters = KMeans(len(self.vectors), n_init=1, random_state=seed).fit(self.embed(x).cpu().numpy())
        self.vectors.copy_(torch.from_numpy(clusters.cluster_centers_))
