"""Which prototypes does the model tie together, though the images need not? No labels are used.

Each prototype a is given to the model alone, once at the mean of its lowest tenth of scores and once at that of its
highest, all else hidden; what becomes of every other prototype b? By masks: in the image that the model expects. By
generation: in images from random x_T. A tie is told as a share of what lies between the lowest and the highest tenth
of b in the training images, the smaller of the two ways; they must agree in sign, and generation must move b by more
than chance would in any pair. Trivial ties are not ranked: of prototypes that look at the same pixels, and within a
unit, which is prototypes of one place whose scores go together. Others come late: two that change the image alike, each
at its own place, are most often one thing seen twice, as two eyes; the rank is by the tie times 1 - alike.

A tie is what the model does, not yet a shortcut: a person decides by the pictures, one a tie, with the four corner
cases in the training images and how many there are. Beside stand what the data alone say: the same split of the data,
correlation, linear probe, Wasserstein distance. Results go to records/ties/<dataset>_v<n>/.
"""

import argparse

from analysis.script import open_run, require, run_parser
from train.errors import UserError, run_script

FEWEST = 100  # training images
LISTED = 10  # ties printed


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--draws", type=int, default=24, help="images generated at each end of a score (default: 24)")
    parser.add_argument("--figures", type=int, default=5, help="strongest ties that get a picture (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of x_T (default: 0)")
    args = parser.parse_args()
    require(parser, args, draws=4, figures=0, seed=0)
    return args


def stand_for(run, device) -> list[str]:
    """The attribute that each prototype tells best, with its AUROC, in the test images without `where`. It is
    for the reader of the ranking, which does not use it."""
    from analysis.measures.auroc import best_attributes
    from analysis.measures.labels import labelled_data
    from train.data.dataset import load_split
    from train.scores import encode

    test = load_split(labelled_data(run), "test")
    names, auroc = best_attributes(encode(run.model, test, device=device).numpy(), test.attributes)
    return [f"{name} {value:.2f}" for name, value in zip(names, auroc)]


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.drawing.tie_figures import COLUMNS, Card, draw_tie
    from analysis.edits import expected_images
    from analysis.measures import ties
    from analysis.measures.cards import best_patches
    from analysis.measures.scores import KnownScores
    from analysis.results import results_folder, save_table
    from analysis.schemas import TIES
    from train.data.dataset import load_split
    from train.images import to_uint8
    from train.scores import encode

    run, device = open_run(args)
    if not run.model.masked:
        raise UserError(f"{run.name}/{run.version}: its model cannot hide scores; train one with model.masked=true")
    data, train = run.config.data, load_split(run.config.data, "train")
    if len(train) < FEWEST:
        raise UserError(f"{run.name}/{run.version}: ties need {FEWEST} training images; its data set has {len(train)}")
    shape = (data.channels, data.image_size, data.image_size)
    scores = encode(run.model, train, device=device)
    ends, known = ties.extremes(scores), KnownScores(scores.to(device))
    values = ends.values.to(device)
    expected = expected_images(run.model, range(len(values.T)), values.T, known, shape)  # (m, 2, C, H, W)
    made = ties.generated_scores(run.model, values, args.draws, shape, args.seed)
    table = ties.pairs_table(scores, ends, ties.expected_scores(run.model, expected), made)
    maps = ties.places(run.model, train, ends)
    shared, same = ties.overlap(maps), ties.alike(expected, maps, run.model.encoder.receptive_field.size)
    unit = ties.units(scores, shared)
    ranked = ties.rank_ties(table, shared, same, unit)
    cases = [ties.corners(scores, ends, row.a, row.b, COLUMNS) for row in ranked.itertuples()]
    for number, case in enumerate(ties.CASES):
        ranked[case] = [found[number].count for found in cases]

    names = stand_for(run, device) if len(train.attributes.columns) else []
    for side in ("a", "b") if names else ():
        ranked[f"{side}_tells"] = [names[k] for k in ranked[side]]
    rows, boxes = best_patches(run, train)
    folder = results_folder("ties", run)
    for old in folder.glob("tie_*.p*"):
        old.unlink()
    save_table(folder / "pairs.csv", table)
    file = save_table(folder / "ties.csv", ranked.rename_axis("rank"))
    members = [np.flatnonzero(unit == number).tolist() for number in range(unit.max() + 1)]
    numbers = {"pairs": len(table), "sure": int(table["sure"].sum()), "units": members, "draws": args.draws}
    TIES.write(folder, numbers | {"ties": ranked.to_dict("records")})
    for row, found in list(zip(ranked.itertuples(), cases))[: args.figures]:
        cards = [Card(k, to_uint8(expected[k]), train.pixels[rows[k]], boxes[k]) for k in (row.a, row.b)]
        given = [
            to_uint8(ties.conditional_images(run.model, row.a, value, COLUMNS, shape, args.seed, device))
            for value in values[:, row.a].tolist()
        ]
        title = (
            f"{row.a} high: {row.b} {row.masked:+.2f} by masks, {row.generated:+.2f} generated, {row.data:+.2f} in data"
        )
        draw_tie(*cards, found, train.pixels, given, title, folder / f"tie_{row.Index}")

    print(f"{len(train)} training images, {args.draws} generated at each end of {len(values.T)} scores")
    print(f"{len(table)} ordered pairs, {numbers['sure']} tied beyond chance, in {len(members)} units")
    if len(ranked):
        print(f"ties of different units, the strongest of each two ({min(LISTED, len(ranked))} of {len(ranked)}):")
        shown = [
            "a",
            "b",
            "strength",
            "tie",
            "alike",
            "masked",
            "generated",
            "data",
            "correlation",
            "probe",
            "wasserstein",
        ]
        shown += [*ties.CASES, *(["a_tells", "b_tells"] if names else [])]
        print(ranked.head(LISTED)[shown].round(2).to_string())
    else:
        print("no tie beyond chance between prototypes of different units")
    print(f"ranking: {file}; all pairs: {folder / 'pairs.csv'}; pictures: {folder / 'tie_*.png'}")


if __name__ == "__main__":
    run_script(main)
