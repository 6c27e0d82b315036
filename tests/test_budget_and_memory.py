"""Devices that are not there, memory that does not suffice, and what a budget buys: each is one line."""

from types import SimpleNamespace

import pytest
import torch
from fake_gpu import IMAGES, config_of

from models.losses import distinctness, spread
from models.patronus import Patronus
from models.samplers import SeededNoise
from train import distributed
from train.budget import Budget, budget_steps, fastest_formats, with_training
from train.build import build_model
from train.errors import UserError, run_script
from train.generation import LATENT_SEEDS, Sampling, generate
from train.runs import load_state
from train.train_patronus import print_budget
from train.trainer import Trainer


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs as far as torch.cuda answers; the list holds what was made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_process_takes_its_own_gpu_and_makes_it_the_current_one(gpus, monkeypatch):
    assert distributed.pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for name in ("auto", "cuda"):
        assert distributed.pick_device(name) == torch.device("cuda", 1) == gpus[-1]
    assert distributed.pick_device("cpu") == torch.device("cpu")


def test_the_process_group_knows_its_device(gpus, monkeypatch):
    begun = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda backend, **options: begun.update(options, backend=backend)
    )
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    with distributed.processes(torch.device("cuda", 1)) as (rank, world):
        assert (rank, world) == (1, 2)
    assert begun["device_id"] == torch.device("cuda", 1) and begun["backend"] == "nccl"


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("NCCL error: invalid usage. Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000", False),
        ("gloo: tensors must be contiguous", False),
    ],
)
def test_only_a_lost_process_is_called_lost(monkeypatch, message, lost):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed.dist, name, lambda *args, **options: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    with (
        pytest.raises(
            UserError if lost else RuntimeError, match="lost contact" if lost else message[:9].replace("[", "")
        ),
        distributed.processes(torch.device("cpu")),
    ):
        raise RuntimeError(message)


def test_float32_is_float32(gpus):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    distributed.pick_device("auto")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_losses_of_scores_are_float32_under_autocast():
    torch.manual_seed(0)
    s, prototypes = torch.rand(64, 12), torch.rand(12, 5)
    with torch.autocast("cpu", torch.bfloat16):
        under = spread(s), distinctness(prototypes)
    assert torch.equal(under[0], spread(s)) and torch.equal(under[1], distinctness(prototypes))


def test_distinctness_is_that_of_the_nearest_other_prototype():
    """Three directions in a plane, by hand: cosines 1 (of itself), cos 45 and 0."""
    prototypes = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    nearest = 1 - 0.5**0.5  # of all three
    assert distinctness(prototypes, margin=0.5).item() == pytest.approx(0.5 - nearest)


def test_seeds_that_torch_cannot_tell_apart_are_refused():
    assert config_of("ours", train__seed=2**31 - 1)
    with pytest.raises(UserError, match="train.seed"):
        config_of("ours", train__seed=2**31)


def test_the_noise_of_scores_is_not_that_of_the_pixels():
    assert not torch.equal(SeededNoise([5], (16,))(), SeededNoise([LATENT_SEEDS + 5], (16,))())


@pytest.mark.parametrize(
    ("name", "processes", "expected"),
    [
        ("cuda:5", 1, "there are cuda:0 to cuda:1"),
        ("cuda", 3, "3 processes, but 2 GPUs"),
        ("auto", 3, "--nproc_per_node 2"),
        ("cuda:1", 2, "2 processes cannot share"),
        ("mps", 1, "runs on cpu and cuda"),
        ("gpu", 1, "no such device"),
    ],
)
def test_devices_that_are_not_there(gpus, monkeypatch, name, processes, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(UserError, match=expected):
        distributed.pick_device(name)


def test_without_a_gpu_auto_is_the_cpu_even_on_a_mac(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="no usable GPU"):
        distributed.pick_device("cuda")


def test_images_a_call_shrink_as_feature_maps_grow():
    small, large = (build_model(config_of("ours", data__image_size=side)) for side in (16, 64))
    assert isinstance(small, Patronus) and small.largest_map(16) == 8 * 16**2  # of the path at full resolution
    assert large.largest_map(64) == 8 * 64**2 == 16 * small.largest_map(16)
    for device in (torch.device("cpu"), torch.device("cuda")):
        calls = [distributed.images_a_call(device, 64 * side**2) for side in (32, 64, 224, 4096)]
        assert calls[0] >= 4 * calls[1] > 0 and calls == sorted(calls, reverse=True) and calls[-1] >= 1
    assert distributed.images_a_call(torch.device("cuda"), 64 * 32**2) == 250
    assert distributed.images_a_call(torch.device("cuda"), 64 * 224**2) == 5


def test_the_largest_map_is_that_of_the_network():
    """Against the outputs of all its convolutions."""
    model, sizes = build_model(config_of("ours")), []
    for module in (*model.unet.modules(), *model.encoder.modules()):
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output[0].numel()))
    x = torch.rand(1, 3, 16, 16)
    model.denoise(x, torch.ones(1), model.score(x))
    assert model.largest_map(16) == max(sizes)


