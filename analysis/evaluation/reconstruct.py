"""Reconstruction and variation (Weng et al. 2026, Fig. 3): what comes back from s and x_T, and from s alone.

Test images are regenerated from their scores and three kinds of noise: their own x_T (by inversion under their own
scores), one fixed x_T for all, and random x_T. PSNR and SSIM of each are printed. Results go to
records/reconstruct/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, parse_images, require, run_parser
from train.errors import run_script

COLUMNS = 8


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    parser.add_argument(
        "--images", metavar="0,17,ID", help="test images by number or id (default: the first --num_samples)"
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=64,
        help=f"test images for the numbers; the first {COLUMNS} are drawn (default: 64)",
    )
    parser.add_argument("--variations", type=int, default=3, help="rows of random x_T in the figure (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the fixed and the random noise (default: 0)")
    args = parser.parse_args()
    require(parser, args, num_samples=1, steps=2, variations=1, seed=0)
    return args


def likeness(pixels, regenerated) -> dict[str, float]:
    """Mean PSNR (dB, of 8-bit images) and SSIM of pairs of uint8 (n, H, W, C)."""
    import numpy as np
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    identical = 10 * np.log10(
        255**2 * pixels[0].size
    )  # of one grey level in one value: a finite stand-in for no error at all
    psnr = [
        identical if np.array_equal(a, b) else peak_signal_noise_ratio(a, b, data_range=255)
        for a, b in zip(pixels, regenerated)
    ]
    ssim = [structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in zip(pixels, regenerated)]
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim))}


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import picture_rows
    from analysis.edits import encode_and_invert, regenerate
    from analysis.results import results_folder, save_arrays
    from analysis.schemas import RECONSTRUCTION
    from models.samplers import SeededNoise
    from train.data.dataset import load_split
    from train.images import to_tensor, to_uint8

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    rows = parse_images(args.images, test) if args.images else list(range(min(args.num_samples, len(test))))
    pixels = np.array(test.pixels[rows])
    n = len(pixels)
    x0 = to_tensor(pixels, device)
    encoding = encode_and_invert(run.model, x0, args.steps, title="inverting")
    top = run.model.sigmas(args.steps)[0].float()

    def regenerated(noise, title, count=n):
        return to_uint8(regenerate(run.model, noise, encoding.scores[:count], args.steps, title=title))

    def seeded(first, count=n):
        return top * SeededNoise(range(args.seed + first, args.seed + first + count), x0.shape[1:], device)()

    images = {
        "own": regenerated(encoding.noise, "own noise"),
        "fixed": regenerated(seeded(0, 1).expand_as(x0), "fixed noise"),
        "random": regenerated(seeded(1), "random noise"),
    }
    columns = min(COLUMNS, n)
    more = [regenerated(seeded(1 + n * variation, columns), None, columns) for variation in range(1, args.variations)]
    calls = 2 * (args.steps - 1) + 2 * args.steps - 1
    numbers = {"images": n, "steps": args.steps, "network_calls": calls} | {
        kind: likeness(pixels, regenerated) for kind, regenerated in images.items()
    }

    drawn = [pixels[:columns], *(images[kind][:columns] for kind in images), *more]
    labels = ["original", "own noise", "fixed noise", *[f"noise {i}" for i in range(args.variations)]]
    sheet = picture_rows(drawn, labels)
    folder = results_folder("reconstruct", run, args.outdir)
    files = save_figure(sheet.figure, folder / "reconstruct")
    json_file = RECONSTRUCTION.write(folder, numbers)
    arrays = save_arrays(folder / "reconstruct.npz", original=pixels, ids=[test.ids[i] for i in rows], **images)
    print(f"{n} images, {calls} network calls to invert and regenerate")
    for kind in images:
        print(f"  {kind:>6} x_T: PSNR {numbers[kind]['psnr']:.1f} dB, SSIM {numbers[kind]['ssim']:.3f}")
    print(f"figure: {files[0]} and .pdf; numbers: {json_file}; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
