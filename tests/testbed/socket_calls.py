# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module and its guard under the supervisor of `syscalls.py`, and strikes at the n-th call on a socket.

The two run side by side, so the calls of each are counted for itself. All sockets count: those to the server, and the
pair by which the two speak to each other. A call is struck before it is carried out.
"""

from __future__ import annotations

import os
import select
import signal
import stat
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from .syscalls import Notification, Point, Run, Supervisor, Tree, notifying_of, supervised

# Numbers: Linux's arch/x86/entry/syscalls/syscall_64.tbl. In all of them the descriptor is the first argument.
CALLS = {
    0: "read",
    1: "write",
    3: "close",
    19: "readv",
    20: "writev",
    42: "connect",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    48: "shutdown",
}


class Who(str, Enum):
    MODULE = "module"
    GUARD = "guard"


class Action(str, Enum):
    """What happens, and to whom: at a call of the one that is hit; where both are, at a call of the one named last."""

    KILL_MODULE = "kill the module"
    TERM_MODULE = "tell the module to end"
    KILL_GUARD = "kill the guard"
    TERM_GUARD = "tell the guard to end"
    KILL_BOTH_AT_MODULE = "kill both, at a call of the module"
    KILL_BOTH_AT_GUARD = "kill both, at a call of the guard"

    @property
    def at_call_of(self) -> Who:
        return Who.GUARD if self.value.endswith("guard") or self is Action.TERM_GUARD else Who.MODULE

    @property
    def kills_both(self) -> bool:
        return self in (Action.KILL_BOTH_AT_MODULE, Action.KILL_BOTH_AT_GUARD)


class Blow(NamedTuple):
    """Strike at the ``at``-th call (counted from 1) that the process makes on a socket."""

    at: int
    action: Action


class _SocketCalls(Supervisor):
    def __init__(self, tree: Tree, blow: Blow | None) -> None:
        super().__init__(tree)
        self._blow = blow
        self._counts: Counter[Who] = Counter()

    def met(self, notification: Notification) -> int | None:
        descriptor = notification.arguments[0] & 0xFFFFFFFF
        if not _is_socket(f"/proc/{notification.thread}/fd/{descriptor}"):
            return 0
        who = Who.MODULE if self._is_root(notification.thread) else Who.GUARD
        self._counts[who] += 1
        point = Point(CALLS[notification.number], str(descriptor), who is Who.MODULE)
        self.points.append(point)
        if self._blow is None or (who, self._counts[who]) != (self._blow.action.at_call_of, self._blow.at):
            return 0
        self.hit = point
        return self._strike(self._blow.action, notification.thread)

    def _strike(self, action: Action, thread: int) -> int | None:
        if action.kills_both:
            self.kill_tree()
            return None
        if action is Action.KILL_MODULE:
            self.kill_root()
        elif action is Action.KILL_GUARD:
            _kill(_process_of(thread))
        else:
            os.kill(_process_of(thread), signal.SIGTERM)
        return 0  # of one that was killed nobody waits for the answer


def _is_socket(link: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(link).st_mode)
    except OSError:
        return False


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))


def _kill(pid: int) -> None:
    """And wait until it is dead: what the others still do, they do in spite of it."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)


def run(
    target: Callable[[], object],
    blow: Blow | None = None,
    *,
    time_limit_s: float = 120.0,
    outlive_limit_s: float = 60.0,
) -> Run:
    """Carry ``target`` out, and wait until all that it started are gone. For the rest see `syscalls.supervised`."""
    return supervised(
        target,
        notifying_of(CALLS),
        lambda tree: _SocketCalls(tree, blow),
        time_limit_s=time_limit_s,
        outlive_limit_s=outlive_limit_s,
    )
