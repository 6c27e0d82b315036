"""Heat maps of a run's network in growing windows (analysis/mechanism/sensitivity.py) against plain automatic
differentiation, in one run."""

import argparse
import time

import torch

from analysis.mechanism.common import hidden_network
from analysis.mechanism.sensitivity import sensitivity
from train.distributed import pick_device
from train.runs import load_run
from train.versions import version_number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", help="run (default: the newest)")
    parser.add_argument("--version_num", type=version_number)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--levels", type=int, default=18, help="noise levels that the time told is of")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    side, model = run.config.data.image_size, run.model.requires_grad_(False)
    torch.manual_seed(0)
    z = torch.randn(args.images, run.config.data.channels, side, side, device=device).contiguous(
        memory_format=torch.channels_last
    )
    denoiser, sigma, times, maps = hidden_network(model, args.images), torch.tensor(0.5), {}, {}
    for name, known in (("plain", None), ("growing windows", model)):
        sensitivity(denoiser, z, sigma, side, known)  # not counted: what only the first call takes
        seconds = {}
        for stride in (side, side // 4):  # few pixels and more: what a pixel takes, and what a level
            start = time.perf_counter()
            maps[name] = sensitivity(denoiser, z, sigma, stride, known).cpu()
            seconds[maps[name][..., 0, 0].numel()] = time.perf_counter() - start
        (few, first), (many, second) = seconds.items()
        each = (second - first) / (many - few)
        times[name] = (first + each * (side**2 - few)) * args.levels / 60
        print(f"{name}: {times[name]:.1f} minutes for {args.images} images, every pixel, {args.levels} levels")
    plain, ours = maps.values()
    ratio = times["plain"] / times["growing windows"]
    print(f"{ratio:.2f} times faster; differ by {(plain - ours).abs().max():.1e} of {plain.max():.2f}")


if __name__ == "__main__":
    main()
