"""The loss of each phase of training: (model, TrainConfig, images x0 (B, C, H, W), scores (B, m), Draws) -> scalar.

Scores are None where the encoder moves, and known already where it rests.
"""

import torch
from torch import Tensor, nn

from models.denoiser import expand
from models.losses import distinctness, mmd, spread, squared_error
from models.patronus import Guess, Patronus

READING = (
    0.25  # of the decoder's images: hidden scores are read off the noisy image; in the others nothing stands for them
)


def encoder_loss(model: Patronus, train, x0: Tensor, s: Tensor | None, draws) -> Tensor:
    """The decoder's error from noisy scores, and what keeps scores from being constant or alike."""
    s = model.score(x0) if s is None else s
    noisy = s + draws.score_noise
    update_moments(model, noisy)
    loss = squared_error(model.estimate(noisy, shown=draws.shown) - x0, train.detail).mean()
    if train.spread:
        loss = loss + train.spread * spread(gather(s))
    if train.mmd:
        codes = gather(s)
        loss = loss + train.mmd * mmd(codes, torch.randn_like(codes))
    return loss + apart(model, train)


def decoder_loss(model: Patronus, train, x0: Tensor, s: Tensor | None, draws) -> Tensor:
    """The decoder's error from some of the scores, and the reader's, off which it learns in a share of the images."""
    s = model.score(x0) if s is None else s
    guess, loss = read(model, x0 + expand(draws.sigma, x0) * draws.noise, s, draws)
    return loss + squared_error(model.estimate(s, guess, draws.shown) - x0, train.detail).mean()


def denoiser_loss(model: Patronus, train, x0: Tensor, s: Tensor | None, draws) -> Tensor:
    """The denoiser's error, weighted by noise level and less where scores are hidden, and the reader's."""
    s = model.score(x0) if s is None else s
    update_moments(model, s)
    z = x0 + expand(draws.sigma, x0) * draws.noise
    guess, loss = read(model, z, s, draws)
    weight = model.loss_weight(draws.sigma) * torch.where(draws.shown.all(1), 1.0, train.mask.weight)  # (B,)
    error = model.denoise(z, draws.sigma, s, guess, draws.shown) - x0
    return loss + (weight * squared_error(error, train.detail)).mean() + apart(model, train)


def read(model: Patronus, z: Tensor, s: Tensor, draws) -> tuple[Guess | None, Tensor]:
    """What is read of scores (B, m) off noisy images z (B, C, H, W), and the squared error of that, a scalar."""
    if model.reader is None:
        return None, z.new_zeros(())
    target, rows = model.standardised(s).detach(), draws.reading
    if rows is None:
        guess = model.read(z, draws.sigma)
        return Guess(guess.scores.detach(), guess.trust), (guess.scores - target).square().mean()
    guess = model.read(z[rows], draws.sigma[rows])
    error = (guess.scores - target[rows]).square().mean(1).sum() / (READING * len(z))  # alike in every part of a batch
    scores = torch.zeros_like(target).index_copy(0, rows, guess.scores.detach())
    return Guess(scores, target.new_zeros(len(target), 1).index_copy(0, rows, guess.trust)), error


def update_moments(model: Patronus, s: Tensor) -> None:
    """Let the standardiser follow scores that move."""
    if model.standardiser is not None and s.requires_grad:
        model.standardiser.update(s.detach())


def apart(model: Patronus, train) -> Tensor | float:
    """The weighted loss that keeps prototypes distinct, while they learn."""
    prototypes = model.encoder.prototypes
    if not train.distinct_weight or not prototypes.requires_grad:
        return 0.0
    return train.distinct_weight * distinctness(prototypes, train.distinct_margin)


def gather(s: Tensor) -> Tensor:
    """The scores of all processes' images, with gradients to all of them: (B, m) -> (world B, m)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(torch.distributed.nn.functional.all_gather(s))
    return s


class PhaseLoss(nn.Module):
    """The loss of a phase as the forward pass of one module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: Patronus, train):
        super().__init__()
        self.model, self.train_config = model, train

    def forward(self, phase, x0: Tensor, s: Tensor | None, draws) -> Tensor:
        return phase.loss(self.model, self.train_config, x0, s, draws)
