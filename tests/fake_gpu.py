"""A GPU that need not be there: fake CUDA tensors have shapes and devices, refuse to mix them, and hold no values.

What depends on values is decided by hand: whether scores are hidden, and grids of noise levels, which are real.
"""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY
from gpu_of_values import moved
from torch._subclasses.fake_tensor import FakeTensorMode

import models.patronus
import train.build
import train.draws
import train.latent_loop
import train.latents
import train.prefetch
from models.schedule import LinearSchedule, karras_sigmas
from train.config import validate
from train.data.dataset import ImageSet

IMAGES = ImageSet(
    np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8),
    [str(i) for i in range(20)],
    pd.DataFrame({"Bright": np.arange(20) % 2}),
    None,
)
OURS = {
    "model.encoder.prototypes": 4,
    "model.encoder.templates": 2,  # six scores, as all others
    "model.pixel_channels": 8,
    "model.pixel_layers": 1,
    "model.unshuffle": 2,
    "model.multipliers": [1],
    "train.batch_size": len(IMAGES),  # an epoch a step
    "train.encoder_steps": 1,
    "train.decoder_steps": 1,
    "train.steps": 3,
}
PUBLISHED = {
    "train.steps": 1,
    "model.formulation": "eps",
    "model.residual": False,
    "model.masked": False,
    "model.reader": False,
    "model.standardise_scores": False,
    "model.encoder.similarity": "log",
    "model.attention": [False, True],
    "train.encoder_steps": 0,
    "train.decoder_steps": 0,
    "train.encoder_lr_scale": 1.0,
    "train.muon_lr": None,
    "train.distinct_weight": 0.1,
}
KINDS = {"ours": OURS, "published": PUBLISHED}


def config_of(kind: str, **changes):
    values = yaml.safe_load(yaml.safe_dump(TINY))
    values["model"]["encoder"]["init"] = "random"
    for key, value in (KINDS[kind] | {key.replace("__", "."): value for key, value in changes.items()}).items():
        *path, last = key.split(".")
        node = values
        for part in path:
            node = node[part]
        node[last] = value
    return validate(values, "test")


def backward(loss):
    """Tensor.backward, whose engine asks the driver: gradients of zero for whatever the loss depends on."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)


@pytest.fixture
def gpu(monkeypatch):
    """A mode in which CUDA tensors can be made, all of them fake."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    real = {count: LinearSchedule(count) for count in (100, 1000)}  # made of values, so outside of the mode

    def schedule(timesteps: int = 1000) -> LinearSchedule:
        made = LinearSchedule.__new__(LinearSchedule)
        torch.nn.Module.__init__(made)
        made.sigma_max = real[timesteps].sigma_max
        made.register_buffer("log_sigmas", mode.from_tensor(real[timesteps].log_sigmas), persistent=False)
        return made

    for module in (train.build, train.latents):
        monkeypatch.setattr(module, "LinearSchedule", schedule)
    for module in (train.draws, train.latent_loop):  # which draw in a thread, on the CPU
        monkeypatch.setattr(module, "LinearSchedule", real.get)
    monkeypatch.setattr(torch.Tensor, "backward", backward)

    def grad(outputs, inputs, *_, **__):
        return tuple(torch.zeros_like(each) for each in ([inputs] if isinstance(inputs, torch.Tensor) else inputs))

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch, "cov", lambda x: (x - x.mean(1, keepdim=True)) @ x.T)  # torch's looks at values
    monkeypatch.setattr(train.prefetch, "pinned", lambda values, device: values)  # which takes a driver
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(models.patronus, "any_hidden", lambda s: False)
    # else torch turns autocast off where it finds no GPU
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device=None: 0)
    levels = karras_sigmas(2, 0.002, 20.0).tolist()
    monkeypatch.setattr("models.samplers._steps", lambda sigmas: list(zip(levels, levels[1:])))
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tensor.shape))
    with mode:
        yield
