"""Every data set from tiny files in its real on-disk format."""

import gzip
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPO, draw_images
from PIL import Image

from train.data import dataset, drawings, files, idx
from train.data.config import DataConfig
from train.data.dataset import _list_source, list_source, load_all, load_split
from train.data.decode import to_pixels
from train.data.drawings import FACES, VOXELS
from train.data.listing import random_splits, select
from train.data.table import HAIR_SMILE, SOURCES, resolve
from train.errors import UserError


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    _list_source.cache_clear()
    monkeypatch.setattr(dataset, "DATA_DIR", tmp_path / "data")
    return tmp_path


def config(source, path=None, channels=3, size=16, **options):
    return DataConfig(
        source=source, image_size=size, channels=channels, **({"path": str(path)} if path else {}), **options
    )


def test_the_table_has_every_name():
    names = "faces voxels mnist5k elpv fmnist mnist cifar10 celeba celeba_hair_smile ffhq chexpert folder edm"
    assert set(SOURCES) == set(names.split())


# --- decoding


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16).repeat(4, 0)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert to_pixels(Image.open(tmp_path / "a.png"), 4, 1)[0, :, 0].tolist() == [0, 1, 100, 255]
    assert to_pixels(Image.open(tmp_path / "a.png"), 4, 3)[0, 2].tolist() == [100] * 3


def test_palette_alpha_and_grey_jpeg(tmp_path):
    red = Image.new("RGB", (8, 8), (200, 10, 30))
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert np.abs(to_pixels(Image.open(tmp_path / "p.png"), 8, 3)[0, 0].astype(int) - (200, 10, 30)).max() <= 1
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, :4] = (200, 10, 30, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    pixels = to_pixels(Image.open(tmp_path / "a.png"), 8, 3)
    assert pixels[0, 0].tolist() == [200, 10, 30] and pixels[0, 7].tolist() == [255] * 3
    Image.new("L", (8, 8), 77).save(tmp_path / "g.jpg")
    assert to_pixels(Image.open(tmp_path / "g.jpg"), 8, 3)[3, 3].tolist() == [77] * 3


def test_exif_rotation_is_applied(tmp_path):
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255  # left half white; turned by 90 degrees clockwise it is the top half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "r.png", exif=exif)
    pixels = to_pixels(Image.open(tmp_path / "r.png"), 8, 1)
    assert pixels[0].min() > 250 and pixels[7].max() < 5


def test_resizing_is_pils_antialiased_bicubic(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(to_pixels(noise, 16, 3), expected)


# --- folders and tables


def test_a_mixed_folder_is_cached_once_and_reread(tmp_path):
    root = draw_images(tmp_path / "images", 12)
    Image.new("L", (9, 30), 5).save(root / "z.jpg")
    splits = {split: load_split(config("folder", root), split) for split in ("train", "val", "test")}
    assert sum(len(part) for part in splits.values()) == 13
    train = splits["train"]
    assert (
        train.pixels.shape[1:] == (16, 16, 3) and train.pixels.dtype == np.uint8 and isinstance(train.pixels, np.memmap)
    )
    caches = set((tmp_path / "data" / "cache").iterdir())
    load_split(config("folder", root), "train")
    assert set((tmp_path / "data" / "cache").iterdir()) == caches and len(caches) == 3
    expected = to_pixels(Image.open(root / train.ids[0]), 16, 3)
    assert np.array_equal(train.pixels[0], expected)


def test_a_table_without_splits_leaves_them_to_the_folders_and_its_names_fit_rules(tmp_path):
    root, names = tmp_path / "images", [f"{split}/{i}.png" for split in ("test", "train") for i in range(6)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(root / name)
    table = tmp_path / "labels.csv"
    pd.DataFrame({"file": names, "dog ears": [0, 1] * 6, "coat": ["dark red", "grey"] * 6}).to_csv(table, index=False)
    listing = list_source(config("folder", root, metadata=str(table)))
    assert listing.splits.tolist() == ["test"] * 6 + ["train"] * 6
    assert list(listing.attributes) == ["dog_ears", "coat_dark_red", "coat_grey"]
    assert len(load_split(config("folder", root, metadata=str(table), where="dog_ears"), "train")) == 3


def paint(root, **shades: int):
    """Grey PNGs of one shade each; __ stands for /."""
    for name, shade in shades.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), shade).save(path)
    return root


def test_a_table_means_the_image_that_it_names(tmp_path):
    """Base names that two images share are refused: the label of one would land on the other."""
    root, table = paint(tmp_path / "images", cat__0=10, cat__1=20, dog__0=240), tmp_path / "labels.csv"

    def labelled(*names):
        table.write_text("file,cat\n" + "".join(f"{name},1\n" for name in names))
        _list_source.cache_clear()
        return load_all(config("folder", root, metadata=str(table)))

    assert labelled("1.png", "dog/0.png").ids == ["cat/1.png", "dog/0.png"]
    with pytest.raises(UserError, match="row 3: 0.png may be cat/0.png or dog/0.png; give paths below"):
        labelled("1.png", "0.png")
    with pytest.raises(UserError, match="cat/1.png: stands twice in the table"):
        labelled("1.png", "cat/1.png")
    paint(root, **{"0": 0})
    assert labelled("0.png").ids == ["0.png"]  # a path


def test_hidden_files_and_folders_are_no_images(tmp_path):
    root = paint(tmp_path / "images", a=1, b__c=2, x=3)
    paint(root, **{".ipynb_checkpoints__a": 1, "b__._c": 1, "y.png__z": 4})
    assert files._walk(root) == ["a.png", "b/c.png", "x.png", "y.png/z.png"]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "__MACOSX/._a.png", ".hidden/a.png"):
            archive.write(root / "a.png", name)
        archive.writestr("y.png/", b"")  # a folder
    assert list_source(config("edm", path)).ids == ["a.png"]


