"""Known answers of the mathematics."""

import math

import pytest
import torch

from models import denoiser as dn
from models.losses import distinctness, spread, squared_error
from models.patronus import HIDDEN, Guess, Patronus, Standardiser
from models.prototype_encoder import MAX_SCORE, PrototypeEncoder, similarity
from models.receptive_field import ReceptiveField
from models.reconstruction import ScoreDecoder
from models.samplers import SAMPLERS, SeededNoise, ancestral, dpmpp_2m, euler, heun, invert, sample
from models.schedule import LinearSchedule, ddim_sigmas, karras_sigmas
from models.score_reader import ScoreReader
from models.unet import UNet, sinusoids

GEOMETRIES = [
    ((3, 3, 3, 3), (2, 1, 1, 1), (1, 0, 0, 0)),
    ((5, 5, 5), (2, 2, 1), (1, 1, 0)),
    ((4, 2, 1), (3, 1, 2), (2, 1, 0)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_receptive_field_is_what_autograd_sees(geometry):
    torch.manual_seed(0)
    kernels, strides, paddings = geometry
    field = ReceptiveField(*geometry)
    layers = [torch.nn.Conv2d(1, 1, k, s, p) for k, s, p in zip(*geometry)]
    for layer in layers:
        torch.nn.init.uniform_(layer.weight, 0.5, 1)
    height, width = 23, 31
    x = torch.rand(1, 1, height, width, requires_grad=True)
    z = torch.nn.Sequential(*layers)(x)
    assert z.shape[-2:] == (field.cells(height), field.cells(width))
    rows, columns = z.shape[-2:]
    for row, column in [(0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1)]:
        (gradient,) = torch.autograd.grad(z[0, 0, row, column], x, retain_graph=True)
        touched = gradient[0, 0].nonzero()
        (top, left), (bottom, right) = touched.amin(0).tolist(), (touched.amax(0) + 1).tolist()
        assert (top, left, bottom, right) == field.box(row, column, height, width)


def tiny_encoder(**options):
    torch.manual_seed(0)
    return PrototypeEncoder(3, 7, [8, 16], [3, 3], [2, 1], [1, 0], **options)


def test_coordinates_are_x_then_y_behind_the_colours():
    """Weights of trained runs know them in this order."""
    encoder = PrototypeEncoder(3, 7, [5], [1], [1], [0], coordinates=2.0, similarity="competing", normalise=True)
    with torch.no_grad():
        encoder.features[0].weight.copy_(torch.eye(5)[:, :, None, None])
        encoder.features[0].bias.zero_()
    x = torch.rand(1, 3, 3, 5)
    z = encoder.embed(x)[0]
    torch.testing.assert_close(z[:3], x[0])
    torch.testing.assert_close(z[3], torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).expand(3, 5))
    torch.testing.assert_close(z[4], torch.tensor([-2.0, 0.0, 2.0])[:, None].expand(3, 5))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coordinates": 0.5, "normalise": True, "scaled_init": True},
        {"similarity": "linear"},
        {"similarity": "competing", "normalise": True},
    ],
)
def test_scores_equal_the_naive_loop(options):
    encoder = tiny_encoder(**options)
    x = torch.rand(2, 3, 16, 12) * 2 - 1
    match = encoder.match(x)
    z, p = encoder.embed(x), encoder.prototypes
    if encoder.normalise:
        z, p = z / z.norm(dim=1, keepdim=True), p / p.norm(dim=1, keepdim=True)

    def alike(cell, k):
        """The similarity of one patch vector (D,) to prototype k, by its definition."""
        d = [(cell - q).square().sum().item() for q in p]
        if encoder.competing:
            return math.exp(-d[k] / 0.1) / sum(math.exp(-other / 0.1) for other in d)
        return math.log((d[k] + 1) / (d[k] + 1e-4)) if encoder.similarity == "log" else -d[k]

    for b in range(2):
        for k in range(7):
            found = [[alike(z[b, :, i, j], k) for j in range(z.shape[3])] for i in range(z.shape[2])]
            best = max(max(row) for row in found)
            assert match.scores[b, k].item() == pytest.approx(best, rel=1e-3, abs=1e-4)
            i, j = next((i, j) for i, row in enumerate(found) for j, value in enumerate(row) if value >= best - 1e-6)
            assert tuple(match.boxes[b, k].tolist()) == encoder.receptive_field.box(i, j, 16, 12)
            torch.testing.assert_close(encoder.best_vectors(x, k)[b], z[b, :, i, j])
    torch.testing.assert_close(encoder(x), match.scores)
    torch.testing.assert_close(encoder.similarities(x).flatten(2).amax(-1), match.scores)


