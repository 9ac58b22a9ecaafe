"""`%%remote local`: the cell runs here, in the kernel, as if the line were not there.

Its code is compiled as the cell that it stands in, with the notebook's line numbers, and an error ends the cell once,
with IPython's own traceback.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import types
from collections.abc import Coroutine, Iterator
from typing import Any

from atoll.exceptions import InternalError
from atoll.kernel_ext.capture import CellText
from atoll.kernel_ext.errors import has_own_lines, named_error, shown_as
from atoll.kernel_ext.grammar import MagicUsageError


def run_here(shell: Any, text: CellText) -> None:
    """Run a cell in the kernel.

    Args:
        shell: IPython's.
        text: The cell.

    Raises:
        MagicUsageError: It awaits something: the kernel's loop is already waiting for this very cell.
        BaseException: What it raised.
    """
    tree = shell.transform_ast(shell.compile.ast_parse(text.code, text.place.filename))
    if _awaits(shell, tree, text.place.filename):
        raise MagicUsageError("a cell with await cannot run with local: take the %%remote line away, or local")
    result = types.SimpleNamespace(error_in_exec=None, error_before_exec=None)
    with _errors_kept(shell):
        _finish(
            shell.run_ast_nodes(
                tree.body, text.place.filename, shell.ast_node_interactivity, compiler=shell.compile, result=result
            )
        )
    error = result.error_in_exec or result.error_before_exec
    if error is not None:
        _raise(shell, error)


def _awaits(shell: Any, tree: ast.Module, filename: str) -> bool:
    """Whether code awaits something outside of its functions."""
    flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: types.CodeType = compile(tree, filename, "exec", flags)
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _finish(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that waits for nothing to its end."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise InternalError("code without await has waited")


def _raise(shell: Any, error: BaseException) -> None:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals is not shell.user_ns:
        frames = frames.tb_next
    if has_own_lines(error):
        raise error
    lines = list(shell.InteractiveTB.structured_traceback(type(error), error, frames, tb_offset=0))
    shown = shown_as(error, lines)
    if shown is None:
        shown = named_error(type(error).__name__, str(error), lines, error)
    raise shown from None


@contextlib.contextmanager
def _errors_kept(shell: Any) -> Iterator[None]:
    """Let the shell not show an error by itself: it is raised, and shown once."""
    shell.showtraceback = lambda *_args, **_kwargs: None
    try:
        yield
    finally:
        del shell.showtraceback
