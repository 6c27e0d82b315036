"""A YAML file -> a validated configuration. What is wrong is said as file, key, value and what is allowed."""

import copy
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from global_config import REPO_DIR
from models.receptive_field import ReceptiveField
from train.data.table import SOURCES
from train.errors import UserError, listed, reading

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
INIT_IMAGES = 256  # training images whose patches the prototypes are drawn from


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DataConfig(Section):
    """Which images: `source` names a row of the table in train/data/table.py."""

    source: str
    image_size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    path: str | None = None  # folder or archive; default DATA_DIR/<source>
    metadata: str | None = None  # CSV of attributes and splits, where the source reads one
    where: str | None = None  # expression over attributes, e.g. "Smiling == (Blond_Hair or Brown_Hair)"
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

    @model_validator(mode="after")
    def applicable(self):
        for option in ("path", "metadata", "uncertain", "missing"):
            if getattr(self, option) != type(self).model_fields[option].default and option not in SOURCES[self.source].options:
                raise ValueError(f"'{option}' is not an option of {self.source}, which takes {listed(SOURCES[self.source].options)}")
        return self


class EncoderConfig(Section):
    prototypes: Positive = 100
    channels: list[Positive] = [32, 64, 64, 128]
    kernels: list[Positive] = [3, 3, 3, 3]
    strides: list[Positive] = [2, 1, 1, 1]
    paddings: list[Natural] = [1, 0, 0, 0]
    similarity: Literal["log", "linear", "competing"] = "log"  # the first two as published
    temperature: Annotated[float, Field(gt=0)] = 0.1  # competing: the lower, the fewer prototypes share a patch
    init: Literal["data", "random"] = "data"  # random: the published N(0, 0.1) weights and uniform prototypes
    coordinates: Annotated[float, Field(ge=0)] = 0.0  # scale of the two coordinate channels beside the image; 0 is none
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
    residual: bool = False  # edm: a small decoder estimates the image from s, the U-Net works on what it leaves
    masked: bool = False  # answers for any subset of the scores; the others may be hidden
    reader: bool = False  # masked: hidden scores are read off the noisy image, as far as its noise allows
    sigma_data: Annotated[float, Field(gt=0)] = 0.5  # edm: deviation of the images, or of what the decoder leaves of them
    sigma_skip: Annotated[float, Field(gt=0)] = 0.5  # edm: below it the network predicts noise, above it the image
    sigma_max: Annotated[float, Field(gt=1)] = 80.0  # edm: the highest noise level
    timesteps: Annotated[int, Field(ge=21)] = 1000  # of the linear schedule
    base_channels: Positive = 64
    multipliers: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 4, 4]
    blocks: Positive = 2
    attention: list[bool] | None = None  # one a level; default none (the bottleneck always attends)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unshuffle: Literal[1, 2, 4] = 1
    pixel_channels: Natural = 0  # of a thin path at full resolution behind the U-Net; 0: none
    pixel_layers: Positive = 4
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

    mean: float = -1.2
    deviation: Annotated[float, Field(gt=0)] = 1.0
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of a batch, drawn uniformly in high_range instead
    high_range: Annotated[list[float], Field(min_length=2, max_length=2)] = [-2.5, 3.0]  # of images with hidden scores too

    @model_validator(mode="after")
    def ordered(self):
        if self.high_range[0] >= self.high_range[1]:
            raise ValueError("high_range must be [low, high] with low < high")
        return self


