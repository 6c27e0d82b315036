"""Denoisers that need no training: what is optimal for a finite data set, and for the Gaussian of its mean and
covariance (Niedoba et al. 2025)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

FLOAT = 4  # bytes
OVERSAMPLING, ITERATIONS = 10, 6  # of subspace iteration
LEAST_LOGIT = -69.0  # exp of it is nothing beside 1, but a normal float32: denormal numbers make exp twice as slow


class PixelMajor(nn.Module):
    """A data set of images, each pixel's values side by side: what denoisers of patches stream over.

    pixels: uint8 (N, H, W, C); xflip: count each mirror image as well; max_memory: bytes that data and temporaries may
    take. Chunks leave as float32 (C, H, W, n) in [-1, 1]; the data are kept so where that takes an eighth of the bound,
    else as uint8.
    """

    def __init__(self, pixels: Tensor, xflip: bool = False, max_memory: float = 4e9):
        super().__init__()
        if pixels.dtype != torch.uint8 or pixels.dim() != 4 or not len(pixels):
            raise ValueError(f"images must be uint8 (N, H, W, C) with N > 0, not {pixels.dtype} {tuple(pixels.shape)}")
        self.xflip, self.max_memory = xflip, float(max_memory)
        if pixels.numel() > self.max_memory / 2:
            size = pixels.numel() / 1e9
            raise ValueError(f"the images alone take {size:.2f} GB; raise max_memory above {2 * size:.2f} GB")
        pixels = pixels.permute(3, 1, 2, 0).contiguous()  # (C, H, W, N)
        if pixels.numel() * FLOAT <= self.max_memory / 8:
            pixels = self._scaled(pixels)
        self.register_buffer("pixels", pixels, persistent=False)

    @staticmethod
    def _scaled(pixels: Tensor) -> Tensor:
        return pixels.float().div_(127.5).sub_(1) if pixels.dtype == torch.uint8 else pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[:3])

    def __len__(self) -> int:
        """Images, mirror images included."""
        return self.pixels.shape[-1] * (2 if self.xflip else 1)

    def chunk_size(self, values_per_image: int) -> int:
        """How many images at once keep that many float32 values an image within an eighth of the bound; at most
        2048."""
        bound = int(self.max_memory / 8 / FLOAT / values_per_image)
        if not bound:
            size = values_per_image * FLOAT / 1e9
            raise ValueError(f"one image needs {size:.3f} GB; raise max_memory above {8 * size:.3f} GB")
        return min(bound, 2048)

    def chunks(self, size: int, mirrored: bool = True):
        """Yields (first index, float32 (C, H, W, n)) over all images, mirror images after the others, or without
        them."""
        count = self.pixels.shape[-1]
        for flipped in (False, True) if self.xflip and mirrored else (False,):
            for start in range(0, count, size):
                x = self._scaled(self.pixels[..., start : start + size])
                yield start + flipped * count, x.flip(2) if flipped else x.contiguous()


class RunningPosterior:
    """Means of values under softmax weights whose logits arrive in chunks: R rows of logits, Q rows of values.

    owner (Q,): the row of logits that weighs each row of values; None where Q = R and each weighs its own.
    """

    def __init__(self, owner: Tensor | None = None):
        self.owner = owner
        self.highest = self.total = self.mean = None

    def _of_values(self, factors: Tensor, like: Tensor) -> Tensor:
        factors = factors if self.owner is None else factors[self.owner]
        return factors.view((-1,) + (1,) * (like.dim() - 1))

    def add(self, logits: Tensor, weigh) -> None:
        """logits (R, n); weigh(weights (R, n)) -> the weighted sums of this chunk's values (Q, ...)."""
        highest = logits.amax(1)
        if self.highest is not None:
            highest = torch.maximum(highest, self.highest)
        weights = (logits - highest[:, None]).clamp_(min=LEAST_LOGIT).exp_()
        sums, total = weigh(weights), weights.sum(1, dtype=torch.float64)
        if self.highest is not None:
            fade = (self.highest - highest).exp().double()
            sums, total = sums + self.mean * self._of_values(fade, sums), total + self.total * fade
        self.highest, self.total, self.mean = highest, total, sums

    def result(self) -> Tensor:
        return self.mean / self._of_values(self.total, self.mean)


