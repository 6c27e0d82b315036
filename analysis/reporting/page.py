"""The page in gradio: its layout, what happens on each event, and which event calls what."""

from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from analysis.reporting.explorer import FEW, FULL, Explorer
from analysis.reporting.page_html import TEMPLATES, edited_html, generated_html, prototype_html, scores_html
from analysis.reporting.session import SLIDERS, Session
from analysis.script import WAYS
from train.errors import UserError
from train.generation import MOST_SEED

PAUSE = 0.6  # seconds after the last move of a slider until all steps are taken
KINDS = [("from this image's scores", "image"), ("from nothing", "nothing"), ("from the moved sliders alone", "alone")]
HEAD = """### Patronus: play with prototypes
Take a test image or one of yours. A bar is a score: press it to see what its prototype stands for. A slider sets a
score, and the image is made anew from its own noise. Beside a number stands the attribute that the prototype tells,
with its AUROC."""
OTHERS = (
    "carried along with what is set (transport), kept, moved by regression (joint), "
    "or hidden where they go with it (release)"
)
# what is typed is brought into the slider's range: gradio's own check ends in an error all over the page
INTO_RANGE = """(session, slot, value, ...rest) => {{
  const {{ min, max }} = document.querySelector('#slot{} input[type=range]');
  return [session, slot, Math.min(Math.max(value ?? min, min), max), ...rest];
}}"""
CSS, ON_LOAD = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


class Layout(NamedTuple):
    """The page's components, by what they show or ask for."""

    session: gr.State  # a visitor's own Session, from page.load on
    timer: gr.Timer
    run: gr.Dropdown
    row: gr.Number
    file: gr.File
    message: gr.Markdown
    scores: gr.HTML
    prototype: gr.HTML
    slots: list[gr.Slider]
    guidance: gr.Slider
    others: gr.Radio
    group: gr.Dropdown
    put: gr.Button
    undo: gr.Button
    reset: gr.Button
    edited: gr.HTML
    command: gr.Textbox
    kind: gr.Radio
    seed: gr.Number
    generate: gr.Button
    generated: gr.HTML


def row_label(explorer: Explorer) -> str:
    return f"test image, 0 to {len(explorer.test) - 1}"


def place_components(start: Session, names: list[str], first: str) -> Layout:
    """Everything on the page, from top to bottom; called within gr.Blocks()."""
    parts = {"session": gr.State(None), "timer": gr.Timer(PAUSE, active=False)}
    gr.Markdown(HEAD, elem_id="head")
    with gr.Row():
        parts["run"] = gr.Dropdown(names, value=first, label="run", elem_id="run")
        parts["row"] = gr.Number(0, label=row_label(start.explorer), precision=0, elem_id="row")
        upload = {"file_count": "single", "type": "filepath", "height": 120}
        parts["file"] = gr.File(label="or drop an image of yours", elem_id="file", **upload)
    parts["message"] = gr.Markdown("", elem_id="message")
    with gr.Row():
        with gr.Column(scale=3):
            parts["scores"] = gr.HTML(scores_html(start), elem_id="scores", js_on_load=ON_LOAD)
            parts["prototype"] = gr.HTML(prototype_html(start), elem_id="prototype")
            parts["edited"] = gr.HTML(elem_id="edited")
        with gr.Column(scale=2):
            slots = [gr.Slider(0, 1, step=0.01, elem_id=f"slot{i}", elem_classes="slot") for i in range(SLIDERS)]
            parts["slots"] = slots
            push = {"label": "guidance", "info": "push of an edit that is too weak", "elem_id": "guidance"}
            parts["guidance"] = gr.Slider(0, 5, value=0, step=0.5, **push)
            others = {"label": "the other scores", "info": OTHERS, "elem_id": "others"}
            parts["others"] = gr.Radio(start.explorer.others, value=WAYS[0], **others)
            states = start.explorer.state_choices()
            group = {"label": "a group of prototypes in one of its states", "elem_id": "group"}
            parts["group"] = gr.Dropdown(states, value=None, **group)
            parts["put"] = gr.Button("set the group to this state", elem_id="put")
            with gr.Row():
                parts |= {name: gr.Button(name, elem_id=name) for name in ("undo", "reset")}
    parts["command"] = gr.Textbox(
        label="the edit on the command line", placeholder="nothing is set yet", interactive=False, elem_id="command"
    )
    with gr.Row():
        parts["kind"] = gr.Radio(KINDS, value="image", label="generate", elem_id="kind")
        parts["seed"] = gr.Number(0, label="seed of the noise", precision=0, elem_id="seed")
        parts["generate"] = gr.Button("generate", variant="primary", elem_id="go")
    parts["generated"] = gr.HTML(elem_id="made")
    return Layout(**parts)


def guarded(event):
    """What our own errors say goes to the line of messages; all else stays as it was."""

    @wraps(event)  # which parameter is an event's data is read off the annotations
    def call(self, *values):
        try:
            if values[0] is None:  # a visitor's session
                raise UserError("the page was started anew since you opened it; reload it")
            return {self.layout.message: "", **event(self, *values)}
        except UserError as error:
            return {self.layout.message: f'<p role="alert">⚠ {escape(str(error))}</p>'}

    return call


