"""B6: a model answers requests: an actor that keeps it, a task that is given it, a task that loads it each time.

The model is a matrix of 16 MB, a request 16 rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

WIDTH = 2048
ROWS = 16


def measure(turn: Turn) -> None:
    import numpy as np

    system = turn.system
    width = 128 if turn.tiny else WIDTH
    weights = np.random.default_rng(0).random((width, width), dtype=np.float32)
    batch = np.ones((ROWS, width), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as directory:
        path = str(Path(directory) / "model.npy")
        np.save(path, weights)

        def kept() -> None:
            actor = system.actor(functions.Model, path)
            call = system.method(actor, "predict")
            _record(turn, "serving.actor", lambda: system.get(call(batch)), weights, batch)
            system.end_actor(actor)

        def given() -> None:
            handle = system.put(weights)
            submit = system.task(functions.predict)
            _record(turn, "serving.task", lambda: system.get(submit(handle, batch)), weights, batch)

        def loaded() -> None:
            submit = system.task(functions.predict_from_file)
            _record(turn, "serving.loaded", lambda: system.get(submit(path, batch)), weights, batch)

        turn.attempt("serving.actor", kept)
        turn.attempt("serving.task", given)
        turn.attempt("serving.loaded", loaded)


def _record(turn: Turn, key: str, call: object, weights: object, batch: object) -> None:
    import numpy as np

    assert callable(call)
    assert np.allclose(call(), functions.predict(weights, batch), rtol=1e-3)
    turn.record(key, *(took * 1e3 for took in turn.times(call, most=300, within_s=0.4)))


WORKLOAD = Workload(
    (
        Metric("serving.actor", "B6: prediction by an actor that keeps the model (16 MB)", "ms"),
        Metric("serving.task", "B6: prediction by a task that is given the model", "ms"),
        Metric("serving.loaded", "B6: prediction by a task that loads the model", "ms"),
    ),
    measure,
    rounds=2,
)
