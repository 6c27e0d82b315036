"""A YAML file -> a validated configuration. What is wrong is said as file, key, value and what is allowed."""

import copy
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from global_config import REPO_DIR
from models.receptive_field import ReceptiveField
from train.data.config import DataConfig
from train.errors import UserError, listed, reading
from train.schema import Natural, Positive, Section, complaint

LENGTHS = ("steps", "epochs", "minutes")  # of a training; one of them is given
INIT_IMAGES = 256  # training images whose patches the prototypes are drawn from


class EncoderConfig(Section):
    prototypes: Positive = 128
    channels: list[Positive] = [32, 64, 64]
    kernels: list[Positive] = [3, 3, 3]
    strides: list[Positive] = [2, 1, 1]
    paddings: list[Natural] = [1, 0, 0]
    similarity: Literal["log", "linear", "competing"] = "competing"  # the first two as published
    temperature: Annotated[float, Field(gt=0)] = 0.1  # competing: the lower, the fewer prototypes share a patch
    init: Literal["data", "random"] = "data"  # random: the published N(0, 0.1) weights and uniform prototypes
    coordinates: Annotated[float, Field(ge=0)] = 2.0  # scale of the two coordinate channels beside the image; 0 is none
    normalise: bool = True  # unit-length patch vectors, so that distances lie in [0, 4]

    @model_validator(mode="after")
    def layers(self):
        if not len(self.channels) == len(self.kernels) == len(self.strides) == len(self.paddings) > 0:
            raise ValueError("channels, kernels, strides and paddings need one entry a layer each")
        if self.similarity == "competing" and not self.normalise:
            raise ValueError("similarity 'competing' needs normalise: true, since it compares directions")
        return self

    @property
    def receptive_field(self) -> ReceptiveField:
        return ReceptiveField(self.kernels, self.strides, self.paddings)


class ModelConfig(Section):
    formulation: Literal["edm", "eps"] = "edm"  # eps: the published one, on the linear schedule
    residual: bool = True  # edm: a small decoder estimates the image from s, the U-Net works on what it leaves
    masked: bool = True  # answers for any subset of the scores; the others may be hidden
    reader: bool = True  # masked: hidden scores are read off the noisy image, as far as its noise allows
    sigma_data: Annotated[float, Field(gt=0)] = (
        0.2  # edm: deviation of the images, or of what the decoder leaves of them
    )
    sigma_skip: Annotated[float, Field(gt=0)] = 0.03  # edm: below it the network predicts noise, above it the image
    sigma_max: Annotated[float, Field(gt=1)] = 20.0  # edm: the highest noise level
    timesteps: Annotated[int, Field(ge=21)] = 1000  # of the linear schedule
    base_channels: Positive = 32
    multipliers: Annotated[list[Positive], Field(min_length=1)] = [1, 2]
    blocks: Positive = 1
    attention: list[bool] | None = None  # one a level; default none (the bottleneck always attends)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unshuffle: Literal[1, 2, 4] = 4
    pixel_channels: Natural = 32  # of a thin path at full resolution behind the U-Net; 0: none
    pixel_layers: Positive = 7
    zero_output: bool = True
    standardise_scores: bool = True
    encoder: EncoderConfig = EncoderConfig()

    @model_validator(mode="after")
    def consistent(self):
        if self.attention is not None and len(self.attention) != len(self.multipliers):
            raise ValueError(f"attention needs {len(self.multipliers)} entries, one for each of multipliers")
        if self.base_channels % 8:
            raise ValueError(f"base_channels {self.base_channels} must divide by the 8 groups of GroupNorm")
        if self.formulation == "eps" and (self.residual or self.masked):
            raise ValueError("residual and masked belong to formulation edm; the published one has neither")
        if self.reader and not self.masked:
            raise ValueError("reader reads hidden scores, so it needs masked: true")
        return self


class NoiseConfig(Section):
    """How ln(sigma) is drawn in the EDM formulation."""

    mean: float = -2.0
    deviation: Annotated[float, Field(gt=0)] = 1.2
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of a batch, drawn uniformly in high_range instead
    high_range: Annotated[list[float], Field(min_length=2, max_length=2)] = [
        -2.5,
        3.0,
    ]  # of images with hidden scores too

    @model_validator(mode="after")
    def ordered(self):
        if self.high_range[0] >= self.high_range[1]:
            raise ValueError("high_range must be [low, high] with low < high")
        return self


