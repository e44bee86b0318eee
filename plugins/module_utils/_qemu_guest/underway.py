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
from contextlib import contextmanager

from .._core.errors import Refused, TimedOut
from .._core.locks import is_held, soon, try_flock
from .._core.wait import Deadline, poll_until
from .identity import mark, mark_of
from .model import Guest
from .places import Places, place_of
from .process import arguments, locks, opened_by, pidfile_owner
from .qmp import Channel

# From its becoming a daemon to the lock on its pidfile QEMU needs milliseconds, a second or two on a host that swaps.
SETTLE_S = 10.0
# From the removal of its pidfile to its end QEMU needs milliseconds as well; a guest that lost its pidfile stays.
GIVE_UP_S = 3.0
# A task that waits for its guest to be ready needs milliseconds to see that it has ended, and to end as well.
TASK_END_S = 1.0


def claim(name: str, places: Places, deadline: Deadline) -> int:
    """Empty the guest's QEMU log and lock it. The descriptor is for QEMU to inherit, and to be closed here after that.

    Only for a task that has the guest to itself, and for a guest that doesn't run. Raises what settle raises.
    """
    settle(name, places, deadline)
    held: list[int] = []
    try:
        # Who cleans up after the guest, or only looks, has it for a moment.
        poll_until(lambda: _make_log(places, held), Deadline(GIVE_UP_S), "the log of %s" % name)
    except TimedOut:
        raise Refused("start the guest %s" % name, "it is being started already", "Run the task again") from None
    os.ftruncate(held[0], 0)
    return held[0]


def _make_log(places: Places, held: list[int]) -> bool:
    """Lock the log, a new one if need be. Who cleaned up may have taken its directory away as well."""
    from .run_dir import prepare_folder

    prepare_folder(places.folder)
    try:
        return _hold_log(places, held, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        return False


def _hold_log(places: Places, held: list[int], flags: int) -> bool:
    """Lock the log, unless somebody has it or takes it away in this moment. ``held`` gets the descriptor.

    Raises OSError where it can't be opened or locked.
    """
    descriptor = os.open(places.qemu_log, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
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
            "an earlier start, whose task is gone, is still under way%s after %.1f s, and has not locked %s"
            % (by_whom(places), share.elapsed_s(), places.pidfile),
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


def by_whom(places: Places) -> str:
    """The processes of a start but this one, for a message: its task's, and what that began. Empty where this user
    sees none.
    """
    found = {pid for path in (places.qemu_log, places.lock) for pid in _users(path)}
    told = ["process %d (%s)" % (pid, (arguments(pid) or ["unreadable"])[0]) for pid in sorted(found)]
    return " by " + ", ".join(told) if told else ""


def _users(path: str) -> list[int]:
    try:
        return [pid for pid in opened_by(os.stat(path, follow_symlinks=False)) if pid != os.getpid()]
    except OSError:
        return []  # gone, or out of this user's sight


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
    lock is held for that, None where a start is at work or its QEMU holds it, and nothing ("") where there is none that
    this user could lock.
    """
    held: list[int] = []
    try:
        yield _lock_log(guest, held)
    finally:
        for descriptor in held:
            os.close(descriptor)


def _lock_log(guest: Guest, held: list[int]) -> str | None:
    try:
        places = place_of(guest)
    except OSError:
        return ""
    if places is None:
        return ""
    try:
        locked = soon(lambda: _hold_log(places, held, os.O_RDONLY))
    except OSError:  # not there, another user's, or on a file system without locks
        locked = True
    # In this order: a start that comes to hold its own lock only now has to wait for the log.
    if not locked or not soon(lambda: not _is_at_work(places), TASK_END_S):
        return None
    return places.qemu_log if held else ""


def _is_at_work(places: Places) -> bool:
    """Whether another task than this one starts the guest."""
    try:
        return is_held(places.lock) and not locks(os.stat(places.lock))
    except OSError:
        return False  # that task has ended just now


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
