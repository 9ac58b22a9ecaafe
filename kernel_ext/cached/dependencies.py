"""What a kept result depends on besides its key: files, directories, variables and modules as they looked at its run.

Before a cell runs, the paths that its code and its values name, and those of `files=`, are looked at. After it, what
the worker saw it read is added, and what the cell itself has written is taken out. The result is used as long as
everything still looks the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import msgspec

from atoll.environment import passes_on
from atoll.kernel_ext.cached.files import ABSENT, FileLooks, TooManyFiles
from atoll.kernel_ext.cached.modules import ModuleFinder
from atoll.kernel_ext.cached.observed import Observed


class Dependencies(msgspec.Struct, frozen=True):
    """What a result depends on, and what it looked like.

    Attributes:
        files: Paths, relative ones as they were named.
        lists: Directories whose lists were read.
        modules: The user's own modules that were loaded.
        variables: Environment variables, None for those that were not set.
        names: Names of the cluster, and the objects that had them, in hex; empty for none.
        directory: The working directory, where absolute paths below it were read; else empty.
    """

    files: dict[str, str] = {}
    lists: dict[str, str] = {}
    modules: dict[str, str] = {}
    variables: dict[str, str | None] = {}
    names: dict[str, str] = {}
    directory: str = ""


class ChangedMeanwhile(Exception):
    """Something that a result depends on changed while it was computed."""


def named_files(files: FileLooks, texts: Iterable[str], paths: Iterable[str], asked: Iterable[str]) -> dict[str, str]:
    """Return what the files look like that code and values name.

    Args:
        files: Looks at them.
        texts: Texts of the code, most of which name none.
        paths: Paths among the values.
        asked: What the user has named.

    Raises:
        TooManyFiles: The user has named a directory with too much below it.
    """
    found = {path: files.look(path) for path in asked}
    here = os.getcwd()  # noqa: PTH109
    for path in (*texts, *paths):
        if path in found or _is_around(path, here):
            continue
        try:
            found[path] = files.look(path)
        except TooManyFiles:  # too much to look at for something that may be no path at all; what is listed is seen
            continue
    return found


def _is_around(path: str, here: str) -> bool:
    """Whether a text names the working directory or one above it, or all in it: more than a cell means by it.

    `from module import *` has such a text.
    """
    place = os.path.normpath(os.path.join(here, path))  # noqa: PTH118
    while place.rpartition(os.sep)[2] in ("*", "**"):
        place = os.path.dirname(place)  # noqa: PTH120
    return place == here or here.startswith(place.rstrip(os.sep) + os.sep)


def dependencies_of(
    before: Mapping[str, str], observed: Observed, variables: Mapping[str, str], files: FileLooks
) -> Dependencies:
    """Return what a result depends on.

    Args:
        before: What the named files looked like before the cell ran.
        observed: What the cell was seen to do.
        variables: The kernel's environment variables before it ran.
        files: Looks at files.

    Raises:
        ChangedMeanwhile: One of them looks different now, or the result cannot be kept for another reason.
    """
    if observed.unsure:
        raise ChangedMeanwhile(observed.unsure)
    here = os.getcwd()  # noqa: PTH109
    named: dict[str, str] = {}
    for path, look in before.items():
        if _was_written(path, observed.written):
            continue
        if files.look(path) != look:
            raise ChangedMeanwhile(f"{path} changed while the cell ran")
        named[path] = look
    absolute = [path for path in (*observed.files, *observed.lists) if os.path.isabs(path)]  # noqa: PTH117
    return Dependencies(
        named | observed.files,
        observed.lists,
        observed.modules,
        {name: variables.get(name) for name in observed.variables if passes_on(name)},
        observed.names,
        here if any(path.startswith(here + os.sep) for path in absolute) else "",
    )


def _was_written(path: str, written: list[str]) -> bool:
    place = os.path.abspath(path)  # noqa: PTH100
    return any(other == place or other.startswith(place + os.sep) for other in written)


def changes(
    kept: Dependencies,
    files: FileLooks,
    modules: ModuleFinder,
    variables: Mapping[str, str],
    object_of: Callable[[str], str],
) -> list[tuple[str, str]]:
    """Return what looks different now: pairs of kind and name.

    Args:
        kept: What it looked like.
        files: Looks at files.
        modules: Looks at modules.
        variables: The environment's.
        object_of: Returns which object has a name of the cluster.
    """
    found: list[tuple[str, str]] = []
    for path, look in kept.files.items():
        try:
            now = files.look(path)
        except TooManyFiles:
            now = ""
        if now != look:
            kind = "new file" if look == ABSENT else "gone file" if now == ABSENT else "file"
            found.append((kind, path))
    found += [("list", path) for path, look in kept.lists.items() if files.names(path) != look]
    own = modules.look(kept.modules).own
    found += [("module", name) for name, digest in kept.modules.items() if own.get(name) != digest]
    found += [("variable", name) for name, value in kept.variables.items() if variables.get(name) != value]
    found += [("name", name) for name, object_id in kept.names.items() if object_of(name) != object_id]
    if kept.directory and kept.directory != os.getcwd():  # noqa: PTH109
        found.append(("directory", ""))
    return found
