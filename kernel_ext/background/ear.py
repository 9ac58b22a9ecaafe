"""How a cell that runs is spoken to by whoever knows its number: a pipe with a name, beside its record.

    <session directory>/ears/t42      lines: `cancel`

Its worker's main thread is busy with the cell, and the kernel that sent it may be gone. A pipe is heard at once, costs
nothing while nobody speaks, and tells the speaker whether anybody listens: when the worker is dead, nobody does.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

CANCEL = "cancel"
_CLOSE = "close"
_LOOK_EVERY_S = 0.5


def _path_of(session_directory: str, record: str) -> Path:
    return Path(session_directory) / "ears" / record


class Ear:
    """Listens, in a thread, until it is closed.

    Args:
        session_directory: The cluster's.
        record: The cell's number.
        take: Is called with each word.
        look: Is called twice a second.
    """

    def __init__(self, session_directory: str, record: str, take: Callable[[str], None], look: Callable[[], None]):
        self._path = _path_of(session_directory, record)
        self._take = take
        self._look = look
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path, 0o600)
        # Open for writing too: without a writer a pipe is at its end, and would be so again and again.
        self._pipe = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="atoll-ear", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        os.write(self._pipe, f"{_CLOSE}\n".encode())
        self._thread.join()
        self._path.unlink(missing_ok=True)
        os.close(self._pipe)

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._pipe], [], [], _LOOK_EVERY_S)
            if not ready:
                self._look()
                continue
            for word in os.read(self._pipe, 4096).decode(errors="replace").split():
                if word == _CLOSE:
                    return
                self._take(word)


def say(session_directory: str, record: str, word: str) -> bool:
    """Say a word to a cell; False if it does not listen: it has not begun, has ended, or its worker has died."""
    try:
        pipe = os.open(_path_of(session_directory, record), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with contextlib.closing(os.fdopen(pipe, "wb", 0)) as file:
        file.write(f"{word}\n".encode())
    return True
