"""Training steps and samplers never wait for the device: they ask for no value and wait for no copy."""

import numpy as np
import pytest
import torch
from fake_gpu import IMAGES, KINDS, config_of, gpu  # noqa: F401
from gpu_of_values import CUDA
from torch.utils._python_dispatch import TorchDispatchMode

from models.samplers import SAMPLERS, SeededNoise, sample
from train.build import build_model
from train.draws import Drawer
from train.latent_loop import LatentTrainer
from train.latents import ScoreSplits, build_latent, latent_config
from train.phases import phase_at, phases_of
from train.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # by torch's own deepcopy
aten = torch.ops.aten
ASKING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}

INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}  # by a mask they count its values


class Waits(TorchDispatchMode):
    """Lists the operations for which the host waits for the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs, devices = kwargs or {}, []
        if operation is aten._to_copy.default:
            devices = [args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type]
            waits = not kwargs.get("non_blocking")
        elif operation is aten.copy_.default:
            devices, waits = [args[0].device.type, args[1].device.type], not (args[2:] or (False,))[0]
        by_mask = operation in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        asks = operation in ASKING or by_mask
        if (asks and args[0].device.type == "cuda") or (len(set(devices)) == 2 and waits):
            self.found.append(str(operation))
        return operation(*args, **kwargs)


@pytest.mark.usefixtures("gpu")
def test_waiting_is_noticed():
    x = torch.ones(4, device=CUDA)
    for wait in (lambda: x.cpu(), lambda: torch.ones(4).to(CUDA), lambda: x.copy_(torch.ones(4))):
        with Waits() as waits:
            wait()
        assert len(waits.found) == 1
    for wait in (
        lambda: x.sum().item(),
        lambda: x.tolist(),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: bool(x.all()),
    ):
        with pytest.raises(Exception), Waits() as waits:  # noqa: B017, PT011
            wait()
        assert len(waits.found) == 1
    with Waits() as waits:
        torch.ones(4).to(CUDA, non_blocking=True)
    assert not waits.found


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_waits_for_nothing(kind):
    steps = {"train__encoder_steps": 2, "train__decoder_steps": 2} if kind == "ours" else {}
    config = config_of(kind, train__steps=sum(steps.values()) + 2, train__precision="bfloat16", **steps)
    trainer = Trainer(config, build_model(config), IMAGES, CUDA)
    counted = []
    for step in range(trainer.steps):
        first = phase_at(trainer.phases, step) is not trainer.phase  # in which scores are cached
        with Waits() as waits:
            trainer.train_step()
        counted += [] if first else [waits.found]
    assert counted == [[]] * (3 if kind == "ours" else 1)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("network", ["mlp", "unet1d"])
def test_a_latent_training_step_waits_for_nothing(network):
    formulation = "eps" if network == "unet1d" else "edm"
    config = latent_config({"network": network, "formulation": formulation, "width": 8, "layers": 1, "blocks": 1}, "")
    scores = ScoreSplits(torch.rand(300, 6), torch.rand(30, 6))
    trainer = LatentTrainer(config, build_latent(config, 6, 1.0), scores, {}, CUDA)
    with Waits() as waits:
        trainer.train_step()
    assert not waits.found


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_waits_for_nothing(kind):
    model = build_model(config_of(kind)).to(CUDA).eval().requires_grad_(False)
    z, s, grid = torch.randn(2, 3, 16, 16, device=CUDA), torch.rand(2, 6, device=CUDA), model.sigmas(2)
    noise = SeededNoise(range(2), (3, 16, 16), CUDA)
    with Waits() as waits:
        for sampler in SAMPLERS:
            sample(sampler, model.denoiser(s), z, grid, noise)
    assert not waits.found


def draws_of(phase_name: str, batch: int, **changes):
    config = config_of("ours", train__batch_size=batch, train__encoder_batch_size=None, **changes)
    phases = phases_of(config, 3)
    phase = next(phase for phase in phases if phase.name == phase_name)
    return Drawer(config, phases, (3, 16, 16)), phase


@pytest.mark.parametrize("name", ["encoder", "decoder", "denoiser"])
def test_a_process_draws_for_its_own_images_what_one_alone_draws_for_all(name):
    drawer, phase = draws_of(name, 8)
    whole = drawer(phase, 2, np.arange(8))
    parts = [drawer(phase, 2, piece) for piece in np.split(np.arange(8), 4)]
    for field, values in whole._asdict().items():
        if field == "reading" and values is not None:
            rows = torch.cat([part.reading + 2 * i for i, part in enumerate(parts)])
            assert torch.equal(values, rows) and len(values) == 2  # a quarter
        elif values is not None:
            assert torch.equal(values, torch.cat([getattr(part, field) for part in parts])), field


def test_noise_depends_on_the_seed_of_the_training_and_on_the_step():
    """torch's CPU generators look at 32 bits of a seed: (seed << 32) + step would be the step alone."""
    noises = []
    for seed in (0, 1):
        drawer, phase = draws_of("denoiser", 4, train__seed=seed)
        noises += [drawer(phase, step, np.arange(4)).noise for step in (2, 3)]
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_draws_have_the_distributions_that_the_config_names():
    drawer, phase = draws_of("denoiser", 20_000, train__mask={"share": 0.4, "empty": 0.2, "weight": 0.15})
    drawer.shape = (1, 1, 1)
    draws, noise = drawer(phase, 2, np.arange(20_000)), drawer.config.train.noise
    hides = ~draws.shown.all(1)
    assert 0.3 < hides.double().mean() < 0.4  # of those that hide a share, some show all by chance
    assert 0.06 < (~draws.shown).all(1).double().mean() < 0.16  # .4 x .2, and some by chance
    log, complete = draws.sigma.log(), ~hides
    low, top = noise.high_range
    assert low <= log[hides].min() and log[hides].max() <= top
    assert log[hides].mean().item() == pytest.approx((low + top) / 2, abs=0.06)
    normal = log[complete]  # nine tenths of them
    mean = 0.9 * noise.mean + 0.1 * (low + top) / 2
    assert normal.mean().item() == pytest.approx(mean, abs=0.05)
    assert normal.median().item() == pytest.approx(noise.mean, abs=0.2)
    assert draws.noise.mean().abs() < 0.03 and draws.noise.std().item() == pytest.approx(1, abs=0.02)
    uniform, phase = draws_of("decoder", 1000)
    assert (~uniform(phase, 1, np.arange(1000)).shown.all(1)).double().mean() > 0.8  # every image hides some


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
def test_seeded_noise_is_what_each_generator_draws_alone(shape):
    made = SeededNoise([3, 8], shape)()
    for seed, row in zip([3, 8], made):
        assert torch.equal(row, torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def test_scores_are_cached_where_the_encoder_rests_and_are_the_same():
    config = config_of("ours", train__precision="float32")
    torch.manual_seed(0)
    trainer = Trainer(config, build_model(config), IMAGES, torch.device("cpu"))
    trainer.train_step()
    assert trainer.scores is None
    trainer.train_step()
    batch = trainer._batches(1)[0]
    with torch.no_grad():
        scores = trainer.model.score(trainer._images(batch.pixels))
    torch.testing.assert_close(trainer.scores[batch.rows], scores, atol=1e-6, rtol=1e-6)
    short = config_of("ours", train__precision="float32", train__batch_size=4)
    trainer = Trainer(short, build_model(short), IMAGES, torch.device("cpu"))
    trainer.step = 1
    trainer.train_step()
    assert trainer.scores is None  # all images would be scored for the sake of four


def test_a_diverged_encoder_is_not_taken_for_hidden_scores():
    config = config_of("ours", train__precision="float32", train__spread=0.0)
    trainer = Trainer(config, build_model(config), IMAGES, torch.device("cpu"))
    with torch.no_grad():
        trainer.model.encoder.prototypes[0] = float("nan")
    assert not trainer.train_step().loss.isfinite()
