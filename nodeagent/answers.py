"""Answers that wait for others to travel with, and for how long they may.

The main thread appends and sends; while it runs something long, whoever reads the sockets sends what waits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from atoll.protocol.machine import Peer

if TYPE_CHECKING:
    from atoll.client.session import Session

ANSWER_WITHIN_S = 0.0005
"""How long an answer may wait for others to travel with."""

ANSWERS_AT_ONCE = 64

LATE_S = 0.002
"""Answers that wait for so long wait behind a task that is longer than those before it; another thread sends them."""


class Answers:
    """The answers of a worker that have not gone yet.

    Args:
        session: Sends them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[Peer, list[Any]] = {}
        self._since = 0.0

    def add(self, peer: Peer, answer: Any, began: float, now: float) -> None:
        """Take the answer of a task, and send what waits if it is much or has waited for long.

        Args:
            peer: For whom.
            answer: The answer.
            began: When its task began: who waits for a long task has waited long enough.
            now: When it ended; both of `time.monotonic`.
        """
        waiting = self._waiting.setdefault(peer, [])
        waiting.append(answer)
        if len(waiting) == 1 and len(self._waiting) == 1:
            self._since = now
        if len(waiting) >= ANSWERS_AT_ONCE or now - min(self._since, began) > ANSWER_WITHIN_S:
            self.send()

    def send(self) -> None:
        """Send what waits."""
        if self._waiting:
            answers, self._waiting = self._waiting, {}
            for peer, waiting in answers.items():
                self._session.reply(peer, waiting)

    @property
    def are_late(self) -> bool:
        """Whether some wait for longer than they should. For another thread than the main one."""
        return any(self._waiting.values()) and time.monotonic() - self._since > LATE_S

    def send_locked(self) -> None:
        """As `send`, with the session's lock held, while the main thread may append.

        The main thread only appends to these lists, and takes what is left of them under the lock.
        """
        for peer, waiting in list(self._waiting.items()):
            answers = waiting[:]
            del waiting[: len(answers)]
            if answers:
                self._session.reply_locked(peer, answers)
