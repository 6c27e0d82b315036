"""Edit images through their prototypes (Weng et al. 2026, Fig. 1).

Test images (--images) or your own files (--image, repeatable) are inverted under their own scores, some scores are set,
and the images are regenerated from the same noise: original, reconstruction, edit, what differs between the two, with a
box where each edited prototype matches. --others says what becomes of the scores that are not set; --guidance auto
pushes those images, as little as it takes, in which the commanded scores are not found. --set group:3=max sets a group
of prototypes (found without labels, numbered as visualize_prototype.py shows them) to the scores of the images that
have it most. Without --set the prototype that matters most is raised to its largest score in the test set. --attribute
NAME=AMOUNT (the one option that needs labels) moves all prototypes that tell an attribute, by that share of the
difference between test images with and without it. --sweep K shows a strip over the values of prototype K instead.
Results go to records/manipulate/<dataset>_v<n>/.
"""

import argparse

from analysis.script import (
    add_edit_options,
    check_prototype,
    edit_options,
    open_run,
    parse_images,
    require,
    run_parser,
)
from train.errors import UserError, listed, reading, run_script

COLOURS = ["red", "deepskyblue", "gold", "lime", "magenta", "orange"]


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser, auto=True)
    parser.add_argument(
        "--images",
        metavar="0,17,ID",
        help="test images by number or id (default: the first four, unless --image is given)",
    )
    parser.add_argument(
        "--image", metavar="PATH", action="append", default=[], help="an image file of yours; repeatable"
    )
    text = "K: a prototype, or group:3; VALUE: a number, +0.2, -0.2, max, mean or min; repeatable"
    parser.add_argument("--set", metavar="K=VALUE", action="append", default=[], help=text)
    parser.add_argument(
        "--attribute",
        metavar="NAME=AMOUNT",
        action="append",
        default=[],
        help="e.g. Black_Hair=1 or Smiling=-0.5; repeatable",
    )
    parser.add_argument("--sweep", metavar="K", type=int, help="a strip over values of prototype K, after --set")
    parser.add_argument(
        "--frames",
        type=int,
        default=7,
        help="values of --sweep, from the test set's lowest to its highest (default: 7)",
    )
    args = parser.parse_args()
    require(parser, args, steps=2, frames=2)
    return args


def parse_setting(text: str, scores, groups):
    """'7=max', '7=+0.2', '7=0.4' or 'group:3=max' -> (prototypes, their new scores (n, K) as a function of the old).

    scores (N, m): the test set's; groups(): the run's groups, asked for where one is named. Raises UserError.
    """
    import torch

    from analysis.measures.groups import group_values
    from analysis.measures.scores import KnownScores

    name, equals, value = text.partition("=")
    group, number = name.strip().startswith("group:"), name.strip().removeprefix("group:")
    if not equals or not number.isdigit():
        raise UserError(
            f"--set {text}: must be PROTOTYPE=VALUE or group:NUMBER=VALUE, e.g. 7=max, 7=0.4, 7=+0.2 or group:3=max"
        )
    if group:
        known = groups()
        if int(number) >= len(known):
            there = f"0 to {len(known) - 1}" if known else "none"
            raise UserError(f"--set {text}: there is no group {number}; the run has {there}")
        shares = {"max": 1.0, "mean": 0.5, "min": 0.0}
        if value not in shares:
            raise UserError(f"--set {text}: a group can be set to {', '.join(shares)}")
        target = torch.tensor(group_values(KnownScores(scores), known[int(number)], shares[value]))
        return known[int(number)].members, lambda old: old * 0 + target.to(old)
    k = int(number)
    check_prototype(k, scores.shape[1], f"--set {text}")
    named = {"max": scores[:, k].max(), "mean": scores[:, k].mean(), "min": scores[:, k].min()}
    if value in named:
        target = named[value].item()
        return [k], lambda old: old * 0 + target
    try:
        amount = float(value)
    except ValueError:
        raise UserError(f"--set {text}: '{value}' is none of a number, +number, -number, {', '.join(named)}") from None
    if not abs(amount) < 100:
        raise UserError(f"--set {text}: no score comes near that")
    return [k], (lambda old: old + amount) if value[0] in "+-" else (lambda old: old * 0 + amount)


def warn_outside(values, prototypes: list[int], scores) -> None:
    """Say where commanded scores (n, K) lie outside of those seen, and which is the nearest."""
    for k, column in zip(prototypes, values.cpu().T):
        low, high = scores[:, k].min().item(), scores[:, k].max().item()
        for value in {column.min().item(), column.max().item()}:
            if not low - 1e-6 <= value <= high + 1e-6:
                nearest = low if value < low else high
                seen = f"the scores seen, {low:.2f} to {high:.2f}"
                print(f"prototype {k}: {value:.2f} lies outside {seen}; the nearest is {nearest:.2f}")


