"""Inversion and regeneration with one run's weights: our 18 + 18 Heun steps against 1000 + 1000 DDIM steps, as the
paper's release takes them."""

import argparse
import time

import numpy as np
import torch

from analysis.edits import encode_and_invert, regenerate
from analysis.script import open_run, run_parser
from models.samplers import euler, invert
from models.schedule import LinearSchedule, ddim_sigmas
from train.data.dataset import load_split
from train.errors import run_script
from train.images import to_tensor


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    parser.add_argument("--num_samples", type=int, default=8, help="test images (default: 8)")
    parser.add_argument("--ddim_steps", type=int, default=1000, help="each way (default: 1000)")
    return parser.parse_args()


def report(name: str, calls: int, seconds: float, x0: torch.Tensor, back: torch.Tensor) -> float:
    error = (back - x0).square().mean().item()
    print(
        f"{name}: {calls} network calls, {seconds:.1f} s, mean squared error {error:.2e} (PSNR "
        f"{10 * np.log10(4 / error):.1f} dB)"
    )
    return error


def main() -> None:
    args = parse_args()
    run, device = open_run(args)
    x0 = to_tensor(load_split(run.config.data, "test").pixels[: args.num_samples], device)

    start = time.perf_counter()
    encoding = encode_and_invert(run.model, x0, args.steps)
    back = regenerate(run.model, encoding.noise, encoding.scores, args.steps)
    calls = 2 * (args.steps - 1) + 2 * args.steps - 1
    ours = report(f"Heun, {args.steps} + {args.steps} steps", calls, time.perf_counter() - start, x0, back)

    start = time.perf_counter()
    sigmas = ddim_sigmas(LinearSchedule(), args.ddim_steps)
    denoiser = run.model.denoiser(encoding.scores)
    back = euler(denoiser, invert(denoiser, x0, sigmas, euler), sigmas)
    ddim_calls = 2 * args.ddim_steps - 1
    theirs = report(
        f"DDIM, {args.ddim_steps} + {args.ddim_steps} steps", ddim_calls, time.perf_counter() - start, x0, back
    )
    print(f"error ratio {ours / theirs:.3f}, network calls {calls / ddim_calls:.3f}")


if __name__ == "__main__":
    run_script(main)
