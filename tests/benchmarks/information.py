"""The information of every prototype against the plain way, which asks about each of them in every draw, side by side.

  python tests/benchmarks/information.py [--dataset faces] [--plain_draws 100] [--draws 1000]     on a trained run

Both draw images, noise levels and noise alike. Time to equal standard errors is time x error^2, prototype by prototype.
The mean of squared differences over variances says whether both measure the same: 1 is expected, somewhat more where
few plain draws leave their standard errors too small.
"""

import argparse
import math
import time

import numpy as np
import torch

from analysis.measures.information import BINS, NOISE_SEEDS, PILOT, measure_information
from analysis.measures.scores import hide_all, leave_out, show_only
from analysis.script import SIGMA_MIN, open_run, run_parser
from models.information import Levels, gap, integrate
from models.patronus import Guess
from models.samplers import SeededNoise
from train.data.dataset import load_split
from train.distributed import images_a_call
from train.images import to_tensor
from train.scores import encode


@torch.no_grad()
def plain(model, images, known, prototypes: list[int], count: int, sigma_min: float, seed: int) -> dict:
    """Bits by kind of question: every draw asks about all scores, all but each, none, and each alone."""
    rng, even = np.random.default_rng(seed), Levels.uniform(sigma_min, model.sigma_max, BINS)
    order = rng.permutation(len(images))[:count]
    pilot, q, device = max(BINS + 1, round(PILOT * count)), len(prototypes), model.encoder.prototypes.device
    values, bins, weights, levels = [], [], [], even
    for part in (range(pilot), range(pilot, count)):
        sigmas, drawn = levels.draw(len(part), rng)
        for i, level in zip(part, sigmas):
            row = order[[i % len(order)]]
            x0, s = to_tensor(images.pixels[row], device), known[row].to(device)
            sigma = torch.full((1,), level, dtype=torch.float32, device=device)
            z = x0 + sigma * SeededNoise([NOISE_SEEDS + i], x0.shape[1:], device)()
            questions = [s, *leave_out(s, prototypes, known, model.masked)]
            questions += [hide_all(s), *(show_only(s, [k]) for k in prototypes)] if model.masked else []
            guess, answers = model.read(z, sigma), []
            for some in torch.cat(questions).split(images_a_call(device, model.largest_map(x0.shape[-1]))):
                n = len(some)
                given = guess and Guess(*(g.repeat(n, 1) for g in guess))
                answers.append(model.denoise(z.repeat(n, 1, 1, 1), sigma.repeat(n), some, given))
            answers = torch.cat(answers)
            pairs = [(answers[1 : q + 1], answers[:1])]
            pairs += (
                [(answers[q + 1 : q + 2], answers[q + 2 :]), (answers[q + 1 : q + 2], answers[:1])]
                if model.masked
                else []
            )
            gaps = [gap(blind, full, x0, sigma).squared.flatten(1).sum(1) for blind, full in pairs]
            values.append(torch.cat(gaps).cpu().numpy().astype(float))
        bins.append(drawn)
        weights.append(levels.weights(drawn))
        levels = even.adapted(np.stack(values), drawn) if levels is even else levels
    bits = integrate(even, np.concatenate(bins), np.stack(values), np.concatenate(weights))
    slices = {"beyond": slice(0, q), "alone": slice(q, 2 * q), "total": slice(2 * q, None)}
    return {kind: (bits.total[s], bits.error[s]) for kind, s in slices.items() if len(bits.total[s])}


def timed(action):
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def main() -> None:
    parser: argparse.ArgumentParser = run_parser(__doc__, steps=None)
    parser.add_argument("--plain_draws", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--first", type=int, default=None, help="only that many prototypes (default: all)")
    args = parser.parse_args()
    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    known = encode(run.model, test, device=device, progress=False)
    prototypes = list(range(known.shape[1]))[: args.first]
    slow, slow_time = timed(lambda: plain(run.model, test, known, prototypes, args.plain_draws, SIGMA_MIN, 0))
    fast, fast_time = timed(lambda: measure_information(run.model, test, known, prototypes, args.draws, SIGMA_MIN, 1))
    print(
        f"{torch.get_num_threads()} threads, {device}: {args.plain_draws} plain draws in "
        f"{slow_time:.0f} s, {args.draws} of ours in {fast_time:.0f} s"
    )
    for kind, (total, error) in slow.items():
        bits = getattr(fast, kind).bits
        ratio = slow_time * error**2 / (fast_time * bits.error**2)
        agreement = np.mean((bits.total - total) ** 2 / (error**2 + bits.error**2))
        print(
            f"{kind}: {np.median(ratio):.1f} times faster at equal standard errors (median; deciles "
            f"{np.quantile(ratio, 0.1):.1f} to "
            f"{np.quantile(ratio, 0.9):.1f}; of the summed variances "
            f"{(error**2).sum() * slow_time / ((bits.error**2).sum() * fast_time):.1f}); "
            f"sums {total.sum():.2f} +- {math.sqrt((error**2).sum()):.2f} and {bits.total.sum():.2f} "
            f"+- {math.sqrt((bits.error**2).sum()):.2f} bits, "
            f"squared differences over variances {agreement:.2f}"
        )


if __name__ == "__main__":
    main()
