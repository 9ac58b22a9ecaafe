"""The command `atoll`, for who works without a Jupyter server, and for who wants to see what is going on.

    atoll up        start this user's cluster on this host, or say that it runs
    atoll down      stop it
    atoll status    what runs where, who waits for what, what is in memory
    atoll usage     what notebooks, cells and actors have held and used
    atoll drain     empty a node, so that it can be taken away
    atoll gpu       give a GPU again that was quarantined
    atoll logs      what scheduler, agent and workers wrote
    atoll doctor    what is wrong on this machine, and what to do about it

What a program is to read goes to stdout, errors go to stderr in one line. Exit codes: 0 done, 1 failed or something
is wrong, 2 the command line was wrong, 3 no cluster runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.exceptions import AtollError
from atoll.plain_text import Painter, duration, printable
from atoll.protocol.cluster_file import ClusterFile, default_path, read_cluster_file

if TYPE_CHECKING:
    from atoll.client.supervisor import Supervisor
    from atoll.protocol.messages import Message

FAILED = 1
NOT_RUNNING = 3
_CHECK_EVERY_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (AtollError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Who read us has had enough (`atoll logs | head`); nothing more can be written, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"atoll: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atoll",
        description="The cluster of this user on this host, which Jupyter kernels share.",
        epilog="Exit codes: 0 done, 1 failed or something is wrong, 2 wrong usage, 3 no cluster runs. "
        "ATOLL_RUNTIME_DIR says where the connection file is; other settings are in `atoll.config`.",
    )
    parser.add_argument("--version", action="version", version=f"atoll {metadata.version('atoll')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.set_defaults(command=command)
        return one

    up = add("up", _up, "start the cluster, or say that it runs")
    up.add_argument("--foreground", action="store_true", help="stay, restart what dies, stop with Ctrl-C")
    up.add_argument("--linger", type=float, metavar="S", help="end after so many seconds without a client")
    down = add("down", _down, "stop the cluster")
    down.add_argument("--timeout", type=float, default=10.0, metavar="S", help="then it is killed (default 10)")
    status = add("status", _status, "show what runs where and who waits for what")
    status.add_argument("--json", action="store_true", help="the whole state, as JSON")
    usage = add("usage", _usage, "show what notebooks, cells and actors have held and used")
    usage.add_argument("--by", choices=["notebook", "cell", "actor"], default="cell", help="a line for each (cell)")
    usage.add_argument("--today", action="store_true", help="only what was since midnight")
    usage.add_argument("--json", action="store_true", help="all of it, as JSON")
    gpu = add("gpu", _gpu, "give a GPU again that was quarantined because it failed")
    gpu.add_argument("what", choices=["release"], help="what to do")
    gpu.add_argument("gpu", help="its UUID or the beginning of it, or its number (`atoll status`)")
    drain = add(
        "drain", _drain, "empty a node: nothing new, what runs ends or moves, its objects go elsewhere, it leaves"
    )
    drain.add_argument("node", help="its name, or the beginning of its id (`atoll status`)")
    drain.add_argument("--deadline", type=float, default=0.0, metavar="S", help="end what still runs after so long")
    drain.add_argument("--no-wait", action="store_true", help="do not follow it")
    drain.add_argument("--undo", action="store_true", help="take the node into use again")
    logs = add("logs", _logs, "show what the daemons and workers wrote")
    logs.add_argument("of", nargs="?", choices=["scheduler", "agent", "worker"], help="only these")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    logs.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="lines of each file (default 50)")
    doctor = add("doctor", _doctor, "find what is wrong on this machine and say what to do")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _running() -> ClusterFile | None:
    from atoll.client.launch import find_cluster

    cluster = find_cluster()
    if cluster is None:
        print(f"atoll: no cluster runs ({default_path()}); `atoll up` starts one", file=sys.stderr)
    return cluster


def _up(options: argparse.Namespace) -> int:
    from atoll.client.supervisor import Supervisor

    if options.linger is not None and not options.linger > 0:
        raise ValueError(f"--linger {options.linger:g}: write a number of seconds above 0")
    asked_to_end = threading.Event()
    if options.foreground:  # before anything is started: a signal never comes too early
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: asked_to_end.set())
    began = time.monotonic()
    supervisor = Supervisor(started_by="atoll up", linger_s=options.linger)
    cluster = supervisor.start()
    took = duration(time.monotonic() - began)
    if supervisor.started_here:
        print(f"started in {took}: cluster {cluster.cluster_id}, connection file {default_path()}", flush=True)
    else:
        print(f"runs already: cluster {cluster.cluster_id}, started by {cluster.started_by}", flush=True)
    if options.foreground:
        return _stay(supervisor, asked_to_end)
    return 0


def _stay(supervisor: Supervisor, asked_to_end: threading.Event) -> int:
    """Watch the cluster until a signal comes, then stop it."""
    if not supervisor.started_here:
        raise AtollError("it is not ours to watch: stop it with `atoll down`, then start it with --foreground")
    try:
        while not asked_to_end.wait(_CHECK_EVERY_S):
            for daemon in supervisor.check():
                print(f"the {daemon} had died and was started again", file=sys.stderr, flush=True)
    finally:
        supervisor.stop()
    return 0


def _down(options: argparse.Namespace) -> int:
    from atoll.client.launch import stop_cluster

    try:
        cluster = read_cluster_file(default_path())
    except FileNotFoundError:
        print("no cluster runs")
        return 0
    began = time.monotonic()
    stop_cluster(cluster, options.timeout)
    print(f"stopped cluster {cluster.cluster_id} in {duration(time.monotonic() - began)}")
    return 0


def _ask(cluster: ClusterFile, make: Callable[[int], Message]) -> Message:
    """Ask the scheduler something and return its answer.

    Raises:
        AtollError: It refused.
        ClusterLostError: It is gone.
    """
    from atoll.client.connection import Connection, failure
    from atoll.ids import new_process_id
    from atoll.protocol.handshake import Identity

    identity = Identity("client", new_process_id())
    with Connection(cluster.scheduler_socket, cluster.key_bytes(), identity) as connection:
        answer = connection.request(make(connection.next_request()), timeout_s=10.0)
    error = failure(answer)
    if error is not None:
        raise error
    return answer


def _status(options: argparse.Namespace) -> int:
    from atoll.protocol.messages import GetState, State
    from atoll.protocol.state import decode_state
    from atoll.status import status_lines

    cluster = _running()
    if cluster is None:
        return NOT_RUNNING
    answer = _ask(cluster, GetState)
    if not isinstance(answer, State):
        raise AtollError(f"the scheduler answered {type(answer).__name__} to GetState")
    if options.json:
        sys.stdout.write(answer.state.decode() + "\n")
        return 0
    for line in status_lines(cluster, decode_state(answer.state), Painter(sys.stdout)):
        print(line)
    return 0


def _usage(options: argparse.Namespace) -> int:
    from atoll.accounting import usage_lines
    from atoll.protocol.messages import GetUsage, Usage
    from atoll.protocol.usage import decode_usage

    cluster = _running()
    if cluster is None:
        return NOT_RUNNING
    answer = _ask(cluster, GetUsage)
    if not isinstance(answer, Usage):
        raise AtollError(f"the scheduler answered {type(answer).__name__} to GetUsage")
    if options.json:
        sys.stdout.write(answer.usage.decode() + "\n")
        return 0
    for line in usage_lines(decode_usage(answer.usage).rows, options.by, today=options.today):
        print(line)
    return 0


def _gpu(options: argparse.Namespace) -> int:
    from atoll.protocol.messages import Done, ReleaseDevice

    cluster = _running()
    if cluster is None:
        return NOT_RUNNING
    answer = _ask(cluster, lambda request: ReleaseDevice(request, options.gpu))
    if not isinstance(answer, Done):
        raise AtollError(f"the scheduler answered {type(answer).__name__} to ReleaseDevice")
    print(f"GPU {options.gpu} is given again")
    return 0


def _drain(options: argparse.Namespace) -> int:
    from atoll.draining import Progress, follow, progress_of
    from atoll.protocol.messages import DrainBegun, DrainNode, GetState, State
    from atoll.protocol.state import ClusterState, decode_state

    cluster = _running()
    if cluster is None:
        return NOT_RUNNING
    if options.deadline < 0:
        raise ValueError(f"--deadline {options.deadline:g}: write a number of seconds above 0")

    def look() -> ClusterState:
        answer = _ask(cluster, GetState)
        if not isinstance(answer, State):
            raise AtollError(f"the scheduler answered {type(answer).__name__} to GetState")
        return decode_state(answer.state)

    def tell(progress: Progress) -> None:
        print(printable(progress.text, 200), flush=True)
        for line in progress.waits_for:
            print(f"  {printable(line, 200)}", flush=True)

    since = look().now
    answer = _ask(cluster, lambda request: DrainNode(request, options.node, options.deadline, options.undo))
    if not isinstance(answer, DrainBegun):
        raise AtollError(f"the scheduler answered {type(answer).__name__} to DrainNode")
    node_id = answer.node_id.hex()
    if options.no_wait or options.undo:
        tell(progress_of(look(), node_id, since))
        return 0
    return FAILED if follow(look, node_id, since, None, tell).phase == "lost" else 0


def _logs(options: argparse.Namespace) -> int:
    from atoll.log_files import LogFollower, log_files

    cluster = _running()
    if cluster is None:
        return NOT_RUNNING
    directory = Path(cluster.directory) / "logs"
    follower = LogFollower(lambda: log_files(directory, options.of), max(0, options.lines))
    try:
        while True:
            for line in follower.read():
                print(line)
            if not options.follow or not directory.exists():
                return 0
            sys.stdout.flush()
            time.sleep(0.2)
    finally:
        follower.close()


def _doctor(options: argparse.Namespace) -> int:
    from atoll.doctor import examine, finding_lines, findings_json

    findings = examine(default_path())
    if options.json:
        sys.stdout.write(findings_json(findings) + "\n")
    else:
        for line in finding_lines(findings, Painter(sys.stdout)):
            print(line)
    return FAILED if any(finding.level == "problem" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
