"""The information of every prototype: alone (against nothing known), beyond the others (all against all but it), and of all together.

Runs that cannot hide scores have only the second, with the score set to its most probable value given the others instead of hidden.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.script import SIGMA_MIN
from models.information import Bits, Levels, gap, integrate
from models.patronus import HIDDEN, Guess, Patronus
from models.samplers import SeededNoise
from train.data.dataset import ImageSet
from train.distributed import images_a_call
from train.images import to_tensor

BINS = 12  # of ln sigma
PILOT = 0.2  # of the draws: at levels spread evenly, to find where the others are best spent


class Answer(NamedTuple):
    """Of Q prototypes: bits by the squared gap, by the difference of squared errors, and where: (Q, H, W) bits a pixel."""

    bits: Bits
    check: Bits
    where: np.ndarray

    @property
    def timing(self) -> np.ndarray:
        """Densities by <x0 - D, D_c - D>, the mean of both estimates, in which an error of D_c cancels to first order (Q, K + 1)."""
        return (self.bits.density + self.check.density) / 2


class Survey(NamedTuple):
    """levels: of all integrals; alone and total are None for runs that cannot hide scores."""

    levels: Levels
    beyond: Answer
    alone: Answer | None
    total: Answer | None


def expected(s: Tensor, known: Tensor) -> Tensor:
    """The most probable value of each score given the others, by linear regression over known scores (N, m): s (B, m) -> (B, m)."""
    known, centred = known.to(s).double(), s.double() - known.to(s).double().mean(0)
    covariance = torch.cov(known.T)
    ridge = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(covariance), device=s.device)
    precision = torch.linalg.inv(covariance + ridge)
    return (s - centred @ precision / precision.diagonal()).to(s)


def without(model: Patronus, s: Tensor, prototypes: list[int], known: Tensor) -> Tensor:
    """Scores (B, m) that leave each of Q prototypes out: hidden, or at its most probable value where the model cannot hide it: (Q, B, m)."""
    left = s.repeat(len(prototypes), 1, 1)
    instead = torch.full_like(s, HIDDEN) if model.masked else expected(s, known)
    for line, k in zip(left, prototypes):
        line[:, k] = instead[:, k]
    return left


def only(s: Tensor, prototype: int) -> Tensor:
    """Scores (B, m) of which all but one prototype's are hidden."""
    left = torch.full_like(s, HIDDEN)
    left[:, prototype] = s[:, prototype]
    return left


def _questions(model: Patronus, s: Tensor, prototypes: list[int], known: Tensor) -> Tensor:
    """Every scores vector to be asked about images of scores s (B, m): (questions, B, m). All, all but each; then none, and each alone."""
    asked = [s, *without(model, s, prototypes, known)]
    if model.masked:
        asked += [torch.full_like(s, HIDDEN), *(only(s, k) for k in prototypes)]
    return torch.stack(asked)


