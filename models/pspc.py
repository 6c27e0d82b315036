"""Patch set posterior composites: every patch has its own posterior over the same patch of all training images (Niedoba
et al. 2025, Sec. 5)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.schedule import karras_sigmas
from models.training_free import (
    FLOAT,
    LEAST_LOGIT,
    EmpiricalDenoiser,
    PixelMajor,
    check_shape,
    places,
    squared_difference,
)

PUBLISHED_SIZES = (32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3)  # CIFAR-10, high noise to low
LEAST_FACTOR = LEAST_LOGIT / 2  # two such factors make a weight


def published_levels() -> Tensor:
    """The 18 noise levels that the published schedules belong to: (18,)."""
    return karras_sigmas(len(PUBLISHED_SIZES))[:-1]


def nearest_level(sigma: Tensor, levels: Tensor) -> Tensor:
    """Index of the level nearest to each noise level: (B,), (L,) -> (B,)."""
    return (sigma.double()[:, None] - levels.to(sigma.device).double()).abs().argmin(1)


def joined(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Two sets of logits as one; each is told by its largest and the sum of exponentials of all less that.

    Kept apart, since in their log-sum-exp of a million, as far from the data at little noise, float32 is off by .1.
    """
    largest = torch.maximum(one[0], other[0])
    return largest, sum(total * (highest - largest).exp() for highest, total in (one, other))


