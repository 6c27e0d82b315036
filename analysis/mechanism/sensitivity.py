"""How sensitive a denoiser's pixels are to every input pixel (Niedoba et al. 2025, Sec. 4), exactly, and how far that
reaches."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.unet import PixelPath

CORE, REACH = 0.5, 0.9  # shares of the heat that are told of


def marks(length: int, stride: int) -> list[int]:
    """Every `stride`-th position of a side, and its last."""
    return sorted({*range(0, length, stride), length - 1})


class Cone:
    """Gradients of single output pixels of a PixelPath in its input, in windows that grow by a pixel a convolution.

    What lies outside a pixel's window has gradient 0, so a step costs its window instead of the whole image: exact, and
    an eighth of the work for nine convolutions on 32 x 32 pixels.
    """

    def __init__(self, path: PixelPath, x: Tensor, time: Tensor):
        """x (B, in, H, W) and time (B, embedding): what the path was called with."""
        self.path, self.reach = path, len(path.convs) + 2
        self.whole = torch.zeros_like(x)
        self.slopes = []  # of each SiLU and the scale before it: (B, channels, H, W), edged with zeros
        with torch.no_grad():
            h = path.first(x)
            for scale, conv in zip(path.scales, path.convs):
                gain, shift = scale(time)[:, :, None, None].chunk(2, dim=1)
                before = h * (1 + gain) + shift
                self.slopes.append(self._edged(self._slope(before) * (1 + gain)))
                h = h + conv(F.silu(before))
            self.slopes.append(self._edged(self._slope(h)))

    def _edged(self, values: Tensor) -> Tensor:
        return F.pad(values, [self.reach] * 4)

    @staticmethod
    def _slope(x: Tensor) -> Tensor:
        """The derivative of SiLU."""
        gate = x.sigmoid()
        return gate * (1 + x * (1 - gate))

    def gradient(self, y: int, x: int, weights: Tensor) -> Tensor:
        """Of sum_c weights[:, c] * path_c(y, x), weights (B, out), in the path's input: (B, in, H, W), overwritten by
        the next call."""

        def at(values: Tensor, radius: int) -> Tensor:
            top, left = y + self.reach - radius, x + self.reach - radius
            return values[:, :, top : top + 2 * radius + 1, left : left + 2 * radius + 1]

        g = F.conv_transpose2d(weights[:, :, None, None], self.path.last.weight)  # (B, channels, 3, 3)
        g = g * at(self.slopes[-1], 1)
        for radius, (conv, slopes) in enumerate(zip(reversed(self.path.convs), reversed(self.slopes[:-1])), start=2):
            g = F.pad(g, [1] * 4) + F.conv_transpose2d(g, conv.weight) * at(slopes, radius)
        g = F.conv_transpose2d(g, self.path.first.weight)  # (B, in, 2 reach + 1, 2 reach + 1)
        h, w = self.whole.shape[2:]
        rows, columns = (slice(max(i - self.reach, 0), min(i + self.reach + 1, side)) for i, side in ((y, h), (x, w)))
        top, left = self.reach - y, self.reach - x  # from the image's rows and columns to the window's
        inside = g[:, :, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
        self.whole.zero_()[:, :, rows, columns] = inside
        return self.whole


@contextmanager
def pixel_path_calls(model):
    """Inside, calls of the model's pixel path are recorded as (input, time, output), the output cut off from the
    input."""
    path, calls = None if model is None else model.unet.pixels, []

    def cut(module, inputs, output):
        output = output.detach().requires_grad_(True)
        calls.append((*inputs, output))
        return output

    handle = path.register_forward_hook(cut) if path is not None else None
    try:
        yield calls
    finally:
        if handle is not None:
            handle.remove()


def sensitivity(denoiser, z: Tensor, sigma: Tensor, stride: int = 1, model=None) -> Tensor:
    """Mean over images z (B, C, H, W) of |d sum_c D_c(y, x) / dz|, summed over input channels, at every stride-th (y,
    x): (H, W, H, W), or fewer.

    One backward pass a pixel serves all images. model: the Patronus behind the denoiser; where it has a PixelPath, most
    of its arithmetic, gradients pass that in growing windows (Cone) and only the rest by automatic differentiation.
    """
    z = z.detach().requires_grad_(True)
    with torch.enable_grad(), pixel_path_calls(model) as calls:
        pixels = denoiser(z, sigma.to(z).expand(len(z))).sum(
            (0, 1)
        )  # (H, W): images do not mix, so their sum has all their gradients
    cone, parts = None, []
    if calls:
        ((x, time, output),) = calls
        cone, parts = Cone(model.unet.pixels, x.detach(), time.detach()), [x]
        weights = torch.autograd.grad(pixels.sum(), output, retain_graph=True)[
            0
        ]  # (B, C, H, W): D takes it in pixel by pixel
    h, w = pixels.shape
    rows, columns, maps = marks(h, stride), marks(w, stride), []
    for y in rows:
        for column in columns:
            into = [cone.gradient(y, column, weights[:, :, y, column])] if cone else []
            gradient = torch.autograd.grad(
                [pixels[y, column], *parts], z, [torch.ones_like(pixels[0, 0]), *into], retain_graph=True
            )[0]
            maps.append(gradient.abs().sum(1).mean(0))
    return torch.stack(maps).view(len(rows), len(columns), h, w)


def wiener_sensitivity(wiener: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The same of a linear denoiser z -> W z, W (D, D), of images (C, H, W): (H, W, H, W)."""
    c, h, w = shape
    return wiener.view(c, h * w, c, h * w).sum(0).abs().sum(1).view(h, w, h, w)


