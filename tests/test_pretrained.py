"""Runs as folders to share: what is stored is what was trained, every script finds it, and foreign ones are checked
before use.
"""

import json
import shutil

import pytest
import torch
import yaml
from conftest import REPO, Bench
from safetensors.torch import load_file, save_file

from train import pretrained, runs
from train.build import build_model
from train.config import load_config
from train.errors import UserError
from train.pretrained import EXACT, Provenance, read_pretrained, stored_tensors
from train.released import read_released
from train.versions import version_number


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    """The folder of an export, not to be changed, and what the script printed."""
    folder = tmp_path_factory.mktemp("shared") / "tiny"
    numbers = folder.parent / "quality.json"
    numbers.write_text(json.dumps({"latent": 0.75, "run": "tiny/0", "images": 40}))
    printed = trained.run(
        "train/export_run.py", "--folder", folder, "--numbers", numbers, "--command", "python x.py"
    ).stdout
    return folder, printed


def weights(bench: Bench) -> dict:
    return torch.load(bench.version(0) / "checkpoints" / "last.pt", weights_only=True)["ema"]


def test_an_export_holds_the_averaged_weights(trained, shared):
    folder, printed = shared
    config, found, origin = read_pretrained(folder)
    expected = weights(trained)
    assert {path.name for path in folder.iterdir()} == set(pretrained.FILES)
    for name, values in expected.items():
        exact = name.startswith(EXACT) or values.dim() < 2
        assert torch.equal(found[name], values.float() if exact else values.half().float()), name
    assert (origin.name, origin.step, origin.seed, origin.averaged, origin.command) == (
        "tiny",
        6,
        0,
        True,
        "python x.py",
    )
    assert origin.numbers == {"latent": 0.75, "images": 40} and config.name == "tiny"
    assert 0 < origin.change < 0.02 and f"{origin.change:.1e}" in printed
    assert load_file(folder / "model.safetensors")["unet.first.weight"].dtype == torch.float16
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "patronus" and "| latent | 0.75 |" in card


@pytest.mark.parametrize(
    ("source", "licence"), [("faces", "cc-by-4.0"), ("voxels", "cc0-1.0"), ("fmnist", "mit"), ("folder", None)]
)
def test_the_card_states_a_licence_only_where_it_is_known(source, licence):
    config, state, origin = read_pretrained(REPO / "pretrained" / "faces")
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
    card = pretrained.model_card(config, state, origin)
    assert yaml.safe_load(card.split("---")[1]).get("license") == licence
    assert ("add it before you share" in card) == (licence is None)


def test_every_file_of_an_export_can_be_read_by_those_who_can_read_one(shared):
    assert len({file.stat().st_mode for file in shared[0].iterdir()}) == 1


@pytest.mark.parametrize("name", ["faces", "fmnist"])
def test_shipped_cards_are_those_that_would_be_written(name):
    folder = REPO / "pretrained" / name
    assert (folder / "README.md").read_text() == pretrained.model_card(*read_pretrained(folder))


def test_scores_are_those_of_the_run_and_float32_changes_nothing(trained, monkeypatch, shared):
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    monkeypatch.setattr(pretrained, "PRETRAINED_DIR", shared[0].parent)
    own, shipped = runs.load_run("tiny", 0), runs.load_run("tiny", "pretrained")
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(own.model.score(x), shipped.model.score(x))
    state = stored_tensors(own.model.state_dict(), "F32")
    assert pretrained.change_by_storage(own.config, own.model, state) < 1e-5
    assert runs.find_run(None, None).kind == "trained" and runs.find_run(None, "pretrained").kind == "pretrained"


def test_a_run_of_the_published_formulation_can_be_shared_and_written_in_the_published_format(bench):
    """Its schedule is computed, not stored, also where the network is built without values to learn its shapes."""
    config = load_config(REPO / "configs" / "paper" / "fmnist.yaml", ["model.base_channels=8"])
    state = stored_tensors(build_model(config).state_dict(), "F16")
    origin = Provenance(name="x", version=0, step=1, seed=0, averaged=False, date="", command="", storage="F16")
    folder = bench.home / "pretrained" / config.name
    folder.mkdir(parents=True)
    pretrained.write_pretrained(folder, config, state, origin)
    found, weights, _ = read_pretrained(folder)
    assert found.model.formulation == "eps" and weights.keys() == state.keys()
    bench.run("train/convert_released.py", "--export")
    written = bench.records / "released_format" / f"{config.name}_vpretrained"
    _, back = read_released(written, "FMNIST_clean")
    assert all(torch.equal(values, back[name]) for name, values in weights.items())


