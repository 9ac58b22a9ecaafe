"""Empty a node: `atoll.drain("host-2")`, and what `atoll drain` says meanwhile.

Nothing new is placed on a node that is being drained. Its tasks end, its actors move if they may be made again, its
objects are copied to another node, and then it leaves. The first node of a host stays, empty: notebooks use its store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from atoll.exceptions import AtollError
from atoll.protocol.state import ClusterState

__all__ = ["Progress", "drain", "progress_of"]

_LOOK_EVERY_S = 0.2


class Progress(NamedTuple):
    """How far a drain is.

    Attributes:
        phase: `finishing`, `copying`, `leaving`; `empty` for a node that stays; `left`, `lost`, or `undone`.
        text: In a line.
        waits_for: What is waited for, a line each.
    """

    phase: str
    text: str
    waits_for: list[str]

    @property
    def over(self) -> bool:
        """Whether nothing more happens."""
        return self.phase in ("empty", "left", "lost", "undone")


def progress_of(state: ClusterState, node_id: str, since: float = 0.0) -> Progress:
    """Return how far the drain of a node is.

    Args:
        state: The cluster's state.
        node_id: The node, hex.
        since: Departures before this (seconds since 1970) are of an earlier drain.
    """
    node = next((node for node in state.nodes if node.node_id == node_id), None)
    if node is not None and node.drain is not None:
        drain = node.drain
        return Progress(drain.phase, f"{node.name} is {drain.phase}", drain.waits_for)
    gone = [each for each in state.departures if each.node_id == node_id and each.gone >= since]
    if gone:
        last = gone[-1]
        return Progress("left" if last.whole else "lost", f"{last.name} is gone: {last.text}", [])
    if node is not None:
        return Progress("undone", f"{node.name} is in use", [])
    return Progress("lost", f"node {node_id} is not in the cluster any more", [])


def drain(
    node: str, *, deadline_s: float | None = None, wait: bool = True, undo: bool = False, timeout: float | None = None
) -> Progress:
    """Empty a node, so that it can be taken away.

    Args:
        node: Its name, or the beginning of its id.
        deadline_s: What still runs after so long is ended; by default, tasks and actors have as long as they take.
        wait: Return only when it is over.
        undo: Take the node into use again instead, if it has not left.
        timeout: How long to wait, in seconds; the drain goes on.

    Returns:
        How far it is.

    Raises:
        ValueError: There is no such node, or nothing else to take over from it.
        TimeoutError: It was not over in time.
        AtollError: The node was lost before it was empty.
    """
    from atoll.client.connection import failure
    from atoll.client.current import current_session
    from atoll.protocol.messages import DrainBegun, DrainNode

    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s={deadline_s}: write a number of seconds above 0")
    session = current_session()
    since = session.state().now
    answer = session.ask_scheduler(DrainNode(session.next_request(), node, deadline_s or 0.0, undo))
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, DrainBegun), f"the scheduler answered {type(answer).__name__} to DrainNode"
    node_id = answer.node_id.hex()
    if not wait or undo:
        return progress_of(session.state(), node_id, since)
    until = None if timeout is None else time.monotonic() + timeout
    found = follow(session.state, node_id, since, until, lambda _progress: None)
    if found.phase == "lost":
        raise AtollError(found.text)
    return found


def follow(
    look: Callable[[], ClusterState], node_id: str, since: float, until: float | None, tell: Callable[[Progress], None]
) -> Progress:
    """Look at a drain until it is over.

    Args:
        look: Returns the state.
        node_id: The node, hex.
        since: As for `progress_of`.
        until: As long at most; an instant of `time.monotonic`.
        tell: Called with each progress that differs from the one before.

    Raises:
        TimeoutError: It was not over in time.
    """
    last: Progress | None = None
    while True:
        found = progress_of(look(), node_id, since)
        if found != last:
            last = found
            tell(found)
        if found.over:
            return found
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(f"{found.text}, and waits for: {'; '.join(found.waits_for)}")
        time.sleep(_LOOK_EVERY_S)
