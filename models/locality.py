"""Posterior means over windows of any shape, one a pixel: from heat maps of a denoiser (PSPC-Flex, Niedoba et al. 2025)
or from the data's covariance (Lukoianov et al. 2025)."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.pspc import nearest_level, published_levels
from models.training_free import (
    FLOAT,
    EmpiricalDenoiser,
    GaussianDenoiser,
    PixelMajor,
    RunningPosterior,
    check_shape,
    places,
    squared_difference,
)

PUBLISHED_THRESHOLDS = (1, 1, 1, 1, 1, 1, 1, 0.7, 0.7, 0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3)
SPARSE = 0.05  # share of ones below which a sparse product beats a dense one
HALF_A_LEVEL = (1 / 255) ** 2  # variance of half a grey level: a pixel that varies less is constant


class Masks:
    """Which values each pixel's posterior looks at: bool (P, P), one row a pixel. Pixels of equal rows share one mask.

    unique: (U, P) of zeros and ones, sparse where that is faster; owner (P,): the mask of each pixel.
    """

    def __init__(self, masks: Tensor):
        packed = np.packbits(masks.cpu().numpy(), axis=1)
        _, first, owner = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        unique = masks[torch.from_numpy(first).to(masks.device)]
        share = unique.float().mean().item()
        self.unique = _sparse(unique.float()) if share < SPARSE else unique.float()
        self.owner = torch.from_numpy(owner.reshape(-1)).to(masks.device)

    def sums(self, values: Tensor) -> Tensor:
        """(P, n) -> (U, n)."""
        return self.unique @ values

    def means(self, weights: Tensor, values: Tensor) -> Tensor:
        """Weights (U, n), values (K, P, n) -> each pixel's weighted sums (P, K)."""
        if len(weights) == 1:
            return (values @ weights[0]).T
        return torch.einsum("pn,kpn->pk", weights[self.owner], values)


def _sparse(matrix: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return matrix.to_sparse_csr()


def masked_means(data: PixelMajor, z: Tensor, sigma: Tensor, masks: Masks) -> Tensor:
    """The posterior mean of every pixel under its own mask, exactly: z (B, C, H, W), sigma (B,) -> (B, C, H, W)
    float32.

    Masks over H W pixels serve all channels of a pixel, masks over C H W values one each. One pass over the data.
    """
    c, h, w = data.image_shape
    size, pixels = min(data.chunk_size((c + 6) * h * w), 512), len(masks.owner)
    posteriors = [RunningPosterior(masks.owner) for _ in z]
    for _, x in data.chunks(size):
        values = x.reshape(-1, pixels, x.shape[-1])  # (K, P, n)
        for noisy, level, posterior in zip(z, sigma, posteriors):
            logits = masks.sums(squared_difference(values, noisy.reshape(-1, pixels))).mul_(-0.5 / level**2)
            posterior.add(logits, lambda weights, values=values: masks.means(weights, values).double())
    return torch.stack([posterior.result().T.reshape(c, h, w) for posterior in posteriors]).float()


def differentiable_means(x: Tensor, z: Tensor, sigma: Tensor, masks: Masks) -> Tensor:
    """The same of one z (C, H, W), sigma (), with gradients in z, over images x (C, H, W, N) in memory: (C, H, W)."""
    values = x.reshape(-1, len(masks.owner), x.shape[-1])
    distance = (values - z.reshape(*values.shape[:2], 1)).square().sum(0)
    weights = (masks.sums(distance) * (-0.5 / sigma**2)).softmax(-1)
    return masks.means(weights, values).T.reshape(z.shape)


def smallest_windows(heat: Tensor, threshold: float) -> Tensor:
    """The smallest set of pixels that holds a share of each heat map: (H, W, H, W) -> bool (H W, H W), one row a pixel
    of the output.

    Raises ValueError where a pixel's map is all zero, so that nothing would cover it.
    """
    h, w = heat.shape[:2]
    flat = heat.reshape(h * w, h * w).double()
    total = flat.sum(1)
    empty = torch.nonzero(~(total > 0))[:, 0]
    if len(empty):
        y, x = divmod(empty[0].item(), w)
        raise ValueError(f"the heat map of pixel ({y}, {x}) is zero everywhere, so no window covers that pixel")
    values, order = flat.sort(dim=1)
    inside = values.cumsum(1) / total[:, None] >= 1 - threshold - 1e-12
    return torch.zeros_like(inside).scatter_(1, order, inside)


class PSPCFlex(nn.Module):
    """One window shape a pixel, from heat maps of what a denoiser looks at: each pixel's posterior mean (Niedoba et al.
    2025, Sec. 5.2).

    heatmaps: (L, H, W, H, W), non-negative, one a level; thresholds: the share of a map that its window holds, 1 being
    the whole image. Raises ValueError where shapes do not fit or a pixel is not covered.
    """

    def __init__(
        self,
        data: PixelMajor,
        heatmaps: Tensor,
        thresholds: Sequence[float] = PUBLISHED_THRESHOLDS,
        levels: Tensor | None = None,
    ):
        super().__init__()
        levels = published_levels() if levels is None else levels
        _, h, w = data.image_shape
        expected = (len(levels), h, w, h, w)
        if tuple(heatmaps.shape) != expected:
            raise ValueError(f"heat maps are {tuple(heatmaps.shape)}, expected {expected} (levels, H, W, H, W)")
        if len(thresholds) != len(levels) or not all(0 < t <= 1 for t in thresholds):
            raise ValueError(
                f"thresholds must be {len(levels)} numbers in (0, 1], one a noise level, not {list(thresholds)}"
            )
        room = (h * w) ** 2 * (sum(t < 1 for t in thresholds) + 2 * FLOAT)
        if room > data.max_memory / 2:
            raise ValueError(
                f"the windows of {h}x{w} images take {room / 1e9:.2f} GB;"
                f" raise max_memory above {2 * room / 1e9:.2f} GB"
            )
        self.data, self.thresholds = data, tuple(thresholds)
        self.empirical = EmpiricalDenoiser(data)
        self.register_buffer("levels", levels, persistent=False)
        windows = [smallest_windows(heat, t) for heat, t in zip(heatmaps, thresholds) if t < 1]
        empty = torch.zeros(0, h * w, h * w, dtype=torch.bool)
        self.register_buffer(
            "windows", torch.stack(windows) if windows else empty, persistent=False
        )  # (levels below 1, HW, HW)

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,), levels mixed at will -> (B, C, H, W) float32."""
        check_shape(z, self.data.image_shape)
        out = torch.empty_like(z, dtype=torch.float32)
        for level, rows in places(nearest_level(sigma, self.levels).tolist()).items():
            if self.thresholds[level] == 1:
                out[rows] = self.empirical(z[rows], sigma[rows])
            else:
                out[rows] = masked_means(self.data, z[rows].float(), sigma[rows].float(), self._masks(level))
        return out

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the logits of every pixel and image in memory, one noisy image after
        the other."""
        x = torch.cat([x for _, x in self.data.chunks(2048)], dim=-1)  # (C, H, W, N)
        estimates = []
        for noisy, level, index in zip(z.float(), sigma.float(), nearest_level(sigma, self.levels).tolist()):
            if self.thresholds[index] == 1:
                estimates.append(self.empirical.differentiable(noisy[None], level[None])[0])
            else:
                estimates.append(differentiable_means(x, noisy, level, self._masks(index)))
        return torch.stack(estimates)

    def _masks(self, level: int) -> Masks:
        return Masks(self.windows[sum(t < 1 for t in self.thresholds[:level])])


