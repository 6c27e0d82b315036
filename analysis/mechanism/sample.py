"""Draw samples by integrating the probability-flow ODE of a training-free denoiser or a network (Niedoba et al. 2025).

From noise at the highest level, one seed an image, or from --z_init, a .npy of shape (n, C, H, W). Writes
<denoiser>_samples.npy and a PNG grid. The network of a run of ours is given the scores of data images, one each.
"""

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__)
    parser.add_argument("--n_samples", type=int, default=50, help="samples (default: 50)")
    parser.add_argument("--batch", type=int, default=50, help="samples drawn together (default: 50)")
    parser.add_argument("--sampler", default="euler", choices=["euler", "heun"], help="default: euler")
    parser.add_argument("--z_init", metavar="FILE.npy", help="latents at the highest level, (n, C, H, W)")
    args = parse_mechanism(parser)
    if args.n_samples < 1 or args.batch < 1:
        parser.error("--n_samples and --batch must be at least 1")
    return args


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.mechanism.batches import in_batches, save_grid
    from analysis.mechanism.common import levels_of, network_of, open_data, pixel_major, results_dir, training_free
    from analysis.results import read_array
    from models.samplers import SOLVERS, SeededNoise
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    _, h, w, c = images.pixels.shape
    given = None
    if args.z_init:
        given = read_array(args.z_init, "--z_init")
        if given.shape[1:] != (c, h, w):
            raise UserError(f"--z_init {args.z_init}: must have shape (n, {c}, {h}, {w}), not {given.shape}")
    bind = network_of(args, device).bind if args.denoiser == "network" else None
    denoiser = None if bind else training_free(args.denoiser, pixel_major(data, args, device), args, levels)
    count = len(given) if given is not None else args.n_samples
    sigmas = torch.cat([levels, levels.new_zeros(1)])

    def compute(first: int, end: int):
        if given is not None:
            z = torch.from_numpy(np.array(given[first:end])).float().to(device)
        else:
            z = levels[0].float() * SeededNoise(range(args.seed + first, args.seed + end), (c, h, w), device)()
        used = (
            bind(to_tensor(images.pixels[[i % len(images) for i in range(first, end)]], device)) if bind else denoiser
        )
        return SOLVERS[args.sampler](used, z, sigmas).cpu().numpy()

    file = results_dir(args, "sample") / f"{args.denoiser}_samples.npy"
    settings = {key: value for key, value in vars(args).items() if key not in ("outdir", "device")} | {
        "images": len(data)
    }
    samples = in_batches(file, settings, count, args.batch, compute, "sampling")
    picture = save_grid(samples, file.with_suffix(".png"))
    print(f"{len(samples)} samples: {file} {samples.shape}; picture: {picture}")


if __name__ == "__main__":
    run_script(main)
