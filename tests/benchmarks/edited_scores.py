"""Time and memory of setting scores by each way, with 200,000 known images of 128 prototypes: seconds an edit of 16
images, and of the first one."""

import argparse
import time
from pathlib import Path

import torch

from analysis.measures.scores import OTHERS, KnownScores


def synthetic(images: int, prototypes: int) -> torch.Tensor:
    """Scores of images that have some of 20 features each."""
    g = torch.Generator().manual_seed(0)
    features = (torch.rand(images, 20, generator=g) < 0.3).float()
    return (
        features @ torch.rand(20, prototypes, generator=g) / 6 + 0.05 * torch.randn(images, prototypes, generator=g)
    ).clamp(0, 1)


def peak(reset: bool = False) -> float:
    """The highest memory of this process in MiB, since it was last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--prototypes", type=int, default=128)
    args = parser.parse_args()
    scores = synthetic(args.images, args.prototypes)
    size = scores.numel() * 4 / 2**20
    print(f"{args.images} x {args.prototypes} scores: {size:.0f} MiB; {torch.get_num_threads()} threads")
    for way, change in OTHERS.items():
        known, s, seconds, before = KnownScores(scores), scores[:16], [], peak(reset=True)
        for _ in range(2):
            start = time.perf_counter()
            change(known, s, [3], torch.full((16, 1), 0.9))
            seconds.append(time.perf_counter() - start)
        times = f"first edit of 16 images {seconds[0]:.2f} s, next {seconds[1]:.2f} s"
        print(f"{way:10s} {times}; {peak() - before:.0f} MiB more at most")


if __name__ == "__main__":
    main()
