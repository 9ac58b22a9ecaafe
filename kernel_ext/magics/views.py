"""`%cluster`, `%jobs`, `%actors`, `%objects`, `%gpus`, `%dashboard`: the cluster as it is now."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext.engine import current_engine
from atoll.kernel_ext.grammar import ParsedLine
from atoll.kernel_ext.views import View, actors_view, cluster_view, gpus_view, jobs_view, objects_view


def cluster(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%cluster`."""
    return cluster_view(current_engine().state())


def jobs(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%jobs`."""
    return jobs_view(current_engine().state(), current_engine().job())


def actors(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%actors`."""
    return actors_view(current_engine().state())


def objects(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%objects`."""
    return objects_view(current_engine().state())


def gpus(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%gpus`."""
    return gpus_view(current_engine().state())


def dashboard(_shell: Any, _said: ParsedLine, _cell: str) -> Any:
    """`%dashboard`."""
    from atoll.widgets.dashboard import Dashboard

    current_engine().state()  # joins the cluster, or says why it cannot
    return Dashboard()
