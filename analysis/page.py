"""A page to play with the prototypes of a run, in the browser, on this machine alone.

Take a test image or drop one of yours: its scores and the patches that they came from; click a prototype to see the
image expected of it; move sliders, or put a group of prototypes into a state, and the image is made anew from its own
noise; or generate from scores, from nothing, or from chosen prototypes alone. What is dropped on it is decoded by our
own decoder and never kept. Needs the extra: pip install -e .[page]. It listens on 127.0.0.1 unless --host says
otherwise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, run_parser
from train.errors import UserError, run_script

EXPLORERS = 3  # runs kept ready


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None, outdir=False)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import os
    import tempfile
    from functools import lru_cache

    from train.runs import known_runs
    from train.versions import version_number

    try:
        import gradio as gr
    except ImportError:
        raise UserError("the page needs gradio, which is not installed; pip install -e .[page]") from None
    from analysis.reporting.explorer import MOST_BYTES, Explorer
    from analysis.reporting.page import CSS, build

    first, device = open_run(args)

    @lru_cache(EXPLORERS)
    def explorer_of(name: str) -> Explorer:
        dataset, _, version = name.rpartition("/")
        run, _ = open_run(argparse.Namespace(dataset=dataset, version_num=version_number(version), device=args.device))
        return Explorer(run, device)

    names = [f"{place.name}/{place.version}" for place in reversed(known_runs())]
    with tempfile.TemporaryDirectory() as folder:  # uploads pass through it, and are removed when they have been read
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(explorer_of, names, f"{first.name}/{first.version}")
        theme = gr.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )  # none to be fetched
        look = {"theme": theme, "css": CSS, "footer_links": []}
        page.queue(default_concurrency_limit=1).launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            run_history=False,
            **look,
        )


if __name__ == "__main__":
    run_script(main)
