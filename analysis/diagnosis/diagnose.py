"""Has the model learnt a shortcut, and which? (Weng et al. 2026, Sec. 4.4)

Two questions are asked of every ordered pair of attributes A, B, with labelled images in which the two are not tied (by
default the run's data set without its `where`). Edit: the prototypes that tell A (ranked by AUROC) are raised and
lowered by half of their class gap, on test images at their own x_T; does the evidence of B move, more than when random
prototypes are moved as much? All other scores are kept, so that correlations of the data cannot pass for those of the
model. Generation: images from real, unedited scores and random x_T; does B come out wrong because of A? Both must say
so, by at least a fifth of the difference between having B and not, at corrected p < 0.05. Evidence is read by a small
classifier trained on the labelled images, or by the prototypes alone with
--no-classifier. Results go to records/diagnose/<dataset>_v<n>/.
"""

import argparse

from analysis.script import CI, open_run, require, run_parser
from train.errors import UserError, listed, run_script

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


def build_table(names, labels, rows, edits, nulls, generated, before, scale):
    """One row an ordered pair that can be told apart, effects with their 95 % confidence intervals; and the names of
    the pairs left out.

    labels (N, A) of the test set, rows those generated from, before and generated their evidence (n, A), scale (A,) the
    class gaps.
    """
    import pandas as pd

    from analysis.measures.shortcuts import detectable, edit_effect, generated_effect, judge, tellable

    table, left_out, pairs = [], [], len(names) * (len(names) - 1)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            known = ~pd.isna(labels[rows][:, [i, j]]).any(axis=1)
            y = labels[rows][known]
            if i == j or not tellable(y[:, i], y[:, j]):
                left_out += [(a, b)] if i < j else []
                continue
            edit = edit_effect(edits[i][:, j] / scale[j], nulls[:, j] / scale[j])
            change = (generated - before)[known, j] / scale[j]
            coefficient, error, p = generated_effect(change, y[:, i], y[:, j])
            own = edits[i][:, i].mean() / scale[i]
            row = {"raised": a, "moved": b, "own_effect": own}
            row |= {
                "edit": edit.mean,
                "edit_low": edit.mean - CI * edit.error,
                "edit_high": edit.mean + CI * edit.error,
                "edit_p": edit.p,
            }
            row |= {
                "generated": coefficient,
                "generated_low": coefficient - CI * error,
                "generated_high": coefficient + CI * error,
            }
            least = detectable(edit, len(edits[i]), len(nulls), error, len(change), pairs)
            table.append(row | {"generated_p": p, "detectable": least})
    if not table:
        raise UserError(
            f"no pair of attributes can be told apart in the {len(rows)} labelled images; raise --generated"
        )
    return judge(pd.DataFrame(table)), left_out


