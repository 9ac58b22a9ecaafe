"""Values of the libraries that people use: got without a copy, read-only, and pinned for as long as a part is used."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import atoll
from atoll.client.private_mapping import mapping_at
from atoll.client.session import Session
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

ROWS = 400_000


def in_store(session: Session, address: int) -> bool:
    """Whether an address lies in memory of the store that this process has mapped to read."""
    return any(
        not writable and 0 <= address - segment.address < segment.size_bytes
        for (_segment_id, writable), segment in session.store._segments.items()
    )


def start(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def is_pinned(session: Session) -> bool:
    """Whether this process has anything pinned, after the agent has heard of what it gave up."""
    gc.collect()
    session._pause()
    return session.store.has_uses


def check_pin(session: Session, ref_of: Callable[[], Any], part_of: Callable[[Any], Any]) -> None:
    """A part keeps the object although ref and value are gone; when it goes, so does the pin."""
    ref = ref_of()
    value = atoll.get(ref)
    part = part_of(value)
    del ref, value
    assert is_pinned(session)
    del part
    until = time.monotonic() + PATIENCE_S
    while is_pinned(session):
        assert time.monotonic() < until, "nothing is left of it, and it is pinned"
        time.sleep(0.01)


def test_numpy(session: Session) -> None:
    got = atoll.get(atoll.put({"a": np.arange(ROWS), "b": [np.ones((300, 400), order="F")]}))
    assert in_store(session, start(got["a"]))
    assert in_store(session, start(got["b"][0]))
    assert not got["a"].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        got["a"].flags.writeable = True
    del got
    check_pin(session, lambda: atoll.put(np.arange(ROWS)), lambda array: array.reshape(-1, 2)[3:5, 0])


def test_a_part_of_a_structure_keeps_it(session: Session) -> None:
    check_pin(session, lambda: atoll.put([np.arange(ROWS), "text"]), lambda values: values[0][::7])


def table() -> pa.Table:
    return pa.table({"n": np.arange(ROWS), "x": np.linspace(0, 1, ROWS), "s": [f"row {n % 100}" for n in range(ROWS)]})


def test_pyarrow(session: Session) -> None:
    original = table()
    got = atoll.get(atoll.put(original))
    assert got == original
    for column in got.columns:
        for buffer in column.chunk(0).buffers():
            assert buffer is None or in_store(session, buffer.address)
            assert buffer is None or not buffer.is_mutable
    buffer = atoll.get(atoll.put(pa.py_buffer(b"x" * ROWS)))
    assert in_store(session, buffer.address)
    del got, buffer, column
    check_pin(session, lambda: atoll.put(table()), lambda values: values.slice(5, 10)["s"])


def test_pandas(session: Session) -> None:
    frame = pd.DataFrame({"x": np.linspace(0, 1, ROWS), "y": np.linspace(1, 2, ROWS), "n": np.arange(ROWS)})
    got = atoll.get(atoll.put(frame))
    pd.testing.assert_frame_equal(got, frame)
    for column in frame:
        assert in_store(session, start(got[column].to_numpy()))
    changed = got.assign(x=0.0)
    assert changed["x"].sum() == 0.0
    assert got["x"].sum() > 0.0
    arrow = pd.DataFrame({"n": pd.array(np.arange(ROWS), dtype=pd.ArrowDtype(pa.int64()))})
    got_arrow = atoll.get(atoll.put(arrow))
    pd.testing.assert_frame_equal(got_arrow, arrow)
    values = pa.chunked_array(got_arrow["n"].array.__arrow_array__())
    assert in_store(session, values.chunk(0).buffers()[1].address)
    del got, got_arrow, changed, values
    check_pin(session, lambda: atoll.put(frame), lambda values: values["y"].iloc[3:9].to_numpy())


def test_polars(session: Session) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"n": np.arange(ROWS), "x": np.linspace(0, 1, ROWS), "s": ["coral reef lagoon"] * ROWS})
    got = atoll.get(atoll.put(frame))
    assert got.equals(frame)
    assert got.schema == frame.schema
    for name in ("n", "x"):
        assert in_store(session, start(got[name].to_numpy(allow_copy=False)))
    series = atoll.get(atoll.put(frame["x"].alias("named")))
    assert series.name == "named"
    assert in_store(session, start(series.to_numpy(allow_copy=False)))
    odd = pl.DataFrame({"c": pl.Series(["a", "b"] * ROWS, dtype=pl.Categorical), "n": range(2 * ROWS)})
    assert atoll.get(atoll.put(odd)).equals(odd)
    assert atoll.get(atoll.put(odd)).schema == odd.schema
    assert atoll.get(atoll.put(pl.DataFrame())).is_empty()
    del got, series
    check_pin(session, lambda: atoll.put(frame), lambda values: values["x"].slice(3, 5).to_numpy(allow_copy=False))


def test_torch(session: Session) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(ROWS, dtype=torch.float32).reshape(1000, -1)
    ref = atoll.put({"weights": tensor, "half": tensor.to(torch.bfloat16)})
    got = atoll.get(ref)
    assert torch.equal(got["weights"], tensor)
    assert torch.equal(got["half"], tensor.to(torch.bfloat16))
    for part in got.values():
        assert mapping_at(part.data_ptr(), part.nbytes) is not None, "it is mapped, not copied"

    @atoll.remote
    def total(values: dict[str, Any]) -> float:
        return float(values["weights"].sum(dtype=values["weights"].double().dtype))

    got["weights"][:] = 0.0
    assert got["weights"].sum() == 0.0, "what is written stays here"
    assert atoll.get(total.remote(ref)) == float(tensor.double().sum()), "and does not reach the object"
    assert torch.equal(atoll.get(ref)["weights"], tensor), "nor who reads it here"
    small_ref = atoll.put(torch.ones(50_000))
    small = atoll.get(small_ref)
    small += 1
    assert (small.sum(), atoll.get(small_ref).sum()) == (100_000, 50_000)
    one, other = atoll.get(atoll.put((tensor, tensor)))
    assert one is other
    part = atoll.get(atoll.put(tensor[:100]))
    assert part.untyped_storage().nbytes() == 160_000, "a part does not bring the whole along"
    grown = torch.ones(ROWS, requires_grad=True)
    assert atoll.get(atoll.put(grown)).requires_grad
    module = torch.nn.Linear(400, 400)
    assert torch.equal(atoll.get(atoll.put(module)).weight, module.weight)
    del one, other, small, part, ref, small_ref, got
    check_pin(session, lambda: atoll.put(tensor), lambda values: values[3:5, 7])


def test_torch_saves_as_ever() -> None:
    torch = pytest.importorskip("torch")
    import io

    file = io.BytesIO()
    torch.save({"x": torch.ones(ROWS)}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["x"].sum() == ROWS


def test_bytes_are_copied_once_and_memoryviews_not_at_all(session: Session) -> None:
    data = bytes(range(256)) * 4000
    assert atoll.get(atoll.put(data)) == data
    assert atoll.get(atoll.put(bytearray(data))) == data
    got = atoll.get(atoll.put({"view": memoryview(data)}))["view"]
    assert got == data
    assert got.readonly
    assert in_store(session, start(np.frombuffer(got, "u1")))
    shaped = atoll.get(atoll.put(memoryview(np.arange(ROWS, dtype="f4").reshape(4, -1))))
    assert (shaped.format, shaped.shape) == ("f", (4, ROWS // 4))
    assert shaped[3, -1] == ROWS - 1
    assert atoll.get(atoll.put(memoryview(b""))) == b""
    del got, shaped
    check_pin(session, lambda: atoll.put(memoryview(data)), lambda view: view[10:20])


def test_a_put_takes_no_more_memory_than_the_object(cluster: Any) -> None:
    """In a process of its own: the most that it had resident of its own, before and after."""
    script = """
        import re, pathlib, atoll, numpy as np
        def own_peak():
            status = pathlib.Path("/proc/self/status").read_text()
            own = int(re.search(r"RssAnon:\\s+(\\d+)", status).group(1))
            return own
        array = np.ones(100 * 2**20, "u1")
        atoll.put(np.ones(1 << 20, "u1"))
        before = own_peak()
        ref = atoll.put(array)
        after = own_peak()
        got = atoll.get(ref)
        got.sum()
        print(after - before, own_peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    put_kib, got_kib = map(int, done.stdout.split())
    assert put_kib < 2048, "the object is in shared memory, and nowhere else"
    assert got_kib < 2048


def test_many_small_arrays_in_one_object_and_in_many(session: Session) -> None:
    arrays = [np.full(5000, number) for number in range(300)]
    got = atoll.get(atoll.put(arrays))
    assert all(np.array_equal(one, other) for one, other in zip(got, arrays, strict=True))
    assert in_store(session, start(got[17]))
    segments = len(session.store._segments)
    refs = [atoll.put(np.full(20_000, number)) for number in range(100)]
    assert len(session.store._segments) - segments <= 12, "they share segments"
    assert all(atoll.get(ref)[-1] == number for number, ref in enumerate(refs))
