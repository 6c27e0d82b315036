"""The authors' published checkpoints: read safely, in place, and written back (format: the public release of Weng et
al. 2026).

A run is records/diffusion/patronus/<DATASET>-train/Logs_Checkpoints/checkpoints/version_<N>/ with ckpt.tar and
config.pickle (no "-train" where the name starts with OUT); its latent models are
records/latent_ddim/trained_models/<DATASET>-<N>/version_<L>/best_model.pt. Names and shapes of tensors tell the
architecture; config.pickle adds what they cannot: strides, paddings, image size, training settings.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from global_config import RECORDS_DIR, REPO_DIR
from models.latent import LatentModel, LatentUNet1d
from models.patronus import Patronus
from models.prototype_encoder import MAX_SCORE
from models.schedule import LinearSchedule
from models.unet import sinusoids
from train.build import build_model
from train.config import Config, merged, read_settings, validate
from train.errors import UserError, listed, reading
from train.published_config import LOSSES, check_published
from train.safe_files import read_plain_pickle, read_tensors

RELEASED_DIR = RECORDS_DIR / "diffusion" / "patronus"
LATENT_DIR = RECORDS_DIR / "latent_ddim" / "trained_models"
SOURCES = {  # published data set -> (ours, image size, published epochs)
    "MNIST_clean": ("mnist", 32, 100),
    "FMNIST_clean": ("fmnist", 32, 100),
    "cifar10": ("cifar10", 32, 300),
    "CelebA": ("celeba", 64, 300),
    "CelebA_hair_smile": ("celeba_hair_smile", 64, 300),
    "ffhq256": ("ffhq", 64, 300),
    "CHEXPERT_CardioPM": ("chexpert", 224, 300),
    "OUT_CHEXPERT": ("chexpert", 224, 300),
}
STRIDES = {4: [2, 1, 1, 1], 5: [2, 2, 1, 1, 1]}  # published, where config.pickle is silent
PADDINGS = {4: [1, 0, 0, 0], 5: [1, 1, 0, 0, 0]}
TABLES = ("time_embeddings.time_blocks.0.weight", "time_emb.time_blocks.0.weight")
BLOCK = {
    "norm1": "normlize_1",
    "conv1": "conv_1",
    "time": "dense_1",
    "condition": "dense_2",
    "norm2": "normlize_2",
    "conv2": "conv_2",
}
BLOCK |= {"skip": "match_input", "attention.norm": "attention.group_norm", "attention.mhsa": "attention.mhsa"}
BLOCK_1D = {"time": "time_emb_proj", "skip": "skip_connection"}


def published_name(name: str) -> str:
    """The published name of one of our tensors."""
    fixed = {
        "encoder.prototypes": "proactBlock.prototype_vectors",
        "unet.first": "first",
        "unet.last_norm": "final.0",
        "unet.last": "final.2",
    }
    fixed |= {"unet.time_mlp.0": "time_embeddings.time_blocks.1", "unet.time_mlp.2": "time_embeddings.time_blocks.3"}
    fixed |= {f"unet.condition_mlp.{i}": f"cond_embeddings.vector_fc.{i}" for i in (0, 2)}
    if name in fixed:
        return fixed[name]
    stem, _, kind = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{kind}"
    if name.startswith("encoder.features."):
        return f"proactBlock.{name}"
    folder, index, rest = re.fullmatch(r"unet\.(down|middle|up)\.(\d+)\.(.+)", name).groups()
    place = {"down": "encoder_blocks", "middle": "bottleneck_blocks", "up": "decoder_blocks"}[folder] + f".{index}"
    if folder == "down" and "." not in rest:
        return f"{place}.downsample.{rest}"
    if folder == "up" and rest.startswith("conv."):
        return f"{place}.upsample.1.{rest.removeprefix('conv.')}"
    return f"{place}.{_block_name(rest, BLOCK)}"


def _block_name(rest: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if rest.startswith(f"{ours}."):
            return theirs + rest.removeprefix(ours)
    return rest


def published_latent_name(name: str) -> str:
    """The published name of one of the tensors of our LatentUNet1d."""
    head, _, rest = name.partition(".")
    simple = {"first": "initial_conv", "last": "final_conv"}
    if head in simple:
        return f"{simple[head]}.{rest}"
    index, _, rest = rest.partition(".")
    if head == "time_mlp":
        return f"time_emb.time_blocks.{ {'0': 1, '2': 3}[index] }.{rest}"
    if head == "middle":
        return f"mid_block{int(index) + 1}.{_block_name(rest, BLOCK_1D)}"
    if "." not in rest:
        return f"{head}_blocks.{index}.{head}.{rest}"
    return f"{head}_blocks.{index}.{_block_name(rest, BLOCK_1D)}"


def rename(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], name_of, path: Path, ignored: tuple[str, ...]
) -> dict[str, Tensor]:
    """`theirs` under our names and in the shapes of `ours`. Raises UserError that names the file, the key and both
    shapes."""
    used, renamed = set(ignored), {}
    for name, tensor in ours.items():
        key = name_of(name)
        if key not in theirs:
            raise UserError(f"{path}: no tensor '{key}', expected of shape {tuple(tensor.shape)}")
        value = theirs[key]
        trailing = (1, 1) if key == "proactBlock.prototype_vectors" else ()
        if not isinstance(value, Tensor) or tuple(value.shape) != (*tensor.shape, *trailing):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{path}: '{key}' is expected of shape {(*tensor.shape, *trailing)}, but is {shape}")
        renamed[name] = value.float().reshape(tensor.shape)
        used.add(key)
    foreign = [key for key in theirs if key not in used]
    if foreign:
        raise UserError(f"{path}: unknown tensors, so not a published checkpoint: {listed(foreign, 3)}")
    return renamed


def _check_table(state: dict, key: str, width: int, path: Path) -> None:
    """The sinusoid table is fixed: another one would mean another time embedding than ours."""
    table = state[key] if isinstance(state.get(key), Tensor) else torch.empty(0, 0)
    if table.dim() != 2 or table.shape[1] != width or not len(table):
        raise UserError(f"{path}: '{key}' is expected of shape (timesteps, {width}), but is {tuple(table.shape)}")
    if not torch.allclose(table.float(), sinusoids(torch.arange(len(table)), width), atol=1e-3):
        raise UserError(f"{path}: '{key}' is not the sinusoid table of the published model")


def _levels(
    state: dict, prefix: str, base: int, changes: tuple[str, ...], conv: str, path: Path
) -> tuple[list[int], int, list[bool]]:
    """Multipliers, blocks a level and attention a level, from the names of a list of blocks in which `changes` end a
    level."""
    levels, index = [[]], 0
    while True:
        keys = [key for key in state if key.startswith(f"{prefix}.{index}.")]
        if not keys:
            break
        if any(key.startswith(f"{prefix}.{index}.{change}") for key in keys for change in changes):
            levels.append([])
        elif f"{prefix}.{index}.{conv}.weight" in state:
            width = state[f"{prefix}.{index}.{conv}.weight"].shape[0]
            levels[-1].append((width, any(".attention." in key for key in keys)))
        else:
            raise UserError(f"{path}: '{prefix}.{index}' is neither a residual block nor a change of resolution")
        index += 1
    counts = {len(level) for level in levels}
    if len(counts) != 1 or 0 in counts or any(width % base for level in levels for width, _ in level):
        raise UserError(
            f"{path}: '{prefix}' does not hold levels of equally many blocks whose widths are multiples of {base}"
        )
    return [level[0][0] // base for level in levels], counts.pop(), [level[0][1] for level in levels]


def published_config(name: str, state: dict, pickled: dict, path: Path) -> Config:
    """Our config of a published model: from its tensors, and from its config where they are silent. Raises
    UserError."""

    file = path.with_name("config.pickle")
    published = check_published(pickled, str(file))
    training = published.TrainingConfig
    if name not in SOURCES:
        raise UserError(f"{path}: '{name}' is none of the published data sets: {listed(SOURCES)}")
    for key in ("first.weight", "proactBlock.prototype_vectors"):
        if not isinstance(state.get(key), Tensor) or state[key].dim() != 4:
            raise UserError(f"{path}: no tensor '{key}' of four dimensions, so not a published checkpoint")
    source, size, epochs = SOURCES[name]
    base, channels = state["first.weight"].shape[:2]
    multipliers, blocks, attention = _levels(state, "encoder_blocks", base, ("downsample",), "conv_1", path)
    convs = [key for key in state if re.fullmatch(r"proactBlock\.encoder\.features\.\d+\.weight", key)]
    weights = [state[key] for key in sorted(convs, key=lambda key: int(key.split(".")[3]))]
    layers = len(weights)
    strides = training.plb_layer_strides or STRIDES.get(layers, [1] * layers)
    paddings = training.plb_layer_paddings or PADDINGS.get(layers, [0] * layers)
    for field, values in (("plb_layer_strides", strides), ("plb_layer_paddings", paddings)):
        if len(values) != layers:
            raise UserError(
                f"{file}: TrainingConfig.{field} = {tuple(values)}: the encoder of {path.name} has {layers} layers"
            )
    values = {
        "name": name,
        "data": {
            "source": source,
            "image_size": training.IMG_SHAPE[1] if training.IMG_SHAPE else size,
            "channels": channels,
        },
        "model": {
            "timesteps": training.TIMESTEPS,
            "base_channels": base,
            "multipliers": multipliers,
            "blocks": blocks,
            "attention": attention,
            "dropout": published.ModelConfig.DROPOUT_RATE,
            "encoder": {
                "prototypes": state["proactBlock.prototype_vectors"].shape[0],
                "channels": [weight.shape[0] for weight in weights],
                "kernels": [weight.shape[-1] for weight in weights],
                "strides": strides,
                "paddings": paddings,
            },
        },
        "train": {
            "batch_size": training.BATCH_SIZE,
            "epochs": training.NUM_EPOCHS or epochs,
            "lr": training.LR,
            "distinct_weight": training.distinct_weight,
            "distinct_margin": training.distinct_margin,
        },
    }
    values = merged(read_settings(REPO_DIR / "configs" / "base" / "paper.yaml"), values)
    return validate(values, f"{path} with {file.name}")


def read_released(folder: Path, name: str) -> tuple[Config, dict[str, Tensor]]:
    """A published run -> our config and the weights under our names. Raises UserError."""
    path = folder / "ckpt.tar"
    with reading(path):
        checkpoint = read_tensors(path)
        state = checkpoint.get("model")
        if not isinstance(state, dict):
            raise UserError(f"{path}: no key 'model', so not a published checkpoint")
        if not (folder / "config.pickle").is_file():
            raise UserError(f"{folder / 'config.pickle'}: missing; a published run holds it beside ckpt.tar")
        config = published_config(name, state, read_plain_pickle(folder / "config.pickle"), path)
        _check_table(state, TABLES[0], config.model.base_channels, path)
        ours = build_model(config).state_dict()
        return config, rename(ours, state, published_name, path, (TABLES[0], "proactBlock.ones"))


def released_runs() -> list[tuple[str, int, Path]]:
    """(data set, version, folder) of every published run below records/diffusion/patronus."""
    runs = []
    for path in RELEASED_DIR.glob("*/Logs_Checkpoints/checkpoints/version_*/ckpt.tar"):
        number = path.parent.name.removeprefix("version_")
        if number.isdecimal():
            runs.append((path.parts[-5].removesuffix("-train"), int(number), path.parent))
    return sorted(runs)


def released_latents(name: str, version: int) -> dict[int, Path]:
    """Version -> file of the published latent models of a run."""
    paths = (LATENT_DIR / f"{name}-{version}").glob("version_*/best_model.pt")
    numbers = ((path.parent.name.removeprefix("version_"), path) for path in paths)
    return {int(number): path for number, path in numbers if number.isdecimal()}


def read_released_latent(path: Path, scores: int) -> LatentModel:
    """A published latent network: eps on its own number of timesteps, over raw scores. Raises UserError."""
    with reading(path):
        state = read_tensors(path)
        if not isinstance(state.get("initial_conv.weight"), Tensor) or state["initial_conv.weight"].dim() != 3:
            raise UserError(
                f"{path}: no tensor 'initial_conv.weight' of three dimensions, so not a published latent model"
            )
        base, _, kernel = state["initial_conv.weight"].shape
        multipliers, blocks, _ = _levels(state, "down_blocks", base, ("down.", "weight"), "conv1", path)
        first = state.get("time_emb.time_blocks.1.weight")
        embedding = first.shape[0] if isinstance(first, Tensor) and first.dim() == 2 else 4 * base
        network = LatentUNet1d(base, multipliers, blocks, embedding=embedding, kernel=kernel)
        plain = any(
            re.fullmatch(r"(down|up)_blocks\.\d+\.weight", key) for key in state
        )  # resampling layers without a name of their own

        def name_of(name: str) -> str:
            key = published_latent_name(name)
            return re.sub(r"(\d+)\.(down|up)\.", r"\1.", key) if plain else key

        _check_table(state, TABLES[1], base, path)
        weights = rename(network.state_dict(), state, name_of, path, (TABLES[1],))
        if scores % 2 ** (len(multipliers) - 1):
            raise UserError(f"{path}: {len(multipliers)} levels do not fit vectors of {scores} scores")
        network.load_state_dict(weights)
        return LatentModel(network, scores, LinearSchedule(len(state[TABLES[1]])), MAX_SCORE)


def unpublishable(config: Config) -> list[str]:
    """Settings that the published format cannot express."""
    model, encoder = config.model, config.model.encoder
    wanted = {
        "model.formulation": (model.formulation, "eps"),
        "model.unshuffle": (model.unshuffle, 1),
        "model.pixel_channels": (model.pixel_channels, 0),
        "model.standardise_scores": (model.standardise_scores, False),
        "model.encoder.kind": (encoder.kind, "prototypes"),
        "model.encoder.coordinates": (encoder.coordinates, 0.0),
        "model.encoder.normalise": (encoder.normalise, False),
        "model.encoder.similarity": (encoder.similarity, "log"),
    }
    return [f"{key} {value} (there: {published})" for key, (value, published) in wanted.items() if value != published]


def to_released(config: Config, model: Patronus, origin: dict | None = None) -> tuple[dict, dict]:
    """A run of the published formulation -> contents of ckpt.tar and config.pickle. Raises UserError.

    origin: the config.pickle that the run was converted from; what we do not write ourselves is taken over from it.
    """
    different = unpublishable(config)
    if different:
        raise UserError(f"{config.name}: the published format cannot express {', '.join(different)}")
    state = {published_name(name): tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    prototypes = state["proactBlock.prototype_vectors"][:, :, None, None]
    state |= {"proactBlock.prototype_vectors": prototypes, "proactBlock.ones": torch.ones_like(prototypes)}
    state[TABLES[0]] = sinusoids(torch.arange(config.model.timesteps), config.model.base_channels)
    data, net, encoder, train = config.data, config.model, config.model.encoder, config.train
    pickled = {
        "BaseConfig": {"DEVICE": torch.device("cpu"), "DATASET": config.name},
        "ModelConfig": {
            "BASE_CH": net.base_channels,
            "BASE_CH_MULT": tuple(net.multipliers),
            "APPLY_ATTENTION": tuple(net.attention or [False] * len(net.multipliers)),
            "DROPOUT_RATE": net.dropout,
            "TIME_EMB_MULT": 4,
        },
        "TrainingConfig": {
            "TIMESTEPS": net.timesteps,
            "IMG_SHAPE": (data.channels, data.image_size, data.image_size),
            "BATCH_SIZE": train.batch_size,
            "LR": train.lr,
            "NUM_PROTOS": encoder.prototypes,
            "P_VECTOR_SHAPE": (1, prototypes.shape[1]),
            "dataset": config.name,
            "loss_fn": LOSSES,
            "loss_lambda": (1.0, train.distinct_weight),
            "distinct_margin": train.distinct_margin,
            "plb_channel_inputs": (1, *encoder.channels),
            "plb_layer_filter_sizes": tuple(encoder.kernels),
            "plb_layer_strides": tuple(encoder.strides),
            "plb_layer_paddings": tuple(encoder.paddings),
        },
    }
    for section, fields in (origin or {}).items():
        pickled[section] = fields | pickled.get(section, {}) if isinstance(fields, dict) else fields
    return {"model": state, "opt": {}, "scaler": {}}, pickled
