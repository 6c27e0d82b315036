"""Fit the window sizes (and, with --heatmaps, the thresholds) of patch composites to one's own network and data.

At each noise level the candidate of least mean squared difference to the network, on noisy versions of the last
held-out images (compare.py reports on the first). The published schedules are CIFAR-10's. With --heatmaps, of the
windows larger than what holds 90 % of the heat at that level (see heatmaps.py) only the smallest is tried, and the
fitted windows are drawn beside what the network and the Wiener filter look at (radius.json, radius.png). Writes
schedule.json, which --patch_sizes and --thresholds of the other programs read, with every candidate's error.
"""

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script

SHARES = [0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0]


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=8, help="noisy images a level (default: 8)")
    parser.add_argument(
        "--candidates",
        metavar="3,5,...",
        help="window sizes to try (default: of 1, 3, 5, 7, 11, 15, 23 and the whole image)",
    )
    args = parse_mechanism(parser)
    if args.n_samples < 1:
        parser.error("--n_samples must be at least 1")
    return args


def candidate_sizes(text: str | None, side: int) -> list[int]:
    """Raises UserError."""
    if text is None:
        return [size for size in (1, 3, 5, 7, 11, 15, 23) if size < side] + [side]
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--candidates {text}: must be whole numbers separated by commas") from None
    if not 1 <= sizes[0] <= sizes[-1] <= side:
        raise UserError(f"--candidates {text}: windows of {side}x{side} images have sizes 1 to {side}")
    return sizes


def main() -> None:
    args = parse_args()

    import torch
    from tqdm import tqdm

    from analysis.mechanism.common import (
        levels_of,
        load_heatmaps,
        network_of,
        noisy_images,
        open_data,
        pixel_major,
        results_dir,
    )
    from analysis.mechanism.radius import save_radius
    from analysis.mechanism.sensitivity import REACH, window_side
    from analysis.results import save_json
    from models.locality import PSPCFlex
    from models.pspc import PSPCSquare
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    images, held_out = open_data(args, held_out=True)
    side = images.pixels.shape[1]
    sizes = candidate_sizes(args.candidates, side)
    heatmaps = load_heatmaps(args.heatmaps) if args.heatmaps else None
    if heatmaps is not None and heatmaps.shape != (args.n_steps, side, side, side, side):
        raise UserError(
            f"--heatmaps {args.heatmaps}: of shape {tuple(heatmaps.shape)},"
            f" not of {args.n_steps} levels and {side}x{side} images"
        )
    data, bind = pixel_major(images, args, device), network_of(args, device).bind
    x0 = to_tensor(held_out.pixels[-args.n_samples :], device)  # compare.py reports on the first
    with torch.no_grad():
        network = bind(x0)

    errors = {"patch_sizes": [], "thresholds": []}
    for index, level in enumerate(tqdm(levels, desc="levels", unit="level")):
        z, sigma = noisy_images(x0, levels, index, args.seed), level.to(x0).expand(len(x0))
        with torch.no_grad():
            target = network(z, sigma)

        def error(denoiser, z=z, sigma=sigma, target=target) -> float:
            return (denoiser(z, sigma) - target).square().mean().item()

        tried = sizes
        if heatmaps is not None and args.candidates is None:
            reach = window_side(heatmaps[index], REACH)  # one window may be larger, since those at the edges are cut
            tried = sizes[: 1 + sum(size < reach for size in sizes)]
        try:
            errors["patch_sizes"].append({size: error(PSPCSquare(data, [size], level[None])) for size in tried})
            if heatmaps is not None:
                maps = heatmaps[index : index + 1].to(device)
                errors["thresholds"].append(
                    {share: error(PSPCFlex(data, maps, [share], level[None]).to(device)) for share in SHARES}
                )
        except ValueError as problem:
            raise UserError(f"level {index}: {problem}") from None

    fitted = {key: [min(found, key=found.get) for found in table] for key, table in errors.items() if table}
    folder = results_dir(args, "schedule")
    file = save_json(folder / "schedule.json", fitted | {"levels": levels.tolist(), "errors": errors})
    for index, level in enumerate(levels.tolist()):
        line = ", ".join(
            f"{key} {values[index]} (error {errors[key][index][values[index]]:.2e})" for key, values in fitted.items()
        )
        print(f"sigma {level:8.4f}: {line}")
    print(
        f"schedule: {file}; use it with: --patch_sizes {file}"
        + (f" --thresholds {file}" if "thresholds" in fitted else "")
    )
    if heatmaps is not None:
        radius, picture = save_radius(folder, "network", heatmaps, data, args, levels, fitted["patch_sizes"])
        print(f"how far the network, the Wiener filter and the windows look: {radius}; picture: {picture}")


if __name__ == "__main__":
    run_script(main)
