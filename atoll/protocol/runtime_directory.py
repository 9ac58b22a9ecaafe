"""Where a cluster keeps its sockets and files, and the checks that make the place ours alone.

    <runtime directory>/             Jupyter's, or ATOLL_RUNTIME_DIR; ours, and nobody else may write to it
    ├── atoll-<host>.json            the connection file (atoll.protocol.cluster_file), 0600
    ├── atoll-<host>.lock            held while somebody looks for, starts or stops a cluster
    └── atoll-<host>-<cluster id>/   the session directory, 0700: sockets, logs/, journal

The permissions of this place are the first half of Atoll's trust (the proof of the key is the second): what stands
in a 0700 directory of ours cannot be reached, replaced or read by another user, whatever the umask was. So nothing is
repaired here. A directory that somebody else owns, that is a symbolic link or that others can write to may have been
planted, and it is refused (claim S9).

A path of a Unix socket has at most 107 bytes on Linux and 103 on macOS. Where the runtime directory is too deep for
that, the session directory is made under the temporary directory, by a name that cannot be guessed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from atoll.exceptions import ClusterStartError, InsecureDirectoryError

MAXIMUM_SOCKET_PATH_BYTES = 103
"""The longest path of a Unix socket that every system takes."""

LONGEST_SOCKET_NAME_BYTES = 32
"""Room for a socket's name within the session directory: `workers/<16 hex digits>.sock` fits."""

PREFIX = "atoll-"

SPILL_LINK = "spill"
"""In the session directory: the directory of spill files, or a link to the one that the user has chosen."""

SPILL_PREFIX = "atoll-spill-"


def host_name() -> str:
    """Return the host's name in a form that may stand in a file name."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()).strip(".")[:64] or "localhost"


def runtime_root() -> Path:
    """Return the directory of connection files: ATOLL_RUNTIME_DIR, JUPYTER_RUNTIME_DIR, or what Jupyter uses.

    It need not exist yet.
    """
    for variable in ("ATOLL_RUNTIME_DIR", "JUPYTER_RUNTIME_DIR"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser().absolute()
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def make_runtime_root(path: Path) -> None:
    """Make the runtime directory if it is missing, and check it.

    Raises:
        InsecureDirectoryError: It is not ours, or others can write to it.
        ClusterStartError: It cannot be made.
    """
    if not os.path.lexists(path):
        try:
            _make_with_parents(path)
        except OSError as error:
            raise ClusterStartError(f"cannot make the runtime directory {path}: {error.strerror}") from None
    check_directory(path, private=False)


def _make_with_parents(path: Path) -> None:
    """Make a directory and the missing ones above it, each 0700: pathlib would leave those above to the umask."""
    if not os.path.lexists(path.parent):
        _make_with_parents(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)


def check_directory(path: Path, *, private: bool = True) -> None:
    """Make sure that a directory is ours.

    Args:
        path: The directory.
        private: Whether others must not even read it, as for a session directory. Else they may read, not write.

    Raises:
        InsecureDirectoryError: It is a symbolic link, no directory, somebody else's, or open to others.
        FileNotFoundError: There is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InsecureDirectoryError(
            f"{path} is not a directory of ours ({error.strerror}); it may be a planted link: look at it and remove it"
        ) from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    check_status(path, status, 0o077 if private else 0o022)


