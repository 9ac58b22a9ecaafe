"""What is left of an error when its worker has gone on: frames and the values of their variables, as text."""

from __future__ import annotations

import reprlib
import types
from collections.abc import Mapping

from atoll.kernel_ext.records import Ending, Frame

MAXIMUM_FRAMES = 40
MAXIMUM_NAMES = 30
VALUE_CHARACTERS = 160


def frames_of(error: BaseException, cells: Mapping[str, int], furniture: Mapping[str, object]) -> list[Frame]:
    """Return the user's frames of an error.

    Args:
        error: It.
        cells: File names of cells, with their numbers.
        furniture: Names that IPython puts into every namespace; they are left out.
    """
    found = []
    entry = error.__traceback__
    while entry is not None:
        frame, line = entry.tb_frame, entry.tb_lineno
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(("atoll.", "IPython.")):
            file = frame.f_code.co_filename
            place = f"Cell In[{cells[file]}], line {line}" if file in cells else f"{file}:{line}"
            found.append(Frame(place, frame.f_code.co_name, _names(frame, furniture)))
        entry = entry.tb_next
    return found[-MAXIMUM_FRAMES:]


def _names(frame: types.FrameType, furniture: Mapping[str, object]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in frame.f_locals.items():
        if len(shown) == MAXIMUM_NAMES:
            break
        hidden = name.startswith("_") or furniture.get(name, shown) is value
        if not hidden and not isinstance(value, (types.ModuleType, types.FunctionType, type)):
            shown[name] = short_text(value)
    return shown


class _Short(reprlib.Repr):
    """Short text of long values, without making the long text first where that can be avoided."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = VALUE_CHARACTERS
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 8


def short_text(value: object) -> str:
    """Return a value as one short line."""
    try:
        text = _Short().repr(value)
    except Exception as error:  # a repr may do anything
        return f"<its repr raised {type(error).__name__}>"
    return " ".join(text.split())[: VALUE_CHARACTERS + 40]


def describe(name: str, ending: Ending) -> str:
    """Return an error and its frames' variables as text."""
    if ending.status != "failed":
        return f"{name} did not fail"
    lines = [*ending.traceback, ""]
    for frame in ending.frames:
        lines.append(f"{frame.place}, in {frame.function}")
        lines += [f"    {variable} = {text}" for variable, text in frame.names.items()]
    return "\n".join(lines)
