"""`%cluster`, `%jobs`, `%actors`, `%objects`, `%gpus`, `%usage`, `%dashboard`: the cluster as it is."""

from __future__ import annotations

from typing import Any

from atoll.exceptions import AtollError
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.usage_view import Views, usage_view
from atoll.kernel_ext.views import View, actors_view, cluster_view, gpus_view, jobs_view, objects_view


def cluster(_shell: Any, said: ParsedLine, _cell: str) -> View:
    """`%cluster`."""
    return cluster_view(current_engine().state()).only(said.names)


def jobs(_shell: Any, said: ParsedLine, _cell: str) -> View:
    """`%jobs`."""
    return jobs_view(current_engine().state(), current_engine().job()).only(said.names)


def actors(_shell: Any, said: ParsedLine, _cell: str) -> View:
    """`%actors`."""
    return actors_view(current_engine().state()).only(said.names)


def objects(_shell: Any, said: ParsedLine, _cell: str) -> View:
    """`%objects`."""
    return objects_view(current_engine().state()).only(said.names)


def gpus(_shell: Any, said: ParsedLine, _cell: str) -> View:
    """`%gpus`."""
    released = said.get("release")
    if released is not None:
        try:
            current_engine().release_gpu(released)
        except AtollError as error:
            raise MagicUsageError(f"%gpus release={released}: {error}") from None
    return gpus_view(current_engine().state()).only(said.names)


def usage(_shell: Any, said: ParsedLine, _cell: str) -> View | Views:
    """`%usage`."""
    engine = current_engine()
    job = engine.job()
    notebook = next((each.name for each in engine.state().jobs if each.job == job), "")
    return usage_view(engine.usage(), said.flags, notebook or job)


def dashboard(_shell: Any, _said: ParsedLine, _cell: str) -> Any:
    """`%dashboard`."""
    from atoll.widgets.dashboard import Dashboard

    current_engine().state()  # joins the cluster, or says why it cannot
    return Dashboard()
