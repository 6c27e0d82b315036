"""A YAML file -> a validated configuration. What is wrong is said as file, key, value and what is allowed."""

import copy
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from global_config import REPO_DIR
from models.receptive_field import ReceptiveField
from train import recipe
from train.data.config import DataConfig
from train.errors import UserError, listed, reading
from train.schema import Natural, Positive, Section, Seed, complaint, shortened

Auto = Literal["auto"]  # derived by train/recipe.py
LENGTHS = ("steps", "epochs", "minutes")  # of a training; one of them is given
LOWEST_HIGH = -2.5  # of train.noise.high_range
INIT_IMAGES = 256  # training images whose patches the prototypes are drawn from


class EncoderConfig(Section):
    """The encoder. Layers at auto follow from the image's size."""

    # dense: that of DiffAE and InfoDiffusion, to compare with; `prototypes` is then the length of its code
    kind: Literal["prototypes", "dense"] = "prototypes"
    prototypes: Positive = 128
    # further prototypes that look at the whole image; auto: some where images are grey and aligned
    templates: Natural | Auto = "auto"
    channels: list[Positive] | Auto = "auto"
    kernels: list[Positive] | Auto = "auto"
    strides: list[Positive] | Auto = "auto"
    paddings: list[Natural] | Auto = "auto"
    similarity: Literal["log", "linear", "competing"] = "competing"  # the first two as published
    # competing: the lower, the fewer prototypes share a patch; auto: by the number of colour channels
    temperature: Annotated[float, Field(gt=0)] | Auto = "auto"
    init: Literal["data", "random"] = "data"  # random: the published N(0, 0.1) weights and uniform prototypes
    # scale of the two coordinate channels beside the image, 0 is none; auto: there are some where images are aligned
    coordinates: Annotated[float, Field(ge=0)] | Auto = "auto"
    normalise: bool = True  # unit-length patch vectors, so that distances lie in [0, 4]

    @model_validator(mode="after")
    def consistent(self):
        lengths = {len(values) for values in self.layers.values() if values != "auto"}
        if lengths == {0} or len(lengths) > 1:
            raise ValueError("channels, kernels, strides and paddings need one entry a layer each")
        if self.kind == "dense" and any(width % 8 for width in self.channels if self.channels != "auto"):
            raise ValueError("channels of a dense encoder must divide by the 8 groups of GroupNorm")
        if self.similarity == "competing" and not self.normalise:
            raise ValueError("similarity 'competing' needs normalise: true, since it compares directions")
        if self.templates not in (0, "auto") and not (self.kind == "prototypes" and self.similarity == "competing"):
            raise ValueError("templates belong to kind prototypes of similarity competing")
        return self

    @property
    def layers(self) -> dict[str, list[int] | str]:
        return {name: getattr(self, name) for name in ("channels", "kernels", "strides", "paddings")}

    @property
    def scores(self) -> int:
        """How many there are: of patches and of whole images."""
        return self.prototypes + self.templates

    @property
    def receptive_field(self) -> ReceptiveField:
        return ReceptiveField(self.kernels, self.strides, self.paddings)


class ModelConfig(Section):
    formulation: Literal["edm", "eps"] = "edm"  # eps: the published one, on the linear schedule
    residual: bool = True  # edm: a small decoder estimates the image from s, the U-Net works on what it leaves
    masked: bool = True  # answers for any subset of the scores; the others may be hidden
    reader: bool = True  # masked: hidden scores are read off the noisy image, as far as its noise allows
    # edm: deviation of the images, or of what the decoder leaves of them; auto: measured before the U-Net's first step
    sigma_data: Annotated[float, Field(gt=0)] | Auto = "auto"
    sigma_skip: Annotated[float, Field(gt=0)] = 0.03  # edm: below it the network predicts noise, above it the image
    # edm: the highest noise level; auto: by the image's size
    sigma_max: Annotated[float, Field(gt=1)] | Auto = "auto"
    timesteps: Annotated[int, Field(ge=21)] = 1000  # of the linear schedule
    base_channels: Positive = 32
    # of the channels, one a level; auto: by the image's size
    multipliers: Annotated[list[Positive], Field(min_length=1)] | Auto = "auto"
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
        if self.attention is not None and (self.multipliers == "auto" or len(self.attention) != len(self.multipliers)):
            raise ValueError("attention needs one entry for each of multipliers")
        if self.base_channels % 8:
            raise ValueError(f"base_channels {self.base_channels} must divide by the 8 groups of GroupNorm")
        if self.formulation == "eps" and (self.residual or self.masked):
            raise ValueError("residual and masked belong to formulation edm; the published one has neither")
        if self.reader and not self.masked:
            raise ValueError("reader reads hidden scores, so it needs masked: true")
        return self


class NoiseConfig(Section):
    """How ln(sigma) is drawn in the EDM formulation. What is left at auto follows from the image's size."""

    mean: float | Auto = "auto"
    deviation: Annotated[float, Field(gt=0)] = 1.2
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of a batch, drawn uniformly in high_range instead
    # of images with hidden scores too; auto: up to model.sigma_max
    high_range: Annotated[list[float], Field(min_length=2, max_length=2)] | Auto = "auto"

    @model_validator(mode="after")
    def ordered(self):
        if self.high_range != "auto" and self.high_range[0] >= self.high_range[1]:
            raise ValueError("high_range must be [low, high] with low < high")
        return self


