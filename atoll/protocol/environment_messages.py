"""What is said of environments that are not their job's: between clients, workers and the scheduler."""

from __future__ import annotations

from atoll.protocol.message import Message
from atoll.protocol.values import Environment


class AddEnvironment(Message, frozen=True):
    """The sender's tasks or actors will name another environment than their job's. Answered by `EnvironmentFound`.

    It is known as long as the job is. Said again to a scheduler that was restarted.
    """

    request: int
    environment: Environment


class GetEnvironment(Message, frozen=True):
    """Ask what an environment is, by its digest. Answered by `EnvironmentFound`, or `Failed` if it is not known."""

    request: int
    digest: str


class EnvironmentFound(Message, frozen=True):
    """The answer to `AddEnvironment` and `GetEnvironment`."""

    request: int
    digest: str
    environment: Environment
