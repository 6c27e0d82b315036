"""The information of every prototype: alone (against nothing known), beyond the others (all against all but it),
and all together.

Models that cannot hide scores are measured beyond the others only, with the score set to its most probable value given
the others instead of hidden.

A draw of (image, noise level, noise) has a query for every prototype and kind, each a call of the network. Where the
model has a decoder, the gap of the decoder's two estimates costs a thirtieth of that and goes nearly in proportion. It
serves twice: as a control variate, whose part in the mean is known from all queries, and as the probability to query at
all, by which what the control leaves is divided (Horvitz and Thompson 1952). Neither changes the mean.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.measures.scores import hide_all, leave_out, show_only, stand_in
from models.information import Bits, Gap, Levels, gap, integrate
from models.patronus import Guess, Patronus
from models.samplers import SeededNoise
from train.data.dataset import ImageSet
from train.distributed import images_a_call
from train.images import to_tensor

BINS = 12  # of ln sigma
PILOT = 0.2  # of the draws: at levels spread evenly, to find where the others are best spent
QUERIES = 16  # of a draw to the network on average, beside those with all scores and with none
NOISE_SEEDS = 2**30  # where the seeds of noises begin, away from those of samples (torch heeds 32 bits)
CALLS = 8  # of the network whose estimates are held at a time
ALIKE = 0.2  # of the probability of a query, the same for every one, so that nothing is divided by next to nothing
CONTROL = 0.75  # gap of the network / gap of the decoder, until the pilot has measured it at each noise level


class InformationEstimate(NamedTuple):
    """Of Q prototypes: bits by the squared gap, by the difference of squared errors, and where: (Q, H, W) bits a
    pixel."""

    bits: Bits
    check: Bits
    where: np.ndarray

    @property
    def timing(self) -> np.ndarray:
        """Densities by <x0 - D, D_c - D>, the mean of both: an error of D_c cancels to first order (Q, K + 1)."""
        return (self.bits.density + self.check.density) / 2


class PrototypeInformation(NamedTuple):
    """levels: of all integrals; alone and total are None for runs that cannot hide scores."""

    levels: Levels
    beyond: InformationEstimate
    alone: InformationEstimate | None = None
    total: InformationEstimate | None = None


def query_probabilities(size: np.ndarray, mean: float) -> np.ndarray:
    """Expected sizes (n, Q) of gaps -> the probability to query each, of about that mean in every column."""
    relative = size / np.maximum(size.mean(0), 1e-30)
    return np.minimum(mean * (ALIKE + (1 - ALIKE) * relative), 1)


class _Conditions(NamedTuple):
    """Scores to ask with, of N images: their own (N, m), and those put in place of one that is left out (N, m)."""

    prototypes: Tensor
    scores: Tensor
    instead: Tensor

    def of(self, kind: str, images: Tensor, columns: Tensor) -> Tensor:
        """For prototypes of columns (P,) and images (P,): all but it ("beyond"), or it alone ("alone"): (P, m)."""
        own, k, each = self.scores[images], self.prototypes[columns], torch.arange(len(images))
        if kind == "beyond":
            scores, value = own.clone(), self.instead[images][each, k]
        else:
            scores, value = hide_all(own), own[each, k]
        scores[each, k] = value
        return scores


class _Draws:
    """Draws of one part: noise levels with their bins and weights, the image of each, and what is asked about them."""

    def __init__(self, model: Patronus, images: ImageSet, conditions: _Conditions, levels: Levels, numbers: range, rng):
        self.model, self.images, self.conditions, self.numbers = model, images, conditions, numbers
        self.device = model.encoder.prototypes.device
        self.rows = torch.tensor([i % len(images) for i in numbers])  # the image of each draw
        self.sigmas, self.bins = levels.draw(len(numbers), rng)
        self.weights = levels.weights(self.bins)
        self.kinds = ("beyond", "alone") if model.masked else ("beyond",)

    def noisy(self, part: slice) -> tuple[Tensor, Tensor, Tensor, Guess | None]:
        """x0 and z (B, C, H, W), sigma (B,) and what is read of the scores, of some draws."""
        x0 = to_tensor(self.images.pixels[self.rows[part].numpy()], self.device)
        sigma = torch.tensor(self.sigmas[part], dtype=torch.float32, device=self.device)
        noise = SeededNoise([NOISE_SEEDS + i for i in self.numbers[part]], x0.shape[1:], self.device)()
        z = x0 + sigma[:, None, None, None] * noise
        return x0, z, sigma, self.model.read(z, sigma)

    def gaps(self, estimate: Callable, x0: Tensor, sigma: Tensor, rows: Tensor, queries: dict) -> dict:
        """By kind of query (lines (P,), columns (P,)), the gap of two estimates (P, C, H, W); "total" of all lines.

        estimate(lines, scores) -> estimates of x0.
        """
        every = torch.arange(len(rows))
        full = estimate(every, self.conditions.scores[rows])
        by_kind = {}
        if self.model.masked:
            unconditional = estimate(every, hide_all(self.conditions.scores[rows]))
            by_kind["total"] = gap(unconditional, full, x0, sigma)
        for kind, (lines, columns) in queries.items():
            if len(lines):
                conditional = estimate(lines, self.conditions.of(kind, rows[lines], columns))
                pair = (conditional, full[lines]) if kind == "beyond" else (unconditional[lines], conditional)
                by_kind[kind] = gap(*pair, x0[lines], sigma[lines])
        return by_kind

    def estimator(self, network: bool, z: Tensor, sigma: Tensor, guess: Guess | None) -> Callable:
        """(lines (P,) of a part, scores (P, m)) -> estimates of x0, by the network or by the decoder alone."""
        batch = images_a_call(self.device, self.model.largest_map(self.images.pixels.shape[1]))

        def estimate(lines: Tensor, scores: Tensor) -> Tensor:
            estimates = []
            for rows, s in zip(lines.split(batch), scores.to(self.device).split(batch)):
                part_guess = guess and Guess(*(g[rows] for g in guess))
                denoise = self.model.denoise
                x0 = denoise(z[rows], sigma[rows], s, part_guess) if network else self.model.estimate(s, part_guess)
                estimates.append(x0)
            return torch.cat(estimates)

        return estimate


class _Tally:
    """Of n draws: estimated gaps by both estimates (n, Q), and the weighted sum of maps (Q, H, W)."""

    def __init__(self, n: int, q: int, size: tuple[int, int]):
        self.squared, self.errors, self.where = np.zeros((n, q)), np.zeros((n, q)), np.zeros((q, *size))

    def add(self, draws: np.ndarray, columns: np.ndarray, gaps: Gap, scale: np.ndarray, weights: np.ndarray) -> None:
        """Gaps (P, C, H, W) of draws (P,) and columns (P,), times scale (P,), in maps times weights (P,) too."""
        squared, errors = (part.sum(1).cpu().numpy() for part in gaps)
        np.add.at(self.squared, (draws, columns), scale * squared.sum((1, 2)))
        np.add.at(self.errors, (draws, columns), scale * errors.sum((1, 2)))
        np.add.at(self.where, columns, (scale * weights)[:, None, None] * squared)


@torch.no_grad()
def _control(draws: _Draws, factor: dict[str, np.ndarray], tallies: dict[str, _Tally]) -> dict[str, np.ndarray]:
    """Add factor times the decoder's gaps of every question to the tallies; -> those gaps by kind (n, Q)."""
    q, sizes = len(draws.conditions.prototypes), {}
    for kind in draws.kinds:
        sizes[kind] = np.zeros((len(draws.rows), q))
    columns = torch.arange(q)
    for i in range(len(draws.rows)):
        x0, z, sigma, guess = draws.noisy(slice(i, i + 1))
        queries = {kind: (torch.zeros(q, dtype=torch.long), columns) for kind in draws.kinds}
        gaps = draws.gaps(draws.estimator(False, z, sigma, guess), x0, sigma, draws.rows[i : i + 1], queries)
        for kind in draws.kinds:
            number, scale = np.full(q, i), np.full(q, factor[kind][draws.bins[i]])
            tallies[kind].add(number, columns.numpy(), gaps[kind], scale, np.full(q, draws.weights[i]))
            sizes[kind][i] = gaps[kind].squared.sum((1, 2, 3)).cpu().numpy()
    return sizes


