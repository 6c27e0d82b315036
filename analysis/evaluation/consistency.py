"""Does a prototype mean the same in every image? (Weng et al. 2026, Fig. 6)

Several test images times several prototypes, each raised in turn to the largest score of the test set: the regenerated
image with its patch boxed, and the patch. Printed: how alike the patches of one prototype are (mean cosine of their
vectors), against patches of different prototypes. Results go to records/consistency/<dataset>_v<n>/.
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
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser)
    parser.add_argument(
        "--prototypes", metavar="0,3,17", help="which prototypes (default: the six that matter most, no two alike)"
    )
    parser.add_argument("--images", metavar="0,17,ID", help="test images by number or id (default: the first five)")
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


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.drawing.figures import cut, panel, panels, save_figure
    from analysis.edits import edit, encode_and_invert, patch_box
    from analysis.measures.cards import matter_most
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.images import to_tensor, to_uint8
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    rows = parse_images(args.images, test) if args.images else list(range(min(5, len(test))))
    scores = encode(run.model, test, device=device)
    asked = parse_prototypes(args.prototypes, scores.shape[1]) if args.prototypes else None
    prototypes = asked or matter_most(run, test, scores, 6)
    pixels = np.array(test.pixels[rows])
    encoding = encode_and_invert(run.model, to_tensor(pixels).to(device), args.steps)
    highest = scores.amax(0).to(device)
    options = edit_options(args, run.model, scores)
    edits = torch.cat([options.set(encoding.scores, [k], highest[k]) for k in prototypes])  # (K n, m)
    made = edit(run.model, encoding, edits, args.steps, args.guidance[0], title="regenerating").clamp(-1, 1)
    match = run.model.encoder.match(made)
    with torch.no_grad():
        cells = run.model.encoder.embed(made)  # (K n, D, H', W')
    n, side = len(rows), run.config.data.image_size
    images = to_uint8(made)

    figure, axes = panels(n, 2 * len(prototypes) + 1, side=1.0)
    vectors, boxes = [], []
    for column, k in enumerate(prototypes):
        for line in range(n):
            index = column * n + line
            box = patch_box(run.model, match, index, k, side)
            title = f"prototype {k}" if line == 0 else ""
            panel(axes[line, 2 * column + 1], images[index], title, box)
            panel(axes[line, 2 * column + 2], cut(images[index], box))
            vectors.append(cells[index, :, match.rows[index, k], match.columns[index, k]])
            boxes.append(box)
    for line in range(n):
        panel(axes[line, 0], pixels[line], "original" if line == 0 else "")
    within, between = alikeness(torch.stack(vectors).view(len(prototypes), n, -1))
    folder = results_folder("consistency", run)
    files = save_figure(figure, folder / "consistency")
    shape = (len(prototypes), n)
    arrays = save_arrays(
        folder / "consistency.npz",
        ids=[test.ids[i] for i in rows],
        prototypes=prototypes,
        original=pixels,
        regenerated=images.reshape(*shape, *images.shape[1:]),
        boxes=np.array(boxes).reshape(*shape, 4),
        within=within,
    )
    for k, value in zip(prototypes, within):
        print(f"prototype {k}: patches of {n} images alike by {value:.2f} (mean cosine)")
    print(f"patches of different prototypes: {between:.2f}")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
