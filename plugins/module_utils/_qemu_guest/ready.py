# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until a guest is up, with an eye on its process: one that ends is reported at once."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from .._core.errors import LifecycleError, TimedOut
from .._core.wait import Deadline, ready
from .agent import listens, ping
from .places import Places
from .process import Process
from .qmp import MonitorFailed, execute, open_monitor
from .spec import Readiness, ReadyKind
from .status import ANSWER_S

# For what nobody announces (a file that grows, a port that opens): short against a boot, long against a look's cost.
EVERY_S = 0.1
CONNECT_S = 0.5
TAIL_BYTES = 2000
PIECE_BYTES = 1 << 20
# How much of a log one look reads: then the clock and the process are looked at again.
LOOK_BYTES = 64 << 20
UNREADY = "before it was ready"
_USERNET = re.compile(r"^\s*TCP\[(\w+)\]\s+\S+\s+\S+\s+(\d+)\s", re.MULTILINE)
# QEMU's user network takes a connection before the guest does; in these states the guest has not (libslirp, tcpstates).
_NOT_TAKEN = ("HOST_FORWARD", "SYN_SENT", "SYN_RECEIVED", "CLOSED")


class Ended(LifecycleError):
    """The guest ended. Next step: read what QEMU and the guest said.

    ``gave_up``: QEMU may have ended of itself at the very end of its start, as it does where the process that waits
    for that was killed.
    """

    kind = "guest_ended"

    def __init__(self, name: str, after_s: float, places: Places, when: str, answered: bool = True) -> None:
        said, console = qemu_said(places), tail(places.console_log)
        super().__init__(
            "The guest %s ended, %.1f s into this task, %s. QEMU said: %s. Its console ended with: %s."
            " All of it is in %s."
            % (name, after_s, when, said or "nothing", _last_lines(console) or "nothing", places.folder),
            qemu=said,
            console=console,
        )
        self.gave_up = not answered and "terminating on signal" not in said


class Wait(NamedTuple):
    """What is waited for, where."""

    name: str
    readiness: Readiness
    places: Places
    forwarded: bool


def wait_until_ready(wait: Wait, process: Process, deadline: Deadline) -> None:
    """Return once the guest is up as asked for.

    :raises Ended: as soon as its process has ended.
    :raises TimedOut: the guest runs on.
    """
    console = Console(wait.places.console_log, wait.readiness.text)
    _await(lambda: _answers(wait, deadline), wait, process, deadline, answered=False)
    _await(lambda: _is_up(wait, console, deadline), wait, process, deadline, answered=True)


def _await(reached: Callable[[], bool], wait: Wait, process: Process, deadline: Deadline, answered: bool) -> None:
    while not reached():
        if deadline.expired:
            raise _too_late(wait, process, deadline, _status(wait))
        _pause(process, deadline)
        if not process.alive():
            raise Ended(wait.name, deadline.elapsed_s(), wait.places, UNREADY, answered)


def accepted(usernet: str, port: int) -> bool:
    """Whether the guest has taken a connection to the host's ``port``, by QEMU's own list ("info usernet")."""
    return any(int(at) == port and state not in _NOT_TAKEN for state, at in _USERNET.findall(usernet))


def qemu_said(places: Places) -> str:
    """QEMU's own words, without its name before each line."""
    return plain("\n".join(line for line in tail(places.qemu_log).splitlines() if line.strip()))


def plain(said: str) -> str:
    """What a QEMU printed, without its name before each line."""
    return "\n".join(re.sub(r"^qemu[\w-]*: ", "", line) for line in said.splitlines())


def tail(path: str) -> str:
    """The last part of a log; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _asked(wait: Wait, deadline: Deadline, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """QEMU's answer to one question; None where its monitor gives none now.

    The monitor is held for this question only: QEMU serves one client at a time, and others look at the guest and shut
    it down while a task waits.
    """
    share = deadline.within(ANSWER_S)
    try:
        monitor = open_monitor(wait.places.qmp_socket, share)
    except MonitorFailed:
        return None
    try:
        return execute(monitor, command, share, arguments)
    except MonitorFailed:
        return None
    finally:
        monitor.close()


def _answers(wait: Wait, deadline: Deadline) -> bool:
    """Whether QEMU is through with its start. That another client holds its monitor shows it as well."""
    try:
        open_monitor(wait.places.qmp_socket, deadline.within(ANSWER_S)).close()
    except MonitorFailed as failed:
        return failed.reason == "busy"
    return True


def _pause(process: Process, deadline: Deadline) -> None:
    """Let a moment pass, at most until the process ends."""
    descriptor = process.fileno()
    ready(() if descriptor is None else (descriptor,), min(EVERY_S, deadline.remaining_s()))


def _is_up(wait: Wait, console: Console, deadline: Deadline) -> bool:
    kind = wait.readiness.kind
    if kind is ReadyKind.AGENT:
        return _agent_answers(wait, deadline)
    if kind is ReadyKind.CONSOLE:
        return console.says()
    if kind is ReadyKind.PORT:
        return _port_is_open(wait, deadline)
    return True


def _agent_answers(wait: Wait, deadline: Deadline) -> bool:
    path = wait.places.agent_socket
    if listens(_asked(wait, deadline, "query-chardev") or (), path) is False:
        return False
    return ping(path, deadline)


class Console:
    """The console's log, searched for a text. The guest decides how long it gets, so each byte is read only once."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text.encode("utf-8", "surrogateescape")
        self._at = 0
        self._kept = b""  # the end of what was read, in which the text may begin

    def says(self) -> bool:
        """Whether the text was there up to now. Of a log that grows faster than it is read a part is left for later."""
        try:
            with open(self._path, "rb") as file:
                return self._searched(file, os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return False  # somebody cleans up after the guest

    def _searched(self, file: BinaryIO, size: int) -> bool:
        if size < self._at:  # it was emptied
            self._at, self._kept = 0, b""
        file.seek(self._at)
        ends = min(size, self._at + LOOK_BYTES)
        while self._at < ends:
            piece = file.read(min(PIECE_BYTES, ends - self._at))
            if not piece:
                return False
            self._at += len(piece)
            seen = self._kept + piece
            if self._text in seen:
                return True
            self._kept = seen[max(0, len(seen) - len(self._text) + 1) :]
        return False


def _port_is_open(wait: Wait, deadline: Deadline) -> bool:
    """Whether somebody takes a connection: behind a forwarded port that is the guest, as QEMU itself always does."""
    share = min(CONNECT_S, deadline.remaining_s())
    try:
        with socket.create_connection((wait.readiness.host, wait.readiness.port), share) as connection:
            if not wait.forwarded:
                return True
            # Until the guest answers, nothing happens here; a greeting or the guest's refusal (the end) wakes us early.
            heard = ready((connection.fileno(),), share)
            if heard and not connection.recv(1):
                return False
            if heard:
                return True
            told = _asked(wait, deadline, "human-monitor-command", {"command-line": "info usernet"})
            return accepted(told or "", wait.readiness.port)
    except OSError:
        return False


def _status(wait: Wait) -> str:
    """QEMU's word for the guest's state; empty where it gives none."""
    told = _asked(wait, Deadline(ANSWER_S), "query-status")
    return str(told["status"]) if told else ""


def _too_late(wait: Wait, process: Process, deadline: Deadline, status: str) -> TimedOut:
    expected = {
        ReadyKind.AGENT: "the guest agent of %s",
        ReadyKind.PORT: "port %d of %%s at %s" % (wait.readiness.port, wait.readiness.host.replace("%", "%%")),
        ReadyKind.CONSOLE: "%r on the console of %%s" % wait.readiness.text.replace("%", "%%"),
        ReadyKind.NONE: "the monitor of %s",
    }[wait.readiness.kind]
    seen = (
        "process %d lives and was left running, so that the next run goes on waiting and qemu_guest_shutdown can end it"
        % process.pid
    )
    if status not in ("", "running"):
        seen += "; the guest doesn't run: QEMU calls it %s" % status
    said = [
        ("QEMU said", qemu_said(wait.places)),
        ("its console (%s) ends with" % wait.places.console_log, _last_lines(tail(wait.places.console_log))),
    ]
    seen += "".join("; %s: %s" % (who, what) for who, what in said if what)
    return TimedOut(expected % wait.name, deadline.elapsed_s(), seen)


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())
