"""Edits, which all analysis shares: encode, invert, set scores, regenerate from the same x_T; and the image that single
scores tell of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from analysis.measures.scores import OTHERS, KnownScores, keep, regress, show_only
from models.denoiser import Denoiser
from models.patronus import Patronus
from models.samplers import SeededNoise, Trace, heun, invert
from train.distributed import images_a_call
from train.errors import UserError

PUSH = 0.25  # at most, in the unit of images: an eighth of their range
STRENGTHS = (0.0, 0.5, 1.0, 2.0)  # of guidance, tried in this order where as little is wanted as it takes
MISSED = 0.1  # of the range of a score: a commanded score is reached where no more than this is missing
EXPECTED_NOISES = 2  # images of noise over which models without a decoder are asked
PLACE = 0.8  # share of its squared change that the place of a prototype holds
PLACE_IMAGES = 64  # known images over which that is the mean
PIXELS = 32  # a side, of which a place is widened and softened by one pixel
# shares of what a score says that lie in the place of an edit: up to the first it stays, from the second it moves whole
INSIDE = 0.2, 0.6


# scores found in edited images (n, m) -> what is missing of a command, as a share of its range: (n,)
Missing = Callable[[Tensor], Tensor]


class Encoding(NamedTuple):
    """Scores s (B, m) and the noise x_T (B, C, H, W) from which the images come back."""

    scores: Tensor
    noise: Tensor


class EditOptions(NamedTuple):
    """How scores are set and images regenerated.

    known: scores of a data set, from which the scores that are not set are told.
    steps: Heun steps of the inversion and of the regeneration.
    guidance: w of D = D(z, s') + w (D(z, s') - D(z, s)), with s the image's own scores and s' the edited ones:
        classifier-free guidance (Ho and Salimans 2022) with the image's own condition in the place of the empty one.
        Above 0 a step needs two network calls, not one. Several are tried in turn, each on those images alone in which
        the commanded scores are not reached yet.
    others: what becomes of the scores that are not set, a key of analysis.measures.scores.OTHERS.
    places: what each prototype changes of the image, as of `places` (m, H, W); other scores then move as far as they
        speak of the place of what is set. None: wherever they speak.
    """

    known: KnownScores
    steps: int = 18
    guidance: tuple[float, ...] = (0.0,)
    others: str = "transport"
    places: Tensor | None = None

    def set(self, s: Tensor, prototypes: Sequence[int], values: Tensor | float) -> Tensor:
        """A copy of s (B, m) with those prototypes' scores at values (B, K), (K,) or one number, the others as `others`
        says."""
        prototypes = list(prototypes)
        wanted = torch.as_tensor(values, dtype=s.dtype, device=s.device).expand(len(s), len(prototypes))
        edited = OTHERS[self.others](self.known, s, prototypes, wanted)
        if self.places is None:
            return edited
        share = inside(self.places, prototypes)
        share[prototypes] = 1
        return torch.where(share > 0, torch.lerp(s, edited, share), s)  # also where hidden ones are NaN


class Edit(NamedTuple):
    """Images (B, C, H, W) in [-1, 1], the scores found in them (B, m), the guidance that each image took (B,), and
    where the commanded scores are reached: bool (B,)."""

    images: Tensor
    scores: Tensor
    guidance: Tensor
    reached: Tensor


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
def encode_and_invert(
    model: Patronus, x0: Tensor, steps: int, batch: int | None = None, title: str | None = None
) -> Encoding:
    """Images (B, C, H, W) in [-1, 1] -> their scores and their x_T under those scores; `steps` Heun steps, 2 steps - 2
    network calls."""
    s, sigmas = _batched(lambda rows: model.score(x0[rows]), model, x0, len(x0), batch, None), model.sigmas(steps)
    return Encoding(
        s, _batched(lambda rows: invert(model.denoiser(s[rows]), x0[rows], sigmas), model, x0, len(x0), batch, title)
    )


def guided(model: Patronus, edited: Tensor, own: Tensor, guidance: float) -> Denoiser:
    """The Denoiser of edited scores (B, m), pushed away from that of the images' own (B, m).

    The push is at most PUSH a pixel, and does not leave the range of images, since what is darker than black stays
    black to the end (static thresholding, Saharia et al. 2022): large changes, as of the skin's colour, need no push
    and would be overdone. Raises UserError where the model cannot hide scores.
    """
    try:
        there = model.denoiser(edited)
    except ValueError as error:
        raise UserError(f"--others release: {error}; use transport, joint or keep") from None
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
    model: Patronus,
    noise: Tensor,
    s: Tensor,
    steps: int,
    batch: int | None = None,
    title: str | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Images (B, C, H, W) from x_T (B, C, H, W) and scores (B, m), not clipped; `steps` Heun steps, 2 steps - 1 network
    calls.

    trace is that of models.samplers, called for one batch after the other.
    """
    sigmas = model.sigmas(steps)
    return _batched(
        lambda rows: heun(model.denoiser(s[rows]), noise[rows], sigmas, trace), model, noise, len(noise), batch, title
    )


