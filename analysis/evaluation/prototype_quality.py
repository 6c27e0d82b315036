"""How much do the scores tell about known attributes? (Weng et al. 2026, Sec. 4.2; protocol of Wang et al. 2023)

Over five shuffled folds of encoded images (test images first, then the others: the encoder saw no labels of either):
AUROC of a logistic regression on all scores (latent; accuracy where images have one class label), of the best single
prototype, which is chosen on the same images, as the protocol does, and TAD with the number of captured attributes
(Yeats et al. 2022). Where images have class labels, also the accuracy on the test images of a regression that learnt on
the training images, beside that of raw pixels. --untrained shows the same for the model before its first step, since
random features of patches already tell a good deal. Several versions of --version_num are compared. Results go to
records/prototype_quality/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import run_parser
from train.errors import UserError, run_script

LEAST = 20  # images, four a fold


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None, several=True)
    parser.add_argument("--limit", type=int, default=10000, help="at most so many images (default: 10000)")
    parser.add_argument("--untrained", action="store_true", help="the encoder as initialised, before any training")
    args = parser.parse_args()
    if args.limit < LEAST:
        parser.error(f"--limit must be at least {LEAST}")
    return args


class Quality(NamedTuple):
    """What the scores of one run tell: a table of attributes, the numbers of the whole run, attributes captured and
    left out, and the lines that say how classes are told."""

    table: object
    numbers: dict
    captured: list[str]
    left_out: list[str]
    class_lines: list[str]


def measure(run, device, args) -> Quality:
    """Raises UserError where no attribute can be judged."""
    import numpy as np
    import pandas as pd
    import torch

    from analysis.measures.labels import usable_attributes
    from analysis.measures.quality import FOLDS, class_accuracy, evaluate, untrained_model
    from train.data.dataset import list_source, load_split
    from train.scores import encode

    present = set(list_source(run.config.data).splits)
    splits = [load_split(run.config.data, split) for split in ("test", "val", "train") if split in present]
    model = untrained_model(run, device) if args.untrained else run.model
    attributes = pd.concat([images.attributes for images in splits], ignore_index=True)[: args.limit]
    usable, left_out = usable_attributes([attributes], 2 * FOLDS)
    if not usable:
        raise UserError(
            f"{run.name}: no attribute with both classes known and at least {2 * FOLDS} images of each; "
            f"left out: {left_out or 'none'}"
        )
    scores = torch.cat([encode(model, images, device=device) for images in splits])[: args.limit].numpy()
    found = evaluate(scores, attributes[usable])
    numbers = {
        "version": run.version,
        "images": len(scores),
        "latent": found.table["latent"].mean(),
        "single": found.table["single"].mean(),
    }
    numbers |= {"tad": found.tad, "tad_deviation": found.tad_deviation, "captured": len(found.captured)}
    lines = []
    if splits[0].labels is not None:
        labels = np.concatenate([images.labels for images in splits])[: args.limit]
        numbers["accuracy"], spread = class_accuracy(scores, labels)
        lines.append(f"accuracy of {len(np.unique(labels))} classes {numbers['accuracy']:.3f} +- {spread:.3f}")
        if {"train", "test"} <= present:
            accuracies = split_accuracies(model, splits[0], splits[-1], device, pixels=not args.untrained)
            text = f"learnt on {len(splits[-1])} training images, judged on {len(splits[0])} test images"
            values = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in accuracies.items())
            lines.append(f"{text}: {values}")
            numbers |= accuracies
    return Quality(found.table, numbers, found.captured, left_out, lines)


def judge_run(args, version: int | None) -> dict:
    """Print and save the table of one run; returns its numbers."""
    from analysis.measures.quality import FOLDS
    from analysis.results import results_folder, save_table
    from analysis.schemas import QUALITY
    from train.distributed import pick_device
    from train.runs import load_run

    device = pick_device(args.device)
    run = load_run(args.dataset, version, device)
    quality = measure(run, device, args)
    table, numbers = quality.table, quality.numbers
    name = "untrained" if args.untrained else "quality"
    folder = results_folder("prototype_quality", run, args.outdir)
    file = save_table(folder / f"{name}.csv", table)
    print(f"{run.name} version {run.version}")
    print(table.round(3).to_string())
    print(
        f"{numbers['images']} images, {FOLDS} folds; mean latent AUROC {numbers['latent']:.3f}; TAD "
        f"{numbers['tad']:.3f} +- {numbers['tad_deviation']:.3f}"
    )
    for line in quality.class_lines:
        print(line)
    print(f"captured attributes, {len(quality.captured)}: {', '.join(quality.captured) or 'none'}")
    if quality.left_out:
        print(f"left out (unknown values or too few of a class): {', '.join(quality.left_out)}")
    saved = {"version": run.version} | {k: float(v) for k, v in numbers.items() if k != "version"}
    summary = QUALITY.write(folder, saved, name)
    print(f"table: {file}; numbers: {summary}")
    return numbers


def split_accuracies(model, test, train, device, pixels: bool) -> dict[str, float]:
    """Accuracies on test images of regressions on training images: on all scores, and on raw pixels."""
    import numpy as np

    from analysis.measures.quality import held_out_accuracy
    from train.scores import encode

    values = {"scores": [encode(model, images, device=device).numpy() for images in (train, test)]}
    if pixels:
        values["pixels"] = [np.asarray(images.pixels, np.float32).reshape(len(images), -1) for images in (train, test)]
    return {
        f"{name}_accuracy": held_out_accuracy(fit, train.labels, judged, test.labels)
        for name, (fit, judged) in values.items()
    }


def main() -> None:
    args = parse_args()

    import pandas as pd

    rows = [judge_run(args, version) for version in args.version_num or [None]]
    if len(rows) > 1:
        table = pd.DataFrame(rows).set_index("version")
        print(pd.concat([table, table.agg(["mean", "std"])]).round(3).to_string())


if __name__ == "__main__":
    run_script(main)
