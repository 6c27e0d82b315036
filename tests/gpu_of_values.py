"""A GPU that need not be there and computes all the same: CUDA tensors that hold values of the CPU.

What torch refuses on a GPU is refused here: tensors of two devices in one operation, indices on a GPU of a tensor on
the CPU, a CPU generator for a CUDA tensor, numpy() without cpu(). Beside tests/fake_gpu.py, whose tensors hold nothing,
whole scripts can run. Gradients are not those of the loss: they are random.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
PRELUDE = "import sys; sys.path.insert(0, {tests!r}); import gpu_of_values; gpu_of_values.stay()"  # of a script


class OnGpu(torch.Tensor):
    """A tensor that says it is on CUDA; `held` holds its values."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), device=CUDA, **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    def tolist(self):
        return self.held.tolist()

    def __format__(self, spec):
        return format(self.held, spec)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    """An operation on the values. Raises RuntimeError where CUDA would refuse it."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    others = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
    wanted = kwargs.get("device")
    to_gpu = bool(ours) if wanted is None else torch.device(wanted).type == "cuda"
    if operation is aten.copy_.default:
        to_gpu = isinstance(args[0], OnGpu)
    if operation in INDEXING:
        values = args[2:3] if operation is not aten.index.Tensor else ()
        wrong = not isinstance(args[0], OnGpu) and bool(ours)  # indices or values
        wrong |= isinstance(args[0], OnGpu) and any(v.dim() and not isinstance(v, OnGpu) for v in values)
    else:
        wrong = bool(ours) and wanted is None and operation not in COPIES and any(each.dim() for each in others)
    if wrong:
        raise RuntimeError(f"{operation}: tensors of two devices, {[(each.device, each.shape) for each in tensors]}")
    generator = kwargs.get("generator")
    if generator is not None and to_gpu and generator.device.type != "cuda":
        raise RuntimeError(f"{operation}: a generator on {generator.device} for a tensor on {CUDA}")
    if operation is aten._fused_sdp_choice.default:
        return 0  # attention by plain operations
    kwargs = kwargs | ({"device": torch.device("cpu")} if wanted is not None else {})
    kwargs |= {"pin_memory": False} if "pin_memory" in kwargs else {}
    args, kwargs = tree_map(lambda each: each.held if isinstance(each, OnGpu) else each, (args, kwargs))
    known = {id(tensor.held): tensor for tensor in ours} | {id(tensor): tensor for tensor in others}

    def placed(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, OnGpu):
            return value
        return known.get(id(value)) if id(value) in known else OnGpu(value) if to_gpu else value

    return tree_map(placed, operation(*args, **kwargs))


def moved(module, device=None, memory_format=torch.preserve_format):
    """nn.Module.to, which cannot put a tensor of another class in the place of a parameter."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                layout = memory_format if p.dim() == 4 else torch.preserve_format
                part._parameters[name] = torch.nn.Parameter(
                    p.detach().to(device, memory_format=layout), p.requires_grad
                )
        for name, b in part._buffers.items():
            part._buffers[name] = None if b is None else b.to(device)
    return module


def gradients(outputs, inputs, *_, **__):
    """torch.autograd.grad, whose engine asks the driver."""
    return tuple(torch.rand_like(each) for each in ([inputs] if isinstance(inputs, torch.Tensor) else inputs))


def patches() -> list[tuple]:
    """(object, name, value) of what asks a driver."""
    answers = {"_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "set_device": None}
    answers |= {"synchronize": None, "max_memory_allocated": 0}
    found = [(torch.cuda, name, lambda *_, answer=answer, **__: answer) for name, answer in answers.items()]
    return [*found, (torch.nn.Module, "to", moved), (torch.autograd, "grad", gradients)]


def begin() -> None:
    """As FakeTensorMode: tensors of Python's numbers are made on the CPU first, and no driver guards a device."""
    torch._C._set_only_lift_cpu_tensors(True)
    torch._C._ensureCUDADeviceGuardSet()


def stay() -> None:
    """From now on, in a process that ends."""
    begin()
    for patch in patches():
        setattr(*patch)
    Mode().__enter__()
