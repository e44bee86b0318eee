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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from .._core.errors import Refused, TimedOut
from .._core.locks import exclusive, try_flock
from .._core.wait import Deadline, poll_until
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
    descriptor = os.open(places.qemu_log, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Who only looks whether it is locked holds it for a moment.
        poll_until(lambda: try_flock(descriptor), deadline.within(GIVE_UP_S), "the log of %s" % name)
        os.ftruncate(descriptor, 0)
        return descriptor
    except TimedOut:
        os.close(descriptor)
        raise Refused("start the guest %s" % name, "it is being started already", "Run the task again") from None
    except BaseException:
        os.close(descriptor)
        raise


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
    """
    if _listens(places):
        return False
    if _is_locked(places.lock):
        return True
    return _is_locked(places.qemu_log) and pidfile_owner(places.pidfile) is None


@contextmanager
def none_begins(found: Iterable[Places], deadline: Deadline) -> Iterator[set[str]]:
    """No start of these guests begins meanwhile; one that is under way is waited for. Where its guest is there already,
    and it only waits until that is ready, it is left to see that guest end. The locks that are held for this, and
    removed in the end.

    Raises TimedOut.
    """
    held: set[str] = set()
    with ExitStack() as stack:
        for places in sorted(set(found)):
            waiting_for = "the start of the guest %s, which is under way" % os.path.basename(places.folder)
            poll_until(partial(_shut_out, places, stack, held), deadline, waiting_for)
        yield held


def _shut_out(places: Places, stack: ExitStack, held: set[str]) -> bool:
    try:
        stack.enter_context(exclusive(places.lock, Deadline(0), places.folder))
        held.add(places.lock)
    except TimedOut:
        return not is_under_way(places)
    except OSError:
        pass  # not this user's to lock: nor can it start guests there
    return True


def _is_locked(path: str) -> bool:
    """Whether a living process holds this file; not where this user may not look."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not try_flock(descriptor)
    finally:
        os.close(descriptor)


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
