"""Every path that touches tensors, on a GPU that need not be there (tests/fake_gpu.py)."""

from types import SimpleNamespace

import pytest
import torch
from fake_gpu import IMAGES, KINDS, config_of, gpu  # noqa: F401
from gpu_of_values import CUDA

import models.patronus
from analysis.edits import EditOptions, edit, encode_and_invert, expected_images, places, regenerate, slerp
from analysis.measures import cards, features, groups, information, readers
from analysis.measures.emergence import trace_scores
from analysis.measures.health import effect
from analysis.measures.regions import sensitivity_maps
from analysis.measures.scores import KnownScores, most_probable
from analysis.mechanism.sensitivity import sensitivity
from models.locality import Masks, masked_means
from models.patronus import HIDDEN
from models.pspc import PSPCSquare
from models.samplers import SAMPLERS, SeededNoise, invert, sample
from models.schedule import karras_sigmas
from models.training_free import EmpiricalDenoiser, GaussianDenoiser, PixelMajor
from train.build import build_model
from train.generation import Sampling, conditional_scores, unconditional_scores
from train.latent_loop import LatentTrainer
from train.latents import ScoreSplits, build_latent, latent_config
from train.scores import encode
from train.trainer import Trainer

pytestmark = [pytest.mark.usefixtures("gpu"), pytest.mark.filterwarnings("ignore:Accessing the data pointer")]


def model_of(kind: str, device=CUDA):
    return build_model(config_of(kind)).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def noisy(count: int = 4):
    return torch.randn(count, 3, 16, 16, device=CUDA), torch.ones(count, device=CUDA), torch.rand(count, 6, device=CUDA)


