"""Files and folders that appear whole or not at all: written beside, then renamed. What killed processes left behind is
cleared on the way."""

import io
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import torch

from train.errors import UserError, writing

HOST = re.sub(r"\W", "-", socket.gethostname())
LEFTOVER = re.compile(rf"\..+\.{HOST}\.(\d+)\.\w+\.tmp(\..*)?")  # other machines may be writing into a shared folder


def beside(path: Path, tmp_dir: Path | None = None) -> Path:
    """Where a file or folder is made before it gets its name: hidden, in its own folder or in `tmp_dir`, of this
    process and this call alone."""
    return (tmp_dir or path.parent) / f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(3)}.tmp{path.suffix}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def clear_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that were killed had begun to write there."""
    if os.name != "posix":  # elsewhere asking whether a process lives may end it
        return
    for path in folder.glob(".*.tmp*"):
        leftover = LEFTOVER.fullmatch(path.name)
        if leftover and not _alive(int(leftover[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], object], tmp_dir: Path | None = None) -> Path:
    """Write a file whole or not at all: write(temporary path), then rename. Returns path. Raises UserError, say of a
    full disk."""
    path = Path(path)
    making = beside(path, tmp_dir)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(making.parent)
        try:
            write(making)
            os.replace(making, path)
        finally:
            making.unlink(missing_ok=True)
    return path


def new_folder(parent: Path, write: Callable[[Path], object], names: Callable[[], Path]) -> Path:
    """Claim a folder of a name that nobody has: made in `parent` with what write(folder) puts there, then renamed to
    the first of names() that is free, so that two processes never get the same one and none is seen half made. Raises
    UserError."""
    making = beside(parent / "new")
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(parent)
        try:
            making.mkdir()
            write(making)
            while True:
                folder = names()
                try:
                    return making.rename(folder)
                except OSError:
                    if not folder.exists():
                        raise
        finally:
            shutil.rmtree(making, ignore_errors=True)


def unclaimed(folder: Path) -> Path:
    """That folder, for the names of new_folder. Raises UserError where it is there already."""
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it or give another --folder")
    return folder


def save_tensors(path: Path, state: dict) -> Path:
    """torch.save, by way of memory: written to a full disk directly it fails without a word about the disk."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return replace_file(path, lambda file: file.write_bytes(buffer.getbuffer()))