class MaskConfig(Section):
    """Which scores a masked model learns without. Its images draw ln(sigma) uniformly in train.noise.high_range."""

    share: Annotated[float, Field(ge=0, le=1)] = (
        0.4  # of a batch; each of its images shows a share of scores drawn uniformly
    )
    empty: Annotated[float, Field(ge=0, le=1)] = 0.2  # of those images: no score is shown
    weight: Annotated[float, Field(gt=0)] = 0.15  # of their loss in the denoiser's training


class TrainConfig(Section):
    batch_size: Positive = 32
    accumulate: Positive = 1
    steps: Positive | None = None  # give steps, epochs or minutes
    epochs: Positive | None = None
    minutes: Annotated[float, Field(gt=0)] | None = (
        None  # a budget: becomes steps once, from steps timed where the training starts
    )
    encoder_steps: Natural = (
        3000  # first steps, in which the encoder learns under the small decoder of model.residual, every score shown
    )
    score_noise: Annotated[float, Field(ge=0)] = (
        0.1  # deviation of noise on the scores in those steps: what they say must be plain
    )
    spread: Annotated[float, Field(ge=0)] = (
        0.3  # weight, in those steps, of the loss that keeps scores from being constant or alike
    )
    decoder_steps: Natural = (
        1500  # next steps, in which the encoder rests and the decoder learns from exact scores, some of them hidden
    )
    encoder_batch_size: Positive | None = 64  # in both kinds of steps; null: batch_size
    encoder_lr: Annotated[float, Field(gt=0)] = 2e-3  # in both kinds of steps
    lr: Annotated[float, Field(gt=0)] = 2e-3
    muon_lr: Annotated[float, Field(gt=0)] | None = (
        0.03  # of the U-Net's inner weights, by Muon; null: AdamW at lr for all
    )
    encoder_lr_scale: Annotated[float, Field(ge=0)] = 0.0  # of the encoder's rate, after encoder_steps; 0: it rests
    warmup_steps: Natural = 100
    lr_decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    detail: Annotated[float, Field(ge=0)] = 1.0
    distinct_weight: Annotated[float, Field(ge=0)] = 0.0
    distinct_margin: Annotated[float, Field(ge=0, le=1)] = 0.2
    noise: NoiseConfig = NoiseConfig()
    mask: MaskConfig = MaskConfig()
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = (
        "auto"  # both are timed on a CPU, where the faster depends on the processor
    )
    compile: bool = False  # the denoising network by torch.compile
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_every: Positive = 1000
    samples_every: Positive = 2000
    log_every: Positive = 50
    tensorboard: bool = False
    wandb: str | None = None  # name of a Weights & Biases project

    @model_validator(mode="after")
    def consistent(self):
        if [self.steps, self.epochs, self.minutes].count(None) != 2:
            raise ValueError("give one of steps, epochs and minutes")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must divide by accumulate {self.accumulate}")
        return self


class Config(Section):
    """The whole of a run. `name` is the run's data set name on disk and on the command line."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig

    @model_validator(mode="after")
    def consistent(self):
        size, model = self.data.image_size, self.model
        unit = model.unshuffle * 2 ** (len(model.multipliers) - 1)
        if size % unit:
            raise ValueError(f"data.image_size {size} must divide by {unit}: model.unshuffle x 2^(levels - 1)")
        if model.residual and size % 4:
            raise ValueError(f"data.image_size {size} must divide by 4, the unit of the decoder of model.residual")
        if (self.train.encoder_steps or self.train.decoder_steps) and not model.residual:
            raise ValueError(
                "train.encoder_steps and decoder_steps need model.residual: true, whose decoder the encoder learns under"
            )
        encoder = model.encoder
        cells = encoder.receptive_field.cells(size)
        if cells < 1:
            raise ValueError(f"model.encoder: its layers leave no cell of a {size}-pixel image")
        if encoder.init == "data" and encoder.prototypes > INIT_IMAGES * cells**2:
            raise ValueError(
                f"model.encoder.prototypes {encoder.prototypes}: more than the {INIT_IMAGES * cells**2} patches of the {INIT_IMAGES} "
                "images they are drawn from"
            )
        return self

    def plain(self) -> dict:
        """Plain values only, ready for YAML and checkpoints."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (1e-4) and no silent duplicates."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789.")
)


