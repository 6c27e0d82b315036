"""The report and the page as somebody sees them: in headless Chromium, driven by Playwright, where both are
installed."""

import base64
import io
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DEVICE, REPO, Bench
from PIL import Image
from test_hostile import bomb

from analysis import report, schemas
from analysis.drawing.web import heat_pixels, pixels_uri, strip
from analysis.reporting.explorer import decode
from analysis.reporting.gather import in_short, place_of
from analysis.reporting.sources import present
from train.errors import UserError
from train.runs import load_run

pytestmark = pytest.mark.xdist_group("pages")  # one worker, since a long fixture is shared
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
TINY_WORK = {
    "analysis/interpretability/visualize_prototype.py": ["--steps", 3, "--prototypes", "0,1"],
    "analysis/interpretability/information.py": ["--num_samples", 60],
    "analysis/interpretability/ownership.py": [],
    "analysis/evaluation/faithfulness.py": ["--steps", 3, "--num_samples", 4],
    "train/conditional_sampling.py": ["--total_gen_num", 6, "--steps", 3],
}


@contextmanager
def browser_page(**options):
    """A page of a headless browser and the list of what goes wrong on it: errors of the console, exceptions, requests
    to elsewhere."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with sync_api.sync_playwright() as driver:
        browser, wrong = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS), []
        page = browser.new_page(**options)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if re.match(r"file:|data:|blob:|https?://127\.0\.0\.1", request.url) else wrong.append(request.url)
            ),
        )
        try:
            yield page, wrong
        finally:
            browser.close()


def pixels_of(page, selector: str) -> np.ndarray:
    """The picture that an <img> shows."""
    data = page.get_attribute(selector, "src").split(",", 1)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Bench:
    """A bench with a run and some of what a report tells of it."""
    bench = Bench(tmp_path_factory.mktemp("reported"))
    bench.config = bench.write_config(
        {"train.steps": 150, "train.encoder_steps": 60, "train.decoder_steps": 60}
    )  # long enough for edits to show
    bench.train()
    for script, options in TINY_WORK.items():
        bench.run(script, *options)
    few = ("train.seed=1", "train.steps=4", "train.encoder_steps=1", "train.decoder_steps=1")
    bench.train(*(part for setting in few for part in ("--set", setting)))
    bench.run("analysis/report.py", "--version_num", 0, "--fast")
    return bench


def report_file(bench):
    return bench.records / "report" / "tiny_v0" / "report.html"


def test_a_report_stands_alone_and_says_what_is_missing(reported):
    text = report_file(reported).read_text()
    assert len(text) < 5e6 and not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert text.count('class="card" data-number') == 6 and "Bright" in text
    for present_section in (
        "bits alone",
        "random prototypes",
        "sampler ancestral",
        f"python analysis/evaluation/faithfulness.py --steps 3 --num_samples 4 --device {DEVICE}",
    ):
        assert present_section in text, present_section
    assert text.count("Not here:") == 5  # emergence, diagnosis, ties, training-free comparison, samples from nothing


def test_each_script_wrote_what_the_report_reads(reported):
    cards, information, faithfulness = (
        reported.records / name / "tiny_v0" for name in ("vis_prototype", "information", "faithfulness")
    )
    assert len(schemas.CARDS.read(cards)["before"]) == 2 and len(schemas.HEALTH.read(cards)) == 6
    assert schemas.BITS.read(information)["beyond"].notna().all() and schemas.BITS_SUMS.read(information)["sums"]
    assert "effectiveness" in schemas.FAITHFULNESS_MEANS.read(
        faithfulness, "faithfulness"
    )  # too few test images for a table


def test_a_report_of_two_runs_and_of_results_that_are_out_of_date(reported):
    done = reported.run("analysis/report.py", "--version_num", 0, "--compare", "tiny/1", "--fast")
    text = (report_file(reported).parent / "report_beside_tiny_v1.html").read_text()
    assert "tiny, version 0" in text and "tiny, version 1" in text and text.count('class="card" data-number') == 12
    assert "tiny, version 1: left out: edits" in done.stdout
    refused = reported.run("analysis/report.py", "--compare", "tiny", "--fast", check=False)
    assert refused.returncode == 2 and "DATASET/VERSION" in refused.stderr


def test_what_is_missing_is_made_and_what_cannot_be_is_said(trained, monkeypatch):
    for name in ("analysis.results.RECORDS_DIR", "train.latents.LATENTS_DIR"):
        monkeypatch.setattr(name, trained.records if "RECORDS" in name else trained.records / "latent_ddim")
    monkeypatch.setattr("analysis.results.SAMPLES_DIR", trained.records / "FID")
    monkeypatch.setattr("train.runs.RUNS_DIR", trained.records / "patronus")
    for name in ("PATRONUS_DATA_DIR", "PATRONUS_RECORDS_DIR"):
        monkeypatch.setenv(name, trained.environment[name])
    run = load_run("tiny", 0)
    shutil.rmtree(trained.records / "ownership", ignore_errors=True)
    scripts = [script for _, script, _ in report.missing_work(run, labelled=False)]
    assert "analysis/interpretability/ownership.py" in scripts and "analysis/diagnosis/diagnose.py" not in scripts
    assert report.call("analysis/interpretability/ownership.py", [], run, DEVICE) == "" and present(run, "ownership")
    assert "no such file" in report.call("analysis/evaluation/fid.py", ["--inception-weights", "/nowhere"], run, DEVICE)


def test_a_report_can_be_sorted_and_searched(reported):
    with browser_page(viewport={"width": 390, "height": 800}) as (page, wrong):
        page.goto(report_file(reported).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # readable on a phone
        numbers = page.locator(".card[data-number]")
        page.select_option("#sort", "number up")
        assert [numbers.nth(i).get_attribute("data-number") for i in range(6)] == list("012345")
        page.select_option("#sort", "bits down")
        bits = [float(numbers.nth(i).get_attribute("data-bits")) for i in range(6)]
        assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1]
        page.fill("#find", "3")
        assert page.locator(".card[data-number]:visible").count() == 1 and page.inner_text("#count") == "1 of 6"
        page.fill("#find", "")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert not wrong, wrong


@contextmanager
def served(bench, *options):
    """The page's address, while it is served. options: of analysis/page.py."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(REPO / "analysis/page.py"), "--port", str(port), "--device", DEVICE, *options]
    process = subprocess.Popen(
        command, env=bench.environment, cwd=bench.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_the_page_in_a_browser(reported):
    pytest.importorskip("gradio", reason="the page's package gradio is not installed")
    with (
        served(reported, "--version_num", "0") as address,
        browser_page(viewport={"width": 1200, "height": 1400}) as (page, wrong),
    ):
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector("#edit", timeout=60000)

        def changes(selector, act):
            before = page.get_attribute(selector, "src")
            act()
            page.wait_for_function(
                "([q, s]) => document.querySelector(q) && document.querySelector(q).src !== s", arg=[selector, before]
            )

        bar = page.locator(".bar").nth(1)
        box = page.locator(f"#box-{bar.get_attribute('data-k')}")
        page.mouse.move(0, 0)
        faint = box.evaluate("b => getComputedStyle(b).opacity")
        bar.hover()
        assert (faint, box.evaluate("b => getComputedStyle(b).opacity")) in (("0", "1"), ("1", "1"))
        bar.click()
        page.wait_for_function(
            "k => document.querySelector('#prototype b').textContent.startsWith('prototype ' + k)",
            arg=bar.get_attribute("data-k"),
        )

        page.locator(".bar").nth(1).press("ArrowDown")
        assert page.evaluate("document.activeElement === document.querySelectorAll('.bar')[2]")
        assert page.locator(".bar[tabindex='0']").count() == 1  # Tab goes on to the sliders
        assert page.locator("#command textarea").input_value() == ""

        picture, original = page.get_attribute("#edit", "src"), pixels_of(page, "#edit")
        field = page.locator("#slot0 input[type=number]")
        value = float(field.input_value())

        def move():
            field.fill("0.95" if value < 0.5 else "0.05")

        changes("#edit", move)
        page.wait_for_function("() => !document.querySelector('#edited').textContent.includes('few steps')")
        moved = pixels_of(page, "#edit")
        assert np.abs(moved - original).max() > 0
        assert "--set" in page.locator("#command textarea").input_value()
        page.click("#undo")  # on a busy machine a picture of the move may still arrive before the old one
        page.wait_for_function("s => document.querySelector('#edit').src === s", arg=picture)
        for typed in ("", "7"):  # what lies outside of the slider is brought into it
            field.fill(typed)
            page.wait_for_timeout(500)
        page.wait_for_function("() => !document.querySelector('#edited').textContent.includes('few steps')")
        assert "Error" not in page.inner_text("body")
        page.click("#reset")
        page.wait_for_function("s => document.querySelector('#edit').src === s", arg=picture)

        frame, upload = ".frame img", page.locator("#file input[type=file]")
        changes(frame, lambda: (page.fill("#row input", "3"), page.press("#row input", "Enter")))
        changes("#edit", move)  # which takes the focus from the field of the row
        page.wait_for_function("() => !document.querySelector('#edited').textContent.includes('few steps')")
        page.wait_for_timeout(500)
        assert "--set" in page.locator("#command textarea").input_value()
        own = io.BytesIO()
        Image.fromarray(np.full((50, 30, 3), 200, np.uint8)).save(own, "PNG")
        changes(
            frame,
            lambda: upload.set_input_files({"name": "own.png", "mimeType": "image/png", "buffer": own.getvalue()}),
        )
        assert (pixels_of(page, frame) == 200).all()
        for name, data, said in (
            ("bomb.png", bomb(), "million"),
            ("text.png", b"not an image", "no image that can be read"),
        ):
            upload.set_input_files({"name": name, "mimeType": "image/png", "buffer": data})
            page.wait_for_function("t => document.querySelector('#message').textContent.includes(t)", arg=said)
        assert (pixels_of(page, frame) == 200).all()  # what was there stays

        page.click("#go")
        page.wait_for_selector("#generated")
        page.fill("#seed input", "-1")
        page.click("#go")
        page.wait_for_function("() => document.querySelector('#message').textContent.includes('seed')")
        page.fill("#seed input", "0")
        page.click("#kind label:nth-of-type(2)")
        page.click("#go")
        page.wait_for_function("() => document.querySelector('#message').textContent.includes('no latent model')")
        changes("#edit", lambda: (page.click("#run input"), page.get_by_role("option", name="tiny/1").click()))
        assert not wrong, wrong


def test_a_page_that_outlived_its_server_is_told_to_reload():
    pytest.importorskip("gradio", reason="the page's package gradio is not installed")
    from analysis.reporting.page import Events

    said = Events(SimpleNamespace(message="message"), None).undo(None, 0, "keep")
    assert list(said) == ["message"] and "reload" in said["message"]


def test_bytes_that_are_no_image_are_refused_in_a_line():
    whole = io.BytesIO()
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(whole, "PNG")
    assert decode(whole.getvalue(), 8, 3).shape == (8, 8, 3)
    for data, said in (
        (b"", "no image"),
        (b"text", "no image"),
        (bomb(), "million"),
        (bytes(30_000_000), "at most"),
        (whole.getvalue()[:40], "no image"),
    ):
        with pytest.raises(UserError, match=said):
            decode(data, 8, 3)


def test_places_in_words_and_pictures_as_text():
    for rows, columns, said in (
        (slice(0, 4), slice(0, 4), "top left"),
        (slice(5, 7), slice(4, 8), "middle"),
        (slice(8, 12), slice(8, 12), "bottom right"),
        (slice(10, 12), slice(0, 12), "bottom"),
        (slice(0, 12), slice(0, 3), "left"),
    ):
        where = np.zeros((12, 12))
        where[rows, columns] = 1
        assert place_of(where) == said
    ring = np.ones((12, 12))
    assert place_of(ring) == "all over"
    ring[2:10, 2:10] = 0
    assert place_of(ring) == "around the edge"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 1), dtype=np.uint8)
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(pixels_uri(pixels).split(",")[1]))))
    np.testing.assert_array_equal(back, pixels[..., 0])
    assert strip([pixels, pixels]).shape == (5, 9, 3)
    assert heat_pixels(np.array([[0.0, 2.0]]))[0, 1].sum() > heat_pixels(np.array([[0.0, 2.0]]))[0, 0].sum()


def test_in_short_names_prototypes_whose_attributes_cannot_be_judged():
    unknown = {"attribute": "", "auroc": float("nan"), "place": "middle"}  # test images of one class
    entries = [{"number": k, "moves": moves} | unknown for k, moves in enumerate((1.0, 3.0, 2.0))]
    assert [line[:12] for line in in_short(entries, 2)] == ["Prototype 1 ", "Prototype 2 "]
    entries[0] |= {"attribute": "Red_Hair", "auroc": 0.9}
    assert in_short(entries, 0) == ["Prototype 0 tells red hair (AUROC 0.90); where: middle."]


def test_nothing_listens_where_gradio_is_missing(trained, monkeypatch):
    monkeypatch.setattr(trained, "prelude", "import sys; sys.modules['gradio'] = None")
    done = trained.run("analysis/page.py", check=False)
    assert done.returncode == 2 and "pip install -e .[page]" in done.stderr, done.stderr
