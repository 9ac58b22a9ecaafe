"""A running agent for tests that need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nodeagent.running import RunningAgent


@pytest.fixture
def start_agent(socket_directory: Path) -> Iterator[Callable[..., RunningAgent]]:
    """Start agents with settings; they end with the test."""
    agents: list[RunningAgent] = []

    def start(worker_module: str = "small_worker", **variables: str) -> RunningAgent:
        directory = socket_directory / f"a{len(agents)}"
        directory.mkdir(mode=0o700)
        agent = RunningAgent(directory, variables, worker_module)
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.end()
