"""What runs a `%%cached` cell in a worker: as any remote cell, and watched."""

from __future__ import annotations

from atoll.client.current import existing_session
from atoll.kernel_ext.cached.entries import CachedCell
from atoll.kernel_ext.cached.observed import Observer, forget_own_modules
from atoll.kernel_ext.cached.shown import settled
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.cell_runner import CellHost, at_home, finish, run_recorded
from atoll.kernel_ext.local_modules import after_cell, before_cell


def run_cached_cell(request: CellRequest) -> CachedCell:
    """Run a cell in a namespace of its own, and return what is to be kept of it: the task behind `%%cached`.

    The user's own modules are imported anew, so that its result is made of what their files say now and of nothing that
    an earlier cell has done to them.

    Raises:
        RemoteCellError: The cell raised.
    """
    from atoll.client.context import emit_output

    shown: list[tuple[str, bytes]] = []

    def emit(kind: str, payload: bytes) -> None:
        shown.append((kind, bytes(payload)))
        emit_output(kind, payload)

    began = before_cell()
    forget_own_modules()
    session = existing_session()
    observer = Observer(session.cluster.directory if session is not None else "")
    try:
        with at_home(request):
            request.variables, request.directory = {}, ""  # it is there already, and that is not to be watched
            with observer.watching():
                result = finish(run_recorded(CellHost(), request, emit))
            return CachedCell(result, settled(shown), observer.result())
    finally:
        after_cell(began)
