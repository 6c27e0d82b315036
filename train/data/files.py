"""Data sets that lie on disk as image files."""

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from global_config import DATA_DIR
from train.data.listing import SPLITS, Listing, random_splits
from train.errors import UserError, listed, reading

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
WHERE_FROM = {
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "ffhq": "https://github.com/NVlabs/ffhq-dataset",
    "chexpert": "https://stanfordmlgroup.github.io/competitions/chexpert",
}


def _root(config) -> Path:
    root = Path(config.path) if config.path else DATA_DIR / config.source.split("_")[0]
    if not root.exists():
        origin = WHERE_FROM.get(config.source.split("_")[0])
        raise UserError(
            f"data set {config.source}: {root} does not exist; set data.path, of a trained run with --resume, of a "
            "shared one with --import" + (f"; or get it from {origin}" if origin else "")
        )
    return root


def _table(path: Path, **options) -> pd.DataFrame:
    with reading(f"{path}: not a readable table"):
        return pd.read_csv(path, **options)


def _open(paths: list[Path], index: int) -> Image.Image:
    return Image.open(paths[index])


def _listing(root: Path, names: list[str], splits, attributes: pd.DataFrame, labels=None) -> Listing:
    """Files named relative to root; the fingerprint covers every name, size and time. Raises UserError."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{root / twice}: stands twice in the table")
    paths, digest = [root / name for name in names], hashlib.sha256()
    for name, path in zip(names, paths):
        try:
            stat = path.stat()
        except OSError:
            raise UserError(f"{path}: named in the table, but there is no such file") from None
        digest.update(f"{name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return Listing(
        names,
        np.asarray(splits, dtype="<U5"),
        partial(_open, paths),
        digest.hexdigest(),
        attributes.reset_index(drop=True),
        labels,
    )


def _names_image(name: str) -> bool:
    """Whether a relative path is that of an image. Hidden files and folders hold copies and notes of other programs."""
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _walk(root: Path) -> list[str]:
    """Images below root at any depth, sorted by relative path. Links to folders are followed, but not to one that they
    lie in. Raises UserError for a name that is no text."""
    names = []
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder)
        links = {name: (here / name).resolve() for name in below if (here / name).is_symlink()}
        around = {place.resolve() for place in (here, *here.parents)} if links else set()
        below[:] = [name for name in below if links.get(name) not in around]
        names += [(here / name).relative_to(root).as_posix() for name in files]
    names = sorted(name for name in names if _names_image(name) and (root / name).is_file())
    for name in names:
        with reading(f"{root}: {name!a} is no name in UTF-8; rename that file"):
            name.encode()
    return names


def _numbered_splits(column: pd.Series, path: Path) -> np.ndarray:
    """0, 1, 2 or their names -> names."""
    names = {"0": "train", "1": "val", "2": "test", "valid": "val"} | {split: split for split in SPLITS}
    texts = column.astype(str).str.removesuffix(".0").str.lower()
    unknown = set(texts) - set(names)
    if unknown:
        raise UserError(
            f"{path}: column split holds {listed(sorted(unknown))}; allowed are 0, 1, 2 or train, val, test"
        )
    return texts.map(names).to_numpy()


def _find(root: Path, name: str, what: str) -> Path:
    """The file or folder of that name in root or one folder below it."""
    candidates = [root / name, *sorted(root.glob(f"*/{name}"))]
    for path in candidates:
        if path.exists():
            return path
    raise UserError(f"{what}: {name} is not in {root} (nor one folder below it); data from {WHERE_FROM[what]}")


def _binary(table: pd.DataFrame, columns: list[str], path: Path) -> pd.DataFrame:
    """Columns of 1 / -1 or 1 / 0 (empty: unknown) as 1, 0 and NaN."""
    try:
        values = table[columns].astype(float)
    except ValueError as error:
        raise UserError(f"{path}: attributes must be numbers: {error}") from None
    return values.where(values.isna(), (values > 0).astype(float))


def celeba(config) -> Listing:
    """Aligned CelebA: torchvision's flat layout, the release's Img/ Anno/ Eval/, or a metadata.csv of the authors of
    Patronus.
    """
    root = _root(config)
    images = _find(root, "img_align_celeba", "celeba")
    metadata = Path(config.metadata) if config.metadata else root / "metadata.csv"
    if metadata.is_file():
        table = _table(metadata)
        for column in ("img_filename", "split"):
            if column not in table:
                raise UserError(f"{metadata}: no column '{column}'; there are {listed(table.columns)}")
        columns = [
            c for c in table.columns if c not in ("img_filename", "split", "img_id") and not c.startswith("Unnamed")
        ]
        names, splits = table["img_filename"].astype(str).tolist(), _numbered_splits(table["split"], metadata)
    else:
        if config.metadata:
            raise UserError(f"data.metadata: {metadata} does not exist")
        path = _find(root, "list_attr_celeba.txt", "celeba")
        table = _table(path, sep=r"\s+", skiprows=1, index_col=0)
        columns, names = list(table.columns), table.index.astype(str).tolist()
        where = _find(root, "list_eval_partition.txt", "celeba")
        partition = _table(where, sep=r"\s+", header=None, index_col=0)[1]
        absent = table.index.difference(partition.index)
        if len(absent):
            raise UserError(f"{where}: no row for {absent[0]}, which {path.name} lists")
        splits, metadata = _numbered_splits(partition.loc[table.index], where), path
    return _listing(images, names, splits, _binary(table, columns, metadata))


def ffhq(config) -> Listing:
    """Square PNGs at any depth; metadata.csv (img_filename, split, ...) or, without it, the first 60,000 as train."""
    root = _root(config)
    metadata = Path(config.metadata) if config.metadata else root / "metadata.csv"
    if metadata.is_file() or config.metadata:
        return _with_table(root, _walk(root), metadata, config)
    names = _walk(root)
    _require_images(names, root)
    return _listing(
        root, names, np.where(np.arange(len(names)) < 60000, "train", "test"), pd.DataFrame(index=range(len(names)))
    )


def _require_images(names: list, root: Path) -> None:
    if not names:
        raise UserError(f"{root}: holds no images ({listed(sorted(EXTENSIONS))})")


def _folder_splits(names: list[str], seed: int) -> np.ndarray:
    """The top folders where all are called train, val or test, else a seeded split."""
    tops = [name.split("/")[0] for name in names]
    return np.array(tops) if set(tops) <= set(SPLITS) else random_splits(len(names), seed)


def _with_table(root: Path, files: list[str], metadata: Path, config) -> Listing:
    """A tree of images with a CSV: a column of file names, optionally `split`; binary columns are attributes, text
    columns become one attribute a value (up to 10 values), others are left out. Spaces in names become _.

    File names are paths below root, or base names that only one image has.
    """
    if not metadata.is_file():
        raise UserError(f"data.metadata: {metadata} does not exist")
    table = _table(metadata)
    column = next((c for c in ("img_filename", "filename", "file", "path", "Path", "image") if c in table), None)
    if column is None:
        raise UserError(
            f"{metadata}: no column of file names (img_filename, filename, file, path or image); "
            f"there are {listed(table.columns)}"
        )
    by_base, names = {}, []
    for name in files:
        by_base.setdefault(PurePosixPath(name).name, []).append(name)
    paths = {name: [name] for name in files}
    for row, name in enumerate(table[column].astype(str)):
        found = paths.get(name) or by_base.get(name, [])
        if len(found) != 1:
            several = f"{name} may be {' or '.join(found[:2])}; give paths" if found else f"no image {name}"
            raise UserError(f"{metadata}, row {row + 2}: {several} below {root}")
        names += found
    splits = _numbered_splits(table["split"], metadata) if "split" in table else _folder_splits(names, config.seed)
    attributes = {}
    for c in table.columns.drop([column, *(["split"] if "split" in table else [])]):
        values = table[c]
        if pd.api.types.is_numeric_dtype(values):
            if set(values.dropna().unique()) <= {-1, 0, 1}:
                attributes[c.replace(" ", "_")] = _binary(table, [c], metadata)[c]
        elif values.nunique() <= 10:
            for value in sorted(values.dropna().unique()):
                attributes[f"{c}_{value}".replace(" ", "_")] = (values == value).astype(float).where(values.notna())
    return _listing(root, names, splits, pd.DataFrame(attributes, index=table.index))


def folder(config) -> Listing:
    """Any tree of images. A CSV may name the splits; else top folders called train, val and test are the splits, else
    they are drawn at random.
    """
    root = _root(config)
    names = _walk(root)
    _require_images(names, root)
    if config.metadata:
        return _with_table(root, names, Path(config.metadata), config)
    return _listing(root, names, _folder_splits(names, config.seed), pd.DataFrame(index=range(len(names))))


FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


def _patient_splits(patients: pd.Series, seed: int) -> np.ndarray:
    """Train 80 %, val 10 %, test 10 % of the *patients*, never of images."""
    names = np.sort(patients.unique())
    split_of = dict(zip(names, random_splits(len(names), seed, 0.1, 0.1)))
    return patients.map(split_of).to_numpy()


def chexpert(config) -> Listing:
    """Frontal views of CheXpert-v1.0 (or -small), split by patient; or a metadata CSV that has its own `split` column.

    Attributes are the 14 findings (spaces as _) and Male; -1 and empty are unknown unless data.uncertain / data.missing
    map them.
    """
    root = _root(config)
    tables = (
        [Path(config.metadata)]
        if config.metadata
        else [p for p in (root / "train.csv", root / "valid.csv") if p.is_file()]
    )
    if not tables or not tables[0].is_file():
        raise UserError(
            f"chexpert: {tables[0] if tables else root / 'train.csv'} does not exist; "
            f"data from {WHERE_FROM['chexpert']}"
        )
    table = pd.concat([_table(path) for path in tables], ignore_index=True)
    if "Path" not in table:
        raise UserError(f"{tables[0]}: no column 'Path'; there are {listed(table.columns)}")
    if "Frontal/Lateral" in table:
        table = table[table["Frontal/Lateral"] == "Frontal"].reset_index(drop=True)
    # the CSV's paths begin with the archive's own folder, CheXpert-v1.0[-small]/
    names = [name.split("/", 1)[1] if name.startswith("CheXpert") else name for name in table["Path"].astype(str)]
    if "split" in table:
        splits = _numbered_splits(table["split"], tables[0])
    else:
        patients = pd.Series(names).str.extract(r"(patient\d+)")[0]
        if patients.isna().any():
            raise UserError(
                f"{tables[0]}: Path '{names[int(patients.isna().to_numpy().argmax())]}' names no patient, "
                "by which the set is split"
            )
        splits = _patient_splits(patients, config.seed)
    codes = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}
    attributes = {}
    for finding in (f for f in FINDINGS if f in table):
        values = table[finding].astype(float)
        values = values.mask(values == -1, codes[config.uncertain]).where(table[finding].notna(), codes[config.missing])
        attributes[finding.replace(" ", "_")] = values
    if "Sex" in table:
        attributes["Male"] = (table["Sex"] == "Male").astype(float).where(table["Sex"].isin(["Male", "Female"]))
    return _listing(root, names, splits, pd.DataFrame(attributes, index=table.index))


def _open_member(archive: zipfile.ZipFile, names: list[str], index: int) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(names[index])))


def edm(config) -> Listing:
    """The EDM format: a folder or uncompressed zip of images of one size, sorted by path, labels in dataset.json."""
    if not config.path:
        raise UserError("data.path: the edm source needs the folder or zip")
    root = _root(config)
    if root.is_dir():
        names = _walk(root)
        with reading(root / "dataset.json"):
            document = (root / "dataset.json").read_text("utf-8") if (root / "dataset.json").is_file() else None
    else:
        with reading(f"{root}: not a readable zip archive"):
            archive = zipfile.ZipFile(
                root
            )  # stays open: reading its directory again for every image would be quadratic
            infos = {info.filename: info for info in archive.infolist()}
        with reading(f"{root}: dataset.json"):
            document = archive.read("dataset.json").decode() if "dataset.json" in infos else None
        names = sorted(name for name, info in infos.items() if _names_image(name) and not info.is_dir())
        packed = [name for name in names if infos[name].compress_type != zipfile.ZIP_STORED]
        if packed:
            raise UserError(f"{root}: {packed[0]} is compressed; the format wants an uncompressed zip (zip -0)")
    _require_images(names, root)
    labels = _edm_labels(document, names, root)
    splits, attributes = random_splits(len(names), config.seed), pd.DataFrame(index=range(len(names)))
    if root.is_dir():
        listing = _listing(root, names, splits, attributes, labels)
    else:
        stat = root.stat()
        load = partial(_open_member, archive, names)
        listing = Listing(names, splits, load, f"{root.name}|{stat.st_size}|{stat.st_mtime_ns}", attributes, labels)
    with reading(f"{root}: {names[0]}: not a readable image"):
        listing.size = listing.load(0).size
    if listing.size[0] != listing.size[1]:
        raise UserError(f"{root}: {names[0]} is {listing.size[0]}x{listing.size[1]}; the format wants square images")
    return listing


def _edm_labels(document: str | None, names: list[str], root: Path) -> np.ndarray | None:
    """Integer labels; of a vector the largest entry's index. None where dataset.json has none."""
    if document is None:
        return None
    with reading(f"{root}: dataset.json does not hold {{'labels': [[path, label], ...]}}"):
        pairs = json.loads(document).get("labels")
        if pairs is None:
            return None
        by_name = {str(name).replace("\\", "/"): label for name, label in pairs}
        unnamed = [name for name in names if name not in by_name]
        if unnamed:
            raise UserError(f"{root}: dataset.json has no label for '{unnamed[0]}'")
        return np.array(
            [int(np.argmax(by_name[n])) if isinstance(by_name[n], list) else int(by_name[n]) for n in names]
        )
