"""Muon: steps along the orthogonalised momentum of whole matrices, in which a network learns more a step than by
AdamW."""

import torch
from torch import Tensor, nn

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan's quintic, steep at 0 so that five rounds are enough
ROUNDS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """(..., n, m) -> about U V^T of each U S V^T, by Newton-Schulz iterations: singular values near 1, but those far
    below the others. 0 stays 0."""
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for matrices (out, in) and for kernels,
    taken as (out, in k k).

    torch.optim.Muon takes no kernels, and one matrix after the other; those of small networks cost more to call than to
    compute, so here equal shapes go together. lr: the spectral norm of a step, times sqrt(out / in) where that is above
    1.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((len(p), p[0].numel()), []).append(p)
            for (rows, columns), weights in shapes.items():
                for p in weights:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads, averages = [p.grad for p in weights], [self.state[p]["momentum"] for p in weights]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's
                steps = orthogonalised(torch.stack([step.reshape(rows, columns) for step in ahead]))
                steps = [step.reshape(p.shape) for step, p in zip(steps, weights)]
                torch._foreach_add_(weights, steps, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def inner_weights(network: nn.Module) -> list[nn.Parameter]:
    """The matrices and kernels that lead from hidden values to hidden values: what Muon is for. Its first and last
    layers, named so, are not."""
    outer = {"first", "last"}
    return [p for name, p in network.named_parameters() if p.dim() > 1 and not outer & set(name.split("."))]