def main() -> None:
    args = parse_args()

    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from analysis.drawing.shortcut_figures import draw_edits, draw_matrix
    from analysis.measures.labels import usable_attributes
    from analysis.measures.readers import class_gaps, classifier_reader, prototype_reader, read_set, reliability
    from analysis.measures.shortcuts import (
        FEWEST,
        LEAST_EFFECT,
        Edits,
        as_tensor,
        class_gap,
        generated_evidence,
        random_gap,
    )
    from analysis.results import results_folder, save_arrays, save_table
    from analysis.schemas import EFFECTS
    from train.data.dataset import load_split
    from train.images import to_tensor
    from train.scores import encode

    run, device = open_run(args)
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
    labels = test.attributes[names].to_numpy(float)
    scores = encode(run.model, test, device=device)
    readers = {"prototypes": prototype_reader(run.model, scores.numpy(), labels)}
    if args.classifier:
        readers["classifier"] = classifier_reader(train, train.attributes[names].to_numpy(float), device)
    evidence = {name: read_set(reader, test, device) for name, reader in readers.items()}
    main_reader = list(readers)[-1]
    legible = reliability(evidence[main_reader], labels)
    readable = [name for name, auroc in zip(names, legible) if auroc >= UNREADABLE]
    scale = {name: class_gaps(values, labels) for name, values in evidence.items()}

    rng = np.random.default_rng(args.seed)
    order = rng.permutation(len(test))
    edited, rows = np.sort(order[: args.num_samples]), np.sort(order[-args.generated :])
    edits = Edits(run.model, readers, to_tensor(test.pixels[edited]).to(device), args.steps, args.guidance)
    gaps, ranks = zip(*(class_gap(scores.numpy(), column, args.top) for column in labels.T))
    effects = [
        edits.effect(as_tensor(gap, edits.encoding.scores))
        for gap in tqdm(gaps, desc="editing", unit="attribute", leave=False)
    ]
    deviation = scores.std(0).numpy().clip(1e-6)
    random = [random_gap(gaps[i % len(gaps)], deviation, rng) for i in range(args.nulls)]
    nulls = [
        edits.effect(as_tensor(gap, edits.encoding.scores))
        for gap in tqdm(random, desc="random edits", unit="edit", leave=False)
    ]
    shape = (data.channels, data.image_size, data.image_size)
    generated = generated_evidence(run.model, readers, scores[rows].to(device), shape, args.steps, args.seed)

    folder = results_folder("diagnose", run)
    tables, null_means = {}, {reader: np.array([effect[reader].mean(0) for effect in nulls]) for reader in readers}
    for reader in readers:
        table, untellable = build_table(
            names,
            labels,
            rows,
            [e[reader] for e in effects],
            null_means[reader],
            generated[reader],
            evidence[reader][rows],
            scale[reader],
        )
        if reader == main_reader:
            table["shortcut"] &= table["moved"].isin(readable)
            table.loc[~table["moved"].isin(readable), "verdict"] = "cannot tell"
        tables[reader] = table
        EFFECTS.write(folder, table, reader)
    table = tables[main_reader]
    ranking = pd.DataFrame({name: rank[:10] for name, rank in zip(names, ranks)})
    save_table(folder / "ranking.csv", ranking)
    files = draw_matrix(table, names, folder / "effects")
    shares = null_means[main_reader] / scale[main_reader]  # (R, A)
    null_share = np.mean(np.abs(shares) >= LEAST_EFFECT)
    arrays = save_arrays(folder / "diagnose.npz", names=names, nulls=shares, ids=[test.ids[i] for i in edited])

    print(
        f"{len(test)} labelled test images; {args.num_samples} edited, {args.generated} generated; "
        f"attributes read by the {main_reader}"
    )
    print("best prototypes (AUROC): " + ", ".join(f"{n} {r[0]}" for n, r in zip(names, ranks)))
    strongest = (
        table.assign(least=table[["edit", "generated"]].abs().min(axis=1)).nlargest(6, "least").drop(columns=["least"])
    )
    print(strongest.round(3).to_string(index=False))
    print(f"edits of random prototypes: {null_share:.1%} of {shares.size} effects reach {LEAST_EFFECT}")
    for what, members in (
        ("left out, one class only or too few images", left_out),
        (
            f"not legible to the {main_reader} (AUROC below {UNREADABLE})",
            [name for name in names if name not in readable],
        ),
        ("pairs that the labelled images cannot tell apart", [f"{a}/{b}" for a, b in untellable]),
    ):
        if members:
            print(f"{what}: {', '.join(members)}")
    found = list(table[table["shortcut"]].itertuples())
    for row in found:
        verb = "adds" if row.edit > 0 else "takes away"
        print(
            f"SHORTCUT: {row.raised} {verb} {row.moved} (edit {row.edit:+.2f}, generated "
            f"{row.generated:+.2f}, corrected p {row.p:.1e})"
        )
    if found:
        tops = {name: rank[0] for name, rank in zip(names, ranks)}
        strength = {(a, b): effects[i][main_reader][:, j] for i, a in enumerate(names) for j, b in enumerate(names)}
        pictures = draw_edits(
            run, edits, test.pixels[edited], found, dict(zip(names, gaps)), tops, strength, folder / "edits"
        )
        print(f"figure of the edits: {pictures[0]} and .pdf")
    else:
        print(f"no shortcut named among {len(table)} pairs")
    unclear = table[table["verdict"] == "cannot tell"]
    print(
        f"an effect of {table['detectable'].median():.2f} would be found in eight of ten such diagnoses, for half of "
        f"the pairs; {len(unclear)} of {len(table)} pairs cannot be told: "
        f"{listed([f'{row.raised} on {row.moved}' for row in unclear.itertuples()], 10) if len(unclear) else 'none'}"
    )
    print(f"matrix: {files[0]} and .pdf; all pairs: {folder / f'effects_{main_reader}.csv'}; arrays: {arrays}")


if __name__ == "__main__":
    run_script(main)
