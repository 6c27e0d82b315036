"""What the scores of an encoder alone tell, before any denoiser is trained: the quickest judge of a recipe.

  python tests/benchmarks/encoders.py --config configs/mnist5k.yaml --config configs/fmnist.yaml --steps 1500

For each config: the encoder's phase for so many steps, then on test images, beside the same encoder untrained: accuracy
of classes (else mean AUROC of attributes) by a logistic regression on all scores; the AUROC of the best single score of
each attribute, chosen on training images; and how often setting that score alone brings the attribute about in the
small decoder's picture.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from analysis.measures.auroc import single_auroc
from analysis.measures.quality import regression, single_aurocs
from models.patronus import Patronus
from train import recipe
from train.budget import TRIAL_IMAGES, fastest_formats, with_training
from train.build import build_model
from train.config import Config, load_config
from train.data.dataset import ImageSet, load_split
from train.images import to_tensor
from train.precision import pick_precision
from train.scores import encode
from train.trainer import Trainer

MOST = 5_000  # images of a split that are looked at
EDITED = 60  # images an attribute


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="YAML file; repeatable")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one entry of all; repeatable"
    )
    parser.add_argument("--steps", type=int, default=1500, help="of the encoder (default: 1500)")
    return parser.parse_args()


def judge(model: Patronus, train: ImageSet, test: ImageSet) -> dict[str, float]:
    """Accuracy or mean AUROC of all scores, and the mean and least AUROC of the best single ones."""
    fit, held = (encode(model, images, progress=False).numpy() for images in (train, test))
    single, columns = [], list(test.attributes)
    for name in columns:
        labels = [images.attributes[name].to_numpy(int) for images in (train, test)]
        best = single_aurocs(fit, labels[0][None])[0].argmax()
        auroc = roc_auc_score(labels[1], held[:, best])
        single.append(max(auroc, 1 - auroc))
    if test.labels is not None:
        every = (regression().fit(fit, train.labels).predict(held) == test.labels).mean()
    else:
        values = (regression().fit(fit, train.attributes[name]).decision_function(held) for name in columns)
        every = np.mean([roc_auc_score(test.attributes[name], value) for name, value in zip(columns, values)])
    least = int(np.argmin(single))
    return {"all": every, "single": np.mean(single), f"least ({columns[least]})": single[least]}


def pixel_readers(train: ImageSet) -> tuple:
    """Principal components of images, and a logistic regression an attribute on them."""
    flat = train.pixels.reshape(len(train), -1) / 127.5 - 1
    components = PCA(100, svd_solver="randomized", random_state=0).fit(flat)
    seen = components.transform(flat)
    return components, {name: regression().fit(seen, train.attributes[name]) for name in train.attributes}


@torch.no_grad()
def appears(model: Patronus, train: ImageSet, test: ImageSet) -> float:
    """How often an attribute comes about where its best single score is set to its 99 % quantile, or 1 %, and the
    decoder's change is doubled.

    Mean over attributes, of images in which it is neither there nor seen in the decoder's own estimate; judged on
    pixels.
    """
    components, readers = pixel_readers(train)
    known, shares = encode(model, train, progress=False), []
    quantiles = torch.quantile(known, torch.tensor([0.01, 0.99]), dim=0)  # (2, m)
    for name, reader in readers.items():
        auroc = single_auroc(known.numpy(), train.attributes[name].to_numpy(float))
        k = int(np.abs(auroc - 0.5).argmax())
        rows = np.flatnonzero(test.attributes[name] == 0)[:EDITED]
        s = model.score(to_tensor(test.pixels[rows]))
        changed = s.clone()
        changed[:, k] = quantiles[int(auroc[k] > 0.5), k]
        before, after = model.estimate(s), model.estimate(changed)
        images = [x.permute(0, 2, 3, 1).flatten(1).numpy() for x in (before, (2 * after - before).clamp(-1, 1))]
        seen = [reader.predict(components.transform(x)) for x in images]
        shares.append(seen[1][seen[0] == 0].mean())
    return float(np.mean(shares))


@torch.no_grad()
def left(model: Patronus, test: ImageSet) -> float:
    """Deviation of what the decoder leaves of the images."""
    x0 = to_tensor(test.pixels[:1000])
    return (model.estimate(model.score(x0)) - x0).std().item()


def try_encoder(config: Config) -> str:
    images = [load_split(config.data, split) for split in ("train", "test")]
    config = recipe.settle(config, images[0].pixels)
    device, trial = torch.device("cpu"), images[0].subset(np.arange(min(len(images[0]), TRIAL_IMAGES)))
    config.train.precision = pick_precision(config.train.precision, device)
    formats = fastest_formats(config, lambda trying: Trainer(trying, build_model(trying), trial, device), step=0)
    config = with_training(config, **formats)
    torch.manual_seed(config.train.seed)
    trainer = Trainer(config, build_model(config), images[0], device)
    judged = [part.subset(np.arange(min(len(part), MOST))) for part in images]
    before, start = judge(trainer.model.eval(), *judged), time.perf_counter()
    trainer.model.train()
    for _ in range(config.train.encoder_steps):
        trainer.train_step()
    seconds = time.perf_counter() - start
    model = (trainer.ema or trainer.model).eval()
    after = judge(model, *judged)
    pairs = zip(before.items(), after.items())
    text = ", ".join(f"{name} {value:.3f} (untrained {old:.3f})" for (_, old), (name, value) in pairs)
    edits, rest = appears(model, *judged), left(model, judged[1])
    return f"{config.name}: {text}; appears {edits:.3f}; left {rest:.3f}; {seconds:.0f} s in {config.train.precision}"


def main() -> None:
    args = parse_args()
    phases = [f"train.steps={args.steps + 1}", f"train.encoder_steps={args.steps}", "train.decoder_steps=0"]
    for file in args.config:
        print(try_encoder(load_config(file, [*args.set, *phases])), flush=True)


if __name__ == "__main__":
    main()
