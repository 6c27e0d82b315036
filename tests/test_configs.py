"""Configurations: what those of configs/ resolve to, how they inherit, and what absent keys mean."""

import json

import pytest
from conftest import REPO

from train.config import (
    FORMER_DEFAULTS,
    Config,
    ModelConfig,
    TrainConfig,
    load_config,
    merged,
    read_settings,
    validate_stored,
)
from train.data.table import HAIR_SMILE
from train.errors import UserError

CONFIGS = REPO / "configs"
SHIPPED = sorted(path for folder in (CONFIGS, CONFIGS / "paper") for path in folder.glob("*.yaml"))
PAPER = json.loads((REPO / "tests" / "golden" / "paper_configs.json").read_text())
SMALLEST = {"name": "x", "data": {"source": "mnist5k", "image_size": 32, "channels": 1}, "train": {"epochs": 3}}


def leaves(values: dict, prefix: str = "") -> dict:
    """Nested dicts as one of dotted keys."""
    flat = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_shipped_config_is_valid_and_fits_on_a_screen(path):
    assert load_config(path).train.model_dump()["seed"] == 0
    lines = path.read_text().splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 120


def test_there_is_a_config_for_every_published_data_set():
    assert set(PAPER) == {path.stem for path in (CONFIGS / "paper").glob("*.yaml")}


@pytest.mark.parametrize("name", PAPER)
def test_published_settings_are_what_they_were(name):
    """The resolved values of the day on which configs began to inherit; keys that came later must not be among them."""
    resolved, golden = leaves(load_config(CONFIGS / "paper" / f"{name}.yaml").plain()), leaves(PAPER[name])
    assert {key: resolved.get(key) for key in golden} == golden


def test_a_run_of_an_earlier_version_means_what_it_meant():
    """The published configs did not say what was the default then, so their golden values tell the defaults."""
    stored = validate_stored(SMALLEST, "test")
    assert not stored.model.residual and stored.train.muon_lr is None and stored.train.noise.mean == -1.2
    former = leaves(FORMER_DEFAULTS)
    golden = leaves(PAPER["celeba"])
    came_later = {"train.lr", "model.encoder.templates"}
    assert {key: golden[key] for key in former.keys() - came_later} == {
        key: value for key, value in former.items() if key not in came_later
    }
    defaults = leaves({"model": ModelConfig().model_dump(), "train": TrainConfig.model_construct().model_dump()})
    assert not [key for key, value in former.items() if value == defaults[key]]


def test_a_stored_config_that_holds_every_key_is_taken_as_it_is():
    config = load_config(CONFIGS / "faces64.yaml")
    assert validate_stored(config.plain(), "test") == config


def write(folder, **files: str):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_a_base_lies_relative_to_its_file_and_is_overridden_key_by_key(tmp_path):
    write(
        tmp_path,
        grandparent="name: g\ndata: {source: mnist5k, image_size: 32, channels: 1}\n"
        "model: {encoder: {prototypes: 7, coordinates: 1}}\ntrain: {epochs: 5, lr: 1e-4, noise: {mean: -3}}\n",
        below__parent="base: ../grandparent.yaml\nname: p\nmodel: {encoder: {prototypes: 9}}\n",
        child="base: below/parent.yaml\nname: c\ntrain: {minutes: 2, noise: {deviation: 2}}\n",
    )
    config = load_config(tmp_path / "child.yaml", ["data.limit=5"])
    assert config.name == "c" and config.data.image_size == 32 and config.data.limit == 5
    assert (config.model.encoder.prototypes, config.model.encoder.coordinates) == (9, 1)
    assert (config.train.noise.mean, config.train.noise.deviation, config.train.lr) == (-3, 2, 1e-4)
    assert config.train.minutes == 2 and config.train.epochs is None  # one length replaces the other
    assert load_config(tmp_path / "below" / "parent.yaml").train.epochs == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: none.yaml", r"a.yaml: base: there is no file .*none.yaml"),
        ("base: 3", r"a.yaml: base = 3: must be the path"),
        ("base: a.yaml", r"base: goes round in a circle: a.yaml -> a.yaml"),
        (
            "base: b.yaml",
            r"b.yaml: base: goes round in a circle: a.yaml -> b.yaml -> b.yaml|a.yaml -> b.yaml -> a.yaml",
        ),
        ("base: list.yaml", r"list.yaml: must hold the keys"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(tmp_path, text, expected):
    write(tmp_path, a=text, b="base: a.yaml", list="- 1")
    with pytest.raises(UserError, match=expected):
        load_config(tmp_path / "a.yaml")


def test_merging_changes_neither_of_both():
    base, values = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}
    assert merged(base, values) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3} and values == {"a": {"b": 5}}


def test_the_schema_alone_is_our_formulation():
    config = Config.model_validate(SMALLEST)
    assert config.model.residual and config.model.masked and config.model.reader
    assert config.model.encoder.similarity == "competing" and config.train.muon_lr
    assert "model" not in read_settings(CONFIGS / "mnist5k.yaml")


def test_the_planted_shortcut_is_the_paper_s_on_drawn_faces():
    assert load_config(CONFIGS / "faces_hair_smile.yaml").data.where == HAIR_SMILE


@pytest.mark.parametrize("name", ["faces", "faces64", "voxels", "mnist5k", "elpv", "fmnist"])
def test_a_folder_of_the_same_images_is_trained_in_the_same_way(name):
    own = load_config(CONFIGS / f"{name}.yaml")
    sizes = [f"data.image_size={own.data.image_size}", f"data.channels={own.data.channels}"]
    folder = load_config(CONFIGS / "folder.yaml", [*sizes, f"train.minutes={own.train.minutes}"])
    assert folder.model == own.model
    assert folder.train == own.train.model_copy(update={"reference_steps": None})
