"""A backend for `joblib.Parallel`: what uses joblib, scikit-learn above all, runs on the cluster.

    from atoll.util.joblib import register_atoll

    register_atoll()
    with joblib.parallel_config("atoll"):
        GridSearchCV(model, grid).fit(X, y)

A search calls a function hundreds of times with the same arrays. Each array goes into shared memory once for a whole
`Parallel` call, and the workers' arrays are views of it; what travels with a batch of calls is small. The next
batch waits at a worker already when the worker is done with one.
"""

from __future__ import annotations

import contextlib
import copyreg
import gc
import io
import pickle
import time
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
from joblib._parallel_backends import FallbackToBackend, SequentialBackend
from joblib.parallel import ParallelBackendBase, register_parallel_backend

from atoll import api
from atoll.exceptions import SerializationError
from atoll.options import TaskOptions
from atoll.util.calls import Call, CallQueue

if TYPE_CHECKING:
    from atoll.object_ref import ObjectRef

SHARED_BYTES = 2 * 1024
"""Arrays from this size on go through shared memory."""

BATCH_S = 1.0
"""So long a batch of many short calls may take; joblib's own bounds are 0.2 and 2 s."""

BATCH_GROWTH = 256
"""A batch has at most so many times the calls of the largest before: the first calls may not be like the others."""

BATCH_BYTES = 32 * 1024 * 1024
"""So much a batch of many calls may bring along: joblib makes the calls of all batches of a size at once."""


def register_atoll() -> None:
    """Make `parallel_backend("atoll")` and `parallel_config("atoll")` known to joblib."""
    register_parallel_backend("atoll", AtollBackend)


def register_ray() -> None:
    """Make the backend known under Ray's name, `"ray"`, so that code written for Ray runs here; and as `"atoll"`."""
    register_parallel_backend("ray", AtollBackend)
    register_atoll()


class AtollBackend(ParallelBackendBase):  # type: ignore[misc] # joblib has no types
    """Runs joblib's batches as tasks.

    Args:
        nesting_level: joblib's.
        inner_max_num_threads: Threads that libraries may use within a call; the workers' CPUs if None.
        remote_args: Options of the tasks, as for `@atoll.remote`. A batch whose worker dies is repeated, as any task
            is; `{"max_retries": 0}` ends that, and the next batch then waits until its worker has answered.
        ray_remote_args: Ray's name for them.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        remote_args: dict[str, Any] | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **other: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **other)
        self._remote_args = {"max_retries": TaskOptions().max_retries} | (ray_remote_args or {}) | (remote_args or {})
        self._calls: CallQueue | None = None
        self._shared = SharedArrays()
        self._sizes = BatchSizes()
        self.parallel: Any = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls run at once: with -1, as many as the cluster has CPUs."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, cluster_cpus() + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        remote_args: dict[str, Any] | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **_memmapping: Any,
    ) -> int:
        """Get ready for a `Parallel` call.

        Raises:
            FallbackToBackend: joblib's: one job runs here.
        """
        jobs = self.effective_n_jobs(n_jobs)
        if jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        options: dict[str, Any] = self._remote_args | (ray_remote_args or {}) | (remote_args or {})
        if self.inner_max_num_threads is not None:
            threads = {name: str(self.inner_max_num_threads) for name in self.MAX_NUM_THREADS_VARS}
            given = options.get("runtime_env") or {}
            options["runtime_env"] = given | {"env_vars": threads | given.get("env_vars", {})}
        self._calls = CallQueue(jobs, options)
        self.parallel = parallel
        return jobs

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Run a batch."""
        assert self._calls is not None, "joblib configures a backend before it submits"
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)

        def finish(ran: Any, error: BaseException | None) -> None:
            if error is None:
                results, seconds = ran
                self._sizes.ran(len(results), seconds)
                future.set_result(results)
            else:
                future.set_exception(error)

        put_before = self._shared.put_bytes
        try:
            payload, arrays = self._shared.pickled(func)
        except Exception as error:  # whatever an argument raises while it is pickled
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        self._sizes.sent(len(func), len(payload) + self._shared.put_bytes - put_before)
        name = _name_of(func)
        begin = future.set_running_or_notify_cancel
        self._calls.submit(Call(run_batch, (payload, *arrays), {}, begin=begin, finish=finish, name=name))
        return future

    def compute_batch_size(self) -> int:
        """Return how many calls the next batches have: joblib asks before it makes some."""
        return self._sizes.next()

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise what a call raised."""
        return out.result()

    def stop_call(self) -> None:
        """A `Parallel` call is over, and the arrays that it has shared may change."""
        self._shared.clear()

    def terminate(self) -> None:
        """Let go of everything."""
        self._shared.clear()
        self._calls = None
        self._sizes = BatchSizes()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call has raised, or the user has interrupted: what waits and what runs is given up."""
        calls = self._calls
        if calls is not None:
            calls.drop_waiting()
            calls.cancel_running()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return what a `Parallel` call within a call uses: threads would fight for one CPU."""
        level = (self.nesting_level or 0) + 1
        return SequentialBackend(nesting_level=level), None


class BatchSizes:
    """How many calls go into a batch, by how long calls took lately and what the last ones brought along.

    A batch costs some milliseconds, whatever is in it: scikit-learn sends the progress of all fits of a search along
    with each. joblib makes as many batches of this size as there are jobs, and at the end divides what is left into ten
    for each. So sizes grow fast, and a search of short fits is soon divided as a whole.
    """

    def __init__(self) -> None:
        self._largest = 1
        self._calls = 0.0
        self._seconds = 0.0
        self._call_bytes = 0.0

    def sent(self, calls: int, size_bytes: int) -> None:
        """A batch was sent, with so much that no batch before had."""
        self._call_bytes = size_bytes / calls

    def ran(self, calls: int, seconds: float) -> None:
        """A batch is done, which took so long at its worker."""
        self._largest = max(self._largest, calls)
        self._calls = self._calls / 2 + calls
        self._seconds = self._seconds / 2 + seconds

    def next(self) -> int:
        """Return the size that takes `BATCH_S` and `BATCH_BYTES` at most; one call until something is known."""
        if not self._calls:
            return 1
        quick = int(BATCH_S * self._calls / max(self._seconds, 1e-9))
        small = int(BATCH_BYTES / max(self._call_bytes, 1))
        return max(1, min(quick, small, BATCH_GROWTH * self._largest))


def cluster_cpus() -> int:
    """Return how many CPUs the cluster has."""
    from atoll.client.current import current_session
    from atoll.resources import CPU

    return max(1, int(sum(node.resources_total.get(CPU, 0) for node in current_session().state().nodes)))


def _name_of(batch: Any) -> str:
    items = getattr(batch, "items", None)
    function = items[0][0] if items else batch
    function = getattr(function, "function", function)  # scikit-learn wraps it to carry its configuration along
    return str(getattr(function, "__name__", type(function).__name__))


class SharedArrays:
    """The arrays of a `Parallel` call that are in shared memory already, by identity.

    An array is known as long as it lives, so that its identity means it.

    Attributes:
        put_bytes: How much was put so far.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], ObjectRef[Any]]] = {}
        self.put_bytes = 0

    def clear(self) -> None:
        """Forget them; their memory goes when nothing uses it any more."""
        self._known.clear()

    def pickled(self, value: Any) -> tuple[bytes, list[ObjectRef[Any]]]:
        """Return a value as a pickle without its large arrays, and refs to those, in order.

        Raises:
            SerializationError: It does not pickle.
        """
        refs: dict[ObjectRef[Any], int] = {}
        try:
            return _dump(_PlainPickler, value, self, refs), list(refs)
        except Exception:  # what pickle cannot do, cloudpickle may; its error is the one to show
            refs.clear()
        try:
            return _dump(_CodePickler, value, self, refs), list(refs)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(f"cannot send a call of {_name_of(value)}: {error}") from error

    def ref_of(self, array: Any) -> ObjectRef[Any]:
        """Return the ref of an array, which is put if it is not known."""
        known = self._known.get(id(array))
        if known is not None and known[0]() is array:
            return known[1]
        ref: ObjectRef[Any] = api.put(array)
        self.put_bytes += array.nbytes
        self._known[id(array)] = weakref.ref(array), ref
        return ref


