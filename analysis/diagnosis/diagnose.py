"""Has the model learnt a shortcut, and which? (Weng et al. 2026, Sec. 4.4)

Two questions are asked of every ordered pair of attributes A, B, with labelled images in which the two are not tied (by
default the run's data set without its `where`). Edit: the prototypes that tell A (ranked by AUROC) are raised and
lowered by half of their class gap, on test images at their own x_T; does the evidence of B move, more than when random
prototypes are moved as much? All other scores are kept, so that correlations of the data cannot pass for those of the
model. Generation: images from real, unedited scores and random x_T; does B come out wrong because of A? Both must say
so, in the same direction and by at least a tenth of the difference between having B and not, at corrected p < 0.05.
Evidence is read by a small classifier trained on the labelled images, or by the prototypes alone with --no-classifier.
Results go to records/diagnose/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from itertools import combinations
from typing import NamedTuple

from analysis.script import CI, open_run, require, run_parser
from train.errors import UserError, listed, run_script

REPORTED = 3  # images of each shortcut that the report shows
LEARNT = 20_000  # training images at most that the reader of prototypes learns from
UNREADABLE = 0.8  # AUROC below which an attribute cannot be read off images


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=10)
    parser.add_argument(
        "--reference",
        metavar="YAML",
        help="config whose data are the labelled images (default: the run's data without `where` and `rules`)",
    )
    parser.add_argument(
        "--classifier",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read attributes off pixels (default: yes)",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="edit the K best prototypes of an attribute (default: all that tell it beyond chance)",
    )
    parser.add_argument("--num_samples", type=int, default=64, help="test images edited (default: 64)")
    parser.add_argument("--generated", type=int, default=300, help="images generated from real scores (default: 300)")
    text = "how strongly edits are pushed away from the images' own scores; the other scores are always kept"
    parser.add_argument("--guidance", type=float, default=0.0, metavar="W", help=f"{text} (default: 0)")
    parser.add_argument("--nulls", type=int, default=20, help="edits of random prototypes (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of images, noise and nulls (default: 0)")
    args = parser.parse_args()
    require(parser, args, steps=2, top=1, num_samples=8, generated=50, nulls=10, seed=0)
    return args


def labelled_data(run, reference: str | None):
    """The DataConfig of the labelled images. Raises UserError."""
    from analysis.measures import labels
    from train.config import load_config

    if reference is None:
        return labels.labelled_data(run)
    own, data = run.config.data, load_config(reference).data
    if (data.image_size, data.channels) != (own.image_size, own.channels):
        raise UserError(
            f"--reference {reference}: its images are {data.channels}x{data.image_size}, the run's "
            f"{own.channels}x{own.image_size}"
        )
    return data


class Labelled(NamedTuple):
    """The labelled images, and which of their attributes can be asked about."""

    data: object  # DataConfig
    train: object  # ImageSets
    test: object
    names: list[str]
    left_out: list[str]

    def labels(self, split: str):
        """Of an ImageSet, 'train' or 'test': (N, A), NaN where unknown."""
        return getattr(self, split).attributes[self.names].to_numpy(float)


class Asked(NamedTuple):
    """What is asked of which images, decided from labels alone."""

    edited: object  # rows of test images, ascending
    generated: object
    pairs: list[tuple[int, int]]  # ordered, of attributes that can be told apart in the images generated from
    untellable: list[tuple[int, int]]  # the others, i < j


class Evidence(NamedTuple):
    """What one reader sees: before and after in the images generated from (n, A), the class gaps (A,), how well it
    reads each attribute (A,), the effects of each attribute's edit (A of (images, A)), means of those of random ones
    (R, A), and how large each attribute's edit is, as a multiple of each random one (A, R)."""

    before: object
    after: object
    scale: object
    legible: object
    effects: list
    nulls: object
    ratios: object


class Findings(NamedTuple):
    """readers: by name, the last is the one that counts; ranks: of each attribute all prototypes, the best first."""

    readers: dict[str, Evidence]
    tables: dict[str, object]  # pandas, one row a pair
    edits: object  # analysis.measures.shortcuts.Edits
    gaps: tuple
    ranks: tuple

    @property
    def main(self) -> str:
        return list(self.readers)[-1]

    @property
    def shares(self):
        """Effects of random prototypes, as shares of class gaps: (R, A)."""
        return self.readers[self.main].nulls / self.readers[self.main].scale

    @property
    def found(self) -> list:
        """Rows of the shortcuts."""
        table = self.tables[self.main]
        return list(table[table["shortcut"]].itertuples())


