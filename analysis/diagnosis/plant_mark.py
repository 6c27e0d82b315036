"""Plant a mark (a tag in the corner, a colour cast, a border) in a data set, tied to one class: a shortcut whose pixels
are known.

Every image is written twice, with the mark and without it, so that exact pairs lie in `with/` and `without/` of a new
folder, and the pixels that the mark changes in mask.npy. Two tables name the images: planted.csv takes each one once,
marked by the rule (of the class the share --strength is marked, of the others the rest of 1), reference.csv all pairs.
A config stands beside each: train on the first, diagnose by the second.
  python analysis/diagnosis/plant_mark.py --config configs/fmnist.yaml --attribute Bag
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from train.data.table import MARKS
from train.errors import UserError, listed, run_script

FEWEST = 50  # images of each case of class and mark in the training images
MARK = "Mark"  # the attribute that tells of it


def parse_args() -> argparse.Namespace:
    from global_config import DATA_DIR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML of the data set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one of its entries")
    parser.add_argument("--attribute", required=True, metavar="NAME", help="the class to which the mark is tied")
    text = "share of the class that is marked, and of the others that is not, from 0.5 (no shortcut) to 1 (default: 1)"
    parser.add_argument("--strength", type=float, default=1.0, metavar="P", help=text)
    parser.add_argument("--mark", choices=MARKS, default="tag", help="default: tag")
    parser.add_argument("--size", type=int, default=4, help="side of the tag, width of the border (default: 4 pixels)")
    parser.add_argument("--contrast", type=float, default=1.0, help="from 0 (not to be seen) to 1 (default: 1)")
    parser.add_argument("--name", help="name of the marked set (default: <name>_marked)")
    parser.add_argument("--folder", type=Path, help=f"where it goes (default: {DATA_DIR}/<name>)")
    parser.add_argument("--seed", type=int, default=0, help="of which images are marked (default: 0)")
    args = parser.parse_args()
    if not 0.5 <= args.strength <= 1:
        parser.error(f"--strength {args.strength:g}: must be from 0.5, where the mark says nothing, to 1")
    if args.attribute == MARK:
        parser.error(f"--attribute {MARK}: is what the mark itself is called")
    if not 0 < args.contrast <= 1:
        parser.error(f"--contrast {args.contrast:g}: must be above 0 and at most 1")
    return args


def check_cells(holds, marked, strength: float) -> None:
    """Raises UserError where a case that there should be has too few training images."""
    for has in (True, False):
        for is_marked in (True, False):
            count = int(((holds == has) & (marked == is_marked)).sum())
            if count < FEWEST and (strength < 1 or has == is_marked):
                case = f"{'in' if has else 'outside'} the class and {'' if is_marked else 'un'}marked"
                raise UserError(f"--strength {strength:g}: {count} training images are {case}; {FEWEST} are needed")


class Planted(NamedTuple):
    """Images of each split, which of them are marked (N,), the pixels of the mark (H, W), and whether it is white."""

    sets: dict
    drawn: dict
    inside: object
    white: bool


def plant(config, args) -> Planted:
    """Draw who is marked. Raises UserError."""
    import numpy as np

    from train.data.dataset import list_source, load_split
    from train.data.listing import SPLITS
    from train.data.marks import draw_marked, region

    inside = region(args.mark, args.size, config.data.image_size)
    listing = list_source(config.data)
    if args.attribute not in listing.attributes:
        raise UserError(f"--attribute {args.attribute}: there is none; there are {listed(listing.attributes, 50)}")
    if MARK in listing.attributes:
        raise UserError(f"{config.name}: has an attribute {MARK} already; rename it in the table of the images")
    sets = {split: load_split(config.data, split) for split in SPLITS if (listing.splits == split).any()}
    rng, drawn = np.random.default_rng(args.seed), {}
    for split, images in sets.items():
        column = images.attributes[args.attribute]
        if column.isna().any():
            text = f"--attribute {args.attribute}: unknown in {column.isna().sum()} {split} images"
            raise UserError(f"{text}; leave them out by --set data.where='{args.attribute} >= 0'")
        drawn[split] = draw_marked(column.to_numpy(float) == 1, args.strength, rng)
    check_cells(sets["train"].attributes[args.attribute].to_numpy(float) == 1, drawn["train"], args.strength)
    white = bool(sets["train"].pixels[:1000][:, inside].mean() < 128)  # what can be seen there
    return Planted(sets, drawn, inside, white)


def configs_of(config, name: str, folder: Path) -> dict[str, dict]:
    """Plain settings of the planted and of the reference images, which lie in the folder."""
    from train.config import validate

    values = config.plain()
    values["data"] |= {"source": "folder", "path": str(folder), "where": None, "rules": {}, "limit": None}
    values["data"] |= {"uncertain": "unknown", "missing": "unknown"}  # options of chexpert, whose labels are read
    values["train"]["reference_steps"] = None  # they tell of the set without marks
    configs = {}
    for table, title in (("planted", name), ("reference", f"{name}_reference")):
        values["data"]["metadata"] = str(folder / f"{table}.csv")
        configs[table] = validate(values | {"name": title}, f"--name {name}").plain()
    return configs


def write_images(planted: Planted, args, folder: Path):
    """Every image with and without the mark. -> one row a file: its name, split, whether it is taken, attributes."""
    import pandas as pd
    from PIL import Image
    from tqdm import tqdm

    from train.data.marks import mark

    rows = []
    for split, images in planted.sets.items():
        known = images.attributes.to_dict("records")
        for side in ("with", "without"):
            (folder / side / split).mkdir(parents=True)
        for i in tqdm(range(len(images)), desc=split, unit="img", leave=False):
            pixels = images.pixels[i : i + 1]
            marked = mark(pixels, args.mark, planted.inside, args.contrast, planted.white)
            for side, image in {"with": marked[0], "without": pixels[0]}.items():
                file, has = f"{side}/{split}/{i:06d}.png", side == "with"
                Image.fromarray(image.squeeze()).save(folder / file, compress_level=1)
                about = {"img_filename": file, "split": split, "taken": planted.drawn[split][i] == has}
                rows.append(about | {MARK: int(has)} | known[i])
    return pd.DataFrame(rows)


def save(planted: Planted, args, configs: dict[str, dict], folder: Path) -> None:
    """Images, tables, configs and mask, all of them or none."""
    import numpy as np
    import yaml

    from train.whole_files import new_folder, unclaimed

    def write(making: Path) -> None:
        table = write_images(planted, args, making)
        table[table["taken"]].drop(columns="taken").to_csv(making / "planted.csv", index=False)
        table.drop(columns="taken").to_csv(making / "reference.csv", index=False)
        for which, plain in configs.items():
            text = yaml.safe_dump(plain, sort_keys=False, width=150)
            (making / f"{which}.yaml").write_text(text, encoding="utf-8")
        np.save(making / "mask.npy", planted.inside)

    new_folder(folder.parent, write, lambda: unclaimed(folder))


def tell(planted: Planted, args, name: str, folder: Path) -> None:
    for split, images in planted.sets.items():
        holds = images.attributes[args.attribute].to_numpy(float) == 1
        shares = [f"{planted.drawn[split][which].mean():.0%}" for which in (holds, ~holds) if which.any()]
        marked = " and of the others ".join(shares)
        print(f"{split}: {len(images)} images, {holds.sum()} of {args.attribute}; marked: {marked}")
    inside = planted.inside
    print(f"{inside.sum()} of {inside.size} pixels marked; images, tables and mask: {folder}; next:")
    print(f"  python train/train_patronus.py --config {folder / 'planted.yaml'}")
    print(f"  python analysis/diagnosis/diagnose.py --dataset {name} --reference {folder / 'reference.yaml'}")


def main() -> None:
    args = parse_args()

    from global_config import DATA_DIR
    from train.config import load_config
    from train.whole_files import unclaimed

    config = load_config(args.config, args.set)
    name = args.name or f"{config.name}_marked"
    folder = unclaimed(args.folder or DATA_DIR / name).absolute()
    planted = plant(config, args)
    save(planted, args, configs_of(config, name, folder), folder)
    tell(planted, args, name, folder)


if __name__ == "__main__":
    run_script(main)