def window_side(maps: Tensor, share: float) -> float:
    """The side of the window around a pixel that holds a share of its map (H, W, H, W), the mean over pixels.

    The window is the smallest square around the pixel, cut at the image's edges; its side is the root of its area, in
    pixels. Between whole squares the share is taken to grow linearly; a map of one pixel has side 1.
    """
    h, w = maps.shape[:2]
    rows, columns = torch.arange(h, device=maps.device), torch.arange(w, device=maps.device)
    down, across = (rows[:, None, None, None] - rows[:, None]).abs(), (columns[:, None, None] - columns).abs()
    distance = torch.maximum(down, across).view(h * w, h * w)  # the radius of the square that reaches each input pixel
    held = torch.zeros(h * w, max(h, w), dtype=torch.float64, device=maps.device)
    areas = held.clone().scatter_add_(1, distance, torch.ones_like(distance, dtype=torch.float64)).cumsum(1)
    held.scatter_add_(1, distance, maps.reshape(h * w, h * w).double())
    held = (held.cumsum(1) / held.sum(1, keepdim=True)).clamp(max=1)  # (HW, radius)
    radius = (held < share - 1e-12).sum(1, keepdim=True)
    inner = (radius - 1).clamp(min=0)
    lower, upper = held.gather(1, inner), held.gather(1, radius)
    small, large = areas.gather(1, inner).sqrt(), areas.gather(1, radius).sqrt()
    part = ((share - lower) / (upper - lower).clamp(min=1e-12)).clamp(0, 1)
    return torch.where(radius > 0, small + part * (large - small), 1.0).mean().item()


def between(maps, stride: int):
    """The maps (h, w, H, W) of the output pixels at marks(H, stride) x marks(W, stride), filled up for all: (H, W, H,
    W).

    A pixel's map is the bilinear mean of its neighbours' maps, each moved by as much as the pixel lies beside its own,
    of those that reach there: exact where maps are the same but for their place, as those of convolutions are.
    """
    for axis in (0, 1):
        length, filled = maps.shape[axis + 2], []
        known = marks(length, stride)
        for at in range(length):
            after = int(np.searchsorted(known, at))
            around = {after: 1} if known[after] == at else {after - 1: known[after] - at, after: at - known[after - 1]}
            parts = [(weight, maps.take(i, axis), at - known[i]) for i, weight in around.items()]
            total = sum(weight * moved(np.ones_like(part), by, axis + 1) for weight, part, by in parts)
            filled.append(sum(weight * moved(part, by, axis + 1) for weight, part, by in parts) / total)
        maps = np.stack(filled, axis)
    return maps


def moved(maps, by: int, axis: int):
    """Maps moved along one axis, zeros coming in."""
    result, length = np.zeros_like(maps), maps.shape[axis]
    to, origin = [slice(None)] * maps.ndim, [slice(None)] * maps.ndim
    to[axis], origin[axis] = slice(max(by, 0), length + min(by, 0)), slice(max(-by, 0), length - max(by, 0))
    result[tuple(to)] = maps[tuple(origin)]
    return result
