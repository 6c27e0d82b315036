"""A page to play with the prototypes of a run, in the browser, on this machine alone.

Take a test image or drop one of yours: its scores and the patches that they came from; click a prototype to see the
image expected of it; move sliders, or set a group of prototypes, and the image is made anew from its own noise; or
generate from scores, from nothing, or from chosen prototypes alone. What is dropped on it is decoded by our own decoder
and never kept. Needs the extra: pip install -e .[page]. It listens on 127.0.0.1 unless --host says otherwise.
"""

import argparse

from analysis.script import WAYS, run_parser
from train.errors import UserError, run_script

SLIDERS = 6
PAUSE = 0.6  # seconds after the last move of a slider until all steps are taken
DESKS = 3  # runs kept ready

CSS = """
.looking { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.frame { position: relative; width: min(320px, 100%); aspect-ratio: 1; } .frame img { width: 100%; height: 100%; }
.looking img, .row img { image-rendering: pixelated; background: #fff; }
.box { position: absolute; border: 2px solid #e22; opacity: 0; pointer-events: none; } .box.on { opacity: 1; }
.bars { flex: 1; min-width: 15rem; max-height: 330px; overflow-y: auto; }
.bar { display: flex; width: 100%; gap: .5rem; align-items: center; padding: 1px 4px; font-size: .85rem; text-align:
left; cursor: pointer; } .bar:hover, .bar:focus { background: rgba(128, 128, 128, .25); } .bar img { width: 26px;
height: 26px; } .bar .name { width: 10rem; } .bar .track { flex: 1; height: 8px; background: rgba(128, 128, 128, .3); }
.bar .fill { display: block; height: 8px; background: #3567d6; } .row { display: flex; flex-wrap: wrap; gap: .8rem; }
.row figure { margin: 0; flex: 1; min-width: 130px; max-width: 260px; } .row figure.wide { flex: 4; max-width: none; }
.row figure img { width: 100%; } .row figcaption { font-size: .8rem; opacity: .8; } .save { font-size: .9rem; }
"""
ON_LOAD = """
const toggle = on => event => {
  const bar = event.target.closest('.bar');
  if (bar) element.querySelector('#box-' + bar.dataset.k).classList.toggle('on', on ||
  bar.classList.contains('chosen'));
};
for (const name of ['mouseover', 'focusin']) element.addEventListener(name, toggle(true));
for (const name of ['mouseout', 'focusout']) element.addEventListener(name, toggle(false));
element.addEventListener('click', event => {
  const bar = event.target.closest('.bar');
  if (bar) trigger('select', { index: Number(bar.dataset.k) });
});
"""


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    return parser.parse_args()


class Session:
    """What one visitor has on the desk; steps back are kept in `before`."""

    def __init__(self, desk):
        self.desk, self.slots = desk, desk.order[:SLIDERS]
        self.chosen = self.slots[0]
        self.put(desk.test_image(0), 0)

    def put(self, taken, row: int | None = None) -> None:
        """Take up an image; row: its place among the test images, None for one that was brought."""
        self.taken, self.row = taken, row
        self.settings: dict[int, float] = {}
        self.before: list[dict[int, float]] = []

    def choose(self, k: int) -> None:
        """Show a prototype, and give it the last slider where it has none."""
        self.chosen = k
        if k not in self.slots:
            self.slots = [*self.slots[:-1], k]

    def value(self, k: int) -> float:
        return self.settings.get(k, self.taken.scores[k].item())


class Parts:
    """The HTML of what a session shows, from analysis/templates/page.html."""

    def __init__(self):
        from pathlib import Path

        from jinja2 import Environment, FileSystemLoader

        self.macros = (
            Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
            .get_template("page.html")
            .module
        )

    def scores(self, session: Session) -> str:
        from analysis.drawing.report import surrounded
        from analysis.drawing.web import pixels_uri

        desk, taken = session.desk, session.taken
        s, side = taken.scores, desk.run.config.model.encoder.receptive_field.size
        lowest, highest = min(0.0, s.min().item()), max(desk.high)
        bars = []
        for k in s.argsort(descending=True).tolist():
            box, value = desk.box(taken.match, k), s[k].item()
            patch = pixels_uri(surrounded(taken.pixels, box, min(side, len(taken.pixels))))
            share = max(0.0, min(100.0, 100 * (value - lowest) / max(highest - lowest, 1e-9)))
            bars.append(
                {"k": k, "label": desk.label(k), "value": value, "share": round(share, 1), "box": box, "patch": patch}
            )
        return str(self.macros.scores(pixels_uri(taken.pixels), len(taken.pixels), bars, session.chosen))

    def prototype(self, session: Session) -> str:
        from analysis.drawing.report import surrounded
        from analysis.drawing.web import heat_pixels, pixels_uri, strip
        from train.images import to_uint8

        desk, k = session.desk, session.chosen
        low, high = (to_uint8(desk.expected[k : k + 1, i])[0] for i in (0, 1))
        where = (desk.expected[k, 1] - desk.expected[k, 0]).abs().mean(0).numpy()
        side = min(desk.run.config.model.encoder.receptive_field.size + 4, len(low))
        patches = [surrounded(desk.train.pixels[i], box, side) for i, box in zip(desk.rows[k], desk.boxes[k])]
        expected = pixels_uri(strip([high, low, heat_pixels(where)]))
        return str(
            self.macros.prototype(desk.label(k), expected, pixels_uri(strip(patches)), desk.low[k], desk.high[k])
        )

    def edited(self, session: Session, made, draft: bool) -> str:
        from analysis.drawing.web import heat_pixels, pixels_uri

        found, own = made.match.scores[0], session.taken.scores
        rows = [
            f"prototype {k}: {own[k]:.2f} → set to {value:.2f} → found {found[k]:.2f}"
            for k, value in session.settings.items()
        ]
        pictures = (pixels_uri(pixels) for pixels in (made.reconstruction, made.image, heat_pixels(made.difference)))
        return str(self.macros.edited(*pictures, rows, made.difference.mean(), draft))

    def generated(self, stages, sigmas, image) -> str:
        from analysis.drawing.web import pixels_uri, strip

        return str(self.macros.generated(pixels_uri(image), pixels_uri(strip(list(stages))), sigmas))


