"""What a remote cell prints and shows, replayed where it belongs.

ShellSink    in the cell that runs now, through IPython: a wrapping `%%capture` gets it too
RoutedSink   in the cell that started the work, from any thread, also when later cells run
PlainSink    where there is no kernel: a terminal, or a worker whose cell calls an actor
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Protocol

from atoll.kernel_ext.cell_messages import CLEAR, DISPLAY, ERROR, PAGE, RESULT, STDERR, STDOUT, decode_event
from atoll.kernel_ext.remote_widgets import as_text


class Sink(Protocol):
    """Shows pieces of output."""

    @property
    def updates(self) -> bool:
        """Whether a display can be replaced by another; in a terminal it cannot."""
        ...

    def text(self, stream: str, text: str) -> None:
        """Show text of `stdout` or `stderr`."""
        ...

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """Show a bundle of representations, or replace the one with the same display id."""
        ...

    def result(self, data: Any, metadata: Any) -> None:
        """Show the value of the last expression."""
        ...

    def clear(self, wait: bool) -> None:
        """Clear what the cell has shown."""
        ...

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """Show an error."""
        ...

    def page(self, data: Any, start: int) -> None:
        """Show help and the like."""
        ...


def replay(kind: str, payload: bytes, sink: Sink) -> None:
    """Show one piece of output. Kinds of later versions are left out."""
    if kind in (STDOUT, STDERR):
        sink.text(kind, payload.decode("utf-8", "replace"))
        return
    if kind not in (DISPLAY, RESULT, CLEAR, ERROR, PAGE):
        return
    event = decode_event(payload)
    if kind == CLEAR:
        sink.clear(bool(event.get("wait")))
    elif kind == ERROR:
        sink.error(event["kind"], event["text"], event["traceback"], bool(event["in_result"]))
    elif kind == PAGE:
        sink.page(event["data"], event["start"])
    else:
        _replay_bundle(kind, event, sink)


def _replay_bundle(kind: str, event: dict[str, Any], sink: Sink) -> None:
    data = as_text(dict(event["data"]))
    if not data and event["data"]:
        return
    if kind == RESULT:
        sink.result(data, event["metadata"])
    else:
        sink.display(data, event["metadata"], event["transient"], bool(event["update"]))


class Rendered:
    """Something that was rendered in a worker, to be shown by a display hook here."""

    def __init__(self, data: Any, metadata: Any) -> None:
        self._data = data
        self._metadata = metadata

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[Any, Any]:
        return self._data, self._metadata

    def __repr__(self) -> str:
        return str(self._data.get("text/plain", ""))


class ShellSink:
    """Shows output in the cell that runs now. To be used from the main thread.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.updates = getattr(shell, "kernel", None) is not None
        self.showed_result = False

    def text(self, stream: str, text: str) -> None:
        """See `Sink`."""
        file = sys.stdout if stream == STDOUT else sys.stderr
        other = sys.stderr if stream == STDOUT else sys.stdout
        other.flush()
        file.write(text)
        file.flush()

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """See `Sink`."""
        self._shell.display_pub.publish(data, metadata, transient=transient, update=update)

    def result(self, data: Any, metadata: Any) -> None:
        """See `Sink`. The value itself follows with what the cell set; see `keep_result`."""
        self.showed_result = True
        hook = self._shell.displayhook
        if sys.displayhook is not hook and hasattr(sys.displayhook, "outputs"):
            sys.displayhook(Rendered(data, metadata))  # `%%capture` is around
            return
        hook.start_displayhook()
        hook.write_output_prompt()
        hook.write_format_data(data, metadata)
        hook.log_output(data)
        hook.finish_displayhook()

    def clear(self, wait: bool) -> None:
        """See `Sink`."""
        self._shell.display_pub.clear_output(wait)

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """See `Sink`."""
        hook = self._shell.displayhook
        if in_result:  # a kernel counts a cell as failed whose value cannot be shown
            hook.start_displayhook()
        self._shell._showtraceback(type(kind, (Exception,), {}), text, lines)
        if in_result:
            hook.msg = None
            hook._is_active = False

    def page(self, data: Any, start: int) -> None:
        """See `Sink`."""
        from IPython.core import page

        page.page(data, start=start)


