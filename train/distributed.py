"""One process or several (torchrun): the few facts the training script needs."""

import os
import re
from collections.abc import Callable
from contextlib import contextmanager
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


@contextmanager
def processes(device: torch.device):
    """Join the process group that torchrun describes, if any, and let a GPU use its fast paths. Yields (rank, world size).

    Where another process of the group dies, what waits for it raises UserError; torchrun then ends the whole group.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield 0, 1
        return
    # other processes wait while the first one decodes the data set, which can take hours
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    try:
        yield dist.get_rank(), world
    except RuntimeError as error:  # gloo says so in words only
        if not isinstance(error, dist.DistError) and not re.search("gloo|[Cc]onnection (closed|reset)|NCCL", str(error)):
            raise
        raise UserError(
            f"process {dist.get_rank()} of {world} lost contact with another one, which has probably died (its own output says why); "
            "checkpoints and images written so far are whole: go on with --resume (training) or --run (sampling), on any number of processes"
        ) from None
    finally:
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