def test_links_to_folders_are_followed_but_not_round_in_circles(tmp_path):
    paint(tmp_path / "elsewhere", a=1, b__c=2)
    root = paint(tmp_path / "images", x=3)
    (root / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "b" / "up").symlink_to(tmp_path / "elsewhere")
    (root / "itself").symlink_to(root)
    assert files._walk(root) == ["train/a.png", "train/b/c.png", "x.png"]


def test_a_file_name_that_is_no_text_is_named(tmp_path):
    root = paint(tmp_path / "images", a=1)
    try:
        (root / "b\udcff.png").write_bytes((root / "a.png").read_bytes())
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    with pytest.raises(UserError, match=r"b\\udcff.png' is no name in UTF-8; rename that file"):
        list_source(config("folder", root))


def test_where_and_limit(tmp_path):
    root = draw_images(tmp_path / "images")
    table = pd.read_csv(root / "metadata.csv")
    chosen = load_split(
        config("folder", root, metadata=str(root / "metadata.csv"), where="Bright == Left", limit=5), "train"
    )
    assert len(chosen) == 5 and (chosen.attributes["Bright"] == chosen.attributes["Left"]).all()
    everything = load_split(
        config("folder", root, metadata=str(root / "metadata.csv"), where="Bright == Left"), "train"
    )
    assert len(everything) == ((table.split == "train") & (table.Bright == table.Left)).sum()
    with pytest.raises(UserError, match="no image is left"):
        list_source(config("folder", root, metadata=str(root / "metadata.csv"), where="Bright and not Bright"))


def test_select_follows_its_truth_table_and_leaves_unknowns_out():
    table = pd.DataFrame({"A": [0, 0, 1, 1, np.nan], "B": [0, 1, 0, 1, 1]})
    assert select("A and not B", table).tolist() == [False, False, True, False, False]
    assert select("A + B == 1", table).tolist() == [False, True, True, False, False]
    assert select("not A", table).tolist() == [True, True, False, False, False]
    assert select("B", table).tolist() == [False, True, False, True, True]
    for bad in ("C", "A.size", "f(A)", "A ==", "A < B < 1"):
        with pytest.raises(UserError):
            select(bad, table)


