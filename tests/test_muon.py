"""Muon against singular value decompositions, against torch's own, and on kernels."""

import pytest
import torch
from torch import nn

from models.unet import UNet
from train.muon import Muon, inner_weights, orthogonalised


def test_orthogonalised_keeps_singular_vectors_and_brings_values_near_one():
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12), (16, 16)):
        matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        inside = u.mT @ orthogonalised(matrices) @ v.mT  # diagonal where the vectors are kept
        values = inside.diagonal(dim1=-2, dim2=-1)
        assert (inside - torch.diag_embed(values)).abs().max() < 1e-3
        assert values.min() > 0.4 and values.max() < 1.3 and abs(values.mean() - 0.95) < 0.1
    assert orthogonalised(torch.zeros(2, 4, 5)).abs().max() == 0


def trained_by(optimizer, weights, gradients):
    for gradient in gradients:
        for p, g in zip(weights, gradient):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in weights]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
def test_steps_are_those_of_torchs_own_muon_which_takes_one_matrix_after_the_other():
    torch.manual_seed(0)
    shapes = [(8, 24), (24, 8), (8, 24), (6, 6)]
    start = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    ours = trained_by(Muon(ours, lr=0.1), ours, gradients)
    theirs = trained_by(torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0), theirs, gradients)
    for a, b, first in zip(ours, theirs, start):
        assert (a - b).norm() < 0.03 * (a - first).norm()  # theirs are iterated in bfloat16


def test_a_kernel_is_a_matrix_in_any_memory_format():
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    made = []
    for shape, layout in (
        ((8, 36), torch.contiguous_format),
        ((8, 4, 3, 3), torch.contiguous_format),
        ((8, 4, 3, 3), torch.channels_last),
    ):
        p = nn.Parameter(start.reshape(shape).clone(memory_format=layout))
        made.append(trained_by(Muon([p], lr=0.1), [p], [[g.reshape(shape)] for g in gradients])[0].reshape(start.shape))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_weights_without_a_gradient_rest():
    a, b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    a.grad = torch.eye(3)
    Muon([a, b], lr=0.1).step()
    assert torch.equal(b, torch.ones(3, 3)) and not torch.equal(a, b)


def test_the_first_and_last_layers_of_a_network_are_not_inner():
    unet = UNet(3, 4, 8, [1, 2], 1, [False, False], pixel_channels=8)
    inner = {id(p) for p in inner_weights(unet)}
    outer = {name for name, p in unet.named_parameters() if p.dim() > 1 and id(p) not in inner}
    assert outer == {"first.weight", "last.weight", "pixels.first.weight", "pixels.last.weight"}
    flat = {name for name, p in unet.named_parameters() if p.dim() < 2 and id(p) in inner}
    assert not flat and len(inner) > 10
