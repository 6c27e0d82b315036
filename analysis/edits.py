"""The one gesture that all analysis shares: encode, invert, set scores, regenerate from the same x_T; and what single scores say."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from models.denoiser import Denoiser
from models.patronus import HIDDEN, Patronus
from models.prototype_encoder import Match
from models.samplers import SeededNoise, Trace, heun, invert
from train.distributed import images_a_call
from train.errors import UserError

OTHERS = ("keep", "joint", "release")
RELEASED = 0.2
NEAREST = 200  # known images that tell what goes with a score
DOUBT = 4.0  # what they say counts from two standard errors on
PUSH = 0.25  # at most, in the unit of images: an eighth of their range
SAYING_NOISES = 2  # images of noise over which models without a decoder are asked


class Encoding(NamedTuple):
    """Scores s (B, m) and the noise x_T (B, C, H, W) from which the images come back."""

    scores: Tensor
    noise: Tensor


class Gesture(NamedTuple):
    """How scores are set and images regenerated.

    guidance: w of D = D(z, s') + w (D(z, s') - D(z, s)), with s the image's own scores and s' the edited ones: classifier-free guidance (Ho and
        Salimans 2022) with the image's own condition in the place of the empty one. 0 is the plain edit and needs one network call a step, not two.
    others: what becomes of the scores that are not set. 'keep' leaves them; 'joint' moves them as they move, in the mean, with those set (a
        regression that bends); 'release' hides those correlated with one that is set and moves the rest jointly. The last two follow
        correlations of the data.
    known: scores of a data set (N, m), from which correlations are taken.
    """

    known: Tensor
    steps: int = 18
    guidance: float = 0.0
    others: str = "keep"

    def set(self, s: Tensor, prototypes: Sequence[int], values: Tensor) -> Tensor:
        """A copy of s (B, m) with those prototypes' scores at values (B, K), (K,) or one number."""
        prototypes = list(prototypes)
        wanted = torch.as_tensor(values, dtype=s.dtype, device=s.device).expand(len(s), len(prototypes))
        edited = s.clone()
        if self.others in ("joint", "release"):
            edited = joint_change(s, prototypes, wanted - s[:, prototypes], self.known.to(s))
        if self.others == "release":
            edited[:, correlated(self.known, prototypes).to(s.device)] = HIDDEN
        edited[:, prototypes] = wanted
        return edited


