"""Loading the next step's tensors in a thread while the device works on this one's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Tensor], values):
    """function of every tensor in nested lists and named tuples; None stays."""
    if values is None or isinstance(values, Tensor):
        return None if values is None else function(values)
    parts = [each(function, value) for value in values]
    return parts if isinstance(values, list) else type(values)(*parts)


def pinned(values, device: torch.device):
    """Nested CPU tensors in memory that `device` copies without waiting, where it is a GPU."""
    if device.type != "cuda":
        return values
    with torch.cuda.device(device):  # a thread has a current device of its own
        return each(Tensor.pin_memory, values)


class Prefetcher:
    """load(step) -> nested tensors on the CPU, called one step ahead in a thread.

    They are handed out on the device, which is not waited for. end: the step after the last.
    """

    def __init__(self, load: Callable, device: torch.device, end: int):
        self.load, self.device, self.end = load, device, end
        self.pool, self.ahead = ThreadPoolExecutor(1), {}

    def _load(self, step: int):
        return pinned(self.load(step), self.device)

    def __call__(self, step: int):
        """What load(step) returns. Raises what it raises."""
        future = self.ahead.get(step) or self.pool.submit(self._load, step)
        values = future.result()
        self.ahead = {step + 1: self.pool.submit(self._load, step + 1)} if step + 1 < self.end else {}
        return each(lambda tensor: tensor.to(self.device, non_blocking=True), values)