class Boxes:
    """Sums over all p x p windows of maps (H, W, n), and back.

    One product with a banded matrix of zeros and ones per axis: its cost does not depend on p. It beats running sums,
    and shifted additions but for the smallest p on processors without AVX-512 (tests/benchmarks/composites.py). Sums of
    squares stay sums of non-negative numbers: nothing cancels, as it would in differences of running sums.
    """

    def __init__(self, height: int, width: int, size: int, device: torch.device):
        self.size = size
        self.rows, self.columns = (self._band(length, size, device) for length in (height, width))
        self._scratch: dict[str, Tensor] = {}
        self.shape = len(self.rows), len(self.columns)  # of the window positions
        ones = torch.ones(*self.shape, 1, device=device)
        self.cover = self.spread(ones)[..., 0].clone()  # (H, W): windows that hold each pixel

    @staticmethod
    def _band(length: int, size: int, device: torch.device) -> Tensor:
        start, place = torch.arange(length - size + 1, device=device)[:, None], torch.arange(length, device=device)
        return ((place >= start) & (place < start + size)).float()  # (positions, length)

    def scratch(self, name: str, *shape: int) -> Tensor | None:
        """Memory that every chunk overwrites, since fresh pages cost as much as the arithmetic; None while gradients
        are recorded."""
        if torch.is_grad_enabled():
            return None
        if name not in self._scratch or self._scratch[name].shape != shape:
            self._scratch[name] = torch.empty(shape, device=self.rows.device)
        return self._scratch[name]

    def _product(self, rows: Tensor, columns: Tensor, maps: Tensor, out: Tensor | None = None) -> Tensor:
        h, w, n = maps.shape
        half = torch.mm(rows, maps.reshape(h, w * n), out=self.scratch(f"half {len(rows)}", len(rows), w * n))
        return torch.matmul(columns, half.view(len(rows), w, n), out=out)  # (rows, columns, n)

    def sums(self, maps: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """(H, W, n) -> (H - p + 1, W - p + 1, n), times a factor."""
        return self._product(self.rows * scale, self.columns, maps)

    def spread(self, windows: Tensor) -> Tensor:
        """The transpose, (H - p + 1, W - p + 1, n) -> (H, W, n): what every pixel gets from the windows that hold it.
        Without gradients the next result overwrites it."""
        shape = self.rows.shape[1], self.columns.shape[1], windows.shape[2]
        return self._product(self.rows.T, self.columns.T, windows, self.scratch("spread", *shape))

    def logits(self, x: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
        """Images x (C, H, W, n), z (C, H, W), sigma () -> -|difference|^2 / (2 sigma^2) of every window (H - p + 1,
        W - p + 1, n)."""
        total, difference = (self.scratch(name, *x.shape[1:]) for name in ("total", "difference"))
        return self.sums(squared_difference(x, z, total, difference), -0.5 / sigma**2)

    def means(self, weights: Tensor, x: Tensor) -> Tensor:
        """Weights of windows (H - p + 1, W - p + 1, n), images x (C, H, W, n) -> their weighted sums (C, H, W)."""
        return torch.einsum("hwn,chwn->chw", self.spread(weights), x)


class PSPCSquare(nn.Module):
    """Square windows: D is the average, pixel by pixel, of the posterior means of all windows that hold the pixel
    (Niedoba et al. 2025, Sec. 5.1).

    sizes: window side at each of `levels` (L,), high noise to low; the level nearest to sigma decides. A window of the
    whole image is the empirical denoiser. Two passes over the data: first each window's largest logit and normaliser,
    then the weighted sum of the images. Logits are kept in between where they fit half of the data's max_memory, else
    computed again. Raises ValueError where a size fits no window.
    """

    def __init__(self, data: PixelMajor, sizes: Sequence[int] = PUBLISHED_SIZES, levels: Tensor | None = None):
        super().__init__()
        levels = published_levels() if levels is None else levels
        _, h, w = data.image_shape
        if len(sizes) != len(levels):
            raise ValueError(f"{len(sizes)} window sizes for {len(levels)} noise levels; give one a level")
        for size in sizes:
            if not 1 <= size <= min(h, w):
                raise ValueError(
                    f"window size {size} does not fit images of {h}x{w};"
                    f" give sizes from 1 to {min(h, w)}, or fit a schedule"
                )
        self.data, self.sizes = data, tuple(int(size) for size in sizes)
        self.empirical = EmpiricalDenoiser(data)
        self.register_buffer("levels", levels, persistent=False)

    def window(self, sigma: float) -> int:
        """Window side at a noise level."""
        return self.sizes[nearest_level(torch.tensor([sigma]), self.levels.cpu()).item()]

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,), levels mixed at will -> (B, C, H, W) float32."""
        check_shape(z, self.data.image_shape)
        out = torch.empty_like(z, dtype=torch.float32)
        for size, rows in places(self.sizes[level] for level in nearest_level(sigma, self.levels).tolist()).items():
            if size == self.data.image_shape[1] == self.data.image_shape[2]:
                out[rows] = self.empirical(z[rows], sigma[rows])
            else:
                out[rows] = self._composite(z[rows].float(), sigma[rows].float(), size)
        return out

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the logits of every window and image in memory, one noisy image after
        the other."""
        x = torch.cat([x for _, x in self.data.chunks(2048)], dim=-1)  # (C, H, W, N)
        estimates = []
        for noisy, level in zip(z.float(), sigma.float()):
            size = self.window(level.item())
            if size == x.shape[1] == x.shape[2]:
                estimates.append(self.empirical.differentiable(noisy[None], level[None])[0])
                continue
            boxes = Boxes(x.shape[1], x.shape[2], size, z.device)
            weights = boxes.logits(x, noisy, level).softmax(-1)
            estimates.append(boxes.means(weights, x) / boxes.cover)
        return torch.stack(estimates)

    def _composite(self, z: Tensor, sigma: Tensor, size: int) -> Tensor:
        """A mirror image is as far from z as its original is from the mirrored z, so mirrored z take the place of
        mirror images."""
        count, (c, h, w) = len(z), self.data.image_shape
        if self.data.xflip:
            z, sigma = torch.cat([z, z.flip(3)]), sigma.repeat(2)
        boxes = Boxes(h, w, size, z.device)
        chunk = self.data.chunk_size((c + 6) * h * w)
        fit = int(self.data.max_memory / 2 / (FLOAT * math.prod(boxes.shape) * self.data.pixels.shape[-1]))
        partials = [[] for _ in z[:fit]]  # weights and largest logits, chunk by chunk, of as many noisy images as fit
        totals = z.new_full((len(z), *boxes.shape), -torch.inf), z.new_zeros(len(z), *boxes.shape)
        for _, x in self.data.chunks(chunk, mirrored=False):
            for b in range(len(z)):
                logits = boxes.logits(x, z[b], sigma[b])
                highest = logits.amax(2)
                weights = logits.sub_(highest[..., None]).clamp_(min=LEAST_FACTOR).exp_()
                totals[0][b], totals[1][b] = joined((totals[0][b], totals[1][b]), (highest, weights.sum(2)))
                if b < fit:
                    partials[b].append((weights, highest))
        if self.data.xflip:
            both = joined([part[:count] for part in totals], [part[count:].flip(2) for part in totals])
            totals = [torch.cat([part, part.flip(2)]) for part in both]
        largest, shares = totals[0], totals[1].reciprocal()
        out = torch.zeros_like(z)
        for index, (_, x) in enumerate(self.data.chunks(chunk, mirrored=False)):
            for b in range(len(z)):
                if b < fit:
                    weights, highest = partials[b][index]
                    weights.mul_((highest - largest[b]).clamp_(min=LEAST_FACTOR).exp_().mul_(shares[b])[..., None])
                else:
                    logits = boxes.logits(x, z[b], sigma[b])
                    weights = logits.sub_(largest[b, ..., None]).clamp_(min=LEAST_LOGIT).exp_()
                    weights.mul_(shares[b, ..., None])
                out[b] += boxes.means(weights, x)
        out = out / boxes.cover
        return out[:count] + out[count:].flip(3) if self.data.xflip else out