def keep_result(shell: Any, value: Any) -> None:
    """Make the value of a cell's last expression `_` and `Out[n]`, as IPython does after showing it."""
    hook = shell.displayhook
    hook.check_for_underscore()
    hook.update_user_ns(value)
    hook.fill_exec_result(value)


class RoutedSink:
    """Shows output in the cell whose message is `parent`, whatever runs meanwhile. Safe to use from any thread.

    Args:
        kernel: ipykernel's.
        parent: The message that started the cell.
    """

    updates = True

    def __init__(self, kernel: Any, parent: Any) -> None:
        self._kernel = kernel
        self._parent = parent

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        socket = self._kernel.iopub_socket
        if socket is not None:
            self._kernel.session.send(socket, kind, content, parent=self._parent, ident=kind.encode())

    def text(self, stream: str, text: str) -> None:
        """See `Sink`."""
        self._send("stream", {"name": stream, "text": text})

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """See `Sink`."""
        kind = "update_display_data" if update else "display_data"
        self._send(kind, {"data": data, "metadata": metadata or {}, "transient": transient or {}})

    def result(self, data: Any, metadata: Any) -> None:
        """See `Sink`. A cell that has ended has no `Out[n]` any more, so it is a display."""
        self.display(data, metadata, {}, update=False)

    def clear(self, wait: bool) -> None:
        """See `Sink`."""
        self._send("clear_output", {"wait": wait})

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """See `Sink`."""
        self._send("error", {"ename": kind, "evalue": text, "traceback": lines})

    def page(self, data: Any, start: int) -> None:
        """See `Sink`. There is no reply any more that could open a pager."""
        self.display(data, {}, {}, update=False)


class PlainSink:
    """Shows output as text, and displays through IPython where there is a shell."""

    updates = False

    def text(self, stream: str, text: str) -> None:
        """See `Sink`."""
        print(text, end="", file=sys.stdout if stream == STDOUT else sys.stderr)

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """See `Sink`."""
        shell = sys.modules.get("IPython.core.interactiveshell")
        if shell is not None and shell.InteractiveShell.initialized():
            publisher = shell.InteractiveShell.instance().display_pub
            publisher.publish(data, metadata, transient=transient, update=update)
        elif "text/plain" in data:
            print(data["text/plain"])

    def result(self, data: Any, metadata: Any) -> None:
        """See `Sink`."""
        self.display(data, metadata, {}, update=False)

    def clear(self, wait: bool) -> None:
        """See `Sink`. Text that was printed stays."""

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """See `Sink`."""
        print("\n".join(lines), file=sys.stderr)

    def page(self, data: Any, start: int) -> None:
        """See `Sink`."""
        print(data.get("text/plain", ""))


class NoSink:
    """Shows nothing: `quiet`."""

    updates = False

    def text(self, stream: str, text: str) -> None:
        """See `Sink`."""

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """See `Sink`."""

    def result(self, data: Any, metadata: Any) -> None:
        """See `Sink`."""

    def clear(self, wait: bool) -> None:
        """See `Sink`."""

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """See `Sink`."""

    def page(self, data: Any, start: int) -> None:
        """See `Sink`."""


def sink_here() -> Sink:
    """Return a sink for the cell that runs now; for plain text in other threads, and where there is no shell."""
    module = sys.modules.get("IPython.core.interactiveshell")
    in_main = threading.current_thread() is threading.main_thread()
    if module is None or not in_main or not module.InteractiveShell.initialized():
        return PlainSink()
    return ShellSink(module.InteractiveShell.instance())


def sink_later() -> Sink:
    """Return a sink for output that comes when the cell that runs now has ended; plain text where there is no shell."""
    module = sys.modules.get("IPython.core.interactiveshell")
    if module is None or not module.InteractiveShell.initialized():
        return PlainSink()
    return sink_for_later(module.InteractiveShell.instance())


def sink_for_later(shell: Any) -> Sink:
    """Return a sink for output that comes when the cell that runs now has ended."""
    kernel = getattr(shell, "kernel", None)
    get_parent = getattr(shell, "get_parent", None)
    if kernel is None or get_parent is None:
        return PlainSink()
    return RoutedSink(kernel, get_parent())