def parse_attribute(text: str, scores, attributes):
    """'Black_Hair=1' -> (that share of its class gap (m,), the prototype that tells it best); scores (N, m), N rows of
    attributes.

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
    from train.images import to_tensor

    device = run.model.encoder.prototypes.device
    matches = [run.model.encoder.match(to_tensor(shown, device)) for shown in images]
    figure, axes = panels(len(pixels), 4, side=1.5)
    limit = max(float(differences.max()), 1.0)
    for line, name in enumerate(names):
        panel(axes[line, 0], pixels[line], "original" if line == 0 else "")
        for column, (title, shown, match) in enumerate(zip(("reconstruction", "edit"), images, matches), start=1):
            panel(axes[line, column], shown[line], title if line == 0 else "")
            for k, colour in zip(edited, COLOURS * len(edited)):
                add_box(axes[line, column], match.boxes[line, k].tolist(), colour)
        bar = heat(axes[line, 3], differences[line], limit)
        axes[line, 0].set_ylabel(name, fontsize=7)
    axes[0, 3].set_title("difference", fontsize=8)
    figure.colorbar(bar, ax=axes[:, 3], shrink=0.6, label="grey levels")
    key = ", ".join(f"{k} {colour}" for k, colour in zip(edited, COLOURS * len(edited)))
    figure.suptitle(f"prototype{'s' * (len(edited) > 1)} {key}", fontsize=8)
    return figure


def sweep(run, args, encoding, s, options, scores, pixels, names, folder) -> None:
    """A strip over the values of one prototype, an image a row."""
    import numpy as np
    import torch

    from analysis.drawing.figures import picture_rows, save_figure
    from analysis.edits import edit
    from analysis.results import save_arrays
    from train.images import to_uint8

    k, n = args.sweep, len(pixels)
    values = torch.linspace(scores[:, k].min(), scores[:, k].max(), args.frames, device=s.device)
    swept = torch.cat([options.set(s, [k], value) for value in values])  # (frames n, m)
    strip = to_uint8(edit(run.model, encoding, swept, args.steps, args.guidance[0], title="regenerating"))
    strip = strip.reshape(args.frames, n, *strip.shape[1:])
    rows = [np.concatenate([pixels[i : i + 1], strip[:, i]]) for i in range(n)]
    figure, _ = picture_rows(rows, names, ["original", *[f"s{k} = {value:.2f}" for value in values.tolist()]])
    files = save_figure(figure, folder / "sweep")
    numbers = {"prototype": k, "values": values.cpu().numpy(), "images": strip.swapaxes(0, 1)}
    arrays = save_arrays(folder / "sweep.npz", names=names, original=pixels, **numbers)
    print(f"prototype {k} from {values[0]:.2f} to {values[-1]:.2f}; figure: {files[0]} and .pdf; arrays: {arrays}")


def save_edit(run, args, settings, pixels, names, own, s, edited, plain, result, folder) -> None:
    """The figure, the arrays and the scores of an edit, and what to say of it."""
    import numpy as np
    import torch

    from analysis.drawing.figures import save_figure
    from analysis.results import save_arrays, save_json
    from train.images import to_uint8

    n, images = len(pixels), [to_uint8(plain), to_uint8(result.images)]
    with torch.no_grad():
        before = run.model.score(plain.clamp(-1, 1)).cpu()
    differences = np.abs(images[1].astype(float) - images[0]).mean(-1)  # (n, H, W)
    files = save_figure(draw_edits(run, pixels, names, images, differences, edited), folder / "manipulate")
    table = {}
    for i, name in enumerate(names):
        table[name] = {"guidance": float(result.guidance[i]), "reached": bool(result.reached[i])}
        for k in edited:
            reached = {"found_in_reconstruction": float(before[i, k]), "found_in_edit": float(result.scores[i, k])}
            table[name][f"prototype_{k}"] = {"own": float(own[i, k]), "set": float(s[i, k])} | reached
    arrays = save_arrays(
        folder / "manipulate.npz",
        names=names,
        original=pixels,
        reconstruction=images[0],
        edit=images[1],
        difference=differences,
    )
    numbers = save_json(
        folder / "manipulate.json", {"settings": settings, "attributes": args.attribute, "images": table}
    )
    for k in edited:
        start, to, after = own[:, k].mean(), s[:, k].mean(), result.scores[:, k].mean()
        means = f"set to {to:.2f} -> found in the edit {after:.2f} (means of {n} images)"
        print(f"prototype {k}: score {start:.2f} -> {means}")
    for what, chosen in (
        ("took guidance", result.guidance > 0),
        ("do not reach the commanded scores", ~result.reached),
    ):
        if chosen.any():
            which = ", ".join(name for name, yes in zip(names, chosen.tolist()) if yes)
            print(f"{int(chosen.sum())} of {n} images {what}: {which}")
    print(f"the edit differs from the reconstruction by {differences.mean():.1f} grey levels")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}; scores: {numbers}")


def main() -> None:
    args = parse_args()

    from functools import cache

    import torch

    from analysis.edits import edit_until_reached, encode_and_invert, regenerate
    from analysis.measures.cards import groups_of, matter_most
    from analysis.results import results_folder
    from train.data.dataset import load_split
    from train.images import to_tensor
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
    groups = cache(lambda: groups_of(run, scores))
    parsed = [parse_setting(text, scores, groups) for text in settings]
    moved = [parse_attribute(text, scores, test.attributes) for text in args.attribute]

    options = edit_options(args, run.model, scores)
    encoding = encode_and_invert(run.model, to_tensor(pixels, device), args.steps)
    own = s = encoding.scores
    commanded = list(dict.fromkeys(k for prototypes, _ in parsed for k in prototypes))
    if parsed:
        target = own.clone()
        for prototypes, change in parsed:
            target[:, prototypes] = change(target[:, prototypes])
        warn_outside(target[:, commanded], commanded, scores)
        s = options.set(own, commanded, target[:, commanded])
    for gap, _ in moved:
        s = s + torch.from_numpy(gap).to(s)
    folder = results_folder("manipulate", run)
    if args.sweep is not None:
        sweep(run, args, encoding, s, options, scores, pixels, names, folder)
        return
    plain = regenerate(run.model, encoding.noise, own, args.steps)
    edited = list(dict.fromkeys([*commanded, *(best for _, best in moved)]))
    result = edit_until_reached(run.model, encoding, s, edited, options, title="regenerating")
    save_edit(run, args, settings, pixels, names, own, s, edited, plain, result, folder)


if __name__ == "__main__":
    run_script(main)
