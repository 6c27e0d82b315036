"""Denoise noisy images with a training-free denoiser or a network (Niedoba et al. 2025).

Noisy images are the data plus noise at level --t_idx of --n_steps (default: every level), or those of --z, a .npy of
shape (n_steps, n, C, H, W). Writes <denoiser>_outputs_t_<tt>_of_<nn>.npy of shape (n, C, H, W), float32, with a PNG
grid beside it. The network of a run of ours sees the scores of the clean images, so with --z it needs --hide_scores or
a network of --network_pkl.
"""

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__)
    parser.add_argument(
        "--t_idx", type=int, help="index of the noise level, 0 being the highest (default: every level)"
    )
    parser.add_argument("--n_samples", type=int, default=50, help="noisy images (default: 50)")
    parser.add_argument("--batch", type=int, default=50, help="images denoised together (default: 50)")
    parser.add_argument("--z", metavar="FILE.npy", help="noisy images of every level, (n_steps, n, C, H, W)")
    args = parse_mechanism(parser)
    if args.n_samples < 1 or args.batch < 1:
        parser.error("--n_samples and --batch must be at least 1")
    return args


def read_noisy(path: str, steps: int):
    """(n_steps, n, C, H, W) float32, memory-mapped. Raises UserError."""
    from analysis.results import read_array

    z = read_array(path, "--z")
    if z.ndim != 5 or len(z) != steps:
        raise UserError(f"--z {path}: must have shape ({steps}, n, C, H, W), not {z.shape}")
    return z


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.mechanism.batches import in_batches, save_grid
    from analysis.mechanism.common import (
        levels_of,
        network_of,
        noisy_images,
        open_data,
        patch_sizes,
        pixel_major,
        results_dir,
        training_free,
    )
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    if args.t_idx is not None and not 0 <= args.t_idx < args.n_steps:
        raise UserError(
            f"--t_idx {args.t_idx}: there are noise levels 0 to {args.n_steps - 1}; raise --n_steps for more"
        )
    given = read_noisy(args.z, args.n_steps) if args.z else None
    if args.denoiser == "network" and given is not None and not (args.network_pkl or args.hide_scores):
        raise UserError(
            "--z with a run of ours: its network needs the scores of the clean images;"
            " give --hide_scores, leave --z out, or give --network_pkl"
        )
    if args.denoiser == "pspc_sq":
        patch_sizes(args)
    data, images = open_data(args)
    if args.denoiser == "network":
        bind = network_of(args, device).bind
    else:
        denoiser = training_free(args.denoiser, pixel_major(data, args, device), args, levels)
    count = given.shape[1] if given is not None else min(args.n_samples, len(images))
    rows = np.sort(np.random.default_rng(args.seed).permutation(len(images))[:count])
    folder = results_dir(args, "denoise")
    settings = {key: value for key, value in vars(args).items() if key not in ("outdir", "device", "t_idx")} | {
        "images": len(data)
    }

    for index in range(args.n_steps) if args.t_idx is None else [args.t_idx]:

        def compute(first: int, end: int, index: int = index):
            x0 = to_tensor(images.pixels[rows[first:end]], device)
            if given is not None:
                z = torch.from_numpy(np.array(given[index, first:end])).float().to(device)
            else:
                z = noisy_images(x0, levels, index, args.seed, first)
            with torch.no_grad():
                used = bind(z if args.hide_scores else x0) if args.denoiser == "network" else denoiser
                try:
                    return used(z, levels[index].to(z).expand(len(z))).cpu().numpy()
                except ValueError as error:
                    raise UserError(f"{args.denoiser}: {error}") from None

        file = folder / f"{args.denoiser}_outputs_t_{index:02d}_of_{args.n_steps:02d}.npy"
        outputs = in_batches(
            file, settings | {"level": index}, count, args.batch, compute, f"level {index}, sigma {levels[index]:.3f}"
        )
        save_grid(outputs, file.with_suffix(".png"))
        print(f"sigma {levels[index]:.4f}: {file} {outputs.shape} and .png")


if __name__ == "__main__":
    run_script(main)
