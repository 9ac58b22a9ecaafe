"""How many files a process may have open: asked for when there is no room for a connection."""

from __future__ import annotations

import errno
import resource
import socket

AT_LEAST = 4096


def open_socket() -> socket.socket:
    """Return a Unix socket that does not block. If this process may open no more files, its limit is raised first.

    A connection that cannot be made looks as if the other side were dead, and what is known of it is given up.

    Raises:
        OSError: There is no room, and the system allows no higher limit.
    """
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_limit():
            raise
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _raise_limit() -> bool:
    """Let this process open more files, as far as the system allows it without a privilege. Whether it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(2 * soft, AT_LEAST)
    more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if more <= soft:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return True
