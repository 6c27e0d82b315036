"""The remedy of a shortcut: images in which prototypes A and B, tied in the training images, are independent.

Image i takes the scores of one training image, its source, but those that go with A from another, its donor, both drawn
at random: A then says nothing of B. PNGs alone in records/FID/balanced_<dataset>_<version>/run_<k>/, made as
train/conditional_sampling.py makes its own; beside them run_<k>.csv: each image's source and donor, what was set (A and
B, low or high), what is found in the image, and whether it is kept, which is where both agree.

--measure NAME_A,NAME_B shows what that is worth, where the training images have these attributes: a small classifier of
both is trained on the training images, on the kept ones (A as in the donor, B as in the source) and on truly unbiased
ones, as many each, and judged on unbiased test images in the cells that the training images lack. Which prototypes to
give: analysis/diagnosis/ties.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import parse_prototypes
from train.errors import UserError, listed, run_script
from train.generation import parse_sampling, sampling_parser

FEWEST = 50  # images kept, and test images in the cells that the training set lacks


def parse_args() -> argparse.Namespace:
    parser = sampling_parser(__doc__)
    parser.add_argument("--balance", required=True, metavar="A,B", help="two prototypes, by number")
    parser.add_argument("--measure", metavar="NAME_A,NAME_B", help="attributes that A and B stand for")
    parser.add_argument(
        "--reference", metavar="YAML", help="config of the unbiased images (default: the run's data without `where`)"
    )
    return parse_sampling(parser)


def two_prototypes(text: str, scores) -> list[int]:
    """--balance of scores (N, m). Raises UserError."""
    chosen = parse_prototypes(text, scores.shape[1], "--balance")
    if len(set(chosen)) != 2:
        raise UserError(f"--balance {text}: must be two different prototypes, e.g. 38,43")
    for k in chosen:
        if not scores[:, k].std() > 0:
            raise UserError(f"--balance {text}: the score of prototype {k} never varies")
    return chosen


def two_attributes(text: str, images) -> list[str]:
    """--measure. Raises UserError."""
    names, there = text.split(","), list(images.attributes.columns)
    if len(set(names)) != 2 or not set(names) <= set(there):
        raise UserError(f"--measure {text}: must be two attributes of the data set; it has {listed(there, 50)}")
    return names


def known_labels(images, names):
    """-> the images in which both attributes are known, their labels (N, 2)."""
    import numpy as np

    labels = images.attributes[names].to_numpy(float)
    known = np.flatnonzero(~np.isnan(labels).any(1))
    return images.subset(known), labels[known]


class Measure(NamedTuple):
    """What --measure is judged by: attributes; images with labels (N, 2): biased, unbiased, test; which of the test
    images lie in the cells that the biased ones lack (N,)."""

    names: list[str]
    biased: tuple
    unbiased: object  # DataConfig
    test: tuple
    rare: object


def read_measure(run, train, args) -> Measure:
    """Raises UserError."""
    from analysis.diagnosis.diagnose import labelled_data
    from analysis.measures.balance import lacking
    from train.data.dataset import load_split

    names, unbiased = two_attributes(args.measure, train), labelled_data(run, args.reference)
    biased, test = known_labels(train, names), known_labels(load_split(unbiased, "test"), names)
    rare = lacking(biased[1], test[1])
    if rare.sum() < FEWEST or (~rare).sum() < FEWEST:
        raise UserError(
            f"--measure {args.measure}: {rare.sum()} of {len(rare)} unbiased test images lie in cells that the "
            f"training images lack; {FEWEST} in them and in the others are needed"
        )
    return Measure(names, biased, unbiased, test, rare)


class Balanced(NamedTuple):
    """Images made and where they are; pairs (n, 2) of source and donor; whether A and B are high, bool (N, 2) in the
    training images, (n, 2) as set and as found; whether the last two agree (n,)."""

    made: object  # ImageSet
    folder: Path
    pairs: object
    known: object
    given: object
    found: object
    kept: object


def made_images(folder: Path, count: int, like):
    """The first `count` images of the folder as an ImageSet without labels, of the shape of `like`."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from train.data.dataset import ImageSet

    files = [folder / f"{i:06d}.png" for i in range(count)]
    pixels = np.stack([np.asarray(Image.open(file)).reshape(like.pixels.shape[1:]) for file in files])
    return ImageSet(pixels, [file.name for file in files], pd.DataFrame(index=range(count)), None)


