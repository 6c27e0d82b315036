"""Patronus: a denoiser that knows of the image only its similarities to learned patch prototypes (Weng et al. 2026)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.denoiser import Denoiser, edm_denoise, edm_scales, eps_denoise
from models.prototype_encoder import PrototypeEncoder
from models.reconstruction import ScoreDecoder
from models.schedule import LinearSchedule, ddim_sigmas, karras_sigmas
from models.score_reader import ScoreReader
from models.unet import UNet

HIDDEN = float("nan")  # a score of this value is hidden from a model that was trained to do without it


def any_hidden(s: Tensor) -> bool:
    return bool(s.isnan().any())


class Guess(NamedTuple):
    """What is read of hidden scores: standardised scores (B, m), and how far to trust them (B, 1), from 0, not at all,
    to 1, like shown ones."""

    scores: Tensor
    trust: Tensor


class Standardiser(nn.Module):
    """Running mean and deviation of a batch of vectors (B, m), updated while training, over all processes.

    floor: added to the variance, so that a score that hardly varies is not blown up.
    """

    def __init__(self, width: int, momentum: float = 0.01, floor: float = 1e-6):
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def update(self, s: Tensor) -> None:
        moments = torch.stack([s.float().mean(0), s.float().square().mean(0)])  # (2, m)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean, variance = moments[0], (moments[1] - moments[0] ** 2).clamp(min=0)
        rate = torch.where(self.started > 0, self.momentum, 1.0)
        self.mean.lerp_(mean, rate)
        self.variance.lerp_(variance, rate)
        self.started.fill_(1)

    def forward(self, s: Tensor) -> Tensor:
        return (s - self.mean) / (self.variance + self.floor).sqrt()


class Patronus(nn.Module):
    """Prototype encoder and conditional U-Net as one model, in one of two formulations behind one interface.

    schedule: the published formulation, eps at integer t of that schedule; None is the EDM formulation with
        sigma_data and sigma_skip (see edm_scales) on noise levels up to sigma_max.
    standardise: s enters the networks standardised by running moments rather than raw.
    decoder: an estimate of the image from s alone. The U-Net then sees it beside z and works on what it leaves, of
        deviation sigma_data: D(z) = decoder(s) + D_edm(z - decoder(s)), still a function of z, sigma and s alone. EDM
        formulation only.
    masked: the networks see [s, which of s are shown], and scores may be HIDDEN.
    reader: reads hidden scores off z as far as the noise allows; the networks see its guess in their place, still
        marked as hidden.
    """

    def __init__(
        self,
        encoder: PrototypeEncoder,
        unet: UNet,
        schedule: LinearSchedule | None = None,
        sigma_data: float = 0.5,
        sigma_skip: float = 0.5,
        sigma_max: float = 80.0,
        standardise: bool = False,
        decoder: ScoreDecoder | None = None,
        masked: bool = False,
        reader: ScoreReader | None = None,
    ):
        super().__init__()
        self.encoder, self.unet, self.schedule, self.decoder, self.reader, self.masked = (
            encoder,
            unet,
            schedule,
            decoder,
            reader,
            masked,
        )
        self.sigma_data, self.sigma_skip, self._sigma_max = sigma_data, sigma_skip, sigma_max
        floor = 1e-4 if encoder.competing else 1e-6
        self.standardiser = Standardiser(encoder.width, floor=floor) if standardise else None

    def score(self, x0: Tensor) -> Tensor:
        """Prototype scores of clean images in [-1, 1]: (B, C, H, W) -> s (B, m)."""
        return self.encoder(x0)

    def standardised(self, s: Tensor) -> Tensor:
        """Scores (B, m) as the networks see them."""
        return s if self.standardiser is None else self.standardiser(s)

    def read(self, z: Tensor, sigma: Tensor) -> Guess | None:
        """What noisy images (B, C, H, W) tell of their scores; None without a reader."""
        return None if self.reader is None else Guess(self.reader(z, sigma), 1 / (1 + sigma.float()[:, None]))

    def condition(self, s: Tensor, guess: Guess | None = None, shown: Tensor | None = None) -> Tensor:
        """What the networks see of scores s (B, m): standardised, with a second half that says which are shown: (B, m)
        or (B, 2 m).

        In the place of hidden ones stands the guess, with its trust in the second half; without one 0 and 0.
        shown (B, m) bool: which are not hidden; by default those that are not HIDDEN. Training gives it, so that the
        NaN of an encoder that diverged is not taken for a hidden score.
        """
        if not self.masked:
            return self.standardised(s)
        shown, (scores, trust) = ~s.isnan() if shown is None else shown, guess or (0.0, 0.0)
        return torch.cat(
            [torch.where(shown, self.standardised(s), scores), torch.where(shown, 1.0, trust).to(s)], dim=1
        )

    def estimate(self, s: Tensor, guess: Guess | None = None, shown: Tensor | None = None) -> Tensor:
        """E[x0 | s] by the decoder: (B, m) -> (B, C, H, W), float32; with what was read of hidden scores, E[x0 | s,
        guess].

        shown: see `condition`.
        """
        return self._base(self.condition(s, guess, shown))

    def _base(self, condition: Tensor) -> Tensor | None:
        return None if self.decoder is None else self.decoder(condition).float()

    def _denoise(self, z: Tensor, sigma: Tensor, condition: Tensor, base: Tensor | None) -> Tensor:
        if self.schedule is not None:
            return eps_denoise(self.unet, self.schedule, z, sigma, condition)
        if base is None:
            return edm_denoise(self.unet, self.sigma_data, self.sigma_skip, z, sigma, condition)

        def beside(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return self.unet(torch.cat([x, base], dim=1), t, condition)

        return base + edm_denoise(beside, self.sigma_data, self.sigma_skip, z - base, sigma, condition)

    def denoise(
        self, z: Tensor, sigma: Tensor, s: Tensor, guess: Guess | None = None, shown: Tensor | None = None
    ) -> Tensor:
        """E[x0 | z, s] of z = x0 + sigma n: (B, C, H, W), (B,), (B, m) -> (B, C, H, W), float32.

        guess: read(z, sigma), where it is known already; shown: see `condition`.
        """
        condition = self.condition(s, guess or self.read(z, sigma), shown)
        return self._denoise(z, sigma, condition, self._base(condition))

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """What the squared error of D is multiplied by: (B,) -> (B,). In the published formulation it becomes the
        squared error of eps; in ours every level counts alike, 1 / c_out^2 (Karras et al. 2022, Sec. 5)."""
        if self.schedule is not None:
            return sigma**-2
        return edm_scales(sigma, self.sigma_data, self.sigma_skip)[1] ** -2

    def denoiser(self, s: Tensor) -> Denoiser:
        """The Denoiser of images whose scores are s (B, m). Raises ValueError for hidden scores where the model was not
        trained for them."""
        hidden = any_hidden(s)
        if not self.masked and hidden:
            raise ValueError("this model needs every score: it was trained without model.masked")
        if self.reader is not None and hidden:
            return lambda z, sigma: self.denoise(z, sigma, s)
        condition = self.condition(s)
        base = self._base(condition)
        return lambda z, sigma: self._denoise(z, sigma, condition, base)

    @property
    def best_sampling(self) -> tuple[str, int]:
        """The sampler and its steps that make the best images in the fewest network calls
        (tests/benchmarks/samplers.py).

        Where a decoder has said most, little is left to do, and fresh noise at each step takes the denoiser's own
        errors away.
        """
        return ("heun", 18) if self.decoder is None else ("ancestral", 5)

    def largest_map(self, side: int) -> int:
        """Values of the largest feature map of one image of that many pixels a side."""
        return max(self.encoder.largest_map(side), self.unet.largest_map(side))

    @property
    def sigma_max(self) -> float:
        """The highest noise level that the model knows."""
        return self._sigma_max if self.schedule is None else self.schedule.sigma_max

    def sigmas(self, steps: int) -> Tensor:
        """The falling grid of noise levels for this formulation, closed by 0: (steps + 1,)."""
        return (
            karras_sigmas(steps, sigma_max=self.sigma_max)
            if self.schedule is None
            else ddim_sigmas(self.schedule, steps)
        )
