"""Prototypes of whole images."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from models.prototype_encoder import PrototypeEncoder
from models.templates import Templates
from train import recipe
from train.build import build_encoder, build_model, fit_templates, initialise
from train.config import validate
from train.data.dataset import ImageSet
from train.errors import UserError
from train.images import to_uint8


def three_shapes(count: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of a square in one of three corners, and which one: (N, 1, size, size) in [-1, 1], (N,)."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(3, (count,), generator=generator)
    x = 0.1 * torch.randn(count, 1, size, size, generator=generator) - 0.8
    half = size // 2
    for image, corner in zip(x, which.tolist()):
        top, left = (0, 0, half)[corner], (0, half, 0)[corner]
        image[:, top : top + half, left : left + half] += 1.5
    return x.clamp(-1, 1), which


def test_scores_are_the_responsibilities_of_the_mixture():
    templates, (x, _) = Templates(1, 32, 3, 0.2), three_shapes(20, 32)
    fit_templates(templates, templates.pool(x), 0, learn=False)
    templates.vectors.mul_(torch.tensor([1.0, 0.7, 0.3])[:, None])  # means of clusters are shorter than their images
    scores = templates(x)
    mean = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).mean(0)  # 32 pixels a side are halved
    for image, row in zip(x, scores):
        pooled = image.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)) - mean
        z = pooled.flatten() / pooled.norm()
        weights = [math.exp(-(z - v).square().sum().item() / 0.2) for v in templates.vectors]
        torch.testing.assert_close(row, torch.tensor(weights) / sum(weights), rtol=1e-4, atol=1e-5)


def test_what_is_learnt_are_the_clusters():
    x, which = three_shapes(300)
    templates = Templates(1, 16, 3, 0.1)
    fit_templates(templates, templates.pool(x), seed=0)
    winner = templates(x).argmax(1)
    assert len({(a, b) for a, b in zip(which.tolist(), winner.tolist())}) == 3  # one template a corner
    assert templates(x).amax(1).min() > 0.9


def test_templates_follow_the_patches_in_scores_matches_and_maps():
    torch.manual_seed(0)
    templates = Templates(1, 16, 2, 0.1)
    encoder = PrototypeEncoder(
        1, 5, [4, 8], [3, 3], [2, 1], [1, 0], normalise=True, similarity="competing", templates=templates
    )
    x, _ = three_shapes(4)
    s, match, maps = encoder(x), encoder.match(x), encoder.similarities(x)
    assert encoder.width == 7 and s.shape == match.scores.shape == maps.shape[:2] == (4, 7)
    torch.testing.assert_close(s[:, 5:], templates(x))
    torch.testing.assert_close(s, match.scores)
    torch.testing.assert_close(maps.flatten(2).amax(2), s)
    assert (match.boxes[:, 5:] == torch.tensor([0, 0, 16, 16])).all()
    assert (match.boxes[:, :5, 2] - match.boxes[:, :5, 0] <= encoder.receptive_field.size).all()
    torch.testing.assert_close(encoder.best_vectors(x, 6), templates.embed(x))
    assert not any(name.startswith("templates") for name, _ in encoder.named_parameters())  # they rest in training


def settings(**encoder) -> dict:
    return {
        "name": "tiny",
        "data": {"source": "folder", "path": "nowhere", "image_size": 16, "channels": 1},
        "model": {"encoder": {"prototypes": 4, **encoder}},
        "train": {"steps": 10},
    }


def test_before_training_templates_are_images_and_after_it_clusters():
    x, _ = three_shapes(300)
    images = ImageSet(to_uint8(x), [str(i) for i in range(300)], pd.DataFrame(index=range(300)), None)
    config = recipe.settle(validate(settings(templates=3), "here"), images.pixels)
    model, bare = build_model(config), build_model(config)
    initialise(model, config, images, torch.device("cpu"))
    initialise(bare, config, images, torch.device("cpu"), learn_templates=False)
    known = model.encoder.templates.embed(x)
    nearest = [(known @ m.encoder.templates.vectors.T).amax(0) for m in (model, bare)]
    torch.testing.assert_close(nearest[1], torch.ones(3), rtol=0, atol=2e-3)  # images themselves, up to 8 bits
    assert (nearest[0] < 0.9999).all()
    assert model.decoder(torch.zeros(1, 14)).shape == (1, 1, 16, 16)  # 4 + 3 scores and which are shown


def test_grey_aligned_images_get_templates_and_others_none():
    aligned = np.tile(np.arange(16, dtype=np.uint8)[None, :, None, None] * 10, (300, 1, 16, 1))
    noise = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1), dtype=np.uint8)
    assert recipe.templates(aligned) == recipe.TEMPLATES
    assert recipe.templates(noise) == recipe.templates(aligned.repeat(3, -1)) == recipe.templates(aligned[:100]) == 0


def test_what_cannot_be():
    with pytest.raises(ValueError, match="4 templates cannot be learnt from 3 images"):
        fit_templates(Templates(1, 16, 4, 0.1), torch.rand(3, 1, 16, 16), 0)
    with pytest.raises(UserError, match="templates belong to"):
        validate(settings(templates=3, similarity="log"), "here")
    config = validate(settings(templates=3), "here")
    coordinates = config.model.encoder.model_copy(update={"coordinates": 0.0})
    model = config.model.model_copy(update={"encoder": coordinates})
    assert build_encoder(config.model_copy(update={"model": model})).width == 7
