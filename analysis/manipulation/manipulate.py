"""Edit images through their prototypes (Weng et al. 2026, Fig. 1).

Test images (--images) or your own files (--image, repeatable) are inverted under their own scores, some scores are set,
and the images are regenerated from the same noise: original, reconstruction, edit, what differs between the two, with a
box where each edited prototype matches. --others says what becomes of the scores that are not set; --guidance auto
pushes those images, as little as it takes, in which the commanded scores are not found. --set group:3=state1 sets a
group of prototypes to the scores of one of its states, such as one colour of several (both are found without labels and
numbered as visualize_prototype.py shows them). Without --set the prototype that matters most is raised to its largest
score in the test set. --attribute NAME=AMOUNT (the one option that needs labels) sets what all scores together tell of
an attribute, a linear read-out of them: NAME=1 as it is in test images with it, NAME=0 as in those without. --sweep K
shows a strip over the values of prototype K instead. Results go to records/manipulate/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

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
    text = "K: a prototype, or group:3; VALUE: a number, +0.2, -0.2, max, mean or min, of a group state1; repeatable"
    parser.add_argument("--set", metavar="K=VALUE", action="append", default=[], help=text)
    parser.add_argument(
        "--attribute",
        metavar="NAME=AMOUNT",
        action="append",
        default=[],
        help="e.g. Black_Hair=1, Smiling=0 or Beard=0.5; repeatable",
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
    """'7=max', '7=+0.2', '7=0.4' or 'group:3=state1' -> (prototypes, their new scores (n, K) as a function of the old).

    scores (N, m): the test set's; groups(): the run's groups, asked for where one is named. Raises UserError.
    """
    from analysis.measures.scores import KnownScores

    name, equals, value = text.partition("=")
    group, number = name.strip().startswith("group:"), name.strip().removeprefix("group:")
    if not equals or not number.isdecimal():
        raise UserError(
            f"--set {text}: must be PROTOTYPE=VALUE or group:NUMBER=VALUE, e.g. 7=max, 7=0.4, 7=+0.2 or group:3=state1"
        )
    if group:
        known = groups()
        if int(number) >= len(known):
            there = f"0 to {len(known) - 1}" if known else "none"
            raise UserError(f"--set {text}: there is no group {number}; the run has {there}")
        members, states = known[int(number)]
        names = [f"state{j}" for j in range(len(states))]
        if value not in names:
            raise UserError(f"--set {text}: group {number} can be set to {', '.join(names)}")
        return members, lambda old: old * 0 + states[names.index(value)].to(old)
    k = int(number)
    check_prototype(k, scores.shape[1], f"--set {text}")
    lowest, highest = KnownScores(scores[:, k : k + 1]).range[0].tolist()
    named = {"max": highest, "mean": scores[:, k].mean().item(), "min": lowest}
    if value in named:
        target = named[value]
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
    from analysis.measures.scores import KnownScores

    ranges = KnownScores(scores[:, prototypes]).range.tolist()
    for k, column, (low, high) in zip(prototypes, values.cpu().T, ranges):
        for value in {column.min().item(), column.max().item()}:
            if not low - 1e-6 <= value <= high + 1e-6:
                nearest = low if value < low else high
                seen = f"the scores seen, {low:.2f} to {high:.2f}"
                print(f"prototype {k}: {value:.2f} lies outside {seen}; the nearest is {nearest:.2f}")


def parse_attribute(text: str, known, attributes):
    """'Black_Hair=1' -> (its ReadOut, the amount, the prototype that tells it best); known: KnownScores of N images, N
    rows of attributes.

    Raises UserError.
    """
    from analysis.measures.auroc import both_ways
    from analysis.measures.readouts import read_out

    name, equals, value = text.partition("=")
    if name not in attributes:
        raise UserError(f"--attribute {text}: no attribute '{name}'; there are {listed(attributes.columns, 50)}")
    try:
        amount = float(value)
    except ValueError:
        raise UserError(f"--attribute {text}: must be NAME=AMOUNT, e.g. {name}=1 or {name}=0") from None
    labels = attributes[name].to_numpy(float)
    if not {0.0, 1.0} <= set(labels):
        raise UserError(f"--attribute {name}: the test images hold one class of it only")
    best = int(both_ways(known.scores.cpu().numpy(), labels).argmax())
    return read_out(known, labels), amount, best


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
        short = path.rsplit("/", 1)[-1]
        names.append(path if short in names else short)
    return np.stack(pixels), names


class Commands(NamedTuple):
    """What the command line asks for: settings, each (prototypes, their new scores as a function of the old), and
    attributes, each (its ReadOut, the amount, the prototype that tells it best)."""

    texts: list[str]
    settings: list
    attributes: list

    @property
    def set_prototypes(self) -> list[int]:
        return list(dict.fromkeys(k for prototypes, _ in self.settings for k in prototypes))

    @property
    def prototypes(self) -> list[int]:
        """Those that are set, and those that stand for an attribute."""
        return list(dict.fromkeys([*self.set_prototypes, *(best for _, _, best in self.attributes)]))

    def missing(self, found):
        """What the scores found (n, m) lack of the attributes asked for, the worst of them: (n,)."""
        import torch

        short = [found.new_zeros(len(found)), *(told.missing(amount)(found) for told, amount, _ in self.attributes)]
        return torch.stack(short).amax(0)

    def scores(self, own, options, known):
        """Own scores (n, m) -> edited ones; known (N, m): of the test set, beyond whose range it warns."""
        edited = own
        if self.settings:
            target = own.clone()
            for prototypes, change in self.settings:
                target[:, prototypes] = change(target[:, prototypes])
            values = target[:, self.set_prototypes]
            warn_outside(values, self.set_prototypes, known)
            edited = options.set(own, self.set_prototypes, values)
        for told, amount, _ in self.attributes:
            edited = told.set(edited, amount)
        return edited


def parse_commands(args, run, test, scores, known) -> Commands:
    """scores (N, m): the test set's; known: the same as KnownScores. Raises UserError."""
    from functools import cache

    from analysis.measures.cards import groups_of, matter_most

    texts = args.set
    if not texts and not args.attribute and args.sweep is None:
        texts = [f"{matter_most(run, test, scores, 1)[0]}=max"]
    groups = cache(lambda: groups_of(run))
    settings = [parse_setting(text, scores, groups) for text in texts]
    return Commands(texts, settings, [parse_attribute(text, known, test.attributes) for text in args.attribute])


