# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deadlines, and waiting for the kernel to tell us something instead of asking again and again."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterable

from .errors import BadInput, TimedOut
from .signals import stop, stop_if_lost

STDOUT = 1
LONGEST_TIMEOUT_S = 100_000_000  # three years; timers of some systems can't count much further
LONGEST_SOCKET_S = 2_000_000  # three weeks; Python counts a socket's milliseconds in an int
LONGEST_POLL_S = 1_000_000.0  # poll(2) counts milliseconds in an int


class Deadline:
    """A point in time that everything which waits shares. ``clock`` is injected by tests; it must be monotonic."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self.ends = self.started + timeout_s

    def elapsed_s(self) -> float:
        return self._clock() - self.started

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.ends - self._clock())

    @property
    def expired(self) -> bool:
        return self.remaining_s() <= 0

    def check(self, waiting_for: str, last_seen: str = "") -> None:
        """Raise TimedOut when no time is left."""
        if self.expired:
            raise TimedOut(waiting_for, self.elapsed_s(), last_seen)

    def within(self, timeout_s: float) -> Deadline:
        """A part of this deadline: ``timeout_s`` seconds from now, but never later than this one ends."""
        return Deadline(min(timeout_s, self.remaining_s()), self._clock)


def check_timeout(timeout_s: int, option: str = "timeout", longest_s: int = LONGEST_TIMEOUT_S) -> None:
    """What such an option may be. Raises BadInput."""
    if timeout_s <= 0:
        raise BadInput(option, "%d seconds are no time" % timeout_s, "Give a number of seconds above 0")
    if timeout_s > longest_s:
        raise BadInput(option, "%d seconds are more than can be waited" % timeout_s, "Give %d at most" % longest_s)


def ready(descriptors: Iterable[int], timeout_s: float) -> set[int]:
    """Wait, at most ``timeout_s`` seconds, until a descriptor is readable, hung up or in error; those that are.

    Raises Stopped when the reader of our own standard output has gone away: then nobody will learn what we do; and the
    stop that was lost on its way.
    """
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    watch = _stdout_is_watchable()
    if watch:
        poller.register(STDOUT, 0)
    stop_if_lost()
    events = dict(poller.poll(min(timeout_s, LONGEST_POLL_S) * 1000))
    if watch and events.pop(STDOUT, 0) & (select.POLLERR | select.POLLHUP):
        stop("nobody reads this task's result any more (its own time limit, or a lost connection)")
    return set(events)


def check_reader() -> None:
    """Raise Stopped when the reader of our standard output has gone away. For work that waits for no descriptor."""
    ready((), 0)


def _stdout_is_watchable() -> bool:
    """Only a pipe or socket can lose its reader; polling a closed or regular descriptor says nothing."""
    try:
        mode = os.fstat(STDOUT).st_mode
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return (mode & 0o170000) in (0o010000, 0o140000)


def poll_until(
    check: Callable[[], bool], deadline: Deadline, waiting_for: str, every_s: float = 0.05, last_seen: str = ""
) -> None:
    """Ask ``check`` until it is true, for what the kernel can't announce. ``last_seen``: see TimedOut.

    Raises TimedOut, or Stopped when nobody reads us.
    """
    while not check():
        deadline.check(waiting_for, last_seen)
        ready((), min(every_s, deadline.remaining_s()))
