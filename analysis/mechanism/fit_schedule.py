"""Fit the window sizes (and, with --heatmaps, the thresholds) of patch composites to one's own network and data.

At each noise level the candidate of least mean squared difference to the network, on noisy versions of the last
held-out images (compare.py reports on the first). The published schedules are CIFAR-10's. With --heatmaps, of the
windows larger than what holds 90 % of the heat at that level (see heatmaps.py) only the smallest is tried, and the
fitted windows are drawn beside what the network and the Wiener filter look at (radius.json, radius.png). Writes
schedule.json, which --patch_sizes and --thresholds of the other programs read, with every candidate's error, to
records/mechanism/schedule/. Next: compare.py and agree.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from collections.abc import Iterator

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from analysis.script import require
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
    require(parser, args, n_samples=1)
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


def open_heatmaps(args, side: int):
    """The heat maps of --heatmaps (L, H, W, H, W); None without. Raises UserError."""
    from analysis.mechanism.common import load_heatmaps

    if not args.heatmaps:
        return None
    maps = load_heatmaps(args.heatmaps)
    if maps.shape != (args.n_steps, side, side, side, side):
        raise UserError(
            f"--heatmaps {args.heatmaps}: of shape {tuple(maps.shape)},"
            f" not of {args.n_steps} levels and {side}x{side} images"
        )
    return maps


def candidates_of(args, sizes: list[int], heatmap, data, level) -> dict[str, Iterator]:
    """What is tried at one noise level: window sizes and, with heat maps (H, W, H, W), thresholds, each with its
    Denoiser, made when it is asked for."""
    from analysis.mechanism.sensitivity import REACH, window_side
    from models.locality import PSPCFlex
    from models.pspc import PSPCSquare

    if heatmap is not None and args.candidates is None:
        reach = window_side(heatmap, REACH)  # one window may be larger, since those at the edges are cut
        sizes = sizes[: 1 + sum(size < reach for size in sizes)]
    tried = {"patch_sizes": ((size, PSPCSquare(data, [size], level[None])) for size in sizes)}
    if heatmap is not None:
        maps, device = heatmap[None].to(data.pixels.device), data.pixels.device
        tried["thresholds"] = ((share, PSPCFlex(data, maps, [share], level[None]).to(device)) for share in SHARES)
    return tried


def fit(args, sizes: list[int], heatmaps, data, *, network, x0, levels) -> dict[str, list[dict]]:
    """Every candidate's mean squared difference to the network on noisy x0 (n, C, H, W), level by level."""
    import torch
    from tqdm import tqdm

    from analysis.mechanism.common import noisy_images, one_line

    errors: dict[str, list[dict]] = {}
    for index, level in enumerate(tqdm(levels, desc="levels", unit="level")):
        z, sigma = noisy_images(x0, levels, index, args.seed), level.to(x0).expand(len(x0))
        with torch.no_grad(), one_line(f"level {index}"):
            target = network(z, sigma)
            tried = candidates_of(args, sizes, None if heatmaps is None else heatmaps[index], data, level)
            for key, candidates in tried.items():
                found = {choice: (d(z, sigma) - target).square().mean().item() for choice, d in candidates}
                errors.setdefault(key, []).append(found)
    return errors


def main() -> None:
    args = parse_args()

    import torch

    from analysis.mechanism.common import levels_of, network_of, open_data, pixel_major, results_dir
    from analysis.mechanism.radius import save_radius
    from analysis.results import save_json
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    images, held_out = open_data(args, held_out=True)
    side = images.pixels.shape[1]
    sizes, heatmaps = candidate_sizes(args.candidates, side), open_heatmaps(args, side)
    data, network = pixel_major(images, args, device), network_of(args, device)
    x0 = to_tensor(held_out.pixels[-args.n_samples :], device)  # compare.py reports on the first
    with torch.no_grad():
        bound = network.bind(x0)
    errors = fit(args, sizes, heatmaps, data, network=bound, x0=x0, levels=levels)
    fitted = {key: [min(found, key=found.get) for found in table] for key, table in errors.items()}

    folder, told = results_dir(args, "schedule"), {"levels": levels.tolist(), "errors": errors}
    file = save_json(folder / "schedule.json", fitted | told)
    for index, level in enumerate(levels.tolist()):
        chosen = [(key, values[index]) for key, values in fitted.items()]
        line = ", ".join(f"{key} {value} (error {errors[key][index][value]:.2e})" for key, value in chosen)
        print(f"sigma {level:8.4f}: {line}")
    options = " ".join(f"--{key} {file}" for key in fitted)
    print(f"schedule: {file}; use it with: {options}")
    if heatmaps is not None:
        radius, picture = save_radius(
            folder, "network", heatmaps, data, args=args, levels=levels, sizes=fitted["patch_sizes"]
        )
        print(f"how far the network, the Wiener filter and the windows look: {radius}; picture: {picture}")


if __name__ == "__main__":
    run_script(main)