class EmpiricalDenoiser(nn.Module):
    """The optimal denoiser of the data set itself: D = sum_n w_n x^(n), w = softmax_n(-|z - x^(n)|^2 / (2 sigma^2))
    (Niedoba et al. 2025, Eq. 5).

    In float64, since at low noise the squared distances are divided by 1e-5. Streams over the data once for the whole
    batch.
    """

    def __init__(self, data: PixelMajor):
        super().__init__()
        self.data = data
        self.register_buffer("norms", None, persistent=False)  # (N,), at the first use
        self.register_buffer("flat", None, persistent=False)  # (D, N), where that takes an eighth of the bound

    def _prepare(self) -> None:
        if self.norms is None:
            if 2 * FLOAT * math.prod(self.data.image_shape) * len(self.data) <= self.data.max_memory / 8:
                self.flat = torch.cat([x for _, x in self._columns()], dim=1)
            self.norms = torch.cat([x.square().sum(0) for _, x in self._columns()])

    def _columns(self):
        """Yields (first index, float64 (D, n)) over all images, from memory where they are few."""
        if self.flat is not None:
            yield 0, self.flat
        else:
            size = self.data.chunk_size(4 * math.prod(self.data.image_shape))
            yield from ((start, x.flatten(0, 2).double()) for start, x in self.data.chunks(size))

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,) -> (B, C, H, W) float32."""
        check_shape(z, self.data.image_shape)
        self._prepare()
        flat = z.double().flatten(1)  # (B, D)
        posterior, precision = RunningPosterior(), sigma.double()[:, None] ** -2
        for start, x in self._columns():
            logits = (
                flat @ x - self.norms[start : start + x.shape[1]] / 2
            ) * precision  # (B, n), but for what all images share
            posterior.add(logits, lambda weights, x=x: weights @ x.T)
        return posterior.result().view(z.shape).float()

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the whole data set in memory."""
        self._prepare()
        x = torch.cat([x for _, x in self._columns()], dim=1)  # (D, N)
        logits = (z.double().flatten(1) @ x - self.norms / 2) / sigma.double()[:, None] ** 2
        return (logits.softmax(1) @ x.T).view(z.shape).float()


class GaussianDenoiser(nn.Module):
    """The optimal denoiser of a Gaussian with the data's mean and biased covariance (Niedoba et al. 2025, Sec. 4).

    D = mu + U diag(S / (S + sigma^2)) U^T (z - mu), of all directions or of the `rank` largest. Raises ValueError where
    neither the covariance nor the matrix of scalar products between images fits max_memory; with a rank their place is
    taken by subspace iteration, which needs little more than the directions themselves.
    """

    def __init__(self, data: PixelMajor, rank: int | None = None):
        super().__init__()
        n, (c, h, w) = len(data), data.image_shape
        d, size = c * h * w, data.chunk_size(4 * c * h * w)
        side = min(n, d)
        room = 4 * 8 * side**2 + 8 * n * d * (n < d)
        mean = sum(x.flatten(0, 2).sum(1, dtype=torch.float64) for _, x in data.chunks(size)) / n  # (D,)
        if room <= data.max_memory:
            values, vectors = (_from_products if n < d else _from_covariance)(data, mean, size)
        elif rank is not None and 5 * 8 * d * (rank + OVERSAMPLING) <= data.max_memory:
            values, vectors = _by_iteration(data, mean, size, rank)
        else:
            raise ValueError(
                f"a Gaussian of {d} values an image ({h}x{w}x{c}) needs {room / 1e9:.1f} GB; use smaller images"
                " (--image_size), fewer directions (--rank), or raise max_memory"
            )
        order = values.argsort(descending=True)[:rank]
        self.image_shape = data.image_shape
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("values", values[order].clamp(min=0), persistent=False)  # (K,)
        self.register_buffer("vectors", vectors[:, order], persistent=False)  # (D, K)

    def filter(self, sigma: float) -> Tensor:
        """The Wiener filter W = U diag(S / (S + sigma^2)) U^T: (D, D) float64."""
        return (self.vectors * (self.values / (self.values + sigma**2))) @ self.vectors.T

    def variance(self) -> Tensor:
        """Of each value of an image: (D,) float64."""
        return self.vectors.square() @ self.values

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,) -> (B, C, H, W) float32, with gradients in z."""
        check_shape(z, self.image_shape)
        shrink = self.values / (self.values + sigma.double()[:, None] ** 2)  # (B, K)
        parts = (z.double().flatten(1) - self.mean) @ self.vectors
        return (self.mean + (shrink * parts) @ self.vectors.T).view(z.shape).float()

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,) -> (B, C, H, W) float32."""
        return self.differentiable(z, sigma)


