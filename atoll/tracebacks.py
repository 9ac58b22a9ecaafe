"""Tracebacks as IPython shows them: with the user's frames and those of other libraries, and none of this package.

IPython asks an exception for `_render_traceback_()` before it makes lines of its own, and `AtollError` answers by what
is here. Python's own tracebacks, in scripts and logs, are left as they are.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType


def without_ours(frames: TracebackType | None) -> TracebackType | None:
    """Return the frames without those of Atoll itself, which a user has no use for."""
    kept = []
    while frames is not None:
        if not str(frames.tb_frame.f_globals.get("__name__", "")).startswith("atoll."):
            kept.append(frames)
        frames = frames.tb_next
    below: TracebackType | None = None
    for frame in reversed(kept):
        below = TracebackType(below, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return below


def rendered(error: BaseException) -> list[str]:
    """Return the lines that IPython is to show for an error that ended a cell."""
    _strip_chain(error)
    frames = without_ours(error.__traceback__)
    module = sys.modules.get("IPython.core.interactiveshell")
    if module is None or not module.InteractiveShell.initialized():
        return "".join(traceback.format_exception(type(error), error, frames)).rstrip("\n").split("\n")
    shell = module.InteractiveShell.instance()
    lines = shell.InteractiveTB.structured_traceback(type(error), error, frames)
    return [with_cells(line, shell.compile._filename_map) for line in lines]


_PLACE = re.compile(r'^(?P<indent> +)File "(?P<path>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)


def with_cells(text: str, numbers: Mapping[str, int]) -> str:
    """Return a worker's traceback with the cells' numbers and lines: a worker has their files' names only.

    Args:
        text: The traceback.
        numbers: Of the cells, by their files' names.
    """

    def told(found: re.Match[str]) -> str:
        number = numbers.get(found["path"])
        if number is None:
            return found[0]
        place = f"{found['indent']}Cell In[{number}], line {found['line']}, in {found['function']}"
        source = linecache.getline(found["path"], int(found["line"])).strip()
        return f"{place}\n{found['indent']}  {source}" if source else place

    return _PLACE.sub(told, text)


def _strip_chain(error: BaseException) -> None:
    """Take our frames from what an error came of, which is rendered by its own traceback."""
    seen = {id(error)}
    below = error.__cause__ or error.__context__
    while below is not None and id(below) not in seen:
        seen.add(id(below))
        below.__traceback__ = without_ours(below.__traceback__)
        below = below.__cause__ or below.__context__