def _densities(model: Patronus, x0: Tensor, s: Tensor, sigma: Tensor, noise: Tensor, prototypes: list[int], known: Tensor) -> list:
    """Gaps of images (B, C, H, W) at levels (B,), channels summed: beyond, alone (Q, B, H, W) and total (1, B, H, W), as far as can be asked."""
    questions = _questions(model, s, prototypes, known)  # (R, B, m)
    z = x0 + sigma[:, None, None, None] * noise
    guess, found = model.read(z, sigma), []
    call = images_a_call(x0.device, model.largest_map(x0.shape[-1]))
    for some in questions.split(max(1, call // len(x0))):
        count = len(some)
        given = guess and Guess(*(part.repeat(count, 1) for part in guess))
        x = model.denoise(z.repeat(count, 1, 1, 1), sigma.repeat(count), some.flatten(0, 1), given)
        found.append(x.view(count, *x0.shape))
    found = torch.cat(found)  # (R, B, C, H, W)
    q = len(prototypes)

    def gaps(blind: Tensor, knowing: Tensor):
        pairs = torch.broadcast_tensors(blind, knowing)
        size = len(pairs[0])
        parts = gap(*(p.flatten(0, 1) for p in pairs), x0.repeat(size, 1, 1, 1), sigma.repeat(size))
        return tuple(part.sum(1).view(size, len(x0), *x0.shape[2:]) for part in parts)

    answers = [gaps(found[1 : q + 1], found[:1])]
    if model.masked:
        nothing = found[q + 1 : q + 2]
        answers += [gaps(nothing, found[q + 2 :]), gaps(nothing, found[:1])]
    return answers


@torch.no_grad()
def _draw(model, images: ImageSet, known: Tensor, prototypes, levels: Levels, draws: range, rng, bar) -> tuple[np.ndarray, list]:
    """One noise level and one noise for each draw -> the bins (n,), and for each answer [squared (n, Q), errors (n, Q), sums of squared a bin
    (K + 1, Q, H, W)]."""
    device, rows_all = model.encoder.prototypes.device, np.array([i % len(images) for i in draws])
    sigmas, bins = levels.draw(len(draws), rng)
    call = images_a_call(device, model.largest_map(images.pixels.shape[1]))
    some = max(1, call // (2 * len(prototypes) + 2))
    kept: list = []
    for start in range(0, len(draws), some):
        part = slice(start, start + some)
        rows = rows_all[part]
        x0, sigma = to_tensor(images.pixels[rows]).to(device), torch.tensor(sigmas[part], dtype=torch.float32, device=device)
        noise = SeededNoise([2**32 + i for i in draws[part]], x0.shape[1:], device)()
        answers = _densities(model, x0, known[rows].to(device), sigma, noise, prototypes, known)
        if not kept:
            kept = [[[], [], np.zeros((len(levels.shares), len(a[0]), *x0.shape[2:]))] for a in answers]
        for (squared, errors, maps), answer in zip(kept, answers):
            squared.append(answer[0].flatten(2).sum(2).T.cpu().numpy())
            errors.append(answer[1].flatten(2).sum(2).T.cpu().numpy())
            np.add.at(maps, bins[part], answer[0].transpose(0, 1).cpu().numpy())
        bar.update(len(rows))
    return bins, [[np.concatenate(squared).astype(float), np.concatenate(errors).astype(float), maps] for squared, errors, maps in kept]


def survey(
    model: Patronus, images: ImageSet, known: Tensor, prototypes: list[int], count: int, sigma_min: float = SIGMA_MIN, seed: int = 0
) -> Survey:
    """Ask about `count` draws of (image, noise level, noise); known (N, m): scores of the images.

    The noise levels are drawn evenly in ln sigma first and then where the densities were found to be.
    """
    rng, even = np.random.default_rng(seed), Levels.uniform(sigma_min, model.sigma_max, BINS)
    order = rng.permutation(len(images))[:count]
    images, known = images.subset(order), known[order]
    pilot = max(BINS + 1, round(PILOT * count))
    with tqdm(total=count, desc="asking", unit="draw", leave=False) as bar:
        first_bins, first = _draw(model, images, known, prototypes, even, range(pilot), rng, bar)
        scouted = np.concatenate([answer[0] for answer in first], axis=1)
        adapted = even.adapted(scouted, first_bins)
        bins, second = _draw(model, images, known, prototypes, adapted, range(pilot, count), rng, bar)
    n = pilot + len(bins)
    levels = even._replace(shares=(pilot * even.shares + len(bins) * adapted.shares) / n)  # both parts as one (Veach and Guibas 1995)
    bins, answers = np.concatenate([first_bins, bins]), []
    for a, b in zip(first, second):
        squared, errors = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
        weights = (levels.widths / levels.shares)[:, None, None, None]
        answers.append(Answer(integrate(levels, bins, squared), integrate(levels, bins, errors), (weights * (a[2] + b[2])).sum(0) / n))
    return Survey(levels, answers[0], *(answers[1:] or (None, None)))


@torch.no_grad()
def image_maps(model: Patronus, x0: Tensor, s: Tensor, prototype: int, known: Tensor, alone: bool, sigmas, noises: int = 1) -> np.ndarray:
    """Where one prototype tells of each single image (B, C, H, W) of scores s (B, m): bits a pixel and an e-fold at each level (T, B, H, W).

    Beyond the others, or alone; the mean over `noises` noises.
    """
    blind = torch.full_like(s, HIDDEN) if alone else without(model, s, [prototype], known)[0]
    before, after, maps = model.denoiser(blind), model.denoiser(only(s, prototype) if alone else s), []
    for number, level in enumerate(sigmas):
        sigma, total = x0.new_full((len(x0),), float(level)), 0
        for repeat in range(noises):
            seeds = [((number * noises + repeat) << 20) + i for i in range(len(x0))]
            z = x0 + float(level) * SeededNoise(seeds, x0.shape[1:], x0.device)()
            total = total + gap(before(z, sigma), after(z, sigma), x0, sigma).squared.sum(1)
        maps.append((total / noises).cpu().numpy())
    return np.stack(maps)
