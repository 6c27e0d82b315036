"""A data set as training and analysis see it: uint8 pixels in a memory-mapped cache, ids, attributes."""

import hashlib
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from global_config import DATA_DIR
from train.data.config import DataConfig
from train.data.decode import to_pixels
from train.data.listing import SPLITS, Listing, follow, select
from train.data.table import SOURCES, resolve
from train.errors import UserError, reading
from train.whole_files import replace_file

MOST_CLASSES = 100  # of a labelled set that become attributes
FEW = 500  # images that threads have decoded before processes have started


@dataclass
class ImageSet:
    """One split: pixels uint8 (N, H, W, C), memory-mapped; ids; attributes (N rows of 1, 0 or NaN); labels (N,) or
    None.
    """

    pixels: np.ndarray
    ids: list[str]
    attributes: pd.DataFrame
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: np.ndarray) -> "ImageSet":
        """The images of those rows, in that order."""
        labels = None if self.labels is None else self.labels[rows]
        return ImageSet(
            self.pixels[rows], [self.ids[i] for i in rows], self.attributes.iloc[rows].reset_index(drop=True), labels
        )


def list_source(config: DataConfig) -> Listing:
    """What the source holds after `where`, before any pixel is read; not to be changed, since it is listed once for all
    splits.

    Raises UserError.
    """
    places = [Path(path) for path in (config.path, config.metadata) if path]
    times = [place.stat().st_mtime_ns for place in places if place.exists()]  # what is added later is listed anew
    return _list_source(config.model_copy(update={"limit": None}).model_dump_json(), tuple(times))


@lru_cache(maxsize=4)
def _list_source(settings: str, times: tuple[int, ...]) -> Listing:
    config = DataConfig.model_validate_json(settings)
    source = SOURCES[config.source]
    listing = resolve(source.reader)(config)
    if listing.labels is not None:  # a class is an attribute too
        for label in np.unique(listing.labels)[:MOST_CLASSES]:
            name = source.classes[label] if source.classes else f"Class_{label}"
            listing.attributes[name] = (listing.labels == label).astype(int)
    keep = np.ones(len(listing.ids), dtype=bool)
    for expression in (source.where, config.where):
        if expression:
            keep &= select(expression, listing.attributes)
    if not keep.any():
        raise UserError(f"data set {config.source}: no image is left by where '{config.where or source.where}'")
    if config.rules:
        keep = follow(config.rules, listing.attributes, np.where(keep, listing.splits, ""), config.seed)
        if not keep.any():
            raise UserError(f"data set {config.source}: no image is left by rules {config.rules}")
    listing.splits = np.where(keep, listing.splits, "")
    return listing


class _Decoder:
    """Index -> pixels; picklable where the loader is."""

    def __init__(self, listing: Listing, config: DataConfig):
        self.load, self.ids, self.size, self.config = listing.load, listing.ids, listing.size, config

    def __call__(self, index: int) -> np.ndarray:
        name = f"{self.config.path or f'data set {self.config.source}'}: {self.ids[index]}"
        with reading(name):
            image = self.load(index)
            if self.size and image.size != self.size:
                width, height = image.size
                raise UserError(
                    f"{name} is {width}x{height}, {self.ids[0]} {self.size[0]}x{self.size[1]}; "
                    "the format wants one size"
                )
            return to_pixels(image, self.config.image_size, self.config.channels)


def _pool(processes: bool) -> Executor:
    """Threads, or processes where decoding is Python's own work."""
    workers = min(cpu_count() or 1, 8)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if processes else ThreadPoolExecutor(workers)


@contextmanager
def _script_run_once():
    """Processes that start meanwhile do not run the caller's script again, which need not guard its lines by a test of
    __name__."""
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main.__file__ = file


def _decode_all(listing: Listing, chosen: np.ndarray, config: DataConfig, file: Path, title: str) -> None:
    shape = (len(chosen), config.image_size, config.image_size, config.channels)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        open(file, "wb") as cache,
        _pool(listing.processes and len(chosen) > FEW) as pool,
    ):  # row by row: a memory map on a full disk would end in a bus error
        np.lib.format.write_array_header_1_0(cache, header)
        try:
            with _script_run_once():
                done = pool.map(_Decoder(listing, config), chosen.tolist(), chunksize=64)
            for image in tqdm(done, total=len(chosen), desc=title, unit="img", leave=False):
                cache.write(image.tobytes())
        finally:
            pool.shutdown(cancel_futures=True)


def _key(listing: Listing, chosen: np.ndarray) -> str:
    """Changes with the chosen images, their files and their order."""
    text = "\n".join([listing.fingerprint, *(listing.ids[i] for i in chosen)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _load(config: DataConfig, listing: Listing, chosen: np.ndarray, name: str) -> ImageSet:
    """The chosen images of a listing through their cache, decoding what is not there yet."""
    ids, key = [listing.ids[i] for i in chosen], _key(listing, chosen)
    cache = DATA_DIR / "cache" / f"{config.source}_{name}_{config.channels}x{config.image_size}_{key}.npy"
    if not cache.is_file():
        replace_file(cache, lambda file: _decode_all(listing, chosen, config, file, f"{config.source} {name}"))
        if listing.licence:
            replace_file(cache.with_name(f"{config.source}_LICENCE.txt"), lambda file: file.write_text(listing.licence))
    labels = None if listing.labels is None else listing.labels[chosen]
    return ImageSet(np.load(cache, mmap_mode="r"), ids, listing.attributes.iloc[chosen].reset_index(drop=True), labels)


def _first(among: np.ndarray, config: DataConfig) -> np.ndarray:
    """Rows of those images, (N,) bool, in the order in which they are used: `data.limit` of them at most."""
    rows = np.flatnonzero(among)
    if SOURCES[config.source].ordered:
        rows = np.random.default_rng(config.seed).permutation(rows)
    return rows[: config.limit]


def split_key(config: DataConfig, split: str) -> str:
    """12 characters that change with the images of a split, their files and their order. Raises UserError."""
    listing = list_source(config)
    return _key(listing, _first(listing.splits == split, config))


def load_split(config: DataConfig, split: str) -> ImageSet:
    """One split ('train', 'val' or 'test') through its cache, decoding what is not there yet. Raises UserError."""
    assert split in SPLITS
    listing = list_source(config)
    chosen = _first(listing.splits == split, config)
    if not len(chosen):
        counts = ", ".join(f"{name} {(listing.splits == name).sum()}" for name in SPLITS)
        raise UserError(
            f"data set {config.source}: its {split} split is empty (images: {counts}); "
            "it needs more images, or splits named by a table"
        )
    return _load(config, listing, chosen, split)


def load_all(config: DataConfig) -> ImageSet:
    """Every image, whatever its split. Raises UserError."""
    listing = list_source(config)
    return _load(config, listing, _first(listing.splits != "", config), "all")
