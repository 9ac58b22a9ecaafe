"""What the cluster keeps for notebooks: names that outlive a kernel, and what `%%cached` cells have computed.

`%persist df` is `atoll.cache["df"] = df`, and `%restore df` binds what has that name: writable, as everything in a
notebook is, and without a copy: large arrays are private mappings of the shared memory that they lie in.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import atoll
from atoll.kernel_ext.background.kept import is_name
from atoll.kernel_ext.cached.entries import PREFIX, FactsDirectory
from atoll.kernel_ext.cached.reasons import hints, maker, moment
from atoll.kernel_ext.engine.contract import Engine
from atoll.kernel_ext.errors import one_line
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.lines import duration
from atoll.kernel_ext.namespace_pickle import Namespace, pack_names, unpack_names
from atoll.kernel_ext.views import View
from atoll.plain_text import counted
from atoll.protocol.values import NameInfo
from atoll.resources import format_bytes


def persist(namespace: Namespace, names: Sequence[str], under: str | None) -> list[str]:
    """Give values names in the cluster; return a line for each.

    Args:
        namespace: The notebook's.
        names: Of variables.
        under: The name in the cluster, of one variable; its own if None.

    Raises:
        MagicUsageError: There is no such variable, or several are to have one name.
    """
    if under is not None and len(names) != 1:
        raise MagicUsageError("as= names one variable: %persist df as=sales")
    _check_name(under)
    for name in names:
        if name not in namespace:
            raise MagicUsageError(f"there is no variable {name}")
    lines = []
    for name in names:
        known = under or name
        try:
            atoll.cache[known] = namespace[name]
        except Exception as error:
            raise one_line(error) from None
        told = f"{name} is kept as {known}" if known != name else f"{name} is kept"
        lines.append(f"{told} ({_size(known)}): %restore {known} brings it back in any notebook")
    return lines


def _check_name(name: str | None) -> None:
    if name is not None and name.startswith(PREFIX):
        raise MagicUsageError(f"names that begin with {PREFIX.strip()} belong to cached cells")


def _size(name: str) -> str:
    return next((format_bytes(info.size_bytes) for info in atoll.cache.entries() if info.name == name), "gone")


def restore(engine: Engine, namespace: Namespace, names: Sequence[str], to: str | None) -> list[str]:
    """Bind values that have a name in the cluster; return a line for each.

    Args:
        engine: The cluster.
        namespace: The notebook's.
        names: In the cluster; none for all that can be names of variables.
        to: The variable for one name; the name itself if None.

    Raises:
        MagicUsageError: There is no such name, or several are to be one variable.
    """
    there = named(engine.names())
    wanted = list(names) or [info.name for info in there if info.name.isidentifier()]
    if to is not None and len(names) != 1:
        raise MagicUsageError("as= names one variable: %restore sales as=df")
    if to is not None and not to.isidentifier():
        raise MagicUsageError(f"as={to} is no Python name; write for example as=df")
    if not wanted:
        raise MagicUsageError("no name is kept; %persist df keeps one")
    known = {info.name: info for info in there}
    for name in wanted:
        if name not in known:
            others = ", ".join(known) or "none is kept"
            raise MagicUsageError(f"the cluster has nothing under the name {name}: {others}")
    lines = []
    for name in wanted:
        variable = to or name
        try:
            namespace[variable] = own(atoll.cache[name], namespace)
        except Exception as error:
            raise one_line(error) from None
        told = name if variable == name else f"{variable}, kept as {name}"
        lines.append(f"{told} is back ({format_bytes(known[name].size_bytes)})")
    return lines


def own(value: Any, namespace: Namespace) -> Any:
    """Return a value of the cluster as a notebook's own: its arrays can be written to, and are not copied before."""
    packed = pack_names({"value": value}, namespace)
    packed.writable = [True] * len(packed.buffers)
    return unpack_names(packed, namespace)["value"]


def named(names: Iterable[NameInfo]) -> list[NameInfo]:
    """Return the names that users have given."""
    ready = (info for info in names if info.state == "ready")
    return [info for info in ready if not info.name.startswith(PREFIX) and not is_name(info.name)]


def names_view(engine: Engine) -> View:
    """Return what has a name: `%persist` alone."""
    now = time.time()
    rows = tuple(
        (info.name, format_bytes(info.size_bytes), moment(info.created, now))
        for info in sorted(named(engine.names()), key=lambda info: info.name)
    )
    return View(counted(len(rows), "name"), ("NAME", ">SIZE", "KEPT"), rows, "keep one with %persist df")


def cached_view(engine: Engine) -> View:
    """Return what cached cells have kept: `%cached`."""
    now = time.time()
    there = {info.name: info for info in engine.names() if info.name.startswith(PREFIX)}
    known = {facts.name: facts for facts in FactsDirectory(engine.directory()).all(there)}
    rows = []
    for info in sorted(there.values(), key=lambda info: -info.created):
        facts = known.get(info.name)
        if facts is None or info.state != "ready":
            label = info.name.removeprefix(PREFIX).partition(" #")[0]
            rows.append((label, info.state, "-", "-", "-", ""))
            continue
        rows.append(
            (
                ", ".join(facts.keeps) or "output",
                format_bytes(info.size_bytes),
                moment(facts.computed, now),
                maker(facts, engine.job()),
                duration(facts.seconds),
                hints(facts.notes).removeprefix("note: "),
            )
        )
    headings = ("KEEPS", ">SIZE", "COMPUTED", "BY", ">IN", "NOTE")
    return View(counted(len(rows), "cached result"), headings, tuple(rows), "write %%cached above a cell")


def uncache(engine: Engine, names: Sequence[str], *, everything: bool) -> str:
    """Forget what cached cells have kept; return what was done, in a sentence.

    Args:
        engine: The cluster.
        names: The results that hold one of these go.
        everything: Whether all go.

    Raises:
        MagicUsageError: There is none of these names.
    """
    directory = FactsDirectory(engine.directory())
    wanted = set(names)
    gone = 0
    for info in engine.names():
        if info.state != "ready" or not info.name.startswith(PREFIX):
            continue
        label = info.name.removeprefix(PREFIX).rpartition(" #")[0]
        if everything or not wanted.isdisjoint(label.split(", ")):
            gone += engine.drop(info.name)
            directory.remove(info.name)
    if not gone and not everything:
        raise MagicUsageError(f"no cached result holds {' or '.join(names)}; %cached shows what is kept")
    return f"{counted(gone, 'cached result')} forgotten"


def cached_names(engine: Engine) -> list[str]:
    """Return the names that cached cells have kept, for completion."""
    labels = [info.name.removeprefix(PREFIX).rpartition(" #")[0] for info in engine.names() if PREFIX in info.name]
    return sorted({name for label in labels for name in label.split(", ")})
