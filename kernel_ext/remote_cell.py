"""The way of a `%%remote` cell: prepare, send, show what comes, take over what it set.

body ─▶ prepare_cell ─▶ CellRequest ─▶ worker ─▶ output … ─▶ sink
                                              └▶ CellResult ─▶ apply_result ─▶ the user's names
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from atoll.exceptions import AtollError
from atoll.kernel_ext.cell_messages import CHANGES, LAST, CellRequest, CellResult
from atoll.kernel_ext.detached import Detached, detach
from atoll.kernel_ext.engine.contract import Engine, OnOutput, Options, Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import CellInterrupted, cell_result_of, failure_to_raise, one_line
from atoll.kernel_ext.namespace_pickle import Namespace, PackedNames, unpack_names
from atoll.kernel_ext.outputs import ShellSink, Sink, keep_result
from atoll.kernel_ext.status import Status, StatusLine, describe_run, duration
from atoll.kernel_ext.taking_over import take_over
from atoll.kernel_ext.waiting import Interrupted, OutputQueue, wait_for

Start = Callable[[OnOutput], Running]
"""Sends a cell, its output going to the callback."""


def run_and_show(
    shell: Any, engine: Engine, start: Start, label: str, *, request: CellRequest, quiet: bool, title: str
) -> None:
    """Run a prepared cell and do all that its end asks for.

    Args:
        shell: IPython's.
        engine: The cluster.
        start: Sends the cell.
        label: What it is called.
        request: The cell.
        quiet: Whether to show no status line.
        title: What ran, for errors: `%%remote`.

    Raises:
        BaseException: What the cell raised, or why it could not run.
    """
    sink = ShellSink(shell)
    outputs = OutputQueue()

    def describe(elapsed_s: float) -> Status:
        return describe_run(state_of(engine), engine.job(), label, elapsed_s, outputs.progress)

    status = StatusLine(sink, describe, enabled=False if quiet else None)
    started = time.monotonic()
    try:
        result, origin = run_to_end(start, outputs, sink, status)
    except Interrupted as interrupted:
        result, origin = after_interrupt(interrupted, request, title)
        status.end("cancelled", "interrupted", duration(time.monotonic() - started))
        apply_result(shell, result, sink, request.names, origin)
        raise failure_to_raise(result, shell.user_ns, title) from None
    except Exception as error:
        status.end("failed", "failed", duration(time.monotonic() - started))
        raise one_line(error) from None
    state, what = ("failed", "failed") if result.failure else ("done", "ran")
    took = duration(time.monotonic() - started)
    status.end(state, f"{what} on {result.node}, pid {result.pid}", took)
    apply_result(shell, result, sink, request.names, origin)
    if result.failure is not None:
        raise failure_to_raise(result, shell.user_ns, title) from None


def run_to_end(start: Start, outputs: OutputQueue, sink: Sink, status: StatusLine) -> tuple[CellResult, Any]:
    """Send a cell and return its result, also where the cell raised; and the ref of the object that it is, if any.

    Raises:
        Interrupted: The user pressed interrupt.
        Exception: The cell could not run, or its worker died.
    """
    running = start(outputs.put)
    try:
        result: CellResult = wait_for(running, outputs, sink, status)
    except Interrupted:
        raise
    except Exception as error:
        failed = result_of_failed(error)
        if failed is None:
            raise
        return failed
    return result, running.ref


def result_of_failed(error: BaseException) -> tuple[CellResult, Any] | None:
    """Return the result of a cell that raised, from what the task's future raised; None for other errors.

    Returns:
        The result; and the ref of the object that it is, where the cluster has kept it for us.
    """
    told = cell_result_of(error)
    if told is None or not told.kept:
        return None if told is None else (told, None)
    engine = current_engine()
    try:
        result, ref = engine.kept(told.kept)
    except KeyError:
        told.left_out = {"what the cell set": "it is not kept any more"}
        return told, None
    engine.forget(told.kept)  # from here on it is ours, and lives as long as something of it does
    return result, ref


def after_interrupt(interrupted: Interrupted, request: CellRequest, title: str) -> tuple[CellResult, Any]:
    """Return what the cancelled cell left, as `result_of_failed` does; raise where it left nothing."""
    left = result_of_failed(interrupted.error) if interrupted.error is not None else None
    if left is not None and left[0].failure is not None and left[0].failure.kind == "KeyboardInterrupt":
        return left
    if interrupted.error is not None:
        raise CellInterrupted("the cell was cancelled") from None
    raise CellInterrupted(detach(request.record, Detached(interrupted.running, request.names, title))) from None


def state_of(engine: Engine) -> Any:
    """Return the cluster's state for the status line, or None where it cannot be had now."""
    try:
        return engine.glance()
    except (AtollError, OSError, TimeoutError):
        return None


# ------------------------------------------------------------------------------------- what a cell leaves


def apply_result(shell: Any, result: CellResult, sink: Sink, sent: PackedNames, origin: Any = None) -> None:
    """Make the user's names what they would be if the cell had run here.

    Args:
        shell: IPython's.
        result: Of the cell.
        sink: Is told what could not be brought back.
        sent: What the cell was given: these very objects take over what became of their copies.
        origin: The ref of the result, if it is an object of the cluster.
    """
    values, lost = values_of(result, shell.user_ns, sent, origin)
    for place, how, content in values.pop(CHANGES, ()):
        thing = sent.known[place]
        try:
            take_over(thing, how, content)
        except Exception as error:  # an object's own code may refuse; the cell's other effects are not lost
            lost[f"a change of {type(thing).__name__}"] = f"{type(error).__name__}: {error}"
    has_last = LAST in values
    last = values.pop(LAST, None)
    shell.user_ns.update(values)
    for name in result.deleted:
        shell.user_ns.pop(name, None)
    if has_last and isinstance(sink, ShellSink):
        keep_result(shell, last)
    lost = {**result.left_out, **lost}
    if lost:
        told = "".join(f"not brought back: {name} ({reason})\n" for name, reason in lost.items())
        sink.text("stderr", told)


def values_of(
    result: CellResult, namespace: Namespace, sent: PackedNames, origin: Any = None
) -> tuple[Namespace, dict[str, str]]:
    """Unpack what a cell set.

    Returns:
        Names and values; and the names that could not be made here, with the reason.
    """
    lost: dict[str, str] = {}
    try:
        values = unpack_names(result.names, namespace, seeds=sent.objects(result.names.seeds), origin=origin)
    except Exception as error:  # a class whose own code fails here must not cost the cell's other effects
        values = {}
        lost["what the cell set"] = f"{type(error).__name__}: {error}"
    for name, module in result.modules.items():
        try:
            values[name] = importlib.import_module(module)
        except Exception as error:  # a module's own code may raise anything
            lost[name] = f"{type(error).__name__}: {error}"
    return values, lost


def take_over_detached(shell: Any, cell: Detached, sink: Sink) -> None:
    """Take over what a cell has left that ran on without anybody waiting.

    Raises:
        BaseException: What it raised.
    """
    try:
        result: CellResult = cell.running.future.result()
        origin = cell.running.ref
    except Exception as error:
        failed = result_of_failed(error)
        if failed is None:
            raise one_line(error) from None
        result, origin = failed
    apply_result(shell, result, sink, cell.sent, origin)
    if result.failure is not None:
        raise failure_to_raise(result, shell.user_ns, cell.title) from None


def send_cell(engine: Engine, request: CellRequest, options: Options, label: str) -> Start:
    """Return what sends a cell to a worker."""
    return lambda on_output: engine.run_cell(request, options, label, on_output)
