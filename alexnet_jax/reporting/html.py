"""A self-contained HTML page: text, tables and charts in one file, no network."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image


STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1d2733; --soft: #5b6875;
  --line: #d7dde3; --link: #1f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --ink: #e6eaee; --soft: #a3afba; --line: #38424c;
    --link: #7db8ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 1.5rem 0 0.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; scroll-margin-top: 1rem; }
p, figcaption { color: var(--soft); max-width: 45rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; padding: 0;
  list-style: none; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .wide:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
figure { margin: 0.5rem 0; }
figure svg { width: 100%; height: auto; color: var(--ink); }
figure img { max-width: 100%; height: auto; image-rendering: pixelated;
  background: #ffffff; }
.wide { overflow-x: auto; }
.wide svg { min-width: 40rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: 0.75rem; padding: 0; margin: 1rem 0; }
.numbers div { border: 1px solid var(--line); border-radius: 6px;
  padding: 0.5rem 0.75rem; }
.numbers dt { color: var(--soft); font-size: 0.85rem; }
.numbers dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; }
"""


class Page:
    """A page in the making, section by section."""

    def __init__(self, title: str, subtitle: str) -> None:
        self._title, self._subtitle = title, subtitle
        self._parts: list[str] = []
        self._sections: list[str] = []

    def section(self, title: str, text: str = "") -> None:
        """Begin a section; the text says what it shows."""
        self._sections.append(title)
        self._parts.append(f'<h2 id="{_anchor(title)}">{html.escape(title)}</h2>')
        if text:
            self._parts.append(f"<p>{html.escape(text)}</p>")

    def numbers(self, pairs: Iterable[tuple[str, str]]) -> None:
        """The few numbers that matter most."""
        boxes = (
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in pairs
        )
        self._parts.append(f'<dl class="numbers">{"".join(boxes)}</dl>')

    def chart(self, figure: Any, description: str, *, ink: str) -> None:
        """A Matplotlib figure as vectors; what is drawn in `ink` has the text's colour.

        The description is for those who do not see it.
        """
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        drawing = file.getvalue()
        drawing = drawing[drawing.index("<svg") :].replace(ink, "currentColor")
        # Several drawings in one page must not share names.
        number = len(self._parts)
        drawing = re.sub(r'id="', f'id="c{number}-', drawing)
        drawing = re.sub(r'href="#', f'href="#c{number}-', drawing)
        drawing = drawing.replace("url(#", f"url(#c{number}-")
        label = html.escape(description, quote=True)
        drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
        self._parts.append(f'<figure class="wide" tabindex="0">{drawing}</figure>')

    def picture(self, pixels: np.ndarray, description: str) -> None:
        """An array of uint8 pixels as a PNG."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        label = html.escape(description, quote=True)
        self._parts.append(
            f'<figure><img alt="{label}" src="data:image/png;base64,{data}"></figure>'
        )

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0
    ) -> None:
        """A table, of which the last `numbers` columns are numbers."""
        first = len(columns) - numbers

        def row(kind: str, cells: Sequence[str]) -> str:
            return "".join(
                f"<{kind}{' class=number' if place >= first else ''}>"
                f"{html.escape(cell)}</{kind}>"
                for place, cell in enumerate(cells)
            )

        body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
        self._parts.append(
            f'<div class="wide" tabindex="0"><table><thead><tr>{row("th", columns)}'
            f"</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def folded(self, summary: str) -> None:
        """What follows, up to `unfold`, opens at a click or key."""
        self._parts.append(f"<details><summary>{html.escape(summary)}</summary>")

    def unfold(self) -> None:
        """End what `folded` began."""
        self._parts.append("</details>")

    def html(self) -> str:
        """The page."""
        links = "".join(
            f'<li><a href="#{_anchor(title)}">{html.escape(title)}</a></li>'
            for title in self._sections
        )
        title = html.escape(self._title)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{title}</title>'
            f"<style>{STYLE}</style></head><body>"
            f"<header><h1>{title}</h1><p>{html.escape(self._subtitle)}</p>"
            f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
            f"<main>{''.join(self._parts)}</main></body></html>\n"
        )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
