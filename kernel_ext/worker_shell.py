"""IPython in a worker: what makes a remote cell a cell.

Not a kernel: no sockets, no history, no prompt. It runs one cell at a time in the namespace that it is given, with
everything that IPython does for a cell (magics, `display`, rich reprs, top-level await, inline figures at the end), and
hands what is shown to the cell's `OutputPort`.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from atoll.kernel_ext.cell_messages import CLEAR, DISPLAY, ERROR, PAGE, RESULT, CellRequest
from atoll.kernel_ext.errors import has_own_lines
from atoll.kernel_ext.remote_widgets import WIDGET_VIEW, show_bar
from atoll.kernel_ext.worker_output import OutputPort
from atoll.tracebacks import without_ours


class CellCompiler(CachingCompiler):  # type: ignore[misc]
    """Compiles the cell under the file name that it has in the kernel, with its lines as they are there."""

    request: CellRequest | None = None

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """IPython's hook: the file name for a piece of code."""
        if self.request is not None and raw_code == self.request.body:
            return self.request.filename
        name: str = super().get_code_name(raw_code, transformed_code, number)
        return name

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """IPython's hook: keep the code for tracebacks. A cell is shown as the notebook has it."""
        name: str = super().cache(transformed_code, number, raw_code)
        source = self.request.sources.get(name) if self.request is not None else None
        if source is not None:
            self.remember(name, source.text, source.number)
        return name

    def remember(self, filename: str, text: str, number: int) -> None:
        """Make the text of a cell known to tracebacks."""
        import linecache

        lines = text.splitlines(keepends=True)
        linecache.cache[filename] = (len(text), None, lines, filename)
        self._filename_map[filename] = number


class CellDisplayPublisher(DisplayPublisher):  # type: ignore[misc]
    """`display(...)`."""

    port: OutputPort | None = None

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_others: Any,
    ) -> None:
        """IPython's hook: show a bundle of representations."""
        if self.port is None or (WIDGET_VIEW in data and not update and show_bar(data, self.publish)):
            return
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}, "update": update}
        self.port.send(DISPLAY, content)

    def clear_output(self, wait: bool = False) -> None:
        """IPython's hook: clear what the cell has shown."""
        if self.port is not None:
            self.port.send(CLEAR, {"wait": wait})


class CellDisplayHook(DisplayHook):  # type: ignore[misc]
    """The value of a cell's last expression."""

    port: OutputPort | None = None
    body: str = ""
    last: Any = None

    def __call__(self, result: Any = None) -> None:
        """IPython's hook: show the value and keep it."""
        if result is None or self.port is None or self.semicolon_at_end_of_expression(self.body):
            return
        self.last = result
        self.start_displayhook()
        try:
            data, metadata = self.compute_format_data(result)
        finally:
            self._is_active = False
        self.fill_exec_result(result)
        if data:
            self.port.send(RESULT, {"data": data, "metadata": metadata})


