"""Heat maps of a run's network in growing windows (analysis/mechanism/sensitivity.py) against plain automatic
differentiation, in one run. On a CPU the time is the processor's own for one thread, so that other work on the machine
does not count; heatmaps.py gives every thread images of its own."""

import argparse
import time

import torch

from analysis.mechanism.common import hidden_network
from analysis.mechanism.sensitivity import sensitivity
from train.distributed import pick_device
from train.runs import load_run
from train.versions import version_number


def minutes_of(images: int, levels: int, model, denoiser, z: torch.Tensor) -> tuple[float, torch.Tensor]:
    """What every pixel of so many images and levels takes, from a few pixels and more; and the maps of these."""
    side, sigma = z.shape[3], torch.tensor(0.5)
    clock, seconds = time.process_time if z.device.type == "cpu" else time.perf_counter, {}
    sensitivity(denoiser, z, sigma, side, model)  # not counted: what only the first call takes
    for stride in (side, side // 4):
        start = clock()
        maps = sensitivity(denoiser, z, sigma, stride, model).cpu()
        seconds[maps[..., 0, 0].numel()] = clock() - start
    (few, first), (many, second) = seconds.items()
    each = (second - first) / (many - few)
    return (first + each * (side**2 - few)) * levels * images / len(z) / 60, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="run (default: the newest)")
    parser.add_argument("--version_num", type=version_number)
    parser.add_argument("--images", type=int, default=64, help="images that the time told is of (default: 64)")
    parser.add_argument("--batch", type=int, default=32, help="images together, those of a thread (default: 32)")
    parser.add_argument("--levels", type=int, default=18, help="noise levels that the time told is of (default: 18)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    side, model = run.config.data.image_size, run.model.requires_grad_(False)
    z = torch.randn(args.batch, run.config.data.channels, side, side, device=device)
    z, denoiser = z.contiguous(memory_format=torch.channels_last), hidden_network(model, args.batch)
    unit = "minutes of one core" if device.type == "cpu" else "minutes"
    found = {}
    for name, known in (("plain", None), ("growing windows", model)):
        found[name] = minutes_of(args.images, args.levels, known, denoiser, z)
        print(f"{name}: {found[name][0]:.1f} {unit} for {args.images} images, every pixel, {args.levels} levels")
    (slow, plain), (fast, ours) = found.values()
    print(f"{slow / fast:.2f} times faster; differ by {(plain - ours).abs().max():.1e} of {plain.max():.2f}")


if __name__ == "__main__":
    main()
