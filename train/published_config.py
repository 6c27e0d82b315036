"""The schema of the authors' config.pickle: every field that we read has a type and a range, everything else is kept as
it is.

Sections BaseConfig, ModelConfig and TrainingConfig are dicts, of which any field can be absent (format: the public
release of Weng et al. 2026). Sequences are tuples there; lists mean the same.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from train.errors import UserError
from train.schema import Natural, Positive, complaint

LOSSES = ("denoiser", "distinct")  # the published order, in which loss_lambda holds one weight each


def _sequence(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _alone_or_several(value: Any) -> Any:
    return [value] if isinstance(value, (str, int, float)) else _sequence(value)


Size = Annotated[int, Field(gt=0, le=2**20)]
Sizes = Annotated[list[Size], BeforeValidator(_sequence), Field(min_length=1, max_length=64)]
Paddings = Annotated[list[Natural], BeforeValidator(_sequence), Field(min_length=1, max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class PublishedModel(_Section):
    DROPOUT_RATE: Annotated[Number, Field(ge=0, lt=1)] = 0.1


class PublishedTraining(_Section):
    TIMESTEPS: Annotated[int, Field(ge=21, le=100_000)] = 1000
    IMG_SHAPE: Annotated[list[Size], BeforeValidator(_sequence), Field(min_length=3, max_length=3)] | None = None
    BATCH_SIZE: Positive = 64
    NUM_EPOCHS: Positive | None = None
    LR: Annotated[Number, Field(gt=0)] = 1e-5
    loss_fn: Annotated[list[str], BeforeValidator(_alone_or_several)] = list(LOSSES)
    loss_lambda: Annotated[list[Annotated[Number, Field(ge=0)]], BeforeValidator(_alone_or_several)] = [1.0, 0.0]
    distinct_margin: Annotated[Number, Field(ge=0, le=1)] = 0.2
    plb_layer_strides: Sizes | None = None
    plb_layer_paddings: Paddings | None = None

    @model_validator(mode="after")
    def consistent(self):
        if self.IMG_SHAPE is not None and self.IMG_SHAPE[1] != self.IMG_SHAPE[2]:
            raise ValueError(f"IMG_SHAPE = {tuple(self.IMG_SHAPE)}: must be (channels, side, side)")
        if len(self.loss_lambda) not in (1, len(self.loss_fn)):
            raise ValueError(
                f"loss_lambda = {tuple(self.loss_lambda)}: must hold one weight for each loss of loss_fn "
                f"{tuple(self.loss_fn)}"
            )
        return self

    @property
    def distinct_weight(self) -> float:
        """Weight of the distinctness loss beside a denoiser's loss of weight 1; a number alone is that weight."""
        if len(self.loss_lambda) == 1 and len(self.loss_fn) > 1:
            return self.loss_lambda[0]
        weights = dict(zip(self.loss_fn, self.loss_lambda))
        return weights.get("distinct", 0.0) / (weights.get("denoiser") or 1.0)


class PublishedConfig(_Section):
    BaseConfig: dict[str, Any] = {}
    ModelConfig: PublishedModel = PublishedModel()
    TrainingConfig: PublishedTraining = PublishedTraining()


def check_published(pickled: dict, where: str) -> PublishedConfig:
    """Plain values of a config.pickle, checked. Raises UserError naming field, value and what is expected."""
    try:
        return PublishedConfig.model_validate(pickled)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0], where, PublishedConfig)) from None