@pytest.mark.parametrize("similarity", ["competing", "log"])
def test_half_precision_does_not_blur_who_wins_a_patch(similarity):
    encoder, x = tiny_encoder(similarity=similarity, normalise=True), torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        halved = encoder(x)
    assert halved.dtype == torch.float32 and torch.equal(halved, encoder(x)) == (similarity == "competing")


def test_scores_are_bounded_and_a_drawn_prototype_matches_perfectly():
    assert similarity(torch.tensor(0.0)).item() == pytest.approx(MAX_SCORE, rel=1e-4)
    encoder = tiny_encoder(scaled_init=True)
    x = torch.rand(4, 3, 16, 16)
    encoder.initialise_prototypes(x, torch.Generator().manual_seed(0))
    assert encoder(x).amax(0).min() > 7  # each prototype is a patch of some image
    with pytest.raises(ValueError, match="7 prototypes"):
        encoder.initialise_prototypes(x[:1, :, :6, :6], torch.Generator())


def published_unet(condition=30, **options):
    return UNet(1, condition, **options)


def test_published_unet_has_the_published_size_and_outputs_its_input_shape():
    torch.manual_seed(0)
    unet = published_unet()
    encoder = PrototypeEncoder(1, 30, [32, 64, 64, 128], [3] * 4, [2, 1, 1, 1], [1, 0, 0, 0])
    total = sum(p.numel() for p in [*unet.parameters(), *encoder.parameters()])
    assert total == pytest.approx(25.3e6, rel=0.01)
    assert [type(layer).__name__ for layer in unet.down].count("Conv2d") == 3 and len(unet.up) == 4 * 3 + 3
    x = torch.randn(2, 1, 16, 16)
    assert unet(x, torch.tensor([0.0, 999.0]), torch.rand(2, 30)).shape == x.shape


def test_unet_options():
    x, t, s = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 2.5]), torch.rand(2, 5)
    net = UNet(
        3, 5, base=8, multipliers=(1, 2), blocks=1, attention=(False, True), dropout=0.0, unshuffle=2, zero_output=True
    )
    assert net(x, t, s).abs().max() == 0
    path = UNet(
        6,
        5,
        base=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(False, False),
        unshuffle=4,
        out_channels=3,
        pixel_channels=8,
        pixel_layers=2,
    )
    assert path(torch.randn(2, 6, 16, 16), t, s).shape == (2, 3, 16, 16)
    torch.nn.init.normal_(net.last.weight)
    assert not torch.allclose(net(x, t, s), net(x, t, s + 1))
    assert not torch.allclose(net(x, t, s), net(x, t + 1, s))