class WorkerShell(InteractiveShell):  # type: ignore[misc]
    """The process's one shell. Use `worker_shell()`."""

    display_pub_class = Type(CellDisplayPublisher)
    displayhook_class = Type(CellDisplayHook)
    compiler_class = Type(CellCompiler)

    colors: str
    furniture: dict[str, Any]
    _empty: types.ModuleType
    _request: CellRequest | None = None
    cell_traceback: list[str] | None = None

    def enable_gui(self, gui: str | None = None) -> None:
        """IPython's hook for `%matplotlib` and `%gui`: figures are pictures here."""
        if gui is not None:
            raise UsageError(f"a worker has no display for {gui}; use %matplotlib inline")

    def ask_exit(self) -> None:
        """IPython's hook for `quit` and `exit`."""
        raise UsageError("a remote cell cannot end the notebook's kernel, nor its worker; sys.exit() ends the cell")

    def init_sys_modules(self) -> None:
        """`__main__` is put in place for each cell, not for the process."""

    def transform_cell(self, raw_cell: str) -> str:
        """The kernel has transformed the cell already, with what its own session knows."""
        if self._request is not None and raw_cell == self._request.body:
            return self._request.code
        transformed: str = super().transform_cell(raw_cell)
        return transformed

    def showtraceback(
        self,
        exc_tuple: Any = None,
        filename: str | None = None,
        tb_offset: int | None = None,
        exception_only: bool = False,
        running_compiled_code: bool = False,
    ) -> None:
        """IPython's hook: keep the cell's own error for the kernel; show any other as usual."""
        if self._request is None or exc_tuple is not None or not (running_compiled_code or exception_only):
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)
            return
        kind, error, frames = self._get_exc_info(None)
        if exception_only:
            self.cell_traceback = list(self.InteractiveTB.get_exception_only(kind, error))
        else:
            self.cell_traceback = self._lines_of(kind, error, frames)

    def _lines_of(self, kind: Any, error: Any, frames: Any, offset: int | None = None) -> list[str]:
        frames = without_ours(frames)
        if issubclass(kind, SyntaxError):
            return list(self.SyntaxTB.structured_traceback(kind, error, traceback.extract_tb(frames)))
        if _has_group(error):  # IPython's own renderer does not know exception groups
            below = frames.tb_next if frames is not None and offset is None else frames
            text = "".join(traceback.format_exception(kind, error, below))
            return text.rstrip("\n").split("\n")
        if has_own_lines(error):
            return list(error._render_traceback_())
        return list(self.InteractiveTB.structured_traceback(kind, error, frames, tb_offset=offset))

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        """IPython's hook: an error that is shown and does not end the cell, such as one in a repr."""
        if self.display_pub.port is None:
            super()._showtraceback(etype, evalue, stb)
            return
        content = {"kind": etype.__name__, "text": str(evalue), "traceback": list(stb)}
        self.display_pub.port.send(ERROR, {**content, "in_result": self.displayhook.is_active})

    def _show_in_pager(self, _shell: Any, data: Any, start: int = 0, screen_lines: int = 0) -> None:
        """IPython's hook: help is shown where the kernel shows it."""
        if self.display_pub.port is not None:
            bundle = data if isinstance(data, dict) else {"text/plain": str(data)}
            self.display_pub.port.send(PAGE, {"data": bundle, "start": start})

    def showsyntaxerror(self, filename: str | None = None, running_compiled_code: bool = False) -> None:
        """IPython's hook for a cell that does not compile."""
        if self._request is None:
            super().showsyntaxerror(filename, running_compiled_code)
            return
        kind, error, _frames = self._get_exc_info(None)
        self.cell_traceback = list(self.SyntaxTB.structured_traceback(kind, error, []))

    @contextlib.contextmanager
    def attached(self, module: types.ModuleType, port: OutputPort) -> Iterator[None]:
        """While the context lasts, the shell's namespace is the module's and what is shown goes to the port."""
        for name, value in self.furniture.items():
            module.__dict__.setdefault(name, value)
        self.user_module, self.user_ns = module, module.__dict__
        self.displayhook.port = self.display_pub.port = port
        try:
            yield
        finally:
            self.displayhook.port = self.display_pub.port = None
            self.user_module, self.user_ns = self._empty, self._empty.__dict__

    def run_request(self, request: CellRequest, module: types.ModuleType, port: OutputPort) -> BaseException | None:
        """Run a cell.

        Args:
            request: The cell.
            module: Its namespace.
            port: Takes its output.

        Returns:
            What it raised; then `cell_traceback` has the lines. The value of its last expression is in
            `displayhook.last`.
        """
        self.compile.flags = request.flags or self.compile.flags
        if self.colors != request.colors:
            self.colors = request.colors
        self.execution_count = request.number
        self.cell_traceback = None
        self.displayhook.body, self.displayhook.last = request.body, None
        for name, source in request.sources.items():
            self.compile.remember(name, source.text, source.number)
        transformers = [_KeepState(module.__dict__)] if request.keep_state else []
        self._request = self.compile.request = request
        self.ast_transformers.extend(transformers)
        try:
            with self.attached(module, port):
                result = self.run_cell(request.body, store_history=False, silent=False)
        finally:
            self._request = self.compile.request = None
            for transformer in transformers:
                if transformer in self.ast_transformers:
                    self.ast_transformers.remove(transformer)
        error: BaseException | None = result.error_in_exec or result.error_before_exec
        return error

    def call(self, function: Callable[[], Any], module: types.ModuleType, port: OutputPort) -> Any:
        """Call a function of the namespace as a cell would: awaited if need be, figures shown at its end."""
        with self.attached(module, port):
            self.events.trigger("pre_execute")
            try:
                value = function()
                if inspect.iscoroutine(value):
                    value = self.loop_runner(value)
                return value
            finally:
                self.events.trigger("post_execute")

    def traceback_lines(self, error: BaseException, skip: int) -> list[str]:
        """Return the lines that IPython would show for an error, without the first frames."""
        frames = error.__traceback__
        for _ in range(skip):
            frames = frames.tb_next if frames is not None else None
        return self._lines_of(type(error), error, frames, offset=0)

    def furnish(self) -> None:
        """Note what IPython puts into a namespace; every cell finds it in its own."""
        self.set_hook("show_in_pager", self._show_in_pager, 0)
        # A cell that raises SystemExit raises it in the kernel, too, where IPython says this.
        warnings.filterwarnings("ignore", "To exit: use 'exit'", UserWarning)
        self.furniture = {
            name: value for name, value in self.user_ns.items() if name not in ("__name__", "__builtins__", "__doc__")
        }
        self._empty = types.ModuleType("__main__")
        self._empty.__dict__.update(self.furniture)


# Libraries that look whether they run in a notebook ask for this name (rich, plotly, tqdm).
WorkerShell.__name__ = "ZMQInteractiveShell"


class _KeepState(ast.NodeTransformer):
    """Leaves of an actor's cell what can run again without touching its state.

    These are definitions, imports, and assignments to names that are not there yet.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Drop the other statements of the cell."""
        node.body = [statement for statement in node.body if self._runs(statement)]
        return node

    def _runs(self, statement: ast.stmt) -> bool:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
            return True
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            return False
        names = [name for target in targets for name in ast.walk(target) if isinstance(name, (ast.Name, ast.expr))]
        stored = [name.id for name in names if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
        plain = all(isinstance(target, (ast.Name, ast.Tuple, ast.List)) for target in targets)
        return plain and not any(name in self._namespace for name in stored)


def _has_group(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            return True
        error = error.__cause__ or error.__context__
    return False


_shell: WorkerShell | None = None


def worker_shell() -> WorkerShell:
    """Return the shell of this process, made at the first call (about 20 ms)."""
    global _shell
    if _shell is None:
        # A worker draws into pictures, as a kernel does, and has no display to open.
        if "matplotlib.pyplot" not in sys.modules:
            os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        config = Config()
        config.HistoryManager.enabled = False
        config.HistoryManager.hist_file = ":memory:"
        displayhook = sys.displayhook
        _shell = WorkerShell.instance(config=config, user_module=types.ModuleType("__main__"))
        _shell.furnish()
        sys.displayhook = displayhook
    return _shell
