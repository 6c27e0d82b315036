"""Pictures of a run's report and page for the README, taken by the browser of tests/test_pages.py.

  python tests/campaigns/screenshots.py [--dataset faces --version_num 0] [--into records/gallery]

Needs Chromium, playwright and gradio, and the report of the run (analysis/report.py). On the page, one prototype is
raised.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import REPO
from test_pages import browser_page, served

from global_config import RECORDS_DIR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="faces", help="of the run (default: faces)")
    parser.add_argument("--version_num", default="0", help="of the run (default: 0)")
    parser.add_argument("--prototype", default="43", help="the one that is raised on the page (default: 43)")
    parser.add_argument("--image", default="3", help="the test image that is edited (default: 3)")
    parser.add_argument(
        "--into",
        type=Path,
        default=REPO / "records" / "gallery",
        help="folder of the pictures (default: records/gallery)",
    )
    args = parser.parse_args()
    report = RECORDS_DIR / "report" / f"{args.dataset}_v{args.version_num}" / "report.html"
    with browser_page(viewport={"width": 1200, "height": 1500}) as (page, _):
        page.goto(report.as_uri())
        page.screenshot(path=args.into / "report.png")
    environment = {key: value for key, value in os.environ.items() if key != "PATRONUS_PRETRAINED_DIR"}  # of tests
    here = SimpleNamespace(environment=environment, home=REPO)
    with (
        served(here, "--dataset", args.dataset, "--version_num", args.version_num) as address,
        browser_page(viewport={"width": 1400, "height": 1100}) as (page, _),
    ):
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector("#edit", timeout=60000)
        before = page.get_attribute(".frame img", "src")
        page.fill("#row input", args.image)
        page.press("#row input", "Enter")
        page.wait_for_function("b => document.querySelector('.frame img').src !== b", arg=before)
        page.click(f".bar[data-k='{args.prototype}']")
        page.wait_for_function(
            "k => document.querySelector('#prototype b').textContent.startsWith('prototype ' + k)", arg=args.prototype
        )
        slider = page.locator(".slot", has_text=re.compile(rf"^\s*{args.prototype}\b"))
        before, field = page.get_attribute("#edit", "src"), slider.locator("input[type=number]")
        field.fill("1")
        field.press("Enter")
        page.wait_for_function("b => document.querySelector('#edit').src !== b", arg=before)
        page.wait_for_function("() => !document.querySelector('#edited').textContent.includes('few steps')")
        page.screenshot(path=args.into / "page.png", full_page=True)
    print(f"{args.into / 'report.png'}, {args.into / 'page.png'}")


if __name__ == "__main__":
    main()
