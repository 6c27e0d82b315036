"""Extrapolation (Weng et al. 2026, Fig. 7): one prototype's score set to rising values, in and beyond the range of the
data.

One row a prototype, on one image; the values are evenly spaced over the range of the test scores, widened by half of it
to both sides (no further than scores can go), or over --range LOW:HIGH (the paper: 0:3, seven steps). Results go to
records/extrapolate/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import edit_options, edit_parser, open_run, parse_image, prototypes_or_best, require
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    prototypes, images = "the four that matter most, no two alike", "one test image by number or id (default: 0)"
    parser = edit_parser(__doc__, prototypes, images, first="0")
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
        low, high = 0.0, 0.0
    if not low < high:
        raise UserError(f"--range {text}: must be LOW:HIGH, e.g. 0:3")
    return low, high


def values_of(span: tuple[float, float] | None, low: float, high: float, highest: float | None, count: int):
    """The values that a score goes through: a span, or the data's range low to high, widened by half of it to both
    sides but no further than scores can go, 0 to `highest` (None: anywhere): (count,)."""
    import numpy as np

    margin = (high - low) / 2
    first, last = span or (low - margin, high + margin)
    if highest and not span:
        first, last = max(first, 0.0), min(last, highest)
    return np.linspace(first, last, count)


class Extrapolated(NamedTuple):
    """Of K prototypes at F values: images uint8 (K, F, H, W, C), the scores found in them (K, F), boxes (K, F, 4) of
    their best patches, and the image's own scores (m,)."""

    images: object
    reached: object
    boxes: object
    own: object


def set_each(run, pixels, prototypes: list[int], values, *, scores, args, device) -> Extrapolated:
    """One image (1, H, W, C), each prototype set to its values (K, F)."""
    import numpy as np
    import torch

    from analysis.edits import edit, encode_and_invert
    from train.images import to_tensor, to_uint8

    encoding = encode_and_invert(run.model, to_tensor(pixels, device), args.steps)
    options = edit_options(args, run.model, scores)
    settings = [(k, float(value)) for k, line in zip(prototypes, values) for value in line]
    s = torch.cat([options.set(encoding.scores, [k], value) for k, value in settings])  # (K F, m)
    edited = edit(run.model, encoding, s, args.steps, args.guidance[0], title="regenerating").clamp(-1, 1)
    match, shape = run.model.encoder.match(edited), np.shape(values)
    reached = np.array([match.scores[i, k].item() for i, (k, _) in enumerate(settings)]).reshape(shape)
    boxes = np.array([match.boxes[i, k].tolist() for i, (k, _) in enumerate(settings)])
    images, boxes = to_uint8(edited).reshape(*shape, *pixels.shape[1:]), boxes.reshape(*shape, 4)
    return Extrapolated(images, reached, boxes, encoding.scores[0])


def draw(prototypes: list[int], values, low, high, extrapolated: Extrapolated):
    """One row a prototype, its patch boxed; values outside the data's range low (m,) to high (m,) in brackets."""
    from analysis.drawing.sheet import Sheet

    labels = [f"prototype {k}\nown {extrapolated.own[k]:.2f}" for k in prototypes]
    sheet = Sheet(labels, [""] * extrapolated.images.shape[1], notes=True)
    for line, k in enumerate(prototypes):
        for column, value in enumerate(values[line]):
            inside = low[k] - 1e-6 <= value <= high[k] + 1e-6
            place, note = tuple(extrapolated.boxes[line, column]), f"{value:.2f}" if inside else f"({value:.2f})"
            sheet.picture(line, column, extrapolated.images[line, column], place, note)
    return sheet.figure


def main() -> None:
    args = parse_args()

    from analysis.drawing.figures import save_figure
    from analysis.measures.scores import KnownScores
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    span = parse_range(args.range) if args.range else None
    test = load_split(run.config.data, "test")
    row = parse_image(args.images, test)
    scores = encode(run.model, test, device=device)
    prototypes = prototypes_or_best(args, run, test, scores, 4)
    (low, high), highest = KnownScores(scores).range.T, run.model.encoder.highest
    values = [values_of(span, low[k].item(), high[k].item(), highest, args.frames) for k in prototypes]
    extrapolated = set_each(
        run, test.pixels[row : row + 1], prototypes, values, scores=scores, args=args, device=device
    )

    folder = results_folder("extrapolate", run, args.outdir)
    files = save_figure(draw(prototypes, values, low, high, extrapolated), folder / "extrapolate")
    arrays = {"values": values, "images": extrapolated.images, "reached": extrapolated.reached}
    file = save_arrays(folder / "extrapolate.npz", id=test.ids[row], prototypes=prototypes, **arrays)
    for k, wanted, reached in zip(prototypes, values, extrapolated.reached):
        before, after = (", ".join(f"{value:.2f}" for value in line) for line in (wanted, reached))
        print(f"prototype {k}: set to {before}; the edited images have {after}")
    print(f"figure (in brackets: values outside the test scores' range): {files[0]} and .pdf; arrays: {file}")


if __name__ == "__main__":
    run_script(main)
