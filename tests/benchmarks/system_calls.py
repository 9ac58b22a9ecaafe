"""Counts every system call of a thread, exactly, without privileges: the kernel tells of each before it is made.

    thread that is counted ── system call ──▶ kernel ── "this one wants ..." ──▶ Watcher ── "go on" ──▶ done

A seccomp filter with a listener does that: any process may put one upon itself, also in a container, and it sees what
no wrapper in Python sees (the memory that an allocation maps, a lock that sleeps). A filter cannot be taken off, and
without a watcher the thread's calls fail; so it is for processes that live no longer than the test.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path

_PASS_DESCRIPTOR = 199
"""`sendmsg` on this descriptor is let through unseen: by it the listener is handed over."""

NUMBERS = {
    "x86_64": {"seccomp": 317, "sendmsg": 46, "marker": 24, "arch": 0xC000003E},
    "aarch64": {"seccomp": 277, "sendmsg": 211, "marker": 124, "arch": 0xC00000B7},
}
NAMES = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 13: "rt_sigaction",
        14: "rt_sigprocmask", 20: "writev", 25: "mremap", 28: "madvise", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
        47: "recvmsg", 202: "futex", 232: "epoll_wait", 233: "epoll_ctl", 281: "epoll_pwait", 441: "epoll_pwait2",
    },
    "aarch64": {
        21: "epoll_ctl", 22: "epoll_pwait", 63: "read", 64: "write", 98: "futex", 134: "rt_sigaction", 206: "sendto",
        207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 215: "munmap", 222: "mmap", 226: "mprotect", 233: "madvise",
    },
}  # fmt: skip

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_CONTINUE = 1
_SET_NO_NEW_PRIVILEGES = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_NOTIFY = 0x7FC00000
_ALLOW = 0x7FFF0000


class CannotCount(Exception):
    """This kernel, or the sandbox that we are in, does not offer it; says what failed."""


def mark() -> None:
    """Make the call that parts what is counted from what is not."""
    os.sched_yield()


def watch_me(path: str, name: str) -> None:
    """From now on, tell the watcher at this path of every system call of this thread.

    Raises:
        CannotCount: It cannot be had here.
    """
    numbers = NUMBERS.get(platform.machine())
    if numbers is None:
        raise CannotCount(f"the numbers of system calls of {platform.machine()} are not known here")
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(path)
        connected.sendall(name.encode() + b"\n")
        os.dup2(connected.fileno(), _PASS_DESCRIPTOR)
    listener = _install_and_pass(numbers)
    os.close(_PASS_DESCRIPTOR)
    os.close(listener)


def _program(numbers: dict[str, int]) -> ctypes.Array[ctypes.c_char]:
    """Return the filter: tell of every call but `sendmsg` on the descriptor that passes the listener."""

    def jump(value: int, if_equal: int, otherwise: int) -> bytes:
        return struct.pack("=HBBI", 0x15, if_equal, otherwise, value)

    def load(offset: int) -> bytes:
        return struct.pack("=HBBI", 0x20, 0, 0, offset)

    def give(value: int) -> bytes:
        return struct.pack("=HBBI", 0x06, 0, 0, value)

    program = [
        load(0),
        jump(numbers["sendmsg"], 0, 3),
        load(16),
        jump(_PASS_DESCRIPTOR, 0, 1),
        give(_ALLOW),
        give(_NOTIFY),
    ]
    return ctypes.create_string_buffer(b"".join(program), 8 * len(program))


def _install_and_pass(numbers: dict[str, int]) -> int:
    """Install the filter and hand its listener over; return the listener.

    Between the two, any call that is not let through would wait for a watcher that does not know of it yet. So libc is
    called without giving up the interpreter lock, which would be a call, and other threads do not ask for it.
    """
    code = _program(numbers)
    header = ctypes.create_string_buffer(struct.pack("@HxxxxxxQ", len(code) // 8, ctypes.addressof(code)))
    control = ctypes.create_string_buffer(struct.pack("@Qiiixxxx", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, -1), 24)
    passed = ctypes.c_int.from_buffer(control, 16)
    data = ctypes.create_string_buffer(b"!")
    vector = ctypes.create_string_buffer(struct.pack("@QQ", ctypes.addressof(data), 1), 16)
    message = ctypes.create_string_buffer(
        struct.pack("@QQQQQQQ", 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 24, 0)
    )
    libc = ctypes.PyDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise CannotCount(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    install, send, number = libc.syscall, libc.sendmsg, numbers["seccomp"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    time.sleep(0.05)  # who has asked for the lock before gets it now
    passed.value = listener = install(number, _SET_MODE_FILTER, _NEW_LISTENER, header)
    if listener >= 0:
        send(_PASS_DESCRIPTOR, message, 0)
    sys.setswitchinterval(interval)
    if listener < 0:
        raise CannotCount(f"a seccomp filter with a listener: {os.strerror(ctypes.get_errno())}")
    return int(listener)


class Watcher:
    """Lets every call go on and counts those between two marks of whoever marks.

    Args:
        path: Of the socket at which those that are watched introduce themselves.

    Attributes:
        counts: By name of the watched: its calls between the marks.
        marks: So many marks were seen.
        took_s: How long it was from the first to the last, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.marks = 0
        self.took_s = 0.0
        self._marked_at = 0.0
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._names: dict[int, str] = {}
        self._poll = select.poll()
        self._poll.register(self._server, select.POLLIN)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-calls")
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Whoever is watched must have ended."""
        self._stop.set()
        self._thread.join()
        self._server.close()
        for listener in self._names:
            os.close(listener)

    def _run(self) -> None:
        while not self._stop.is_set():
            for descriptor, events in self._poll.poll(50):
                if descriptor == self._server.fileno():
                    self._admit()
                elif events & select.POLLIN:
                    self._let_go_on(descriptor)
                else:
                    self._poll.unregister(descriptor)  # it has ended

    def _admit(self) -> None:
        connected, _address = self._server.accept()
        with connected:
            name = b""
            while not name.endswith(b"\n"):
                data = connected.recv(1)
                if not data:
                    return
                name += data
            _data, ancillary, _flags, _address = connected.recvmsg(1, socket.CMSG_SPACE(4))
        if ancillary:
            listener = array.array("i", ancillary[0][2])[0]
            self._names[listener] = name.decode().strip()
            self._poll.register(listener, select.POLLIN)

    def _let_go_on(self, listener: int) -> None:
        request = bytearray(_NOTIFICATION.size)
        # One that was interrupted meanwhile, by a signal say, is not there any more.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, _RECEIVE, request)
            identity, _pid, _flags, number, *_rest = _NOTIFICATION.unpack(request)
            machine = platform.machine()
            if number == NUMBERS[machine]["marker"]:
                self.marks += 1
                now = time.monotonic()
                self.took_s, self._marked_at = now - self._marked_at, now
            elif self.marks == 1:
                known = NAMES[machine].get(number, f"call {number}")
                self.counts.setdefault(self._names[listener], Counter())[known] += 1
            fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(identity, 0, 0, _CONTINUE)))