def read_labelled(run, args) -> Labelled:
    """Raises UserError where there are too few attributes or images."""
    from analysis.measures.labels import usable_attributes
    from analysis.measures.shortcuts import FEWEST
    from train.data.dataset import load_split

    data = labelled_data(run, args.reference)
    train, test = load_split(data, "train"), load_split(data, "test")
    names, left_out = usable_attributes([test.attributes, train.attributes], FEWEST, unknown=True)
    if len(names) < 2:
        raise UserError(
            f"diagnosis needs two attributes with at least {FEWEST} labelled images of each class; the "
            f"data set has {names or 'none'}"
        )
    for need, option in ((args.num_samples, "num_samples"), (args.generated, "generated")):
        if need > len(test):
            raise UserError(f"--{option} {need}: there are only {len(test)} labelled test images")
    return Labelled(data, train, test, names, left_out)


def ask(labelled: Labelled, args, rng) -> Asked:
    """Which images are edited, which generated from, and about which pairs these can say something. Raises UserError
    where about none."""
    import numpy as np

    from analysis.measures.shortcuts import FEWEST, tellable

    labels = labelled.labels("test")
    order = rng.permutation(len(labels))
    edited, rows = np.sort(order[: args.num_samples]), np.sort(order[-args.generated :])
    both = list(combinations(range(len(labelled.names)), 2))

    def told(among) -> list[tuple[int, int]]:
        return [(i, j) for i, j in both if tellable(among[:, i], among[:, j])]

    tell = told(labels[rows])
    if not tell:
        few = f"in none of {len(both)} pairs of attributes has each of the four combinations {FEWEST} of the"
        if told(labels):
            raise UserError(f"{few} {len(rows)} images generated from; raise --generated, to {len(labels)} at most")
        raise UserError(
            f"{few} {len(labels)} labelled test images, so neither can be told from the other, as of classes that "
            "exclude one another; give --reference images with attributes that occur together, "
            "e.g. a class and a mark (plant_mark.py)"
        )
    ordered = sorted(pair for i, j in tell for pair in ((i, j), (j, i)))
    return Asked(edited, rows, ordered, [pair for pair in both if pair not in tell])


def measure(run, labelled: Labelled, asked: Asked, args, device, rng):
    """Edit and generate, and let every reader read. -> (Evidence by reader, Edits, gaps, ranks)."""
    import numpy as np
    from tqdm import tqdm

    from analysis.measures.readers import class_gaps, classifier_reader, prototype_reader, read_set, reliability
    from analysis.measures.shortcuts import Edits, as_tensor, class_gap, gap_size, generated_evidence, random_gap
    from train.images import to_tensor
    from train.scores import encode

    test, data, labels = labelled.test, labelled.data, labelled.labels("test")
    scores = encode(run.model, test, device=device)
    order = np.random.default_rng(args.seed).permutation(len(labelled.train))  # of its own: rng draws the random edits
    learnt = labelled.train.subset(order[:LEARNT])
    known = encode(run.model, learnt, device=device).numpy()
    readers = {"prototypes": prototype_reader(run.model, known, learnt.attributes[labelled.names].to_numpy(float))}
    if args.classifier:
        readers["classifier"] = classifier_reader(labelled.train, labelled.labels("train"), device)
    edits = Edits(run.model, readers, to_tensor(test.pixels[asked.edited], device), args.steps, args.guidance)
    gaps, ranks = zip(*(class_gap(scores.numpy(), column, args.top) for column in labels.T))
    deviation = scores.std(0).numpy().clip(1e-6)
    telling = [gap for gap in gaps if gap.any()] or gaps
    random = [random_gap(telling[i % len(telling)], deviation, rng) for i in range(args.nulls)]
    sizes, random_sizes = (np.array([gap_size(gap, deviation) for gap in changes]) for changes in (gaps, random))

    def effects_of(changes, title: str) -> list[dict]:
        bar = tqdm(changes, desc=title, unit="edit", leave=False)
        return [edits.effect(as_tensor(gap, edits.encoding.scores)) for gap in bar]

    effects, nulls = effects_of(gaps, "editing attributes"), effects_of(random, "random edits")
    shape = (data.channels, data.image_size, data.image_size)
    after = generated_evidence(run.model, readers, scores[asked.generated].to(device), shape, args.steps, args.seed)
    evidence = {}
    for name, reader in readers.items():
        seen = read_set(reader, test, device)
        evidence[name] = Evidence(
            seen[asked.generated],
            after[name],
            class_gaps(seen, labels),
            reliability(seen, labels),
            [effect[name] for effect in effects],
            np.array([effect[name].mean(0) for effect in nulls]),
            sizes[:, None] / random_sizes.clip(1e-6),
        )
    return evidence, edits, gaps, ranks


