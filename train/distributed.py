"""One process or several (torchrun): the few facts the training script needs."""

import os
import re
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from train.errors import UserError

TIMEOUT = timedelta(minutes=30)  # of one process for another, at sampling and saving the longest
PATIENCE = timedelta(hours=12)  # while the first one decodes the data set
# what gloo and NCCL say where another process is gone, in words only
LOST = "[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|remote process (exited|has)|[Tt]imed out|[Ww]atchdog"


def pick_device(name: str) -> torch.device:
    """The device of this process, made the current one: 'auto' is its GPU where there is one, else the CPU.

    float32 then is float32: TensorFloat-32, which scores of near matches do not survive, is off. Raises UserError for a
    device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; give auto, cpu, cuda or cuda:1, ...") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {name}: Patronus runs on cpu and cuda; {device.type} lacks float64 and eigenvalues")
    device = _own_gpu(device, name)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_device(device)  # collectives and pinned memory belong to the current device
    return device


def _own_gpu(device: torch.device, name: str) -> torch.device:
    """The GPU of this process, one for each process of the machine. Raises UserError."""
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch finds no usable GPU here; take auto or cpu, or install a CUDA build of torch"
        )
    count, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes > 1 and device.index is not None:
        raise UserError(f"--device {name}: {processes} processes cannot share one GPU; leave it at auto")
    if processes > count:
        raise UserError(
            f"{processes} processes, but {count} GPUs on this machine; start torchrun with --nproc_per_node {count}"
        )
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= count:
        raise UserError(f"--device {name}: no such GPU; there are cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def images_a_call(device: torch.device, largest_map: int) -> int:
    """How many images a network takes at once where nobody says, given the values of an image's largest feature map.

    On a CPU few, whose maps its caches hold: 32 of the default network at 32x32, 1.5 times faster than 250. On a GPU
    250 of the published network at 32x32, and as much memory at any other size.
    """
    values, least = (32 * 32 * 32**2, 4) if device.type == "cpu" else (250 * 64 * 32**2, 1)
    return max(least, values // largest_map)


@contextmanager
def processes(device: torch.device):
    """Join the process group that torchrun describes, if any. Yields (rank, world size).

    Where another process of the group dies, what waits for it raises UserError; torchrun then ends the whole group.
    """
    torch.backends.cudnn.benchmark = True  # batches are of one shape
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield 0, 1
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=device if on_gpu else None)
    try:
        yield dist.get_rank(), world
    except RuntimeError as error:
        if not isinstance(error, (dist.DistNetworkError, dist.DistStoreError)) and not re.search(LOST, str(error)):
            raise
        raise UserError(
            f"process {dist.get_rank()} of {world} lost contact with another one, which has probably died (its own "
            "output says why); checkpoints and images written so far are whole: go on with --resume "
            "(training) or --run "
            "(sampling), on any number of processes"
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
    if world == 1:
        return action()
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    result = action() if rank == 0 else None
    dist.barrier(group=patient)
    return result if rank == 0 else action()


def mean_over_processes(values: torch.Tensor, world: int) -> torch.Tensor:
    if world > 1:
        dist.all_reduce(values)
        values /= world
    return values
