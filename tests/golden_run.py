"""A tiny training at a fixed seed and what it comes to; tests/test_golden.py compares it with tests/golden/tiny.json.

python tests/golden_run.py     trains anew and rewrites the file, for changes that are meant to change training
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import DEVICE, Bench, draw_images

from analysis.evaluation.fid import frechet
from analysis.measures.auroc import single_auroc
from models.patronus import Patronus
from models.samplers import SeededNoise, heun
from train.images import to_tensor

FILE = Path(__file__).parent / "golden" / "tiny.json"
SETTINGS = {"train.steps": 200, "train.encoder_steps": 60, "train.decoder_steps": 40, "train.batch_size": 16}
SETTINGS |= {"train.checkpoint_every": 200, "train.samples_every": 200, "train.seed": 0}
SETTINGS |= {"model.dropout": 0.0, "train.precision": "float32"}
LOGGED = 20  # steps between the losses that are kept, each the mean since the one before
HIGH = 0.95  # quantile to which a score is raised


def pooled(images: torch.Tensor) -> np.ndarray:
    """Means of four quarters of images (N, C, H, W): (N, 4 C)."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1).double().cpu().numpy()


def generate(model: Patronus, scores: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Images of scores (N, m), one seed each, clipped to [-1, 1]: (N, *shape)."""
    sigmas = model.sigmas(8)
    start = float(sigmas[0]) * SeededNoise(range(len(scores)), shape, scores.device)()
    return heun(model.denoiser(scores), start, sigmas).clamp(-1, 1)


def labelled_images(bench: Bench) -> tuple[torch.Tensor, pd.DataFrame]:
    """Test images (N, C, H, W) and their attributes, of a run on drawn images."""
    from train.config import load_config
    from train.data import dataset

    dataset.DATA_DIR = bench.home / "data"
    test = dataset.load_split(load_config(bench.config).data, "test")
    return to_tensor(test.pixels[np.arange(len(test))], DEVICE), test.attributes


@torch.no_grad()
def measure(home: Path) -> dict:
    """Train below a folder -> {"losses": ten, "auroc": of the best prototype, mean over attributes, "frechet": distance
    of generated and test images on pooled pixels, "edit": share of a commanded rise that the images of it show}."""
    from train import runs

    bench = Bench(home)
    bench.images = draw_images(home / "many", 160, 16)
    bench.config = bench.write_config(SETTINGS | {"train.log_every": LOGGED})
    bench.train()
    losses = [json.loads(line)["loss"] for line in (bench.version(0) / "metrics.jsonl").read_text().splitlines()]
    runs.RUNS_DIR, before = bench.records / "patronus", runs.RUNS_DIR
    try:
        model = runs.load_run("tiny", 0, DEVICE).model
    finally:
        runs.RUNS_DIR = before
    x0, attributes = labelled_images(bench)
    scores = model.score(x0)
    auroc = np.stack([single_auroc(scores.cpu().numpy(), attributes[name].to_numpy(float)) for name in attributes])
    best = int(auroc[list(attributes).index("Bright")].argmax())

    images = generate(model, scores, x0.shape[1:])
    raised = scores.clone()
    raised[:, best] = torch.maximum(scores[:, best], scores[:, best].quantile(HIGH))
    shown = model.score(generate(model, raised, x0.shape[1:])) - model.score(images)
    edit = shown[:, best].sum() / (raised - scores)[:, best].sum()
    distance = frechet(pooled(images), pooled(x0))
    return {"losses": losses, "auroc": float(auroc.max(1).mean()), "frechet": float(distance), "edit": float(edit)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = measure(Path(home))
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{FILE}: {json.dumps(found)}")


if __name__ == "__main__":
    main()
