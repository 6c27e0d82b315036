"""Square composites by box filters against the naive way, position by position, in this run; and one pass over a large data set."""

import argparse
import resource
import time
from pathlib import Path

import torch
from naive import naive_square

from models.pspc import PUBLISHED_SIZES, PSPCSquare, published_levels
from models.training_free import PixelMajor


def timed(action):
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="images of the comparison; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--large", type=int, default=50000, help="images of the large set, mirrored; 0 leaves it out")
    args = parser.parse_args()
    torch.manual_seed(0)
    coarse = torch.rand(max(args.images, 1), 3, 8, 8)
    pixels = torch.nn.functional.interpolate(coarse, 32, mode="bilinear").mul(255).round().to(torch.uint8)  # smooth, as images are
    images = pixels.float() / 127.5 - 1
    data = PixelMajor(pixels.permute(0, 2, 3, 1))
    denoiser = PSPCSquare(data)
    sums = [0.0, 0.0]
    for sigma, size in zip(published_levels().float(), PUBLISHED_SIZES) if args.images else ():
        z = images[: args.batch] + sigma * torch.randn(args.batch, 3, 32, 32)
        levels = sigma.expand(args.batch)
        ours, found = timed(lambda: denoiser(z, levels))
        naive, _ = timed(lambda: naive_square(images, z, levels, size, torch.float32))
        expected = naive_square(images, z, levels, size)  # float64: the oracle's own float32 is off by more than the bound
        sums = [sums[0] + ours, sums[1] + naive]
        worst = (found - expected).abs().max()
        print(f"sigma {sigma:8.3f}, window {size:2}: naive {naive:.2f} s, ours {ours:.3f} s, {naive / ours:5.1f} times faster, differ by {worst:.1e}")
    if args.images:
        print(f"all {len(PUBLISHED_SIZES)} levels, N = {args.images}, batch {args.batch}: {sums[1] / sums[0]:.1f} times faster")
    if not args.large:
        return
    large = PixelMajor(torch.randint(0, 256, (args.large, 32, 32, 3), dtype=torch.uint8), xflip=True, max_memory=2.5e9)
    stream, _ = timed(lambda: sum(float(x.sum()) for _, x in large.chunks(512)))
    print(f"streaming {len(large)} images of 3x32x32 once: {stream:.2f} s")
    z, denoiser = torch.rand(args.batch, 3, 32, 32) * 2 - 1, PSPCSquare(large)
    for index in range(7, 13):
        sigma = published_levels()[index].float().expand(args.batch)
        took, _ = timed(lambda: denoiser(z, sigma))
        each = took / args.batch
        print(f"window {PUBLISHED_SIZES[index]}, batch {args.batch}: {each:.2f} s a noisy image, {each / 2 / stream:.1f} streams a pass")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()) if Path("/proc").exists() else {}
    peak = status.get("VmHWM", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB").strip()
    print(f"largest resident memory of this process: {peak}")


if __name__ == "__main__":
    main()
