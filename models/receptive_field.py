"""Geometry of a patch: from lists of kernels, strides and paddings to the box of a cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReceptiveField:
    """What one cell of a stack of convolutions sees, by the arithmetic of Araujo et al. (Distill, 2019).

    kernels, strides, paddings: one positive (paddings: non-negative) integer a layer, all of one length.
    size: side of the square patch in pixels; jump: pixels between neighbouring cells;
    offset: pixels by which the first patch begins before the image's border.
    """

    kernels: Sequence[int]
    strides: Sequence[int]
    paddings: Sequence[int]
    size: int = field(init=False)
    jump: int = field(init=False)
    offset: int = field(init=False)

    def __post_init__(self):
        if not len(self.kernels) == len(self.strides) == len(self.paddings) > 0:
            raise ValueError("kernels, strides and paddings need one entry a layer each")
        size, jump, offset = 1, 1, 0
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings):
            size += (kernel - 1) * jump
            offset += padding * jump
            jump *= stride
        for name, value in (("size", size), ("jump", jump), ("offset", offset)):
            object.__setattr__(self, name, value)

    def cells(self, length: int) -> int:
        """Number of cells along an axis of `length` pixels; below 1 where the image is too small."""
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings):
            length = (length + 2 * padding - kernel) // stride + 1
            if length < 1:
                return 0
        return length

    def box(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels [top, bottom) x [left, right) that cell (row, column) sees, clipped to the image.

        Returns (top, left, bottom, right).
        """
        top, left = row * self.jump - self.offset, column * self.jump - self.offset
        return (max(top, 0), max(left, 0), min(top + self.size, height), min(left + self.size, width))

    def boxes(self, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
        """`box` of many cells: int64 (...) each -> (..., 4)."""
        top, left = rows * self.jump - self.offset, columns * self.jump - self.offset
        corners = [top.clamp(min=0), left.clamp(min=0)]
        corners += [(top + self.size).clamp(max=height), (left + self.size).clamp(max=width)]
        return torch.stack(corners, dim=-1)
