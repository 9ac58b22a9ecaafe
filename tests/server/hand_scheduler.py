"""The scheduler's side of the conversation, as a test wants it: real sockets and messages, answers by hand."""

from __future__ import annotations

from pathlib import Path

from atoll.exceptions import ActorDiedError, AtollError
from atoll.ids import new_process_id
from atoll.protocol.cluster_file import ClusterFile, default_path, write_cluster_file
from atoll.protocol.endpoint import Endpoint
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import Event, Peer, PeerLost, Received
from atoll.protocol.messages import (
    Done,
    DropName,
    Failed,
    GetState,
    GetUsage,
    JobRegistered,
    KillActor,
    Message,
    RegisterJob,
    State,
    Usage,
    WatchState,
)
from atoll.protocol.state import ClusterState, encode_state
from atoll.protocol.usage import UsageReport, encode_usage
from tests.widgets.sample_state import sample_state

KEY = bytes(range(32))


class HandScheduler:
    """Listens in a directory and writes the connection file.

    Attributes:
        messages: All that it was sent, oldest first.
        state: What it says the state is.
        usage: What it says was held and used.
    """

    def __init__(self, directory: Path) -> None:
        self.messages: list[Message] = []
        self.state: ClusterState = sample_state()
        self.usage = UsageReport(self.state.now, self.state.started, 0, [])
        self._watching: dict[Peer, float] = {}
        self._endpoint = Endpoint(KEY, Identity("scheduler", new_process_id()), self._take)
        path = str(directory / "scheduler.sock")
        self._endpoint.listen(path)
        write_cluster_file(
            default_path(),
            ClusterFile(
                cluster_id=self.state.cluster_id,
                key=KEY.hex(),
                host="dromedary",
                version="0.1.0",
                directory=str(directory),
                scheduler_socket=path,
                agent_socket=path,
                linger_s=None,
                started_by="test",
                scheduler_pid=1,
                agent_pid=1,
            ),
        )

    @property
    def watched_every(self) -> list[float]:
        """The intervals at which it is being watched."""
        return list(self._watching.values())

    def push(self, state: ClusterState) -> None:
        """Send a state to whoever watches."""
        for peer in self._watching:
            self._endpoint.send(peer, State(0, encode_state(state)))

    def close(self) -> None:
        self._endpoint.close()
        default_path().unlink(missing_ok=True)

    def _take(self, event: Event) -> None:
        if isinstance(event, PeerLost):
            self._watching.pop(event.peer, None)
        if not isinstance(event, Received):
            return
        message = event.message
        self.messages.append(message)
        match message:
            case RegisterJob(request=request):
                self._endpoint.send(event.peer, JobRegistered(request, "", b"", ""))
            case GetState(request=request):
                self._endpoint.send(event.peer, State(request, encode_state(self.state)))
            case GetUsage(request=request):
                self._endpoint.send(event.peer, Usage(request, encode_usage(self.usage)))
            case WatchState(interval_s=0):
                self._watching.pop(event.peer, None)
            case WatchState(interval_s=interval_s):
                self._watching[event.peer] = interval_s
            case KillActor(request=request, actor_id=actor_id):
                known = any(actor.actor_id == actor_id.hex() for actor in self.state.actors)
                self._answer(event.peer, request, None if known else ActorDiedError("there is no such actor"))
            case DropName(request=request, name=name):
                known = any(each.name == name for each in self.state.names)
                self._answer(event.peer, request, None if known else AtollError("there is no such name"))

    def _answer(self, peer: Peer, request: int, error: AtollError | None) -> None:
        answer = Done(request) if error is None else Failed(request, type(error).__name__, str(error))
        self._endpoint.send(peer, answer)
