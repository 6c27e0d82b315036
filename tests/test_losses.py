"""The losses of the phases on a model of known answers."""

from types import SimpleNamespace

import pytest
import torch

from models.patronus import Guess
from train.losses import READING, decoder_loss, denoiser_loss, encoder_loss

TRAIN = SimpleNamespace(
    spread=0.0, mmd=0.0, detail=0.0, distinct_weight=0.0, distinct_margin=0.2, mask=SimpleNamespace(weight=0.3)
)
SHOWN = torch.tensor([[True], [False]])
SIGMA, READ = torch.tensor([2.0, 5.0]), torch.tensor([[3.0], [4.0]])


def model_of(reader: bool = False) -> SimpleNamespace:
    """One score; its images are as bright as it; its denoiser answers 0; `seen` are what its moments are of."""
    seen = []
    return SimpleNamespace(
        score=lambda x0: x0.mean((1, 2, 3))[:, None],
        standardised=lambda s: 10 * s,
        standardiser=SimpleNamespace(update=seen.append),
        estimate=lambda s, guess=None, shown=None: s[:, :, None, None].expand(-1, 1, 2, 2),
        denoise=lambda z, sigma, s, guess, shown: torch.zeros_like(z),
        loss_weight=lambda sigma: sigma,
        read=lambda z, sigma: Guess(READ[: len(z)], torch.full((len(z), 1), 0.5)),
        reader=reader or None,
        encoder=SimpleNamespace(prototypes=torch.eye(2)[[0, 0]].requires_grad_()),
        seen=seen,
    )


def draws_of(**fields) -> SimpleNamespace:
    usual = {"score_noise": torch.zeros(2, 1), "sigma": SIGMA, "noise": torch.zeros(2, 1, 2, 2), "reading": None}
    return SimpleNamespace(**usual | {"shown": SHOWN} | fields)


def images(*brightness: float) -> torch.Tensor:
    return torch.tensor(brightness)[:, None, None, None].expand(-1, 1, 2, 2)


def test_the_encoder_learns_from_noisy_scores():
    model, noise = model_of(), torch.tensor([[2.0], [-1.0]])
    x0 = images(1.0, 3.0).clone().requires_grad_()
    loss = encoder_loss(model, TRAIN, x0, None, draws_of(score_noise=noise))
    assert loss.item() == pytest.approx((2**2 + 1**2) / 2)
    torch.testing.assert_close(model.seen, [torch.tensor([[3.0], [2.0]])])


def test_hidden_scores_weigh_less_in_the_denoiser_and_levels_as_the_model_says():
    model, s = model_of(), torch.ones(2, 1)
    loss = denoiser_loss(model, TRAIN, images(1.0, 2.0), s, draws_of())
    assert loss.item() == pytest.approx((2 * 1**2 + 5 * 0.3 * 2**2) / 2) and not model.seen
    denoiser_loss(model, TRAIN, images(1.0, 2.0), s.requires_grad_(), draws_of())  # the encoder moves
    assert len(model.seen) == 1 and torch.equal(model.seen[0], s)


@pytest.mark.parametrize(("loss", "rest"), [(decoder_loss, 0.0), (denoiser_loss, (2 * 1**2 + 5 * 2**2) / 2)])
def test_the_reader_learns_standardised_scores(loss, rest):
    """Scores 1 and 2, ten times as large where they are standardised; read are 3 and 4."""
    s, x0 = torch.tensor([[1.0], [2.0]]), images(1.0, 2.0)
    found = loss(model_of(reader=True), TRAIN, x0, s, draws_of(shown=torch.ones(2, 1, dtype=torch.bool)))
    assert found.item() == pytest.approx(rest + (7**2 + 16**2) / 2)
    some = draws_of(shown=torch.ones(2, 1, dtype=torch.bool), reading=torch.tensor([1]))
    assert loss(model_of(reader=True), TRAIN, x0, s, some).item() == pytest.approx(rest + 17**2 / (READING * 2))


@pytest.mark.parametrize("loss", [encoder_loss, denoiser_loss])
def test_prototypes_that_are_alike_cost_where_they_learn(loss):
    train = SimpleNamespace(**vars(TRAIN) | {"distinct_weight": 2.0})
    model, x0, s = model_of(), images(0.0, 0.0), torch.zeros(2, 1)
    assert loss(model, train, x0, s, draws_of()).item() == pytest.approx(2 * 0.2)
    model.encoder.prototypes.requires_grad_(False)
    assert loss(model, train, x0, s, draws_of()) == 0