def test_attributes_are_named_as_they_are_called():
    """CelebA's 5_o_Clock_Shadow and a text value with a hyphen are no names in Python; numbers stay numbers."""
    names = {
        "5_o_Clock_Shadow": [1, 0, 1],
        "T-shirt": [0, 0, 1],
        "T-shirt-long": [1, 1, 0],
        "1": [0, 0, 0],
        "A": [1, 0, 1],
    }
    table = pd.DataFrame(names)
    assert select("5_o_Clock_Shadow == A", table).tolist() == [True, True, True]
    assert select("not T-shirt and (T-shirt-long)", table).tolist() == [True, True, False]
    assert select("A + T-shirt == 1", table).tolist() == [True, False, False]
    for bad in ("15_o_Clock_Shadow", "A-shirt", "T-shirts"):
        with pytest.raises(UserError):
            select(bad, table)


def test_broken_and_missing_files_are_named(tmp_path):
    root = draw_images(tmp_path / "images", 8)
    (root / "003.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match="003.png"):
        _ = [load_split(config("folder", root), split) for split in ("train", "val", "test")]
    assert not [p for p in (tmp_path / "data").rglob("*") if "tmp" in p.name]
    (root / "005.png").unlink()
    with pytest.raises(UserError, match="row 7.*005.png"):
        list_source(config("folder", root, metadata=str(root / "metadata.csv")))
    with pytest.raises(ValueError, match="not an option of faces"):
        config("faces", root)


def test_splits_do_not_overlap_and_are_seeded():
    splits = random_splits(1000, 0)
    assert (splits == "test").sum() == 200 and (splits == "val").sum() == 100
    assert (splits == random_splits(1000, 0)).all() and (splits != random_splits(1000, 1)).any()


# --- CelebA in its three layouts


ATTRIBUTES = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Smiling"]
ROWS = [
    (1, -1, -1, -1),
    (1, -1, -1, 1),
    (-1, 1, -1, 1),
    (-1, 1, -1, -1),
    (-1, -1, 1, 1),
    (1, 1, -1, -1),
    (-1, -1, -1, 1),
    (-1, 1, 1, 1),
]
KEPT = [0, 2, 4]  # exactly one colour, and blond or brown with a smile or black without


def celeba(root, layout):
    images, annotation, evaluation = {
        "flat": (root, root, root),
        "release": (root / "Img", root / "Anno", root / "Eval"),
        "metadata": (root, root, root),
    }[layout]
    for folder in (images / "img_align_celeba", annotation, evaluation):
        folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(ROWS))]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (20 * i, 0, 0)).save(images / "img_align_celeba" / name)
    splits = [0, 0, 0, 1, 2, 2, 0, 0]
    if layout == "metadata":
        lines = [",".join(["img_filename", "split", *ATTRIBUTES])]
        lines += [",".join(map(str, (name, split, *row))) for name, split, row in zip(names, splits, ROWS)]
        (root / "metadata.csv").write_text("\n".join(lines))
    else:
        lines = [str(len(ROWS)), " ".join(ATTRIBUTES) + " "] + [
            f"{n} " + " ".join(f"{v:2d}" for v in row) for n, row in zip(names, ROWS)
        ]
        (annotation / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        (evaluation / "list_eval_partition.txt").write_text("".join(f"{n} {s}\n" for n, s in zip(names, splits)))
    return root


@pytest.mark.parametrize("layout", ["flat", "release", "metadata"])
def test_celeba(tmp_path, layout):
    root = celeba(tmp_path / "celeba", layout)
    listing = list_source(config("celeba", root))
    assert listing.splits.tolist() == ["train"] * 3 + ["val"] + ["test"] * 2 + ["train"] * 2
    assert (listing.attributes[ATTRIBUTES].to_numpy() == (np.array(ROWS) > 0)).all()
    assert load_split(config("celeba", root), "test").pixels.shape == (2, 16, 16, 3)
    biased = list_source(config("celeba_hair_smile", root))
    assert [i for i, split in enumerate(biased.splits) if split] == KEPT


def test_celeba_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="does not exist.*mmlab"):
        list_source(config("celeba", tmp_path / "none"))
    root = celeba(tmp_path / "celeba", "flat")
    (root / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match="list_eval_partition.txt"):
        list_source(config("celeba", root))