@torch.no_grad()
def _estimate_part(
    draws: _Draws, factor: dict[str, np.ndarray], rng, bar
) -> tuple[dict[str, _Tally], dict[str, np.ndarray]]:
    """Query every draw -> tallies by kind of query, "total" among them, and the measured ratio of the network's
    gaps to the decoder's by kind and bin, for the next part (nan where nothing was queried)."""
    n, q, size = len(draws.rows), len(draws.conditions.prototypes), draws.images.pixels.shape[1:3]
    tallies = {kind: _Tally(n, q, size) for kind in draws.kinds}
    controlled = draws.model.decoder is not None
    if controlled:
        sizes = _control(draws, factor, tallies)
        mean = min(1.0, QUERIES / (len(sizes) * q))
        chance = {kind: query_probabilities(draws.weights[:, None] * sizes[kind], mean) for kind in draws.kinds}
    else:
        chance = {kind: np.ones((n, q)) for kind in draws.kinds}
    queries = {kind: torch.from_numpy(rng.random((n, q)) < chance[kind]) for kind in draws.kinds}
    network, decoder = ({kind: np.zeros(BINS + 1) for kind in draws.kinds} for _ in range(2))
    if draws.model.masked:
        tallies["total"] = _Tally(n, 1, size)
    each = 2 + sum(p.sum() for p in chance.values()) / n  # queries a draw
    call = images_a_call(draws.device, draws.model.largest_map(size[0]))
    together = max(1, int(CALLS * call / each))
    for start in range(0, n, together):
        part = slice(start, min(start + together, n))
        x0, z, sigma, guess = draws.noisy(part)
        queries_of_part = {kind: chosen[part].nonzero(as_tuple=True) for kind, chosen in queries.items()}
        rows, every = draws.rows[part], np.arange(part.start, part.stop)
        gaps = draws.gaps(draws.estimator(True, z, sigma, guess), x0, sigma, rows, queries_of_part)
        cheap = (
            draws.gaps(draws.estimator(False, z, sigma, guess), x0, sigma, rows, queries_of_part) if controlled else {}
        )
        if "total" in gaps:
            tallies["total"].add(every, np.zeros_like(every), gaps["total"], np.ones(len(every)), draws.weights[part])
        for kind in set(gaps) - {"total"}:
            lines, columns = (part.numpy() for part in queries_of_part[kind])
            number = start + lines
            bins, scale = draws.bins[number], 1 / chance[kind][number, columns]
            tallies[kind].add(number, columns, gaps[kind], scale, draws.weights[number])
            if controlled:
                less = -factor[kind][bins] * scale
                tallies[kind].add(number, columns, cheap[kind], less, draws.weights[number])
                for sums, part_gaps in ((network, gaps), (decoder, cheap)):
                    np.add.at(sums[kind], bins, scale * part_gaps[kind].squared.sum((1, 2, 3)).cpu().numpy())
        bar.update(len(rows))
    ratio = {kind: network[kind] / np.where(decoder[kind] > 0, decoder[kind], np.nan) for kind in draws.kinds}
    return tallies, ratio