def balance(run, train, scores, ab: list[int], members: list[int], args, device) -> Balanced:
    """Make the images and read them. scores (N, m); ab: the two prototypes; members: what goes with the first."""
    from analysis.measures.balance import draw_pairs, exchanged
    from analysis.measures.ties import extremes
    from train.generation import generate, sampling_of
    from train.scores import encode

    sampling = sampling_of(args, run.model)
    pairs = draw_pairs(sampling.seed, range(sampling.total_gen_num), len(train))
    about = {"balance": ab, "exchanged": members}

    def scores_of(numbers):
        return exchanged(scores, pairs[numbers], members).to(device)

    folder = generate(run, "balanced", sampling, about, scores_of, device, number=args.run, batch=args.batch)
    made, middle = made_images(folder, len(pairs), train), extremes(scores).values[:, ab].mean(0)
    sets = scores, exchanged(scores, pairs, members), encode(run.model, made, device=device)
    known, given, found = ((values[:, ab] > middle).numpy() for values in sets)
    return Balanced(made, folder, pairs, known, given, found, (given == found).all(1))


def save(balanced: Balanced, ids: list[str]) -> Path:
    """The table of every image; ids: those of the training images."""
    import pandas as pd

    from analysis.results import save_table

    table = pd.DataFrame({"image": balanced.made.ids})
    table["source"], table["donor"] = ([ids[i] for i in rows] for rows in balanced.pairs.T)
    for what, values in (("set", balanced.given), ("found", balanced.found)):
        table[f"a_{what}"], table[f"b_{what}"] = values.T.astype(int)
    table["kept"] = balanced.kept.astype(int)
    folder = balanced.folder
    return save_table(folder.with_name(f"{folder.name}.csv"), table.set_index("image"))


def tell(balanced: Balanced, ab: list[int], members: list[int], file: Path) -> None:
    (a, b), kept = ab, balanced.kept
    print(f"{len(members)} scores go with prototype {a} and come from the donor: {listed(members, 20)}")
    counted = {"training images": balanced.known, "set": balanced.given, "found in those kept": balanced.found[kept]}
    for what, values in counted.items():
        print(f"{a} high with {b} low, high; {a} low with {b} low, high: {cells(values)} ({what})")
    print(f"{kept.sum()} of {len(kept)} kept; sources, donors and what was set: {file}")


def judge(balanced: Balanced, measure: Measure, train, seed: int, device) -> None:
    """The worth of what is kept: a table, printed and saved. Raises UserError where too few images are kept."""
    import numpy as np

    from analysis.measures.balance import accuracies
    from analysis.results import save_table
    from train.data.dataset import load_split

    kept, folder, names, rare = balanced.kept, balanced.folder, measure.names, measure.rare
    if kept.sum() < FEWEST:
        raise UserError(f"only {kept.sum()} images have what was set: too few for a classifier; {FEWEST} are needed")
    columns = [train.attributes[name].to_numpy(float)[balanced.pairs[:, i]] for name, i in zip(names, (1, 0))]
    balanced.made.attributes[names] = np.stack(columns, axis=1)
    sets = {"biased": measure.biased, "balanced": known_labels(balanced.made.subset(np.flatnonzero(kept)), names)}
    sets["unbiased"] = known_labels(load_split(measure.unbiased, "train"), names)
    result = accuracies(sets, *measure.test, rare, device, seed)
    result.columns = ["trained_on", "images", *(f"{which} {name}" for which in ("lacking", "others") for name in names)]
    saved = save_table(folder.with_name(f"{folder.name}_accuracies.csv"), result.set_index("trained_on"))
    print(
        f"accuracy on {rare.sum()} unbiased test images in the cells that are lacking, and on {(~rare).sum()} others:"
    )
    print(result.round(3).to_string(index=False))
    print(f"table: {saved}")


def main() -> None:
    args = parse_args()

    from analysis.measures.balance import goes_with
    from train.data.dataset import load_split
    from train.distributed import pick_device
    from train.runs import load_run
    from train.scores import encode

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    train = load_split(run.config.data, "train")
    scores = encode(run.model, train, device=device)
    ab = two_prototypes(args.balance, scores)
    measure = read_measure(run, train, args) if args.measure else None
    members = goes_with(scores, *ab)
    balanced = balance(run, train, scores, ab, members, args, device)
    tell(balanced, ab, members, save(balanced, train.ids))
    if measure:
        judge(balanced, measure, train, args.seed, device)


def cells(high) -> str:
    """Counts of the four cells of (n, 2) bool."""
    return ", ".join(str(int((high == cell).all(1).sum())) for cell in ((1, 0), (1, 1), (0, 0), (0, 1)))


if __name__ == "__main__":
    run_script(main)