@torch.no_grad()
def edit(
    model: Patronus,
    encoding: Encoding,
    edited: Tensor,
    steps: int,
    guidance: float = 0.0,
    batch: int | None = None,
    title: str | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Images (K B, C, H, W), not clipped, of the B encoded ones under edited scores (K B, m): K edits of every image,
    edit by edit."""
    repeats, sigmas = len(edited) // len(encoding.scores), model.sigmas(steps)
    own, noise = encoding.scores.repeat(repeats, 1), encoding.noise.repeat(repeats, 1, 1, 1)

    def one_batch(rows: slice) -> Tensor:
        return heun(guided(model, edited[rows], own[rows], guidance), noise[rows], sigmas, trace)

    return _batched(one_batch, model, noise, len(edited), batch, title)


def shortfall(reached: Tensor, edited: Tensor, own: Tensor, prototypes: Sequence[int], known: KnownScores) -> Tensor:
    """What is missing of commanded scores, the mean over K prototypes, as a share of their ranges: (B,); more than
    commanded is not missing. Of a group the mean is what counts: hardly ever does every member get its value.

    reached, edited, own: scores (B, m) in the edited image, commanded, and before.
    """
    prototypes = list(prototypes)
    spans = (known.limits[prototypes, 1] - known.limits[prototypes, 0]).clamp(min=1e-6)
    rise = (edited - own)[:, prototypes]
    return ((edited - reached)[:, prototypes] * rise.sign() / spans).clamp(min=0).mean(1)


@torch.no_grad()
def edit_until_reached(
    model: Patronus,
    encoding: Encoding,
    edited: Tensor,
    prototypes: Sequence[int],
    options: EditOptions,
    title: str | None = None,
    missing_beside: Missing | None = None,
) -> Edit:
    """Images of the B encoded ones under edited scores (B, m), with as little guidance as it takes to find the
    commanded prototypes' scores, and what missing_beside asks for.

    Each strength of options.guidance is tried on the images that have not reached them; one that never does is left at
    the strength that came nearest.
    """
    best = scores = missing = strengths = None
    rows = torch.arange(len(edited), device=edited.device)
    for strength in options.guidance:
        part = Encoding(encoding.scores[rows], encoding.noise[rows])
        images = edit(model, part, edited[rows], options.steps, strength, title=title).clamp(-1, 1)
        reached = model.score(images)
        short = reached.new_zeros(len(rows))
        if len(prototypes):
            short = shortfall(reached, edited[rows], part.scores, prototypes, options.known)
        if missing_beside is not None:
            short = torch.maximum(short, missing_beside(reached))
        if best is None:
            best, scores, missing, strengths = images, reached, short, torch.full_like(short, strength)
        else:
            better = short < missing[rows]
            changed = rows[better]
            best[changed], scores[changed], missing[changed] = images[better], reached[better], short[better]
            strengths[changed] = strength
        rows = (missing > MISSED).nonzero()[:, 0]
        if not len(rows):
            break
    return Edit(best, scores, strengths, missing <= MISSED)


@torch.no_grad()
def expected_together(
    model: Patronus, prototypes: Sequence[int], values: Tensor, known: KnownScores, shape: Sequence[int]
) -> Tensor:
    """What the scores of K prototypes together tell of the image: E[x0 | those at values, all else hidden], values (V,
    K) -> (V, C, H, W).

    One call of the decoder, or of the denoiser at its highest noise level where there is none. Published models cannot
    hide scores: the others are then at their most probable values given those. shape: (C, H, W).
    """
    mean = known.scores.mean(0).to(values).expand(len(values), -1)
    s = (
        (show_only(keep(known, mean, prototypes, values), prototypes))
        if model.masked
        else regress(known, mean, prototypes, values)
    )
    if model.decoder is not None:
        return model.estimate(s)
    z = model.sigma_max * SeededNoise(range(EXPECTED_NOISES), shape, s.device)()
    sigma = z.new_full((len(z),), model.sigma_max)
    return torch.stack([model.denoise(z, sigma, one.expand(len(z), -1)).mean(0) for one in s])


@torch.no_grad()
def places(model: Patronus, known: KnownScores) -> Tensor | None:
    """What each prototype changes of the image beyond all others: (m, H, W), each of sum 1; None without a decoder.

    The mean square change of E[x0 | s] over known images as its score alone goes from low to high. What merely goes
    along with a score in the data falls away. Templates, and prototypes that change nothing, have the whole image.
    """
    if model.decoder is None:
        return None
    some = known.scores[torch.linspace(0, len(known) - 1, min(PLACE_IMAGES, len(known))).long()]
    squares = []
    for k, ends in enumerate(known.limits):
        low, high = (model.estimate(keep(known, some, [k], end.expand(len(some), 1))) for end in ends)
        squares.append((high - low).square().mean((0, 1)))
    squares = torch.stack(squares)
    whole = squares.sum((1, 2)) == 0
    whole[len(model.encoder.prototypes) :] = True
    squares[whole] = 1
    return squares / squares.sum((1, 2), keepdim=True)


def inside(places: Tensor, prototypes: Sequence[int]) -> Tensor:
    """How far each of m prototypes speaks of the place of some: (m,) in [0, 1], the share of `places` (m, H, W) that
    lies there, stretched from INSIDE to 0 and 1.

    The place of a prototype are the fewest pixels that hold PLACE of what it changes, one more each way, with a soft
    edge; of several it is their union.
    """
    chosen = places[list(prototypes)]
    ordered = chosen.flatten(1).sort(dim=1, descending=True).values
    count = (ordered.cumsum(1) < PLACE).sum(1, keepdim=True)  # of pixels that hold less
    level = ordered.gather(1, count.clamp(max=ordered.shape[1] - 1))
    union = (chosen >= level[:, :, None]).float().amax(0)[None]
    radius = max(1, round(places.shape[-1] / PIXELS))
    grown = F.max_pool2d(union, 2 * radius + 1, 1, radius)
    place = F.avg_pool2d(F.pad(grown, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)[0]
    least, most = INSIDE
    return (((places * place).sum((1, 2)) - least) / (most - least)).clamp(0, 1)


def expected_images(
    model: Patronus, prototypes: Sequence[int], values: Tensor, known: KnownScores, shape: Sequence[int]
) -> Tensor:
    """What single scores tell of the image: E[x0 | s_k = value, all else hidden], for values (K, V) of each prototype:
    (K, V, C, H, W)."""
    return torch.stack(
        [expected_together(model, [k], line[:, None], known, shape) for k, line in zip(prototypes, values)]
    )


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape (Shoemake 1985); straight where they point the same or the
    opposite way."""
    cosine = (F.normalize(a.flatten(), dim=0) * F.normalize(b.flatten(), dim=0)).sum().clamp(-1, 1)
    angle = cosine.arccos()
    curved = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin() < 1e-4, torch.lerp(a, b, share), curved)
