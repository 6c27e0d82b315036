"""How well can attributes be read off images at all, and how large are their parts? The ceiling of every prototype.

  python tests/benchmarks/attributes.py --config configs/faces.yaml --config configs/voxels.yaml

For each config and attribute: the AUROC, on test images, of a small classifier of pixels that learnt on the training
images; and on drawings the pixels that the attribute changes, mean of counterfactuals.
"""

import argparse

import numpy as np
import pandas as pd
import torch

from analysis.measures.readers import classifier_reader, read_set, reliability
from train.config import Config, load_config
from train.data.dataset import load_split
from train.data.table import SOURCES, resolve
from train.distributed import pick_device

DRAWN = 60  # counterfactuals an attribute


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="YAML file; repeatable")
    parser.add_argument("--epochs", type=int, default=6, help="of the classifier (default: 6)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    return parser.parse_args()


def readable(config: Config, epochs: int, device: torch.device) -> pd.DataFrame:
    """A row an attribute: share of test images that have it, classifier's AUROC, pixels of its part."""
    data = config.data
    train, test = (load_split(data, split) for split in ("train", "test"))
    labels = test.attributes.to_numpy(float)
    reader = classifier_reader(train, train.attributes.to_numpy(float), device, epochs=epochs)
    rows = {"share": labels.mean(0), "classifier": reliability(read_set(reader, test, device), labels)}
    table = pd.DataFrame(rows, index=pd.Index(test.attributes.columns, name="attribute"))
    if maker := SOURCES[data.source].counterfactuals:
        pairs = resolve(maker)(data.image_size, data.seed, DRAWN)
        table["pixels"] = pd.Series({name: region.sum((1, 2)).mean() for name, (_, _, region) in pairs.items()})
    return table


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    for file in args.config:
        config = load_config(file)
        table = readable(config, args.epochs, device)
        side = config.data.image_size
        print(f"{config.name}, {side}x{side} pixels, mean AUROC {np.mean(table['classifier']):.3f}")
        print(table.round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
