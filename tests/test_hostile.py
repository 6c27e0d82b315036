"""Hundreds of damaged and hostile files, made from a seed: each ends in one line that names the file, and none in a
traceback of ours."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from yaml import MappingNode, ScalarNode

from train.config import Config, _Loader, load_config
from train.data import dataset, files
from train.data.config import DataConfig
from train.data.dataset import _Decoder
from train.data.idx import read_idx
from train.data.listing import select
from train.errors import UserError
from train.runs import load_checkpoint
from train.safe_files import read_plain_pickle, read_tensors
from train.schema import complaint


def png(rng, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def bomb(side: int = 20000) -> bytes:
    """A PNG of a few kilobytes that claims to be side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def damaged(data: bytes, rng) -> bytes:
    """Bits flipped, bytes cut off, doubled, zeroed or put in: one kind, drawn."""
    data, kind = bytearray(data), rng.integers(5)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind == 0:
        for i in rng.integers(0, len(data), 1 + int(rng.integers(8))):
            data[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + length]
    elif kind == 3:
        data[at : at + length] = bytes(min(length, len(data) - at))
    else:
        data[at:at] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return bytes(data)


def archive(rng) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for i in range(3):
            packed.writestr(f"{i}.png", png(rng))
        packed.writestr("dataset.json", json.dumps({"labels": [[f"{i}.png", i] for i in range(3)]}))
    return file.getvalue()


def checkpoint(rng) -> bytes:
    file = io.BytesIO()
    torch.save(
        {"model": {"w": torch.zeros(3)}, "step": 1, "config": {"a": (1, 2)}},
        file,
        _use_new_zipfile_serialization=bool(rng.integers(2)),
    )
    return file.getvalue()


def read_archive(path) -> None:
    dataset._list_source.cache_clear()
    config = DataConfig(source="edm", path=str(path), image_size=8, channels=3)
    listing = dataset.list_source(config)
    for index in range(len(listing.ids)):
        _Decoder(listing, config)(index)


def read_folder(path) -> None:
    dataset._list_source.cache_clear()
    config = DataConfig(source="folder", path=str(path.parent), image_size=8, channels=3)
    _Decoder(dataset.list_source(config), config)(0)


def read_table(path) -> None:
    (path.parent / "0.png").write_bytes(png(np.random.default_rng(0)))
    files.folder(DataConfig(source="folder", path=str(path.parent), metadata=str(path), image_size=8, channels=3))


KINDS = {
    "image": ("x.png", png, read_folder),
    "archive": ("x.zip", archive, read_archive),
    "checkpoint": ("x.pt", checkpoint, read_tensors),
    "pickle": (
        "x.pickle",
        lambda rng: pickle.dumps({"TrainingConfig": {"LR": 1e-5, "loss_lambda": (1.0, 0.0)}}),
        read_plain_pickle,
    ),
    "yaml": (
        "x.yaml",
        lambda rng: b"name: x\ndata: {source: mnist5k, image_size: 32, channels: 1}\nmodel: {}\ntrain: {steps: 3}\n",
        load_config,
    ),
    "idx": (
        "x.gz",
        lambda rng: gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + rng.bytes(9)),
        lambda path: read_idx(path, 1),
    ),
    "table": ("x.csv", lambda rng: b"img_filename,split,A\n0.png,0,1\n0.png,2,-1\n", read_table),
}


def refused_or_read(read, path) -> str:
    """'' where the file was read, else the line that refuses it. Whatever else is raised fails the test."""
    try:
        read(path)
    except UserError as error:
        line = str(error)
    else:
        return ""
    assert line.strip() and "\n" not in line
    return line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_in_a_line(tmp_path, kind):
    name, make, read = KINDS[kind]
    lines = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        path = tmp_path / str(seed) / name
        path.parent.mkdir()
        path.write_bytes(damaged(make(rng), rng))
        lines.append(refused_or_read(read, path))
    refused = [line for line in lines if line]
    assert len(refused) >= 20  # damage that nobody notices would test nothing
    assert all("x." in line or str(tmp_path) in line for line in refused)