# --- FFHQ, CheXpert


def test_ffhq(tmp_path, monkeypatch):
    for i in range(4):
        folder = tmp_path / "ffhq" / f"{i // 2 * 1000:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(folder / f"{i:05d}.png")
    listing = list_source(config("ffhq", tmp_path / "ffhq"))
    assert listing.ids == ["00000/00000.png", "00000/00001.png", "01000/00002.png", "01000/00003.png"]
    assert set(listing.splits) == {"train"}  # fewer than 60,000
    (tmp_path / "ffhq" / "metadata.csv").write_text(
        "img_filename,split,age_group,gender,glasses\n00000.png,0,20-29,male,1\n00003.png,2,30-39,female,0\n"
    )
    listing = list_source(config("ffhq", tmp_path / "ffhq"))
    assert listing.ids == ["00000/00000.png", "01000/00003.png"] and listing.splits.tolist() == ["train", "test"]
    assert listing.attributes["gender_male"].tolist() == [1, 0] and listing.attributes["glasses"].tolist() == [1, 0]


def chexpert(root, patients=20):
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Pleural Effusion"]
    for patient in range(patients):
        for study, view in ((1, "Frontal"), (2, "Frontal"), (2, "Lateral")):
            name = f"CheXpert-v1.0-small/train/patient{patient:05d}/study{study}/view1_{view.lower()}.jpg"
            file = root / name.split("/", 1)[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (39, 32), patient).save(file)
            rows.append(
                f"{name},Female,50,{view},AP,{['1.0', ''][patient % 2]},{['', '-1.0', '0.0', '1.0'][patient % 4]},1.0"
            )
    (root / "train.csv").write_text("\n".join(rows))
    return root


def test_chexpert(tmp_path):
    root = chexpert(tmp_path / "chexpert")
    listing = list_source(config("chexpert", root, channels=1))
    assert len(listing.ids) == 40 and not any("lateral" in name for name in listing.ids)
    patients = pd.Series(listing.ids).str.extract(r"(patient\d+)")[0]
    assert pd.Series(listing.splits).groupby(patients).nunique().max() == 1 and set(listing.splits) == {
        "train",
        "val",
        "test",
    }
    finding = listing.attributes["Cardiomegaly"].to_numpy()[::2]
    assert np.isnan(finding[0]) and np.isnan(finding[1]) and finding[2] == 0 and finding[3] == 1
    mapped = list_source(config("chexpert", root, channels=1, uncertain="positive", missing="negative")).attributes[
        "Cardiomegaly"
    ]
    assert mapped.tolist()[::2][:4] == [0, 1, 0, 1]


# --- EDM


