"""Every program of analysis/mechanism on data that go to extremes works, or ends in one line and leaves no result."""

import csv
import json
import zipfile

import numpy as np
import pytest
from conftest import Bench
from PIL import Image

ONE = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
HALF = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
HALF[:, :8] = 51  # -.6: half of the pixels never vary
CONSTANT = np.full((12, 16, 16, 3), 51, np.uint8)
DENOISERS = ("empirical", "gaussian", "pspc_sq", "pspc_flex", "locality")
FREE = ["--n_steps", 2, "--patch_sizes", "16,3", "--thresholds", "1,0.3", "--heatmaps", "maps.npy"]


@pytest.fixture(scope="module")
def home(trained, tmp_path_factory) -> Bench:
    """A bench that knows the trained run, of 16x16 images, with archives of the same size and heat maps of two
    levels."""
    bench = Bench(tmp_path_factory.mktemp("extremes"))
    bench.environment["PATRONUS_RECORDS_DIR"] = str(trained.records)
    for name, images in (("one", ONE), ("half", HALF), ("constant", CONSTANT)):
        with zipfile.ZipFile(bench.home / f"{name}.zip", "w") as target:
            for i, pixels in enumerate(images):
                Image.fromarray(pixels).save(bench.home / "an.png")
                target.write(bench.home / "an.png", f"{i:03d}.png")
    maps = np.random.default_rng(2).random((2, 16, 16, 16, 16), dtype=np.float32)
    for name, values in (("maps", maps), ("zeros", 0 * maps), ("negative", -maps), ("few", maps[:1])):
        np.save(bench.home / f"{name}.npy", values)
    for name, values in (("nobody", np.zeros((0, 3, 16, 16), np.float32)), ("text", np.full((2, 3, 16, 16), "a"))):
        np.save(bench.home / f"{name}.npy", values)
    return bench


def run(home, program: str, data: str | None, *args, **options):
    out = home.home / "out" / "_".join(str(part) for part in (program, data, *args)).replace("/", "_")[-200:]
    named = ["--data", home.home / f"{data}.zip"] if data else []
    return home.run(f"analysis/mechanism/{program}.py", *named, *args, "--outdir", out, **options), out


def refused(home, program: str, data: str | None, *args) -> str:
    done, out = run(home, program, data, *args, check=False)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if "error: " in line]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert not [path for path in out.glob("*") if not path.name.startswith(".")]  # no half of a result
    return lines[0]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize(("data", "image"), [("one", ONE[0]), ("constant", CONSTANT[0])])
def test_all_denoisers_know_the_only_image(home, name, data, image):
    only = image.transpose(2, 0, 1) / 127.5 - 1
    run(home, "denoise", data, "--denoiser", name, *FREE, "--n_samples", 3, "--xflip", "false")
    _, out = run(home, "sample", data, "--denoiser", name, *FREE, "--n_samples", 2, "--xflip", "false")
    for file in out.parent.glob(f"*_{data}_--denoiser_{name}_*/*.npy"):
        found = np.load(file)
        assert len(found) == (2 if "samples" in file.name or data == "constant" else 1) or len(found) == 3
        np.testing.assert_allclose(found, np.broadcast_to(only, found.shape), atol=1e-4)


def test_constant_pixels_stay_what_they_are(home):
    for name in DENOISERS:
        _, out = run(home, "denoise", "half", "--denoiser", name, *FREE, "--n_samples", 2, "--t_idx", 1)
        found = np.load(out / f"{name}_outputs_t_01_of_02.npy")
        np.testing.assert_allclose(found[:, :, :8], -0.6, atol=1e-5)
        assert found[:, :, 8:].std() > 0.3


def test_a_denoiser_that_ignores_what_it_is_given_looks_nowhere(home):
    short = ["--n_steps", 2, "--n_samples", 1, "--stride", 15, "--xflip", "false"]
    _, out = run(home, "heatmaps", "one", "--denoiser", "empirical", *short)
    assert not np.load(out / "heatmaps_empirical.npy").any()
    sides = json.loads((out / "radius.json").read_text())["sides"]
    assert len(sides) == 4 and set(np.ravel(list(sides.values()))) == {0.0}
    options = ["--n_steps", 2, "--n_samples", 1, "--candidates", "16", "--heatmaps", out / "heatmaps_empirical.npy"]
    assert "level 0: the heat map of pixel (0, 0) is zero everywhere" in refused(home, "fit_schedule", None, *options)