def on_gpu(*tensors) -> bool:
    return all(tensor.device.type == "cuda" for tensor in tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_of_training(kind):
    config = config_of(kind, train__precision="bfloat16")
    trainer = Trainer(config, build_model(config), IMAGES, CUDA)
    results = [trainer.train_step() for _ in range(config.train.steps)]
    assert trainer.phase.name == "denoiser" and trainer.step == config.train.steps
    assert on_gpu(*[result.loss for result in results], *[result.norm for result in results], *trainer.ema.parameters())
    assert all(result.loss.dtype == torch.float32 for result in results)
    assert (trainer.scores is not None) == (kind == "ours")


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler(kind):
    model, (z, sigma, s) = model_of(kind), noisy()
    grid, denoiser = model.sigmas(3), model.denoiser(s)
    assert grid.device.type == "cpu"
    estimate = denoiser(z, sigma)
    assert on_gpu(estimate, invert(lambda z, sigma: estimate, z, grid))
    for sampler in SAMPLERS:
        noise = SeededNoise(range(4), (3, 16, 16), CUDA)
        assert on_gpu(sample(sampler, lambda z, sigma: estimate, z, grid, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_both_sampling_scripts(kind):
    model = model_of(kind)
    run, sampling = SimpleNamespace(model=model), Sampling(4, *model.best_sampling)
    latent = build_latent(latent_config({}, ""), 6, 1.0).to(CUDA)
    for scores_of in (conditional_scores(run, IMAGES, CUDA), unconditional_scores(latent, sampling, CUDA)):
        s = scores_of([0, 5, 21])
        assert on_gpu(s) and s.shape == (3, 6)
    assert encode(model, IMAGES, device=CUDA).device.type == "cpu"


@pytest.mark.parametrize("network", ["mlp", "unet1d"])
@pytest.mark.parametrize("formulation", ["edm", "eps"])
def test_latent_models(network, formulation):
    config = latent_config({"network": network, "formulation": formulation, "width": 8, "layers": 2, "blocks": 1}, "")
    model = build_latent(config, 6, 1.0)
    trainer = LatentTrainer(config, model, ScoreSplits(torch.rand(300, 6), torch.rand(30, 6)), {}, CUDA)
    assert on_gpu(trainer.train_step(), trainer.train_step(), *trainer.averaged.parameters())
    grid = model.sigmas(18)
    assert grid.device.type == "cpu"
    noise = SeededNoise(range(4), (6,), CUDA)
    assert on_gpu(model.scores(sample("heun", model.denoise, noise(), grid, noise)))


@pytest.mark.parametrize(("kind", "others"), [("ours", "keep"), ("ours", "release"), ("published", "joint")])
def test_edits(kind, others):
    model, (x0, _, _) = model_of(kind), noisy()
    encoding = encode_and_invert(model, x0, 2)
    known = KnownScores(torch.rand(300, 6, device=CUDA))
    options = EditOptions(known, 3, (1.0,), others, places(model, known))
    edited = options.set(encoding.scores, [0, 2], torch.tensor([0.5, 0.6], device=CUDA))
    assert on_gpu(edited, edit(model, encoding, torch.cat([edited, edited]), 3, guidance=1.0))
    assert on_gpu(regenerate(model, encoding.noise, encoding.scores, 2), slerp(*encoding.noise[:2], 0.3))
    traced = trace_scores(SimpleNamespace(model=model), encoding, edited, options, 0)
    assert traced.scores.device.type == "cpu" and on_gpu(traced.estimates, traced.images)


@pytest.mark.parametrize("kind", KINDS)
def test_what_scores_say_and_carry(kind):
    model, (x0, _, s) = model_of(kind), noisy()
    known = torch.rand(300, 6)
    on_device = KnownScores(torch.rand(300, 6, device=CUDA))
    assert on_gpu(expected_images(model, [1, 3], torch.rand(2, 2, device=CUDA), on_device, (3, 16, 16)))
    for alone in (True, False) if model.masked else (False,):
        assert information.image_maps(model, x0, s, 1, known, alone, [0.5, 5.0]).shape == (2, 4, 16, 16)
    assert on_gpu(most_probable(s, known))
    assert on_gpu(effect(model, x0, s, torch.ones(6, device=CUDA)))
    assert on_gpu(sensitivity_maps(model, x0, 1), *model.encoder.match(x0))


def test_hidden_scores_are_read_at_every_level(monkeypatch):
    monkeypatch.setattr(models.patronus, "any_hidden", lambda s: True)
    model, (z, _, s) = model_of("ours"), noisy()
    s[:, 1] = HIDDEN
    assert on_gpu(sample("ancestral", model.denoiser(s), z, model.sigmas(3), SeededNoise(range(4), (3, 16, 16), CUDA)))


def test_prototypes_are_drawn_from_patches():
    config = config_of("ours", model__encoder__init="data")
    trainer = Trainer(config, build_model(config), IMAGES, CUDA)
    assert on_gpu(trainer.model.encoder.prototypes)


def test_training_free_denoisers(monkeypatch):
    pixels, (z, sigma, _) = torch.zeros(20, 16, 16, 3, dtype=torch.uint8), noisy()
    data = PixelMajor(pixels, xflip=True).to(CUDA)
    levels = karras_sigmas(2)[:-1]
    square = PSPCSquare(data, [16, 5], levels)
    chosen = SimpleNamespace(tolist=lambda: [0, 1, 1, 0])  # the levels of noisy images are values
    monkeypatch.setattr("models.pspc.nearest_level", lambda sigma, levels: chosen)
    masks = Masks.__new__(Masks)  # which pixels share a window depends on the data
    masks.unique, masks.owner = torch.ones(3, 256, device=CUDA), torch.zeros(256, dtype=torch.long, device=CUDA)
    for estimate in (
        EmpiricalDenoiser(data)(z, sigma),
        square(z, sigma),
        square._composite(z, sigma, 11),
        masked_means(data, z, sigma, masks),
    ):
        assert on_gpu(estimate) and estimate.shape == z.shape
    many = PixelMajor(torch.zeros(60, 4, 4, 3, dtype=torch.uint8)).to(CUDA)  # more images than values in one
    assert on_gpu(GaussianDenoiser(many, rank=8)(z[..., :4, :4], sigma))


@pytest.mark.parametrize(("kind", "hidden"), [("published", False), ("ours", True)])
def test_heat_maps(monkeypatch, kind, hidden):
    monkeypatch.setattr(models.patronus, "any_hidden", lambda s: hidden)
    model, (z, sigma, s) = model_of(kind), noisy()
    assert on_gpu(sensitivity(model.denoiser(s), z, sigma[:1], stride=15, model=model))


def test_states_of_groups_lie_beside_the_scores_that_are_compared_with_them(monkeypatch):
    monkeypatch.setattr(cards, "load_split", lambda data, split: IMAGES)
    monkeypatch.setattr(cards, "expected_extremes", lambda run, scores: None)
    states = torch.zeros(2, 2)
    monkeypatch.setattr(cards, "find_groups", lambda known, _: [groups.Group([0, 1], states.to(known.scores))])
    run = SimpleNamespace(model=model_of("ours"), config=config_of("ours"))
    [group] = cards.groups_of(run)
    assert on_gpu(groups.belonging(KnownScores(torch.rand(20, 6, device=CUDA)), group))
    assert on_gpu(
        groups.belonging(KnownScores(torch.rand(20, 6, device="cpu")), group)
    )  # scores as `encode` gives them


def test_readers_and_features(monkeypatch):
    monkeypatch.setattr(readers, "save_tensors", lambda file, state: None)  # fake tensors hold nothing
    labels = IMAGES.attributes.to_numpy(float)
    reader = readers.classifier_reader(IMAGES, labels, CUDA)
    assert reader is not None
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).to(CUDA)
    network.extract_features = network.forward
    assert features.efficientnet_features(network, IMAGES.pixels, CUDA).shape == (20, 8)