def build(desk_of, names: list[str], first: str):
    """The page. desk_of(name) -> Desk; names: of all runs; first: of the run that is shown at the start."""
    from functools import wraps
    from pathlib import Path

    import gradio as gr

    from analysis.measures.desk import FEW, FULL

    parts = Parts()

    def sliders(session: Session) -> list:
        desk = session.desk
        limits = [sorted((desk.low[k], desk.high[k], session.value(k))) for k in session.slots]
        found = [
            gr.Slider(
                round(lowest - 0.005, 2),
                round(highest + 0.005, 2),
                value=round(session.value(k), 2),
                label=desk.label(k),
                visible=True,
            )
            for k, (lowest, _, highest) in zip(session.slots, limits)
        ]
        return found + [gr.Slider(visible=False)] * (SLIDERS - len(found))

    def group_choices(desk) -> list[tuple[str, int]]:
        return [(desk.group_label(number), number) for number in range(len(desk.groups))]

    def choices_of_run(name):
        desk = desk_of(name)
        return gr.Radio(desk.others, value=WAYS[0]), gr.Dropdown(group_choices(desk), value=None)

    def edit(session: Session, guidance: float, others: str, steps: int = FULL) -> tuple:
        """-> (edited image, command)."""
        made = session.desk.edit(session.taken, session.settings, guidance, others, steps)
        command = session.desk.command(session.taken, session.settings, guidance, others)
        return parts.edited(session, made, steps == FEW), command

    def whole(session: Session, guidance: float, others: str) -> tuple:
        """Everything that an image or a run changes: (session, message, scores, prototype, edit, command, *sliders)."""
        return (
            session,
            "",
            parts.scores(session),
            parts.prototype(session),
            *edit(session, guidance, others),
            *sliders(session),
        )

    def guarded(function):
        """What our own errors say goes to the line of messages; all else stays as it was."""

        @wraps(function)  # which parameter is an event's data is read off the annotations
        def call(*values):
            try:
                return function(*values)
            except UserError as error:
                return [gr.skip() if i != 1 else f"⚠ {error}" for i in range(6 + SLIDERS)]

        return call

    @guarded
    def open_run(name, guidance, others):
        return whole(Session(desk_of(name)), guidance, others)

    @guarded
    def take_test_image(session, row, guidance, others):
        row = int(row or 0)
        if not 0 <= row < len(session.desk.test):
            raise UserError(f"there are test images 0 to {len(session.desk.test) - 1}")
        if session.row == row:  # the field loses the focus after Enter: what was moved since must stay
            return [gr.skip()] * (6 + SLIDERS)
        session.put(session.desk.test_image(row), row)
        return whole(session, guidance, others)

    @guarded
    def take_upload(session, file, guidance, others):
        if file is None:
            return [gr.skip()] * (6 + SLIDERS)
        path = Path(file)
        data = path.read_bytes()
        path.unlink()  # never kept
        session.put(session.desk.brought(data))
        return whole(session, guidance, others)

    @guarded
    def show(session, bar: gr.EventData):
        session.choose(int(bar.index))
        return session, "", parts.scores(session), parts.prototype(session), gr.skip(), gr.skip(), *sliders(session)

    def moved(slot):
        @guarded
        def move(session, value, guidance, others):
            session.before.append(dict(session.settings))
            session.settings[session.slots[slot]] = float(value)
            return session, "", gr.skip(), gr.skip(), *edit(session, guidance, others, FEW), *[gr.skip()] * SLIDERS

        return move

    def set_group(share):
        @guarded
        def set_to(session, number, guidance, others):
            if number is None:
                raise UserError("choose a group first")
            session.before.append(dict(session.settings))
            session.settings |= session.desk.group_settings(int(number), share)
            return whole(session, guidance, others)

        return set_to

    @guarded
    def settle(session, guidance, others):
        return session, "", gr.skip(), gr.skip(), *edit(session, guidance, others), *[gr.skip()] * SLIDERS

    @guarded
    def undo(session, guidance, others):
        session.settings = session.before.pop() if session.before else {}
        return whole(session, guidance, others)

    @guarded
    def reset(session, guidance, others):
        session.settings, session.before = {}, []
        return whole(session, guidance, others)

    def generate(session, kind, seed):
        try:
            s = session.desk.scores_for(kind, session.taken, session.settings, int(seed or 0))
            return parts.generated(*session.desk.generate(s, int(seed or 0))), ""
        except UserError as error:
            return gr.skip(), f"⚠ {error}"

    start = Session(desk_of(first))
    with gr.Blocks(title="Patronus: play with prototypes", analytics_enabled=False) as page:
        session = gr.State(None)  # a visitor's own Session, from page.load on
        timer = gr.Timer(PAUSE, active=False)
        with gr.Row():
            run = gr.Dropdown(names, value=first, label="run", elem_id="run")
            row = gr.Number(0, label="test image", precision=0, elem_id="row")
            file = gr.File(
                label="or drop an image of yours", file_count="single", type="filepath", height=90, elem_id="file"
            )
        message = gr.Markdown("", elem_id="message")
        with gr.Row():
            with gr.Column(scale=3):
                scores = gr.HTML(parts.scores(start), elem_id="scores", js_on_load=ON_LOAD)
                prototype = gr.HTML(parts.prototype(start), elem_id="prototype")
            with gr.Column(scale=2):
                slots = [gr.Slider(0, 1, step=0.01, elem_id=f"slot{i}", elem_classes="slot") for i in range(SLIDERS)]
                guidance = gr.Slider(0, 5, value=0, step=0.5, label="guidance of the edit", elem_id="guidance")
                others = gr.Radio(start.desk.others, value=WAYS[0], label="the other scores", elem_id="others")
                group = gr.Dropdown(
                    group_choices(start.desk), value=None, label="a group of prototypes", elem_id="group"
                )
                with gr.Row():
                    most, least = gr.Button("set to most", elem_id="most"), gr.Button("set to least", elem_id="least")
                with gr.Row():
                    back, clear = gr.Button("undo", elem_id="undo"), gr.Button("reset", elem_id="reset")
        edited = gr.HTML(elem_id="edited")
        command = gr.Textbox(label="the same on the command line", interactive=False, elem_id="command")
        with gr.Row():
            kinds = [
                ("from this image's scores", "image"),
                ("from nothing", "nothing"),
                ("from the moved sliders alone", "alone"),
            ]
            kind = gr.Radio(kinds, value="image", label="generate", elem_id="kind")
            seed = gr.Number(0, label="seed of the noise", precision=0, elem_id="seed")
            go = gr.Button("generate", variant="primary", elem_id="go")
        made = gr.HTML(elem_id="made")

        ways, everything = [guidance, others], [session, message, scores, prototype, edited, command, *slots]
        quiet = {"outputs": everything, "show_progress": "hidden"}
        run.change(choices_of_run, run, [others, group], show_progress="hidden").then(
            open_run, [run, *ways], everything
        )
        for button, share in ((most, 1.0), (least, 0.0)):
            button.click(set_group(share), [session, group, *ways], **quiet)
        row.submit(take_test_image, [session, row, *ways], **quiet)
        row.blur(take_test_image, [session, row, *ways], **quiet)
        file.upload(take_upload, [session, file, *ways], **quiet).then(
            lambda: None, outputs=file, show_progress="hidden"
        )
        scores.select(show, session, **quiet)
        for i, slot in enumerate(slots):
            change = slot.input(moved(i), [session, slot, *ways], trigger_mode="always_last", **quiet)
            change.then(lambda: gr.Timer(active=True), outputs=timer, show_progress="hidden")
        timer.tick(settle, [session, *ways], **quiet).then(
            lambda: gr.Timer(active=False), outputs=timer, show_progress="hidden"
        )
        guidance.release(settle, [session, *ways], **quiet)
        others.input(settle, [session, *ways], **quiet)
        back.click(undo, [session, *ways], **quiet)
        clear.click(reset, [session, *ways], **quiet)
        go.click(generate, [session, kind, seed], [made, message], show_progress="hidden")
        page.load(open_run, [run, *ways], everything, show_progress="hidden")
    return page


def main() -> None:
    args = parse_args()

    import os
    import tempfile
    from functools import lru_cache

    from analysis.script import open_run
    from train.runs import known_runs
    from train.versions import version_number

    try:
        import gradio as gr
    except ImportError:
        raise UserError("the page needs gradio, which is not installed; pip install -e .[page]") from None
    from analysis.measures.desk import MOST_BYTES, Desk

    first, device = open_run(args)

    @lru_cache(DESKS)
    def desk_of(name: str) -> Desk:
        dataset, _, version = name.rpartition("/")
        run, _ = open_run(argparse.Namespace(dataset=dataset, version_num=version_number(version), device=args.device))
        return Desk(run, device)

    names = [f"{place.name}/{place.version}" for place in reversed(known_runs())]
    with tempfile.TemporaryDirectory() as folder:  # uploads pass through it, and are removed when they have been read
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(desk_of, names, f"{first.name}/{first.version}")
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
