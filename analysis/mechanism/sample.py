"""Draw samples by integrating the probability-flow ODE of a training-free denoiser or a network (Niedoba et al. 2025).

From noise at the highest level, one seed an image, or from --z_init, a .npy of shape (n, C, H, W). Writes
<denoiser>_samples.npy and a PNG grid to records/mechanism/sample/. The network of a run of ours is given the scores of
data images, one each.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from analysis.script import require
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__)
    parser.add_argument("--n_samples", type=int, default=50, help="samples (default: 50)")
    parser.add_argument("--batch", type=int, default=50, help="samples drawn together (default: 50)")
    parser.add_argument("--sampler", default="euler", choices=["euler", "heun"], help="default: euler")
    parser.add_argument("--z_init", metavar="FILE.npy", help="latents at the highest level, (n, C, H, W)")
    args = parse_mechanism(parser)
    require(parser, args, n_samples=1, batch=1)
    return args


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.mechanism.batches import in_batches, read_noisy, save_grid, settings_of
    from analysis.mechanism.common import binder, levels_of, one_line, open_data, results_dir, shown
    from models.samplers import SOLVERS, SeededNoise
    from train.distributed import pick_device

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    _, h, w, c = images.pixels.shape
    given = read_noisy(args.z_init, "--z_init", "n", c, h, w) if args.z_init else None
    bind = binder(args, data, levels, device)
    sigmas = torch.cat([levels, levels.new_zeros(1)])

    def draw(first: int, end: int):
        if given is None:
            z = levels[0].float() * SeededNoise(range(args.seed + first, args.seed + end), (c, h, w), device)()
        else:
            z = torch.from_numpy(np.array(given[first:end])).float().to(device)
        with one_line(args.denoiser):
            return SOLVERS[args.sampler](bind(shown(images, first, end, device)), z, sigmas).cpu().numpy()

    file = results_dir(args, "sample") / f"{args.denoiser}_samples.npy"
    count = args.n_samples if given is None else len(given)
    samples = in_batches(file, settings_of(args, data), count, args.batch, draw, "sampling")
    picture = save_grid(samples, file.with_suffix(".png"))
    print(f"{len(samples)} samples: {file} {samples.shape}; picture: {picture}")


if __name__ == "__main__":
    run_script(main)