class Sweep(NamedTuple):
    """One prototype at F values in n images: uint8 (n, F, H, W, C)."""

    prototype: int
    values: object
    images: object


def sweep(run, args, encoding, edited, options) -> Sweep:
    """The values reach from the lowest to the highest score seen; edited (n, m): the scores that --set leaves."""
    import torch

    from analysis.edits import edit
    from train.images import to_uint8

    k, n = args.sweep, len(edited)
    values = torch.linspace(*options.known.range[k].tolist(), args.frames, device=edited.device)
    swept = torch.cat([options.set(edited, [k], value) for value in values])  # (F n, m)
    images = to_uint8(edit(run.model, encoding, swept, args.steps, args.guidance[0], title="regenerating"))
    return Sweep(k, values.cpu().numpy(), images.reshape(args.frames, n, *images.shape[1:]).swapaxes(0, 1))


def save_sweep(swept: Sweep, pixels, names: list[str], folder) -> None:
    """A strip, an image a row, and its arrays."""
    import numpy as np

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import picture_rows
    from analysis.results import save_arrays

    titles = ["original", *[f"s{swept.prototype} = {value:.2f}" for value in swept.values]]
    sheet = picture_rows([np.stack([own, *row]) for own, row in zip(pixels, swept.images)], names, titles)
    files = save_figure(sheet.figure, folder / "sweep")
    arrays = save_arrays(folder / "sweep.npz", names=names, original=pixels, **swept._asdict())
    print(
        f"prototype {swept.prototype} from {swept.values[0]:.2f} to {swept.values[-1]:.2f}; "
        f"figure: {files[0]} and .pdf; arrays: {arrays}"
    )


class Edits(NamedTuple):
    """n images before and after: pixels uint8 (n, H, W, C) as they were, regenerated under their own scores, and under
    the edited ones; difference (n, H, W) of the last two in grey levels.

    Scores (n, m): the own, those commanded, and of both regenerated images. guidance (n,) that each image took, reached
    (n,): whether it has its commanded scores. Boxes (n, K, 4) of K prototypes' best patches in both.
    """

    names: list[str]
    prototypes: list[int]
    original: object
    reconstruction: object
    edit: object
    difference: object
    own: object
    commanded: object
    score_before: object
    score_after: object
    guidance: object
    reached: object
    boxes: list


