"""Denoise noisy images with a training-free denoiser or a network (Niedoba et al. 2025).

Noisy images are the data plus noise at level --t_idx of --n_steps (default: every level), or those of --z, a .npy of
shape (n_steps, n, C, H, W). Writes <denoiser>_outputs_t_<tt>_of_<nn>.npy of shape (n, C, H, W), float32, with a PNG
grid beside it, to records/mechanism/denoise/. The network of a run of ours sees the scores of the clean images, so with
--z it needs --hide_scores or a network of --network_pkl.
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
    parser.add_argument(
        "--t_idx", type=int, help="index of the noise level, 0 being the highest (default: every level)"
    )
    parser.add_argument("--n_samples", type=int, default=50, help="noisy images (default: 50)")
    parser.add_argument("--batch", type=int, default=50, help="images denoised together (default: 50)")
    parser.add_argument("--z", metavar="FILE.npy", help="noisy images of every level, (n_steps, n, C, H, W)")
    args = parse_mechanism(parser)
    require(parser, args, n_samples=1, batch=1)
    if args.t_idx is not None and not 0 <= args.t_idx < args.n_steps:
        last = args.n_steps - 1
        parser.error(f"--t_idx {args.t_idx}: there are noise levels 0 to {last}; raise --n_steps for more")
    if args.denoiser == "network" and args.z and not (args.network_pkl or args.hide_scores):
        parser.error(
            "--z with a run of ours: its network needs the scores of the clean images;"
            " give --hide_scores, leave --z out, or give --network_pkl"
        )
    return args


def main() -> None:
    args = parse_args()

    from functools import partial

    import numpy as np
    import torch

    from analysis.mechanism.batches import in_batches, read_noisy, save_grid, settings_of
    from analysis.mechanism.common import binder, levels_of, noisy_images, one_line, open_data, results_dir
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    given = read_noisy(args.z, "--z", args.n_steps, "n", "C", "H", "W") if args.z else None
    data, images = open_data(args)
    bind = binder(args, data, levels, device)
    count = given.shape[1] if given is not None else min(args.n_samples, len(images))
    rows = np.sort(np.random.default_rng(args.seed).permutation(len(images))[:count])
    folder, settings = results_dir(args, "denoise"), settings_of(args, data, "t_idx")

    def denoised(level: int, first: int, end: int):
        x0 = to_tensor(images.pixels[rows[first:end]], device)
        if given is None:
            z = noisy_images(x0, levels, level, args.seed, first)
        else:
            z = torch.from_numpy(np.array(given[level, first:end])).float().to(device)
        with torch.no_grad(), one_line(args.denoiser):
            known = z if args.hide_scores else x0  # where nothing is known of images, their shape is
            return bind(known)(z, levels[level].to(z).expand(len(z))).cpu().numpy()

    for level in range(args.n_steps) if args.t_idx is None else [args.t_idx]:
        file = folder / f"{args.denoiser}_outputs_t_{level:02d}_of_{args.n_steps:02d}.npy"
        title = f"level {level}, sigma {levels[level]:.3f}"
        outputs = in_batches(file, settings | {"level": level}, count, args.batch, partial(denoised, level), title)
        save_grid(outputs, file.with_suffix(".png"))
        print(f"sigma {levels[level]:.4f}: {file} {outputs.shape} and .png")


if __name__ == "__main__":
    run_script(main)
