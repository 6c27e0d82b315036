"""The scores of images as a table, with the patch that gave each: for programs of your own.

Of a split of the run's data set, with its attributes, or of a folder of yours (any tree of images, made as large and as
grey as the run's). Results go to records/encode/<dataset>_v<n>/: scores.csv, one row an image and a column a prototype
(s0, s1, ...; attributes behind), and scores.npz with ids, scores (N, m) and boxes (N, m, 4: top, left, bottom, right in
pixels).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, run_parser
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--folder", metavar="FOLDER", help="images of yours (default: those of the run's data set)")
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="of the run's data set (default: test)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import pandas as pd

    from analysis.measures.cards import match_all
    from analysis.results import results_folder, save_arrays, save_table
    from train.data.config import DataConfig
    from train.data.dataset import load_all, load_split

    run, _ = open_run(args)
    data = run.config.data
    if args.folder:
        path = str(Path(args.folder).resolve())
        images = load_all(DataConfig(source="folder", path=path, image_size=data.image_size, channels=data.channels))
    else:
        images = load_split(data, args.split)
    scores, boxes = match_all(run.model, images)
    table = pd.DataFrame(scores, columns=[f"s{k}" for k in range(scores.shape[1])])
    table = pd.concat([table, images.attributes], axis=1).set_axis(pd.Index(images.ids, name="image"))
    folder = results_folder("encode", run, args.outdir)
    file = save_table(folder / "scores.csv", table)
    arrays = save_arrays(folder / "scores.npz", ids=images.ids, scores=scores, boxes=boxes)
    print(f"{scores.shape[1]} scores of {len(images)} images: {file}; with boxes of patches: {arrays}")


if __name__ == "__main__":
    run_script(main)
