"""The Python of the documentation runs, links lead somewhere, and commands name scripts and options that exist."""

import json
import re
import runpy
import subprocess
import sys

from conftest import REPO

from train import runs
from train.data import dataset, table

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
texts = {}
for script in sys.argv[1:]:
    sys.path.insert(0, script.rpartition("/")[0])
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    texts[script] = text.getvalue()
    sys.path.pop(0)
print(json.dumps(texts))
"""


def blocks(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (REPO / page).read_text(encoding="utf-8"), re.DOTALL))


def test_the_readmes_python_edits_images(trained, monkeypatch):
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    monkeypatch.setattr(dataset, "DATA_DIR", trained.home / "data")
    code = blocks("README.md").replace('load_run("faces", "pretrained")', 'load_run("tiny", 0)').replace("[7]", "[3]")
    names = {}
    exec(code, names)
    assert names["images"].shape == (4, 3, 16, 16) and names["images"].abs().max() <= 1


def test_extensions_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "DATA_DIR", tmp_path)
    names = {}
    try:
        exec(blocks("docs/extending.md"), names)
    finally:
        table.SOURCES.pop("discs", None)
    assert names["train_set"].attributes["Right"].mean() == 0.5


def test_no_line_is_over_120_characters():
    templates = (REPO / "analysis" / "templates").iterdir()
    for page in [*PAGES, REPO / "CHANGELOG.md", REPO / "NOTICE.md", *templates]:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            assert len(line) <= 120, f"{page.name}, line {number}"


def test_links_of_the_documentation_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands(text: str) -> list[tuple[str, set[str]]]:
    """(script, options) of every `folder/script.py --option ...` in a page; shell variables are expanded."""
    text = text.replace("\\\n", " ")
    for name, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    found = re.findall(r"([\w/]*\w\.py)\b([^`\n|#&]*)", text)
    return [(script, set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))) for script, rest in found]


def test_commands_are_found_in_a_page():
    text = 'A="--three 3"\n`x.py [--one]` and\n```\npython a/y.py --two \\\n  $A  # --no\n```\nz.py --a | --b'
    assert commands(text) == [("x.py", {"--one"}), ("a/y.py", {"--two", "--three"}), ("z.py", {"--a"})]


def test_commands_of_the_documentation_name_scripts_and_options_that_exist():
    files = [file for folder in ("train", "analysis", "models", "tests") for file in (REPO / folder).rglob("*.py")]
    paths = ["global_config.py", *(file.relative_to(REPO).as_posix() for file in files)]
    named = []
    for page in PAGES:
        for script, options in commands(page.read_text(encoding="utf-8")):
            places = [path for path in paths if f"/{path}".endswith(f"/{script}")]
            assert places, f"{page.name}: {script} does not exist"
            named += [(page.name, places, options)] if options else []
    assert len(named) > 50
    scripts = sorted({path for _, places, _ in named for path in places})
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *scripts], cwd=REPO, capture_output=True, text=True, check=True
    )
    offered = {script: set(re.findall(r"--[a-z][\w-]*", text)) for script, text in json.loads(done.stdout).items()}
    for page, places, options in named:
        unknown = min((options - offered[place] for place in places), key=len)
        assert not unknown, f"{page}: {places[0]} has no {', '.join(sorted(unknown))}"


def test_the_readme_is_a_front():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and max(map(len, text.splitlines())) <= 120
    setup = "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && "
    assert f"{setup}python train/train_patronus.py\n" in text and f"{setup}python -m pytest -q\n" in text
    thumbnails = [*(REPO / "docs" / "thumbs").glob("*.png")]
    assert thumbnails and all(file.stat().st_size <= 20_000 for file in thumbnails)
    assert all(f"docs/thumbs/{file.name}" in text for file in thumbnails)


def test_the_table_of_results_keeps_what_a_run_without_records_had(tmp_path, monkeypatch):
    results = runpy.run_path(str(REPO / "tests" / "campaigns" / "results.py"))
    monkeypatch.setitem(results["numbers_of"].__globals__, "RECORDS_DIR", tmp_path)
    text = (REPO / "README.md").read_text(encoding="utf-8").split(results["MARKS"][0])[1].split(results["MARKS"][1])[0]
    assert results["table"](["faces/0", "fmnist/0"], text) == text.strip()
    folder = tmp_path / "prototype_quality" / "fmnist_v0"
    folder.mkdir(parents=True)
    (folder / "quality.json").write_text(json.dumps({"single": 0.123}))
    changed = results["table"](["faces/0", "fmnist/0"], text).splitlines()
    row = next(line for line in changed if "best single" in line).split("|")
    assert row[4].strip() == "0.12" and row[5].strip() == ""
    assert row[2:4] == text.strip().splitlines()[2].split("|")[2:4]  # faces
    for version, single in (("1", 0.2), ("2", 0.4)):
        folder = tmp_path / "prototype_quality" / f"faces_v{version}"
        folder.mkdir()
        (folder / "quality.json").write_text(json.dumps({"single": single}))
    assert "| 0.30 ± 0.14 |" in results["table"](["faces/1,2", "fmnist/0"], text)
