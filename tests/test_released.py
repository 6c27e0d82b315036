"""Published checkpoints: exact against a plain re-statement of the format on the raw tensors, safe, convertible both
ways."""

import math
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from conftest import REPO, TINY, Bench
from PIL import Image
from torch.nn import functional as F

from train import runs
from train.config import load_config, merged, read_settings, validate
from train.convert_released import storable
from train.errors import UserError
from train.released import read_released, read_released_latent, to_released
from train.safe_files import read_plain_pickle, read_tensors


def table(rows: int, width: int) -> torch.Tensor:
    angles = torch.arange(rows)[:, None] * torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2 - 1))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Maker:
    """Random tensors under published names."""

    def __init__(self, seed: int):
        self.generator, self.state = torch.Generator().manual_seed(seed), {}

    def draw(self, name: str, *shape: int) -> None:
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * scale + (len(shape) == 1)
        self.state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=self.generator)

    def block(self, name: str, before: int, after: int, t: int, attention: bool) -> None:
        self.draw(f"{name}.normlize_1", before)
        self.draw(f"{name}.conv_1", after, before, 3, 3)
        self.draw(f"{name}.dense_1", after, t)
        self.draw(f"{name}.dense_2", after, t)
        self.draw(f"{name}.normlize_2", after)
        self.draw(f"{name}.conv_2", after, after, 3, 3)
        if before != after:
            self.draw(f"{name}.match_input", after, before, 1, 1)
        if attention:
            self.draw(f"{name}.attention.group_norm", after)
            self.draw(f"{name}.attention.mhsa.out_proj", after, after)
            self.draw("in_proj", 3 * after, after)
            for kind in ("weight", "bias"):
                self.state[f"{name}.attention.mhsa.in_proj_{kind}"] = self.state.pop(f"in_proj.{kind}")


def published_state(
    channels=3, base=16, multipliers=(1, 2), attention=(False,) * 4, m=5, widths=(8, 8, 8, 12), kernel=3, seed=0
) -> dict:
    """A model in the published format, as its specification lists names and shapes."""
    make, t = Maker(seed), 4 * base
    make.state["proactBlock.prototype_vectors"] = torch.rand(m, widths[-1], 1, 1, generator=make.generator)
    make.state["proactBlock.ones"] = torch.ones(m, widths[-1], 1, 1)
    before = channels
    for i, width in enumerate(widths):
        make.draw(f"proactBlock.encoder.features.{2 * i}", width, before, kernel, kernel)
        before = width
    make.state["time_embeddings.time_blocks.0.weight"] = table(1000, base)
    make.draw("time_embeddings.time_blocks.1", t, base)
    make.draw("time_embeddings.time_blocks.3", t, t)
    make.draw("cond_embeddings.vector_fc.0", t, m)
    make.draw("cond_embeddings.vector_fc.2", t, t)
    make.draw("first", base, channels, 3, 3)
    skips, now, i = [base], base, 0
    for level, multiplier in enumerate(multipliers):
        for _ in range(2):
            make.block(f"encoder_blocks.{i}", now, base * multiplier, t, attention[level])
            now, i = base * multiplier, i + 1
            skips.append(now)
        if level < len(multipliers) - 1:
            make.draw(f"encoder_blocks.{i}.downsample", now, now, 3, 3)
            i += 1
            skips.append(now)
    for j in range(2):
        make.block(f"bottleneck_blocks.{j}", now, now, t, j == 0)
    i = 0
    for level in reversed(range(len(multipliers))):
        for _ in range(3):
            make.block(f"decoder_blocks.{i}", now + skips.pop(), base * multipliers[level], t, attention[level])
            now, i = base * multipliers[level], i + 1
        if level:
            make.draw(f"decoder_blocks.{i}.upsample.1", now, now, 3, 3)
            i += 1
    make.draw("final.0", now)
    make.draw("final.2", channels, now, 3, 3)
    return make.state


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p, name, x):
    return F.group_norm(x, 8, p[f"{name}.weight"], p[f"{name}.bias"])


def conv(p, name, x, stride=1, padding=1):
    return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride, padding)


