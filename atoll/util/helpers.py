"""Iterating over refs as their values come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from atoll import api
from atoll.client.current import current_session
from atoll.cluster_view import node_address
from atoll.object_ref import ObjectRef

if TYPE_CHECKING:
    from atoll.remote_function import RemoteFunction

CHUNK_SIZE = 10
BACKPRESSURE_SIZE = 100


def as_completed(
    refs: Sequence[ObjectRef[Any]],
    *,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **wait_options: Any,
) -> Iterator[Any]:
    """Yield the values of refs as they come, some at a time.

    Args:
        refs: Distinct refs.
        chunk_size: So many are waited for before they are yielded; 1 gives the exact order of completion.
        yield_obj_refs: Yield the refs, not their values.
        wait_options: For `atoll.wait`: `timeout`, in seconds, for each chunk.

    Raises:
        ValueError: `chunk_size` is less than 1, or `num_returns` is given.
        GetTimeoutError: A chunk was not there within its timeout.
        Exception: What a task raised, when its value is due.
    """
    _check_chunks(chunk_size, wait_options)
    return _completed(list(refs), chunk_size, yield_obj_refs, wait_options)


def map_unordered(
    fn: RemoteFunction[..., Any],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = BACKPRESSURE_SIZE,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **wait_options: Any,
) -> Iterator[Any]:
    """Run a remote function on every item and yield the results as they come.

    Args:
        fn: The remote function; takes one item.
        items: Taken one by one, so they may be many or come slowly.
        backpressure_size: At most so many tasks are in flight; None for all at once.
        chunk_size: As in `as_completed`.
        yield_obj_refs: As in `as_completed`.
        wait_options: As in `as_completed`.

    Raises:
        ValueError: A size is less than 1, or `num_returns` is given.
        GetTimeoutError: As in `as_completed`.
        Exception: What a task raised, when its value is due.
    """
    if backpressure_size is not None and backpressure_size <= 0:
        raise ValueError(f"backpressure_size={backpressure_size}: give a whole number from 1, or None")
    _check_chunks(chunk_size, wait_options)

    def run() -> Iterator[Any]:
        waiting: list[ObjectRef[Any]] = []
        for item in items:
            waiting.append(fn.remote(item))
            if backpressure_size is not None and len(waiting) >= backpressure_size:
                ready, waiting = _wait_for_chunk(waiting, chunk_size, wait_options)
                yield from ready if yield_obj_refs else api.get(ready)
        yield from _completed(waiting, chunk_size, yield_obj_refs, wait_options)

    return run()


def _check_chunks(chunk_size: int, wait_options: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: `chunk_size` must be >= 1")
    if "num_returns" in wait_options:
        raise ValueError("say chunk_size= instead of num_returns=")


def _completed(
    waiting: list[ObjectRef[Any]], chunk_size: int, yield_obj_refs: bool, wait_options: dict[str, Any]
) -> Iterator[Any]:
    while waiting:
        ready, waiting = _wait_for_chunk(waiting, chunk_size, wait_options)
        yield from ready if yield_obj_refs else api.get(ready)


def _wait_for_chunk(
    waiting: list[ObjectRef[Any]], chunk_size: int, wait_options: dict[str, Any]
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    from atoll.exceptions import GetTimeoutError

    ready, rest = api.wait(waiting, num_returns=min(chunk_size, len(waiting)), **wait_options)
    if not ready:  # asking for ever, with a timeout that is over each time, would be a loop without an end
        raise GetTimeoutError(f"none of {len(rest)} values was there within {wait_options.get('timeout')} s")
    return ready, rest


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Return the names of the living actors that have one.

    Args:
        all_namespaces: Those of all namespaces, as `{"namespace": ..., "name": ...}`; else the names in the session's.
    """
    session = current_session()
    named = [actor for actor in session.state().actors if actor.name and actor.state != "dead"]
    if all_namespaces:
        return [{"namespace": actor.namespace, "name": actor.name} for actor in named]
    return [actor.name for actor in named if actor.namespace == session.namespace]


def get_node_ip_address() -> str:
    """Return the address of this node: the loopback's, since a cluster listens on no network."""
    return node_address()