class LocalityDenoiser(nn.Module):
    """Windows from the data's covariance, one a value of an image (Lukoianov et al. 2025).

    A row of the Wiener filter at the noise level, divided by its diagonal entry, becomes 1 where its magnitude reaches
    `threshold` times the largest of the whole matrix, else 0; 0 makes every mask the whole image, the empirical
    denoiser. A value whose deviation is below half a grey level has no other in its window. The posterior mean is exact
    over all images. Raises ValueError for a threshold outside [0, 1), and where filter and masks do not fit max_memory.
    """

    def __init__(self, data: PixelMajor, threshold: float = 0.02, rank: int | None = None):
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"the threshold of masks must lie in [0, 1), not {threshold}")
        c, h, w = data.image_shape
        room = (c * h * w) ** 2 * (8 + 8 + FLOAT + 1)
        if room > data.max_memory:
            raise ValueError(
                f"the masks of {c * h * w} values an image ({h}x{w}x{c}) need {room / 1e9:.1f} GB;"
                " use smaller images (--image_size), or raise max_memory"
            )
        self.data, self.threshold = data, threshold
        self.gaussian = GaussianDenoiser(data, rank)
        self._latest: tuple[float, Masks] | None = None  # of the last noise level asked for

    def mask(self, sigma: float) -> Tensor:
        """bool (C H W, C H W), one row a value of the image."""
        wiener = self.gaussian.filter(sigma)  # (D, D)
        own = wiener.diagonal()
        varying = self.gaussian.variance() > HALF_A_LEVEL
        shares = torch.where(varying[:, None], wiener / own[:, None], 0).abs_()
        mask = shares >= self.threshold * shares.max()
        if self.threshold > 0:
            mask[~varying] = False
        return mask.fill_diagonal_(True)

    def _masks(self, sigma: float) -> Masks:
        if self._latest is None or self._latest[0] != sigma:
            self._latest = sigma, Masks(self.mask(sigma))
        return self._latest[1]

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,), levels mixed at will -> (B, C, H, W) float32."""
        check_shape(z, self.data.image_shape)
        out = torch.empty_like(z, dtype=torch.float32)
        for level, rows in places(sigma.tolist()).items():
            out[rows] = masked_means(self.data, z[rows].float(), sigma[rows].float(), self._masks(level))
        return out

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the logits of every value and image in memory, one noisy image after
        the other."""
        x = torch.cat([x for _, x in self.data.chunks(2048)], dim=-1)  # (C, H, W, N)
        return torch.stack(
            [
                differentiable_means(x, noisy, level, self._masks(level.item()))
                for noisy, level in zip(z.float(), sigma.float())
            ]
        )
