"""The latent models of a run: records/latent_ddim/<name>_v<n>/version_<l>/ with best.pt, last.pt and metrics.jsonl."""

import hashlib
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from global_config import RECORDS_DIR
from models.latent import LatentMLP, LatentModel, LatentUNet1d
from models.schedule import LinearSchedule
from train.data.dataset import list_source, load_split, split_key
from train.errors import UserError, listed
from train.released import read_released_latent, released_latents
from train.runs import Run, load_state, versions
from train.schema import Positive, Section, Seed, complaint
from train.scores import encode
from train.whole_files import replace_file

LATENTS_DIR = RECORDS_DIR / "latent_ddim"
EPOCHS, LEAST_STEPS = 120, 5600
RESUMABLE = ("epochs", "batch_size", "lr", "lr_decay", "ema", "seed")  # the weights belong to the other settings


class LatentConfig(Section):
    """What a latent model is and how it is trained."""

    network: Literal["mlp", "unet1d"] = "mlp"
    formulation: Literal["edm", "eps"] = "edm"
    timesteps: Annotated[int, Field(ge=21)] = 100  # of the eps formulation
    width: Positive = 384  # of the mlp
    layers: Positive = 5  # of the mlp
    multipliers: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 4]  # of the unet1d
    blocks: Positive = 3  # of the unet1d
    epochs: Positive | Literal["auto"] = "auto"  # 120, but at least 5,600 steps
    batch_size: Positive = 256
    lr: Annotated[float, Field(gt=0)] = 3e-3
    lr_decay: Literal["constant", "cosine"] = "cosine"
    ema: Annotated[float, Field(gt=0, lt=1)] = 0.999
    seed: Seed = 0

    def steps(self, vectors: int) -> int:
        """Of a training on so many score vectors."""
        epochs, least = (EPOCHS, LEAST_STEPS) if self.epochs == "auto" else (self.epochs, 1)
        return max(math.ceil(epochs * vectors / self.batch_size), least)


PRESETS = {
    "mlp": {},
    "unet1d": {"network": "unet1d", "formulation": "eps", "epochs": 200, "lr": 1e-4, "lr_decay": "constant"},
}  # the second as published


def latent_config(values: dict, where: str) -> LatentConfig:
    """Validate plain values. Raises UserError."""
    try:
        return LatentConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0], where, LatentConfig)) from None


def build_latent(config: LatentConfig, scores: int, highest: float | None) -> LatentModel:
    """A freshly initialised latent model over that many scores, of which none is above `highest`."""
    network = (
        LatentMLP(scores, config.width, config.layers)
        if config.network == "mlp"
        else LatentUNet1d(64, config.multipliers, config.blocks)
    )
    schedule = LinearSchedule(config.timesteps) if config.formulation == "eps" else None
    return LatentModel(network, scores, schedule, highest)


def latents_folder(run: Run) -> Path:
    return LATENTS_DIR / f"{run.name}_v{run.version}"


def encoder_key(run: Run) -> str:
    """12 characters that change with the encoder's weights."""
    digest = hashlib.sha256()
    for name, values in run.model.encoder.state_dict().items():
        digest.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def origin_of(run: Run) -> dict:
    """Whose scores a latent model of a run learns, as its files keep it."""
    return {"run_step": run.step, "encoder": encoder_key(run)}


def check_origin(state: dict, run: Run, where: Path) -> None:
    """Raises UserError where a latent model's file is of other scores than those of the run. Older files know the
    training step alone."""
    origin = origin_of(run)
    key = "encoder" if "encoder" in state else "run_step"
    if state[key] != origin[key]:
        raise UserError(
            f"{where}: learnt the scores of another training of {run.name} version {run.version}, at step "
            f"{state['run_step']}; train a new latent model"
        )


def scores_file(run: Run, split: str) -> Path:
    """The cached scores of a split, by another name where encoder or images are others."""
    return latents_folder(run) / f"scores_{split}_{encoder_key(run)}_{split_key(run.config.data, split)}.npy"


class ScoreSplits(NamedTuple):
    train: Tensor  # (N, m)
    held_out: Tensor  # (K, m)


def cached_scores(run: Run, device: torch.device) -> ScoreSplits:
    """Scores of the training images, and of the val split (else of a tenth of the training images, then left out of the
    first).

    Encoded once for the same encoder and images. Raises UserError.
    """
    scores_of = {}
    splits = [split for split in ("train", "val") if split in set(list_source(run.config.data).splits)]
    for split in splits:
        file = scores_file(run, split)
        if not file.is_file():
            scores = encode(run.model, load_split(run.config.data, split), device=device)
            replace_file(file, partial(np.save, arr=scores.numpy()))
        scores_of[split] = torch.from_numpy(np.load(file))
    scores, held_out = scores_of["train"], scores_of.get("val")
    if held_out is None:
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
        tenth = max(1, len(scores) // 10)
        scores, held_out = scores[order[tenth:]], scores[order[:tenth]]
    if len(scores) < 2:
        raise UserError(f"{run.name}: a latent model learns from 2 training images at least, beside those held out")
    return ScoreSplits(scores, held_out)


def latent_files(run: Run) -> dict[int, Path]:
    """Version -> file of a run's latent models, the authors' published ones too, ascending."""
    folder = latents_folder(run)
    paths = {number: folder / f"version_{number}" / "best.pt" for number in versions(folder)}
    ours = {number: path for number, path in paths.items() if path.is_file()}
    return dict(sorted((released_latents(run.name, run.version) | ours).items()))


def load_latent(run: Run, version: int | None = None, device: torch.device | str = "cpu") -> tuple[LatentModel, int]:
    """The latent model of a run (default: its newest), for use. Raises UserError."""
    known = latent_files(run)
    if not known:
        raise UserError(
            f"{run.name} version {run.version} has no latent model; train one with: "
            f"python train/train_latent_ddim.py --dataset {run.name} --version_num {run.version}"
        )
    if version is None:
        version = list(known)[-1]
    if version not in known:
        raise UserError(
            f"--latent_version {version}: {run.name} version {run.version} has no such latent model; "
            f"there are {listed(known, 30)}"
        )
    path, scores = known[version], run.model.encoder.width
    if path.name != "best.pt":
        return read_released_latent(path, scores).to(device).eval().requires_grad_(False), version
    state = load_state(path, {"config", "model", "run_step"})
    check_origin(state, run, path)
    model = build_latent(latent_config(state["config"], str(path)), scores, run.model.encoder.highest)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit its config: {str(error).splitlines()[-1].strip()}") from None
    return model.to(device).eval().requires_grad_(False), version