def pair_row(labelled: Labelled, asked: Asked, seen: Evidence, i: int, j: int) -> dict:
    """Effects of raising attribute i on attribute j with their 95 % confidence intervals, as shares of j's class gap;
    `detectable` holds for all pairs that are asked about."""
    import numpy as np

    from analysis.measures.shortcuts import detectable, edit_effect, generated_effect

    labels = labelled.labels("test")[asked.generated]
    known = ~np.isnan(labels[:, [i, j]]).any(axis=1)
    nulls = seen.nulls[:, j] * seen.ratios[i]  # as if each were as large as this edit
    edit = edit_effect(seen.effects[i][:, j] / seen.scale[j], nulls / seen.scale[j])
    change = (seen.after - seen.before)[known, j] / seen.scale[j]
    coefficient, error, p = generated_effect(change, labels[known, i], labels[known, j])
    return {
        "raised": labelled.names[i],
        "moved": labelled.names[j],
        "own_effect": seen.effects[i][:, i].mean() / seen.scale[i],
        "edit": edit.mean,
        "edit_low": edit.mean - CI * edit.error,
        "edit_high": edit.mean + CI * edit.error,
        "edit_p": edit.p,
        "generated": coefficient,
        "generated_low": coefficient - CI * error,
        "generated_high": coefficient + CI * error,
        "generated_p": p,
        "detectable": detectable(edit, len(asked.edited), len(seen.nulls), error, len(change), len(asked.pairs)),
    }


def diagnose(run, labelled: Labelled, asked: Asked, args, device, rng) -> Findings:
    """Measure, and judge by each reader; what the main one cannot read is no shortcut, and of an attribute that no
    prototype tells nothing can be said."""
    import pandas as pd

    from analysis.measures.shortcuts import judge

    evidence, *rest = measure(run, labelled, asked, args, device, rng)
    tables = {}
    for name, seen in evidence.items():
        tables[name] = judge(pd.DataFrame([pair_row(labelled, asked, seen, i, j) for i, j in asked.pairs]))
    findings = Findings(evidence, tables, *rest)
    table, read = tables[findings.main], readable(labelled, findings)
    untold = [name for name, gap in zip(labelled.names, findings.gaps) if not gap.any()]
    table["shortcut"] &= table["moved"].isin(read)
    table.loc[~table["moved"].isin(read) | table["raised"].isin(untold), "verdict"] = "cannot tell"
    return findings


def readable(labelled: Labelled, findings: Findings) -> list[str]:
    """Attributes that the main reader can read off images."""
    return [n for n, auroc in zip(labelled.names, findings.readers[findings.main].legible) if auroc >= UNREADABLE]


def draw(labelled: Labelled, asked: Asked, findings: Findings, folder) -> list:
    """-> the matrix's files, and those of the edits, none where there is no shortcut."""
    import numpy as np

    from analysis.drawing.shortcut_figures import draw_edits, draw_matrix
    from analysis.measures.shortcuts import edit_examples
    from analysis.schemas import EDITS

    names, effects = labelled.names, findings.readers[findings.main].effects
    matrix = draw_matrix(findings.tables[findings.main], names, folder / "effects")
    if not findings.found:
        return [matrix, []]
    tops = {name: rank[0] for name, rank in zip(names, findings.ranks)}
    strength = {(a, b): effects[i][:, j] for i, a in enumerate(names) for j, b in enumerate(names)}
    pixels, gaps = labelled.test.pixels[asked.edited], dict(zip(names, findings.gaps))
    examples = edit_examples(findings.edits, pixels, findings.found, gaps, tops, strength)
    pictures = np.stack([example.pictures[:REPORTED] for example in examples])
    EDITS.write(folder, raised=[example.attribute for example in examples], pictures=pictures)
    return [matrix, draw_edits(examples, folder / "edits")]


