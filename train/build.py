"""The one bridge from a configuration to modules."""

from models.patronus import Patronus
from models.prototype_encoder import PrototypeEncoder
from models.schedule import LinearSchedule
from models.unet import UNet
from train.config import Config


def build_model(config: Config) -> Patronus:
    """A freshly initialised Patronus (weights from torch's global generator)."""
    model, encoder = config.model, config.model.encoder
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
            log_scores=encoder.similarity == "log",
        ),
        UNet(
            config.data.channels,
            encoder.prototypes,
            model.base_channels,
            model.multipliers,
            model.blocks,
            model.attention or [False] * len(model.multipliers),
            model.dropout,
            model.unshuffle,
            model.zero_output,
        ),
        LinearSchedule(model.timesteps) if model.formulation == "eps" else None,
        sigma_skip=model.sigma_skip,
        standardise=model.standardise_scores,
    )
