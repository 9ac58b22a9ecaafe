"""Tables as arguments and results: a DataFrame and an Arrow table with a million rows, and a list of 20,000 dicts.

A task gets it by value and returns it: what a cell that changes a table pays for its way to a worker and back.
"""

from __future__ import annotations

from typing import Any

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

ROWS = 1_000_000
DICTS = 20_000


def measure(turn: Turn) -> None:
    for key, make in {"tables.pandas": _frame, "tables.arrow": _arrow, "tables.dicts": _dicts}.items():

        def one(key: str = key, make: Any = make) -> None:
            value = make(turn)
            submit, get = turn.system.task(functions.same), turn.system.get
            found = get(submit(value))
            assert len(found) == len(value)
            del found
            times = turn.times(lambda: get(submit(value)), most=30, within_s=0.6)
            turn.record(key, *(took * 1e3 for took in times))

        turn.attempt(key, one)


def _columns(rows: int) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    columns: dict[str, Any] = {f"number{index}": random.random(rows) for index in range(4)}
    columns["key"] = random.integers(0, 1000, rows)
    return columns


def _frame(turn: Turn) -> Any:
    import pandas as pd

    return pd.DataFrame(_columns(turn.count(ROWS)))


def _arrow(turn: Turn) -> Any:
    import pyarrow as pa

    columns = _columns(turn.count(ROWS))
    columns["name"] = [f"name {index % 1000}" for index in range(turn.count(ROWS))]
    return pa.table(columns)


def _dicts(turn: Turn) -> Any:
    return [
        {"id": index, "name": f"name {index}", "value": index / 7, "tags": ["a", "b"]}
        for index in range(turn.count(DICTS))
    ]


WORKLOAD = Workload(
    (
        Metric("tables.pandas", "DataFrame of 40 MB, to a task and back", "ms"),
        Metric("tables.arrow", "Arrow table of 50 MB, to a task and back", "ms"),
        Metric("tables.dicts", "20,000 dicts, to a task and back", "ms"),
    ),
    measure,
    rounds=2,
    cap_s=60,
)
