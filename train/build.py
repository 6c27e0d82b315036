"""The one bridge from a configuration to modules."""

import math

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from models.dense_encoder import DenseEncoder
from models.patronus import Patronus
from models.prototype_encoder import PrototypeEncoder
from models.reconstruction import ScoreDecoder
from models.schedule import LinearSchedule
from models.score_reader import ScoreReader
from models.templates import Templates
from models.unet import UNet
from train.config import INIT_IMAGES, Config
from train.data.dataset import ImageSet
from train.errors import UserError
from train.images import to_tensor

MEASURED_IMAGES = 1024
TEMPLATE_IMAGES = 4096  # whose clusters become templates
LEAST_SIGMA_DATA = 0.01  # where the decoder leaves nothing at all
UNMEASURED = 0.5  # sigma_data of a model whose U-Net has not begun to learn


def build_encoder(config: Config) -> PrototypeEncoder | DenseEncoder:
    data, encoder = config.data, config.model.encoder
    templates = encoder.templates
    if encoder.kind == "dense":
        return DenseEncoder(data.channels, data.image_size, encoder.prototypes, encoder.channels)
    return PrototypeEncoder(
        data.channels,
        encoder.prototypes,
        encoder.channels,
        encoder.kernels,
        encoder.strides,
        encoder.paddings,
        coordinates=encoder.coordinates,
        normalise=encoder.normalise,
        scaled_init=encoder.init == "data",
        similarity=encoder.similarity,
        temperature=encoder.temperature,
        templates=Templates(data.channels, data.image_size, templates, encoder.temperature) if templates else None,
    )


def build_model(config: Config) -> Patronus:
    """A freshly initialised Patronus (weights from torch's global generator)."""
    model, encoder = config.model, config.model.encoder
    condition = encoder.scores * (2 if model.masked else 1)
    return Patronus(
        build_encoder(config),
        UNet(
            config.data.channels * (2 if model.residual else 1),
            condition,
            model.base_channels,
            model.multipliers,
            model.blocks,
            model.attention or [False] * len(model.multipliers),
            model.dropout,
            model.unshuffle,
            model.zero_output,
            out_channels=config.data.channels,
            pixel_channels=model.pixel_channels,
            pixel_layers=model.pixel_layers,
        ),
        LinearSchedule(model.timesteps) if model.formulation == "eps" else None,
        UNMEASURED if model.sigma_data == "auto" else model.sigma_data,
        model.sigma_skip,
        model.sigma_max,
        model.standardise_scores,
        ScoreDecoder(condition, config.data.channels, config.data.image_size) if model.residual else None,
        model.masked,
        ScoreReader(config.data.channels, encoder.scores) if model.reader else None,
    )


@torch.no_grad()
def measured_sigma_data(model: Patronus, train: ImageSet, device: torch.device) -> float:
    """Deviation of what the decoder leaves of training images, or of the images where there is none, to two digits."""
    rows = np.linspace(0, len(train) - 1, min(MEASURED_IMAGES, len(train))).astype(int)
    squares = []
    for batch in np.array_split(rows, math.ceil(len(rows) / INIT_IMAGES)):
        x0 = to_tensor(train.pixels[batch], device)
        error = x0 if model.decoder is None else x0 - model.estimate(model.score(x0))
        squares.append(error.square().flatten(1).mean(1))
    return max(float(f"{torch.cat(squares).mean().sqrt().item():.2g}"), LEAST_SIGMA_DATA)


@torch.no_grad()
def fit_templates(templates: Templates, pooled: Tensor, seed: int, learn: bool = True) -> None:
    """Set the templates to the means of k-means clusters of pooled images (B, C, h, w), or else to random ones.

    Raises ValueError where there are fewer images than templates.
    """
    count = len(templates.vectors)
    if len(pooled) < count:
        raise ValueError(f"{count} templates cannot be learnt from {len(pooled)} images")
    templates.mean.copy_(pooled.mean(0))
    directions = templates.direction(pooled)
    if learn:
        clusters = KMeans(count, n_init=1, random_state=seed).fit(directions.cpu().numpy())
        templates.vectors.copy_(torch.from_numpy(clusters.cluster_centers_))
    else:
        templates.vectors.copy_(directions[np.random.default_rng(seed).permutation(len(pooled))[:count]])


def initialise(
    model: Patronus, config: Config, train: ImageSet, device: torch.device, learn_templates: bool = True
) -> None:
    """Draw the prototypes from patches of training images where the config asks for it, and learn the templates of
    whole images, which rest from then on; else these are random images. Raises UserError."""
    if config.model.encoder.kind != "prototypes" or config.model.encoder.init != "data":
        return
    seed, templates = config.train.seed, model.encoder.templates
    order = np.random.default_rng(seed).permutation(len(train))
    generator = torch.Generator().manual_seed(seed)
    x0 = to_tensor(train.pixels[np.sort(order[:INIT_IMAGES])], device)
    try:
        model.encoder.initialise_prototypes(x0, generator)
        if templates is not None:
            rows = np.sort(order[:TEMPLATE_IMAGES])
            parts = np.array_split(rows, math.ceil(len(rows) / INIT_IMAGES))  # whole, large images would not fit
            pooled = torch.cat([templates.pool(to_tensor(train.pixels[part], device)) for part in parts])
            fit_templates(templates, pooled, seed, learn_templates)
    except ValueError as error:
        raise UserError(f"model.encoder: {error}") from None
