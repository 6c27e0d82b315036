"""Edit images through their prototypes (Weng et al. 2026, Fig. 1).

Test images (--images) or your own files (--image, repeatable) are inverted under their own scores, some scores are set, and the images are
regenerated from the same noise: original, reconstruction, edit, what differs between the two, with a box where each edited prototype matches.
--guidance says how strongly, --others what becomes of the scores that are not set. Without --set the prototype that matters most is raised to its
largest score in the test set. --attribute NAME=AMOUNT (the one option that needs labels) moves all prototypes that tell an attribute, by that share
of the difference between test images with and without it. --sweep K shows a strip over the values of prototype K instead. Results go to
records/manipulate/<dataset>_v<n>/.
"""

import argparse

from analysis.script import add_edit_options, check_prototype, gesture_of, open_run, parse_images, require, results_folder, run_parser
from train.errors import UserError, listed, reading, run_script

COLOURS = ["red", "deepskyblue", "gold", "lime", "magenta", "orange"]


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser)
    parser.add_argument("--images", metavar="0,17,ID", help="test images by number or id (default: the first four, unless --image is given)")
    parser.add_argument("--image", metavar="PATH", action="append", default=[], help="an image file of yours; repeatable")
    parser.add_argument("--set", metavar="K=VALUE", action="append", default=[], help="a number, +0.2, -0.2, max, mean or min; repeatable")
    parser.add_argument("--attribute", metavar="NAME=AMOUNT", action="append", default=[], help="e.g. Black_Hair=1 or Smiling=-0.5; repeatable")
    parser.add_argument("--sweep", metavar="K", type=int, help="a strip over values of prototype K, after --set")
    parser.add_argument("--frames", type=int, default=7, help="values of --sweep, from the test set's lowest to its highest (default: 7)")
    args = parser.parse_args()
    require(parser, args, steps=2, frames=2)
    return args


def parse_setting(text: str, scores):
    """'7=max', '7=+0.2' or '7=0.4' -> (prototype, its new scores as a function of the old (n,)). scores (N, m): the test set's. Raises UserError."""
    number, equals, value = text.partition("=")
    if not equals or not number.strip().isdigit():
        raise UserError(f"--set {text}: must be PROTOTYPE=VALUE, e.g. 7=max, 7=0.4 or 7=+0.2")
    k = int(number)
    check_prototype(k, scores.shape[1], f"--set {text}")
    named = {"max": scores[:, k].max(), "mean": scores[:, k].mean(), "min": scores[:, k].min()}
    if value in named:
        target = named[value].item()
        return k, lambda old: old * 0 + target
    try:
        amount = float(value)
    except ValueError:
        raise UserError(f"--set {text}: '{value}' is none of a number, +number, -number, {', '.join(named)}") from None
    if not abs(amount) < 100:
        raise UserError(f"--set {text}: no score comes near that")
    return k, (lambda old: old + amount) if value[0] in "+-" else (lambda old: old * 0 + amount)


def parse_attribute(text: str, scores, attributes):
    """'Black_Hair=1' -> (that share of its class gap (m,), the prototype that tells it best); scores (N, m), N rows of attributes.

    Raises UserError.
    """
    from analysis.measures.shortcuts import class_gap

    name, equals, value = text.partition("=")
    if name not in attributes:
        raise UserError(f"--attribute {text}: no attribute '{name}'; there are {listed(attributes.columns, 50)}")
    try:
        amount = float(value)
    except ValueError:
        raise UserError(f"--attribute {text}: must be NAME=AMOUNT, e.g. {name}=1 or {name}=-0.5") from None
    labels = attributes[name].to_numpy(float)
    if not {0.0, 1.0} <= set(labels):
        raise UserError(f"--attribute {name}: the test images hold one class of it only")
    gap, order = class_gap(scores.numpy(), labels, None)
    return gap * amount, int(order[0])


def read_images(args, run, test):
    """-> pixels (n, H, W, C) of the images asked for, and their names. Raises UserError."""
    import numpy as np
    from PIL import Image

    from train.data.decode import to_pixels

    pixels, names = [], []
    if args.images or not args.image:
        rows = parse_images(args.images, test) if args.images else list(range(min(4, len(test))))
        pixels, names = [*test.pixels[rows]], [test.ids[row] for row in rows]
    for path in args.image:
        with reading(f"--image {path}"), Image.open(path) as image:
            pixels.append(to_pixels(image, run.config.data.image_size, run.config.data.channels))
        names.append(path.rsplit("/", 1)[-1])
    return np.stack(pixels), names


