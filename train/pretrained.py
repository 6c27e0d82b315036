"""Runs to look at without training: a folder with model.safetensors, config.yaml, run.json and README.md, as Hugging
Face lays out a repository.

Weights are the averaged ones alone. Such folders may come from anywhere, so nothing in them is trusted before it fits
its own config.
"""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from global_config import PRETRAINED_DIR
from models.patronus import Patronus
from train.build import build_model
from train.config import Config, parse_yaml, validate_stored
from train.data.table import SOURCES
from train.errors import UserError, listed, reading
from train.schema import Natural, Section, complaint

FILES = ("model.safetensors", "config.yaml", "run.json", "README.md")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
EXACT = ("encoder.", "standardiser.")  # stored in float32, so that scores are those of the run
MOST_BYTES = 2**32  # of weights that are taken from elsewhere
MOST_TEXT = 2**20  # of config.yaml and run.json
LICENCES = {  # by source of the images, where weights trained on them may be passed on: identifier, whom to name
    "faces": ("cc-by-4.0", "the drawings are remixes of *ToonHead* by Johan Melin (CC BY 4.0)"),
    "voxels": ("cc0-1.0", "the drawings are of the style *Voxel Art* by DiceBear (CC0 1.0)"),
    "fmnist": ("mit", "the images are FashionMNIST, Zalando SE (MIT licence)"),
}


class Provenance(Section):
    """run.json: where weights come from."""

    name: str
    version: Natural | str
    step: Natural
    seed: Natural
    averaged: bool  # whether these are averaged weights
    date: str  # of the last step
    command: str
    storage: str  # number format of the U-Net's and decoder's weights
    change: float | None = None  # the largest change of an estimated pixel by that format, of images in [-1, 1]
    numbers: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}


def pretrained_runs() -> list[tuple[str, Path]]:
    """(name, folder) of every shipped run; faces, the default of all scripts, are the last."""
    folders = [path.parent for path in PRETRAINED_DIR.glob("*/model.safetensors")]
    return sorted(((folder.name, folder) for folder in folders), key=lambda run: (run[0] == "faces", run[0]))


def stored_tensors(state: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    """Weights as they are stored: matrices and kernels in the format `storage`, all that scores depend on in
    float32.
    """
    dtype = DTYPES[storage]
    return {
        name: (values.float() if name.startswith(EXACT) or values.dim() < 2 else values.to(dtype)).contiguous().cpu()
        for name, values in state.items()
    }


@torch.no_grad()
def change_by_storage(config: Config, model: Patronus, state: dict[str, Tensor]) -> float:
    """The largest difference of an estimated pixel between a model and the same with stored weights, at five noise
    levels.
    """
    rounded = build_model(config)
    rounded.load_state_dict({name: values.float() for name, values in state.items()})
    rounded.eval()
    size, generator = config.data.image_size, torch.Generator().manual_seed(0)
    x0 = torch.rand(10, config.data.channels, size, size, generator=generator) * 2 - 1
    sigma = torch.tensor([0.02, 0.1, 0.5, 2.0, 10.0]).repeat(2)
    z = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, generator=generator)
    s = model.score(x0)
    return (model.denoise(z, sigma, s) - rounded.denoise(z, sigma, s)).abs().max().item()


def write_pretrained(folder: Path, config: Config, state: dict[str, Tensor], provenance: Provenance) -> None:
    """Put the four files into an empty folder."""
    weights = save(state, {"format": "pt"})  # save_file would let nobody but its owner read the file
    (folder / "model.safetensors").write_bytes(weights)
    values = yaml.safe_dump(config.plain(), sort_keys=False)
    (folder / "config.yaml").write_text(values, encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(provenance.model_dump(), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(config, state, provenance), encoding="utf-8")


def model_card(config: Config, state: dict[str, Tensor], provenance: Provenance) -> str:
    """README.md: what it is, how it was made, how to use it. Its licence stands there only where that of the images is
    known.
    """
    data, encoder = config.data, config.model.encoder
    licence, why = LICENCES.get(data.source, (None, "not stated; it depends on the images, so add it before you share"))
    parameters = sum(values.numel() for values in state.values()) / 1e6
    whole = f"| prototypes of whole images | {encoder.templates} more |\n" if encoder.templates else ""
    numbers = "\n".join(f"| {name} | {value:.4g} |" for name, value in provenance.numbers.items())
    return f"""---
library_name: patronus
tags: [diffusion, interpretability, prototypes, {data.source}]{f"{chr(10)}license: {licence}" if licence else ""}
---
# Patronus trained on {config.name}

An interpretable diffusion model: a denoiser conditioned on the similarities of an image to {encoder.prototypes}
learned patch prototypes (Weng, Feragen and Bigdeli, *Patronus: Interpretable Diffusion Models with Prototypes*, ICLR
2026).

| | |
|---|---|
| images | {SOURCES[data.source].about}; {data.channels}x{data.image_size}x{data.image_size} |
{whole}| parameters | {parameters:.1f} million, {provenance.storage} (encoder in F32) |
| training | {provenance.step} steps, seed {provenance.seed}, ended {provenance.date} |
| command | `{provenance.command}` |
| licence | {f"{licence}: " if licence else ""}{why} |
{numbers}

`config.yaml` holds every setting, `run.json` where the weights come from. To look at it:

```
python train/export_run.py --import FOLDER
python analysis/interpretability/visualize_prototype.py --dataset {config.name}
```
"""


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: missing; a shared run holds {listed(FILES)}")
    if path.stat().st_size > MOST_TEXT:
        raise UserError(f"{path}: larger than {MOST_TEXT} bytes, which no such file is")
    with reading(path):
        return path.read_text(encoding="utf-8")


def read_pretrained(folder: Path) -> tuple[Config, dict[str, Tensor], Provenance]:
    """The config, the weights in float32 and the provenance of a shared run.

    Raises UserError for a file that is missing or damaged, and for weights whose names, shapes, formats or sizes are
    not those of the config.
    """
    path = folder / "config.yaml"
    config = validate_stored(parse_yaml(_text(path), str(path)), str(path))
    path = folder / "run.json"
    with reading(f"{path}: not readable JSON"):
        values = json.loads(_text(path))
    try:
        provenance = Provenance.model_validate(values)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0], str(path), Provenance)) from None
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: missing; a shared run holds {listed(FILES)}")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES / 1e9:.0f} GB, which no such run is")
    return config, read_weights(path, config), provenance


def read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    """Weights of a .safetensors file that fit a config, in float32. Raises UserError."""
    with torch.device("meta"), reading(f"{path}: no model can be built from its config"):
        expected = {name: tuple(values.shape) for name, values in build_model(config).state_dict().items()}
    with reading(f"{path}: not a readable .safetensors file"), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names | set(expected)):
            if name not in names or name not in expected:
                where = "is not in the model of its config" if name in names else "is missing"
                raise UserError(f"{path}: tensor '{name}' {where}")
            part = file.get_slice(name)
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
            if shape != expected[name] or dtype not in DTYPES:
                wanted = f"{expected[name]} in one of {listed(DTYPES)}"
                raise UserError(f"{path}: tensor '{name}' has shape {shape} in {dtype}, expected {wanted}")
        state = {name: file.get_tensor(name).float() for name in expected}
    wrong = [name for name, values in state.items() if not values.isfinite().all()]
    if wrong:
        raise UserError(f"{path}: tensors hold what is no number: {listed(wrong, 3)}")
    return state


def date_of(path: Path) -> str:
    """The day on which a file was written, as in 2026-01-31."""
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d")
