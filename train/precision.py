"""Which number format a device trains in, as far as it needs no timing (train/budget.py)."""

import torch


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' becomes bfloat16 on GPUs that have it and float16 on older ones, and stays on a CPU, where train/budget.py times it.

    float16 becomes float32 off the GPU, where nothing has it.
    """
    if name == "auto" and device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float32" if name == "float16" and device.type != "cuda" else name