def out_of_memory(*args, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nsecond line")


def test_training_out_of_memory_says_how_to_halve_the_batch(tmp_path, monkeypatch):
    config = config_of("ours")
    trainer = Trainer(config, build_model(config), IMAGES, torch.device("cpu"))
    monkeypatch.setattr(trainer, "train_step", out_of_memory)
    for phase, advice in (
        ("encoder", "encoder_batch_size=10"),
        ("decoder", "encoder_batch_size=10"),
        ("denoiser", "accumulate=2"),
    ):
        trainer.step = next(each.begin for each in trainer.phases if each.name == phase)
        with pytest.raises(UserError, match=f"out of memory on cpu: give --set train.{advice}"):
            trainer.run(tmp_path, IMAGES)


def test_trials_out_of_memory_say_the_same(monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", out_of_memory)
    config = config_of("ours", train__precision="auto")

    def make_trainer(config):
        return Trainer(config, build_model(config), IMAGES, torch.device("cpu"))

    with pytest.raises(UserError, match="train.accumulate=2"):
        fastest_formats(config, make_trainer)
    with pytest.raises(UserError, match="train.encoder_batch_size=10"):
        budget_steps(with_training(config, minutes=1, precision="float32"), make_trainer)


def test_sampling_out_of_memory_says_how_to_halve_the_batch(tmp_path, monkeypatch):
    class Run:
        config, model = config_of("ours"), build_model(config_of("ours"))
        folder, name, version, step, averaged = tmp_path, "tiny", 0, 6, True

    monkeypatch.setattr("train.generation.SAMPLES_DIR", tmp_path)
    with pytest.raises(UserError, match=r"out of memory on cpu: give --batch 4"):
        generate(Run, "cond", Sampling(20, "heun", 2), {}, out_of_memory, "cpu", batch=8)


def test_any_script_out_of_memory_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(out_of_memory)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and "out of memory" in lines[0] and "--batch" in lines[0]


def test_a_checkpoint_of_a_gpu_is_read_where_there_is_none(tmp_path, monkeypatch):
    config = config_of("ours", train__precision="float32")
    trainer = Trainer(config, build_model(config), IMAGES, torch.device("cpu"))
    for _ in range(3):
        trainer.train_step()
    file = tmp_path / "last.pt"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(trainer.state() | {"scaler": {"scale": 65536.0, "growth_tracker": 0}}, file)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(file, weights_only=True)
    resumed = Trainer(config, build_model(config), IMAGES, torch.device("cpu"), state=load_state(file, {"step"}))
    for a, b in zip(trainer.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(a, b)


def test_minutes_for_is_the_budget_the_other_way_round():
    """By hand: .1 s a step of the denoiser, 60 s of preparation."""
    budget = Budget(10, 10, 1020, preparation=60.0, step_seconds=0.1)
    assert budget.denoiser_steps == 1000
    assert budget.minutes_for(1200) == pytest.approx((120 + 60) / 0.95 / 60)
    assert budget.minutes_for(300) == pytest.approx((30 + 30) / 0.95 / 60)  # preparation takes half at most


def test_training_says_what_share_of_the_reference_a_budget_buys(capsys):
    budget = Budget(10, 10, 480, preparation=60.0, step_seconds=0.1)
    print_budget(SimpleNamespace(minutes=2, reference_steps=1840), budget)
    bought, share = capsys.readouterr().out.splitlines()
    assert bought == "2 minutes allow here: encoder_steps 10, decoder_steps 10, steps 480"
    assert share.startswith("that is 25% of the 1840 denoiser steps") and "train.minutes=4.3 would buy" in share
    print_budget(SimpleNamespace(minutes=2, reference_steps=None), budget)
    assert len(capsys.readouterr().out.splitlines()) == 1
