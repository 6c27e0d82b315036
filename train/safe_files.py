"""Reading files of unknown origin: pickles by another name, of which none may run anything."""

import io
import pickle
from pathlib import Path

import torch

from train.errors import UserError, reading

ADMITTED = {("torch", "device"): torch.device, ("collections", "OrderedDict"): dict}
ADMITTED |= {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)}


class _Plain(pickle.Unpickler):
    """Admits plain containers, numbers, strings and torch.device; a pickle that asks for anything else is refused
    before anything runs."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ADMITTED:
            raise UserError(f"it asks for {module}.{name}, which is no plain value; refused, and nothing of it was run")
        return ADMITTED[module, name]


def read_plain_pickle(path: Path) -> dict:
    """A dict of plain values from a pickle of unknown origin. Raises UserError."""
    try:
        with reading("not a readable pickle"):
            values = _Plain(io.BytesIO(path.read_bytes())).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not a dict")
    return values


def read_tensors(path: Path) -> dict:
    """What torch.save wrote, without running code in it. Raises UserError."""
    with reading(f"{path}: not a readable checkpoint"):
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state