def test_sinusoids_are_half_sines_half_cosines():
    table = sinusoids(torch.tensor([3.0]), 8)[0]
    frequencies = [10000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_schedule_agrees_with_its_definition_and_inverts():
    schedule = LinearSchedule(1000)
    abar = 1.0
    for t in range(1000):
        abar *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        if t in (0, 500, 999):
            assert schedule.sigma(torch.tensor([t])).item() == pytest.approx(math.sqrt((1 - abar) / abar), rel=1e-5)
    assert schedule.sigma_max == pytest.approx(157, rel=0.01)
    t = torch.tensor([0.0, 0.25, 17.5, 998.9, 999.0])
    torch.testing.assert_close(schedule.timestep(schedule.sigma(t)), t, atol=2e-3, rtol=1e-5)
    with pytest.raises(ValueError, match="timesteps"):
        LinearSchedule(10)


def test_grids():
    sigmas = karras_sigmas(18)
    assert sigmas[0].item() == pytest.approx(80) and sigmas[17].item() == pytest.approx(0.002) and sigmas[18] == 0
    grid = ddim_sigmas(LinearSchedule(), 10)
    assert len(grid) == 11 and grid[0].item() == pytest.approx(LinearSchedule().sigma_max, rel=1e-5) and grid[-1] == 0
    assert karras_sigmas(1, sigma_max=20.0).tolist() == pytest.approx([20, 0])  # what a preview takes
    for bad in (
        lambda: karras_sigmas(0),
        lambda: ddim_sigmas(LinearSchedule(), 0),
        lambda: ddim_sigmas(LinearSchedule(100), 101),
    ):
        with pytest.raises(ValueError, match="step"):
            bad()


MEAN, STD = 0.3, 0.5


def gaussian(z, sigma):
    """The exact denoiser of x0 ~ N(MEAN, STD^2): closed form."""
    level = dn.expand(sigma, z)
    return MEAN + STD**2 / (STD**2 + level**2) * (z - MEAN)


def exact_flow(z, sigma, target):
    """The probability-flow ODE of a Gaussian scales deviations with sqrt(STD^2 + sigma^2)."""
    return MEAN + (z - MEAN) * math.sqrt((STD**2 + target**2) / (STD**2 + sigma**2))


def test_solvers_follow_the_exact_flow_at_their_order():
    z = 80 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = exact_flow(z, 80, 0)
    errors = {}
    for solver in (euler, heun, dpmpp_2m):
        errors[solver] = [(solver(gaussian, z, karras_sigmas(n)) - expected).abs().max().item() for n in (40, 80)]
        assert errors[solver][1] < 0.2
    assert errors[euler][0] / errors[euler][1] == pytest.approx(2, rel=0.15)
    for solver in (heun, dpmpp_2m):
        assert errors[solver][0] / errors[solver][1] > 3 and errors[solver][1] < errors[euler][1] / 5


def test_one_euler_step_is_one_ddim_step():
    schedule = LinearSchedule()
    a, b = (1 / (1 + schedule.sigma(torch.tensor([t])).double() ** 2) for t in (700.0, 650.0))
    network = lambda x, t, s: torch.tanh(x) + t.view(-1, 1) / 1000  # noqa: E731
    x_t = torch.randn(4, 6, dtype=torch.float64)
    eps = network(x_t, torch.full((4,), 700.0), None)
    ddim = b.sqrt() * (x_t - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    sigmas = schedule.sigma(torch.tensor([700.0, 650.0])).double()
    z = euler(lambda z, sigma: dn.eps_denoise(network, schedule, z, sigma, None), x_t / a.sqrt(), sigmas)
    torch.testing.assert_close(z * b.sqrt(), ddim, atol=1e-4, rtol=1e-4)


def test_inversion_and_back_is_the_identity():
    x0 = MEAN + STD * torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x_T = invert(gaussian, x0, karras_sigmas(18))
    torch.testing.assert_close(x_T, exact_flow(x0, 0.002, 80), rtol=0.05, atol=0.5)
    assert (heun(gaussian, x_T, karras_sigmas(18)) - x0).abs().max() < 0.02


def test_ancestral_sampling_has_the_right_moments_and_eta_0_is_ddim():
    generator = torch.Generator().manual_seed(0)  # one for all: seeds an image are tried below

    def noise():
        return torch.randn(4000, 2, generator=generator)

    z = 80 * noise()
    made = ancestral(gaussian, z, karras_sigmas(400), noise)
    assert made.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert made.std().item() == pytest.approx(STD, rel=0.03)
    torch.testing.assert_close(
        ancestral(gaussian, z, karras_sigmas(20), noise, eta=0.0), euler(gaussian, z, karras_sigmas(20))
    )


def test_one_ancestral_step_in_closed_form():
    """Of images that are all 0: z' = (s / sigma)^2 z + eta s sqrt(1 - s^2 / sigma^2) n at eta = 1, of variance s^2."""
    z, sigmas = torch.full((1, 3), 8.0), torch.tensor([4.0, 2.0])
    found = ancestral(lambda z, sigma: torch.zeros_like(z), z, sigmas, lambda: torch.ones(1, 3))
    torch.testing.assert_close(found, torch.full((1, 3), 8.0 / 4 + 2 * math.sqrt(0.75)))


@pytest.mark.parametrize(("grid", "calls"), [(karras_sigmas(5), 9), (karras_sigmas(5)[:-1], 8)])
def test_heun_calls_the_network_twice_a_step_but_at_0(grid, calls):
    called = []
    heun(lambda z, sigma: called.append(sigma) or torch.zeros_like(z), torch.ones(1, 3), grid)
    assert len(called) == calls


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
    def run(seeds):
        noise = SeededNoise(seeds, (3,))
        return sample(name, gaussian, 80 * noise(), karras_sigmas(8), noise)

    torch.testing.assert_close(run([5, 6, 7])[1], run([6])[0])


def test_edm_preconditioning_at_the_limits():
    z = torch.randn(2, 3, 4, 4)
    zero = lambda x, t, s: torch.zeros_like(x)  # noqa: E731
    torch.testing.assert_close(dn.edm_denoise(zero, 0.5, 0.5, z, torch.full((2,), 1e-4), None), z, atol=1e-5, rtol=1e-5)
    assert dn.edm_denoise(zero, 0.5, 0.5, z, torch.full((2,), 1e4), None).abs().max() < 1e-6
    sigma = torch.tensor([0.02, 0.5, 7.0])
    c_skip, c_out, c_in = dn.edm_scales(sigma, 0.5, 0.5)  # Karras et al. 2022, Table 1
    torch.testing.assert_close(c_skip, 0.25 / (sigma**2 + 0.25))
    torch.testing.assert_close(c_out, sigma * 0.5 / (sigma**2 + 0.25).sqrt())
    x0, n = 0.5 * torch.randn(100_000), torch.randn(100_000)
    for level in (0.02, 0.2, 3.0):  # the target of F has unit variance whatever sigma_skip is
        c_skip, c_out, _ = dn.edm_scales(torch.tensor(level), 0.5, 0.1)
        assert ((x0 - c_skip * (x0 + level * n)) / c_out).std().item() == pytest.approx(1, rel=0.02)


def test_published_loss_is_the_error_of_eps():
    model = Patronus(
        tiny_encoder(),
        UNet(3, 7, base=8, multipliers=(1, 2), blocks=1, attention=(False,) * 2, dropout=0.0),
        LinearSchedule(),
    )
    x0, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    s = model.score(torch.rand(2, 3, 16, 16))
    sigma = model.schedule.sigma(torch.tensor([10, 800]))
    level = sigma.view(-1, 1, 1, 1)
    x_t = (x0 + level * noise) / (1 + level**2).sqrt()
    expected = (model.unet(x_t, torch.tensor([10.0, 800.0]), s) - noise).square().mean((1, 2, 3))
    error = model.denoise(x0 + level * noise, sigma, s) - x0
    torch.testing.assert_close(sigma**-2 * squared_error(error), expected, rtol=1e-3, atol=1e-3)


def test_distinctness():
    assert distinctness(torch.eye(3), 0.2) == 0
    two = torch.tensor([[1.0, 0], [-2.0, 0], [0, 1.0]])  # the first two are parallel
    assert distinctness(two, 0.2).item() == pytest.approx(2 * 0.2 / 3)
    assert distinctness(torch.ones(1, 4)) == 0


def test_spread_is_zero_for_independent_scores_and_counts_constant_and_repeated_ones():
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert spread(signs, least=0.3).item() == pytest.approx(0, abs=1e-6)
    assert spread(signs[:, [0, 0]], least=0.3).item() == pytest.approx(
        2 / 4, rel=1e-3
    )  # two correlations of 1 among four pairs
    constant = torch.stack([signs[:, 0], torch.ones(4)], dim=1)
    assert spread(constant, least=0.3).item() == pytest.approx(0.3 / 2, rel=1e-2)


def test_spread_of_one_score_in_closed_form():
    s = torch.tensor([[0.0], [0.2]])  # deviation sqrt(2) / 10
    assert spread(s, 0.3).item() == pytest.approx(0.3 - 0.1 * math.sqrt(2), abs=1e-5)


def test_whitened_patches_have_unit_covariance_and_then_compete():
    encoder = tiny_encoder(scaled_init=True, normalise=True, similarity="competing")
    x = torch.rand(64, 3, 16, 16)
    encoder.whiten(x)
    z = encoder.embed(x).detach().permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(z.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    values = torch.linalg.eigvalsh(torch.cov(z.T))
    assert values.max() == pytest.approx(1, abs=0.01) and values.median() > 0.5
    encoder.initialise_prototypes(x, torch.Generator().manual_seed(0))
    shares = encoder.similarities(x)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert encoder(x).amax(0).min() > 0.9  # each prototype is a patch of some image, and wins it


def test_hidden_scores_are_read_off_the_image_and_shown_ones_are_not():
    torch.manual_seed(0)
    model = residual_model()
    model.reader = ScoreReader(3, 5, 8).eval()
    torch.nn.init.normal_(model.unet.last.weight, 0, 0.1)
    z, sigma, s = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 3.0]), torch.rand(2, 5)
    hidden = s.clone()
    hidden[:, 1] = HIDDEN
    with torch.no_grad():
        whole, some = model.denoise(z, sigma, s), model.denoise(z, sigma, hidden)
        torch.testing.assert_close(model.denoiser(s)(z, sigma), whole)
        torch.testing.assert_close(model.denoiser(hidden)(z, sigma), some)
        right = model.standardised(s)  # a reader that is right and trusted leaves nothing hidden
        torch.testing.assert_close(model.denoise(z, sigma, hidden, Guess(right, torch.ones(2, 1))), whole)
        assert model.condition(hidden, Guess(right, torch.full((2, 1), 0.5)))[:, 6].tolist() == [
            0.5,
            0.5,
        ]  # else it is marked as a guess
        torch.testing.assert_close(model.read(z, sigma).trust[:, 0], torch.tensor([1 / 1.1, 0.25]))
        model.reader.head[-1].bias += 1
        torch.testing.assert_close(model.denoise(z, sigma, s), whole)
        assert (model.denoise(z, sigma, hidden) - some).abs().max() > 1e-4


def residual_model(masked=True):
    torch.manual_seed(0)
    encoder = PrototypeEncoder(3, 5, [8, 16], [3, 3], [2, 1], [1, 0], normalise=True, similarity="competing")
    condition = 10 if masked else 5
    unet = UNet(6, condition, 8, (1, 2), 1, (False, False), 0.0, 2, zero_output=True, out_channels=3)
    return Patronus(encoder, unet, None, 0.2, 0.03, 20.0, True, ScoreDecoder(condition, 3, 16), masked).eval()


def test_a_residual_denoiser_is_its_decoder_at_high_noise_and_the_identity_at_low():
    model, x = residual_model(), torch.rand(4, 3, 16, 16) * 2 - 1
    s = model.score(x).detach()
    z = x + torch.randn_like(x)
    with torch.no_grad():
        base = model.estimate(s)
        torch.testing.assert_close(model.denoise(z, torch.full((4,), 1e4), s), base, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.denoise(z, torch.full((4,), 1e-4), s), z, atol=1e-4, rtol=1e-4)
        sigma = torch.tensor([0.1, 0.5, 1.0, 5.0])
        torch.testing.assert_close(model.denoiser(s)(z, sigma), model.denoise(z, sigma, s))
    assert model.sigmas(9)[0].item() == pytest.approx(20) and model.sigma_max == 20


def test_hidden_scores_do_not_matter_and_shown_ones_do():
    model, s = residual_model(), torch.rand(2, 5)
    some = s.clone()
    some[:, 1] = HIDDEN
    with torch.no_grad():
        condition = model.condition(some)
        assert condition.shape == (2, 10) and not condition.isnan().any()
        assert (condition[:, 1] == 0).all() and (condition[:, 5:] == torch.tensor([1.0, 0, 1, 1, 1])).all()
        assert not torch.allclose(model.estimate(some), model.estimate(s))
    with pytest.raises(ValueError, match="model.masked"):
        residual_model(masked=False).denoiser(some)


def test_detail_loss_counts_differences_of_neighbours():
    error = torch.zeros(1, 1, 2, 2)
    error[0, 0, 0, 0] = 1
    assert squared_error(error).item() == pytest.approx(1 / 4)
    assert squared_error(error, detail=2).item() == pytest.approx(1 / 4 + 2 * (1 / 2 + 1 / 2))


def test_detail_loss_counts_differences_each_way():
    error = torch.zeros(1, 1, 4, 4)
    error[..., 1:] = 1  # steps across alone: a third of the differences across, none down
    assert squared_error(error, 2.0).item() == pytest.approx(12 / 16 + 2 * 1 / 3)
    assert squared_error(error.mT, 2.0).item() == pytest.approx(12 / 16 + 2 * 1 / 3)


def test_standardiser_starts_with_the_first_batch():
    standardise = Standardiser(3)
    s = torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    standardise.update(s)
    out = standardise(s)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0), torch.ones(3), atol=1e-2, rtol=0)
