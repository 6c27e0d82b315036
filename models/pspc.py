"""Patch set posterior composites: every patch has its own posterior over the same patch of all training images (Niedoba et al. 2025, Sec. 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.schedule import karras_sigmas
from models.training_free import FLOAT, LEAST_LOGIT, EmpiricalDenoiser, PixelMajor, RunningPosterior, check_shape

PUBLISHED_SIZES = (32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3)  # CIFAR-10, high noise to low
PUBLISHED_THRESHOLDS = (1, 1, 1, 1, 1, 1, 1, 0.7, 0.7, 0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3)


def published_levels() -> Tensor:
    """The 18 noise levels that the published schedules belong to: (18,)."""
    return karras_sigmas(len(PUBLISHED_SIZES))[:-1]


def nearest_level(sigma: Tensor, levels: Tensor) -> Tensor:
    """Index of the level nearest to each noise level: (B,), (L,) -> (B,)."""
    return (sigma.double()[:, None] - levels.to(sigma.device).double()).abs().argmin(1)


class Boxes:
    """Sums over all p x p windows of maps (H, W, n), and back, one axis after the other.

    Small windows add shifted maps, others multiply with a banded matrix of zeros and ones, whose cost does not depend on p. Sums of squares stay
    sums of non-negative numbers either way: nothing cancels, as it would in differences of running sums.
    """

    SHIFTED = 7  # largest window for which additions beat the product

    def __init__(self, height: int, width: int, size: int, device: torch.device):
        self.size = size
        self.rows, self.columns = (self._band(length, size, device) for length in (height, width))
        self.positions = len(self.rows) * len(self.columns)
        ones = torch.ones(len(self.rows), len(self.columns), 1, device=device)
        self.cover = self.spread(ones)[..., 0]  # (H, W): windows that hold each pixel

    @staticmethod
    def _band(length: int, size: int, device: torch.device) -> Tensor:
        start, place = torch.arange(length - size + 1, device=device)[:, None], torch.arange(length, device=device)
        return ((place >= start) & (place < start + size)).float()  # (positions, length)

    def _shifted(self, maps: Tensor) -> Tensor:
        """Window sums by doubling: sums over 1, 2, 4, ... neighbours, of which the binary digits of p are put side by side."""
        for axis in (0, 1):
            length, offset, width, total = maps.shape[axis] - self.size + 1, 0, 1, None
            while True:
                if self.size & width:
                    part = maps.narrow(axis, offset, length)
                    total, offset = (part if total is None else total + part), offset + width
                if 2 * width > self.size:
                    break
                reach = maps.shape[axis] - width
                maps, width = maps.narrow(axis, 0, reach) + maps.narrow(axis, width, reach), 2 * width
            maps = total
        return maps

    @staticmethod
    def _product(rows: Tensor, columns: Tensor, maps: Tensor) -> Tensor:
        h, w, n = maps.shape
        maps = (rows @ maps.reshape(h, w * n)).view(len(rows), w, n)
        return torch.matmul(columns, maps)  # (rows, columns, n)

    def sums(self, maps: Tensor) -> Tensor:
        """(H, W, n) -> (H - p + 1, W - p + 1, n)."""
        return self._shifted(maps) if self.size <= self.SHIFTED else self._product(self.rows, self.columns, maps)

    def spread(self, windows: Tensor) -> Tensor:
        """The transpose, (H - p + 1, W - p + 1, n) -> (H, W, n): what every pixel gets from the windows that hold it."""
        if self.size > self.SHIFTED:
            return self._product(self.rows.T, self.columns.T, windows)
        border = self.size - 1
        return self._shifted(F.pad(windows, (0, 0, border, border, border, border)))


def squared_difference(x: Tensor, z: Tensor) -> Tensor:
    """x (C, H, W, n), z (C, H, W) -> (H, W, n), summed over channels."""
    total = None
    for channel, noisy in zip(x, z):
        difference = channel - noisy[..., None]
        total = difference.square_() if total is None else total.addcmul_(difference, difference)
    return total


class PSPCSquare(nn.Module):
    """Square windows: D is the average, pixel by pixel, of the posterior means of all windows that hold the pixel (Niedoba et al. 2025, Sec. 5.1).

    sizes: window side at each of `levels` (L,), high noise to low; the level nearest to sigma decides. A window of the whole image is the empirical
    denoiser. Two passes over the data: first each window's largest logit and normaliser, then the weighted sum of the images. Logits are kept in
    between where they fit half of the data's max_memory, else computed again. Raises ValueError where a size fits no window.
    """

    def __init__(self, data: PixelMajor, sizes: Sequence[int] = PUBLISHED_SIZES, levels: Tensor | None = None):
        super().__init__()
        levels = published_levels() if levels is None else levels
        _, h, w = data.image_shape
        if len(sizes) != len(levels):
            raise ValueError(f"{len(sizes)} window sizes for {len(levels)} noise levels; give one a level")
        for size in sizes:
            if not 1 <= size <= min(h, w):
                raise ValueError(f"window size {size} does not fit images of {h}x{w}; give sizes from 1 to {min(h, w)}, or fit a schedule")
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
        chosen = torch.tensor(self.sizes, device=z.device)[nearest_level(sigma, self.levels)]  # (B,)
        out = torch.empty_like(z, dtype=torch.float32)
        for size in chosen.unique().tolist():
            rows = torch.nonzero(chosen == size)[:, 0]
            if size == self.data.image_shape[1] == self.data.image_shape[2]:
                out[rows] = self.empirical(z[rows], sigma[rows])
            else:
                out[rows] = self._composite(z[rows].float(), sigma[rows].float(), size)
        return out

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the logits of every window and image in memory, one noisy image after the other."""
        x = torch.cat([x for _, x in self.data.chunks(2048)], dim=-1)  # (C, H, W, N)
        made = []
        for noisy, level in zip(z.float(), sigma.float()):
            size = self.window(level.item())
            if size == x.shape[1] == x.shape[2]:
                made.append(self.empirical.differentiable(noisy[None], level[None])[0])
                continue
            boxes = Boxes(x.shape[1], x.shape[2], size, z.device)
            distance = (x - noisy[..., None]).square().sum(0)
            weights = (boxes.sums(distance) * (-0.5 / level**2)).softmax(-1)
            made.append(torch.einsum("hwn,chwn->chw", boxes.spread(weights), x) / boxes.cover)
        return torch.stack(made)

    def _composite(self, z: Tensor, sigma: Tensor, size: int) -> Tensor:
        c, h, w = self.data.image_shape
        boxes, scales = Boxes(h, w, size, z.device), -0.5 / sigma**2
        chunk = min(self.data.chunk_size((c + 6) * h * w), 512)  # what stays in the processor's cache is faster
        fit = int(self.data.max_memory / 2 / (FLOAT * boxes.positions * len(self.data)))
        kept = [[] for _ in z[:fit]]  # logits of as many noisy images as fit
        normalisers = z.new_full((len(z), len(boxes.rows), len(boxes.columns)), -torch.inf)
        for _, x in self.data.chunks(chunk):
            for b in range(len(z)):
                logits = boxes.sums(squared_difference(x, z[b])).mul_(scales[b])
                highest = logits.amax(2, keepdim=True)
                total = (logits - highest).clamp_(min=LEAST_LOGIT).exp_().sum(2)
                torch.logaddexp(normalisers[b], total.log_().add_(highest[..., 0]), out=normalisers[b])
                if b < fit:
                    kept[b].append(logits)
        out = torch.zeros_like(z)
        for index, (_, x) in enumerate(self.data.chunks(chunk)):
            for b in range(len(z)):
                logits = kept[b][index] if b < fit else boxes.sums(squared_difference(x, z[b])).mul_(scales[b])
                weights = logits.sub_(normalisers[b, ..., None]).clamp_(min=LEAST_LOGIT).exp_()
                out[b] += torch.einsum("hwn,chwn->chw", boxes.spread(weights), x)
        return out / boxes.cover


