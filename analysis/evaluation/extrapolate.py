"""Extrapolation (Weng et al. 2026, Fig. 7): one prototype's score set to rising values, in and beyond the range of the
data.

One row a prototype, on one image; the values are evenly spaced over the range of the test scores, widened by half of it
to both sides (no further than scores can go), or over --range LOW:HIGH (the paper: 0:3, seven steps). Results go to
records/extrapolate/<dataset>_v<n>/.
"""

import argparse

from analysis.script import (
    add_edit_options,
    edit_options,
    open_run,
    parse_images,
    parse_prototypes,
    require,
    run_parser,
)
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser)
    parser.add_argument(
        "--prototypes", metavar="0,3,17", help="which prototypes (default: the four that matter most, no two alike)"
    )
    parser.add_argument("--images", metavar="ID", default="0", help="one test image by number or id (default: 0)")
    parser.add_argument(
        "--range", metavar="LOW:HIGH", help="scores to go through (default: half as wide again as the data's)"
    )
    parser.add_argument("--frames", type=int, default=7, help="values from low to high (default: 7)")
    args = parser.parse_args()
    require(parser, args, steps=2, frames=2)
    return args


def parse_range(text: str) -> tuple[float, float]:
    """'0:3' -> (0, 3). Raises UserError."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise UserError(f"--range {text}: must be LOW:HIGH, e.g. 0:3") from None
    return low, high


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.drawing.figures import add_box, picture_rows, save_figure
    from analysis.edits import edit, encode_and_invert, patch_box
    from analysis.measures.cards import matter_most
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.images import to_tensor, to_uint8
    from train.scores import encode

    run, device = open_run(args)
    given = parse_range(args.range) if args.range else None
    test = load_split(run.config.data, "test")
    row = parse_images(args.images, test)[0]
    scores = encode(run.model, test, device=device)
    asked = parse_prototypes(args.prototypes, scores.shape[1]) if args.prototypes else None
    prototypes = asked or matter_most(run, test, scores, 4)
    encoding = encode_and_invert(run.model, to_tensor(test.pixels[row : row + 1]).to(device), args.steps)
    low, high = scores.amin(0), scores.amax(0)  # (m,)
    values = []
    for k in prototypes:
        margin = (high[k] - low[k]).item() / 2
        first, last = given or (low[k].item() - margin, high[k].item() + margin)
        if run.model.encoder.highest and not given:
            first, last = max(first, 0.0), min(last, run.model.encoder.highest)
        values.append(np.linspace(first, last, args.frames))
    options, settings = (
        edit_options(args, run.model, scores),
        [(k, value) for k, line in zip(prototypes, values) for value in line],
    )
    s = torch.cat([options.set(encoding.scores, [k], float(value)) for k, value in settings])  # (K frames, m)
    made = edit(run.model, encoding, s, args.steps, args.guidance[0], title="regenerating").clamp(-1, 1)
    match = run.model.encoder.match(made)
    images = np.split(to_uint8(made), len(prototypes))

    figure, axes = picture_rows(images, [f"prototype {k}\nown {encoding.scores[0, k]:.2f}" for k in prototypes])
    for line, k in enumerate(prototypes):
        for column, value in enumerate(values[line]):
            inside = low[k] - 1e-6 <= value <= high[k] + 1e-6
            axes[line, column].set_title(f"{value:.2f}" if inside else f"({value:.2f})", fontsize=8)
            add_box(
                axes[line, column],
                patch_box(run.model, match, line * args.frames + column, k, run.config.data.image_size),
            )
    folder = results_folder("extrapolate", run)
    files = save_figure(figure, folder / "extrapolate")
    reached = torch.stack(
        [match.scores.view(len(prototypes), -1, len(low))[i, :, k] for i, k in enumerate(prototypes)]
    )  # (K, frames)
    arrays = save_arrays(
        folder / "extrapolate.npz",
        id=test.ids[row],
        prototypes=prototypes,
        values=values,
        images=images,
        reached=reached.cpu().numpy(),
    )
    for k, asked, got in zip(prototypes, values, reached.tolist()):
        print(
            f"prototype {k}: set to {', '.join(f'{v:.2f}' for v in asked)}; found again as "
            f"{', '.join(f'{v:.2f}' for v in got)}"
        )
    print(f"values in brackets lie outside the test scores' range; figure: {files[0]} and .pdf; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
