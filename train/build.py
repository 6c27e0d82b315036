"""The one bridge from a configuration to modules."""

import numpy as np
import torch

from models.patronus import Patronus
from models.prototype_encoder import PrototypeEncoder
from models.reconstruction import ScoreDecoder
from models.schedule import LinearSchedule
from models.score_reader import ScoreReader
from models.unet import UNet
from train.config import INIT_IMAGES, Config
from train.data.dataset import ImageSet
from train.errors import UserError
from train.images import to_tensor


def build_model(config: Config) -> Patronus:
    """A freshly initialised Patronus (weights from torch's global generator)."""
    model, encoder = config.model, config.model.encoder
    condition = encoder.prototypes * (2 if model.masked else 1)
    return Patronus(
        PrototypeEncoder(
            config.data.channels,
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
        ),
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
        model.sigma_data,
        model.sigma_skip,
        model.sigma_max,
        model.standardise_scores,
        ScoreDecoder(condition, config.data.channels, config.data.image_size) if model.residual else None,
        model.masked,
        ScoreReader(config.data.channels, encoder.prototypes) if model.reader else None,
    )


def initialise(model: Patronus, config: Config, train: ImageSet, device: torch.device) -> None:
    """Draw the prototypes from patches of training images where the config asks for it. Raises UserError."""
    if config.model.encoder.init != "data":
        return
    chosen = np.sort(np.random.default_rng(config.train.seed).permutation(len(train))[:INIT_IMAGES])
    generator = torch.Generator().manual_seed(config.train.seed)
    pixels = torch.from_numpy(np.array(train.pixels[chosen])).to(device)
    try:
        model.encoder.initialise_prototypes(to_tensor(pixels), generator)
    except ValueError as error:
        raise UserError(f"model.encoder.prototypes: {error} of {len(chosen)} images") from None