def smallest_windows(heat: Tensor, threshold: float) -> Tensor:
    """The smallest set of pixels that holds a share of each heat map: (H, W, H, W) -> bool (H W, H W), one row a pixel of the output.

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
    kept = values.cumsum(1) / total[:, None] >= 1 - threshold - 1e-12
    return torch.zeros_like(kept).scatter_(1, order, kept)


class PSPCFlex(nn.Module):
    """One window shape a pixel, from heat maps of what a denoiser looks at: each pixel's posterior mean (Niedoba et al. 2025, Sec. 5.2).

    heatmaps: (L, H, W, H, W), non-negative, one a level; thresholds: the share of a map that its window holds, 1 being the whole image.
    Raises ValueError where shapes do not fit or a pixel is not covered.
    """

    def __init__(self, data: PixelMajor, heatmaps: Tensor, thresholds: Sequence[float] = PUBLISHED_THRESHOLDS, levels: Tensor | None = None):
        super().__init__()
        levels = published_levels() if levels is None else levels
        _, h, w = data.image_shape
        expected = (len(levels), h, w, h, w)
        if tuple(heatmaps.shape) != expected:
            raise ValueError(f"heat maps are {tuple(heatmaps.shape)}, expected {expected} (levels, H, W, H, W)")
        if len(thresholds) != len(levels) or not all(0 < t <= 1 for t in thresholds):
            raise ValueError(f"thresholds must be {len(levels)} numbers in (0, 1], one a noise level, not {list(thresholds)}")
        room = (h * w) ** 2 * (sum(t < 1 for t in thresholds) + 2 * FLOAT)
        if room > data.max_memory / 2:
            raise ValueError(f"the windows of {h}x{w} images take {room / 1e9:.2f} GB; raise max_memory above {2 * room / 1e9:.2f} GB")
        self.data, self.thresholds = data, tuple(thresholds)
        self.empirical = EmpiricalDenoiser(data)
        self.register_buffer("levels", levels, persistent=False)
        windows = [smallest_windows(heat, t) for heat, t in zip(heatmaps, thresholds) if t < 1]
        empty = torch.zeros(0, h * w, h * w, dtype=torch.bool)
        self.register_buffer("windows", torch.stack(windows) if windows else empty, persistent=False)  # (levels below 1, HW, HW)

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """z (B, C, H, W), sigma (B,), levels mixed at will -> (B, C, H, W) float32."""
        check_shape(z, self.data.image_shape)
        nearest = nearest_level(sigma, self.levels)
        out = torch.empty_like(z, dtype=torch.float32)
        for level in nearest.unique().tolist():
            rows = torch.nonzero(nearest == level)[:, 0]
            if self.thresholds[level] == 1:
                out[rows] = self.empirical(z[rows], sigma[rows])
            else:
                out[rows] = self._composite(z[rows].float(), sigma[rows].float(), self._window(level))
        return out

    def differentiable(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same with gradients in z, holding the logits of every pixel and image in memory, one noisy image after the other."""
        x = torch.cat([x for _, x in self.data.chunks(2048)], dim=-1)  # (C, H, W, N)
        made = []
        for noisy, level, index in zip(z.float(), sigma.float(), nearest_level(sigma, self.levels).tolist()):
            if self.thresholds[index] == 1:
                made.append(self.empirical.differentiable(noisy[None], level[None])[0])
                continue
            distance = self._window(index) @ (x - noisy[..., None]).square().sum(0).flatten(0, 1)  # (HW, N)
            weights = (distance * (-0.5 / level**2)).softmax(-1)
            made.append(torch.einsum("pn,cpn->cp", weights, x.flatten(1, 2)).view(noisy.shape))
        return torch.stack(made)

    def _window(self, level: int) -> Tensor:
        """(H W, H W) of zeros and ones."""
        return self.windows[sum(t < 1 for t in self.thresholds[:level])].float()

    def _composite(self, z: Tensor, sigma: Tensor, window: Tensor) -> Tensor:
        c, h, w = self.data.image_shape
        size = min(self.data.chunk_size((c + 6) * h * w), 512)
        posteriors = [RunningPosterior() for _ in z]
        for _, x in self.data.chunks(size):
            values = x.flatten(1, 2)  # (C, HW, n)
            for noisy, level, posterior in zip(z, sigma, posteriors):
                distance = window @ squared_difference(x, noisy).flatten(0, 1)  # (HW, n)
                posterior.add(distance.mul_(-0.5 / level**2), lambda weights, v=values: torch.einsum("pn,cpn->pc", weights, v).double())
        return torch.stack([posterior.result().T.reshape(c, h, w) for posterior in posteriors]).float()