def attend(p, name, x):
    b, c, h, w = x.shape
    y = norm(p, f"{name}.group_norm", x).flatten(2).transpose(1, 2)  # (B, HW, C)
    y = y @ p[f"{name}.mhsa.in_proj_weight"].T + p[f"{name}.mhsa.in_proj_bias"]
    q, k, v = (part.view(b, h * w, 4, c // 4).transpose(1, 2) for part in y.chunk(3, dim=-1))  # (B, 4, HW, C/4)
    y = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(c // 4), dim=-1) @ v
    y = linear(p, f"{name}.mhsa.out_proj", y.transpose(1, 2).reshape(b, h * w, c))
    return x + y.transpose(1, 2).reshape(b, c, h, w)


def block(p, name, x, time, condition):
    h = conv(p, f"{name}.conv_1", F.silu(norm(p, f"{name}.normlize_1", x)))
    h = (
        h
        + linear(p, f"{name}.dense_1", F.silu(time))[:, :, None, None]
        + linear(p, f"{name}.dense_2", F.silu(condition))[:, :, None, None]
    )
    h = conv(p, f"{name}.conv_2", F.silu(norm(p, f"{name}.normlize_2", h)))
    x = conv(p, f"{name}.match_input", x, padding=0) if f"{name}.match_input.weight" in p else x
    return attend(p, f"{name}.attention", x + h) if f"{name}.attention.group_norm.weight" in p else x + h


def published_eps(p, x, t, s):
    """The published definition, step by step on the raw state dict."""
    time = linear(p, "time_embeddings.time_blocks.1", p["time_embeddings.time_blocks.0.weight"][t])
    time = linear(p, "time_embeddings.time_blocks.3", F.silu(time))
    condition = linear(p, "cond_embeddings.vector_fc.2", F.silu(linear(p, "cond_embeddings.vector_fc.0", s)))
    h = conv(p, "first", x)
    kept, i = [h], 0
    while any(key.startswith(f"encoder_blocks.{i}.") for key in p):
        down = f"encoder_blocks.{i}.downsample"
        h = conv(p, down, h, stride=2) if f"{down}.weight" in p else block(p, f"encoder_blocks.{i}", h, time, condition)
        kept.append(h)
        i += 1
    for j in range(2):
        h = block(p, f"bottleneck_blocks.{j}", h, time, condition)
    i = 0
    while any(key.startswith(f"decoder_blocks.{i}.") for key in p):
        up = f"decoder_blocks.{i}.upsample.1"
        if f"{up}.weight" in p:
            h = conv(p, up, h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        else:
            h = block(p, f"decoder_blocks.{i}", torch.cat([h, kept.pop()], dim=1), time, condition)
        i += 1
    return conv(p, "final.2", F.silu(norm(p, "final.0", h)))


def published_distances(p, x, strides, paddings):
    z = x
    for i, (stride, padding) in enumerate(zip(strides, paddings)):
        z = F.relu(conv(p, f"proactBlock.encoder.features.{2 * i}", z, stride, padding))
    v = p["proactBlock.prototype_vectors"]  # (m, D, 1, 1)
    cross = (z[:, None] * v[None, :, :]).sum(2)
    return F.relu((z**2).sum(1, keepdim=True) - 2 * cross + (v**2).sum((1, 2, 3))[None, :, None, None])


def pickled_config(shape, strides, paddings, **more) -> dict:
    """A config.pickle with every field and type of the published ones."""
    base = {
        "DEVICE": torch.device("cuda"),
        "DATASET": "X",
        "root_log_dir": "records",
        "log_dir": "Logs",
        "checkpoint_dir": "checkpoints",
    }
    model = {
        "BASE_CH": 64,
        "BASE_CH_MULT": (1, 2, 4, 4),
        "APPLY_ATTENTION": (False,) * 4,
        "ATTENTION_TYPE": "mhsa",
        "DROPOUT_RATE": 0.1,
    }
    training = {
        "TIMESTEPS": 1000,
        "IMG_SHAPE": shape,
        "BATCH_SIZE": 64,
        "NUM_EPOCHS": 300,
        "LR": 1e-5,
        "NUM_WORKERS": 2,
        "SAMPLE_NUM": 64,
        "NUM_PROTOS": 100,
        "P_VECTOR_SHAPE": (1, 128),
        "dataset": "CelebA",
        "encoder_type": "plb",
        "loss_fn": ("denoiser", "distinct"),
        "loss_lambda": (1.0, 0.0),
        "distinct_margin": 0.2,
        "new_training": True,
        "training_from_version": -1,
        "plb_channel_inputs": (1, 32, 64, 64, 128),
        "plb_layer_filter_sizes": (3, 3, 3, 3),
        "plb_layer_strides": strides,
        "plb_layer_paddings": paddings,
    }
    return {"BaseConfig": base, "ModelConfig": model | {"TIME_EMB_MULT": 4}, "TrainingConfig": training | more}


def write_run(folder, state: dict, config: dict):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "opt": {"state": {}, "param_groups": []}, "scaler": {}}, folder / "ckpt.tar")
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    return folder


CASES = {
    "grey": ("FMNIST_clean", (1, 32, 32), {"channels": 1, "multipliers": (1, 2, 2)}, (2, 1, 1, 1), (1, 0, 0, 0)),
    "colour": ("CelebA", (3, 64, 64), {"multipliers": (1, 2, 3)}, (2, 1, 1, 1), (1, 0, 0, 0)),
    "attention": ("cifar10", (3, 32, 32), {"attention": (False, True)}, (2, 1, 1, 1), (1, 0, 0, 0)),
    "five layers": (
        "CHEXPERT_CardioPM",
        (1, 64, 64),
        {"channels": 1, "widths": (8, 8, 8, 8, 12), "kernel": 5},
        (2, 2, 1, 1, 1),
        (1, 1, 0, 0, 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_published_model_is_exact(tmp_path, case):
    name, shape, sizes, strides, paddings = CASES[case]
    state = published_state(**sizes)
    config, weights = read_released(write_run(tmp_path, state, pickled_config(shape, strides, paddings)), name)
    model = runs.build_model(config).eval()
    model.load_state_dict(weights)
    assert config.model.attention == list(sizes.get("attention", (False,) * len(config.model.multipliers)))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    t = torch.tensor([3, 977])
    with torch.no_grad():
        distances = published_distances(state, x, strides, paddings)
        best = distances.flatten(2).amin(-1)
        s = torch.log((best + 1) / (best + 1e-4))
        for found, expected in (
            (model.encoder.distances(x), distances),
            (model.score(x), s),
            (model.unet(x, t.float(), s), published_eps(state, x, t, s)),
        ):
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    match, cell = model.encoder.match(x), distances.flatten(2).argmin(-1)
    side, cells = x.shape[-1], distances.shape[-1]
    assert torch.equal(match.boxes, model.encoder.receptive_field.boxes(cell // cells, cell % cells, side, side))


def test_published_sizes_come_out_right_where_the_config_is_silent(tmp_path):
    state = published_state(1, 64, (1, 2, 4, 4), (False,) * 4, 30, (32, 64, 64, 128))
    folder = write_run(tmp_path, state, {"BaseConfig": {"DEVICE": torch.device("cuda")}})
    config, _ = read_released(folder, "FMNIST_clean")
    paper = load_config(REPO / "configs" / "paper" / "fmnist.yaml")
    assert config.model.model_dump() | {"attention": None} == paper.model.model_dump()
    assert config.data == paper.data and config.train.epochs == paper.train.epochs


def listed_config(config: dict) -> dict:
    """The same with lists for tuples."""
    return {a: {k: list(v) if isinstance(v, tuple) else v for k, v in section.items()} for a, section in config.items()}


@pytest.mark.parametrize(
    ("fields", "weight", "margin"),
    [
        ({}, 0.0, 0.2),
        ({"loss_lambda": (1.0, 0.3), "distinct_margin": 0}, 0.3, 0.0),
        ({"loss_lambda": (2, 1)}, 0.5, 0.2),  # integers; relative to the denoiser's weight
        ({"loss_fn": ("distinct", "denoiser"), "loss_lambda": (0.3, 1.0)}, 0.3, 0.2),
        ({"loss_fn": "denoiser", "loss_lambda": (1.0,)}, 0.0, 0.2),
        ({"loss_lambda": 0.4}, 0.4, 0.2),
        ({"surprise": {"of": ("a", "later", "release")}, "LR": 1}, 0.0, 0.2),
        ({"dataset": None, "NUM_WORKERS": -1, "NUM_PROTOS": "100", "training_from_version": "4"}, 0.0, 0.2),  # unread
    ],
)
@pytest.mark.parametrize("form", [dict, listed_config])
def test_configs_as_the_authors_save_them(tmp_path, fields, weight, margin, form):
    config = form(pickled_config((3, 32, 32), (2, 1, 1, 1), (1, 0, 0, 0), **fields))
    found, _ = read_released(write_run(tmp_path, published_state(), config), "cifar10")
    assert (found.train.distinct_weight, found.train.distinct_margin) == (weight, margin)
    assert found.train.epochs == 300 and found.train.lr == fields.get("LR", 1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("LR", "fast", "LR = 'fast': Input should be a valid number"),
        ("LR", -1e-5, "LR = -1e-05: Input should be greater than 0"),
        ("LR", math.nan, "LR = nan: .*finite"),
        ("loss_lambda", (1.0, "x"), "loss_lambda = 'x': Input should be a valid number"),
        ("loss_lambda", (1.0, 0.0, 2.0), "loss_lambda = .*one weight for each loss of loss_fn"),
        ("IMG_SHAPE", (3, 32), "IMG_SHAPE = .*at least 3 items"),
        ("IMG_SHAPE", (3, 32, 64), "IMG_SHAPE = .*side, side"),
        ("IMG_SHAPE", 32, "IMG_SHAPE = 32: Input should be a valid list"),
        ("TIMESTEPS", 1000.5, "TIMESTEPS = 1000.5: Input should be a valid integer"),
        ("TIMESTEPS", 5, "TIMESTEPS = 5: .*greater than or equal to 21"),
        ("BATCH_SIZE", True, "BATCH_SIZE = True: Input should be a valid integer"),
        ("plb_layer_strides", (2, 1), "plb_layer_strides = \\(2, 1\\): the encoder of ckpt.tar has 4 layers"),
        ("plb_layer_strides", (2, 1, 0, 1), "plb_layer_strides = 0: Input should be greater than 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(tmp_path, field, value, message):
    config = pickled_config((3, 32, 32), (2, 1, 1, 1), (1, 0, 0, 0), **{field: value})
    with pytest.raises(UserError, match=f"config.pickle: TrainingConfig.*{message}"):
        read_released(write_run(tmp_path, published_state(), config), "cifar10")


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


def test_hostile_and_foreign_files_are_refused(tmp_path):
    state, config = published_state(), pickled_config((3, 32, 32), (2, 1, 1, 1), (1, 0, 0, 0))
    folder = write_run(tmp_path, state, config)

    def refused(message):
        with pytest.raises(UserError, match=message) as error:
            read_released(folder, "cifar10")
        assert "\n" not in str(error.value)

    write_run(folder, state, {"BaseConfig": Evil(tmp_path / "made")})
    refused("config.pickle: it asks for posix.mkdir")
    write_run(folder, state | {"first.weight": Evil(tmp_path / "made")}, config)
    refused("ckpt.tar: not a readable checkpoint")
    assert not (tmp_path / "made").exists()
    write_run(folder, {key: value for key, value in state.items() if key != "final.0.weight"}, config)
    refused("no tensor 'final.0.weight', expected of shape \\(16,\\)")
    write_run(folder, state | {"final.2.bias": torch.zeros(4)}, config)
    refused("'final.2.bias' is expected of shape \\(3,\\), but is \\(4,\\)")
    write_run(folder, state | {"extra.weight": torch.zeros(1)}, config)
    refused("unknown tensors.*extra.weight")
    write_run(folder, state | {"time_embeddings.time_blocks.0.weight": torch.zeros(1000, 16)}, config)
    refused("not the sinusoid table")
    write_run(folder, state, config)
    (folder / "ckpt.tar").write_bytes((folder / "ckpt.tar").read_bytes()[:5000])
    refused("ckpt.tar: not a readable checkpoint")
    (folder / "config.pickle").write_bytes(pickle.dumps(config)[:20])
    torch.save({"weights": state}, folder / "ckpt.tar")
    refused("no key 'model'")
    with pytest.raises(UserError, match="not a readable pickle"):
        read_plain_pickle(folder / "config.pickle")


@pytest.mark.parametrize(
    "changes",
    [
        {1: torch.ones(1)},
        {"encoder_blocks.0.conv_1.weight": 3},
        {"first.weight": torch.ones(0, 3, 3, 3)},
        {"proactBlock.encoder.features.0.weight": torch.ones(())},
    ],
)
def test_a_damaged_published_run_is_one_line(tmp_path, changes):
    config = pickled_config((3, 32, 32), (2, 1, 1, 1), (1, 0, 0, 0))
    folder = write_run(tmp_path, published_state() | changes, config)
    with pytest.raises(UserError, match="ckpt.tar: ") as error:
        read_released(folder, "cifar10")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{3: torch.ones(1)}, {"down_blocks.0.conv1.weight": torch.ones(())}])
def test_a_damaged_published_latent_network_is_one_line(tmp_path, changes):
    torch.save(latent_state((1, 2)) | changes, tmp_path / "best_model.pt")
    with pytest.raises(UserError, match="best_model.pt: "):
        read_released_latent(tmp_path / "best_model.pt", 20)


@pytest.mark.parametrize(
    "value", [{1: (2.0, None)}, {"a": {3, 4}}, {"d": torch.device("cuda", 1)}, {"s": frozenset("ab"), "b": b"x"}]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_values_come_through(tmp_path, value, protocol):
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol=protocol))
    if protocol < 3 and "b" in value:  # those protocols write bytes as a call
        with pytest.raises(UserError, match="_codecs"):
            read_plain_pickle(tmp_path / "p")
    else:
        assert read_plain_pickle(tmp_path / "p") == value


def test_what_a_converted_run_keeps_of_its_origin_can_be_read(tmp_path):
    """Checkpoints are read without running code, which knows no frozenset."""
    values = {"a": frozenset("x"), frozenset("k"): [{frozenset("y")}], "d": (torch.device("cuda", 1),), "s": {3}}
    torch.save(storable(values), tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt") == {"a": ("x",), ("k",): [{("y",)}], "d": ("cuda:1",), "s": {3}}


def latent_state(multipliers, blocks=3, base=16) -> dict:
    make, t = Maker(5), 4 * base

    def residual(name, before, after):
        make.draw(f"{name}.norm1", before)
        make.draw(f"{name}.conv1", after, before, 3)
        make.draw(f"{name}.time_emb_proj", after, t)
        make.draw(f"{name}.norm2", after)
        make.draw(f"{name}.conv2", after, after, 3)
        if before != after:
            make.draw(f"{name}.skip_connection", after, before, 1)

    make.state["time_emb.time_blocks.0.weight"] = table(100, base)
    make.draw("time_emb.time_blocks.1", t, base)
    make.draw("time_emb.time_blocks.3", t, t)
    make.draw("initial_conv", base, 1, 3)
    now, i = base, 0
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            residual(f"down_blocks.{i}", now, base * multiplier)
            now, i = base * multiplier, i + 1
        if level < len(multipliers) - 1:
            make.draw(f"down_blocks.{i}.down", now, now, 4)
            i += 1
    residual("mid_block1", now, now)
    residual("mid_block2", now, now)
    i = 0
    for level in reversed(range(len(multipliers))):
        for _ in range(blocks):
            residual(f"up_blocks.{i}", now, base * multipliers[level])
            now, i = base * multipliers[level], i + 1
        if level:
            make.draw(f"up_blocks.{i}.up", now, now, 4)
            i += 1
    make.draw("final_conv", 1, now, 3)
    return make.state


def published_latent(p, x, t):
    def residual(name, x, time):
        h = F.conv1d(F.silu(norm(p, f"{name}.norm1", x)), p[f"{name}.conv1.weight"], p[f"{name}.conv1.bias"], padding=1)
        h = h + linear(p, f"{name}.time_emb_proj", time)[:, :, None]
        h = F.conv1d(F.silu(norm(p, f"{name}.norm2", h)), p[f"{name}.conv2.weight"], p[f"{name}.conv2.bias"], padding=1)
        skip = f"{name}.skip_connection"
        return h + (F.conv1d(x, p[f"{skip}.weight"], p[f"{skip}.bias"]) if f"{skip}.weight" in p else x)

    time = linear(
        p, "time_emb.time_blocks.3", F.silu(linear(p, "time_emb.time_blocks.1", p["time_emb.time_blocks.0.weight"][t]))
    )
    h = F.conv1d(x[:, None], p["initial_conv.weight"], p["initial_conv.bias"], padding=1)
    for side, resample in (("down", F.conv1d), ("up", F.conv_transpose1d)):
        i = 0
        while any(key.startswith(f"{side}_blocks.{i}.") for key in p):
            name = f"{side}_blocks.{i}.{side}"
            if f"{name}.weight" in p:
                h = resample(h, p[f"{name}.weight"], p[f"{name}.bias"], stride=2, padding=1)
            else:
                h = residual(f"{side}_blocks.{i}", h, time)
            i += 1
        if side == "down":
            h = residual("mid_block2", residual("mid_block1", h, time), time)
    return F.conv1d(h, p["final_conv.weight"], p["final_conv.bias"], padding=1)[:, 0]


@pytest.mark.parametrize(("multipliers", "blocks"), [((1, 2), 3), ((1, 2, 4), 3), ((1, 2), 2)])
def test_a_published_latent_network_is_exact(tmp_path, multipliers, blocks):
    state = latent_state(multipliers, blocks)
    torch.save(state, tmp_path / "best_model.pt")
    model = read_released_latent(tmp_path / "best_model.pt", 20).eval()
    x, t = torch.randn(3, 20), torch.tensor([0, 40, 99])
    with torch.no_grad():
        expected = published_latent(state, x, t)
        assert (model.network(x, t.float()) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert model.schedule.timesteps == 100
    torch.save(state | {"final_conv.bias": torch.zeros(2)}, tmp_path / "best_model.pt")
    with pytest.raises(UserError, match=r"'final_conv.bias' is expected of shape \(1,\), but is \(2,\)"):
        read_released_latent(tmp_path / "best_model.pt", 20)


def test_export_and_back_is_the_same(tmp_path):
    values = {"name": "CelebA", "data": {"source": "celeba", "image_size": 32, "channels": 3}}
    encoder = {
        key: TINY["model"]["encoder"][key] for key in ("prototypes", "channels", "kernels", "strides", "paddings")
    }
    values["model"] = {
        "base_channels": 8,
        "multipliers": [1, 2],
        "blocks": 2,
        "attention": [False, True],
        "dropout": 0.0,
        "encoder": encoder,
    }
    values = merged(read_settings(REPO / "configs" / "base" / "paper.yaml"), values)
    config = validate(values, "test")
    net = runs.build_model(config)
    checkpoint, pickled = to_released(config, net)
    folder = write_run(tmp_path, checkpoint["model"], pickled)
    found, weights = read_released(folder, "CelebA")
    assert found.model == config.model
    for name, tensor in net.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    for key, value in (("standardise_scores", True), ("pixel_channels", 8)):
        different = validate(merged(values, {"model": {key: value}}), "test")
        with pytest.raises(UserError, match=f"model.{key} {value}"):
            to_released(different, runs.build_model(different))


@pytest.fixture(scope="module")
def with_release(tmp_path_factory) -> Bench:
    """A few images in FashionMNIST's own files, and a small published run with its latent model, unpacked as
    published."""
    bench = Bench(tmp_path_factory.mktemp("released"))
    folder = bench.home / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels, labels = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 2
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 20, 28, 28) + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 20) + labels.tobytes())
    place = (
        bench.records
        / "diffusion"
        / "patronus"
        / "FMNIST_clean-train"
        / "Logs_Checkpoints"
        / "checkpoints"
        / "version_4"
    )
    write_run(
        place, published_state(1, m=8), pickled_config((1, 32, 32), (2, 1, 1, 1), (1, 0, 0, 0), surprise=(1, "x"))
    )
    latent = bench.records / "latent_ddim" / "trained_models" / "FMNIST_clean-4" / "version_1"
    latent.mkdir(parents=True)
    torch.save(latent_state((1, 2)), latent / "best_model.pt")
    return bench


RUN = ["--dataset", "FMNIST_clean", "--version_num", 4]


def test_a_published_run_works_in_place(with_release):
    for script, extra in (
        ("analysis/interpretability/visualize_prototype.py", ["--num_samples", 2, "--steps", 3, "--prototypes", "1,2"]),
        ("analysis/manipulation/manipulate.py", ["--steps", 3, "--set", "1=max", "--images", "0"]),
        ("analysis/interpretability/information.py", ["--num_samples", 50, "--prototypes", "0,2"]),
        (
            "analysis/interpretability/trace_emergence.py",
            ["--num_samples", 2, "--steps", 3, "--prototypes", "1,2", "--draws", 50],
        ),
        ("train/conditional_sampling.py", ["--steps", 3, "--total_gen_num", 2]),
        ("train/unconditional_sampling.py", ["--steps", 3, "--total_gen_num", 2]),
    ):
        with_release.run(script, *RUN, *extra)
    made = with_release.records / "FID" / "uncond_FMNIST_clean_4" / "run_0" / "000001.png"
    assert Image.open(made).size == (32, 32)


def test_conversion_and_training_from_it(with_release):
    place = with_release.records / "diffusion/patronus/FMNIST_clean-train/Logs_Checkpoints/checkpoints/version_4"
    done = with_release.run("train/convert_released.py", place)
    folder = with_release.records / "patronus" / "FMNIST_clean" / "version_5"  # beyond the published number
    assert str(folder) in done.stdout
    before = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    refused = with_release.run("train/train_patronus.py", "--config", "configs/none.yaml", "--resume", 5, check=False)
    assert refused.returncode == 2
    settings = [
        "--set",
        "train.batch_size=4",
        "--set",
        "train.steps=2",
        "--set",
        "train.lr=1e-9",
        "--set",
        "train.precision=float32",
    ]
    with_release.run("train/train_patronus.py", "--init_from", "FMNIST_clean/4", *settings)
    trained = torch.load(folder.with_name("version_6") / "checkpoints" / "last.pt", weights_only=True)
    assert trained["step"] == 2 and trained["model"].keys() == before.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(trained["model"][name], tensor, atol=1e-6, rtol=1e-5)
    out = with_release.run("train/convert_released.py", "--export", "--dataset", "FMNIST_clean", "--version_num", 6)
    assert "released_format" in out.stdout
    back, _ = read_released(with_release.records / "released_format" / "FMNIST_clean_v6", "FMNIST_clean")
    assert back.model.multipliers == [1, 2]
    with_release.run("train/convert_released.py", "--export", "--dataset", "FMNIST_clean", "--version_num", 5)
    kept = read_plain_pickle(with_release.records / "released_format" / "FMNIST_clean_v5" / "config.pickle")
    assert kept["TrainingConfig"]["surprise"] == (1, "x") and kept["BaseConfig"]["log_dir"] == "Logs"
    wrong = with_release.run("train/train_patronus.py", "--init_from", "FMNIST_clean", check=False)
    assert wrong.returncode == 2 and "DATASET/VERSION" in wrong.stderr
    wrong = with_release.run("train/train_patronus.py", "--init_from", "FMNIST_clean/²", check=False)
    assert wrong.returncode == 2 and "DATASET/VERSION" in wrong.stderr