def joint_change(s: Tensor, prototypes: list[int], change: Tensor, known: Tensor) -> Tensor:
    """s (B, m) moved as the mean of known scores (N, m) moves where those prototypes change by `change` (B, K); within the range of the known.

    By linear regression, and by what it leaves, which matters where scores rise and fall again (that of red hair, along one that tells dark hair from
    light): the mean residual of the NEAREST known images there, less that of those around s. What the neighbours do not tell surely is shrunk by
    1 - DOUBT variances / square (positive-part James-Stein). Where N <= NEAREST all are neighbours, and the line alone remains.
    """
    covariance, given = torch.cov(known.T), known[:, prototypes]  # (m, m), (N, K)
    spread = given.std(0).clamp(min=1e-6)
    among = covariance[prototypes][:, prototypes]  # (K, K)
    ridge = 1e-3 * among.diagonal().mean().clamp(min=1e-12) * torch.eye(len(prototypes), device=s.device)
    slopes = torch.linalg.solve(among + ridge, covariance[prototypes])  # (K, m)
    residuals = known - given @ slopes

    def around(values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean residual near values (B, K) and its variance, (B, m) each."""
        nearest = torch.cdist(values / spread, given / spread).topk(min(NEAREST, len(known)), largest=False).indices
        found = residuals[nearest]  # (B, NEAREST, m)
        return found.mean(1), found.var(1) / found.shape[1]

    (there, there_variance), (here, here_variance) = around(s[:, prototypes] + change), around(s[:, prototypes])
    bend = there - here
    bend *= (1 - DOUBT * (there_variance + here_variance) / bend.square().clamp(min=1e-12)).clamp(min=0)
    return (s + change @ slopes + bend).clamp(known.amin(0), known.amax(0))


def correlated(known: Tensor, prototypes: list[int]) -> Tensor:
    """Which prototypes are correlated with one of those beyond RELEASED, themselves left out: bool (m,)."""
    centred = F.normalize(known - known.mean(0), dim=0)  # (N, m)
    found = (centred.T @ centred[:, prototypes]).abs().amax(1) > RELEASED
    found[prototypes] = False
    return found


def _batched(
    function: Callable[[slice], Tensor], model: Patronus, like: Tensor, count: int, batch: int | None, title: str | None
) -> Tensor:
    """function(rows) for consecutive pieces of `count` rows, concatenated, under a progress bar where there is a title.

    like: images (B, C, H, W) of the size that the model works on, on their device.
    """
    batch = batch or images_a_call(like.device, model.largest_map(like.shape[-1]))
    starts = range(0, count, batch)
    bar = tqdm(starts, desc=title, unit="batch", leave=False, disable=title is None or len(starts) < 2)
    return torch.cat([function(slice(start, start + batch)) for start in bar])


@torch.no_grad()
def encode_and_invert(model: Patronus, x0: Tensor, steps: int, batch: int | None = None, title: str | None = None) -> Encoding:
    """Images (B, C, H, W) in [-1, 1] -> their scores and their x_T under those scores; `steps` Heun steps, 2 steps - 2 network calls."""
    s, sigmas = _batched(lambda rows: model.score(x0[rows]), model, x0, len(x0), batch, None), model.sigmas(steps)
    return Encoding(s, _batched(lambda rows: invert(model.denoiser(s[rows]), x0[rows], sigmas), model, x0, len(x0), batch, title))


def guided(model: Patronus, edited: Tensor, own: Tensor, guidance: float) -> Denoiser:
    """The Denoiser of edited scores (B, m), pushed away from that of the images' own (B, m).

    The push is at most PUSH a pixel, and does not leave the range of images, since what is darker than black stays black to the end (static
    thresholding, Saharia et al. 2022): large changes, as of the skin's colour, need no push and would be overdone.
    Raises UserError where the model cannot hide scores.
    """
    try:
        there = model.denoiser(edited)
    except ValueError as error:
        raise UserError(f"--others release: {error}; use keep or joint") from None
    if not guidance:
        return there
    here = model.denoiser(own)

    def denoise(z: Tensor, sigma: Tensor) -> Tensor:
        x0 = there(z, sigma)
        pushed = x0 + (guidance * (x0 - here(z, sigma))).clamp(-PUSH, PUSH)
        return pushed.clamp(x0.clamp(max=-1), x0.clamp(min=1))

    return denoise


@torch.no_grad()
def regenerate(
    model: Patronus, noise: Tensor, s: Tensor, steps: int, batch: int | None = None, title: str | None = None, trace: Trace | None = None
) -> Tensor:
    """Images (B, C, H, W) from x_T (B, C, H, W) and scores (B, m), not clipped; `steps` Heun steps, 2 steps - 1 network calls.

    trace is that of models.samplers, called for one batch after the other.
    """
    sigmas = model.sigmas(steps)
    return _batched(lambda rows: heun(model.denoiser(s[rows]), noise[rows], sigmas, trace), model, noise, len(noise), batch, title)


@torch.no_grad()
def edit(
    model: Patronus,
    encoding: Encoding,
    edited: Tensor,
    gesture: Gesture,
    batch: int | None = None,
    title: str | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Images (K B, C, H, W), not clipped, of the B encoded ones under edited scores (K B, m): K edits of every image, edit by edit."""
    repeats, sigmas = len(edited) // len(encoding.scores), model.sigmas(gesture.steps)
    own, noise = encoding.scores.repeat(repeats, 1), encoding.noise.repeat(repeats, 1, 1, 1)

    def some(rows: slice) -> Tensor:
        return heun(guided(model, edited[rows], own[rows], gesture.guidance), noise[rows], sigmas, trace)

    return _batched(some, model, noise, len(edited), batch, title)


@torch.no_grad()
def says(model: Patronus, prototypes: Sequence[int], values: Tensor, known: Tensor, shape: Sequence[int]) -> Tensor:
    """What single scores say of the image: E[x0 | s_k = value, all else hidden], for values (K, V) of each prototype: (K, V, C, H, W).

    One call of the decoder, or of the denoiser at its highest noise level where there is none. Published models cannot hide scores: the others are
    then at their most probable values given s_k. known (N, m): scores of a data set; shape: (C, H, W).
    """
    known, lines = known.to(values), []
    mean = known.mean(0)
    for p, line in zip(prototypes, values):
        if model.masked:
            s = torch.full((len(line), len(mean)), HIDDEN, device=line.device)
        else:
            s = joint_change(mean.expand(len(line), -1), [p], (line - mean[p])[:, None], known)
        s[:, p] = line
        lines.append(s)
    s = torch.cat(lines)  # (K V, m)
    if model.decoder is not None:
        x0 = model.estimate(s)
    else:
        z = model.sigma_max * SeededNoise(range(SAYING_NOISES), shape, s.device)()
        sigma = z.new_full((len(z),), model.sigma_max)
        x0 = torch.stack([model.denoise(z, sigma, one.expand(len(z), -1)).mean(0) for one in s])
    return x0.view(*values.shape, *shape)


def patch_box(model: Patronus, match: Match, image: int, prototype: int, side: int) -> tuple[int, int, int, int]:
    """Where a prototype matches best in one image of a batch: (top, left, bottom, right) in an image of side x side pixels."""
    row, column = match.rows[image, prototype].item(), match.columns[image, prototype].item()
    return model.encoder.receptive_field.box(row, column, side, side)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape (Shoemake 1985); straight where they point the same or the opposite way."""
    cosine = (F.normalize(a.flatten(), dim=0) * F.normalize(b.flatten(), dim=0)).sum().clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, share)
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
