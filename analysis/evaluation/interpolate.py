"""Interpolation between two images (Weng et al. 2026, Fig. 4): scores linearly, x_T spherically.

The ends are reconstructions. Below the full interpolation, the same with only the scores or only x_T changing, to tell
what each carries; where only the scores change it is an edit of the first image, which --guidance strengthens. Every
score is set, so there are no others to keep or to move. Results go to records/interpolate/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, parse_images, require, run_parser
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    parser.add_argument("--images", metavar="A,B", default="0,1", help="two test images by number or id (default: 0,1)")
    parser.add_argument("--frames", type=int, default=9, help="images from one end to the other (default: 9)")
    text = "how strongly the edit by scores alone is pushed away from the first image's own scores"
    parser.add_argument("--guidance", type=float, default=0.0, metavar="W", help=f"{text} (default: 0)")
    args = parser.parse_args()
    require(parser, args, steps=2, frames=2, guidance=0)
    return args


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import picture_rows
    from analysis.edits import Encoding, edit, encode_and_invert, regenerate, slerp
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.images import to_tensor, to_uint8

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    rows = parse_images(args.images, test)
    if len(rows) != 2:
        raise UserError(f"--images {args.images}: interpolation needs two images, not {len(rows)}")
    encoding = encode_and_invert(run.model, to_tensor(test.pixels[rows], device), args.steps)
    (s_a, s_b), (noise_a, noise_b) = encoding.scores, encoding.noise
    shares = torch.linspace(0, 1, args.frames, device=device)
    s = torch.lerp(s_a, s_b, shares[:, None])  # (frames, m)
    noise = torch.stack([slerp(noise_a, noise_b, share) for share in shares.tolist()])  # (frames, C, H, W)
    first = Encoding(s_a[None], noise_a[None])
    paths = {
        "both": regenerate(run.model, noise, s, args.steps),
        "scores_only": edit(run.model, first, s, args.steps, args.guidance),
        "noise_only": regenerate(run.model, noise, s_a.expand_as(s), args.steps),
    }
    images = {kind: to_uint8(pixels) for kind, pixels in paths.items()}

    titles = [f"{share:.2f}" for share in shares.tolist()]
    sheet = picture_rows(list(images.values()), ["s and x_T", "s alone", "x_T alone"], titles)
    folder = results_folder("interpolate", run, args.outdir)
    files = save_figure(sheet.figure, folder / "interpolate")
    originals = np.array(test.pixels[rows])
    arrays = save_arrays(
        folder / "interpolate.npz",
        originals=originals,
        ids=[test.ids[i] for i in rows],
        shares=shares.cpu().numpy(),
        **images,
    )
    for name, pixels in images.items():
        step = np.abs(np.diff(pixels.astype(float), axis=0)).mean((1, 2, 3))
        print(f"{name}: neighbours differ by {step.mean():.1f} grey levels, at most {step.max():.1f}")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
