"""MNIST and FashionMNIST from their IDX files, gzipped or plain, wherever they lie on this machine.

An IDX file is big-endian: two zero bytes, 8 for unsigned bytes, the number of dimensions, one 32-bit size each, and
then the bytes.
"""

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from global_config import DATA_DIR
from train.data.listing import Listing
from train.errors import UserError, listed, reading

DEBIAN_DIR = Path("/usr/share/datasets")  # of packages dataset-*
PARTS = {"train": "train", "test": "t10k"}  # split -> how its files' names begin
MOST_BYTES = 2**31  # that a header may promise; the largest set of this kind, EMNIST, has 2**29
LABELS = 10
# the images of each class in the published label files: a file of the right length may still belong to another set
MNIST_COUNTS = {
    60_000: [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    10_000: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
FMNIST_COUNTS = {60_000: [6000] * LABELS, 10_000: [1000] * LABELS}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file with that many dimensions. Raises UserError where the file is not whole or is
    another one.
    """
    with reading(path), open(path, "rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        with gzip.open(plain) if zipped else plain as file:
            magic = file.read(4)
            if magic != bytes([0, 0, 8, dimensions]):
                raise UserError(
                    f"{path}: begins with {magic.hex() or 'nothing'}, an IDX file of {dimensions}-dimensional bytes "
                    f"with 000008{dimensions:02x}"
                )
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise UserError(f"{path}: ends within its header")
            shape = tuple(np.frombuffer(header, ">u4").tolist())
            promised = math.prod(shape)
            if not 0 < promised <= MOST_BYTES:
                raise UserError(f"{path}: its header promises {' x '.join(map(str, shape))} bytes, which cannot be")
            content = file.read(
                promised + 1
            )  # one more than there may be: to reach the end is to have the checksum of gzip verified
    if len(content) != promised:
        more = "more" if len(content) > promised else f"{len(content)}"
        raise UserError(
            f"{path}: its header promises {' x '.join(map(str, shape))} bytes, but there are {more}; get it anew"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def find_folder(config, torchvision_name: str, package: str | None) -> Path:
    """The folder of the files: data.path or torchvision's layout below it where it is given; else torchvision's layout
    in the data directory, and then what Debian's package installs. Raises UserError that says how to get them."""
    home = Path(config.path) if config.path else DATA_DIR
    folders = [home / torchvision_name / "raw", *([home] if config.path else [home / config.source])]
    if package and not config.path:
        folders.append(DEBIAN_DIR / package.removeprefix("dataset-"))
    first = _names(PARTS["train"])[0]
    for folder in folders:
        if _file(folder, first):
            return folder
    debian = f"apt-get install {package} (Debian and Ubuntu), or " if package else ""
    raise UserError(
        f"data set {config.source}: {first}[.gz] is in none of {listed(folders)}; {debian}on a machine "
        f'with a network run python -c "from torchvision.datasets import {torchvision_name}; '
        f"{torchvision_name}('.', download=True)\" "
        f"and copy the folder {torchvision_name} to {home}"
    )


def _read_part(folder: Path, part: str, counts: dict[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) uint8 and labels (N,) of one part. Raises UserError."""
    paths = [_file(folder, name) for name in _names(part)]
    for path, name in zip(paths, _names(part)):
        if path is None:
            raise UserError(f"{folder}: {name}[.gz] is missing beside the others")
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise UserError(
            f"{paths[1]}: holds {len(labels)} labels, but {paths[0].name} {len(images)} images; "
            "it belongs to another set"
        )
    if labels.max() >= LABELS:
        raise UserError(
            f"{paths[1]}: holds the label {labels.max()}; the classes are 0 to {LABELS - 1}, "
            "so it belongs to another set"
        )
    present = np.bincount(labels, minlength=LABELS).tolist()
    if present != counts.get(len(labels), present):
        raise UserError(
            f"{paths[1]}: has {listed(present)} images a class; the published file has {listed(counts[len(labels)])}"
        )
    return images, labels


def _idx_source(torchvision_name: str, package: str | None, counts: dict[int, list[int]], config) -> Listing:
    folder = find_folder(config, torchvision_name, package)
    parts = {split: _read_part(folder, part, counts) for split, part in PARTS.items()}
    shapes = {split: images.shape[1:] for split, (images, _) in parts.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{folder}: images of {shapes['train']} pixels in one file and {shapes['test']} in the other")
    pixels = np.concatenate([images for images, _ in parts.values()])
    labels = np.concatenate([labels for _, labels in parts.values()]).astype(int)
    sizes = {split: len(images) for split, (images, _) in parts.items()}
    return Listing(
        ids=[f"{split}_{i:05d}" for split, size in sizes.items() for i in range(size)],
        splits=np.repeat(list(sizes), list(sizes.values())),
        load=lambda i: pixels[i],
        fingerprint=f"{torchvision_name} {sizes} {zlib.crc32(pixels):08x}",
        attributes=pd.DataFrame(index=range(len(pixels))),
        labels=labels,
    )


fmnist = partial(_idx_source, "FashionMNIST", "dataset-fashion-mnist", FMNIST_COUNTS)
mnist = partial(_idx_source, "MNIST", None, MNIST_COUNTS)
