"""Widgets that a cell makes in a worker: what of them can be shown without a browser that reaches the worker.

A widget's state lives where it was made, and the browser speaks to the kernel. So a widget is shown as text, with a
line that says what to do instead. Two kinds do better. A bar of `tqdm.notebook` is shown as the bar that it is in text,
and is updated. An `Output` is left out: what goes into it is shown by the cell anyway.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

NOTE = (
    "(shown as text: a widget that is made in a remote cell lives in the worker, where no browser reaches it. Make it "
    "in a cell of the notebook, and let its callbacks call the cluster)"
)

Publish = Callable[..., None]
"""`display_pub.publish`."""


def as_text(data: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle without the view of a widget; empty if nothing is to be shown. Other bundles are as they were."""
    if WIDGET_VIEW not in data:
        return data
    text = str(data.get("text/plain", "a widget"))
    return {} if text.startswith("Output(") else {"text/plain": f"{text}\n{NOTE}"}


def show_bar(data: dict[str, Any], publish: Publish) -> bool:
    """Show a bar of `tqdm.notebook` as text that is updated; False if the bundle is no such bar.

    Args:
        data: A bundle that is to be published.
        publish: Publishes one.
    """
    bar = _bar_of(data)
    if bar is None:
        return False
    container = bar.container
    transient = {"display_id": secrets.token_hex(8)}
    publish(_text_of(container), transient=transient)

    def display(*args: Any, close: bool = False, **more: Any) -> None:
        """In the place of the bar's own method, which tqdm calls whenever the bar is to be drawn."""
        type(bar).display(bar, *args, close=close, **more)
        shown = {"text/plain": ""} if close and not bar.leave else _text_of(container)
        publish(shown, transient=transient, update=True)

    bar.display = display
    return True


def _bar_of(data: dict[str, Any]) -> Any:
    view = data.get(WIDGET_VIEW)
    module = sys.modules.get("ipywidgets.widgets.widget")
    known = getattr(module, "_instances", None)
    if view is None or known is None:
        return None
    proxy = getattr(known.get(view.get("model_id")), "pbar", None)
    return proxy.__repr__.__self__ if proxy is not None else None  # the bar itself, behind the proxy to it


def _text_of(container: Any) -> dict[str, str]:
    return {"text/plain": container.__repr__(pretty=True)}
