"""Which number format a device trains in, as far as it needs no timing (train/budget.py)."""

import torch


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' becomes bfloat16 on GPUs that have it and float16 on older ones.

    It stays on a CPU, where train/budget.py times both; float16 becomes float32 there.
    """
    if name == "auto" and device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float32" if name == "float16" and device.type != "cuda" else name