def test_programs_that_compare_on_few_images_and_constant_ones(home):
    assert "its test split is empty (images: train 1" in refused(home, "compare", "one", *FREE)
    assert "its test split is empty (images: train 1" in refused(home, "fit_schedule", "one", "--n_steps", 2)
    _, out = run(home, "compare", None, *FREE, "--n_samples", 1)
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert {row["standard_error"] for row in rows} == {""} and len(rows) == 2 * (2 * 5 + 1 + 5)
    tables = home.run("analysis/mechanism/tables.py", "--compare", out).stdout
    assert "±" not in tables and "| locality | pspc_sq | unconditional | noisy | 0 | 0 | 2 (80, 0.002) |" in tables
    _, out = run(home, "compare", "constant", *FREE, "--n_samples", 2)
    by_name = {row["denoiser"]: row["difference"] for row in csv.DictReader((out / "compare.csv").open())}
    exact = [float(by_name[name]) for name in DENOISERS]
    np.testing.assert_allclose(exact, exact[0], rtol=1e-3)  # all say the one image there is
    _, out = run(home, "agree", "one", *FREE, "--n_samples", 2, "--xflip", "false")
    found = json.loads((out / "agree.json").read_text())["similarities"]["pixels"]
    np.testing.assert_allclose(found["gaussian"], found["empirical"], atol=1e-4)
    _, out = run(home, "fit_schedule", "constant", "--n_steps", 2, "--n_samples", 1, "--candidates", "3,16")
    assert len(json.loads((out / "schedule.json").read_text())["patch_sizes"]) == 2


@pytest.mark.parametrize(
    ("program", "args", "expected"),
    [
        ("sample", ["--denoiser", "empirical", "--max_memory", 5e-5], "empirical: one image needs 0.000 GB; raise"),
        ("denoise", ["--denoiser", "empirical", "--max_memory", 5e-5], "empirical: one image needs"),
        (
            "heatmaps",
            ["--denoiser", "empirical", "--n_samples", 2, "--max_memory", 0.004],
            "at 18 levels take 0.00472 GB",
        ),
        ("agree", [*FREE, "--max_memory", 5e-5], "gaussian: one image needs"),
        ("sample", ["--denoiser", "gaussian", "--max_memory", 0.00012], "(--image_size), fewer directions (--rank)"),
        ("sample", ["--denoiser", "locality", "--max_memory", 0.001], "use smaller images (--image_size)"),
        (
            "heatmaps",
            ["--denoiser", "locality", "--n_samples", 2, "--max_memory", 0.001],
            "use smaller images (--image_size)",
        ),
        ("sample", ["--denoiser", "locality", "--mask_threshold", 1], "must lie in [0, 1), not 1"),
        ("agree", [*FREE, "--mask_threshold", -0.1], "must lie in [0, 1), not -0.1"),
        ("compare", [*FREE, "--mask_threshold", 2], "must lie in [0, 1), not 2"),
        ("heatmaps", ["--denoiser", "locality", "--mask_threshold", "nan"], "must lie in [0, 1), not nan"),
        ("fit_schedule", ["--mask_threshold", 1], "must lie in [0, 1), not 1"),
        ("sample", ["--denoiser", "pspc_flex", *FREE, "--thresholds", "1,0"], "numbers in (0, 1], one a noise level"),
        ("denoise", ["--denoiser", "pspc_flex", *FREE, "--thresholds", "1,nan"], "numbers in (0, 1]"),
        ("agree", [*FREE, "--thresholds", "1,1.5"], "pspc_flex: thresholds must be 2 numbers in (0, 1]"),
        ("sample", ["--denoiser", "pspc_flex", *FREE, "--heatmaps", "zeros.npy"], "pixel (0, 0) is zero everywhere"),
        ("agree", [*FREE, "--heatmaps", "negative.npy"], "must be non-negative numbers"),
        ("denoise", ["--denoiser", "pspc_flex", *FREE, "--heatmaps", "few.npy"], "heat maps are (1, 16, 16, 16, 16)"),
        ("sample", ["--denoiser", "pspc_sq", *FREE, "--patch_sizes", "17,3"], "window size 17 does not fit"),
        ("agree", ["--n_steps", 2, "--patch_sizes", "16,0"], "window size 0 does not fit images of 16x16"),
        (
            "heatmaps",
            ["--n_steps", 2, "--max_memory", 0.0005],
            "of 16x16 images at 2 levels take 0.000524 GB; use small",
        ),
        ("heatmaps", ["--n_steps", 2, "--n_samples", 13], "--n_samples 13: there are only 12 images"),
        ("sample", ["--denoiser", "empirical", "--z_init", "nobody.npy"], "(n, 3, 16, 16), not float32 (0, 3, 16, 16)"),
        ("sample", ["--denoiser", "empirical", "--z_init", "text.npy"], "must be real numbers of shape"),
        ("denoise", ["--denoiser", "empirical", "--z", "maps.npy"], "must be real numbers of shape (18, n, C, H, W)"),
        ("denoise", ["--denoiser", "empirical", "--n_steps", 2, "--z", "maps.npy"], "noisy images are (16, 16, 16)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(home, program, args, expected):
    assert expected in refused(home, program, "half", *args)