class _Sharing:
    """What both picklers do with large arrays. A table of reducers costs nothing for whatever is no array."""

    reducers: ClassVar[Mapping[type, Any]]
    shared: SharedArrays
    refs: dict[ObjectRef[Any], int]

    def reduce_array(self, array: Any) -> Any:
        """Return how an array is pickled: a large one by its number."""
        if array.nbytes < SHARED_BYTES or array.dtype.hasobject:
            return array.__reduce_ex__(5)
        return shared_array, (self.refs.setdefault(self.shared.ref_of(array), len(self.refs)),)


_NAMED = (type, types.FunctionType)


class _PlainPickler(_Sharing, pickle.Pickler):
    """The fast one. It finds what is defined in `__main__` by looking at objects, not for the name among the bytes:
    scikit-learn sends the warning filters along with every call, and one of them names `__main__`."""

    reducers = copyreg.dispatch_table

    def reducer_override(self, value: Any) -> Any:
        """Refuse what no module has."""
        if isinstance(value, _NAMED) and value.__module__ == "__main__":
            raise SerializationError("what is defined in __main__ travels by value")
        return NotImplemented


class _CodePickler(_Sharing, cloudpickle.Pickler):  # type: ignore[misc]
    reducers = cloudpickle.Pickler.dispatch_table


def _dump(kind: Any, value: Any, shared: SharedArrays, refs: dict[ObjectRef[Any], int]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    pickler = kind.__new__(kind)
    pickler.shared, pickler.refs = shared, refs
    # Looked up once, by `__init__`.
    pickler.dispatch_table = {**kind.reducers, np.ndarray: pickler.reduce_array}
    pickler.__init__(file, protocol=5)
    with _nothing_collected():
        pickler.dump(value)
    return file.getvalue()


_arrays: tuple[Any, ...] = ()


def shared_array(number: int) -> Any:
    """Return an array of the batch that is being read."""
    return _arrays[number]


def run_batch(payload: bytes, *arrays: Any) -> tuple[list[Any], float]:
    """Run a batch of joblib's. Runs as a task; `arrays` are views of shared memory.

    Returns:
        What its calls returned, and the seconds that they took together.
    """
    global _arrays
    _arrays = arrays
    try:
        with _nothing_collected():
            batch = pickle.loads(payload)
    finally:
        _arrays = ()
    began = time.perf_counter()
    results = batch()
    return results, time.perf_counter() - began


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Look for no cycles while a batch is written or read.

    That makes many objects, scikit-learn's progress of each fit among them, and all are alive until it is done: the
    collector would find nothing, and with scikit-learn loaded it takes a tenth of a second for it now and then.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