def save(labelled: Labelled, asked: Asked, findings: Findings, folder):
    """Tables of each reader, ranking of prototypes, effects of random ones. -> the file of arrays."""
    import pandas as pd

    from analysis.results import save_arrays, save_table
    from analysis.schemas import EFFECTS, READERS

    for reader in READERS:
        if reader in findings.tables:
            EFFECTS.write(folder, findings.tables[reader], reader)
        else:
            (folder / EFFECTS.file.format(reader)).unlink(missing_ok=True)  # of an earlier call
    ranking = pd.DataFrame({name: rank[:10] for name, rank in zip(labelled.names, findings.ranks)})
    save_table(folder / "ranking.csv", ranking)
    ids = [labelled.test.ids[i] for i in asked.edited]
    return save_arrays(folder / "diagnose.npz", names=labelled.names, nulls=findings.shares, ids=ids)


def tell(labelled: Labelled, asked: Asked, findings: Findings) -> None:
    """Print what was asked, the strongest effects, what was left out, and what was found."""
    import numpy as np

    from analysis.measures.shortcuts import LEAST_EFFECT

    names, main, table, shares = labelled.names, findings.main, findings.tables[findings.main], findings.shares
    print(
        f"{len(labelled.test)} labelled test images; {len(asked.edited)} edited, {len(asked.generated)} generated; "
        f"attributes read by the {main}"
    )
    print("best prototypes (AUROC): " + ", ".join(f"{name} {rank[0]}" for name, rank in zip(names, findings.ranks)))
    least = table[["edit", "generated"]].abs().min(axis=1)
    print(table.loc[least.nlargest(6).index].round(3).to_string(index=False))
    print(
        f"edits of random prototypes: {np.mean(np.abs(shares) >= LEAST_EFFECT):.1%} of {shares.size} effects reach "
        f"{LEAST_EFFECT}"
    )
    read = readable(labelled, findings)
    for what, members in (
        ("left out, one class only or too few images", labelled.left_out),
        (f"not legible to the {main} (AUROC below {UNREADABLE})", [name for name in names if name not in read]),
        ("pairs that the labelled images cannot tell apart", [f"{names[i]}/{names[j]}" for i, j in asked.untellable]),
    ):
        if members:
            print(f"{what}: {', '.join(members)}")
    for row in findings.found:
        verb = "adds" if row.edit > 0 else "takes away"
        print(
            f"SHORTCUT: {row.raised} {verb} {row.moved} (edit {row.edit:+.2f}, generated "
            f"{row.generated:+.2f}, corrected p {row.p:.1e})"
        )
    if not findings.found:
        print(f"no shortcut named among {len(table)} pairs")
    unclear = table[table["verdict"] == "cannot tell"]
    print(
        f"an effect of {table['detectable'].median():.2f} would be found in eight of ten such diagnoses, for half of "
        f"the pairs; {len(unclear)} of {len(table)} pairs cannot be told: "
        f"{listed([f'{row.raised} on {row.moved}' for row in unclear.itertuples()], 10)}"
    )


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.results import results_folder

    run, device = open_run(args)
    rng = np.random.default_rng(args.seed)
    labelled = read_labelled(run, args)
    asked = ask(labelled, args, rng)
    findings = diagnose(run, labelled, asked, args, device, rng)
    folder = results_folder("diagnose", run, args.outdir)
    matrix, edits = draw(labelled, asked, findings, folder)
    arrays = save(labelled, asked, findings, folder)
    tell(labelled, asked, findings)
    if edits:
        print(f"figure of the edits: {edits[0]} and .pdf")
    print(f"matrix: {matrix[0]} and .pdf; all pairs: {folder / f'effects_{findings.main}.csv'}; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
