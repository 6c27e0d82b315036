"""Reading attributes off images: by the prototypes that match in them, or by a small classifier of pixels."""

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from analysis.measures.auroc import single_auroc
from global_config import DATA_DIR
from models.patronus import Patronus
from train.data.dataset import ImageSet
from train.draws import batch_indices
from train.errors import UserError
from train.images import to_tensor
from train.prefetch import Prefetcher
from train.safe_files import read_tensors
from train.whole_files import save_tensors

Reader = Callable[[Tensor], np.ndarray]  # images (B, C, H, W) in [-1, 1] -> evidence of each attribute (B, A)
EPOCHS = 6  # by default, but no more than
MOST_SEEN = 200_000  # images, which is plenty for a small network
BATCH = 64
RATE, WARM = 3e-3, 0.1  # of the classifier's learning: highest rate, share of the steps until it


def prototype_reader(model: Patronus, scores: np.ndarray, labels: np.ndarray) -> Reader:
    """Encode again, then a logistic regression on all scores. scores (N, m) and labels (N, A; NaN unknown) to fit it
    on."""
    fits = []
    for column in labels.T:
        known = ~np.isnan(column)
        fits.append(
            make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(
                scores[known], column[known].astype(int)
            )
        )

    def read(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            s = model.score(x).float().cpu().numpy()
        return np.stack([fit.decision_function(s) for fit in fits], axis=1)

    return read


def small_classifier(channels: int, size: int, outputs: int) -> nn.Sequential:
    """Convolutions with pooling down to at most 8x8 cells, then one linear layer: images (B, C, size, size) -> logits
    (B, outputs)."""
    layers, width, side = [], channels, size
    while side > 8 or not layers:
        layers += [nn.Conv2d(width, 32 if not layers else 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        width, side = layers[-3].out_channels, side // 2
    layers += [
        nn.Conv2d(width, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * side * side, outputs),
    ]
    return nn.Sequential(*layers)


def classifier_reader(
    images: ImageSet, labels: np.ndarray, device: torch.device, seed: int = 0, epochs: int = EPOCHS
) -> Reader:
    """A small convolutional classifier of all attributes at once, trained on labelled images; labels (N, A; NaN
    unknown).

    It is kept beside the cached images: the same labelled images train it once, whichever script asks.
    """
    torch.manual_seed(seed)
    _, size, _, channels = images.pixels.shape
    net = small_classifier(channels, size, labels.shape[1]).to(device, memory_format=torch.channels_last)
    file = DATA_DIR / "cache" / f"classifier_{_digest(images, labels, seed, epochs)}.pt"
    try:
        net.load_state_dict(read_tensors(file))
    except (UserError, RuntimeError):  # none is there, or it is damaged
        _train(net, images, labels, device, seed, epochs)
        with suppress(UserError):  # where nothing can be written it is trained each time
            save_tensors(file, net.state_dict())
    net.eval().requires_grad_(False)
    return lambda x: net(x.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()


def _digest(images: ImageSet, labels: np.ndarray, seed: int, epochs: int) -> str:
    """Of all that a classifier is made of, this file included."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr((images.pixels.shape, seed, epochs)).encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.float64))
    for start in range(0, len(images.pixels), 4096):  # a memory map may be larger than memory
        digest.update(np.ascontiguousarray(images.pixels[start : start + 4096]))
    return digest.hexdigest()[:16]


def _train(net: nn.Module, images: ImageSet, labels: np.ndarray, device: torch.device, seed: int, epochs: int) -> None:
    """A little noise on the input keeps it from reading textures that generated images lack. The rate rises, then falls
    to 0: what is in between two colours is then read alike by classifiers of several seeds."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    seen = min(MOST_SEEN, epochs * len(images))
    steps = math.ceil(seen / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 0.5) / steps))
    batches = Prefetcher(lambda step: _batch(images, labels, seed, step), device, steps)
    for step in tqdm(range(steps), desc="training the classifier", unit="step", leave=False):
        pixels, targets, known, noise = batches(step)
        x = (to_tensor(pixels) + 0.1 * noise).contiguous(memory_format=torch.channels_last)
        loss = F.binary_cross_entropy_with_logits(net(x), targets, known)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _rate(share: float) -> float:
    """The learning rate after a share of the steps, as a share of the highest: a rise, and half a cosine to 0."""
    return min(1.0, share / WARM) * 0.5 * (1 + math.cos(math.pi * share))


def _batch(images: ImageSet, labels: np.ndarray, seed: int, step: int) -> list[Tensor]:
    """Of a training step: pixels, targets and which of them are known (B, A), noise like the images."""
    rows = batch_indices(seed, step, BATCH, len(images))
    pixels, n = torch.from_numpy(np.array(images.pixels[rows])), len(rows)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    noise = torch.randn(n, pixels.shape[3], *pixels.shape[1:3], generator=generator)
    known = ~np.isnan(labels[rows])
    targets = torch.from_numpy(np.where(known, labels[rows], 0)).float()
    return [pixels, targets, torch.from_numpy(known).float(), noise]


def _read(reader: Reader, pixels: np.ndarray, device: torch.device, batch: int = 256) -> np.ndarray:
    starts = range(0, len(pixels), batch)
    parts = (torch.from_numpy(np.array(pixels[start : start + batch])).to(device) for start in starts)
    return np.concatenate([reader(to_tensor(part)) for part in parts])


def attributes_kept(reader: Reader, source: np.ndarray, samples: np.ndarray, device: torch.device) -> np.ndarray:
    """Of images uint8 (n, H, W, C) made from the scores of others, the share in which the reader sees each attribute
    just as in its source: (A,)."""
    there, here = (_read(reader, pixels, device) > 0 for pixels in (source, samples))
    return (there == here).mean(0)


def read_set(reader: Reader, images: ImageSet, device: torch.device) -> np.ndarray:
    """Evidence of each attribute in every image of a set: (N, A)."""
    return _read(reader, images.pixels, device)


def class_gaps(evidence: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean evidence where an attribute holds minus where it does not, (A,): the unit in which effects are told."""
    return np.array([e[y == 1].mean() - e[y == 0].mean() for e, y in zip(evidence.T, labels.T)])


def reliability(evidence: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC of each attribute's own evidence, (A,)."""
    return np.array([single_auroc(e[:, None], y)[0] for e, y in zip(evidence.T, labels.T)])
