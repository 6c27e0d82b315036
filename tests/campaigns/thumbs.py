"""The small pictures of the README's table of questions, cut out of records/gallery.

python tests/campaigns/thumbs.py
"""

import argparse
from pathlib import Path

from PIL import Image

from global_config import REPO_DIR

WIDTH, COLOURS = 160, 64
CUTS = {  # thumbnail: picture of the gallery, left, top, right, bottom as shares of it
    "what": ("prototypes", 0.097, 0.008, 0.356, 0.117),
    "bits": ("information", 0.24, 0.03, 0.71, 0.17),
    "when": ("emergence", 0.07, 0.0, 0.67, 0.46),
    "set": ("manipulate", 0.1, 0.095, 0.77, 0.39),
    "true": ("faithfulness", 0.41, 0.53, 0.8, 1.0),
    "bias": ("shortcut_edits", 0.405, 0.065, 0.8, 0.295),
    "near": ("fmnist_pictures", 0.03, 0.02, 1.0, 0.26),
    "page": ("page", 0.06, 0.19, 0.95, 0.71),
}


def thumbnail(picture: Path, cut: tuple[float, ...]) -> Image.Image:
    """The part `cut` (left, top, right, bottom in [0, 1]) of a picture, WIDTH pixels wide, with a palette."""
    image = Image.open(picture).convert("RGB")
    part = image.crop(tuple(round(share * side) for share, side in zip(cut, image.size * 2)))
    return part.resize((WIDTH, round(WIDTH * part.height / part.width)), Image.Resampling.LANCZOS).quantize(COLOURS)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = REPO_DIR / "docs" / "thumbs"
    folder.mkdir(exist_ok=True)
    for name, (picture, *cut) in CUTS.items():
        file = folder / f"{name}.png"
        thumbnail(REPO_DIR / "records" / "gallery" / f"{picture}.png", cut).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
