"""Image -> similarities to learned patch prototypes, and to templates of whole images -> scores s (Weng et al. 2026,
Sec. 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.receptive_field import ReceptiveField
from models.templates import Templates

EPSILON = 1e-4  # of the log similarity
MAX_SCORE = math.log(1 / EPSILON)  # the log score of a perfect match, 9.21


class Match(NamedTuple):
    """Scores and the patches that gave them."""

    scores: Tensor  # (B, m)
    boxes: Tensor  # (B, m, 4), int64: top, left, bottom, right in pixels, cut at the image's border


def similarity(distance: Tensor) -> Tensor:
    """log((d + 1) / (d + eps)) of squared distances d >= 0; in [0, 9.21]."""
    return torch.log((distance + 1) / (distance + EPSILON))


class PrototypeEncoder(nn.Module):
    """Convolutions with ReLU, then the similarity of every cell to m prototypes; a score is that of the best cell.

    templates: scores of the whole image, which follow those of the patches: `width` counts both.

    in_channels: C of the images (B, C, H, W), which lie in [-1, 1].
    channels: output channels of each convolution; the last one is the prototypes' dimension D.
    kernels, strides, paddings: one integer a layer.
    coordinates: scale of two channels with each pixel's (x, y), appended to the image so that a prototype is a look *at
        a place*: right for aligned sets such as faces and X-rays; 0 appends none, as published.
    normalise: patch vectors and prototypes of unit length, so that distances lie in [0, 4] and scores use their whole
        range.
    scaled_init: weights that keep the scale of activations (He et al. 2015) instead of the published N(0, 0.1).
    similarity: of squared distances d: 'log' is log((d + 1) / (d + eps)) and 'linear' is -d, as published. In
        'competing' a cell belongs to few prototypes: softmax over prototypes of -d / temperature, which with unit
        lengths is the responsibility of a von Mises-Fisher mixture (Banerjee et al. 2005); the last convolution then
        has no ReLU. Scores lie in [0, `highest`], or are not bounded (None).
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
        similarity: str = "log",
        temperature: float = 0.1,
        templates: Templates | None = None,
    ):
        super().__init__()
        self.templates = templates
        self.coordinates, self.normalise = coordinates, normalise
        self.similarity, self.temperature = similarity, temperature
        self.highest = {"log": MAX_SCORE, "linear": None, "competing": 1.0}[similarity]
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
        self.features = nn.Sequential(*(layers[:-1] if self.competing else layers))
        self.prototypes = nn.Parameter(torch.rand(num_prototypes, width))  # (m, D)

    @property
    def width(self) -> int:
        """The number of scores."""
        return len(self.prototypes) + (0 if self.templates is None else len(self.templates.vectors))

    @property
    def competing(self) -> bool:
        return self.similarity == "competing"

    def largest_map(self, side: int) -> int:
        """Values of the largest feature map of one image of that many pixels a side; maps of similarities count too."""
        convs, largest = [layer for layer in self.features if isinstance(layer, nn.Conv2d)], 0
        for conv in convs:
            side = (side + 2 * conv.padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1
            largest = max(largest, conv.out_channels * side**2)
        return max(largest, len(self.prototypes) * side**2)

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W'), one vector a patch."""
        if self.coordinates:
            b, _, h, w = x.shape
            ys = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
            xs = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
            x = torch.cat([x, self.coordinates * xs, self.coordinates * ys], dim=1)  # (B, C + 2, H, W)
        x = x.contiguous(
            memory_format=torch.channels_last
        )  # so that a cell's vector lies side by side, for norm and product
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not self.competing):
            return self.features(x)  # half precision would blur who wins a patch

    def _vectors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cells' vectors (B, H', W', D) and the prototypes' (m, D), as they are compared; float32."""
        z, p = self.embed(x).float().permute(0, 2, 3, 1), self.prototypes.float()
        return (F.normalize(z, dim=-1, eps=1e-3), F.normalize(p, dim=-1, eps=1e-3)) if self.normalise else (z, p)

    def _distances(self, z: Tensor, p: Tensor) -> Tensor:
        """`distances` of `_vectors`, with the prototypes last: (B, H', W', m)."""
        with torch.autocast(z.device.type, enabled=False):  # differences of large numbers: float32 throughout
            return torch.relu((z * z).sum(-1, keepdim=True) - 2 * (z @ p.T) + (p * p).sum(-1))

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances of every cell to every prototype, (B, C, H, W) -> (B, m, H', W'), >= 0, float32."""
        return self._distances(*self._vectors(x)).permute(0, 3, 1, 2)  # (B, m, H', W')

    def _comparable(self, z: Tensor, p: Tensor) -> Tensor:
        """What the cells are compared by, larger being better: `_vectors` -> (B, H', W', m)."""
        if not self.competing:
            return -self._distances(z, p)
        with torch.autocast(z.device.type, enabled=False):  # |z|^2 is that of all prototypes and cancels
            return F.linear(z, p * (2 / self.temperature), (p * p).sum(-1) * (-1 / self.temperature)).softmax(-1)

    def _scores(self, comparable: Tensor) -> Tensor:
        return similarity(-comparable) if self.similarity == "log" else comparable

    def similarities(self, x: Tensor) -> Tensor:
        """The similarity of every cell to every prototype, as scores have it: (B, C, H, W) -> (B, width, H', W'). To a
        template all cells are alike."""
        maps = self._scores(self._comparable(*self._vectors(x))).permute(0, 3, 1, 2)  # (B, m, H', W')
        if self.templates is None:
            return maps
        whole = self.templates(x)[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return torch.cat([maps, whole], dim=1)

    def _with_templates(self, scores: Tensor, x: Tensor) -> Tensor:
        return scores if self.templates is None else torch.cat([scores, self.templates(x).to(scores)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores s of images: (B, C, H, W) -> (B, width)."""
        return self._with_templates(self._scores(self._comparable(*self._vectors(x)).flatten(1, 2).amax(1)), x)

    @torch.no_grad()
    def match(self, x: Tensor) -> Match:
        """Scores of images (B, C, H, W) with the box of each prototype's best patch; a template's is the image."""
        comparable = self._comparable(*self._vectors(x))
        best, cell = comparable.flatten(1, 2).max(1)  # (B, m)
        width = comparable.shape[2]
        boxes = self.receptive_field.boxes(cell // width, cell % width, *x.shape[2:])
        scores = self._with_templates(self._scores(best), x)
        whole = boxes.new_tensor([0, 0, *x.shape[2:]]).expand(len(x), scores.shape[1] - best.shape[1], 4)
        return Match(scores, torch.cat([boxes, whole], dim=1))

    @torch.no_grad()
    def best_vectors(self, x: Tensor, k: int) -> Tensor:
        """The vector of the patch that matches prototype k best, of every image (B, C, H, W): (B, D); for a template
        that of the image."""
        if k >= len(self.prototypes):
            return self.templates.embed(x)
        z, p = self._vectors(x)
        cell = self._comparable(z, p)[..., k].flatten(1).argmax(1)
        return z.flatten(1, 2)[torch.arange(len(x), device=x.device), cell]

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Turn the last convolution so that the vectors of the images' patches have mean 0 and covariance 1.

        Random features all point the same way; then every prototype would own a little of every patch, and none would
        compete.
        """
        last = self.features[-1]
        z = self.embed(x).permute(0, 2, 3, 1).flatten(0, 2)  # (B * H' * W', D)
        mean = z.mean(0)
        values, vectors = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
        whitening = (vectors * (values + 1e-3 * values[-1]).rsqrt()) @ vectors.T  # (D, D)
        last.weight.copy_(torch.einsum("oihw,op->pihw", last.weight, whitening))
        last.bias.copy_((last.bias - mean) @ whitening)

    @torch.no_grad()
    def initialise_prototypes(self, x: Tensor, generator: torch.Generator) -> None:
        """Set the prototypes to the vectors of m random patches of the images x (B, C, H, W), which are whitened first
        where they compete.

        Raises ValueError where the images hold fewer than m patches.
        """
        if self.competing:
            self.whiten(x)
        z = self.embed(x).permute(0, 2, 3, 1).flatten(0, 2)  # (B * H' * W', D)
        m = len(self.prototypes)
        if len(z) < m:
            raise ValueError(f"{m} prototypes cannot be drawn from {len(z)} patches")
        chosen = torch.randperm(len(z), generator=generator)[:m].to(z.device)
        self.prototypes.copy_(z[chosen])