class Events:
    """What happens on each event: values of components -> a dictionary of the components that change."""

    def __init__(self, layout: Layout, explorer_of: Callable[[str], Explorer]):
        self.layout, self.explorer_of = layout, explorer_of

    def sliders(self, session: Session) -> dict:
        """The sliders of a session's prototypes, from their low to their high scores; those without one are hidden."""
        explorer, updates = session.explorer, dict.fromkeys(self.layout.slots, gr.Slider(visible=False))
        for slot, k in zip(self.layout.slots, session.slots):
            value = session.value(k)
            lowest, _, highest = sorted((explorer.low[k], explorer.high[k], value))
            limits = round(lowest - 0.005, 2), round(highest + 0.005, 2)
            updates[slot] = gr.Slider(*limits, value=round(value, 2), label=explorer.label(k), visible=True)
        return updates

    def edited(self, session: Session, guidance: float, others: str, steps: int = FULL) -> dict:
        """The edit of the loaded image, and its command."""
        setting = (session.image, session.settings, guidance, others)
        html = edited_html(session, session.explorer.edit(*setting, steps), steps == FEW)
        return {
            self.layout.session: session,
            self.layout.edited: html,
            self.layout.command: session.explorer.command(*setting) if session.settings else "",
        }

    def whole(self, session: Session, guidance: float, others: str) -> dict:
        """Everything that an image or a run changes."""
        return self.display(session) | self.edited(session, guidance, others)

    def display(self, session: Session) -> dict:
        """The scores, the chosen prototype and the sliders."""
        html = {self.layout.scores: scores_html(session), self.layout.prototype: prototype_html(session)}
        return {self.layout.session: session} | html | self.sliders(session)

    def choices_of_run(self, name):
        explorer = self.explorer_of(name)
        others, states = gr.Radio(explorer.others, value=WAYS[0]), gr.Dropdown(explorer.state_choices(), value=None)
        return gr.Number(0, label=row_label(explorer)), others, states

    @guarded
    def open_run(self, name, guidance, others):
        return self.whole(Session(self.explorer_of(name)), guidance, others)

    @guarded
    def load_test_image(self, session, row, guidance, others):
        row, images = int(row or 0), len(session.explorer.test)
        if not 0 <= row < images:
            raise UserError(f"there are test images 0 to {images - 1}")
        if session.row == row:  # the field loses the focus after Enter: what was moved since must stay
            return {}
        session.put(session.explorer.test_image(row), row)
        return self.whole(session, guidance, others)

    @guarded
    def load_upload(self, session, file, guidance, others):
        if file is None:
            return {}
        path = Path(file)
        data = path.read_bytes()
        path.unlink()  # never kept
        session.put(session.explorer.uploaded(data))
        return self.whole(session, guidance, others)

    @guarded
    def show(self, session, bar: gr.EventData):
        session.choose(int(bar.index))
        return self.display(session)

    @guarded
    def move(self, session, slot, value, guidance, others):
        session.set({session.slots[slot]: float(value)})
        return self.edited(session, guidance, others, FEW)

    @guarded
    def set_group(self, session, choice, guidance, others):
        if choice is None:
            raise UserError("choose a state of a group first")
        session.set(session.explorer.state_settings(choice))
        return self.whole(session, guidance, others)

    @guarded
    def settle(self, session, guidance, others):
        return self.edited(session, guidance, others)

    @guarded
    def undo(self, session, guidance, others):
        session.undo()
        return self.whole(session, guidance, others)

    @guarded
    def reset(self, session, guidance, others):
        session.reset()
        return self.whole(session, guidance, others)

    @guarded
    def generate(self, session, kind, seed):
        seed = int(seed or 0)
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"the seed of the noise must be from 0 to {MOST_SEED}")
        s = session.explorer.scores_for(kind, session.image, session.settings, seed)
        return {self.layout.generated: generated_html(*session.explorer.generate(s, seed))}


def connect(page: gr.Blocks, layout: Layout, events: Events) -> None:
    """Which event of which component calls what; called within gr.Blocks()."""
    it, session, ways = layout, layout.session, [layout.guidance, layout.others]
    everything = [session, it.message, it.scores, it.prototype, it.edited, it.command, *it.slots]
    hidden = {"show_progress": "hidden"}
    quiet = {"outputs": everything} | hidden
    changed = it.run.change(events.choices_of_run, it.run, [it.row, it.others, it.group], **hidden)
    changed.then(events.open_run, [it.run, *ways], everything)
    it.row.submit(events.load_test_image, [session, it.row, *ways], **quiet)
    it.row.blur(events.load_test_image, [session, it.row, *ways], **quiet)
    uploaded = it.file.upload(events.load_upload, [session, it.file, *ways], **quiet)
    uploaded.then(lambda: None, outputs=it.file, **hidden)
    it.scores.select(events.show, session, **quiet)
    for i, slot in enumerate(it.slots):
        typed = {"js": INTO_RANGE.format(i), "trigger_mode": "always_last"}
        moved = slot.input(events.move, [session, gr.State(i), slot, *ways], **typed, **quiet)
        moved.then(lambda: gr.Timer(active=True), outputs=it.timer, **hidden)
    settled = it.timer.tick(events.settle, [session, *ways], **quiet)
    settled.then(lambda: gr.Timer(active=False), outputs=it.timer, **hidden)
    it.put.click(events.set_group, [session, it.group, *ways], **quiet)
    it.guidance.release(events.settle, [session, *ways], **quiet)
    it.others.input(events.settle, [session, *ways], **quiet)
    it.undo.click(events.undo, [session, *ways], **quiet)
    it.reset.click(events.reset, [session, *ways], **quiet)
    it.generate.click(events.generate, [session, it.kind, it.seed], [it.generated, it.message], **hidden)
    page.load(events.open_run, [it.run, *ways], everything, **hidden)


def build(explorer_of: Callable[[str], Explorer], names: list[str], first: str) -> gr.Blocks:
    """The page. explorer_of(name) -> Explorer; names: of all runs; first: of the run that is shown at the start."""
    with gr.Blocks(title="Patronus: play with prototypes", analytics_enabled=False) as page:
        layout = place_components(Session(explorer_of(first)), names, first)
        connect(page, layout, Events(layout, explorer_of))
    return page
