"""The page of search, for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from PIL import Image
from pydantic import ValidationError

from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError
from bdam_reid.data.printable import printable, shortened
from bdam_reid.data.records import QueryError
from bdam_reid.engine.checkpoint import CheckpointError
from bdam_reid.search.columns import TIME, Column
from bdam_reid.search.serve import drawing
from bdam_reid.search.serve.api import CLOSED, first_problem
from bdam_reid.search.serve.asking import LONGEST, PIXELS, Answer, Ask, answer
from bdam_reid.search.serve.live import Live
from bdam_reid.search.serve.photographs import sent_picture

log = logging.getLogger("bdam_reid")
HISTORY = 30
"""Questions that a visitor can ask again."""
CHOICES = 1_000
"""Values of a column that are offered; others can be typed."""
SHOWN = 200
"""Results on a page, at most."""
KEPT = 600
"""Seconds that pictures which visitors send lie on the disk."""


class Picture(NamedTuple):
    """A picture of the person who is looked for."""

    name: str
    path: str = ""
    """In the index, if it is there."""
    sent: Image.Image | None = None


@dataclass(frozen=True)
class Asked:
    """All that a visitor has set, in the order of the page's controls."""

    sentence: str
    picture: Picture | None
    balance: float
    clothes: str
    k: int
    one_per: str | None
    rerank: bool
    filters: tuple[Any, ...]

    def name(self) -> str:
        """What the history calls it."""
        said = " + ".join([self.sentence.strip()] * bool(self.sentence.strip()) + ["a picture"] * bool(self.picture))
        return shortened(f"{said}, other clothes" if self.clothes == "other" else said, 100)


class Page:
    """What the controls of the page do.

    Args:
        live: the index.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        served = live.now()
        self.columns: dict[str, Column] = dict(served.index.columns)
        self.reranks = served.finder.retriever.reranks > 0
        self.parts, self._weights = tuple(served.finder.retriever.parts), served.index.manifest.weights

    def balance(self, clothes: str) -> float:
        """The share of the second of two parts that validation chose; 0 where there are no two."""
        if len(self.parts) != 2:
            return 0.0
        first, second = (abs(self._weights[clothes].get(part, 0.0)) for part in self.parts)  # type: ignore[index]
        return round(second / (first + second), 2) if first + second else 0.5

    def search(self, history: list[Asked], *controls: Any) -> tuple[str, str, list[Asked], Any]:
        """What is said, the results, the history and its list, for what the controls are set to."""
        sentence, *others = controls
        asked = Asked(*(sentence or "", *others[:6], tuple(others[6:])))
        if not asked.sentence.strip() and not asked.picture:
            return drawing.hint(), "", history, gr.skip()
        try:
            found = self._answer(asked)
        except ValidationError as error:
            return drawing.problem(first_problem(error)), "", history, gr.skip()
        except (QueryError, ImageError) as error:
            return drawing.problem(printable(str(error))), "", history, gr.skip()
        except (CheckpointError, ConfigError) as error:
            log.error(f"the index cannot be searched: {error}")
            return drawing.problem(CLOSED), "", history, gr.skip()
        history = [asked, *(one for one in history if one != asked)][:HISTORY]
        return drawing.said(found), drawing.results(found), history, listed(history)

    def _answer(self, asked: Asked) -> Answer:
        weights = None
        if len(self.parts) == 2:
            weights = dict(zip(self.parts, (1 - asked.balance, asked.balance), strict=True))
        picture = asked.picture
        ask = Ask.model_validate(
            {
                "sentence": asked.sentence,
                "like": [picture.path] if picture and picture.path else [],
                "k": asked.k,
                "clothes": asked.clothes,
                "weights": weights,
                "where": self._where(asked.filters),
                "one_per": asked.one_per or "",
                "rerank": asked.rerank,
            }
        )
        return answer(ask, self._live.now(), (picture.sent,) if picture and picture.sent else ())

    def _where(self, filters: tuple[Any, ...]) -> list[str]:
        texts, times = filters[: len(self.texts)], filters[len(self.texts) :]
        equal = [f"{name}={value}" for name, of in zip(self.texts, texts, strict=True) for value in of or []]
        # A box that nobody has typed in holds None.
        moments = [(value or "").strip() for value in times]
        bounds = [f"time{sign}{moment}" for sign, moment in zip((">=", "<"), moments, strict=False) if moment]
        return equal + bounds

    @property
    def texts(self) -> list[str]:
        """Columns that are compared for equality."""
        return [name for name in self.columns if name != TIME]


def listed(history: list[Asked]) -> Any:
    """The list of a history."""
    return gr.Dropdown(choices=[(asked.name(), place) for place, asked in enumerate(history)], value=None)


def again(history: list[Asked], place: int | None) -> list[Any]:
    """What all controls were set to for a question of the history, and its picture as it is shown."""
    if place is None or not 0 <= place < len(history):
        raise gr.Error("this question is not in the history any more")
    asked = history[place]
    return [
        drawing.picture(asked.picture), asked.sentence, asked.picture, asked.balance, asked.clothes, asked.k,
        asked.one_per, asked.rerank, *asked.filters,
    ]  # fmt: skip


def choose(data: gr.EventData) -> tuple[str, Picture, str]:
    """A result becomes the question: its picture, as it is shown, and no sentence."""
    path = str(data._data.get("chosen", "")) if isinstance(data._data, Mapping) else ""
    chosen = Picture(path, path)
    return drawing.picture(chosen), chosen, ""


def send(least: tuple[int, int], file: str) -> tuple[str, Picture]:
    """A picture of the visitor's own becomes part of the question. Raises: Error, which the page shows."""
    try:
        image = sent_picture(Path(file).read_bytes(), least, PIXELS)
    except ImageError as error:
        raise gr.Error(escape(printable(str(error))), title="Not read", print_exception=False) from error
    image.thumbnail((2 * max(least), 2 * max(least)))
    sent = Picture(Path(file).name, sent=image)
    return drawing.picture(sent), sent