def _centred(data: PixelMajor, mean: Tensor, size: int):
    """Yields float64 (D, n) less the mean (D,), over all images."""
    return (x.flatten(0, 2).double() - mean[:, None] for _, x in data.chunks(size))


def _from_products(data: PixelMajor, mean: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K,) and directions (D, K) of the covariance, from the scalar products of fewer images than
    values."""
    centred = torch.cat([x.T for x in _centred(data, mean, size)])  # (N, D)
    values, vectors = torch.linalg.eigh(centred @ centred.T / len(centred))
    keep = values > values[-1].clamp(min=1e-300) * 1e-12
    values = values[keep]
    return values, centred.T @ vectors[:, keep] / (values * len(centred)).sqrt()


def _from_covariance(data: PixelMajor, mean: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,) and directions (D, D) of the covariance."""
    covariance = mean.new_zeros(len(mean), len(mean))
    for x in _centred(data, mean, size):
        covariance.addmm_(x, x.T)
    return torch.linalg.eigh(covariance / len(data))


def _by_iteration(data: PixelMajor, mean: Tensor, size: int, rank: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (K,) and their directions (D, K), K a little above rank (Halko et al. 2011, Alg. 4.4)."""
    k = min(rank + OVERSAMPLING, len(data), len(mean))
    directions = torch.randn(len(mean), k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(
        mean.device
    )
    for _ in range(ITERATIONS):
        directions = torch.linalg.qr(directions).Q
        products = torch.zeros_like(directions)
        for x in _centred(data, mean, size):
            products.addmm_(x, x.T @ directions)
        previous, directions = directions, products / len(data)
    values, rotation = torch.linalg.eigh(previous.T @ directions)  # Rayleigh and Ritz
    return values, previous @ rotation


def places(values: Iterable) -> dict:
    """Where each value stands among the values: value -> list of indices, in order."""
    indices = {}
    for index, value in enumerate(values):
        indices.setdefault(value, []).append(index)
    return indices


def check_shape(z: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError where noisy images are not of the data's shape (C, H, W)."""
    if tuple(z.shape[1:]) != tuple(shape):
        raise ValueError(
            f"noisy images are {tuple(z.shape[1:])}, the data are {tuple(shape)} (channels, height, width)"
        )


def squared_difference(x: Tensor, z: Tensor, total: Tensor | None = None, difference: Tensor | None = None) -> Tensor:
    """x (C, ..., n), z (C, ...) -> (..., n), summed over channels.

    total, difference (..., n): memory to write over, where no gradients are recorded.
    """
    recording = torch.is_grad_enabled()
    for index, (channel, noisy) in enumerate(zip(x, z)):
        if index == 0:
            total = torch.sub(channel, noisy[..., None], out=total).square_()
        else:
            difference = torch.sub(channel, noisy[..., None], out=None if recording else difference)
            total.addcmul_(difference, difference)
    return total
