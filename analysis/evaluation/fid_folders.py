"""The two folders that FID compares: generated images checked, real ones exported through the transform of training."""

import hashlib
import os
import shutil
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from train.config import DataConfig
from train.data.dataset import ImageSet
from train.errors import UserError, listed, reading
from train.generation import SAMPLES_DIR
from train.images import save_png
from train.runs import Run

PART = "_first_"  # between the name of a folder and how many of its images are judged


def check_images(folder: Path, data: DataConfig) -> list[Path]:
    """The PNGs of a folder, sorted as pytorch-fid sorts them. Raises UserError where another file or size is among
    them."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    foreign = [path.name for path in files if path.suffix != ".png"]
    if foreign:
        raise UserError(
            f"{folder}: holds something else than PNGs: {listed(foreign, 3)}; FID needs one file format on both sides"
        )
    if not files:
        raise UserError(f"{folder}: holds no PNG")
    expected = (data.image_size, data.image_size)
    for path in files:
        with reading(path), Image.open(path) as image:
            size = image.size
        if size != expected:
            raise UserError(
                f"{path}: is {size[0]}x{size[1]}, but the run's images are "
                f"{expected[0]}x{expected[1]}; FID needs one size on both sides"
            )
    return files


def exactly(files: list[Path], count: int) -> Path:
    """A folder with the first `count` of the files: their own where it holds no more, else copies in a folder beside
    it, named after what the files are now."""
    folder, chosen = files[0].parent, files[:count]
    if len(files) == count:
        return folder
    about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in chosen]
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:8]
    part = folder.with_name(f"{folder.name}{PART}{count}_{key}")
    if not part.is_dir():
        making = part.with_name(f".{part.name}.{os.getpid()}.tmp")
        try:
            making.mkdir()
            for path in chosen:
                shutil.copyfile(path, making / path.name)
            os.replace(making, part)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return part


def export_real(images: ImageSet, count: int, run: Run, split: str) -> Path:
    """The first `count` real images as PNGs, below records/FID, whole or not at all."""
    key = hashlib.sha256(images.pixels[:count].tobytes()).hexdigest()[:8]
    _, h, w, c = images.pixels.shape
    folder = SAMPLES_DIR / f"real_{run.name}_{split}_{c}x{h}x{w}_{count}_{key}"
    if not folder.is_dir():
        making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            for i in tqdm(range(count), desc="exporting real images", unit="img", leave=False):
                save_png(images.pixels[i], making / f"{i:06d}.png")
            os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder
