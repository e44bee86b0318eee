# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of QEMU's monitor, driven by ``poll()``: nothing here waits longer than it is told to.

A :class:`Monitor` never blocks: who drives many of them polls their descriptors and calls ``pump``. ``converse`` and
``execute`` drive one or many to an answer. QEMU serves one client at a time; a second one connects, and gets no
greeting until the first is gone.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._core.capabilities import Capability, has
from .._core.errors import LifecycleError
from .._core.wait import Deadline, ready

# A QEMU whose main loop runs greets within milliseconds; an emulated guest on a loaded host was seen to need 0.3 s.
GREETING_S = 2.0
# What fits in sockaddr_un.sun_path with its final zero byte: 108 bytes on Linux, 104 elsewhere (unix(7)).
SOCKET_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103
PIECES_AT_ONCE = 16  # of 64 KiB: one that never stops talking must not keep us from the others
# Far above any answer to the questions that are asked here: what sends more is no monitor.
MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024


class Event(NamedTuple):
    """What QEMU reported on its own. ``at`` is our monotonic clock when it was read."""

    name: str
    data: Mapping[str, Any]
    at: float


class Reply(NamedTuple):
    """QEMU's answer to one command: ``value``, or the class and text of an error. ``events``: how many it had reported
    before.
    """

    value: Any
    error_class: str | None = None
    error: str | None = None
    events: int = 0


class MonitorFailed(LifecycleError):
    """The monitor can't be used: it is busy, hung, gone, or not a monitor.

    ``reason`` says which. Next step: look at the process.
    """

    kind = "monitor_failed"

    def __init__(self, path: str, reason: str, problem: str) -> None:
        super().__init__("The monitor at %s: %s." % (path, problem.rstrip(".")), path=path, reason=reason)
        self.reason = reason


class CommandRefused(LifecycleError):
    """QEMU answered a command with an error."""

    kind = "command_refused"

    def __init__(self, path: str, command: str, reply: Reply) -> None:
        super().__init__(
            "QEMU at %s refused %s: %s (%s)." % (path, command, (reply.error or "").rstrip("."), reply.error_class),
            path=path,
            command=command,
            error_class=reply.error_class,
        )


class Channel:
    """A non-blocking connection to a Unix socket that carries JSON objects, one a line.

    ``problem`` stays empty while it is usable; then it is the errno's name (``ENOENT``, ``ECONNREFUSED``, ``EAGAIN``
    for a full queue, ``EOF``, ``ECONNRESET``) or ``GARBAGE``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self.buffer = bytearray()
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.setblocking(False)
        try:
            _connect(self.connection, path)
        except OSError as error:
            self._lost(errno.errorcode.get(error.errno or 0, "EUNKNOWN"))

    @property
    def usable(self) -> bool:
        return not self.problem

    def fileno(self) -> int:
        """The descriptor to poll; only while ``usable``."""
        return self.connection.fileno()

    def write(self, data: bytes) -> None:
        """Send at once. What doesn't fit in the socket's buffer counts as lost: nobody reads at the other end."""
        if self.problem:
            return
        try:
            if self.connection.send(data) != len(data):
                self._lost("EAGAIN")
        except OSError as error:
            self.read()  # what the other end said before it went still counts
            if not self.problem:
                self._lost(errno.errorcode.get(error.errno or 0, "EUNKNOWN"))

    def read(self) -> None:
        """Take in what has come.

        At the end of the stream ``problem`` is set, and what came before it can still be taken.
        """
        for _piece in range(PIECES_AT_ONCE):
            if self.problem:
                return
            try:
                piece = self.connection.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lost(errno.errorcode.get(error.errno or 0, "EUNKNOWN"))
                return
            if not piece:
                self._lost("EOF")
            self.buffer += piece
            if len(self.buffer) > MESSAGE_LIMIT_BYTES:
                self._lost("GARBAGE")

    def lines(self) -> list[bytes]:
        """The complete lines that were read; what is incomplete stays."""
        *complete, rest = bytes(self.buffer).split(b"\n")
        self.buffer = bytearray(rest)
        return complete

    def close(self) -> None:
        """Safe to call twice."""
        if not self.problem:
            self._lost("closed by us")
        else:
            self.connection.close()

    def _lost(self, problem: str) -> None:
        self.problem = problem
        self.connection.close()


class Monitor(Channel):
    """One client's view of a monitor. Connecting sends nothing: whose monitor it is can be looked at first.

    ``negotiate`` and further commands may be sent before the greeting has come: they wait in the socket.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.greeting: Mapping[str, Any] | None = None
        self.events: list[Event] = []
        self.replies: dict[int, Reply] = {}
        self._last_id = 0
        self._until_greeted: bytearray | None = None

    def await_greeting(self) -> None:
        """Keep what is to be sent back until a greeting has come: who may be no QEMU shall hear nothing from us."""
        if self.greeting is None:
            self._until_greeted = bytearray()

    @property
    def outstanding(self) -> bool:
        """Whether a command sent has no answer yet."""
        return len(self.replies) < self._last_id

    def negotiate(self) -> None:
        """Enter command mode; QEMU delivers no events before."""
        self.send("qmp_capabilities")

    def send(self, command: str, arguments: Mapping[str, Any] | None = None) -> int:
        """Send a command; its answer will be in ``replies`` under the number returned."""
        self._last_id += 1
        message: dict[str, Any] = {"execute": command, "id": self._last_id}
        if arguments:
            message["arguments"] = dict(arguments)
        data = json.dumps(message).encode() + b"\n"
        if self._until_greeted is not None:
            self._until_greeted += data
            return self._last_id
        self.write(data)
        if self.problem:
            self.pump()
        return self._last_id

    def speaks(self) -> bool:
        """Read what has come. Whether there was any, or the connection has ended."""
        known = self._heard
        self.pump()
        return known != self._heard

    @property
    def _heard(self) -> tuple[object, ...]:
        return self.greeting is None, len(self.replies), len(self.events), self.problem

    def pump(self) -> list[Event]:
        """Read what has come: greeting, replies, events. Returns the new events, which are also kept in ``events``."""
        self.read()
        first = len(self.events)
        for line in self.lines():
            if line.strip():
                self._take(line)
        return self.events[first:]

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):  # the latter where it is nested without end
            message = None
        if not isinstance(message, dict):
            self._lost("GARBAGE")
        elif "QMP" in message:
            self.greeting = message["QMP"]
            self._send_kept_back()
        elif "event" in message:
            self.events.append(Event(str(message["event"]), _mapping(message.get("data")), time.monotonic()))
        elif isinstance(message.get("id"), int) and 0 < message["id"] <= self._last_id:
            error = _mapping(message.get("error"))
            told = len(self.events)
            self.replies[message["id"]] = Reply(message.get("return"), error.get("class"), error.get("desc"), told)

    def _send_kept_back(self) -> None:
        kept, self._until_greeted = self._until_greeted, None
        if kept:
            self.write(bytes(kept))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def converse(channels: Iterable[Monitor], deadline: Deadline, greeting_s: float = GREETING_S) -> None:
    """Wait until every monitor has answered all that it was sent, or is lost; at most ``greeting_s`` seconds.

    Raises nothing of its own: what became of each is seen at the monitor itself.
    """
    waiting = [channel for channel in channels if channel.usable and channel.outstanding]
    share = deadline.within(greeting_s)
    while waiting and not share.expired:
        by_descriptor = {channel.fileno(): channel for channel in waiting}
        for descriptor in ready(by_descriptor, share.remaining_s()):
            by_descriptor[descriptor].pump()
        waiting = [channel for channel in waiting if channel.usable and channel.outstanding]