def test_scripts_take_a_shipped_run_where_there_is_no_other(bench, shared):
    shutil.copytree(shared[0], bench.home / "pretrained" / "tiny")
    sampling = ("train/conditional_sampling.py", "--total_gen_num", 2, "--device", "cpu", "--steps", 1)
    done = bench.run(*sampling)
    assert "taking the one that is shipped" in done.stderr and "pretrained" in done.stdout
    done = bench.run(*sampling, "--dataset", "tiny", "--version_num", "pretrained")
    assert "taking" not in done.stderr
    bench.train()
    assert "taking" not in bench.run(*sampling).stderr  # one's own goes before
    bench.train("--init_from", "tiny/pretrained", "--set", "train.steps=4", "--set", "train.encoder_steps=0")


def test_images_of_an_import_lie_elsewhere(bench, shared):
    table, images = bench.home / "moved" / "metadata.csv", bench.images.rename(bench.home / "moved")
    settings = ["--set", "data.path=moved", "--set", f"data.metadata={table}"]
    bench.run("train/export_run.py", "--import", shared[0], *settings)
    state = torch.load(bench.version(0) / "checkpoints" / "last.pt", weights_only=True)
    assert (state["config"]["data"]["path"], state["config"]["data"]["metadata"]) == (str(images), str(table))
    for options in (["--import", shared[0], "--set", "data.image_size=8"], ["--set", "data.path=moved"]):
        refused = bench.run("train/export_run.py", *options, check=False)
        assert refused.returncode == 2 and "data.path and data.metadata can be set" in refused.stderr


def test_an_import_is_a_run_like_others(bench, shared):
    shown = bench.run("train/export_run.py", "--import", shared[0]).stdout
    assert "version_0" in shown
    again = bench.home / "again"
    bench.run("train/export_run.py", "--dataset", "tiny", "--folder", again)
    first, second = (load_file(folder / "model.safetensors") for folder in (shared[0], again))
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    refused = bench.run("train/export_run.py", "--dataset", "tiny", "--folder", again, check=False)
    assert refused.returncode == 2 and "is there already" in refused.stderr
    refused = bench.train("--resume", 0, check=False)
    assert refused.returncode == 2 and "--init_from" in refused.stderr


def tensors(change):
    def tamper(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return tamper


def settings(key: str, value):
    def tamper(folder):
        values = yaml.safe_load((folder / "config.yaml").read_text())
        values["model"][key] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(values))

    return tamper


def origin(key: str, value):
    def tamper(folder):
        values = json.loads((folder / "run.json").read_text()) | {key: value}
        (folder / "run.json").write_text(json.dumps(values))

    return tamper


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def promise(folder):
    """A header that is said to be longer than the file."""
    path = folder / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


NAME = "encoder.prototypes"
DAMAGES = {
    "a tensor of another shape": (
        tensors(lambda s: s.update({NAME: torch.zeros(7, 8)})),
        r"prototypes' has shape \(7, 8\) in F32",
    ),
    "a tensor too few": (tensors(lambda s: s.pop(NAME)), "prototypes' is missing"),
    "a tensor too many": (tensors(lambda s: s.update(other=torch.zeros(1))), "'other' is not in the model"),
    "integers": (tensors(lambda s: s.update({NAME: s[NAME].long()})), "in I64, expected"),
    "no numbers": (tensors(lambda s: s[NAME].fill_(float("nan"))), "what is no number: encoder.prototypes"),
    "half a file": (cut, "not a readable .safetensors"),
    "a header beyond the end": (promise, "not a readable .safetensors"),
    "a config of another network": (settings("base_channels", 16), "has shape"),
    "a config of a network that fills the memory": (settings("base_channels", 8 * 10**7), "has shape"),
    "a setting that does not exist": (settings("run_this", "os.system"), "unknown key"),
    "a step below zero": (origin("step", -1), "run.json: step = -1"),
    "a number that is none": (origin("numbers", {"fid": "high"}), "run.json: numbers"),
    "no config": (lambda folder: (folder / "config.yaml").unlink(), "config.yaml: missing"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_refused_in_a_line(tmp_path, shared, damage):
    folder = shutil.copytree(shared[0], tmp_path / "tiny")
    tamper, expected = DAMAGES[damage]
    tamper(folder)
    with pytest.raises(UserError, match=expected) as refused:
        read_pretrained(folder)
    assert "\n" not in str(refused.value)


def test_an_import_that_is_refused_leaves_nothing(bench, shared):
    folder = shutil.copytree(shared[0], bench.home / "foreign")
    cut(folder)
    done = bench.run("train/export_run.py", "--import", folder, check=False)
    assert (
        done.returncode == 2
        and len(done.stderr.strip().splitlines()) == 1
        and not (bench.records / "patronus").exists()
    )


def test_versions_on_the_command_line():
    assert version_number("3") == 3 and version_number("pretrained") == "pretrained"
    with pytest.raises(Exception, match="neither a number nor 'pretrained'"):
        version_number("last")