def edm_zip(path, sizes=(16, 16, 16), labels=(2, 0, 1), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        names = [f"0000{i}/img{i}.png" for i in range(len(sizes))]
        for i, (name, size) in enumerate(zip(names, sizes)):
            with archive.open(name, "w") as file:
                Image.new("RGB", (size, size), (i, 0, 0)).save(file, "PNG")
        archive.writestr(
            "dataset.json", json.dumps({"labels": [[n, label] for n, label in zip(names, labels)] if labels else None})
        )
    return path


def test_edm_zip(tmp_path):
    listing = list_source(config("edm", edm_zip(tmp_path / "a.zip")))
    assert listing.labels.tolist() == [2, 0, 1] and [listing.load(i).getpixel((0, 0))[0] for i in range(3)] == [0, 1, 2]
    assert list_source(config("edm", edm_zip(tmp_path / "b.zip", labels=None))).labels is None
    assert list_source(config("edm", edm_zip(tmp_path / "c.zip", labels=([0, 1], [1, 0], [0, 1])))).labels.tolist() == [
        1,
        0,
        1,
    ]
    with pytest.raises(UserError, match="is 8x8"):
        load_all(config("edm", edm_zip(tmp_path / "d.zip", sizes=(16, 8, 16))))
    assert not [path for path in (tmp_path / "data").rglob("*.npy")]
    with pytest.raises(UserError, match="compressed"):
        list_source(config("edm", edm_zip(tmp_path / "e.zip", compression=zipfile.ZIP_DEFLATED)))
    (tmp_path / "f.zip").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="not a readable zip"):
        list_source(config("edm", tmp_path / "f.zip"))


# --- IDX files


