"""Which prototype owns which patch?

Test images with every cell in the colour of the prototype most similar to it (the winner of the competition), and a
legend: the colour, the prototype's best training patch, its share of all cells, and for labelled sets the attribute it
tells. Results go to records/ownership/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, parse_images, require, run_parser
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--images", metavar="0,17,ID", help="test images by number or id (default: the first six)")
    parser.add_argument(
        "--legend",
        type=int,
        default=24,
        help="prototypes in the legend, those that own most of these images (default: 24)",
    )
    args = parser.parse_args()
    require(parser, args, legend=1)
    return args


def owners(run, pixels, device):
    """The winning prototype of each cell, and by how much it wins: pixels (n, H, W, C) -> (n, H', W') int64 and
    float32."""
    import numpy as np
    import torch

    from train.distributed import images_a_call
    from train.images import to_tensor

    encoder, parts = run.model.encoder, []
    batch = images_a_call(device, encoder.largest_map(pixels.shape[1]))
    with torch.no_grad():
        for start in range(0, len(pixels), batch):
            maps = encoder.similarities(to_tensor(pixels[start : start + batch], device))
            best, winner = maps[:, : len(encoder.prototypes)].max(1)  # templates own no patch
            parts.append((winner.cpu().numpy(), best.cpu().numpy()))
    return tuple(np.concatenate(part) for part in zip(*parts))


def spread_to_pixels(run, winner, side: int):
    """Cells (n, H', W') at the centres of their patches -> every pixel takes the nearest cell's prototype: (n, side,
    side)."""
    import numpy as np

    field = run.model.encoder.receptive_field
    centre = (np.arange(side) - (field.size - 1) / 2 + field.offset) / field.jump
    cell = centre.round().clip(0, winner.shape[1] - 1).astype(int)
    return winner[:, cell[:, None], cell[None, :]]


def draw(pixels, names, owned, *, legend, patches, texts, path):
    """Images above their owners; below, a swatch and a patch for each prototype of the legend; others are grey."""
    import numpy as np

    from analysis.drawing.figures import panel, plt, save_figure

    colours = np.concatenate([plt.get_cmap("tab20").colors, plt.get_cmap("tab20b").colors])
    palette = np.full((owned.max() + 1, 3), 0.85)
    for i, k in enumerate(legend):
        if k < len(palette):
            palette[k] = colours[i % len(colours)]
    columns = max(len(pixels), 8)
    lines = -(-len(legend) // columns)
    figure, axes = plt.subplots(
        2 + lines, columns, figsize=(1.3 * columns, 1.45 * (2 + lines) + 0.3), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, name in enumerate(names):
        panel(axes[0, i], pixels[i], str(name))
        axes[1, i].imshow(pixels[i].squeeze(), cmap="gray", vmin=0, vmax=255)
        axes[1, i].imshow(palette[owned[i]], alpha=0.8, interpolation="nearest")
    for i, (patch, text) in enumerate(zip(patches, texts)):
        axis = axes[2 + i // columns, i % columns]
        axis.axis("on")
        panel(axis, patch, text)
        axis.title.set_fontsize(6)
        for spine in axis.spines.values():
            spine.set(color=colours[i % len(colours)], linewidth=4)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.drawing.cards import surroundings
    from analysis.measures.auroc import best_attributes
    from analysis.measures.cards import best_patches
    from analysis.results import results_folder, save_arrays
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    train, test = load_split(run.config.data, "train"), load_split(run.config.data, "test")
    rows = parse_images(args.images, test) if args.images else list(range(min(6, len(test))))
    pixels = np.array(test.pixels[rows])
    winner, margin = owners(run, pixels, device)
    everywhere, _ = owners(run, np.array(test.pixels[:500]), device)
    share = np.bincount(everywhere.ravel(), minlength=len(run.model.encoder.prototypes)) / everywhere.size
    here = np.bincount(winner.ravel(), minlength=len(share))
    legend = [int(k) for k in np.argsort(-here, kind="stable")[: args.legend] if here[k]]
    best, boxes = best_patches(run, train, 1)
    patches = [surroundings(train.pixels[best[k, 0]], boxes[k, 0], 0)[0] for k in legend]
    attribute, auroc = best_attributes(encode(run.model, test, device=device).numpy(), test.attributes)
    names = [f"\n{attribute[k]} {auroc[k]:.2f}" if attribute[k] else "" for k in legend]
    texts = [f"prototype {k}, {share[k]:.1%}{text}" for k, text in zip(legend, names)]
    owned = spread_to_pixels(run, winner, run.config.data.image_size)
    folder = results_folder("ownership", run, args.outdir)
    files = draw(
        pixels, [test.ids[i] for i in rows], owned,
        legend=legend, patches=patches, texts=texts, path=folder / "ownership",
    )  # fmt: skip
    arrays = save_arrays(
        folder / "ownership.npz", ids=[test.ids[i] for i in rows], winner=winner, margin=margin, share=share
    )
    half = int((np.cumsum(np.sort(share)[::-1]) < 0.5).sum()) + 1
    print(
        f"{(share > 0).sum()} of {len(share)} prototypes own a patch; the most frequent {share.max():.1%} of all, "
        f"half of all by {half}"
    )
    print(f"a winner's mean similarity: {margin.mean():.2f}")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
