"""Which number and memory formats a device trains in, as far as they need no timing (train/budget.py)."""

import torch


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' becomes bfloat16 on GPUs that have it, float16 on older ones, and stays on a CPU, where train/budget.py times it; float16 becomes
    float32 off the GPU, where nothing has it."""
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return "auto" if device.type == "cpu" else "float32"
    return "float32" if name == "float16" and device.type != "cuda" else name


def pick_memory_format(name: str, device: torch.device) -> str:
    """'auto' becomes channels_last off the CPU, for which tensor cores are made, and stays on a CPU."""
    return "channels_last" if name == "auto" and device.type != "cpu" else name
