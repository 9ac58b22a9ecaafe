"""Modules beside the notebook: an edited one takes effect in the next cell.

A worker is used again, and what it has imported stays. So it notes when the files of the user's own modules, those
below the working directory, were last written, and forgets all of them when one has changed: they may have imported
each other.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path


class LocalModules:
    """The user's own modules in this process."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        self._written: dict[str, tuple[str, float]] = {}

    def note(self, began: float) -> None:
        """Note the modules that are new since the last call.

        Args:
            began: When the earliest of them may have been imported, as `time.time()`. A file that was written since may
                have been imported before, so it counts as changed.
        """
        here = f"{Path.cwd()}{os.sep}"
        for name in sys.modules.keys() - self._seen.keys():
            self._seen[name] = None
            file = getattr(sys.modules[name], "__file__", None)
            own = name.partition(".")[0] != "atoll"  # which may itself be developed here
            if own and isinstance(file, str) and file.startswith(here) and f"{os.sep}site-packages{os.sep}" not in file:
                written = _written(file)
                self._written[name] = (file, written if written < began else -1.0)

    def forget_edited(self) -> bool:
        """Forget the user's modules if one of them was edited, so that they are imported anew; whether that was so."""
        if all(_written(file) == written for file, written in self._written.values()):
            return False
        for name in self._written:
            sys.modules.pop(name, None)
            self._seen.pop(name, None)
        self._written.clear()
        importlib.invalidate_caches()
        return True


def _written(file: str) -> float:
    try:
        return os.stat(file).st_mtime_ns / 1e9  # noqa: PTH116  # once a module and cell: no Path is made for it
    except OSError:
        return 0.0


_modules = LocalModules()


def before_cell() -> float:
    """Forget what was edited; return the time for `after_cell`."""
    _modules.forget_edited()
    return time.time()


def after_cell(began: float) -> None:
    """Note what the cell has imported."""
    _modules.note(began)
