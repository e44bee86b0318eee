# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File locks: our own mutual exclusion, and a view of the locks that others hold."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from .capabilities import Capability, has
from .files import afterwards
from .signals import held
from .wait import Deadline, poll_until

# struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (fcntl(2)); the trailing i pads it.
_FLOCK = "hhqqii"
LOOK_S, _EVERY_S = 0.5, 0.001  # another's look at a lock takes far less, unless it is kept from the processor


class Conflict(NamedTuple):
    """A lock that somebody else holds: its first byte, whether it excludes readers, and its owner (-1: an open file,
    not a process).
    """

    start: int
    exclusive: bool
    pid: int


@contextmanager
def exclusive(lock_path: str, deadline: Deadline, waiting_for: str) -> Iterator[bool]:
    """Hold ``lock_path`` for this process alone; the file exists only meanwhile. Yields whether it took over a file
    that a killed holder had left.

    Raises TimedOut while another holds it.
    """
    held_by: list[int] = []
    with afterwards(partial(_release, lock_path, held_by), "removing %s" % lock_path):
        yield _take(lock_path, held_by, deadline, waiting_for)


def _release(lock_path: str, held_by: Sequence[int]) -> None:
    for descriptor in held_by:
        try:
            # While still held: who waits on this inode sees that its name is gone, and opens anew.
            if _is_still(lock_path, descriptor):
                os.unlink(lock_path)
        finally:
            os.close(descriptor)


def _take(lock_path: str, held_by: list[int], deadline: Deadline, waiting_for: str) -> bool:
    """``held_by`` gets the descriptor of the lock, in the same moment in which that is held."""
    while True:
        with held():  # a stop signal must not fall between the file's coming and our knowing of it
            created = _create_held(lock_path)
            held_by += created
        if created:
            return False
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            poll_until(partial(try_flock, descriptor), deadline, waiting_for)
            if _is_still(lock_path, descriptor):
                held_by.append(descriptor)
                return True
        finally:
            if not held_by:
                os.close(descriptor)


def _create_held(lock_path: str) -> list[int]:
    """The descriptor of a new file that is held; none where there is one of that name."""
    descriptor = _give_name(lock_path)
    if descriptor is not None:
        return [descriptor]
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return []
    # Another may have been quicker to hold what was seen free, and may have given it back.
    if soon(partial(try_flock, descriptor)) and _is_still(lock_path, descriptor):
        return [descriptor]
    os.close(descriptor)
    return []


def _give_name(lock_path: str) -> int | None:
    """Give a file that is held already its name, so that nobody ever sees it free; None where it is there, or can't be.

    Files without a name exist on Linux's own file systems, not on network ones.
    """
    if not hasattr(os, "O_TMPFILE") or not has(Capability.PROC):
        return None
    try:
        descriptor = os.open(os.path.dirname(lock_path) or ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Only with a directory's descriptor, which an absolute name doesn't need, Python calls linkat(2): link(2)
        # would not follow this name.
        os.link("/proc/self/fd/%d" % descriptor, lock_path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def soon(check: Callable[[], bool], patience_s: float = LOOK_S) -> bool:
    """Whether ``check`` is true, or comes to be so as soon as another has looked at a lock in passing."""
    ends = time.monotonic() + patience_s
    while not check():
        if time.monotonic() > ends:
            return False
        time.sleep(_EVERY_S)
    return True


def try_flock(descriptor: int, shared: bool = False) -> bool:
    """Hold an open file for this process alone, or with others who share it; False while another holds it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_still(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_stale(lock_path: str) -> bool:
    """Whether ``lock_path`` (see :func:`exclusive`) is there and no living process holds it: what a killed one left."""
    return _is_free(lock_path) is True


def is_held(lock_path: str) -> bool:
    """Whether a living process holds ``lock_path`` (see :func:`exclusive`)."""
    return _is_free(lock_path) is False


def _is_free(lock_path: str) -> bool | None:
    """None where it isn't there, or where it can't be looked at: another user's, say."""
    try:
        # For writing: NFS makes record locks of these, which need it.
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        free = try_flock(descriptor, shared=True)  # two who only look are none who holds it
        # Freed by its holder in this moment its name is gone as well.
        return free if _is_still(lock_path, descriptor) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def conflicts(descriptor: int, first: int, last: int) -> list[Conflict]:
    """The record locks of others in the bytes ``first`` to ``last``, as a writer would meet them.

    Empty where OFD locks are unknown.
    """
    if not has(Capability.OFD_LOCKS):
        return []
    found = []
    start = first
    while start <= last:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, last - start + 1, 0, 0)
        kind, _whence, at, length, pid, _pad = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query))
        if kind == fcntl.F_UNLCK:
            break
        found.append(Conflict(max(at, first), kind == fcntl.F_WRLCK, pid))
        if length == 0:  # to the end of the file
            break
        start = at + length
    return found


def share(descriptor: int, *offsets: int) -> None:
    """Hold a read lock on each byte until the descriptor is closed.

    Raises OSError (EAGAIN) where a writer has it already.
    """
    if not has(Capability.OFD_LOCKS):
        return
    for offset in offsets:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, offset, 1, 0, 0))
