"""Scripts and measures on a GPU that need not be there, with values (tests/gpu_of_values.py)."""

import shutil
from pathlib import Path

import gpu_of_values
import numpy as np
import pytest
import torch
from conftest import Bench
from fake_gpu import IMAGES, config_of
from gpu_of_values import CUDA

from analysis.measures.candidates import Candidate
from analysis.measures.counterfactuals import Pairs, pair_measures
from analysis.measures.edit_metrics import cout
from analysis.measures.parts import part_measures
from analysis.measures.regions import map_measures
from analysis.measures.scores import KnownScores
from train.build import build_model

WINDOWS = ("--n_steps", 4, "--patch_sizes", "9,7,5,3", "--n_samples", 2)
SCRIPTS = {
    "train/conditional_sampling.py": ["--total_gen_num", 2, "--steps", 2],
    "analysis/interpretability/encode.py": [],
    "analysis/interpretability/ownership.py": [],
    "analysis/interpretability/visualize_prototype.py": ["--steps", 2, "--prototypes", "1", "--guidance", 1],
    "analysis/interpretability/information.py": ["--num_samples", 50, "--prototypes", "0,1"],
    "analysis/interpretability/trace_emergence.py": ["--draws", 50, "--num_samples", 2, "--steps", 3],
    "analysis/manipulation/manipulate.py": ["--set", "1=max", "--attribute", "Bright=1", "--steps", 3],
    "analysis/evaluation/consistency.py": ["--steps", 2, "--prototypes", "0,1"],
    "analysis/evaluation/extrapolate.py": ["--steps", 2, "--frames", 2],
    "analysis/evaluation/interpolate.py": ["--steps", 2, "--frames", 2],
    "analysis/evaluation/reconstruct.py": ["--steps", 2, "--num_samples", 2],
    "analysis/evaluation/prototype_quality.py": ["--untrained"],
    "analysis/evaluation/faithfulness.py": ["--untrained", "--steps", 2, "--num_samples", 4],
    "analysis/diagnosis/ties.py": ["--draws", 4, "--figures", 1],
    "analysis/diagnosis/balance.py": ["--balance", "0,1", "--total_gen_num", 4, "--steps", 1],
    "analysis/mechanism/compare.py": [*WINDOWS, "--thresholds", "1,.9,.8,.7"],
    "analysis/mechanism/heatmaps.py": [*WINDOWS, "--stride", 15],
}


@pytest.fixture(scope="module")
def copied(many, tmp_path_factory) -> Bench:
    """A bench with a copy of the run of `many`, whose scripts compute on the GPU."""
    bench = Bench(tmp_path_factory.mktemp("gpu"))
    shutil.copytree(many.records / "patronus", bench.records / "patronus")
    bench.prelude = gpu_of_values.PRELUDE.format(tests=str(Path(__file__).parent))
    return bench


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(copied, script):
    copied.run(script, *SCRIPTS[script], "--device", "cuda")


@pytest.fixture
def gpu(monkeypatch):
    before = torch._C._only_lift_cpu_tensors()
    for patch in gpu_of_values.patches():
        monkeypatch.setattr(*patch)
    gpu_of_values.begin()
    with gpu_of_values.Mode():
        yield
    torch._C._set_only_lift_cpu_tensors(before)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x @ torch.ones(3, 3),
        lambda x: torch.ones(3)[x.long()[0]],
        lambda x: torch.randn(3, generator=torch.Generator(), device="cuda"),
        lambda x: x.numpy(),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
    ],
)
def test_what_cuda_refuses_is_refused(gpu, mistake):
    x = torch.zeros(3, 3, device="cuda")
    assert x.device == CUDA and (x + torch.ones(())).sum().item() == 9 and x[torch.tensor([0])].device == CUDA
    with pytest.raises(RuntimeError):
        mistake(x)


def test_measures_of_counterfactuals_and_of_edits(gpu):
    model = build_model(config_of("ours")).to(CUDA).eval().requires_grad_(False)
    region = np.zeros((4, 16, 16), bool)
    region[:, 3:7, 5:9] = True
    pairs = {"Bright": Pairs(IMAGES.pixels[:4], IMAGES.pixels[4:8], region)}
    known, candidate = KnownScores(torch.rand(300, 6, device=CUDA)), Candidate("Bright", 1, 1)
    found = pair_measures(model, pairs["Bright"], candidate, 0.1)
    found |= part_measures(model, pairs, candidate, np.ones((16, 16)))
    found |= map_measures(model, pairs["Bright"], candidate, known, 0.5)
    assert {"pair", "hit", "stable", "perturbed_inside", "map", "map_alone", "map_gradient"} <= set(found)
    x0 = torch.zeros(2, 3, 16, 16, device=CUDA)
    assert cout(lambda x: x.mean((1, 2, 3))[:, None].cpu().numpy(), x0, x0 + 1, 0, True) > 0
