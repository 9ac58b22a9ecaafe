"""From a cell in the kernel to the request that a worker can run: its place, its code, the names that it reads.

Whatever can be known to be wrong is told here, before anything is sent: a syntax error, a name that is certainly
missing, a value that does not pickle.
"""

from __future__ import annotations

import builtins
import linecache
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from atoll.kernel_ext.analysis import CellNames, analyse
from atoll.kernel_ext.cell_messages import CellRequest, CellSource
from atoll.kernel_ext.errors import MissingNameError, UnsendableError, syntax_error
from atoll.kernel_ext.namespace_pickle import AllBut, Namespace, PackedNames, pack_names, split_names, why_not

WORKERS_OWN = frozenset({"get_ipython", "exit", "quit", "open", "display", "_dh", "_ih", "_oh"})
"""Names that IPython gives every namespace; a cell finds the worker's."""


@dataclass(frozen=True)
class CellPlace:
    """Where a cell stands in the notebook.

    Attributes:
        filename: What the kernel compiles it as.
        number: Its execution count.
        lines_before: How many lines the cell has before its body: the magic's own, and what stands above it.
        head: These lines.
    """

    filename: str
    number: int
    lines_before: int
    head: tuple[str, ...]


def locate_cell(shell: Any, body: str) -> CellPlace:
    """Find the cell that runs now.

    Args:
        shell: IPython's.
        body: What the magic was given.
    """
    filename = _running_filename(shell)
    number = int(shell.compile._filename_map.get(filename, shell.execution_count))
    raw = _raw_cell(shell)
    raw, tail = raw.rstrip("\n"), body.rstrip("\n")
    whole = raw.endswith(tail) and bool(tail.strip())
    head = raw[: len(raw) - len(tail)].splitlines() if whole else ["%%remote"]
    return CellPlace(filename, number, len(head), tuple(head))


def _running_filename(shell: Any) -> str:
    """Return the file name of the cell's own code: the outermost frame that runs in the user's namespace."""
    found = "<cell>"
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is shell.user_ns and frame.f_code.co_filename in shell.compile._filename_map:
            found = frame.f_code.co_filename
        frame = frame.f_back
    return found


def _raw_cell(shell: Any) -> str:
    """Return the whole text of the cell, where the front end has told it."""
    get_parent = getattr(shell, "get_parent", None)
    parent = get_parent() if get_parent is not None else None
    if isinstance(parent, dict):
        content = parent.get("content") or {}
        return str(content.get("code", ""))
    return ""


@dataclass(frozen=True)
class CellText:
    """A cell as text, read and found to be Python.

    Attributes:
        place: Where it stands.
        body: As it was written, without the magic's line.
        code: As Python, its lines numbered as in the notebook.
        names: What it reads and sets.
        source: For tracebacks.
    """

    place: CellPlace
    body: str
    code: str
    names: CellNames
    source: CellSource


def read_cell(shell: Any, body: str) -> CellText:
    """Read the cell that runs now.

    Args:
        shell: IPython's.
        body: What the magic was given.

    Raises:
        CellError: It is no Python.
    """
    place = locate_cell(shell, body)
    code = _code_of(shell, body, place)
    source = remember_source(place, code)
    try:
        names = analyse(code, place.filename, shell.compile.flags)
    except SyntaxError as error:
        raise syntax_error(error, _syntax_lines(shell, error)) from None
    return CellText(place, body, code, names, source)


def request_of(
    shell: Any,
    text: CellText,
    *,
    take: tuple[str, ...] | None = None,
    bring: tuple[str, ...] | None = None,
    there: Iterable[str] = (),
    stays: bool = False,
    apart: bool = False,
) -> CellRequest:
    """Make a request of a cell: pack what it reads.

    Args:
        shell: IPython's.
        text: The cell.
        take: The names to take along; None for all that it reads.
        bring: The names to bring back; None for all that it sets.
        there: Names that the worker has already: an actor's state.
        stays: Whether the functions that it defines will be called there, in an actor.
        apart: Whether what comes back leaves what is sent as it is.

    Raises:
        MissingNameError: It reads a name that nobody has.
        UnsendableError: It reads a value that does not pickle.
    """
    present = frozenset(there)
    _check_missing(text, shell.user_ns, present)
    reads = (*text.names.reads, *text.names.later) if stays else text.names.reads
    values = wanted_values(reads, shell.user_ns, take, present)
    if text.names.open and take is None:
        values.update(whatever_travels(shell.user_ns, values, present))
    with_history(values)
    modules, values = split_modules(values)
    packed = pack_or_tell(values, shell.user_ns, present)
    sources = known_sources(shell, packed.code_files)
    sources[text.place.filename] = text.source
    return CellRequest(
        code=text.code,
        body=text.body,
        filename=text.place.filename,
        number=text.place.number,
        names=packed,
        modules=modules,
        apart=apart,
        sources=sources,
        bring=bring,
        colors=str(shell.colors),
        flags=shell.compile.flags,
    )


