"""Which number format a device trains fastest in."""

import time

import torch
from torch import nn


def _step_time(dtype: torch.dtype | None) -> float:
    conv = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1)).to(memory_format=torch.channels_last)
    x = torch.ones(8, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = conv(x).float().sum()
        loss.backward()
        best = min(best, time.perf_counter() - start)
    return best


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' becomes bfloat16 where the hardware has it (on a CPU: where a 50 ms trial is faster with it), float16 on older GPUs, else
    float32; float16 becomes float32 off the GPU, where nothing has it."""
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        if device.type != "cpu":
            return "float32"
        state = torch.get_rng_state()
        faster = _step_time(torch.bfloat16) * 1.1 < _step_time(None)
        torch.set_rng_state(state)
        return "bfloat16" if faster else "float32"
    return "float32" if name == "float16" and device.type != "cuda" else name
