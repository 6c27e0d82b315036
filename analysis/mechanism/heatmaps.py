"""What does a denoiser look at? Heat maps of its gradient sensitivity (Niedoba et al. 2025, Sec. 4).

For every output pixel and noise level, the mean over noisy images of |dD(y, x) / dz|, summed over channels: heatmaps_<denoiser>.npy of shape
(levels, H, W, H, W), float32, for pspc_flex and for anyone; and a picture at several pixels and levels. One backward pass a pixel serves all images
of a batch. Finished levels survive an interruption.
"""

import argparse

from analysis.training_free import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__)
    parser.set_defaults(denoiser="network")
    parser.add_argument("--n_samples", type=int, default=32, help="noisy images a level (default: 32)")
    parser.add_argument("--batch", type=int, default=64, help="images of one backward pass (default: 64)")
    text = "compute every so many pixels each way; those between get the maps of their neighbours, moved along (default: 1, all pixels)"
    parser.add_argument("--stride", type=int, default=1, help=text)
    args = parse_mechanism(parser)
    if args.n_samples < 1 or args.batch < 1 or args.stride < 1:
        parser.error("--n_samples, --batch and --stride must be at least 1")
    return args


def marks(length: int, stride: int) -> list[int]:
    """Every `stride`-th position of a side, and its last."""
    return sorted({*range(0, length, stride), length - 1})


def between(maps, stride: int):
    """The maps (h, w, H, W) of the output pixels at marks(H, stride) x marks(W, stride), filled up for all: (H, W, H, W).

    A pixel's map is the bilinear mean of its neighbours' maps, each moved by as much as the pixel lies beside its own, of those that reach there:
    exact where maps are the same but for their place, as those of convolutions are.
    """
    import numpy as np

    for axis in (0, 1):
        length, filled = maps.shape[axis + 2], []
        known = marks(length, stride)
        for at in range(length):
            after = int(np.searchsorted(known, at))
            around = {after: 1} if known[after] == at else {after - 1: known[after] - at, after: at - known[after - 1]}
            parts = [(weight, maps.take(i, axis), at - known[i]) for i, weight in around.items()]
            total = sum(weight * moved(np.ones_like(part), by, axis + 1) for weight, part, by in parts)
            filled.append(sum(weight * moved(part, by, axis + 1) for weight, part, by in parts) / total)
        maps = np.stack(filled, axis)
    return maps


def moved(maps, by: int, axis: int):
    """Maps moved along one axis, zeros coming in."""
    import numpy as np

    result, length = np.zeros_like(maps), maps.shape[axis]
    to, origin = [slice(None)] * maps.ndim, [slice(None)] * maps.ndim
    to[axis], origin[axis] = slice(max(by, 0), length + min(by, 0)), slice(max(-by, 0), length - max(by, 0))
    result[tuple(to)] = maps[tuple(origin)]
    return result


def sensitivity(denoiser, z, sigma, stride: int = 1):
    """Mean over images z (B, C, H, W) of |d sum_c D_c(y, x) / dz|, summed over input channels, at every stride-th (y, x): (H, W, H, W), or fewer."""
    import torch

    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        pixels = denoiser(z, sigma.to(z).expand(len(z))).sum((0, 1))  # (H, W): images do not mix, so their sum has all their gradients
    h, w = pixels.shape
    rows, columns, maps = marks(h, stride), marks(w, stride), []
    for y in rows:
        for x in columns:
            gradient = torch.autograd.grad(pixels[y, x], z, retain_graph=(y, x) != (h - 1, w - 1))[0]  # (B, C, H, W)
            maps.append(gradient.abs().sum(1).mean(0))
    return torch.stack(maps).view(len(rows), len(columns), h, w)


def draw(maps, levels, path):
    """Levels down, pixels across; the pixel asked about is marked."""
    import numpy as np

    from analysis.drawing.figures import heat, panels, save_figure

    count, h, w = maps.shape[:3]
    shown = np.unique(np.linspace(0, count - 1, 6).round().astype(int))
    pixels = [(h // 2, w // 2), (h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (0, 0)]
    figure, axes = panels(len(shown), len(pixels))
    for line, level in enumerate(shown):
        for column, (y, x) in enumerate(pixels):
            heat(axes[line, column], maps[level, y, x])
            axes[line, column].plot(x, y, "c+", markersize=5)
            if line == 0:
                axes[line, column].set_title(f"pixel ({y}, {x})", fontsize=7)
        axes[line, 0].set_ylabel(f"sigma {levels[level]:.3g}", fontsize=7)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.training_free import in_batches, levels_of, network_of, open_data, pixel_major, results_dir, training_free
    from models.samplers import SeededNoise
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    if args.n_samples > len(images):
        raise UserError(f"--n_samples {args.n_samples}: there are only {len(images)} images")
    bind = network_of(args, device) if args.denoiser == "network" else None
    denoiser = None if bind else training_free(args.denoiser, pixel_major(data, args, device), args, levels).differentiable
    rows = np.sort(np.random.default_rng(args.seed).permutation(len(images))[: args.n_samples])

    def compute(first: int, end: int):
        total = 0
        for start in range(0, len(rows), args.batch):
            part = rows[start : start + args.batch]
            x0 = to_tensor(images.pixels[part]).to(device)
            seeds = [(args.seed * args.n_steps + first) * 2**20 + start + i for i in range(len(part))]
            z = (x0 + levels[first].float() * SeededNoise(seeds, x0.shape[1:], device)()).contiguous(memory_format=torch.channels_last)
            if bind:
                with torch.no_grad():
                    used = bind(x0)
            total = total + sensitivity(used if bind else denoiser, z, levels[first], args.stride) * (len(part) / len(rows))
        return between(total.cpu().numpy(), args.stride)[None]  # (1, H, W, H, W)

    folder = results_dir(args, "heatmaps")
    file = folder / f"heatmaps_{args.denoiser}.npy"
    settings = {key: value for key, value in vars(args).items() if key not in ("outdir", "device", "batch")}
    maps = in_batches(file, settings, args.n_steps, 1, compute, "levels")
    files = draw(maps, levels.numpy(), file.with_suffix(""))
    print(f"heat maps {maps.shape} in {file}; picture: {files[0]} and .pdf; use them with:")
    print(f"  python analysis/mechanism/denoise.py --denoiser pspc_flex --heatmaps {file}")


if __name__ == "__main__":
    run_script(main)