def parse_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text. Raises UserError that names `where` and the line."""
    with reading(where):  # a RecursionError where it is nested too deep
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None


def validate(values: Any, where: str) -> Config:
    """Check plain values; raises UserError with the first thing wrong."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: must hold the keys {listed(Config.model_fields)}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0], where, Config)) from None


FORMER_DEFAULTS = {  # what a key meant that is absent from a run of an earlier version, where today's default is another
    "model": {
        "residual": False,
        "masked": False,
        "reader": False,
        "sigma_data": 0.5,
        "sigma_skip": 0.5,
        "sigma_max": 80.0,
        "base_channels": 64,
        "multipliers": [1, 2, 4, 4],
        "blocks": 2,
        "unshuffle": 1,
        "pixel_channels": 0,
        "pixel_layers": 4,
        "encoder": {
            "prototypes": 100,
            "channels": [32, 64, 64, 128],
            "kernels": [3, 3, 3, 3],
            "strides": [2, 1, 1, 1],
            "paddings": [1, 0, 0, 0],
            "similarity": "log",
            "coordinates": 0.0,
        },
    },
    "train": {
        "batch_size": 64,
        "encoder_steps": 0,
        "score_noise": 0.0,
        "spread": 0.0,
        "decoder_steps": 0,
        "encoder_batch_size": None,
        "lr": 1e-3,
        "muon_lr": None,
        "encoder_lr_scale": 1.0,
        "detail": 0.0,
        "noise": {"mean": -1.2, "deviation": 1.0},
        "checkpoint_every": 500,
        "samples_every": 1000,
    },
}


def validate_stored(values: Any, where: str) -> Config:
    """`validate` for the settings that a run stored when it began. Raises UserError."""
    return validate(merged(FORMER_DEFAULTS, values) if isinstance(values, dict) else values, where)


def override(values: dict, settings: list[str]) -> dict:
    """A copy of plain config values with `key.key=value` settings applied; values are read as YAML."""
    values = copy.deepcopy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: must be KEY=VALUE, e.g. train.lr=1e-4")
        node, path = values, key.split(".")
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {setting}: '{part}' holds a value, not a section")
        node[path[-1]] = parse_yaml(text, f"--set {key}")
    given = [length for length in LENGTHS if any(setting.startswith(f"train.{length}=") for setting in settings)]
    for length in LENGTHS if given else ():  # setting one replaces the others
        if length not in given:
            values.get("train", {}).pop(length, None)
    return values


def merged(base: dict, values: dict) -> dict:
    """`values` over `base`, section by section; of steps, epochs and minutes the one given replaces the base's."""
    result = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    if set(LENGTHS) & set(values):
        result = {key: value for key, value in result.items() if key in values or key not in LENGTHS}
    return result


def read_settings(path: Path, children: tuple[Path, ...] = ()) -> dict:
    """The plain values of a YAML file over those of the file that its `base` names, relative to it. Raises UserError."""
    if path.resolve() in children:
        chain = " -> ".join(child.name for child in (*children, path))
        raise UserError(f"{path}: base: goes round in a circle: {chain}")
    with reading(path):
        text = path.read_text(encoding="utf-8")
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold the keys {listed(Config.model_fields)}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base = {base!r:.80}: must be the path of another YAML file, relative to this one")
    if not (path.parent / base).is_file():
        raise UserError(f"{path}: base: there is no file {path.parent / base}")
    return merged(read_settings(path.parent / base, (*children, path.resolve())), values)


def load_config(path: Path | str, settings: list[str] = ()) -> Config:
    """Read, override and validate a YAML file; configs/ are found from any folder. Raises UserError."""
    path = Path(path)
    if not path.is_file() and (REPO_DIR / path).is_file():
        path = REPO_DIR / path
    if not path.is_file():
        known = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such config; in {path.parent}: {listed(known, 30)}")
    return validate(override(read_settings(path), list(settings)), f"{path}" + (" with --set" if settings else ""))
