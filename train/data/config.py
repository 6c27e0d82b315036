"""The settings of a data set: which images, of which size, and which of them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from train.data.table import SOURCES
from train.errors import listed
from train.schema import Natural, Positive, Section


class DataConfig(Section):
    """Which images: `source` names a row of the table in train/data/table.py."""

    source: str
    image_size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    path: str | None = None  # folder or archive; default DATA_DIR/<source>
    metadata: str | None = None  # CSV of attributes and splits, where the source reads one
    where: str | None = None  # expression over attributes, e.g. "Smiling == (Blond_Hair or Brown_Hair)"
    # rules that only a share of the images follows, e.g. {"Smiling == Beard": 0.75}: drawn by `seed` in each split
    rules: dict[str, Annotated[float, Field(ge=0.5, le=1)]] = {}
    limit: Positive | None = None  # at most so many images a split
    seed: Natural = 0  # of the splits (and of the drawings of faces)
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"  # chexpert's -1
    missing: Literal["unknown", "negative"] = "unknown"  # chexpert's empty findings

    @field_validator("source")
    @classmethod
    def known(cls, value):
        if value not in SOURCES:
            raise ValueError(f"one of {listed(SOURCES, 20)}")
        return value

    def absolute(self) -> "DataConfig":
        """The same with paths that mean the same in every working directory."""
        places = {name: getattr(self, name) for name in ("path", "metadata")}
        found = {name: str(Path(place).expanduser().absolute()) for name, place in places.items() if place}
        return self.model_copy(update=found)

    def unbiased(self) -> "DataConfig":
        """The same images without what restricts or ties them."""
        return self.model_copy(
            update={"where": None, "rules": {}, "source": SOURCES[self.source].unrestricted or self.source}
        )

    @model_validator(mode="after")
    def applicable(self):
        options = SOURCES[self.source].options
        for option in ("path", "metadata", "uncertain", "missing"):
            changed = getattr(self, option) != type(self).model_fields[option].default
            if changed and option not in options:
                raise ValueError(f"'{option}' is not an option of {self.source}, which takes {listed(options)}")
        return self
