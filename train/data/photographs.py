"""Write a folder of colour photographs to try `configs/folder.yaml` on: tiles of pictures that scikit-image and
scikit-learn ship.

  python train/data/photographs.py

Tiles of one photograph do not overlap, so that none of the test images is half of a training image. metadata.csv names
the photograph of each.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from train.errors import UserError, run_script

PHOTOGRAPHS = ("brick", "grass", "gravel", "coffee", "chelsea", "immunohistochemistry", "retina")  # of scikit-image
SAMPLES = ("china", "flower")  # of scikit-learn
LARGEST = (
    700  # pixels of a photograph's longer side: larger ones are reduced, or their tiles would show next to nothing
)


def parse_args() -> argparse.Namespace:
    from global_config import DATA_DIR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of a tile in pixels (default: 64)")
    folder = DATA_DIR / "photographs"
    parser.add_argument("--folder", type=Path, default=folder, help=f"where they go (default: {folder})")
    return parser.parse_args()


def photographs() -> dict:
    """Name -> PIL image in RGB."""
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_image

    arrays = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS}
    arrays |= {name: load_sample_image(f"{name}.jpg") for name in SAMPLES}
    images = {name: Image.fromarray(array).convert("RGB") for name, array in arrays.items()}
    for image in images.values():
        image.thumbnail((LARGEST, LARGEST))
    return images


def main() -> None:
    args = parse_args()
    from train.whole_files import new_folder, unclaimed

    unclaimed(args.folder)
    if not 8 <= args.size <= 300:
        raise UserError(f"--size {args.size}: must be from 8 to 300")
    count = 0

    def write(folder: Path) -> None:
        nonlocal count
        rows = ["img_filename,subject"]
        for name, image in photographs().items():
            for top in range(0, image.height - args.size + 1, args.size):
                for left in range(0, image.width - args.size + 1, args.size):
                    file = f"{name}_{top:03d}_{left:03d}.png"
                    image.crop((left, top, left + args.size, top + args.size)).save(folder / file)
                    rows.append(f"{file},{name}")
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        count = len(rows) - 1

    new_folder(args.folder.parent, write, lambda: unclaimed(args.folder))
    print(
        f"{count} tiles of {args.size}x{args.size} pixels of {len(PHOTOGRAPHS) + len(SAMPLES)} photographs: "
        f"{args.folder}; next:"
    )
    settings = (
        f"data.path={args.folder}",
        f"data.metadata={args.folder / 'metadata.csv'}",
        "name=photographs",
        "train.minutes=10",
    )
    print(
        "  python train/train_patronus.py --config configs/folder.yaml "
        + " ".join(f"--set {value}" for value in settings)
    )


if __name__ == "__main__":
    run_script(main)