def idx_bytes(array) -> bytes:
    array = np.asarray(array)
    header = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, zipped=False, counts=(("train", 6), ("t10k", 3))):
    """A tiny set in the published format: image i is filled with i and has label i."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in counts:
        images = np.arange(count)[:, None, None] * np.ones((1, 28, 28))
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", np.arange(count))):
            content = idx_bytes(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("source", "folder"), [("mnist", "MNIST/raw"), ("fmnist", "FashionMNIST/raw"), ("fmnist", ".")]
)
def test_idx_files(tmp_path, source, folder, zipped):
    write_idx(tmp_path / folder, zipped)
    train = load_split(config(source, tmp_path, channels=1), "train")
    assert train.pixels[:, 0, 0, 0].tolist() == list(range(6)) and train.labels.tolist() == list(range(6))
    name = {"mnist": "Class_4", "fmnist": "Coat"}[source]
    assert train.attributes[name].tolist() == [0, 0, 0, 0, 1, 0]
    assert load_split(config(source, tmp_path, channels=1, where=name), "train").ids == ["train_00004"]
    assert len(load_split(config(source, tmp_path, channels=1), "test")) == 3


def test_places_of_idx_files_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(idx, "DEBIAN_DIR", tmp_path / "usr")
    with pytest.raises(
        UserError, match="apt-get install dataset-fashion-mnist.*torchvision.datasets import FashionMNIST"
    ):
        list_source(config("fmnist", channels=1))
    with pytest.raises(UserError, match="FashionMNIST/raw.*apt-get"):
        list_source(config("fmnist", tmp_path / "elsewhere", channels=1))
    with pytest.raises(UserError, match="torchvision.datasets import MNIST") as refused:
        list_source(config("mnist", channels=1))
    assert "apt-get" not in str(refused.value)
    folders = [write_idx(tmp_path / "usr" / "fashion-mnist"), write_idx(tmp_path / "data" / "FashionMNIST" / "raw")]
    settings = config("fmnist", channels=1)
    assert idx.find_folder(settings, "FashionMNIST", "dataset-fashion-mnist") == folders[1]
    (folders[1] / "train-images-idx3-ubyte").unlink()
    assert idx.find_folder(settings, "FashionMNIST", "dataset-fashion-mnist") == folders[0]
    assert len(list_source(settings).ids) == 9


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
DAMAGES = {  # what becomes of the six training images -> what the one line says
    "half of the gzip": (IMAGES, lambda raw: gzip.compress(raw)[:-20], "train-images.*cannot be read"),
    "a flipped byte of the gzip": (IMAGES, lambda raw: flip(gzip.compress(raw)), "train-images"),
    "no file of that name": (LABELS, None, "train-labels-idx1-ubyte.* missing"),
    "nothing in it": (IMAGES, lambda raw: b"", "begins with nothing"),
    "half a header": (IMAGES, lambda raw: gzip.compress(raw[:9]), "ends within its header"),
    "half the images": (
        IMAGES,
        lambda raw: gzip.compress(raw[:2000]),
        "promises 6 x 28 x 28 bytes, but there are 1984",
    ),
    "a byte too many": (IMAGES, lambda raw: gzip.compress(raw + b"x"), "there are more"),
    "a header that promises the world": (IMAGES, lambda raw: raw[:4] + b"\xff" * 12, "cannot be"),
    "labels in the place of images": (IMAGES, lambda raw: idx_bytes(np.arange(6)), "begins with 00000801"),
    "labels of another set": (LABELS, lambda raw: idx_bytes(np.arange(5)), "holds 5 labels, but .* 6 images"),
    "labels that are none": (LABELS, lambda raw: idx_bytes([0, 1, 2, 3, 4, 10]), "holds the label 10"),
}


def flip(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 255]) + content[41:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_idx_file_is_one_line_and_nothing_is_cached(tmp_path, damage):
    name, change, expected = DAMAGES[damage]
    path = write_idx(tmp_path / "raw", zipped=True) / name
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(change(raw)) if change else path.unlink()
    with pytest.raises(UserError, match=expected) as refused:
        load_split(config("fmnist", tmp_path / "raw", channels=1), "train")
    assert "\n" not in str(refused.value) and not (tmp_path / "data").exists()


def test_a_label_file_of_the_right_length_from_another_set(monkeypatch):
    """The 10,000 of FashionMNIST have 1,000 a class, those of MNIST have not."""
    counts = idx.MNIST_COUNTS[10_000]
    digits, garments = np.repeat(np.arange(10), counts), np.repeat(np.arange(10), 1000)
    arrays = {3: np.zeros((10_000, 1, 1)), 1: digits}
    monkeypatch.setattr(idx, "read_idx", lambda path, dimensions: arrays[dimensions])
    monkeypatch.setattr(idx, "_file", lambda folder, name: folder / name)
    with pytest.raises(UserError, match="has 980, 1135.*published file has 1000"):
        idx._read_part(Path("x"), "t10k", idx.FMNIST_COUNTS)
    arrays[1] = garments
    assert len(idx._read_part(Path("x"), "t10k", idx.FMNIST_COUNTS)[1]) == 10_000


def test_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    for number, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        data = np.full((2, 3, 32, 32), number, np.uint8)
        data[:, 0] = 200
        (base / name).write_bytes(pickle.dumps({"data": data.reshape(2, -1), "labels": [number, 1]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    train = load_split(config("cifar10", tmp_path, size=32), "train")
    assert train.pixels[2, 5, 5].tolist() == [200, 1, 1] and train.labels.tolist()[:3] == [0, 1, 1]


def test_cifar10_that_is_not_there_says_where_it_belongs(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "download", lambda self: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="cifar-10-batches-py.*cannot be downloaded"):
        list_source(config("cifar10", tmp_path))


def test_a_source_is_listed_once_for_all_splits(tmp_path, monkeypatch):
    root, listed = draw_images(tmp_path / "images", 12), []
    folder = files.folder
    monkeypatch.setattr(files, "folder", lambda settings: listed.append(1) or folder(settings))
    parts = [
        load_split(config("folder", root, limit=limit), split) for split in ("train", "test") for limit in (None, 2)
    ]
    assert len(listed) == 1 and [len(part) for part in parts[1::2]] == [2, 2]


def test_mnist5k_and_elpv_come_with_packages():
    digits = list_source(config("mnist5k", channels=1, size=32))
    assert len(digits.ids) == 5000 and digits.load(0).shape == (32, 32)
    assert (
        np.bincount(digits.labels[digits.splits == "test"]).min() > 50
    )  # shuffled, though sorted by class in the package
    pytest.importorskip("elpv_dataset")
    cells = list_source(config("elpv", channels=1))
    assert (
        len(cells.ids) == 2624
        and 0.2 < cells.attributes["Defect"].mean() < 0.5
        and 0.3 < cells.attributes["Poly"].mean() < 0.7
    )


# --- drawings

WORLDS = [pytest.param(FACES, id="faces"), pytest.param(VOXELS, id="voxels")]
OPTIONS_DIGEST = "c2c5b05df3737c2e7c6bce1379a5ef61d1500960e1fc18e8e5fb978b68b14cab"
BRIGHTNESS = [(169.72, 127.55, 130.70), (227.95, 188.93, 158.08), (175.99, 132.73, 131.10)]  # of each channel
DRAWN = [pytest.param(w, name, id=f"{w.noun}-{name}") for w in (FACES, VOXELS) for name in w.names]


def test_a_script_without_a_guard_draws_in_processes_that_do_not_run_it_again(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from train.data import dataset\nfrom train.data.config import DataConfig\nprint('once')\ndataset.FEW = 0\n"
        "config = DataConfig(source='faces', image_size=32, channels=3, limit=1)\n"
        "print(len(dataset.load_split(config, 'train')), __file__)\n"
    )
    environment = os.environ | {"PATRONUS_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["once", "1", str(script)], done.stderr


def test_faces_are_the_drawings_that_runs_were_trained_on():
    """Digest of options and brightness of images as they were when the first run was shipped."""
    rounded = [
        {key: round(value, 6) if isinstance(value, float) else value for key, value in options.items()}
        for options in (FACES.draw_options(3, i) for i in range(200))
    ]
    assert hashlib.sha256(json.dumps(rounded).encode()).hexdigest() == OPTIONS_DIGEST
    for index, expected in enumerate(BRIGHTNESS):
        assert FACES.draw(3, 32, index).mean((0, 1)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_is_one_image_and_attributes_are_independent(world):
    assert np.array_equal(world.draw(3, 32, 5), world.render(world.draw_options(3, 5), 32))
    assert not np.array_equal(world.draw(3, 32, 5), world.draw(4, 32, 5))
    table = pd.DataFrame([world.attributes(world.draw_options(0, i)) for i in range(4000)])
    assert list(table) == world.names and (table[list(world.hair_colours)].sum(axis=1) == 1).all()
    shares = {name: 0.25 for name in world.hair_colours} | {name: row[-1] for name, row in world.binary.items()}
    assert table.mean().to_dict() == pytest.approx(shares, abs=0.03)
    parts = table[["Black_Hair", *world.binary]].corr().to_numpy()
    assert np.abs(parts - np.eye(len(parts))).max() < 0.06


@pytest.mark.parametrize("world", WORLDS)
def test_nothing_is_left_to_the_style_s_own_seed(world):
    style = json.loads((resources.files("dicebear_styles") / f"{world.style}.json").read_text("utf-8"))
    choices = {f"{name}Variant": part["variants"] for name, part in style["components"].items()}
    for index in range(100):
        options = world.draw_options(1, index)
        assert all(options[key] is None or options[key] in known for key, known in choices.items() if key in options)
    choices |= {f"{name}Color": colour["values"] for name, colour in style["colors"].items()}
    assert {key for key, known in choices.items() if len(known) > 1} <= set(options)


@pytest.mark.parametrize(("world", "attribute"), DRAWN)
def test_a_counterfactual_changes_its_attribute_and_its_region_alone(world, attribute):
    options = world.draw_options(0, 1)
    absent, present, region = world.counterfactual(options, attribute, 64)
    for value in (0, 1):
        changed = world.with_attribute(options, attribute, value)
        assert world.attributes(changed)[attribute] == value
        assert sum(changed[key] != options[key] for key in options) == (world.attributes(options)[attribute] != value)
        others = set(world.binary) - {attribute}
        assert all(world.attributes(changed)[name] == world.attributes(options)[name] for name in others)
    once = world.with_attribute(world.with_attribute(options, attribute, 0), attribute, 1)
    assert world.with_attribute(world.with_attribute(once, attribute, 0), attribute, 1) == once  # a round trip
    assert 0 < region.mean() < 0.6
    assert np.abs(absent.astype(int) - present)[~region].max() <= 8


@pytest.mark.parametrize(
    ("world", "order"),
    [
        (FACES, ["Eyes_Closed", "Smiling", "Red_Clothes"]),
        (VOXELS, ["Eyes_Closed", "Smiling", "Blue_Clothes"]),
        (VOXELS, ["Glasses", "Beard"]),
    ],
)
def test_regions_lie_where_the_parts_are(world, order):
    """From top to bottom, on an upright drawing."""
    options = world.draw_options(0, 1) | {"rotate": 0.0}
    regions = [world.counterfactual(options, name, 64)[2] for name in order]
    rows = [np.flatnonzero(region.any(1)) for region in regions]
    assert all(above.max() < below.min() for above, below in zip(rows, rows[1:]))


def test_parts_of_voxels_are_small():
    """Share of an image's pixels; a smile has about 11 of 1,024."""
    options = [VOXELS.draw_options(0, i) for i in range(8)]
    for name, most in (("Smiling", 0.015), ("Eyes_Closed", 0.05), ("Beard", 0.1), ("Glasses", 0.1)):
        assert 0.002 < np.mean([VOXELS.counterfactual(o, name, 32)[2].mean() for o in options]) < most


