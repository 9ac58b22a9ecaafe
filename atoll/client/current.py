"""The one session of this process, which refs, calls and magics use without being told.

The package itself sets how one is begun: what is down here does not know the API. A process that is forked off does not
inherit the session, whose sockets are its parent's: it begins one of its own when it needs one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atoll.exceptions import ClusterNotFoundError

if TYPE_CHECKING:
    from atoll.client.session import Session

_current: Session | None = None
_begin: Callable[[], Any] | None = None


def _forget() -> None:
    global _current
    _current = None


os.register_at_fork(after_in_child=_forget)


def begin_with(begin: Callable[[], Any]) -> None:
    """Set what begins a session, and makes it the current one, when there is none and one is needed."""
    global _begin
    _begin = begin


def set_current_session(session: Session | None) -> None:
    """Make a session the one that this process's refs and calls use."""
    global _current
    _current = session


def existing_session() -> Session | None:
    """Return this process's session, or None."""
    return _current if _current is not None and not _current.closed else None


def current_session() -> Session:
    """Return this process's session, beginning one if there is none.

    Raises:
        ClusterError: There is no cluster, and none could be started.
    """
    session = existing_session()
    if session is None:
        if _begin is None:
            raise ClusterNotFoundError("this process has no session with a cluster; call atoll.init() first")
        _begin()
        session = existing_session()
    assert session is not None
    return session
