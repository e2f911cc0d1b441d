"""HTML, style and script of the page where gradio has no component for it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import quote

from bdam_reid.data.printable import printable, shortened
from bdam_reid.search.serve.asking import Answer, Result

if TYPE_CHECKING:
    from bdam_reid.search.serve.page import Picture

SIDE = 320
"""Pixels of a result's longer side."""

CHOOSES = """
element.addEventListener('click', event => {
    const result = event.target.closest('button[data-path]');
    if (!result) return;
    trigger('select', {chosen: result.dataset.path});
    window.scrollTo({top: 0});
});
"""
REMOVES = """
element.addEventListener('click', event => {
    if (event.target.closest('button')) trigger('clear');
});
"""
HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
STYLE = """
.gradio-container { width: 100% !important; max-width: 1200px !important; margin: 0 auto !important;
    padding: 0 !important; }
.gradio-container .main { padding: 12px !important; }
.gradio-container h1 { font-size: 1.5rem; margin: 0; }
#search { align-self: stretch; }
#picture:not(:has(figure, p)) { display: none; }
#status p { margin: 0; font-size: 1rem; }
.gradio-container .problem { color: #b42318; font-weight: 600; }
.dark .gradio-container .problem, .gradio-container.dark .problem { color: #fda29b; }
#results ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px; padding: 0;
    margin: 0; list-style: none; }
#results li { margin: 0; }
#results button { display: block; width: 100%; padding: 6px; text-align: left; cursor: pointer; border-radius: 10px;
    font-weight: 400; border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
    color: var(--body-text-color); }
#results button:hover { border-color: var(--color-accent); }
#results button:focus-visible, #picture button:focus-visible { outline: 3px solid var(--color-accent);
    outline-offset: 2px; }
#results img { display: block; width: 100%; height: 210px; object-fit: contain; border-radius: 6px; margin: 0 0 6px;
    background: var(--background-fill-secondary); }
#results .rank { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; }
#results small { display: block; opacity: .8; overflow-wrap: anywhere; line-height: 1.35; }
#picture figure { display: flex; align-items: center; gap: 12px; margin: 0; }
#picture img { height: 96px; width: auto; margin: 0; border-radius: 6px; }
#picture figcaption { overflow-wrap: anywhere; }
#picture button { font-weight: 400; text-decoration: underline; cursor: pointer; background: none; border: 0;
    padding: 4px; color: var(--body-text-color); }
footer { display: none !important; }
"""


def results(found: Answer) -> str:
    """What was found, in order; a click on a photograph searches by it."""
    return f"<ol>{''.join(map(_result, found.results))}</ol>" if found.results else ""


def _result(result: Result) -> str:
    path = escape(printable(result.path))
    parts = ", ".join(f"{escape(name)} {cosine:.2f}" for name, cosine in result.parts.items())
    about = ", ".join(escape(printable(f"{name} {text}")) for name, text in result.about.items())
    more = f"<small>{parts}</small>" * (len(result.parts) > 1) + f"<small>{about or path}</small>"
    return (
        f'<li><button type="button" data-path="{escape(result.path)}" title="Search by this picture: {path}" '
        f'aria-label="Result {result.rank}, score {result.score:.2f}, {about or path}: search by this picture">'
        f'<img src="{escape(result.image)}?side={SIDE}" alt="Photograph {path}" loading="lazy">'
        f'<span class="rank"><b>{result.rank}</b><span>{result.score:.3f}</span></span>{more}</button></li>'
    )


def said(found: Answer) -> str:
    """How much was found, and what the sentence was read as."""
    count = len(found.results)
    words = "No photograph fits: take filters away." if not count else f"{count} photograph{'s' * (count != 1)}."
    read = f" Read as: <b>{escape(printable(found.read_as))}</b>" if found.changes else ""
    return f'<p role="status">{words}{read}</p>'


def problem(sentence: str) -> str:
    """Why nothing was found."""
    return f'<p role="alert" class="problem">{escape(sentence)}</p>'


def hint() -> str:
    """What there is before a question."""
    return (
        '<p role="status">Describe the person and press Enter; put what is not wanted after " - ". A click on a result '
        "searches by that picture.</p>"
    )


def picture(shown: Picture | None) -> str:
    """The picture of a question, and what takes it away."""
    if shown is None:
        return ""
    source = f"image/{quote(shown.path)}?side={SIDE}"
    if shown.sent:
        written = BytesIO()
        shown.sent.save(written, "JPEG")
        source = f"data:image/jpeg;base64,{b64encode(written.getvalue()).decode()}"
    return (
        f'<figure><img src="{escape(source)}" alt="The picture that is searched by">'
        f"<figcaption>Like {escape(shortened(shown.name))}<br>"
        '<button type="button">Take the picture away</button></figcaption></figure>'
    )