def forget() -> tuple[str, None]:
    """The picture leaves the question."""
    return "", None


def make_page(live: Live) -> gr.Blocks:
    """The page of an index."""
    does = Page(live)
    least = live.now().finder.retriever.image_size
    with gr.Blocks(
        title="Search of photographs", analytics_enabled=False, fill_width=True, delete_cache=(KEPT, KEPT)
    ) as page:
        gr.HTML("<h1>Find a person</h1>", elem_id="title")
        with gr.Row(equal_height=True, elem_id="ask"):
            sentence = gr.Textbox(
                label="Who is looked for?", placeholder="a woman in a red coat - backpack", max_length=LONGEST,
                max_lines=1, autofocus=True, scale=6, min_width=220, elem_id="sentence",
            )  # fmt: skip
            button = gr.Button("Search", variant="primary", scale=1, min_width=96, elem_id="search")
        picture = gr.State(None)
        shown = gr.HTML("", elem_id="picture", js_on_load=drawing.REMOVES)
        with gr.Row(elem_id="what"):
            balance = gr.Slider(
                0, 1, does.balance("same"), step=0.01, label=_ends(does.parts), visible=len(does.parts) == 2,
                min_width=220, buttons=[], elem_id="balance",
            )  # fmt: skip
            clothes = gr.Radio(
                [("the same clothes", "same"), ("maybe other clothes", "other")], value="same",
                label="The person wears", min_width=220, elem_id="clothes",
            )  # fmt: skip
            earlier = gr.Dropdown([], label="Earlier questions", value=None, min_width=220, elem_id="earlier")
        with gr.Accordion("More settings", open=False, elem_id="more"):
            with gr.Row():
                k = gr.Slider(1, SHOWN, 24, step=1, label="Results", min_width=220, buttons=[])
                one_per = gr.Dropdown(
                    [("every photograph", ""), *((f"the best of each {name}", name) for name in does.columns)],
                    value="", label="Show", min_width=220,
                )  # fmt: skip
                rerank = gr.Checkbox(
                    label="Read the best again with the sentence", visible=does.reranks, min_width=220, elem_id="rerank"
                )
            with gr.Row():
                filters: list[gr.Dropdown | gr.Textbox] = [_filter(name, does.columns[name]) for name in does.texts]
                if TIME in does.columns:
                    filters += [
                        gr.Textbox(label=label, placeholder="2026-11-27T08:00", max_length=40, min_width=220)
                        for label in ("Not before", "Before")
                    ]
            upload = gr.UploadButton("Search by a picture of your own", file_types=["image"], size="sm")
        asked = gr.State([])
        status = gr.HTML(drawing.hint(), elem_id="status")
        found = gr.HTML("", elem_id="results", js_on_load=drawing.CHOOSES)

        controls = [sentence, picture, balance, clothes, k, one_per, rerank, *filters]
        ask: dict[str, Any] = {
            "fn": does.search, "inputs": [asked, *controls], "outputs": [status, found, asked, earlier],
            "show_progress_on": [found], "api_visibility": "private",
        }  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([sentence.submit, button.click, balance.release, k.release, one_per.input, rerank.input], **ask)
        clothes.input(does.balance, clothes, balance, **quiet).then(**ask)
        for control in filters:
            (control.submit if isinstance(control, gr.Textbox) else control.input)(**ask)
        found.select(choose, None, [shown, picture, sentence], **quiet).then(**ask)
        upload.upload(partial(send, least), upload, [shown, picture], **quiet).success(**ask)
        shown.clear(forget, None, [shown, picture], **quiet).then(**ask)
        earlier.input(again, [asked, earlier], [shown, *controls], **quiet).then(**ask)
    return page


def _ends(parts: tuple[str, ...]) -> str:
    return f"From {parts[0]} to {parts[1]}" if len(parts) == 2 else ""


def _filter(name: str, column: Column) -> gr.Dropdown:
    return gr.Dropdown(
        sorted(column.values[:CHOICES]), multiselect=True, label=f"{name.capitalize()} is",
        allow_custom_value=len(column.values) > CHOICES, min_width=220,
    )  # fmt: skip


def add_page(app: FastAPI, live: Live, largest: int) -> FastAPI:
    """Put the page of an index at the address / of an application.

    Args:
        app: which answers programs.
        live: the index.
        largest: bytes of a picture that is sent.
    """
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )  # fmt: skip
    return gr.mount_gradio_app(
        app, make_page(live), "/", theme=theme, css=drawing.STYLE, head=drawing.HEAD, footer_links=[],
        run_history=False, show_error=False, ssr_mode=False, max_file_size=largest,
    )  # fmt: skip
