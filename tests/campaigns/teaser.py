"""The picture of the README's first screen, from the cards of a run: a prototype a row, what it stands for and edits.

python analysis/interpretability/visualize_prototype.py --dataset faces --version_num pretrained
python tests/campaigns/teaser.py [--dataset faces --version_num pretrained] [--prototypes 7,12,3,40]
"""

import argparse
from pathlib import Path

import numpy as np

from analysis.drawing.cards import surroundings
from analysis.drawing.figures import add_box, heat, panel, plt
from global_config import RECORDS_DIR, REPO_DIR

COLUMNS = ("image expected", "where", "best patches", "", "before", "after", "before", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="faces", help="of the run (default: faces)")
    parser.add_argument("--version_num", default="pretrained", help="of the run (default: pretrained)")
    parser.add_argument("--prototypes", help="numbers (default: the first four cards)")
    parser.add_argument("--file", type=Path, default=REPO_DIR / "docs" / "teaser.png", help="default: docs/teaser.png")
    args = parser.parse_args()
    folder = RECORDS_DIR / "vis_prototype" / f"{args.dataset}_v{args.version_num}"
    cards = np.load(folder / "prototypes.npz")
    numbers = cards["prototypes"].tolist()
    rows = [numbers.index(int(k)) for k in args.prototypes.split(",")] if args.prototypes else range(4)
    figure, axes = plt.subplots(len(rows), len(COLUMNS), figsize=(8, 1.06 * len(rows) + 0.25), layout="constrained")
    for line, row in zip(axes, rows):
        panel(line[0], cards["expected_high"][row])
        heat(line[1], cards["where"][row])
        for axis, pixels, box in zip(line[2:4], cards["patch_images"][row], cards["patch_boxes"][row]):
            crop, inner = surroundings(pixels, box)
            panel(axis, crop, box=inner)
        for i in range(2):
            panel(line[4 + 2 * i], cards["before"][row][i])
            panel(line[5 + 2 * i], cards["after"][row][i])
            add_box(line[5 + 2 * i], cards["edit_boxes"][row][i])
        line[0].set_ylabel(f"prototype {numbers[row]}", fontsize=9)
    for axis, title in zip(axes[0], COLUMNS):
        axis.set_title(title, fontsize=9)
    figure.savefig(args.file, dpi=110)
    print(f"picture: {args.file}")


if __name__ == "__main__":
    main()