def measure_information(
    model: Patronus, images: ImageSet, known: Tensor, prototypes: list[int], count: int, sigma_min: float, seed: int = 0
) -> PrototypeInformation:
    """`count` draws of (image, noise level, noise), seen through noise sigma_min or more; known (N, m): their scores.

    Noise levels are drawn evenly in ln sigma first, and then where the densities were large. Each part is weighted by
    its own shares, since weights that depend on the values they weigh would bias the mean.
    """
    rng, query_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    even = Levels.uniform(sigma_min, model.sigma_max, BINS)
    order = rng.permutation(len(images))[:count]
    instead = stand_in(known, known, model.masked)
    conditions, images = _Conditions(torch.tensor(prototypes), known[order], instead[order]), images.subset(order)
    pilot = max(BINS + 1, round(PILOT * count))
    factor = {kind: np.full(BINS + 1, CONTROL) for kind in ("beyond", "alone")}
    with tqdm(total=count, desc="asking", unit="draw", leave=False) as bar:
        draws = _Draws(model, images, conditions, even, range(pilot), rng)
        first, ratio = _estimate_part(draws, factor, query_rng, bar)
        scouted = np.concatenate([tally.squared for tally in first.values()], axis=1)
        adapted = even.adapted(scouted, draws.bins)
        factor = {kind: np.where(np.isnan(measured), CONTROL, measured) for kind, measured in ratio.items()}
        bins, weights = draws.bins, draws.weights
        draws = _Draws(model, images, conditions, adapted, range(pilot, count), rng)
        second, _ = _estimate_part(draws, factor, query_rng, bar)
    bins, weights = np.concatenate([bins, draws.bins]), np.concatenate([weights, draws.weights])

    def estimate(a: _Tally, b: _Tally) -> InformationEstimate:
        bits, check = (
            integrate(even, bins, np.concatenate(parts), weights)
            for parts in ((a.squared, b.squared), (a.errors, b.errors))
        )
        return InformationEstimate(bits, check, (a.where + b.where) / len(bins))

    return PrototypeInformation(even, **{kind: estimate(first[kind], second[kind]) for kind in first})


@torch.no_grad()
def image_maps(
    model: Patronus, x0: Tensor, s: Tensor, prototype: int, known: Tensor, alone: bool, sigmas, noises: int = 1
) -> np.ndarray:
    """Where one prototype tells of each single image (B, C, H, W) of scores s (B, m): bits a pixel and an e-fold at
    each level (T, B, H, W).

    Beyond the others, or alone; the mean over `noises` noises.
    """
    unconditional = hide_all(s) if alone else leave_out(s, [prototype], known, model.masked)[0]
    before, after, maps = model.denoiser(unconditional), model.denoiser(show_only(s, [prototype]) if alone else s), []
    for number, level in enumerate(sigmas):
        sigma, total = x0.new_full((len(x0),), float(level)), 0
        for repeat in range(noises):
            seeds = [((number * noises + repeat) << 20) + i for i in range(len(x0))]
            z = x0 + float(level) * SeededNoise(seeds, x0.shape[1:], x0.device)()
            total = total + gap(before(z, sigma), after(z, sigma), x0, sigma).squared.sum(1)
        maps.append((total / noises).cpu().numpy())
    return np.stack(maps)
