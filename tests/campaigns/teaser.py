"""The picture of the README's first screen, from the cards of a run: a prototype a row, what it stands for and edits.

python analysis/interpretability/visualize_prototype.py --dataset faces --version_num pretrained
python tests/campaigns/teaser.py [--dataset faces --version_num pretrained] [--prototypes 7,12,3,40]
"""

import argparse
from pathlib import Path

import numpy as np

from analysis.drawing.cards import surroundings
from analysis.drawing.sheet import Sheet
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
    sheet = Sheet([f"prototype\n{numbers[row]}" for row in rows], COLUMNS, side=0.9, size=9)
    for line, row in enumerate(rows):
        sheet.picture(line, 0, cards["expected_high"][row])
        sheet.heat(line, 1, cards["where"][row])
        for i in range(2):
            sheet.picture(line, 2 + i, *surroundings(cards["patch_images"][row][i], cards["patch_boxes"][row][i]))
            sheet.picture(line, 4 + 2 * i, cards["before"][row][i])
            sheet.picture(line, 5 + 2 * i, cards["after"][row][i], cards["edit_boxes"][row][i])
    sheet.figure.savefig(args.file, dpi=110)
    print(f"picture: {args.file}")


if __name__ == "__main__":
    main()
