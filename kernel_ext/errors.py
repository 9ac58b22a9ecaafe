"""Errors of remote cells as a notebook shows them.

IPython asks an exception for `_render_traceback_()` before it makes a traceback of its own. So the user's own
exception is raised in the kernel, with the worker's traceback attached: the right type, the cell's own lines, no frame
of ours.

    SyntaxError and exception groups are not asked by IPython. They are shown by a stand-in of the same name.
"""

from __future__ import annotations

from typing import Any

from atoll.exceptions import AtollError, OutOfMemoryError, SerializationError, WorkerCrashedError
from atoll.kernel_ext.cell_messages import EXCEPTION, CellFailure, CellResult
from atoll.kernel_ext.namespace_pickle import Namespace, unpack_names
from atoll.resources import format_bytes, written_size

SEND_AGAIN = "Nothing here has changed. Run the cell again, or with retries=2, which tries it again by itself"
"""What to do about a cell whose worker has died."""


class CellError(Exception):
    """What a cell raised, where the exception itself cannot be shown or did not travel.

    `kind` is what it is called; `original` is the exception, if there is one.
    """

    def __init__(self, kind: str, text: str, lines: list[str], original: BaseException | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.original = original
        self._lines = lines

    def _render_traceback_(self) -> list[str]:
        return self._lines


def named_error(kind: str, text: str, lines: list[str], original: BaseException | None = None) -> CellError:
    """Return a `CellError` whose class has the name of the exception, which is what a notebook shows and stores."""
    named = type(kind, (CellError,), {"__module__": __name__, "__doc__": f"Stands for a {kind} of a remote cell."})
    error: CellError = named(kind, text, lines, original)
    return error


def syntax_error(error: SyntaxError, lines: list[str]) -> CellError:
    """Return what is raised for a cell that is no Python; nothing was sent. Shown as IPython shows it."""
    return named_error(type(error).__name__, str(error), lines, error)


class _OneLine:
    """Shown as one line, without a traceback: the message says it all."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__.lstrip('_')}: {self}"]


class MissingNameError(_OneLine, NameError):
    """The cell reads a name that nobody has; nothing was sent."""

    def __init__(self, missing: str, line: int = 0, text: str = "", number: int = 0) -> None:
        super().__init__(f"name '{missing}' is not defined", name=missing)
        self._place = (line, text, number)

    def _render_traceback_(self) -> list[str]:
        line, text, number = self._place
        shown = [f"Cell In[{number}], line {line}", f"----> {line} {text}", ""] if text else []
        return [*shown, f"NameError: {self} (nothing was sent)"]


MissingNameError.__name__ = "NameError"


class UnsendableError(_OneLine, SerializationError):
    """The cell reads values that do not pickle; nothing was sent."""

    def __init__(self, reasons: dict[str, str]) -> None:
        told = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        which = "it" if len(reasons) == 1 else "them"
        super().__init__(f"cannot take along {told}. Make {which} inside of the cell, or leave {which} out with in=…")
        self.reasons = reasons


UnsendableError.__name__ = "SerializationError"


class ActorNameTakenError(_OneLine, AtollError, ValueError):
    """Another actor holds the name."""


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a remote cell, and it was cancelled."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


CellInterrupted.__name__ = "KeyboardInterrupt"


def one_line(error: BaseException) -> BaseException:
    """Return an error of the cluster so that a notebook shows its message and not our frames."""
    if isinstance(error, OutOfMemoryError) and error.used_bytes:
        said = _out_of_memory(error)
    elif isinstance(error, WorkerCrashedError) and error.advice:
        said = f"{error.args[0]}. {SEND_AGAIN}"
    else:
        said = str(error)
    text = f"{type(error).__name__}: {said}"
    return shown_as(error, [text]) or named_error(type(error).__name__, str(error), [text], error)


def _out_of_memory(error: OutOfMemoryError) -> str:
    """Return what to do about a cell that ran out of memory, in the words of its first line."""
    used = f"the cell used {format_bytes(error.used_bytes)} of memory at its peak"
    size = written_size(error.advised_bytes)
    if error.asked_bytes:
        used += f", and mem={written_size(error.asked_bytes)} was set aside for it"
    else:
        used += ", nothing was set aside for it, and its node had no more"
    return f"{used}. Nothing here has changed. Run it again with mem={size}, or with mem=auto."


class _Lines:
    """Returns lines when it is called; pickles, so that an exception that has it still does."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self) -> list[str]:
        return self._lines


def shown_as(error: BaseException, lines: list[str]) -> BaseException | None:
    """Attach the lines that IPython is to show, where the exception takes them."""
    if isinstance(error, (SyntaxError, BaseExceptionGroup)):
        return None
    if isinstance(error, SystemExit):  # IPython has its own way for it
        return error
    try:
        error._render_traceback_ = _Lines(lines)  # type: ignore[attr-defined]
    except AttributeError:
        return None
    return error


def has_own_lines(error: BaseException) -> bool:
    """Whether an error brings the lines that IPython is to show, and not only its traceback without our frames."""
    render = getattr(error, "_render_traceback_", None)
    return render is not None and getattr(render, "__func__", None) is not AtollError._render_traceback_


def failure_to_raise(result: CellResult, namespace: Namespace, title: str) -> BaseException:
    """Return the exception that a failed cell raises in the kernel.

    Args:
        result: Of the cell; it has a failure.
        namespace: The user's, to which functions in the exception are bound.
        title: What ran, for the line that says where: `%%remote`.
    """
    failure = result.failure
    assert failure is not None, "only failed cells raise"
    lines = with_header(failure, f"{title} on {result.node} (pid {result.pid})")
    error = _original(failure, namespace)
    if error is not None:
        error.__traceback__ = None
        shown = shown_as(error, lines)
        if shown is not None:
            return shown
    return named_error(failure.kind, failure.text, lines, error)


def _original(failure: CellFailure, namespace: Namespace) -> BaseException | None:
    if failure.error is None:
        return None
    try:
        error = unpack_names(failure.error, namespace)[EXCEPTION]
    except Exception:  # an exception whose own code fails here is shown by its text and traceback
        return None
    return error if isinstance(error, BaseException) else None


def with_header(failure: CellFailure, where: str) -> list[str]:
    """Return the traceback's lines with one that says where the cell ran."""
    lines = list(failure.traceback)
    if not lines:
        return [where, f"{failure.kind}: {failure.text}"]
    at = 1 if set(_plain(lines[0]).strip()) == {"-"} and len(lines) > 1 else 0
    lines.insert(at, where)
    return lines


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def cell_result_of(error: BaseException) -> CellResult | None:
    """Return the result of a cell that raised in a task, from what the task's future raised; None for other errors."""
    from atoll.kernel_ext.cell_messages import RemoteCellError

    seen: Any = error
    while seen is not None:
        if isinstance(seen, RemoteCellError) and "result" in getattr(seen, "__dict__", {}):
            result: CellResult = seen.result
            return result
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) and cause is not seen else None
    return None