class MaskConfig(Section):
    """Which scores a masked model learns without. Its images draw ln(sigma) uniformly in train.noise.high_range."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.4  # of a batch; each of its images shows a share of scores drawn uniformly
    empty: Annotated[float, Field(ge=0, le=1)] = 0.2  # of those images: no score is shown
    weight: Annotated[float, Field(gt=0)] = 0.15  # of their loss in the denoiser's training


class TrainConfig(Section):
    batch_size: Positive = 64
    accumulate: Positive = 1
    steps: Positive | None = None  # give steps, epochs or minutes
    epochs: Positive | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None  # a budget: becomes steps once, from steps timed where the training starts
    reference_steps: Positive | None = None  # of the denoiser, behind the numbers published for the config
    encoder_steps: Natural = 0  # first steps, in which the encoder learns under the small decoder of model.residual, every score shown
    score_noise: Annotated[float, Field(ge=0)] = 0.0  # deviation of noise on the scores in those steps: what they say must be plain
    spread: Annotated[float, Field(ge=0)] = 0.0  # weight, in those steps, of the loss that keeps scores from being constant or alike
    decoder_steps: Natural = 0  # next steps, in which the encoder rests and the decoder learns from exact scores, some of them hidden
    encoder_batch_size: Positive | None = None  # in both kinds of steps; default batch_size
    encoder_lr: Annotated[float, Field(gt=0)] = 2e-3  # in both kinds of steps
    lr: Annotated[float, Field(gt=0)] = 1e-3
    muon_lr: Annotated[float, Field(gt=0)] | None = None  # of the U-Net's inner weights, by Muon; none: AdamW at lr for all
    encoder_lr_scale: Annotated[float, Field(ge=0)] = 1.0  # of the encoder's rate, after encoder_steps; 0: it rests
    warmup_steps: Natural = 100
    lr_decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    detail: Annotated[float, Field(ge=0)] = 0.0
    distinct_weight: Annotated[float, Field(ge=0)] = 0.0
    distinct_margin: Annotated[float, Field(ge=0, le=1)] = 0.2
    noise: NoiseConfig = NoiseConfig()
    mask: MaskConfig = MaskConfig()
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"  # both are timed on a CPU, where the faster depends on the processor
    compile: bool = False  # the denoising network by torch.compile
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_every: Positive = 500
    samples_every: Positive = 1000
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
    model: ModelConfig
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
            raise ValueError("train.encoder_steps and decoder_steps need model.residual: true, whose decoder the encoder learns under")
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


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text. Raises UserError that names `where` and the line."""
    with reading(where):  # a RecursionError where it is nested too deep
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None


def _allowed_keys(model: type[BaseModel], loc: tuple) -> list[str]:
    for key in loc:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def complaint(error: dict, where: str, model: type[BaseModel]) -> str:
    """One of pydantic's errors about a model as one line."""
    loc = tuple(key for key in error["loc"] if isinstance(key, str) and not key.startswith("constrained"))
    key = ".".join(loc)
    if error["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key; allowed here: {listed(_allowed_keys(model, loc[:-1]), 40)}"
    if error["type"] == "missing":
        return f"{where}: {key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    shown = f" = {value!r:.80}" if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else ""
    return f"{where}: {key}{shown}: {message}" if key else f"{where}: {message}"


def validate(values: Any, where: str) -> Config:
    """Check plain values; raises UserError with the first thing wrong."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: must hold the keys {listed(Config.model_fields)}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0], where, Config)) from None


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
    lengths = ("steps", "epochs", "minutes")
    given = [length for length in lengths if any(setting.startswith(f"train.{length}=") for setting in settings)]
    for length in lengths if given else ():  # setting one replaces the others
        if length not in given:
            values.get("train", {}).pop(length, None)
    return values


def load_config(path: Path | str, settings: list[str] = ()) -> Config:
    """Read, override and validate a YAML file; configs/ are found from any folder. Raises UserError."""
    path = Path(path)
    if not path.is_file() and (REPO_DIR / path).is_file():
        path = REPO_DIR / path
    if not path.is_file():
        known = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such config; in {path.parent}: {listed(known, 30)}")
    with reading(path):
        text = path.read_text(encoding="utf-8")
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold the keys {listed(Config.model_fields)}")
    return validate(override(values, list(settings)), f"{path}" + (" with --set" if settings else ""))
