"""Plant a shortcut in a data set (Weng et al. 2026, Sec. 4.4): keep images so that a rule over their attributes holds
for all of them, or for a share (--strength; at .5 it holds for half, and nothing is planted). Several rules hold
independently of one another.

Nothing is copied: the rule becomes the `where` (or `rules`) of a new config, written below
records/plant_bias/<name>/ with the counts before and after, the correlations of all attributes and a picture of both.
By default the paper's rule on drawn faces: hair colour tied to smiling. Other examples:
  python analysis/diagnosis/plant_bias.py --config configs/elpv.yaml --where "Defect == Poly" --name elpv_defect_poly
  python analysis/diagnosis/plant_bias.py --where "Beard == Eyes_Closed" --where "Smiling == Pale_Skin" --strength 0.9
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from global_config import RECORDS_DIR, REPO_DIR
from train.data.table import HAIR_SMILE, ONE_HAIR
from train.errors import UserError, run_script

FEWEST = 50  # images of each case of the rules that a planted set keeps


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        default=str(REPO_DIR / "configs" / "faces.yaml"),
        help="YAML of the unbiased data set (default: configs/faces.yaml)",
    )
    parser.add_argument(
        "--where",
        action="append",
        metavar="RULE",
        help="over attributes: and, or, not, +, comparisons; repeatable (default: the paper's hair and smile)",
    )
    parser.add_argument(
        "--among", metavar="EXPRESSION", help="images considered at all, whether they follow the rule or not"
    )
    text = "share of the images that follow the rule, from 0.5 (no shortcut) to 1; one for all rules (default: 1)"
    parser.add_argument("--strength", type=float, default=1.0, metavar="P", help=text)
    parser.add_argument("--name", help="name of the biased set (default: <name>_biased)")
    args = parser.parse_args()
    if not 0.5 <= args.strength <= 1:
        parser.error(f"--strength {args.strength:g}: must be from 0.5, where half of the images follow, to 1")
    if args.where is None:
        args.where, args.among = [HAIR_SMILE], args.among or ONE_HAIR
    return args


def check_cells(rules: list[str], strength: float, attributes) -> None:
    """Each case of the rules that there should be needs images enough. Raises UserError."""
    from train.data.listing import select

    for rule in rules:
        cases = [rule] if strength == 1 else [rule, f"not ({rule})"]
        for case in cases:
            count = int(select(case, attributes).sum())
            if count < FEWEST:
                raise UserError(
                    f"--where '{rule}': {count} images are kept in which '{case}' holds, and {FEWEST} are needed; "
                    "choose a rule that more images follow, or another --strength"
                )


def correlations(attributes):
    """Pearson correlations (phi of binary attributes) over the images in which both are known; NaN where one never
    varies."""
    return attributes.astype(float).corr(min_periods=2)


def draw(before, after, path):
    """Correlation matrices side by side above the share of images that have each attribute, before and after."""
    import numpy as np

    from analysis.drawing.figures import plt, save_figure

    names = list(before.columns)
    size = max(3.5, 0.35 * len(names))
    figure, axes = plt.subplot_mosaic(
        "AB;CC", figsize=(2.4 * size, 1.7 * size), layout="constrained", height_ratios=[2, 1]
    )
    for key, attributes, title in (("A", before, "before"), ("B", after, "after")):
        bar = axes[key].imshow(correlations(attributes).to_numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        axes[key].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes[key].set_yticks(range(len(names)), names, fontsize=7)
        axes[key].set_title(f"correlations {title}, {len(attributes)} images", fontsize=9)
    figure.colorbar(bar, ax=axes["B"], shrink=0.7)
    places = np.arange(len(names))
    axes["C"].bar(places - 0.2, before.mean(), width=0.4, label="before")
    axes["C"].bar(places + 0.2, after.mean(), width=0.4, label="after")
    axes["C"].set_xticks(places, names, rotation=90, fontsize=7)
    axes["C"].set_ylabel("share of images")
    axes["C"].legend()
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import pandas as pd
    import yaml

    from analysis.results import save_table
    from train.config import load_config, validate
    from train.data.dataset import list_source
    from train.data.listing import SPLITS
    from train.whole_files import replace_file

    config = load_config(args.config)
    name = args.name or f"{config.name}_biased"
    listing = list_source(config.data)
    if not len(listing.attributes.columns):
        raise UserError(f"{args.config}: the data set has no attributes, so no rule over them can be stated")
    values = config.plain()
    values["name"] = name
    values["train"]["reference_steps"] = None  # they tell of the unbiased set
    filters = [config.data.where, args.among, *(args.where if args.strength == 1 else [])]
    values["data"]["where"] = " and ".join(f"({text})" for text in filters if text) or None
    if args.strength < 1:
        values["data"]["rules"] |= dict.fromkeys(args.where, args.strength)
    biased = validate(values, f"--name {name}")
    planted = list_source(biased.data)
    before, after = (every.attributes[every.splits != ""] for every in (listing, planted))
    check_cells(args.where, args.strength, after)

    counts = pd.DataFrame(
        {"before": before.sum(), "after": after.sum(), "share_before": before.mean(), "share_after": after.mean()}
    )
    counts.index.name = "attribute"
    folder = RECORDS_DIR / "plant_bias" / name
    files = draw(before, after, folder / "correlations")
    save_table(folder / "counts.csv", counts)
    for when, attributes in (("before", before), ("after", after)):
        save_table(folder / f"correlations_{when}.csv", correlations(attributes))
    text = yaml.safe_dump(biased.plain(), sort_keys=False, width=150)
    recipe = replace_file(folder / f"{name}.yaml", lambda file: file.write_text(text, encoding="utf-8"))

    print(counts.round(3).to_string())
    for split in SPLITS:
        chosen = listing.splits == split
        if chosen.any():
            print(f"{split}: {chosen.sum()} images before, {(planted.splits == split).sum()} after")
    tied, plain = correlations(after), correlations(before)
    pairs = [
        (a, b)
        for i, a in enumerate(tied)
        for b in list(tied)[i + 1 :]
        if abs(tied.loc[a, b]) > abs(plain.loc[a, b]) + 0.2
    ]
    for a, b in sorted(pairs, key=lambda pair: -abs(tied.loc[pair])):
        print(f"correlation of {a} and {b}: {plain.loc[a, b]:+.2f} before, {tied.loc[a, b]:+.2f} after")
    constant = [column for column in after if after[column].nunique() < 2]
    if constant:
        print(f"no longer vary: {', '.join(constant)}")
    print(f"figure: {files[0]} and .pdf; tables: {folder}; train on it with:")
    print(f"  python train/train_patronus.py --config {recipe}")


if __name__ == "__main__":
    run_script(main)
