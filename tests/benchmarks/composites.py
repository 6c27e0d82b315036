"""Training-free denoisers against the naive way and against one another, each ratio of one run: square composites and
the loop over positions; window sums by banded products, running sums and shifted additions; locality beside square
composites; passes over a large data set. On one thread, in processor time."""

import argparse
import resource
import time
from functools import partial
from pathlib import Path

import torch
from naive import naive_square

from models.locality import LocalityDenoiser
from models.pspc import PUBLISHED_SIZES, Boxes, PSPCSquare, published_levels
from models.training_free import PixelMajor


def timed(action, times: int = 1):
    """The least of so many times in the processor's own seconds, which other work does not lengthen, and the result."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = action()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def smooth_images(count: int, channels: int = 3) -> torch.Tensor:
    """uint8 (N, C, 32, 32), smooth as images are."""
    coarse = torch.rand(count, channels, 8, 8)
    return torch.nn.functional.interpolate(coarse, 32, mode="bilinear").mul(255).round().to(torch.uint8)


def against_naive(count: int, batch: int, check: bool) -> None:
    pixels = smooth_images(count)
    images = pixels.float() / 127.5 - 1
    denoiser = PSPCSquare(PixelMajor(pixels.permute(0, 2, 3, 1)))
    denoiser(images[:batch], torch.full((batch,), 80.0))  # once, so that nothing is prepared within the times
    sums = [0.0, 0.0]
    for sigma, size in zip(published_levels().float(), PUBLISHED_SIZES):
        z = images[:batch] + sigma * torch.randn(batch, 3, 32, 32)
        levels = sigma.expand(batch)
        ours, found = timed(partial(denoiser, z, levels), 3)
        naive, _ = timed(partial(naive_square, images, z, levels, size, torch.float32), 2)
        sums = [sums[0] + ours, sums[1] + naive]
        line = f"sigma {sigma:8.3f}, window {size:2}: naive {naive:.2f} s, ours {ours:.3f} s,"
        line += f" {naive / ours:5.1f} times faster"
        if check:  # in float64: the naive loop's own float32 is off by more than the bound
            line += f", differ by {(found - naive_square(images, z, levels, size)).abs().max():.1e}"
        print(line)
    print(f"all {len(PUBLISHED_SIZES)} levels, N = {count}, batch {batch}: {sums[1] / sums[0]:.1f} times faster")


def running_sums(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Differences of cumulated sums, in float64, since they cancel."""
    for axis in (0, 1):
        total = torch.nn.functional.pad(maps.double().cumsum(axis).movedim(axis, -1), (1, 0)).movedim(-1, axis)
        length = maps.shape[axis] - size + 1
        maps = total.narrow(axis, size, length) - total.narrow(axis, 0, length)
    return maps.float()


def shifted_additions(maps: torch.Tensor, size: int) -> torch.Tensor:
    for axis in (0, 1):
        length = maps.shape[axis] - size + 1
        total = maps.narrow(axis, 0, length)
        for offset in range(1, size):
            total = total + maps.narrow(axis, offset, length)
        maps = total
    return maps


def window_sums() -> None:
    """Why Boxes multiplies."""
    maps = torch.rand(32, 32, 256)
    for size in sorted(set(PUBLISHED_SIZES) - {32}):
        boxes = Boxes(32, 32, size, maps.device)
        ways = {
            "product": lambda m, b=boxes: b.sums(m),
            "running sums": lambda m, p=size: running_sums(m, p),
            "additions": lambda m, p=size: shifted_additions(m, p),
        }
        times = {name: timed(lambda way=way: way(maps), 10)[0] for name, way in ways.items()}
        shown = ", ".join(f"{name} {times[name] / times['product']:.1f}" for name in times if name != "product")
        print(f"sums over windows of {size:2}, in times of the product: {shown}")


def locality_beside_square(count: int, batch: int) -> None:
    pixels = smooth_images(count, 1)
    pixels = (pixels.float() + 8 * torch.randn(pixels.shape)).clamp(0, 255).to(torch.uint8)
    data = PixelMajor(pixels.permute(0, 2, 3, 1))
    square, locality = PSPCSquare(data), LocalityDenoiser(data)
    for index in (6, 9, 11, 13, 16):
        sigma = published_levels()[index].float().expand(batch)
        z = torch.rand(batch, 1, 32, 32) * 2 - 1
        prepared, masks = timed(lambda sigma=sigma: locality._masks(sigma[0].item()))
        times = [timed(lambda d=d, z=z, sigma=sigma: d(z, sigma))[0] / batch for d in (square, locality)]
        share = locality.mask(sigma[0].item()).float().mean()
        print(
            f"N = {count}, sigma {sigma[0]:.3f}: pspc_sq {times[0]:.3f} s (window {PUBLISHED_SIZES[index]}),"
            f" locality {times[1]:.3f} s ({times[1] / times[0]:.1f} times; {len(masks.unique)} unlike masks of"
            f" {len(masks.owner)}, of {share:.1%} of the image, made in {prepared:.2f} s)"
        )


def large_set(count: int, batch: int) -> None:
    large = PixelMajor(torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8), xflip=True, max_memory=2.5e9)
    stream, _ = timed(lambda: sum(float(x.sum()) for _, x in large.chunks(512)))
    print(f"reading {len(large)} images of 3x32x32 once: {stream:.2f} s")
    z, denoiser = torch.rand(batch, 3, 32, 32) * 2 - 1, PSPCSquare(large)
    for index in range(7, 13):
        sigma = published_levels()[index].float().expand(batch)
        took, _ = timed(lambda sigma=sigma: denoiser(z, sigma))
        each = took / batch
        passes = each / 2 / stream
        print(
            f"window {PUBLISHED_SIZES[index]}, batch {batch}: {each:.2f} s a noisy image, {passes:.1f} readings a pass"
        )
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc").exists() else []
    status = dict(line.split(":", 1) for line in lines)
    peak = status.get("VmHWM", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB").strip()
    print(f"largest resident memory of this process: {peak}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, default=2000, help="images of the comparison with the loop; 0 leaves it out"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--check", action="store_true", help="compare the outputs too, with the loop in float64")
    parser.add_argument(
        "--locality",
        type=int,
        nargs="*",
        default=[2000, 60000],
        help="grey images of locality beside square composites",
    )
    parser.add_argument("--large", type=int, default=50000, help="images of the large set, mirrored; 0 leaves it out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    window_sums()
    if args.images:
        against_naive(args.images, args.batch, args.check)
    for count in args.locality:
        locality_beside_square(count, args.batch)
    if args.large:
        large_set(args.large, args.batch)


if __name__ == "__main__":
    main()