def draw_edits(run, pixels, names, images, differences, edited: list[int]):
    """Four columns an image: original, reconstruction, edit, difference; a box of one colour a prototype."""
    from analysis.drawing.figures import add_box, heat, panel, panels
    from analysis.edits import patch_box
    from train.images import to_tensor

    device = run.model.encoder.prototypes.device
    matches = [run.model.encoder.match(to_tensor(shown).to(device)) for shown in images]
    figure, axes = panels(len(pixels), 4, side=1.5)
    limit = max(float(differences.max()), 1.0)
    for line, name in enumerate(names):
        panel(axes[line, 0], pixels[line], "original" if line == 0 else "")
        for column, (title, shown, match) in enumerate(zip(("reconstruction", "edit"), images, matches), start=1):
            panel(axes[line, column], shown[line], title if line == 0 else "")
            for k, colour in zip(edited, COLOURS * len(edited)):
                add_box(axes[line, column], patch_box(run.model, match, line, k, run.config.data.image_size), colour)
        bar = heat(axes[line, 3], differences[line], limit)
        axes[line, 0].set_ylabel(name, fontsize=7)
    axes[0, 3].set_title("difference", fontsize=8)
    figure.colorbar(bar, ax=axes[:, 3], shrink=0.6, label="grey levels")
    key = ", ".join(f"{k} {colour}" for k, colour in zip(edited, COLOURS * len(edited)))
    figure.suptitle(f"prototype{'s' * (len(edited) > 1)} {key}", fontsize=8)
    return figure


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.drawing.figures import picture_rows, save_figure
    from analysis.drawing.results import save_arrays, save_json
    from analysis.edits import edit, encode_and_invert, regenerate
    from analysis.measures.cards import matter_most
    from train.data.dataset import load_split
    from train.images import to_tensor, to_uint8
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    pixels, names = read_images(args, run, test)
    scores = encode(run.model, test, device=device)
    if args.sweep is not None:
        check_prototype(args.sweep, scores.shape[1], "--sweep")
    settings = args.set
    if not settings and not args.attribute and args.sweep is None:
        settings = [f"{matter_most(run, test, scores, 1)[0]}=max"]
    parsed = [parse_setting(text, scores) for text in settings]
    moved = [parse_attribute(text, scores, test.attributes) for text in args.attribute]

    gesture = gesture_of(args, run.model, scores)
    encoding = encode_and_invert(run.model, to_tensor(pixels).to(device), args.steps)
    s = encoding.scores
    if parsed:
        s = gesture.set(s, [k for k, _ in parsed], torch.stack([change(s[:, k]) for k, change in parsed], dim=1))
    for gap, _ in moved:
        s = s + torch.from_numpy(gap).to(s)
    folder, n = results_folder("manipulate", run), len(pixels)
    if args.sweep is not None:
        k = args.sweep
        values = torch.linspace(scores[:, k].min(), scores[:, k].max(), args.frames, device=device)
        swept = torch.cat([gesture.set(s, [k], value) for value in values])  # (frames n, m)
        strip = to_uint8(edit(run.model, encoding, swept, gesture, title="regenerating"))
        strip = strip.reshape(args.frames, n, *strip.shape[1:])
        rows = [np.concatenate([pixels[i : i + 1], strip[:, i]]) for i in range(n)]
        figure, _ = picture_rows(rows, names, ["original", *[f"s{k} = {value:.2f}" for value in values.tolist()]])
        files = save_figure(figure, folder / "sweep")
        numbers = {"prototype": k, "values": values.cpu().numpy(), "images": strip.swapaxes(0, 1)}
        arrays = save_arrays(folder / "sweep.npz", names=names, original=pixels, **numbers)
        print(f"prototype {k} from {values[0]:.2f} to {values[-1]:.2f}; figure: {files[0]} and .pdf; arrays: {arrays}")
        return

    plain = regenerate(run.model, encoding.noise, encoding.scores, args.steps)
    made = torch.cat([plain, edit(run.model, encoding, s, gesture, title="regenerating")])
    images = np.split(to_uint8(made), 2)
    with torch.no_grad():
        found = run.model.score(made.clamp(-1, 1)).cpu().numpy()
    differences = np.abs(images[1].astype(float) - images[0]).mean(-1)  # (n, H, W)
    edited = list(dict.fromkeys([*(k for k, _ in parsed), *(best for _, best in moved)]))
    files = save_figure(draw_edits(run, pixels, names, images, differences, edited), folder / "manipulate")
    arrays = save_arrays(folder / "manipulate.npz", names=names, original=pixels, reconstruction=images[0], edit=images[1], difference=differences)
    table = {
        name: {
            f"prototype_{k}": {
                "own": float(encoding.scores[i, k]),
                "set": float(s[i, k]),
                "found_in_reconstruction": float(found[i, k]),
                "found_in_edit": float(found[n + i, k]),
            }
            for k in edited
        }
        for i, name in enumerate(names)
    }
    numbers = save_json(folder / "manipulate.json", {"settings": settings, "attributes": args.attribute, "images": table})
    for k in edited:
        before, to, after = encoding.scores[:, k].mean(), s[:, k].mean(), found[n:, k].mean()
        print(f"prototype {k}: score {before:.2f} -> set to {to:.2f} -> found in the edit {after:.2f} (means of {n} images)")
    print(f"the edit differs from the reconstruction by {differences.mean():.1f} grey levels")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}; scores: {numbers}")


if __name__ == "__main__":
    run_script(main)
