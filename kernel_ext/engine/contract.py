"""What a cluster is to this room: `Engine`, and what it gives. Everything above works with these types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from atoll.kernel_ext.cell_messages import CellRequest, CellResult
from atoll.protocol.explanation import Explanation
from atoll.protocol.state import ActorState, ClusterState, DemandState, LeaseState, NodeState
from atoll.protocol.usage import UsageReport
from atoll.protocol.values import NameInfo

OnOutput = Callable[[str, bytes], None]
"""Takes a piece of output, in order, in some thread of the client."""


Options = Mapping[str, Any]
"""Options of a task or an actor, as `atoll.remote` takes them."""


class Glance(msgspec.Struct, frozen=True):
    """The part of a `ClusterState` that lines about cells are made of; the rest, the largest, is not even read."""

    now: float
    nodes: list[NodeState]
    leases: list[LeaseState]
    actors: list[ActorState]
    demands: list[DemandState]


read_glance = msgspec.json.Decoder(Glance).decode


class Running(Protocol):
    """Something that runs on the cluster."""

    @property
    def future(self) -> Future[Any]:
        """Resolves to its value or error, after all of its output was delivered."""
        ...

    @property
    def ref(self) -> Any:
        """The `ObjectRef` of its value."""
        ...

    def cancel(self, *, force: bool = False) -> None:
        """Interrupt it; with `force`, end its process."""
        ...


class Actor(Protocol):
    """A named actor, alive when it was found."""

    @property
    def class_name(self) -> str:
        """For people."""
        ...

    def call(self, method: str, *arguments: Any, on_output: OnOutput | None = None, label: str = "") -> Running:
        """Call a method.

        Args:
            method: Its name.
            *arguments: What it takes.
            on_output: Takes its output.
            label: What people see; one in parentheses for what is not of a user's making.
        """
        ...

    def kill(self, cause: str = "") -> None:
        """End it; its name is free when this returns.

        Args:
            cause: Why, for whoever looks at it later.
        """
        ...


class Engine(Protocol):
    """A cluster."""

    def run_cell(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Running:
        """Run a cell in a worker.

        Args:
            request: The cell.
            options: Of the task.
            label: What it is called.
            on_output: Takes its output.
        """
        ...

    def end_cell(self, record: str) -> None:
        """End the process of a background cell, if it is there."""
        ...

    def kept(self, record: str) -> tuple[CellResult, Any]:
        """Return what such a cell has set, and the ref of that.

        Raises:
            KeyError: It is not kept.
        """
        ...

    def forget(self, record: str) -> None:
        """Drop what such a cell has set."""
        ...

    def sweep(self) -> None:
        """Drop what is kept of such cells whose records are gone."""
        ...

    def run_cached(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Running:
        """Run a cell in a worker, watched; its value is a `CachedCell`."""
        ...

    def claim(self, name: str) -> Running:
        """Ask for the object of a name, or for the duty to make it: the future's value is its ref, or None.

        It waits while another process makes it. To cancel gives the claim up, also when it was answered.
        """
        ...

    def publish(self, name: str, ref: Any) -> None:
        """Give a name to an object, which belongs to the cluster from now on.

        Raises:
            Exception: The cluster cannot keep it.
        """
        ...

    def drop(self, name: str) -> bool:
        """Take a name away; False if there is none."""
        ...

    def value(self, ref: Any) -> Any:
        """Return an object's value.

        Raises:
            ObjectLostError: It is gone.
        """
        ...

    def object_of(self, name: str) -> str:
        """Return the id of the object that has a name, in hex; empty for none. Waits for one that is being made."""
        ...

    def names(self) -> list[NameInfo]:
        """Return all names of the cluster."""
        ...

    def find_actor(self, name: str) -> Actor | None:
        """Return the actor that has the name."""
        ...

    def make_actor(self, kind: type, name: str, options: Options, *arguments: Any) -> Actor:
        """Make a named actor that outlives this kernel.

        Raises:
            Exception: The name is taken, or no node can give the resources.
        """
        ...

    def wait(self, running: Running) -> Any:
        """Return the value of something that runs.

        Raises:
            Exception: What it raised.
        """
        ...

    def state(self) -> ClusterState:
        """Return the cluster's state."""
        ...

    def why(self, of: Any) -> Explanation:
        """Return where a ref, or an actor's handle of the API, stands."""
        ...

    def why_all(self) -> list[Explanation]:
        """Return why each of the things waits that wait, of all notebooks."""
        ...

    def simulate(self, options: Options) -> Explanation:
        """Return what would become of a task with these options now."""
        ...

    def usage(self) -> UsageReport:
        """Return what notebooks, cells and actors have held and used."""
        ...

    def release_gpu(self, gpu: str) -> None:
        """Have a quarantined GPU given again.

        Args:
            gpu: Its number, `NODE:NUMBER`, or its UUID.

        Raises:
            AtollError: There is no such GPU, or it is not quarantined.
        """
        ...

    def glance(self) -> Glance:
        """Return the part of the cluster's state that lines about cells need. Never begins a session.

        Raises:
            ClusterLostError: The cluster is gone, or was left.
        """
        ...

    def job(self) -> str:
        """Return this session's id, in hex."""
        ...

    def cluster_id(self) -> str:
        """Return the id of the cluster."""
        ...

    def directory(self) -> str:
        """Return the directory of the cluster, where the output of cells is kept; empty for none."""
        ...
