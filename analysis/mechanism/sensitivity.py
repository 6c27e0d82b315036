"""How sensitive a denoiser's pixels are to every input pixel (Niedoba et al. 2025, Sec. 4), exactly, and how far that
reaches."""

from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.unet import UNet, laid_out

CORE, REACH = 0.5, 0.9  # shares of the heat that are told of
HOOKING = Lock()  # hooks are the module's, so threads call it one after the other


def marks(length: int, stride: int) -> list[int]:
    """Every `stride`-th position of a side, and its last."""
    return sorted({*range(0, length, stride), length - 1})


def shared_channels(unet: UNet) -> int:
    """Channels that the pixel path gets from the rest of the U-Net; the pixels themselves follow."""
    return unet.last.out_channels // unet.unshuffle**2


class Cone:
    """Gradients of single output pixels of a U-Net's PixelPath, in windows that grow by a pixel a convolution.

    What lies outside a pixel's window has gradient 0, so a step costs its window instead of the whole image: exact, and
    an eighth of the work for nine convolutions on 32 x 32 pixels. The convolution before the path, at low resolution,
    is passed in the cells that the window touches.
    """

    def __init__(self, unet: UNet, x: Tensor, time: Tensor):
        """x (B, in, H, W) and time (B, embedding): what the path was called with, features before pixels."""
        self.path, self.last, self.cell, self.reach = unet.pixels, unet.last, unet.unshuffle, len(unet.pixels.convs) + 2
        self.shared = shared_channels(unet)
        b, _, h, w = x.shape
        self.features = laid_out(x.new_zeros(b, unet.last.in_channels, h // self.cell, w // self.cell), unet.last)
        self.pixels = torch.zeros_like(x[:, self.shared :])
        self.slopes = []  # of each SiLU and the scale before it: (B, channels, H, W), edged with zeros
        with torch.no_grad():
            h = self.path.first(x)
            for scale, conv in zip(self.path.scales, self.path.convs):
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

    def gradient(self, y: int, x: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of sum_c weights[:, c] * path_c(y, x), weights (B, out), in what unet.last is given (B, base, H/u, W/u)
        and in the pixels that the path sees (B, in - shared, H, W); the next call overwrites both."""

        def at(values: Tensor, radius: int) -> Tensor:
            top, left = y + self.reach - radius, x + self.reach - radius
            return values[:, :, top : top + 2 * radius + 1, left : left + 2 * radius + 1]

        g = F.conv_transpose2d(weights[:, :, None, None], self.path.last.weight)  # (B, channels, 3, 3)
        g = g * at(self.slopes[-1], 1)
        for radius, (conv, slopes) in enumerate(zip(reversed(self.path.convs), reversed(self.slopes[:-1])), start=2):
            g = F.pad(g, [1] * 4) + F.conv_transpose2d(g, conv.weight) * at(slopes, radius)
        g = F.conv_transpose2d(g, self.path.first.weight)  # (B, in, 2 reach + 1, 2 reach + 1)
        h, w = self.pixels.shape[2:]
        rows, columns = (range(max(i - self.reach, 0), min(i + self.reach + 1, side)) for i, side in ((y, h), (x, w)))
        top, left = y - self.reach, x - self.reach  # of the window in the image
        g = g[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        self.pixels.zero_()[:, :, rows.start : rows.stop, columns.start : columns.stop] = g[:, self.shared :]
        self._to_features(g[:, : self.shared], rows, columns)
        return self.features, self.pixels

    def _to_features(self, g: Tensor, rows: range, columns: range) -> None:
        """The gradient (B, shared, rows, columns) in those pixels, as one in the features."""
        edges, here, there = [], [], []
        for part, side in ((rows, self.features.shape[2]), (columns, self.features.shape[3])):
            first, end = part.start // self.cell, (part.stop - 1) // self.cell + 1  # cells that hold the window
            edges.append([part.start - first * self.cell, end * self.cell - part.stop])
            start, stop = max(first - 1, 0), min(end + 1, side)  # cells that the convolution sees
            here.append(slice(start, stop))
            there.append(slice(start - first + 1, stop - first + 1))
        folded = F.pixel_unshuffle(F.pad(g, edges[1] + edges[0]), self.cell)
        g = F.conv_transpose2d(laid_out(folded, self.last), self.last.weight)
        self.features.zero_()[:, :, here[0], here[1]] = g[:, :, there[0], there[1]]


@contextmanager
def cuts(*modules):
    """Inside, the output of every call of the modules (None for one that is not there) is cut off from its input.

    Yields a list a module of its calls: (inputs, output, the output cut off).
    """
    calls, handles = [[] for _ in modules], []

    def cutter(found):
        def cut(module, inputs, output):
            leaf = output.detach().requires_grad_(True)
            found.append((inputs, output, leaf))
            return leaf

        return cut

    try:
        for module, found in zip(modules, calls):
            if module is not None:
                handles.append(module.register_forward_hook(cutter(found)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class Reading:
    """What is read of hidden scores (B, m), and the decoder's image of it, as matrices that are found once for all
    pixels: gradients in z of the one, and of the other in the one.

    leaves: what was cut off there, for which gradients are asked beside those in z; none where nothing is read.
    """

    def __init__(self, z: Tensor, readings: list, estimates: list):
        """z (B, C, H, W); the calls of reader and decoder (cuts)."""
        self.leaves = []
        if not readings:
            return
        ((_, scores, read),) = readings
        each = torch.eye(read.shape[1], device=z.device).unsqueeze(1).expand(-1, len(z), -1)  # (m, B, m)
        self.leaves, self.scores = [read], self._pulled(scores, z, each)  # (B, m, C H W)
        if estimates:
            ((_, image, base),) = estimates
            along = torch.zeros_like(image, requires_grad=True)
            (back,) = torch.autograd.grad(image, read, along, create_graph=True)  # (B, m), linear in `along`
            self.leaves, self.image = [read, base], self._pulled(back, along, each)  # (B, m, C H W)

    @staticmethod
    def _pulled(outputs: Tensor, inputs: Tensor, each: Tensor) -> Tensor:
        found = [torch.autograd.grad(outputs, inputs, one, retain_graph=True)[0].flatten(1) for one in each]
        return torch.stack(found, dim=1)

    def joined(self, direct: Tensor, read: Tensor | None = None, base: Tensor | None = None) -> Tensor:
        """Gradients (B, P, ...) of P pixels in z, given those in z directly and in the leaves."""
        if base is not None:
            read = torch.baddbmm(read, base, self.image.mT)
        return direct if read is None else torch.baddbmm(direct, read, self.scores)


def sensitivity(denoiser, z: Tensor, sigma: Tensor, stride: int = 1, model=None) -> Tensor:
    """Mean over images z (B, C, H, W) of |d sum_c D_c(y, x) / dz|, summed over input channels, at every stride-th (y,
    x): (H, W, H, W), or fewer.

    One backward pass a pixel serves all images. model: the Patronus behind the denoiser. Gradients pass what it reads
    of the scores as matrices (Reading) and its PixelPath in growing windows (Cone); only the rest is left to automatic
    differentiation.
    """
    z = z.detach().requires_grad_(True)
    unet, reader, decoder = (getattr(model, name, None) for name in ("unet", "reader", "decoder"))
    path = None if unet is None else unet.pixels
    with HOOKING, torch.enable_grad(), cuts(reader, decoder, path, path and unet.last) as calls:
        pixels = denoiser(z, sigma.to(z).expand(len(z))).sum(
            (0, 1)
        )  # (H, W): images do not mix, so their sum has all their gradients
        readings, estimates, paths, lasts = calls
        parts = [lasts[0][0][0], paths[0][0][0][:, shared_channels(unet) :]] if paths else []
    reading, cone = Reading(z, readings, estimates), None
    if paths:
        (((x, time), _, output),) = paths
        cone = Cone(unet, x.detach(), time.detach())
        weights = torch.autograd.grad(pixels.sum(), output, retain_graph=True)[
            0
        ]  # (B, C, H, W): D takes it in pixel by pixel
    h, w = pixels.shape
    rows, columns, maps = marks(h, stride), marks(w, stride), []
    for y in rows:
        found = []
        for column in columns:
            into = cone.gradient(y, column, weights[:, :, y, column]) if cone else []
            found.append(
                torch.autograd.grad(
                    [pixels[y, column], *parts],
                    [z, *reading.leaves],
                    [torch.ones_like(pixels[0, 0]), *into],
                    retain_graph=True,
                )
            )
        whole = reading.joined(*(torch.stack(each, dim=1).flatten(2) for each in zip(*found)))
        maps.append(whole.view(len(z), len(columns), -1, h, w).abs().sum(2).mean(0))
    return torch.stack(maps)


def wiener_sensitivity(wiener: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The same of a linear denoiser z -> W z, W (D, D), of images (C, H, W): (H, W, H, W)."""
    c, h, w = shape
    return wiener.view(c, h * w, c, h * w).sum(0).abs().sum(1).view(h, w, h, w)


def window_side(maps: Tensor, share: float) -> float:
    """The side of the window around a pixel that holds a share of its map (H, W, H, W), the mean over pixels.

    The window is the smallest square around the pixel, cut at the image's edges; its side is the root of its area, in
    pixels. Between whole squares the share is taken to grow linearly; a map of one pixel has side 1, one of zeros 0.
    """
    h, w = maps.shape[:2]
    rows, columns = torch.arange(h, device=maps.device), torch.arange(w, device=maps.device)
    down, across = (rows[:, None, None, None] - rows[:, None]).abs(), (columns[:, None, None] - columns).abs()
    distance = torch.maximum(down, across).view(h * w, h * w)  # the radius of the square that reaches each input pixel
    held = torch.zeros(h * w, max(h, w), dtype=torch.float64, device=maps.device)
    areas = held.clone().scatter_add_(1, distance, torch.ones_like(distance, dtype=torch.float64)).cumsum(1)
    held.scatter_add_(1, distance, maps.reshape(h * w, h * w).double())
    total = held.sum(1, keepdim=True)
    held = (held.cumsum(1) / total).clamp(max=1)  # (HW, radius)
    radius = (held < share - 1e-12).sum(1, keepdim=True)
    inner = (radius - 1).clamp(min=0)
    lower, upper = held.gather(1, inner), held.gather(1, radius)
    small, large = areas.gather(1, inner).sqrt(), areas.gather(1, radius).sqrt()
    part = ((share - lower) / (upper - lower).clamp(min=1e-12)).clamp(0, 1)
    sides = torch.where(radius > 0, small + part * (large - small), 1.0)
    return torch.where(total > 0, sides, 0.0).mean().item()


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
