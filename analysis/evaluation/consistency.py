"""Does a prototype mean the same in every image? (Weng et al. 2026, Fig. 6)

Several test images times several prototypes, each raised in turn to the largest score of the test set: the regenerated
image with its patch boxed, and the patch. Printed: how alike the patches of one prototype are (mean cosine of their
vectors), against patches of different prototypes. Results go to records/consistency/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import edit_options, edit_parser, open_run, parse_images, prototypes_or_best, require
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    prototypes, images = (
        "the six that matter most, no two alike",
        "test images by number or id (default: the first five)",
    )
    parser = edit_parser(__doc__, prototypes, images)
    args = parser.parse_args()
    require(parser, args, steps=2)
    return args


def alikeness(patches):
    """Vectors (K prototypes, n images, D), centred on their mean -> mean cosine (within one prototype (K,), between two
    (scalar))."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    unit = F.normalize(patches - patches.mean((0, 1)), dim=-1)
    cosine = torch.einsum("knd,lod->klno", unit, unit).cpu().numpy()  # (K, K, n, n)
    k, _, n, _ = cosine.shape
    pairs = ~np.eye(n, dtype=bool)
    within = np.array([cosine[i, i][pairs].mean() if n > 1 else np.nan for i in range(k)])
    between = cosine[~np.eye(k, dtype=bool)].mean() if k > 1 else np.nan
    return within, between


class Raised(NamedTuple):
    """K prototypes, each raised in n images: images uint8 (K, n, H, W, C), boxes (K, n, 4) of their best patches, and
    the vectors (K, n, D) of these."""

    images: object
    boxes: object
    vectors: object


def raise_each(run, pixels, prototypes: list[int], scores, args, device) -> Raised:
    """Every prototype raised to its largest score in every image; pixels (n, H, W, C), scores (N, m) of a data set."""
    import numpy as np
    import torch

    from analysis.edits import edit, encode_and_invert
    from train.images import to_tensor, to_uint8

    encoding = encode_and_invert(run.model, to_tensor(pixels, device), args.steps)
    options = edit_options(args, run.model, scores)
    highest = options.known.range[:, 1]
    edits = torch.cat([options.set(encoding.scores, [k], highest[k]) for k in prototypes])  # (K n, m)
    edited = edit(run.model, encoding, edits, args.steps, args.guidance[0], title="regenerating").clamp(-1, 1)
    encoder, groups = run.model.encoder, list(zip(prototypes, edited.split(len(pixels))))
    images = np.stack([to_uint8(group) for _, group in groups])
    boxes = np.stack([encoder.match(group).boxes[:, k].cpu().numpy() for k, group in groups])
    return Raised(images, boxes, torch.stack([encoder.best_vectors(group, k) for k, group in groups]))


def draw(pixels, prototypes: list[int], raised: Raised):
    """One row an image: itself, then for every prototype the edited image with its patch boxed, and the patch."""
    from analysis.drawing.figures import cut
    from analysis.drawing.sheet import Sheet

    titles = ["original", *(title for k in prototypes for title in (f"prototype {k}", ""))]
    sheet = Sheet([""] * len(pixels), titles, side=1.0)
    for line, original in enumerate(pixels):
        sheet.picture(line, 0, original)
        for i in range(len(prototypes)):
            image, box = raised.images[i, line], tuple(raised.boxes[i, line])
            sheet.picture(line, 2 * i + 1, image, box)
            sheet.picture(line, 2 * i + 2, cut(image, box))
    return sheet.figure


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.drawing.figures import save_figure
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    rows = parse_images(args.images, test) if args.images else list(range(min(5, len(test))))
    scores = encode(run.model, test, device=device)
    prototypes, pixels = prototypes_or_best(args, run, test, scores, 6), np.array(test.pixels[rows])
    raised = raise_each(run, pixels, prototypes, scores, args, device)
    within, between = alikeness(raised.vectors)

    folder, ids = results_folder("consistency", run, args.outdir), [test.ids[i] for i in rows]
    files = save_figure(draw(pixels, prototypes, raised), folder / "consistency")
    arrays = {"original": pixels, "regenerated": raised.images, "boxes": raised.boxes, "within": within}
    file = save_arrays(folder / "consistency.npz", ids=ids, prototypes=prototypes, **arrays)
    for k, value in zip(prototypes, within):
        print(f"prototype {k}: patches of {len(rows)} images alike by {value:.2f} (mean cosine)")
    print(f"patches of different prototypes: {between:.2f}")
    print(f"figure: {files[0]} and .pdf; arrays: {file}")


if __name__ == "__main__":
    run_script(main)