@pytest.mark.parametrize("source", ["faces", "voxels"])
def test_drawings_are_a_data_set_with_counterfactuals_and_a_licence_beside_its_cache(source, data_home, monkeypatch):
    monkeypatch.setattr(drawings, "SPLITS", {"train": 40, "val": 1, "test": 2})
    monkeypatch.setattr(dataset, "_pool", lambda processes: ThreadPoolExecutor(1))  # fresh processes take seconds
    world, licence = {"faces": (FACES, "CC BY 4.0"), "voxels": (VOXELS, "CC0 1.0")}[source]
    settings = config(source, size=32, limit=2)
    test = load_split(settings, "test")
    assert np.array_equal(test.pixels[0], world.draw(0, 32, 41)) and test.ids[0] == f"{world.noun}_00041"
    assert licence in (data_home / "data" / "cache" / f"{source}_LICENCE.txt").read_text()
    moved = world._replace(framing=world.framing | {"scale": (1.0, 1.1)})
    assert moved.listing(settings).fingerprint != world.listing(settings).fingerprint  # no other world's cache is read
    row = SOURCES[source]
    assert set(resolve(row.counterfactuals)(32, 0, 1)) == set(test.attributes) >= set(row.exclusive)
    planted = list_source(settings.model_copy(update={"where": HAIR_SMILE}))
    kept = planted.attributes[planted.splits != ""]
    assert 5 < len(kept) < 35 and (kept["Smiling"] != kept["Black_Hair"]).all()


def test_the_first_images_of_a_set_in_order_of_class_are_of_every_class(tmp_path):
    for number in range(60):
        path = tmp_path / f"class_{number // 20}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    config = DataConfig(source="folder", path=str(tmp_path), image_size=8, channels=1)
    listing, whole = list_source(config), load_split(config, "train")
    assert sorted(whole.ids) == sorted(np.array(listing.ids)[listing.splits == "train"])
    assert (whole.pixels[:, 0, 0, 0] == [int(Path(name).stem) for name in whole.ids]).all()
    few = load_split(config.model_copy(update={"limit": 12}), "train")
    assert few.ids == whole.ids[:12] and {Path(name).parent.name for name in few.ids} == {f"class_{c}" for c in "012"}
    assert {Path(name).parent.name for name in load_all(config).ids[:12]} == {f"class_{c}" for c in "012"}
