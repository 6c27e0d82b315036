"""What does the model tie together, though the images need not? No labels are used.

Prototypes are joined into units, each of which tells of one thing: their scores go together, and they look at the same
place or bring about the same change at another. Of every two units the axes are taken that go together most in the
training images. Then the model is asked: one unit alone is given as it is at the low and at the high end of its axis,
all else hidden; what becomes of the other's axis? By masks: in the image that the model expects, of every two units.
By generation, of the strongest by masks: in images from random x_T. A tie is told as a share of what lies between the
lowest and the highest tenth of the other's axis in the training images, the smaller of the two ways, which must agree
in sign; the rank is by the tie times 1 - alike, since what changes alike at two places is most often one thing seen
twice.

What the images force is not ranked: units that look at the same pixels, and those that never come apart in the images
(fewer than a tenth of the exceptions that chance would give), as two eyes. A shortcut without any exception cannot be
told from them; the strongest of these are printed, too. Templates, which look at the whole image, are not asked.

A tie is what the model does, not yet a shortcut: a person decides by the pictures, one a tie, with the four corner
cases in the training images and how many there are. Beside stand what the data alone say: the same split of the data,
correlation of the axes on images that did not choose them, Wasserstein distance. Results go to
records/ties/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import open_run, require, run_parser
from train.errors import UserError, run_script

FEWEST = 100  # training images
CANDIDATES = 20  # pairs of units, the strongest by masks, from which images are generated
LISTED = 10  # ties printed
INSEPARABLE = 3  # of those that never come apart
SHOWN = ["a", "b", "strength", "error", "masked", "generated", "data", "alike", "exceptions", "correlation"]


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--draws", type=int, default=32, help="images generated at each end of an axis (default: 32)")
    parser.add_argument("--figures", type=int, default=5, help="strongest ties that get a picture (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of x_T (default: 0)")
    args = parser.parse_args()
    require(parser, args, draws=4, figures=0, seed=0)
    return args


class Found(NamedTuple):
    """train: the images; scores (N, m); units: their members; table: every two units by masks; ranked: the candidates;
    cases: the corners of each."""

    train: object
    scores: object
    units: list[list[int]]
    table: object
    ranked: object
    cases: list


def shape_of(run) -> tuple[int, int, int]:
    data = run.config.data
    return data.channels, data.image_size, data.image_size


def compute(run, args, device) -> Found:
    """Raises UserError where the model cannot hide scores, or too few images are known."""
    import numpy as np
    import torch

    from analysis.drawing.tie_figures import COLUMNS
    from analysis.edits import expected_images
    from analysis.measures import ties
    from analysis.measures.scores import KnownScores
    from train.data.dataset import load_split
    from train.scores import encode

    if not run.model.masked:
        raise UserError(f"{run.name}/{run.version}: its model cannot hide scores; train one with model.masked=true")
    train, shape = load_split(run.config.data, "train"), shape_of(run)
    if len(train) < FEWEST:
        raise UserError(f"{run.name}/{run.version}: ties need {FEWEST} training images; its data set has {len(train)}")
    scores, count = encode(run.model, train, device=device), len(run.model.encoder.prototypes)
    ends, known = ties.extremes(scores), KnownScores(scores.to(device))
    expected = expected_images(run.model, range(count), ends.values.to(device).T[:count], known, shape)
    maps = ties.places(run.model, train, ends)[:count]
    shared, same = ties.overlap(maps), ties.alike(expected, maps, run.model.encoder.receptive_field.size)
    related = ties.correlations(scores[:, :count])
    unit = ties.units(related, torch.maximum(shared, same))
    pairs = ties.pairs_of_units(scores[:, :count], unit, related, shared, same)
    table = ties.by_masks(run.model, pairs, known, shape)
    candidates = table[table["ranked"]].head(CANDIDATES)
    made = ties.generated_effects(run.model, candidates["pair"], known.scores, args.draws, shape, args.seed)
    ranked = ties.rank_ties(candidates, made)
    cases = [ties.corners(pair.values(scores), COLUMNS) for pair in ranked["pair"]]
    for number, case in enumerate(ties.CASES):
        ranked[case] = [found[number].count for found in cases]
    units = [np.flatnonzero(unit == number).tolist() for number in range(unit.max() + 1)]
    return Found(train, scores, units, table, ranked, cases)


def stand_for(run, device, pairs) -> dict[str, list[str]]:
    """The attribute that each axis tells best, with its AUROC, in the test images without `where`; nothing where there
    are no labels. It is for the reader of the ranking, which does not use it."""
    import torch

    from analysis.measures.auroc import best_attributes
    from analysis.measures.labels import labelled_data
    from train.data.dataset import load_split
    from train.scores import encode

    test = load_split(labelled_data(run), "test")
    if not len(test.attributes.columns) or not len(pairs):
        return {}
    scores, told = encode(run.model, test, device=device), {}
    values = torch.stack([pair.values(scores) for pair in pairs])  # (pairs, n, 2)
    for side, name in enumerate(("a_tells", "b_tells")):
        names, auroc = best_attributes(values[:, :, side].T.numpy(), test.attributes)
        told[name] = [f"{name} {value:.2f}" for name, value in zip(names, auroc)]
    return told


def draw(run, found: Found, args, folder) -> None:
    """A picture of each of the strongest ties."""
    from analysis.drawing.tie_figures import COLUMNS, Card, draw_tie
    from analysis.edits import expected_together
    from analysis.measures import ties
    from analysis.measures.cards import best_patches
    from analysis.measures.scores import KnownScores
    from train.images import to_uint8

    for old in folder.glob("tie_*.p*"):
        old.unlink()
    if not args.figures or not len(found.ranked):
        return
    rows, boxes = best_patches(run, found.train)
    device, shape = run.model.encoder.prototypes.device, shape_of(run)
    known = KnownScores(found.scores.to(device))

    def card(axis: ties.Axis) -> Card:
        values, k = ties.end_values(known.scores, axis), axis.members[0]
        expected = to_uint8(expected_together(run.model, axis.members, values, known, shape))
        return Card(k, expected, found.train.pixels[rows[k]], boxes[k])

    for row, cases in list(zip(found.ranked.itertuples(), found.cases))[: args.figures]:
        pair, values = row.pair, ties.end_values(known.scores, row.pair.a)
        given = [
            to_uint8(ties.conditional_images(run.model, pair.a.members, end, COLUMNS, shape, args.seed))
            for end in values
        ]
        title = (
            f"{row.a} and its unit high: {row.b} and its unit {row.masked:+.2f} by masks, {row.generated:+.2f} "
            f"generated, {row.data:+.2f} in data"
        )
        draw_tie(card(pair.a), card(pair.b), cases, found.train.pixels, given, title, folder / f"tie_{row.Index}")


def save(found: Found, args, folder):
    """All pairs, the ranking, and both as numbers with every axis. -> the file of the ranking."""
    from analysis.results import save_table
    from analysis.schemas import TIES

    plain = [table.drop(columns=["pair", "ranked"]) for table in (found.table, found.ranked)]
    save_table(folder / "pairs.csv", plain[0])
    axes = [
        {f"{name}_{side}": getattr(getattr(pair, side), name) for name in ("members", "weights") for side in "ab"}
        for pair in found.ranked["pair"]
    ]
    rows = [row | axis for row, axis in zip(plain[1].to_dict("records"), axes)]
    numbers = {"pairs": len(found.table), "sure": int(found.ranked["sure"].sum()), "units": found.units}
    TIES.write(folder, numbers | {"draws": args.draws, "ties": rows})
    return save_table(folder / "ties.csv", plain[1].rename_axis("rank"))


def tell(found: Found, args, names: list[str]) -> None:
    """names: the columns of what axes tell."""
    from analysis.measures.ties import APART

    table, ranked = found.table, found.ranked
    print(
        f"{len(found.train)} training images; {sum(map(len, found.units))} prototypes in {len(found.units)} units, "
        f"{len(table)} pairs of units"
    )
    together = table[~table["ranked"] & (table["overlap"] <= APART)]
    forced = (table["overlap"] > APART).sum()
    print(f"not ranked: {forced} pairs look at the same pixels, {len(together)} never come apart in the images")
    for row in together.head(INSEPARABLE).itertuples():
        print(f"  never apart: {row.a} with {row.b}, {row.masked:+.2f} by masks")
    if not len(ranked):
        print("no two units are left to be ranked")
        return
    print(
        f"{len(ranked)} ties ranked, {args.draws} images generated at each end; {ranked['sure'].sum()} are more than "
        f"chance; the strongest {min(LISTED, len(ranked))}, each by the first prototypes of its units:"
    )
    print(ranked.head(LISTED)[[*SHOWN, *names]].round(2).to_string())


def main() -> None:
    args = parse_args()

    from analysis.results import results_folder

    run, device = open_run(args)
    found = compute(run, args, device)
    told = stand_for(run, device, found.ranked["pair"])
    found = found._replace(ranked=found.ranked.assign(**told))
    folder = results_folder("ties", run, args.outdir)
    file = save(found, args, folder)
    draw(run, found, args, folder)
    tell(found, args, list(told))
    print(f"ranking: {file}; all pairs: {folder / 'pairs.csv'}; pictures: {folder / 'tie_*.png'}")


if __name__ == "__main__":
    run_script(main)