def _code_of(shell: Any, body: str, place: CellPlace) -> str:
    """Return the cell as Python, its lines numbered as in the notebook."""
    try:
        transformed: str = shell.transform_cell(body)
    except SyntaxError as error:
        if error.lineno is not None:
            error.lineno += place.lines_before
        raise syntax_error(error, _syntax_lines(shell, error)) from None
    # IPython drops empty lines at the beginning; they count all the same.
    lines = body.splitlines()
    empty = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    return "\n" * (place.lines_before + empty) + transformed


def remember_source(place: CellPlace, code: str) -> CellSource:
    """Make the cell's own lines known to tracebacks here, instead of the call that IPython made of it."""
    lines = code.split("\n")
    for index, line in enumerate(place.head):
        lines[index] = f"# {line}" if line.strip() else ""
    text = "\n".join(lines)
    if place.filename != "<cell>":
        linecache.cache[place.filename] = (len(text), None, text.splitlines(keepends=True), place.filename)
    return CellSource(text, place.number)


def _syntax_lines(shell: Any, error: SyntaxError) -> list[str]:
    lines: list[str] = shell.SyntaxTB.structured_traceback(type(error), error, [])
    return lines


def _check_missing(text: CellText, namespace: Namespace, there: frozenset[str]) -> None:
    lines = text.source.text.splitlines()
    for name, line in text.names.certain:
        known = name in namespace or name in there or name in WORKERS_OWN or hasattr(builtins, name)
        if not known and not (name.startswith("__") and name.endswith("__")):
            raise MissingNameError(name, line, lines[line - 1], text.place.number)


def wanted_values(
    reads: Iterable[str], namespace: Namespace, take: tuple[str, ...] | None, there: frozenset[str] = frozenset()
) -> Namespace:
    """Return the names that go along, with their values.

    Raises:
        MissingNameError: A name that was asked for is not there.
    """
    if take is not None:
        for name in take:
            if name not in namespace:
                raise MissingNameError(name)
        return {name: namespace[name] for name in take}
    return {
        name: namespace[name]
        for name in reads
        if name in namespace and name not in WORKERS_OWN and name not in there and not name.startswith("__")
    }


def whatever_travels(namespace: Namespace, values: Namespace, there: frozenset[str]) -> Namespace:
    """Return all other names that can go along, for a cell whose text does not tell what it reads."""
    others = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in values and name not in WORKERS_OWN | there | {"In", "Out"}
    }
    modules, rest = split_modules(others)
    carry = AllBut(there | WORKERS_OWN)
    kept = {name: value for name, value in rest.items() if why_not(name, value, namespace, carry) is None}
    return {**kept, **{name: namespace[name] for name in modules}}


def with_history(values: Namespace) -> None:
    """Leave of `Out` what can travel, if the cell reads it: one result that cannot must not stop all others."""
    history = values.get("Out")
    if isinstance(history, dict):
        values["Out"] = {number: value for number, value in history.items() if why_not("", value, {}) is None}


def split_modules(values: Namespace) -> tuple[dict[str, str], Namespace]:
    """Part modules, which travel by name, from other values."""
    modules: dict[str, str] = {}
    others: Namespace = {}
    for name, value in values.items():
        if isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
            modules[name] = value.__name__
        else:
            others[name] = value
    return modules, others


def pack_or_tell(values: Namespace, namespace: Namespace, there: frozenset[str] = frozenset()) -> PackedNames:
    """Pack names, or tell which variable does not pickle and why.

    Raises:
        UnsendableError: One does not.
    """
    carry = AllBut(there | WORKERS_OWN)
    try:
        return pack_names(values, namespace, carry, remember=True)
    except Exception as error:
        _packed, reasons = split_names(values, namespace, carry)
        if not reasons:  # each pickles alone: what failed is their combination
            raise UnsendableError({", ".join(values): str(error)}) from error
        raise UnsendableError(reasons) from error


def known_sources(shell: Any, filenames: Iterable[str]) -> dict[str, CellSource]:
    """Return the text of cells whose functions go along."""
    found = {}
    for filename in filenames:
        entry = linecache.cache.get(filename)
        number = shell.compile._filename_map.get(filename)
        if number is not None and entry is not None and len(entry) == 4:
            found[filename] = CellSource("".join(entry[2]), int(number))
    return found
