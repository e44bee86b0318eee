# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A start that is under way, seen also where the task that began it was killed.

QEMU locks its pidfile only some time after it has become a daemon, and until then nothing else tells of it. So a start
locks the guest's QEMU log (flock) before there is any process, and hands the descriptor on. The lock belongs to the
open file, not to a process: it stays as long as any process of that start lives, to the death of the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .._core.errors import Refused, TimedOut
from .._core.locks import is_held, try_flock
from .._core.wait import Deadline, poll_until
from .identity import mark, mark_of
from .model import Guest
from .places import Places, places_of
from .process import arguments, opened_by, pidfile_owner
from .qmp import Channel

# From its becoming a daemon to the lock on its pidfile QEMU needs milliseconds, a second or two on a host that swaps.
SETTLE_S = 10.0
# From the removal of its pidfile to its end QEMU needs milliseconds as well; a guest that lost its pidfile stays.
GIVE_UP_S = 3.0


def claim(name: str, places: Places, deadline: Deadline) -> int:
    """Empty the guest's QEMU log and lock it. The descriptor is for QEMU to inherit, and to be closed here after that.

    Only for a task that has the guest to itself, and for a guest that doesn't run. Raises what settle raises.
    """
    settle(name, places, deadline)
    held: list[int] = []
    try:
        # Who cleans up after the guest, or only looks, has it for a moment.
        poll_until(lambda: _hold_log(places, held), Deadline(GIVE_UP_S), "the log of %s" % name)
    except TimedOut:
        raise Refused("start the guest %s" % name, "it is being started already", "Run the task again") from None
    os.ftruncate(held[0], 0)
    return held[0]


def _hold_log(places: Places, held: list[int]) -> bool:
    """Lock the log, unless somebody has it or takes it away in this moment. ``held`` gets the descriptor."""
    descriptor = os.open(places.qemu_log, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if try_flock(descriptor) and mark(places.qemu_log) == mark_of(os.fstat(descriptor)):
            held.append(descriptor)
        return bool(held)
    finally:
        if not held:
            os.close(descriptor)


def settle(name: str, places: Places, deadline: Deadline) -> None:
    """Wait until an earlier start of the guest has shown its process by pidfile or monitor, or all of it has ended.

    Raises Refused where neither comes to pass in SETTLE_S seconds.
    """
    descriptor = _open_log(places)
    if descriptor is None:
        return
    share = deadline.within(SETTLE_S)
    try:
        poll_until(lambda: _shown(places) or try_flock(descriptor), share, "an earlier start of %s" % name)
    except TimedOut:
        raise Refused(
            "start the guest %s" % name,
            "an earlier start, whose task is gone, is still under way after %.1f s, and has not locked %s: %s"
            % (share.elapsed_s(), places.pidfile, _holders(descriptor)),
            "Run the task again when that has ended, or end it by hand",
        ) from None
    finally:
        os.close(descriptor)


def await_end(name: str, places: Places, deadline: Deadline) -> bool:
    """Wait until all processes of an earlier start have ended; whether they have.

    A QEMU that ends removes its pidfile first, and serves its sockets until it is gone.
    """
    descriptor = _open_log(places)
    if descriptor is None:
        return True
    try:
        poll_until(lambda: try_flock(descriptor), deadline, "the end of %s" % name)
        return True
    except TimedOut:
        return False
    finally:
        os.close(descriptor)


def holders(places: Places) -> str:
    """The processes of a start, for a message."""
    descriptor = _open_log(places)
    if descriptor is None:
        return "none"
    try:
        return _holders(descriptor)
    finally:
        os.close(descriptor)


def place_of(guest: Guest) -> Places | None:
    """Where the guest that a task names was or is being started by this collection; None where it wasn't, or where this
    user may not see that.
    """
    named = [path for path in (guest.pidfile, guest.qmp_socket, guest.agent_socket) if path]
    if not named:
        from .find import claimants

        named = [said.pidfile for _pid, said in claimants(guest) if said.pidfile]
    for path in named:
        found = places_of(path)
        if found is not None and (os.path.lexists(found.lock) or os.path.lexists(found.qemu_log)):
            return found
    return None


def is_under_way(places: Places) -> bool:
    """Whether a start is at work and has not come so far that the guest can be talked to. One by a task that lives may
    not have a process yet; one whose task was killed is over as soon as there is a pidfile.

    Raises OSError where nothing more can be opened.
    """
    if _listens(places):
        return False
    if is_held(places.lock):
        return True
    return is_held(places.qemu_log) and pidfile_owner(places.pidfile) is None


@contextmanager
def none_begins(guest: Guest) -> Iterator[str | None]:
    """No start of the guest comes to have a process meanwhile, and finds its files taken away. Yields the file whose
    lock is held for that, None where a start or its QEMU holds it, and nothing ("") where there is none that this user
    could lock.
    """
    with ExitStack() as stack:
        yield _lock_log(guest, stack)


def _lock_log(guest: Guest, stack: ExitStack) -> str | None:
    places = place_of(guest)
    try:
        descriptor = None if places is None else _open_log(places)
        if places is None or descriptor is None:
            return ""
        stack.callback(os.close, descriptor)
        return places.qemu_log if try_flock(descriptor) else None
    except OSError:  # another user's, or on a file system without locks
        return ""


def _open_log(places: Places) -> int | None:
    """The log that a start locks; None where there was none."""
    try:
        return os.open(places.qemu_log, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _shown(places: Places) -> bool:
    """Whether there is a process to look at. A monitor without a locked pidfile is that of a guest that lost it."""
    return pidfile_owner(places.pidfile) is not None or _listens(places)


def _listens(places: Places) -> bool:
    channel = Channel(places.qmp_socket)
    listens = channel.usable or channel.problem == "EAGAIN"
    channel.close()
    return listens


def _holders(descriptor: int) -> str:
    """The processes that have the log open, for a message."""
    pids = [pid for pid in opened_by(os.fstat(descriptor)) if pid != os.getpid()]
    told = ["process %d (%s)" % (pid, (arguments(pid) or ["unreadable"])[0]) for pid in pids]
    return ", ".join(told) or "a process that this user can't see"
