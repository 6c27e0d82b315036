"""What every validated section of settings shares: strict types, no unknown keys, and errors of one line."""

import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from train.errors import listed

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]  # torch's CPU generators heed 32 bits


class Section(BaseModel):
    """Plain values of fixed names and types; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


BRANCHES = ("int", "float", "str")  # of a union, which pydantic names beside the key


def _allowed_keys(model: type[BaseModel], loc: tuple) -> list[str]:
    for key in loc:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def shortened(value: object) -> str:
    """80 characters of a value at most. What is cut is not written first: a YAML of a few aliases holds millions."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxstring = 2, 12, 12, 80
    return f"{short.repr(value):.80}"


def complaint(error: dict, where: str, model: type[BaseModel]) -> str:
    """One of pydantic's errors about a model as one line: file, key, value and what is allowed."""
    loc = tuple(key for key in error["loc"] if isinstance(key, str) and key.isidentifier() and key not in BRANCHES)
    key = ".".join(loc)
    if error["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key; allowed here: {listed(_allowed_keys(model, loc[:-1]), 40)}"
    if error["type"] == "missing":
        return f"{where}: {key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    text = f" = {shortened(value)}" if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else ""
    return f"{where}: {key}{text}: {message}" if key else f"{where}: {message}"
