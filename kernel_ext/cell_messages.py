"""What travels between a kernel and the worker that runs its cell.

A request goes as the argument of a task, a result comes as its value or, where the cell raised, inside of
`RemoteCellError`. Output goes beside them while the cell runs, as pieces `(kind, payload)`:

    stdout, stderr     utf-8 text
    display            JSON {data, metadata, transient, update}
    result             JSON {data, metadata}: the cell's last expression
    clear              JSON {wait}
    error              JSON {kind, text, traceback, in_result}: an error that was shown and did not end the cell;
                       `in_result` if it came while the last expression was rendered
    page               JSON {data, start}: help and the like

What is too much to be shown stands only in the cell's record, with `unshown ` before its kind. `again` stands before a
piece that says again what was left out: whoever wants all of it passes that piece over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from atoll.kernel_ext.namespace_pickle import PackedNames

STDOUT = "stdout"
STDERR = "stderr"
DISPLAY = "display"
RESULT = "result"
CLEAR = "clear"
ERROR = "error"
PAGE = "page"
UNSHOWN = "unshown "
AGAIN = "again"


@dataclass
class CellSource:
    """The text of a cell, for tracebacks.

    Attributes:
        text: As it was compiled, with the lines numbered as in the notebook.
        number: The cell's execution count.
    """

    text: str
    number: int


@dataclass
class CellRequest:
    """A cell that is to be run.

    Attributes:
        code: Python, after IPython's transformations; its lines are numbered as in the notebook.
        body: The cell as it was written, without the magic's line.
        filename: What its code is compiled as, the same as in the kernel.
        number: The cell's execution count.
        names: What it reads.
        modules: The modules among them: name to module.
        sources: Other cells whose functions it may call, by file name.
        bring: The names to bring back; None for all that it sets.
        apart: Whether what comes back is the receiver's own, and leaves what was sent as it is: a background cell's.
        keep_last: Whether the value of the last expression comes back.
        keep_state: Run only what leaves an actor's state as it is: definitions, imports, names that are new.
        colors: IPython's colour scheme for tracebacks.
        record: The cell's number in the cluster (`t42`), under which its output is kept; empty for none.
        timeout_s: It is interrupted when it has run so long; 0 for never.
        kept: Whether what it has set stays with the cluster, under its number, and nothing is returned.
        from_cells: Background cells by number, with the names that they have set and this one reads.
        variables: Environment variables that the notebook has changed since its workers' environment was taken; None
            for one that it has removed.
        directory: Its working directory, if that is another by now.
        flags: The compiler's, as earlier cells have left them: `from __future__ import ...`.
    """

    code: str
    body: str
    filename: str
    number: int
    names: PackedNames
    modules: dict[str, str] = field(default_factory=dict)
    sources: dict[str, CellSource] = field(default_factory=dict)
    bring: tuple[str, ...] | None = None
    apart: bool = False
    keep_last: bool = True
    keep_state: bool = False
    colors: str = "nocolor"
    flags: int = 0
    record: str = ""
    timeout_s: float = 0.0
    kept: bool = False
    from_cells: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    directory: str = ""


@dataclass
class CellFailure:
    """How a cell failed.

    Attributes:
        kind: The exception's class name.
        text: The exception's text.
        traceback: Lines as IPython prints them, with the notebook's own cells and line numbers.
        error: The exception itself, packed under `EXCEPTION`; None if it does not pickle.
        frames: Where it came from, with the local variables as text.
    """

    kind: str
    text: str
    traceback: list[str]
    error: PackedNames | None = None
    frames: list[Any] = field(default_factory=list)


@dataclass
class CellResult:
    """What came of a cell.

    Attributes:
        names: What it set, as far as it pickles. The last expression's value is under `LAST`, what became of what it
            was given under `CHANGES`.
        modules: The modules among what it set: name to module.
        deleted: Names that it deleted.
        left_out: Names that stay in the worker, with the reason.
        bound: The names of the values that it set.
        failure: How it failed, if it did; names that were set before that are there.
        seconds: How long it ran.
        changed: Names of what it was given, has changed in place and did not bring back.
        pid: Of the process that ran it.
        node: The host.
        kept: The number under which the cluster has the result itself, where this is what is told of it; else empty.
    """

    names: PackedNames
    modules: dict[str, str] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    failure: CellFailure | None = None
    seconds: float = 0.0
    changed: tuple[str, ...] = ()
    pid: int = 0
    node: str = ""
    bound: tuple[str, ...] = ()
    kept: str = ""


LAST = "the last expression"
"""The name under which the last expression's value travels; a cell cannot set it."""

CHANGES = "what was given"
"""The name under which the changes travel that a cell made in place; see `given.Update`."""

EXCEPTION = "exception"
"""The name under which a cell's exception travels."""


class RemoteCellError(Exception):
    """A cell failed. The task raises it, so that the cluster knows; the kernel shows the cell's own error."""

    def __init__(self, result: CellResult) -> None:
        failure = result.failure
        super().__init__(f"{failure.kind}: {failure.text}" if failure else "")
        self.result = result

    def __reduce__(self) -> tuple[type[RemoteCellError], tuple[CellResult]]:
        return RemoteCellError, (in_band(self.result),)


def in_band(result: CellResult) -> CellResult:
    """Return the result with its buffers as plain bytes, for a pickle that keeps nothing apart."""
    names = result.names
    names.buffers = [
        bytearray(buffer) if writable else bytes(buffer)
        for buffer, writable in zip(names.buffers, names.writable, strict=True)
    ]
    return result


def encode_event(content: dict[str, Any]) -> bytes:
    """Return an output event as bytes. Images and the like are base64 already, other bytes become so."""
    return json.dumps(content, default=_plain, separators=(",", ":")).encode()


def decode_event(payload: bytes) -> dict[str, Any]:
    """Read an output event."""
    content: dict[str, Any] = json.loads(payload)
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        import base64

        return base64.b64encode(value).decode()
    return str(value)