class MaskConfig(Section):
    """Which scores a masked model learns without. Its images draw ln(sigma) uniformly in train.noise.high_range."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.2  # of a batch; each of these images hides a part of its scores
    empty: Annotated[float, Field(ge=0, le=1)] = 0.2  # of those images: no score is shown
    weight: Annotated[float, Field(gt=0)] = 0.3  # of their loss in the denoiser's training


class TrainConfig(Section):
    """How a run is trained: the encoder with a small decoder, then the decoder alone, then the denoiser."""

    batch_size: Positive = 32
    accumulate: Positive = 1
    steps: Positive | None = None  # give steps, epochs or minutes
    epochs: Positive | None = None
    # a budget: becomes steps once, timed where the training starts
    minutes: Annotated[float, Field(gt=0)] | None = None
    reference_steps: Positive | None = None  # of the denoiser, behind the numbers published for the config
    # first steps, in which the encoder learns under the small decoder of model.residual, every score shown;
    # auto, here and of decoder_steps: by the number of images, at most a quarter of the training
    encoder_steps: Natural | Auto = "auto"
    # in those steps: deviation of noise on the scores, so that what they say must be plain
    score_noise: Annotated[float, Field(ge=0)] = 0.1
    spread: Annotated[float, Field(ge=0)] = 0.3  # weight of the loss that keeps scores from being constant or alike
    mmd: Annotated[float, Field(ge=0)] = 0.0  # weight of the discrepancy to a normal distribution (InfoDiffusion)
    # next steps, in which the encoder rests and the decoder learns from exact scores, some of them hidden
    decoder_steps: Natural | Auto = "auto"
    encoder_batch_size: Positive | None = 64  # in both kinds of steps; null: batch_size
    encoder_lr: Annotated[float, Field(gt=0)] = 2e-3  # in both kinds of steps
    lr: Annotated[float, Field(gt=0)] = 2e-3
    # of the U-Net's inner weights, by Muon; null: AdamW at lr for all
    muon_lr: Annotated[float, Field(gt=0)] | None = 0.03
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
    # auto: timed, the precision on a CPU alone
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    compile: bool = False  # the denoising network by torch.compile
    seed: Seed = 0
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
    def sizes(self):
        """Fill in what follows from the size of the images."""
        size, model, noise = self.data.image_size, self.model, self.train.noise
        dense = model.encoder.kind == "dense"
        derived = recipe.dense_layers(size) if dense else recipe.encoder_layers(size, self.data.channels)
        layers = {name: derived[name] if values == "auto" else values for name, values in model.encoder.layers.items()}
        if len({len(values) for values in layers.values()}) > 1:
            lengths = "channels, kernels, strides and paddings of one length"
            raise ValueError(
                f"model.encoder: give {lengths}; those left at auto have {len(derived['channels'])} entries"
            )
        sigma_max = recipe.highest_sigma(size) if model.sigma_max == "auto" else model.sigma_max
        levels = recipe.multipliers(size, model.unshuffle) if model.multipliers == "auto" else model.multipliers
        temperature = model.encoder.temperature
        temperature = recipe.temperature(self.data.channels) if temperature == "auto" else temperature
        encoder = model.encoder.model_copy(update=layers | {"temperature": temperature})
        self.model = model.model_copy(update={"encoder": encoder, "sigma_max": sigma_max, "multipliers": levels})
        mean = recipe.noise_mean(size) if noise.mean == "auto" else noise.mean
        high = [LOWEST_HIGH, round(math.log(sigma_max), 1)] if noise.high_range == "auto" else noise.high_range
        noise = noise.model_copy(update={"mean": mean, "high_range": high})
        self.train = self.train.model_copy(update={"noise": noise})
        return self

    @model_validator(mode="after")
    def consistent(self):
        size, model = self.data.image_size, self.model
        unit = model.unshuffle * 2 ** (len(model.multipliers) - 1)
        if size % unit:
            raise ValueError(f"data.image_size {size} must divide by {unit}: model.unshuffle x 2^(levels - 1)")
        if model.residual and size % 4:
            raise ValueError(f"data.image_size {size} must divide by 4, the unit of the decoder of model.residual")
        if {self.train.encoder_steps, self.train.decoder_steps} - {0, "auto"} and not model.residual:
            decoder = "model.residual: true, whose decoder the encoder learns under"
            raise ValueError(f"train.encoder_steps and decoder_steps need {decoder}")
        encoder = model.encoder
        cells = encoder.receptive_field.cells(size)
        if cells < 1:
            raise ValueError(f"model.encoder: its layers leave no cell of a {size}-pixel image")
        patches = INIT_IMAGES * cells**2
        if encoder.kind == "prototypes" and encoder.init == "data" and encoder.prototypes > patches:
            drawn = f"the {patches} patches of the {INIT_IMAGES} images they are drawn from"
            raise ValueError(f"model.encoder.prototypes {encoder.prototypes}: more than {drawn}")
        return self

    def plain(self) -> dict:
        """Plain values only, ready for YAML and checkpoints."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (1e-4) and no silent duplicates."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", node.start_mark)
            seen.add(key.value)
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


# what a key meant that is absent from a run of an earlier version, where today's default is another
FORMER_DEFAULTS = {
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
            "temperature": 0.1,
            "coordinates": 0.0,
            "templates": 0,
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
        "noise": {"mean": -1.2, "deviation": 1.0, "high_range": [-2.5, 3.0]},
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
    named = [length for length in LENGTHS if any(setting.startswith(f"train.{length}=") for setting in settings)]
    for length in LENGTHS if named else ():  # setting one replaces the others
        if length not in named:
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
    """The plain values of a YAML file, over those of its `base`, a path relative to the file. Raises UserError."""
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
        another = "must be the path of another YAML file, relative to this one"
        raise UserError(f"{path}: base = {shortened(base)}: {another}")
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