def apply_edit(run, encoding, edited, commands: Commands, options, *, pixels, names: list[str]) -> Edits:
    """Regenerate the encoded images under their own and under edited scores (n, m)."""
    import numpy as np

    from analysis.edits import edit_until_reached, regenerate
    from train.images import to_uint8

    plain = regenerate(run.model, encoding.noise, encoding.scores, options.steps).clamp(-1, 1)
    result = edit_until_reached(
        run.model, encoding, edited, commands.set_prototypes, options, "regenerating", commands.missing
    )
    prototypes = commands.prototypes
    matches = [run.model.encoder.match(images) for images in (plain, result.images)]
    reconstruction, edit = to_uint8(plain), to_uint8(result.images)
    return Edits(
        names,
        prototypes,
        original=pixels,
        reconstruction=reconstruction,
        edit=edit,
        difference=np.abs(edit.astype(float) - reconstruction).mean(-1),
        own=encoding.scores.cpu().numpy(),
        commanded=edited.cpu().numpy(),
        score_before=matches[0].scores.cpu().numpy(),
        score_after=matches[1].scores.cpu().numpy(),
        guidance=result.guidance.cpu().numpy(),
        reached=result.reached.cpu().numpy(),
        boxes=[match.boxes[:, prototypes].tolist() for match in matches],
    )


def draw_edits(edits: Edits):
    """Four columns an image: original, reconstruction, edit, difference; a box of one colour a prototype."""
    from analysis.drawing.sheet import Sheet

    colours, limit = COLOURS * len(edits.prototypes), max(float(edits.difference.max()), 1.0)
    key = ", ".join(f"{k} ({colour})" for k, colour in zip(edits.prototypes, colours))
    heading = f"boxes: prototype{'s' * (len(edits.prototypes) > 1)} {key}"
    titles = ["original", "reconstruction", "edit", f"difference, 0 (black)\nto {limit:.0f} grey levels"]
    sheet = Sheet(edits.names, titles, side=1.5, heading=heading)
    for line in range(len(edits.names)):
        for column, images in enumerate((edits.original, edits.reconstruction, edits.edit)):
            sheet.picture(line, column, images[line])
        for column, boxes in enumerate(edits.boxes, start=1):
            for box, colour in zip(boxes[line], colours):
                sheet.box(line, column, box, colour)
        sheet.heat(line, 3, edits.difference[line], limit)
    return sheet.figure


def save_edits(edits: Edits, commands: dict, folder) -> str:
    """The figure, the arrays and the scores -> where they are; commands: of the command line."""
    from analysis.drawing.figures import save_figure
    from analysis.results import save_arrays, save_json

    table = {}
    for i, name in enumerate(edits.names):
        table[name] = {"guidance": float(edits.guidance[i]), "reached": bool(edits.reached[i])}
        for k in edits.prototypes:
            table[name][f"prototype_{k}"] = {
                "own": float(edits.own[i, k]),
                "set": float(edits.commanded[i, k]),
                "score_in_reconstruction": float(edits.score_before[i, k]),
                "score_in_edit": float(edits.score_after[i, k]),
            }
    file = save_figure(draw_edits(edits), folder / "manipulate")[0]
    pictures = {key: getattr(edits, key) for key in ("original", "reconstruction", "edit", "difference")}
    arrays = save_arrays(folder / "manipulate.npz", names=edits.names, **pictures)
    numbers = save_json(folder / "manipulate.json", commands | {"images": table})
    return f"figure: {file} and .pdf; arrays: {arrays}; scores: {numbers}"


def print_edits(edits: Edits) -> None:
    n = len(edits.names)
    for k in edits.prototypes:
        own, to, after = (scores[:, k].mean() for scores in (edits.own, edits.commanded, edits.score_after))
        print(f"prototype {k}: score {own:.2f} -> set to {to:.2f} -> in the edit {after:.2f} (means of {n} images)")
    for what, chosen in (
        ("took guidance", edits.guidance > 0),
        ("do not reach the commanded scores", ~edits.reached),
    ):
        if chosen.any():
            which = ", ".join(name for name, yes in zip(edits.names, chosen.tolist()) if yes)
            print(f"{int(chosen.sum())} of {n} images {what}: {which}")
    print(f"the edit differs from the reconstruction by {edits.difference.mean():.1f} grey levels")


def main() -> None:
    args = parse_args()

    from analysis.edits import encode_and_invert
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
    options = edit_options(args, run.model, scores)
    commands = parse_commands(args, run, test, scores, options.known)
    encoding = encode_and_invert(run.model, to_tensor(pixels, device), args.steps)
    edited = commands.scores(encoding.scores, options, scores)
    folder = results_folder("manipulate", run, args.outdir)
    if args.sweep is not None:
        save_sweep(sweep(run, args, encoding, edited, options), pixels, names, folder)
        return
    edits = apply_edit(run, encoding, edited, commands, options, pixels=pixels, names=names)
    files = save_edits(edits, {"settings": commands.texts, "attributes": args.attribute}, folder)
    print_edits(edits)
    print(files)


if __name__ == "__main__":
    run_script(main)
