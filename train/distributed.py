"""One process or several (torchrun): the few facts the training script needs."""

import os
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from train.errors import UserError


def pick_device(name: str) -> torch.device:
    """'auto' is this process's GPU where there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not usable here ({str(error).splitlines()[0][:100]}); try auto or cpu") from None
    return device


def images_a_call(device: torch.device) -> int:
    """How many images a network takes at once where nobody says: few on a CPU, whose caches hold them (1.5 times faster than 250 at 32x32)."""
    return 32 if device.type == "cpu" else 250


def start(device: torch.device) -> tuple[int, int]:
    """Join the process group that torchrun describes, if any, and let a GPU use its fast paths. Returns (rank, world size)."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return 0, 1
    # other processes wait while the first one decodes the data set, which can take hours
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    return dist.get_rank(), world


def stop(world: int) -> None:
    """Leave the process group, if there is one."""
    if world > 1:
        dist.destroy_process_group()


def broadcast(value, world: int):
    """The first process's plain value, everywhere."""
    if world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def first_process_first(action: Callable, rank: int, world: int):
    """What action() returns, called in every process, but only after the first one is through: it fills the caches."""
    result = action() if rank == 0 else None
    broadcast(None, world)
    return result if rank == 0 else action()


def mean_over_processes(values: torch.Tensor, world: int) -> torch.Tensor:
    if world > 1:
        dist.all_reduce(values)
        values /= world
    return values
