"""How lines about cells look: as text, as HTML that suits the notebook's theme, and as parts for a page. Pure.

State is a glyph and a colour. Everything that a user has named is escaped. The HTML has no script and asks for nothing,
and where its style is taken away, as GitHub does, the words are the same. `widgets/js/cells/line.js` draws the parts in
the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

_BLUE = "var(--jp-brand-color1,var(--vscode-charts-blue,#1976d2))"
_GREEN = "var(--jp-success-color1,var(--vscode-charts-green,#2e7d32))"
_RED = "var(--jp-error-color1,var(--vscode-charts-red,#c62828))"
_QUIET = "var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#757575))"

STATES = {
    "sent": ("◌", _QUIET),
    "waiting": ("○", _QUIET),
    "running": ("●", _BLUE),
    "done": ("✓", _GREEN),
    "failed": ("✗", _RED),
    "cancelled": ("⊘", _QUIET),
}
"""What stands for a state: its glyph and its colour."""

_ROW = (
    "font:var(--jp-code-font-size,13px)/1.6 var(--jp-ui-font-family,system-ui,sans-serif);"
    "color:var(--jp-ui-font-color1,var(--vscode-foreground,inherit));"
    "font-variant-numeric:tabular-nums;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
)


class Part(NamedTuple):
    """A part of a line.

    Attributes:
        text: As plain text.
        title: What is shown when the mouse rests on it, if that is more.
        strong: Whether it stands out.
        faint: Whether it stands back.
        share: From 0 to 1, drawn as a bar before the text; None for none.
        blocks: A row of blocks that is drawn close behind the text.
    """

    text: str
    title: str = ""
    strong: bool = False
    faint: bool = False
    share: float | None = None
    blocks: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.blocks}" if self.blocks else self.text


class Row(NamedTuple):
    """A line, before it is text or HTML.

    Attributes:
        state: One of `STATES`.
        head: What it is about.
        parts: What is said of that, each set off from the one before.
    """

    state: str
    head: tuple[Part, ...]
    parts: tuple[Part, ...]


def duration(seconds: float) -> str:
    """Return a duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def bundle_of(state: str, head: Sequence[Part], parts: Iterable[Part]) -> dict[str, str]:
    """Return a line as text and as HTML. See `Row` for the arguments."""
    glyph, colour = STATES[state]
    rest = list(parts)
    title = " ".join(map(str, head))
    text = f"{glyph} {title}  {' · '.join(map(str, rest))}" if head else ""
    text = text or f"{glyph} {' · '.join(map(str, rest))}"
    sign = f'<span style="color:{colour};display:inline-block;width:1.2em">{glyph}</span>'
    about = " ".join(_html(part) for part in head)
    gap = '<span style="opacity:.45"> · </span>'
    said = gap.join(_html(part) for part in rest)
    space = "&ensp;" if head else ""
    return {"text/plain": text.rstrip(), "text/html": f'<div style="{_ROW}">{sign}{about}{space}{said}</div>'}


def parts_of(row: Row) -> dict[str, Any]:
    """Return a line as JSON that a page can draw without any HTML in it; what is empty is left out."""
    return {
        "state": row.state,
        "head": [_said(part) for part in row.head],
        "parts": [_said(part) for part in row.parts],
    }


def _said(part: Part) -> dict[str, Any]:
    return {name: value for name, value in part._asdict().items() if value not in ("", False, None)}


def _html(part: Part) -> str:
    text = escape(part.text)
    if part.share is not None:
        text = f"{_bar(part.share)} {text}"
    if part.blocks:
        text = f'{text} <span style="letter-spacing:-.05em">{escape(part.blocks)}</span>'
    title = f' title="{escape(part.title)}"' if part.title and part.title != part.text else ""
    if part.strong:
        return f"<b{title}>{text}</b>"
    style = ' style="opacity:.55"' if part.faint else ""
    return f"<span{title}{style}>{text}</span>" if title or style else text


def _bar(share: float) -> str:
    outer = "display:inline-block;width:9em;height:.55em;border-radius:.3em;overflow:hidden;"
    outer += "background:var(--jp-border-color2,var(--vscode-editorWidget-border,#ccc))"
    inner = "display:block;height:100%;background:var(--jp-brand-color1,var(--vscode-progressBar-background,#1976d2))"
    return f'<span style="{outer}"><span style="{inner};width:{share:.1%}"></span></span>'
