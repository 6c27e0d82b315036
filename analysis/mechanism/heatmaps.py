"""What does a denoiser look at? Heat maps of its gradient sensitivity (Niedoba et al. 2025, Sec. 4).

For every output pixel and noise level, the mean over noisy images of |dD(y, x) / dz|, summed over channels:
heatmaps_<denoiser>.npy of shape (levels, H, W, H, W), float32, for pspc_flex and for anyone; a picture at several
pixels and levels; and how far the denoiser looks: the side of the window around a pixel that holds half and 90 % of its
map, at every noise level, beside that of the Wiener filter (the optimal linear denoiser, of the data's covariance
alone) and, with --patch_sizes, the windows of a square schedule (radius.json, radius.png). Results go to
records/mechanism/heatmaps/. Next: fit_schedule.py --heatmaps.

One backward pass a pixel serves all images of a batch; it passes the network's last convolutions in growing windows and
what is read of hidden scores as matrices. Every thread has images of its own. Finished levels survive an interruption.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
import shlex

from analysis.mechanism.options import mechanism_parser, parse_mechanism, same_options
from analysis.script import require
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__)
    parser.set_defaults(denoiser="network")
    parser.add_argument("--n_samples", type=int, default=32, help="noisy images a level (default: 32)")
    parser.add_argument("--batch", type=int, default=64, help="images of one backward pass (default: 64)")
    text = "compute every so many pixels each way; those between get their neighbours' maps, moved along (default: 1)"
    parser.add_argument("--stride", type=int, default=1, help=text)
    args = parse_mechanism(parser)
    require(parser, args, n_samples=1, batch=1, stride=1)
    return args


def draw(maps, levels, path):
    """Levels down, pixels across; the pixel asked about is marked."""
    import numpy as np

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import Sheet

    count, h, w = maps.shape[:3]
    shown = np.unique(np.linspace(0, count - 1, 6).round().astype(int))
    pixels = [(h // 2, w // 2), (h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (0, 0)]
    labels = [f"sigma {levels[level]:.3g}" for level in shown]
    sheet = Sheet(labels, [f"pixel ({y}, {x})" for y, x in pixels])
    for line, level in enumerate(shown):
        for column, (y, x) in enumerate(pixels):
            sheet.heat(line, column, maps[level, y, x])
            sheet.box(line, column, (y, x, y + 1, x + 1), "cyan")
    return save_figure(sheet.figure, path)


def level_maps(args, images, data, levels, device):
    """-> (compute(level, level + 1) -> the heat maps of one level (1, H, W, H, W), for in_batches; the network's run,
    None for another denoiser). images: ImageSet to be made noisy; data: PixelMajor. Raises UserError."""
    from functools import partial

    import numpy as np
    import torch

    from analysis.mechanism.batches import in_threads
    from analysis.mechanism.common import Network, network_of, noisy_images, one_line, training_free
    from analysis.mechanism.sensitivity import between, sensitivity
    from models.training_free import FLOAT
    from train.images import to_tensor

    _, h, w, _ = images.pixels.shape
    size = args.n_steps * (h * w) ** 2 * FLOAT / 1e9
    if size > args.max_memory:
        raise UserError(
            f"heat maps of {h}x{w} images at {args.n_steps} levels take {size:.3g} GB; use smaller images"
            " (--image_size), fewer levels (--n_steps), or raise --max_memory"
        )
    if args.n_samples > len(images):
        raise UserError(f"--n_samples {args.n_samples}: there are only {len(images)} images")
    if args.denoiser == "network":
        network = network_of(args, device)
    else:
        denoiser = training_free(args.denoiser, data, args, levels).differentiable
        network = Network(lambda images: denoiser, None)
    model = network.run and network.run.model
    rows = np.sort(np.random.default_rng(args.seed).permutation(len(images))[: args.n_samples])

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    batch = min(args.batch, -(-len(rows) // threads))

    def maps_of(level: int, start: int):
        part = rows[start : start + batch]
        x0 = to_tensor(images.pixels[part], device)
        z = noisy_images(x0, levels, level, args.seed, start).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            bound = network.bind(x0)
        with one_line(args.denoiser):
            return sensitivity(bound, z, levels[level], args.stride, model) * (len(part) / len(rows))

    def compute(level: int, _: int):
        total = sum(in_threads(partial(maps_of, level), range(0, len(rows), batch), threads))
        return between(total.cpu().numpy(), args.stride)[None]

    return compute, network.run


def main() -> None:
    args = parse_args()

    import torch

    from analysis.mechanism.batches import in_batches, settings_of
    from analysis.mechanism.common import levels_of, open_data, patch_sizes, pixel_major, results_dir
    from analysis.mechanism.radius import save_radius
    from analysis.results import save_about
    from train.distributed import pick_device

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    major, sizes = pixel_major(data, args, device), patch_sizes(args) if args.patch_sizes else None
    compute, run = level_maps(args, images, major, levels, device)

    folder = results_dir(args, "heatmaps")
    file = folder / f"heatmaps_{args.denoiser}.npy"
    maps = in_batches(file, settings_of(args, data, "batch"), args.n_steps, 1, compute, "levels")
    files = draw(maps, levels.numpy(), file.with_suffix(""))
    if run:
        save_about(folder, run)
    print(f"heat maps {maps.shape} in {file}; picture: {files[0]} and .pdf")
    radius, picture = save_radius(
        folder, args.denoiser, torch.from_numpy(maps), major, args=args, levels=levels, sizes=sizes
    )
    print(f"how far it looks: {radius}; picture: {picture}; use the heat maps with:")
    for program in (["fit_schedule.py"], ["denoise.py", "--denoiser", "pspc_flex"]):
        command = ["python", f"analysis/mechanism/{program[0]}", *program[1:], *same_options(args)]
        print(f"  {shlex.join([*command, '--heatmaps', str(file)])}")


if __name__ == "__main__":
    run_script(main)