def open_monitor(path: str, deadline: Deadline) -> Monitor:
    """Connect and wait for the greeting.

    Raises MonitorFailed (``absent``, ``refused``, ``busy``, ``hung``, ``lost``).
    """
    monitor = Monitor(path)
    monitor.negotiate()
    converse([monitor], deadline)
    if monitor.usable and not monitor.outstanding:
        return monitor
    reason = failure(monitor)
    monitor.close()
    raise MonitorFailed(path, reason, EXPLAINED[reason])


def failure(monitor: Monitor) -> str:
    """Why a monitor that didn't answer can't be used: ``absent``, ``refused``, ``busy``, ``hung`` or ``lost``."""
    if monitor.problem in ("ENOENT", "ENOTDIR"):
        return "absent"
    if monitor.problem in ("ECONNREFUSED", "ENOTSOCK"):
        return "refused"
    if monitor.problem == "EAGAIN":
        return "busy" if monitor.greeting is None else "hung"
    if monitor.problem:
        return "lost"
    return "busy" if monitor.greeting is None and _other_client(monitor) else "hung"


def execute(monitor: Monitor, command: str, deadline: Deadline, arguments: Mapping[str, Any] | None = None) -> Any:
    """Run one command and return its value. Raises CommandRefused, or MonitorFailed when no answer comes in time."""
    number = monitor.send(command, arguments)
    converse([monitor], deadline, deadline.remaining_s())
    reply = monitor.replies.get(number)
    if reply is None:
        reason = "lost" if monitor.problem else "hung"
        raise MonitorFailed(
            monitor.path, reason, "no answer to %s (%s)" % (command, monitor.problem or "the time is over")
        )
    if reply.error_class is not None:
        raise CommandRefused(monitor.path, command, reply)
    return reply.value


def unix_listeners(path: str) -> list[int]:
    """The inodes of sockets that listen under this path, even if its name was removed; empty where /proc doesn't
    tell.
    """
    return [int(row[6]) for row in _unix_sockets(path) if row[3] == "00010000"]


EXPLAINED = {
    "absent": "there is no such socket",
    "refused": "nobody listens there",
    "busy": "it gave no greeting, because another client holds it",
    "hung": "it gave no greeting in time",
    "lost": "the connection ended before it answered",
}


def _other_client(monitor: Monitor) -> bool:
    """Whether the listener has accepted somebody (who isn't us: to us it would have spoken). Unknown counts as no."""
    try:
        bound = monitor.connection.getpeername()
    except OSError:
        return False
    # State 03 is connected and accepted, 02 is in the queue (net/unix/af_unix.c, unix_seq_show).
    return isinstance(bound, str) and any(row[3] == "00000000" and row[5] == "03" for row in _unix_sockets(bound))


def _unix_sockets(path: str) -> Sequence[Sequence[str]]:
    """The rows of /proc/net/unix for a path: address, count, protocol, flags, type, state, inode, path.

    The kernel knows a socket by the name that it was bound to, which may be the one without symbolic links.
    """
    if not has(Capability.PROC):
        return []
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.rstrip("\n").split(None, 7) for line in file]
    except OSError:
        return []
    names = (path, os.path.realpath(path))
    return [row for row in rows if len(row) == 8 and row[7] in names]


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, also to a path too long for a socket address, by way of its directory's descriptor."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES or not has(Capability.PROC):
        connection.connect(path)
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect("/proc/self/fd/%d/%s" % (folder, os.path.basename(path)))
    finally:
        os.close(folder)