HOSTILE = {
    "a pop from an empty stack": b"0.",
    "an unknown memo": b"\x80\x02j\xff\xff\x00\x00.",
    "a reduce of nothing": b"\x80\x02NNR.",
    "an unknown extension": b"\x80\x02\x82\x01.",
    "a wrong protocol": b"\x80\x7f.",
    "a mark without an end": b"(((.",
    "eval": b"cbuiltins\neval\n(S'1+1'\ntR.",
    "nested 20,000 deep": b"(" * 20000 + b"t" * 20000 + b".",
    "nothing": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("read", [read_plain_pickle, read_tensors])
def test_hostile_pickles(tmp_path, case, read):
    path = tmp_path / "x.pt"
    path.write_bytes(HOSTILE[case])
    assert str(path) in refused_or_read(read, path)


FOREIGN = [{"model": [1]}, {"model": None}, {"model": {"a": 1}}, {"model": {1: torch.ones(1)}}, {"ema": [1]}]


@pytest.mark.parametrize("changes", [*FOREIGN, {"step": "1"}])
def test_a_checkpoint_of_something_else_is_passed_over(tmp_path, capsys, changes):
    (tmp_path / "checkpoints").mkdir()
    whole = {"config": {}, "step": 1, "model": {"a": torch.ones(2)}, "ema": None}
    torch.save(whole | changes, tmp_path / "checkpoints" / "last.pt")
    assert "last.pt: not a Patronus checkpoint" in refused_or_read(load_checkpoint, tmp_path)
    torch.save(whole | {"step": 7}, tmp_path / "checkpoints" / "previous.pt")
    assert load_checkpoint(tmp_path)["step"] == 7
    assert "last.pt: not a Patronus checkpoint" in capsys.readouterr().err


class Loud(int):
    """Counts how often it is written out."""

    written = 0

    def __repr__(self):
        Loud.written += 1
        return "1"


def test_a_line_writes_out_no_more_of_a_value_than_it_shows():
    values = [Loud(1)] * 10
    for _ in range(4):
        values = [values] * 10  # as YAML's aliases do: 100,000 from a few lines
    error = {"loc": ("name",), "type": "string_type", "msg": "Input should be a string", "input": values}
    line = complaint(error, "x.yaml", Config)
    assert line.startswith("x.yaml: name = [[") and line.endswith("Input should be a string") and len(line) < 140
    assert Loud.written < 200


class Compared(str):
    """Counts how often it is compared."""

    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Compared.times += 1
        return str.__eq__(self, other)


def test_keys_of_a_text_are_not_compared_each_with_each():
    text = "tag:yaml.org,2002:str"
    pairs = [(ScalarNode(text, Compared(i)), ScalarNode(text, "")) for i in range(1000)]
    values = _Loader("").construct_mapping(MappingNode("tag:yaml.org,2002:map", pairs))
    assert len(values) == 1000 and Compared.times < 10_000


def test_bombs(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.png").write_bytes(bomb())
    assert "0.png" in refused_or_read(read_folder, tmp_path / "folder" / "0.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("0.png", bomb())
    assert "0.png" in refused_or_read(read_archive, tmp_path / "x.zip")


def test_archives_of_a_wrong_checksum_or_version_name_the_member(tmp_path):
    whole = bytearray(archive(np.random.default_rng(0)))
    wrong = whole.copy()
    wrong[60] ^= 255  # inside the first image
    (tmp_path / "crc.zip").write_bytes(wrong)
    assert "0.png" in refused_or_read(read_archive, tmp_path / "crc.zip")
    version = whole.copy()
    entry = version.index(b"PK\x01\x02")
    version[entry + 6] = 99  # the version needed to extract it
    (tmp_path / "version.zip").write_bytes(version)
    assert "version.zip" in refused_or_read(read_archive, tmp_path / "version.zip")


def test_texts_of_other_encodings_and_great_depth(tmp_path):
    path = tmp_path / "x.yaml"
    for text in (
        "name: é".encode("latin-1"),
        b"\xff\xfe" + "name: x".encode("utf-16-le"),
        b"[" * 3000 + b"]" * 3000,
        b"{a: " * 3000,
        b"\x00",
    ):
        path.write_bytes(text)
        assert "x.yaml" in refused_or_read(load_config, path)
    import pandas as pd

    for expression in ("(" * 3000 + "A" + ")" * 3000, "not " * 5000 + "A", " + ".join(["A"] * 20000)):
        with pytest.raises(UserError, match="where"):
            select(expression, pd.DataFrame({"A": [1, 0]}))