def check_status(path: Path, status: os.stat_result, forbidden_mode: int) -> None:
    """Make sure that something is ours and that none of the forbidden permissions is given.

    Raises:
        InsecureDirectoryError: With what to do about it.
    """
    if status.st_uid != os.geteuid():
        raise InsecureDirectoryError(
            f"{path} belongs to user {status.st_uid}, not to us ({os.geteuid()}); "
            "remove it, or set ATOLL_RUNTIME_DIR to a directory of your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden_mode:
        raise InsecureDirectoryError(
            f"{path} has mode {mode:04o}: other users can reach it; run `chmod {mode & ~forbidden_mode:04o} {path}` "
            "if you are sure that nobody has changed what is in it"
        )


def make_session_directory(root: Path, host: str, cluster_id: str) -> Path:
    """Make the session directory of a new cluster, with `logs/` and `workers/` in it. Nothing may be there before.

    Raises:
        InsecureDirectoryError: Something is there, or the runtime directory is not ours.
        ClusterStartError: It cannot be made, or no place is short enough for sockets.
    """
    make_runtime_root(root)
    directory = root / f"{PREFIX}{host}-{cluster_id}"
    try:
        if fits_sockets(directory):
            directory.mkdir(mode=0o700)
        else:
            directory = Path(tempfile.mkdtemp(prefix=PREFIX))
            if not fits_sockets(directory):
                directory.rmdir()
                directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        directory.chmod(0o700)
        for name in ("logs", "workers"):
            (directory / name).mkdir(mode=0o700)
            (directory / name).chmod(0o700)
    except FileExistsError:
        raise InsecureDirectoryError(f"{directory} is there already, and we did not make it; remove it") from None
    except OSError as error:
        raise ClusterStartError(f"cannot make the session directory {directory}: {error.strerror}") from None
    check_directory(directory)
    return directory


def fits_sockets(directory: Path) -> bool:
    """Tell whether the path of a socket in this directory stays within what every system takes."""
    return len(os.fsencode(directory)) + 1 + LONGEST_SOCKET_NAME_BYTES <= MAXIMUM_SOCKET_PATH_BYTES


def remove_session_directory(directory: Path) -> None:
    """Remove a session directory and all that is in it. One that is gone already is fine.

    Raises:
        InsecureDirectoryError: It is not a session directory of ours.
    """
    if not directory.name.startswith(PREFIX):
        raise InsecureDirectoryError(f"{directory} is no session directory of a cluster; it is not removed")
    try:
        check_directory(directory)
    except FileNotFoundError:
        return
    _remove_spill_directory(directory)
    # Daemons that end at the same time may remove files under our hands.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def make_spill_directory(directory: Path, chosen: Path | None) -> Path:
    """Make the directory of a cluster's spill files, or find the one that is there.

    Args:
        directory: The session directory.
        chosen: Where the user wants them; None for the session directory itself.

    Returns:
        Where the files are to be.

    Raises:
        InsecureDirectoryError: What is there is not ours alone.
        OSError: It cannot be made.
    """
    link = directory / SPILL_LINK
    if chosen is None:
        link.mkdir(mode=0o700, exist_ok=True)
        check_directory(link)
        return link
    target = chosen.resolve(strict=True) / f"{SPILL_PREFIX}{directory.name}"
    target.mkdir(mode=0o700, exist_ok=True)
    check_directory(target)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(target)
    if link.readlink() != target:
        raise InsecureDirectoryError(f"{link} leads elsewhere than to {target}; remove it")
    return target


def _remove_spill_directory(directory: Path) -> None:
    """Remove the spill directory that a session directory leads to, if the user has chosen one."""
    with contextlib.suppress(OSError, InsecureDirectoryError):
        target = (directory / SPILL_LINK).readlink()
        if target.name == f"{SPILL_PREFIX}{directory.name}":
            check_directory(target)
            shutil.rmtree(target)


def open_private(path: Path, flags: int) -> int:
    """Open a file that is to be ours alone and return its descriptor: mode 0600 whatever the umask, no link followed.

    Args:
        path: In a directory that was checked.
        flags: As for `os.open`, for example `os.O_WRONLY | os.O_CREAT | os.O_APPEND`.

    Raises:
        InsecureDirectoryError: What is there is a link, no regular file, somebody else's, or open to others.
        OSError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise InsecureDirectoryError(f"{path} is a symbolic link, which we never make; remove it") from None
        raise error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InsecureDirectoryError(f"{path} is no regular file; remove it")
        check_status(path, status, 0o077)
        if flags & os.O_CREAT:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
