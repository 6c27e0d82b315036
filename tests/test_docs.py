"""The Python of the documentation runs."""

import re

from conftest import REPO

from train import runs
from train.data import dataset, table


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


def test_links_of_the_documentation_lead_somewhere():
    for page in [REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
